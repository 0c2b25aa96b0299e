"""The way from Python into translated code.

`enter` sets the budget and the guest's MXCSR and begins where the record says.  `Entry` calls it as a builtin function of
Python, made from LLVM text, too: 0.05 microseconds, and 0.4 by ctypes, which would be a sixth of an exit.

Source: Python/C API, "Common Object Structures" (PyMethodDef, METH_FASTCALL), "Initialization, Finalization, and Threads"
(PyEval_SaveThread); all of them are in the stable ABI.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable

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
PYTHON_ENTER = """declare ptr @PyLong_AsVoidPtr(ptr)
declare i64 @PyLong_AsLongLong(ptr)
declare ptr @PyLong_FromLongLong(i64)
declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)
define ptr @python_enter(ptr %self, ptr %args, i64 %n) {
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
TEXT = ENTER + PYTHON_ENTER
EXPORTS = ("enter", "python_enter")


class _Method(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (("name", ctypes.c_char_p), ("code", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p))


class Entry:
    """`entry(budget, status)` runs translated code of one record; it must outlive the builtin function."""

    def __init__(self, code: int, record: int) -> None:
        self._method = _Method(b"enter", code, METH_FASTCALL, None)
        new = ctypes.pythonapi.PyCFunction_NewEx
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
        self.call: Callable[[int, int], int] = new(ctypes.addressof(self._method), record, None)
