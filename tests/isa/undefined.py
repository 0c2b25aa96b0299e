"""What the manual leaves undefined.

Source: Intel SDM volume 2, "Flags Affected" of each instruction, and the
remarks quoted as reasons.  A rule says which flags, and whether the
destination, have no defined value for this instruction with these operands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from iced_x86 import Instruction, MemorySizeExt, Mnemonic, OpKind, Register

from tests.oracle.case import AF, CF, OF, PF, SF, STATUS, ZF, Case

NOTHING = (0, False)
Rule = Callable[[Instruction, Case], tuple[int, bool]]


@dataclass(frozen=True)
class Undefined:
    """Undefined flags, whether the destination is undefined too, and why."""

    flags: int = 0
    destination: bool = False
    reason: str = ""


def always(flags: int) -> Rule:
    """A rule that does not look at the operands."""
    return lambda _instruction, _case: (flags, False)


def width_of(instruction: Instruction) -> int:
    """Bits of the first operand."""
    if instruction.op0_kind == OpKind.REGISTER:
        register = instruction.op0_register
        if Register.AL <= register <= Register.R15L:
            return 8
        if Register.AX <= register <= Register.R15W:
            return 16
        return 32 if register <= Register.R15D else 64
    return 8 * MemorySizeExt.size(instruction.memory_size)


def shift_count(instruction: Instruction, case: Case) -> int:
    """The count of a shift or rotate as the CPU masks it."""
    last = instruction.op_count - 1
    if instruction.op_kind(last) == OpKind.IMMEDIATE8:
        count = instruction.immediate8
    elif instruction.op_kind(last) == OpKind.REGISTER:
        count = case.regs[1]
    else:
        count = 1
    return count & (0x3F if width_of(instruction) == 64 else 0x1F)


def _shift(instruction: Instruction, case: Case) -> tuple[int, bool]:
    count, width = shift_count(instruction, case), width_of(instruction)
    if count == 0:
        return NOTHING
    flags = AF
    if count > 1:
        flags |= OF
    if count >= width and instruction.mnemonic != Mnemonic.SAR:
        flags |= CF
    return flags, False


def _rotate(instruction: Instruction, case: Case) -> tuple[int, bool]:
    return (OF if shift_count(instruction, case) > 1 else 0), False


def _double_shift(instruction: Instruction, case: Case) -> tuple[int, bool]:
    count = shift_count(instruction, case)
    if count == 0:
        return NOTHING
    if count > width_of(instruction):
        return STATUS, True
    return AF | (OF if count > 1 else 0), False


def _scan(_instruction: Instruction, _case: Case) -> tuple[int, bool]:
    # A source of 0 leaves the destination alone on silicon (AMD documents it,
    # Intel since 2023 too), so it is compared.
    return CF | OF | SF | AF | PF, False


def _bswap(instruction: Instruction, _case: Case) -> tuple[int, bool]:
    return 0, width_of(instruction) == 16


RULES: dict[int, tuple[Rule, str]] = {}


def _rule(mnemonics: str, rule: Rule, reason: str) -> None:
    for name in mnemonics.split():
        RULES[getattr(Mnemonic, name)] = (rule, reason)


_rule("AND OR XOR TEST", always(AF), "AF is undefined")
_rule("MUL IMUL", always(SF | ZF | AF | PF), "SF, ZF, AF and PF are undefined")
_rule("DIV IDIV", always(STATUS), "CF, OF, SF, ZF, AF and PF are undefined")
_rule("AAA AAS", always(OF | SF | ZF | PF), "OF, SF, ZF and PF are undefined")
_rule("AAM AAD", always(OF | AF | CF), "OF, AF and CF are undefined")
_rule("DAA DAS", always(OF), "OF is undefined")
_rule("BT BTS BTR BTC", always(OF | SF | AF | PF), "OF, SF, AF and PF are undefined")
_rule("BSF BSR", _scan, "CF, OF, SF, AF and PF are undefined")
_rule("BSWAP", _bswap, "BSWAP of a 16-bit register has an undefined result")
_rule(
    "SHL SAL SHR SAR",
    _shift,
    "AF is undefined for a nonzero count, OF for counts other than 1, CF of SHL and SHR"
    " for counts of at least the operand's width",
)
_rule("ROL ROR RCL RCR", _rotate, "OF is defined for 1-bit rotates only")
_rule(
    "SHLD SHRD",
    _double_shift,
    "AF is undefined for a nonzero count, OF for counts above 1; a count above the"
    " operand's width leaves the destination and all flags undefined",
)
_rule("ANDN BLSI BLSMSK BLSR BZHI", always(AF | PF), "AF and PF are undefined")
_rule("BEXTR", always(SF | AF | PF), "SF, AF and PF are undefined")
_rule("LZCNT TZCNT", always(OF | SF | AF | PF), "OF, SF, AF and PF are undefined")
BMI = {getattr(Mnemonic, name) for name in "ANDN BLSI BLSMSK BLSR BZHI BEXTR LZCNT TZCNT".split()}
"""Those of them that `cases.py` does not make, but `test_bmi_on_silicon.py` does."""

STORES_BEFORE_FAULT = {
    Mnemonic.CALL,
    Mnemonic.PUSHA,
    Mnemonic.PUSHAD,
    Mnemonic.ENTER,
}
"""What these wrote below the stack pointer before they faulted is nobody's
business: registers are restored for the restart, the manual says nothing of
memory.  Silicon stores the return address of a CALL that goes beyond CS's
limit, and the part of a PUSHA that fits."""


def undefined(case: Case) -> Undefined:
    """What the manual leaves open about the result of a case of one instruction."""
    instruction = case.instruction()
    entry = RULES.get(instruction.mnemonic)
    if entry is None:
        return Undefined()
    flags, destination = entry[0](instruction, case)
    return Undefined(flags, destination, entry[1]) if flags or destination else Undefined()
