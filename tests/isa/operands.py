"""Operands worth trying, and the big-integer arithmetic that the models of the instruction tests share."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.oracle.case import AF, CF, OF, PF, SF, ZF

SIZES = (1, 2, 4, 8)


def signed(size: int, v: int) -> int:
    """An operand of `size` bytes as a signed number."""
    return int.from_bytes(v.to_bytes(size, "little"), "little", signed=True)


def szp(size: int, r: int) -> int:
    """SF, ZF and PF of a result."""
    return (SF if signed(size, r) < 0 else 0) | (0 if r else ZF) | (0 if (r & 0xFF).bit_count() & 1 else PF)


def image(*, cf: object = 0, af: object = 0, of: object = 0) -> int:
    """CF, AF and OF at their places."""
    return (CF if cf else 0) | (AF if af else 0) | (OF if of else 0)


def operand(rng: random.Random, size: int) -> int:
    """Often near 0, near the sign's change or of few bits, else anything."""
    top = 1 << (8 * size - 1)
    kind = rng.randrange(5)
    if kind == 0:
        v = rng.randrange(-3, 4)
    elif kind == 1:
        v = top + rng.randrange(-3, 4)
    elif kind == 2:
        v = rng.choice((1, -1)) << rng.randrange(8 * size)
    elif kind == 3:
        v = rng.randrange(256)
    else:
        v = rng.randrange(2 * top)
    return v % (2 * top)


def count(rng: random.Random, size: int) -> int:
    """A shift count: every masked one, and some that need the mask."""
    return rng.randrange(8 * size + 2) if rng.randrange(2) else rng.randrange(256)


def lazy(rng: random.Random) -> tuple[int, int]:
    """Any state of the lazy flags: result word (0 now and then) and carry word."""
    aux = rng.getrandbits(5)
    return (rng.getrandbits(64) if rng.randrange(4) else 0), aux


def flags_of(words: tuple[int, int]) -> int:
    """The six flags of a lazy state, by the description in jitvm/isa/flags.py."""
    result, aux = words
    sf = result >> 63 ^ aux >> 2 & 1
    odd = ((result & 0xFF).bit_count() ^ aux >> 3) & 1
    flags = image(cf=aux & 1, af=aux & AF, of=sf ^ aux >> 1 & 1)
    return flags | (0 if result else ZF) | (SF if sf else 0) | (0 if odd else PF)


def trials(name: str, n: int) -> Iterator[random.Random]:
    """`n` random generators, the same ones for a name on every run."""
    rng = random.Random(name)
    for _ in range(n):
        yield rng
