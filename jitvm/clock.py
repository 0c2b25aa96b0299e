"""Virtual time and timers.  Devices know only this clock; none reads the host's.

Time is an integer count of nanoseconds since the machine was switched on.  Who advances it is the vCPU loop's affair:
by retired instructions (the default, reproducible) or by the host's clock (`--clock realtime`).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

NS_PER_SECOND = 1_000_000_000
NEVER = 1 << 62
"""A time that does not come."""
CROWD = 64
"""From so many entries on, those of timers that were armed again or cancelled are thrown out now and then."""


class Timer:
    """One alarm. `arm` sets it (again), `cancel` clears it; the callback runs once when virtual time reaches it."""

    __slots__ = ("_callback", "_clock", "deadline", "generation", "name")

    def __init__(self, clock: Clock, name: str, callback: Callable[[], None]) -> None:
        self._clock, self.name, self._callback = clock, name, callback
        self.deadline: int | None = None
        self.generation = 0

    def arm(self, deadline_ns: int) -> None:
        """Fire at `deadline_ns` (absolute); a deadline in the past fires at the next advance of the clock."""
        self.deadline = deadline_ns
        self.generation += 1
        self._clock._push(self, self.generation)

    def cancel(self) -> None:
        """Do not fire."""
        self.deadline = None
        self.generation += 1
        self._clock._find_next()

    def fire(self) -> None:
        """What the clock does when the time has come."""
        self.cancel()
        self._callback()


class Clock:
    """Virtual time with its pending timers; equal deadlines fire in the order in which they were armed."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.due = NEVER
        """Virtual time of the next timer, `NEVER` when none is armed: what the vCPU loop reads at every exit."""
        self._heap: list[tuple[int, int, int, Timer]] = []
        self._crowd = CROWD
        self._sequence = 0
        self._held = False
        self.firing = False
        """A timer's callback runs."""

    def timer(self, name: str, callback: Callable[[], None]) -> Timer:
        """A new timer, not armed."""
        return Timer(self, name, callback)

    def _push(self, timer: Timer, generation: int) -> None:
        assert timer.deadline is not None
        self._sequence += 1
        heapq.heappush(self._heap, (timer.deadline, self._sequence, generation, timer))
        if len(self._heap) > self._crowd:
            self._heap = [entry for entry in self._heap if entry[2] == entry[3].generation]
            heapq.heapify(self._heap)
            self._crowd = max(CROWD, 2 * len(self._heap))
        self._find_next()

    def _find_next(self) -> None:
        """Set `due`; entries of timers that were armed again or cancelled go when they come to the front."""
        heap = self._heap
        while heap and heap[0][2] != heap[0][3].generation:
            heapq.heappop(heap)
        self.due = heap[0][0] if heap and not self._held else NEVER

    def hold(self, held: bool) -> None:
        """Time passes, but no timer fires; those whose time has come meanwhile fire behind it."""
        if held != self._held:
            self._held = held
            self._find_next()

    def deadline(self) -> int | None:
        """Virtual time of the next timer, None when none is armed."""
        return None if self.due == NEVER else self.due

    def pending(self) -> list[tuple[Timer, int]]:
        """The armed timers with their deadlines, in the order in which they will fire."""
        return [(timer, at) for at, _, generation, timer in sorted(self._heap[:]) if generation == timer.generation]

    def set(self, now_ns: int, pending: list[tuple[Timer, int]]) -> None:
        """Another time, later or earlier, with exactly these timers armed: `pending` of then."""
        for timer, _ in self.pending():
            timer.cancel()
        self.now_ns = now_ns
        self._heap.clear()
        for timer, at in pending:
            timer.arm(at)

    def advance_to(self, now_ns: int) -> None:
        """Let time pass up to `now_ns` and fire what is due; a callback sees `now_ns` as it is at the end."""
        if now_ns > self.now_ns:
            self.now_ns = now_ns
        while self.due <= self.now_ns:
            self.firing = True
            try:
                self._heap[0][3].fire()
            finally:
                self.firing = False
