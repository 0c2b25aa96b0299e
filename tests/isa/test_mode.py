"""Derived state: mode bits, block contexts, plain limits, the EFLAGS image."""

from __future__ import annotations

import random

import numpy as np
import pytest

from jitvm.isa import mode
from jitvm.isa.state import (
    ATTR_DB,
    MODE_CODE32,
    MODE_FLAT,
    MODE_PE,
    MODE_STACK32,
    MODE_TF,
    MODE_USER,
    MODE_VM,
    TLB_ENTRIES,
    TLB_KINDS,
)
from tests.isa.plain_cpu import CS, DS, SS, enter_level, enter_v86, flags, make_cpu, protect, run


def test_real_mode_has_no_mode_bits_and_plain_limits() -> None:
    c, _ = make_cpu()
    assert c.mode == 0
    assert c.ctx == 1 << 16
    assert c.read_limit[:6].tolist() == c.write_limit[:6].tolist() == [0xFFFF] * 6


def test_flat_protected_mode() -> None:
    c, memory = make_cpu()
    protect(c, memory)
    assert c.mode == MODE_PE | MODE_CODE32 | MODE_STACK32 | MODE_FLAT
    assert c.ctx == c.mode
    assert c.tlb_off == 0
    assert c.write_limit[CS] == -1
    assert c.read_limit[CS] == 0xFFFFFFFF
    enter_level(c, 3)
    assert c.mode & MODE_USER
    assert c.tlb_off == TLB_KINDS * TLB_ENTRIES * 16


def test_flat_segments_in_real_mode_are_not_flat() -> None:
    c, memory = make_cpu()
    protect(c, memory)
    c.cr0 = 0x10
    mode.update_mode(c)
    assert not c.mode & MODE_FLAT
    assert c.mode & MODE_CODE32
    assert c.write_limit[CS] == 0xFFFFFFFF


@pytest.mark.parametrize(
    ("attr", "read", "write"),
    [
        (0x93, 0x1234, 0x1234),
        (0x91, 0x1234, -1),
        (0x97, -1, -1),
        (0x9B, 0x1234, -1),
        (0x99, -1, -1),
        (0x9F, 0x1234, -1),
        (0x13, -1, -1),
        (0x00, -1, -1),
        (0x82, -1, -1),
    ],
)
def test_plain_limits_by_type(attr: int, read: int, write: int) -> None:
    c, memory = make_cpu()
    protect(c, memory)
    c.attr[DS], c.limit[DS] = attr, 0x1234
    run(mode.update_mode, c, memory)
    assert (c.read_limit[DS], c.write_limit[DS]) == (read, write)
    assert not c.mode & MODE_FLAT


@pytest.mark.parametrize("seg", [0, SS, DS])
def test_one_segment_with_a_base_is_not_flat(seg: int) -> None:
    c, memory = make_cpu()
    protect(c, memory)
    c.base[seg] = 16
    run(mode.update_mode, c, memory)
    assert not c.mode & MODE_FLAT


def test_v86_and_flags_bits() -> None:
    c, memory = make_cpu()
    protect(c, memory)
    enter_v86(c)
    c.rflags = int(c.rflags) | 0x100
    mode.update_mode(c)
    assert c.mode == MODE_PE | MODE_VM | MODE_USER | MODE_TF
    assert int(c.ctx) >> 32 == 0x5000


def test_limit_codes_are_never_shared() -> None:
    c, memory = make_cpu()
    protect(c, memory)
    c.attr[CS] = int(c.attr[CS]) & ~int(ATTR_DB)
    rng, meaning = random.Random(1), {0: 0xFFFFFFFF, 1: 0xFFFF}
    limits = [rng.randrange(1 << 20) for _ in range(100)] + [0xFFFF, 0xFFFFFFFF]
    for _ in range(400):
        limit = rng.choice(limits)
        code = int(mode.limit_code(c, np.uint64(limit)))
        assert meaning.setdefault(code, limit) == limit
        assert int(mode.limit_code(c, np.uint64(limit))) == code


def test_limit_codes_start_over_when_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    c, _ = make_cpu()
    calls = []
    monkeypatch.setattr(mode, "translations_changed", lambda _: calls.append(1))
    c.n_limit_codes = 0xFFFD
    assert mode.limit_code(c, np.uint64(0x1000)) == 0xFFFF
    assert not calls
    assert mode.limit_code(c, np.uint64(0x2000)) == 2
    assert calls == [1]
    assert mode.limit_code(c, np.uint64(0x2000)) == 2


def test_eflags_round_trip() -> None:
    c, _ = make_cpu()
    rng = random.Random(2)
    for _ in range(200):
        v = rng.getrandbits(32)
        mode.write_eflags(c, np.uint64(v))
        assert flags(c) == v & 0x3F7FD5 | 2
        assert not int(c.rflags) & 0x8D5
