"""The 8259A pair, driven as firmware and operating systems do."""

from __future__ import annotations

from jitvm.devices.pic8259 import PicPair
from tests.devices.conformance import Rig


def make(rig: Rig | None = None) -> tuple[PicPair, Rig]:
    rig = rig or Rig()
    return PicPair(rig.line("intr"), rig.trace), rig


def init(pic: PicPair, master: int = 0x08, slave: int = 0x70, icw4: int = 0x01) -> None:
    for chip, base, icw3 in ((pic.master, master, 4), (pic.slave, slave, 2)):
        chip.write(0, 1, 0x11)
        chip.write(1, 1, base)
        chip.write(1, 1, icw3)
        chip.write(1, 1, icw4)


def intr(rig: Rig) -> bool:
    return bool(rig.edges) and rig.edges[-1][1]


def ready(icw4: int = 0x01) -> tuple[PicPair, Rig]:
    pic, rig = make()
    init(pic, icw4=icw4)
    return pic, rig


def test_edge_request_is_delivered_once() -> None:
    pic, rig = ready()
    pic.line(0).set(True)
    assert intr(rig)
    assert pic.acknowledge() == 0x08
    assert not intr(rig)
    pic.master.write(0, 1, 0x20)
    assert not intr(rig), "the line is still high: no new edge"
    pic.line(0).pulse()
    assert intr(rig)


def test_slave_vector_and_two_eois() -> None:
    pic, rig = ready()
    pic.line(14).set(True)
    assert pic.acknowledge() == 0x76
    pic.slave.write(0, 1, 0x0B)
    pic.master.write(0, 1, 0x0B)
    assert pic.slave.read(0, 1) == 0x40
    assert pic.master.read(0, 1) == 0x04
    pic.line(9).set(True)
    assert not intr(rig), "the master's IR2 is in service"
    pic.slave.write(0, 1, 0x20)
    pic.master.write(0, 1, 0x20)
    assert intr(rig)
    assert pic.acknowledge() == 0x71


def test_fully_nested_priority() -> None:
    pic, rig = ready()
    pic.line(4).set(True)
    assert pic.acknowledge() == 0x0C
    pic.line(6).set(True)
    assert not intr(rig)
    pic.line(1).set(True)
    assert pic.acknowledge() == 0x09
    pic.master.write(0, 1, 0x20)  # ends 1
    assert not intr(rig), "4 is still in service"
    pic.master.write(0, 1, 0x64)  # specific EOI of 4
    assert pic.acknowledge() == 0x0E


def test_mask_hides_and_keeps_the_request() -> None:
    pic, rig = ready()
    pic.master.write(1, 1, 0xFF)
    pic.line(3).pulse()
    assert not intr(rig)
    pic.master.write(0, 1, 0x0A)
    assert pic.master.read(0, 1) == 0x08
    assert pic.master.read(1, 1) == 0xFF
    pic.master.write(1, 1, 0xF7)
    assert pic.acknowledge() == 0x0B


def test_level_triggered_follows_the_line() -> None:
    pic, rig = ready()
    pic.elcr.write(0, 1, 0xFF)
    pic.elcr.write(1, 1, 0xFF)
    assert (pic.elcr.read(0, 1), pic.elcr.read(1, 1)) == (0xF8, 0xDE)
    pic.line(11).set(True)
    assert pic.acknowledge() == 0x73
    pic.slave.write(0, 1, 0x20)
    pic.master.write(0, 1, 0x20)
    assert intr(rig), "still high: asks again"
    pic.line(11).set(False)
    pic.slave.write(0, 1, 0x0A)
    assert pic.slave.read(0, 1) == 0


def test_spurious_vectors() -> None:
    pic, _ = ready()
    assert pic.acknowledge() == 0x0F
    pic.master.write(0, 1, 0x0B)
    assert pic.master.read(0, 1) == 0, "no ISR bit for a default IR7"
    pic.line(10).pulse()
    pic.slave.write(1, 1, 0xFF)  # gone before the INTA
    assert pic.acknowledge() == 0x77
    assert pic.master.read(0, 1) == 0x04, "the master saw a real request"
    pic.slave.write(0, 1, 0x0B)
    assert pic.slave.read(0, 1) == 0


def test_auto_eoi_with_rotation() -> None:
    pic, _ = ready(icw4=0x03)
    pic.master.write(0, 1, 0x80)
    pic.line(3).pulse()
    assert pic.acknowledge() == 0x0B
    pic.line(3).pulse()
    pic.line(6).pulse()
    assert pic.acknowledge() == 0x0E, "3 is the lowest now"
    pic.master.write(0, 1, 0x0B)
    assert pic.master.read(0, 1) == 0


def test_auto_eoi_slave_requests_again() -> None:
    pic, rig = ready(icw4=0x03)
    pic.line(9).pulse()
    pic.line(10).pulse()
    assert pic.acknowledge() == 0x71
    assert intr(rig)
    assert pic.acknowledge() == 0x72
    assert not intr(rig)


def test_rotating_eoi_and_set_priority() -> None:
    pic, _ = ready()
    pic.line(0).pulse()
    assert pic.acknowledge() == 0x08
    pic.master.write(0, 1, 0xA0)  # rotate on non-specific EOI
    pic.line(0).pulse()
    pic.line(7).pulse()
    assert pic.acknowledge() == 0x0F
    pic.master.write(0, 1, 0x20)
    pic.master.write(0, 1, 0xC7)  # 7 lowest: 0 on top
    assert pic.acknowledge() == 0x08
    pic.master.write(0, 1, 0xE0)  # rotate on specific EOI
    pic.line(0).pulse()
    pic.line(1).pulse()
    assert pic.acknowledge() == 0x09


def test_special_mask_mode_lets_lower_levels_in() -> None:
    pic, rig = ready()
    pic.line(3).pulse()
    assert pic.acknowledge() == 0x0B
    pic.line(5).pulse()
    assert not intr(rig)
    pic.master.write(1, 1, 0x08)
    pic.master.write(0, 1, 0x68)
    assert intr(rig)
    assert pic.acknowledge() == 0x0D
    pic.master.write(0, 1, 0x20)  # ends 5, not the masked 3
    pic.master.write(0, 1, 0x0B)
    assert pic.master.read(0, 1) == 0x08
    pic.master.write(0, 1, 0x48)
    pic.master.write(0, 1, 0x20)
    assert pic.master.read(0, 1) == 0


def test_special_fully_nested_slave() -> None:
    pic, rig = ready(icw4=0x11)
    pic.line(12).pulse()
    assert pic.acknowledge() == 0x74
    pic.line(8).pulse()
    assert intr(rig), "a higher request of the same slave gets through"
    assert pic.acknowledge() == 0x70
    pic.line(5).pulse()
    assert not intr(rig)


def test_poll_mode() -> None:
    pic, rig = ready()
    pic.line(5).pulse()
    pic.master.write(0, 1, 0x0C)
    assert pic.master.read(0, 1) == 0x85
    assert not intr(rig)
    pic.master.write(0, 1, 0x0B)
    assert pic.master.read(0, 1) == 0x20
    pic.master.write(0, 1, 0x0C)
    assert pic.master.read(0, 1) == 0, "nothing else waits"
    assert pic.master.read(0, 1) == 0x20, "one poll, then the ISR again"


def test_icw1_clears_and_the_interrupt_mask_is_readable_after() -> None:
    """Linux's probe_8259A: write a mask, read it back."""
    pic, rig = ready()
    pic.line(1).set(True)
    pic.master.write(1, 1, 0xFB)
    assert pic.master.read(1, 1) == 0xFB
    init(pic, 0x20, 0x28)
    assert pic.master.read(1, 1) == 0
    assert not intr(rig), "the edge latch is cleared while the line is high"
    pic.line(1).set(False)
    pic.line(1).set(True)
    assert pic.acknowledge() == 0x21


def test_what_is_not_modelled_is_traced() -> None:
    pic, rig = make()
    pic.master.write(0, 1, 0x12)
    assert len(rig.traced("unmodelled")) == 2
    pic.master.write(1, 1, 0x40)
    pic.master.write(1, 1, 0x08)
    assert len(rig.traced("unmodelled")) == 3
    pic.master.write(1, 1, 0x55)
    assert pic.master.read(1, 1) == 0x55, "no ICW4 was announced"


def test_snapshot_keeps_a_request_over_restore() -> None:
    pic, _ = ready()
    pic.line(12).set(True)
    state = pic.snapshot()
    other, rig = make()
    other.restore(state)
    assert intr(rig)
    assert other.acknowledge() == 0x74
