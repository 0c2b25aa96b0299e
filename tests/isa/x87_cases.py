"""Random x87 instructions and states, weighted towards the values and places where the rules change."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

from jitvm.isa.cpuid import BUILT
from tests.isa.x87_state import Fx, Real
from tests.oracle.case import CODE_OFFSET, IF, STATUS, WINDOW, Case, Layout

ONE, TOP_BIT = 1 << 63, 1 << 63
BIAS, MOST = 0x3FFF, 0x7FFF
OPERAND = 0x2000
"""Window offset near which memory operands lie."""
MEMORY_FORMS = [
    (escape, reg)
    for escape in range(0xD8, 0xE0)
    for reg in range(8)
    if (escape, reg) not in {(0xD9, 1), (0xDB, 4), (0xDB, 6), (0xDD, 5)}
]
FISTTP = {(0xDB, 1), (0xDD, 1), (0xDF, 1)}
if "sse3" not in BUILT:
    MEMORY_FORMS = [form for form in MEMORY_FORMS if form not in FISTTP]
"""(escape, ModRM.reg) of all memory forms."""
REGISTER_FORMS = [
    (escape, modrm)
    for escape in range(0xD8, 0xE0)
    for modrm in range(0xC0, 0x100)
    if not (escape == 0xD9 and (0xD1 <= modrm <= 0xD7 or modrm in (0xE2, 0xE3, 0xE6, 0xE7, 0xEF)))
    and not (escape == 0xDA and modrm >= 0xE0 and modrm != 0xE9)
    and not (escape == 0xDB and (0xE5 <= modrm <= 0xE7 or modrm >= 0xF8))
    and not (escape == 0xDD and modrm >= 0xF0)
    and not (escape == 0xDE and 0xD8 <= modrm <= 0xDF and modrm != 0xD9)
    and not (escape == 0xDF and (0xE1 <= modrm <= 0xE7 or modrm >= 0xF8))
]
"""(escape, ModRM) of all register forms that a CPU has, with their undocumented aliases."""
ENVIRONMENTS = {(0xD9, 4), (0xD9, 6), (0xDD, 4), (0xDD, 6)}

SPECIAL: tuple[Real, ...] = (
    (0, 0),
    (ONE, BIAS),
    (ONE, MOST),
    (ONE | ONE >> 1, MOST),
    (ONE | ONE >> 1 | 5, MOST),
    (ONE | 1, MOST),
    (ONE | 0x1234_5678, MOST),
    (1, MOST),
    (0, MOST),
    (ONE >> 1, BIAS),
    (1, 5),
    (1, 0),
    (ONE >> 1, 0),
    (ONE, 0),
    (ONE | 77, 0),
    (ONE, 1),
    (2 * ONE - 1, 1),
    (2 * ONE - 1, MOST - 1),
    (ONE, MOST - 1),
    (2 * ONE - 1, BIAS - 1),
    (ONE | 1, BIAS),
    (ONE, BIAS + 1),
    (0xC90F_DAA2_2168_C235, BIAS),
    (0xC90F_DAA2_2168_C235, BIAS + 1),
    (ONE, BIAS + 62),
    (ONE, BIAS + 63),
    (2 * ONE - 1, BIAS + 62),
    (2 * ONE - 1, BIAS + 30),
    (ONE, BIAS + 31),
    (2 * ONE - 1, BIAS + 14),
    (ONE, BIAS + 15),
    (ONE, BIAS - 64),
    (0xDE0B_6B3A_763F_FFFF, BIAS + 59),
)
"""Zero, one, infinity, NaNs, what is no number, denormals, limits of the formats, pi, 10^18."""
SPECIAL_32 = (0, 0x3F80_0000, 0x7F80_0000, 0x7FC0_0000, 0x7FC0_0123, 0x7F80_0001, 1, 0x7F_FFFF, 0x80_0000, 0x7F7F_FFFF)
SPECIAL_64 = (
    *(struct.unpack("<Q", struct.pack("<d", x))[0] for x in (0.0, 1.0, float("inf"), 5e-324, 2.2e-308, 1.7e308, 0.5)),
    *(0x7FF8_0000_0000_0000, 0x7FF0_0000_0000_0001, 0x7FF8_0000_0000_0777, 0x000F_FFFF_FFFF_FFFF),
)


def real(rng: random.Random) -> Real:
    """A value for a register."""
    kind = rng.random()
    sign = rng.getrandbits(1) << 15
    if kind < 0.4:
        significand, se = rng.choice(SPECIAL)
        return significand, se | sign
    significand = rng.getrandbits(64) | TOP_BIT
    if kind < 0.55:
        significand &= ~((1 << rng.randrange(64)) - 1)
    if kind < 0.75:
        exponent = BIAS + rng.randrange(-4, 8)
    elif kind < 0.85:
        exponent = BIAS + rng.randrange(-80, 80)
    elif kind < 0.9:
        exponent = rng.choice((rng.randrange(70), MOST - 1 - rng.randrange(70)))
    elif kind < 0.95:
        near = rng.choice((127, -126, -149, 1023, -1022, -1074))
        exponent = BIAS + near + rng.randrange(-2, 3)
    else:
        return rng.getrandbits(64), rng.getrandbits(16)
    return significand, exponent | sign


def control_word(rng: random.Random) -> int:
    """Half of them mask all exceptions."""
    masks = rng.choice((0x3F, 0x3F, rng.getrandbits(6), 0x3F ^ 1 << rng.randrange(6)))
    return masks | 0x40 | rng.getrandbits(2) << 8 | rng.getrandbits(2) << 10 | rng.getrandbits(1) << 12


def state(rng: random.Random, *, pending: float = 0.02) -> Fx:
    """A state; with probability `pending` an unmasked exception is pending."""
    fcw = control_word(rng)
    flags = rng.choice((0, 0, 0x20, rng.getrandbits(7)))
    if rng.random() >= pending:
        flags &= fcw & 0x3F | 0x40
    summary = 0x8080 if flags & ~fcw & 0x3F else 0
    fsw = flags | summary | rng.getrandbits(3) << 8 | rng.getrandbits(3) << 11 | rng.getrandbits(1) << 14
    used = rng.choice((0xFF, 0xFF, rng.getrandbits(8), rng.getrandbits(8) | rng.getrandbits(8)))
    if rng.random() < 0.5:  # room for a push
        used &= ~(1 << ((fsw >> 11) - 1 & 7))
    values = [real(rng) for _ in range(8)]
    if rng.random() < 0.2:
        values[1] = values[0]
    return Fx(fcw, fsw, used, rng.getrandbits(11), rng.getrandbits(16), rng.getrandbits(16), st=values)


def packed_decimal(rng: random.Random) -> bytes:
    """An operand of FBLD: mostly a number."""
    if rng.random() < 0.2:
        return rng.randbytes(10)
    digits = rng.randrange(10 ** rng.randrange(1, 19))
    return bytes.fromhex(f"{digits:018d}")[::-1] + bytes([rng.getrandbits(1) << 7])


def contents(rng: random.Random, escape: int, reg: int) -> bytes:
    """What lies at the memory operand."""
    if (escape, reg) in ENVIRONMENTS:
        image = bytearray(rng.randbytes(128))
        struct.pack_into("<H", image, 0, control_word(rng))
        return bytes(image)
    if (escape, reg) == (0xDF, 4):
        return packed_decimal(rng)
    if (escape, reg) == (0xDB, 5):
        return struct.pack("<QH", *real(rng))
    if escape in (0xD8, 0xD9) and rng.random() < 0.6:
        return struct.pack("<I", rng.choice(SPECIAL_32) | rng.getrandbits(1) << 31)
    if escape in (0xDC, 0xDD) and rng.random() < 0.6:
        return struct.pack("<Q", rng.choice(SPECIAL_64) | rng.getrandbits(1) << 63)
    if rng.random() < 0.3:
        return rng.choice((0, 1, -1, 1 << 62, -1 << 63)).to_bytes(8, "little", signed=True)
    return rng.randbytes(10)


def memory_case(rng: random.Random, mode: int, escape: int, reg: int) -> Case:
    """A case of a memory form: [EBX], [RBX] or [BX], sometimes with a displacement."""
    offset = OPERAND + rng.randrange(64)
    wide = mode != 16
    base = offset + (WINDOW if wide else 0)
    mod = rng.getrandbits(1)
    disp = rng.randrange(-64, 64) if mod else 0
    prefix = b"\x66" if rng.random() < (0.5 if (escape, reg) in ENVIRONMENTS else 0.05) else b""
    if mode == 64 and rng.random() < 0.1:
        prefix += b"\x48"
    code = prefix + bytes([escape, mod << 6 | reg << 3 | (3 if wide else 7)]) + struct.pack("<b", disp) * mod
    return _case(rng, mode, code, base - disp, {offset: contents(rng, escape, reg)})


def _case(rng: random.Random, mode: int, code: bytes, ebx: int, memory: dict[int, bytes]) -> Case:
    base = WINDOW if mode != 16 else 0
    regs = (rng.getrandbits(32), 0, 0, ebx, base + 0x8000, 0, 0, 0) + (0,) * (8 if mode == 64 else 0)
    flags = IF | 2 | rng.getrandbits(12) & STATUS
    layout = Layout.FLAT if mode != 16 else Layout.WINDOW
    return Case(mode, code, regs, flags, memory, 1, layout, CODE_OFFSET, fx=state(rng).pack())


def register_case(rng: random.Random, mode: int, escape: int, modrm: int) -> Case:
    """A case of a register form."""
    return _case(rng, mode, bytes([escape, modrm]), 0, {})


def generate(mode: int, count: int, seed: object) -> Iterator[Case]:
    """`count` cases, all forms in turn; WAIT among them."""
    rng = random.Random(f"{seed} {mode}")
    forms = [*MEMORY_FORMS, *REGISTER_FORMS]
    rng.shuffle(forms)
    for k in range(count):
        escape, second = forms[k % len(forms)]
        if rng.random() < 0.002:
            yield _case(rng, mode, b"\x9b", 0, {})
        elif second < 8:
            yield memory_case(rng, mode, escape, second)
        else:
            yield register_case(rng, mode, escape, second)
