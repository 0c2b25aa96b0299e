"""An unmodified gdb on the machine, from the reset vector on: each test names what a user relies on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.boot.guests import BIOS, GUESTS, IMAGES, need, rom
from tests.gdb.bench import symbol
from tests.gdb.vm import COUNTER, PATIENCE_S, RESET, START, Start, interrupt, let_run
from tests.gdbstub.real_gdb import GdbError
from tests.needs import needs

pytestmark = needs("gdb")
BENCHES = IMAGES / "bench"


# ---- real mode ------------------------------------------------------------------------------------------------------
def test_attach_at_the_reset_vector(boot: Start) -> None:
    gdb = boot(BIOS, "-S").gdb()
    assert gdb.pc() == RESET and gdb.value("$cs") == 0xF000 and gdb.value("$cs_base") == 0xFFFF_0000
    assert "real16" in gdb.cli("info threads")


def test_gdb_wait_is_the_same(boot: Start) -> None:
    assert boot(BIOS, "--gdb-wait").gdb().pc() == RESET


def test_info_registers(boot: Start) -> None:
    gdb = boot(BIOS, "-S").gdb()
    said = gdb.cli("info registers")
    assert re.search(r"^rip +0xfffffff0", said, re.MULTILINE) and re.search(r"^eflags +0x2", said, re.MULTILINE)
    assert re.search(r"^idtr_limit +0xffff", gdb.cli("info registers idtr_limit"), re.MULTILINE)
    assert "ET" in gdb.cli("p $cr0_bits")


@pytest.mark.parametrize("arch", ["x86-64", "i386", "i8086"])
def test_stepi(boot: Start, arch: str) -> None:
    gdb = boot(BIOS, "-S", "--gdb-arch", arch).gdb()
    seen = []
    for _ in range(5):
        gdb.stop_of("stepi")
        seen.append(gdb.pc())
    assert len(set(seen)) == 5 and all(pc >> 16 == 0xFFFF for pc in seen), "a near jump leaves the base of CS"


def test_16_bit_disassembly(boot: Start, tmp_path: Path) -> None:
    gdb = boot(rom(tmp_path, COUNTER), "-S", "--gdb-arch", "i8086").gdb()
    assert re.search(r"ljmp +\$0xf000,", gdb.cli("x/i $pc"))


def test_a_breakpoint_in_the_firmware_by_its_symbols(boot: Start) -> None:
    elf = BIOS.with_suffix(".elf")
    gdb = boot(BIOS, "-S", "--gdb-arch", "i386").gdb(f"symbol-file {elf} -o 0xf0000")
    gdb.cli("break *&boot")
    stop = gdb.stop_of("continue")
    assert stop["reason"] == "breakpoint-hit" and gdb.pc() == 0xF0000 + symbol(elf, "boot")


def test_a_breakpoint_again_and_again(boot: Start, tmp_path: Path) -> None:
    gdb = boot(rom(tmp_path, COUNTER), "-S").gdb()
    gdb.cli(f"break *{START:#x}")
    for n in range(5):
        assert gdb.stop_of("continue")["reason"] == "breakpoint-hit"
        assert gdb.value("$rax") == n
    gdb.cli("delete")
    gdb.cli(f"hbreak *{START + 1:#x}")
    assert gdb.stop_of("continue")["reason"] == "breakpoint-hit" and gdb.pc() == START + 1


def test_until_and_advance(boot: Start, tmp_path: Path) -> None:
    gdb = boot(rom(tmp_path, "90 90 90 90 ebfe"), "-S").gdb()
    gdb.stop_of("stepi")
    gdb.stop_of(f"until *{START + 2:#x}")
    assert gdb.pc() == START + 2
    gdb.stop_of(f"advance *{START + 4:#x}")
    assert gdb.pc() == START + 4


@pytest.mark.parametrize("code", ["ebfe", "fb f4 ebfd", "fa f4", "e460 ebfc"], ids=["loop", "hlt", "cli_hlt", "exits"])
def test_ctrl_c(boot: Start, tmp_path: Path, code: str) -> None:
    gdb = boot(rom(tmp_path, code), "-S").gdb()
    gdb.stop_of("stepi")
    for _ in range(5):
        assert interrupt(gdb, let_run(gdb)) < 1
    assert START <= gdb.pc() <= START + 8


def test_registers_are_written(boot: Start, tmp_path: Path) -> None:
    gdb = boot(rom(tmp_path, "01d8 90 ebfe"), "-S").gdb()  # add ax, bx
    gdb.stop_of("stepi")
    gdb.cli("set $rax = 0x40")
    gdb.cli("set $rbx = 2")
    gdb.cli("set $eflags = 0x246")
    gdb.stop_of("stepi")
    assert gdb.value("$rax") == 0x42
    gdb.cli(f"set $pc = {START:#x}")
    gdb.stop_of("stepi")
    assert gdb.value("$rax") == 0x44 and gdb.pc() == START + 2


def test_memory_written_over_code_is_executed(boot: Start, tmp_path: Path) -> None:
    gdb = boot(rom(tmp_path, "ea 0010 0000"), "-S").gdb()  # jmp 0:1000h
    gdb.cli("set {unsigned int}0x1000 = 0x90fdeb40")
    gdb.stop_of("stepi")
    gdb.stop_of("stepi")
    interrupt(gdb, let_run(gdb))
    gdb.cli("set {unsigned char}0x1000 = 0x4b")  # dec bx
    gdb.cli("set $rbx = 0x100")
    gdb.cli("set $pc = 0x1000")
    gdb.stop_of("stepi")
    assert gdb.value("$rbx") == 0xFF and gdb.memory(0x1000, 4) == bytes.fromhex("4bebfd90")


def test_memory_that_is_none_is_an_error(boot: Start) -> None:
    gdb = boot(BIOS, "-S").gdb()
    for address in (0xA0000, 0xFEE00000, 1 << 32):
        with pytest.raises(GdbError, match="Cannot access memory"):
            gdb.cli(f"x/4bx {address:#x}")


# ---- protected mode -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("arch", ["x86-64", "i386"])
def test_a_breakpoint_in_protected_mode(boot: Start, arch: str) -> None:
    elf = BENCHES / "sieve.elf"
    vm = boot(BENCHES / "sieve.bin", "-S", "--gdb-arch", arch)
    gdb = vm.gdb(*([f"file {elf}"] if arch == "i386" else []))
    gdb.cli(f"break *{symbol(elf, 'main'):#x}")
    assert gdb.stop_of("continue")["reason"] == "breakpoint-hit"
    assert gdb.pc() == symbol(elf, "main") and gdb.value("$cr0") & 1 and "prot32" in gdb.cli("info threads")
    if arch == "i386":
        assert "main ()" in gdb.cli("bt")
    gdb.stop_of("nexti")
    gdb.cli("delete")
    assert gdb.stop_of("continue")["reason"] == "exited"
    assert vm.status() == 1


def test_a_breakpoint_behind_page_tables(boot: Start) -> None:
    elf = BENCHES / "paging_chase.elf"
    gdb = boot(BENCHES / "paging_chase.bin", "-S", "--gdb-arch", "i386").gdb(f"file {elf}")
    gdb.cli("break *&bench")
    gdb.stop_of("continue")
    for _ in range(100):
        if gdb.value("$cr0") >> 31 & 1:
            break
        gdb.stop_of("stepi")
    assert gdb.value("$cr0") >> 31 & 1 and len(gdb.memory(gdb.pc(), 16)) == 16
    gdb.cli("maintenance packet Qqemu.PhyMemMode:1")
    assert len(gdb.memory(gdb.value("$cr3"), 8)) == 8


# ---- the connection -------------------------------------------------------------------------------------------------
def test_attach_to_a_running_machine_detach_and_come_back(boot: Start, tmp_path: Path) -> None:
    vm = boot(rom(tmp_path, COUNTER))
    first = vm.gdb()
    first.cli(f"break *{START:#x}")
    first.stop_of("continue")
    first.cli("detach")
    second = vm.gdb()
    assert START <= second.pc() <= START + 1
    second.kill()
    third = vm.gdb()
    ax = third.value("$rax")
    third.stop_of("stepi")
    third.stop_of("stepi")
    assert third.value("$rax") == (ax + 1) & 0xFFFF


def test_what_a_killed_gdb_has_caught_stops_no_other_one(boot: Start, tmp_path: Path) -> None:
    """A loop over #UD: the first gdb catches it, the next one is not stopped by it."""
    vm = boot(rom(tmp_path, "31c0 8ed8 c70618001000 c7061a0000f0 83c406 0f0b"))  # the handler: add sp, 6; ud2
    first = vm.gdb()
    first.cli("monitor catch ud")
    first.stop_of("continue")
    assert first.pc() == 0xF0013
    first.kill()
    second = vm.gdb()
    assert second.cli("monitor catch list").strip() == "nothing is caught"
    assert interrupt(second, let_run(second)) < 5


def test_stop_when_gdb_leaves(boot: Start, tmp_path: Path) -> None:
    vm = boot(rom(tmp_path, COUNTER), "--gdb-on-disconnect", "stop")
    gdb = vm.gdb()
    ax = gdb.value("$rax")
    gdb.cli("detach")
    assert vm.gdb().value("$rax") == ax


def test_exit_when_gdb_leaves(boot: Start, tmp_path: Path) -> None:
    vm = boot(rom(tmp_path, COUNTER), "--gdb-on-disconnect", "exit")
    vm.gdb().cli("detach")
    assert vm.status() == 0


def test_kill(boot: Start, tmp_path: Path) -> None:
    vm = boot(rom(tmp_path, COUNTER), "-S")
    vm.gdb().cli("kill")
    assert vm.status() == 0


def test_the_guests_end(boot: Start) -> None:
    vm = boot(GUESTS / "hello.bin", "-S")
    gdb = vm.gdb()
    assert gdb.stop_of("continue") == {"reason": "exited", "exit-code": "01"}
    assert vm.status() == 1


def test_run_resets_and_keeps_breakpoints(boot: Start, tmp_path: Path) -> None:
    elf = BENCHES / "sieve.elf"
    gdb = boot(BENCHES / "sieve.bin", "-S", "--gdb-arch", "i386").gdb(f"file {elf}", kind="extended-remote")
    gdb.cli("break main")
    gdb.stop_of("continue")
    stop = gdb.stop_of("run")
    if gdb.pc() == RESET:
        stop = gdb.stop_of("continue")
    assert stop["reason"] == "breakpoint-hit" and gdb.value("$cr0") & 1


def test_monitor(boot: Start) -> None:
    vm = boot(BIOS, "-S")
    gdb = vm.gdb()
    assert "the reset button" in gdb.cli("monitor help") and "EAX=" in gdb.cli("monitor info registers")
    assert "unknown command" in gdb.cli("monitor dance")
    gdb.cli("monitor quit")
    assert vm.status() == 0


def test_through_a_pipe(tmp_path: Path) -> None:
    need("gdb")
    image = rom(tmp_path, COUNTER)
    command = f"{sys.executable} -m jitvm boot {image} -S --gdb - --timeout 60"
    script = ["set confirm off", f"target remote | {command}", "p/x $pc", "stepi", "p/x $cs_base", "kill"]
    gdb = subprocess.run(
        ["gdb", "-q", "-nx", "-batch", *(word for line in script for word in ("-ex", line))],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "DEBUGINFOD_URLS": ""},
    )
    assert "$1 = 0xfffffff0" in gdb.stdout and "$2 = 0xf0000" in gdb.stdout


@pytest.mark.slow
def test_a_unix_socket_and_a_busy_address(boot: Start, tmp_path: Path) -> None:
    vm = boot(rom(tmp_path, COUNTER))
    for address in (vm.address, "unix:/nonexistent/folder/socket", "nowhere"):
        failed = subprocess.run(
            [sys.executable, "-m", "jitvm", "boot", str(BIOS), "--serial", "null", "--gdb", address],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert failed.returncode == 2 and failed.stderr.count("\n") == 1 and "--gdb" in failed.stderr
