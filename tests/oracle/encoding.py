"""What oracles ask of an instruction's bytes."""

from __future__ import annotations

from iced_x86 import FlowControl, Instruction, Register

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


def effective_address(case: Case, instruction: Instruction, number: int = 0) -> int:
    """The offset of one byte of its memory operand in the operand's segment, from the state before the case."""
    address = instruction.memory_displacement + number
    size = 2 if case.mode == 16 else case.mode // 8
    for register, scale in (
        (instruction.memory_base, 1),
        (instruction.memory_index, instruction.memory_index_scale),
    ):
        for first, width in ((Register.AX, 16), (Register.EAX, 32), (Register.RAX, 64)):
            if first <= register < first + len(case.regs):
                size = width // 8
                address += (case.regs[register - first] & (1 << width) - 1) * scale
    if instruction.memory_base == instruction.memory_index == Register.NONE:
        size = instruction.memory_displ_size
    return address & (1 << 8 * size) - 1
