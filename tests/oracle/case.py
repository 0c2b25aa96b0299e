"""One instruction, the state it starts from and the state it ends in.

A `Case` is what every CPU under comparison gets: this host's own processor
(`native.py`), unicorn (`unicorn_cpu.py`) and our engines.  A `Result` is what
each of them gives back, in the same words, so that two results are compared
field by field.

The guest sees one window of memory.  Its contents before a case are
`BACKGROUND` with `Case.memory` and the code written over it.  Offsets in this
module count from the start of the window; how the guest addresses it depends
on the layout of its segments:

========  =======================================================
FLAT      bases 0, limits 4 GiB: addresses are `WINDOW` + offset
WINDOW    bases `WINDOW`, limits 64 KiB - 1: addresses are offsets
SPLIT     every segment register has its own base and limit
========  =======================================================

Not modelled: paging, privilege changes, I/O.
"""

from __future__ import annotations

import enum
import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from iced_x86 import Decoder, Instruction

WINDOW = 0x100000
"""Linear address of the guest's memory."""
WINDOW_SIZE = 0x10000
CODE_OFFSET = 0x7000
"""Where generators put code: the whole of a near branch's rel8 range fits around it."""

BACKGROUND = random.Random(0x8086).randbytes(WINDOW_SIZE)
"""The window before a case: random, and the same for all time."""

REGISTERS_16 = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")
REGISTERS_32 = tuple("e" + name for name in REGISTERS_16)
REGISTERS_64 = tuple("r" + name for name in REGISTERS_16) + tuple(f"r{i}" for i in range(8, 16))

CF, PF, AF, ZF, SF = 1, 1 << 2, 1 << 4, 1 << 6, 1 << 7
TF, IF, DF, OF = 1 << 8, 1 << 9, 1 << 10, 1 << 11
NT, RF, AC, ID = 1 << 14, 1 << 16, 1 << 18, 1 << 21
STATUS = CF | PF | AF | ZF | SF | OF
COMPARED_FLAGS = STATUS | DF | NT | AC | ID
"""What a result's flags hold: the rest belongs to whoever steps the CPU (TF,
RF) or depends on the privilege level (IF, IOPL)."""

FLAG_NAMES = dict(
    zip(
        (CF, PF, AF, ZF, SF, DF, OF, NT, AC, ID),
        ("CF", "PF", "AF", "ZF", "SF", "DF", "OF", "NT", "AC", "ID"),
        strict=True,
    )
)

DE, DB, BP, OVERFLOW, BR, UD = 0, 1, 3, 4, 5, 6
TS, NP, SS, GP, PAGE = 10, 11, 12, 13, 14


FX_SIZE = 416
"""Bytes of a floating-point state: FXSAVE's 64-bit image (Intel SDM volume 2, FXSAVE) up to XMM15."""


class Layout(enum.Enum):
    """How the segment registers map onto the window (module docstring)."""

    FLAT = "flat"
    WINDOW = "window"
    SPLIT = "split"

    def fits(self, mode: int) -> bool:
        """Whether code of `mode` bits can reach the window with such segments."""
        return self is not Layout.FLAT if mode == 16 else mode == 32 or self is Layout.FLAT


@dataclass(frozen=True)
class Segment:
    """A hidden part of a segment register; `limit` is the byte-granular limit."""

    base: int
    limit: int
    expand_down: bool = False


SPLIT_SEGMENTS: Mapping[str, Segment] = {
    "es": Segment(0x101000, 0x6FFF),
    "cs": Segment(0x100000, 0xFFFF),
    "ss": Segment(0x108000, 0x7FFF),
    "ds": Segment(0x102000, 0x4FFF),
    "fs": Segment(0x100000, 0x0FFF, expand_down=True),
    "gs": Segment(0x100800, 0x37FF),
}
"""The SPLIT layout; the harness has the same table."""


@dataclass(frozen=True)
class Case:
    """A piece of code and the state it starts from.

    `regs` holds eax, ecx, edx, ebx, esp, ebp, esi, edi, in 64-bit mode also r8
    to r15.  `memory` maps window offsets to bytes laid over the background.
    `count` bounds the steps, each an instruction or one iteration of a
    repeated string instruction; the run also ends when the instruction
    pointer leaves `code`.  `ip` is the code's offset in the window.  `fx`, if
    given, is the x87 and SSE state as FX_SIZE bytes, and the result has one.
    """

    mode: int
    code: bytes
    regs: tuple[int, ...]
    flags: int = IF | 2
    memory: Mapping[int, bytes] = field(default_factory=dict)
    count: int = 1
    layout: Layout = Layout.WINDOW
    ip: int = CODE_OFFSET
    fs_base: int = 0
    gs_base: int = 0
    fx: bytes | None = None

    def __post_init__(self) -> None:
        if self.mode not in (16, 32, 64):
            raise ValueError(f"mode {self.mode}: expected 16, 32 or 64")
        if len(self.regs) not in (8, 16):
            raise ValueError(f"{len(self.regs)} registers: expected 8 or 16")
        if self.fx is not None and len(self.fx) != FX_SIZE:
            raise ValueError(f"{len(self.fx)} bytes of floating-point state: expected {FX_SIZE}")
        if self.mode == 64 and self.layout is not Layout.FLAT:
            raise ValueError("64-bit code has flat segments: pass Layout.FLAT")
        if self.mode == 16 and self.layout is Layout.FLAT:
            raise ValueError("16-bit code needs Layout.WINDOW or Layout.SPLIT to reach the window")

    @property
    def address(self) -> int:
        """The instruction pointer at the start."""
        return self.ip + (WINDOW if self.layout is Layout.FLAT else 0)

    def segment(self, name: str) -> Segment:
        """The base and limit of a segment register in this case's layout."""
        if self.layout is Layout.SPLIT:
            return SPLIT_SEGMENTS[name]
        if self.layout is Layout.WINDOW:
            return Segment(WINDOW, WINDOW_SIZE - 1)
        return Segment({"fs": self.fs_base, "gs": self.gs_base}.get(name, 0), 0xFFFF_FFFF)

    def offset(self, segment: str, address: int) -> int:
        """The window offset of a segment's address; outside the window is out of range.

        Stack addresses wrap as the stack's size in this mode says.
        """
        if segment == "ss":
            address &= {16: 0xFFFF, 32: 0xFFFF_FFFF, 64: 0xFFFF_FFFF_FFFF_FFFF}[self.mode]
        return self.segment(segment).base + address - WINDOW

    def instruction(self) -> Instruction:
        """The first instruction of the code."""
        return Decoder(self.mode, self.code, ip=self.address).decode()

    def image(self) -> bytearray:
        """The whole window as the guest finds it."""
        window = bytearray(BACKGROUND)
        for offset, data in self.pokes():
            window[offset : offset + len(data)] = data
        return window

    def pokes(self) -> list[tuple[int, bytes]]:
        """What lies over the background, in the order of writing."""
        return [*self.memory.items(), (self.ip, self.code)]


@dataclass(frozen=True)
class Fault:
    """An exception that ended a run; `address` is CR2 for a page fault, else 0."""

    vector: int
    error: int = 0
    address: int = 0


@dataclass(frozen=True)
class Result:
    """The state after a run.

    `ip_delta` is the way of the instruction pointer, modulo 2**64; `memory`
    maps the offsets of changed bytes to their new values; `steps` counts what
    was retired before the end or the fault.
    """

    regs: tuple[int, ...]
    flags: int
    ip_delta: int
    memory: Mapping[int, int]
    fault: Fault | None
    steps: int
    fx: bytes | None = None


class Oracle(Protocol):
    """Something that can run cases."""

    def run(self, cases: Sequence[Case]) -> list[Result]:
        """The results of `cases`, in their order."""
        ...


def descriptor(segment: Segment, *, code: bool, wide: bool) -> bytes:
    """A present descriptor of privilege level 0 (Intel SDM volume 3, 3.4.5)."""
    limit, granular = segment.limit, 0
    if limit > 0xFFFFF:
        limit, granular = limit >> 12, 1
    kind = 0x9B if code else 0x97 if segment.expand_down else 0x93
    return struct.pack(
        "<HHBBBB",
        limit & 0xFFFF,
        segment.base & 0xFFFF,
        segment.base >> 16 & 0xFF,
        kind,
        granular << 7 | wide << 6 | limit >> 16,
        segment.base >> 24,
    )


def changed_bytes(before: bytes | bytearray, after: bytes | bytearray) -> dict[int, int]:
    """The offsets at which two windows differ, with the later values."""
    if before == after:
        return {}
    changed = np.flatnonzero(np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8))
    return {offset: after[offset] for offset in changed.tolist()}
