"""Random cases for every user-level SIMD form: MMX, SSE to SSE4.2, POPCNT, AES, PCLMULQDQ.

The list of forms is iced-x86's own table, as in `cases.py`.  Values are numbers of the kinds on which floating-point
operations turn: NaNs, infinities, zeros, denormals, what lies at the edges, integers that do not fit, and bits.

A case is reproducible from (seed, mode, index).  Most memory operands lie inside their segment and are aligned.

Not generated: XSAVE and what belongs to it.
"""

from __future__ import annotations

import functools
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from iced_x86 import Code, CpuidFeature, EncodingKind, Instruction, MandatoryPrefix, MemorySizeExt, Mnemonic, OpCodeInfo
from iced_x86 import OpCodeOperandKind as Kind
from iced_x86 import OpCodeTableKind as Table

from tests.oracle import fx
from tests.oracle.case import CODE_OFFSET, STATUS, WINDOW, WINDOW_SIZE, Case, Layout

FEATURES = {
    getattr(CpuidFeature, name)
    for name in "MMX SSE SSE2 SSE3 SSSE3 SSE4_1 SSE4_2 POPCNT AES PCLMULQDQ FXSR CLFSH".split()
}
_PREFIX = {MandatoryPrefix.P66: b"\x66", MandatoryPrefix.PF3: b"\xf3", MandatoryPrefix.PF2: b"\xf2"}
_ESCAPE = {Table.T0F: b"\x0f", Table.T0F38: b"\x0f\x38", Table.T0F3A: b"\x0f\x3a"}
_EITHER = {Kind.XMM_OR_MEM, Kind.MM_OR_MEM, Kind.R8_OR_MEM, Kind.R16_OR_MEM, Kind.R32_OR_MEM, Kind.R64_OR_MEM}
_MODRM = _EITHER | {
    *(Kind.MEM, Kind.XMM_REG, Kind.XMM_RM, Kind.MM_REG, Kind.MM_RM),
    *(Kind.R16_REG, Kind.R32_REG, Kind.R64_REG),
}
ESP, EBX, EDI = 4, 3, 7
REX, REX_W, REX_R, REX_B = 0x40, 8, 4, 1
FLOATS = [
    *(0, 1, 0x7F_FFFF, 0x80_0000, 0x3F80_0000, 0x4F00_0000, 0x7F7F_FFFF, 0x7F80_0000, 0x7FC0_0000, 0x7FA0_0001),
    *(0x5F00_0000, 0x3380_0000, 0x4B7F_FFFF, 0x0080_0001, 0x3F00_0000),
]
DOUBLES = [
    *(0, 1, (1 << 52) - 1, 1 << 52, 0x3FF << 52, 0x41E << 52, 0x43E << 52, (0x7FF << 52) - 1, 0x7FF << 52),
    *(0x7FF8 << 48, (0x7FF4 << 48) + 1, (1 << 52) + 1, 0x3E5 << 52, 0x41DF_FFFF_FFC0_0000, 0x36A0 << 48),
    *(0x47EF_FFFF_F000_0000, 0x3690 << 48),
]
"""Single and double numbers on which an operation turns; their sign is drawn."""


@dataclass(frozen=True)
class Form:
    """One row of iced-x86's table."""

    code: int
    prefix: bytes
    opcode: bytes
    operands: tuple[int, ...]
    reg: int | None
    memory_size: int
    operand_size: int
    text: str


@functools.cache
def forms(mode: int) -> tuple[Form, ...]:
    """The forms that exist in code of 16, 32 or 64 bits."""
    found = []
    for name, code in vars(Code).items():
        if name[0] == "_" or not isinstance(code, int):
            continue
        info = OpCodeInfo(code)  # type: ignore[arg-type]  # an int at run time
        if info.encoding != EncodingKind.LEGACY or not info.is_instruction or not info.is_available_in_mode(mode):
            continue
        instruction = Instruction()
        instruction.code = code  # type: ignore[assignment]
        if not FEATURES.issuperset(instruction.cpuid_features()) or info.mnemonic == Mnemonic.PAUSE:
            continue
        if info.op_count == 0 and info.mnemonic != Mnemonic.EMMS and info.op_code_len != 2:
            continue
        found.append(
            Form(
                code,
                _PREFIX.get(info.mandatory_prefix, b""),
                _ESCAPE[info.table] + info.op_code.to_bytes(info.op_code_len, "big"),
                tuple(info.op_kinds()),
                info.group_index if info.is_group else None,
                MemorySizeExt.size(info.memory_size) or 1,
                info.operand_size,
                info.instruction_string,
            )
        )
    return tuple(found)


def generate(mode: int, count: int, seed: int, only: str = "") -> Iterator[Case]:
    """`count` cases for code of `mode` bits, going round all its forms, or those whose names begin with `only`."""
    order = [form for form in forms(mode) if form.text.startswith(only)]
    random.Random(f"{seed}/{mode}").shuffle(order)
    layouts = [Layout.FLAT] if mode == 64 else [x for x in Layout if not (mode == 16 and x is Layout.FLAT)]
    for index in range(count):
        rng = random.Random(f"{seed}/{mode}/{index}")
        yield _case(order[index % len(order)], mode, rng.choice(layouts), rng)


def single(rng: random.Random) -> int:
    """A single number."""
    if rng.random() < 0.6:
        return rng.choice(FLOATS) | rng.getrandbits(1) << 31
    return struct.unpack("<I", struct.pack("<f", rng.uniform(-4, 4)))[0] if rng.random() < 0.5 else rng.getrandbits(32)


def double(rng: random.Random) -> int:
    """A double number."""
    if rng.random() < 0.6:
        return rng.choice(DOUBLES) | rng.getrandbits(1) << 63
    return struct.unpack("<Q", struct.pack("<d", rng.uniform(-4, 4)))[0] if rng.random() < 0.5 else rng.getrandbits(64)


def wide(rng: random.Random) -> int:
    """128 bits: singles, doubles, small or random integers."""
    kind = rng.randrange(5)
    if kind == 0:
        return sum(single(rng) << 32 * k for k in range(4))
    if kind == 1:
        return double(rng) | double(rng) << 64
    if kind == 2:
        return sum(rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.getrandbits(8))) << 8 * k for k in range(16))
    if kind == 3:
        return rng.randrange(80)  # a shift count
    return rng.getrandbits(128)


def control(rng: random.Random) -> int:
    """An MXCSR: rounding, DAZ, FTZ, masks and flags."""
    masks = 0x3F if rng.random() < 0.7 else rng.getrandbits(6)
    flags = rng.choice((0, 0, rng.getrandbits(6)))
    daz, ftz = (int(rng.random() < 0.25) for _ in range(2))
    return flags | daz << 6 | masks << 7 | rng.getrandbits(2) << 13 | ftz << 15


def _state(rng: random.Random) -> bytes:
    """x87 and SSE state."""
    xmm = [wide(rng) for _ in range(16)]
    if rng.random() < 0.2:
        xmm[rng.randrange(8)] = xmm[rng.randrange(8)]
    st = [wide(rng) & (1 << 64) - 1 | rng.getrandbits(16) << 64 for _ in range(8)]
    return fx.image(xmm, control(rng), st=st, fsw=rng.getrandbits(3) << 11, used=rng.getrandbits(8))


def _case(form: Form, mode: int, layout: Layout, rng: random.Random) -> Case:
    regs = [rng.getrandbits(64) for _ in range(16)] if mode == 64 else [rng.getrandbits(32) for _ in range(8)]
    regs[ESP] = WINDOW_SIZE // 2
    memory: dict[int, bytes] = {}
    operand = b""
    prefix = form.prefix
    if form.operand_size and form.operand_size not in (mode, 64) and (mode, form.operand_size) != (64, 32):
        prefix = b"\x66" + prefix
    rex = 0
    if mode == 64 and (form.operand_size == 64 or rng.random() < 0.6):
        rex = REX | rng.getrandbits(4) & (REX_R | REX_B) | (REX_W if form.operand_size == 64 else 0)
        prefix += bytes([rex])
    takes_memory = Kind.MEM in form.operands or (not _EITHER.isdisjoint(form.operands) and rng.random() < 0.5)
    if not _MODRM.isdisjoint(form.operands):
        reg = form.reg if form.reg is not None else rng.randrange(8)
        if takes_memory:
            operand = _memory(form, mode, layout, rng, regs, reg, memory, EBX + 8 * (rex & REX_B))
        else:
            operand = bytes([0xC0 | reg << 3 | rng.randrange(8)])
    if Kind.SEG_RDI in form.operands:
        operand = bytes([0xC0 | rng.getrandbits(6)])
        base = 0x3000 + rng.randrange(32) + (WINDOW if layout is Layout.FLAT else 0)
        regs[EDI] = base | (rng.getrandbits(16) << 16 if mode == 16 else 0)
    if Kind.IMM8 in form.operands:
        operand += bytes([rng.choice((rng.getrandbits(8), rng.randrange(16)))])
    return Case(
        mode,
        prefix + form.opcode + operand,
        tuple(regs),
        rng.getrandbits(12) & STATUS | 0x202,
        memory,
        layout=layout,
        fx=_state(rng),
    )


def _memory(
    form: Form,
    mode: int,
    layout: Layout,
    rng: random.Random,
    regs: list[int],
    reg: int,
    memory: dict[int, bytes],
    base: int,
) -> bytes:
    """ModRM and displacement of an operand at [EBX + displacement], [BX + ...], [RBX + ...]; its bytes are drawn."""
    offset = rng.randrange(0x2100, 0x6000) & ~15
    if rng.random() < 0.25:
        offset += rng.randrange(16)
    if rng.random() < 0.05:
        offset = rng.choice((0x4FF0, 0x4FF8, 0x5000, 0xFFF0, 0xFFF8)) + rng.randrange(-2, 3)
    if offset + 16 + 0x2000 <= CODE_OFFSET:
        data = wide(rng).to_bytes(16, "little")
        if form.text.startswith("LDMXCSR") and rng.random() < 0.8:
            data = control(rng).to_bytes(4, "little")
        memory[offset + (0x2000 if layout is Layout.SPLIT else 0)] = data
    address = offset + (WINDOW if layout is Layout.FLAT else 0)
    if mode == 16:
        distance = rng.getrandbits(16)
        regs[EBX] = regs[EBX] & 0xFFFF_0000 | (address - distance) & 0xFFFF
        return bytes([0x87 | reg << 3]) + struct.pack("<H", distance)
    distance = rng.getrandbits(32)
    signed = distance - (distance >> 31 << 32)
    regs[base] = (address - signed) & (0xFFFF_FFFF if mode == 32 else (1 << 64) - 1)
    return bytes([0x83 | reg << 3]) + struct.pack("<I", distance)
