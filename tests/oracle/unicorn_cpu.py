"""Unicorn (QEMU's translator as a library) as a second oracle.

Code runs in protected mode at privilege level 0, through descriptors that
give the same segments as on the host's CPU, so that 16-bit code needs no real
mode.  What unicorn is known to get wrong stands in `known_errors.py`.

Not modelled: segment limits (unicorn checks none), error codes of faults
(unicorn does not hand them out), paging.
"""

# mypy: disable-error-code="no-untyped-call, attr-defined"
# (unicorn comes without complete type information)

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import unicorn
from iced_x86 import Mnemonic
from unicorn import x86_const as x86

from tests import needs
from tests.oracle.case import (
    BACKGROUND,
    COMPARED_FLAGS,
    IF,
    PAGE,
    UD,
    WINDOW,
    WINDOW_SIZE,
    ZF,
    Case,
    Fault,
    Layout,
    Result,
    changed_bytes,
    descriptor,
)

VERSION = "2.1.4"
"""The version whose errors `known_errors.py` lists."""

_GDT = 0x1000
_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")
_SEGMENT_IDS = {name: getattr(x86, f"UC_X86_REG_{name.upper()}") for name in _SEGMENTS}
_GPRS_32 = tuple(getattr(x86, f"UC_X86_REG_E{name}") for name in ("AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI"))
_GPRS_64 = tuple(
    getattr(x86, f"UC_X86_REG_R{name}")
    for name in ("AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI", *map(str, range(8, 16)))
)
_FETCHES = {unicorn.UC_MEM_FETCH_UNMAPPED, unicorn.UC_MEM_FETCH_PROT}

_COMPARING = {getattr(Mnemonic, name + size) for name in ("CMPS", "SCAS") for size in ("B", "W", "D", "Q")}


def available() -> str | None:
    """None if unicorn is the version whose errors are known, else the reason why not."""
    if unicorn.__version__ != VERSION:
        return f"unicorn {unicorn.__version__} is installed, known_errors.py describes {VERSION}"
    return None


def need() -> None:
    """Go on only with that version."""
    reason = available()
    if reason is not None:
        needs.lacking(reason)


class UnicornCpu:
    """Runs cases on unicorn; one machine per mode and layout, reset between cases."""

    def __init__(self) -> None:
        self._machines: dict[tuple[int, Layout], _Machine] = {}

    def run(self, cases: Sequence[Case]) -> list[Result]:
        """The results of `cases`, in their order."""
        return [self._machine(case).run(case) for case in cases]

    def _machine(self, case: Case) -> _Machine:
        key = (case.mode, case.layout)
        machine = self._machines.get(key)
        if machine is None:
            machine = self._machines[key] = _Machine(case)
        return machine


class _Machine:
    def __init__(self, case: Case) -> None:
        self._long = case.mode == 64
        self._uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64 if self._long else unicorn.UC_MODE_32)
        uc = self._uc
        uc.mem_map(WINDOW, WINDOW_SIZE)
        uc.mem_write(WINDOW, BACKGROUND)
        # The translator reads ahead of the instruction it runs: give it room.
        uc.mem_map(WINDOW + WINDOW_SIZE, 0x1000, unicorn.UC_PROT_EXEC)
        self._gprs = _GPRS_64 if self._long else _GPRS_32
        self._ip = x86.UC_X86_REG_RIP if self._long else x86.UC_X86_REG_EIP
        self._vector: int | None = None
        self._address = 0
        self._fetching = False
        self._executed = 0
        uc.hook_add(unicorn.UC_HOOK_INTR, self._on_interrupt)
        uc.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._on_unmapped)
        uc.hook_add(unicorn.UC_HOOK_CODE, self._on_code)
        if not self._long:
            self._load_segments(case)
        self._base = case.segment("cs").base
        self._context = uc.context_save()

    def _load_segments(self, case: Case) -> None:
        uc = self._uc
        uc.mem_map(_GDT, 0x1000)
        table = bytearray(8)
        for name in _SEGMENTS:
            table += descriptor(case.segment(name), code=name == "cs", wide=case.mode == 32)
        uc.mem_write(_GDT, bytes(table))
        uc.reg_write(x86.UC_X86_REG_GDTR, (0, _GDT, len(table) - 1, 0))
        for i, name in enumerate(_SEGMENTS):
            uc.reg_write(_SEGMENT_IDS[name], 8 + 8 * i)

    def _on_interrupt(self, uc: Any, vector: int, _data: object) -> None:
        self._vector = vector
        uc.emu_stop()

    def _on_unmapped(self, _uc: Any, access: int, address: int, _size: int, _value: int, _data: object) -> bool:
        self._vector = PAGE
        self._address = address
        self._fetching = access in _FETCHES
        return False

    def _on_code(self, uc: Any, address: int, _size: int, _data: object) -> None:
        if not self._start <= address < self._end or self._executed == self._count:
            uc.emu_stop()
            return
        self._executed += 1

    def run(self, case: Case) -> Result:
        uc = self._uc
        uc.context_restore(self._context)
        for offset, data in case.pokes():
            uc.mem_write(WINDOW + offset, data)
        before = bytes(case.image())
        for register, value in zip(self._gprs, case.regs, strict=False):
            uc.reg_write(register, value)
        uc.reg_write(x86.UC_X86_REG_EFLAGS, case.flags & COMPARED_FLAGS | IF | 2)
        if self._long:
            uc.reg_write(x86.UC_X86_REG_FS_BASE, case.fs_base)
            uc.reg_write(x86.UC_X86_REG_GS_BASE, case.gs_base)
        self._vector = None
        self._address = 0
        self._fetching = False
        self._executed = 0
        repeated = _is_repeated(case)
        self._count = case.count + repeated
        self._start = WINDOW + case.ip
        self._end = self._start + len(case.code)
        uc.ctl_remove_cache(WINDOW, WINDOW + WINDOW_SIZE)
        try:
            uc.emu_start(case.address, 0xFFFF_FFFF_FFFF, count=0)
        except unicorn.UcError as error:
            if self._vector is None:
                if error.errno != unicorn.UC_ERR_INSN_INVALID:
                    raise
                self._vector = UD
        after = uc.mem_read(WINDOW, WINDOW_SIZE)
        memory = changed_bytes(before, after)
        uc.mem_write(WINDOW, BACKGROUND)
        ip = uc.reg_read(self._ip)
        steps = self._executed
        if self._vector == PAGE and self._fetching and self._executed:
            self._vector = None  # a branch left the window: that is the end of the run
        fault = None
        if self._executed > 1 and repeated and self._ended_by_counter(case):
            steps -= 1  # unicorn also counts the look at the counter that ends the loop
        if self._vector is not None:
            fault = Fault(self._vector, 0, self._address)
            steps -= 1
        return Result(
            regs=tuple(uc.reg_read(register) for register in self._gprs[: len(case.regs)]),
            flags=uc.reg_read(x86.UC_X86_REG_EFLAGS) & COMPARED_FLAGS,
            ip_delta=(ip - case.address) & 0xFFFF_FFFF_FFFF_FFFF,
            memory=memory,
            fault=fault,
            steps=steps,
        )

    def _ended_by_counter(self, case: Case) -> bool:
        """Whether a repeated string instruction went on until its counter was 0."""
        instruction = case.instruction()
        if instruction.mnemonic not in _COMPARING:
            return True
        flags = self._uc.reg_read(x86.UC_X86_REG_EFLAGS)
        return bool(flags & ZF) == instruction.has_rep_prefix


def _is_repeated(case: Case) -> bool:
    instruction = case.instruction()
    return instruction.is_string_instruction and (instruction.has_rep_prefix or instruction.has_repne_prefix)
