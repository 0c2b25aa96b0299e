"""Unicorn in protected mode at any privilege level, as an oracle for segment loads and far transfers.

It starts from the state of a plain CPU (`plain_cpu.py`) and runs one instruction.  `random_system` makes such states.

What unicorn 2.1.4 (QEMU's translator) lacks or gets wrong, so that random states avoid it and directed tests hold our
side to the manual:

* error codes of faults and delivery through the IDT are not to be had: its hook takes their place;
* limits of data and stack segments are not checked (SDM vol. 3, 5.3), nor is the instruction pointer against the limit
  of the new code segment in RET, IRET and through call gates (vol. 2, RET: "IF the return instruction pointer is not
  within the return code segment limit THEN #GP(0)");
* the accessed bit stays clear in a code segment's descriptor, and in a stack segment's after RET and IRET (vol. 3,
  3.4.5.1);
* JMP through a call gate to a code segment that is not present is #GP instead of #NP (vol. 2, JMP, CALL-GATE);
* the upper half of a 16-bit call gate's offset counts (vol. 3, 21.4: 16-bit gates have 16-bit offsets);
* CALL through a call gate to a conforming code segment makes its DPL the RPL in CS (vol. 2, CALL: "CS(RPL) := CPL");
* LTR takes a null selector (vol. 2, LTR: #GP(0));
* a far JMP or CALL to a TSS selector with TI = 1 is #TS instead of #GP (vol. 3, 7.2.2);
* EFLAGS.RF, VIF and VIP stay after IRET: our CPU announces no VME and drops RF (see `iret.py`).
"""

from __future__ import annotations

import random
from typing import Any

import unicorn
from unicorn import x86_const as x86

from tests.isa.plain_cpu import (
    CODE0,
    CODE1,
    CODE2,
    CODE3,
    DATA0,
    DATA1,
    DATA3,
    FREE,
    GDT_SIZE,
    LDT_SIZE,
    STACKS,
    TSS,
    PlainMemory,
    descriptor,
    flags,
    gate,
    make_cpu,
    protect,
    set_descriptor,
)

SEGMENTS = tuple(getattr(x86, f"UC_X86_REG_{n}S") for n in "ECSDFG")
GPRS = tuple(getattr(x86, f"UC_X86_REG_E{n}") for n in ("AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI"))
COMPARED_FLAGS = 0x277FD5 & ~0x10000
MEMORY_SIZE = 0x20000
TSS_BUSY = 2
"""Unicorn keeps TR without the busy bit and ends the process when it finds one."""
ENTRY = 0x1F000
"""Where the IRET stands that goes to the privilege level under test."""


class UnicornSystem:
    """One machine; `run` gives what an instruction does to the CPU's state."""

    def __init__(self) -> None:
        self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
        self.uc.mem_map(0, MEMORY_SIZE)
        self.uc.hook_add(unicorn.UC_HOOK_INTR, self._on_interrupt)
        self._blank = self.uc.context_save()
        self.vector: int | None = None

    def _on_interrupt(self, uc: unicorn.Uc, vector: int, _data: object) -> None:
        self.vector = vector
        uc.emu_stop()

    def _step(self, address: int) -> None:
        try:
            self.uc.emu_start(address, 0xFFFF_FFFF, count=1)
        except unicorn.UcError as e:
            if e.errno != unicorn.UC_ERR_FETCH_UNMAPPED:  # the transfer is done, its target is not memory
                raise

    def load(self, c: Any, memory: PlainMemory) -> None:
        """Take over memory and registers; segment registers flat, by the privilege level."""
        uc, cpl = self.uc, int(c.cpl)
        uc.context_restore(self._blank)
        uc.mem_write(0, memory.bytes[:MEMORY_SIZE].tobytes())
        uc.ctl_remove_cache(0, MEMORY_SIZE)
        uc.reg_write(x86.UC_X86_REG_GDTR, (0, int(c.gdt_base), int(c.gdt_limit), 0))
        uc.reg_write(x86.UC_X86_REG_CS, CODE0)
        for seg in (SEGMENTS[0], *SEGMENTS[2:]):
            uc.reg_write(seg, DATA0)
        for register, i in ((x86.UC_X86_REG_LDTR, 6), (x86.UC_X86_REG_TR, 7)):
            attr = int(c.attr[i]) & ~(TSS_BUSY if i == 7 else 0)
            uc.reg_write(register, (int(c.sel[i]), int(c.base[i]), int(c.limit[i]), attr << 8))
        if cpl:
            self._leave_to(c)
        for register, value in zip(GPRS, c.gpr.tolist(), strict=False):
            uc.reg_write(register, value)
        uc.reg_write(x86.UC_X86_REG_EFLAGS, flags(c))

    def _leave_to(self, c: Any) -> None:
        """Go to the privilege level of `c` by IRET, then load its data segments."""
        uc, top = self.uc, STACKS[0] - 0x100
        frame = (0, int(c.sel[1]), 2, int(c.gpr[4]), int(c.sel[2]))
        kept = bytes(uc.mem_read(top, 4 * len(frame)))
        uc.mem_write(top, b"".join(v.to_bytes(4, "little") for v in frame))
        uc.mem_write(ENTRY, b"\xcf")
        uc.reg_write(x86.UC_X86_REG_ESP, top)
        self._step(ENTRY)
        uc.mem_write(ENTRY, b"\0")
        uc.mem_write(top, kept)
        for seg, selector in zip(SEGMENTS, c.sel.tolist(), strict=False):
            if seg not in SEGMENTS[1:3]:
                uc.reg_write(seg, selector)

    def run(self, rip: int, code: bytes) -> dict[str, Any] | int:
        """Run one instruction at `rip` after `load`: the state after it, or the vector of its fault."""
        under = self.uc.mem_read(rip, len(code))
        self.uc.mem_write(rip, code)
        self.vector = None
        self._step(rip)
        if self.vector is not None:
            return self.vector
        self.uc.mem_write(rip, bytes(under))
        return {
            "rip": self.uc.reg_read(x86.UC_X86_REG_EIP),
            "sel": [self.uc.reg_read(seg) for seg in SEGMENTS],
            "gpr": [self.uc.reg_read(register) for register in GPRS],
            "flags": self.uc.reg_read(x86.UC_X86_REG_EFLAGS) & COMPARED_FLAGS,
            "memory": bytes(self.uc.mem_read(0, MEMORY_SIZE)),
        }


def state_of(c: Any, memory: PlainMemory) -> dict[str, Any]:
    """Our state in the words of `UnicornSystem.run`."""
    return {
        "rip": int(c.rip),
        "sel": c.sel[:6].tolist(),
        "gpr": c.gpr[:8].tolist(),
        "flags": flags(c) & COMPARED_FLAGS,
        "memory": memory.bytes[:MEMORY_SIZE].tobytes(),
    }


def random_descriptor(rng: random.Random) -> int:
    """Code, data, a call gate or another system descriptor."""
    kind, dpl, present = rng.random(), rng.choice((0, 0, 3, 3, 1, 2)), 0x80 * (rng.random() < 0.85)
    if kind < 0.6:
        attr = rng.randrange(16) | 0x10 | dpl << 5 | present | rng.choice((0, 0x4000, 0xC000))
        if attr & 8:
            attr |= 0x8001
        if attr & 2 and dpl:
            attr |= 1
        limit = 0xFFFFFFFF if attr & 0x8000 else rng.choice((0xFFFFF, 0xFFFF))
        return descriptor(rng.choice((0, 0, 0x10, 0x100)), limit, attr)
    if kind < 0.85:
        target = rng.choice((CODE0, CODE1, CODE2, CODE3, DATA0, 0, rng.randrange(FREE, GDT_SIZE)))
        attr = rng.choice((4, 12)) | dpl << 5 | present
        offset = rng.choice((0x6000, 0x7123))
        return gate(target & ~3 | rng.randrange(4), offset, attr, rng.choice((0, 1, 3)))
    return descriptor(0x100, 0x67, rng.randrange(16) | dpl << 5 | present)


def random_selector(rng: random.Random) -> int:
    """Null, well-known, in the GDT, in the LDT, outside of both."""
    kind = rng.random()
    if kind < 0.1:
        return rng.randrange(4)
    if kind < 0.3:
        return rng.choice((CODE0, DATA0, CODE3, DATA3, CODE1, DATA1)) & ~3 | rng.randrange(4)
    if kind < 0.35:
        return rng.randrange(0x10000)
    if kind < 0.5:
        return rng.randrange(LDT_SIZE + 0x20) & ~7 | 4 | rng.randrange(4)
    return rng.randrange(FREE, GDT_SIZE) & ~7 | rng.choice((0, 0, 3, 3, 1, 2))


def random_system(rng: random.Random) -> tuple[Any, PlainMemory]:
    """A CPU at a random privilege level with random tables, registers and stacks."""
    c, memory = make_cpu()
    protect(c, memory, rng.choice((0, 3, 0, 3, 1, 2)))
    for selector in (*range(FREE, GDT_SIZE, 8), *range(4, LDT_SIZE, 8)):
        set_descriptor(memory, selector, random_descriptor(rng))
    for register in (0, 1, 2, 3, 5, 6, 7):
        c.gpr[register] = rng.getrandbits(32)
    for top in STACKS.values():
        memory.write(top - 0x440, rng.randbytes(0x480))
    for level in range(3):
        if rng.random() < 0.3:
            memory.put(TSS + 8 + 8 * level, "I", random_selector(rng))
    return c, memory
