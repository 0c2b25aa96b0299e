"""What is being compiled, on the terminal, while a first run waits for it.

On a terminal: one line with a spinner on standard error, which is gone when the guest prints, when the machine starts
and at the end.  Elsewhere nothing, or plain lines when asked for (--debug).  rich is imported with the first step only,
so that a run with a warm cache never pays for it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.live import Live
    from rich.spinner import Spinner

QUIET_S = 1.0
"""While the guest runs, the line goes when nothing was compiled for so long."""


def cache_name() -> str:
    """The cache folder, as a person would write it."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return os.path.join(base, "jitvm") if os.path.isabs(base) else "~/.cache/jitvm"


class Progress:
    """Give `step` to whatever compiles.  `plain`: one line a step where there is no terminal."""

    def __init__(self, plain: bool = False) -> None:
        try:
            self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        except (AttributeError, ValueError):
            self._terminal = False
        self._plain = plain and not self._terminal
        self._lock = threading.Lock()
        self._live: Live | None = None
        self._spinner: Spinner | None = None
        self._timer: threading.Timer | None = None
        self._running = False
        self._closed = False
        self._steps = 0
        self._start = time.perf_counter()

    @property
    def visible(self) -> bool:
        """Whether the line stands on the terminal."""
        return self._live is not None

    def step(self, what: str) -> None:
        """Say what is compiled next; an empty string says that nothing is."""
        if not what:
            self.hide()
            return
        self._steps += 1
        text = f"compiling (first run; kept in {cache_name()}): {what} ..."
        if self._plain:
            print(f"jitvm: {text}", file=sys.stderr, flush=True)
        if not self._terminal:
            return
        with self._lock:
            if self._closed:
                return
            from rich.console import Console
            from rich.live import Live
            from rich.spinner import Spinner
            from rich.text import Text

            if self._live is None:
                # redirect_*=False: the guest's output is not rich's to carry
                self._live = Live(
                    console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False,
                    refresh_per_second=8,
                )  # fmt: skip
                self._live.start()
            if self._spinner is None:
                self._spinner = Spinner("dots")
            self._spinner.update(text=Text(text, no_wrap=True, overflow="ellipsis"))
            self._live.update(self._spinner)
            if self._running:
                self._hide_later()

    def _hide_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(QUIET_S, self.hide)
        self._timer.daemon = True
        self._timer.start()

    def running(self) -> None:
        """The machine is made and starts: take the line away."""
        self._running = True
        self.hide()
        if self._plain and self._steps:
            print(f"jitvm: ready after {time.perf_counter() - self._start:.1f} s", file=sys.stderr, flush=True)

    def hide(self) -> None:
        """Take the line away; the next step shows it again."""
        if self._live is None:
            return
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._live is not None:
                self._live.stop()
                self._live = None

    def close(self) -> None:
        """Take the line away for good."""
        self._closed = True
        self.hide()
