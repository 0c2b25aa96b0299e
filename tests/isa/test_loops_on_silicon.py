"""Random loops that all tiers run as this host's CPU does: above all blocks whose registers are pinned to the host's.

Blocks that jump to and fro, with flags over their edges (tests/engine/flag_programs.py), in 16-, 32- and 64-bit code; and
every form of the inventory in a loop of its own.  What the manual leaves undefined is put out of the way.

`--cases N --seed S` runs others.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from iced_x86 import FlowControl, Mnemonic

from tests.engine.assembler import assemble
from tests.engine.flag_programs import FlagLoops
from tests.fast_set import share
from tests.isa.cases import generate
from tests.isa.test_forms_on_silicon import judge, reaches_outside
from tests.isa.undefined import undefined
from tests.oracle import native
from tests.oracle.bare_cpu import BareCpu, Failure
from tests.oracle.case import CODE_OFFSET, IF, PAGE, WINDOW, Case, Layout
from tests.oracle.compare import describe, differences

PINNED = "pinned"
ENGINES = (PINNED, "regions", "stencils")
STEPS = 2000
ROUNDS = 5
PROGRAMS = 4
LEFT_OUT = (
    *("rdtsc", "in al", "sti", "div ", "es, ax", "pushf", "popf", "bsf", "bsr", "daa", "aas", "aad", "salc", "0xd6"),
    *("[edi", "[rdi", "[di", "lock", "out:"),
)
ELSEWHERE = {getattr(Mnemonic, name) for name in "POPF POPFD POPFQ PUSHF PUSHFD PUSHFQ ENTER LEAVE".split()}
"""In a loop they set TF, or store the one that the harness set, or move the stack out of the window."""
UNDEFINED = "shl shr sar shld shrd rol ror rcl rcr mul imul bt bts btr btc".split()


def shifts_too_far(text: str) -> bool:
    """SHLD or SHRD of a word by what may be more than 16: its result is undefined (SDM vol. 2), and AMD's is another."""
    head, *operands = text.replace(",", "").split()
    if head not in ("shld", "shrd") or operands[0][0] in "er":
        return False
    return operands[2] == "cl" or int(operands[2]) & 31 > 16


class SiliconLoops(FlagLoops):
    """A program that asks nothing of the outside and faults nowhere; it ends where its code does."""

    def __init__(self, seed: int, bits: int, blocks: int) -> None:
        self.data = 0x8000 + (WINDOW if bits == 64 else 0)
        super().__init__(seed, bits, blocks)

    def instruction(self) -> str:
        """Flags that are undefined behind it are defined at once."""
        while True:
            text = super().instruction()
            if not any(word in text for word in LEFT_OUT) and not shifts_too_far(text):
                break
        head = text.split()[0]
        if head in UNDEFINED:
            return f"{text}; {self.pick('test', 'cmp', 'add')} {self.reg(32)}, {self.reg(32)}"
        if head in ("and", "or", "xor", "test"):
            return f"{text}; set{self.pick('c', 'z', 's', 'o', 'p')} al; {self.pick('cmp', 'add')} {self.reg(32)}, eax"
        return text

    def program(self, blocks: int) -> list[str]:
        """Its parts."""
        e, rng = self.e, self.rng
        lines = [f"mov {e}si, {self.data + 0x500}; mov {e}di, {self.data + 0x600}"]
        lines += [f"mov {e}cx, {rng.randrange(20, 60)}; cmp ecx, ecx"]
        return [*lines, *self.chain(blocks, "jmp out"), "out:"]


def case_of(seed: int, bits: int) -> Case:
    """A program with random registers."""
    rng = random.Random(f"silicon {seed} {bits}")
    base = WINDOW if bits == 64 else 0
    code = assemble(SiliconLoops(seed, bits, rng.randrange(2, 6)).text, CODE_OFFSET + base, bits)
    regs = [rng.randrange(1 << (64 if bits == 64 else 32)) for _ in range(16 if bits == 64 else 8)]
    regs[4], regs[5] = base + 0xF000, base + 0x8400
    return Case(bits, code, tuple(regs), IF | 2, count=STEPS, layout=Layout.FLAT if bits == 64 else Layout.WINDOW)


@pytest.mark.parametrize("bits", [64, 32, 16])
def test_random_loops(bits: int, seed: int, request: pytest.FixtureRequest) -> None:
    native.need(bits, Layout.FLAT if bits == 64 else Layout.WINDOW)
    count = request.config.getoption("cases", None) or PROGRAMS
    cases = [case_of(1000 * seed + k, bits) for k in range(count)]
    failures = []
    engines = {name: BareCpu(name) for name in ENGINES}
    truths = native.NativeCpu().run(cases)
    inside = [(c, t) for c, t in zip(cases, truths, strict=True) if t.fault is None or t.fault.vector != PAGE]
    assert len(inside) > count * 2 // 3, "a page fault: an operand outside of the window, open bus here"
    for case, truth in inside:
        for name, cpu in engines.items():
            result = cpu.run_one(case, truth.steps + (truth.fault is not None))
            lines = [result.reason] if isinstance(result, Failure) else differences(case, truth, result)
            if lines:
                failures.append(describe(case, lines, ("silicon", name)))
    assert not failures, f"{len(failures)} differ (seed {seed})\n" + "\n".join(failures[:8])


def form_loops(mode: int, count: int, seed: int) -> list[Case]:
    """Cases of one form each, with a jump back behind it: what is compared is the last of some rounds."""
    loops = []
    for case in generate(mode, count, seed):
        back = b"\xeb" + (-len(case.code) - 2 & 0xFF).to_bytes(1, "little")
        ins = case.instruction()
        plain = ins.flow_control == FlowControl.NEXT and not undefined(case).destination
        if plain and ins.mnemonic not in ELSEWHERE and case.ip + len(case.code) < 0xFF00:
            loops.append(replace(case, code=case.code + back, count=2 * ROUNDS))
    return loops


@pytest.mark.parametrize("count", share([150, 1200], 1))
@pytest.mark.parametrize("mode", [64, 32, 16])
def test_every_form_in_a_loop(mode: int, count: int, seed: int, request: pytest.FixtureRequest) -> None:
    """With its operands in the host's registers, and the flags of its own round before."""
    count = request.config.getoption("cases", None) or count
    failures = []
    judged = [j for j in judge(form_loops(mode, count, seed))[0] if not reaches_outside(j.case)]
    steps = [j.truth.steps + (j.truth.fault is not None) for j in judged]
    for j, result in zip(judged, BareCpu(PINNED).run([j.case for j in judged], steps), strict=True):
        lines = [result.reason] if isinstance(result, Failure) else differences(j.case, j.truth, result)
        if lines:
            failures.append(describe(j.case, lines, (j.oracle, PINNED)))
    assert not failures, f"{len(failures)} of {len(judged)} differ (seed {seed})\n" + "\n".join(failures[:8])
    assert len(judged) > count // 2
