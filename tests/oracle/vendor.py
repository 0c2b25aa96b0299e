"""What AMD's processors do otherwise than Intel's, of which jitvm's are: there an AMD host is no oracle.

Source: AMD64 Architecture Programmer's Manual, vol. 3 (PREFETCH; near branches with an operand-size prefix in 64-bit mode;
FXSAVE and XSAVE, which keep the x87's pointers for a pending exception alone), vol. 2 (MXCSR_MASK; RF), beside Intel SDM.
"""

from __future__ import annotations

import re
from pathlib import Path

from iced_x86 import MemorySizeInfo, Mnemonic, Register

from tests.oracle.case import AC, Case, Result
from tests.oracle.encoding import REP, REPNE, is_short_branch, split_prefixes

CPUINFO = Path("/proc/cpuinfo")
IS_AMD = CPUINFO.exists() and bool(re.search(r"^vendor_id\s*: AuthenticAMD$", CPUINFO.read_text(), re.MULTILINE))
"""Whether this host's processor is one of AMD's."""
PREFETCH_GROUP = b"\x0f\x0d"
NAMES = "XSAVE XSAVEC XSAVEOPT XRSTOR XSAVE64 XSAVEC64 XSAVEOPT64 XRSTOR64".split()
AREAS: frozenset[int] = frozenset(getattr(Mnemonic, name) for name in NAMES)
MASKED = AREAS | {Mnemonic.FXSAVE, Mnemonic.FXSAVE64}
UD0, LOOPS, REPEATS = b"\x0f\xff", (b"\xe0", b"\xe1"), frozenset((REPNE, REP))
COMPARING = (b"\xa6", b"\xa7", b"\xae", b"\xaf")
SELECTORS = range(Register.ES, Register.GS + 1)
ALIGNMENT, WIDE = 17, 16
MASK_AT = 30
"""Where an image has the bit of MXCSR_MASK for AMD's mode of misaligned operands (bit 17)."""


def otherwise(case: Case, truth: Result | None = None) -> str | None:
    """Why this host's answer is not that of Intel's processors; None: it is."""
    if not IS_AMD:
        return None
    ins = case.instruction()
    prefixes, opcode = split_prefixes(case)
    if ins.mnemonic == Mnemonic.INT1:
        return "a hypervisor that looks at each #DB leaves RIP at INT1"
    if opcode.startswith(PREFETCH_GROUP) and opcode[2:3] >= b"\xc0":
        return "0F 0D with a register is #UD, and no NOP"
    if is_short_branch(case, ins):
        return "66h makes near branches of 64-bit code 16 bits wide"
    if opcode.startswith(UD0):
        return "UD0 has no ModRM byte, which counts where a prefix makes it too long"
    if opcode.startswith(LOOPS) and not REPEATS.isdisjoint(prefixes):
        return "F2 and F3 choose the condition of LOOPNE and LOOPE"
    if case.mode == 64 and 0x67 in prefixes and ins.is_string_instruction and not REPEATS.isdisjoint(prefixes):
        return (
            "a repeated string instruction with 32-bit addresses that does nothing leaves the upper halves of registers"
        )
    if truth is not None and opcode.startswith(COMPARING) and truth.ip_delta == 0:
        return "flags of a repeated CMPS or SCAS are written at each iteration"
    if truth is None or truth.fault is None or not case.flags & AC:
        return None
    if ins.mnemonic in AREAS:
        return "a misaligned area is #GP also where alignment is checked"
    if ins.mnemonic == Mnemonic.PUSH and ins.op0_register in SELECTORS:
        return "PUSH of a selector writes all of its slot"
    if truth.fault.vector == ALIGNMENT and MemorySizeInfo(ins.memory_size).size == WIDE:
        return "alignment is checked of operands of 16 bytes, too"
    return None
