"""Segment registers and descriptors.

A descriptor is handled as one 64-bit word, as it lies in the table.  `attr` of a segment register that holds a null
selector is 0: not present.

Loads in real mode change selector and base alone: limit and attributes of an earlier protected mode go on ("big real
mode"), as they do on every processor since the 486 (SDM vol. 3, 20.1.1 describes only what a reset leaves).  A register
that was null becomes an ordinary 64 KiB data segment.

Functions with a parameter `ext` put it into the error code (bit 0, EXT: the fault belongs to the delivery of an event
that the program did not ask for; SDM vol. 3, 6.13).

Source: Intel SDM vol. 3, 3.4 (selectors, descriptors), 3.5 (system descriptors), 5.2-5.10 (checks), 6.15 (#TS, #NP,
#SS, #GP), 20.1.1, 20.2; vol. 2, MOV, POP, LDS, LLDT, LTR, SLDT, STR, LAR, LSL, VERR, ARPL.

In 64-bit mode a null selector in FS or GS clears the base, as Intel's processors do (AMD's keep it).
"""

from __future__ import annotations

from jitvm.isa.flags import VM
from jitvm.isa.memory import is_canonical, load, load_system, store_system
from jitvm.isa.mode import is_protected, settle, umip, update_context, update_limits
from jitvm.isa.registers import set_reg, stack_mask
from jitvm.isa.shared import ask_alone, others_run
from jitvm.isa.state import (
    ATTR_CODE,
    ATTR_DB,
    ATTR_DC,
    ATTR_L,
    ATTR_P,
    ATTR_RW,
    ATTR_S,
    CS,
    EFER_LMA,
    FAULT,
    GP,
    GS,
    JUMP,
    LDTR,
    MODE_CODE64,
    MODE_PE,
    MODE_VM,
    NP,
    OK,
    RSP,
    SS,
    SS_FAULT,
    TR,
    UD,
    fault,
    fault0,
    retired,
)
from jitvm.isa.words import M8, M16, M32, ONES, W0, W1, W2, W3, W4, W5, W7, W8, W12, W16, W32, mask, u64

RPL, TI = u64(3), u64(4)
NOT_RPL = u64(0xFFFC)
"""Selector without RPL: what error codes carry, and 0 for a null selector."""
INDEX = u64(0xFFF8)
W40, W43, W45 = u64(40), u64(43), u64(45)
DESC_G = u64(1 << 55)
BASE_LOW, BASE_HIGH, LIMIT_HIGH = u64(0x00FF_FFFF), u64(0xFF00_0000), u64(0x000F_0000)
ATTR_BITS = u64(0xF0FF)
PAGE_LOW, OFFSET_HIGH = u64(0xFFF), u64(0xFFFF_0000)
TYPE = u64(0x1F)
"""S and type: what kind of descriptor it is (SDM vol. 3, table 3-2 for S = 0)."""
TSS16, LDT, TSS16_BUSY, GATE_CALL16, GATE_TASK = u64(1), u64(2), u64(3), u64(4), u64(5)
TSS32, TSS32_BUSY, GATE_CALL32 = u64(9), u64(11), u64(12)
TSS_BUSY = u64(2)
DATA_V86, DATA_REAL = u64(0xF3), u64(0x93)
"""Attributes of virtual-8086 segments (DPL 3) and of a fresh real-mode one: present, writable, accessed."""


# ---- descriptors ----------------------------------------------------------------------------------------------------
def desc_base(d):
    return ((d >> W16) & BASE_LOW) | ((d >> W32) & BASE_HIGH)


def desc_limit(d):
    """Limit in bytes, inclusive."""
    limit = (d & M16) | ((d >> W32) & LIMIT_HIGH)
    if d & DESC_G != W0:
        limit = (limit << W12) | PAGE_LOW
    return limit


def desc_attr(d):
    """Attributes in the layout of `c.attr`."""
    return (d >> W40) & ATTR_BITS


def desc_dpl(d):
    return (d >> W45) & W3


def is_code(attr):
    """1 for a code segment."""
    return u64(attr & (ATTR_S | ATTR_CODE) == (ATTR_S | ATTR_CODE))


def is_writable_data(attr):
    return u64(attr & (ATTR_S | ATTR_CODE | ATTR_RW) == (ATTR_S | ATTR_RW))


def is_readable(attr):
    """1 for data and readable code."""
    data = u64(attr & ATTR_CODE == W0)
    return u64(attr & ATTR_S != W0) & (data | u64(attr & ATTR_RW != W0))


def is_conforming(attr):
    return u64(attr & (ATTR_S | ATTR_CODE | ATTR_DC) == (ATTR_S | ATTR_CODE | ATTR_DC))


def bad_long_code(c, attr):
    """1 for a code segment that says in long mode that it has 64-bit code (L) and 32-bit operands (D): there is none."""
    return u64(c.efer & EFER_LMA != W0 and attr & (ATTR_L | ATTR_DB) == (ATTR_L | ATTR_DB))


def is_outside(c, d, rip):
    """1 when the code segment `d` does not reach to `rip`: its limit does not, or in 64-bit code it is not canonical.

    Of what leads to compatibility mode 32 bits count (seen on silicon).
    """
    if c.efer & EFER_LMA != W0 and desc_attr(d) & ATTR_L != W0:
        return is_canonical(rip) ^ W1
    return u64(rip & M32 > desc_limit(d))


def is_null(selector):
    return u64(selector & NOT_RPL == W0)


def selector_fault(c, vector, selector, ext):
    """A fault whose error code names a selector."""
    return fault(c, vector, (selector & NOT_RPL) | ext)


def descriptor_address(c, selector):
    """Linear address of a selector's descriptor; ONES when it is not inside the table, or there is no LDT."""
    last = (selector & INDEX) + W7
    if selector & TI == W0:
        if last > c.gdt_limit:
            return ONES
        return c.gdt_base + (selector & INDEX)
    if c.attr[LDTR] & ATTR_P == W0 or last > c.limit[LDTR]:
        return ONES
    return c.base[LDTR] + (selector & INDEX)


def read_descriptor(c, selector, vector, ext):
    """The descriptor of a selector that is not null; c.status on a fault (`vector` when it is outside the table)."""
    at = descriptor_address(c, selector)
    if at == ONES:
        selector_fault(c, vector, selector, ext)
        return W0
    return load_system(c, at, W8)


def mark_accessed(c, selector, d):
    """Set the accessed bit of a code or data descriptor in its table; status."""
    if d >> W40 & W1 != W0:
        return OK
    if others_run(c) != W0:
        return ask_alone(c)
    return store_system(c, descriptor_address(c, selector) + W5, W1, (d >> W40 & M8) | W1)


# ---- gates ----------------------------------------------------------------------------------------------------------
def gate_size(gate):
    """Bytes of a word that a transfer through this gate pushes."""
    return W2 << ((gate >> W43) & W1)


def gate_offset(gate):
    """Entry point."""
    if gate_size(gate) == W2:
        return gate & M16
    return (gate & M16) | ((gate >> W32) & OFFSET_HIGH)


def gate_selector(gate):
    return (gate >> W16) & M16


# ---- writing segment registers --------------------------------------------------------------------------------------
def set_segment(c, seg, selector, d):
    """Fill a segment register from a checked descriptor; the caller updates the context."""
    c.sel[seg] = selector
    c.base[seg] = desc_base(d)
    c.limit[seg] = desc_limit(d)
    c.attr[seg] = desc_attr(d) | W1
    return update_limits(c, seg)


def set_null(c, seg, selector):
    """A null selector: every access through it faults; the caller updates the context."""
    c.sel[seg] = selector
    c.base[seg] = W0
    c.limit[seg] = M16
    c.attr[seg] = W0
    return update_limits(c, seg)


def set_real(c, seg, selector):
    """A load in real mode; the caller updates the context."""
    c.sel[seg] = selector
    c.base[seg] = selector << W4
    if c.attr[seg] & ATTR_P == W0:
        c.attr[seg] = DATA_REAL
        c.limit[seg] = M16
    return update_limits(c, seg)


def set_v86(c, seg, selector):
    """A load in virtual-8086 mode (SDM vol. 3, 20.2.1); the caller updates the context."""
    c.sel[seg] = selector
    c.base[seg] = selector << W4
    c.attr[seg] = DATA_V86
    c.limit[seg] = M16
    return update_limits(c, seg)


def set_plain(c, seg, selector):
    """A load in real or virtual-8086 mode."""
    if c.rflags & VM != W0:
        return set_v86(c, seg, selector)
    return set_real(c, seg, selector)


def is_long_code(c, attr):
    """1 for what a gate of this mode may lead to: in long mode 64-bit code alone (L and no D)."""
    return u64(c.efer & EFER_LMA == W0) | u64(attr & (ATTR_L | ATTR_DB) == ATTR_L)


def load_cs(c, selector, d, cpl):
    """CS from a checked descriptor, with its privilege level; derived state follows."""
    set_segment(c, CS, (selector & NOT_RPL) | cpl, d)
    c.cpl = cpl
    update_context(c)
    if c.efer & EFER_LMA != W0 and c.mode & MODE_CODE64 == W0:
        c.gpr[RSP] = c.gpr[RSP] & M32  # compatibility mode: as on silicon; the other registers keep their upper halves
    return W0


def go_to(c, rip):
    """The instruction pointer behind `load_cs`: 32 bits of it in compatibility mode; JUMP."""
    c.rip = rip
    if c.mode & MODE_CODE64 == W0:
        c.rip = rip & M32
    return JUMP


def load_cs_plain(c, selector):
    """CS in real or virtual-8086 mode; derived state follows."""
    set_plain(c, CS, selector)
    return update_context(c)


# ---- MOV, POP, LDS, LES, LSS, LFS, LGS -----------------------------------------------------------------------------
def load_stack_segment(c, a):
    """SS in protected mode (SDM vol. 2, MOV: "IF SS is loaded"); 64-bit mode takes a null selector but at level 3."""
    if is_null(a) != W0:
        if c.mode & MODE_CODE64 == W0 or c.cpl == W3 or a & RPL != c.cpl:
            return fault(c, GP, W0)
        set_null(c, SS, a)
        return OK
    d = read_descriptor(c, a, GP, W0)
    if c.status != OK:
        return c.status
    attr = desc_attr(d)
    if a & RPL != c.cpl or desc_dpl(d) != c.cpl or is_writable_data(attr) == W0:
        return selector_fault(c, GP, a, W0)
    if attr & ATTR_P == W0:
        return selector_fault(c, SS_FAULT, a, W0)
    if mark_accessed(c, a, d) != OK:
        return c.status
    set_segment(c, SS, a, d)
    return OK


def load_data_segment(c, reg, a):
    """DS, ES, FS or GS in protected mode."""
    if is_null(a) != W0:
        set_null(c, reg, a)
        return OK
    d = read_descriptor(c, a, GP, W0)
    if c.status != OK:
        return c.status
    attr = desc_attr(d)
    dpl = desc_dpl(d)
    outer = u64(a & RPL > dpl) | u64(c.cpl > dpl)
    if is_readable(attr) == W0 or (is_conforming(attr) == W0 and outer != W0):
        return selector_fault(c, GP, a, W0)
    if attr & ATTR_P == W0:
        return selector_fault(c, NP, a, W0)
    if mark_accessed(c, a, d) != OK:
        return c.status
    set_segment(c, reg, a, d)
    return OK


def load_quickly(c, reg, a):
    """1: DS, ES, FS or GS is loaded in real mode, where only selector and base change, on which no derived state depends.

    0: it is not as simple, nothing was done.
    """
    if c.mode & (MODE_PE | MODE_VM) != W0 or reg == CS or reg == SS or reg > GS or c.attr[reg] & ATTR_P == W0:
        return W0
    c.sel[reg] = a & M16
    c.base[reg] = (a & M16) << W4
    return W1


def load_any_segment(c, reg, a):
    """A segment register but CS, in every mode, without the end of the instruction; OK or why not."""
    if load_quickly(c, reg, a) != W0:
        return OK
    if reg == CS or reg > GS:
        return fault0(c, UD)
    if is_protected(c) == W0:
        set_plain(c, reg, a)
    elif reg == SS:
        if load_stack_segment(c, a) != OK:
            return c.status
    elif load_data_segment(c, reg, a) != OK:
        return c.status
    update_context(c)
    return OK


def load_segment(c, reg, a):
    """MOV to a segment register.  MOV SS holds off interrupts and its own single-step trap (SDM vol. 3, 6.8.3)."""
    ctx = c.ctx
    if load_any_segment(c, reg, a & M16) != OK:
        return c.status
    if reg == SS:
        c.shadow = retired(c) + W1
        c.trap_shadow = c.shadow
        c.step_armed = W0
    return settle(c, ctx)


def pop_segment(c, size, reg):
    """POP to a segment register: 2 bytes are read, as on silicon; the stack pointer moves by the size that the stack had."""
    sp = c.gpr[RSP]
    m = stack_mask(c)
    a = load(c, SS, sp & m, W2)
    if c.status != OK:
        return c.status
    s = load_segment(c, reg, a)
    if c.status == OK:
        c.gpr[RSP] = (sp & ~m) | ((sp + size) & m)
    return s


def load_far_pointer(c, size, asize, reg, seg, off, imm):
    """LDS, LES, LSS, LFS, LGS: general register `reg` and segment register `imm` from memory."""
    ctx = c.ctx
    v = load(c, seg, off, size)
    if c.status != OK:
        return c.status
    a = load(c, seg, (off + size) & mask(asize), W2)
    if c.status != OK:
        return c.status
    if load_any_segment(c, imm, a) != OK:
        return c.status
    set_reg(c, reg, size, v)
    return settle(c, ctx)


# ---- LDTR and TR ----------------------------------------------------------------------------------------------------
def need_protected(c):
    """#UD outside protected mode and in virtual-8086 mode; status."""
    if is_protected(c) == W0:
        return fault0(c, UD)
    return OK


def may_store_selector(c):
    """Status of SLDT and STR: #UD outside protected mode, #GP(0) when UMIP keeps them from this level."""
    if need_protected(c) != OK:
        return FAULT
    return umip(c)


def need_supervisor(c):
    """#UD outside protected mode, #GP(0) unless CPL = 0; status."""
    if need_protected(c) != OK:
        return FAULT
    if c.cpl != W0:
        return fault(c, GP, W0)
    return OK


def read_system_descriptor(c, a):
    """The GDT descriptor that LLDT and LTR name; c.status on a fault."""
    if a & TI != W0:
        selector_fault(c, GP, a, W0)
        return W0
    return read_descriptor(c, a, GP, W0)


def read_second_half(c, a):
    """The upper half of a 16-byte system descriptor in long mode, else 0; c.status on a fault.

    Where its type would be there must be 0 (SDM vol. 3, 3.5, 5.8.3.1).
    """
    if c.efer & EFER_LMA == W0:
        return W0
    at = descriptor_address(c, (a & INDEX) + W8 + (a & TI))
    if at == ONES or (a & INDEX) == INDEX:
        selector_fault(c, GP, a, W0)
        return W0
    upper = load_system(c, at, W8)
    if c.status == OK and (upper >> W40) & TYPE != W0:
        selector_fault(c, GP, a, W0)
    return upper


def read_upper_base(c, a):
    """Bits 32-63 of the base of an LDT or a TSS, in their places; c.status on a fault.

    Their descriptors have 16 bytes for LLDT and LTR in 64-bit mode, in compatibility mode 8 as before (SDM vol. 2, LTR;
    AMD64 manual vol. 3, LLDT and LTR).
    """
    if c.mode & MODE_CODE64 == W0:
        return W0
    upper = read_second_half(c, a) << W32
    if c.status == OK and is_canonical(upper) == W0:
        selector_fault(c, GP, a, W0)
    return upper


def set_system(c, seg, selector, d):
    """LDTR or TR from a checked descriptor."""
    c.sel[seg] = selector
    c.base[seg] = desc_base(d)
    c.limit[seg] = desc_limit(d)
    c.attr[seg] = desc_attr(d)
    return OK


def lldt(c, a):
    """LLDT behind `need_supervisor`: a null selector makes every use of the LDT fault."""
    a = a & M16
    if is_null(a) != W0:
        c.sel[LDTR] = a
        c.attr[LDTR] = W0
        return OK
    d = read_system_descriptor(c, a)
    if c.status != OK:
        return c.status
    if desc_attr(d) & TYPE != LDT:
        return selector_fault(c, GP, a, W0)
    if desc_attr(d) & ATTR_P == W0:
        return selector_fault(c, NP, a, W0)
    upper = read_upper_base(c, a)
    if c.status != OK:
        return c.status
    set_system(c, LDTR, a, d)
    c.base[LDTR] = c.base[LDTR] | upper
    return OK


def ltr(c, a):
    """LTR behind `need_supervisor`: the TSS is marked busy in its descriptor."""
    a = a & M16
    if is_null(a) != W0:
        return fault(c, GP, W0)
    if others_run(c) != W0:
        return ask_alone(c)
    d = read_system_descriptor(c, a)
    if c.status != OK:
        return c.status
    attr = desc_attr(d)
    if attr & TYPE != TSS32 and (attr & TYPE != TSS16 or c.efer & EFER_LMA != W0):
        return selector_fault(c, GP, a, W0)
    if attr & ATTR_P == W0:
        return selector_fault(c, NP, a, W0)
    upper = read_upper_base(c, a)
    if c.status != OK:
        return c.status
    if store_system(c, descriptor_address(c, a) + W5, W1, (attr & M8) | TSS_BUSY) != OK:
        return c.status
    set_system(c, TR, a, d | (TSS_BUSY << W40))
    c.base[TR] = c.base[TR] | upper
    return OK


def sldt(c):
    """Selector of LDTR; look at c.status (#UD in real and virtual-8086 mode)."""
    need_protected(c)
    return c.sel[LDTR]


def str_(c):
    """Selector of TR; look at c.status (#UD in real and virtual-8086 mode)."""
    need_protected(c)
    return c.sel[TR]
