"""From an encoding to its form: iced-x86 describes the first instance, `jitvm/isa/table.py` says what it means.

`opcode_attributes` fills the translator's first table from iced-x86's list of codes; `Forms.learn` describes one instance
of an unknown form: a `Shape` for the stitcher and a form word for the translator.

Source of all encoding facts: iced-x86 (OpCodeInfo, ConstantOffsets).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import iced_x86 as ix
import numpy as np
import numpy.typing as npt

from jitvm.engine import formbits as fb
from jitvm.engine import simd_forms
from jitvm.errors import EngineError
from jitvm.isa.cpuid import is_announced
from jitvm.isa.simd import FLOAT, UNALIGNED, immediate
from jitvm.isa.table import ALIASES, CONDITION_OF, MAY_KEEP, ROWS, Row
from jitvm.isa.x87_table import SIZED, SUFFIXES, X87_ROWS

_OPERAND = {v: k for k, v in vars(ix.OpCodeOperandKind).items() if isinstance(v, int)}
_MNEMONIC = {v: k for k, v in vars(ix.Mnemonic).items() if isinstance(v, int)}
_MEMORY_TYPE = {v: k for k, v in vars(ix.MemorySize).items() if isinstance(v, int)}
_CODES: list[Any] = [v for v in vars(ix.Code).values() if isinstance(v, int)]
_FEATURE = {v: k for k, v in vars(ix.CpuidFeature).items() if isinstance(v, int)}

INTEGER_FEATURES = frozenset(
    "INTEL8086 INTEL186 INTEL286 INTEL386 INTEL486 CPUID TSC MSR CX8 CMOV RDPMC SMM PAUSE MULTIBYTENOP "
    "SEP SYSCALL SMAP RDTSCP X64 CMPXCHG16B MOVBE RDRAND RDSEED BMI1 BMI2 LZCNT ADX FSGSBASE INVPCID "
    "XSAVE XSAVEOPT XSAVEC".split()
).union(simd_forms.FEATURES)
"""iced-x86's feature names of what the table has rows for; every other feature's instructions are #UD."""
ANNOUNCED_AS = simd_forms.FEATURES | {
    "CMOV": "cmov",
    "SEP": "sep",
    "SYSCALL": "syscall",
    "SMAP": "smap",
    "RDTSCP": "rdtscp",
    "CMPXCHG16B": "cx16",
    "MOVBE": "movbe",
    "BMI1": "bmi1",
    "BMI2": "bmi2",
    "LZCNT": "abm",
    "RDRAND": "rdrand",
    "RDPMC": "p6",
    "MULTIBYTENOP": "p6",
    **{name: name.lower() for name in ("RDSEED", "ADX", "FSGSBASE", "INVPCID", "XSAVE", "XSAVEOPT", "XSAVEC")},
}
"""iced-x86's feature name to that of `cpuid.BUILT` or `GENERATIONS`: where a CPU lacks it, its instructions are #UD."""
OLDER = {"TZCNT": "BSF", "LZCNT": "BSR"}
"""What a CPU that does not know an instruction makes of its bytes: it ignores F3 (SDM vol. 2, TZCNT, LZCNT)."""
FPU_FEATURES = frozenset({"FPU", "FPU287", "FPU387"})
FPU_ALSO = {"CMOV": "cmov", "SSE3": "sse3"}
"""What FCMOV, FCOMI and FISTTP need besides an FPU."""
HINT_NOPS = frozenset({0x10D, *range(0x118, 0x120)})
"""0F 0D and 0F 18..1F: NOPs with a ModRM byte on the Pentium Pro (SDM vol. 2, appendix A, table A-3)."""
STRINGS = frozenset({"MOVS", "CMPS", "SCAS", "LODS", "STOS", "INS", "OUTS"})
OPERAND_SIZED = frozenset(
    "CALL_FAR_MEM JMP_FAR_MEM CALL_FAR JMP_FAR RETF ENTER INT LGDT LIDT SGDT SIDT POP_SREG LES LDS LSS LFS LGS "
    "FXSAVE FXRSTOR XSAVE XSAVEOPT XSAVEC XRSTOR".split()
)
"""Rows whose size is the operand size, whatever their operands are."""
FIXED_SIZE = {"AAA": 2, "AAS": 2, "AAD": 2, "AAM": 1, "DAA": 1, "DAS": 1, "SALC": 1, "LAHF": 1, "SAHF": 1, "XLATB": 1}
_FIXED = {"AL": (fb.FROM_R0, 1), "AX": (fb.FROM_R0, 2), "EAX": (fb.FROM_R0, 4), "RAX": (fb.FROM_R0, 8)}
_FIXED |= {"CL": (fb.FROM_R1, 1), "DX": (fb.FROM_R2, 2)}
_SREG = {"ES": 0, "CS": 1, "SS": 2, "DS": 3, "FS": 4, "GS": 5}
SEGMENT_GROUP, MAX_LENGTH = 5, 15
LOCK_IN_KEY = 20
IMMEDIATE_AT, IMMEDIATE_IN_KEY = 40, 48
"""Where a form's key has the immediate that is part of it (`formbits.immediate_key`)."""
REX, XCHG_AX = 0x40, 0x90
VEX_SLOTS = {int(fb.FROM_REG): "d", int(fb.FROM_VVVV): "s", int(fb.FROM_RM): "b"}
"""Where a VEX instruction has its operands' registers in the micro-op: the one that may be memory in the address's place."""
ADDRESSED = ("", "b", "x", "p")
"""`Shape.mem` by the class of addresses in a form's key."""
SEGMENT_PREFIXES = (0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65)
PREFIX_GROUPS = {0x66: 1, 0x67: 2, 0xF0: 3, 0xF2: 4, 0xF3: 4, **dict.fromkeys(SEGMENT_PREFIXES, SEGMENT_GROUP)}
"""Prefix bytes by group; of one group the last counts."""
_FAR_SEGMENT = {"LES": 0, "LSS": 2, "LDS": 3, "LFS": 4, "LGS": 5}
_KINDS = {
    "jcc": fb.KIND_JCC,
    "loop": fb.KIND_JCC,
    "nop": fb.KIND_NOP,
    "jmp": fb.KIND_JMP,
    "call": fb.KIND_CALL,
    "jmpi": fb.KIND_INDIRECT,
    "calli": fb.KIND_INDIRECT,
    "ret": fb.KIND_INDIRECT,
}


@dataclass(frozen=True)
class Shape:
    """All that the stitcher must know of an instruction but its operands' numbers and values.

    `ops`: kind of each operand: "r" register, "m" memory, "i" immediate (of at most 32 bits, it may be sign-extended),
    "w" one of 64 bits, "1" the number one, "s" segment register, "n" a register that only its number matters of, "x" XMM,
    "y" MMX, "" none.  `slots`: which micro-op field holds a register operand's offset (of XMM and MMX, number times 8), "d"
    or "s".  Sizes in bytes.  `mem`: "" none, "b" base + displacement, "x" with index, "p" relative to RIP, "o" an offset of
    64 bits in the immediate's place, "t" XLAT's, "k" behind it: a bit string.
    """

    unit: str
    kind: str
    size: int = 4
    ops: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    asize: int = 4
    mem: str = ""
    flat: bool = False
    ssize: int = 4
    stack_flat: bool = False
    rep: int = 0
    cc: int = 0
    imm: int = -1
    """An operand that the encoding implies (the segment register number of LDS), -1: the immediate is in the micro-op."""
    dst: str = ""
    hi: str = ""
    ends: bool = False
    feature: str = ""
    """The feature (`cpuid.BUILT`) without which it is #UD; "": every CPU has it."""
    host: str = ""
    """Of a SIMD instruction, a letter an operand: what the operation takes ("x" XMM, "y" MMX, "r" general register)."""
    odd: bool = False
    """Its 16-byte memory operand may lie anywhere."""
    locked: bool = False
    """Its memory operand is read and written at once, whatever other CPUs do meanwhile."""
    older: str = ""
    """The unit that takes the place of `unit` on a CPU without the feature."""

    @cached_property
    def symbol(self) -> str:
        """A short name that says all of it."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:24]

    @property
    def long(self) -> bool:
        """Whether it is of 64-bit code, where alone the stack pointer has 64 bits."""
        return self.ssize == 8


GOTO = Shape("", "goto")
"""Ends a block that no jump ends."""
UNDEFINED = Shape("misc.ud", "status", ends=True)
MOST_SHAPES = 1 << 16
OPCODES = 4 * 256
GROUPED = frozenset("value push pop leave jcc loop jmp jmpi call calli ret".split())
"""Kinds of instruction that may stand in a group (`groupable`)."""


def groupable(shape: Shape) -> bool:
    """Whether it may stand in a group: no other way on than to the next one, and nothing but memory out of line."""
    return shape.kind in GROUPED and "n" not in shape.ops and not shape.unit.startswith("system.")


def opcode_attributes() -> npt.NDArray[np.uint64]:
    """The A_* bits of all opcodes of the four maps."""
    attr = np.zeros(OPCODES, np.uint64)
    modrm = ("_OR_MEM", "_REG", "_RM", "_MEM")
    for value in _CODES:
        info = ix.OpCodeInfo(value)
        if info.encoding != ix.EncodingKind.LEGACY or not info.is_instruction:
            continue
        opcode = info.op_code
        kinds = operand_kinds(info)
        long = opcode > 0xFF
        at = info.table * 256 + (opcode >> 8 if long else opcode)
        bits = fb.A_KNOWN
        if long:
            bits |= fb.A_MODRM | fb.A_GROUP | fb.A_GROUP3
        if info.group_index >= 0:
            bits |= fb.A_MODRM | fb.A_GROUP
        if info.rm_group_index >= 0:
            bits |= fb.A_MODRM | fb.A_GROUP | fb.A_GROUP3
        if any(k in ("MEM", "SIBMEM", "MEM_MPX", "MEM_MIB") or k.endswith(modrm) for k in kinds):
            bits |= fb.A_MODRM
        if "MEM_OFFS" in kinds:
            bits |= fb.A_MOFFS
        if info.mandatory_prefix != ix.MandatoryPrefix.NONE:
            bits |= fb.A_66
        if any(k in ("SEG_REG", "CR_REG", "DR_REG", "TR_REG") for k in kinds):
            bits |= fb.A_GROUP | (0 if "SEG_REG" in kinds else fb.A_REGISTER | fb.A_REX_R)
        spread = range(8) if any(k.endswith("_OPCODE") and k != "STI_OPCODE" for k in kinds) else range(1)
        for k in spread:
            attr[at + k] |= bits
    for escape in range(0xD8, 0xE0):
        attr[escape] = fb.A_KNOWN | fb.A_MODRM | fb.A_GROUP | fb.A_GROUP3
    for hint in HINT_NOPS:
        attr[hint] = fb.A_KNOWN | fb.A_MODRM
    attr[XCHG_AX] |= fb.A_REX_B
    for vector in (0xC4, 0xC5, 0x62):
        attr[vector] = fb.A_KNOWN | fb.A_MODRM
    return attr


def prefixes(data: bytes | bytearray, bits: int) -> int:
    """Number of prefix bytes before the opcode; REX is one in 64-bit code."""
    k = 0
    while k < len(data) and (data[k] in PREFIX_GROUPS or (bits == 64 and data[k] & 0xF0 == REX)):
        k += 1
    return k


def shortest(data: bytes, bits: int) -> bytes:
    """An instruction with only the prefixes that its form depends on, and with all its bytes.

    `data` may be longer than an instruction can be, which iced-x86 refuses, or end before its immediate does; what that
    is makes no difference to the form.
    """
    n = prefixes(data, bits)
    last = {PREFIX_GROUPS[byte]: byte for byte in data[:n] if byte in PREFIX_GROUPS}
    last.pop(SEGMENT_GROUP, None)
    rex = data[n - 1 : n] if n and data[n - 1] not in PREFIX_GROUPS else b""
    return (bytes(last.values()) + rex + data[n:]).ljust(MAX_LENGTH, b"\0")[:MAX_LENGTH]


def feature_names(ins: ix.Instruction) -> set[str]:
    """iced-x86's names of the features that an instruction belongs to."""
    return {_FEATURE[f] for f in ins.cpuid_features()}


def immediate_sizes(ins: ix.Instruction, constants: ix.ConstantOffsets) -> int:
    """The sizes of an instruction's immediates, a branch's distance among them, as bits of a form word."""
    n, second = constants.immediate_size, constants.immediate_size2
    kind = _OPERAND[ins.op_code().op_kind(0)] if ins.op_count else ""
    if kind.startswith("BR"):
        n = 1 if kind.endswith("_1") else int(kind[-1])
    if kind.startswith("FARBR"):
        n, second = int(kind[5]), 2
    return n << int(fb.F_IMM_SHIFT) | second << int(fb.F_IMM2_SHIFT)


def undefined_immediates(data: bytes, bits: int) -> int:
    """`immediate_sizes` of an encoding that no CPU has.

    A CPU measures an instruction before it looks whether there is such a one: an opcode has the same immediate with LOCK,
    and in the undefined places of its group (measured on a Xeon of 2023, family 6 model 207: F0 83 C3 ib, C6 /1 ib and
    0F BA /0 ib are #GP with 16 bytes and #UD with 15).  Of a feature that it lacks it knows no immediates.
    """
    code = bytearray(shortest(data, bits))
    opcode = prefixes(code, bits)
    modrm = opcode + (2 if code[opcode] == 0x0F else 1)
    for reg in (code[modrm] >> 3 & 7, *range(8)):
        code[modrm] = code[modrm] & 0xC7 | reg << 3
        decoder = ix.Decoder(bits, bytes(code), ix.DecoderOptions.NO_INVALID_CHECK)
        ins = decoder.decode()
        if ins.code != ix.Code.INVALID and feature_names(ins) <= INTEGER_FEATURES:
            return immediate_sizes(ins, decoder.get_constant_offsets(ins))
    return 0


def row_name(ins: ix.Instruction, kinds: list[str]) -> str:
    """Name of the table row of a decoded instruction."""
    name = _MNEMONIC[ins.mnemonic]
    if ins.code in (ix.Code.CMPSD_XMM_XMMM64_IMM8, ix.Code.MOVSD_XMM_XMMM64, ix.Code.MOVSD_XMMM64_XMM):
        return f"{name}_XMM"
    name = ALIASES.get(name, name)
    if name == "MOV":
        for kind, row in (("SEG_REG", "SREG"), ("CR_REG", "CR"), ("DR_REG", "DR")):
            if kinds[0] == kind:
                return f"MOV_TO_{row}"
            if kinds[1] == kind and kind != "SEG_REG":
                return f"MOV_FROM_{row}"
    elif name == "POP" and kinds[0] in _SREG:
        return "POP_SREG"
    elif name == "IMUL" and len(kinds) == 1:
        return "IMUL1"
    elif name in ("JMP", "CALL"):
        if kinds[0].startswith("FARBR"):
            return f"{name}_FAR"
        if kinds[0] == "MEM":
            return f"{name}_FAR_MEM"
    elif name == "ARPL" and ins.op0_kind == ix.OpKind.MEMORY:
        return "ARPL_MEM"
    elif name == "XCHG" and ins.code in (ix.Code.NOPD, ix.Code.NOPW, ix.Code.NOPQ):
        return "NOP"
    return name


def operand_kinds(info: ix.OpCodeInfo) -> list[str]:
    """iced-x86's names of an instruction's kinds of operands."""
    return [_OPERAND[info.op_kind(k)] for k in range(info.op_count)]


def x87_row_name(mnemonic: int, memory_size: int, kinds: list[str]) -> str:
    """Name of an x87 instruction's row."""
    name = _MNEMONIC[mnemonic]
    if kinds and kinds[0] == "MEM":
        suffix = SUFFIXES.get(_MEMORY_TYPE[memory_size])
        return f"{name}_{suffix}" if suffix else name
    if name == "FNSTSW":
        return "FNSTSW_AX"
    to = kinds and kinds[0] == "STI_OPCODE" and f"{name}_TO" in X87_ROWS
    return f"{name}_TO" if to else name


class Forms:
    """Shapes by number, and how encodings map to them."""

    def __init__(self) -> None:
        self.shapes: list[Shape] = []
        self.features: set[str] = set()
        """Of all shapes."""
        self._numbers: dict[Shape, int] = {}
        self.number(Shape("", "none"))
        self.number(GOTO)
        self.number(UNDEFINED)
        self.number(Shape("misc.no_device", "status", ends=True))

    def number(self, shape: Shape) -> int:
        """The shape's number (GOTO is 1, #UD and #NM are SHAPE_UD and SHAPE_NM)."""
        n = self._numbers.get(shape)
        if n is None:
            n = self._numbers[shape] = len(self.shapes)
            if n >= MOST_SHAPES:
                raise EngineError(f"the guest uses more than {MOST_SHAPES} kinds of instruction: run it in parts")
            self.shapes.append(shape)
            self.features.update(shape.feature.split())
        return n

    def describe(self, data: bytes, mode: int, key: int) -> tuple[int, int]:
        """(form word, shape number) of the instruction in `data`, which is an instance of form `key` in mode `mode`."""
        bits = 64 if mode & 2 else 32 if mode & 1 else 16
        decoder = ix.Decoder(bits, shortest(data, bits), ip=0)
        ins = decoder.decode()
        stack = {"ssize": 8 if mode & 2 else 4 if mode & 4 else 2, "stack_flat": bool(key >> 33 & 1)}
        opcode = key & 0x3FF
        vex = bool(key & int(fb.K_VEX))
        if ins.code == ix.Code.INVALID and vex:
            return self.undefined()
        if ins.code != ix.Code.INVALID and vex != (ins.op_code().encoding != ix.EncodingKind.LEGACY):
            return self.undefined()
        if opcode in HINT_NOPS and not vex and not key >> 20 & 1:
            return self._finish(Shape("misc.nop", "nop", feature="p6"), 0)
        if ins.code == ix.Code.INVALID:
            return self.undefined(undefined_immediates(data, bits))
        features = feature_names(ins)
        older = OLDER.get(_MNEMONIC[ins.mnemonic], "")
        if 0xD8 <= opcode <= 0xDF and features & FPU_FEATURES:
            return self._x87(ins, features, key)
        if not features <= INTEGER_FEATURES and not older:
            return self.undefined()
        info = ins.op_code()
        kinds = operand_kinds(info)
        name = row_name(ins, kinds)
        if name not in ROWS and older:
            name = older
        row = ROWS.get(name)
        if row is None:
            return self.undefined()
        return self._known(name, row, ins, info, kinds, decoder.get_constant_offsets(ins), key, stack)

    def undefined(self, immediates: int = 0) -> tuple[int, int]:
        """The form of an encoding that raises #UD; `immediates` are the sizes of its immediates, as in a form word."""
        return self._finish(UNDEFINED, immediates)

    def _x87(self, ins: ix.Instruction, features: set[str], key: int) -> tuple[int, int]:
        """The form of an x87 instruction: its opcode goes to the micro-op, a register operand's number with it."""
        memory = ins.op_count > 0 and ins.op0_kind == ix.OpKind.MEMORY
        name = x87_row_name(ins.mnemonic, ins.memory_size, operand_kinds(ins.op_code()))
        osize = min(key >> 10 & 15, 4)
        size = ix.MemorySizeExt.size(ins.memory_size) if memory else osize
        row = X87_ROWS[name]
        word = int(fb.F_OPCODE)
        for letter, bit in (("w", fb.F_WRITES), ("r", fb.F_READS)):
            word |= int(bit) if letter in row.flags else 0
        shape = Shape(
            row.unit,
            row.kind,
            osize if name in SIZED else 4,
            ("m",) if memory else (),
            ("",) if memory else (),
            (size,) if memory else (),
            key >> 14 & 15 if memory else 4,
            ADDRESSED[key >> 21 & 3] if memory else "",
            memory and bool(key >> 32 & 1),
            8 if key & int(fb.K_LONG) else 4,
            dst=row.dst if row.kind == "fpu_store" else "",
            feature=" ".join(["fpu", *(FPU_ALSO[f] for f in sorted(features & FPU_ALSO.keys()))]),
        )
        return self._finish(shape, word)

    def for_cpu(
        self, form: tuple[int, int], features: npt.NDArray[np.uint64], *, shared: bool = False
    ) -> tuple[int, int]:
        """A form (`describe`), or that of #UD when it belongs to a feature that `c.features` lacks.

        What belongs to the FPU addresses nobody where there is none; some instructions are older ones there (OLDER).
        `shared`: of a CPU with others at its side, for which locked instructions must be atomic.
        """
        word, shape = form[0], self.shapes[form[1]]
        if shared and word & int(fb.F_LOCKED):
            form = word & ~int(fb.F_GROUP), self.number(replace(shape, locked=True))
        lacking = [name for name in shape.feature.split() if not is_announced(features, name)]
        if "fpu" in lacking:
            return self._finish(Shape("misc.no_fpu", "status"), 0)
        if lacking and shape.older:
            keeps = shape.long and shape.size == 4  # BSF and BSR: see MAY_KEEP
            sizes = (8, 4) if keeps else shape.sizes
            older = replace(shape, unit=shape.older, size=sizes[0], sizes=sizes, feature="", older="")
            return word, self.number(older)
        return self.undefined() if lacking else form

    def _known(
        self,
        name: str,
        row: Row,
        ins: ix.Instruction,
        info: ix.OpCodeInfo,
        kinds: list[str],
        constants: ix.ConstantOffsets,
        key: int,
        stack: dict[str, int | bool],
    ) -> tuple[int, int]:
        asize, cls, flat = key >> 14 & 15, key >> 21 & 3, bool(key >> 32 & 1)
        osize, rex = key >> 10 & 15, bool(key & int(fb.K_REX))
        long = bool(key & int(fb.K_LONG))
        if long and info.operand_size:
            osize = info.operand_size // 8  # some are 64 bits wide without being told so
        memory = next((k for k in range(ins.op_count) if ins.op_kind(k) == ix.OpKind.MEMORY), -1)
        ops, slots, sizes, word = [], [], [], 0
        register_slots = iter(("d", "s", "-", "-"))
        imm, shifts = -1, {"d": 0, "s": int(fb.F_S_SHIFT)}
        for k, kind in enumerate(kinds):
            op, source, size = self._operand(kind, k == memory, osize)
            if k == memory:
                size = ix.MemorySizeExt.size(ins.memory_size) or size
            slot = ""
            if kind in _SREG:
                imm = _SREG[kind]
            elif op in ("r", "s", "n", "x", "y"):
                slot = VEX_SLOTS[source] if key & int(fb.K_VEX) else next(register_slots)
                if slot in shifts:
                    word |= int(source) << shifts[slot]
                    if op in ("s", "y"):
                        word |= int(fb.F_D_LOW if slot == "d" else fb.F_S_LOW)
                    if size == 1 and op == "r" and source < fb.FROM_R0 and not rex:
                        word |= int(fb.F_D_BYTE if slot == "d" else fb.F_S_BYTE)
            ops.append(op)
            slots.append(slot)
            sizes.append(size)
        row = simd_forms.between_registers(row, name, memory)
        letters = simd_forms.classes(kinds, name) if row.kind in ("host", "move") else ""
        word |= simd_forms.state(name, kinds)
        if row.kind == "host" and kinds[-1] == "IMM8":
            if not key >> IMMEDIATE_IN_KEY & 1:
                return word | int(fb.F_IMM_FORM) | 1 << int(fb.F_IMM_SHIFT), 0
            imm = immediate(row.unit, key >> IMMEDIATE_AT & 0xFF, memory=memory >= 0)
        size = self._size(name, row, kinds, sizes, osize)
        if long and size == 4 and name in MAY_KEEP:
            size, row = 8, MAY_KEEP[name]
            sizes[0] = 4 if memory == 0 else 8
        if name in STRINGS:
            size = ix.MemorySizeExt.size(ins.memory_size)
        if name in _FAR_SEGMENT:
            imm = _FAR_SEGMENT[name]
        word |= self._immediates(ins, constants, name, size, kinds)
        for letter, bit in (("w", fb.F_WRITES), ("k", fb.F_KILLS), ("r", fb.F_READS)):
            word |= int(bit) if letter in row.flags else 0
        if "n" in row.flags:
            counted = ops[-1] == "i" or ops[-1] == "1"
            word = word | int(fb.F_COUNT) if counted else word & ~int(fb.F_KILLS)
            if ops[-1] == "1":
                word &= ~int(fb.F_COUNT)
        if (row.fuse and not (memory == 0 and row.dst == "0")) or row.kind == "jcc":
            word |= int(fb.F_FUSE)  # one that stores may store to its Jcc
        if memory == 0 and row.dst == "0" and row.kind == "value" and (key >> LOCK_IN_KEY & 1 or name == "XCHG"):
            word |= int(fb.F_LOCKED)
        cc = CONDITION_OF.get(name, 0)
        word |= cc << int(fb.F_CC_SHIFT)
        mem = ""
        if memory >= 0 and name not in STRINGS:
            mem = ADDRESSED[cls]
            if kinds[memory] == "SEG_RBX_AL":
                mem = "t"
            elif kinds[memory] == "MEM_OFFS" and asize == 8:
                mem = "o"
        if name in ("BT", "BTS", "BTR", "BTC") and memory == 0 and ops[1] == "r":
            mem += "k"
        shape = Shape(
            row.unit,
            self._kind(row, kinds),
            size,
            tuple(ops),
            tuple(slots),
            tuple(sizes),
            asize,
            mem,
            flat and bool(mem),
            stack["ssize"],
            bool(stack["stack_flat"]),
            (key >> 18 & 3) if name in STRINGS else 0,
            cc if row.kind == "value" or row.kind == "jcc" else 0,
            imm,
            row.dst,
            row.hi,
            row.ends or (name in STRINGS and key >> 18 & 3 != 0),
            next((ANNOUNCED_AS[f] for f in sorted(feature_names(ins)) if f in ANNOUNCED_AS), "")
            or ("lahf_lm" if long and name in ("LAHF", "SAHF") else ""),
            letters,
            name in UNALIGNED,
            older=ROWS[OLDER[name]].unit if name in OLDER else "",
        )
        return self._finish(shape, word)

    def _finish(self, shape: Shape, word: int) -> tuple[int, int]:
        kind = _KINDS.get(shape.kind, fb.KIND_ENDS if shape.ends else fb.KIND_NORMAL)
        word |= int(kind) << int(fb.F_KIND_SHIFT)
        quiet = shape.kind in ("host", "move") and "y" not in shape.ops and shape.unit not in FLOAT
        if not (quiet or shape.kind in ("nop", "jcc", "jmp", "loop", "value")) or "m" in shape.ops or shape.mem:
            word |= int(fb.F_FAULTS)
        if shape.kind == "loop" and shape.unit != "branch.jcxz":
            word |= shape.asize << int(fb.F_UNDO_SHIFT)
        if shape.unit == "address.lea":
            word &= ~int(fb.F_FAULTS)
        if groupable(shape):
            word |= int(fb.F_GROUP)
        return word, self.number(shape)

    @staticmethod
    def _kind(row: Row, kinds: list[str]) -> str:
        if row.kind in ("jmp", "call") and not kinds[0].startswith("BR"):
            return row.kind + "i"
        return row.kind

    @staticmethod
    def _operand(kind: str, is_memory: bool, osize: int) -> tuple[str, int, int]:
        """(kind letter, register source, size) of one operand."""
        wide = simd_forms.operand(kind, is_memory)
        if wide is not None:
            return wide
        if kind in _FIXED:
            source, size = _FIXED[kind]
            return "r", int(source), size
        if kind in _SREG:
            return "s", 0, 2
        if kind == "SEG_REG":
            return "s", int(fb.FROM_REG), 2
        if kind in ("CR_REG", "DR_REG", "TR_REG"):
            return "n", int(fb.FROM_REG), 4
        if kind == "IMM8_CONST_1":
            return "1", 0, 1
        if kind.startswith(("IMM", "BR", "FARBR")):
            return "w" if kind == "IMM64" else "i", 0, 1 if kind == "IMM8" else osize
        size = next((n for text, n in (("R8", 1), ("R16", 2), ("R32", 4), ("R64", 8)) if kind.startswith(text)), osize)
        if is_memory or kind == "MEM" or kind == "MEM_OFFS":
            return "m", 0, size
        if kind.endswith("_OR_MEM") or kind.endswith("_RM"):
            return "r", int(fb.FROM_RM), size
        if kind.endswith("_REG"):
            return "r", int(fb.FROM_REG), size
        if kind.endswith("_VVVV"):
            return "r", int(fb.FROM_VVVV), size
        if kind.endswith("_OPCODE"):
            return "r", int(fb.FROM_OPCODE), size
        return "", 0, size

    @staticmethod
    def _size(name: str, row: Row, kinds: list[str], sizes: list[int], osize: int) -> int:
        """Operand size of the instruction."""
        if name == "OUT":
            return sizes[1]
        if name in FIXED_SIZE:
            return FIXED_SIZE[name]
        if row.kind in ("push", "pop", "call", "jmp", "ret", "leave", "jcc", "loop") or not kinds:
            return osize
        if name in OPERAND_SIZED:
            return osize
        return sizes[0]

    @staticmethod
    def _immediates(ins: ix.Instruction, constants: ix.ConstantOffsets, name: str, size: int, kinds: list[str]) -> int:
        """Immediate bits of the form word."""
        word = immediate_sizes(ins, constants)
        if kinds and kinds[0].startswith("BR"):
            word |= int(fb.F_RELATIVE)
            if kinds[0].startswith("BR16"):
                word |= int(fb.F_TARGET16)
        if any("SEX" in k for k in kinds):
            word |= int(fb.F_IMM_SIGNED) | ({2: 1, 4: 2, 8: 3}[size] << int(fb.F_IMM_CUT_SHIFT))
        return word
