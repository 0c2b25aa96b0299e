"""System instructions: debug registers, descriptor-table registers, flags, HLT, INVLPG, INVPCID, STAC, CLAC.

What changes the mode or the memory map returns JUMP to the next instruction, so that it is fetched anew.

Source: Intel SDM vol. 2, the instructions; vol. 3, 17.2 (debug registers), 5.9 (privileged instructions), 20.2
(virtual-8086 mode); vol. 2, POPF (which flags may change).

Not modelled: caches (INVD and WBINVD only check the privilege).
"""

from __future__ import annotations

from jitvm.isa.debug import DR6, DR6_BD, DR7, DR7_GD, tell_reasons, update_debug
from jitvm.isa.flags import AC, ARITHMETIC, DF, ID, IF, IOPL, NT, RESERVED, RF, TF, VM, put_flags
from jitvm.isa.io import iopl
from jitvm.isa.memory import (
    base_of,
    cut_linear,
    is_canonical,
    is_user,
    linear,
    load,
    load_linear,
    probe_store,
    push_at,
    store,
)
from jitvm.isa.misc import beside
from jitvm.isa.mode import check_privilege, go_on, read_eflags, register_mask, umip, update_context
from jitvm.isa.registers import cut_sp, set_sp
from jitvm.isa.shared import serialize_memory
from jitvm.isa.state import (
    CR4_DE,
    CR4_PCIDE,
    EXIT_HLT,
    GP,
    MODE_CODE64,
    OK,
    RSP,
    SS,
    STOP,
    UD,
    fault,
    fault0,
    retired,
)
from jitvm.isa.tlb import READ, flush_page, flush_tlb, flush_tlb_all
from jitvm.isa.vme import (
    check_virtual_flags,
    check_virtual_image,
    set_virtual_flags,
    virtual_cli,
    virtual_image,
    virtual_sti,
)
from jitvm.isa.words import M16, M32, W0, W1, W2, W3, W4, W8, W16, cut, u64

IOPL_3 = u64(3)
DR5 = u64(5)
DR6_ONES, DR6_WRITABLE = u64(0xFFFF_0FF0), u64(0xE00F)
DR7_ONES, DR7_WRITABLE = u64(0x400), u64(0xFFFF_23FF)
M24, PCID_BITS = u64(0xFF_FFFF), u64(0xFFF)
FREE_FLAGS = ARITHMETIC | TF | DF | NT | AC | ID
"""What POPF changes at every privilege level."""


# ---- debug registers ------------------------------------------------------------------------------------------------


def debug_register(c, reg):
    """Number of the debug register meant by `reg` (DR4 and DR5 are DR6 and DR7 unless CR4.DE); look at c.status.

    #UD, #GP(0), or #DB when DR7.GD guards the registers: the processor sets DR6.BD, and the delivery clears GD (SDM
    vol. 3, 17.2.4).
    """
    n = reg
    if reg | W1 == DR5:
        if c.cr4 & CR4_DE != W0:
            fault0(c, UD)
            return W0
        n = reg + W2
    if reg > DR7:
        fault0(c, UD)
        return W0
    if check_privilege(c) != OK:
        return W0
    if c.dr[DR7] & DR7_GD != W0:
        c.trap_rf = RF
        tell_reasons(c, DR6_BD)
        return W0
    return n


def mov_to_dr(c, reg, rm):
    """MOV DRn, r: `reg` is n, `rm` the general register."""
    n = debug_register(c, reg)
    if c.status != OK:
        return c.status
    v = c.gpr[rm] & register_mask(c)
    if n >= DR6 and v > M32:
        return fault(c, GP, W0)
    if n == DR6:
        v = (v & DR6_WRITABLE) | DR6_ONES
    elif n == DR7:
        v = (v & DR7_WRITABLE) | DR7_ONES
    c.dr[n] = v
    update_debug(c)
    return go_on(c)


def mov_from_dr(c, reg, rm):
    """MOV r, DRn: `reg` is n, `rm` the general register."""
    n = debug_register(c, reg)
    if c.status != OK:
        return c.status
    c.gpr[rm] = c.dr[n]
    return OK


# ---- descriptor-table registers -------------------------------------------------------------------------------------


def base_size(c):
    """Bytes of the base in a descriptor-table operand."""
    if c.mode & MODE_CODE64 != W0:
        return W8
    return W4


def table_limit(c, seg, off):
    """The limit of LGDT's or LIDT's operand, after the privilege check; look at c.status."""
    if check_privilege(c) != OK:
        return W0
    return load(c, seg, off, W2)


def table_base(c, size, seg, off):
    """The base in LGDT's or LIDT's operand: 24 bits with a 16-bit operand size, in 64-bit mode 64; look at c.status."""
    v = load(c, seg, beside(c, off, W2), base_size(c))
    if c.mode & MODE_CODE64 != W0:
        if c.status == OK and is_canonical(v) == W0:
            fault(c, GP, W0)
        return v
    if size == W2:
        return v & M24
    return v


def lgdt(c, size, seg, off):
    """LGDT: limit (2 bytes) and base."""
    limit = table_limit(c, seg, off)
    if c.status != OK:
        return c.status
    base = table_base(c, size, seg, off)
    if c.status != OK:
        return c.status
    c.gdt_limit = limit
    c.gdt_base = base
    return serialize_memory(c)


def lidt(c, size, seg, off):
    """LIDT: limit (2 bytes) and base."""
    limit = table_limit(c, seg, off)
    if c.status != OK:
        return c.status
    base = table_base(c, size, seg, off)
    if c.status != OK:
        return c.status
    c.idt_limit = limit
    c.idt_base = base
    return serialize_memory(c)


def store_table(c, seg, off, limit, base):
    """Write limit and base: all 32 bits, whatever the operand size (SDM vol. 2, SGDT).  UMIP keeps them secret."""
    second, width = beside(c, off, W2), base_size(c)
    if umip(c) != OK:
        return c.status
    if probe_store(c, seg, off, W2) != OK or probe_store(c, seg, second, width) != OK:
        return c.status
    if store(c, seg, off, W2, limit) != OK:
        return c.status
    return store(c, seg, second, width, base)


def sgdt(c, seg, off):
    """SGDT, allowed at every level without UMIP."""
    return store_table(c, seg, off, c.gdt_limit, c.gdt_base)


def sidt(c, seg, off):
    """SIDT, allowed at every level without UMIP."""
    return store_table(c, seg, off, c.idt_limit, c.idt_base)


# ---- memory and caches ----------------------------------------------------------------------------------------------


def invlpg(c, seg, off):
    """INVLPG: forget the translations of the page of seg:off; no segment checks.

    An address that is not canonical has none.
    """
    if check_privilege(c) != OK:
        return c.status
    flush_page(c, cut_linear(c, base_of(c, seg) + off))
    return go_on(c)


def invpcid(c, a, seg, off):
    """INVPCID: forget the translations of an address (type 0), a PCID (1), all (2), all that are not global (3).

    Translations have no PCID here (tlb.py), so that of all PCIDs they are forgotten.  #GP(0) for another type, reserved
    bits, a PCID without CR4.PCIDE, and an address that is not canonical.
    """
    lin = linear(c, seg, off, W16, W0)
    if c.status != OK or check_privilege(c) != OK:
        return c.status
    pcid = load_linear(c, lin, W8, READ, is_user(c))
    address = load_linear(c, cut_linear(c, lin + W8), W8, READ, is_user(c))
    if c.status != OK:
        return c.status
    bad = u64(a > W3) | u64(pcid > PCID_BITS)
    if a <= W1 and c.cr4 & CR4_PCIDE == W0:
        bad = bad | u64(pcid != W0)
    if a == W0:
        bad = bad | (W1 - is_canonical(address))
    if bad != W0:
        return fault(c, GP, W0)
    if a == W0:
        flush_page(c, address)
    elif a == W2:
        flush_tlb_all(c)
    else:
        flush_tlb(c)
    return go_on(c)


def invd(c):
    """INVD: there are no caches to drop."""
    serialize_memory(c)
    return check_privilege(c)


def wbinvd(c):
    """WBINVD: there are no caches to write back."""
    serialize_memory(c)
    return check_privilege(c)


# ---- halting --------------------------------------------------------------------------------------------------------


def hlt(c):
    """HLT: leave until an interrupt."""
    if check_privilege(c) != OK:
        return c.status
    c.halted = W1
    c.rip = c.next_rip
    c.exit_reason = EXIT_HLT
    return STOP


# ---- flags ----------------------------------------------------------------------------------------------------------


def cli(c):
    """CLI: hold interrupts off; IF needs CPL <= IOPL, in virtual-8086 mode (CPL 3) so IOPL 3."""
    if c.cpl > iopl(c):
        return virtual_cli(c)
    c.rflags = c.rflags & ~IF
    return OK


def sti(c):
    """STI: allow interrupts, when they were held off after the following instruction."""
    if c.cpl > iopl(c):
        return virtual_sti(c)
    if c.rflags & IF == W0:
        c.rflags = c.rflags | IF
        c.shadow = retired(c) + W1
    return OK


def cld(c):
    """CLD: string instructions go upwards."""
    c.rflags = c.rflags & ~DF
    return OK


def std(c):
    """STD: string instructions go downwards."""
    c.rflags = c.rflags | DF
    return OK


def is_iopl_short(c):
    """1 in virtual-8086 mode with IOPL below 3: PUSHF and POPF are those of `vme.py`."""
    return u64(c.rflags & VM != W0 and iopl(c) != IOPL_3)


def pushf(c, size):
    """PUSHF, PUSHFD, PUSHFQ: VM and RF are stored as 0."""
    v = read_eflags(c) & ~(VM | RF)
    if is_iopl_short(c) != W0:
        if check_virtual_flags(c, size) != OK:
            return c.status
        v = virtual_image(c)
    sp = c.gpr[RSP] - size
    if push_at(c, cut_sp(c, sp), size, cut(size, v)) != OK:
        return c.status
    set_sp(c, sp)
    return OK


def changeable_flags(c, size):
    """The flags that POPF may change: IF when CPL <= IOPL, IOPL at CPL 0."""
    bits = FREE_FLAGS
    if c.cpl <= iopl(c):
        bits = bits | IF
    if c.cpl == W0:
        bits = bits | IOPL
    if size == W2:
        bits = bits & M16
    return bits


def popf(c, size):
    """POPF, POPFD, POPFQ; the 32-bit form clears RF (SDM vol. 2, POPF)."""
    short = is_iopl_short(c)
    if short != W0 and check_virtual_flags(c, size) != OK:
        return c.status
    v = load(c, SS, cut_sp(c, c.gpr[RSP]), size)
    if c.status != OK:
        return c.status
    if short != W0 and check_virtual_image(c, v) != OK:
        return c.status
    set_sp(c, c.gpr[RSP] + size)
    if short != W0:
        set_virtual_flags(c, v)
        update_context(c)
        return go_on(c)
    bits = changeable_flags(c, size)
    old = c.rflags
    kept = old & ~bits
    if size != W2:
        kept = kept & ~RF
    c.rflags = ((kept | (v & bits)) & ~ARITHMETIC) | RESERVED
    put_flags(c.lazy, v)
    if (old ^ c.rflags) & (TF | AC) == W0:
        return OK
    update_context(c)
    return go_on(c)


def set_ac(c, ac):
    """EFLAGS.AC as STAC and CLAC write it: #UD but at privilege level 0."""
    if c.cpl != W0:
        return fault0(c, UD)
    flags = (c.rflags & ~AC) | ac
    if flags == c.rflags:
        return OK
    c.rflags = flags
    update_context(c)
    return go_on(c)


def stac(c):
    """STAC: pages of the user may be accessed in spite of SMAP."""
    return set_ac(c, AC)


def clac(c):
    """CLAC: they may not."""
    return set_ac(c, W0)
