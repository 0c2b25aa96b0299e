"""Virtual time that follows the host's: `--clock realtime`."""

from __future__ import annotations

import time
from typing import Protocol

from jitvm.clock import Clock

PACE_NS = 1_000_000
"""How often the clocks are compared."""


class Paced(Protocol):
    """Whose time it is: a vCPU, or all of them."""

    def now(self) -> int: ...
    def skip(self, ns: int) -> None: ...


class Pace:
    """Lets virtual time follow the host's, forward by skipping, backward by waiting."""

    def __init__(self, clock: Clock, vcpu: Paced) -> None:
        self._clock, self._vcpu = clock, vcpu
        self._timer = clock.timer("host clock", self._tick)
        self._base = 0

    def start(self) -> None:
        """Virtual now is the host's now."""
        self._base = time.monotonic_ns() - self._vcpu.now()
        self._timer.arm(self._vcpu.now() + PACE_NS)

    def _tick(self) -> None:
        now = self._vcpu.now()
        lag = time.monotonic_ns() - self._base - now
        if lag > 0:
            self._vcpu.skip(lag)
        elif lag < -PACE_NS:
            time.sleep(-lag / 1e9)
        self._timer.arm(now + max(lag, 0) + PACE_NS)
