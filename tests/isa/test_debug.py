"""The tables that follow from DR0-DR3, DR7 and CR4.DE, and which accesses overlap an entry.

Source: Intel SDM vol. 3, 17.2.4 (DR7), 17.2.5 (lengths and alignment).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from jitvm.isa import debug, watch
from jitvm.isa.state import CR4_DE, WATCH_PHYSICAL, WATCH_READ, WATCH_WRITE, WATCHED
from jitvm.isa.words import ONES, u64
from tests.isa.plain_cpu import make_cpu

W, R, P = int(WATCH_WRITE), int(WATCH_READ), int(WATCH_PHYSICAL)


@contextlib.contextmanager
def watching(*rows: tuple[int, int, int]) -> Iterator[Any]:
    """A record in which a debugger watches these: WATCH_* bits, first and last address."""
    c, table = derived(0), np.array(rows, np.uint64)
    c.points_at, c.n_watch = table.ctypes.data, 4 + len(rows)
    yield c


def derived(dr7: int, *addresses: int, de: bool = False) -> Any:
    """A record with these registers."""
    c, _ = make_cpu()
    for n, address in enumerate(addresses):
        c.dr[n] = address
    c.dr[7], c.cr4 = dr7 | 0x400, CR4_DE if de else 0
    with np.errstate(over="ignore"):
        debug.update_debug(c)
    return c


LENGTHS = {1: 0, 2: 1, 4: 3, 8: 2}


@pytest.mark.parametrize(("kind", "bits"), [(1, W), (3, W | R)])
@pytest.mark.parametrize("size", LENGTHS)
@pytest.mark.parametrize("n", range(4))
def test_data_breakpoints(n: int, size: int, kind: int, bits: int) -> None:
    addresses = [0, 0, 0, 0]
    addresses[n] = 0x8007
    c = derived(1 << 2 * n | (kind | LENGTHS[size] << 2) << 16 + 4 * n, *addresses)
    first = 0x8007 & -size
    assert (c.watch_kind[n], c.watch_first[n], c.watch_last[n]) == (bits, first, first + size - 1)
    assert c.n_watch == 4 and np.count_nonzero(c.watch_kind) == 1
    assert (c.code_breaks, c.port_breaks) == (0, 0)


@pytest.mark.parametrize("enable", [1, 2, 3])
def test_code_breakpoints(enable: int) -> None:
    c = derived(enable << 4, 0, 0, 0x1234)
    assert (c.code_breaks, c.n_watch, c.forget) == (4, 0, 1)
    assert debug.is_code_break(c, u64(0x1234)) == 1 and debug.is_code_break(c, u64(0x1235)) == 0


def test_io_breakpoints_need_de() -> None:
    for de, wanted in ((False, 0), (True, 2)):
        c = derived(4 | 2 << 20, 0, 0x61, de=de)
        assert (c.port_breaks, c.n_watch, c.code_breaks) == (wanted, 0, 0)


def test_what_is_not_enabled_is_not_there() -> None:
    c = derived(0xFFFF_0000, 1, 2, 3, 4, de=True)
    assert (c.n_watch, c.code_breaks, c.port_breaks) == (0, 0, 0)


def test_the_same_values_again_cost_nothing() -> None:
    c = derived(2 | 0xD << 16, 0x8000)
    c.tlb[0], c.forget = 0x5000, 0
    assert debug.update_debug(c) == 0
    assert (c.tlb[0], c.forget) == (0x5000, 0)
    c.dr[0] = 0x9000
    debug.update_debug(c)
    assert c.tlb[0] == ONES and c.watch_first[0] == 0x9000 and c.forget == 0, "data alone keeps the translations"


@pytest.mark.parametrize(
    ("lin", "size", "hit"), [(0x7FFC, 4, 0), (0x7FFD, 4, 1), (0x8003, 1, 1), (0x8004, 1, 0), (0x7F00, 0x400, 1)]
)
def test_overlap(lin: int, size: int, hit: int) -> None:
    with watching((W, 0x8000, 0x8003)) as c:
        status = watch.watch_access(c, u64(lin), ONES, u64(size), WATCH_WRITE)
        assert (status == WATCHED, c.status == WATCHED, c.n_hits) == (hit, hit, 0)
        c.armed = 1
        assert watch.watch_access(c, u64(lin), ONES, u64(size), WATCH_WRITE) == 0
        assert c.n_hits == hit and (not hit or c.hit_address[0] == max(lin, 0x8000))
        assert watch.watch_access(c, u64(lin), ONES, u64(size), WATCH_READ) == 0 and c.n_hits == hit


def test_physical_entries_look_at_physical_addresses() -> None:
    with watching((W | P, 0x8000, 0x8003)) as c:
        assert watch.watched_page(c, u64(0x8000), u64(0x9000), WATCH_WRITE) == 0
        assert watch.watched_page(c, u64(0x9000), u64(0x8FFF), WATCH_WRITE) == 1
        nobody = watch.watch_access(c, u64(0x8000), ONES, u64(4), WATCH_WRITE)
        assert nobody == 0, "the TLB had the page: nobody watches it"


def test_no_more_hits_than_there_is_room_for() -> None:
    with watching(*[(W, 0, 0xFFFF)] * 20) as c:
        c.armed = 1
        assert watch.watch_access(c, u64(0x10), ONES, u64(4), WATCH_WRITE) == 0
        assert c.n_hits == 8 and c.hit_entry.tolist() == list(range(4, 12))
