"""The guest's debug registers on all engines: what #DB was told, and that all else is the same.

Source: Intel SDM vol. 3, 17.2 (debug registers), 17.3.1 (#DB), 6.8.3 (MOV SS).  The same programs run on QEMU in
tests/firmware/test_debug_registers_qemu.py.
"""

from __future__ import annotations

import struct

import pytest

from tests.engine.debug_cases import CASES, DB_HANDLER, LOG, UD_HANDLER, source_of
from tests.engine.guest import CODE, Guest, same

ENGINES = ("plain", "handlers", "stencils", "regions")
MARK = struct.pack("<I", 0xE0D0E0D)


def prepared(engine: str, source: str) -> Guest:
    """A flat guest with the handlers."""
    guest = Guest(engine, deliver=True)
    for vector, at, code in ((1, 0x3000, DB_HANDLER), (6, 0x3200, UD_HANDLER)):
        guest.bare.write(0x4000 + 8 * vector, struct.pack("<HHHH", at, 8, 0x8E00, 0))
        guest.load(code, at)
    guest.bare.write(0x5008, struct.pack("<QQ", 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF))
    guest.c.gdt_base, guest.c.gdt_limit, guest.c.idt_base, guest.c.idt_limit = 0x5000, 0x17, 0x4000, 0x3FF
    guest.load(source)
    return guest


@pytest.mark.parametrize("step", [1, 3, 10_000])
@pytest.mark.parametrize("name", CASES)
def test_log(name: str, step: int) -> None:
    states = []
    for engine in ENGINES:
        guest = prepared(engine, source_of(CASES[name]).format(finish="hlt"))
        while (end := guest.go(step)) == "limit":
            assert guest.retired < 5000
        assert end == "hlt"
        memory = guest.bare.read(CODE, 0x1000)
        at = memory.index(MARK) + 4
        n = 2 * int.from_bytes(memory[at : at + 4], "little")
        wanted = struct.unpack_from(f"<{n}I", memory, at + 4)
        count = int.from_bytes(guest.bare.read(LOG, 4), "little")
        log = struct.unpack(f"<{2 * count}I", guest.bare.read(LOG + 4, 8 * count))
        assert [hex(v) for v in log] == [hex(v) for v in wanted], engine
        states.append(guest.state())
    for state in states[1:]:
        same(state, states[0], name)
