"""A CPU's registers by name, as the Python API shows them: `Machine.registers` and `Bare.registers`.

General registers, eip, eflags, selectors and control registers.  Selectors can be read only: loading one is the CPU's
affair (descriptors, limits, mode).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jitvm.errors import ConfigError
from jitvm.isa.flags import ARITHMETIC, RESERVED, put_flags
from jitvm.isa.mode import read_eflags
from jitvm.isa.words import u64

GPR_NAMES = "eax ecx edx ebx esp ebp esi edi".split()
SEGMENT_NAMES = "es cs ss ds fs gs".split()
CONTROL_NAMES = ("cr0", "cr2", "cr3", "cr4")
WRITABLE = frozenset({*GPR_NAMES, "eip", "eflags", *CONTROL_NAMES})


def read_registers(c: Any) -> dict[str, int]:
    """All registers of a CPU record that have a name here."""
    out = {name: int(c.gpr[k]) & 0xFFFF_FFFF for k, name in enumerate(GPR_NAMES)}
    with np.errstate(over="ignore"):
        out |= {"eip": int(c.rip), "eflags": int(read_eflags(c))}
    out |= {name: int(c.sel[k]) for k, name in enumerate(SEGMENT_NAMES)}
    return out | {name: int(getattr(c, name)) for name in CONTROL_NAMES}


def write_registers(c: Any, values: Mapping[str, int]) -> None:
    """Write registers of a CPU record; what is derived from them (the mode, the TLB) is the caller's affair.

    A value is 32 bits, as an unsigned or a signed number.

    Raises:
        ConfigError: a name that can't be written, a value that does not fit; nothing has been.
    """
    for name, value in values.items():
        if name not in WRITABLE:
            raise ConfigError(f"register '{name}' can't be set; there are {', '.join(sorted(WRITABLE))}")
        if not -(1 << 31) <= value < 1 << 32:
            raise ConfigError(f"register '{name}' has 32 bits; {value:#x} does not fit")
    with np.errstate(over="ignore"):
        for name, value in values.items():
            word = u64(int(value) & 0xFFFF_FFFF)
            if name in GPR_NAMES:
                c.gpr[GPR_NAMES.index(name)] = word
            elif name == "eip":
                c.rip = word
            elif name == "eflags":
                put_flags(c.lazy, word)
                c.rflags = (word & ~ARITHMETIC) | RESERVED
            else:
                setattr(c, name, word)
