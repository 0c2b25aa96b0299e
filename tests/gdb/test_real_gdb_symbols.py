"""An unmodified gdb that is told of the guest's ELF file and of its memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from jitvm.symbols import FIRMWARE_BASE, Symbols
from tests.boot.guests import BIOS, GUESTS, IMAGES, rom
from tests.gdb.vm import Start
from tests.gdbstub.real_gdb import GdbError
from tests.needs import needs

pytestmark = needs("gdb")


@pytest.mark.parametrize("arch", ["x86-64", "i386", "i8086"])
def test_the_firmware_s_symbols_are_there_by_themselves(boot: Start, arch: str) -> None:
    gdb = boot(BIOS, "-S", "--gdb-arch", arch).gdb()
    gdb.cli("break *&boot")
    assert gdb.stop_of("continue")["reason"] == "breakpoint-hit"
    assert gdb.pc() == Symbols(BIOS.with_suffix(".elf"), FIRMWARE_BASE).address("boot")
    assert "<boot>" in gdb.cli("x/i $pc")


def test_a_file_that_was_named(boot: Start) -> None:
    elf = GUESTS / "hello.elf"
    gdb = boot(GUESTS / "hello.bin", "-S", "--symbols", f"{elf},offset=0xf0000").gdb()
    gdb.cli("break *&guest_main")
    assert gdb.stop_of("continue")["reason"] == "breakpoint-hit"
    assert "<guest_main>" in gdb.cli("x/i $pc")


def test_a_file_of_gdb_s_own_is_not_replaced(boot: Start) -> None:
    elf = IMAGES / "bench" / "sieve.elf"
    gdb = boot(BIOS, "-S", "--gdb-arch", "i386").gdb(f"file {elf}")
    assert "sieve.elf" in gdb.cli("info files") and gdb.value("&main") == Symbols(elf).address("main")


def test_breakpoints_in_rom_are_hardware_ones(boot: Start, tmp_path: Path) -> None:
    gdb = boot(rom(tmp_path, "90 90 ebfc"), "-S").gdb()
    gdb.cli("break *0xf0001")
    assert gdb.stop_of("continue")["reason"] == "breakpoint-hit" and gdb.pc() == 0xF0001
    said = gdb.cli("info mem")
    assert "0x00000000000f0000 0x0000000000100000 ro" in said and "0x00000000fec00000" in said
    with pytest.raises(GdbError, match="Cannot access memory"):
        gdb.cli("x/4bx 0xfec00000")
    with pytest.raises(GdbError, match="Cannot access memory"):
        gdb.cli("set {char}0xf0001 = 0")
    gdb.cli("delete mem")
    gdb.cli("set {char}0xf0001 = 0x40")
    assert gdb.memory(0xF0001, 1) == b"\x40"
