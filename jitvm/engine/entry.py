"""The way from Python into translated code.

`enter` sets the budget and the guest's MXCSR and begins where the record says.  `Entry` calls it as a builtin function of
Python, made from LLVM text, too: 0.05 microseconds, and 0.4 by ctypes, which would be a sixth of an exit.  What an exit
says, and the answer to it, go the same way.

Source: Python/C API, "Common Object Structures" (PyMethodDef, METH_FASTCALL), "Integer Objects", "Tuple Objects",
"Initialization, Finalization, and Threads" (PyEval_SaveThread); all of them are in the stable ABI.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Mapping
from typing import Any

from jitvm.engine.layout import at
from jitvm.isa.simd import MXCSR_FLAGS, MXCSR_MASKS

_IS_X86 = platform.machine() == "x86_64"
MXCSR_IN = f"""  %saved = alloca i32
  %guests = alloca i32
  %mxcsrp = getelementptr i8, ptr %cpu, i64 {at("mxcsr")}
  %mxcsr = load i64, ptr %mxcsrp
  %masked = or i64 %mxcsr, {int(MXCSR_MASKS)}
  %word = trunc i64 %masked to i32
  store i32 %word, ptr %guests
  call void asm sideeffect "stmxcsr $0", "=*m"(ptr elementtype(i32) %saved)
  call void asm sideeffect "ldmxcsr $0", "*m"(ptr elementtype(i32) %guests)
""" * _IS_X86
MXCSR_OUT = f"""  call void asm sideeffect "stmxcsr $0", "=*m"(ptr elementtype(i32) %guests)
  call void asm sideeffect "ldmxcsr $0", "*m"(ptr elementtype(i32) %saved)
  %raised = load i32, ptr %guests
  %raised64 = zext i32 %raised to i64
  %flags = and i64 %raised64, {int(MXCSR_FLAGS)}
  %before = load i64, ptr %mxcsrp
  %after = or i64 %before, %flags
  store i64 %after, ptr %mxcsrp
""" * _IS_X86
"""The guest's MXCSR, with all exceptions masked, is the host's while translated code runs: jitvm/isa/simd.py."""

ENTER = f"""define i64 @enter(ptr %cpu, i64 %budget, i64 %pending) {{
  %status = getelementptr i8, ptr %cpu, i64 {at("status")}
  store i64 %pending, ptr %status
  %pos = getelementptr i8, ptr %cpu, i64 {at("io_pos")}
  store i64 0, ptr %pos
  %horizonp = getelementptr i8, ptr %cpu, i64 {at("horizon")}
  %leftp = getelementptr i8, ptr %cpu, i64 {at("left")}
  %horizon = load i64, ptr %horizonp
  %left = load i64, ptr %leftp
  %retired = sub i64 %horizon, %left
  %end = add i64 %retired, %budget
  store i64 %end, ptr %horizonp
  store i64 %budget, ptr %leftp
{MXCSR_IN}  %r = call preserve_nonecc i64 @h_resume(ptr %cpu, ptr null, i64 %budget)
{MXCSR_OUT}  ret i64 %r
}}
"""
"""Sets the budget: `left`, and `horizon` so that `retired` stays."""

METH_FASTCALL = 0x80
DECLARATIONS = """declare ptr @PyLong_AsVoidPtr(ptr)
declare i64 @PyLong_AsLongLong(ptr)
declare i64 @PyLong_AsUnsignedLongLongMask(ptr)
declare ptr @PyLong_FromLongLong(i64)
declare ptr @PyLong_FromUnsignedLongLong(i64)
declare ptr @PyTuple_New(i64)
declare i32 @PyTuple_SetItem(ptr, i64, ptr)
declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)
"""
PYTHON_ENTER = """define ptr @python_enter(ptr %self, ptr %args, i64 %n) {
  %cpu = call ptr @PyLong_AsVoidPtr(ptr %self)
  %first = load ptr, ptr %args
  %budget = call i64 @PyLong_AsLongLong(ptr %first)
  %place = getelementptr ptr, ptr %args, i64 1
  %second = load ptr, ptr %place
  %pending = call i64 @PyLong_AsLongLong(ptr %second)
  %thread = call ptr @PyEval_SaveThread()
  %why = call i64 @enter(ptr %cpu, i64 %budget, i64 %pending)
  call void @PyEval_RestoreThread(ptr %thread)
  %result = call ptr @PyLong_FromLongLong(i64 %why)
  ret ptr %result
}
"""
"""(budget, status) to WHY_*; `self` is the record's address.  Other threads have the interpreter meanwhile."""
BOUNDARY = ("exit_reason", "io_address", "io_size", "io_write", "io_count", "io_data")
"""What `boundary` tells behind `retired` and `extra_ns`."""


def _boundary() -> str:
    """`boundary()`: (retired, extra_ns, *BOUNDARY)."""

    def put(index: int, value: str) -> str:
        new = f"  %o{index} = call ptr @PyLong_FromUnsignedLongLong(i64 {value})\n"
        return new + f"  %s{index} = call i32 @PyTuple_SetItem(ptr %tuple, i64 {index}, ptr %o{index})\n"

    def load(name: str) -> str:
        return f"  %{name}p = getelementptr i8, ptr %cpu, i64 {at(name)}\n  %{name} = load i64, ptr %{name}p\n"

    body = "".join(load(name) for name in ("horizon", "left", "extra_ns", *BOUNDARY))
    body += "  %retired = sub i64 %horizon, %left\n" + put(0, "%retired") + put(1, "%extra_ns")
    body += "".join(put(2 + k, f"%{name}") for k, name in enumerate(BOUNDARY))
    return f"""define ptr @python_boundary(ptr %self, ptr %args, i64 %n) {{
  %cpu = call ptr @PyLong_AsVoidPtr(ptr %self)
  %tuple = call ptr @PyTuple_New(i64 {2 + len(BOUNDARY)})
{body}  ret ptr %tuple
}}
"""


PYTHON_ANSWER = f"""define ptr @python_answer(ptr %self, ptr %args, i64 %n) {{
  %cpu = call ptr @PyLong_AsVoidPtr(ptr %self)
  %first = load ptr, ptr %args
  %value = call i64 @PyLong_AsUnsignedLongLongMask(ptr %first)
  %place = getelementptr ptr, ptr %args, i64 1
  %second = load ptr, ptr %place
  %ns = call i64 @PyLong_AsLongLong(ptr %second)
  %countp = getelementptr i8, ptr %cpu, i64 {at("io_n")}
  %count = load i64, ptr %countp
  %valuesp = getelementptr i8, ptr %cpu, i64 {at("io_value")}
  %valuep = getelementptr i64, ptr %valuesp, i64 %count
  store i64 %value, ptr %valuep
  %more = add i64 %count, 1
  store i64 %more, ptr %countp
  %extrap = getelementptr i8, ptr %cpu, i64 {at("extra_ns")}
  store i64 %ns, ptr %extrap
  %result = call ptr @PyLong_FromLongLong(i64 %more)
  ret ptr %result
}}
"""
TEXT = ENTER + DECLARATIONS + PYTHON_ENTER + _boundary() + PYTHON_ANSWER
EXPORTS = ("enter", "python_enter", "python_boundary", "python_answer")


class _Method(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (("name", ctypes.c_char_p), ("code", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p))


class Entry:
    """The builtin functions of one record; it must outlive them."""

    def __init__(self, addresses: Mapping[str, int], record: int) -> None:
        self._methods: list[_Method] = []
        self.enter: Callable[[int, int], int] = self._builtin("enter", addresses["python_enter"], record)
        """(budget, status): run translated code, tell WHY_*."""
        self.boundary: Callable[[], tuple[int, ...]] = self._builtin("boundary", addresses["python_boundary"], record)
        """(): what a run left behind: retired, extra_ns, and the fields of `BOUNDARY`."""
        self.answer: Callable[[int, int], int] = self._builtin("answer", addresses["python_answer"], record)
        """(value, extra_ns): the next answer from outside, and the time with that access; the number of answers."""

    def _builtin(self, name: str, code: int, record: int) -> Any:
        method = _Method(name.encode(), code, METH_FASTCALL, None)
        self._methods.append(method)
        new = ctypes.pythonapi.PyCFunction_NewEx
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
        return new(ctypes.addressof(method), record, None)
