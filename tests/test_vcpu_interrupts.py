"""Interrupts and timers on the vCPU loop: windows, deliveries that go wrong, exact deadlines, reproducible runs."""

from __future__ import annotations

import random

import pytest

from jitvm.exits import ExitReason, Outcome
from tests.vcpu_guest import HANDLERS, START, Guest, code

IF, TF = 0x200, 0x100
IO, MMIO, HLT, INTR, WINDOW = (
    int(r) for r in (ExitReason.IO, ExitReason.MMIO, ExitReason.HLT, ExitReason.INTR, ExitReason.IRQ_WINDOW_OPEN)
)
STOP = code("f4 ; hlt")
COUNT = code("ff 06 00 05 ; inc word [500h]", "cf ; iret")


def frame(guest: Guest) -> tuple[int, int, int]:
    """IP, CS and flags on the guest's stack."""
    sp = guest.reg("sp")
    return guest.word(sp), guest.word(sp + 2), guest.word(sp + 4)


# ---- windows ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("program", "flags", "address", "exits"),
    [
        pytest.param(code("90", "fb ; sti", "90", "90", "eb fe ; jmp $"), 2, 3, [HLT], id="sti holds for one instruction"),
        pytest.param(code("fb ; sti", "eb fe ; jmp $"), 2, 1, [HLT], id="sti before a loop that never leaves"),
        pytest.param(code("fb fb ; sti, sti", "eb fe"), 2, 2, [HLT], id="a second sti holds nothing"),
        pytest.param(code("fb fa ; sti, cli", "fb ; sti", "90", "eb fe"), 2, 4, [HLT], id="sti and cli open nothing"),
        pytest.param(code("68 02 02 ; push 202h", "9d ; popf", "90", "eb fe"), 2, 4, [WINDOW, HLT], id="popf"),
        pytest.param(
            code("68 02 02 ; push 202h", "6a 00 ; push 0", "68 0a 10 ; push 100ah", "cf ; iret", "90 90 90 90", "eb fe"),
            2, 10, [WINDOW, HLT], id="iret",
        ),
        pytest.param(code("90", "fa ; cli", "90", "fb ; sti", "90", "eb fe"), IF | 2, 0, [HLT], id="open from the start"),
        pytest.param(code("fb 16 17 ; sti, push ss, pop ss", "90", "eb fe"), 2, 2, [HLT], id="the hold of sti ends"),
        pytest.param(code("16 ; push ss", "fb 17 ; sti, pop ss", "90", "eb fe"), 2, 4, [HLT], id="pop ss holds again"),
    ],
)  # fmt: skip
def test_irq_window_open(program: bytes, flags: int, address: int, exits: list[int]) -> None:
    """What opens at once is told by IRQ_WINDOW_OPEN; behind STI and MOV SS one instruction runs alone."""
    guest = Guest(program, {0x40: STOP}, flags=flags)
    guest.vcpu.limit = 10_000
    guest.interrupts.raise_(0x40)
    assert guest.execute() is Outcome.HLT, "the interrupt came"
    assert frame(guest)[0] == START + address
    assert [r for r in guest.reasons if r != INTR] == exits


def test_mov_ss_holds_an_interrupt_that_an_access_raises_for_one_instruction() -> None:
    program = code("26 8e 16 00 00 ; mov ss, es:[0]", "bc 00 70 ; mov sp, 7000h", "90", "eb fe")
    guest = Guest(program, {0x40: STOP}, flags=IF | 2)
    guest.window.answers = [0]
    guest.window.on_access = lambda: guest.interrupts.raise_(0x40)
    assert guest.execute() is Outcome.HLT
    assert frame(guest)[0] == START + 8 and guest.reg("sp") == 0x7000 - 6


def test_an_interrupt_that_an_access_raises_comes_behind_its_instruction() -> None:
    guest = Guest(code("e4 60 ; in al, 60h", "eb fe ; jmp $"), {0x40: STOP}, flags=IF | 2)
    guest.card.answers = [0x5A]
    guest.card.on_access = lambda: guest.interrupts.raise_(0x40)
    assert guest.execute() is Outcome.HLT
    assert frame(guest)[0] == START + 2 and guest.reg("ax") == 0x5A and len(guest.card.log) == 1


def test_an_interrupt_pending_with_interrupts_off_does_not_disturb_accesses() -> None:
    program = code("e4 60", "e4 60", "26 a0 00 00 ; mov al, es:[0]", "fb ; sti", "e4 60", "eb fe")
    guest = Guest(program, {0x40: STOP})
    guest.interrupts.raise_(0x40)
    assert guest.execute() is Outcome.HLT
    assert frame(guest)[0] == START + 11 and len(guest.card.log) == 3 and len(guest.window.log) == 1
    assert [r for r in guest.reasons if r != INTR] == [IO, IO, MMIO, IO, HLT]


def test_two_interrupts_nest_when_the_first_handler_lets_them() -> None:
    first = code("fb ; sti", "90", "90", "f4")
    guest = Guest(code("eb fe"), {0x40: first, 0x41: STOP}, flags=IF | 2)
    guest.interrupts.raise_(0x40)
    guest.interrupts.raise_(0x41)
    assert guest.execute() is Outcome.HLT
    assert guest.interrupts.taken == [0x40, 0x41]
    assert frame(guest)[0] == HANDLERS + 0x100 * 0x40 + 2


@pytest.mark.parametrize("deadline", [1, 2, 3, 4, 10, 37, 100])
def test_an_interrupt_between_the_iterations_of_a_repeated_instruction(deadline: int) -> None:
    program = code("b9 20 00 ; mov cx, 32", "bf 00 06 ; mov di, 600h", "f3 aa ; rep stosb", "f4 ; hlt")
    handler = code("89 0e 10 05 ; mov [510h], cx", "8c 1e 12 05 ; mov [512h], ds", "cf")
    guest = Guest(program, {0x40: handler}, flags=IF | 2)
    guest.c.sel[0] = guest.c.base[0] = 0
    guest.c.gpr[0] = 0xEE
    guest.vcpu.registers_dirty = True
    guest.at(deadline, 0x40)
    assert guest.execute() is Outcome.HLT
    assert guest.memory.read(0x600, 33) == b"\xee" * 32 + b"\0" and guest.reg("cx") == 0
    taken = deadline < 35
    assert guest.vcpu.retired == 2 + 32 + 1 + (3 if taken else 0)
    if 2 <= deadline < 34:
        assert guest.word(0x510) == 32 - (deadline - 2)
        assert guest.word(0x8000 - 6) == START + 6, "it returns to the repeated instruction"


# ---- deliveries that go wrong -------------------------------------------------------------------------------------------
def test_a_delivery_whose_stack_is_in_mmio_loses_neither_vector_nor_access() -> None:
    guest = Guest(code("eb fe ; jmp $"), {0x40: code("ff 06 00 05 ; inc word [500h]", "f4")}, flags=IF | 2)
    guest.c.sel[2], guest.c.base[2], guest.c.gpr[4] = 0xA000, 0xA_0000, 0x100
    guest.vcpu.registers_dirty = True
    guest.interrupts.raise_(0x40)
    assert guest.execute() is Outcome.HLT
    assert guest.window.log == [("write", 0xFE, 2, 0x202), ("write", 0xFC, 2, 0), ("write", 0xFA, 2, START)]
    assert guest.word(0x500) == 1 and guest.reg("sp") == 0xFA and guest.interrupts.taken == [0x40]
    assert guest.reasons == [MMIO, MMIO, MMIO, HLT]


def test_a_delivery_into_mmio_survives_kicks_and_exit_requests() -> None:
    guest = Guest(code("eb fe ; jmp $"), {0x40: STOP}, flags=IF | 2)
    guest.c.sel[2], guest.c.base[2], guest.c.gpr[4] = 0xA000, 0xA_0000, 0x100
    guest.vcpu.registers_dirty = True
    guest.interrupts.raise_(0x40)
    guest.window.on_access = guest.vcpu.request_exit
    assert guest.execute() is Outcome.INTERRUPT
    assert [offset for _, offset, _, _ in guest.window.log] == [0xFE, 0xFC, 0xFA]
    assert guest.execute() is Outcome.HLT
    assert len(guest.window.log) == 3 and guest.interrupts.taken == [0x40]


def test_a_delivery_that_faults_becomes_that_fault_with_the_interrupted_address() -> None:
    guest = Guest(code("90 ; nop", "fb ; sti", "90", "eb fe"), {13: STOP})
    guest.c.idt_limit = 4 * 14 - 1
    guest.interrupts.raise_(0x40)
    assert guest.execute() is Outcome.HLT
    assert guest.interrupts.taken == [0x40] and frame(guest)[0] == START + 3
    assert guest.reg("eip") == HANDLERS + 0x100 * 13 + 1
    assert guest.vcpu.retired == 3 + 1 + 1, "a delivered fault counts as an instruction"


def test_a_delivery_that_faults_on_its_way_into_mmio_restarts_as_a_whole() -> None:
    guest = Guest(code("eb fe ; jmp $"), {13: STOP}, flags=IF | 2)
    guest.c.idt_limit = 4 * 14 - 1
    guest.c.sel[2], guest.c.base[2], guest.c.gpr[4] = 0xA000, 0xA_0000, 0x100
    guest.vcpu.registers_dirty = True
    guest.interrupts.raise_(0x40)
    assert guest.execute() is Outcome.HLT
    assert [offset for _, offset, _, _ in guest.window.log] == [0xFE, 0xFC, 0xFA]
    assert guest.reg("eip") == HANDLERS + 0x100 * 13 + 1 and guest.interrupts.taken == [0x40]


def test_a_delivery_without_any_vector_table_is_a_shutdown() -> None:
    guest = Guest(code("eb fe ; jmp $"), flags=IF | 2)
    guest.c.idt_limit = 0
    guest.interrupts.raise_(0x40)
    assert guest.execute() is Outcome.SHUTDOWN
    guest.engine.reset()
    guest.vcpu.limit = guest.vcpu.retired + 1
    assert guest.execute() is not Outcome.SHUTDOWN, "a reset forgets the delivery"


def test_a_trap_whose_stack_is_in_mmio_is_not_lost() -> None:
    guest = Guest(code("90 ; nop", "90", "eb fe"), {1: STOP}, flags=TF | 2)
    guest.c.sel[2], guest.c.base[2], guest.c.gpr[4] = 0xA000, 0xA_0000, 0x100
    guest.vcpu.registers_dirty = True
    guest.vcpu.limit = 1000
    assert guest.execute() is Outcome.HLT
    assert guest.window.log == [("write", 0xFE, 2, 0x102), ("write", 0xFC, 2, 0), ("write", 0xFA, 2, START + 1)]
    assert guest.reg("eip") == HANDLERS + 0x100 + 1


def test_a_trap_comes_before_an_interrupt_at_the_same_boundary() -> None:
    guest = Guest(code("90 ; nop", "90", "eb fe"), {1: COUNT, 0x40: STOP}, flags=TF | IF | 2)
    guest.at(1, 0x40)
    guest.vcpu.limit = 1000
    assert guest.execute() is Outcome.HLT
    assert guest.word(0x500) == 1 and frame(guest)[0] == START + 1


# ---- timers -----------------------------------------------------------------------------------------------------------
READ_CLOCK = code("0f 31 ; rdtsc", "66 a3 00 06 ; mov [600h], eax", "f4")
COMPUTE = code("40 ; inc ax", "01 c3 ; add bx, ax", "75 fb ; jnz $-3", "eb f9 ; jmp $-5")
TRAFFIC = code("40 ; inc ax", "e6 60 ; out 60h, al", "26 a2 00 00 ; mov es:[0], al", "eb f7 ; jmp $-7")


@pytest.mark.parametrize("deadline", [*range(1, 12), 63, 64, 65, 1000, 123_456])
def test_timers_fire_at_exactly_their_instruction_count(deadline: int) -> None:
    guest = Guest(COMPUTE, {0x40: READ_CLOCK}, flags=IF | 2)
    fired: list[tuple[int, int]] = []
    guest.clock.timer("look", lambda: fired.append((guest.clock.now_ns, guest.vcpu.retired))).arm(deadline)
    guest.at(deadline, 0x40)
    assert guest.execute() is Outcome.HLT
    assert fired == [(deadline, deadline)]
    assert guest.word(0x600, 4) == deadline, "the guest reads the deadline from its TSC"


@pytest.mark.parametrize("deadline", [999, 1000, 1001, 1002, 2003, 5555, 100_001])
def test_timers_between_accesses_are_late_by_less_than_an_access(deadline: int) -> None:
    guest = Guest(TRAFFIC, {0x40: READ_CLOCK}, flags=IF | 2)
    guest.at(deadline, 0x40)
    assert guest.execute() is Outcome.HLT
    assert deadline <= guest.word(0x600, 4) <= deadline + 1001


def test_hlt_jumps_to_the_next_timer_in_virtual_time() -> None:
    guest = Guest(code("f4 ; hlt", "eb fd ; jmp $-1"), {0x40: COUNT, 0x41: READ_CLOCK}, flags=IF | 2)
    hour = 3_600_000_000_000
    for k in range(1, 4):
        guest.at(k * hour, 0x40)
    guest.at(3 * hour + 500, 0x41)
    turns = 0
    with guest.lock:
        while guest.word(0x600, 4) == 0:
            assert guest.vcpu.execute() is Outcome.HLT
            guest.vcpu.wait()
            turns += 1
    assert guest.word(0x500) == 3 and guest.word(0x600, 4) == (3 * hour + 500) & 0xFFFF_FFFF
    assert turns == 5


def test_a_halted_vcpu_with_interrupts_off_still_lets_time_pass() -> None:
    guest = Guest(code("fa f4 ; cli, hlt"))
    fired: list[int] = []
    guest.clock.timer("t", lambda: fired.append(guest.clock.now_ns)).arm(1_000_000)
    guest.interrupts.raise_(0x40)
    with guest.lock:
        assert guest.vcpu.execute() is Outcome.HLT
        guest.vcpu.wait()
    assert fired == [1_000_000]


# ---- the limit ----------------------------------------------------------------------------------------------------------
MIXED = code(
    "b9 05 00 ; mov cx, 5", "bf 00 06 ; mov di, 600h", "16 07 ; es = ss", "f3 aa ; rep stosb", "e4 60 ; in al, 60h",
    "b9 06 00 ; mov cx, 6", "ba 61 00 ; mov dx, 61h", "f3 6c ; rep insb", "0f 0b ; ud2", "fb ; sti", "cd 41 ; int 41h",
    "b8 00 a0 ; mov ax, a000h", "8e c0 ; mov es, ax", "26 ff 06 20 00 ; inc word es:[20h]", "40 ; inc ax",
    "eb d6 ; jmp $-40",
)  # fmt: skip
SKIP_UD2 = code("89 e5 ; mov bp, sp", "83 46 00 02 ; add word [bp], 2", "cf ; iret")


def mixed() -> Guest:
    """A guest that does a little of everything, with a periodic timer."""
    guest = Guest(MIXED, {6: SKIP_UD2, 0x40: COUNT, 0x41: COUNT}, flags=IF | 2)

    def tick() -> None:
        guest.interrupts.raise_(0x40)
        timer.arm(guest.clock.now_ns + 1777)

    timer = guest.clock.timer("tick", tick)
    timer.arm(23)
    return guest


@pytest.mark.parametrize("limit", [*range(40), 63, 64, 65, 100, 1000, 12_345])
def test_max_insns_stops_exactly(limit: int) -> None:
    guest = mixed()
    guest.vcpu.limit = limit
    assert guest.execute() is Outcome.INTERRUPT
    assert guest.vcpu.retired == limit


def test_a_halted_vcpu_at_its_limit_stops() -> None:
    guest = Guest(code("f4 ; hlt"), {0x40: COUNT}, flags=IF | 2)
    guest.vcpu.limit = 1
    guest.at(1000, 0x40)
    assert guest.thread().join() is Outcome.INTERRUPT
    assert guest.vcpu.retired == 1


def test_many_short_runs_end_where_one_long_run_ends() -> None:
    rng = random.Random(7)
    whole, pieces = mixed(), mixed()
    whole.vcpu.limit = 5000
    whole.execute()
    while pieces.vcpu.retired < 5000:
        pieces.vcpu.limit = min(5000, pieces.vcpu.retired + rng.randrange(1, 40))
        assert pieces.execute() is Outcome.INTERRUPT and pieces.vcpu.retired == pieces.vcpu.limit
    assert pieces.state() == whole.state()


def test_two_runs_with_timers_and_interrupts_give_the_same_trace() -> None:
    traces = []
    for _ in range(2):
        guest = mixed()
        guest.vcpu.limit = 20_000
        guest.execute()
        traces.append(([(retired, repr(run)) for retired, run in guest.runs], guest.state()))
    assert traces[0] == traces[1] and len(traces[0][0]) > 1000
    assert len(guest.interrupts.taken) > 50


def test_init_and_sipi_during_system_management_mode_wait_for_rsm() -> None:
    """SDM vol. 3, 34.3.1: neither ends the handler, and neither is lost."""
    guest = Guest(code("90 ; nop", "f4 ; hlt"))
    guest.memory.write(0x38000, code("e4 60 ; in al, 60h", "e4 61 ; in al, 61h", "0f aa ; rsm"))
    guest.memory.write(0x2000, code("bb 34 12 ; mov bx, 1234h", "f4 ; hlt"))
    guest.vcpu.index = 1
    seen: list[int] = []

    def init() -> None:
        seen.append(int(guest.c.smm))
        if len(seen) == 1:
            guest.vcpu.assert_init()
            guest.vcpu.startup(2)

    guest.card.on_access = init
    guest.vcpu.assert_smi()
    while guest.execute() is Outcome.INTERRUPT:
        assert guest.vcpu.retired < 100
    assert seen == [1, 1], "the handler went on to its end"
    assert (int(guest.c.smm), guest.reg("bx"), int(guest.c.sel[1]), int(guest.c.rip)) == (0, 0x1234, 0x200, 4)
