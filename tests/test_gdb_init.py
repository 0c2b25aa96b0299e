"""`jitvm gdb-init`: 16-bit frames, found by the monitor and used by a real gdb."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jitvm import cli
from jitvm.unwind import Frame, unwind
from tests.boot.guests import BIOS, rom
from tests.gdb.vm import Vm
from tests.gdbstub.real_gdb import Gdb
from tests.needs import needs

SCRIPT = Path(cli.__file__).with_name("gdb_script.py")
CS, SP = 0xF000, 0x7000
CODE = 0xF0000


class Stack:
    """Code at F000:0000 and a stack at 0:7000h."""

    def __init__(self, code: str, *words: int, bp: int = 0) -> None:
        self.code = bytes.fromhex(code)
        self.stack = b"".join(word.to_bytes(2, "little") for word in words)
        self.bp = bp

    def read(self, at: int, size: int) -> bytes:
        """Guest memory."""
        if at >= CODE:
            return self.code.ljust(0x100, b"\x90")[at - CODE :][:size]
        return self.stack[at - SP :][:size].ljust(size, b"\0")

    def caller(self, ip: int, start: int | None = None) -> tuple[int, int, int, int] | None:
        """IP, SP, BP and CS of the caller."""
        frame = Frame(CODE + ip, SP, self.bp, CS, CODE, 0)
        found = unwind(frame, self.read, lambda _at: None if start is None else CODE + start).caller
        return None if found is None else (found.pc - found.cs_base, found.sp, found.bp, found.cs)


BP_CODE = "e80500 90 90 90 90 90" + "55 89e5 50 5d c3"
"""call 8; at 8: push bp; mov bp, sp; push ax; ..."""


@pytest.mark.parametrize(("code", "words", "bp", "ip", "start", "caller"), [
    (BP_CODE, [3], 0x8888, 8, None, (3, SP + 2, 0x8888, CS)),
    (BP_CODE, [0x8888, 3], 0, 9, None, (3, SP + 4, 0x8888, CS)),
    (BP_CODE, [1, 0x8888, 3], SP + 2, 12, None, (3, SP + 6, 0x8888, CS)),
    (BP_CODE, [1, 0x8888, 4], SP + 2, 12, None, None),
    ("e80500 9090909090 50 51 90 59 58 c3", [1, 2, 3], 0, 10, 8, (3, SP + 6, 0, CS)),
    ("e80500 9090909090 50 51 90 59 58 c3", [3], 0, 13, 8, (3, SP + 2, 0, CS)),
    ("66e802000000 9090 6650 83ec04 90 83c404 6658 66c3", [0, 0, 1, 1, 6, 0], 0, 13, 8, (6, SP + 12, 0, CS)),
    ("9a080000f0 909090 50 58 cb", [1, 5, 0xF000], 0, 9, 8, (5, SP + 6, 0, CS)),
    ("9a080000f0 909090 50 58 cb", [5, 0xF000], 0, 8, None, (5, SP + 4, 0, CS)),
    ("cd10 909090909090 50 58 cf", [1, 2, 0xF000, 0x202], 0, 9, 8, (2, SP + 8, 0, CS)),
    ("e80500 9090909090 50 58 cf", [1, 2, 0xF000, 0x202], 0, 9, 8, (2, SP + 8, 0, CS)),
    ("e80500 9090909090 50 58 cf", [1, 2, 0xF000, 0x8202], 0, 9, 8, None),
    ("e80500 9090909090 c8040000 90 c9 c3", [0, 0, 0x8888, 3], SP + 4, 12, None, (3, SP + 8, 0x8888, CS)),
    ("e80500 9090909090 50 7403 58 c3 90 90 58 c3", [1, 3], 0, 13, 8, (3, SP + 4, 0, CS)),
    ("f4", [0x1234], 0, 0, None, None),
], ids="entry pushed body junk symbol epilogue gcc far far-entry int irq flags enter after-ret nobody".split())  # fmt: skip
def test_who_called(
    code: str, words: list[int], bp: int, ip: int, start: int | None, caller: tuple[int, int, int, int] | None
) -> None:
    assert Stack(code, *words, bp=bp).caller(ip, start) == caller


def test_the_command_prints_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gdb-init"]) == 0
    said = capsys.readouterr().out
    assert said == SCRIPT.read_text() and "register_unwinder" in said
    compile(said, "jitvm-gdb.py", "exec")
    assert cli.main(["gdb-init", "now"]) == 2


# ---- a real gdb -----------------------------------------------------------------------------------------------------
@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[..., Gdb]]:
    made: list[Vm] = []

    def start(bios: Path, *options: str) -> Gdb:
        script = tmp_path / "jitvm-gdb.py"
        script.write_text(SCRIPT.read_text())
        made.append(Vm(tmp_path, bios, "-S", *options))
        return made[-1].gdb(f"source {script}")

    yield start
    for vm in made:
        vm.close()


def functions(gdb: Gdb) -> list[str]:
    """Names of the frames' functions."""
    return [frame["func"] for frame in gdb.mi("-stack-list-frames")["stack"]]


@needs("gdb")
@pytest.mark.parametrize("arch", ["x86-64", "i386", "i8086"])
def test_frames_of_the_firmware(connect: Callable[..., Gdb], arch: str) -> None:
    gdb = connect(BIOS, "--gdb-arch", arch)
    gdb.cli("set trace-commands on")
    gdb.cli("break *&pci_read32")
    gdb.stop_of("continue")
    assert functions(gdb)[:4] == ["pci_read32", "power_present", "power_init", "post"]
    said = gdb.cli("bt").rstrip().split("\n")
    assert said[-2].endswith(" in post ()") and said[-1].startswith("#4 ")
    for name in ("power_present", "power_init"):
        gdb.stop_of("finish")
        assert functions(gdb)[0] == name and "post" in functions(gdb)[1:]
    gdb.cli("up")
    assert gdb.value("$cs_base") == 0xF0000


@needs("gdb")
def test_frames_without_symbols_and_steps_over_calls(connect: Callable[..., Gdb], tmp_path: Path) -> None:
    # 0: mov sp,7000h; mov bp,0; call 20h; nop; jmp $    20: push bp; mov bp,sp; call 30h; pop bp; ret
    # 30: push bp; mov bp,sp; inc ax; pop bp; ret
    code = "bc0070 bd0000 e81700 90 ebfe" + "90" * 20 + "55 89e5 e80a00 5d c3" + "90" * 8 + "55 89e5 40 5d c3"
    gdb = connect(rom(tmp_path, code))
    for _ in range(3):
        gdb.stop_of("stepi")
    assert gdb.pc() == 0xF0006
    gdb.stop_of("nexti")
    assert gdb.pc() == 0xF0009 and gdb.value("$rax") == 1
    gdb.cli("set $pc = 0xf0006")
    gdb.cli("break *0xf0033")
    gdb.stop_of("continue")
    frames = [int(frame["addr"], 16) for frame in gdb.mi("-stack-list-frames")["stack"]]
    assert frames == [0xF0033, 0xF0026, 0xF0009]
    gdb.stop_of("finish")
    assert gdb.pc() == 0xF0026
    gdb.stop_of("finish")
    assert gdb.pc() == 0xF0009


@needs("gdb")
def test_tables_as_commands(connect: Callable[..., Gdb]) -> None:
    gdb = connect(BIOS)
    assert gdb.cli("pagewalk $pc").endswith("physical fffffff0\n")
    assert gdb.cli("gdt").startswith("GDT at ") and gdb.cli("idt").startswith("IDT at ")
    assert "no LDT" in gdb.cli("ldt") and "shows no text" in gdb.cli("screen")
