"""Events that are caught, and steps that end with the delivery of an event: on all engines."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from jitvm.engine.points import NONE, set_catches
from jitvm.isa.state import CATCH_CR3, CATCH_MSR, CATCH_TRIPLE, STOP_CATCH, STOP_STEP
from tests.engine.guest import CODE, Guest, same

ENGINES = ("plain", "handlers", "stencils")
TRIPLE, CR3, MSR = int(CATCH_TRIPLE), int(CATCH_CR3), int(CATCH_MSR)
UD, DF, NP, GP, PF = 6, 8, 11, 13, 14
HANDLER = 0x3000
GATES = {n: (HANDLER + 16 * n, 0x8E00) for n in (1, 3, 6, 13, 14, 0x30)} | {4: (0, 0)}


def prepared(engine: str, source: str, handlers: str = "hlt") -> Guest:
    """Handlers of `GATES`; page 20000h of the linear space is absent once paging is on."""
    guest = Guest(engine, deliver=True)
    for vector, (at, kind) in GATES.items():
        guest.bare.write(0x4000 + 8 * vector, struct.pack("<HHHH", at, 8, kind, 0))
        guest.load(handlers, at)
    guest.bare.write(0x5008, struct.pack("<QQ", 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF))
    guest.c.gdt_base, guest.c.gdt_limit, guest.c.idt_base, guest.c.idt_limit = 0x5000, 0x17, 0x4000, 0x3FF
    guest.bare.write(0x30000, struct.pack("<I", 0x31007))
    guest.bare.write(0x31000, struct.pack("<256I", *(0 if page == 0x20 else page << 12 | 7 for page in range(256))))
    guest.registers(esp=0x18000)
    guest.load(source)
    return guest


def caught(guest: Guest) -> tuple[int, int, int, int | None, int]:
    """rip, kind, vector or number, error code, CR2 or value."""
    c = guest.c
    assert int(c.stop_why) == STOP_CATCH
    error = int(c.caught_error)
    return (
        int(c.rip),
        int(c.caught_kind),
        int(c.caught_vector),
        None if error == NONE else error,
        int(c.caught_value),
    )


PAGING = "mov eax, 0x30000\n mov cr3, eax\n mov eax, cr0\n or eax, 0x80000000\n mov cr0, eax\n"
BEGIN = CODE + 5 + 3 + 3 + 5 + 3
CASES: dict[str, tuple[str, dict[str, Any], list[Any], tuple[str, int]]] = {
    "an invalid opcode": ("nop\n ud2", {"vectors": {UD}}, [(CODE + 1, 0, UD, None, 0)], ("hlt", HANDLER + 16 * UD + 1)),
    "not this one": ("nop\n ud2", {"vectors": {GP}}, [], ("hlt", HANDLER + 16 * UD + 1)),
    "a page fault": (
        PAGING + "nop\n mov [0x20123], eax",
        {"vectors": {PF}},
        [(BEGIN + 1, 0, PF, 2, 0x20123)],
        ("hlt", HANDLER + 16 * PF + 1),
    ),
    "INT n": ("nop\n int 0x30", {"vectors": {0x30}}, [(CODE + 1, 0, 0x30, None, 0)], ("hlt", HANDLER + 0x301)),
    "INT3": ("int3", {"vectors": {3}}, [(CODE, 0, 3, None, 0)], ("hlt", HANDLER + 0x31)),
    "an absent gate, both": (
        "nop\n int 0x31",
        {"vectors": {0x31, GP}},
        [(CODE + 1, 0, 0x31, None, 0), (CODE + 1, 0, GP, 0x31 * 8 + 2, 0)],
        ("hlt", HANDLER + 16 * GP + 1),
    ),
    "double and triple fault": (
        "nop\n lidt [e]\n nop\n ud2\n e: .word 0\n .long 0",
        {"vectors": {UD, GP, DF}, "others": TRIPLE},
        [
            (CODE + 9, 0, UD, None, 0),
            (CODE + 9, 0, GP, UD * 8 + 3, 0),
            (CODE + 9, 0, DF, 0, 0),
            (CODE + 9, TRIPLE, GP, 0, 0),
        ],
        ("shutdown", CODE + 9),
    ),
    "MOV to CR3": (
        "mov eax, 0x30000\n mov cr3, eax\n mov ebx, cr3\n hlt",
        {"others": CR3},
        [(CODE + 5, CR3, 0, 1, 0x30000)],
        ("hlt", CODE + 12),
    ),
    "any MSR": (
        "mov ecx, 0x8B\n mov eax, 7\n mov edx, 1\n wrmsr\n rdmsr\n hlt",
        {"others": MSR},
        [(CODE + 15, MSR, 0x8B, 1, 0x1_0000_0007), (CODE + 17, MSR, 0x8B, 0, 0)],
        ("hlt", CODE + 20),
    ),
    "one MSR": (
        "mov ecx, 0x8B\n rdmsr\n mov ecx, 0x10\n rdmsr\n hlt",
        {"others": MSR, "msr": 0x10},
        [(CODE + 12, MSR, 0x10, 0, 0)],
        ("hlt", CODE + 15),
    ),
    "the trap of TF": (
        "pushfd\n or dword ptr [esp], 0x100\n popfd\n inc eax\n hlt",
        {"vectors": {1}},
        [(CODE + 10, 0, 1, None, 0)],
        ("hlt", HANDLER + 17),
    ),
}


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize("name", CASES)
def test_caught_once_and_then_it_happens(name: str, step: int) -> None:
    source, what, wanted, (end, rip) = CASES[name]
    states = []
    for engine in ENGINES:
        guest = prepared(engine, source)
        set_catches(guest.bare.vcpu, what.get("vectors", ()), what.get("others", 0), what.get("msr"))
        told = []
        while (why := guest.go(step)) in ("limit", "debug"):
            assert guest.retired < 100
            if why == "debug":
                told.append(caught(guest))
        assert told == wanted, engine
        assert (why, int(guest.c.rip)) == (end, rip), engine
        guest.ends.clear()
        states.append(guest.state())
        if wanted:
            guest = prepared(engine, source)
            assert guest.go() == end
            guest.ends.clear()
            states.append(guest.state())
    for state in states[1:]:
        same(state, states[0], name)


@pytest.mark.parametrize("engine", ["handlers", "stencils"])
def test_an_external_interrupt(engine: str) -> None:
    guest = prepared(engine, "nop\n nop\n hlt")
    guest.registers(eflags=0x202)
    vcpu = guest.bare.vcpu
    set_catches(vcpu, {0x30})
    guest.go(1)
    vcpu.inject(0x30)
    assert guest.go() == "debug"
    assert caught(guest) == (CODE + 1, 0, 0x30, None, 0) and vcpu.injecting and guest.retired == 1
    assert guest.go() == "hlt"
    assert int(guest.c.rip) == HANDLER + 0x301 and not vcpu.injecting


STEPS = {
    "a fault": ("ud2", HANDLER + 0x60, 1),
    "INT n": ("int 0x30", HANDLER + 0x300, 1),
    "a fault in a chain": ("int 0x31", HANDLER + 16 * GP, 1),
    "no event": ("nop", CODE + 1, 1),
    "STI": ("sti", CODE + 1, 1),
    "MOV SS": ("mov ss, bx", CODE + 2, 1),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", STEPS)
def test_a_step_ends_where_an_event_leads(name: str, engine: str) -> None:
    """One instruction, or instead of it the delivery: the handler's first instruction was not run."""
    source, rip, retired = STEPS[name]
    guest = prepared(engine, f"{source}\n nop\n nop")
    guest.registers(ebx=0x10)
    guest.c.step_stop = 1
    why = guest.go(1)
    assert (int(guest.c.rip), guest.retired) == (rip, retired)
    assert why == ("debug" if rip >= HANDLER else "limit")
    assert why == "limit" or int(guest.c.stop_why) == STOP_STEP


@pytest.mark.parametrize("engine", ["handlers", "stencils"])
def test_a_step_ends_with_an_interrupt(engine: str) -> None:
    """Delivery alone: before, the handler's first instruction was run, too."""
    guest = prepared(engine, "nop\n nop\n nop")
    guest.registers(eflags=0x202)
    guest.c.step_stop = 1
    guest.bare.vcpu.inject(0x30)
    assert guest.go(1) == "debug"
    assert (int(guest.c.rip), guest.retired, int(guest.c.stop_why)) == (HANDLER + 0x300, 0, int(STOP_STEP))
    assert (guest.go(1), guest.retired) == ("hlt", 1)
