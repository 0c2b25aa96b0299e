"""What a SIMD instruction's form is: operand letters, what control registers must allow, and which host operation it is.

Source of encoding facts: iced-x86's operand kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from jitvm.engine import formbits as fb
from jitvm.isa.simd import BLENDS, COMPARES, INTEGER, STRINGS
from jitvm.isa.table import Row

if TYPE_CHECKING:
    from jitvm.engine.forms import Shape

WIDE, WORD = "<2 x i64>", "i64"
"""LLVM's types of an XMM operand, and of all others."""

FEATURES = {
    **{name: name.lower() for name in ("MMX", "SSE", "SSE2", "SSE3", "SSSE3", "POPCNT", "AES", "PCLMULQDQ")},
    "SSE4_1": "sse4.1",
    "SSE4_2": "sse4.2",
    "FXSR": "fxsr",
    "CLFSH": "clflush",
}
"""iced-x86's feature names to those of `cpuid.BUILT`."""
HOST_NAMES = {
    **{name: name for name in ("mmx", "sse", "sse2", "sse3", "ssse3", "sse4.1", "sse4.2", "aes")},
    "pclmulqdq": "pclmul",
}
"""Features whose operations are the host's: those names to LLVM's."""
HALVES = frozenset("MOVLPS MOVLPD MOVHPS MOVHPD".split())
"""Their memory operand is half an XMM register."""
SSE_STATE = frozenset({"LDMXCSR", "STMXCSR"})
FXSR_STATE = frozenset({"FXSAVE", "FXRSTOR"})
MMX_STATE = frozenset({"EMMS"})


def operand(kind: str, is_memory: bool) -> tuple[str, int, int] | None:
    """(kind letter, register source, size) of an operand that is XMM ("x") or MMX ("y"); None: it is another."""
    letter = "x" if kind.startswith("XMM") else "y" if kind.startswith("MM_") else ""
    if not letter:
        return None
    if is_memory:
        return "m", 0, 0
    return letter, int(fb.FROM_REG if kind.endswith("_REG") else fb.FROM_RM), 16 if letter == "x" else 8


def classes(kinds: Sequence[str], name: str) -> str:
    """A letter an operand that is no immediate: what the operation takes, in memory or not; "r" general registers."""
    letters = ""
    for kind in kinds:
        if kind.startswith("XMM"):
            letters += "x"
        elif kind.startswith("MM_"):
            letters += "y"
        elif kind.startswith(("R8", "R16", "R32", "R64")):
            letters += "r"
        elif kind == "MEM":
            letters += "m" if name in HALVES else "y" if name == "MOVNTQ" else "x"
    return letters


def state(name: str, kinds: Sequence[str]) -> int:
    """The form word's bits for what CR0 and CR4 must allow."""
    kind = fb.STATE_NONE
    if name in SSE_STATE or any(k.startswith("XMM") for k in kinds):
        kind = fb.STATE_SSE
    elif name in MMX_STATE or any(k.startswith("MM_") for k in kinds):
        kind = fb.STATE_MMX
    elif name in FXSR_STATE:
        kind = fb.STATE_FXSR
    return int(kind) << int(fb.F_STATE_SHIFT)


def between_registers(row: Row, name: str, memory: int) -> Row:
    """MOVSS and MOVSD merge between registers: an operation, no move."""
    operation = name.removesuffix("_XMM").lower()
    if row.kind == "move" and memory < 0 and operation in INTEGER:
        return replace(row, unit=operation, kind="host")
    return row


# ---- what an operation takes and gives
def reads_destination(shape: Shape) -> bool:
    """Whether operand 0 is an argument."""
    first = shape.host[0]
    return first == "x" or shape.host in ("yy", "y") or (shape.host == "yr") or shape.unit == "crc32"


def result_type(shape: Shape) -> str:
    """LLVM type of the result; "": there is none but flags."""
    if shape.unit in COMPARES:
        return ""
    if shape.unit in STRINGS:
        return WIDE if "strm" in shape.unit else WORD
    return WIDE if shape.host[0] == "x" else WORD


def has_flags(shape: Shape) -> bool:
    """Whether it writes EFLAGS."""
    return shape.unit in COMPARES or shape.unit in STRINGS


def argument_types(shape: Shape) -> list[str]:
    """LLVM types of the arguments."""
    letters = shape.host if reads_destination(shape) else shape.host[1:]
    types = [WIDE if letter == "x" else WORD for letter in letters]
    if shape.unit in BLENDS:
        types.append(WIDE)
    if shape.unit.startswith("pcmpestr"):
        types += [WORD, WORD]
    return types
