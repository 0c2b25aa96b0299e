"""Random programs of calls, returns and indirect jumps that do not match: each block begins by counting down in memory.

Returns go where their caller did not call from, behind other calls, into the middle of blocks, or to addresses put on the
stack; two stacks take turns; tables of targets are changed; recursion goes deep.  The stack is put back now and then.
"""

from __future__ import annotations

from tests.engine.flag_programs import FlagLoops
from tests.engine.guest import DATA
from tests.engine.programs import SLOTS

LEFT, TABLE, OTHER, DEPTH = DATA + 0x700, DATA + 0x710, DATA + 0x7A0, DATA + 0x7A8
"""Blocks that are still to run; addresses of labels; the pointer of the stack that waits; how deep recursion is."""
STACKS = {16: (0xF000, 0xE800), 32: (0x20000, 0x1F800), 64: (0x20000, 0x1F800)}
ENTRIES = 8


class CallLoops(FlagLoops):
    """One program."""

    def instruction(self) -> str:
        """None of those that fault or leave: their place is elsewhere."""
        while True:
            text = super().instruction()
            if not any(word in text for word in ("div ", "in al", "rdtsc", "sti", "offset", "[edi", "[rdi", "[di")):
                return text

    def entry(self) -> tuple[str, str]:
        """An address from the table, into a register: by a number that the program has, or any."""
        e, r = self.e, self.pick("bx", "bx", "si", "di")
        scale = {16: 1, 32: 2, 64: 3}[self.bits]
        by = self.pick(f"mov {e}{r}, [{LEFT}]", f"mov {e}{r}, {self.rng.randrange(ENTRIES)}", f"mov {e}{r}, {e}ax")
        return f"{by}; and {e}{r}, {ENTRIES - 1}; shl {e}{r}, {scale}; mov {e}{r}, [{e}{r} + {TABLE}]", f"{e}{r}"

    def way(self, k: int) -> str:
        """How a block ends."""
        e, slot, size = self.e, SLOTS[self.bits], self.bits // 8
        code, r = self.entry()
        to, other, n = (f"L{self.rng.randrange(self.blocks)}" for _ in range(2)), f"f{self.rng.randrange(4)}", self.fresh()
        label, second = to
        memory = f"[{TABLE + size * self.rng.randrange(ENTRIES)}]"
        push = f"mov {e}ax, offset {label}; push {e}ax"
        forms = (
            *(f"call {other}",) * 3,
            *(f"{code}; jmp {r}", f"{code}; call {r}", f"{code}; push {r}; ret"),
            f"jmp {slot} ptr {memory}",
            f"call {slot} ptr {memory}",
            f"{push}; ret",
            f"{push}; jmp {other}",
            f"mov {e}bx, offset {second}; {push}; call {other}; jmp {e}bx",
            f"call n{n}; n{n}: pop {e}bx; lea {e}bx, [{e}bx + M{n} - n{n}]; push {e}bx; ret; .byte 0x0F, 0x0B; M{n}:",
            f"mov {e}ax, offset {label}; mov {memory}, {e}ax; j{self.cc()} {second}",
            f"xchg {e}sp, [{OTHER}]; call {other}; xchg {e}sp, [{OTHER}]",
            f"call {other}; xchg {e}sp, [{OTHER}]",
            f"mov {e}ax, {self.rng.randrange(2, 12)}; mov [{DEPTH}], {e}ax; call deep",
            f"push {e}ax; push {e}bx; {push}; call drop",
            f"j{self.cc()} {label}; j{self.cc()} {second}",
            f"enter {4 * size}, {self.rng.randrange(3)}; call {other}; mov {e}bp, {DATA + 0x400}",
            "nop",
            f"mov {e}sp, {STACKS[self.bits][0]}",
        )
        return self.rng.choice(forms)

    def fresh(self) -> int:
        """A number for labels."""
        self.faults += 1
        return self.faults

    def returns(self) -> str:
        """The end of a function."""
        e, slot, size = self.e, SLOTS[self.bits], self.bits // 8
        r, n = f"{e}{self.pick('bx', 'dx', 'si')}", self.fresh()
        top = {16: "mov bx, sp; add word ptr ss:[bx]", 32: "add dword ptr [esp]", 64: "add qword ptr [rsp]"}[self.bits]
        label = f"L{self.rng.randrange(self.blocks)}"
        return self.pick(
            *("ret",) * 4,
            f"pop {r}; jmp {r}",
            f"pop {r}; push {r}; ret",
            f"pop {slot} ptr [{DATA + 0x7B0}]; jmp {slot} ptr [{DATA + 0x7B0}]",
            f"j{self.cc()} ret{n}; mov {e}ax, offset {label}; push {e}ax; ret {size}; ret{n}: ret",
            f"ret {size * self.rng.randrange(3)}",
            f"j{self.cc()} ret{n}; {top}, 0; ret{n}: ret",
            f"call f{self.rng.randrange(4)}; ret",
            f"jmp f{self.rng.randrange(4)}",
            f"xchg {e}sp, [{OTHER}]; ret",
        )

    def counted(self, k: str) -> list[str]:
        """The beginning of a block or a function: flags are lost, and LAHF's are taken in place."""
        e, slot = self.e, SLOTS[self.bits]
        return [f"{k}:", f"dec {slot} ptr [{LEFT}]", "jz out", *self.pick("", f"mov {e}cx, [{LEFT}]", "sahf").split("; ")]

    def program(self, blocks: int) -> list[str]:
        """Its parts."""
        self.blocks = blocks
        e, rng, slot, size = self.e, self.rng, SLOTS[self.bits], self.bits // 8
        first, second = STACKS[self.bits]
        labels = [f"L{rng.randrange(blocks)}" for _ in range(ENTRIES)]
        lines = [f"mov {slot} ptr [{LEFT}], {rng.randrange(150, 400)}", f"mov {slot} ptr [{OTHER}], {second}"]
        lines += [f"mov {e}ax, offset {label}; mov [{TABLE + k * size}], {e}ax" for k, label in enumerate(labels)]
        fill = f"mov eax, offset L0; mov {e}di, {second}; mov {e}cx, {0x1000 // max(4, size)}; cld"
        if self.bits == 16:  # two words at once
            fill = fill.replace("mov eax, offset L0", "mov ax, offset L0; shl eax, 16; mov ax, offset L0")
        lines += [fill, f"rep stos{'q' if self.bits == 64 else 'd'}"]  # whatever is popped too often is an address, too
        lines += [f"mov {e}sp, {first}", "xor eax, eax"]
        for k in range(blocks):
            lines += [*self.counted(f"L{k}"), *self.body(4), self.way(k), *self.body(3)]
        lines += ["jmp L0"]
        for k in range(4):
            lines += [*self.counted(f"f{k}"), *self.body(4), self.returns()]
        lines += [*self.counted("deep"), f"dec {slot} ptr [{DEPTH}]", "jle 1f", "call deep", *self.body(2), "1: ret"]
        lines += [*self.counted("drop"), f"ret {2 * size}"]
        return [*lines, "out: hlt"]
