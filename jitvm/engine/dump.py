"""A CPU record in words, for error messages and the monitor."""

from __future__ import annotations

from typing import Any

import iced_x86 as ix

from jitvm.isa.mode import read_eflags
from jitvm.isa.state import MODE_CODE32, MODE_CODE64
from jitvm.memory import GuestMemory

GPR_NAMES = "AX CX DX BX SP BP SI DI".split()
SEGMENT_NAMES = "ES CS SS DS FS GS LDT TR".split()
CODE32, CODE64 = int(MODE_CODE32), int(MODE_CODE64)


def dump(c: Any, memory: GuestMemory) -> str:
    """Registers, segments, control registers, and the instruction at CS:EIP when it lies in mapped memory."""
    wide = bool(int(c.mode) & CODE64)
    letter, digits = ("R", 16) if wide else ("E", 8)
    names = [f"{letter}{name}" for name in GPR_NAMES] + [f"R{n:<2}" for n in range(8, 16) if wide]
    lines = []
    for row in range(0, len(names), 4):
        lines.append(" ".join(f"{names[k]}={int(c.gpr[k]):0{digits}x}" for k in range(row, row + 4)))
    rip, flags = f"{letter}IP={int(c.rip):0{digits}x}", int(read_eflags(c))
    lines.append(f"{rip} EFL={flags:08x} CPL={int(c.cpl)} HLT={int(c.halted)}")
    for k, name in enumerate(SEGMENT_NAMES):
        base = f"{int(c.base[k]):0{digits}x}"
        lines.append(f"{name:<3} ={int(c.sel[k]):04x} {base} {int(c.limit[k]):08x} {int(c.attr[k]):04x}")
    tables = [
        f"{name.upper()}={int(getattr(c, f'{name}_base')):0{digits}x} {int(getattr(c, f'{name}_limit')):04x}"
        for name in ("gdt", "idt")
    ]
    lines.append("  ".join(tables))
    lines.append(" ".join(f"{name.upper()}={int(getattr(c, name)):08x}" for name in ("cr0", "cr2", "cr3", "cr4")))
    lines.append(code_at(c, memory))
    return "\n".join(lines)


def code_at(c: Any, memory: GuestMemory) -> str:
    """Bytes and disassembly at CS:EIP, by the fetch TLB or untranslated addresses."""
    wide = bool(int(c.mode) & CODE64)
    lin = int(c.rip) if wide else (int(c.base[1]) + int(c.rip)) & 0xFFFF_FFFF
    if int(c.cr0) >> 31 & 1:
        return f"code at linear {lin:08x} (paging is on)"
    data = memory.peek(lin & int(c.a20_mask), 16)
    decoder = ix.Decoder(64 if wide else 32 if int(c.mode) & CODE32 else 16, data, ip=int(c.rip))
    return f"code at {lin:08x}: {data.hex(' ')}   {decoder.decode()}"
