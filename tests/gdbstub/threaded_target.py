"""The toy machine on a thread of its own, as a real one runs: stops come from there."""

from __future__ import annotations

import threading

from gdbstub.stop import Interrupted, Stop
from gdbstub.target import Plan
from tests.gdbstub.fake_target import FakeTarget


class ThreadedTarget(FakeTarget):
    """`resume` wakes the guest's thread up; `close` ends it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.busy = False
        """It takes no notice of `interrupt`, for now."""
        self._changed = threading.Condition()
        self._wanted = self._closed = False
        self._thread = threading.Thread(target=self._run, name="guest", daemon=True)
        self._thread.start()

    def resume(self, plan: Plan) -> None:
        with self._changed:
            self._wanted = False
            self.begin(plan)
            self._changed.notify()

    def interrupt(self) -> None:
        with self._changed:
            self.n_interrupts += 1
            self._wanted = True
            self._changed.notify()

    def stop(self, reason: Stop) -> None:
        self.running = False
        self.listener.stopped(reason)

    def kill(self) -> None:
        with self._changed:
            super().kill()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(5)

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                if not self.running:
                    self._changed.wait()
                    continue
                self.advance()
                if self.running and self._wanted and not self.busy:
                    self.stop(Interrupted(min(self.plan)))
                self._changed.wait(0.0005)
