"""What the vCPUs of `--smp-threads` have in common, as translated code sees it: `jitvm/isa/shared.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jitvm.memory import PAGE, GuestMemory

if TYPE_CHECKING:
    from jitvm.engine.accel import VcpuEngine

LINE = 8
"""Words of a CPU's line."""
BITS = 1
"""In a line: where the CPU's bits of translated pieces are."""
CLOCK, TOLD = 0, 1
"""In `times`."""


class Common:
    """Made for `n` engines, which join one by one, before any of them runs."""

    def __init__(self, memory: GuestMemory, n: int) -> None:
        self.memory, self.n = memory, n
        self.engines: list[VcpuEngine] = []
        self.coded = np.zeros(memory.size // PAGE, np.uint8)
        """A byte a page of guest memory: some vCPU may have translated code of it."""
        self._lines = np.zeros((n, LINE), np.uint64)
        self._times = np.zeros(2, np.uint64)
        self.times = self._times.data.cast("B").cast("Q")

    def join(self, engine: VcpuEngine) -> None:
        """One more of them."""
        c, number = engine.c, len(self.engines)
        self._lines[number, BITS] = int(c.page_bits)
        c.shared = 1
        c.peers, c.n_peers, c.peer = self._lines.ctypes.data, self.n, number
        c.times = self._times.ctypes.data
        c.code_pages = self.coded.ctypes.data
        self.engines.append(engine)

    def set_time(self, now_ns: int) -> None:
        """Virtual time was put back or forth, while all stand."""
        self.times[CLOCK] = self.times[TOLD] = now_ns

    # ---- all engines stand -------------------------------------------------------------------------------------------
    def begin_code(self, page: int) -> None:
        """Let translated code of a page be kept from now on."""
        if not self.coded[page]:
            self.coded[page] = 1
            for engine in self.engines:
                engine.accel.unmap_writes(engine.address, page)

    def end_code(self, page: int) -> None:
        """A page without translated code becomes data."""
        if not any(engine.has_blocks(page) for engine in self.engines):
            self.coded[page] = 0

    def written(self, offset: int, size: int, by: VcpuEngine | None = None) -> None:
        """Guest memory was written, by one of the engines, which has seen to its own code, or by nobody of them."""
        for engine in self.engines:
            if engine is not by:
                engine.drop_code(offset, size)

    def holds_code(self, offset: int, size: int) -> bool:
        """Whether there may be translated code on the pages of these bytes."""
        return bool(self.coded[offset // PAGE : (offset + size - 1) // PAGE + 1].any())

    def settle(self, engine: VcpuEngine) -> None:
        """What `engine` has stored to pages with code while it ran alone: the others forget those pages."""
        c = engine.c
        n = int(c.n_written)
        if not n:
            return
        c.n_written = 0
        if n > len(c.written):
            for other in self.engines:
                if other is not engine:
                    other.forget()
            return
        for page in dict.fromkeys(c.written[:n].tolist()):
            self.written(int(page) * PAGE, PAGE, engine)
