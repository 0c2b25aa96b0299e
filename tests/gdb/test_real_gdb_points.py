"""Watchpoints, steps over ranges and the guest's debug registers under an unmodified gdb."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot.guests import IMAGES, rom
from tests.gdb.bench import symbol
from tests.gdb.vm import START, Start, interrupt, let_run
from tests.needs import needs

pytestmark = needs("gdb")
BENCHES = IMAGES / "bench"
LOOP = "b96400 a30005 ff060205 e2f7 a10205 ebf1"
"""0: mov cx, 100; 3: mov [500h], ax; 6: inc word [502h]; a: loop 3; c: mov ax, [502h]; f: jmp 2"""


@pytest.mark.parametrize(("command", "reason", "pc"), [
    ("watch", "watchpoint-trigger", START + 10),
    ("rwatch", "read-watchpoint-trigger", START + 10),
    ("awatch", "access-watchpoint-trigger", START + 10),
])  # fmt: skip
def test_watchpoints(boot: Start, tmp_path: Path, command: str, reason: str, pc: int) -> None:
    gdb = boot(rom(tmp_path, LOOP), "-S").gdb()
    gdb.cli(f"{command} *(unsigned short *)0x502")
    for n in range(1, 6):
        stop = gdb.stop_of("continue")
        assert stop["reason"] == reason and gdb.pc() == pc
        assert gdb.value("*(unsigned short *)0x502") == n
    gdb.cli("delete")
    assert interrupt(gdb, let_run(gdb)) < 5


@pytest.mark.slow
def test_a_watchpoint_in_hot_code(boot: Start) -> None:
    """An array is sorted at full speed; each change of its last word stops, with its old and new value."""
    elf = BENCHES / "quicksort.elf"
    gdb = boot(BENCHES / "quicksort.bin", "-S").gdb()
    gdb.cli(f"hbreak *{symbol(elf, 'bench'):#x}")
    assert gdb.stop_of("continue")["reason"] == "breakpoint-hit"
    gdb.cli("delete")
    at = symbol(elf, "words") + 4 * 100
    gdb.cli(f"watch *(unsigned *){at:#x}")
    last = gdb.value(f"*(unsigned *){at:#x}")
    for _ in range(30):
        stop = gdb.stop_of("continue")
        assert stop["reason"] == "watchpoint-trigger" and int(stop["value"]["old"]) == last
        last = gdb.value(f"*(unsigned *){at:#x}")
        assert int(stop["value"]["new"]) == last
        assert symbol(elf, "quicksort") < gdb.pc() < symbol(elf, "payload_end")


def test_many_watchpoints_of_any_length(boot: Start, tmp_path: Path) -> None:
    gdb = boot(rom(tmp_path, LOOP), "-S").gdb()
    for n in range(20):
        gdb.cli(f"watch *(char (*)[100]){0x10000 + 200 * n:#x}")
    gdb.cli("watch *(char (*)[300])0x480")
    stop = gdb.stop_of("continue")
    assert stop["reason"] == "watchpoint-trigger" and gdb.pc() in (START + 6, START + 10)


def test_stepi_over_an_interrupt_instruction_and_a_fault(boot: Start, tmp_path: Path) -> None:
    code = "31c0 8ed8 c70618000001 c7061a0000f0 0f0b"  # vector 6 to F000:0100; ud2
    gdb = boot(rom(tmp_path, code), "-S").gdb()
    for _ in range(5):
        gdb.stop_of("stepi")
    assert gdb.pc() == START + 16
    gdb.stop_of("stepi")
    assert gdb.pc() == START + 0x100
