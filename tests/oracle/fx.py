"""FXSAVE images: x87 and SSE state of a case and of a result.

Source: Intel SDM volume 1, table 10-2 (layout in 64-bit mode's other form: 32-bit offsets and selectors).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from tests.oracle.case import FX_SIZE

MXCSR_RESET, FCW_RESET = 0x1F80, 0x37F
_HEAD = struct.Struct("<HHBxHQQII")
ST_AT, XMM_AT, N_XMM = 32, 160, 16
MXCSR_MASK = 0xFFFF
TOP_SHIFT = 11


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
    for k, v in enumerate(st):
        out[ST_AT + 16 * k : ST_AT + 16 * k + 10] = v.to_bytes(10, "little")
    for k, v in enumerate(xmm):
        out[XMM_AT + 16 * k : XMM_AT + 16 * k + 16] = v.to_bytes(16, "little")
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
    for k in range(8):
        v, n = st_of(data, k), (k + (fsw >> TOP_SHIFT)) & 7
        c.fpr[2 * n], c.fpr[2 * n + 1] = v & (1 << 64) - 1, v >> 64
    for n in range(N_XMM):
        v = xmm_of(data, n)
        c.xmm[2 * n], c.xmm[2 * n + 1] = v & (1 << 64) - 1, v >> 64


def take(c: Any) -> bytes:
    """The state of a CPU record as an image."""
    top = int(c.fsw) >> TOP_SHIFT
    st = []
    for k in range(8):
        n = (k + top) & 7
        st.append(int(c.fpr[2 * n]) | (int(c.fpr[2 * n + 1]) & 0xFFFF) << 64)
    xmm = [int(c.xmm[2 * n]) | int(c.xmm[2 * n + 1]) << 64 for n in range(N_XMM)]
    last = (int(c.fop), int(c.fip), int(c.fdp))
    return image(xmm, int(c.mxcsr), st=st, fcw=int(c.fcw), fsw=int(c.fsw), used=int(c.fpu_used), last=last)


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
    for n in range(N_XMM):
        if xmm_of(one, n) != xmm_of(other, n):
            lines.append(f"xmm{n:<6} {xmm_of(one, n):032x} {xmm_of(other, n):032x}")
    return lines


def x87_differences(one: bytes, other: bytes) -> list[str]:
    """Where two x87 states differ."""
    lines = []
    for name, x, y in zip(("fcw", "fsw", "tags"), head_of(one), head_of(other), strict=True):
        if x != y:
            lines.append(f"{name:<9} {x:>28x} {y:>28x}")
    for n in range(8):
        if st_of(one, n) != st_of(other, n):
            lines.append(f"st{n}       {st_of(one, n):>28x} {st_of(other, n):>28x}")
    return lines


def describe(data: bytes | None) -> str:
    """A case's state in one line."""
    assert data is not None
    xmm = " ".join(f"xmm{n}={xmm_of(data, n):032x}" for n in range(8))
    fcw, fsw, used = head_of(data)
    return f"mxcsr={mxcsr_of(data):x} fcw={fcw:x} fsw={fsw:x} tags={used:x} {xmm}"
