"""REP INS that overwrites its own bytes: the instruction is fetched again, whatever the budget was.

The device hands out instructions of one byte, which the guest then runs.  Each run is made in one go on the plain
engine, on handlers and on machine code, and on these with a cut at every count; all must be equal at every cut.
"""

from __future__ import annotations

import random

import pytest

from tests.engine.guest import CODE, Access, Device, Guest, same
from tests.engine.programs import prepare
from tests.engine.test_counts import LIMIT, Restart, to_the_end
from tests.fast_set import share

NOP, INC_EAX, INC_EBX, CLC, REP, INSB, INSD = 0x90, 0x40, 0x43, 0xF8, 0xF3, 0x6C, 0x6D
INSTRUCTIONS = (NOP, INC_EAX, INC_EBX, CLC, REP, INSB, INSD)
HOME = CODE + 0x40
"""Where the REP INS stands; NOPs before it, room and HLT behind it."""


class Script(Device):
    """Reads give bytes of `script`, so many as asked for, then NOPs."""

    def __init__(self, script: bytes) -> None:
        super().__init__()
        self.script = script

    def read(self, kind: str, address: int, size: int) -> int:
        at = sum(access.size for access in self.seen)
        value = int.from_bytes(self.script[at : at + size].ljust(size, bytes([NOP])), "little")
        self.seen.append(Access(kind, False, address, size, value))
        return value


def guest_of(engine: str, home: int, ins: str, first: int, count: int, down: bool, script: bytes) -> Guest:
    """A guest that reads `count` elements to `first`, counted from the instruction, which is at `home`."""
    source = f"""
     mov dx, 0x60
     mov ecx, {count}
     mov edi, {home + first}
     {"std" if down else "cld"}
     jmp 1f
     .org {home - CODE - 12}, 0x90
    1: .org {home - CODE}, 0x90
     rep {ins}
     .fill 160, 1, 0x90
     hlt
    """
    guest = Guest(engine)
    prepare(guest, 32)
    guest.device = Script(script)
    guest.load(source, CODE, 32)
    return guest


def check(home: int, ins: str, first: int, count: int, down: bool, script: bytes) -> Guest:
    """All ways of cutting; the plain engine's guest at the end."""
    what = f"{ins} {count} to {first:+d} {'down' if down else 'up'}, {script.hex()}, "
    plain = guest_of("plain", home, ins, first, count, down, script)
    to_the_end(plain, LIMIT)
    end = plain.state()
    slow = guest_of("plain", home, ins, first, count, down, script)
    while slow.go(1) == "limit":
        assert slow.retired < LIMIT
    same(slow.state(), end, what + "plain, one at a time")
    for engine in ("handlers", "stencils", "pinned"):
        guest = guest_of(engine, home, ins, first, count, down, script)
        again = Restart(guest)
        to_the_end(guest, LIMIT)
        same(guest.state(), end, f"{what}{engine} in one go")
        for k in range(1, plain.retired):
            again()
            assert guest.go(k) == "limit"
            to_the_end(guest, LIMIT)
            same(guest.state(), end, f"{what}{engine}, {k} and the rest")
    return plain


def test_the_first_element_that_overwrites_it_is_the_last_of_the_old_instruction() -> None:
    script = bytes([INC_EBX, INC_EBX, NOP, INC_EAX, INC_EAX, INC_EAX])
    plain = check(HOME, "insb", -2, 6, False, script)
    registers = plain.bare.registers()
    assert registers["ecx"] == 3, "three elements: the third made REP a NOP"
    assert registers["edi"] == HOME + 2, "what was left of it, INSB alone, ran once and overwrote itself"
    assert plain.bare.read(HOME - 2, 5) == bytes([INC_EBX, INC_EBX, NOP, INC_EAX, NOP])
    assert registers["eax"] == 0, "which is not run, as it lies behind"


@pytest.mark.parametrize("home", [HOME, 0x1FFF], ids=["in a page", "over a page border"])
@pytest.mark.parametrize("seed", share(range(8), 2))
def test_any_place_and_bytes(seed: int, home: int) -> None:
    rng = random.Random(f"{seed} {home}")
    for _ in range(2):
        ins, size = rng.choice((("insb", 1), ("insw", 2), ("insd", 4)))
        down = rng.random() < 0.4
        first = rng.randrange(2, 10) if down else rng.randrange(-10, 3)
        script = bytes(rng.choices(INSTRUCTIONS, k=48))
        check(home, ins, first, rng.randrange(2, 2 + 40 // size), down, script)
