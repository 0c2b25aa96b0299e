"""Code in the memory of devices: what they answer is executed, on all engines alike; see jitvm/engine/outside_code.py."""

from __future__ import annotations

from typing import Any

import pytest

from jitvm.bare import ENGINES
from tests.engine.assembler import assemble
from tests.engine.guest import CODE, DATA, MEMORY, STACK, Access, Device, Guest, same

M, FAR = 0x50000, 0x58000
"""Where the device has its program, and where it keeps none."""
WORD = 8
STEPS = [1, 3, 10_000]
TABLE, LINEAR = 0x10000, 0x30000
"""A page table, and the first linear address that it maps elsewhere."""


class Card(Device):
    """A device with a ROM: reads there give its bytes, with FFh beyond; other reads count as those of `Device`."""

    def __init__(self, rom: bytes) -> None:
        super().__init__()
        self._rom = rom.ljust(0x1000, b"\xff")

    def read(self, kind: str, address: int, size: int) -> int:
        if kind == "mmio" and M <= address < M + len(self._rom):
            value = int.from_bytes(self._rom[address - M : address - M + size], "little")
            self.seen.append(Access(kind, False, address, size, value))
            return value
        return super().read(kind, address, size)


def with_card(engine: str, rom: bytes, *, at: int = M) -> Guest:
    """A guest that begins at `at`, with a card of these bytes."""
    guest = Guest(engine)
    guest.device = Card(rom)
    guest.registers(eip=at)
    return guest


def accesses(guest: Guest) -> list[tuple[bool, int]]:
    """What the outside saw besides fetches: (write, address)."""
    return [(a.write, a.address) for a in guest.device.seen if a.size < WORD]


def run(guest: Guest, step: int, most: int = 400) -> str:
    """Run to its end, `step` instructions at a time."""
    while (end := guest.go(step)) == "limit":
        assert guest.retired < most, "it does not end"
    return end


def alike(states: list[dict[str, Any]], what: str) -> None:
    """Assert that all engines came to the same end."""
    for engine, other in zip(ENGINES, states, strict=True):
        same(other, states[0], f"{what}, {engine}")


PROGRAMS = {
    "a loop": "mov ecx, 5\n 1: add eax, ecx\n loop 1b\n hlt",
    "calls and the stack": "mov ecx, 3\n 1: call 2f\n dec ecx\n jnz 1b\n hlt\n 2: push ecx\n pop ebx\n ret",
    "accesses of its own": f"mov eax, [{FAR}]\n add [{FAR + 4}], eax\n push dword ptr [{FAR + 8}]\n out 0x60, al\n hlt",
    "strings from device to device": f"mov esi, {FAR}\n mov edi, {FAR + 64}\n mov ecx, 3\n rep movsb\n hlt",
    "strings to memory": f"mov esi, {FAR}\n mov edi, {DATA}\n mov ecx, 5\n rep movsb\n hlt",
    "string I/O": f"mov edi, {DATA}\n mov dx, 0x60\n mov ecx, 4\n rep insb\n hlt",
    "into memory and back": f"mov byte ptr [{CODE}], 0x40\n mov byte ptr [{CODE + 1}], 0xc3\n mov ecx, {CODE}\n"
    "call ecx\n call ecx\n hlt",
    "an instruction of 15 bytes": ".byte 0x36,0x36,0x36,0x36\n mov dword ptr [esp + 0x12345678], 0x9abcdef0\n hlt",
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_what_a_device_answers_is_executed(name: str, step: int) -> None:
    rom = assemble(PROGRAMS[name], M)
    states = []
    for engine in ENGINES:
        guest = with_card(engine, rom)
        if "0x12345678" in PROGRAMS[name]:
            guest.registers(esp=(DATA - 0x12345678) & 0xFFFF_FFFF)
        assert run(guest, step) == "hlt", engine
        states.append(guest.state())
    alike(states, name)


@pytest.mark.parametrize("engine", ENGINES)
def test_accesses_of_such_an_instruction_are_made_once(engine: str) -> None:
    guest = with_card(engine, assemble(PROGRAMS["strings from device to device"], M))
    assert guest.go() == "hlt"
    assert accesses(guest) == [(w, FAR + k + 64 * w) for k in range(3) for w in (False, True)]
    guest = with_card(engine, assemble(PROGRAMS["accesses of its own"], M))
    assert guest.go() == "hlt"
    expected = [(False, FAR), (False, FAR + 4), (True, FAR + 4), (False, FAR + 8), (True, 0x60)]
    assert accesses(guest) == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_where_nothing_is_the_bytes_are_no_instruction(engine: str) -> None:
    guest = with_card(engine, b"")
    assert guest.go() == "fault 6 None"
    assert (int(guest.c.rip), guest.retired) == (M, 0)
    assert all(a.size == WORD and a.address % WORD == 0 for a in guest.device.seen)


@pytest.mark.parametrize("engine", ENGINES)
def test_code_is_fetched_anew_each_time(engine: str) -> None:
    """A device may answer with something else."""
    guest = with_card(engine, assemble("1: inc eax\n jmp 1b", M))
    assert guest.go(6) == "limit"
    guest.device = Card(assemble("1: inc ebx\n hlt", M))
    assert guest.go() == "hlt"
    registers = guest.bare.registers()
    assert (registers["eax"], registers["ebx"]) == (3, 1)


@pytest.mark.parametrize("step", STEPS)
def test_an_instruction_that_runs_from_memory_into_a_device(step: int) -> None:
    states = []
    for engine in ENGINES:
        guest = paged(engine, {0: MEMORY - 0x1000, 1: M}, assemble("mov eax, 0x11223344\n hlt", M)[2:])
        guest.bare.write(MEMORY - 3, b"\x40\xb8\x44")
        guest.registers(eip=LINEAR + 0xFFD, eax=0)
        assert run(guest, step) == "hlt"
        assert guest.bare.registers()["eax"] == 0x11223344
        assert guest.retired == 3
        states.append(guest.state())
    alike(states, "from memory into a device")


@pytest.mark.parametrize("step", STEPS)
def test_an_instruction_that_runs_from_a_device_into_memory(step: int) -> None:
    states = []
    for engine in ENGINES:
        guest = paged(engine, {0: M, 1: DATA}, bytes(0xFFD) + b"\x40\xb8\x44")
        guest.bare.write(DATA, b"\x33\x22\x11\xf4")
        guest.registers(eip=LINEAR + 0xFFD, eax=0)
        assert run(guest, step) == "hlt"
        assert guest.bare.registers()["eax"] == 0x11223344
        states.append(guest.state())
    alike(states, "from a device into memory")


def paged(engine: str, pages: dict[int, int], rom: bytes) -> Guest:
    """Paging: low memory one to one, from LINEAR on what `pages` says, the rest absent."""
    guest = with_card(engine, rom)
    entries = [page << 12 | 3 if page < LINEAR >> 12 else 0 for page in range(64)]
    for page, where in pages.items():
        entries[(LINEAR >> 12) + page] = where | 3
    guest.bare.write(TABLE, (TABLE + 0x1000 | 3).to_bytes(4, "little"))
    guest.bare.write(TABLE + 0x1000, b"".join(entry.to_bytes(4, "little") for entry in entries))
    guest.registers(cr3=TABLE, cr0=0x8000_0011, esp=STACK)
    return guest


@pytest.mark.parametrize("engine", ENGINES)
def test_a_page_that_is_absent_faults_only_when_the_instruction_reaches_it(engine: str) -> None:
    guest = paged(engine, {0: M}, bytes(0xFFD) + b"\x40\xb8\x44")
    guest.registers(eip=LINEAR + 0xFFD, eax=0)
    assert guest.go() == "fault 14 0"
    registers = guest.bare.registers()
    assert (registers["eax"], registers["cr2"], registers["eip"]) == (1, LINEAR + 0x1000, LINEAR + 0xFFE)
