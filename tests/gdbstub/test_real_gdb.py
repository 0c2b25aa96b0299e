"""An unmodified gdb against the toy machine: each test names a behaviour that a user relies on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gdbstub import Session
from gdbstub.server import Server
from gdbstub.stop import BreakpointKind
from gdbstub.target import Continue, RangeStep, Step
from gdbstub.x86 import LAYOUTS
from tests.gdbstub.fake_target import CODE, DATA, RAM
from tests.gdbstub.real_gdb import Gdb, GdbError, assemble
from tests.gdbstub.threaded_target import ThreadedTarget
from tests.needs import needs

pytestmark = needs("gdb", "as", "ld", "objcopy")

PROGRAM = """
        .globl start, double
start:  nop
        nop
        call double
        nop
        jmp start
double: inc %eax
        inc %eax
        ret
"""


class Setup:
    """A guest, its server, and a gdb."""

    def __init__(self, target: ThreadedTarget, server: Server, gdb: Gdb) -> None:
        self.target, self.server, self.gdb = target, server, gdb
        self.address = str(server.address)


@pytest.fixture
def setup() -> Iterator[Callable[..., Setup]]:
    made: list[Setup] = []
    bugs: list[str] = []

    def start(
        arch: str = "x86-64", *, connect: str = "remote", running: bool = False, address: str = ":0", **guest: object
    ) -> Setup:
        target = ThreadedTarget(LAYOUTS[arch], **guest)  # type: ignore[arg-type]  # the guest's own keywords
        target.file = None
        session = Session(target, running=running, log=bugs.append)
        if running:
            target.resume({thread: Continue() for thread in target.cpu})
        server = Server(session, address)
        server.open()
        server.start()
        made.append(Setup(target, server, Gdb()))
        if connect:
            made[-1].gdb.connect(made[-1].address, connect)
        return made[-1]

    yield start
    for each in made:
        each.gdb.close()
        each.server.close()
        each.target.close()
    assert [line for line in bugs if "waits for a debugger" not in line] == []  # what a faulty guest does without gdb


@pytest.mark.parametrize("arch", LAYOUTS)
def test_every_layout_is_accepted(setup: Callable[..., Setup], arch: str) -> None:
    s = setup(arch)
    pc = LAYOUTS[arch].pc
    text = s.gdb.cli("info registers")
    assert f"{pc} " in text and "0x1000" in text and "cr0_bits" in text
    assert "[ ET NW CD ]" in text
    assert LAYOUTS[arch].architecture in s.gdb.cli("show architecture")
    assert all(
        f"\n{name} " in "\n" + s.gdb.cli("info all-registers") for name in ("st7", "ftag", "mxcsr", "xmm7", "dr7")
    )
    numbers = [name for name in s.gdb.mi("-data-list-register-names")["register-names"] if name]
    assert set(LAYOUTS[arch].numbers) <= set(numbers)


@pytest.mark.parametrize("arch", LAYOUTS)
def test_stepi_is_one_instruction(setup: Callable[..., Setup], arch: str) -> None:
    s = setup(arch)
    for expected in (0x1002, 0x1003, 0x1005, 0x1006, 0x1000):
        assert s.gdb.stop_of("stepi")["reason"] == "end-stepping-range"
        assert s.gdb.pc() == expected
    assert s.gdb.value("$eax") == 1


def test_16_bit_disassembly(setup: Callable[..., Setup]) -> None:
    s = setup("i8086")
    assert "inc    %ax" in s.gdb.cli("x/2i $pc")
    assert "i8086" in s.gdb.cli("set architecture i8086")
    s.gdb.stop_of("stepi")
    assert s.gdb.pc() == 0x1002
    assert "(%bp,%di)" in s.gdb.cli("x/2i $pc")


def test_another_architecture_is_refused_without_harm(setup: Callable[..., Setup]) -> None:
    s = setup("x86-64")
    assert "not compatible with reported target architecture" in s.gdb.cli("set architecture i8086")
    s.gdb.stop_of("stepi")
    assert s.gdb.pc() == 0x1002


def test_breakpoint_hit_again_and_again(setup: Callable[..., Setup]) -> None:
    s = setup(cpus=1)
    s.gdb.cli("break *0x1003")
    for n in range(1, 6):
        assert s.gdb.stop_of("continue")["reason"] == "breakpoint-hit"
        assert (s.gdb.pc(), s.gdb.value("$eax")) == (0x1003, n)
    assert s.gdb.memory(CODE, 8) == s.target.program
    s.gdb.cli("delete")
    s.gdb.cli("continue&")
    assert s.target.points == set()


def test_conditional_breakpoint(setup: Callable[..., Setup]) -> None:
    s = setup(cpus=1)
    s.gdb.cli("break *0x1003 if $eax == 40")
    assert s.gdb.stop_of("continue")["reason"] == "breakpoint-hit"
    assert s.gdb.value("$eax") == 40


def test_breakpoint_at_the_next_instruction_is_hit_by_stepping(setup: Callable[..., Setup]) -> None:
    s = setup(cpus=1)
    s.gdb.cli("break *0x1002")
    s.gdb.cli("break *0x1003")
    assert s.gdb.stop_of("stepi")["bkptno"] == "1"
    assert s.gdb.stop_of("stepi")["bkptno"] == "2"


def test_hardware_breakpoint(setup: Callable[..., Setup]) -> None:
    s = setup(cpus=1)
    s.gdb.cli("set breakpoint always-inserted on")
    s.gdb.cli("hbreak *0x1005")
    assert s.gdb.stop_of("continue")["reason"] == "breakpoint-hit"
    assert s.gdb.pc() == 0x1005
    assert {kind for kind, *_ in s.target.points} == {BreakpointKind.HARDWARE}


@pytest.mark.parametrize("command", ["watch", "awatch"])
def test_watchpoint_stops_after_the_write(setup: Callable[..., Setup], command: str) -> None:
    s = setup(cpus=1)
    s.gdb.cli(f"{command} *(unsigned char *)0x4000")
    reason = s.gdb.stop_of("continue")
    assert reason["reason"] in ("watchpoint-trigger", "access-watchpoint-trigger")
    assert (s.gdb.pc(), s.target.ram[DATA]) == (0x1005, 1)
    assert reason["value"]["new"].startswith("1")


def test_read_watchpoint(setup: Callable[..., Setup]) -> None:
    s = setup(cpus=1, program=bytes.fromhex("90 8a03 ebfb"))
    s.gdb.cli("rwatch *(char *)0x4000")
    assert s.gdb.stop_of("continue")["reason"] == "read-watchpoint-trigger"
    assert s.gdb.pc() == 0x1003


def test_threads_with_names(setup: Callable[..., Setup]) -> None:
    s = setup(connect="")
    s.target.cpu[2].values["rax"] = 0x42
    s.gdb.connect(s.address)
    text = s.gdb.cli("info threads")
    assert 'Thread 1.1 "CPU0 long64 running"' in text and 'Thread 1.2 "CPU1 long64 running"' in text
    s.gdb.cli("thread 2")
    assert s.gdb.value("$rax") == 0x42


def test_a_locked_thread_does_not_move(setup: Callable[..., Setup]) -> None:
    s = setup()
    s.gdb.cli("set scheduler-locking on")
    s.gdb.cli("thread 2")
    s.gdb.stop_of("stepi")
    s.gdb.stop_of("stepi")
    assert (s.target.cpu[1].values["rip"], s.target.cpu[2].values["rip"]) == (CODE, CODE + 3)


def test_registers_can_be_assigned(setup: Callable[..., Setup]) -> None:
    s = setup()
    values = s.target.cpu[1].values
    for name, value in {
        "rip": 0x1003,
        "r15": 0x1122334455667788,
        "cr0": 0x80050033,
        "cr3": 0x1FF000,
        "efer": 0xD01,
        "cs_base": 0xFFFF0000,
        "cs_attr": 0x9B,
        "gdtr_limit": 0x27,
        "dr7": 0x401,
        "fs_base": 0xFFFF888000000000,
        "lstar": 0xFFFFFFFF81000000,
        "eflags": 0x202,
        "mxcsr": 0x1FA0,
        "ftag": 0xFFFF,
    }.items():
        s.gdb.cli(f"set ${name} = {value:#x}")
        assert values[name] == value, name
        assert s.gdb.cli(f"p/x ${name}").split("= ")[1].strip() == hex(value), name
    s.gdb.cli("set $cr0_bits = 0x11")
    assert values["cr0"] == 0x11
    assert "[ SCE LME LMA NXE ]" in s.gdb.cli("p $efer_bits")
    assert "P" in s.gdb.cli("p $cs_attr")
    s.gdb.cli("set $xmm15.v4_int32[1] = 7")
    assert values["xmm15"] == 7 << 32
    s.gdb.cli("set $st3 = 1.5")
    assert values["st3"] == 0x3FFF_C000000000000000


def test_a_register_that_the_machine_lacks(setup: Callable[..., Setup]) -> None:
    s = setup()
    assert "<unavailable>" in s.gdb.cli("info registers tsc_aux")


def test_memory_of_every_byte(setup: Callable[..., Setup], tmp_path: Path) -> None:
    s = setup()
    data = bytes(range(256)) * 64
    (tmp_path / "data").write_bytes(data)
    s.gdb.cli(f"restore {tmp_path}/data binary 0x8000")
    assert bytes(s.target.ram[0x8000:0xC000]) == data
    assert s.gdb.memory(0x8000, len(data)) == data
    s.gdb.cli(f"dump binary memory {tmp_path}/back 0x0 0x10000")
    assert (tmp_path / "back").read_bytes() == bytes(s.target.ram)


def test_unmapped_memory_is_an_error(setup: Callable[..., Setup]) -> None:
    s = setup()
    with pytest.raises(GdbError, match=f"Cannot access memory at address {RAM:#x}"):
        s.gdb.cli("x/4xb 0xfffe")
    with pytest.raises(GdbError, match="Cannot access memory"):
        s.gdb.cli("set var *(int *)0x100000000 = 1")


def test_find(setup: Callable[..., Setup]) -> None:
    s = setup()
    s.target.ram[0x6543:0x6547] = b"*#$}"
    assert "0x6543" in s.gdb.cli("find 0x0, 0xffff, (char)0x2a, (char)0x23, (char)0x24, (char)0x7d")


def test_memory_map(setup: Callable[..., Setup]) -> None:
    s = setup()
    assert "0x0000000000010000 0x0000000100000000 ro" in s.gdb.cli("info mem")


def test_ctrl_c(setup: Callable[..., Setup]) -> None:
    s = setup(running=True)
    for _ in range(5):
        s.gdb.cli("continue&")
        start = len(s.gdb.records)
        s.gdb.mi("-exec-interrupt --all")
        assert s.gdb.wait_stop(start)["signal-name"] in ("SIGINT", "0")


def test_attaching_stops_a_running_guest_and_detaching_lets_it_go(setup: Callable[..., Setup]) -> None:
    s = setup(running=True)
    for _ in range(3):
        assert not s.target.running
        assert s.gdb.value("$eax") > 0
        s.gdb.cli("detach")
        assert s.target.running
        s.gdb.connect(s.address)


def test_reconnect_after_a_killed_gdb(setup: Callable[..., Setup]) -> None:
    s = setup(running=True)
    s.gdb.cli("break *0x9000")
    s.gdb.cli("continue&")
    s.gdb.kill()
    second = Gdb()
    try:
        second.connect(s.address)
        second.stop_of("stepi")
        assert s.target.points == set()
    finally:
        second.close()
    for _ in range(200):
        if s.target.running:
            break
        time.sleep(0.01)
    assert s.target.running


def test_the_guests_exit_value(setup: Callable[..., Setup]) -> None:
    s = setup(cpus=1, program=bytes.fromhex("ffc0 ffc0 ffc0 e600"))
    reason = s.gdb.stop_of("continue")
    assert (reason["reason"], int(reason["exit-code"], 8)) == ("exited", 3)
    assert any("the guest said goodbye" in str(record["payload"]) for record in s.gdb.records)


def test_a_fault_in_words(setup: Callable[..., Setup]) -> None:
    s = setup(cpus=1, program=b"\x90\x06")
    assert s.gdb.stop_of("continue")["signal-name"] == "SIGILL"
    assert any("undefined instruction 0600 at 0x1001" in str(record["payload"]) for record in s.gdb.records)


def test_monitor(setup: Callable[..., Setup]) -> None:
    s = setup()
    assert "help   this list" in s.gdb.cli("monitor help")
    assert "unknown command nope" in s.gdb.cli("monitor nope")


def test_qemus_settings(setup: Callable[..., Setup]) -> None:
    s = setup()
    assert "ENABLE=1,NOIRQ=2,NOTIMER=4" in s.gdb.cli("maint packet qqemu.sstepbits")
    assert "OK" in s.gdb.cli("maint packet Qqemu.PhyMemMode:1")
    assert s.target.is_physical


def test_run_resets_with_breakpoints_kept(setup: Callable[..., Setup]) -> None:
    s = setup(connect="extended-remote", cpus=1)
    s.gdb.cli("set remote exec-file guest")
    s.gdb.cli("break *0x1003")
    s.gdb.stop_of("continue")
    s.gdb.cli("kill")
    assert s.target.n_kills == 0
    s.target.cpu[1].values["rax"] = 99
    assert s.gdb.stop_of("run")["reason"] == "breakpoint-hit"
    assert s.gdb.value("$eax") == 1


def test_reverse(setup: Callable[..., Setup]) -> None:
    s = setup(cpus=1)
    for _ in range(4):
        s.gdb.stop_of("stepi")
    s.gdb.stop_of("reverse-stepi")
    assert s.gdb.pc() == 0x1005
    s.gdb.cli("break *0x1002")
    assert s.gdb.stop_of("reverse-continue")["reason"] == "breakpoint-hit"
    assert s.gdb.pc() == 0x1002
    s.gdb.cli("delete")
    s.gdb.stop_of("reverse-continue")
    assert any("No more reverse-execution history" in str(record["payload"]) for record in s.gdb.records)
    assert s.gdb.pc() == CODE


def test_source_lines_step_next_and_finish(setup: Callable[..., Setup], tmp_path: Path) -> None:
    elf, code = assemble(tmp_path, PROGRAM, CODE)
    s = setup(connect="", cpus=1, program=code)
    s.gdb.cli(f"file {elf}")
    s.gdb.connect(s.address)
    assert "start () at" in s.gdb.cli("info line *$pc") or "start" in s.gdb.cli("info symbol $pc")
    s.gdb.stop_of("step")
    assert s.target.plan[1] in (RangeStep(0x1000, 0x1001), Step())
    s.gdb.stop_of("next")
    s.gdb.stop_of("next")
    assert (s.gdb.pc(), s.gdb.value("$eax")) == (0x1007, 2)
    s.gdb.cli("break double")
    s.gdb.stop_of("continue")
    assert "start" in s.gdb.cli("bt")
    s.gdb.cli("delete")
    s.gdb.stop_of("finish")
    assert (s.gdb.pc(), s.gdb.value("$eax")) == (0x1007, 4)
    s.gdb.cli("advance *0x1000")
    s.gdb.cli("until *0x1002")


def test_with_acknowledgments(setup: Callable[..., Setup]) -> None:
    s = setup(connect="")
    s.gdb.cli("set remote noack-packet off")
    s.gdb.connect(s.address)
    assert "help   this list" in s.gdb.cli("monitor help")
    s.gdb.stop_of("stepi")
    assert s.gdb.pc() == 0x1002


@pytest.mark.parametrize("packet", ["verbose-resume", "fetch-register", "set-register", "multiprocess-feature"])
def test_without_newer_packets(setup: Callable[..., Setup], packet: str) -> None:
    """What an older gdb does: c and s, g and G, plain thread ids."""
    s = setup(connect="")
    s.gdb.cli(f"set remote {packet}-packet off")
    s.gdb.connect(s.address)
    s.gdb.cli("set $eax = 41" if packet == "verbose-resume" else "set $rbx = 0x4001")
    s.gdb.stop_of("stepi")
    assert s.gdb.pc() == 0x1002
    s.gdb.cli("break *0x1005")
    assert s.gdb.stop_of("continue")["reason"] == "breakpoint-hit"


def test_the_program_is_found_by_itself(setup: Callable[..., Setup], tmp_path: Path) -> None:
    elf, code = assemble(tmp_path, PROGRAM, CODE)
    s = setup(connect="", cpus=1, program=code)
    s.target.file = str(elf)
    s.gdb.connect(s.address)
    s.gdb.cli("break double")
    assert s.gdb.stop_of("continue")["reason"] == "breakpoint-hit"


def test_unix_socket(setup: Callable[..., Setup], tmp_path: Path) -> None:
    s = setup(address=f"unix:{tmp_path}/gdb.sock")
    s.gdb.stop_of("stepi")
    assert s.gdb.pc() == 0x1002


def test_pipe(tmp_path: Path) -> None:
    program = tmp_path / "guest.py"
    root = Path(__file__).resolve().parents[2]
    program.write_text(
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        "from gdbstub import Session\nfrom gdbstub.server import Server\n"
        "from tests.gdbstub.fake_target import FakeTarget\n"
        "target = FakeTarget(); target.file = None\n"
        "server = Server(Session(target), '-'); server.open(); server.start(); server.join()\n"
    )
    gdb = Gdb()
    try:
        gdb.connect(f"| {sys.executable} {program}")
        gdb.stop_of("stepi")
        assert gdb.pc() == 0x1002
    finally:
        gdb.close()


def test_many_breakpoints(setup: Callable[..., Setup]) -> None:
    s = setup(cpus=1)
    for n in range(100):
        s.gdb.cli(f"hbreak *{0x9000 + 16 * n}")
    s.gdb.cli("break *0x1005")
    assert s.gdb.stop_of("continue")["reason"] == "breakpoint-hit"
    assert s.gdb.pc() == 0x1005
