"""Symbols of the guest's ELF file: names for addresses, and files that are none."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitvm.config import MachineConfig
from jitvm.elf_shift import shifted
from jitvm.errors import ImageError
from jitvm.symbols import FIRMWARE_BASE, Symbols, file_for_gdb, load, program
from tests.boot.guests import BIOS, IMAGES

ELF = BIOS.with_suffix(".elf")
SIEVE = IMAGES / "bench" / "sieve.elf"


def test_names_for_addresses() -> None:
    symbols = Symbols(ELF, FIRMWARE_BASE)
    boot = symbols.address("boot")
    assert boot is not None and FIRMWARE_BASE < boot < FIRMWARE_BASE + 0x10000
    assert symbols.at(boot) == "boot" and symbols.at(boot + 5) == "boot+0x5"
    assert symbols.at(0) == symbols.at(0xFFFF_FFFF) == "" and symbols.address("nobody") is None
    assert Symbols(ELF).address("boot") == boot - FIRMWARE_BASE


def test_behind_a_function_that_has_a_size_is_not_in_it() -> None:
    symbols = Symbols(ELF)
    start = symbols.address("reset_channel")
    assert start is not None
    assert symbols.at(start + 64) == "reset_channel+0x40" and not symbols.at(start + 65).startswith("reset_channel")


def test_whose_symbols_are_known(tmp_path: Path) -> None:
    copy = tmp_path / "copy.bin"
    copy.write_bytes(BIOS.read_bytes())
    assert program(MachineConfig()) == program(MachineConfig(bios=BIOS)) == (ELF, FIRMWARE_BASE)
    assert program(MachineConfig(bios=copy)) is None and load(MachineConfig(bios=copy)) is None
    named = MachineConfig(bios=copy, symbols=SIEVE, symbols_offset=0x1000)
    found = load(named)
    assert program(named) == (SIEVE, 0x1000) and found is not None
    main = Symbols(SIEVE).address("main")
    assert main is not None and found.address("main") == main + 0x1000


def test_a_file_at_another_address(tmp_path: Path) -> None:
    data = shifted(ELF.read_bytes(), FIRMWARE_BASE)
    assert data is not None
    copy = tmp_path / "copy.elf"
    copy.write_bytes(data)
    here, there = Symbols(ELF, FIRMWARE_BASE), Symbols(copy)
    assert len(here) == len(there) > 200
    assert all(there.address(name) == here.address(name) for name in ("boot", "post", "gdt", "pci_read32"))
    back = shifted(data, -FIRMWARE_BASE)
    assert back == ELF.read_bytes()


def test_files_that_can_t_be_shifted() -> None:
    data = ELF.read_bytes()
    assert shifted(b"\x7fELF\x02\x01" + data[6:], 16) is None and shifted(data + b"\0.debug_info\0", 16) is None
    assert shifted(data[: len(data) // 2], 16) is None and shifted(b"", 16) is None


def test_the_file_that_gdb_is_given(tmp_path: Path) -> None:
    said: list[str] = []
    with contextlib.ExitStack() as resources:
        copy = file_for_gdb(MachineConfig(), resources, said.append)
        assert copy is not None and Symbols(Path(copy)).address("boot") == Symbols(ELF, FIRMWARE_BASE).address("boot")
        assert file_for_gdb(MachineConfig(bios=BIOS, symbols=SIEVE), resources, said.append) == str(SIEVE)
        debug = tmp_path / "debug.elf"
        debug.write_bytes(SIEVE.read_bytes() + b"\0.debug_line\0")
        named = MachineConfig(symbols=debug, symbols_offset=0x100)
        assert not said and file_for_gdb(named, resources, said.append) is None
    assert said == [f"gdb: load the symbols with: symbol-file {debug} -o 0x100"] and not Path(copy).exists()


def test_files_that_are_none(tmp_path: Path) -> None:
    for data, words in ((b"", "no ELF"), (b"\x7fELF", "malformed"), (ELF.read_bytes()[:60000:2], "no ELF")):
        path = tmp_path / "x.elf"
        path.write_bytes(data)
        with pytest.raises(ImageError, match=words):
            Symbols(path)


@settings(max_examples=150, deadline=None)
@given(cut=st.integers(0, 60_000), changes=st.lists(st.tuples(st.integers(0, 60_000), st.integers(0, 255)), max_size=8))
def test_a_broken_file_is_an_error_of_one_line(
    tmp_path_factory: pytest.TempPathFactory, cut: int, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(ELF.read_bytes()[: max(cut, 4) if cut < 40_000 else None])
    for at, value in changes:
        if at < 52 * 8:
            data[at % min(len(data), 52)] = value
        else:
            data[-1 - at % min(len(data), 500)] = value
    path = tmp_path_factory.getbasetemp() / "broken.elf"
    path.write_bytes(data)
    said = "broken.elf"
    try:
        Symbols(path).at(0x100)
    except ImageError as error:
        said = str(error)
    assert "broken.elf" in said and "\n" not in said
