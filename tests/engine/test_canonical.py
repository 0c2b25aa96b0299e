"""Branches of 64-bit code to addresses that are not canonical: #GP(0) at the branch, which has done nothing.

Intel SDM vol. 2, JMP, CALL, RET, Jcc, LOOP: the target is checked before anything changes; vol. 1, 3.3.7.1.
"""

from __future__ import annotations

import pytest

from jitvm.bare import ENGINES, HIGH, Bare, Fault, Stop
from tests.engine.assembler import assemble

STACK, MASK = 0x8000, (1 << 64) - 1
BELOW = HIGH - 0x10
"""The highest addresses below the upper half: not canonical."""

BRANCHES = {
    "jmp": "jmp {below}",
    "jz": "jz {below}",
    "loop": "loop {below}",
    "jrcxz": "jrcxz {below}",
    "call": "call {below}",
    "jmp rax": "jmp rax",
    "call rax": "call rax",
    "jmp [mem]": "jmp qword ptr [0x9000]",
    "call [mem]": "call qword ptr [0x9000]",
    "ret": "ret",
    "ret 8": "ret 8",
}


def at_the_edge(engine: str, source: str, **registers: int) -> Bare:
    """Code at the lowest address of the upper half; RAX, the stack and a word of memory hold an address below it."""
    cpu = Bare(engine=engine)
    cpu.set_mode("long")
    cpu.write(0, assemble(source.format(below=f"start - {HIGH - BELOW}"), HIGH, 64))
    for at in (STACK, 0x9000):
        cpu.write(at, BELOW.to_bytes(8, "little"))
    zf = 0x40
    cpu.set_registers({"rip": HIGH, "rsp": STACK, "rax": BELOW, "rcx": 5, "rflags": 2 | zf, **registers})
    return cpu


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", BRANCHES)
def test_the_branch_faults_and_has_done_nothing(engine: str, name: str) -> None:
    cpu = at_the_edge(engine, f"start: {BRANCHES[name]}", rcx=0 if name == "jrcxz" else 5)
    before = cpu.registers()
    assert cpu.run(5) == Stop("fault", 0, Fault(13, 0, None))
    assert cpu.registers() == before


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["jz", "loop", "jmp rax", "call rax", "call"])
def test_behind_a_hot_loop(engine: str, name: str) -> None:
    """Where the block has machine code, or a region, that leaves by the branch."""
    source = f"start: lea rbx, [rbx + rdx]\n dec edx\n jnz start\n {BRANCHES[name]}"
    cpu = at_the_edge(engine, source, rdx=40)
    assert cpu.run(1000) == Stop("fault", 120, Fault(13, 0, None))
    after = cpu.registers()
    assert (after["rsp"], after["rcx"], after["rbx"]) == (STACK, 5, sum(range(41)))
    assert after["rip"] == HIGH + len(assemble("lea rbx, [rbx + rdx]\n dec edx\n jnz .-6", 0, 64))


@pytest.mark.parametrize("engine", ENGINES)
def test_code_does_not_run_into_what_is_not_canonical(engine: str) -> None:
    """Where a fetch begins there it is #GP(0), too."""
    cpu = at_the_edge(engine, "start: nop", rip=BELOW)
    assert cpu.run(5) == Stop("fault", 0, Fault(13, 0, None))
    assert cpu.registers()["rip"] == BELOW
