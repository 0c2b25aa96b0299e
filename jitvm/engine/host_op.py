"""Host operations: the text of an operation of `jitvm/isa/simd.py` as the host's instruction of the same name.

Values are `<2 x i64>` for XMM operands and `i64` for all others.  Arguments, in the order of the operands: what the
instruction reads (not a destination that it only writes, unless that is an XMM register, of which a part may stay), then
what it reads beside them: XMM0, or EAX and EDX.

x86-64 hosts only; other hosts announce none of these features.

Source: System V ABI, AMD64 supplement, table 3.4 (registers); LLVM language reference, "Inline Assembler Expressions".
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from jitvm.engine.backend import Linker, compile_plainly
from jitvm.engine.forms import Shape
from jitvm.engine.simd_forms import WIDE, WORD, argument_types, result_type
from jitvm.isa import host
from jitvm.isa.simd import BLENDS, COMPARES, FLOAT, STRINGS

TAKE_FLAGS = "lahf; seto %al"
WIDE_STRINGS = {"pcmpestrm64": 0x60, "pcmpestri64": 0x61}
"""Opcodes in the map 0F 3A."""
CRC_SUFFIX = {1: "b", 2: "w", 4: "l", 8: "q"}
CLOBBERS = "~{dirflag},~{fpsr},~{flags}"
STATEFUL = "nounwind memory(inaccessiblemem: readwrite)"
"""Reads and writes nothing that LLVM knows of but MXCSR: not moved across its like, not dropped, not done in advance."""


def _sized(shape: Shape, operand: int, number: int) -> str:
    """A general register as the assembler's operand `number`, by the size of the instruction's operand."""
    size = shape.sizes[operand]
    return f"${{{number}:k}}" if size < 8 else f"${number}"


def _assembly(shape: Shape) -> tuple[str, str, str]:
    """(instructions, constraints, result type) of an operation."""
    name, letters = shape.unit, shape.host
    imm = f"${shape.imm}, ".replace("$", "$$") if shape.imm >= 0 else ""
    if name in STRINGS:
        return _string(shape, imm)
    if name in COMPARES:
        take = "sete ${0:b}; setp ${1:b}; setc ${2:b}"  # LLVM 22 orders "={@cc..}" outputs wrongly
        return f"{name} $4, $3; {take}", f"=r,=r,=r,x,x,{CLOBBERS}", "{ i32, i32, i32 }"
    if name in BLENDS:
        return f"{name} %xmm0, $2, $0", f"=x,0,x,{{xmm0}},{CLOBBERS}", WIDE
    if name == "crc32":
        size = shape.sizes[1]
        source = {1: "${2:b}", 2: "${2:w}", 4: "${2:k}", 8: "$2"}[size]
        target = "$0" if size == 8 else "${0:k}"
        return f"crc32{CRC_SUFFIX[size]} {source}, {target}", f"=r,0,r,{CLOBBERS}", WORD
    if "y" in letters:
        return _mmx(shape, imm)
    if letters == "x":
        return f"{name} {imm}$0", f"=x,0,{CLOBBERS}", WIDE
    if letters == "xx":
        return f"{name} {imm}$2, $0", f"=x,0,x,{CLOBBERS}", WIDE
    if letters == "xr":
        return f"{name} {imm}{_sized(shape, 1, 2)}, $0", f"=x,0,r,{CLOBBERS}", WIDE
    return f"{name} {imm}$1, {_sized(shape, 0, 0)}", f"=r,x,{CLOBBERS}", WORD


def _string(shape: Shape, imm: str) -> tuple[str, str, str]:
    """An operation on strings.  The assembler knows no form with 64-bit lengths: its bytes, on XMM1 and XMM2."""
    name = shape.unit
    out, kind = ("{xmm0}", WIDE) if "strm" in name else ("{cx}", WORD)
    ins = "{xmm1},{xmm2},{ax},{dx}" if name.startswith("pcmpestr") else "x,x"
    text = f"{name} {imm}$3, $2"
    if name in WIDE_STRINGS:
        text = f".byte 0x66, 0x48, 0x0f, 0x3a, {WIDE_STRINGS[name]:#x}, 0xca, {shape.imm:#x}"
    return f"{text}; {TAKE_FLAGS}", f"={out},={{ax}},{ins},{CLOBBERS}", f"{{ {kind}, i64 }}"


def _mmx(shape: Shape, imm: str) -> tuple[str, str, str]:
    """An operation on MMX registers: MM0 and MM1, left empty again."""
    name, letters = shape.unit, shape.host
    end = f"~{{mm0}},~{{mm1}},{CLOBBERS}"
    if letters == "xy":
        return f"movq $2, %mm0; {name} %mm0, $0; emms", f"=x,0,r,{end}", WIDE
    if letters == "yx":
        return f"{name} $1, %mm0; movq %mm0, $0; emms", f"=r,x,{end}", WORD
    if letters == "ry":
        return f"movq $1, %mm0; {name} {imm}%mm0, {_sized(shape, 0, 0)}; emms", f"=r,r,{end}", WORD
    if letters == "yr":
        source = _sized(shape, 1, 2)
        return f"movq $1, %mm0; {name} {imm}{source}, %mm0; movq %mm0, $0; emms", f"=r,r,r,{end}", WORD
    if letters == "y":
        return f"movq $1, %mm0; {name} {imm}%mm0; movq %mm0, $0; emms", f"=r,r,{end}", WORD
    return f"movq $1, %mm0; movq $2, %mm1; {name} {imm}%mm1, %mm0; movq %mm0, $0; emms", f"=r,r,r,{end}", WORD


def emit(new: Callable[[str], str], shape: Shape, args: Sequence[str]) -> tuple[str, str]:
    """Write an operation through `new` (text of an instruction to the name of its value): names of result and flags word."""
    text, constraints, kind = _assembly(shape)
    stateful = shape.unit in FLOAT
    given = ", ".join(f"{t} {a}" for t, a in zip(argument_types(shape), args, strict=True))
    effect, attributes = ("sideeffect ", STATEFUL) if stateful else ("", "nounwind memory(none)")
    v = new(f'call {kind} asm {effect}"{text}", "{constraints}"({given}) {attributes}')
    if shape.unit in COMPARES:
        bits = [new(f"and i32 {new(f'extractvalue {kind} {v}, {k}')}, 1") for k in range(3)]
        words = [new(f"zext i32 {bit} to i64") for bit in bits]
        both = new(f"or i64 {words[0]}, {new(f'shl i64 {words[1]}, 1')}")
        return "", new(f"or i64 {both}, {new(f'shl i64 {words[2]}, 2')}")
    if shape.unit in STRINGS:
        result = new(f"extractvalue {kind} {v}, 0")
        return result, new(f"extractvalue {kind} {v}, 1")
    return v, ""


# ---- at once, for the plain engine ------------------------------------------------------------------------------------
_NUMBERS = itertools.count()


@cache
def _linker() -> Linker:
    return Linker()


@cache
def _function(text: str) -> Callable[[int], None]:
    """A function with such a text behind its name: of many shapes, which differ in what the operation does not see."""
    name = f"host_op{next(_NUMBERS)}"
    address = _linker().link([compile_plainly(f"define void @{name}{text}")], [name], {})[name]
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)


class HostOp:
    """An operation as a function of Python numbers: 128 bits for XMM operands, 64 for all others."""

    ARGUMENTS, RESULT, FLAGS, CONTROL, SAVED, BYTES = 0, 96, 112, 120, 124, 128

    def __init__(self, shape: Shape) -> None:
        self.types = argument_types(shape)
        self._function = _function(self._text(shape))
        self._room: Any = ctypes.create_string_buffer(self.BYTES)

    def _text(self, shape: Shape) -> str:
        lines: list[str] = []

        def new(text: str) -> str:
            lines.append(f"  %v{len(lines)} = {text}")
            return f"%v{len(lines) - 1}"

        def at(offset: int) -> str:
            return new(f"getelementptr i8, ptr %io, i64 {offset}")

        def put(text: str) -> None:
            new(f"add i64 0, 0\n  {text}")

        args = [new(f"load {t}, ptr {at(self.ARGUMENTS + 16 * k)}, align 1") for k, t in enumerate(self.types)]
        saved, control = f"ptr elementtype(i32) {at(self.SAVED)}", f"ptr elementtype(i32) {at(self.CONTROL)}"
        change = 'call void asm sideeffect "stmxcsr $0; ldmxcsr $1", "=*m,*m"'
        put(f"{change}({saved}, {control})")
        result, flags = emit(new, shape, args)
        put(f"{change}({control}, {saved})")
        if result:
            put(f"store {result_type(shape)} {result}, ptr {at(self.RESULT)}, align 1")
        if flags:
            put(f"store i64 {flags}, ptr {at(self.FLAGS)}, align 1")
        return "\n".join(["(ptr %io) nounwind {", *lines, "  ret void", "}", ""])

    def __call__(self, args: Sequence[int]) -> tuple[int, int]:
        """(result, flags word); by `host.MXCSR`, which gets the flags that it raises."""
        room = bytearray(self.BYTES)
        for k, v in enumerate(args):
            room[16 * k : 16 * k + 16] = int(v).to_bytes(16, "little")
        room[self.CONTROL : self.CONTROL + 4] = host.MXCSR[0].to_bytes(4, "little")
        ctypes.memmove(self._room, bytes(room), self.BYTES)
        self._function(ctypes.addressof(self._room))
        out = self._room.raw
        host.MXCSR[0] = int.from_bytes(out[self.CONTROL : self.CONTROL + 4], "little")
        return int.from_bytes(out[self.RESULT : self.RESULT + 16], "little"), int.from_bytes(out[112:120], "little")


@cache
def host_op(shape: Shape) -> HostOp:
    """The operation of a shape, made on first use."""
    return HostOp(shape)
