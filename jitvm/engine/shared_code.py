"""Translations of several vCPUs that take turns on one memory: who has some of which page, and what others wrote there.

Each vCPU has its own block store, and drops at once what its own stores change.  A page of which only another vCPU has
translations counts as one with code, too (OTHERS_CODE in `code_pages`): its stores there come to `blocks.code_written`,
which notes the 64-byte chunks.  At the end of a turn, before anybody else runs, the others drop what they have of them, and
learn which pages the vCPU has translated for the first time.  A turn without either costs two looks at a byte a page.

Of vCPUs that run at the same time, for which a turn's end would be too late: jitvm/isa/shared.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from jitvm.engine.blocks import OTHERS_CODE, OTHERS_WRITTEN, OWN_CODE
from jitvm.isa.state import TLB_ENTRIES
from jitvm.isa.tlb import PARTS, WRITE, tlb_slot
from jitvm.isa.words import ONES, W0, u64
from jitvm.memory import PAGE

if TYPE_CHECKING:
    from jitvm.engine.accel import VcpuEngine

OWN, OTHERS, WRITTEN = np.uint8(OWN_CODE), np.uint8(OTHERS_CODE), np.uint8(OTHERS_WRITTEN)
CHUNK_BYTES = 64
PAGE_SHIFT = np.uint64(12)
_FIRST = [int(tlb_slot(W0, WRITE, u64(part))) for part in range(int(PARTS))]
WRITE_ENTRIES = [slice(at, at + 2 * TLB_ENTRIES) for at in _FIRST]
"""Where the words of the write entries lie in `c.tlb`."""

Pages = npt.NDArray[np.int64]


class _Translations:
    """What one vCPU has translated, as the others know it."""

    def __init__(self, engine: VcpuEngine) -> None:
        tables = engine.page_tables
        self.engine, self.flags = engine, tables["code_pages"]
        self.bits, self.written = tables["page_bits"], tables["page_written"]
        self.own = np.zeros_like(self.flags)
        self.seen = 0
        """Instructions translated when `own` was made."""

    def take_changes(self) -> Pages:
        """Bring `own` up to date; the pages where it changed."""
        own = self.flags & OWN
        pages = np.flatnonzero(own != self.own)
        self.own = own
        return pages

    def mark(self, pages: Pages, others: npt.NDArray[np.bool_]) -> None:
        """Others have translations of those of `pages` where `others` is set, and of the rest no more."""
        before = self.flags[pages]
        self.flags[pages] = before & ~OTHERS | others * OTHERS
        if (others & (before == 0)).any():
            self._unmap_writes()

    def _unmap_writes(self) -> None:
        """Take every page with anybody's code out of the write TLB; those that have been there are out already."""
        c = self.engine.c
        for where in WRITE_ENTRIES:
            entries = c.tlb[where].reshape(-1, 2)
            held = np.flatnonzero(entries[:, 0] != ONES)
            with np.errstate(over="ignore"):
                pages = (entries[held].sum(axis=1, dtype=np.uint64) - u64(c.ram)) >> PAGE_SHIFT
            entries[held[self.flags[pages] != 0], 0] = ONES

    def drop(self, page: int, chunks: int) -> None:
        """Others wrote these 64-byte chunks of a page."""
        chunks &= int(self.bits[page])
        while chunks:
            first = (chunks & -chunks).bit_length() - 1
            n = (~(chunks >> first) & (chunks >> first) + 1).bit_length() - 1
            self.engine.drop_code(page * PAGE + first * CHUNK_BYTES, n * CHUNK_BYTES)
            chunks &= -1 << first + n
        if not self.bits[page]:
            self.flags[page] &= ~OWN


class SharedCode:
    """All vCPUs of a machine."""

    def __init__(self) -> None:
        self._all: list[_Translations] = []
        self._holders: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)
        """How many have translations of each page."""

    def add(self, engine: VcpuEngine) -> None:
        """One more vCPU, which has translated nothing yet."""
        self._all.append(_Translations(engine))
        self._holders = np.zeros_like(self._all[0].flags)

    def turn_ended(self, number: int) -> None:
        """vCPU `number` has run; nobody else has since the last call."""
        it = self._all[number]
        pages = np.flatnonzero(it.flags >= WRITTEN)
        changed = {number} if it.seen != int(it.engine.c.stat_insns) else set()
        if len(pages):
            it.flags[pages] &= ~WRITTEN
            for page in pages.tolist():
                chunks, it.written[page] = int(it.written[page]), 0
                for k, other in enumerate(self._all):
                    if k != number and other.own[page]:
                        other.drop(page, chunks)
                        changed.add(k)
        for k in sorted(changed):
            self._publish(k)

    def _publish(self, number: int) -> None:
        it = self._all[number]
        it.seen = int(it.engine.c.stat_insns)
        pages = it.take_changes()
        if not len(pages):
            return
        self._holders[pages] += it.own[pages] * np.uint8(2) - np.uint8(1)
        for other in self._all:
            if other is not it:
                other.mark(pages, self._holders[pages] > other.own[pages])
