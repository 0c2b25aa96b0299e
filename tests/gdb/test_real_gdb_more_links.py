"""How gdb gets to a machine and leaves it: addresses, policies, ends, packets that it is told not to use."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.boot.guests import BIOS, GUESTS, rom
from tests.gdb.vm import COUNTER, PATIENCE_S, RESET, START, Start, Vm, interrupt, let_run
from tests.gdbstub.real_gdb import GdbError
from tests.needs import needs

pytestmark = [pytest.mark.slow, needs("gdb")]  # the fast ones are in test_real_gdb_machine.py
COUNTED = "b80000 8ed8 40 a30005 ebfa"
"""xor ax, ax; mov ds, ax; 5: inc ax; mov [500h], ax; jmp 5"""


def moves(vm: Vm) -> bool:
    """Whether the guest goes on while nobody looks: two visits, between which a gdb is started."""
    seen = []
    for _ in range(2):
        gdb = vm.gdb()
        seen.append(gdb.value("$tsc"))
        gdb.cli("detach")
    return seen[1] > seen[0] + 1000


# ---- addresses ------------------------------------------------------------------------------------------------------
def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    vm = Vm(tmp_path, BIOS, "-S", "--gdb", f"unix:{path}")
    try:
        assert vm.address == str(path) and path.is_socket()
        first = vm.gdb()
        assert first.pc() == RESET
        first.cli("detach")
        second = vm.gdb()
        second.stop_of("stepi")
    finally:
        vm.close()


def test_port_0_is_told_and_on_loopback_only(boot: Start) -> None:
    vm = boot(BIOS, "-S")
    host, port = vm.address.rsplit(":", 1)
    assert host == "localhost" and int(port) > 1023 and "warning" not in vm.log.read_text().lower()


def test_an_open_address_gets_a_warning(boot: Start) -> None:
    vm = boot(BIOS, "-S", "--gdb", "0.0.0.0:0")
    assert "warning" in vm.log.read_text().lower()


def test_a_pipe_ends_with_its_gdb(tmp_path: Path) -> None:
    command = f"{sys.executable} -m jitvm boot {rom(tmp_path, COUNTER)} -S --gdb - --timeout 60 --gdb-arch i8086"
    script = ["set confirm off", f"target remote | {command}", "x/i $pc", "stepi 3", "p $ax", "p/x $pc", "detach"]
    done = subprocess.run(
        ["gdb", "-q", "-nx", "-batch", *(word for each in script for word in ("-ex", each))],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "DEBUGINFOD_URLS": ""},
    )
    assert "ljmp   $0xf000,$0x0" in done.stdout and "$1 = 1" in done.stdout and "$2 = 0xf0000" in done.stdout


# ---- leaving --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["detach", "disconnect", "kill -9"])
@pytest.mark.parametrize("policy", ["run", "stop"])
def test_what_the_guest_does_when_gdb_leaves(boot: Start, tmp_path: Path, policy: str, how: str) -> None:
    vm = boot(rom(tmp_path, COUNTED), "--gdb-on-disconnect", policy)
    gdb = vm.gdb()
    gdb.cli("break *0xffff0")
    if how == "kill -9":
        gdb.kill()
    else:
        gdb.cli(how)
    assert moves(vm) is (policy == "run")


def test_exit_when_gdb_is_killed_and_the_guest_runs(boot: Start, tmp_path: Path) -> None:
    vm = boot(rom(tmp_path, COUNTED), "--gdb-on-disconnect", "exit")
    gdb = vm.gdb()
    let_run(gdb)
    gdb.kill()
    assert vm.status() == 0


def test_detach_ends_the_stay_at_the_reset_vector(boot: Start, tmp_path: Path) -> None:
    vm = boot(rom(tmp_path, COUNTED), "-S")
    vm.gdb().cli("detach")
    assert moves(vm)


def test_breakpoints_and_watchpoints_go_with_their_gdb(boot: Start, tmp_path: Path) -> None:
    vm = boot(rom(tmp_path, COUNTED))
    gdb = vm.gdb()
    gdb.cli("set breakpoint always-inserted on")
    gdb.cli(f"break *{START + 5:#x}")
    gdb.cli("watch *(short *)0x500")
    assert gdb.stop_of("continue")["reason"] in ("breakpoint-hit", "watchpoint-trigger")
    gdb.kill()
    assert moves(vm)


def test_a_second_gdb_is_sent_away(boot: Start) -> None:
    vm = boot(BIOS, "-S")
    first = vm.gdb()
    second = vm.gdb(connect=False)
    with pytest.raises(GdbError):
        second.connect(vm.address)
    first.stop_of("stepi")
    assert first.pc() != RESET


def test_a_connection_that_says_nothing_does_not_stop_the_guest(boot: Start, tmp_path: Path) -> None:
    vm = boot(rom(tmp_path, COUNTED))
    host, port = vm.address.rsplit(":", 1)
    with socket.create_connection((host, int(port))):
        assert moves(vm)


# ---- the end --------------------------------------------------------------------------------------------------------
def test_the_exit_value_is_the_guest_s(boot: Start, tmp_path: Path) -> None:
    vm = boot(rom(tmp_path, "b015 e6f4 ebfe"), "-S")  # mov al, 15h; out f4h, al
    gdb = vm.gdb()
    stop = gdb.stop_of("continue")
    assert stop["reason"] == "exited" and int(stop["exit-code"], 8) == 0x15 << 1 | 1
    assert gdb.value("$_exitcode") == 0x2B
    assert vm.status() == 0x2B


def test_a_normal_end(boot: Start, tmp_path: Path) -> None:
    """ACPI's S5 through PM1a of the PIIX4 is not set up by a ROM of some bytes, a reset with --no-reboot is the same."""
    vm = boot(rom(tmp_path, "b0fe e664 ebfe"), "-S", "--no-reboot")
    assert vm.gdb().stop_of("continue")["reason"] == "exited-normally"
    assert vm.status() == 0


def test_the_machine_s_own_end_while_gdb_looks_on(boot: Start, tmp_path: Path) -> None:
    vm = boot(rom(tmp_path, COUNTED), "-S")
    gdb = vm.gdb()
    start = let_run(gdb)
    vm.process.send_signal(signal.SIGTERM)
    assert gdb.wait_stop(start)["reason"] in ("exited", "exited-normally", "exited-signalled")
    assert vm.status() is not None


def test_kill_with_extended_remote_keeps_the_machine_for_the_next_run(boot: Start, tmp_path: Path) -> None:
    gdb = boot(rom(tmp_path, COUNTED), "-S").gdb(kind="extended-remote")
    gdb.cli("set remote exec-file guest")
    gdb.cli(f"break *{START + 6:#x}")
    for _ in range(3):
        gdb.stop_of("continue")
        gdb.cli("kill")
        assert gdb.stop_of("starti")["reason"] and gdb.pc() == RESET
        assert gdb.stop_of("continue")["reason"] == "breakpoint-hit"


def test_the_end_over_extended_remote(boot: Start) -> None:
    """gdb asks again behind the W packet; what ended can't be started again, which it is told."""
    vm = boot(GUESTS / "hello.bin", "-S")
    gdb = vm.gdb(kind="extended-remote")
    stop = gdb.stop_of("continue")
    assert stop["reason"] == "exited" and stop["exit-code"] == "01"
    with pytest.raises(GdbError):
        gdb.cli("starti")
    assert vm.status() == 1


# ---- with less of the protocol --------------------------------------------------------------------------------------
PACKETS = [
    "noack",
    "verbose-resume",
    "fetch-register",
    "set-register",
    "binary-download",
    "hardware-breakpoint",
    "multiprocess-feature",
    "threads",
    "memory-map",
    "swbreak-feature",
    "hwbreak-feature",
    "search-memory",
    "verbose-resume-supported",
    "exec-event-feature",
]


@pytest.mark.parametrize("packet", PACKETS)
def test_without_a_packet_debugging_goes_on(boot: Start, tmp_path: Path, packet: str) -> None:
    image = rom(tmp_path, "ea 0010 0000")  # jmp 0:1000h
    gdb = boot(image, "-S").gdb(f"set remote {packet}-packet off")
    for n, byte in enumerate((0x40, 0xEB, 0xFD)):  # 1000: inc ax; jmp 1000h
        gdb.cli(f"set {{unsigned char}}{0x1000 + n:#x} = {byte}")
    gdb.cli("set $rbx = 0x55")
    gdb.stop_of("stepi 2")
    assert gdb.value("$rbx") == 0x55 and gdb.pc() == 0x1000
    gdb.cli("break *0x1001")
    for n in (1, 2, 3):
        assert gdb.stop_of("continue")["reason"] == "breakpoint-hit" and gdb.pc() == 0x1001
        assert gdb.value("$rax") == n
    gdb.cli("delete")
    assert "0x1000" in gdb.cli("find /b 0x800, +0x1000, 0x40, 0xeb, 0xfd")
    assert interrupt(gdb, let_run(gdb)) < 5


def test_a_slow_wire_with_acknowledgments(boot: Start) -> None:
    gdb = boot(BIOS, "-S").gdb("set remote noack-packet off", "set remote memory-read-packet-size 64")
    gdb.cli("set remote memory-write-packet-size 64")
    data = bytes(range(256))
    for n in range(0, 256, 8):
        gdb.cli(f"set {{unsigned long}}{0x5000 + n:#x} = {int.from_bytes(data[n : n + 8], 'little'):#x}")
    assert gdb.memory(0x5000, 256) == data


def test_unknown_packets_get_an_empty_reply(boot: Start) -> None:
    gdb = boot(BIOS, "-S").gdb()
    for packet in ("vMustReplyEmpty", "qNothing", "jThreads", "QSetThis:1", "vFile:setfs:0"):
        assert 'received: ""' in gdb.cli(f"maintenance packet {packet}"), packet
    assert 'received: "OK"' in gdb.cli("maintenance packet Hg0")


def test_qemu_s_packets(boot: Start) -> None:
    gdb = boot(BIOS, "-S").gdb()
    for packet, reply in (
        ("qqemu.PhyMemMode", "0"),
        ("Qqemu.PhyMemMode:1", "OK"),
        ("qqemu.PhyMemMode", "1"),
        ("Qqemu.PhyMemMode:0", "OK"),
        ("qqemu.sstep", "0x1"),
        ("Qqemu.sstep=0x3", "OK"),
        ("qqemu.sstep", "0x3"),
        ("qqemu.sstepbits", "ENABLE=1,NOIRQ=2,NOTIMER=4"),
        ("Qqemu.sstep=0x7", "OK"),
        ("qqemu.sstep", "0x7"),
    ):
        assert f'received: "{reply}"' in gdb.cli(f"maintenance packet {packet}"), packet


@pytest.mark.parametrize(("arch", "own"), [("i386", "i386"), ("i8086", "i8086"), ("x86-64", "i386:x86-64")])
def test_a_gdb_that_reads_no_description_has_the_registers_that_it_knows(boot: Start, arch: str, own: str) -> None:
    gdb = boot(BIOS, "-S", "--gdb-arch", arch).gdb(f"set architecture {own}", "set remote target-features-packet off")
    gdb.cli("stepi")
    assert gdb.pc() != RESET and "fop" in gdb.cli("info all-registers") and "Tag Word" in gdb.cli("info float")
    gdb.cli("set $xmm1.v4_int32[2] = 77")
    gdb.cli("maintenance flush register-cache")
    assert gdb.value("$xmm1.v4_int32[2]") == 77
