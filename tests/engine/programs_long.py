"""Random guest programs of 64-bit code: see tests/engine/programs.py.

R8 to R15 are used, RIP-relative and high addresses, 32-bit addresses; what faults is not canonical.
"""

from __future__ import annotations

import struct

from jitvm.bare import HIGH
from tests.engine.guest import DATA, GDT, IDT, STACK, Guest
from tests.engine.programs import CALLS, COMPUTE, FAULTS, HANDLERS, PIECES, RESUME, SEGMENTS, Generator, Pieces

CODE64 = 0x00AF_9B00_0000_FFFF
NEW = "r8 r9 r10 r11 r12 r13 r14 r15".split()


def prepare_long(guest: Guest) -> None:
    """64-bit mode, descriptor tables and vectors; the handlers are there."""
    guest.bare.set_mode("long")
    c = guest.c
    guest.bare.write(GDT, struct.pack(f"<{len(SEGMENTS)}Q", SEGMENTS[0], CODE64, *SEGMENTS[2:]))
    for k, vector in enumerate([*FAULTS, *CALLS]):
        kind = 0x8F if vector == CALLS[-1] else 0x8E
        guest.bare.write(IDT + 16 * vector, struct.pack("<HHHHQ", HANDLERS + 32 * k, 8, kind << 8, 0, 0))
    c.gdt_base, c.gdt_limit, c.idt_base, c.idt_limit = GDT, 8 * len(SEGMENTS) - 1, IDT, 0x7FF
    guest.registers(rsp=STACK, r8=7, r15=1 << 63)


class LongGenerator(Generator):
    """One program of 64-bit code."""

    def new(self) -> str:
        """One of the registers that need REX."""
        return self.pick(*NEW)

    def one_of_sizes(self, *parts: str) -> str:
        return self.pick("byte", "word", "dword", "qword")

    def big_stack(self, depth: int) -> list[str]:
        return [f"enter 16, {self.number(0, 4)}", "leave"]

    def rex(self, depth: int) -> list[str]:
        """The new registers, in all sizes."""
        a, b, old = self.new(), self.new(), self.wide()
        op, size = self.pick("add", "sub", "xor", "adc", "cmp", "mov"), self.pick("", "d", "w", "b")
        return self.pick(
            f"{op} {a}{size}, {b}{size}",
            f"{op} {old}, {a}",
            f"{op} {a}, {self.number(-(1 << 31), 1 << 31)}",
            f"mov {a}, {self.number(0, 1 << 62)}\n bswap {a}",
            f"movzx {a}d, {b}b\n movsxd {b}, {a}d",
            f"{op} {self.pick('sil', 'dil', 'al')}, {a}b",
            f"rol {a}, {self.number(0, 64)}\n setc {b}b",
            f"imul {a}, {b}\n cdqe\n cqo",
            f"cmp {a}d, {b}d\n cmovl {a}d, {self.mem()}",
            f"bt {self.mem()}, {a}d\n cmpxchg {a}d, {b}d" if size == "b" else f"bsf {a}d, {b}d",
            f"xchg {a}, {old}\n not {a}d",
            f"push {a}\n pop {b}",
        ).split("\n")

    def addresses(self, depth: int) -> list[str]:
        """Ways to the data that only 64-bit code has."""
        a, b, at = self.new(), self.new(), DATA + self.number(0, 0x7F0)
        return self.pick(
            f"{self.pick('add', 'mov', 'xor')} [rip + {at}], {a}",
            f"mov {a}d, [rip + {at}]",
            f"lea {a}, [rip + {at}]\n inc byte ptr [{a}]",
            f"movabs {a}, {HIGH + at}\n add qword ptr [{a}], {self.number(-9, 9)}\n sbb {b}, [{a} + 8]",
            f"movabs rax, [{HIGH + at}]\n movabs [{at}], al",
            f"add {a}d, [ebp + {self.number(0, 0x100)}]",
            f"movzx {b}d, {a}b\n lea {a}, [{b} + {b} * 4 + 3]\n inc word ptr [{b} * 2 + {DATA}]",
            f"cmp dword ptr [rip + {at}], {self.number(-99, 99)}\n mov qword ptr [rip + {at}], {self.number(-99, 99)}",
        ).split("\n")

    def fault(self, depth: int) -> list[str]:
        label, a = self.label(), self.new()
        cause, behind = self.pick(
            "ud2;",
            f"movabs {a}, 0x7FFFFFFFFFFD\n mov [{a}], rax;",
            f"movabs {a}, 0x1234567890ABCDEF\n add rax, [{a} + rbp];",
            f"movabs {a}, 0x800000000000\n {self.pick('jmp', 'call')} {a};",
            f"movabs {a}, 0x8000000000000000\n push {a}\n ret;",
            f"movabs {a}, 0x8000000000000000\n lock not qword ptr gs:[{a}];",
            f"movabs {a}, 0x8000000000000000\n xchg rbp, {a}\n inc dword ptr [rbp];xchg rbp, {a}",
            f"movabs rsi, 0x800000000000\n mov rcx, 5\n std\n rep lods{self.pick('w', 'q')};",
            "mov ax, 0x78\n mov es, ax;",
        ).split(";")
        return [
            *("push rcx", f"mov rbx, offset {label}", f"mov [{RESUME}], rbx", f"mov [{RESUME + 8}], rsp"),
            *(cause, f"{label}:", f"mov rsp, [{RESUME + 8}]", behind, "cld", "pop rcx"),
        ]

    def segments(self, depth: int) -> list[str]:
        return self.pick("push rax\n mov ax, ds\n mov es, ax\n pop rax", "push fs\n pop fs", "push gs\n pop gs").split(
            "\n"
        )

    def arithmetic(self, depth: int) -> list[str]:
        a, b = self.wide(), self.wide()
        low = self.pick("al", "bl", "sil", "r9b", "r14b")
        cc = self.pick("c", "z", "s", "o", "p", "be", "l", "le", "nz", "a", "ge")
        return self.pick(
            f"imul {a}, {b}",
            f"mul {b}",
            f"imul {a}, {self.mem()}, {self.number(-100, 100)}",
            f"movzx {a}, {low}\n movsx {b}, byte ptr {self.mem()}",
            f"bt {a}, {self.number(0, 64)}\n adc {b}, {self.number(0, 9)}",
            f"btc {a}, {b}",
            f"shld {a}, {b}, {self.number(0, 64)}",
            f"xchg {a}, {b}\n xchg {low}, {self.mem()}",
            f"lea {a}, [rbx + rsi + {self.number(0, 99)}]",
            f"cmp {a}, {b}\n cmov{cc} {a}, {self.mem()}",
            f"set{cc} {low}\n set{cc} {self.mem()}",
            f"xadd {a}, {b}\n cmpxchg {self.mem()}, {a}",
            f"cwde\n cdq\n bsf {a}, {b}",
            "push qword ptr [rbp + 8]\n pop qword ptr [rbp + 16]",
            "pushf\n popf\n cmc",
        ).split("\n")

    def shadow(self, depth: int) -> list[str]:
        return self.pick(
            "mov ax, ss\n mov ss, ax\n inc ax", "cli\n sti\n nop", "pushf\n pop rax\n push rax\n popf"
        ).split("\n")


def _own(pieces: Pieces) -> Pieces:
    """The pieces as this generator makes them, and some that only it has."""
    mine = [getattr(LongGenerator, piece.__name__) for piece in pieces]
    return [*mine, LongGenerator.rex, LongGenerator.rex, LongGenerator.addresses, LongGenerator.addresses]


PIECES_LONG, COMPUTE_LONG = _own(PIECES), _own(COMPUTE)
