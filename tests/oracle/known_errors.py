"""What unicorn 2.1.4 is known to get wrong, each with its reason.

An entry says for which cases unicorn's answer is not asked for (`fatal`: it
would abort the process) or not compared.  Found by comparing it with this
host's CPU; the manual decides who is right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from iced_x86 import Code, Instruction, Mnemonic, OpKind, Register

from tests.oracle.case import BR, WINDOW_SIZE, Case, Result
from tests.oracle.compare import operand_offsets
from tests.oracle.encoding import LOCK, PREFIXES, is_short_branch, split_prefixes


@dataclass(frozen=True)
class KnownError:
    """`applies(case, instruction, truth)`, where `truth` is the host CPU's result if known."""

    reason: str
    applies: Callable[[Case, Instruction, Result | None], bool]
    fatal: bool = False


def _locked_bit_test_of_register(case: Case, _i: Instruction, _truth: Result | None) -> bool:
    prefixes, rest = split_prefixes(case)
    if LOCK not in prefixes or rest[:1] != b"\x0f":
        return False
    return rest[1] in (0xA3, 0xAB, 0xB3, 0xBB, 0xBA) and rest[2] >= 0xC0


def _illegal_lock(case: Case, _i: Instruction, truth: Result | None) -> bool:
    prefixes, _rest = split_prefixes(case)
    return LOCK in prefixes and (truth is None or _vector(truth) == 6)


def _test_alias(case: Case, _i: Instruction, _truth: Result | None) -> bool:
    _prefixes, rest = split_prefixes(case)
    return rest[0] in (0xF6, 0xF7) and rest[1] >> 3 & 7 == 1


def _hinting_nop(case: Case, _i: Instruction, _truth: Result | None) -> bool:
    _prefixes, rest = split_prefixes(case)
    return rest[0] == 0x0F and (rest[1] == 0x0D or 0x18 <= rest[1] <= 0x1E)


def _interrupted_repeat(case: Case, instruction: Instruction, truth: Result | None) -> bool:
    if not instruction.is_string_instruction or truth is None:
        return False
    return truth.fault is not None or (truth.steps == case.count and truth.ip_delta == 0)


def _locked_negation(case: Case, instruction: Instruction, _truth: Result | None) -> bool:
    return instruction.mnemonic == Mnemonic.NEG and instruction.has_lock_prefix


def _large_release(_case: Case, instruction: Instruction, _truth: Result | None) -> bool:
    return instruction.mnemonic == Mnemonic.RET and instruction.immediate16 > 0x7FFF


def _writes_near_code(case: Case, instruction: Instruction, truth: Result | None) -> bool:
    offsets = set() if truth is None else set(truth.memory)
    if any(instruction.op_kind(i) == OpKind.MEMORY for i in range(instruction.op_count)):
        offsets |= operand_offsets(case, instruction)  # also a store that changes nothing
    return any(-16 <= offset - case.ip < 0x200 for offset in offsets)


def _pushes_selector(case: Case, instruction: Instruction, _truth: Result | None) -> bool:
    # A 32-bit push of a selector writes two bytes on the host's CPU and four
    # here: that matters at the edge of the stack's segment only.
    if instruction.mnemonic != Mnemonic.PUSH or not 0 <= instruction.op0_register - Register.ES < 6:
        return False
    return case.offset("ss", case.regs[4] - 4) > WINDOW_SIZE - 4


def _bound_across_the_limit(case: Case, instruction: Instruction, truth: Result | None) -> bool:
    if instruction.mnemonic != Mnemonic.BOUND or _vector(truth) != BR:
        return False
    return max(operand_offsets(case, instruction)) > WINDOW_SIZE - 5


def _enter_mixed(case: Case, instruction: Instruction, _truth: Result | None) -> bool:
    if instruction.mnemonic != Mnemonic.ENTER:
        return False
    return (instruction.code == Code.ENTERD_IMM16_IMM8) == (case.mode == 16)


def _short_branch_operand(case: Case, instruction: Instruction, _truth: Result | None) -> bool:
    return is_short_branch(case, instruction)


def _keeps_accumulator(case: Case, instruction: Instruction, _truth: Result | None) -> bool:
    return case.mode == 64 and instruction.code == Code.CMPXCHG_RM32_R32


def _ah_with_rex(case: Case, instruction: Instruction, _truth: Result | None) -> bool:
    if case.mode != 64 or instruction.mnemonic not in (Mnemonic.LAHF, Mnemonic.SAHF):
        return False
    return split_prefixes(case)[0][-1:] not in (b"", *(bytes([byte]) for byte in PREFIXES))


def _repeat_of_0(case: Case, instruction: Instruction, _truth: Result | None) -> bool:
    repeated = instruction.has_rep_prefix or instruction.has_repne_prefix
    if case.mode != 64 or not instruction.is_string_instruction or not repeated:
        return False
    return 0x67 in split_prefixes(case)[0] and not case.regs[1] & 0xFFFF_FFFF


def _relative_before_an_immediate(case: Case, instruction: Instruction, _truth: Result | None) -> bool:
    counted = instruction.mnemonic in (Mnemonic.SHLD, Mnemonic.SHRD) and instruction.op2_kind == OpKind.IMMEDIATE8
    return (
        case.mode == 64 and instruction.is_ip_rel_memory_operand and (counted or instruction.mnemonic == Mnemonic.RORX)
    )


def _vector(result: Result | None) -> int | None:
    return result.fault.vector if result is not None and result.fault is not None else None


KNOWN_ERRORS = (
    KnownError(
        "LOCK before BT, BTS, BTR or BTC of a register aborts the process instead of #UD",
        _locked_bit_test_of_register,
        fatal=True,
    ),
    KnownError(
        "a LOCK prefix that is not allowed is ignored by many instructions instead of #UD",
        _illegal_lock,
    ),
    KnownError(
        "segment limits and types are not checked: no #GP or #SS",
        lambda _case, _i, truth: _vector(truth) in (12, 13),
    ),
    KnownError(
        "there is no paging and thus no error code of a page fault",
        lambda _case, _i, truth: _vector(truth) == 14,
    ),
    KnownError(
        "INT1 (F1) is #UD",
        lambda _case, i, _truth: i.mnemonic == Mnemonic.INT1,
    ),
    KnownError("TEST by its alias, F6 /1 and F7 /1, is #UD", _test_alias),
    KnownError("the NOPs 0F 0D and 0F 18 to 0F 1E with some operands are #UD", _hinting_nop),
    KnownError(
        "a repeated string instruction counts the look at the counter that ends it as a step",
        _interrupted_repeat,
    ),
    KnownError(
        "LOCK NEG of memory computes the flags from the value after the exchange",
        _locked_negation,
    ),
    KnownError("RET imm16 sign-extends the number of bytes to release", _large_release),
    KnownError("a store into the block that is running starts it anew", _writes_near_code),
    KnownError("PUSH of a selector writes all four bytes", _pushes_selector),
    KnownError(
        "BOUND reads both limits before it compares; the host's CPU compares the lower one first",
        _bound_across_the_limit,
    ),
    KnownError(
        "ENTER with an operand size other than the stack's keeps the upper half of EBP",
        _enter_mixed,
    ),
    KnownError("66h makes near branches of 64-bit code 16 bits wide, as on AMD's CPUs", _short_branch_operand),
    KnownError(
        "CMPXCHG of 32 bits in 64-bit code clears the upper half of RAX also when it does not change",
        _keeps_accumulator,
    ),
    KnownError("with REX, LAHF and SAHF take SPL for AH", _ah_with_rex),
    KnownError(
        "a repeated string instruction with 32-bit addresses and a count of 0 leaves the upper halves of registers",
        _repeat_of_0,
    ),
    KnownError(
        "RIP-relative operands of SHLD and SHRD by an immediate, and of RORX, lie a byte lower",
        _relative_before_an_immediate,
    ),
)


def fatal(case: Case) -> str | None:
    """Why this case must not be given to unicorn, or None."""
    instruction = case.instruction()
    for error in KNOWN_ERRORS:
        if error.fatal and error.applies(case, instruction, None):
            return error.reason
    return None


def known_error(case: Case, truth: Result | None) -> str | None:
    """Why unicorn's result for this case is not to be compared, or None."""
    instruction = case.instruction()
    for error in KNOWN_ERRORS:
        if error.applies(case, instruction, truth):
            return error.reason
    return None
