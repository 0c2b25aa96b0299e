"""x87 values of regions: random loops of x87 instructions end as on the plain engine, cut at random counts.

The body of a loop leaves the stack as it found it.  What is compared is the whole state: registers in use and their
contents, control and status word with C1, the last instruction, general registers, flags, memory.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import pytest

from jitvm.bare import Bare
from jitvm.engine.accel import Options
from jitvm.engine.region_pages import busiest
from tests.engine.grown import note_grown
from tests.engine.guest import same
from tests.engine.programs import loaded
from tests.engine.test_counts import check
from tests.fast_set import share
from tests.isa.x87_cases import real
from tests.isa.x87_state import Fx
from tests.oracle import fx

CODE, DATA = 0x1000, 0x8000
SOON = Options(hot=1, region_hot=2, drops=4, sync=True, count=True)
TURNS = 14
DS, ESI, ABSENT = 3, 6 * 8, 16 * 8
"""Segment register, and offsets of registers, of an access by [ESI]."""

BINARY = tuple(range(8))
"""ModRM.reg of D8: FADD FMUL FCOM FCOMP FSUB FSUBR FDIV FDIVR."""
FUNCTIONS = (0xE0, 0xE1, 0xE4, 0xFA, 0xFC)
"""FCHS FABS FTST FSQRT FRNDINT."""
OUT_OF_LINE = (0xE5, 0xFD, 0xFE, 0xF5)
"""FXAM FSCALE FSIN FPREM1."""
PUSHES = ((0xD9, 0), (0xDD, 0), (0xDB, 0), (0xDF, 0), (0xDF, 5), (0xDB, 5))
POPS = ((0xD9, 3), (0xDD, 3), (0xDB, 3), (0xDF, 7), (0xDB, 7), (0xD8, 3), (0xDA, 3), (0xDC, 3), (0xDE, 3))
"""(escape, ModRM.reg) of memory forms that push and pop."""


class Body:
    """Random instructions for a stack of known depth."""

    def __init__(self, rng: random.Random, depth: int, *, out_of_line: bool = False) -> None:
        self.rng, self.depth, self.first, self.code = rng, depth, depth, b""
        self.out_of_line = out_of_line

    def memory(self, escape: int, reg: int) -> bytes:
        """A form with [ESI + disp8] or [EBX]."""
        if self.rng.random() < 0.5:
            return bytes([escape, 0x46 | reg << 3, self.rng.randrange(0, 0x40, 8)])
        return bytes([escape, 0x03 | reg << 3])

    def add(self) -> None:
        """One more instruction."""
        rng, deep = self.rng, self.depth
        i = rng.randrange(deep)
        choices = [bytes([0xD8, 0xC0 | reg << 3 | i]) for reg in BINARY if reg != 3]
        choices += [bytes([0xDC, 0xC0 | reg << 3 | i]) for reg in (0, 1, 4, 5, 6, 7)]
        choices += [self.memory(escape, reg) for escape in (0xD8, 0xDA, 0xDC, 0xDE) for reg in BINARY if reg != 3]
        choices += [bytes([0xD9, modrm]) for modrm in FUNCTIONS]
        choices += [bytes([0xD9, 0xC8 | i]), bytes([0xDD, 0xD0 | i]), bytes([0xDD, 0xE0 | i])] * 4
        choices += [bytes([escape, 0xC0 | rng.randrange(4) << 3 | i]) for escape in (0xDA, 0xDB)]
        choices += [self.memory(*form) for form in ((0xD9, 2), (0xDD, 2), (0xDB, 2), (0xDF, 2))]
        choices += [bytes([0xDB, modrm | i]) for modrm in (0xE8, 0xF0)] * 2
        choices += [b"\xd9\x7e\x50", b"\xd9\x6e\x60", b"\xd9\x6e\x62", b"\x9c\x5a"]  # FNSTCW, FLDCW; PUSHF, POP EDX
        choices += [b"\xdf\xe0", b"\xd9\xd0", b"\x9b", b"\x01\xc2", b"\x40", b"\xd3\xe2", b"\xfc", b"\x0f\x31"] * 2
        if deep < 7:
            choices += [bytes([0xD9, 0xC0 | i]), bytes([0xD9, 0xE8 + rng.randrange(7)])] * 6
            choices += [self.memory(*form) for form in PUSHES] * 2
        if deep > 2:
            choices += [bytes([0xDE, 0xC0 | reg << 3 | rng.randrange(1, deep)]) for reg in (0, 1, 4, 5, 6, 7)]
            choices += [bytes([0xDD, 0xD8 | rng.randrange(1, deep)]), bytes([0xD8, 0xD8 | i]), bytes([0xDD, 0xE8 | i])]
            choices += [self.memory(*form) for form in POPS]
            choices += [bytes([0xDF, modrm | i]) for modrm in (0xE8, 0xF0)]
        if deep > 3:
            choices += [b"\xde\xd9", b"\xda\xe9"]
        if self.out_of_line and deep > 1:
            choices = [bytes([0xD9, modrm]) for modrm in OUT_OF_LINE]
            self.out_of_line = False
        chosen = rng.choice(choices)
        self.code += chosen
        self.depth += grows(chosen)

    def close(self) -> bytes:
        """The body, with the stack as it was at its beginning."""
        while self.depth > self.first:
            self.code += b"\xdd\xd8"
            self.depth -= 1
        while self.depth < self.first:
            self.code += self.rng.choice((b"\xd9\xe8", b"\xd9\xeb"))
            self.depth += 1
        return self.code


def grows(code: bytes) -> int:
    """How much an instruction pushes."""
    escape, modrm = code[0], code[1] if len(code) > 1 else 0
    reg, memory = modrm >> 3 & 7, modrm < 0xC0
    if not 0xD8 <= escape <= 0xDF:
        return 0
    if code in (b"\xde\xd9", b"\xda\xe9"):
        return -2
    if escape == 0xD9 and (0xC0 <= modrm < 0xC8 or 0xE8 <= modrm < 0xEF):
        return 1
    if memory:
        return ((escape, reg) in PUSHES) - ((escape, reg) in POPS)
    if code == b"\xdf\xe0":
        return 0
    return -int(escape in (0xDE, 0xDF) or (escape, reg) in {(0xDD, 3), (0xDD, 5), (0xD8, 3)})


def program(rng: random.Random, depth: int, *, out_of_line: bool) -> bytes:
    """`mov ecx, TURNS; again: ...; dec ecx; jnz again; hlt`, sometimes with a jump inside."""
    first, second = (Body(rng, depth, out_of_line=out_of_line and k == 1) for k in range(2))
    for body in (first, second):
        for _ in range(rng.randrange(2, 9)):
            body.add()
    a, b = first.close(), second.close()
    skip = b"\xf6\xc1\x01" + bytes([0x74, len(b)]) + b  # test cl, 1; jz over the second
    loop = a + skip + b"\x49"
    back = -(len(loop) + 6)
    return b"\xb9" + struct.pack("<I", TURNS) + loop + b"\x0f\x85" + struct.pack("<i", back) + b"\xf4"


def memory(rng: random.Random, control: int) -> bytes:
    """What lies at DATA: numbers, and the control words that are loaded, one of them given."""
    numbers = [struct.pack("<d", rng.uniform(-9, 9)) if rng.random() < 0.7 else rng.randbytes(8) for _ in range(16)]
    data = b"".join(numbers)
    return data[:0x60] + struct.pack("<HH", 0x37F, control) + data[0x64:]


def machine(engine: str, code: bytes, state: Fx, data: bytes) -> Bare:
    """A machine that is about to run the program."""
    bare = Bare(engine, 1 << 16, options=SOON if engine == "regions" else None)
    bare.vcpu.set_cpu("max")
    bare.set_mode("prot32")
    bare.write(CODE, code)
    bare.write(DATA, data)
    bare.set_registers({"eip": CODE, "esi": DATA, "ebx": DATA + 0x40, "eax": 0x1234, "edx": 5, "esp": 0x9000})
    fx.put(bare.c, state.pack())
    return bare


def everything(bare: Bare) -> tuple[object, ...]:
    """What is compared."""
    c = bare.c
    return (
        bare.registers(),
        fx.take(c).hex(),
        (int(c.fcs), int(c.fds)),
        bare.read(DATA, 0x80).hex(),
        bare.vcpu.retired(),
    )


def compare(code: bytes, state: Fx, data: bytes, cuts: Sequence[int]) -> int:
    """Run on both engines, stopping at the same counts; the instructions that ran in regions."""
    plain, fast = machine("plain", code, state, data), machine("regions", code, state, data)
    for n in cuts:
        a, b = plain.run(n), fast.run(n)
        assert a == b, (code.hex(), a, b)
        assert everything(fast) == everything(plain), code.hex()
    return int(fast.c.stat_region_insns)


def start(rng: random.Random, *, masks: int = 0x3F) -> tuple[Fx, int]:
    """A state, and the depth of its stack."""
    depth, top = rng.randrange(2, 7), rng.randrange(8)
    used = sum(1 << ((top + k) & 7) for k in range(depth))
    control = rng.choice((0x37F, 0x37F, 0x40 | masks | rng.getrandbits(2) << 8 | rng.getrandbits(2) << 10))
    flags = rng.choice((0, 0x20, rng.getrandbits(7))) & (control & 0x3F | 0x40)
    fsw = flags | top << 11 | rng.getrandbits(3) << 8 | rng.getrandbits(1) << 14
    return Fx(control, fsw, used, 0, 0, 0, [real(rng) for _ in range(8)]), depth


@pytest.mark.parametrize("seeds", share([range(4), range(100, 200)], 1))
def test_random_loops(seeds: range) -> None:
    in_regions = 0
    for seed in seeds:
        rng = random.Random(seed)
        state, depth = start(rng)
        code = program(rng, depth, out_of_line=seed % 4 == 0)
        data = memory(rng, rng.choice((0x27F, 0xF7F, 0xC7F, 0x37E)))
        cuts = [rng.randrange(1, 40) for _ in range(6)] + [5000]
        in_regions += compare(code, state, data, cuts)
    assert in_regions > 20 * len(seeds)


def test_the_flags_of_a_compare_are_kept_by_what_keeps_carry() -> None:
    """FUCOMI, then DEC: the CF that DEC keeps is the compare's, not an older one's."""
    for first in (b"\xd9\xe8\xd9\xee", b"\xd9\xee\xd9\xe8"):  # fld1; fldz: less; the other way round: greater
        body = first + b"\x31\xc0\xdb\xe9\x49"  # xor eax, eax; fucomi st(1); dec ecx
        pops = b"\xdd\xd8\xdd\xd8"  # fstp st(0), twice
        code = (
            b"\xb9"
            + struct.pack("<I", TURNS)
            + body
            + pops
            + b"\x75"
            + struct.pack("b", -len(body + pops) - 2)
            + b"\xf4"
        )
        assert compare(code, Fx(0x37F, 0, 0, 0, 0, 0, [(0, 0)] * 8), bytes(0x80), [5000]) > 20


def test_an_unmasked_exception_in_a_loop() -> None:
    for seed in range(4):
        rng = random.Random(f"unmasked {seed}")
        state, depth = start(rng, masks=rng.choice((0x3E, 0x3B, 0x1F, 0)))
        code = program(rng, depth, out_of_line=False)
        compare(code, state, memory(rng, 0x37F), [7, 30, 5000])


def test_a_stack_that_stands_otherwise_than_when_the_region_was_grown() -> None:
    """The same loop is run with another TOP: it goes on in handlers."""
    rng = random.Random(9)
    code = program(rng, 3, out_of_line=False)
    data = memory(rng, 0x27F)
    plain, fast = (machine(engine, code, Fx(), data) for engine in ("plain", "regions"))
    for top in (2, 2, 5, 7):
        used = sum(1 << ((top + k) & 7) for k in range(3))
        state = Fx(0x37F, top << 11, used, st=[real(rng) for _ in range(8)])
        for bare in (plain, fast):
            bare.set_registers({"eip": CODE})
            fx.put(bare.c, state.pack())
            assert bare.run(5000).reason == "hlt"
        assert everything(fast) == everything(plain)


LAST_OPERAND = """
 fninit
 mov cx, 40
again:
 mov ax, cx
 and ax, 3
 mov es, ax
 fild word ptr es:[0x8100]
 fistp word ptr [0x8108]
 fild word ptr es:[0x8110]
 fstp st(0)
 dec cx
 jnz again
 hlt
"""


def test_the_selector_of_the_last_operand_is_the_one_that_was_loaded() -> None:
    """In real mode a segment register is loaded within the region."""
    plain, fast = loaded("plain", LAST_OPERAND, 16), loaded("handlers", LAST_OPERAND, 16, SOON)
    for n in (60, 5000):
        assert plain.go(n) == fast.go(n)
        same(fast.state(), plain.state(), str(n))
        assert int(fast.c.fds) == int(plain.c.fds)
    assert fast.c.stat_region_insns > 100


ONTO_CODE = """
 fninit
 mov esi, 0x8000
 mov ecx, 60
again:
 mov [0x9000], ecx
 fild dword ptr [esi]
 fild dword ptr [0x9000]
 faddp st(1), st
 fistp dword ptr [esi + 4]
 cmp ecx, 30
 jne skip
 mov esi, offset helper - 3
skip:
 cmp ecx, 15
 jne on
 call helper
 mov edx, [helper - 4]
on:
 dec ecx
 jnz again
 call helper
 hlt
.org 0x1000
 nop
 nop
 nop
 nop
helper:
 mov eax, 0x11223344
 add ebx, eax
 ret
"""


def test_a_store_shares_only_look_ups_of_pages_that_may_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load and store have the same base register; when the operand moves to a page with code, the store must be seen."""
    grown = note_grown(monkeypatch)
    check(ONTO_CODE, 32, Options(hot=1, region_hot=2, drops=4, sync=True), 60)
    assert grown and all(busiest(found.nodes)[(DS, ESI, ABSENT)] for found in grown)
