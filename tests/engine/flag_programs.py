"""Random loops of blocks that jump to and fro: flags live over edges, and pages change under a register.

rCX is the counter: back edges alone write it, half of them without a flag (LEA, LOOP, JCXZ), and shifts read it.  All sizes
of operands, high bytes, flags kept by what writes some of them (INC, rotates, counts of 0), operands over the end of a page,
locked ones, pointers to RAM, code and a device, divisions that fault; with `extra`, comparisons of x87 and XMM registers.
"""

from __future__ import annotations

import random

from tests.engine.guest import DATA
from tests.engine.programs import RESUME, SLOTS

POINTERS = DATA + 0x40
"""Eight pointers that code picks from."""
TARGETS = (0x8200, 0x8FFD, 0x8400, 0x9FFE, 0xA000, 0xA7F0, 0x8300)
"""Where they lead; the last one is a device's, or beside the code."""
CONDITIONS = "o no b ae e ne be a s ns p np l ge le g".split()
POINTER_TO = {8: "byte ptr ", 16: "word ptr ", 32: "dword ptr ", 64: "qword ptr "}
X87 = (
    "fldz; fld1; fcomip st, st(1); fstp st(0)",
    "fld1; fldz; fucomip st, st(1); fstp st(0)",
    "fldz; fldz; fdivp st(1), st; fucomi st, st(0); fstp st(0)",
    "fld1; fldz; fcmov{cc} st, st(1); fcomip st, st(1); fstp st(0)",
    "fldz; ftst; fnstsw ax; sahf; fstp st(0)",
    "fild dword ptr [{e}bp + 4]; fistp dword ptr [{e}bp + 8]",
    "fld1; fstp tbyte ptr [{e}bp + 0xBFA]",
)
SSE = (
    "comiss xmm0, xmm1",
    "ucomisd xmm1, [{e}bp]",
    "movd xmm0, eax",
    "paddd xmm1, xmm0",
    "movups xmm1, [{e}bp + 0xBF6]",
)


class FlagLoops:
    """One program; `text` is its source."""

    data = DATA
    """Where the operands are."""

    def __init__(self, seed: int, bits: int, blocks: int, *, extra: bool = False) -> None:
        self.rng = random.Random(f"{seed} {bits}")
        self.bits, self.e, self.extra, self.faults = bits, {16: "", 32: "e", 64: "r"}[bits], extra, 0
        self.text = "\n".join(line for part in self.program(blocks) for line in part.split("; "))

    # ---- operands -----------------------------------------------------------------------------------------------------
    def pick(self, *what: str) -> str:
        """One of them."""
        return self.rng.choice(what)

    def size(self, least: int = 8) -> int:
        """Bits of an operand."""
        return max(least, self.rng.choice((8, 16, 32, 32, 64) if self.bits == 64 else (8, 16, 32, 32)))

    def reg(self, size: int) -> str:
        """A register that is free to change."""
        if size == 8:
            return self.pick("al", "bl", "dl", "ah", "bh", "dh")
        return {16: "", 32: "e", 64: "r"}[size] + self.pick("ax", "bx", "dx", "si", "di")

    def mem(self, size: int) -> str:
        """A memory operand; one of three lies on two pages."""
        far = f"{self.e}bp + {0xBF8 + self.rng.randrange(12)}", str(self.data + 0x1000 - self.rng.randrange(1, 16))
        near = f"{self.e}bp + {self.rng.randrange(-0x80, 0x80)}", str(self.data + 0x100 + self.rng.randrange(64))
        return f"{POINTER_TO[size]}[{self.pick(*far, *near, *near)}]"

    def any(self, size: int) -> str:
        """Something to read."""
        number = self.rng.choice((0, 1, -1, 127, self.rng.randrange(-128, 128)))
        return self.pick(self.reg(size), self.mem(size), str(number))

    def cc(self) -> str:
        """A condition."""
        return self.pick(*CONDITIONS)

    # ---- instructions -------------------------------------------------------------------------------------------------
    def instruction(self) -> str:
        """One, or some that belong together."""
        size, wide = self.size(), self.size(16)
        a, b, big = self.reg(size), self.reg(size), self.reg(wide)
        change = self.pick(a, self.mem(size))
        count = self.pick("cl", "cl", "1", "0", str(self.rng.randrange(33)))
        word, slot = self.reg(self.bits), self.mem(self.bits)
        flags = ("lahf", "sahf", "cmc", "stc", "clc", *(() if self.bits == 64 else ("daa", "aas", "aad", ".byte 0xd6")))
        forms = (
            *(f"{self.pick('add', 'sub', 'cmp', 'cmp', 'and', 'or', 'xor', 'test')} {a}, {self.any(size)}",) * 4,
            f"{self.pick('add', 'sub', 'cmp', 'and', 'adc', 'sbb', 'mov')} {self.mem(size)}, {b}",
            *(f"{self.pick('inc', 'dec')} {change}",) * 3,
            *(f"{self.pick('adc', 'sbb')} {a}, {self.any(size)}",) * 2,
            *(f"{self.pick('shl', 'shr', 'sar', 'rol', 'ror', 'rcl', 'rcr')} {change}, {count}",) * 2,
            f"{self.pick('shld', 'shrd')} {big}, {self.reg(wide)}, {count}",
            *(f"set{self.cc()} {self.pick('al', 'ah', 'dl', self.mem(8))}", f"cmov{self.cc()} {big}, {self.mem(wide)}"),
            *(self.pick(*flags), self.pick(*flags), "pushf; popf", f"pushf; pop {word}", f"push {word}; pop {slot}"),
            f"{self.pick('bt', 'bts', 'btr', 'btc')} {big}, {self.pick(self.reg(wide), '3')}",
            f"{self.pick('bsf', 'bsr', 'imul')} {big}, {self.mem(wide)}",
            *(
                f"{self.pick('mul', 'imul', 'neg', 'not')} {change}",
                f"{self.pick('', 'lock ')}xadd {self.mem(size)}, {b}",
            ),
            f"{self.pick('', 'lock ')}cmpxchg {self.mem(size)}, {b}",
            *(f"xchg {a}, {self.mem(size)}", f"mov {a}, {self.any(size)}", f"movsx {self.reg(32)}, {self.reg(8)}"),
            self.string(),
            *(self.chase(size), self.divide()),
            self.pick("rdtsc", "cld", "in al, 0x60", "cli; sti", "mov ax, ds; mov es, ax"),
        )
        return self.rng.choice(forms)

    def string(self) -> str:
        """A string instruction, alone or repeated a few times."""
        e, alone = self.e, self.pick("lodsb", "stosb", "scasb", "cmpsb", "movsb")
        repeated = self.pick("repe cmpsb", "repne scasb", "rep stosb", "rep movsb", "rep lodsb")
        where = f"mov {e}si, {self.data + 0x500}; mov {e}di, {self.data + 0x600}"
        return self.pick(
            f"{alone}; {where}", f"push {e}cx; {where}; mov {e}cx, {self.rng.randrange(4)}; {repeated}; pop {e}cx"
        )

    def chase(self, size: int) -> str:
        """An access by a pointer that is picked by what a register holds."""
        e, a, kind = self.e, self.reg(size), POINTER_TO[size]
        use = self.pick(
            f"add {kind}[{e}di], {a}", f"mov {a}, [{e}di]", f"inc {kind}[{e}di + 3]", f"mov [{e}di + 2], {a}"
        )
        pick = f"mov {e}di, {e}{self.pick('ax', 'dx', 'cx')}; and {e}di, 7; shl {e}di, {self.bits.bit_length() - 4}"
        return f"{pick}; mov {e}di, [{e}di + {POINTERS}]; {use}"

    def divide(self) -> str:
        """A division that may fault; the handler goes on behind it."""
        self.faults += 1
        divisor = self.pick("dl", "bh", "bx", self.mem(8))
        return f"mov {SLOTS[self.bits]} ptr [{RESUME}], offset F{self.faults}; div {divisor}; F{self.faults}:"

    def body(self, most: int) -> list[str]:
        """Up to so many instructions."""
        lines = []
        for _ in range(self.rng.randrange(1, most)):
            if self.extra and self.rng.random() < 0.3:
                lines.append(self.pick(*X87, *SSE).format(e=self.e, cc=self.pick("b", "e", "be", "nu")))
            else:
                lines.append(self.instruction())
        return lines

    # ---- blocks -------------------------------------------------------------------------------------------------------
    def back(self, k: int) -> str:
        """The way back from block `k`, which ends the program when the counter is 0."""
        e, to = self.e, f"L{self.rng.randrange(k + 1)}"
        jz = {16: "jcxz", 32: "jecxz", 64: "jrcxz"}[self.bits]
        less = "xchg ax, cx; dec ax; xchg ax, cx" if self.bits == 16 else f"lea {e}cx, [{e}cx - 1]"
        return self.pick(
            f"{less}; {jz} T{k}; jmp {to}; T{k}: jmp out",
            f"loop N{k}; jmp out; N{k}: j{self.cc()} {to}",
            f"loop{self.pick('e', 'ne')} N{k}; {jz} T{k}; jmp C{k}; T{k}: jmp out; N{k}: jmp {to}; C{k}:",
            f"dec {e}cx; jz T{k}; j{self.cc()} {to}; jmp C{k}; T{k}: jmp out; C{k}:",
            f"sub {e}cx, 1; jbe T{k}; jmp {to}; T{k}: jmp out",
        )

    def program(self, blocks: int) -> list[str]:
        """Its parts; a part is lines with "; " between them."""
        e, rng = self.e, self.rng
        last = "0x50010" if self.bits > 16 else "offset spare"
        lines = [
            f"mov {SLOTS[self.bits]} ptr [{POINTERS + k * self.bits // 8}], {to}"
            for k, to in enumerate((*TARGETS, last))
        ]
        lines += [f"mov {e}{r}, {v}" for r, v in (("ax", rng.randrange(1 << 15)), ("cx", rng.randrange(60, 120)))]
        lines += [f"mov {e}si, {DATA + 0x500}; mov {e}di, {DATA + 0x600}", "fninit"]
        return [*lines, *self.chain(blocks, "out: hlt"), "spare: .fill 16, 1, 0x90"]

    def chain(self, blocks: int, end: str) -> list[str]:
        """The blocks, what comes behind the last one, and a function that they call."""
        lines = []
        for k in range(blocks):
            ahead = f"L{self.rng.randrange(k + 1, blocks + 1)}"
            ends = f"j{self.cc()} {ahead}", f"j{self.cc()} {ahead}", "call function", self.back(k), self.back(k), "nop"
            lines += [f"L{k}:", *self.body(7), self.pick(*ends)]
        lines += [f"L{blocks}:", self.back(blocks), end]
        return [*lines, "function:", *self.body(4), f"j{self.cc()} behind", *self.body(3), "behind: ret"]
