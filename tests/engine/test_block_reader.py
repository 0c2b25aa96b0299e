"""What is read of translated blocks when a region is grown from them."""

from __future__ import annotations

import pytest

from jitvm.engine import regions
from jitvm.engine.accel import Options, VcpuEngine
from jitvm.engine.block_reader import BlockReader
from jitvm.engine.grow import Grown, grow
from tests.engine.guest import CODE, Guest

LOOP = "l: add ebx, 0x12345678\n inc eax\n dec ecx\n jnz l\n hlt"
PAGE_END = 0x2000


@pytest.mark.parametrize("word", [0, 0x10, (1 << 64) - 8])
def test_a_link_slot_that_holds_no_link_leads_nowhere(word: int) -> None:
    vcpu = Guest("handlers").bare.vcpu
    reader = BlockReader(vcpu)
    reader.uop[0] = int(vcpu.c.uop_arena)
    vcpu.uops[0] = vcpu.uops[1] = word
    assert reader.led_to(0, 0, 0) == reader.led_to(0, 0, 1) == -1 and reader.noted(0, 0) == []


def hot(at: int) -> Guest:
    """A guest that is about to run LOOP at an address, whose blocks soon ask for regions.

    Before, it ran over zeros, so that these are no unknown instructions: there is code for all that is not there.
    """
    guest = Guest("handlers", options=Options(hot=1, region_hot=2, drops=4, sync=True))
    guest.registers(eip=0, eax=0x8000)
    guest.bare.vcpu.run(40)
    guest.load(LOOP, at)
    guest.registers(eax=0, ecx=10_000)
    return guest


def asking(monkeypatch: pytest.MonkeyPatch) -> dict[int, bool]:
    """By the EIP of blocks that ask for a region from now on: whether they got one."""
    found: dict[int, bool] = {}

    def noting(engine: VcpuEngine) -> Grown | None:
        grown = grow(engine)
        found[int(engine.c.block_rip[int(engine.c.hot_block)])] = grown is not None
        return grown

    monkeypatch.setattr(regions, "grow", noting)
    return found


def test_a_hot_block_at_a_breakpoint_gets_no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """A debugger that goes on from it again and again runs it often.  It is no block that a region may go through, and was
    described as block -1, whose link slots are at address 0: a segmentation fault."""
    guest, found = hot(CODE), asking(monkeypatch)
    vcpu = guest.bare.vcpu
    vcpu.set_breakpoints([CODE])
    for n in range(50):
        vcpu.c.resume_at, vcpu.c.resume_lin = vcpu.retired(), CODE
        vcpu.run(1000)
        assert (int(guest.c.rip), int(guest.c.gpr[0])) == (CODE, n + 1)
    assert found == {CODE: False}


def test_a_hot_block_on_two_pages_gets_no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same: what runs over its page's end is in no region."""
    guest, found = hot(PAGE_END - 3), asking(monkeypatch)
    guest.bare.vcpu.run(4 * 50)
    assert int(guest.c.gpr[0]) == 50 and found[PAGE_END - 3] is False
