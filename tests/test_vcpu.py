"""The vCPU loop on real translated code: what comes before a run, around it and behind it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import pytest

from jitvm.bare import ENGINES
from jitvm.engine import layout as lay
from jitvm.engine.entry import BOUNDARY
from jitvm.errors import EngineError
from jitvm.exits import ExitReason, Outcome, Run
from jitvm.isa.state import ARCHITECTURAL
from jitvm.vcpu import ACCESS_NS, SLICE
from tests.vcpu_guest import PATIENCE_S, START, Guest, code

IF, TF = 0x200, 0x100
IO, MMIO, HLT, INTR, WINDOW = (
    int(r) for r in (ExitReason.IO, ExitReason.MMIO, ExitReason.HLT, ExitReason.INTR, ExitReason.IRQ_WINDOW_OPEN)
)
MARK_AND_HALT = code("ff 06 00 05 ; inc word [500h]", "f4 ; hlt")
LOOP_FOR_EVER = code("eb fe ; jmp $")


# ---- before the run ---------------------------------------------------------------------------------------------------
def test_asynchronous_events_come_first_a_halted_vcpu_answers_hlt_and_does_not_enter() -> None:
    guest = Guest(code("f4 ; hlt"), {0x40: MARK_AND_HALT}, flags=IF | 2)
    assert guest.execute() is Outcome.HLT
    retired = guest.vcpu.retired
    assert [guest.execute() for _ in range(3)] == [Outcome.HLT] * 3
    assert guest.vcpu.retired == retired == 1 and guest.reasons == [HLT]
    guest.interrupts.raise_(0x40)
    assert guest.execute() is Outcome.HLT
    assert guest.word(0x500) == 1 and guest.vcpu.retired == 3


def test_a_halted_vcpu_with_interrupts_off_is_not_woken_by_one() -> None:
    guest = Guest(code("f4 ; hlt"), {0x40: MARK_AND_HALT})
    assert guest.execute() is Outcome.HLT
    guest.interrupts.raise_(0x40)
    assert guest.execute() is Outcome.HLT
    assert guest.interrupts.taken == [] and guest.vcpu.retired == 1


def test_a_single_stepped_hlt_is_ended_by_its_trap() -> None:
    guest = Guest(code("f4 ; hlt", "90 ; nop"), {1: MARK_AND_HALT}, flags=TF | 2)
    assert guest.execute() is Outcome.HLT
    assert guest.execute() is Outcome.HLT
    assert guest.word(0x500) == 1
    assert guest.word(guest.reg("sp")) == START + 1


def test_registers_changed_from_outside_are_pushed_once_before_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(code("f4 ; hlt"))
    guest.memory.write(0x2_1000, MARK_AND_HALT)
    pushes: list[int] = []
    push = guest.engine.registers_changed

    def counted() -> None:
        pushes.append(len(guest.runs))
        push()

    monkeypatch.setattr(guest.engine, "registers_changed", counted)
    guest.c.sel[1], guest.c.base[1] = 0x2000, 0x2_0000
    guest.vcpu.registers_dirty = True
    assert guest.execute() is Outcome.HLT
    guest.c.halted = 0
    guest.c.rip = START
    assert guest.execute() is Outcome.HLT
    assert guest.word(0x500) == 2, "the code at the new base ran"
    assert pushes == [0], "once, and before the first entry"


def test_before_the_run_a_pending_interrupt_is_injected() -> None:
    guest = Guest(code("f4 ; hlt"), {0x40: MARK_AND_HALT}, flags=IF | 2)
    guest.interrupts.raise_(0x40)
    assert guest.execute() is Outcome.HLT
    assert guest.interrupts.taken == [0x40] and guest.word(0x500) == 1
    assert guest.word(guest.reg("sp")) == START, "it came before the first instruction"


def test_before_the_run_the_window_is_asked_for_when_interrupts_are_off() -> None:
    guest = Guest(code("90 ; nop", "68 02 02 ; push 202h", "9d ; popf", "f4 ; hlt"), {0x40: MARK_AND_HALT})
    guest.interrupts.raise_(0x40)
    assert guest.execute() is Outcome.HLT
    assert guest.reasons == [WINDOW, HLT]
    assert guest.word(guest.reg("sp")) == START + 5


def test_a_pending_exit_request_lets_a_half_done_instruction_complete_then_leaves_at_once() -> None:
    guest = Guest(code("e4 60 ; in al, 60h", "ff 06 00 05 ; inc word [500h]", "f4 ; hlt"))
    guest.card.answers = [0x77]
    guest.card.on_access = guest.vcpu.request_exit
    assert guest.execute() is Outcome.INTERRUPT
    assert guest.reg("ax") == 0x77 and guest.reg("eip") == START + 2 and guest.word(0x500) == 0
    assert guest.execute() is Outcome.HLT
    assert guest.word(0x500) == 1 and len(guest.card.log) == 1


def test_an_exit_request_waits_for_all_accesses_of_an_instruction() -> None:
    program = code("66 26 a5 ; es movsd", "ff 06 00 05 ; inc word [500h]", "f4 ; hlt")
    guest = Guest(program)
    guest.c.gpr[6], guest.c.gpr[7] = 0x10, 0x20
    guest.window.answers = [0x1234_5678]
    guest.window.on_access = guest.vcpu.request_exit
    assert guest.execute() is Outcome.INTERRUPT
    assert guest.window.log == [("read", 0x10, 4, 0x1234_5678), ("write", 0x20, 4, 0x1234_5678)]
    assert guest.reg("eip") == START + 3 and guest.vcpu.retired == 1 and guest.word(0x500) == 0


def test_a_device_that_asks_for_an_exit_ends_the_turn_behind_the_instruction() -> None:
    guest = Guest(code("e6 64 ; out 64h, al", "90 ; nop", "f4 ; hlt"))
    guest.card.on_access = guest.vcpu.request_exit
    assert guest.execute() is Outcome.INTERRUPT
    assert guest.reg("eip") == START + 2


# ---- around the run ---------------------------------------------------------------------------------------------------
def test_the_lock_is_dropped_around_the_run() -> None:
    guest = Guest(LOOP_FOR_EVER)
    turn = guest.thread()
    assert guest.lock.acquire(timeout=PATIENCE_S), "another thread gets the lock while guest code loops"
    guest.vcpu.request_exit()
    guest.lock.release()
    assert turn.join() is Outcome.INTERRUPT


def test_the_lock_can_be_had_in_an_exit_storm_and_while_timers_are_jumped_to() -> None:
    storm = code("e6 60 ; out 60h, al", "eb fc ; jmp $-2")
    idle = code("fb ; sti", "f4 ; hlt", "eb fc ; jmp $-2")
    for program in (storm, idle):
        guest = Guest(program, {0x40: code("cf ; iret")}, flags=IF | 2)
        guest.trace.listeners.clear()
        tick = guest.clock.timer("tick", lambda: None)

        def again(guest: Guest = guest, tick: object = tick) -> None:
            guest.interrupts.raise_(0x40)
            tick.arm(guest.clock.now_ns + 1_000_000)  # type: ignore[attr-defined]  # the timer above

        tick = guest.clock.timer("tick", lambda guest=guest: guest.interrupts.raise_(0x40))  # type: ignore[misc]
        tick.arm(1_000_000)
        turn = guest.thread()
        for _ in range(3):
            assert guest.lock.acquire(timeout=PATIENCE_S)
            guest.lock.release()
        guest.vcpu.request_exit()
        assert turn.join() is Outcome.INTERRUPT


def test_the_lock_is_held_while_an_exit_is_served() -> None:
    guest = Guest(code("e4 60 ; in al, 60h", "26 a2 00 00 ; mov es:[0], al", "f4 ; hlt"))
    held: list[bool] = []

    def look() -> None:
        held.append(not guest.lock.acquire(blocking=False))

    guest.card.on_access = guest.window.on_access = look
    guest.execute()
    assert held == [True, True] and not guest.lock.locked()


def in_place_of_run(guest: Guest, n: int, instead: Callable[[], None]) -> None:
    """What happens when the loop enters translated code for the nth time; then it is told that this was no access."""
    enter, runs = guest.vcpu.enter, itertools.count(1)

    def counted(due: int, end: int) -> tuple[int, ...]:
        if next(runs) != n:
            return enter(due, end)
        instead()
        return ()

    guest.vcpu.enter = counted


def test_a_run_error_ends_the_machine_with_a_message_and_a_state_dump() -> None:
    guest = Guest(code("e6 60 ; out 60h, al", "e6 61 ; out 61h, al", "f4 ; hlt"))

    def fail() -> None:
        raise EngineError("no room for another form")

    in_place_of_run(guest, 3, fail)
    assert guest.execute() is Outcome.ERROR
    first, *dump = guest.vcpu.error_text.splitlines()
    assert first == "vCPU 0: INTERNAL_ERROR: no room for another form"
    assert "EIP=00001002" in "\n".join(dump) and "e6 61" in dump[-1]
    assert not guest.lock.locked(), "the lock was taken back before the turn ended"
    assert guest.execute() is Outcome.HLT and guest.vcpu.error_text == "", "a later turn carries no old message"


def test_an_exception_of_the_host_leaves_the_lock_as_it_was() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    guest = Guest(LOOP_FOR_EVER)
    in_place_of_run(guest, 1, interrupt)
    with pytest.raises(KeyboardInterrupt):
        guest.execute()
    assert not guest.lock.locked()


# ---- after the run ----------------------------------------------------------------------------------------------------
def test_after_the_run_the_interrupt_state_is_published() -> None:
    out = "e6 60 ; out 60h, al"
    program = code(out, "fb ; sti", out, out, "16 ; push ss", "17 ; pop ss", out, out, "fa ; cli", out, "f4 ; hlt")
    guest = Guest(program)
    seen: list[bool] = []
    guest.card.on_access = lambda: seen.append(guest.vcpu.interrupts_open())
    guest.execute()
    assert seen == [False, False, True, False, True, False]


def test_every_exit_is_traced_with_vcpu_and_reason() -> None:
    guest = Guest(code("e6 60 ; out 60h, al", "26 a0 00 00 ; mov al, es:[0]", "fb ; sti", "f4 ; hlt"))
    events: list[dict[str, object]] = []
    guest.trace.listeners.append(lambda event, fields: events.append({"event": event, **fields}))
    guest.vcpu.index = 3
    guest.execute()
    assert [(e["vcpu"], e["reason"], e["retired"]) for e in events] == [(3, "IO", 0), (3, "MMIO", 1), (3, "HLT", 4)]
    assert [guest.vcpu.exits[key] for key in ((IO, 0x60), (MMIO, 0xA_0000), (HLT, 0))] == [1, 1, 1]
    kept = [e["run"] for e in events]
    assert len(set(map(id, kept))) == 3, "a listener may keep what it gets"


@pytest.mark.parametrize("jit", ["handlers", "stencils"])
def test_accesses_to_msrs_are_traced_before_they_are_made(jit: str) -> None:
    """SYSENTER_CS written and read, the microcode update trigger, which can't be read, and a register that no CPU has."""
    msr = {0x174: "66 b9 74 01 00 00 ; mov ecx, 174h", 0x79: "66 b9 79 00 00 00 ; mov ecx, 79h",
           0x999: "66 b9 99 09 00 00 ; mov ecx, 999h"}  # fmt: skip
    value = "66 b8 08 00 00 00 ; mov eax, 8", "66 31 d2 ; xor edx, edx"
    program = code(msr[0x174], *value, "0f 30 ; wrmsr", "0f 32 ; rdmsr", msr[0x79], "0f 30 ; wrmsr", msr[0x999],
                   "0f 32 ; rdmsr", "f4 ; hlt")  # fmt: skip
    told: list[dict[str, object]] = []
    guest = Guest(program, {13: code("83 c4 04 ; add sp, 4", "f4 ; hlt")}, options=ENGINES[jit])
    guest.trace.listeners.append(lambda event, fields: told.append(fields) if event == "msr" else None)
    assert guest.execute() is Outcome.HLT
    keys = "index", "value", "write", "known"
    assert [tuple(t[key] for key in keys) for t in told] == [
        (0x174, 8, True, True), (0x174, 8, False, True), (0x79, 8, True, True), (0x999, 0, False, False),
    ]  # fmt: skip
    quiet = Guest(program, {13: code("83 c4 04 ; add sp, 4", "f4 ; hlt")}, options=ENGINES[jit])
    quiet.trace.listeners.clear()
    assert quiet.execute() is Outcome.HLT
    assert (quiet.vcpu.retired, int(quiet.c.n_catch)) == (guest.vcpu.retired, 0)
    assert quiet.vcpu.exits == {(HLT, 0): 1}, "nobody leaves for a trace that nobody reads"


def test_the_trace_of_a_read_carries_the_answer_and_comes_behind_what_the_device_says() -> None:
    program = code(
        "e5 60 ; in ax, 60h", "e7 62 ; out 62h, ax", "26 a1 04 00 ; mov ax, es:[4]", "ba 60 00 ; mov dx, 60h",
        "b9 03 00 ; mov cx, 3", "c4 3e 00 07 ; les di, [700h]", "f3 6c ; rep insb", "f4 ; hlt",
    )  # fmt: skip
    guest = Guest(program)
    guest.card.answers = [0x1234, 0xA1, 0xA2, 0xA3]
    guest.window.answers = [0x5678]
    order: list[str] = []
    guest.trace.listeners.append(lambda event, _fields: order.append(event))
    guest.card.on_access = lambda: order.append("card")
    assert guest.execute() is Outcome.HLT
    assert [repr(run) for _, run in guest.runs] == [
        "Run(IO read 0x60 size 2 count 1: 0x1234)",
        "Run(IO write 0x62 size 2 count 1: 0x1234)",
        "Run(MMIO read 0xa0004 size 2 count 1: 0x5678)",
        "Run(IO read 0x60 size 1 count 3: a1a2a3)",
        "Run(HLT)",
    ]
    assert order == ["card", "exit", "exit", "card", "exit", *["card"] * 3, "exit", "exit"]


def test_what_a_run_left_behind_and_the_answers_to_it_are_the_records_fields() -> None:
    engine = Guest(code("f4 ; hlt")).engine
    names = ("horizon", "left", "extra_ns", *BOUNDARY)
    word = {name: lay.at(name) // 8 for name in ("io_n", "io_value", "io_count", "io_size")}
    values = [1 << 62, (1 << 62) - 7, 1 << 63, 6, (1 << 64) - 1, 8, 1, 3, 0x8000_0000_0000_0001]
    for name, value in zip(names, values, strict=True):
        engine.words[lay.at(name) // 8] = value
    assert engine.boundary() == (7, *values[2:])
    engine.words[word["io_n"]], engine.words[word["io_count"]] = 0, 1
    answers = [(9, 1, 9), ((1 << 64) - 1, 8, (1 << 64) - 1), (-1, 2, 0xFFFF), (0x1_2345_6789, 4, 0x2345_6789)]
    for n, (value, size, kept) in enumerate(answers):
        engine.words[word["io_size"]] = size
        assert engine.answer(value) == n + 1 == engine.words[word["io_n"]]
        assert engine.words[word["io_value"] + n] == kept
    engine.words[word["io_count"]], engine.words[word["io_size"]] = 300, 1
    engine.answer(257)
    assert engine.words[word["io_value"] + len(answers)] == 257, "of a string it is the number of elements"
    assert [name for name, *_ in ARCHITECTURAL].count("horizon") == 1


# ---- exits ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (code("e4 61 ; in al, 61h"), (0x61, 1, 0, 1)),
        (code("e5 62 ; in ax, 62h"), (0x62, 2, 0, 1)),
        (code("66 e5 64 ; in eax, 64h"), (0x64, 4, 0, 1)),
        (code("e6 61 ; out 61h, al"), (0x61, 1, 1, 1)),
        (code("e7 62 ; out 62h, ax"), (0x62, 2, 1, 1)),
        (code("66 e7 64 ; out 64h, eax"), (0x64, 4, 1, 1)),
    ],
)
def test_io_with_port_direction_size_count_and_data(program: bytes, expected: tuple[int, ...]) -> None:
    guest = Guest(program + code("f4 ; hlt"))
    guest.c.gpr[0] = 0xDDCC_BBAA
    guest.card.answers = [0x4433_2211]
    guest.execute()
    run = guest.runs[0][1]
    port, size, write, count = expected
    assert (run.reason, run.address, run.size, run.write, run.count) == (IO, port, size, write, count)
    mask = (1 << 8 * size) - 1
    if write:
        assert run.data == 0xDDCC_BBAA & mask
        assert guest.card.log == [("write", port - 0x60, size, 0xDDCC_BBAA & mask)]
    else:
        assert guest.card.log == [("read", port - 0x60, size, 0x4433_2211 & mask)]
        assert int(guest.c.gpr[0]) == (0xDDCC_BBAA & ~mask) | (0x4433_2211 & mask)


def test_a_string_io_is_one_exit_with_its_block() -> None:
    program = code(
        "ba 60 00 ; mov dx, 60h", "b9 05 00 ; mov cx, 5", "be 00 06 ; mov si, 600h", "f3 6f ; rep outsw",
        "06 1f 1e 07 ; es = ds", "8c d8 8e c0 ; es = 0", "f4 ; hlt",
    )  # fmt: skip
    guest = Guest(program)
    data = bytes(range(1, 11))
    guest.memory.write(0x600, data)
    guest.execute()
    run = guest.runs[0][1]
    assert (run.reason, run.address, run.size, run.write, run.count) == (IO, 0x60, 2, 1, 5)
    assert run.block == data
    assert [value for _, _, _, value in guest.card.log] == [0x0201, 0x0403, 0x0605, 0x0807, 0x0A09]


def test_a_string_input_stores_its_block_and_counts_every_element() -> None:
    program = code(
        "16 07 ; es = ss", "ba 61 00 ; mov dx, 61h", "b9 07 00 ; mov cx, 7", "bf 00 06 ; mov di, 600h",
        "f3 6c ; rep insb", "f4 ; hlt",
    )  # fmt: skip
    guest = Guest(program)
    guest.card.answers = list(b"\x91\x92\x93\x94\x95\x96\x97")
    guest.execute()
    assert guest.reasons == [IO, HLT]
    assert guest.memory.read(0x600, 8) == b"\x91\x92\x93\x94\x95\x96\x97\0"
    assert guest.vcpu.retired == 5 + 7 + 1


@pytest.mark.parametrize(("prefix", "size"), [("8a", 1), ("8b", 2), ("66 8b", 4)])
def test_mmio_with_physical_address_data_length_and_is_write(prefix: str, size: int) -> None:
    store = prefix.replace("8a", "88").replace("8b", "89")
    guest = Guest(code(f"26 {prefix} 0e 34 02 ; mov ecx, es:[234h]", f"26 {store} 06 78 05 ; mov es:[578h], eax", "f4"))
    guest.c.gpr[0] = 0xDDCC_BBAA
    guest.window.answers = [0x4433_2211]
    guest.execute()
    mask = (1 << 8 * size) - 1
    (_, read), (_, write), _ = guest.runs
    assert (read.reason, read.address, read.size, read.write) == (MMIO, 0xA_0234, size, 0)
    assert (write.reason, write.address, write.size, write.write) == (MMIO, 0xA_0578, size, 1)
    assert write.data == 0xDDCC_BBAA & mask
    assert guest.window.log == [("read", 0x234, size, 0x4433_2211 & mask), ("write", 0x578, size, 0xDDCC_BBAA & mask)]
    assert int(guest.c.gpr[1]) == 0x4433_2211 & mask


@pytest.mark.parametrize(
    ("program", "log"),
    [
        (code("26 ff 36 10 00 ; push word es:[10h]"), [("read", 0x10, 2, 0x2211)]),
        (code("6a 77 ; push 77h", "26 8f 06 10 00 ; pop word es:[10h]"), [("write", 0x10, 2, 0x77)]),
        (code("26 f6 16 10 00 ; not byte es:[10h]"), [("read", 0x10, 1, 0x11), ("write", 0x10, 1, 0xEE)]),
        (code("26 f7 1e 10 00 ; neg word es:[10h]"), [("read", 0x10, 2, 0x2211), ("write", 0x10, 2, 0xDDEF)]),
        (code("26 ff 0e 10 00 ; dec word es:[10h]"), [("read", 0x10, 2, 0x2211), ("write", 0x10, 2, 0x2210)]),
        (code("26 86 06 10 00 ; xchg es:[10h], al"), [("read", 0x10, 1, 0x11), ("write", 0x10, 1, 0xAA)]),
        (
            code("66 26 8b 0e ff 0f ; mov ecx, es:[fffh]"),
            [("read", 0xFFF, 1, 0x11)],
        ),
    ],
)  # fmt: skip
def test_an_access_is_neither_lost_nor_doubled(program: bytes, log: list[tuple[str, int, int, int]]) -> None:
    guest = Guest(program + code("f4 ; hlt"))
    guest.c.gpr[0] = 0xDDCC_BBAA
    guest.window.answers = [0x4433_2211]
    assert guest.execute() is Outcome.HLT
    assert guest.window.log == log


def test_hlt_ends_the_turn_with_interrupts_as_they_are() -> None:
    guest = Guest(code("f4 ; hlt", "f4 ; hlt"))
    assert guest.execute() is Outcome.HLT
    assert guest.reg("eip") == START + 1 and int(guest.c.halted) == 1


def test_shutdown_by_a_triple_fault_is_told_to_the_caller() -> None:
    guest = Guest(code("0f 0b ; ud2"))
    guest.c.idt_limit = 0
    assert guest.execute() is Outcome.SHUTDOWN
    assert guest.reasons == [ExitReason.SHUTDOWN] and guest.vcpu.retired == 0


def test_what_a_device_answers_is_executed() -> None:
    """Its bytes come by MMIO reads of aligned words; the bus splits them for the device."""
    guest = Guest(code("90 ; nop", "ea 00 00 00 a0 ; jmp a000:0"))
    guest.window.answers = [0xF4, 0, 0, 0]  # hlt
    assert guest.execute() is Outcome.HLT
    assert guest.reg("eip") == 1 and guest.vcpu.retired == 3
    assert [(way, offset, size) for way, offset, size, _ in guest.window.log] == [("read", 4 * k, 4) for k in range(4)]
    assert guest.reasons == [MMIO, MMIO, HLT]


def test_internal_error_stops_with_a_dump() -> None:
    text = injected(ExitReason.INTERNAL_ERROR)[0].vcpu.error_text
    assert text.startswith("vCPU 0: INTERNAL_ERROR\n") and "EIP=0000100" in text


def injected(reason: int | None, why: int = lay.WHY_EXIT) -> tuple[Guest, Outcome]:
    """Leave with `reason` or `why` in place of the second run."""
    guest = Guest(code("e6 60 ; out 60h, al", "f4 ; hlt"))

    def leave() -> None:
        if reason is not None:
            guest.engine.words[lay.at("exit_reason") // 8] = reason
        guest.engine.words[lay.at("why") // 8] = why

    in_place_of_run(guest, 2, leave)
    return guest, guest.execute()


def test_debug_is_told_to_the_caller() -> None:
    guest, outcome = injected(ExitReason.DEBUG)
    assert outcome is Outcome.DEBUG and guest.vcpu.last_run.reason == ExitReason.DEBUG


@pytest.mark.parametrize("reason", [0, 1, 9, 99, 1 << 40])
def test_a_reason_that_the_loop_does_not_know_stops_with_its_number_and_a_dump(reason: int) -> None:
    guest, outcome = injected(reason)
    assert outcome is Outcome.ERROR and guest.vcpu.last_run.reason == reason
    name = "UNKNOWN" if reason == 0 else f"reason {reason}"
    assert guest.vcpu.error_text.startswith(f"vCPU 0: {name}\n") and "EIP=" in guest.vcpu.error_text


def test_a_way_of_leaving_that_the_loop_does_not_know_is_unknown() -> None:
    guest, outcome = injected(None, why=77)
    assert outcome is Outcome.ERROR and guest.vcpu.last_run.reason == ExitReason.UNKNOWN


def test_the_loop_goes_round_while_handled_and_else_returns_to_the_thread_function() -> None:
    handled = Guest(code("e4 60 ; in al, 60h", "26 a0 00 00 ; mov al, es:[0]", "f4 ; hlt"))
    assert handled.execute() is Outcome.HLT, "IO and MMIO did not end the turn"
    told: list[Outcome] = [handled.execute()]
    told.append(injected(ExitReason.DEBUG)[1])
    told.append(injected(ExitReason.SHUTDOWN)[1])
    told.append(injected(ExitReason.INTERNAL_ERROR)[1])
    told.append(injected(99)[1])
    stopped = Guest(LOOP_FOR_EVER)
    stopped.vcpu.limit = 5
    told.append(stopped.execute())
    names = [Outcome.HLT, Outcome.DEBUG, Outcome.SHUTDOWN, Outcome.ERROR, Outcome.ERROR, Outcome.INTERRUPT]
    assert told == names


def test_an_exit_that_is_no_access_carries_none() -> None:
    guest = Guest(code("e6 60 ; out 60h, al", "f4 ; hlt"))
    guest.execute()
    assert repr(guest.runs[-1][1]) == "Run(HLT)" == repr(Run(HLT))


# ---- time -------------------------------------------------------------------------------------------------------------
def test_an_access_takes_the_same_time_each_also_in_a_string() -> None:
    program = code(
        "e4 60 ; in al, 60h", "26 a0 00 00 ; mov al, es:[0]", "ba 60 00 ; mov dx, 60h", "b9 20 00 ; mov cx, 32",
        "be 00 06 ; mov si, 600h", "f3 6e ; rep outsb", "66 26 a5 ; es movsd", "f4 ; hlt",
    )  # fmt: skip
    guest = Guest(program)
    guest.execute()
    assert guest.vcpu.retired == 5 + 32 + 2
    accesses = 1 + 1 + 32 + 2
    assert guest.vcpu.now() == guest.vcpu.retired + accesses * ACCESS_NS == guest.clock.now_ns
    assert len(guest.card.log) + len(guest.window.log) == accesses


def test_a_device_sees_the_time_of_its_access() -> None:
    guest = Guest(code("90 90 90", "e4 60 ; in al, 60h", "e4 60 ; in al, 60h", "f4 ; hlt"))
    times: list[int] = []
    guest.card.on_access = lambda: times.append(guest.clock.now_ns)
    guest.execute()
    assert times == [3 + ACCESS_NS, 4 + 2 * ACCESS_NS]


def test_retired_seen_from_another_thread_while_guest_code_runs_is_that_of_the_latest_exit() -> None:
    """Never garbage (the record's two words are written one behind the other), and exact when the vCPU stands."""
    guest = Guest(code("b9 e8 03 ; mov cx, 1000", "e6 60 ; out 60h, al", "e2 fc ; loop $-2", "eb fe ; jmp $"))
    guest.trace.listeners.clear()
    exact: list[int] = []
    guest.card.on_access = lambda: exact.append(guest.vcpu.retired)
    turn = guest.thread()
    seen = [guest.vcpu.retired]
    while len(exact) < 1000 or guest.vcpu.retired < exact[-1]:
        seen.append(guest.vcpu.retired)
        assert turn.alive()
    assert exact == [1 + 2 * k for k in range(1000)]
    assert seen == sorted(seen) and seen[0] >= 0 and seen[-1] <= exact[-1]
    slices = {(guest.vcpu.retired - exact[-1]) / SLICE for _ in range(1000)}
    assert all(n == int(n) for n in slices), "it stays while the loop runs on, but for the end of a slice"
    guest.vcpu.request_exit()
    assert turn.join() is Outcome.INTERRUPT
    assert guest.vcpu.retired == guest.engine.retired() > exact[-1]


def test_guest_code_without_timer_comes_out_once_a_slice() -> None:
    guest = Guest(LOOP_FOR_EVER)
    guest.vcpu.limit = SLICE + 500
    assert guest.execute() is Outcome.INTERRUPT
    assert [retired for retired, _ in guest.runs] == [SLICE, SLICE + 500]


def test_time_that_is_skipped_counts_at_once_and_shortens_the_next_run() -> None:
    guest = Guest(code("e6 60 ; out 60h, al", "eb fe ; jmp $"), {0x40: MARK_AND_HALT}, flags=IF | 2)
    guest.at(50_000, 0x40)
    guest.card.on_access = lambda: guest.vcpu.skip(40_000)
    assert guest.execute() is Outcome.HLT
    interrupted = next(retired for retired, run in guest.runs if run.reason == INTR)
    assert interrupted + ACCESS_NS + 40_000 == 50_000
    assert guest.vcpu.now() == guest.vcpu.retired + ACCESS_NS + 40_000


def test_one_lock_serves_two_vcpu_threads() -> None:
    """Nothing of the loop depends on whose thread runs it: turns may be taken by different ones."""
    guest = Guest(LOOP_FOR_EVER)
    guest.vcpu.limit = 1000
    outcomes: list[Outcome] = []
    for _ in range(3):
        guest.vcpu.limit += 1000
        thread = threading.Thread(target=lambda: outcomes.append(guest.execute()))
        thread.start()
        thread.join(PATIENCE_S)
    assert outcomes == [Outcome.INTERRUPT] * 3 and guest.vcpu.retired == 4000
