"""What AMD's processors do otherwise than Intel's, of which jitvm's are: there an AMD host is no oracle.

Each entry says for which cases, and for which of a result's fields; all others are compared on AMD's hosts, too.  Flags
that the manuals leave undefined have a table of their own, found by comparing an EPYC of family 25, model 17 with what
Intel's cores do.

Sources: AMD64 Architecture Programmer's Manual, vol. 3 (PREFETCH; near branches with an operand-size prefix in 64-bit mode;
1.2.6: repeat prefixes are for string instructions alone), vol. 2 (MXCSR_MASK; RF), vol. 5 (FXSAVE and XSAVE keep the x87's
pointers for a pending exception alone), beside Intel SDM vol. 2 (MOVDQU: whether alignment is checked depends on the
processor; PUSH of a segment register; XSAVE: #GP or #AC).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from iced_x86 import FlowControl, Instruction, MemorySizeInfo, Mnemonic, Register

from tests.oracle.case import AC, AF, GP, OF, PF, SF, SS, ZF, Case, Result
from tests.oracle.encoding import ADDRESS_SIZE, REP, REPNE, effective_address, is_short_branch, split_prefixes

CPUINFO = Path("/proc/cpuinfo")
IS_AMD = CPUINFO.exists() and bool(re.search(r"^vendor_id\s*: AuthenticAMD$", CPUINFO.read_text(), re.MULTILINE))
"""Whether this host's processor is one of AMD's."""
PREFETCH_GROUP, UNDEFINED_OPCODES = b"\x0f\x0d", (b"\x0f\xff", b"\x0f\xb9")
NAMES = "XSAVE XSAVEC XSAVEOPT XRSTOR XSAVE64 XSAVEC64 XSAVEOPT64 XRSTOR64".split()
AREAS: frozenset[int] = frozenset(getattr(Mnemonic, name) for name in NAMES)
MASKED = AREAS | {Mnemonic.FXSAVE, Mnemonic.FXSAVE64}
MASK_AT, MASK_BIT = 30, 2
"""Where an image has MXCSR_MASK's bit for AMD's mode of misaligned operands (bit 17)."""
COMPARING = b"\xa6\xa7\xae\xaf"
BASED = (Register.FS, Register.GS)
SELECTORS = range(Register.ES, Register.GS + 1)
ALIGNMENT, WIDE = 17, 16
ENDING = frozenset(("fault", "steps", "ip delta"))
"""Fields that say how an instruction ended."""
EVERYTHING = ENDING | {"registers", "esp", "flags", "memory"}


@dataclass(frozen=True)
class Otherwise:
    """Why this host's answer is not that of Intel's processors, and in which fields."""

    reason: str
    fields: frozenset[str]


NO_MATTER = Otherwise("", frozenset())
INT1 = Otherwise("a hypervisor that looks at each #DB leaves RIP at INT1", ENDING)
NO_NOP = Otherwise("0F 0D with a register is #UD, and no NOP", ENDING)
SHORT_BRANCH = Otherwise("66h makes near branches of 64-bit code 16 bits wide", ENDING | {"esp", "memory"})
SHORT_JUMP = Otherwise(SHORT_BRANCH.reason, ENDING)
REPEATED = Otherwise("flags of a repeated CMPS or SCAS are written at each iteration", frozenset({"flags"}))
SELECTOR_SLOT = Otherwise("PUSH and POP of a selector take all of its slot", EVERYTHING)
AREA = Otherwise("a misaligned area is #GP also where alignment is checked", frozenset({"fault"}))
WIDE_OPERAND = Otherwise("alignment is checked of operands of 16 bytes, too", EVERYTHING)
NO_ITERATION = Otherwise("a count of 0 leaves the upper halves of 32-bit addresses", frozenset({"ecx", "esi", "edi"}))
OUTSIDE = Otherwise("an address must be canonical before the base of FS or GS is added, too", EVERYTHING)
UD_LENGTH = Otherwise("UD0 and UD1 end before their operand, also where that makes them too long", frozenset({"fault"}))
LOOP_PREFIX = Otherwise("F2h before LOOPE makes it LOOPNE, F3h the other way round", ENDING)
LOOPS = {b"\xe0": REP, b"\xe1": REPNE}
"""Opcodes of LOOPNE and LOOPE, with the prefix that belongs to the other one."""
CALLS = {FlowControl.CALL, FlowControl.INDIRECT_CALL, FlowControl.RETURN}


def otherwise(case: Case, truth: Result | None = None) -> Otherwise:
    """In what this host is no oracle for this case, given its answer if known."""
    if not IS_AMD:
        return NO_MATTER
    ins = case.instruction()
    prefixes, opcode = split_prefixes(case)
    if ins.mnemonic == Mnemonic.INT1:
        return INT1
    if opcode.startswith(PREFETCH_GROUP) and opcode[2:3] >= b"\xc0":
        return NO_NOP
    if is_short_branch(case, ins):
        return SHORT_BRANCH if ins.flow_control in CALLS else SHORT_JUMP
    if opcode.startswith(UNDEFINED_OPCODES):
        return UD_LENGTH
    if opcode[:1] in LOOPS and [byte for byte in prefixes if byte in (REP, REPNE)][-1:] == [LOOPS[opcode[:1]]]:
        return LOOP_PREFIX
    if truth is None:
        return NO_MATTER
    if ins.is_string_instruction and (ins.has_rep_prefix or ins.has_repne_prefix):
        return of_repeated(case, prefixes, opcode, truth)
    return of_fault(case, ins, truth.fault.vector) if truth.fault is not None else NO_MATTER


def of_repeated(case: Case, prefixes: bytes, opcode: bytes, truth: Result) -> Otherwise:
    """The same, of a repeated string instruction."""
    if case.mode == 64 and ADDRESS_SIZE in prefixes and not case.regs[1] & 0xFFFF_FFFF:
        return NO_ITERATION
    return REPEATED if opcode[0] in COMPARING and truth.ip_delta == 0 else NO_MATTER


def of_fault(case: Case, ins: Instruction, vector: int) -> Otherwise:
    """The same, where this host has a fault."""
    selector = ins.mnemonic in (Mnemonic.PUSH, Mnemonic.POP) and ins.op0_register in SELECTORS
    if selector and vector in (SS, ALIGNMENT):
        return SELECTOR_SLOT
    if ins.mnemonic in AREAS and vector == GP and case.flags & AC:
        return AREA
    if vector == ALIGNMENT and MemorySizeInfo(ins.memory_size).size == WIDE:
        return WIDE_OPERAND
    top = effective_address(case, ins) >> 47 if case.mode == 64 and ins.memory_segment in BASED else 0
    if vector == GP and top not in (0, 0x1FFFF):
        return OUTSIDE
    return NO_MATTER


UNDEFINED: dict[int, int] = {
    getattr(Mnemonic, name): flags
    for names, flags in (
        ("AAA AAS", OF | SF | ZF | PF),
        ("DAA DAS", OF),
        ("MUL IMUL DIV IDIV", SF | ZF | AF | PF),
        ("ROL ROR RCL RCR", OF),
        ("SHL SAL SHR SHLD SHRD", AF | OF),
        ("SAR", AF),
    )
    for name in names.split()
}
"""Undefined flags with other values than behind Intel's cores.

Of AND, OR, XOR, TEST, AAM, AAD, BT, BTS, BTR, BTC, BSF and BSR, all are the same; so is CF of DIV, IDIV and long shifts, and
OF of DIV, IDIV and SAR.
"""
