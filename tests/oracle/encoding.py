"""What oracles ask of an instruction's bytes."""

from __future__ import annotations

from iced_x86 import FlowControl, Instruction

from tests.oracle.case import Case

ADDRESS_SIZE, LOCK, REPNE, REP = 0x67, 0xF0, 0xF2, 0xF3
PREFIXES = frozenset((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, ADDRESS_SIZE, LOCK, REPNE, REP))
NEAR = {
    getattr(FlowControl, name)
    for name in "CONDITIONAL_BRANCH UNCONDITIONAL_BRANCH INDIRECT_BRANCH CALL INDIRECT_CALL RETURN".split()
}


def split_prefixes(case: Case) -> tuple[bytes, bytes]:
    """The prefixes of an instruction, REX too, and what follows them."""
    code, n = case.code, 0
    while n < len(code) and (code[n] in PREFIXES or (case.mode == 64 and code[n] & 0xF0 == 0x40)):
        n += 1
    return code[:n], code[n:]


def is_short_branch(case: Case, instruction: Instruction) -> bool:
    """Whether it is a near branch of 64-bit code with an operand size of 16 bits."""
    return case.mode == 64 and 0x66 in split_prefixes(case)[0] and instruction.flow_control in NEAR
