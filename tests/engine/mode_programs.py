"""Random programs whose hot loops run again and again while what they stand on changes: flat 32-bit code at privilege 0.

Between two runs of a loop: CR3, with other mappings of the loop's data and functions (other pages, read-only, absent, a
device, code); paging, CR0.WP and CR4.PGE off and on; page-table entries and INVLPG; DS, ES, FS, GS and SS with other bases,
limits, directions and sizes; CS with another base or limit, 16-bit code, real mode with the segments that were loaded.
Operands lie over limits, pages and the ends of 64 KiB and 4 GiB.  What faults leaves that round of the loop.
"""

from __future__ import annotations

import random
import struct

import numpy as np

from jitvm.engine.accel import Options
from tests.engine.flag_programs import FlagLoops
from tests.engine.guest import DATA, GDT, IDT, Guest
from tests.engine.programs import SEGMENTS, descriptor
from tests.engine.tables import PS, A, D, P, U, W

COUNTS, INNER, OUTER, RESUME, RESUME16, LOG, STACK = 0xC000, 0xC100, 0xC104, 0xC108, 0xC10C, 0xC110, 0xF000
HANDLERS, REAL_HANDLERS, PROTECTED_IDT, REAL_IDT = 0x3000, 0x3C00, 0xC120, 0xC128
G = 0x100
DIRECTORIES = (0x30000, 0x32000, 0x34000, 0x36000)
"""Each with its page table behind it, for the first 4 MiB; the next 4 MiB are the same again."""
MAPS = {
    0x9: (0x9, 0xA, 0x9, None),
    0xA: (0xA, 0x9, 0x50, 0xA),
    0xB: (0xB, 0x12, 0x10, 0xB),
    0x10: (0x10, 0x12, 0x14, 0x10),
    0x11: (0x11, 0x13, 0x15, 0x13),
}
"""Linear pages and where they lie by each directory."""
READ_ONLY = {(0x9, 2), (0xB, 3)}
FUNCTIONS = (0x10000, 0x10040, 0x10FF0, 0x11080)
"""The third one lies on two pages; all are made of the same instructions, with numbers that depend on the page."""
FLAT, DATA32, LIMITED, DOWN, DOWN16, READ, WRAPPED = 0x10, 0x28, 0x30, 0x38, 0x40, 0x48, 0x50
CODE_BELOW, CODE16, DATA16, CODE_TIGHT = 0x58, 0x60, 0x68, 0x70
BELOW = 0x1000
"""CODE_BELOW's base is so far below 0."""
MORE_SEGMENTS = (
    descriptor(DATA, 0x3FFF, 0x93),
    descriptor(0, 0x8802, 0x93),
    descriptor(0, 0x83FD, 0x97),
    descriptor(0, 0x83FD, 0x97, big=False),
    SEGMENTS[2] & ~(2 << 40),
    descriptor(0xFFFF_8000, 0xFFFFF, 0x93) | 0x80 << 48,
    descriptor((1 << 32) - BELOW, 0xFFFFF, 0x9B) | 0x80 << 48,
    descriptor(0, 0xFFFF, 0x9B, big=False),
    descriptor(0, 0xFFFF, 0x93, big=False),
    descriptor(0, 0x2FFF, 0x9B),
)
WITH_ERROR = (8, 10, 11, 12, 13, 14, 17)
VECTORS = (0, 4, 5, 6, 10, 11, 12, 13, 14)


def handler(vector: int) -> str:
    """Note what happened and go on at RESUME, with flat 32-bit code."""
    top = 8 if vector in WITH_ERROR else 4  # EAX, and perhaps the error, below EIP
    lines = ["push eax", f"mov eax, cr2; rol dword ptr ss:[{LOG}], 5; add ss:[{LOG}], eax"]
    lines += [f"mov eax, ss:[esp + {k}]; xor ss:[{LOG}], eax; rol dword ptr ss:[{LOG}], 3" for k in range(4, top + 4, 4)]
    lines += [f"inc dword ptr ss:[{COUNTS + 4 * vector}]", f"mov eax, ss:[{RESUME}]; mov ss:[esp + {top}], eax"]
    lines += [f"mov dword ptr ss:[esp + {top + 4}], 8", "pop eax", f"add esp, {top - 4}", "iretd"]
    return "\n".join(lines).replace("; ", "\n")


def real_handler(vector: int) -> str:
    """In real mode: go on at RESUME16."""
    lines = f"push bp; mov bp, sp; push ax; inc dword ptr ss:[{COUNTS + 0x80 + 4 * vector}]; mov ax, ss:[{RESUME16}]"
    return f"{lines}; mov [bp + 2], ax; pop ax; pop bp; iret".replace("; ", "\n")


def function(rng: random.Random, numbers: random.Random, n: int) -> bytes:
    """Instructions picked by one, with numbers by the other."""
    heads = (b"\x05", b"\x35", b"\x81\xc3", b"\x81\xf2", b"\x81\xd0", b"\x81\xde")
    code = b""
    for _ in range(n):
        code += rng.choice(heads) + numbers.randbytes(4) + rng.choice((b"", b"\xd1\xc0", b"\x90"))
    return code + b"\xc3"


def put_functions(guest: Guest, seed: int) -> None:
    """Three times the same, but for the numbers in them."""
    for page in range(0x10, 0x16, 2):
        rng, numbers, code = random.Random(seed), random.Random(f"{seed} {page}"), bytearray(0x2000)
        for at in FUNCTIONS:
            made = function(rng, numbers, rng.randrange(2, 5) if at % 0x1000 != 0xFF0 else 4)
            code[at - 0x10000 : at - 0x10000 + len(made)] = made
        guest.bare.write(page << 12, bytes(code))


def prepare_modes(guest: Guest, seed: int) -> None:
    """Memory and tables of a guest in flat 32-bit mode."""
    write, c = guest.bare.write, guest.c
    write(DATA, np.random.default_rng(seed).integers(0, 256, 0x3000, np.uint8).tobytes())
    segments = (*SEGMENTS, *MORE_SEGMENTS)
    write(GDT, struct.pack(f"<{len(segments)}Q", *segments))
    for k, vector in enumerate(VECTORS):
        at = HANDLERS + 96 * k
        guest.load(handler(vector), at)
        write(IDT + 8 * vector, struct.pack("<HHHH", at, 8, 0x8E00, 0))
        guest.load(real_handler(vector), REAL_HANDLERS + 32 * k, 16)
        write(4 * vector, struct.pack("<HH", REAL_HANDLERS + 32 * k, 0))
    write(PROTECTED_IDT, struct.pack("<HI", 0x3FF, IDT) + bytes(2) + struct.pack("<HI", 0x3FF, 0))
    put_functions(guest, seed)
    for k, directory in enumerate(DIRECTORIES):
        table = directory + 0x1000
        again = P | W | U | A | D | PS if k % 2 else table | P | W | U
        write(directory, struct.pack("<2I", table | P | W | U, again))
        write(table, struct.pack("<1024I", *(entry(page, k) for page in range(1024))))
    c.gdt_base, c.gdt_limit, c.idt_base, c.idt_limit, c.deliver = GDT, 8 * len(segments) - 1, IDT, 0x3FF, 1
    guest.registers(esp=STACK, ebp=DATA + 0x400, eflags=2)


def entry(page: int, k: int) -> int:
    """The entry of a linear page in a directory's page table; what is the same in all is global."""
    if page not in MAPS:
        return page << 12 | P | W | U | G
    to = MAPS[page][k]
    return 0 if to is None else to << 12 | P | U | (0 if (page, k) in READ_ONLY else W)


class ModeLoops(FlagLoops):
    """One program."""

    bits_here = 32
    alias = 0x40_0000
    """Where the first page table's memory is once more."""

    def __init__(self, seed: int, loops: int = 3) -> None:
        super().__init__(seed, self.bits_here, loops)

    def borders(self) -> tuple[int, ...]:
        """Addresses beyond the first 64 KiB."""
        return (0x40_9FFE, 0x40_8400, 0x10_8010, 0xFFFF_FFFE, 0xFFFF, 0x5_0010, 0x41_0800, 0x1_8400)

    # ---- what changes -------------------------------------------------------------------------------------------------
    def change(self, end: str) -> str:
        """Something that the loops stand on."""
        rng, n = self.rng, self.fresh()
        k, page = rng.randrange(4), rng.choice((*MAPS, *MAPS, 0xD, 0x8))
        table = DIRECTORIES[rng.randrange(4)] + 0x1000
        to = page << 12 | P | W | U | G if page not in MAPS else entry(page, k) ^ rng.choice((0, 0, W, A))
        selector = rng.choice((FLAT, DATA32, LIMITED, DOWN, DOWN16, READ, WRAPPED, DATA16))
        bit = rng.choice((0x8000_0000, 0x8000_0000, 0x1_0000))
        edits = "; ".join(f"mov dword ptr ss:[{at + 0x1000 + 4 * page}], {to}" for at in DIRECTORIES)
        return self.pick(
            *(f"mov eax, {DIRECTORIES[k]}; mov cr3, eax",) * 4,
            "mov eax, cr3; mov cr3, eax",
            f"mov eax, cr0; xor eax, {bit}; mov cr0, eax; jmp c{n}; c{n}:",
            "mov eax, cr4; xor eax, 0x80; mov cr4, eax",
            f"mov dword ptr ss:[{table + 4 * page}], {to}; invlpg ss:[{page << 12}]; invlpg ss:[{0x400 + page << 12}]"
            if page in MAPS
            else f"{edits}; invlpg ss:[{page << 12}]",
            *(f"mov eax, {selector}; mov {self.pick('ds', 'ds', 'es', 'es', 'fs', 'gs')}, eax",) * 5,
            f"mov eax, {FLAT}; mov ds, eax; mov es, eax",
            f"mov eax, {self.pick(str(FLAT), str(DATA16))}; mov ss, eax; mov esp, {STACK}",
            "push ds; pop es; push es; pop gs",
            self.far(end, CODE_BELOW, BELOW),
            self.far(end, CODE_TIGHT, 0),
            self.far(end, 8, 0),
        )

    def far(self, to: str, selector: int, up: int) -> str:
        """A far jump to the address of a label that is so much more than its own."""
        return f".byte 0xEA; .long {to} + {up}; .word {selector}"

    def fresh(self) -> int:
        """A number for labels."""
        self.faults += 1
        return self.faults

    # ---- loops --------------------------------------------------------------------------------------------------------
    def piece(self) -> str:
        """What a loop is made of."""
        rng, e = self.rng, self.e
        size = self.size()
        a, kind = self.reg(size), {8: "byte", 16: "word", 32: "dword", 64: "qword"}[size]
        seg = self.pick("", "", "", "es:", "fs:", "gs:", "ss:")
        borders = (0x8FFD, 0x9000, 0x9FFE, 0xAFFF, 0xA004, 0xB001, 0xB800, 0x8802, 0x83FE, 0x8400, 0xD000 - 2)
        where = rng.choice((*borders, *borders, 0x3FFE, 0x7FFE, 0xFFFE))
        far = rng.choice(self.borders())
        at = f"{kind} ptr {seg}[{far if e and rng.random() < 0.2 else where - rng.randrange(3)}]"
        top = rng.choice((0xD000, 0xD002, 0xD001, 0xF000, 0xE000, 0x1_0000 if rng.random() < 0.1 else 0xE006))
        where, to = rng.randrange(0x8FF0, 0x9004), rng.choice((0x8FF8, 0x9FF4, 0xAFF8, 0x87F8, 0x83F8))
        function = f"call {rng.choice(FUNCTIONS) + (self.alias if rng.random() < 0.3 else 0)}"
        if not e:
            function = "nop"  # they are 32-bit code
        return self.pick(
            *(self.instruction(),) * 12,
            *(f"{self.pick('add', 'mov', 'xor', 'cmp', 'adc')} {a}, {at}",) * 3,
            *(f"{self.pick('add', 'mov', 'xor', 'sub', 'xchg', 'lock xadd')} {at}, {a}",) * 3,
            f"{self.pick('inc', 'not', 'shl')} {at}",
            *(function,) * 3,
            f"add {self.pick('dword', 'byte')} ptr [{rng.choice((0xB001, 0xB041, 0xB042))}], {rng.randrange(1, 100)}",
            f"mov {e}si, {where}; mov {e}di, {to}; mov {e}cx, {rng.randrange(1, 14)}; "
            f"{self.pick('rep movsb', 'rep movsw', 'rep stosb', 'repe cmpsb', 'rep movsd', 'rep lodsb')}",
            f"mov {e}sp, {top & 0xFFFF}; push {e}ax; push {e}bx; pop {e}dx; pop {e}ax"
            if not e
            else f"mov {e}sp, {top}; push {e}ax; push bx; pop dx; pop {e}dx",
            "push 0x55; pop ax; pushf; popf",
        )

    def instruction(self) -> str:
        """As in other loops, but for what needs handlers that are not here."""
        while True:
            text = super().instruction()
            if not any(word in text for word in ("div ", "rdtsc", "sti", "ds; mov es", "rep")):
                return text

    def loop(self, j: str) -> list[str]:
        """A loop of so many rounds."""
        e = self.e
        lines = [f"mov dword ptr ss:[{INNER}], {self.rng.randrange(4, 16)}", f"mov dword ptr ss:[{RESUME}], offset N{j}"]
        lines += [f"mov word ptr ss:[{RESUME16}], offset N{j}", f"A{j}:"]
        for _ in range(self.rng.randrange(2, 7)):
            lines.append(self.piece())
            if self.rng.random() < 0.3:
                n = self.fresh()
                lines += [f"j{self.cc()} s{n}", self.piece(), f"s{n}:"]
        leave = f"jz E{j}; jmp A{j}"
        return [*lines, f"N{j}: mov {e}sp, {STACK}", f"dec dword ptr ss:[{INNER}]", leave, f"E{j}:"]

    def body_of(self, j: str, bits: int, e: str) -> list[str]:
        """A loop in code of another size."""
        self.bits, self.e = bits, e
        body = self.loop(j)
        self.bits, self.e = self.bits_here, {32: "e", 64: "r"}[self.bits_here]
        return body

    def as_other(self, j: str) -> list[str]:
        """The same in 16-bit code, in real mode now and then; N lies in code of the size it is reached with."""
        body = self.body_of(j, 16, "")
        cut = next(k for k, line in enumerate(body) if line.startswith("N"))
        lines = ["cli", self.far(f"B{j}", CODE16, 0), ".code16", f"B{j}:"]
        if self.rng.random() < 0.4:
            lines += [f"lidt ss:[{REAL_IDT}]; mov eax, cr0; mov ss:[{LOG + 4}], eax; and eax, 0x7FFFFFFE; mov cr0, eax"]
            lines += [f".byte 0xEA; .word R{j}, 0; R{j}:", self.pick("nop", "push 0x800; pop es", "push 0x7FF; pop ds")]
            lines += body
            lines += [f"mov eax, ss:[{LOG + 4}]; and eax, 0x7FFFFFFF; mov cr0, eax", f"lidt ss:[{PROTECTED_IDT}]"]
            back = [f"mov eax, {FLAT}; mov ss, eax; mov ds, eax; mov es, eax", f"mov eax, ss:[{LOG + 4}]; mov cr0, eax"]
            return [*lines, f".byte 0x66, 0xEA; .long F{j}; .word 8; .code32; F{j}:", *back]
        lines += [*body[:cut], f"mov sp, {STACK}; dec dword ptr ss:[{INNER}]; jz Z{j}; jmp A{j}"]
        lines += [f"Z{j}: .byte 0x66, 0xEA; .long E{j}; .word 8; .code32", f"N{j}: mov esp, {STACK}"]
        lines += [f"dec dword ptr ss:[{INNER}]; jz E{j}", self.far(f"A{j}", CODE16, 0), f"E{j}:"]
        return lines

    def switches(self, blocks: int) -> list[str]:
        """Eight ways of changing something, each before one of the loops."""
        lines = []
        for k in range(8):
            lines.append(f"S{k}:")
            for _ in range(self.rng.randrange(1, 3)):
                n = self.fresh()
                lines += [self.change(f"D{n}"), f"D{n}:"]
            lines.append(f"jmp X{self.rng.randrange(blocks)}")
        for j in range(blocks):
            body = self.as_other(str(j)) if self.rng.random() < 0.3 else self.loop(str(j))
            lines += [f"X{j}:", *body, "jmp T"]
        return lines

    def program(self, blocks: int) -> list[str]:
        """Its parts."""
        lines = [f"mov dword ptr ss:[{OUTER}], {self.rng.randrange(12, 30)}", f"mov eax, {DIRECTORIES[0]}; mov cr3, eax"]
        lines += ["mov eax, cr4; or eax, 0x90; mov cr4, eax; mov eax, cr0; or eax, 0x80000000; mov cr0, eax"]
        lines += [f"mov eax, {DATA}; mov ebx, 7; mov edx, 5; mov ecx, 3; mov esi, {DATA + 0x500}; mov edi, {DATA + 0x600}"]
        lines += ["outer:", f"mov dword ptr ss:[{RESUME}], offset T"]
        lines += [f"mov eax, ss:[{OUTER}]; and eax, 7; jmp dword ptr ss:[table + eax * 4]"]
        lines += self.switches(blocks)
        lines += [f"T: mov esp, {STACK}; {self.far('base0', 8, 0)}; base0:"]
        lines += [f"dec dword ptr ss:[{OUTER}]; jz H; jmp outer", "H: hlt"]
        return [*lines, ".align 4", "table: .long S0, S1, S2, S3, S4, S5, S6, S7", "spare: .fill 16, 1, 0x90"]


def mode_guest(engine: str, options: Options | None, *, source: str, seed: int) -> Guest:
    """A guest about to run such a program."""
    guest = Guest(engine, options=options)
    prepare_modes(guest, seed)
    guest.load(source)
    guest.bare.vcpu.set_cpu("max")
    return guest


def a20(guest: Guest) -> None:
    """The other way."""
    guest.bare.vcpu.set_a20(int(guest.c.a20_mask) & 1 << 20 == 0)


def dma(guest: Guest) -> None:
    """A page of functions is written from outside, with the same bytes but for a number."""
    at = FUNCTIONS[guest.retired % 2] + 0x2000 * (guest.retired % 3)
    guest.bare.write(at + 1, guest.retired.to_bytes(4, "little"))
