"""x87 and SSE registers as gdb sees them: in the order of the stack, with a true tag word, all of them written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gdbstub import registers
from gdbstub.errors import TargetError
from gdbstub.session import Session
from jitvm.gdb_registers import GENERAL
from tests.boot.guests import rom
from tests.gdb.bench import bench
from tests.gdb.vm import Start
from tests.needs import needs

ONE, MINUS_TWO, PI = 0x3FFF_8000000000000000, 0xC000_8000000000000000, 0x4000_C90FDAA22168C235
ZERO, INFINITY, DENORMAL, UNNORMAL = 0, 0x7FFF_8000000000000000, 1, 0x3FFF_0000000000000001
ARCHS = ["x86-64", "i386", "i8086"]


@pytest.mark.parametrize("arch", ARCHS)
def test_the_stack_the_tags_and_the_words(tmp_path: Path, arch: str) -> None:
    with bench(rom(tmp_path, "ebfe"), arch) as b:
        c = b.machine.vcpus[0].engine.c
        values = [ONE, PI, ZERO, INFINITY, DENORMAL, UNNORMAL, MINUS_TWO, ONE]
        for n, value in enumerate(values):
            c.fpr[2 * n], c.fpr[2 * n + 1] = value & (1 << 64) - 1, value >> 64
        c.fsw, c.fpu_used = 6 << 11, 0b0111_1111
        assert [b.read(f"st{n}") for n in range(8)] == [values[6 + n & 7] for n in range(8)]
        assert b.read("ftag") == 0b11_00_10_10_10_01_00_00
        assert b.read("fstat") == 0x3000
        b.write({"st0": PI, "st7": MINUS_TWO})
        assert (int(c.fpr[12]), int(c.fpr[13])) == (PI & (1 << 64) - 1, PI >> 64), "ST(0) is R6"
        assert b.read("st7") == MINUS_TWO == int(c.fpr[10]) | int(c.fpr[11]) << 64, "ST(7) is R5"


def test_a_tag_word_says_what_is_empty(tmp_path: Path) -> None:
    with bench(rom(tmp_path, "ebfe")) as b:
        b.write({"ftag": 0xFFFF})
        assert b.read("ftag") == 0xFFFF and int(b.machine.vcpus[0].engine.c.fpu_used) == 0
        b.write({"ftag": 0xFFFE, "st0": ONE})
        assert b.read("ftag") == 0xFFFC, "of a full register the tag is made from its contents"


def test_the_summary_of_exceptions_follows(tmp_path: Path) -> None:
    with bench(rom(tmp_path, "ebfe")) as b:
        b.write({"fctrl": 0x37F})
        b.write({"fstat": 0x8081})
        assert b.read("fstat") == 1, "invalid operation is masked"
        b.write({"fctrl": 0x37E})
        assert b.read("fstat") == 0x8081 and b.read("fctrl") == 0x37E


@pytest.mark.parametrize("arch", ARCHS)
def test_every_register_keeps_what_is_written(tmp_path: Path, arch: str) -> None:
    """By number, all of a layout, each with the bits that the processor has."""
    kept: dict[str, int] = {
        "eflags": 0x247, "cs": 0xF000, "cr0": 0x6000_0010, "cr0_bits": 0x6000_0010, "cr4": 0x10, "cr4_bits": 0x90,
        "efer": 1, "efer_bits": 0x801, "fctrl": 0x27F, "fstat": 0x3800, "ftag": 0xFFFF, "mxcsr": 0x1F80, "cr8": 5,
        "dr6": 0xFFFF_0FF1, "dr6_bits": 0xFFFF_4FF0, "dr7": 0x401, "dr7_bits": 0x702, "ip": 0x34, "rip": 0xFFFF_1234,
        "eip": 0xFFFF_1234, "fop": 0x123, "cs_base": 0xF0000, "cs_limit": 0xFFFF, "cs_attr": 0x93, "gdtr_limit": 0x47,
        "idtr_limit": 0x3FF,
    }  # fmt: skip
    with bench(rom(tmp_path, "ebfe"), arch) as b:
        for register in b.target.layout.registers:
            name = register.name
            if register.view_of:
                continue
            value = kept.get(name, int.from_bytes(bytes(range(0x11, 0x11 + register.size)), "little"))
            if name[1:] in GENERAL and arch == "x86-64":
                value &= 0xFFFF_FFFF  # what 16-bit code has of it
            if name.endswith("_attr"):
                value = 0x93
            if name in "cs ss ds es fs gs ldtr tr".split():
                value &= 0xFFFF
            if name in ("fiseg", "foseg"):
                value &= 0xFFFF
            before: Any = b.read(name)
            b.write({name: value})
            assert b.read(name) == value or name == "tsc", f"{name}: {b.read(name):#x}, was {before:#x}"


def test_the_x87_pointers_of_64_bit_code_are_whole(tmp_path: Path) -> None:
    """`fioff` and `fooff` are their lower halves, and leave the upper ones alone; a G packet restores all."""
    high = 0xFFFF_8000_0000_1234
    with bench(rom(tmp_path, "ebfe")) as b:
        session = Session(b.target)
        session.connect()
        numbers = b.target.layout.numbers
        b.write({"fip": high, "fdp": high + 1})
        assert registers.read_one(session, 1, numbers["fioff"]) == bytes.fromhex("34120000")
        registers.write_one(session, 1, numbers["fooff"], bytes.fromhex("78563412"))
        assert b.read("fip") == high and b.read("fdp") == 0xFFFF_8000_1234_5678
        session.client.described = True
        whole = b"".join(value or b"" for value in registers.read_all(session, 1))
        b.write({"fip": 0, "fdp": 0, "rax": 7})
        registers.write_all(session, 1, whole)
        assert (b.read("fip"), b.read("fdp"), b.read("rax")) == (high, 0xFFFF_8000_1234_5678, 0)
        session.disconnect()


def test_reserved_bits_of_mxcsr_are_refused(tmp_path: Path) -> None:
    with bench(rom(tmp_path, "ebfe")) as b, pytest.raises(TargetError, match="mxcsr"):
        b.write({"mxcsr": 0x1_1F80})


@needs("gdb")
@pytest.mark.parametrize("arch", ARCHS)
def test_real_gdb_shows_and_writes_them(boot: Start, tmp_path: Path, arch: str) -> None:
    gdb = boot(rom(tmp_path, "ebfe"), "-S", "--gdb-arch", arch).gdb()
    for command in (
        *("set $fctrl = 0x37f", "set $fstat = 0x3800", "set $ftag = 0x3fff", "set $st0 = 3.5", "set $mxcsr = 0x9fc0"),
        *("set $xmm3.v4_float[1] = 1.25", "set $xmm7.v2_int64[0] = 0x1122334455667788", "set $fop = 0x5c1"),
        *("set $fioff = 0xf1234", "set $fiseg = 0xf000", "set $foseg = 0x40", "set $fooff = 0x6c"),
    ):
        gdb.cli(command)
    gdb.cli("maintenance flush register-cache")
    assert gdb.cli("info float").splitlines() == [
        "=>R7: Valid   0x4000e000000000000000 +3.5                       ",
        *(f"  R{n}: Empty   0x00000000000000000000" for n in range(6, -1, -1)),
        "",
        "Status Word:         0x3800                                            ",
        "                       TOP: 7",
        "Control Word:        0x037f   IM DM ZM OM UM PM",
        "                       PC: Extended Precision (64-bits)",
        "                       RC: Round to nearest",
        "Tag Word:            0x3fff",
        "Instruction Pointer: 0xf000:0x000f1234",
        "Operand Pointer:     0x40:0x0000006c",
        "Opcode:              0xddc1",
    ]
    assert gdb.cli("p $mxcsr").strip().endswith("= [ DAZ IM DM ZM OM UM PM FZ ]")
    assert gdb.cli("p $xmm3.v4_float").strip().endswith("= {0, 1.25, 0, 0}")
    assert "0x1122334455667788" in gdb.cli("p/x $xmm7.v2_int64[0]")
    every = gdb.cli("info all-registers")
    assert "<unavailable>" not in every and "xmm7" in every and ("xmm15" in every) == (arch == "x86-64")
