"""Alignment checks in guest code: which instructions switch them, where they don't count, and what goes first.

What each instruction form checks is compared with this host's CPU in tests/isa/test_alignment_on_silicon.py.
Source: Intel SDM vol. 3, 6.15 (#AC), 2.5 (CR0.AM), 6.9 (priorities).
"""

from __future__ import annotations

import struct

import pytest

from tests.engine.guest import CODE, Guest, same

ENGINES = ("plain", "handlers", "stencils", "pinned", "regions")
AM, AC, PG = 1 << 18, 1 << 18, 1 << 31
GDT, IDT, TSS, HANDLER, USER_STACK, KERNEL_STACK = 0x5000, 0x4000, 0x6000, 0x3000, 0x18000, 0x20000
USER_CODE, USER_DATA = 0x1B, 0x23


def user(engine: str, source: str, *, am: bool = True, ac: bool = True, absent: int = 0) -> Guest:
    """Code at privilege level 3; the handlers of #AC and #PF halt with the error code in EAX and the vector in EBX."""
    guest = Guest(engine, deliver=True)
    rights = (0x9B, 0x93, 0xFB, 0xF3)
    table = [0, *(0x00CF_0000_0000_FFFF | kind << 40 for kind in rights), 0x0000_8900_6000_0067]
    guest.bare.write(GDT, struct.pack("<6Q", *table))
    guest.bare.write(TSS + 4, struct.pack("<II", KERNEL_STACK, 0x10))
    for vector in (13, 14, 17):
        at = HANDLER + 16 * vector
        guest.bare.write(IDT + 8 * vector, struct.pack("<HHHH", at, 8, 0x8E00, 0))
        guest.load(f"pop eax\n mov ebx, {vector}\n hlt", at)
    guest.bare.write(0x30000, struct.pack("<I", 0x31007))
    guest.bare.write(0x31000, struct.pack("<256I", *(0 if page == absent else page << 12 | 7 for page in range(256))))
    c = guest.c
    c.gdt_base, c.gdt_limit, c.idt_base, c.idt_limit = GDT, 0x2F, IDT, 0x3FF
    flags = 0x202 | (AC if ac else 0)
    begin = (
        f"mov ax, 0x28\n ltr ax\n mov eax, 0x30000\n mov cr3, eax\n mov eax, cr0\n or eax, {PG | (AM if am else 0)}\n"
        f"mov cr0, eax\n mov ax, {USER_DATA}\n mov ds, ax\n mov es, ax\n"
        f"push {USER_DATA}\n push {USER_STACK}\n push {flags}\n push {USER_CODE}\n push offset begin\n iretd\n begin: "
    )
    guest.registers(esp=KERNEL_STACK)
    guest.load(begin + source)
    return guest


MISALIGNED, NONE = (17, 0), (13, 0)
"""What halts: #AC with its error code, or the HLT itself."""
CASES = {
    "dword": ("mov eax, [0x8002]", MISALIGNED),
    "aligned": ("mov eax, [0x8004]\n mov [0x8008], eax\n push eax\n pop ax\n push ax\n call f\n f: hlt", NONE),
    "often": ("mov ecx, 100\n a: mov [0x8000+ecx*4], ecx\n loop a\n mov [0x8003], ax", MISALIGNED),
    "byte": ("mov al, [0x8003]\n xchg [0x8001], al", NONE),
    "word": ("mov [0x8001], ax", MISALIGNED),
    "read-modify-write": ("inc word ptr [0x8001]", MISALIGNED),
    "push": ("sub esp, 2\n push eax", MISALIGNED),
    "call": ("sub esp, 1\n call f\n f: nop", MISALIGNED),
    "rep movsd": ("mov esi, 0x8000\n mov edi, 0x9002\n mov ecx, 4\n rep movsd", MISALIGNED),
    "rep movsb": ("mov esi, 0x8001\n mov edi, 0x9002\n mov ecx, 9\n rep movsb", NONE),
    "popfd clears AC": ("pushfd\n and dword ptr [esp], 0xFFFBFFFF\n popfd\n mov eax, [0x8001]", NONE),
    "popfd sets AC": (
        "pushfd\n and dword ptr [esp], 0xFFFBFFFF\n popfd\n mov eax, [0x8001]\n"
        "pushfd\n or dword ptr [esp], 0x40000\n popfd\n mov eax, [0x8001]",
        MISALIGNED,
    ),
    "far pointers by their parts": (
        "mov word ptr [0x8008], 0x23\n les eax, [0x8004]\n mov word ptr [0x800A], 0x23\n les eax, [0x8006]",
        MISALIGNED,
    ),
    "descriptors are the processor's own": ("mov ax, 0x23\n mov gs, ax\n lar eax, ax\n verr ax", NONE),
    "sgdt to an odd word": ("sgdt [0x8002]\n sidt [0x800A]", NONE),
    "sgdt elsewhere": ("sgdt [0x8004]", MISALIGNED),
}


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize("name", CASES)
def test_user_code(name: str, step: int) -> None:
    source, (vector, error) = CASES[name]
    states = []
    for engine in ENGINES:
        guest = user(engine, f"{source}\n hlt")
        while (end := guest.go(step)) == "limit":
            assert guest.retired < 1000
        assert (end, guest.bare.registers()["ebx"], guest.bare.registers()["eax"]) == ("hlt", vector, error), engine
        states.append(guest.state())
    for state in states[1:]:
        same(state, states[0], name)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("am", "ac"), [(False, True), (True, False), (False, False)])
def test_both_bits_are_needed(engine: str, am: bool, ac: bool) -> None:
    guest = user(engine, "mov eax, [0x8001]\n hlt", am=am, ac=ac)
    assert guest.go() == "hlt" and guest.bare.registers()["ebx"] == 13


@pytest.mark.parametrize("engine", ENGINES)
def test_not_at_other_levels(engine: str) -> None:
    guest = Guest(engine)
    guest.load("mov eax, [0x8001]\n hlt")
    guest.registers(cr0=0x11 | AM, eflags=AC | 2)
    assert guest.go() == "hlt" and int(guest.c.rip) == CODE + 6


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("address", [0x9FFE, 0xA002])
def test_a_page_fault_goes_first(engine: str, address: int) -> None:
    guest = user(engine, f"mov [{address}], eax\n hlt", absent=0xA)
    assert guest.go() == "hlt"
    assert (guest.bare.registers()["ebx"], guest.bare.registers()["eax"]) == (14, 6)
    assert int(guest.c.cr2) == max(address, 0xA000)
