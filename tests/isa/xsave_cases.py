"""Random cases of XSAVE, XSAVEOPT, XSAVEC and XRSTOR.

The host's XCR0 has more components than ours: cases ask for x87, SSE and bits that no processor has.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

from tests.isa.simd_cases import control, wide
from tests.oracle import fx
from tests.oracle.case import CODE_OFFSET, FX_SIZE, IF, STATUS, WINDOW, WINDOW_SIZE, Case, Layout

FORMS = {"xsave": (0xAE, 4), "xrstor": (0xAE, 5), "xsaveopt": (0xAE, 6), "xsavec": (0xC7, 4)}
"""Opcode behind 0F, and ModRM.reg."""
EBX, ESP = 3, 4
HEADER, AREA = 512, 576
COMPACTED, NOBODYS = 1 << 63, 1 << 62
"""XCOMP_BV[63]; a component that no processor has."""


def state(rng: random.Random) -> bytes:
    """x87 and SSE state of which neither is in its initial configuration."""
    st = [wide(rng) & (1 << 80) - 1 for _ in range(8)]
    xmm = [wide(rng) | 1 for _ in range(16)]
    return fx.image(xmm, control(rng), st=st, fsw=rng.getrandbits(3) << 11, used=rng.getrandbits(8))


def header(rng: random.Random) -> bytes:
    """Mostly one that XRSTOR takes, of either format."""
    words = [rng.getrandbits(2)] + [0] * 7
    if rng.random() < 0.4:
        words[1] = COMPACTED | words[0] | rng.getrandbits(2)
    if rng.random() < 0.25:
        words[rng.randrange(8)] ^= rng.choice((1, 2, NOBODYS, COMPACTED, rng.getrandbits(64) << 62 & (1 << 64) - 1))
    return struct.pack("<8Q", *words)


def area(rng: random.Random) -> bytes:
    """An area in memory: MXCSR has reserved bits now and then."""
    legacy = bytearray(rng.randbytes(HEADER))
    legacy[:FX_SIZE] = state(rng)
    if rng.random() < 0.1:
        struct.pack_into("<I", legacy, 24, rng.getrandbits(32))
    return bytes(legacy) + header(rng)


def case_of(mode: int, index: int, seed: int) -> Case:
    """Case number `index`."""
    rng = random.Random(f"xsave {seed} {mode} {index}")
    opcode, reg = list(FORMS.values())[index % len(FORMS)]
    layout = Layout.FLAT if mode == 64 else rng.choice([Layout.WINDOW, Layout.SPLIT])
    at = rng.randrange(0x2000, 0x6000) & ~63
    if rng.random() < 0.1:
        at += rng.randrange(64)
    if rng.random() < 0.1:
        at = rng.choice((0x4DC0, 0x4E00, 0x4FC0, 0xFDC0, 0xFE00, 0xFFC0))
    memory = {}
    offset = at + (0x2000 if layout is Layout.SPLIT else 0)
    if offset + AREA <= CODE_OFFSET:
        memory[offset] = area(rng)
    regs = [rng.getrandbits(64 if mode == 64 else 32) for _ in range(16 if mode == 64 else 8)]
    regs[EBX] = at + (WINDOW if mode == 64 else 0)
    regs[ESP] = (WINDOW if mode == 64 else 0) + WINDOW_SIZE // 2
    regs[0] = regs[0] >> 32 << 32 | rng.choice((0, 1, 2, 3, 3, 3))
    regs[2] = regs[2] >> 32 << 32 | rng.choice((0, 1 << 30))
    prefix = b"\x48" if mode == 64 and rng.random() < 0.5 else b""
    code = prefix + bytes([0x0F, opcode, reg << 3 | (7 if mode == 16 else EBX)])
    flags = rng.getrandbits(12) & STATUS | IF | 2
    return Case(mode, code, tuple(regs), flags, memory, layout=layout, fx=state(rng))


def generate(mode: int, count: int, seed: int) -> Iterator[Case]:
    """`count` cases."""
    return (case_of(mode, index, seed) for index in range(count))


ROUND = FORMS | {"fxsave": (0xAE, 0), "fxrstor": (0xAE, 1)}
"""What has an area that goes round."""


def around(mode: int, seed: int) -> Iterator[Case]:
    """Areas over offset FFFFh, with 16-bit addresses, in segments of 64 KiB and in smaller ones."""
    rng = random.Random(f"around {seed} {mode}")
    for opcode, reg in ROUND.values():
        for at in (0xFDC0, 0xFE00, 0xFE40, 0xFF80, 0xFFC0):
            for layout in (Layout.WINDOW, Layout.SPLIT):
                whole = bytearray(area(rng))
                struct.pack_into("<I", whole, 24, 0x1F80)
                struct.pack_into("<8Q", whole, HEADER, 3, *[0] * 7)
                memory = {at: bytes(whole[: 0x10000 - at])} | ({0: bytes(whole[0x10000 - at :])} if at > 0xFDC0 else {})
                regs = [3, 0, 0, at, WINDOW_SIZE // 2, 0, 0, 0]
                code = (b"\x67" if mode == 32 else b"") + bytes([0x0F, opcode, reg << 3 | 7])
                given = memory if layout is Layout.WINDOW else {}
                yield Case(mode, code, tuple(regs), IF | 2, given, layout=layout, fx=state(rng))
