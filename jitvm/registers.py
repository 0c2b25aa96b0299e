"""A CPU's registers by name, as the Python API shows them: `Machine.registers` and `Bare.registers`.

General registers with 64 bits and by their lower halves, instruction pointer and flags by both names, selectors, bases of FS
and GS, control registers and EFER.  Selectors and EFER can be read only: loading one is the CPU's affair (descriptors,
limits, mode).
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
GPR64_NAMES = [*("r" + name[1:] for name in GPR_NAMES), *(f"r{k}" for k in range(8, 16))]
SEGMENT_NAMES = "es cs ss ds fs gs".split()
BASE_NAMES = {"fs_base": 4, "gs_base": 5}
"""To their segment registers' numbers."""
CONTROL_NAMES = ("cr0", "cr2", "cr3", "cr4")
WIDE = frozenset({*GPR64_NAMES, "rip", *BASE_NAMES, "cr2", "cr3"})
"""Those of 64 bits."""
WRITABLE = frozenset({*GPR_NAMES, "eip", "eflags", "rflags", *CONTROL_NAMES, *WIDE})


def read_registers(c: Any) -> dict[str, int]:
    """All registers of a CPU record that have a name here."""
    out = {name: int(c.gpr[k]) & 0xFFFF_FFFF for k, name in enumerate(GPR_NAMES)}
    with np.errstate(over="ignore"):
        flags = int(read_eflags(c))
    out |= {"eip": int(c.rip) & 0xFFFF_FFFF, "eflags": flags}
    out |= {name: int(c.gpr[k]) for k, name in enumerate(GPR64_NAMES)} | {"rip": int(c.rip), "rflags": flags}
    out |= {name: int(c.sel[k]) for k, name in enumerate(SEGMENT_NAMES)}
    out |= {name: int(c.base[seg]) for name, seg in BASE_NAMES.items()}
    return out | {name: int(getattr(c, name)) for name in CONTROL_NAMES} | {"efer": int(c.efer)}


def write_registers(c: Any, values: Mapping[str, int]) -> None:
    """Write registers of a CPU record; what is derived from them (the mode, the TLB) is the caller's affair.

    A value is 32 bits, or 64 for the registers that have them, as an unsigned or a signed number.  Writing a lower half
    clears the upper one.

    Raises:
        ConfigError: a name that can't be written, a value that does not fit; nothing has been.
    """
    for name, value in values.items():
        if name not in WRITABLE:
            raise ConfigError(f"register '{name}' can't be set; there are {', '.join(sorted(WRITABLE))}")
        width = 64 if name in WIDE else 32
        if not -(1 << width - 1) <= value < 1 << width:
            raise ConfigError(f"register '{name}' has {width} bits; {value:#x} does not fit")
    with np.errstate(over="ignore"):
        for name, value in values.items():
            word = u64(int(value) & (0xFFFF_FFFF_FFFF_FFFF if name in WIDE else 0xFFFF_FFFF))
            if name in GPR_NAMES:
                c.gpr[GPR_NAMES.index(name)] = word
            elif name in GPR64_NAMES:
                c.gpr[GPR64_NAMES.index(name)] = word
            elif name in BASE_NAMES:
                c.base[BASE_NAMES[name]] = word
            elif name in ("eip", "rip"):
                c.rip = word
            elif name in ("eflags", "rflags"):
                put_flags(c.lazy, word)
                c.rflags = (word & ~ARITHMETIC) | RESERVED
            else:
                setattr(c, name, word)
