"""Virtual time and timers.  Devices know only this clock; none reads the host's.

Time is an integer count of nanoseconds since the machine was switched on.  Who advances it is the vCPU loop's affair:
by retired instructions (the default, reproducible) or by the host's clock (`--clock realtime`).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

NS_PER_SECOND = 1_000_000_000


class Timer:
    """One alarm. `arm` sets it (again), `cancel` clears it; the callback runs once when virtual time reaches it."""

    __slots__ = ("_callback", "_clock", "_generation", "deadline", "name")

    def __init__(self, clock: Clock, name: str, callback: Callable[[], None]) -> None:
        self._clock, self.name, self._callback = clock, name, callback
        self.deadline: int | None = None
        self._generation = 0

    def arm(self, deadline_ns: int) -> None:
        """Fire at `deadline_ns` (absolute); a deadline in the past fires at the next advance of the clock."""
        self.deadline = deadline_ns
        self._generation += 1
        self._clock._push(self, self._generation)

    def cancel(self) -> None:
        """Do not fire."""
        self.deadline = None
        self._generation += 1

    def is_current(self, generation: int) -> bool:
        return self.deadline is not None and generation == self._generation

    def fire(self) -> None:
        self.deadline = None
        self._callback()


class Clock:
    """Virtual time with its pending timers; equal deadlines fire in the order in which they were armed."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._heap: list[tuple[int, int, int, Timer]] = []
        self._sequence = 0

    def timer(self, name: str, callback: Callable[[], None]) -> Timer:
        """A new timer, not armed."""
        return Timer(self, name, callback)

    def _push(self, timer: Timer, generation: int) -> None:
        assert timer.deadline is not None
        self._sequence += 1
        heapq.heappush(self._heap, (timer.deadline, self._sequence, generation, timer))

    def deadline(self) -> int | None:
        """Virtual time of the next timer, None when none is armed."""
        heap = self._heap
        while heap and not heap[0][3].is_current(heap[0][2]):
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def advance_to(self, now_ns: int) -> None:
        """Let time pass up to `now_ns` and fire what is due; a callback sees `now_ns` as it is at the end."""
        if now_ns > self.now_ns:
            self.now_ns = now_ns
        while (due := self.deadline()) is not None and due <= self.now_ns:
            heapq.heappop(self._heap)[3].fire()
