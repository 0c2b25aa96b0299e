"""What needs nobody outside stays in translated code: how often a loop comes back to Python does not grow with its rounds.

Counted are all returns of `VcpuEngine.begin`, for whatever reason (`WHY_*` in jitvm/engine/layout.py): at first forms,
handlers, stencils and regions are wanted, and that is all.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable

import pytest

from jitvm.engine.accel import Options
from tests.engine.assembler import assemble
from tests.engine.guest import FLAT_CODE, FLAT_DATA, GDT, IDT, Guest
from tests.engine.tables import page_on

TIERS = {
    "handlers": Options(stencils=False, groups=False, regions=False),
    "stencils": Options(hot=2, pin_hot=20, regions=False),
    "regions": Options(hot=2, region_hot=20, sync=True),
}
HANDLER = 0x2000
FLAT = 0x00CF_0000_0000_FFFF
ROUNDS = 400


def flat_tables(guest: Guest) -> None:
    """A GDT of flat segments, and an interrupt gate for vector 32 whose handler counts in ESI."""
    code, data = (FLAT | access << 40 for access in (0x9B, 0x93))
    guest.bare.write(GDT, struct.pack("<QQQ", 0, code, data))
    guest.bare.write(HANDLER, assemble("inc esi\n iret", HANDLER, 32))
    guest.bare.write(IDT + 8 * 32, struct.pack("<HHHH", HANDLER, FLAT_CODE, 0x8E00, 0))
    guest.c.gdt_base, guest.c.gdt_limit, guest.c.idt_base, guest.c.idt_limit = GDT, 23, IDT, 0x7FF


def two_targets(guest: Guest) -> None:
    """Where the indirect jump goes in its rounds."""
    guest.bare.write(HANDLER, assemble("add edx, 3\n ret", HANDLER, 32))
    guest.bare.write(HANDLER + 16, assemble("add edx, 5\n ret", HANDLER + 16, 32))
    guest.bare.write(0x8100, struct.pack("<II", HANDLER, HANDLER + 16))


def nothing(guest: Guest) -> None:
    """The guest is as it was made."""


WAYS: dict[str, tuple[Callable[[Guest], None], str]] = {
    "indirect call and return": (two_targets, "mov eax, ecx\n and eax, 1\n call [eax * 4 + 0x8100]"),
    "to another page and back": (nothing, "jmp 2f\n .org 0x1800\n 2:"),
    "interrupts off and on": (nothing, "cli\n inc eax\n sti\n inc eax\n pushf\n popf"),
    "INT and IRET": (flat_tables, "int 32"),
    "CR3, with walks": (page_on, "mov eax, cr3\n mov cr3, eax\n add edx, [0x8000]\n add [0x9000], edx"),
    "INVLPG": (page_on, "invlpg [0x8000]\n add edx, [0x8000]"),
    "protected mode off and on": (nothing, "mov eax, cr0\n and al, 0xFE\n mov cr0, eax\n or al, 1\n mov cr0, eax"),
    "task switched flag": (nothing, "clts\n mov eax, cr0\n or al, 8\n mov cr0, eax"),
    "descriptor tables and segments": (
        flat_tables,
        f"lgdt [0x8000]\n mov eax, {FLAT_DATA}\n mov es, eax\n lidt [0x8008]",
    ),
    "REP MOVS, STOS, CMPS, SCAS over pages": (
        nothing,
        """push ecx
        mov esi, 0x8000
        mov edi, 0x10000
        mov ecx, 0x900
        rep movsd
        mov ecx, 0x1800
        rep stosb
        mov esi, 0x8000
        mov edi, 0x10000
        mov ecx, 0x1800
        repe cmpsb
        mov edi, 0x8000
        mov ecx, 0x1800
        mov al, 77
        repne scasb
        pop ecx""",
    ),
    "time stamps and CPUID": (nothing, "push ecx\n rdtsc\n xor eax, eax\n cpuid\n pop ecx"),
}


def comebacks(tier: str, way: str, rounds: int) -> Counter[int]:
    """Returns to Python by reason, of a guest that goes a way so many times."""
    prepare, code = WAYS[way]
    guest = Guest("handlers", deliver=True, options=TIERS[tier])
    prepare(guest)
    guest.bare.write(0x8000, struct.pack("<HI2xHI", 23, GDT, 0x7FF, IDT))
    guest.load(f"1: {code}\n dec ecx\n jnz 1b\n hlt")
    guest.registers(ecx=rounds)
    found: Counter[int] = Counter()
    begin = guest.bare.vcpu.begin

    def counted(budget: int) -> int:
        why = begin(budget)
        found[why] += 1
        return why

    guest.bare.vcpu.begin = counted  # what `run` calls
    assert guest.go(rounds * 100_000) == "hlt"
    assert guest.c.gpr[1] == 0
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tier", TIERS)
def test_rounds_bring_nothing_back(tier: str, way: str) -> None:
    comebacks(tier, way, ROUNDS)  # after which all that it wants is linked
    few, many = (comebacks(tier, way, rounds) for rounds in (ROUNDS, 4 * ROUNDS))
    assert few == many
    assert sum(few.values()) < 40


def test_a_repeated_out_is_one_exit_a_run_of_elements() -> None:
    """Sixty-four bytes to a port leave once."""
    guest = Guest("handlers", options=TIERS["regions"])
    guest.load(
        "mov dx, 0xE9\n1: push ecx\n mov esi, 0x8000\n mov ecx, 64\n rep outsb\n pop ecx\n dec ecx\n jnz 1b\n hlt"
    )
    guest.registers(ecx=50)
    counts: list[int] = []
    serve = guest._serve

    def served(kind: str) -> None:
        counts.append(int(guest.c.io_count))
        serve(kind)

    guest._serve = served  # type: ignore[method-assign]  # what `go` calls
    assert guest.go(100_000) == "hlt"
    assert counts == [64] * 50
