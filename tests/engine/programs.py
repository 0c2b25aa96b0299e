"""Random guest programs: loops, calls, strings, faults, interrupts, shadows, ports and MMIO, in 16-, 32- and 64-bit code.

Registers: rCX counts loops (whatever else needs it saves it), rBP and rSP are left alone.  Faults go to a handler
that continues at the address in `resume`.  FS is the MMIO window, GS a segment whose last bytes fault.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

import numpy as np

from jitvm.engine.accel import Options
from tests.engine.guest import CODE, DATA, GDT, IDT, STACK, Guest

HANDLERS, COUNTS, RESUME = 0x3000, 0xB000, 0xB800
MMIO = 0x50000
FAULTS = {0: 0, 4: 0, 5: 0, 6: 0, 11: 1, 12: 1, 13: 1}
"""Vectors that continue at `resume`, and whether they push an error code."""
CALLS = (0x30, 0x31, 0x32)
"""Vectors of INT instructions; the last one goes through a trap gate."""
REAL_STACK = 0xF000
SLOTS = {16: "word", 32: "dword", 64: "qword"}
"""What PUSH stores, by the code's size."""


def descriptor(base: int, limit: int, kind: int, big: bool = True) -> int:
    """A segment descriptor with a byte limit."""
    high = (base >> 24 << 24) | (0x40 << 16 if big else 0) | (limit >> 16 & 15) << 16 | kind << 8 | (base >> 16 & 0xFF)
    return high << 32 | (base & 0xFFFF) << 16 | limit & 0xFFFF


FLAT = 0x00CF_0000_0000_FFFF
SEGMENTS = (0, FLAT | 0x9B << 40, FLAT | 0x93 << 40, descriptor(MMIO, 0xFFFF, 0x93), descriptor(DATA, 0xFFF, 0x93))
FS, GS, NOBODY = 0x18, 0x20, 0x78


def handlers(bits: int) -> str:
    """The interrupt handlers: 32 bytes each."""
    e, slot = {16: ("", 2), 32: ("e", 4), 64: ("r", 8)}[bits]
    back = {16: "iret", 32: "iretd", 64: "iretq"}[bits]
    lines: list[str] = []
    for vector, has_error in FAULTS.items():
        lines += [f".org {32 * len(lines_of(lines))}", f"inc byte ptr [{COUNTS + vector}]"]
        if has_error and bits > 16:
            lines.append(f"add {e}sp, {slot}")
        lines += [f"push {e}bp", f"mov {e}bp, {e}sp", f"push {e}ax", f"mov {e}ax, [{RESUME}]"]
        lines += [f"mov [{e}bp + {slot}], {e}ax", f"pop {e}ax", f"pop {e}bp", back]
    for vector in CALLS:
        lines += [f".org {32 * len(lines_of(lines))}", f"inc byte ptr [{COUNTS + vector}]"]
        lines += ["stc", "sti", f"add {e}dx, 3", back]
    return "\n".join(lines)


def lines_of(lines: list[str]) -> list[str]:
    """Handlers begun so far."""
    return [line for line in lines if line.startswith(".org")]


def prepare(guest: Guest, bits: int) -> None:
    """Descriptor tables, vectors, handlers and registers."""
    guest.load(handlers(bits), HANDLERS, bits)
    vectors = [*FAULTS, *CALLS]
    c = guest.c
    if bits == 32:
        guest.bare.write(GDT, struct.pack(f"<{len(SEGMENTS)}Q", *SEGMENTS))
        for k, vector in enumerate(vectors):
            kind = 0x8F if vector == CALLS[-1] else 0x8E
            at = HANDLERS + 32 * k
            guest.bare.write(IDT + 8 * vector, struct.pack("<HHHH", at & 0xFFFF, 8, kind << 8, at >> 16))
        c.gdt_base, c.gdt_limit, c.idt_base, c.idt_limit = GDT, 8 * len(SEGMENTS) - 1, IDT, 0x3FF
        guest.registers(esp=STACK)
    elif bits == 64:
        from tests.engine.programs_long import prepare_long

        prepare_long(guest)
    else:
        guest.bare.set_mode("real")
        for k, vector in enumerate(vectors):
            guest.bare.write(4 * vector, struct.pack("<HH", HANDLERS + 32 * k, 0))
        c.idt_base, c.idt_limit = 0, 0x3FF
        guest.registers(esp=REAL_STACK)
    c.deliver = 1
    guest.registers(eflags=0x202, ebp=DATA + 0x400)
    rng = np.random.default_rng(1)
    guest.bare.write(DATA, rng.integers(0, 256, 0x1000, np.uint8).tobytes())


class Generator:
    """One program; `text` is its source."""

    def __init__(self, seed: int, bits: int, length: int = 14, pieces: Pieces | None = None) -> None:
        self.rng = np.random.default_rng([seed, bits])
        self.pieces = pieces or PIECES
        self.bits = bits
        self.e = {16: "", 32: "e", 64: "r"}[bits]
        self.size = bits // 8
        self.n = 0
        self.functions: list[list[str]] = []
        fs, gs = (FS, GS) if bits > 16 else (MMIO >> 4, DATA >> 4)
        body = self.body(length, 0)
        functions = [f"function{k}:\n" + "\n".join(lines) + "\n ret" for k, lines in enumerate(self.functions)]
        self.text = "\n".join([f"mov ax, {fs}\n mov fs, ax\n mov ax, {gs}\n mov gs, ax", *body, "hlt", *functions])

    # ---- choices ------------------------------------------------------------------------------------------------------
    def pick(self, *what: str) -> str:
        """One of them."""
        return what[int(self.rng.integers(len(what)))]

    def number(self, low: int, high: int) -> int:
        """low to high - 1."""
        return int(self.rng.integers(low, high))

    def label(self) -> str:
        """A fresh label."""
        self.n += 1
        return f"label{self.n}"

    def reg(self) -> str:
        """A register that is free to change, of the operand size or the other one."""
        return self.pick("e", self.e, self.e) + self.pick("ax", "bx", "dx", "si", "di")

    def wide(self) -> str:
        """A register of the code's size."""
        return self.e + self.pick("ax", "bx", "dx", "si", "di")

    def mem(self) -> str:
        """A memory operand in the data, without its size."""
        return f"[{self.e}bp + {self.number(-0x3F0, 0x3F0)}]"

    def one_of_sizes(self, *parts: str) -> str:
        """An operand size with its accumulator."""
        return self.pick("byte", "word", "dword")

    # ---- pieces -------------------------------------------------------------------------------------------------------
    def body(self, length: int, depth: int) -> list[str]:
        """Some pieces in a row."""
        lines: list[str] = []
        for _ in range(length):
            lines += self.pieces[self.number(0, len(self.pieces))](self, depth)
        return lines

    def alu(self, depth: int) -> list[str]:
        op, a = self.pick("add", "sub", "xor", "and", "or", "cmp", "adc", "sbb"), self.reg()
        b = a[:-2] + self.pick("ax", "bx", "dx", "si", "di")
        return [f"{op} {a}, {b}", f"{self.pick('inc', 'dec', 'neg', 'not')} {self.reg()}"]

    def memory(self, depth: int) -> list[str]:
        size, a = self.one_of_sizes(), self.reg()
        op = self.pick("add", "sub", "xor", "mov", "adc", "cmp")
        return [
            f"{op} {self.mem()}, {a}",
            f"{self.pick('inc', 'shl', 'not', 'dec')} {size} ptr {self.mem()}",
            f"mov {a}, {self.mem()}",
        ]

    def flags(self, depth: int) -> list[str]:
        label = self.label()
        cc = self.pick("c", "z", "s", "o", "p", "be", "l", "le")
        return [
            f"test {self.wide()}, {self.number(1, 128)}",
            f"j{cc} {label}",
            f"inc {self.wide()}",
            "nop",
            f"{label}:",
        ]

    def shift(self, depth: int) -> list[str]:
        return [
            f"{self.pick('shl', 'shr', 'sar', 'rol', 'rcr')} {self.reg()}, {self.number(0, 9)}",
            f"setc {self.pick('al', 'dh', 'bl')}",
        ]

    def nops(self, depth: int) -> list[str]:
        return ["nop"] * self.number(1, 5)

    def stack(self, depth: int) -> list[str]:
        return [
            f"push {self.wide()}",
            f"push {self.size // 2}",
            "pushf",
            f"pop {self.wide()}",
            f"pop {self.wide()}",
            f"pop {self.wide()}",
        ]

    def big_stack(self, depth: int) -> list[str]:
        return [
            "pusha" + ("d" if self.bits == 32 else "w"),
            f"enter 16, {self.number(0, 4)}",
            "leave",
            "popa" + ("d" if self.bits == 32 else "w"),
        ]

    def loop(self, depth: int) -> list[str]:
        if depth > 1:
            return self.alu(depth)
        label = self.label()
        end = self.pick(
            f"loop {label}near\n jmp {label}end\n {label}near: jmp {label}\n {label}end:",
            f"dec {self.e}cx\n jnz {label}",
            f"sub {self.e}cx, 1\n ja {label}",
        )
        inner = self.body(self.number(1, 4), depth + 1)
        count = self.number(1, 5)
        return [f"push {self.e}cx", f"mov {self.e}cx, {count}", f"{label}:", *inner, end, f"pop {self.e}cx"]

    def call(self, depth: int) -> list[str]:
        if depth > 1:
            return self.nops(depth)
        k = len(self.functions)
        self.functions.append([])
        self.functions[k] = self.body(self.number(1, 3), 2)
        if self.rng.integers(2):
            return [f"call function{k}"]
        return [f"mov {self.e}di, offset function{k}", f"call {self.e}di"]

    def string(self, depth: int) -> list[str]:
        op = self.pick("movs", "stos", "lods", "scas", "cmps") + self.pick("b", "w", "d")
        rep = self.pick("rep", "rep", "") if op[:4] in ("movs", "stos", "lods") else self.pick("repe", "repne", "")
        count = self.pick("0", "1", str(self.number(2, 30)))
        where = [
            f"mov {self.e}si, {DATA + self.number(0x40, 0x7C0)}",
            f"mov {self.e}di, {DATA + self.number(0x40, 0x7C0)}",
        ]
        return [
            f"push {self.e}cx",
            f"mov {self.e}cx, {count}",
            *where,
            self.pick("cld", "std"),
            f"{rep} {op}",
            "cld",
            f"pop {self.e}cx",
        ]

    def fault(self, depth: int) -> list[str]:
        label = self.label()
        cause = self.pick(
            "ud2",
            f"xor {self.e}dx, {self.e}dx\n mov byte ptr [{DATA}], 0\n div byte ptr [{DATA}]",
            "mov dword ptr gs:[0xFFFD], eax",
            f"add gs:[0xFFFF], {self.e}ax",
            f"mov ax, {NOBODY}\n mov es, ax" if self.bits == 32 else "mov ax, fs:[0xFFFF]",
            f"mov dword ptr [{DATA}], 0x10000\n mov {self.e}ax, 5\n bound {self.e}ax, [{DATA}]",
            f"mov {self.e}di, 0xFFFC\n mov {self.e}cx, 5\n std\n rep lodsb gs:[{self.e}si]"
            if self.bits == 32
            else "ud2",
        )
        out = [f"push {self.e}cx", f"mov {self.e}bx, offset {label}", f"mov [{RESUME}], {self.e}bx"]
        out += [
            f"mov [{RESUME + 8}], {self.e}sp",
            cause,
            f"{label}:",
            f"mov {self.e}sp, [{RESUME + 8}]",
            "cld",
            f"pop {self.e}cx",
        ]
        return out

    def divide(self, depth: int) -> list[str]:
        """A division that faults now and then."""
        label = self.label()
        return [
            f"mov {self.e}bx, offset {label}",
            f"mov [{RESUME}], {self.e}bx",
            f"and byte ptr {self.mem()}, {self.number(0, 4)}",
            f"{self.pick('div', 'idiv')} byte ptr {self.mem()}",
            f"{label}:",
        ]

    def segments(self, depth: int) -> list[str]:
        """Loads of segment registers that succeed."""
        pointer = f"les {self.e}si, {self.mem()}\n inc byte ptr es:[{self.e}bx]\n push ds\n pop es"
        return self.pick(
            f"push {self.e}ax\n mov ax, ds\n mov es, ax\n pop {self.e}ax",
            "push ds\n pop es",
            pointer if self.bits == 16 else "push es\n pop es",
        ).split("\n")

    def arithmetic(self, depth: int) -> list[str]:
        """What loops of compilers are made of."""
        a, b = self.wide(), self.wide()
        low = self.pick("al", "bl", "dl", "ah", "bh", "dh")
        cc = self.pick("c", "z", "s", "o", "p", "be", "l", "le", "nz", "a", "ge")
        return self.pick(
            f"imul {a}, {b}",
            f"mul {b}",
            f"imul {a}, {self.mem()}, {self.number(-100, 100)}",
            f"movzx {a}, {low}\n movsx {b}, byte ptr {self.mem()}",
            f"bt {a}, {self.number(0, 16)}\n adc {b}, {self.number(0, 9)}",
            f"btc {a}, {b}",
            f"shld {a}, {b}, {self.number(0, 16)}",
            f"xchg {a}, {b}\n xchg {low}, {self.mem()}",
            f"lea {a}, [{self.e}bx + {self.e}si + {self.number(0, 99)}]",
            f"cmp {a}, {b}\n cmov{cc} {a}, {self.mem()}",
            f"set{cc} {low}\n set{cc} {self.mem()}",
            f"xadd {a}, {b}\n cmpxchg {self.mem()}, {a}",
            f"cwde\n cdq\n bsf {a}, {b}",
            f"push dword ptr [{self.e}bp + 8]\n pop dword ptr [{self.e}bp + 16]",
            "pushf\n lahf\n popf\n sahf\n cmc",
            f"aam\n daa\n add {a}, {b}",
        ).split("\n")

    def interrupt(self, depth: int) -> list[str]:
        return [
            self.pick("stc", "clc", "cli", "sti"),
            f"int {CALLS[self.number(0, len(CALLS))]}",
            f"adc {self.wide()}, 0",
        ]

    def shadow(self, depth: int) -> list[str]:
        return self.pick(
            "mov ax, ss\n mov ss, ax\n inc ax",
            "cli\n sti\n nop",
            "push ss\n pop ss\n stc",
            f"pushf\n pop {self.e}ax\n push {self.e}ax\n popf",
        ).split("\n")

    def time(self, depth: int) -> list[str]:
        return ["rdtsc", f"mov {self.mem()}, eax", f"add {self.mem()}, edx"]

    def port(self, depth: int) -> list[str]:
        a = self.pick("al", "ax", "eax")
        if self.rng.integers(2):
            return [f"mov dx, {self.number(0, 0x10000)}", self.pick(f"in {a}, dx", f"out dx, {a}")]
        return [self.pick(f"in {a}, {self.number(0, 256)}", f"out {self.number(0, 256)}, {a}")]

    def mmio(self, depth: int) -> list[str]:
        at, size = f"fs:[{self.number(0, 0x1000)}]", self.one_of_sizes()
        a, slot = {"byte": "al", "word": "ax", "dword": "eax", "qword": "rax"}[size], SLOTS[self.bits]
        return [
            self.pick(
                f"mov {a}, {at}",
                f"mov {at}, {a}",
                f"add {at}, {a}",
                f"inc {size} ptr {at}",
                f"xchg {at}, {a}",
                f"push {slot} ptr {at}\n pop {self.e}bx",
                f"push {self.e}bx\n pop {slot} ptr {at}",
                f"cmp {at}, {a}",
                f"lock cmpxchg {at}, {a.replace('a', 'b') if size == 'byte' else a.replace('ax', 'bx')}",
                "cmpxchg8b fs:[8]",
            )
        ]

    def mmio_string(self, depth: int) -> list[str]:
        op = self.pick("movs", "lods") + self.pick("b", "w", "d")
        count = self.number(0, 4)
        where = [f"mov {self.e}si, {self.number(0, 64)}", f"mov {self.e}di, {DATA + self.number(0, 64)}"]
        source = {"b": "byte", "w": "word", "d": "dword"}[op[-1]] + " ptr"
        text = (
            f"rep {op[:4]} {source} es:[{self.e}di], fs:[{self.e}si]"
            if op[:4] == "movs"
            else f"rep lodsb al, fs:[{self.e}si]"
        )
        return [f"push {self.e}cx", f"mov {self.e}cx, {count}", *where, text, f"pop {self.e}cx"]

    def port_string(self, depth: int) -> list[str]:
        op = self.pick("ins", "outs") + self.pick("b", "w", "d")
        where = [
            f"mov {self.e}si, {DATA + self.number(0x40, 0x400)}",
            f"mov {self.e}di, {DATA + self.number(0x40, 0x400)}",
        ]
        count = self.number(0, 9)
        return [
            f"push {self.e}cx",
            f"mov {self.e}cx, {count}",
            *where,
            f"mov dx, {self.number(0, 1000)}",
            self.pick("cld", "std"),
            f"{self.pick('rep', 'rep', '')} {op}",
            "cld",
            f"pop {self.e}cx",
        ]


Pieces = list[Callable[[Generator, int], list[str]]]
PIECES: Pieces = [
    Generator.alu,
    Generator.memory,
    Generator.flags,
    Generator.shift,
    Generator.nops,
    Generator.stack,
    Generator.big_stack,
    Generator.loop,
    Generator.loop,
    Generator.call,
    Generator.string,
    Generator.string,
    Generator.fault,
    Generator.interrupt,
    Generator.shadow,
    Generator.time,
    Generator.port,
    Generator.mmio,
    Generator.mmio_string,
    Generator.port_string,
]
COMPUTE: Pieces = [
    *(Generator.alu, Generator.memory, Generator.flags, Generator.shift, Generator.nops, Generator.stack),
    *(Generator.arithmetic, Generator.arithmetic, Generator.loop, Generator.loop, Generator.loop, Generator.call),
    *(Generator.mmio, Generator.divide, Generator.segments),
]
"""What loops of compute programs are made of, with an MMIO access and a fault now and then."""


def program(seed: int, bits: int, length: int = 14, pieces: Pieces | None = None) -> str:
    """Source of a random program that ends with HLT."""
    if bits == 64:
        from tests.engine.programs_long import COMPUTE_LONG, PIECES_LONG, LongGenerator

        return LongGenerator(seed, bits, length, COMPUTE_LONG if pieces is COMPUTE else PIECES_LONG).text
    return Generator(seed, bits, length, pieces).text


def looping(seed: int, bits: int, length: int = 10) -> str:
    """A random compute program whose loops run a few times more often than others' do."""
    source = program(seed, bits, length, COMPUTE)
    return re.sub(r"(mov [er]?cx, )([1-4])$", lambda m: f"{m[1]}{4 * int(m[2]) + 1}", source, flags=re.M)


def loaded(engine: str, source: str, bits: int, options: Options | None = None) -> Guest:
    """A guest with the program, ready to run."""
    guest = Guest(engine, options=options)
    prepare(guest, bits)
    guest.load(source, CODE, bits)
    return guest
