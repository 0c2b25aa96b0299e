"""Interrupts by APICs on the whole board: a ROM of ours that logs what comes, on jitvm and on QEMU.

Each handler writes a letter to the debug port.  Source of what must come: Intel SDM vol. 3, 10.5-10.8; 6.7.1 (NMI).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from jitvm.machine import Machine
from tests.boot.guests import config, rom
from tests.engine.assembler import assemble
from tests.fast_set import share
from tests.firmware.flat_rom import FLAT, START
from tests.firmware.qemu import DEBUG_EXIT, QEMU, run_qemu
from tests.needs import need

BASE = 0xF0000
VECTORS = {0x02: "N", 0x20: "x", 0x31: "q", 0x40: "A", 0x41: "t", 0x42: "T", 0x43: "p", 0x50: "5", 0x61: "6", 0xFF: "s"}
LAPIC, IOAPIC = 0xFEE00000, 0xFEC00000
PROGRAM = (
    START
    + """idtr: .word 0x7FF
    .long 0x1000
"""
    + FLAT
    + """    {gates}
    lidt [idtr]
    mov dx, 0xE9
    mov edi, 0xFEE00000
    mov esi, 0xFEC00000
    mov dword ptr [edi + 0xF0], 0x1FF
    {case}
    mov al, 0x10
    out 0xF4, al
    hlt
{handlers}
"""
)
GATE = """
    mov eax, offset on_{v}
    and eax, 0xFFFF
    or eax, 0x80000
    mov [0x1000 + 8*{v}], eax
    mov eax, offset on_{v}
    mov ax, 0x8E00
    mov [0x1000 + 8*{v} + 4], eax
"""
HANDLER = """
on_{v}:
    push eax
    mov al, {letter}
    out dx, al
    {more}
    {eoi}
    pop eax
    iretd
"""
EOI = "mov dword ptr [edi + 0xB0], 0"
SELF = "mov dword ptr [edi + 0x300], 0x44000 + "
WAIT = "sti\n hlt\n cli\n"
"""One interrupt; what is pending then comes at the next STI."""
LET = "sti\n nop\n nop\n cli\n"
TIMER = (
    "mov dword ptr [edi + 0x3E0], 11\n mov dword ptr [edi + 0x320], {entry}\n mov dword ptr [edi + 0x380], {count}\n"
)
PIT = """
    mov al, 0x30
    out 0x43, al
    mov al, 0x00
    out 0x40, al
    mov al, 0x10
    out 0x40, al
"""
"""Channel 0 in mode 0: one edge after 4096 ticks."""
PIC = """
    mov al, 0x11
    out 0x20, al
    mov al, 0x20
    out 0x21, al
    mov al, 4
    out 0x21, al
    mov al, 1
    out 0x21, al
    mov al, {mask}
    out 0x21, al
"""
ROUTE = """
    mov dword ptr [esi], 0x11 + 2*{pin}
    mov dword ptr [esi + 0x10], 0
    mov dword ptr [esi], 0x10 + 2*{pin}
    mov dword ptr [esi + 0x10], {entry}
"""
SELF_NMI = "mov dword ptr [edi + 0x310], 0\n mov dword ptr [edi + 0x300], 0x4400\n jmp 9f\n 9: nop\n"
"""A jump behind it: QEMU takes an NMI between two of its blocks."""
LETTER = "mov al, '{}'\n out dx, al\n"
CASES = {
    "self": (f"{SELF} 0x40\n {LET}", "A"),
    "one shot": (TIMER.format(entry=0x41, count=20000) + WAIT + LETTER.format("."), "t."),
    "periodic": (TIMER.format(entry=0x20042, count=50_000_000) + WAIT * 3, "TTT"),
    "the higher class first": (f"{SELF} 0x50\n {SELF} 0x61\n {LET} {LET}", "65"),
    "a higher class interrupts": (f"{SELF} 0x31\n {LET} {LET}", "q6Q"),
    "task priority": (
        f"mov dword ptr [edi + 0x80], 0x50\n {SELF} 0x50\n {LET} {LETTER.format('-')}"
        f" mov dword ptr [edi + 0x80], 0x4F\n {LET}",
        "-5",
    ),
    "timer through the I/O APIC": (
        PIC.format(mask=0xFF) + ROUTE.format(pin=2, entry=0x43) + PIT + WAIT + LETTER.format("."),
        "p.",
    ),
    "timer through the 8259A and LINT0": (
        "mov dword ptr [edi + 0x350], 0x700\n" + PIC.format(mask=0xFE) + PIT + WAIT + LETTER.format("."),
        "x.",
    ),
    "masked at LINT0": (
        "mov dword ptr [edi + 0x350], 0x10700\n"
        + PIC.format(mask=0xFE)
        + PIT
        + TIMER.format(entry=0x41, count=20_000_000)
        + WAIT
        + "mov dword ptr [edi + 0x350], 0x700\n"
        + LET,
        "tx",
    ),
    "disabled it is not announced": (
        "mov ecx, 0x1B\n rdmsr\n and ah, 0xF7\n wrmsr\n mov eax, 1\n cpuid\n shr edx, 9\n and edx, 1\n"
        "lea eax, [edx + '0']\n mov dx, 0xE9\n out dx, al\n",
        "0",
    ),
    "NMI": (SELF_NMI, "Nn"),
    "NMI in NMI waits for IRET": ("mov dword ptr [0x3000], 1\n" + SELF_NMI, "NnNn"),
}
MORE = {
    0x31: f"{SELF} 0x61\n sti\n nop\n nop\n cli\n mov al, 'Q'\n out dx, al\n",
    0x02: "cmp dword ptr [0x3000], 0\n je 1f\n dec dword ptr [0x3000]\n mov dword ptr [edi + 0x300], 0x4400\n jmp 1f\n"
    "1: mov al, 'n'\n out dx, al\n",
}


def image(folder: Path, case: str) -> Path:
    """The ROM of a case."""
    gates = "".join(GATE.format(v=v) for v in VECTORS)
    handlers = ""
    for v, letter in VECTORS.items():
        eoi = {0x02: "", 0xFF: "", 0x20: "mov al, 0x20\n out 0x20, al"}.get(v, EOI)
        handlers += HANDLER.format(v=v, letter=ord(letter), more=MORE.get(v, ""), eoi=eoi)
    return rom(folder, assemble(PROGRAM.format(gates=gates, handlers=handlers, case=case), BASE, 16).hex())


@pytest.mark.parametrize("name", share(CASES, 4))
def test_what_comes(name: str, tmp_path: Path) -> None:
    need(QEMU)
    case, wanted = CASES[name]
    bios = image(tmp_path, case)
    with Machine(config(bios)) as machine:
        assert machine.run().reason == "debug-exit"
        ours = machine.debug_output(0xE9).decode("latin-1")
    assert ours == wanted
    assert run_qemu(tmp_path, bios, *DEBUG_EXIT).debug == wanted
