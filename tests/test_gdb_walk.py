"""The debugger's page walk, which leaves no trace, against the CPU's own: the same address, or nothing where the CPU finds
an entry that is not present.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from jitvm.bare import Bare
from jitvm.gdb_memory import LinearMemory
from jitvm.isa.paging import host_of
from jitvm.isa.paging_long import load_pdptes
from jitvm.isa.state import OK, PF_FAULT
from jitvm.isa.tlb import READ, flush_tlb_all
from jitvm.isa.words import u64

PG, PE, PSE, PAE, LME, LMA, NXE = 1 << 31, 1, 1 << 4, 1 << 5, 1 << 8, 1 << 10, 1 << 11
P, PS = 1, 0x80
ROOT, N_TABLES, PAGE = 0x1000, 8, 0x1000


def fill(m: Bare, rng: random.Random, wide: bool) -> None:
    """Tables whose entries lead to each other, to pages, or nowhere."""
    size = 8 if wide else 4
    for at in range(ROOT, ROOT + N_TABLES * PAGE, size):
        entry = ROOT + rng.randrange(N_TABLES) * PAGE | rng.choice([P, P, P | 6, P | PS, 0])
        if entry & PS:
            entry &= ~0x3F_F000
        m.memory.bytes[at : at + size] = np.frombuffer(entry.to_bytes(size, "little"), np.uint8)


@pytest.mark.parametrize("mode", ["32-bit", "32-bit, large", "PAE", "4 levels"])
def test_the_same_translation(mode: str) -> None:
    rng = random.Random(mode)
    m = Bare("plain", memory=1 << 17)
    m.vcpu.set_cpu("max")
    c, long = m.vcpu.c, mode == "4 levels"
    c.cr0, c.cr3, c.cr4 = PG | PE, ROOT, PSE if "large" in mode else 0 if mode == "32-bit" else PAE
    c.efer = LME | LMA | NXE if long else 0
    seen = LinearMemory(m.memory, c)
    found: list[bool] = []
    for n in range(600):
        if n % 50 == 0:
            fill(m, rng, bool(int(c.cr4) & PAE))
            if mode == "PAE":
                entries = [ROOT + rng.randrange(N_TABLES) * PAGE | rng.choice([P, P, 0]) for _ in range(4)]
                m.write(ROOT, b"".join(entry.to_bytes(8, "little") for entry in entries))
                with np.errstate(over="ignore"):
                    assert load_pdptes(c, c.cr3) == OK
                m.write(ROOT, bytes(32))
        lin = rng.getrandbits(32)
        if long:
            lin = (rng.getrandbits(47) - rng.choice([0, 1 << 47])) & (1 << 64) - 1
        before = m.ram.tobytes()
        mine = seen.walk(lin)
        assert m.ram.tobytes() == before
        c.status = OK
        with np.errstate(over="ignore"):
            flush_tlb_all(c)
            host_of(c, u64(lin), READ, u64(0))
        if c.status == OK:
            assert mine == int(c.gpa), hex(lin)
        else:
            assert c.vector == PF_FAULT
            if not int(c.error) & P:
                assert mine is None, hex(lin)
        found.append(mine is not None)
    assert 50 < sum(found) < 550, "both are met"
