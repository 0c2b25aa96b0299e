"""`handle_exit` on invented exits: a pure function of the run and the buses, no engine."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jitvm.bus import Bus
from jitvm.exits import Buses, ExitReason, Outcome, Run, handle_exit, reason_name

IO, MMIO = int(ExitReason.IO), int(ExitReason.MMIO)


class Recorder:
    """Answers with the number of accesses so far, in every byte."""

    def __init__(self) -> None:
        self.log: list[tuple[object, ...]] = []

    def read(self, offset: int, size: int) -> int:
        self.log.append(("read", offset, size))
        return int.from_bytes(bytes([len(self.log)]) * size, "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.log.append(("write", offset, size, value))


class Blocks(Recorder):
    """Takes and gives whole blocks."""

    def read_block(self, offset: int, size: int, count: int) -> bytes:
        self.log.append(("read_block", offset, size, count))
        return bytes(range(size * count))

    def write_block(self, offset: int, size: int, data: bytes) -> None:
        self.log.append(("write_block", offset, size, data))


@pytest.fixture
def card() -> Recorder:
    return Recorder()


@pytest.fixture
def blocks() -> Blocks:
    return Blocks()


@pytest.fixture
def buses(card: Recorder, blocks: Blocks) -> Buses:
    ports, mmio = Bus("port", 1 << 16, direct=True), Bus("mmio", 1 << 32)
    ports.map(0x60, 4, card, name="card", max_size=4)
    ports.map(0x1F0, 8, blocks, name="blocks", max_size=2)
    mmio.map(0xFEC0_0000, 0x1000, card, name="window", max_size=8)
    return Buses(ports, mmio)


def test_a_port_read_puts_the_answer_into_the_run(buses: Buses, card: Recorder) -> None:
    run = Run(IO, 0x61, 2, 0, 1, 0xDEAD)
    assert handle_exit(run, buses) is Outcome.HANDLED
    assert run.data == 0x0101 and card.log == [("read", 1, 2)]


def test_a_port_write_reaches_the_device(buses: Buses, card: Recorder) -> None:
    run = Run(IO, 0x60, 4, 1, 1, 0x1234_5678)
    assert handle_exit(run, buses) is Outcome.HANDLED
    assert card.log == [("write", 0, 4, 0x1234_5678)] and run.data == 0x1234_5678


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_mmio_goes_to_the_other_bus(buses: Buses, card: Recorder, size: int) -> None:
    read, write = Run(MMIO, 0xFEC0_0010, size), Run(MMIO, 0xFEC0_0018, size, 1, 1, (1 << 8 * size) - 2)
    assert handle_exit(read, buses) is handle_exit(write, buses) is Outcome.HANDLED
    assert card.log == [("read", 0x10, size), ("write", 0x18, size, (1 << 8 * size) - 2)]


def test_a_port_is_no_physical_address(buses: Buses, card: Recorder) -> None:
    run = Run(MMIO, 0x60, 1)
    assert handle_exit(run, buses) is Outcome.HANDLED
    assert run.data == 0xFF and card.log == []


def test_a_string_goes_element_by_element(buses: Buses, card: Recorder) -> None:
    out = Run(IO, 0x60, 2, 1, 3, block=bytes.fromhex("0102 0304 0506"))
    back = Run(IO, 0x62, 2, 0, 2)
    assert handle_exit(out, buses) is handle_exit(back, buses) is Outcome.HANDLED
    assert card.log[:3] == [("write", 0, 2, 0x0201), ("write", 0, 2, 0x0403), ("write", 0, 2, 0x0605)]
    assert back.block == b"\4\4\5\5"


def test_a_device_that_takes_blocks_gets_them(buses: Buses, blocks: Blocks) -> None:
    out, back = Run(IO, 0x1F0, 2, 1, 2, block=b"abcd"), Run(IO, 0x1F0, 2, 0, 3)
    handle_exit(out, buses)
    handle_exit(back, buses)
    assert blocks.log == [("write_block", 0, 2, b"abcd"), ("read_block", 0, 2, 3)]
    assert back.block == bytes(range(6))


def test_a_string_too_wide_for_its_device_is_split(buses: Buses, blocks: Blocks) -> None:
    handle_exit(Run(IO, 0x1F0, 4, 1, 2, block=bytes(range(8))), buses)
    assert blocks.log == [
        ("write", 0, 2, 0x0100), ("write", 2, 2, 0x0302), ("write", 0, 2, 0x0504), ("write", 2, 2, 0x0706),
    ]  # fmt: skip


def test_a_string_from_nothing_reads_ones(buses: Buses) -> None:
    run = Run(IO, 0x300, 2, 0, 3)
    assert handle_exit(run, buses) is Outcome.HANDLED
    assert run.block == b"\xff" * 6


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        (ExitReason.HLT, Outcome.HLT),
        (ExitReason.IRQ_WINDOW_OPEN, Outcome.HANDLED),
        (ExitReason.INTR, Outcome.INTERRUPT),
        (ExitReason.DEBUG, Outcome.DEBUG),
        (ExitReason.SHUTDOWN, Outcome.SHUTDOWN),
        (ExitReason.INTERNAL_ERROR, Outcome.ERROR),
        (ExitReason.UNKNOWN, Outcome.ERROR),
        (3, Outcome.ERROR),
        (9, Outcome.ERROR),
        (1 << 63, Outcome.ERROR),
        (-1, Outcome.ERROR),
    ],
)
def test_what_each_other_reason_means_for_the_loop(buses: Buses, card: Recorder, reason: int, outcome: Outcome) -> None:
    assert handle_exit(Run(reason), buses) is outcome
    assert card.log == []


def test_the_same_run_gives_the_same_answer_again(buses: Buses) -> None:
    """Nothing is kept between two calls but in the devices."""
    writes = [Run(IO, 0x60, 1, 1, 1, 7) for _ in range(2)]
    assert [handle_exit(run, buses) for run in writes] == [Outcome.HANDLED] * 2
    assert repr(writes[0]) == repr(writes[1])


def test_numbers_are_those_of_kvm() -> None:
    known = {"UNKNOWN": 0, "IO": 2, "DEBUG": 4, "HLT": 5, "MMIO": 6, "IRQ_WINDOW_OPEN": 7, "SHUTDOWN": 8, "INTR": 10}
    ours = {"FERR": 256}
    assert {r.name: int(r) for r in ExitReason} == known | {"INTERNAL_ERROR": 17} | ours


def test_a_run_in_words() -> None:
    assert repr(Run(IO, 0x3F8, 1, 1, 1, 0x41)) == "Run(IO write 0x3f8 size 1 count 1: 0x41)"
    assert repr(Run(IO, 0x1F0, 2, 0, 2, block=b"abcd")) == "Run(IO read 0x1f0 size 2 count 2: 61626364)"
    assert repr(Run(ExitReason.SHUTDOWN)) == "Run(SHUTDOWN)"
    assert reason_name(6) == "MMIO" and reason_name(1234) == "reason 1234"


def test_exits_need_no_engine() -> None:
    heavy = "('jitvm.engine', 'jitvm.isa', 'numpy')"
    program = f"import sys, jitvm.exits; sys.exit(any(m.startswith({heavy}) for m in sys.modules))"
    subprocess.run([sys.executable, "-c", program], check=True)
