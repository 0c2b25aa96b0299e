"""What LLVM needed for a compilation is given back: a process that compiles for days does not grow by it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

import pytest

from jitvm.engine import backend

TEXT = "define i64 @f(i64 %a) {\n  %b = add i64 %a, 1\n  ret i64 %b\n}\n"
MOST_KEPT = 8 << 10
"""Bytes a compilation; LLVM's context keeps some 1.5 KiB of each."""


class MallInfo2(ctypes.Structure):
    """glibc's `struct mallinfo2` (mallinfo(3))."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def in_use() -> int:
    """Bytes that are allocated."""
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = MallInfo2
    return int(libc.mallinfo2().uordblks)


@pytest.mark.parametrize(
    "compiled",
    [
        backend.simplify,
        backend.compile_object,
        lambda text: backend.compile_quickly(text, "f"),
        backend.compile_relocatable,
    ],
    ids=["simplify", "object", "quickly", "relocatable"],
)
def test_compilations_leave_nothing_behind(compiled: Callable[[str], object]) -> None:
    for _ in range(10):  # what is made once
        compiled(TEXT)
    before, times = in_use(), 40
    for _ in range(times):
        compiled(TEXT)
    assert (in_use() - before) / times < MOST_KEPT
