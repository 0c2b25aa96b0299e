"""A CPU record over guest memory, on which out-of-line semantics run as plain Python.

`make_cpu` gives the state after a reset but for CS:RIP, which is 0:0; `protect` puts it into flat protected mode with
descriptor tables, a TSS and a stack for each level.  `run` calls one function and proves what holds for all of them: a
fault or an exit changes nothing that the guest can see (accessed bits aside; a fault of a new task behind the commit
point of a switch is another matter), and derived state is up to date.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jitvm.isa import mode
from jitvm.isa.state import ARCHITECTURAL, EXIT, EXIT_MMIO, FAULT, OK
from jitvm.memory import PAGE, GuestMemory

DTYPE = np.dtype(ARCHITECTURAL)
ES, CS, SS, DS, FS, GS, LDTR, TR = range(8)
VISIBLE = (
    "gpr lazy rflags rip sel base limit attr gdt_base gdt_limit idt_base idt_limit cr0 cr3 cr4 dr cpl halted shadow "
    "left"
).split()
DERIVED = "read_limit write_limit mode ctx tlb_off".split()

GDT, LDT, IDT, TSS, CODE = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000
PAGING = 0x80000
"""Page directory, and behind it the page table of the first 4 MiB."""
GDT_SIZE, LDT_SIZE, IDT_SIZE, TSS_SIZE = 0x400, 0x200, 0x800, 0x68
STACKS = {0: 0x10000, 1: 0x12000, 2: 0x14000, 3: 0x16000}
"""Top of the stack of each privilege level."""
CODE0, DATA0, CODE1, DATA1, CODE2, DATA2, CODE3, DATA3 = 0x08, 0x10, 0x19, 0x21, 0x2A, 0x32, 0x3B, 0x43
"""Selectors of the flat segments of the four levels, RPL = DPL."""
SEL_TSS, SEL_LDT, FREE = 0x48, 0x50, 0x58
"""Selectors of the TSS and the LDT, and the first one without a descriptor."""


class Record:
    """A NumPy record by attributes, whatever its fields are called (np.record hides a field named like one of its own
    attributes: `base`)."""

    __slots__ = ("_void",)

    def __init__(self, void: Any) -> None:
        object.__setattr__(self, "_void", void)

    def __getitem__(self, name: str) -> Any:
        return self._void[name]

    def __getattr__(self, name: str) -> Any:
        value = self._void[name]
        return Record(value) if isinstance(value, np.void) else value

    def __setattr__(self, name: str, value: Any) -> None:
        self._void[name] = value


class PlainMemory(GuestMemory):
    """Guest memory with the bytes that say where translated code is."""

    def __init__(self, ram_size: int) -> None:
        super().__init__(ram_size)
        self.code_pages = np.zeros(self.size // PAGE + 1, np.uint8)
        self.map(0, ram_size, 0)

    def put(self, gpa: int, fmt: str, *values: int) -> None:
        """Pack little-endian values into memory."""
        self.write(gpa, struct.pack("<" + fmt, *values))

    def get(self, gpa: int, fmt: str) -> tuple[int, ...]:
        """Unpack little-endian values."""
        return struct.unpack("<" + fmt, self.read(gpa, struct.calcsize("<" + fmt)))


def make_cpu(ram_size: int = 1 << 20) -> tuple[Any, PlainMemory]:
    """A record in real mode and its memory; segment bases and selectors are 0."""
    memory = PlainMemory(ram_size)
    array = np.zeros(1, DTYPE)
    c: Any = Record(array[0])
    c.tlb_host = int(array.ctypes.data) + DTYPE.fields["tlb"][1]  # type: ignore[index]  # the dtype has fields
    c.ram, c.n_pages = memory.host, len(memory.page_read)
    c.page_read, c.page_write = memory.page_read.ctypes.data, memory.page_write.ctypes.data
    c.code_pages = memory.code_pages.ctypes.data
    c.tlb[:] = ~np.uint64(0)
    c.a20_mask = c.shadow = c.trap_shadow = c.again_at = c.caught_at = ~np.uint64(0)
    c.cr0, c.idt_limit, c.gdt_limit = 0x10, 0x3FF, 0xFFFF
    mode.write_eflags(c, np.uint64(2))
    c.limit[:] = 0xFFFF
    c.attr[:6], c.attr[LDTR], c.attr[TR] = 0x93, 0x82, 0x8B
    c.horizon = c.left = 1000
    c.deliver = 1
    c.dr[6], c.dr[7] = 0xFFFF0FF0, 0x400
    c.phys_mask = (1 << 36) - 1
    mode.update_mode(c)
    return c, memory


def descriptor(base: int, limit: int, attr: int) -> int:
    """A segment descriptor; `attr` as in the record, `limit` in bytes (in pages with ATTR_G)."""
    if attr & 0x8000:
        limit >>= 12
    return limit & 0xFFFF | (base & 0xFFFFFF) << 16 | attr << 40 | (limit & 0xF0000) << 32 | (base & 0xFF000000) << 32


def gate(selector: int, offset: int, attr: int, params: int = 0) -> int:
    """A call, interrupt, trap or task gate."""
    return offset & 0xFFFF | selector << 16 | params << 32 | attr << 40 | (offset & 0xFFFF0000) << 32


def set_descriptor(memory: PlainMemory, selector: int, d: int) -> None:
    """Write a descriptor into the GDT, or the LDT by the selector's TI."""
    memory.put((LDT if selector & 4 else GDT) + (selector & 0xFFF8), "Q", d)


def set_gate(memory: PlainMemory, vector: int, d: int) -> None:
    """Write a gate into the IDT."""
    memory.put(IDT + 8 * vector, "Q", d)


def load_flat(c: Any, seg: int, selector: int, attr: int) -> None:
    """A flat segment register, without a look at the table."""
    c.sel[seg], c.base[seg], c.limit[seg], c.attr[seg] = selector, 0, 0xFFFFFFFF, attr


def enter_level(c: Any, cpl: int) -> None:
    """Flat segments and the stack of a privilege level."""
    c.cpl = cpl
    load_flat(c, CS, CODE0 + 0x11 * cpl, 0xC09B | cpl << 5)
    for seg in (SS, DS, ES, FS, GS):
        load_flat(c, seg, DATA0 + 0x11 * cpl, 0xC093 | cpl << 5)
    c.gpr[4] = STACKS[cpl] - 0x400
    mode.update_mode(c)


def protect(c: Any, memory: PlainMemory, cpl: int = 0) -> None:
    """Flat 32-bit protected mode at a privilege level."""
    for level in range(4):
        memory.put(GDT + 8 + 16 * level, "Q", descriptor(0, 0xFFFFFFFF, 0xC09B | level << 5))
        memory.put(GDT + 16 + 16 * level, "Q", descriptor(0, 0xFFFFFFFF, 0xC093 | level << 5))
    set_descriptor(memory, SEL_TSS, descriptor(TSS, TSS_SIZE - 1, 0x8B))
    set_descriptor(memory, SEL_LDT, descriptor(LDT, LDT_SIZE - 1, 0x82))
    for level, selector in enumerate((DATA0, DATA1, DATA2)):
        memory.put(TSS + 4 + 8 * level, "II", STACKS[level], selector)
    c.gdt_base, c.gdt_limit, c.idt_base, c.idt_limit = GDT, GDT_SIZE - 1, IDT, IDT_SIZE - 1
    c.sel[LDTR], c.base[LDTR], c.limit[LDTR], c.attr[LDTR] = SEL_LDT, LDT, LDT_SIZE - 1, 0x82
    c.sel[TR], c.base[TR], c.limit[TR], c.attr[TR] = SEL_TSS, TSS, TSS_SIZE - 1, 0x8B
    c.cr0 = 0x11
    c.rip, c.next_rip = CODE, CODE + 2
    enter_level(c, cpl)


def enter_v86(c: Any, iopl: int = 0) -> None:
    """Virtual-8086 mode with six different segments; the tables stay."""
    c.rflags = 2 | 1 << 17 | iopl << 12
    c.cpl = 3
    for seg, selector in zip((ES, CS, SS, DS, FS, GS), (0x111, 0x500, 0x1600, 0x333, 0x444, 0x555), strict=True):
        c.sel[seg], c.base[seg], c.limit[seg], c.attr[seg] = selector, selector << 4, 0xFFFF, 0xF3
    c.gpr[4] = 0xFFFF0100
    c.rip, c.next_rip = 0x20, 0x22
    mode.update_mode(c)


def page_tables(c: Any, memory: PlainMemory, absent: tuple[int, ...] = (), read_only: tuple[int, ...] = ()) -> None:
    """Identity-map the first MiB for every level, WP on, but for some linear pages."""
    memory.put(PAGING, "I", PAGING + PAGE | 7)
    for page in range(256):
        rights = 0 if page << 12 in absent else 5 if page << 12 in read_only else 7
        memory.put(PAGING + PAGE + 4 * page, "I", page << 12 | rights)
    c.cr3, c.cr0 = PAGING, int(c.cr0) | 0x80010000
    c.tlb[:] = ~np.uint64(0)


def flags(c: Any) -> int:
    """The EFLAGS image."""
    return int(mode.read_eflags(c))


def snapshot(c: Any, names: list[str]) -> dict[str, Any]:
    """Values of some fields."""
    return {name: np.array(c[name]).tolist() for name in names}


def without_accessed(memory: PlainMemory) -> bytes:
    """All of memory but the accessed bits of code and data descriptors, and those and dirty bits of page tables."""
    data = memory.bytes.copy()
    data[PAGING : PAGING + 2 * PAGE : 4] |= 0x60
    for table, size in ((GDT, GDT_SIZE), (LDT, LDT_SIZE)):
        rights = data[table + 5 : table + size : 8]
        rights[(rights & 0x10) != 0] |= 1
    return data.tobytes()


def run(function: Callable[..., Any], c: Any, memory: PlainMemory, *args: int) -> int:
    """Call a semantic function as the engine would; its result."""
    with np.errstate(over="ignore"):
        before, stored = snapshot(c, VISIBLE), without_accessed(memory)
        c.status, c.io_pos = OK, 0
        result = function(c, *(np.uint64(a) for a in args))
        assert type(result) is np.uint64, function.__name__
        if c.status in (FAULT, EXIT) and before["base"][TR] == c.base[TR]:
            after = snapshot(c, VISIBLE)
            assert after == before
            if c.status == FAULT:
                assert without_accessed(memory) == stored
        derived = snapshot(c, DERIVED)
        mode.update_mode(c)
        assert snapshot(c, DERIVED) == derived
    return int(result)


def run_outside(
    function: Callable[..., Any], c: Any, memory: PlainMemory, *args: int, reads: Mapping[int, int]
) -> tuple[int, list[tuple[int, int, int]]]:
    """As `run`, with answers for MMIO reads; the last status and the MMIO writes (address, size, value)."""
    writes: list[tuple[int, int, int]] = []
    while True:
        result = run(function, c, memory, *args)
        if c.status != EXIT or c.exit_reason != EXIT_MMIO:
            return result, writes
        address, size, n = int(c.io_address), int(c.io_size), int(c.io_n)
        value = 0
        if c.io_write:
            writes.append((address, size, int(c.io_data[0]) & (1 << 8 * size) - 1))
        else:
            value = reads[address]
        c.io_value[n] = value
        c.io_n = n + 1


def fault_of(c: Any) -> tuple[int, int | None]:
    """Vector and error code (None: none is pushed) of the recorded fault."""
    assert c.status == FAULT
    return int(c.vector), int(c.error) if c.has_error else None
