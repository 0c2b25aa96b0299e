"""What gdb is told of the address space."""

from __future__ import annotations

from pathlib import Path

from jitvm.gdb_memory import HOLE, memory_map
from jitvm.machine import Machine
from tests.boot.guests import config, rom


def test_rom_ram_and_the_hole(tmp_path: Path) -> None:
    with Machine(config(rom(tmp_path, "90"))) as m:
        regions = {region.start: (region.size, region.kind) for region in memory_map(m.memory)}
    assert regions == {
        0: (0xF0000, "ram"),
        0xF0000: (0x10000, "rom"),
        0x100000: (HOLE[0] - 0x100000, "ram"),
        HOLE[1]: (0xFFFF0000 - HOLE[1], "ram"),
        0xFFFF0000: (0x10000, "rom"),
    }


def test_shadow_ram_is_ram(tmp_path: Path) -> None:
    # 59h of the host bridge, PAM0: reads and writes of F0000h go to RAM
    code = "66b8 58000080 66ba f80c0000 66ef ba fd0c b0 30 ee f4"
    with Machine(config(rom(tmp_path, code))) as m:
        before = memory_map(m.memory)
        m.run(7)
        after = memory_map(m.memory)
    assert [r.start for r in before if r.kind == "rom"] == [0xF0000, 0xFFFF0000]
    assert [r.start for r in after if r.kind == "rom"] == [0xFFFF0000]
    for regions in (before, after):
        ends = [r.start + r.size for r in regions]
        assert all(end <= r.start for end, r in zip(ends, regions[1:], strict=False)) and ends[-1] == 1 << 32
