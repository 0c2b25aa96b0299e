"""Random cases for every user-level integer instruction form, 8086 to Pentium Pro, and those of 64-bit code.

The list of forms is iced-x86's own table: opcode, group, operand kinds and
legal modes come from `OpCodeInfo`, so that a form cannot be forgotten and its
encoding is written nowhere twice.  The undocumented encodings are in that
table too: group 82h, SHL /6, TEST /1, SALC, INT1, AAM and AAD with any base.

A case is reproducible from (seed, mode, index).  Most memory operands lie
inside their segment, some at its edge and beyond; most divisions succeed.

Not generated: privileged instructions, what depends on the environment
(CPUID, SGDT, LAR..), segment register loads, far transfers, INT n, x87, and
the opcodes that later CPUs gave to other instructions (F3 0F BC is TZCNT).
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from iced_x86 import (
    Code,
    CpuidFeature,
    EncodingKind,
    Instruction,
    MandatoryPrefix,
    Mnemonic,
    OpCodeInfo,
    OpCodeTableKind,
)
from iced_x86 import OpCodeOperandKind as Kind

from tests.oracle.case import CODE_OFFSET, DF, IF, STATUS, WINDOW, WINDOW_SIZE, Case, Layout

FEATURES = {
    CpuidFeature.INTEL8086,
    CpuidFeature.INTEL186,
    CpuidFeature.INTEL286,
    CpuidFeature.INTEL386,
    CpuidFeature.INTEL486,
    CpuidFeature.CX8,
    CpuidFeature.CMOV,
    CpuidFeature.MULTIBYTENOP,
    CpuidFeature.X64,
    CpuidFeature.CMPXCHG16B,
}

ENVIRONMENT = {
    getattr(Mnemonic, name)
    for name in (
        "IN OUT INSB INSW INSD OUTSB OUTSW OUTSD HLT CLI STI WAIT INT LDS LES LSS LFS LGS"
        " RETF IRET IRETD LAR LSL VERR VERW SLDT STR LLDT LTR SGDT SIDT LGDT LIDT SMSW LMSW"
        " INVLPG CLTS INVD WBINVD INVALID DB DW DD DQ ZERO_BYTES IRETQ SWAPGS"
    ).split()
}
"""Mnemonics whose effect depends on privilege, descriptor tables or devices."""

SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")
_OVERRIDE = {"es": 0x26, "cs": 0x2E, "ss": 0x36, "ds": 0x3E, "fs": 0x64, "gs": 0x65}
EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI = range(8)
_BASES_16 = (
    (EBX, ESI), (EBX, EDI), (EBP, ESI), (EBP, EDI), (ESI,), (EDI,), (EBP,), (EBX,),
)  # fmt: skip

_SREGS = {Kind.ES, Kind.CS, Kind.SS, Kind.DS, Kind.FS, Kind.GS}
_IN_OPCODE = {Kind.R8_OPCODE, Kind.R16_OPCODE, Kind.R32_OPCODE, Kind.R64_OPCODE}
_RM = {Kind.R8_OR_MEM, Kind.R16_OR_MEM, Kind.R32_OR_MEM, Kind.R64_OR_MEM, Kind.MEM}
_IMMEDIATE: dict[int, int] = {
    Kind.IMM8: 1, Kind.IMM8SEX16: 1, Kind.IMM8SEX32: 1, Kind.IMM16: 2, Kind.IMM32: 4,
    Kind.BR16_1: 1, Kind.BR32_1: 1, Kind.BR16_2: 2, Kind.BR32_4: 4,
    Kind.IMM8SEX64: 1, Kind.IMM32SEX64: 4, Kind.IMM64: 8, Kind.BR64_1: 1, Kind.BR64_4: 4,
}  # fmt: skip
_NEAR = {Kind.BR16_1, Kind.BR32_1, Kind.BR16_2, Kind.BR32_4, Kind.BR64_1, Kind.BR64_4}
_FAR = {Kind.FARBR2_2, Kind.FARBR4_2}
_BIT_TESTS = {Mnemonic.BT, Mnemonic.BTS, Mnemonic.BTR, Mnemonic.BTC}
_EXCHANGES: dict[int, int] = {Mnemonic.CMPXCHG8B: 4, Mnemonic.CMPXCHG16B: 8}
_DIVISIONS = {Mnemonic.DIV, Mnemonic.IDIV}
_POPS_FLAGS = {Mnemonic.POPF, Mnemonic.POPFD, Mnemonic.POPFQ}
M32 = 0xFFFFFFFF


@dataclass(frozen=True)
class Form:
    """One row of iced-x86's table, with what an encoder needs of it."""

    code: int
    mnemonic: int
    opcode: bytes
    operands: tuple[int, ...]
    reg: int | None  # fixed ModRM.reg of a group
    operand_size: int  # 16, 32 or 64 if the encoding depends on it, else 0
    address_size: int
    wide: bool  # 64 bits without REX.W
    branch: bool  # 66h changes nothing in 64-bit code
    lockable: bool
    text: str

    @property
    def has_modrm(self) -> bool:
        return self.reg is not None or not _RM.isdisjoint(self.operands)

    @property
    def is_string(self) -> bool:
        return Kind.SEG_RSI in self.operands or Kind.ES_RDI in self.operands

    @property
    def may_take_rep(self) -> bool:
        """F2 and F3 leave this opcode what it is, on every CPU."""
        return self.opcode not in (
            b"\x90",
            b"\x0f\xbc",
            b"\x0f\xbd",
            b"\x0f\xb8",
            b"\x0f\xc7",
        ) and (self.opcode[0] != 0x0F or not 0x18 <= self.opcode[1] <= 0x1F)

    @property
    def may_take_66(self) -> bool:
        return (not self.operand_size and self.opcode != b"\x0f\xc7") or self.branch


@functools.cache
def forms(mode: int) -> tuple[Form, ...]:
    """The forms that exist in 16-, 32- or 64-bit code."""
    found = []
    for code in _codes():
        info = OpCodeInfo(code)  # type: ignore[arg-type]  # an int at run time
        if info.encoding != EncodingKind.LEGACY or not info.is_instruction:
            continue
        if not info.is_available_in_mode(mode) or info.is_privileged:
            continue
        if code == Code.UD0:
            continue  # AMD's reading, without ModRM, of what is also UD0_R16_RM16
        if info.mandatory_prefix not in (MandatoryPrefix.NONE, MandatoryPrefix.PNP):
            continue
        instruction = Instruction()
        instruction.code = code  # type: ignore[assignment]
        if not FEATURES.issuperset(instruction.cpuid_features()) or info.mnemonic in ENVIRONMENT:
            continue
        operands = tuple(info.op_kinds())
        if not _FAR.isdisjoint(operands) or _loads_segment(info.mnemonic, operands):
            continue
        if info.mnemonic in (Mnemonic.CALL, Mnemonic.JMP) and Kind.MEM in operands:
            continue  # far, through memory
        if mode == 64 and not info.intel_decoder64:
            continue
        found.append(
            Form(
                code=code,
                mnemonic=info.mnemonic,
                opcode=_opcode(info),
                operands=operands,
                reg=info.group_index if info.is_group else None,
                operand_size=info.operand_size,
                address_size=info.address_size,
                wide=info.default_op_size64,
                branch=info.intel_force_op_size64,
                lockable=info.can_use_lock_prefix,
                text=info.instruction_string,
            )
        )
    return tuple(found)


def _codes() -> list[int]:
    """iced-x86's whole table; its enumerations are modules of integers at run time."""
    return sorted(v for k, v in vars(Code).items() if isinstance(v, int) and k[0] != "_")


def _loads_segment(mnemonic: int, operands: Sequence[int]) -> bool:
    if mnemonic == Mnemonic.POP:
        return not _SREGS.isdisjoint(operands)
    return mnemonic == Mnemonic.MOV and bool(operands) and operands[0] == Kind.SEG_REG


def _opcode(info: OpCodeInfo) -> bytes:
    escape = {OpCodeTableKind.NORMAL: b"", OpCodeTableKind.T0F: b"\x0f"}[info.table]
    return escape + info.op_code.to_bytes(info.op_code_len, "big")


def generate(mode: int, count: int, seed: int, layouts: Sequence[Layout] = tuple(Layout)) -> Iterator[Case]:
    """`count` cases for code of `mode` bits, going round all its forms."""
    order = list(forms(mode))
    random.Random(f"{seed}/{mode}").shuffle(order)
    usable = [x for x in layouts if x.fits(mode)]
    for index in range(count):
        rng = random.Random(f"{seed}/{mode}/{index}")
        yield builder(mode)(order[index % len(order)], mode, rng.choice(usable), rng).case()


def legal(form: Form, mode: int, rng: random.Random) -> Case:
    """A case that is surely this form: no prefix that it does not need."""
    layout = Layout.FLAT if mode == 64 else Layout.WINDOW
    return builder(mode)(form, mode, layout, rng, plain=True).case()


def builder(mode: int) -> type[Builder]:
    """What puts cases of a mode together."""
    if mode == 64:
        from tests.isa.cases_long import LongBuilder

        return LongBuilder
    return Builder


class Builder:
    """Puts one case together: registers, then operands, then what the form asks for."""

    def __init__(self, form: Form, mode: int, layout: Layout, rng: random.Random, *, plain: bool = False) -> None:
        self.form, self.mode, self.layout, self.rng, self.plain = form, mode, layout, rng, plain
        self.operand_size = form.operand_size or min(mode, 32)
        self.address_size = form.address_size or mode
        if not (plain or form.address_size) and self._chance(0.2):
            self.address_size = {16: 32, 32: 16, 64: 32}[mode]
        if self.address_size == 16 and layout is Layout.FLAT:
            self.layout = Layout.WINDOW  # 16-bit addresses do not reach a flat window
        self.geometry = self._empty()
        self.regs = [self._register() for _ in self.geometry.regs]
        self.pinned: set[int] = set()  # registers that hold an address by now
        self.memory: dict[int, bytes] = {}
        self.override: str | None = None
        self.locked = False
        self.operand_at: int | None = None  # window offset of the memory operand
        self.rm: int | None = None  # the register in ModRM.rm
        self.n_behind = 0  # bytes behind the displacement

    def _empty(self) -> Case:
        """A case without code, which knows where segments are."""
        return Case(self.mode, b"", (0,) * 8, layout=self.layout)

    # ---- values ---------------------------------------------------------

    def _chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def value(self, width: int) -> int:
        """An interesting unsigned number of `width` bits."""
        top = 1 << width
        kind = self.rng.randrange(10)
        if kind < 4:
            near = self.rng.choice((0, top >> 1, top - 1, 1, 0x80, 0x8000 % top, 0xFF))
            return (near + self.rng.choice((-1, 0, 0, 1))) % top
        if kind < 6:
            return self.rng.randrange(min(top, 0x40))
        return self.rng.randrange(top)

    def _register(self) -> int:
        width = self.rng.choice((8, 16, 32, 32))
        rest = self.rng.getrandbits(32) if self._chance(0.7) else 0
        return rest >> width << width | self.value(width)

    def _set_low(self, register: int, value: int, size: int) -> None:
        """Write a register's low `size` bits and keep it for good."""
        self.regs[register] = self.regs[register] >> size << size | value & (1 << size) - 1
        self.pinned.add(register)

    def _target(self, segment: str, aligned: bool = False) -> int:
        """An address in a segment: mostly inside, at times at an edge or beyond."""
        part = self.geometry.segment(segment)
        low, high = (0, part.limit) if not part.expand_down else (part.limit + 1, 0xFFFF)
        if self.layout is Layout.FLAT:
            low, high = WINDOW, WINDOW + WINDOW_SIZE - 1
        elif self._chance(0.04):
            edge = self.rng.choice((low, high)) + self.rng.randrange(-9, 10)
            return edge & 0xFFFFFFF8 if aligned else edge & 0xFFFFFFFF
        address = self.rng.randrange(low + 0x40, high - 0x60)
        return address & ~7 if aligned else address

    def _place(self, segment: str, address: int, data: bytes, size: int | None = None) -> None:
        """Put data where the guest finds it, if that lies in the window."""
        if (size or self.address_size) == 16:
            address &= 0xFFFF
        offset = self._offset(segment, address)
        if 0 <= offset <= WINDOW_SIZE - len(data):
            self.memory[offset] = data

    def _offset(self, segment: str, address: int) -> int:
        """Window offset of a segment's address."""
        return (self.geometry.segment(segment).base + address) % (1 << 64) - WINDOW

    # ---- encoding -------------------------------------------------------

    def case(self) -> Case:
        form = self.form
        self._choose_prefixes()
        self._set_stack()
        if form.is_string:
            self._set_string()
        tail = self._modrm() if form.has_modrm else b""
        opcode = form.opcode
        if not _IN_OPCODE.isdisjoint(form.operands):
            self.rm = self._number("b")
            opcode = opcode[:-1] + bytes([opcode[-1] + (self.rm & 7)])
        self._prepare()
        immediates = self._immediates()
        self.n_behind = len(immediates)
        code = opcode + tail + immediates
        code = self._prefixes(len(code)) + code
        ip = CODE_OFFSET
        if not self.plain and self._chance(0.02):
            ip = WINDOW_SIZE - len(code)
        flags = self.rng.getrandbits(32) & STATUS | IF | 2
        if self._chance(0.4 if form.is_string else 0.05):
            flags |= DF
        count = self.rng.choice((1, 2, 40, 40, 40)) if form.is_string else 1
        return self._made(code, flags, count, ip)

    def _made(self, code: bytes, flags: int, count: int, ip: int) -> Case:
        """The case, when all is chosen."""
        return Case(self.mode, code, tuple(self.regs), flags, self.memory, count, self.layout, ip)

    def _number(self, field: str) -> int:
        """A register number for a field of the encoding: ModRM.reg ("r"), ModRM.rm or the opcode ("b")."""
        return self.rng.randrange(8)

    def _choose_prefixes(self) -> None:
        form = self.form
        self.lock = self.rep = None
        if self.plain:
            return
        if self._chance(0.2):
            self.override = self.rng.choice(SEGMENTS)
        if self._chance(0.15 if form.lockable else 0.015):
            self.lock = 0xF0
        if self._chance(0.6 if form.is_string else 0.02) and (form.is_string or form.may_take_rep):
            self.rep = self.rng.choice((0xF2, 0xF3, 0xF3))

    def _prefixes(self, length: int) -> bytes:
        prefixes = []
        if self._is_short() or (not self.plain and self.form.may_take_66 and self._chance(0.05)):
            prefixes.append(0x66)
        if self.address_size != self.mode:
            prefixes.append(0x67)
        if self.override:
            prefixes.append(_OVERRIDE[self.override])
        prefixes += [x for x in (self.lock, self.rep) if x is not None]
        self.rng.shuffle(prefixes)
        if prefixes and not self.plain and self._chance(0.01):
            prefixes += [prefixes[-1]] * (self.rng.choice((15, 16)) - length - len(prefixes))
        return bytes(prefixes)

    def _is_short(self) -> bool:
        """Whether the operand size asks for the prefix 66h."""
        return self.operand_size != self.mode

    def _immediates(self) -> bytes:
        encoded = b""
        for operand in self.form.operands:
            if operand in _NEAR:
                size = _IMMEDIATE[operand]
                near = self.rng.randrange(-0x4000, 0x4000)
                width = 8 * size
                value = near if size > 1 and self._chance(0.8) else self.value(width)
                encoded += (value % (1 << width)).to_bytes(size, "little")
            elif operand in _IMMEDIATE:
                size = _IMMEDIATE[operand]
                encoded += self._immediate(operand, size).to_bytes(size, "little")
            elif operand == Kind.MEM_OFFS:
                segment = self.override or "ds"
                address = self._target(segment)
                size = self.address_size // 8
                encoded += (address % (1 << 8 * size)).to_bytes(size, "little")
        return encoded

    def _immediate(self, operand: int, size: int) -> int:
        mnemonic = self.form.mnemonic
        if mnemonic == Mnemonic.ENTER:
            if operand == Kind.IMM16:
                return self.rng.choice((0, 2, 7, 0x40, 0x123, self.value(16)))
            return self.rng.choice((0, 1, 2, 3, 31, 32, 33, self.value(8)))
        if mnemonic == Mnemonic.RET:
            return self.rng.choice((0, 2, 8, 0x20, self.value(16)))
        return self.value(8 * size)

    # ---- operands -------------------------------------------------------

    def _set_stack(self) -> None:
        stack = self._target("ss")
        if not self._chance(0.1):
            stack &= ~3
        self._set_low(ESP, stack, self.mode if self._chance(0.5) else 32)
        if self.form.mnemonic in (Mnemonic.LEAVE, Mnemonic.ENTER):
            self._set_low(EBP, self._target("ss"), self.mode)

    def _set_string(self) -> None:
        size = self.address_size
        self._set_low(ESI, self._target(self.override or "ds"), size)
        self._set_low(EDI, self._target("es"), size)
        if self.rep:
            self._set_low(ECX, self.rng.choice((0, 1, 2, 3, 5, 9)), size)
        if self._chance(0.5):  # make comparisons run on
            for segment, register in ((self.override or "ds", ESI), ("es", EDI)):
                low = self.regs[register] - 24
                self._place(segment, low, bytes([self.regs[EAX] & 0xFF]) * 48)

    def _modrm(self) -> bytes:
        form = self.form
        reg = form.reg
        if reg is None:
            reg = self._number("r")
            if Kind.SEG_REG in form.operands and not self._chance(0.1):
                reg %= 6
        self.reg = reg
        memory_only = Kind.MEM in form.operands
        if not memory_only and self._chance(0.45):
            self.rm = self._number("b")
            return bytes([0xC0 | (reg & 7) << 3 | self.rm & 7])
        wants_alignment = self.lock is not None or form.mnemonic == Mnemonic.XCHG
        encode = self._memory_16 if self.address_size == 16 else self._memory_32
        if form.mnemonic == Mnemonic.CMPXCHG16B:
            wants_alignment = self._chance(0.9)
        for _ in range(20):  # a locked access across cache lines may trap on the host (#AC)
            modrm, rest, default, address, bits = encode(wants_alignment)
            if not wants_alignment or address % 16 == 0:
                break
        segment = self.override or default
        if form.mnemonic in _BIT_TESTS and form.reg is None and reg not in self.pinned:
            self._set_low(reg, self.rng.randrange(-0x180, 0x180), max(self.operand_size, 32))
            self.pinned.discard(reg)
        self.operand_at = self._offset(segment, address)
        self.operand_segment, self.operand_address = segment, address
        if self._chance(0.6):
            data = b"".join(self.value(bits).to_bytes(bits // 8, "little") for _ in range(2))
            self._place(segment, address, data)
        return bytes([modrm | (reg & 7) << 3]) + rest

    def _memory_16(self, aligned: bool) -> tuple[int, bytes, str, int, int]:
        mod, rm = self.rng.randrange(3), self.rng.randrange(8)
        absolute = mod == 0 and rm == 6
        bases = () if absolute else _BASES_16[rm]
        default = "ss" if EBP in bases else "ds"
        target = self._target(self.override or default, aligned) & 0xFFFF
        disp = 0
        if mod == 1:
            disp = self.rng.randrange(-128, 128)
        elif mod == 2 or absolute:
            disp = target - sum(self.regs[x] for x in bases)
        if bases and mod < 2:
            self._set_low(bases[0], target - disp - sum(self.regs[x] for x in bases[1:]), 16)
        self.pinned.update(bases)
        address = sum(self.regs[x] for x in bases) + disp & 0xFFFF
        size = 2 if absolute else mod
        rest = (disp % (1 << 16) & (1 << 8 * size) - 1).to_bytes(size, "little")
        return mod << 6 | rm, rest, default, address, self.operand_size

    def _memory_32(self, aligned: bool) -> tuple[int, bytes, str, int, int]:
        mod, rm = self.rng.randrange(3), self.rng.randrange(8)
        base: int | None = rm
        index, scale, sib = None, 0, b""
        if rm == 4:
            number, scale, base = (
                self.rng.randrange(8),
                self.rng.randrange(4),
                self.rng.randrange(8),
            )
            index = None if number == ESP else number
            sib = bytes([scale << 6 | number << 3 | base])
        if mod == 0 and base == EBP:
            base = None
        default = "ss" if base in (ESP, EBP) else "ds"
        target = self._target(self.override or default, aligned)
        scaled = 0 if index is None else self.regs[index] << scale
        disp, size = 0, {0: 4 if base is None else 0, 1: 1, 2: 4}[mod]
        if size == 4:
            disp = target - scaled - (0 if base is None else self.regs[base])
        else:
            disp = self.rng.randrange(-128, 128) if size else 0
            assert base is not None
            if base == index:
                self._set_low(base, (target - disp) // (1 + (1 << scale)), 32)
            else:
                self._set_low(base, target - disp - scaled, 32)
        address = disp
        for register, shift in ((base, 0), (index, scale)):
            if register is not None:
                self.pinned.add(register)
                address += self.regs[register] << shift
        rest = sib + (disp % (1 << 32) & (1 << 8 * size) - 1).to_bytes(size, "little")
        return mod << 6 | rm, rest, default, address & 0xFFFFFFFF, self.operand_size

    # ---- what single instructions ask for -------------------------------

    def _prepare(self) -> None:
        mnemonic = self.form.mnemonic
        if mnemonic in _DIVISIONS:
            self._prepare_division()
        elif mnemonic == Mnemonic.BOUND:
            self._prepare_bound()
        elif mnemonic in (Mnemonic.JMP, Mnemonic.CALL) and self.form.has_modrm:
            self._write_operand(self._branch_target())
        elif mnemonic == Mnemonic.RET:
            self._place_on_stack(self._branch_target())
        elif mnemonic in _POPS_FLAGS:
            self._place_on_stack(self.rng.getrandbits(32))
        elif mnemonic == Mnemonic.CMPXCHG and self._chance(0.5):
            self._write_operand(self.regs[EAX])
        elif mnemonic in _EXCHANGES and self._chance(0.5):
            size = _EXCHANGES[mnemonic]
            both = b"".join((self.regs[x] % (1 << 8 * size)).to_bytes(size, "little") for x in (EAX, EDX))
            self._place(self.operand_segment, self.operand_address, both)
        elif mnemonic == Mnemonic.XLATB:
            target = self._target(self.override or "ds") - (self.regs[EAX] & 0xFF)
            self._set_low(EBX, target, self.address_size)
        elif Kind.CL in self.form.operands and ECX not in self.pinned:
            self.regs[ECX] = self.regs[ECX] & ~0xFF | self.value(8)

    def _width(self) -> int:
        return 8 if Kind.R8_OR_MEM in self.form.operands else self.operand_size

    def _write_operand(self, value: int) -> None:
        """Give the r/m operand a value, unless that is impossible."""
        size = self._width() // 8
        value %= 1 << 8 * size
        if self.operand_at is not None:
            self._place(self.operand_segment, self.operand_address, value.to_bytes(size, "little"))
        elif self.rm is not None and self.rm not in self.pinned:
            if size == 1:
                register, shift = self._byte_register(self.rm)
                kept = self.regs[register] & ~(0xFF << shift)
                self.regs[register] = kept | value << shift
            else:
                keep = self.regs[self.rm] >> 8 * size << 8 * size
                self.regs[self.rm] = keep | value

    def _byte_register(self, number: int) -> tuple[int, int]:
        """Register and shift of a byte register."""
        return number & 3, 8 if number > 3 else 0

    def _branch_target(self) -> int:
        base = WINDOW if self.layout is Layout.FLAT else 0
        if self._chance(0.1):
            return self.value(self.operand_size)
        return base + self.rng.randrange(WINDOW_SIZE)

    def _place_on_stack(self, value: int) -> None:
        size = self.operand_size // 8
        data = (value % (1 << 8 * size)).to_bytes(size, "little")
        self._place("ss", self.regs[ESP], data, self.mode)

    def _prepare_division(self) -> None:
        """Mostly a divisor and a quotient that fit; signs and overflows as they fall."""
        width = self._width()
        if self._chance(0.25) or self.pinned & {EAX, EDX}:
            return
        divisor = self.value(width) or 3
        self._write_operand(divisor)
        quotient, rest = self.value(width - 1), self.rng.randrange(divisor)
        if self.form.mnemonic == Mnemonic.IDIV:
            half = 1 << width - 1
            divisor = (divisor ^ half) - half
            quotient = self.rng.choice((quotient, -quotient, half - 1, -half))
            rest = self.rng.randrange(abs(divisor))
            dividend = quotient * divisor
            dividend += rest if dividend >= 0 else -rest
        else:
            dividend = quotient * divisor + rest
        low, high = dividend % (1 << width), dividend >> width & (1 << width) - 1
        if width == 8:
            self.regs[EAX] = self.regs[EAX] & ~0xFFFF | high << 8 | low
        else:
            self._set_low(EAX, low, width)
            self._set_low(EDX, high, width)

    def _prepare_bound(self) -> None:
        width = self.operand_size
        if self._chance(0.3):
            return
        half = 1 << width - 1
        index = ((self.regs[self.reg] % (1 << width)) ^ half) - half
        low = max(-half, index - self.rng.choice((0, 1, 0x50, -1)))
        high = min(half - 1, index + self.rng.choice((0, 1, 0x50, -1)))
        size = width // 8
        data = b"".join((x % (1 << width)).to_bytes(size, "little") for x in (low, high))
        self._place(self.operand_segment, self.operand_address, data)
