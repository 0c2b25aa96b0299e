"""A register layout: which registers have which numbers, sizes and types, and the target description that tells gdb.

Source: gdb's manual, "Target Descriptions". A register's number is its place in the layout, and the `g` packet is all
of them in that order.

A *view* is a register that shows the low bytes of another one under a type that names its bits. gdb 13 refuses to
assign registers of a `<flags>` type wider than four bytes, so a wide control register is a plain integer, and a view
stands beside it. Targets never see views: a session reads and writes the source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal
from xml.sax.saxutils import quoteattr


@dataclass(frozen=True, slots=True)
class Register:
    """One register: `size` in bytes, `type` as in a target description, `group` as in `info registers GROUP`."""

    name: str
    size: int
    type: str = ""
    group: str = ""
    view_of: str = ""

    @property
    def xml(self) -> str:
        """Its element."""
        attributes = {"name": self.name, "bitsize": str(self.size * 8)}
        attributes |= {"type": self.type} if self.type else {}
        attributes |= {"group": self.group} if self.group else {}
        return "<reg " + " ".join(f"{key}={quoteattr(value)}" for key, value in attributes.items()) + "/>"


@dataclass(frozen=True, slots=True)
class Feature:
    """A named group of registers with the XML of the types they use."""

    name: str
    registers: tuple[Register, ...]
    types: tuple[str, ...] = ()

    @property
    def xml(self) -> str:
        """Its element."""
        lines = [f"  <feature name={quoteattr(self.name)}>"]
        lines += [f"    {text}" for text in self.types]
        lines += [f"    {register.xml}" for register in self.registers]
        return "\n".join([*lines, "  </feature>"])


@dataclass(frozen=True)
class Layout:
    """All registers of a session, which never changes during it.

    `name` is the user's word for it, `architecture` is gdb's; `pc` names the program counter; `expedited` the registers
    that every stop reply carries, so that a client needs no further packet to show where it is. `basic` is how many
    features, from the first one on, a client expects in `g` when it has not read the description (0: all).
    """

    name: str
    architecture: str
    features: tuple[Feature, ...]
    pc: str
    expedited: tuple[str, ...]
    byte_order: Literal["little", "big"] = "little"
    basic: int = 0

    @cached_property
    def registers(self) -> tuple[Register, ...]:
        """Every register; the index is its number."""
        return tuple(register for feature in self.features for register in feature.registers)

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """A register's number by its name."""
        return {register.name: number for number, register in enumerate(self.registers)}

    @cached_property
    def n_basic(self) -> int:
        """How many registers `g` has for a client that has not read the description."""
        return sum(len(feature.registers) for feature in self.features[: self.basic or None])

    @cached_property
    def sources(self) -> Sequence[int]:
        """For each number the register that holds its bytes: itself, or what it is a view of."""
        return tuple(self.numbers[register.view_of or register.name] for register in self.registers)

    @cached_property
    def views(self) -> Sequence[tuple[int, int]]:
        """(number, source) of each view."""
        return tuple((number, source) for number, source in enumerate(self.sources) if number != source)

    @cached_property
    def sizes(self) -> Sequence[int]:
        """Bytes by number."""
        return tuple(register.size for register in self.registers)

    @cached_property
    def own_sizes(self) -> Sequence[int]:
        """The same, 0 for views: of what a target gives."""
        return [0 if register.view_of else register.size for register in self.registers]

    @cached_property
    def expedited_numbers(self) -> Sequence[int]:
        """The registers of a stop reply."""
        return tuple(self.numbers[name] for name in self.expedited)

    @cached_property
    def own(self) -> Sequence[int]:
        """The numbers that a target serves: all but the views."""
        return tuple(number for number, source in enumerate(self.sources) if number == source)

    @cached_property
    def target_xml(self) -> str:
        """The target description, in one document."""
        features = "\n".join(feature.xml for feature in self.features)
        return (
            '<?xml version="1.0"?>\n<!DOCTYPE target SYSTEM "gdb-target.dtd">\n<target version="1.0">\n'
            f"  <architecture>{self.architecture}</architecture>\n{features}\n</target>\n"
        )
