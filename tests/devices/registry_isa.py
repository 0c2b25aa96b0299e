"""The chips of the ISA bus, for the conformance suite."""

from __future__ import annotations

import random
from datetime import datetime
from typing import Any

from jitvm.backends.blockdev import MemoryDisk
from jitvm.backends.chardev import MemoryBackend
from jitvm.devices.base import Registers
from jitvm.devices.debugcon import DebugCon
from jitvm.devices.dma8237 import DmaPair
from jitvm.devices.floppy import FloppyController
from jitvm.devices.floppy_media import FloppyDrive
from jitvm.devices.i8042 import I8042
from jitvm.devices.isa_debug_exit import IsaDebugExit
from jitvm.devices.numeric_error import NumericError
from jitvm.devices.pflash import Pflash
from jitvm.devices.pic8259 import PicPair
from jitvm.devices.pit8254 import Pit8254
from jitvm.devices.ps2keyboard import KEYS, Ps2Keyboard
from jitvm.devices.rtc146818 import Rtc146818
from jitvm.devices.sysctl import SystemControl
from jitvm.devices.uart16550 import Uart16550
from tests.devices.conformance import Entry, Range, Rig


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


def _i8042(rig: Rig) -> I8042:
    keyboard = _SelfTyping(rig.clock, rig.trace)
    return I8042(rig.clock, keyboard, rig.line(), rig.line(), lambda _on: None, lambda _cause: None, rig.trace)


class _SelfTyping(Ps2Keyboard):
    """A keyboard without memory: it sends what the controller's clock says, so that it needs no snapshot."""

    def has_byte(self) -> bool:
        return True

    def take(self) -> int | None:
        return (0x1C, 0xF0, 0xE0, 0xAA)[self._clock.now_ns % 4]


def _stir_keyboard(keyboard: Any, rng: random.Random) -> None:
    name = rng.choice(sorted(KEYS))
    rng.choice((keyboard.press, keyboard.release))(name)
    if rng.random() < 0.1:
        keyboard.type_text("Hello\n")
    if rng.random() < 0.5:
        keyboard.take()
    if rng.random() < 0.3:
        keyboard.write(rng.randrange(256))


class _NoTimer:
    """A timer for port 61h that has no state."""

    def set_gate(self, channel: int, level: bool) -> None:
        """Nothing is gated."""

    def output(self, channel: int) -> bool:
        return True


def _sysctl(rig: Rig) -> SystemControl:
    return SystemControl(rig.clock, _NoTimer(), lambda _on: None, lambda _cause: None, rig.trace)


def _stir_dma(dma: Any, rng: random.Random) -> None:
    channel = rng.choice((0, 1, 2, 3, 5, 6, 7))
    dma.set_request(channel, rng.random() < 0.5)
    dma.write_channel(channel, rng.randbytes(rng.randrange(600)))
    dma.read_channel(channel, rng.randrange(600))


def _floppy(rig: Rig) -> FloppyController:
    drive = FloppyDrive(MemoryDisk(bytes(1440 << 10)))
    return FloppyController(rig.clock, rig.line(), DmaPair(rig.memory, rig.trace), (None, drive), rig.trace)


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
        Entry("i8042", _i8042, lambda d: [Range("data", d.data_port, 1), Range("command", d.command_port, 1)]),
        Entry(
            "ps2keyboard",
            lambda rig: Ps2Keyboard(rig.clock, rig.trace),
            lambda d: [Range("cable", Registers(lambda _o, _s: d.take() or 0, lambda _o, _s, v: d.write(v)), 1)],
            stir=_stir_keyboard,
        ),
        Entry(
            "sysctl",
            _sysctl,
            lambda d: [Range("port61", d.port61, 1), Range("port92", d.port92, 1), Range("port80", d.port80, 1)],
        ),
        Entry(
            "numeric-error",
            lambda rig: NumericError(rig.line(), lambda: None),
            lambda d: [Range("F0h", d, 2)],
            stir=lambda d, rng: d.report(),
        ),
        Entry(
            "dma",
            lambda rig: DmaPair(rig.memory, rig.trace),
            lambda d: [Range("low", d.low, 16), Range("high", d.high, 32), Range("pages", d.pages, 15)],
            stir=_stir_dma,
        ),
        Entry(
            "pflash",
            lambda rig: Pflash("pflash0", MemoryDisk(bytes(1 << 16)), lambda *_: None, lambda _seen: None, rig.trace),
            lambda d: [Range("flash", d, 1 << 16)],
        ),
        Entry(
            "floppy",
            _floppy,
            lambda d: [Range("ports", d.ports, 6), Range("dir", d.dir_ccr, 1)],
            kept=frozenset(("cylinders",)),
        ),
    ]
