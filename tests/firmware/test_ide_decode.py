"""The embedded firmware says that the IDE channels decode their ports: Linux' ata_piix leaves out one that does not."""

from __future__ import annotations

from jitvm.machine import Machine
from tests.boot.guests import BIOS, config

IDETIM, DECODE = 0x40, 0x8000


def test_both_channels_decode() -> None:
    """82371SB datasheet (290550), IDETIM bit 15."""
    with Machine(config(BIOS)) as machine:
        assert machine.run().reason == "poweroff"
        assert [machine.board.ide.register(IDETIM + k, 2) for k in (0, 2)] == [DECODE, DECODE]
