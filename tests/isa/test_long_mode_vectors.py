"""Random single instructions in 64-bit and compatibility mode: frames, registers and memory are what Bochs says.

Where Bochs is known to differ from silicon or the manual, those decide (`is_settled`).  Another seed: `--seed`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import iced_x86 as ix
import pytest

from jitvm.isa.flags import TF
from tests.fast_set import share
from tests.isa.beside_bochs import run_both, unsettled
from tests.isa.long_mode_rom import CODE16_3, FIELDS, N_VECTORS, NARROW_0, NARROW_3, RF, image
from tests.isa.long_mode_vectors import Vector, make

DIGITS = 16
DEBUG, STACK, GP, PAGE = 1, 12, 13, 14
BITS = {CODE16_3: 16, NARROW_0: 32, NARROW_3: 32}
LIMIT_BITS, SINGLE_STEP = 0xF_0000, 0x4000
CALLS = {ix.Mnemonic.SYSCALL, ix.Mnemonic.SYSRET, ix.Mnemonic.SYSRETQ}
PUSHING = {ix.Mnemonic.CALL, ix.Mnemonic.ENTER, ix.Mnemonic.INT}


def instruction(v: Vector) -> ix.Instruction:
    """The vector's, decoded."""
    return ix.Decoder(BITS.get(v.selectors[0], 64), v.code, ip=v.rip).decode()


def is_settled(v: Vector, ours: dict[str, int], theirs: dict[str, int], fields: set[str]) -> bool:
    """Whether Bochs is known to differ from silicon or the manual, or the manual leaves it open.

    String instructions, CALL and ENTER are as in test_protected_mode_vectors.py; a gate's offset that is not canonical is
    found before the frame is pushed (SDM vol. 2, INT n).  In 64-bit code IRET and IRETD pop SS:RSP (vol. 3, 6.14.3), which
    Bochs leaves out, and 66h makes ENTER and LEAVE 16 bits wide: both seen on a CPU of Intel's.  SYSRET clears RF, and LAR
    leaves the limit's bits undefined (vol. 2).  A trap behind SYSCALL and SYSRET goes by the TF that they leave
    (test_step_over_calls.py), with Bochs by the one that they found.
    """
    ins = instruction(v)
    if ins.mnemonic in CALLS and theirs["dr6"] & ~ours["dr6"] & SINGLE_STEP:
        return not theirs["rflags"] & TF
    if ins.is_string_instruction and (ins.has_rep_prefix or ins.has_repne_prefix):
        return fields <= {"rflags", "sum"} and bool(ours["rflags"] & RF)
    if ins.code in (ix.Code.ENTERW_IMM16_IMM8, ix.Code.LEAVEW) and v.selectors[0] not in BITS:
        return fields <= {"rsp", "rbp", "sum"}
    if ins.mnemonic in PUSHING and ours["vector"] in (STACK, GP, PAGE):
        return fields == {"sum"}
    if ins.mnemonic in (ix.Mnemonic.IRET, ix.Mnemonic.IRETD) and v.selectors[0] not in BITS:
        return ours["vector"] in (DEBUG, STACK, GP)
    if ins.mnemonic in (ix.Mnemonic.SYSRET, ix.Mnemonic.SYSRETQ):
        return fields == {"rflags"} and ours["rflags"] ^ theirs["rflags"] == RF
    if ins.mnemonic == ix.Mnemonic.LAR:
        return len(fields) == 1 and all(not (ours[name] ^ theirs[name]) & ~LIMIT_BITS for name in fields)
    return False


@pytest.mark.parametrize("k", share(range(8), 1))
def test_vectors(k: int, seed: int, tmp_path: Path) -> None:
    made = make(100 * seed + k)
    ours, theirs = run_both(tmp_path, image(tmp_path, [v.pack() for v in made]), FIELDS, DIGITS)
    assert len(ours) == len(theirs) == N_VECTORS
    kinds = Counter(a["vector"] for a in ours)
    assert kinds[DEBUG] > N_VECTORS // 5 and kinds[GP], kinds
    wrong = unsettled(made, (ours, theirs), FIELDS, is_settled, instruction)
    assert not wrong, "\n".join(wrong[:8])
