"""Instructions over a page border: the second page is missing, moves, is written, lies behind the limit.

Source: SDM vol. 3, 4.10.2 (what a processor may keep of a translation), 4.10.4 (what makes it forget).
"""

from __future__ import annotations

import pytest

from tests.engine.assembler import assemble
from tests.engine.guest import Guest
from tests.engine.tables import TABLE, A, P, entry, page_on, set_entry, set_ring

ENGINES = ["plain", "handlers", "stencils", "pinned"]


def over_border(guest: Guest, second: int, value: int = 0x11) -> None:
    """`mov eax, imm32` at 2FFDh whose last two bytes lie in physical page `second`, then HLT."""
    guest.bare.write(0x2FFD, b"\xb8\x01\x02")
    guest.bare.write(second << 12, bytes([value, value, 0xF4]))
    set_entry(guest, 3, second << 12 | 7)
    guest.registers(eip=0x2FFD)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("ring", [0, 3])
def test_second_page_of_an_instruction_is_missing(engine: str, ring: int) -> None:
    guest = Guest(engine)
    page_on(guest)
    over_border(guest, 0xC)
    set_ring(guest, ring)
    for _ in range(3):
        set_entry(guest, 3, 0)
        guest.registers(eip=0x2FFD, eax=0)
        assert guest.go(5) == f"fault 14 {4 if ring else 0}"
        assert (int(guest.c.rip), int(guest.c.cr2)) == (0x2FFD, 0x3000)
        set_entry(guest, 3, 0xC003)
        if ring:
            assert guest.go(5) == "fault 14 5"
            set_entry(guest, 3, 0xC007)
        assert guest.go(1) == "limit"
        assert guest.bare.registers()["eax"] == 0x11110201
        assert entry(guest, 3) & A


@pytest.mark.parametrize("engine", ENGINES)
def test_second_page_of_an_instruction_moves(engine: str) -> None:
    """Other bytes after a change of the mapping, and stores to them are seen."""
    guest = Guest(engine)
    page_on(guest)
    for k, second in enumerate((0xC, 0xD, 0xC, 0xE, 0xD, 0xE)):
        over_border(guest, second, 0x20 + k)
        for again in range(3):
            guest.registers(eip=0x2FFD)
            assert guest.go(3) == "hlt"
            value = 0x20 + k + again
            assert guest.bare.registers()["eax"] == value << 24 | value << 16 | 0x0201
            guest.bare.write(second << 12, bytes([value + 1, value + 1]))


@pytest.mark.parametrize("engine", ENGINES)
def test_second_page_moves_and_nothing_is_written(engine: str) -> None:
    """The block of the first mapping is still there; it is not the one to run."""
    guest = Guest(engine)
    page_on(guest)
    for second in (0xC, 0xD, 0xE):
        over_border(guest, second, second)
    for k in range(12):
        second = (0xC, 0xD, 0xE)[k % 3 if k < 6 else k % 2]
        set_entry(guest, 3, second << 12 | 7)
        guest.registers(eip=0x2FFD)
        assert guest.go(3) == "hlt"
        assert guest.bare.registers()["eax"] == second << 24 | second << 16 | 0x0201
        set_entry(guest, 3, 0)
        guest.registers(eip=0x2FFD)
        assert guest.go(3) == "fault 14 0"


@pytest.mark.parametrize("engine", ENGINES)
def test_second_page_moves_then_it_is_written(engine: str) -> None:
    """The block is known in the page where its bytes are now."""
    guest = Guest(engine)
    page_on(guest)
    for second in (0xC, 0xD):
        over_border(guest, second, second)
    for k in range(8):
        second = (0xC, 0xD)[k % 2]
        set_entry(guest, 3, second << 12 | 7)
        for value in (k, k + 0x10, k + 0x20):
            guest.bare.write(second << 12, bytes([value]))
            guest.registers(eip=0x2FFD)
            assert guest.go(3) == "hlt"
            assert guest.bare.registers()["eax"] == second << 24 | value << 16 | 0x0201


WAYS_IN = {"a call": (0x2FFD, "nop"), "falling into it": (0x2FFC, "nop"), "a jump": (0x2FE0, "jmp 0x2FFD")}
"""How an instruction over the border, at 2FFDh, is come to: what to call, and what is there."""


def over_border_by(engine: str, way: str, flip: int) -> Guest:
    """A guest that goes `way` six times, while `flip` of the second page's entry changes after each, told by INVLPG."""
    guest = Guest(engine)
    page_on(guest)
    to, code = WAYS_IN[way]
    guest.bare.write(to, assemble(code, to, 32))
    over_border(guest, 0xC, 0x20)
    guest.bare.write(0xD000, bytes([0x30, 0x30, 0xC3]))
    guest.bare.write(0xC002, b"\xc3")
    guest.load(f"""
        mov ecx, 6
    1:  mov eax, 0
        call {to}
        add ebx, eax
        xor dword ptr [{TABLE + 12}], {flip}
        invlpg [0x3000]
        loop 1b
        hlt
    """)
    return guest


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("engine", ENGINES)
def test_second_page_moves_by_invlpg(engine: str, way: str) -> None:
    """The same by the guest itself, in one run, with the code warm; what leads there lies in the same page or not."""
    guest = over_border_by(engine, way, 0x1000)
    assert guest.go() == "hlt"
    total = 0
    for k in range(6):
        total += (0x3030 if k % 2 else 0x2020) << 16 | 0x0201
    assert guest.bare.registers()["ebx"] == total & 0xFFFF_FFFF


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("engine", ENGINES)
def test_second_page_goes_by_invlpg(engine: str, way: str) -> None:
    """It is there once; then the fetch of the instruction's second part faults before anything of it has happened."""
    guest = over_border_by(engine, way, P)
    assert guest.go() == "fault 14 0"
    assert (int(guest.c.rip), int(guest.c.cr2)) == (0x2FFD, 0x3000)
    assert guest.bare.registers()["eax"] == 0 and guest.bare.registers()["ebx"] == 0x2020_0201


@pytest.mark.parametrize("engine", ENGINES)
def test_instruction_no_longer_crosses(engine: str) -> None:
    """What lay over the border becomes short, then stores to the second page go on to be harmless."""
    guest = Guest(engine)
    page_on(guest)
    over_border(guest, 0xC)
    for _ in range(3):
        guest.bare.write(0x2FFD, b"\xb8\x01\x02")
        guest.registers(eip=0x2FFD)
        assert guest.go(2) == "hlt"
        guest.bare.write(0x2FFD, b"\x40\x40\xf4")
        guest.registers(eip=0x2FFD)
        assert guest.go(3) == "hlt"
        guest.bare.write(0xC000, b"\x55\x66\xf4")
        guest.bare.write(0xC800, b"\x55\x66")
        guest.registers(eip=0x2FFD, eax=0)
        assert guest.go(3) == "hlt"
        assert guest.bare.registers()["eax"] == 2


@pytest.mark.parametrize("engine", ENGINES)
def test_limit_before_the_second_page(engine: str) -> None:
    """The limit of CS ends with the page: #GP(0), the page behind it is not looked at."""
    guest = Guest(engine)
    page_on(guest)
    over_border(guest, 0xC)
    set_entry(guest, 3, 0)
    guest.c.limit[1] = 0x2FFF
    guest.update()
    assert guest.go(3) == "fault 13 0"
