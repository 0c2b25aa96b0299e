"""Derived state: what translated code takes for granted about segments, privilege and mode.

`mode`, `ctx`, `tlb_off` and the plain limits follow from CR0, CR4, EFER, EFLAGS, CPL and the segment registers; whoever
changes one of these calls `update_mode` (or, after one segment register, `update_limits` and `update_context`).

`ctx` names a block's context in one word: CS base in bits 32-63, a code for the CS limit in bits 16-31, `mode` in bits
0-15.  Limit codes: 0 is 4 GiB, 1 is 64 KiB; other limits get numbers 2, 3, ... in the order in which they are met.
`limit_codes` remembers the last 64 of them (a limit that comes back later gets a new number, which only costs a new
translation).  When the 16 bits of a code are used up, numbering starts over and `translations_changed` is called: a
block of an older numbering would be taken for one of the new, so the engine has to drop those whose context has a code
above 1.

Also here: the EFLAGS image, made of the lazy flags and `rflags`.

Source: Intel SDM vol. 3, 2.2-2.5 (modes), 3.4.5 (descriptors), 5.3 (limits), 5.5 (privilege), 9.9 (switching modes),
20.1.1 (real mode), 20.2 (virtual-8086 mode); vol. 1, 3.4.3 (EFLAGS).

Not modelled: segmentation in 64-bit mode.
"""

from __future__ import annotations

from jitvm.isa.cpuid import FEATURE_VME
from jitvm.isa.flags import AC, ARITHMETIC, DF, ID, IF, IOPL, NT, RESERVED, RF, TF, VIF, VIP, VM, get_flags, put_flags
from jitvm.isa.host import translations_changed
from jitvm.isa.state import (
    ATTR_CODE,
    ATTR_DB,
    ATTR_DC,
    ATTR_L,
    ATTR_P,
    ATTR_RW,
    ATTR_S,
    CR0_AM,
    CR0_EM,
    CR0_MP,
    CR0_PE,
    CR0_TS,
    CR4_OSFXSR,
    CR4_SMAP,
    CR4_UMIP,
    CS,
    DS,
    EFER_LMA,
    ES,
    GP,
    JUMP,
    MODE_ALONE,
    MODE_CODE32,
    MODE_CODE64,
    MODE_EM,
    MODE_FLAT,
    MODE_MP,
    MODE_PE,
    MODE_SSE,
    MODE_STACK32,
    MODE_TF,
    MODE_TS,
    MODE_USER,
    MODE_VM,
    OK,
    SS,
    TLB_ENTRIES,
    TLB_KINDS,
    TLB_PARTS,
    fault,
)
from jitvm.isa.words import M16, M32, ONES, W0, W1, W2, W6, W16, W32, i64, u64

CPL3 = u64(3)
USER_TLB = u64(TLB_KINDS * TLB_ENTRIES * 16)
PERMITTED_TLB = USER_TLB + USER_TLB
CHECKED_TLB = USER_TLB * u64(TLB_PARTS)
"""Byte offsets in `tlb` of the user's part, of the one for SMAP, and of the empty one: all accesses come to where
alignment is checked."""
SLOW = i64(-1)
N_CODES, LAST_CODE = u64(64), u64(0xFFFF)
EFLAGS = ARITHMETIC | TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID
"""The bits of EFLAGS that this CPU has."""


# ---- EFLAGS ---------------------------------------------------------------------------------------------------------
def read_eflags(c):
    """The whole EFLAGS image."""
    return c.rflags | get_flags(c.lazy)


def write_eflags(c, v):
    """Set all of EFLAGS; whoever may change TF, VM or AC calls `update_mode` or `update_context`."""
    put_flags(c.lazy, v)
    c.rflags = (v & EFLAGS & ~ARITHMETIC) | RESERVED
    return W0


def vme_flags(c):
    """VIF and VIP when this CPU has them."""
    if c.features[0] & FEATURE_VME == W0:
        return W0
    return VIF | VIP


# ---- mode -----------------------------------------------------------------------------------------------------------
def is_protected(c):
    """1 in protected mode outside virtual-8086 mode."""
    return u64(c.cr0 & CR0_PE != W0 and c.rflags & VM == W0)


def update_limits(c, seg):
    """`read_limit` and `write_limit` of one segment register: greatest offset that needs no look at the descriptor.

    -1 (the slow path decides) for expand-down segments and, in protected mode, for null ones and forbidden accesses;
    real and virtual-8086 mode know no types (SDM vol. 3, 5.3, 20.1.1).
    """
    attr = c.attr[seg]
    limit = i64(c.limit[seg])
    readable = W1
    writable = W1
    if attr & (ATTR_CODE | ATTR_DC) == ATTR_DC:
        readable = W0
    elif is_protected(c) != W0:
        usable = u64(attr & (ATTR_P | ATTR_S) == (ATTR_P | ATTR_S))
        if attr & ATTR_CODE != W0:
            readable = usable & u64(attr & ATTR_RW != W0)
            writable = W0
        else:
            readable = usable
            writable = u64(attr & ATTR_RW != W0)
    c.read_limit[seg] = SLOW
    c.write_limit[seg] = SLOW
    if readable != W0:
        c.read_limit[seg] = limit
        if writable != W0:
            c.write_limit[seg] = limit
    return W0


def is_flat(c, seg):
    """1 when plain reads and writes of the segment reach all 4 GiB at their linear address."""
    return u64(c.base[seg] == W0 and c.write_limit[seg] == i64(M32))


def limit_code(c, limit):
    """The code of a CS limit in `ctx` (module docstring)."""
    if limit == M32:
        return W0
    if limit == M16:
        return W1
    n = c.n_limit_codes
    k = W0
    while k < n and k < N_CODES:
        if c.limit_codes[(n - W1 - k) & (N_CODES - W1)] == limit:
            return n + W1 - k
        k += W1
    if n + W2 > LAST_CODE:
        translations_changed(c)
        c.forget = W1
        n = W0
    c.limit_codes[n & (N_CODES - W1)] = limit
    c.n_limit_codes = n + W1
    return n + W2


def mode_of_segments(c):
    """The mode bits that CS, SS and the data segments decide; in 64-bit mode no others count."""
    m = W0
    if c.efer & EFER_LMA != W0 and c.attr[CS] & ATTR_L != W0:
        return MODE_CODE64 | MODE_FLAT
    if c.attr[CS] & ATTR_DB != W0:
        m = m | MODE_CODE32
    if c.attr[SS] & ATTR_DB != W0:
        m = m | MODE_STACK32
    if is_protected(c) != W0 and is_flat(c, DS) != W0 and is_flat(c, ES) != W0 and is_flat(c, SS) != W0:
        m = m | MODE_FLAT
    return m


def mode_of_control(c):
    """The mode bits that CR0, CR4, EFLAGS and CPL decide."""
    m = W0
    if c.cr0 & CR0_PE != W0:
        m = m | MODE_PE
    if c.rflags & VM != W0:
        m = m | MODE_VM
    if c.cpl == CPL3:
        m = m | MODE_USER
    if c.rflags & TF != W0:
        m = m | MODE_TF
    if c.cr0 & CR0_EM != W0:
        m = m | MODE_EM
    if c.cr0 & CR0_TS != W0:
        m = m | MODE_TS
    if c.cr0 & CR0_MP != W0:
        m = m | MODE_MP
    if c.cr4 & CR4_OSFXSR != W0:
        m = m | MODE_SSE
    if c.armed != W0:
        m = m | MODE_ALONE
    return m


def update_context(c):
    """`mode`, `ctx` and `tlb_off`; the plain limits are right already."""
    mode = mode_of_segments(c) | mode_of_control(c)
    c.mode = mode
    base = c.base[CS]
    code = W0
    if mode & MODE_CODE64 != W0:
        base = W0
    else:
        code = limit_code(c, c.limit[CS])
    c.ctx = (base << W32) | (code << W16) | mode
    c.tlb_off = W0
    if c.cpl == CPL3:
        c.tlb_off = USER_TLB
        if c.rflags & AC != W0 and c.cr0 & CR0_AM != W0:
            c.tlb_off = CHECKED_TLB
    elif c.rflags & AC != W0 and c.cr4 & CR4_SMAP != W0:
        c.tlb_off = PERMITTED_TLB
    return W0


def update_mode(c):
    """All derived state, after a change of CR0, CR4, EFER, EFLAGS.TF, .VM, .AC or CPL, or of many segments."""
    seg = W0
    while seg < W6:
        update_limits(c, seg)
        seg += W1
    return update_context(c)


# ---- ends of an instruction -----------------------------------------------------------------------------------------
def settle(c, ctx):
    """Status of a completed instruction that may have changed the context: JUMP when it is no longer `ctx`."""
    if c.ctx == ctx:
        return OK
    c.rip = c.next_rip
    return JUMP


def check_privilege(c):
    """Status: #GP(0) unless at privilege level 0."""
    if c.cpl != W0:
        return fault(c, GP, W0)
    return OK


def go_on(c):
    """The instruction is complete; go on behind it, where the mode may be another one."""
    c.rip = c.next_rip
    return JUMP


def register_mask(c):
    """MOV to and from control and debug registers has 32 bits, in 64-bit mode 64, whatever the prefixes."""
    if c.mode & MODE_CODE64 != W0:
        return ONES
    return M32


def umip(c):
    """Status: #GP(0) for SGDT, SIDT, SLDT, SMSW and STR under CR4.UMIP above privilege level 0."""
    if c.cr4 & CR4_UMIP != W0 and c.cpl != W0:
        return fault(c, GP, W0)
    return OK
