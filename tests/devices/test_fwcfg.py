"""fw_cfg by ports and by DMA, the way SeaBIOS and Linux use it."""

from __future__ import annotations

import struct

import pytest

from jitvm.bus import Bus
from jitvm.devices import fwcfg
from jitvm.devices.fwcfg import FwCfg
from jitvm.memory import GuestMemory

ACCESS_AT = 0x1000


class Board:
    def __init__(self, n_cpus: int = 1, max_cpus: int = 1) -> None:
        self.memory = GuestMemory(1 << 20)
        self.memory.map(0, 1 << 20, 0)
        self.cfg = FwCfg(self.memory, ram_size=128 << 20, n_cpus=n_cpus, max_cpus=max_cpus)
        self.ports = Bus("io", 0x1_0000, direct=True)
        self.ports.map(0x510, 2, self.cfg.ports, name="fw_cfg", max_size=2)
        self.ports.map(0x514, 8, self.cfg.dma_ports, name="fw_cfg.dma", max_size=8)

    def item(self, key: int, n: int) -> bytes:
        self.ports.write(0x510, 2, key)
        return bytes(self.ports.read(0x511, 1) for _ in range(n))

    def dma(self, control: int, length: int = 0, address: int = 0) -> int:
        """Run one access as SeaBIOS does (only the low dword is written); the control word afterwards."""
        self.memory.write(ACCESS_AT, struct.pack(">IIQ", control, length, address))
        self.ports.write(0x518, 4, int.from_bytes(struct.pack(">I", ACCESS_AT), "little"))
        return int.from_bytes(self.memory.read(ACCESS_AT, 4), "big")

    def directory(self) -> dict[str, tuple[int, int]]:
        n = int.from_bytes(self.item(fwcfg.FILE_DIR, 4), "big")
        entries = [struct.unpack(">IHH56s", bytes(self.ports.read(0x511, 1) for _ in range(64))) for _ in range(n)]
        return {name.rstrip(b"\0").decode(): (size, key) for size, key, _, name in entries}


def test_signature_and_id() -> None:
    b = Board()
    assert b.item(fwcfg.SIGNATURE, 4) == b"QEMU"
    assert b.item(fwcfg.ID, 4) == b"\x03\0\0\0"


def test_selecting_again_starts_over_and_the_end_reads_zeros() -> None:
    b = Board()
    assert b.item(0, 2) == b"QE"
    assert b.item(0, 6) == b"QEMU\0\0"
    assert b.item(0x7777, 2) == b"\0\0"


def test_what_seabios_asks_for() -> None:
    b = Board(n_cpus=2, max_cpus=4)
    assert b.item(fwcfg.RAM_SIZE, 8) == struct.pack("<Q", 128 << 20)
    assert b.item(fwcfg.NB_CPUS, 2) == b"\x02\0" and b.item(fwcfg.MAX_CPUS, 2) == b"\x04\0"
    assert b.item(fwcfg.NOGRAPHIC, 2) == bytes(2) and b.item(fwcfg.BOOT_MENU, 2) == bytes(2)
    assert b.item(fwcfg.NUMA, 40) == bytes(40)


def test_directory_is_big_endian_and_sorted() -> None:
    b = Board()
    b.cfg.add_file("etc/e820", fwcfg.e820([(0, 1 << 20, fwcfg.E820_RAM)]))
    b.cfg.add_file("bootorder", b"/pci@i0cf8/*@1,1/drive@0/disk@0\0")
    assert b.directory() == {"bootorder": (32, 0x20), "etc/e820": (20, 0x21)}
    assert b.item(0x21, 20) == struct.pack("<QQI", 0, 1 << 20, 1)
    assert b.cfg.files() == {"bootorder": 0x20, "etc/e820": 0x21}


def test_a_file_is_replaced_by_name() -> None:
    b = Board()
    b.cfg.add_file("opt/x", b"old")
    b.cfg.add_file("opt/x", b"newer")
    assert b.directory() == {"opt/x": (5, 0x20)} and b.item(0x20, 5) == b"newer"


@pytest.mark.parametrize("name", ["", "x" * 56])
def test_file_names_fit_the_directory(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 55"):
        Board().cfg.add_file(name, b"")


def test_dma_register_reads_its_signature() -> None:
    b = Board()
    assert b.ports.read(0x514, 4).to_bytes(4, "little") + b.ports.read(0x518, 4).to_bytes(4, "little") == b"QEMU CFG"


def test_dma_selects_and_reads() -> None:
    b = Board()
    assert b.dma(fwcfg.ID << 16 | fwcfg.DMA_SELECT | fwcfg.DMA_READ, 6, 0x2000) == 0
    assert b.memory.read(0x2000, 6) == b"\x03\0\0\0\0\0"


def test_dma_goes_on_where_it_was() -> None:
    b = Board()
    b.cfg.add_file("f", bytes(range(100)))
    b.dma(0x20 << 16 | fwcfg.DMA_SELECT | fwcfg.DMA_SKIP, 10)
    b.dma(fwcfg.DMA_READ, 4, 0x2000)
    assert b.memory.read(0x2000, 4) == bytes([10, 11, 12, 13])
    assert b.ports.read(0x511, 1) == 14


def test_dma_address_of_64_bits() -> None:
    b = Board()
    b.memory.write(ACCESS_AT, struct.pack(">IIQ", fwcfg.DMA_SELECT | fwcfg.DMA_READ, 4, 0x2000))
    b.ports.write(0x514, 8, int.from_bytes(struct.pack(">Q", ACCESS_AT), "little"))
    assert b.memory.read(0x2000, 4) == b"QEMU"
    b.ports.write(0x514, 4, int.from_bytes(struct.pack(">I", 1), "little"))
    b.memory.write(0x2000, bytes(4))
    assert b.dma(fwcfg.DMA_SELECT | fwcfg.DMA_READ, 4, 0x2000) != 0, "the access lies above 4 GiB, where nothing is"
    assert b.memory.read(0x2000, 4) == bytes(4)


def test_dma_write_needs_a_writable_file() -> None:
    b = Board()
    got: list[bytes] = []
    b.cfg.add_file("ro", bytes(4))
    b.cfg.add_file("rw", bytes(4), got.append)
    b.memory.write(0x2000, b"abcd")
    write = fwcfg.DMA_SELECT | fwcfg.DMA_WRITE
    assert b.dma(0x20 << 16 | write, 4, 0x2000) == fwcfg.DMA_ERROR
    assert b.dma(0x21 << 16 | write, 5, 0x2000) == fwcfg.DMA_ERROR
    assert b.dma(0x21 << 16 | write, 4, 0x2000) == 0 and got == [b"abcd"]
    assert b.item(0x21, 4) == b"abcd" and b.item(0x20, 4) == bytes(4)


def test_an_absurd_length_ends() -> None:
    b = Board()
    assert b.dma(fwcfg.DMA_SELECT | fwcfg.DMA_READ, 0xFFFF_FFFF, 0xFFFF_0000) == 0
    assert b.dma(fwcfg.DMA_SELECT | fwcfg.DMA_READ, 16, 0xFFFF_FFFF_FFFF_FFF0) == 0


def test_string_input_takes_a_block() -> None:
    b = Board()
    b.ports.write(0x510, 2, 0)
    assert b.cfg.ports.read_block(1, 1, 6) == b"QEMU\0\0"


def test_restore_keeps_the_place() -> None:
    b = Board()
    b.cfg.add_file("rw", b"1234", lambda _data: None)
    b.item(0x20, 2)
    state = b.cfg.snapshot()
    b.cfg.reset()
    b.cfg.restore(state)
    assert b.ports.read(0x511, 1) == ord("3")
