"""One floating-point operation on the host's own x87, with the guest's control word: exact by construction.

What an operation makes of its operands (result, exception flags, C0-C3, also where exceptions are unmasked) is what this
host's processor makes of them.  `CODE` is machine code that loads two operands, does one operation and takes status and
results away; the plain engine calls it by ctypes, compiled code has it inline (`jitvm/engine/primitives.py`).

The operation runs with the guest's exception masks.  Nothing between it and FNCLEX waits for an unmasked exception (SDM
vol. 1, 8.6 and 8.7), so that the host sees none; behind it the host's x87 is as FNINIT leaves it, which is what the calling
convention wants (control word 037Fh, no register in use).

Words of `c.wide`: 0, 1 ST(0) as significand and sign with exponent; 2, 3 ST(1); 4, 5 the memory operand; 6 the control
word; 7 the control word of the host.

Source: Intel SDM vol. 2, the instructions' encodings; vol. 1, 8.1.3 (status word), 8.1.5 (control word), 8.6, 8.7.

Not modelled: hosts other than x86-64, whose CPU models have no FPU (`AVAILABLE`).
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import platform
from collections.abc import Callable

import numpy as np

from jitvm.isa.words import u64

AVAILABLE = platform.machine() in ("x86_64", "AMD64")
"""The host can do it."""

HOST_CONTROL = u64(0x037F)

# ---- operations: numbers of the entries of `_TABLE` -------------------------------------------------------------------
ARITH, ARITH_M32, ARITH_M64, ARITH_I32, ARITH_I16 = u64(0), u64(8), u64(16), u64(24), u64(32)
"""Plus the operation of ModRM.reg: ADD MUL COM COMP SUB SUBR DIV DIVR; of ST(0) with ST(1), or with the memory operand."""
GROUP_F = u64(40)
"""Plus the low four bits of D9 F0 to D9 FF; FDECSTP and FINCSTP are not done here."""
CONSTANTS = u64(56)
"""Plus the low three bits of D9 E8 to D9 EE."""
TST, UCOM = u64(64), u64(65)
LD_M32, LD_M64, ILD_I16, ILD_I32, ILD_I64, BLD = (u64(n) for n in range(66, 72))
ST_M32, ST_M64, IST_I16, IST_I32, ISTP_I64, ISTTP_I16, ISTTP_I32, ISTTP_I64, BSTP = (u64(n) for n in range(72, 81))

_AT_RDX = 2
"""ModRM byte of a memory operand at RDX, to which the operation's number in ModRM.reg is added."""


def _memory(escape: int, reg: int) -> bytes:
    return bytes([escape, reg << 3 | _AT_RDX])


_TABLE: tuple[bytes, ...] = (
    *(bytes([0xD8, 0xC1 + 8 * reg]) for reg in range(8)),
    *(_memory(escape, reg) for escape in (0xD8, 0xDC, 0xDA, 0xDE) for reg in range(8)),
    *(bytes([0xD9, 0xF0 + k]) for k in range(16)),
    *(bytes([0xD9, 0xE8 + k]) for k in range(7)),
    b"\xd9\xd0",  # FNOP: there are seven constants
    b"\xd9\xe4",  # FTST
    b"\xdd\xe1",  # FUCOM ST(1)
    *(_memory(*code) for code in ((0xD9, 0), (0xDD, 0), (0xDF, 0), (0xDB, 0), (0xDF, 5), (0xDF, 4))),
    *(_memory(*code) for code in ((0xD9, 2), (0xDD, 2), (0xDF, 2), (0xDB, 2), (0xDF, 7))),
    *(_memory(*code) for code in ((0xDF, 1), (0xDB, 1), (0xDD, 1), (0xDF, 6))),
)
"""All of two bytes, so that with a RET and a byte of nothing an entry has four."""

_HEAD = bytes.fromhex(
    "48 8d 64 24 80"  # lea rsp, [rsp-128]: the red zone is the caller's
    "db e3"  # fninit
    "48 8d 57 20"  # lea rdx, [rdi+32]: the memory operand
    "db 6f 10"  # fld tbyte [rdi+16]
    "db 2f"  # fld tbyte [rdi]
    "d9 6f 30"  # fldcw [rdi+48]
    "48 8d 05"  # lea rax, [rip+_TABLE]; the distance follows
)
_TAIL = bytes.fromhex(
    "48 8d 04 b0"  # lea rax, [rax+rsi*4]
    "ff d0"  # call rax
    "df e0"  # fnstsw ax
    "db e2"  # fnclex
    "d9 6f 38"  # fldcw [rdi+56]
    "db 3f"  # fstp tbyte [rdi]
    "db 7f 10"  # fstp tbyte [rdi+16]
    "db e3"  # fninit
    "48 8d a4 24 80 00 00 00"  # lea rsp, [rsp+128]
    "0f b7 c0"  # movzx eax, ax
    "e9"  # jmp behind _TABLE; the distance follows
)
_ENTRIES = b"".join(code + b"\xc3\x90" for code in _TABLE)
CODE = _HEAD + (len(_TAIL) + 4).to_bytes(4, "little") + _TAIL + len(_ENTRIES).to_bytes(4, "little") + _ENTRIES
"""RDI: address of `wide`, RSI: number of the operation; EAX: the status word.  Changes RAX, RDX and the x87."""
_RET = b"\xc3"


_KEPT: list[object] = []
"""What holds the pages of `CODE`."""


@functools.cache
def _function() -> Callable[[int, int], int]:
    """`CODE` as a function, in pages that are executable and were never writable."""
    size = len(CODE) + len(_RET)
    with open(os.memfd_create("jitvm x87"), "r+b") as file:
        file.write(CODE + _RET)
        file.flush()
        pages = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ | mmap.PROT_EXEC)
    start = np.frombuffer(pages, np.uint8)
    call = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64)(int(start.ctypes.data))
    _KEPT.append(start)
    return call


def run(c, op):
    """Do operation `op` on the words of `c.wide`: the status word behind it; results in words 0 to 3.

    Two registers are in use before, so TOP is 6.  Behind an operation that pushes, ST(0) and ST(1) are its two results.
    """
    return u64(_function()(c.wide.ctypes.data, int(op)))
