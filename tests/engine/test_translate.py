"""The native decoder against iced-x86: every opcode, random operands, prefixes and bytes, in 16-, 32- and 64-bit code.

Compared are the length, whether there is such an instruction, and the fields of each operand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import iced_x86 as ix
import numpy as np
import pytest

from jitvm.bare import accelerator
from jitvm.engine import decode as dec
from jitvm.engine.cache import Cache
from jitvm.engine.forms import HINT_NOPS, Shape
from jitvm.engine.met import Met
from jitvm.engine.tables import Tables
from tests.engine.native_decoder import Decoder
from tests.fast_set import share

REGISTER = {v: k for k, v in vars(ix.Register).items() if isinstance(v, int)}
GPR = {name: k for k, name in enumerate("AX CX DX BX SP BP SI DI".split())}
BYTES = {name: k for k, name in enumerate("AL CL DL BL AH CH DH BH".split())}
REX_BYTES = {name: k + 4 for k, name in enumerate("SPL BPL SIL DIL".split())}
SEGMENTS = "ES CS SS DS FS GS".split()
PREFIXES = (0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65)
ESCAPES = ((), (0x0F,), (0x0F, 0x38), (0x0F, 0x3A))
ZERO = 16 * 8


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    """What it learns is forgotten at the end: no guest has so many forms."""
    accel = accelerator()
    before = accel.met, accel.tables
    accel.met, accel.tables = Met(Cache(None, ""), accel.forms), Tables()
    yield Decoder()
    accel.met, accel.tables = before


def register_offset(register: int) -> int:
    """Byte offset in `gpr`."""
    name = REGISTER[register]
    if name in BYTES:
        k = BYTES[name]
        return 8 * (k & 3) + (k >> 2)
    if name in SEGMENTS:
        return 8 * SEGMENTS.index(name)
    if name[:2] in ("CR", "DR", "TR"):
        return 8 * int(name[2:])
    if "MM" in name:
        return 8 * int(name.lstrip("XM"))
    if name in REX_BYTES:
        return 8 * REX_BYTES[name]
    if name[1].isdigit():
        return 8 * int(name[1:].rstrip("LWD"))
    return 8 * GPR[name.lstrip("ER")]


def memory_offsets(ins: ix.Instruction) -> tuple[int, int]:
    """Offsets of base and index, ZERO for none."""
    base, index = (ZERO if r == ix.Register.NONE else register_offset(r) for r in (ins.memory_base, ins.memory_index))
    return base, index


def check_operands(d: Decoder, ins: ix.Instruction, shape: Shape, bits: int) -> Iterator[str]:
    """What differs between the decoded words and iced-x86's operands."""
    for k in range(min(ins.op_count, len(shape.ops))):
        op, slot, kind = shape.ops[k], shape.slots[k], ins.op_kind(k)
        if op in ("r", "s", "n", "x", "y") and slot in PLACES and kind == ix.OpKind.REGISTER:
            got = d.field(PLACES[slot])
            if got != register_offset(ins.op_register(k)):
                yield f"operand {k} is at {got}, not {REGISTER[ins.op_register(k)]}"
        elif kind == ix.OpKind.MEMORY and shape.mem[:1] in ("p", "o"):
            address = d.field(dec.T_IMM)
            if shape.mem[0] == "p":
                address = d.field(dec.T_NEXT) + signed(d.field(dec.T_DISP), 32)
            if (address ^ ins.memory_displacement) & (1 << 8 * shape.asize) - 1:
                yield f"address {address:#x}, not {ins.memory_displacement:#x}"
        elif kind == ix.OpKind.MEMORY and shape.mem[:1] in ("b", "x"):
            base, index = d.field(dec.T_B), d.field(dec.T_I)
            want = memory_offsets(ins)
            if sorted((base, index)) != sorted(want) or (shape.mem[0] == "b" and index != ZERO):
                yield f"base {base} and index {index}, not {want}"
            if index != ZERO and shape.asize >= 4 and 1 << d.field(dec.T_SCALE) != ins.memory_index_scale:
                yield "scale"
            mask = (1 << 8 * shape.asize) - 1
            if (signed(d.field(dec.T_DISP), 32) ^ ins.memory_displacement) & mask:
                yield f"displacement {d.field(dec.T_DISP):#x}, not {ins.memory_displacement:#x}"
            segment = REGISTER[ins.memory_segment]
            if bits == 64 and segment not in ("FS", "GS"):
                segment = "SS" if REGISTER[ins.memory_base] in STACK_BASES else "DS"
            if d.field(dec.T_SEG) != 8 * SEGMENTS.index(segment):
                yield f"segment {d.field(dec.T_SEG) // 8}, not {segment}"
        elif kind in (ix.OpKind.NEAR_BRANCH16, ix.OpKind.NEAR_BRANCH32, ix.OpKind.NEAR_BRANCH64):
            if d.field(dec.T_IMM) != ins.near_branch_target:
                yield f"target {d.field(dec.T_IMM):#x}, not {ins.near_branch_target:#x}"
        elif kind in (ix.OpKind.FAR_BRANCH16, ix.OpKind.FAR_BRANCH32):
            offset = ins.far_branch16 if kind == ix.OpKind.FAR_BRANCH16 else ins.far_branch32
            if (d.field(dec.T_IMM), d.field(dec.T_DISP)) != (offset, ins.far_branch_selector):
                yield "far pointer"
        elif op in ("i", "w") and "IMMEDIATE" in KIND_NAMES[kind]:
            second = KIND_NAMES[kind] == "IMMEDIATE8_2ND"
            got = d.field(dec.T_DISP if second else dec.T_IMM)
            size = 1 if shape.unit == "events.interrupt" or second else max(shape.size, shape.sizes[k])
            if (got ^ ins.immediate(k)) & ((1 << 8 * size) - 1):
                yield f"immediate {got:#x}, not {ins.immediate(k):#x}"


PLACES = {"d": dec.T_D, "s": dec.T_S, "b": dec.T_B}
STACK_BASES = frozenset("RSP ESP RBP EBP".split())


def signed(v: int, width: int) -> int:
    """A number of `width` bits with a sign."""
    return v - (v >> width - 1 << width)


KIND_NAMES = {v: k for k, v in vars(ix.OpKind).items() if isinstance(v, int)}


def compare(d: Decoder, data: bytes, bits: int, rip: int) -> tuple[str, list[str]]:
    """(class of the case, differences)."""
    n = d(data, bits, rip)
    decoder = ix.Decoder(bits, data[:15], ip=rip)
    ins = decoder.decode()
    if n == dec.TOO_LONG:
        return "too long", [] if ins.code == ix.Code.INVALID else [f"too long, but iced-x86 says {ins}"]
    shape = d.shape()
    if shape.unit == "misc.ud":
        ours = ins.code == ix.Code.INVALID or not is_announced(ins)
        return "undefined", [] if ours else [f"#UD, but iced-x86 says {ins}"]
    if ins.code == ix.Code.INVALID:
        opcode = opcode_of(data)
        return "invalid", [] if opcode in HINT_NOPS else [f"{shape.unit}, but iced-x86 says invalid"]
    found = [] if n == ins.len else [f"length {n}, not {ins.len}"]
    if d.field(dec.T_NEXT) != ins.next_ip and bits != 16:
        found.append(f"next {d.field(dec.T_NEXT):#x}")
    return "known", found + list(check_operands(d, ins, shape, bits))


def is_announced(ins: ix.Instruction) -> bool:
    """Whether an instruction is one of the integer CPU that we build."""
    features = {FEATURES[f] for f in ins.cpuid_features()}
    return features <= INTEGER and ins.mnemonic not in ABSENT


FEATURES = {v: k for k, v in vars(ix.CpuidFeature).items() if isinstance(v, int)}
INTEGER = frozenset(
    "INTEL8086 INTEL186 INTEL286 INTEL386 INTEL486 CPUID TSC MSR CX8 CMOV RDPMC PAUSE MULTIBYTENOP X64 "
    "BMI1 BMI2 LZCNT MOVBE RDRAND CMPXCHG16B".split()
)
ABSENT = frozenset({ix.Mnemonic.UD0, ix.Mnemonic.UD1, ix.Mnemonic.UD2})


def opcode_of(data: bytes) -> int:
    """Opcode with its map in bits 8 and 9."""
    k = next(k for k, byte in enumerate(data) if byte not in PREFIXES)
    return 0x100 | data[k + 1] if data[k] == 0x0F else data[k]


def report(failures: list[str], classes: Counter[str], least: int) -> None:
    """Assert that nothing differs and that enough was compared."""
    assert not failures, f"{len(failures)} differ:\n" + "\n".join(failures[:20])
    assert classes["known"] >= least, classes


def run(d: Decoder, cases: Iterator[bytes], bits: int, least: int) -> None:
    failures, classes = [], Counter[str]()
    for data in cases:
        kind, found = compare(d, data, bits, 0x1234)
        classes[kind] += 1
        failures += [f"{bits} {data[:15].hex(' ')}: {text}" for text in found]
    report(failures, classes, least)


@pytest.mark.parametrize("bits", share([64, 32, 16], 1))
def test_every_opcode(decoder: Decoder, bits: int) -> None:
    """All four maps, all ModRM.reg, memory and register forms, with and without size prefixes."""
    rng = np.random.default_rng(bits)

    def cases() -> Iterator[bytes]:
        for escape in ESCAPES:
            for opcode in range(256):
                if not escape and (opcode in PREFIXES or opcode == 0x0F):
                    continue
                for modrm in (*range(0, 64, 8), *range(0xC0, 0x100, 5), 0x44, 0x84, 0x06, 0x85):
                    some = bytes(rng.choice(PREFIXES[:2], int(rng.integers(0, 3))).tolist())
                    tail = rng.integers(0, 256, 14, np.uint8).tobytes()
                    yield some + bytes([*escape, opcode, modrm]) + tail

    run(decoder, cases(), bits, 4000)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_random_bytes(decoder: Decoder, bits: int) -> None:
    rng = np.random.default_rng(bits + 1)
    run(decoder, (rng.integers(0, 256, 20, np.uint8).tobytes() for _ in range(6000)), bits, 2000)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("seed", range(10))
def test_random_bytes_long(decoder: Decoder, bits: int, seed: int) -> None:
    rng = np.random.default_rng([bits, seed])
    run(decoder, (rng.integers(0, 256, 20, np.uint8).tobytes() for _ in range(40_000)), bits, 10_000)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_redundant_prefixes(decoder: Decoder, bits: int) -> None:
    """Up to 15 prefixes in any order; the last of a group counts; more than 15 bytes are too long.

    In 64-bit code REX counts as the last one only.
    """
    rng = np.random.default_rng(bits + 2)
    some = PREFIXES + (tuple(range(0x40, 0x50)) if bits == 64 else ())
    bodies = (
        b"\x90",
        b"\x01\x44\x24\x04",
        b"\x81\x84\x91" + bytes(range(8)),
        b"\xa4",
        b"\xe8\1\2\3\4",
        b"\x0f\xaf\xc1",
    )

    def cases() -> Iterator[bytes]:
        for _ in range(2500):
            prefixes = bytes(rng.choice(some, int(rng.integers(1, 16))).tolist())
            yield prefixes + bodies[int(rng.integers(len(bodies)))] + bytes(8)

    run(decoder, cases(), bits, 200)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_fifteen_bytes(decoder: Decoder, bits: int) -> None:
    for body in (b"\xf8", b"\x05" + bytes(min(bits, 32) // 8), b"\xb0\x01", b"\x0f\xa2", b"\x8b\x00"):
        for n in range(17):
            got = decoder(b"\x3e" * n + body, bits, 0)
            assert got == (n + len(body) if n + len(body) <= 15 else dec.TOO_LONG), (n, body)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_bytes_that_are_not_there(decoder: Decoder, bits: int) -> None:
    """With less bytes than the instruction has more are asked for, however few are missing."""
    rng = np.random.default_rng(bits + 3)
    n_cases = 0
    while n_cases < 400:
        data = rng.integers(0, 256, 16, np.uint8).tobytes()
        n = decoder(data, bits, 0)
        if n == dec.TOO_LONG:
            continue
        n_cases += 1
        for avail in range(n):
            assert decoder(data, bits, 0, avail) == dec.TRUNCATED, f"{data.hex(' ')}: {avail} of {n}"
        assert decoder(data, bits, 0, n) == n


def test_targets_wrap(decoder: Decoder) -> None:
    """Relative targets are cut to 16 bits with a 16-bit operand size, to 32 bits without, in 64-bit code never."""
    d = decoder
    for data, bits, rip, target in (
        (b"\xeb\xfe", 32, 0, 0),
        (b"\xeb\x80", 32, 0x10, 0xFFFF_FF92),
        (b"\xeb\x80", 16, 0x10, 0xFF92),
        (b"\x66\xe9\x00\x80", 32, 0x12345, 0xA349),
        (b"\xe8\xff\xff\xff\x7f", 32, 0x8000_0000, 4),
        (b"\x66\xe8\x10\x00\x00\x00", 16, 0xFFFA, 0x10010),
        (b"\xeb\xfd", 64, 0, 0xFFFF_FFFF_FFFF_FFFF),
        (b"\x66\xe9\x00\x80\x00\x00", 64, 0x7FFF_FFFF_8000, 0x8000_0000_0006),
    ):
        d(data, bits, rip)
        assert d.field(dec.T_IMM) == target, data.hex(" ")
