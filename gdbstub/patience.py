"""What keeps a debugger waiting for a program that it has started behind a pipe, until that can serve it.

gdb sends its first packet at once, and gives up when no acknowledgment comes, and then no reply, some ten seconds later.
An acknowledgment that it does not expect is skipped, and its patience begins anew with each byte that it reads. So one
is sent now and then, from the moment on at which the first packet is there. The packet itself is left to the server,
whose reply is the end of it: whatever acknowledgments came before are skipped with them.
"""

from __future__ import annotations

import os
import select
import threading

ACK = b"+"
INTERVAL = 0.5
"""Seconds between two of them; gdb waits for two by itself."""


class Patience:
    """A context: while it is open the debugger at `stdin` and `stdout` waits. Nothing of what it sends is read."""

    def __init__(self, stdin: int = 0, stdout: int = 1, interval: float = INTERVAL) -> None:
        self._stdin, self._stdout, self._interval = stdin, stdout, interval
        self._over, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._acknowledge, name="gdb waits", daemon=True)

    def __enter__(self) -> Patience:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._wake)
        self._thread.join()
        os.close(self._over)

    def _acknowledge(self) -> None:
        poll = select.poll()
        poll.register(self._over, select.POLLIN)
        poll.register(self._stdin, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll()}
        poll.unregister(self._stdin)
        while self._over not in ready:
            try:
                os.write(self._stdout, ACK)
            except OSError:
                return  # it has gone: the server will see that
            ready = {descriptor for descriptor, _ in poll.poll(self._interval * 1000)}
