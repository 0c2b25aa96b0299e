"""The way from Python into translated code.

`enter` sets the budget and the guest's MXCSR and begins where the record says.  `Entry` calls it as a builtin function of
Python, made from LLVM text, too: 0.05 microseconds, and 0.4 by ctypes, which would be a sixth of an exit.  What an exit
says, and the answer to it, go the same way.

Source: Python/C API, "Common Object Structures" (PyMethodDef, METH_FASTCALL, METH_O), "Integer Objects", "Tuple Objects",
"Initialization, Finalization, and Threads" (PyEval_SaveThread); all of them are in the stable ABI.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jitvm.engine import layout as lay
from jitvm.engine.layout import at
from jitvm.isa.served import ACCESS_NS
from jitvm.isa.simd import MXCSR_FLAGS, MXCSR_MASKS
from jitvm.isa.state import EXIT_IO, EXIT_MMIO, OK

SLICE = 1 << 28
"""Budget at most, so that what is published at an exit (`Vcpu.retired`) is never older than a fraction of a second."""
Enter = Callable[[int, int], tuple[int, ...]]
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

ENTER = f"""define i64 @enter(ptr %cpu, i64 %budget) {{
  %status = getelementptr i8, ptr %cpu, i64 {at("status")}
  store i64 {int(OK)}, ptr %status
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

METH_FASTCALL, METH_O = 0x80, 0x8
DECLARATIONS = """declare ptr @PyLong_AsVoidPtr(ptr)
declare i64 @PyLong_AsLongLong(ptr)
declare i64 @PyLong_AsUnsignedLongLongMask(ptr)
declare ptr @PyLong_FromLongLong(i64)
declare ptr @PyLong_FromUnsignedLongLong(i64)
declare ptr @PyTuple_New(i64)
declare i32 @PyTuple_SetItem(ptr, i64, ptr)
declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)
declare i64 @llvm.smin.i64(i64, i64)
declare i64 @llvm.smax.i64(i64, i64)
"""
PYTHON_RUN = """define ptr @python_run(ptr %self, ptr %argument) {
  %cpu = call ptr @PyLong_AsVoidPtr(ptr %self)
  %budget = call i64 @PyLong_AsLongLong(ptr %argument)
  %thread = call ptr @PyEval_SaveThread()
  %why = call i64 @enter(ptr %cpu, i64 %budget)
  call void @PyEval_RestoreThread(ptr %thread)
  %result = call ptr @PyLong_FromLongLong(i64 %why)
  ret ptr %result
}
"""
"""`self` is the record's address.  Other threads have the interpreter meanwhile."""
ACCESS = ("exit_reason", "io_address", "io_size", "io_write", "io_data")
"""What `enter` tells of an access behind `retired` and the time."""
BOUNDARY = ("exit_reason", "io_address", "io_size", "io_write", "io_count", "io_data")
"""What `boundary` tells behind `retired` and `extra_ns`."""


def _load(name: str, to: str = "") -> str:
    """A field of the record as `%name`, or as another."""
    to = to or name
    return f"  %{to}_p = getelementptr i8, ptr %cpu, i64 {at(name)}\n  %{to} = load i64, ptr %{to}_p\n"


def _tuple(values: Sequence[str]) -> str:
    """`%tuple` of some `u64`."""
    made = f"  %tuple = call ptr @PyTuple_New(i64 {len(values)})\n"
    for k, value in enumerate(values):
        made += f"  %o{k} = call ptr @PyLong_FromUnsignedLongLong(i64 {value})\n"
        made += f"  %s{k} = call i32 @PyTuple_SetItem(ptr %tuple, i64 {k}, ptr %o{k})\n"
    return made


def _enter() -> str:
    """`enter(due, end)`: run until `due` in virtual time or `end` in `retired`, at least one instruction.

    An access of a port or of MMIO that is no string: its time is charged, and it is told as (retired, now, *ACCESS).
    Else an empty tuple; `why` in the record says why.
    """
    access = "".join(_load(name) for name in ACCESS) + _load("extra_ns", "spent")
    values = ["%retired", "%reached", *(f"%{name}" for name in ACCESS)]
    return f"""define ptr @python_enter(ptr %self, ptr %args, i64 %n) {{
  %cpu = call ptr @PyLong_AsVoidPtr(ptr %self)
  %first = load ptr, ptr %args
  %due = call i64 @PyLong_AsLongLong(ptr %first)
  %place = getelementptr ptr, ptr %args, i64 1
  %second = load ptr, ptr %place
  %last = call i64 @PyLong_AsLongLong(ptr %second)
{_load("horizon", "horizon0")}{_load("left", "left0")}{_load("extra_ns", "extra0")}  %retired0 = sub i64 %horizon0, %left0
  %now = add i64 %retired0, %extra0
  %time = sub i64 %due, %now
  %room = sub i64 %last, %retired0
  %most = call i64 @llvm.smin.i64(i64 %time, i64 %room)
  %slice = call i64 @llvm.smin.i64(i64 %most, i64 {SLICE})
  %budget = call i64 @llvm.smax.i64(i64 %slice, i64 1)
  %thread = call ptr @PyEval_SaveThread()
  %why = call i64 @enter(ptr %cpu, i64 %budget)
  call void @PyEval_RestoreThread(ptr %thread)
{_load("horizon")}{_load("left")}{_load("io_count")}{access}  %left_it = icmp eq i64 %why, {lay.WHY_EXIT}
  %port = icmp eq i64 %exit_reason, {int(EXIT_IO)}
  %memory = icmp eq i64 %exit_reason, {int(EXIT_MMIO)}
  %either = or i1 %port, %memory
  %single = icmp eq i64 %io_count, 1
  %both = and i1 %either, %single
  %plain = and i1 %both, %left_it
  br i1 %plain, label %tell, label %other
other:
  %nothing = call ptr @PyTuple_New(i64 0)
  ret ptr %nothing
tell:
  %retired = sub i64 %horizon, %left
  %extra = add i64 %spent, {int(ACCESS_NS)}
  store i64 %extra, ptr %spent_p
  %reached = add i64 %retired, %extra
{_tuple(values)}  ret ptr %tuple
}}
"""


def _boundary() -> str:
    """`boundary()`: (retired, extra_ns, *BOUNDARY)."""
    body = "".join(_load(name) for name in ("horizon", "left", "extra_ns", *BOUNDARY))
    values = ["%retired", "%extra_ns", *(f"%{name}" for name in BOUNDARY)]
    return f"""define ptr @python_boundary(ptr %self, ptr %args, i64 %n) {{
  %cpu = call ptr @PyLong_AsVoidPtr(ptr %self)
{body}  %retired = sub i64 %horizon, %left
{_tuple(values)}  ret ptr %tuple
}}
"""


PYTHON_ANSWER = f"""define ptr @python_answer(ptr %self, ptr %argument) {{
  %cpu = call ptr @PyLong_AsVoidPtr(ptr %self)
  %value = call i64 @PyLong_AsUnsignedLongLongMask(ptr %argument)
{_load("io_n", "count")}  %values_p = getelementptr i8, ptr %cpu, i64 {at("io_value")}
  %value_p = getelementptr i64, ptr %values_p, i64 %count
{_load("io_count", "elements")}{_load("io_size", "size")}  %bits = shl i64 %size, 3
  %above = sub i64 64, %bits
  %high = shl i64 %value, %above
  %low = lshr i64 %high, %above
  %string = icmp ne i64 %elements, 1
  %cut = select i1 %string, i64 %value, i64 %low
  store i64 %cut, ptr %value_p
  %more = add i64 %count, 1
  store i64 %more, ptr %count_p
  %result = call ptr @PyLong_FromLongLong(i64 %more)
  ret ptr %result
}}
"""
TEXT = ENTER + DECLARATIONS + PYTHON_RUN + _enter() + _boundary() + PYTHON_ANSWER
EXPORTS = ("enter", "python_run", "python_enter", "python_boundary", "python_answer")


class _Method(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (("name", ctypes.c_char_p), ("code", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p))


class Entry:
    """The builtin functions of one record; it must outlive them."""

    def __init__(self, addresses: Mapping[str, int], record: int) -> None:
        self._methods: list[_Method] = []
        self.run: Callable[[int], int] = self._builtin("run", addresses["python_run"], record, METH_O)
        """(budget): run translated code, tell WHY_*."""
        self.enter: Enter = self._builtin("enter", addresses["python_enter"], record)
        """(due, end): run until then; a plain access as (retired, now, *ACCESS), else ()."""
        self.boundary: Callable[[], tuple[int, ...]] = self._builtin("boundary", addresses["python_boundary"], record)
        """(): what a run left behind: retired, extra_ns, and the fields of `BOUNDARY`."""
        self.answer: Callable[[int], int] = self._builtin("answer", addresses["python_answer"], record, METH_O)
        """(value): the next answer from outside, cut to the access's size; the number of answers."""

    def _builtin(self, name: str, code: int, record: int, flags: int = METH_FASTCALL) -> Any:
        method = _Method(name.encode(), code, flags, None)
        self._methods.append(method)
        new = ctypes.pythonapi.PyCFunction_NewEx
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
        return new(ctypes.addressof(method), record, None)
