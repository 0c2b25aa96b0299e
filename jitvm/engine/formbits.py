"""The words that describe a form to the native translator, and how a form is keyed.

A *form* is all instances of an encoding that differ in nothing but ModRM register numbers, SIB, displacement and
immediate.  `form_key` names it; the form word (F_*) says where an instance's fields lie and which micro-op fields they
fill, and what the translator must know of its flags.  jitvm/engine/forms.py fills the words from iced-x86's tables.
"""

from __future__ import annotations

from jitvm.isa.state import MODE_EM, MODE_SSE, MODE_TS
from jitvm.isa.words import u64

# ---- opcode_attr: what must be known before the form ------------------------------------------------------------------
A_KNOWN, A_MODRM, A_GROUP, A_GROUP3, A_MOFFS, A_REGISTER, A_66, A_REX_R, A_REX_B = (u64(1 << n) for n in range(9))
"""Valid entry; a ModRM byte follows; ModRM.reg selects the form; with mod 3 all of ModRM does; a memory offset follows;
ModRM.mod is ignored, as if it were 3; prefix 66 selects the instruction, beside what it does to the operand size; REX.R
selects the form; REX.B does."""

# ---- form word ----------------------------------------------------------------------------------------------------------
FROM_NONE, FROM_REG, FROM_RM, FROM_OPCODE, FROM_R0, FROM_R1, FROM_R2, FROM_VVVV = (u64(n) for n in range(8))
"""Where a register operand's number comes from: ModRM.reg, ModRM.rm, the opcode, fixed (AX, CX, DX), or VEX.vvvv."""
F_S_SHIFT, F_D_BYTE, F_S_BYTE = u64(3), u64(1 << 6), u64(1 << 7)
F_IMM_SHIFT, F_IMM_SIGNED, F_IMM_CUT_SHIFT = u64(8), u64(1 << 12), u64(13)
"""Immediate size in bytes (4 bits); sign-extend it; then cut it to 1 << n bytes (2 bits)."""
F_IMM2_SHIFT = u64(16)
"""Size of a second immediate (2 bits), which goes to `disp`."""
F_KIND_SHIFT = u64(18)
KIND_NORMAL, KIND_NOP, KIND_JCC, KIND_JMP, KIND_CALL, KIND_INDIRECT, KIND_ENDS = (u64(n) for n in range(7))
F_RELATIVE, F_TARGET16 = u64(1 << 21), u64(1 << 22)
F_WRITES, F_READS, F_FAULTS, F_KILLS, F_COUNT, F_FUSE = (u64(1 << n) for n in range(24, 30))
"""Arithmetic flags: written, read; may leave before it is complete; all six written; only if the immediate count is not 0;
may be fused with a Jcc behind it."""
F_OPCODE = u64(1 << 30)
"""The immediate is the opcode: the low three bits of its first byte, then ModRM (what the x87 remembers)."""
F_CC_SHIFT = u64(32)
F_UNDO_SHIFT = u64(36)
"""What a taken branch has already done, to be undone when its target is no place for code: rCX was decremented with this
address size (LOOP)."""
F_IMM_FORM = u64(1 << 42)
"""Nothing but the size of the immediate is known: the immediate is part of the form, and of its key."""
F_D_LOW, F_S_LOW = u64(1 << 45), u64(1 << 46)
"""There are only 8 registers of this kind (segment, MMX): REX adds nothing to the number."""
F_LOCKED = u64(1 << 47)
"""Reads and writes its memory operand with the bus locked: LOCK, or XCHG."""
F_GROUP = u64(1 << 48)
"""May stand in a group (`jitvm/engine/group.py`)."""
F_STATE_SHIFT = u64(43)
STATE_NONE, STATE_SSE, STATE_MMX, STATE_FXSR = (u64(n) for n in range(4))
"""What CR0.EM, CR0.TS and CR4.OSFXSR must allow (2 bits): see `refused`."""
SHAPE_UD, SHAPE_NM = u64(2), u64(3)
"""Shapes of what raises #UD, and #NM, whatever it is."""

# ---- variants of a handler ----------------------------------------------------------------------------------------------
VARIANT_DEAD, VARIANT_FUSED = u64(1), u64(2)
"""Flags not wanted; VARIANT_FUSED + cc: with the Jcc behind it."""
VARIANT_SHIFT = u64(16)


K_LONG, K_REX, K_EXTENDED, K_VEX, K_VEX_L = (u64(1 << n) for n in range(35, 40))
"""Bits of a form key: 64-bit code; a REX prefix, which makes SPL to DIL of AH to BH; REX.R or REX.B where the opcode's
attributes say that it selects the form, or VEX.vvvv is not 1111b; a VEX prefix, whose pp stands in the place of REP (1: 66);
VEX.L."""


def form_key(opcode, osize, asize, rep, lock, cls, modrm, stack32, flat, mode_flat):
    """One word per form; never 0.

    `opcode` with the map in bits 8-9, sizes in bytes, `cls` 0 no memory, 1 base, 2 base and index, 3 relative to RIP;
    `modrm` what of the ModRM byte selects the form; `flat`: the memory operand's segment is flat; `mode_flat`: the
    stack's is.  K_* bits may be added.
    """
    k = opcode | (osize << u64(10)) | (asize << u64(14)) | (rep << u64(18)) | (lock << u64(20)) | (cls << u64(21))
    k = k | (modrm << u64(23)) | (stack32 << u64(31)) | (flat << u64(32)) | (mode_flat << u64(33))
    return k | u64(1 << 63)


def immediate_key(key, imm):
    """The key of a form whose immediate is `imm` (F_IMM_FORM)."""
    return key | (imm << u64(40)) | u64(1 << 48)


def refused(word, mode):
    """The shape of what an instruction of this form word raises in `mode` (MODE_*), 0: nothing.

    Source: Intel SDM vol. 3, tables 2-2, 13-1 and 12-1; vol. 2, FXSAVE (EM is #NM there, not #UD).
    """
    state = (word >> F_STATE_SHIFT) & u64(3)
    if state == STATE_NONE:
        return u64(0)
    em = mode & MODE_EM
    if state == STATE_FXSR:
        if em | (mode & MODE_TS) != u64(0):
            return SHAPE_NM
        return u64(0)
    if em != u64(0) or (state == STATE_SSE and mode & MODE_SSE == u64(0)):
        return SHAPE_UD
    if mode & MODE_TS != u64(0):
        return SHAPE_NM
    return u64(0)
