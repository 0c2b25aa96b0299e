"""A character device that remembers the end of what went out: the last lines of a serial port in a crash report."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from jitvm.backends.chardev import CharBackend

TAIL = 2048


class Tail:
    """Another backend; `bytes` has the last TAIL bytes of its output."""

    def __init__(self, inner: CharBackend) -> None:
        self._inner = inner
        self.bytes: deque[int] = deque(maxlen=TAIL)

    @property
    def wake(self) -> Callable[[], None]:
        """The inner one's."""
        return self._inner.wake

    @wake.setter
    def wake(self, wake: Callable[[], None]) -> None:
        self._inner.wake = wake

    def write(self, data: bytes) -> None:
        self.bytes.extend(data)
        self._inner.write(data)

    def connect(self, receiver: Callable[[bytes], int]) -> None:
        self._inner.connect(receiver)

    def pump(self) -> int:
        return self._inner.pump()

    def close(self) -> None:
        self._inner.close()
