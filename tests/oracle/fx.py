"""FXSAVE images: x87 and SSE state of a case and of a result.

Source: Intel SDM volume 1, table 10-2 (layout in 64-bit mode's other form: 32-bit offsets and selectors).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.oracle.case import FX_SIZE

MXCSR_RESET, FCW_RESET = 0x1F80, 0x37F
_HEAD = struct.Struct("<HHBxHQQII")
ST_AT, XMM_AT, N_XMM = 32, 160, 16
MXCSR_MASK = 0xFFFF
TOP_SHIFT = 11
_ST_WORDS = np.array([(1 << 64) - 1, 0xFFFF] * 8, np.uint64)
"""The 80 bits of each x87 register."""


def image(
    xmm: Sequence[int] = (),
    mxcsr: int = MXCSR_RESET,
    *,
    st: Sequence[int] = (),
    fcw: int = FCW_RESET,
    fsw: int = 0,
    used: int = 0,
    last: tuple[int, int, int] = (0, 0, 0),
) -> bytes:
    """An image with these XMM registers (128 bits) and `st` in stack order (80 bits each); `used` by register number.

    `last`: the last instruction's opcode, address and operand's address.
    """
    out = bytearray(FX_SIZE)
    _HEAD.pack_into(out, 0, fcw, fsw, used, *last, mxcsr, MXCSR_MASK)
    for at, size, values in ((ST_AT, 10, st), (XMM_AT, 16, xmm)):
        out[at : at + 16 * len(values)] = b"".join([v.to_bytes(size, "little").ljust(16, b"\0") for v in values])
    return bytes(out)


def xmm_of(data: bytes, n: int) -> int:
    """XMM register `n` of an image."""
    return int.from_bytes(data[XMM_AT + 16 * n : XMM_AT + 16 * n + 16], "little")


def mxcsr_of(data: bytes) -> int:
    """MXCSR of an image."""
    return int.from_bytes(data[24:28], "little")


def st_of(data: bytes, n: int) -> int:
    """ST(n) of an image, 80 bits."""
    return int.from_bytes(data[ST_AT + 16 * n : ST_AT + 16 * n + 10], "little")


def head_of(data: bytes) -> tuple[int, int, int]:
    """Control word, status word, and a bit for each register in use."""
    fcw, fsw, used, *_ = _HEAD.unpack_from(data)
    return fcw, fsw, used


def put(c: Any, data: bytes) -> None:
    """Make an image the state of a CPU record."""
    fcw, fsw, used, fop, fip, fdp, mxcsr, _ = _HEAD.unpack_from(data)
    c.fcw, c.fsw, c.fpu_used, c.fop, c.fip, c.fdp, c.mxcsr = fcw, fsw, used, fop, fip, fdp, mxcsr
    c.fcs = c.fds = 0
    top = 2 * (fsw >> TOP_SHIFT & 7)
    st = np.frombuffer(data, "<u8", 16, ST_AT) & _ST_WORDS
    c.fpr[top:], c.fpr[:top] = st[: 16 - top], st[16 - top :]
    c.xmm[:] = np.frombuffer(data, "<u8", 2 * N_XMM, XMM_AT)


def take(c: Any) -> bytes:
    """The state of a CPU record as an image."""
    out = bytearray(FX_SIZE)
    head = (c.fcw, c.fsw, c.fpu_used, c.fop, c.fip, c.fdp, c.mxcsr)
    _HEAD.pack_into(out, 0, *map(int, head), MXCSR_MASK)
    top = 2 * (int(c.fsw) >> TOP_SHIFT & 7)
    fpr = c.fpr.tobytes()
    out[ST_AT:XMM_AT] = (np.frombuffer(fpr[8 * top :] + fpr[: 8 * top], "<u8") & _ST_WORDS).tobytes()
    out[XMM_AT:] = c.xmm.tobytes()
    return bytes(out)


def differences(one: bytes | None, other: bytes | None, *, x87: bool = True) -> list[str]:
    """Where two results' states differ, a line each; the pointers of the last x87 instruction are not compared.

    Without `x87` neither are its other registers.
    """
    assert one is not None
    assert other is not None
    lines = []
    if x87:
        lines = x87_differences(one, other)
    if mxcsr_of(one) != mxcsr_of(other):
        lines.append(f"mxcsr     {mxcsr_of(one):>28x} {mxcsr_of(other):>28x}")
    for n in range(N_XMM if one[XMM_AT:] != other[XMM_AT:] else 0):
        if xmm_of(one, n) != xmm_of(other, n):
            lines.append(f"xmm{n:<6} {xmm_of(one, n):032x} {xmm_of(other, n):032x}")
    return lines


def x87_differences(one: bytes, other: bytes) -> list[str]:
    """Where two x87 states differ."""
    lines = []
    for name, x, y in zip(("fcw", "fsw", "tags"), head_of(one), head_of(other), strict=True):
        if x != y:
            lines.append(f"{name:<9} {x:>28x} {y:>28x}")
    for n in range(8 if one[ST_AT:XMM_AT] != other[ST_AT:XMM_AT] else 0):
        if st_of(one, n) != st_of(other, n):
            lines.append(f"st{n}       {st_of(one, n):>28x} {st_of(other, n):>28x}")
    return lines


def describe(data: bytes | None) -> str:
    """A case's state in one line."""
    assert data is not None
    xmm = " ".join(f"xmm{n}={xmm_of(data, n):032x}" for n in range(8))
    fcw, fsw, used = head_of(data)
    return f"mxcsr={mxcsr_of(data):x} fcw={fcw:x} fsw={fsw:x} tags={used:x} {xmm}"
