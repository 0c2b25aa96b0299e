"""The x87 FPU: its registers as a stack, its exceptions, and what each instruction begins with.

`fpr` holds the eight physical registers, `fpu_used` which of them are not empty, `fsw` the status word with TOP.  What an
operation makes of its operands is done on the host's x87 (`host_x87.py`); here is what surrounds it: stack faults, the
unmasked responses, which conditions change.  An instruction that waits begins with `ready`.

Source: Intel SDM vol. 1, 8.1 (registers, status, control and tag word, last instruction), 8.4 to 8.7 (exceptions and their
order; stack faults; how errors are reported); vol. 3, 2.5 (CR0), table 9-3 (EM, MP, TS).  What the manual leaves open
(conditions that it calls undefined, masked stack faults of instructions with two results) was measured: on a Xeon of 2023,
family 6 model 207.

The last instruction's opcode and operand are noted at every instruction, as processors up to the Pentium III do; later ones
note them only for an unmasked exception (vol. 1, 8.1.9.1, CPUID.7.EBX bits 6 and 13).
"""

from __future__ import annotations

from jitvm.isa.host_x87 import HOST_CONTROL, run
from jitvm.isa.state import CR0_EM, CR0_MP, CR0_NE, CR0_TS, CS, EXIT, EXIT_FERR, MF, NM, OK, fault0
from jitvm.isa.words import M16, W0, W1, W6, W7, W11, u64

# ---- status word ------------------------------------------------------------------------------------------------------
IE, DE, ZE, OE, UE, PE, SF, ES = (u64(1 << n) for n in range(8))
C0, C1, C2, C3, BUSY = u64(1 << 8), u64(1 << 9), u64(1 << 10), u64(1 << 14), u64(1 << 15)
TOP = u64(7 << 11)
EXCEPTIONS = IE | DE | ZE | OE | UE | PE
BEFORE = IE | DE | ZE
"""Exceptions found before an operation: unmasked, one lets nothing happen."""
SUMMARY = ES | BUSY
CONDITIONS = C3 | C2 | C0
IM = IE
"""The mask of an exception in the control word has the place of its flag."""

INDEFINITE, INDEFINITE_SE = u64(0xC000_0000_0000_0000), u64(0xFFFF)
"""The real indefinite: what a masked invalid operation gives."""
SIGN, INTEGER_BIT, EXPONENT = u64(0x8000), u64(1 << 63), u64(0x7FFF)
INITIAL_CONTROL = u64(0x037F)


# ---- what an instruction begins with ------------------------------------------------------------------------------------
def pending(c):
    """Status of an instruction that waits while an unmasked exception is pending.

    With CR0.NE = 0 it is told by FERR#, and the processor stands before the instruction until an interrupt (SDM vol. 1,
    appendix D.2.1), unless IGNNE# lets it go on.
    """
    if c.cr0 & CR0_NE != W0:
        return fault0(c, MF)
    if c.ignne != W0:
        return OK
    c.halted = W1
    c.exit_reason = EXIT_FERR
    c.status = EXIT
    return EXIT


def present(c):
    """Status: #NM when the FPU is emulated or its state is another task's."""
    if c.cr0 & (CR0_EM | CR0_TS) != W0:
        return fault0(c, NM)
    return OK


def ready(c):
    """Status of an instruction that waits, before it looks at its operands."""
    if c.cr0 & (CR0_EM | CR0_TS) != W0:
        return fault0(c, NM)
    if c.fsw & ES != W0:
        return pending(c)
    return OK


def wait_(c):
    """WAIT: #NM when CR0.MP and CR0.TS are both set, #MF for a pending exception."""
    if c.cr0 & CR0_MP != W0 and c.cr0 & CR0_TS != W0:
        return fault0(c, NM)
    if c.fsw & ES != W0:
        return pending(c)
    return OK


def note(c, imm):
    """Remember the instruction; `imm` is its opcode: the low three bits of the escape byte, then ModRM."""
    c.fip = c.rip
    c.fcs = c.sel[CS]
    c.fop = imm
    return W0


def note_memory(c, imm, seg, off):
    """Remember the instruction and its memory operand."""
    note(c, imm)
    c.fdp = off
    c.fds = c.sel[seg]
    return W0


# ---- exceptions ---------------------------------------------------------------------------------------------------------
def summarize(c):
    """ES and B: an exception is flagged that the control word does not mask."""
    v = c.fsw & ~SUMMARY
    if v & ~c.fcw & EXCEPTIONS != W0:
        v = v | SUMMARY
    else:
        c.ignne = W0
    c.fsw = v
    return W0


def absorb(c, sw):
    """Take exceptions and C1 of an operation over; not 0 when one that was found before it is unmasked: nothing was done."""
    c.fsw = (c.fsw & ~C1) | (sw & (EXCEPTIONS | SF | C1))
    summarize(c)
    return sw & ~c.fcw & BEFORE


def underflow(c):
    """A register that is read is empty; not 0 when the exception is masked."""
    absorb(c, IE | SF)
    return c.fcw & IM


def overflow(c):
    """A register that is to be pushed to is not empty; not 0 when the exception is masked."""
    absorb(c, IE | SF | C1)
    return c.fcw & IM


# ---- the stack ----------------------------------------------------------------------------------------------------------
def st(c, i):
    """Number of the physical register ST(i)."""
    return ((c.fsw >> W11) + i) & W7


def used(c, n):
    """1 when physical register n is not empty."""
    return (c.fpu_used >> n) & W1


def move_top(c, by):
    """TOP + by."""
    c.fsw = (c.fsw & ~TOP) | ((c.fsw + (by << W11)) & TOP)
    return W0


def pop(c):
    """Free ST(0) and take it off."""
    c.fpu_used = c.fpu_used & ~(W1 << st(c, W0))
    move_top(c, W1)
    return W0


def put(c, n, significand, se):
    """Write a physical register."""
    c.fpr[n << W1] = significand
    c.fpr[(n << W1) + W1] = se & M16
    c.fpu_used = c.fpu_used | (W1 << n)
    return W0


def put_indefinite(c, n):
    """The masked response of an invalid operation."""
    return put(c, n, INDEFINITE, INDEFINITE_SE)


def push(c, significand, se):
    """Push a value, or what a stack overflow makes of it."""
    n = st(c, W7)
    if used(c, n) != W0:
        if overflow(c) == W0:
            return W0
        significand, se = INDEFINITE, INDEFINITE_SE
    else:
        c.fsw = c.fsw & ~C1
    move_top(c, W7)
    return put(c, n, significand, se)


# ---- the host -----------------------------------------------------------------------------------------------------------
def take(c, k, n):
    """Let the host's ST(k) be physical register n."""
    c.wide[k << W1] = c.fpr[n << W1]
    c.wide[(k << W1) + W1] = c.fpr[(n << W1) + W1]
    return W0


def give(c, n, k):
    """Write the host's ST(k) to physical register n."""
    return put(c, n, c.wide[k << W1], c.wide[(k << W1) + W1])


def operate(c, op):
    """Operation `op` with the guest's control word; the host's status word."""
    c.wide[W6] = c.fcw
    c.wide[W7] = HOST_CONTROL
    return run(c, op)


def host_top(sw):
    """TOP of the host behind an operation: 6 as before, 5 when it pushed, 7 when it popped."""
    return (sw >> W11) & W7


PUSHED, POPPED = u64(5), W7
