"""For gdb, which reads this file (`jitvm gdb-init > jitvm-gdb.py`, then in gdb: source jitvm-gdb.py).

16-bit frames, so that bt, finish, up, and nexti over a call work in real mode, virtual-8086 mode and 16-bit segments;
`gdt`, `idt`, `ldt`, `pagewalk ADDRESS` and `screen` as commands.

It needs gdb 12 or later with Python, and jitvm's gdb stub at the other end.
"""

from __future__ import annotations

import itertools

import gdb
from gdb.unwinder import Unwinder, register_unwinder

PC, SP, BP = ("rip", "eip"), ("rsp", "esp"), ("rbp", "ebp")
CARRIED = ("cs", "cs_base", "cs_limit", "cs_attr", "ss", "ss_base", "ss_attr", "cr0")
"""What the caller's frame has to know, too."""


class FrameId:
    """What tells a frame from others: where its caller's stack begins, and its function."""

    def __init__(self, sp, pc):
        self.sp, self.pc = sp, pc


def read(frame, names):
    """The first of these registers that there is, as (name, value)."""
    for name in names:
        try:
            return name, frame.read_register(name)
        except ValueError:
            continue
    raise ValueError(names[0])


class SixteenBit(Unwinder):
    """Asks jitvm's monitor who called."""

    def __init__(self):
        super().__init__("jitvm 16-bit")

    def __call__(self, pending):
        try:
            registers = {name: read(pending, (name,))[1] for name in CARRIED}
            (pc, pc_value), (sp, sp_value), (bp, bp_value) = (read(pending, names) for names in (PC, SP, BP))
            if int(registers["cs_attr"]) >> 14 & 1 or (int(registers["cs_attr"]) >> 13 & 1 and self.long(pending)):
                return None
            places = [int(value) & 0xFFFFFFFF for value in (pc_value, sp_value, bp_value)]
            places += [int(registers[name]) & 0xFFFFFFFF for name in ("cs", "cs_base", "ss_base")]
            said = gdb.execute("monitor frame " + " ".join(map(hex, places)), to_string=True)
            pairs = (word.split("=") for word in said.split() if "=" in word)  # not what `set trace-commands on` adds
            found = {key: int(value, 0) for key, value in pairs}
            info = pending.create_unwind_info(self.frame_id(found, sp_value, pc_value))
        except (KeyError, ValueError, gdb.error):
            return None
        found.setdefault("pc", 0)  # where gdb's backtrace ends without a word
        new = {pc: ("pc", pc_value), sp: ("sp", sp_value), bp: ("bp", bp_value)}
        new |= {name: (name, registers.pop(name)) for name in ("cs", "cs_base")}
        for name, (key, like) in new.items():
            info.add_saved_register(name, gdb.Value(found[key]).cast(like.type) if key in found else like)
        for name, value in registers.items():
            info.add_saved_register(name, value)
        return info

    @staticmethod
    def long(frame):
        """Whether long mode is active."""
        return bool(int(frame.read_register("efer")) >> 10 & 1)

    @staticmethod
    def frame_id(found, sp, pc):
        """gdb wants values of the registers' types."""
        return FrameId(gdb.Value(found["cfa"]).cast(sp.type), gdb.Value(found["function"]).cast(pc.type))


class Ends:
    """A frame filter: a backtrace ends where `SixteenBit` knows no caller."""

    name, priority, enabled = "jitvm-ends", 100, True

    def __init__(self):
        gdb.frame_filters[self.name] = self

    def filter(self, frames):
        """The frames before one at 0, which is none."""
        return itertools.takewhile(lambda frame: frame.inferior_frame().pc() != 0, frames)


class Ask(gdb.Command):
    """A command of jitvm's monitor, whose expressions are gdb's."""

    def __init__(self, name, about):
        self.__doc__ = about
        self.name = name
        super().__init__(name, gdb.COMMAND_DATA)

    def invoke(self, argument, from_tty):
        """Called by gdb."""
        words = [hex(int(gdb.parse_and_eval(word)) & 0xFFFFFFFFFFFFFFFF) for word in gdb.string_to_argv(argument)]
        gdb.execute("monitor " + " ".join([self.name, *words]))


register_unwinder(None, SixteenBit(), replace=True)
Ends()
Ask("gdt", "The guest's global descriptor table.")
Ask("ldt", "The guest's local descriptor table.")
Ask("idt", "The guest's interrupt descriptor table.")
Ask("pagewalk", "How a linear address is translated: pagewalk EXPRESSION.")
Ask("screen", "The guest's text screen.")
