"""Random real-mode programs for several processors that share memory, code and interrupts; what each computes is its own.

All run the same loops, each with memory of its own behind BP.  Between them: locked additions, a spin lock around plain
ones, numbers in the code that are rewritten for all, interrupts to one processor, to itself, to all others.  Handlers of
interrupts count.  Whatever the interleaving is, the sums are known, and so is what is a processor's own.
"""

from __future__ import annotations

from tests.boot.guests import FIRST_STEPS
from tests.engine.assembler import assemble
from tests.engine.flag_programs import FlagLoops

CODE, OWN, SUMS, LOCK, GUARDED, READY, DONE, COUNTS = 0x8000, 0x5000, 0x4000, 0x4100, 0x4102, 0x4108, 0x410C, 0x4200
STACK, PRIVATE = 0x7800, 0x400
"""Top of the first stack; bytes of a processor's own memory, which begins at OWN."""
VECTORS = (0x41, 0x42)
CODE_IN_ROM = 0x400
LEFT_OUT = ("in al", "sti", "div ", "rdtsc", "mov si", "mov di", "[di", "ax, ds", "pushf", "push", "xadd", "lock")
START = f"""{FIRST_STEPS}
    mov es, ax
    mov eax, fs:[0x20]
    shr eax, 24
    mov dx, ax
    mov sp, {STACK}
    shl ax, 8
    sub sp, ax
    mov ax, dx
    imul bp, ax, {PRIVATE}
    add bp, {OWN + PRIVATE // 2}
    test dx, dx
    jnz others
    mov word ptr [{VECTORS[0]} * 4], {CODE + 8}
    mov word ptr [{VECTORS[0]} * 4 + 2], 0
    mov word ptr [{VECTORS[1]} * 4], {CODE + 16}
    mov word ptr [{VECTORS[1]} * 4 + 2], 0
    mov si, {CODE_IN_ROM}
    mov di, {CODE}
    mov cx, 0x1000
    cld
    .byte 0x2E, 0xF3, 0xA4
    mov dword ptr fs:[0x300], 0xC46F0
others:
    sti
    .byte 0xEA
    .word {CODE}, 0
"""
END = f"""
out:
    lock inc word ptr [{DONE}]
1:  mov ax, [{DONE}]
    cmp ax, [number]
    jne 1b
    cmp bp, {OWN + PRIVATE // 2}
    jne 2f
    mov cx, 3000
3:  dec cx
    jnz 3b
    out 0xF4, al
2:  hlt
    jmp 2b
first:
    lock inc dword ptr [{COUNTS}]
    inc dword ptr [bp + {PRIVATE // 2 - 4}]
    mov dword ptr fs:[0xB0], 0
    iret
second:
    push ax
    lock inc dword ptr [{COUNTS + 4}]
    mov ax, [{SUMS}]
    mov dword ptr fs:[0xB0], 0
    pop ax
    iret
"""


class SmpLoops(FlagLoops):
    """One program for `n` processors; `rounds` of its outer loop."""

    def __init__(self, seed: int, n: int, rounds: int) -> None:
        self.n, self.rounds, self.sums, self.guarded = n, rounds, [0] * 8, 0
        super().__init__(seed, 16, 3)

    def mem(self, size: int) -> str:
        """The processor's own."""
        return f"{ {8: 'byte', 16: 'word', 32: 'dword'}[size]} ptr [bp + {self.rng.randrange(-0x100, 0x100)}]"

    def instruction(self) -> str:
        """Nothing that leaves, and nothing of what is shared."""
        while True:
            text = super().instruction()
            if not any(word in text for word in LEFT_OUT):
                return text

    def shared(self, k: int, times: int) -> str:
        """Something together with the others, registers and flags kept."""
        rng, at = self.rng, self.rng.randrange(8)
        value = rng.randrange(1, 1000)
        apic = f"mov dword ptr fs:[0x310], {rng.randrange(self.n) << 24}"
        vector = VECTORS[rng.randrange(2)]
        what = rng.randrange(5)
        if what == 0:
            self.sums[at] += value * times
            text = f"lock add dword ptr [{SUMS + 4 * at}], {value}"
        elif what == 1:
            self.sums[at] += value * times
            text = f"mov eax, {value}; lock xadd [{SUMS + 4 * at}], eax"
        elif what == 2:
            text = f"mov al, 1; w{k}: xchg al, [{LOCK}]; test al, al; jnz w{k}; inc dword ptr [{GUARDED}]; "
            text += f"add dword ptr [{GUARDED + 0x10}], {value}; mov byte ptr [{LOCK}], 0"
            self.guarded += times
        elif what == 3:
            text = f"mov word ptr [p{k} + 1], {value}; p{k}: mov ax, 5; inc byte ptr [q{k} + 1]; q{k}: mov ax, 7"
        else:
            to, send = rng.choice((0x4000, 0x4000, 0x44000, 0xC4000)), "mov dword ptr fs:[0x300]"
            now = f"test byte ptr [bp + {PRIVATE // 2 - 8}], {rng.choice((7, 31, 63))}; jnz i{k}"
            text = f"{now}; {apic}; {send}, {to | vector}; i{k}:"
        return f"pushf; push eax; {text}; pop eax; popf"

    def program(self, blocks: int) -> list[str]:
        """Its parts; `code` is copied to CODE, where it runs."""
        lines = ["jmp begin", ".org 8", "jmp first", ".org 16", "jmp second", "begin:"]
        lines += ["xor eax, eax; xor ebx, ebx; xor edx, edx; mov esi, 3; mov edi, 5"]
        lines += [f"mov word ptr [bp + {PRIVATE // 2 - 8}], {self.rounds}", "again:"]
        for k in range(blocks):
            times = self.rng.randrange(3, 9)
            lines += [f"mov cx, {times}", f"L{k}:", *self.body(6), self.shared(k, times)]
            lines += [f"j{self.cc()} s{k}", *self.body(4), f"s{k}:", self.pick("call function", "nop")]
            lines += ["dec cx", f"jnz L{k}"]
        lines += [f"dec word ptr [bp + {PRIVATE // 2 - 8}]", "jnz again; jmp out"]
        lines += ["function:", *self.body(4), "ret", *END.strip().split("\n"), f"number: .word {self.n}"]
        return lines

    def rom(self) -> bytes:
        """From F000:0000 on."""
        return assemble(START, 0, 16).ljust(CODE_IN_ROM, b"\xf4") + assemble(self.text, CODE, 16)
