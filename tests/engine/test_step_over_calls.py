"""The single-step trap of SYSCALL and SYSRET: by the TF that they leave, not the one that they found.

AMD64 manual vol. 2, 13.1.4; Linux's entry_64.S relies on it (FMASK has TF; no SYSRET to a program that is stepped).
"""

from __future__ import annotations

import pytest

from jitvm.bare import ENGINES, Bare, Fault, Stop
from tests.engine.assembler import assemble

START, ENTRY, USER, STACK = 0x1000, 0x2000, 0x3000, 0x8000
TF, SCE = 0x100, 1
TRAP = Fault(1, None, None)
WORK = "inc rbx\n inc rbx\n"


def caller(engine: str, source: str, *, tf: bool, fmask: int = 0, **registers: int) -> Bare:
    """A CPU in 64-bit code at privilege level 0 that begins with `source`; SYSCALL leads to ENTRY."""
    cpu = Bare(engine=engine)
    cpu.set_mode("long")
    for at, code in ((START, source), (ENTRY, WORK + "hlt"), (USER, WORK + "ud2")):
        cpu.write(at, assemble(code, at, 64))
    cpu.c.efer = int(cpu.c.efer) | SCE
    cpu.c.msr_star, cpu.c.msr_lstar, cpu.c.msr_fmask = 8 << 32 | 0x23 << 48, ENTRY, fmask
    cpu.set_registers({"rip": START, "rsp": STACK, "rflags": 2 | TF * tf, **registers})
    return cpu


@pytest.mark.parametrize("engine", ENGINES)
def test_a_kernel_that_masks_tf_is_not_stepped(engine: str) -> None:
    cpu = caller(engine, "syscall", tf=True, fmask=TF)
    assert cpu.run(100) == Stop("hlt", 4, None)
    assert (cpu.registers()["rbx"], cpu.registers()["r11"] & TF) == (2, TF)


@pytest.mark.parametrize("engine", ENGINES)
def test_one_that_does_not_is(engine: str) -> None:
    cpu = caller(engine, "syscall", tf=True)
    assert cpu.run(100) == Stop("fault", 1, TRAP)
    assert cpu.registers()["rip"] == ENTRY


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("tf", [False, True])
def test_a_program_that_is_stepped_traps_behind_its_call(engine: str, tf: bool) -> None:
    cpu = caller(engine, "sysretq", tf=tf, rcx=USER, r11=2 | TF)
    assert cpu.run(100) == Stop("fault", 1, TRAP)
    assert (cpu.registers()["rip"], cpu.registers()["rbx"], int(cpu.c.cpl)) == (USER, 0, 3)


@pytest.mark.parametrize("engine", ENGINES)
def test_one_that_is_not_does_not(engine: str) -> None:
    cpu = caller(engine, "sysretq", tf=True, rcx=USER, r11=2)
    assert cpu.run(100) == Stop("fault", 3, Fault(6, None, None))
