"""The chips of the ISA bus, for the conformance suite."""

from __future__ import annotations

import random
from datetime import datetime
from typing import Any

from jitvm.backends.chardev import MemoryBackend
from jitvm.devices.debugcon import DebugCon
from jitvm.devices.isa_debug_exit import IsaDebugExit
from jitvm.devices.pic8259 import PicPair
from jitvm.devices.pit8254 import Pit8254
from jitvm.devices.rtc146818 import Rtc146818
from jitvm.devices.uart16550 import Uart16550
from tests.devices.conformance import Entry, Range


def _stir_pic(pic: Any, rng: random.Random) -> None:
    line = pic.line(rng.choice((0, 1, 3, 4, 9, 11, 15)))
    line.pulse() if rng.random() < 0.8 else line.set(False)
    if rng.random() < 0.5:
        pic.acknowledge()


def _stir_pit(pit: Any, rng: random.Random) -> None:
    pit.set_gate(2, rng.random() < 0.5)
    pit.output(rng.randrange(3))


def _stir_uart(uart: Any, rng: random.Random) -> None:
    uart.receive(rng.randbytes(rng.randrange(20)))


def devices() -> list[Entry]:
    """All entries of this module."""
    return [
        Entry(
            "pic",
            lambda rig: PicPair(rig.line(), rig.trace),
            lambda d: [Range("master", d.master, 2), Range("slave", d.slave, 2), Range("elcr", d.elcr, 2)],
            stir=_stir_pic,
        ),
        Entry(
            "pit",
            lambda rig: Pit8254(rig.clock, rig.line(), rig.trace),
            lambda d: [Range("pit", d, 4)],
            stir=_stir_pit,
        ),
        Entry(
            "rtc",
            lambda rig: Rtc146818(rig.clock, rig.line(), datetime(2024, 2, 29, 23, 59, 58), {0x15: 0x80}, rig.trace),
            lambda d: [Range("rtc", d, 2)],
            kept=frozenset(("cmos", "anchor_ns", "anchor_s", "weekday", "seen_s", "seen_period")),
        ),
        Entry(
            "uart",
            lambda rig: Uart16550("com1", rig.line(), rig.clock, MemoryBackend(), rig.trace),
            lambda d: [Range("uart", d, 8)],
            stir=_stir_uart,
        ),
        Entry("debugcon", lambda rig: DebugCon(MemoryBackend()), lambda d: [Range("debugcon", d, 1)]),
        Entry("isa-debug-exit", lambda rig: IsaDebugExit(lambda _s: None), lambda d: [Range("exit", d, 4, 4)]),
    ]
