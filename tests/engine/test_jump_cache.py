"""The jump cache is empty behind a flush, whether its entries were written down or were too many."""

from __future__ import annotations

import random

import pytest

from jitvm.engine.blocks import jump_slot, remember_jump, translations_changed
from jitvm.engine.layout import N_JUMP_CACHE, N_JUMP_LOG
from jitvm.isa.words import ONES, u64
from tests.engine.assembler import assemble
from tests.engine.guest import Guest, same
from tests.engine.tables import DIRECTORY, TABLE, P, U, W, page_on

ONE, OTHER = 0x30000, 0x38000
TWICE = f"""
    mov ebp, 2
1:  mov ecx, {{n}}
    mov edi, {ONE}
2:  call edi
    add edi, 16
    dec ecx
    jnz 2b
    mov dword ptr [{TABLE + 4 * (ONE >> 12)}], {OTHER | P | W | U}
    mov dword ptr [{TABLE + 4 * (ONE >> 12) + 4}], {OTHER + 0x1000 | P | W | U}
    mov ebx, {DIRECTORY}
    mov cr3, ebx
    dec ebp
    jnz 1b
    hlt
"""
"""Calls n functions, and at the same addresses others."""


@pytest.mark.parametrize("n", [0, 1, N_JUMP_LOG - 1, N_JUMP_LOG, N_JUMP_LOG + 1, N_JUMP_CACHE])
@pytest.mark.parametrize("fresh", [True, False])
def test_a_flush_empties_it(n: int, fresh: bool) -> None:
    """Also that of a record that nobody has flushed yet, whose entries all look used."""
    c, r = Guest("handlers").c, random.Random(n)
    contexts = c.jump_cache.reshape(-1, 4)[:, 1]
    if fresh:
        c.jump_room, contexts[:] = 0, 0
    for rip in [r.randrange(1 << 40) for _ in range(n)]:
        remember_jump(c, jump_slot(u64(rip)), u64(rip), u64(rip & 7), u64(1), u64(2))
    assert (contexts != ONES).any() == (fresh or n > 0)
    translations_changed(c)
    assert (contexts == ONES).all()


@pytest.mark.parametrize("engine", ["handlers", "stencils", "pinned", "regions"])
@pytest.mark.parametrize("n", [10, N_JUMP_LOG // 2, N_JUMP_LOG * 3 // 2])
def test_the_same_addresses_after_a_flush(engine: str, n: int) -> None:
    ends = []
    for kind in ("plain", engine):
        guest = Guest(kind)
        guest.load(TWICE.format(n=n))
        for at, by in ((ONE, 1), (OTHER, 1 << 16)):
            for k in range(n):
                guest.bare.write(at + 16 * k, assemble(f"add eax, {by}\n ret", at + 16 * k, 32))
        page_on(guest)
        assert guest.go(100_000) == "hlt"
        assert guest.bare.registers()["eax"] == n * 0x1_0001
        ends.append(guest.state())
    same(ends[0], ends[1], engine)
