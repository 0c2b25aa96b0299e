"""Virtual time and its timers."""

from __future__ import annotations

import random

from jitvm.clock import CROWD, Clock


def test_time_goes_forward_only() -> None:
    clock = Clock()
    clock.advance_to(100)
    clock.advance_to(50)
    assert clock.now_ns == 100


def test_a_timer_fires_once_when_its_time_has_come() -> None:
    clock = Clock()
    fired: list[int] = []
    timer = clock.timer("t", lambda: fired.append(clock.now_ns))
    assert clock.deadline() is None
    timer.arm(10)
    assert clock.deadline() == timer.deadline == 10
    clock.advance_to(9)
    assert fired == []
    clock.advance_to(10)
    clock.advance_to(20)
    assert fired == [10] and clock.deadline() is None and timer.deadline is None


def test_a_deadline_in_the_past_fires_at_the_next_advance() -> None:
    clock = Clock()
    clock.advance_to(100)
    fired: list[int] = []
    clock.timer("t", lambda: fired.append(clock.now_ns)).arm(50)
    clock.advance_to(100)
    assert fired == [100]


def test_arming_again_moves_the_deadline_both_ways() -> None:
    clock = Clock()
    fired: list[int] = []
    timer = clock.timer("t", lambda: fired.append(clock.now_ns))
    timer.arm(10)
    timer.arm(30)
    clock.advance_to(20)
    assert fired == [] and clock.deadline() == 30
    timer.arm(25)
    clock.advance_to(25)
    clock.advance_to(40)
    assert fired == [25]


def test_a_cancelled_timer_does_not_fire_and_can_be_armed_again() -> None:
    clock = Clock()
    fired: list[int] = []
    timer = clock.timer("t", lambda: fired.append(clock.now_ns))
    timer.arm(10)
    timer.cancel()
    assert clock.deadline() is None and timer.deadline is None
    clock.advance_to(10)
    timer.arm(15)
    clock.advance_to(15)
    assert fired == [15]


def test_equal_deadlines_fire_in_the_order_in_which_they_were_armed() -> None:
    clock = Clock()
    fired: list[str] = []
    timers = {name: clock.timer(name, lambda name=name: fired.append(name)) for name in "abc"}  # type: ignore[misc]
    for name in "bcab":
        timers[name].arm(10)
    clock.advance_to(10)
    assert fired == ["c", "a", "b"]


def test_a_callback_may_arm_and_cancel() -> None:
    clock = Clock()
    fired: list[tuple[str, int]] = []

    def first() -> None:
        fired.append(("first", clock.now_ns))
        second.cancel()
        again.arm(12)
        later.arm(99)

    timer = clock.timer("first", first)
    second = clock.timer("second", lambda: fired.append(("second", clock.now_ns)))
    again = clock.timer("again", lambda: fired.append(("again", clock.now_ns)))
    later = clock.timer("later", lambda: fired.append(("later", clock.now_ns)))
    timer.arm(10)
    second.arm(11)
    clock.advance_to(20)
    assert fired == [("first", 20), ("again", 20)] and clock.deadline() == 99


def test_a_timer_that_its_own_callback_arms_is_periodic() -> None:
    clock = Clock()
    fired: list[int] = []

    def tick() -> None:
        fired.append(clock.now_ns)
        timer.arm(clock.now_ns + 10)

    timer = clock.timer("tick", tick)
    timer.arm(10)
    for now in range(0, 100, 5):
        clock.advance_to(now)
    assert fired == list(range(10, 100, 10))


def test_timers_that_are_armed_over_and_over_take_no_more_room() -> None:
    clock = Clock()
    timers = [clock.timer(str(k), lambda: None) for k in range(5)]
    for n in range(10_000):
        timers[n % 5].arm(1_000_000 - n)
    assert len(clock._heap) <= CROWD + 1
    assert clock.deadline() == 1_000_000 - 9999


def test_against_a_list_of_deadlines() -> None:
    rng = random.Random(3)
    clock = Clock()
    fired: list[int] = []
    timers = [clock.timer(str(k), lambda k=k: fired.append(k)) for k in range(200)]  # type: ignore[misc]
    expected: dict[int, tuple[int, int]] = {}
    for n in range(5000):
        k = rng.randrange(200)
        if rng.random() < 0.1:
            timers[k].cancel()
            expected.pop(k, None)
        elif rng.random() < 0.8:
            at = clock.now_ns + rng.randrange(1, 1000)
            timers[k].arm(at)
            expected[k] = (at, n)
        else:
            now = clock.now_ns + rng.randrange(20)
            due = sorted((key, k) for k, key in expected.items() if key[0] <= now)
            fired.clear()
            clock.advance_to(now)
            assert fired == [k for _, k in due]
            for _, k in due:
                del expected[k]
        assert clock.deadline() == min((at for at, _ in expected.values()), default=None)
