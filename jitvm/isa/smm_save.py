"""The state-save area of system management mode: AMD64's layout, as QEMU has it (SMM revision 20064h).

Offsets are those from SMBASE + 8000h.  All words are physical memory.

7E00h  six segment registers (ES CS SS DS FS GS), GDTR, LDTR, IDTR, TR: 16 bytes each: selector (2), attributes (2),
       limit (4), base (8); GDTR and IDTR have limit and base alone
7EC9h  1: the CPU was halted, and RSM halts it again (auto HALT restart)
7ED0h  EFER          7EFCh  revision    7F00h  SMBASE
7F48h  CR4 (4)       7F50h  CR3 (8)     7F58h  CR0 (4)
7F60h  DR7 (4)       7F68h  DR6 (4)     7F70h  EFLAGS (4)    7F78h  RIP (8)
7F80h  R15 ... 7FF8h RAX (8 each)

Source: AMD APM vol. 2, table 10-1 (AMD64 SMM state-save area); SDM vol. 3, 34.10 (auto HALT restart).

Not modelled: I/O restart, CR2 and what else has no place in QEMU's area: the handler finds them in the registers.
"""

from __future__ import annotations

from jitvm.isa.flags import VIF, VIP
from jitvm.isa.host import peek
from jitvm.isa.mode import read_eflags, vme_flags, write_eflags
from jitvm.isa.paging_entry import memory_at, store_host
from jitvm.isa.state import LDTR, TR
from jitvm.isa.words import M16, W0, W1, W2, W4, W6, W8, W16, u64

AREA = u64(0x8000)
SEGMENTS, GDTR, LDT, IDTR, TASK = u64(0x7E00), u64(0x7E60), u64(0x7E70), u64(0x7E80), u64(0x7E90)
HALT, EFER, REVISION, SMBASE = u64(0x7EC9), u64(0x7ED0), u64(0x7EFC), u64(0x7F00)
CR4, CR3, CR0, DR7, DR6, EFLAGS, RIP, RAX = (
    u64(n) for n in (0x7F48, 0x7F50, 0x7F58, 0x7F60, 0x7F68, 0x7F70, 0x7F78, 0x7FF8)
)
REVISION_64 = u64(0x2_0064)
"""Bit 17: SMBASE can be moved."""
RELOCATION = u64(1 << 17)
ATTR_MASK = u64(0xF0FF)
EFER_MASK = u64(0xFFFF)
SEVEN, SIX = u64(7), u64(6)


def put(c, at, size, v):
    """Store a word of the area."""
    gpa = (c.smbase + AREA + at) & c.a20_mask
    h = memory_at(c, gpa, W1)
    if h != W0:
        store_host(c, h, size, v)
    return W0


def get(c, at, size):
    """A word of the area; 0 where no memory is."""
    h = memory_at(c, (c.smbase + AREA + at) & c.a20_mask, W0)
    if h == W0:
        return W0
    return peek(h, size)


def put_segment(c, at, seg):
    """Store a segment register."""
    put(c, at, W2, c.sel[seg])
    put(c, at + W2, W2, c.attr[seg])
    put(c, at + W4, W4, c.limit[seg])
    return put(c, at + W8, W8, c.base[seg])


def get_segment(c, at, seg):
    """Load a segment register."""
    c.sel[seg] = get(c, at, W2)
    c.attr[seg] = get(c, at + W2, W2) & ATTR_MASK
    c.limit[seg] = get(c, at + W4, W4)
    c.base[seg] = get(c, at + W8, W8)
    return W0


def save_area(c):
    """Store the state of the CPU."""
    k = W0
    while k < W6:
        put_segment(c, SEGMENTS + k * W16, k)
        k += W1
    put(c, GDTR + W4, W4, c.gdt_limit)
    put(c, GDTR + W8, W8, c.gdt_base)
    put_segment(c, LDT, LDTR)
    put(c, IDTR + W4, W4, c.idt_limit)
    put(c, IDTR + W8, W8, c.idt_base)
    put_segment(c, TASK, TR)
    put(c, HALT, W1, c.halted)
    put(c, EFER, W8, c.efer)
    put(c, REVISION, W4, REVISION_64)
    put(c, SMBASE, W4, c.smbase)
    put(c, CR4, W4, c.cr4)
    put(c, CR3, W8, c.cr3)
    put(c, CR0, W4, c.cr0)
    put(c, DR7, W4, c.dr[SEVEN])
    put(c, DR6, W4, c.dr[SIX])
    put(c, EFLAGS, W4, read_eflags(c))
    put(c, RIP, W8, c.rip)
    k = W0
    while k < W16:
        put(c, RAX - k * W8, W8, c.gpr[k])
        k += W1
    return W0


def load_area(c):
    """Load the state of the CPU, but for its privilege level and what is derived; 1 when it was halted."""
    halted = get(c, HALT, W1) & W1
    k = W0
    while k < W6:
        get_segment(c, SEGMENTS + k * W16, k)
        k += W1
    c.gdt_limit = get(c, GDTR + W4, W4) & M16
    c.gdt_base = get(c, GDTR + W8, W8)
    get_segment(c, LDT, LDTR)
    c.idt_limit = get(c, IDTR + W4, W4) & M16
    c.idt_base = get(c, IDTR + W8, W8)
    get_segment(c, TASK, TR)
    c.efer = get(c, EFER, W8) & EFER_MASK
    c.cr4 = get(c, CR4, W4)
    c.cr3 = get(c, CR3, W8)
    c.cr0 = get(c, CR0, W4)
    c.dr[SEVEN] = get(c, DR7, W4)
    c.dr[SIX] = get(c, DR6, W4)
    write_eflags(c, get(c, EFLAGS, W4) & ~((VIF | VIP) ^ vme_flags(c)))
    c.rip = get(c, RIP, W8)
    k = W0
    while k < W16:
        c.gpr[k] = get(c, RAX - k * W8, W8)
        k += W1
    if get(c, REVISION, W4) & RELOCATION != W0:
        c.smbase = get(c, SMBASE, W4)
    return halted
