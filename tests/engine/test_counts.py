"""Exact counts: a program that is interrupted anywhere ends as one that is not, on handlers and on the plain engine.

`Guest.go` asserts that no budget is overrun.  Random programs (tests/engine/programs.py) are run in one go on both
engines, one instruction at a time, and with a cut at every count; registers, flags, memory, counts, accesses and exits
must be equal at every cut.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jitvm.bare import Bare
from jitvm.engine import layout as lay
from jitvm.engine.accel import Options
from jitvm.engine.layout import at
from jitvm.isa import apic_page
from jitvm.isa.served import APIC_PAGE
from tests.engine.assembler import assemble
from tests.engine.guest import CODE, Guest, same
from tests.engine.programs import loaded, program
from tests.fast_set import share

LIMIT = 60_000


class Restart:
    """Puts a guest back to where it was, translations and all."""

    def __init__(self, guest: Guest) -> None:
        self.guest, self.bare = guest, guest.bare
        self.n_words = at("tlb") // 8
        self.words = bytes(self._words())
        self.memory = self.bare.ram.copy()

    def _words(self) -> memoryview:
        return self.bare.vcpu.words.cast("B")[: 8 * self.n_words]

    def __call__(self) -> None:
        """Back to the beginning."""
        self._words()[:] = self.words
        pages = self.bare.ram.reshape(-1, 4096) != self.memory.reshape(-1, 4096)
        for page in np.flatnonzero(pages.any(axis=1)):
            self.bare.write(4096 * int(page), self.memory[4096 * page : 4096 * page + 4096].tobytes())
        engine = self.bare.vcpu
        engine.accel.flush(engine.address)
        if engine.common is not None:
            engine.common.set_time(0)
        if engine.regions.ready or engine.waiting.arrived:  # the mark that says so may have been among the words
            engine.wake()
        self.guest.device.seen.clear()
        self.guest.ends.clear()


def to_the_end(guest: Guest, step: int) -> None:
    """Run, `step` instructions at a time, until the guest halts."""
    while guest.go(step) == "limit":
        assert guest.retired < LIMIT, "the program does not end"


def check(source: str, bits: int, options: Options | None = None, cuts: int = LIMIT) -> int:
    """All ways of cutting a run, or about `cuts` of them; the number of instructions."""
    plain = loaded("plain", source, bits)
    to_the_end(plain, LIMIT)
    end = plain.state()
    stencils = loaded("stencils", source, bits)
    to_the_end(stencils, LIMIT)
    same(stencils.state(), end, f"stencils\n{source}\n")
    guest = loaded("handlers", source, bits, options)
    again = Restart(guest)
    to_the_end(guest, LIMIT)
    same(guest.state(), end, f"in one go\n{source}\n")
    n = guest.retired
    looked_at = range(0, n, 1 + n // cuts)
    states: dict[int, dict[str, Any]] = {}
    again()
    while True:
        if guest.retired in looked_at:
            states[guest.retired] = guest.state()
        if guest.go(1) != "limit":
            break
    same(guest.state(), end, f"one at a time\n{source}\n")
    for k in looked_at:
        again()
        if k:
            assert guest.go(k) == "limit"
        same(guest.state(), states[k], f"after {k} at once\n{source}\n")
        to_the_end(guest, LIMIT)
        same(guest.state(), end, f"{k} and the rest\n{source}\n")
    return n


@pytest.mark.parametrize("bits", [32, 16, 64])
@pytest.mark.parametrize("seed", share(range(8), 2))
def test_random(seed: int, bits: int) -> None:
    check(program(seed, bits), bits)


@pytest.mark.parametrize("bits", [32, 16, 64])
@pytest.mark.parametrize("seed", share(range(20, 24), 2))
def test_random_with_every_block_hot(seed: int, bits: int) -> None:
    check(program(seed, bits), bits, Options(hot=1))


@pytest.mark.slow
@pytest.mark.parametrize("bits", [32, 16, 64])
@pytest.mark.parametrize("seed", range(100, 180))
def test_random_long(seed: int, bits: int) -> None:
    check(program(seed, bits, 20), bits, Options(hot=1 + seed % 2))


@pytest.mark.parametrize("bits", [32, 16, 64])
@pytest.mark.parametrize("seed", share(range(40, 43), 2))
def test_plain_at_every_count(seed: int, bits: int) -> None:
    """The plain engine itself: one at a time equals in one go, and handlers after each instruction."""
    source = program(seed, bits, 6)
    whole, plain, guest = (loaded(engine, source, bits) for engine in ("plain", "plain", "handlers"))
    to_the_end(whole, LIMIT)
    while True:
        a, b = plain.go(1), guest.go(1)
        same(guest.state(), plain.state(), f"at {plain.retired}\n{source}\n")
        assert a == b
        if a != "limit":
            break
    same(plain.state(), whole.state(), f"plain\n{source}\n")


@pytest.mark.parametrize("step", [2, 3, 7, 64])
def test_steps(step: int) -> None:
    source = program(3, 32, 30)
    whole, guest = loaded("handlers", source, 32), loaded("handlers", source, 32)
    to_the_end(whole, LIMIT)
    to_the_end(guest, step)
    same(guest.state(), whole.state(), f"{step} at a time")


# ---- one by one ------------------------------------------------------------------------------------------------------
SMALL = {
    "zero count": "xor ecx, ecx\n rep movsb\n repne scasb\n repe cmpsd\n rep stosw\n rep insb\n rep outsd\n hlt",
    "rep, then its block": "mov ecx, 5\n mov esi, 0x8000\n mov edi, 0x9000\n rep movsd\n inc eax\n inc ebx\n hlt",
    "repne scasb": "mov ecx, 9\n mov edi, offset 1f\n mov al, 3\n repne scasb\n setz dl\n hlt\n1: .byte 0,1,2,3,4",
    "jcxz": "xor ecx, ecx\n jecxz 1f\n inc eax\n1: inc ebx\n loop 2f\n2: hlt",
    "sti, then a fault": "cli\n mov dword ptr [0xB800], offset 1f\n sti\n ud2\n1: hlt",
    "mov ss, then int": "mov ax, ss\n mov ss, ax\n int 0x30\n hlt",
    "into": "mov dword ptr [0xB800], offset 1f\n mov al, 127\n inc al\n into\n inc eax\n1: hlt",
    "rdtsc in a block": "nop\n nop\n rdtsc\n mov ebx, eax\n nop\n rdtsc\n sub eax, ebx\n hlt",
    "rdtsc after a port": "rdtsc\n mov ebx, eax\n in al, 0x60\n rdtsc\n sub eax, ebx\n mov [0x8000], eax\n hlt",
    "a jump to itself that ends": "mov ecx, 3\n1: loop 1b\n hlt",
    "a call to the next instruction": "call 1f\n1: pop eax\n push eax\n add dword ptr [esp], 7\n ret\n hlt",
    "faults in a row": "mov dword ptr [0xB800], offset 1f\n ud2\n1: mov dword ptr [0xB800], offset 2f\n ud2\n2: hlt",
}


@pytest.mark.parametrize("name", SMALL)
def test_small(name: str) -> None:
    check(SMALL[name], 32)


@pytest.mark.parametrize("engine", ["plain", "handlers", "stencils", "pinned"])
def test_counts_are_known(engine: str) -> None:
    """REP iterations count one each, a zero-count REP one, a delivered fault one."""
    counts = {"zero count": 8, "rep, then its block": 11, "repne scasb": 9, "sti, then a fault": 14}
    for name, expected in counts.items():
        guest = loaded(engine, SMALL[name], 32)
        to_the_end(guest, LIMIT)
        assert guest.retired == expected, name


@pytest.mark.parametrize("engine", ["plain", "handlers", "stencils", "pinned"])
def test_budget_of_nothing(engine: str) -> None:
    guest = loaded(engine, "inc eax\n hlt", 32)
    assert guest.go(0) == "limit"
    assert guest.retired == 0
    assert guest.bare.registers()["eip"] == CODE


SERVED = f"""
again:
 mov esi, {int(APIC_PAGE) << 12 | 0x80:#x}
 lodsd
 {"add ebx, eax; " * 40}
 jmp 1f
1: {"add ebx, eax; " * 60}
 dec ecx
 jnz again
"""


@pytest.mark.parametrize("engine", share(["handlers", "stencils", "pinned", "regions", "plain"], 4))
def test_what_is_served_leaves_time_for_what_is_charged_ahead(engine: str) -> None:
    """An access in the middle of what was charged at once takes its time off the budget, and no timer is late for it."""
    bare = Bare(engine)
    bare.set_mode("prot32")
    bare.write(CODE, assemble(SERVED, CODE))
    bare.set_registers({"eip": CODE})
    bare.c.apic[apic_page.QUIET] = bare.c.apic[apic_page.ENABLED] = 1
    now = 0
    for n in range(1001, 3000, 7):
        bare.run(n)
        before, now = now, bare.vcpu.retired() + int(bare.c.extra_ns)
        assert now - before <= n
    assert int(bare.c.n_served) > 200


# ---- interrupt windows -----------------------------------------------------------------------------------------------
WINDOWS = {
    "sti": ("cli\n nop\n sti\n nop\n nop\n nop\n hlt", 4),
    "sti and a jump": ("cli\n sti\n jmp 1f\n1: nop\n nop\n hlt", 3),
    "sti and a return": ("cli\n call 1f\n nop\n nop\n hlt\n1: sti\n ret", 4),
    "sti and a loop": ("cli\n mov ecx, 50\n sti\n1: inc eax\n loop 1b\n hlt", 4),
    "sti before cli": ("cli\n sti\n cli\n nop\n sti\n nop\n nop\n hlt", 6),
    "popf": ("cli\n push 0x202\n popf\n nop\n nop\n hlt", 3),
    "iret": ("cli\n push 0x202\n push 8\n push offset 1f\n iretd\n nop\n1: nop\n nop\n hlt", 5),
    "sti and a fault": ("cli\n mov dword ptr [0xB800], offset 1f\n sti\n ud2\n1: nop\n nop\n hlt", 13),
}


@pytest.mark.parametrize("engine", ["plain", "handlers", "stencils", "pinned"])
@pytest.mark.parametrize("name", WINDOWS)
def test_interrupt_window(engine: str, name: str) -> None:
    """A vCPU that waits for the window is left at the first boundary where interrupts are open, also when warm."""
    source, expected = WINDOWS[name]
    guest = loaded(engine, source, 32)
    again = Restart(guest)
    to_the_end(guest, LIMIT)
    again()
    guest.c.rflags = 2
    guest.c.want_window = 1
    runner = guest.bare._plain or guest.bare.vcpu
    budget = 1000
    for _ in range(100):
        why = runner.run(budget)
        if why == lay.WHY_WINDOW:
            break
        budget = 1 if int(guest.c.shadow) == guest.bare.vcpu.retired() else 1000
    assert why == lay.WHY_WINDOW
    assert guest.retired == expected
