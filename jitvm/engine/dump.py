"""A CPU record in words, for error messages and the monitor."""

from __future__ import annotations

from typing import Any

import iced_x86 as ix

from jitvm.isa.mode import read_eflags
from jitvm.memory import GuestMemory

GPR_NAMES = "EAX ECX EDX EBX ESP EBP ESI EDI".split()
SEGMENT_NAMES = "ES CS SS DS FS GS LDT TR".split()


def dump(c: Any, memory: GuestMemory) -> str:
    """Registers, segments, control registers, and the instruction at CS:EIP when it lies in mapped memory."""
    lines = []
    for row in (range(0, 4), range(4, 8)):
        lines.append(" ".join(f"{GPR_NAMES[k]}={int(c.gpr[k]):08x}" for k in row))
    lines.append(f"EIP={int(c.rip):08x} EFL={int(read_eflags(c)):08x} CPL={int(c.cpl)} HLT={int(c.halted)}")
    for k, name in enumerate(SEGMENT_NAMES):
        lines.append(f"{name:<3} ={int(c.sel[k]):04x} {int(c.base[k]):08x} {int(c.limit[k]):08x} {int(c.attr[k]):04x}")
    lines.append(f"GDT={int(c.gdt_base):08x} {int(c.gdt_limit):04x}  IDT={int(c.idt_base):08x} {int(c.idt_limit):04x}")
    lines.append(" ".join(f"{name.upper()}={int(getattr(c, name)):08x}" for name in ("cr0", "cr2", "cr3", "cr4")))
    lines.append(code_at(c, memory))
    return "\n".join(lines)


def code_at(c: Any, memory: GuestMemory) -> str:
    """Bytes and disassembly at CS:EIP, by the fetch TLB or untranslated addresses."""
    lin = (int(c.base[1]) + int(c.rip)) & 0xFFFF_FFFF
    if int(c.cr0) >> 31 & 1:
        return f"code at linear {lin:08x} (paging is on)"
    data = memory.peek(lin & int(c.a20_mask), 16)
    decoder = ix.Decoder(32 if int(c.mode) & 1 else 16, data, ip=int(c.rip))
    return f"code at {lin:08x}: {data.hex(' ')}   {decoder.decode()}"
