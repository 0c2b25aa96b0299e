"""Kicks from other threads: the loop leaves translated code soon, loses nothing, and sleeps through none."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import pytest

from jitvm import vcpu as loop
from jitvm.engine.layout import BLOCK_MAX, at
from jitvm.exits import ExitReason, Outcome
from tests.test_vcpu_interrupts import COUNT, IF, STOP, mixed
from tests.vcpu_guest import PATIENCE_S, START, Guest, code

INTR = int(ExitReason.INTR)


def elsewhere(action: Callable[[], None]) -> Callable[[], None]:
    """`action` done by another thread, and awaited."""

    def do() -> None:
        thread = threading.Thread(target=action)
        thread.start()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()

    return do


class Kicker:
    """Kicks again and again until the block is left."""

    def __init__(self, guest: Guest) -> None:
        self._guest, self._done = guest, threading.Event()
        self._thread = threading.Thread(target=self._main)

    def _main(self) -> None:
        while not self._done.is_set():
            self._guest.vcpu.kick()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_exc: object) -> None:
        self._done.set()
        self._thread.join(PATIENCE_S)


# ---- leaving ------------------------------------------------------------------------------------------------------------
COUNTING = code("66 ff 06 00 05 ; inc dword [500h]", "eb f9 ; jmp $-5")
FAULTS = code("bc 00 80 ; mov sp, 8000h", "0f 0b ; ud2")
GUESTS = {
    "a tight loop of one block": code("eb fe ; jmp $"),
    "a computing loop": COUNTING,
    "repeated instructions": code(
        "66 b9 40 42 0f 00 ; mov ecx, 1000000", "66 31 f6 ; xor esi, esi", "fe c0 ; inc al",
        "67 f3 26 ae ; es repe scasb", "67 f3 ac ; rep lodsb", "eb ec ; jmp $-18",
    ),
    "an exit storm": code("e6 60 ; out 60h, al", "eb fc ; jmp $-2"),
    "a storm of string accesses": code(
        "ba 60 00 ; mov dx, 60h", "b9 ff ff ; mov cx, ffffh", "f3 6e ; rep outsb", "eb f9 ; jmp $-5"
    ),
    "endless faults": FAULTS,
    "a halted vCPU": code("f4 ; hlt", "eb fd ; jmp $-1"),
}  # fmt: skip


@pytest.mark.parametrize("name", GUESTS)
def test_a_kick_from_another_thread_leaves(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "IDLE_S", 10 * PATIENCE_S)
    guest = Guest(GUESTS[name], {6: FAULTS}, flags=IF | 2)
    guest.trace.listeners.clear()
    with_limits = (0, 3)
    for k in with_limits:
        guest.c.limit[k] = 0xFFFF_FFFF
    guest.vcpu.registers_dirty = True
    pumped = threading.Event()
    guest.vcpu.pump = pumped.set
    turn = guest.thread()
    for _ in range(3):
        pumped.clear()
        guest.vcpu.kick()
        assert pumped.wait(PATIENCE_S), "input is looked for"
    guest.vcpu.request_exit()
    assert turn.join() is Outcome.INTERRUPT


def test_a_kick_leaves_within_a_bounded_number_of_instructions() -> None:
    guest = Guest(COUNTING)
    turn = guest.thread()
    while guest.word(0x500, 4) < 1000:
        pass
    guest.vcpu.request_exit()
    seen = guest.word(0x500, 4)
    assert turn.join() is Outcome.INTERRUPT
    assert guest.word(0x500, 4) - seen < 10_000, "some microseconds of a loop that would never end"
    assert guest.vcpu.retired == 2 * guest.word(0x500, 4) + (guest.reg("eip") != START)


@pytest.mark.parametrize(("name", "opcode"), [
    ("movsb", "a4"), ("stosb", "aa"), ("lodsb", "ac"), ("repe scasb", "ae"), ("repe cmpsb", "a6"),
])  # fmt: skip
def test_a_kick_leaves_a_repeated_instruction_within_the_elements_of_two_pages(name: str, opcode: str) -> None:
    """The run that it meets, and one more that began while the kick was on its way; a chunk would be 16 pages.

    Where the instruction is gets looked up when the kick is there, so a slow test thread sees less, never more.
    """
    program = code(
        "66 be 00 00 01 00 ; mov esi, 10000h", "66 bf 00 00 05 00 ; mov edi, 50000h", "66 b9 00 00 04 00 ; mov ecx, 40000h",
        f"67 f3 {opcode} ; rep {name}", "66 ff 06 00 05 ; inc dword [500h]", "eb e4 ; jmp $-26",
    )  # fmt: skip
    guest = Guest(program)
    guest.trace.listeners.clear()
    for k in (0, 3):
        guest.c.sel[k], guest.c.base[k], guest.c.limit[k] = 0, 0, 0xFFFF_FFFF
    guest.vcpu.registers_dirty = True
    words, gpr = guest.engine.words, at("gpr") // 8

    def elements() -> int:
        """Elements since the start; read again when a round was completed meanwhile."""
        while True:
            rounds, left = guest.word(0x500, 4), words[gpr + 1]
            if rounds == guest.word(0x500, 4):
                return 0x4_0000 * rounds + (0x4_0000 - left)

    behind_rep = START + 18 + 2 + len(bytes.fromhex(opcode))
    for n in range(50):
        turn = guest.thread()
        while guest.word(0x500, 4) < (2 if n else 64):  # the first time until its block is hot
            assert turn.alive()
        guest.vcpu.request_exit()
        seen = elements()
        assert turn.join() is Outcome.INTERRUPT
        # A round that is counted while ECX is still 0 must not be counted a second time.
        counted = not words[gpr + 1] and guest.reg("eip") != behind_rep
        assert elements() - 0x4_0000 * counted - seen <= 2 * 4096
        guest.memory.write(0x500, bytes(4))


@pytest.mark.parametrize("name", ["a tight loop of one block", "a computing loop", "endless faults"])
def test_a_kick_that_comes_before_the_entry_is_seen_within_one_block(name: str) -> None:
    guest = Guest(GUESTS[name], {6: FAULTS})
    guest.vcpu.pump = guest.vcpu.request_exit
    guest.vcpu.kick()
    assert guest.execute() is Outcome.INTERRUPT
    assert guest.vcpu.retired <= BLOCK_MAX and guest.reasons == [INTR]


def test_a_kick_between_looking_and_the_next_entry_is_not_lost() -> None:
    guest = Guest(code("eb fe ; jmp $"))
    pumps = itertools.count(1)

    def pump() -> None:
        if next(pumps) < 5:
            elsewhere(guest.vcpu.kick)()
        else:
            guest.vcpu.request_exit()

    guest.vcpu.pump = pump
    guest.vcpu.kick()
    assert guest.execute() is Outcome.INTERRUPT
    assert guest.reasons == [INTR] * 5


def test_an_exit_request_while_an_exit_is_served_is_not_lost() -> None:
    guest = Guest(code("e6 60 ; out 60h, al", "eb fe ; jmp $"))
    guest.card.on_access = elsewhere(guest.vcpu.request_exit)
    assert guest.execute() is Outcome.INTERRUPT
    assert guest.reg("eip") == START + 2


# ---- losing nothing -------------------------------------------------------------------------------------------------------
def test_an_interrupted_run_is_intr_and_loses_nothing() -> None:
    calm, kicked = mixed(), mixed()
    for guest in (calm, kicked):
        guest.vcpu.limit = 6000
    calm.execute()
    with Kicker(kicked):
        assert kicked.execute() is Outcome.INTERRUPT
    assert kicked.reasons.count(INTR) > calm.reasons.count(INTR)
    accesses = [[(n, repr(run)) for n, run in guest.runs if run.reason != INTR] for guest in (calm, kicked)]
    assert accesses[0] == accesses[1]
    assert kicked.state() == calm.state()


def test_a_kick_in_every_access_loses_and_doubles_none() -> None:
    calm, kicked = mixed(), mixed()
    for guest in (calm, kicked):
        guest.vcpu.limit = 2000
    kicked.card.on_access = kicked.window.on_access = kicked.vcpu.kick
    calm.execute()
    assert kicked.execute() is Outcome.INTERRUPT
    assert kicked.state() == calm.state()


def test_exit_requests_at_every_access_end_between_instructions_and_lose_nothing() -> None:
    calm, asked = mixed(), mixed()
    for guest in (calm, asked):
        guest.vcpu.limit = 2000
    calm.execute()
    asked.card.on_access = asked.window.on_access = asked.vcpu.request_exit
    while asked.vcpu.retired < 2000:
        assert asked.execute() is Outcome.INTERRUPT
        assert not asked.vcpu.is_half_done()
    assert asked.state() == calm.state()


def test_a_repeated_instruction_that_is_kicked_goes_on_where_it_was() -> None:
    program = code(
        "66 b9 a0 86 01 00 ; mov ecx, 100000", "66 bf 00 00 02 00 ; mov edi, 20000h", "67 f3 aa ; rep stosb",
        "66 40 ; inc eax", "66 3d 64 00 00 00 ; cmp eax, 100", "75 e7 ; jne $-23", "f4",
    )  # fmt: skip
    ends = []
    for kicks in (False, True):
        guest = Guest(program)
        guest.c.sel[0], guest.c.base[0], guest.c.limit[0] = 0, 0, 0xFFFF_FFFF
        guest.vcpu.registers_dirty = True
        if kicks:
            with Kicker(guest):
                assert guest.execute() is Outcome.HLT
        else:
            assert guest.execute() is Outcome.HLT
        ends.append(guest.state())
    assert ends[0] == ends[1] and guest.vcpu.retired == 100 * (2 + 100_000 + 3) + 1


# ---- input ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("program", [code("eb fe ; jmp $"), code("f4 ; hlt", "eb fd"), code("e6 60", "eb fc")])
@pytest.mark.parametrize("real_time", [False, True])
def test_input_reaches_a_guest_that_never_exits_that_sleeps_and_that_always_exits(
    program: bytes, real_time: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "IDLE_S", 10 * PATIENCE_S)
    guest = Guest(program, {0x40: COUNT, 0x41: STOP}, flags=IF | 2)
    guest.trace.listeners.clear()
    guest.vcpu.real_time = real_time
    typed: list[int] = []

    def pump() -> None:
        while typed:
            guest.interrupts.raise_(typed.pop(0))

    guest.vcpu.pump = pump
    turn = guest.thread()
    for n in range(1, 4):
        typed.append(0x40)
        guest.vcpu.kick()
        while guest.word(0x500) < n:
            assert turn.alive()
    guest.vcpu.request_exit()
    assert turn.join() is Outcome.INTERRUPT
    assert guest.interrupts.taken == [0x40] * 3


@pytest.mark.parametrize("deadline", [None, 1 << 60])
def test_a_kick_just_before_a_halted_vcpu_sleeps_wakes_it(
    deadline: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "IDLE_S", 10 * PATIENCE_S)
    guest = Guest(code("f4 ; hlt"), {0x40: STOP}, flags=IF | 2)
    guest.vcpu.real_time = True
    if deadline is not None:
        guest.at(deadline, 0x41)
    rounds = itertools.count()

    def pump() -> None:
        """Input that arrives behind the look at the input."""
        if next(rounds) < 10:
            elsewhere(guest.vcpu.kick)()
        else:
            guest.vcpu.request_exit()

    guest.vcpu.pump = pump
    assert guest.thread().join() is Outcome.INTERRUPT


def test_hlt_waits_for_its_timer_in_real_time() -> None:
    guest = Guest(code("f4 ; hlt", "0f 31 66 a3 00 06 ; rdtsc, mov [600h], eax", "f4"), {0x40: COUNT}, flags=IF | 2)
    guest.vcpu.real_time = True
    guest.at(2_000_000, 0x40)
    with guest.lock:
        assert guest.vcpu.execute() is Outcome.HLT
        while guest.word(0x500) == 0:
            guest.vcpu.wait()
            assert guest.vcpu.execute() is Outcome.HLT
        assert guest.word(0x600, 4) >= 2_000_000, "its virtual clock has gone on as the host's has"


@pytest.mark.parametrize("kicked", [True, False])
def test_hlt_without_timer_lets_time_go_on_as_the_host_s_does(kicked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it sleeps to the end or is kicked awake: what passed is added to virtual time, to the nanosecond."""
    monkeypatch.setattr(loop, "IDLE_S", 10 * PATIENCE_S if kicked else 0.001)
    host = itertools.count(5_000_000_000, 7_000_000)
    monkeypatch.setattr("jitvm.vcpu.time.monotonic_ns", lambda: next(host))
    guest = Guest(code("f4 ; hlt"), flags=IF | 2)
    guest.vcpu.real_time = True
    assert guest.execute() is Outcome.HLT
    start, times = guest.vcpu.now(), []
    for _ in range(3):
        kick = threading.Timer(0.001, guest.vcpu.kick) if kicked else threading.Timer(0, lambda: None)
        guest.vcpu.pump = kick.start
        with guest.lock:
            guest.vcpu.wait()
        kick.join(PATIENCE_S)
        assert guest.clock.now_ns == guest.vcpu.now()
        times.append(guest.vcpu.now() - start)
    assert times == [7_000_000, 14_000_000, 21_000_000]
    assert guest.vcpu.retired == 1, "and no instruction did"


def test_hlt_without_timer_keeps_virtual_time_where_it_follows_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "IDLE_S", 0.001)
    guest = Guest(code("f4 ; hlt"), flags=IF | 2)
    assert guest.execute() is Outcome.HLT
    with guest.lock:
        guest.vcpu.wait()
    assert guest.vcpu.now() == 1 == guest.clock.now_ns


def test_the_exit_state_is_in_the_record_that_a_kick_leaves() -> None:
    guest = Guest(COUNTING)
    guest.vcpu.limit = 1001
    guest.execute()
    words = guest.engine.words
    assert words[at("horizon") // 8] - words[at("left") // 8] == 1001 == 2 * guest.word(0x500, 4) - 1
