"""Stepping over a range of addresses: STOP_RANGE before the first instruction outside, wherever code is compiled."""

from __future__ import annotations

import pytest

from jitvm.engine.points import set_range
from jitvm.isa.state import STOP_RANGE
from tests.engine.guest import CODE, Guest

ENGINES = ("plain", "handlers", "stencils", "regions")
TIMES = 300
SOURCE = f"mov ecx, {TIMES}\n jmp a\n f: inc ebx\n ret\n a: call f\n inc eax\n dec ecx\n jnz a\n hlt"
F, A, BEHIND_CALL, END = 7, 9, 14, 18
LOOP = 6
"""Instructions of one turn."""


def begun(engine: str) -> Guest:
    """At `a`, two instructions done."""
    guest = Guest(engine)
    guest.load(SOURCE)
    assert guest.go(2) == "limit" and int(guest.c.rip) == CODE + A
    return guest


def leave(guest: Guest, first: int, end: int, step: int = 10_000) -> tuple[int, int]:
    """Run from here, which counts as told, to where the range is left: offset and instructions done."""
    vcpu, c = guest.bare.vcpu, guest.c
    set_range(vcpu, CODE + first, end - first)
    c.resume_at, c.resume_lin = vcpu.retired(), c.rip
    while (why := guest.go(step)) == "limit":
        assert guest.retired < 10_000
    assert (why, int(c.stop_why)) == ("debug", int(STOP_RANGE))
    return int(c.rip) - CODE, guest.retired


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_whole_loop(engine: str, step: int) -> None:
    guest = begun(engine)
    assert leave(guest, F, END, step) == (END, 2 + LOOP * TIMES)
    set_range(guest.bare.vcpu, 0, 0)
    assert guest.go() == "hlt" and guest.bare.registers()["ebx"] == TIMES


@pytest.mark.parametrize("engine", ENGINES)
def test_calls_and_returns_leave_it(engine: str) -> None:
    """The ranges change at each stop, after the code has run hot without any."""
    guest = begun(engine)
    assert guest.go(LOOP * 100) == "limit"
    done = 2 + LOOP * 100
    for _ in range(20):
        assert leave(guest, A, END) == (F, done + 1)
        assert leave(guest, F, A) == (BEHIND_CALL, done + 3)
        assert leave(guest, BEHIND_CALL, END) == (A, done + 6)
        done += LOOP
    set_range(guest.bare.vcpu, 0, 0)
    assert guest.go() == "hlt" and guest.retired == 2 + LOOP * TIMES + 1


@pytest.mark.parametrize("engine", ENGINES)
def test_from_outside_one_instruction_is_done(engine: str) -> None:
    guest = begun(engine)
    assert leave(guest, BEHIND_CALL, END) == (F, 3)
    assert leave(guest, A, END) == (F + 1, 4)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_range_at_the_end_of_the_address_space(engine: str) -> None:
    guest = begun(engine)
    vcpu = guest.bare.vcpu
    set_range(vcpu, 0xFFFF_F000, 0x1000)
    guest.c.resume_at, guest.c.resume_lin = vcpu.retired(), guest.c.rip
    assert guest.go(5) == "debug" and guest.retired == 3


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_the_loop_is_linked_inside_the_range(engine: str) -> None:
    """Turns go from block to block without a look-up, as without a range."""
    lookups = []
    for size in (0, END - F):
        guest = begun(engine)
        set_range(guest.bare.vcpu, CODE + F, size)
        guest.c.resume_at, guest.c.resume_lin = guest.bare.vcpu.retired(), guest.c.rip
        assert guest.go(LOOP * 50) == "limit"
        before = int(guest.c.stat_lookups)
        assert guest.go(LOOP * 200) == "limit"
        lookups.append(int(guest.c.stat_lookups) - before)
    assert lookups[0] == lookups[1] < 20
