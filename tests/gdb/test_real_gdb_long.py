"""An unmodified gdb through the switch to long mode and in 64-bit code at high addresses."""

from __future__ import annotations

import pytest

from tests.gdb.programs import Program, long_program
from tests.gdb.vm import RESET, Start
from tests.gdbstub.real_gdb import Gdb, GdbError
from tests.needs import needs

pytestmark = needs("gdb", "gcc")
HIGH = 0xFFFF_8000_0000_0000


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return long_program(tmp_path_factory.mktemp("program"))


@pytest.fixture
def gdb(boot: Start, program: Program) -> Gdb:
    """At the reset vector, with the program's symbols."""
    return boot(program.image, "-S").gdb(f"file {program.elf}")


def enter(gdb: Gdb, program: Program) -> None:
    """To the first instruction at a high address."""
    gdb.cli(f"hbreak *{HIGH + program.symbols['high']:#x}")
    assert gdb.stop_of("continue")["reason"] == "breakpoint-hit" and gdb.pc() == HIGH + program.symbols["high"]
    gdb.cli("delete")


def test_one_session_from_real_mode_to_64_bit_code(gdb: Gdb, program: Program) -> None:
    modes = []
    assert gdb.pc() == RESET
    for _ in range(40):
        modes.append(
            next(m for m in ("real16", "prot16", "prot32", "compat32", "long64") if m in gdb.cli("info threads"))
        )
        if modes[-1] == "long64":
            break
        gdb.stop_of("stepi")
    assert list(dict.fromkeys(modes)) == ["real16", "prot16", "prot32", "compat32", "long64"]
    assert gdb.pc() == program.symbols["start64"] and "[ LME LMA ]" in gdb.cli("p $efer_bits")
    assert "movabs $0xffff800000000000,%rax" in gdb.cli("x/i $pc")


def test_64_bit_registers_are_read_and_written(gdb: Gdb, program: Program) -> None:
    enter(gdb, program)
    assert gdb.value("$rsp") == HIGH + 0x8000
    gdb.stop_of("stepi 5")
    assert gdb.value("$r9") == 0x1122334455667788 and "0x1122334455667788" in gdb.cli("p/x $xmm3.v2_int64[0]")
    assert "=>R7: Valid   0x4000c90fdaa22168c235 +3.14159265358979323" in gdb.cli("info float")
    values = {"rax": 0x123456789ABCDEF0, "r15": (1 << 64) - 2, "fs_base": HIGH + 0x1000, "gs_base": 0x7FFF_0000_0000}
    values |= {"k_gs_base": HIGH, "cr8": 5, "pc": HIGH + program.symbols["high"]}
    for name, value in values.items():
        gdb.cli(f"set ${name} = {value:#x}")
    gdb.cli("maintenance flush register-cache")
    assert {name: gdb.value(f"${name}") for name in values} == values
    with pytest.raises(GdbError, match=r"canonical|Could not write"):
        gdb.cli("set $pc = 0x800000000000")
    gdb.stop_of("stepi")
    assert gdb.pc() == HIGH + program.symbols["high"] + 10


def test_breakpoints_frames_and_watchpoints_in_64_bit_code(gdb: Gdb, program: Program) -> None:
    enter(gdb, program)
    gdb.cli(f"hbreak *{HIGH + program.symbols['main']:#x}")
    assert gdb.stop_of("continue")["reason"] == "breakpoint-hit" and gdb.pc() == HIGH + program.symbols["main"]
    gdb.cli("break leaf")
    for n in range(3):
        assert gdb.stop_of("continue")["frame"]["args"][0] == {"name": "a", "value": str(n)}
    assert "middle (n=2)" in gdb.cli("bt")
    gdb.cli("delete")
    gdb.cli("watch counter")
    hit = gdb.stop_of("continue")
    assert hit["reason"] == "watchpoint-trigger" and hit["value"] == {"old": "5", "new": "9"}
    gdb.cli("delete")
    gdb.cli(f"watch *(int *) {HIGH + program.symbols['counter']:#x} if 0")
    gdb.cli("tbreak leaf")
    assert gdb.stop_of("continue")["frame"]["func"] == "leaf", "a watchpoint is of linear addresses"
    gdb.cli("delete")
    assert gdb.stop_of("finish")["reason"] == "function-finished"
    assert gdb.stop_of("next")["reason"] == "end-stepping-range"


def test_memory_by_4_level_paging(gdb: Gdb, program: Program) -> None:
    enter(gdb, program)
    assert gdb.memory(HIGH + program.symbols["gdt"], 48) == gdb.memory(program.symbols["gdt"], 48)
    gdb.cli(f"set {{long}}{HIGH + 0x3000:#x} = 0x1122334455667788")
    assert gdb.memory(0x3000, 8) == 0x1122334455667788.to_bytes(8, "little")
    for address in (0x80_0000, HIGH + 0x20_0000, 1 << 47, (1 << 64) - 8):
        with pytest.raises(GdbError, match=r"Cannot access memory|Unable to read"):
            gdb.cli(f"x/gx {address:#x}")
    said = gdb.cli(f"monitor pagewalk {HIGH + 0x8000:#x}")
    for words in (
        "PML4E at 00010800",
        "PDPTE at 00011000",
        "PDE at 00012000",
        "2 MiB page at 00000000",
        "physical 00008000",
    ):
        assert words in said
    tables = gdb.cli("monitor gdt")
    assert "0018: 64-bit code" in tables and "0020: 64-bit TSS, free, base ffff800000010000" in tables
