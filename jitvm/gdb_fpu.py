"""x87 and SSE registers of a CPU record by the names of gdb's target descriptions, to read and to write.

`st0` to `st7` are in the order of the stack, as gdb shows them; the record has the physical registers.  `ftag` is the full
tag word, two bits a physical register, made from the contents; of one that is written only "empty" counts.  A register
that is written keeps its tag, as FXRSTOR's image and the tag word are two things.

Source: Intel SDM vol. 1, 8.1.2-8.1.8 (x87 state), 10.2.3 (MXCSR); gdb's manual, "i386 Features".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gdbstub.errors import TargetError
from jitvm.engine.layout import at as field_at
from jitvm.isa.words import u64
from jitvm.isa.x87_env import set_tags

M64 = 0xFFFF_FFFF_FFFF_FFFF
N_FPR, TOP_SHIFT = 8, 11
FPR, STATUS, XMM = (field_at(name) // 8 for name in ("fpr", "fsw", "xmm"))
N_XMM = 16
Words = Sequence[int] | memoryview
EXCEPTIONS, SUMMARY = 0x3F, 0x8080
"""Six flags or masks of status and control word; ES and B, which say that an unmasked one waits."""
CONTROL_WRITABLE, CONTROL_ONES = 0x1F3F, 0x40
MXCSR_BITS = 0xFFFF
NUMBERED = re.compile(r"(st|xmm)(\d+)")
WORDS = {
    "fctrl": "fcw", "fstat": "fsw", "fiseg": "fcs", "fioff": "fip", "foseg": "fds", "fooff": "fdp", "fop": "fop",
    "fip": "fip", "fdp": "fdp", "mxcsr": "mxcsr",
}  # fmt: skip
"""Registers that are a word of the record."""
WIDTHS = {"fiseg": 16, "foseg": 16, "fop": 11, "fip": 64, "fdp": 64}
"""Bits of those that are not 32 wide."""


def place(name: str) -> int | None:
    """Byte offset in the record of a register that lies there as it is; None: it does not."""
    if name in WORDS:
        return field_at(WORDS[name])
    found = NUMBERED.fullmatch(name)
    return field_at("xmm") + 16 * int(found[2]) if found is not None and found[1] == "xmm" else None


def value(words: Words, name: str) -> Callable[[], int] | None:
    """How the value of any other register is found, in the 64-bit words of the record; None: it is none of these."""
    found = NUMBERED.fullmatch(name)
    if found is None:
        return None
    number = int(found[2])
    return lambda: _stack(words, number)


def _physical(status: int, n: int) -> int:
    """Index in `fpr` of ST(n)."""
    return 2 * ((status >> TOP_SHIFT) + n & N_FPR - 1)


def _stack(words: Words, n: int) -> int:
    at = FPR + _physical(words[STATUS], n)
    return words[at] | words[at + 1] << 64


def stack(words: Words) -> list[int]:
    """ST(0) to ST(7)."""
    return [_stack(words, n) for n in range(N_FPR)]


def vectors(words: Words) -> list[int]:
    """XMM0 to XMM15."""
    return [words[XMM + 2 * n] | words[XMM + 2 * n + 1] << 64 for n in range(N_XMM)]


def write(c: Any, name: str, value: int) -> bool:
    """Write a register; False: it is none of these."""
    found = NUMBERED.fullmatch(name)
    if found is not None:
        words, at = (c.xmm, 2 * int(found[2])) if found[1] == "xmm" else (c.fpr, _physical(int(c.fsw), int(found[2])))
        words[at], words[at + 1] = value & M64, value >> 64
    elif name == "ftag":
        with np.errstate(over="ignore"):
            set_tags(c, u64(value))
    elif name == "fctrl":
        c.fcw = value & CONTROL_WRITABLE | CONTROL_ONES
        _summarize(c, int(c.fsw))
    elif name == "fstat":
        _summarize(c, value & 0xFFFF)
    elif name == "mxcsr":
        if value & ~MXCSR_BITS:
            raise TargetError(f"mxcsr: bits 16 to 31 are reserved, {value:#x} can't be loaded")
        c.mxcsr = value
    elif name in WORDS:
        setattr(c, WORDS[name], value & (1 << WIDTHS.get(name, 32)) - 1)
    else:
        return False
    return True


def _summarize(c: Any, status: int) -> None:
    """The status word, whose ES and B follow from the exceptions that are not masked."""
    pending = status & ~int(c.fcw) & EXCEPTIONS
    c.fsw = status & ~SUMMARY | (SUMMARY if pending else 0)
