"""As mode_programs.py, in long mode: loops in 64-bit code and in compatibility mode, under several PML4s.

Between two runs of a loop: CR3, page-table entries and INVLPG, large and global pages, CR0.WP, CR4.PGE, bases of FS and
GS, segments that count in compatibility mode alone, and far transfers between the two.
"""

from __future__ import annotations

import struct

import numpy as np

from jitvm.engine.accel import Options
from tests.engine.guest import DATA, GDT, IDT, Guest
from tests.engine.mode_programs import (
    BELOW,
    CODE_BELOW,
    CODE_TIGHT,
    COUNTS,
    DATA16,
    FLAT,
    HANDLERS,
    INNER,
    LOG,
    MAPS,
    MORE_SEGMENTS,
    OUTER,
    RESUME,
    STACK,
    VECTORS,
    WITH_ERROR,
    ModeLoops,
    entry,
    put_functions,
)
from tests.engine.programs import SEGMENTS
from tests.engine.programs_long import CODE64
from tests.engine.tables import PS, A, D, P, U, W

TABLES = (0x30000, 0x34000, 0x38000, 0x3C000)
"""Each is PML4, page-directory-pointer table, page directory and page table, one page each."""
CODE32 = 0x80


def long_handler(vector: int) -> str:
    """Note what happened and go on at RESUME, in 64-bit code."""
    top = 16 if vector in WITH_ERROR else 8
    lines = ["push rax", f"mov rax, cr2; rol dword ptr [{LOG}], 5; add [{LOG}], eax"]
    lines += [f"mov eax, [rsp + {k}]; xor [{LOG}], eax; rol dword ptr [{LOG}], 3" for k in range(8, top + 8, 8)]
    lines += [f"inc dword ptr [{COUNTS + 4 * vector}]", f"mov eax, [{RESUME}]; mov [rsp + {top}], rax"]
    lines += [f"mov qword ptr [rsp + {top + 8}], 8; mov qword ptr [rsp + {top + 32}], {FLAT}"]
    return "\n".join([*lines, "pop rax", f"add rsp, {top - 8}", "iretq"]).replace("; ", "\n")


def long_mode_guest(engine: str, options: Options | None, *, source: str, seed: int) -> Guest:
    """A guest about to run such a program."""
    guest = Guest(engine, options=options)
    guest.bare.set_mode("long")
    write, c = guest.bare.write, guest.c
    write(DATA, np.random.default_rng(seed).integers(0, 256, 0x3000, np.uint8).tobytes())
    segments = (SEGMENTS[0], CODE64, *SEGMENTS[2:], *MORE_SEGMENTS, 0, SEGMENTS[1])
    write(GDT, struct.pack(f"<{len(segments)}Q", *segments))
    for k, vector in enumerate(VECTORS):
        at = HANDLERS + 112 * k
        guest.load(long_handler(vector), at, 64)
        write(IDT + 16 * vector, struct.pack("<HHHHQ", at, 8, 0x8E00, 0, 0))
    put_functions(guest, seed)
    for k, at in enumerate(TABLES):
        again = P | W | U | A | D | PS
        write(at, struct.pack("<Q", at + 0x1000 | P | W | U) + bytes(2040) + struct.pack("<Q", at + 0x1000 | P | W | U))
        write(at + 0x1000, struct.pack("<Q", at + 0x2000 | P | W | U))
        write(at + 0x2000, struct.pack("<3Q", at + 0x3000 | P | W | U, again if k % 2 else at + 0x3000 | P | W | U, again))
        write(at + 0x3000, struct.pack("<512Q", *(entry(page, k) for page in range(512))))
    c.gdt_base, c.gdt_limit, c.idt_base, c.idt_limit, c.deliver = GDT, 8 * len(segments) - 1, IDT, 0x1FF, 1
    guest.registers(rsp=STACK, rbp=DATA + 0x400, eflags=2, cr3=TABLES[0])
    guest.load(source, bits=64)
    guest.bare.vcpu.set_cpu("max")
    return guest


class LongModeLoops(ModeLoops):
    """One program."""

    bits_here = 64
    alias = 0x20_0000

    def change(self, end: str) -> str:
        """Something that the loops stand on."""
        rng = self.rng
        k, page = rng.randrange(4), rng.choice((*MAPS, *MAPS, 0x8))
        table = TABLES[rng.randrange(4)] + 0x3000
        to = page << 12 | P | W | U if page not in MAPS else entry(page, k) ^ rng.choice((0, 0, W, A))
        edits = "; ".join(f"mov qword ptr [{at + 0x3000 + 8 * page}], {to}" for at in TABLES)
        invalidate = f"invlpg [{page << 12}]; invlpg [{self.alias + (page << 12)}]"
        return self.pick(
            *(f"mov eax, {TABLES[k]}; mov cr3, rax",) * 4,
            "mov rax, cr3; mov cr3, rax",
            "mov rax, cr0; xor eax, 0x10000; mov cr0, rax",
            "mov rax, cr4; xor eax, 0x80; mov cr4, rax",
            f"mov qword ptr [{table + 8 * page}], {to}; {invalidate}" if page in MAPS else f"{edits}; {invalidate}",
            *(f"mov eax, {rng.randrange(FLAT // 8, DATA16 // 8) * 8}; mov {self.pick('ds', 'es', 'fs', 'gs')}, eax",) * 3,
            f"mov eax, {self.pick(str(FLAT), str(DATA16))}; mov ss, eax",
            f"mov ecx, 0xC000010{self.pick('0', '1', '2')}; mov eax, {self.pick(str(DATA), '0x1000', '0')}; "
            f"{self.pick('xor edx, edx', 'mov edx, 0xFFFF8000')}; wrmsr",
            "swapgs",
        )

    def borders(self) -> tuple[int, ...]:
        """Addresses beyond the first 64 KiB."""
        return (self.alias + 0x9FFE, self.alias + 0x8400, 2 * self.alias + 0xAFFE, 0x5_0010, 0x1_8400)

    def as_other(self, j: str) -> list[str]:
        """The same in compatibility mode; N lies in 64-bit code."""
        body = self.body_of(j, 32, "e")
        selector, up = self.rng.choice(((CODE32, 0), (CODE32, 0), (CODE_BELOW, BELOW), (CODE_TIGHT, 0)))
        # Upper halves are undefined outside of 64-bit code (SDM vol. 1, 3.4.1.1), and regions make them 0.
        clear = "; ".join(f"mov e{r}, e{r}" for r in ("ax", "bx", "cx", "dx", "si", "di"))
        go = f"{clear}; push {selector}; push offset {{}} + {up}; retfq"
        cut = next(k for k, line in enumerate(body) if line.startswith("N"))
        lines = [go.format(f"B{j}"), ".code32", f"B{j}:", *body[:cut], f"mov esp, {STACK}; dec dword ptr ss:[{INNER}]"]
        lines += [f"jz Z{j}; jmp A{j}", f"Z{j}:", self.far(f"E{j}", 8, 0), ".code64", f"N{j}:"]
        lines += [f"mov eax, {FLAT}; mov ss, eax; mov rsp, {STACK}; dec dword ptr [{INNER}]; jz E{j}", go.format(f"A{j}")]
        return [*lines, f"E{j}:"]

    def program(self, blocks: int) -> list[str]:
        """Its parts."""
        lines = [f"mov dword ptr [{OUTER}], {self.rng.randrange(12, 30)}", "mov rax, cr4; or eax, 0x80; mov cr4, rax"]
        lines += [f"mov eax, {DATA}; mov ebx, 7; mov edx, 5; mov ecx, 3; mov esi, {DATA + 0x500}; mov edi, {DATA + 0x600}"]
        lines += ["outer:", f"mov dword ptr [{RESUME}], offset T", f"mov eax, [{OUTER}]; and eax, 7"]
        lines += ["jmp qword ptr [table + rax * 8]", *self.switches(blocks), f"T: mov rsp, {STACK}"]
        lines += [f"dec dword ptr [{OUTER}]; jz H; jmp outer", "H: hlt", ".align 8"]
        return [*lines, "table: .quad S0, S1, S2, S3, S4, S5, S6, S7", "spare: .fill 16, 1, 0x90"]
