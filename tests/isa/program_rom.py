"""Random programs of rare_programs.py as a ROM: what each leaves, in real mode or in flat 32-bit protected mode.

The ROM copies a program to where it is linked, gives it handlers, tables, memory and registers, and at its end writes down
registers, flags, segments and a sum over memory, in hex on the debug port: one line a program.

Not made: ports, time, x87, SSE; flags that are undefined are defined at once, and what has an undefined result is left out.
"""

from __future__ import annotations

import struct
from pathlib import Path

from tests.boot.guests import RESET_VECTOR, ROM_SIZE
from tests.engine.assembler import assemble
from tests.engine.guest import CODE, DATA, GDT, IDT
from tests.engine.programs import CALLS, FAULTS, HANDLERS, MMIO, SEGMENTS, handlers
from tests.engine.programs_long import CODE64, NEW
from tests.engine.rare_programs import GATE16, STRINGS, TRAPS, UPPER, RareLoops, call_gates, rare_guest, trap
from tests.firmware.flat_rom import enter
from tests.isa.vector_rom import DIGIT

STACKS, TOP = {16: 0xF000, 32: 0x20000, 64: 0x20000}, 0x2F00
"""A program's stack, and the harness's."""
TABLE, SIZE, VARIABLES = 0xC00, 0xA00, 0x6000
N_PROGRAMS = (0xFFE0 - TABLE) // SIZE
SELECTORS = ("es", "ss", "ds", "fs", "gs")
AT, LEAVE = VARIABLES + 0x100, VARIABLES + 0x108
"""Which program is next; where the harness goes on in 64-bit code."""
FINISH, ROM, PML4 = 8, 0xF0000, 0x70000
UNDEFINED = "shl shr sar shld shrd rol ror rcl rcr mul imul bt bts btr btc and or xor test".split()
LEFT_OUT = ("rdtsc", "in al", "bsf", "bsr", "daa", "aas", "aad", "salc", "0xd6", "smsw", "sidt", "sgdt", "65535")
MEMORY = ((0x7000, 0x9000), (UPPER << 4, 0x10000), (0x2F000, 0x2000), (0x3F000, 0x2000), (MMIO, 0x10000))
"""What programs use, and how much of it."""
SUMMED = ((DATA, 0x4000), (0xF000, 0x1000), (UPPER << 4, 0xF000), *MEMORY[2:])
"""Not the stack, where frames of faults may hold undefined flags."""
MOST = 20_000
"""Instructions of a program."""
ANYWHERE = ("lodsb", "stosb", "scasb", "cmpsb", "movsb")
"""At its beginning: a string instruction whose pointers hold whatever they held, so that it may meet the board."""
PREFIX = {16: "", 32: "e", 64: "r"}
FLAT = "mov eax, 0x10\n mov ds, eax\n mov es, eax\n mov ss, eax"
REAL = "xor eax, eax\n mov ds, eax\n mov es, eax\n mov ss, eax"
LONG_MODE = f"""
    mov edi, {PML4}
    mov ecx, 0xC00
    xor eax, eax
    rep stosd
    mov eax, {PML4 + 0x1003}
    mov [{PML4}], eax
    mov [{PML4 + 0x800}], eax
    mov dword ptr [{PML4 + 0x1000}], {PML4 + 0x2003}
    mov edi, {PML4 + 0x2000}
    mov eax, 0x83
1:  mov [edi], eax
    add edi, 8
    add eax, 0x200000
    cmp eax, 0x40000083
    jne 1b
    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    mov eax, {PML4}
    mov cr3, eax
    mov ecx, 0xC0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    .byte 0xEA
    .long wide
    .word 0x18
    .code64
wide: mov dword ptr [{LEAVE}], {ROM + FINISH}
    mov dword ptr [{LEAVE + 4}], 0
"""
"""On to 64-bit code; 1 GiB of memory at 0 and at the lowest of the upper half."""


class RomLoops(RareLoops):
    """One program."""

    strings_made = tuple(name for name in STRINGS if name not in ("ins", "outs"))

    def instruction(self) -> str:
        """What says the same everywhere."""
        while True:
            text = super().instruction()
            if not any(word in text for word in LEFT_OUT) and not text.startswith(ANYWHERE):
                break
        words = {part.split()[0] for part in text.split("; ") if part}
        return f"{text}; {self.defined()}" if words & {*UNDEFINED, "div", "lock", "aam"} else text

    def strings(self) -> str:
        """What Bochs does otherwise than silicon is left out.

        CMPS has no SS: Bochs looks at its source before its target, and both may be beyond a limit.  Flags of a repeated
        comparison that faults are the old ones (SDM vol. 3, 17.3.1.1), Bochs's those of an iteration.  With 67h in 64-bit
        code Bochs clears upper halves of both indexes also where nothing was repeated (jitvm/isa/string.py).
        """
        while True:
            text = super().strings()
            compares = "0xa6" in text or "0xa7" in text
            if not (compares and "0x36" in text) and not (self.bits == 64 and "0x67" in text):
                return f"{text}; {self.defined()}"

    def frames(self) -> str:
        """In 64-bit code Bochs makes nothing of LEAVE's 66h; silicon pops a word."""
        while True:
            text = super().frames()
            if self.bits < 64 or ".byte 0x66; leave" not in text:
                return text

    def iret(self) -> str:
        """In 64-bit code Bochs's IRETD leaves SS:RSP on the stack; silicon pops it (SDM vol. 3, 6.14.3)."""
        while True:
            text = super().iret()
            if self.bits < 64 or "iretq" in text:
                return text

    def defined(self) -> str:
        """All flags get values."""
        return f"{self.pick('cmp', 'add', 'sub')} {self.reg(32)}, {self.reg(32)}"

    def plain(self) -> str:
        """In the middle of a piece: no flag is undefined."""
        while True:
            text = super().plain()
            if not text.startswith((*UNDEFINED, *ANYWHERE, "lock")) and not any(word in text for word in LEFT_OUT):
                return text


def names(bits: int) -> tuple[str, ...]:
    """Of a line, in this order."""
    registers = [f"{'r' if bits == 64 else 'e'}{name}" for name in ("ax", "cx", "dx", "bx", "bp", "si", "di", "sp")]
    return (*registers, *(NEW if bits == 64 else ()), "flags", *SELECTORS, "sum")


def source_of(seed: int, bits: int) -> str:
    """A program that ends in the ROM."""
    text = RomLoops(seed, bits, 3 + seed % 4).text
    far = {16: f".byte 0xEA\n .word {FINISH}, 0xF000", 32: f".byte 0xEA\n .long {ROM + FINISH}\n .word 8"}
    return text.replace("out: hlt", f"out: {far.get(bits, f'jmp qword ptr [{LEAVE}]')}")


def summed(bits: int) -> tuple[tuple[int, int], ...]:
    """What is added up; in 16-bit code the end of a segment, too, since the stack is elsewhere."""
    return (*SUMMED, (0x1F000, 0x1000)) if bits == 16 else SUMMED


def each(memory: tuple[tuple[int, int], ...], bits: int, index: str, function: str) -> str:
    """Call a function for each piece of memory, with ES and an index there, and so many doublewords in rCX."""
    lines = []
    for at, size in memory:
        lines += [f"mov {PREFIX[bits]}{index}, {at}" if bits > 16 else f"mov ax, {at >> 4 & 0xF000}\n mov es, ax"]
        lines += [
            f"mov {index}, {at & 0xFFFF}" if bits == 16 else "",
            f"mov {PREFIX[bits]}cx, {size // 4}",
            f"call {function}",
        ]
    return "\n".join(lines)


def tables(bits: int) -> dict[str, tuple[int, bytes]]:
    """Handlers, vectors and descriptors by name, and where they lie."""
    at = {vector: HANDLERS + 32 * k for k, vector in enumerate((*FAULTS, *CALLS))} | {v: TRAPS + 32 * v for v in (1, 3)}
    made = {"handlers": (HANDLERS, assemble(handlers(bits), HANDLERS, bits))}
    made |= {f"trap{v}": (at[v], assemble(trap(v, bits), at[v], bits)) for v in (1, 3)}
    if bits == 16:
        return made | {"vectors": (0, b"".join(struct.pack("<HH", at.get(v, 0), 0) for v in range(64)))}
    wide = bytes(8 * (bits == 64))
    kinds = {vector: 0x8F if vector == CALLS[-1] else 0x8E for vector in at}
    gates = [struct.pack("<HHHH", at.get(v, 0), 8, kinds.get(v, 0) << 8, 0) + wide for v in range(64)]
    code = CODE64 if bits == 64 else SEGMENTS[1]
    gdt = struct.pack(f"<{len(SEGMENTS)}Q", SEGMENTS[0], code, *SEGMENTS[2:]) + call_gates(bits)
    return made | {"vectors": (IDT, b"".join(gates)), "gdt": (GDT, gdt)}


def copies(bits: int, blocks: dict[str, tuple[int, bytes]]) -> str:
    """Bytes of the ROM to where they belong."""
    e, lines = PREFIX[bits], []
    for name, (at, data) in blocks.items():
        lines += [f"mov {e}si, offset {name}", f"mov {e}di, {at}", f"mov {e}cx, {len(data)}", copy(bits)]
    return "\n".join(lines)


def copy(bits: int) -> str:
    """Bytes of the ROM to ES:rDI."""
    return "rep movsb es:[di], cs:[si]" if bits == 16 else "rep movsb"


def harness(bits: int, n: int) -> bytes:
    """The ROM's code: what begins, goes from program to program, and tells what came of each."""
    e, base, slot = PREFIX[bits], 0 if bits == 16 else ROM, 8 if bits == 64 else 4
    a, here = "r" if bits == 64 else "e", REAL if bits == 16 else FLAT
    at = {name: VARIABLES + slot * k for k, name in enumerate(names(bits))}
    keep = [f"mov [{place}], {name}" for name, place in at.items() if name not in (*SELECTORS, "flags", "sum")]
    keep += [f"mov eax, {name}\n mov [{at[name]}], {a}ax" for name in SELECTORS]
    blocks = tables(bits)
    blobs = "\n".join(f"{name}: .byte {', '.join(map(str, data))}" for name, (_, data) in blocks.items())
    clear = "\n".join(f"xor {r}, {r}" for r in ("eax", "ebx", "ecx", "edx", "esi", "edi"))
    clear += "".join(f"\n xor {r}d, {r}d" for r in NEW) if bits == 64 else ""
    flat = f"{enter('gdtr - rom', 'protected')}\n .code32\n protected: {FLAT}\n {LONG_MODE if bits == 64 else ''}"
    go = f".byte 0xEA\n .word {CODE}, 0" if bits == 16 else f"mov eax, {CODE}\n jmp {e}ax"
    far = "0x48, 0xCB" if bits == 64 else "0xCB"
    own = f"lgdt [gdt_of_programs]\n lidt [idt_of_programs]\n push 8\n push offset new\n .byte {far}"
    text = f"""
rom: .code16
    jmp begin
    .org {FINISH}
    .code{bits}
finish:
    {chr(10).join(keep)}
    {here}
    mov {e}sp, {TOP}
    pushf{"d" if bits == 16 else ""}
    pop {a}ax
    mov [{at["flags"]}], {a}ax
    cld
    xor ebp, ebp
    {each(summed(bits), bits, "si", "sum")}
    mov [{at["sum"]}], {a}bp
    mov dx, 0xE9
    mov {e}si, {VARIABLES}
4:  mov {a}bx, [{e}si]
    add {e}si, {slot}
    mov {e}cx, {2 * slot}
5:  rol {a}bx, 4
    {DIGIT}
    cmp {e}si, {VARIABLES + slot * len(at)}
    jne 4b
    mov al, 10
    out dx, al
    add dword ptr [{AT}], {SIZE}
    cmp dword ptr [{AT}], {base + TABLE + n * SIZE}
    jne next
    mov {e}si, offset shutdown
    mov {e}cx, 8
    mov dx, 0x8900
7:  mov al, cs:[{e}si]
    inc {e}si
    out dx, al
    loop 7b
    mov al, 0
    out 0xF4, al
    hlt
shutdown: .ascii "Shutdown"
sum: rol ebp, 1
    add ebp, es:[{e}si]
    add {e}si, 4
    loop sum
    ret
pattern: mov ebx, 0x01234567
9:  mov eax, ebx
    stosd
    imul ebx, ebx, 1664525
    add ebx, 1013904223
    loop 9b
    ret
    .code16
begin: cli
    mov al, 0xFF
    out 0x21, al
    out 0xA1, al
    mov eax, cr0
    and eax, 0x9FFFFFFF
    mov cr0, eax
    {"" if bits == 16 else flat}
    .code{bits}
    {here}
    mov dword ptr [{AT}], {base + TABLE}
next: {here}
    mov {e}sp, {TOP}
    {each(MEMORY, bits, "di", "pattern")}
    {here}
    {copies(bits, blocks)}
    {"" if bits == 16 else own}
new: mov esi, [{AT}]
    mov {e}di, {CODE}
    mov {e}cx, {SIZE}
    {copy(bits)}
    {here}
    xor eax, eax
    mov fs, eax
    mov gs, eax
    {clear}
    mov {e}sp, {STACKS[bits]}
    mov ebp, {DATA + 0x400}
    push 0x202
    popf
    {go}
{blobs}
    .align 8
gdt_of_rom: .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00AF9B000000FFFF
gdtr: .word 31
    .long gdt_of_rom
gdt_of_programs: .word {GATE16 + 15}
    .long {GDT}, 0
idt_of_programs: .word 0x3FF
    .long {IDT}, 0
"""
    if bits == 16:
        text = text[: text.index("gdt_of_rom:")]
    return assemble(text, base, bits)


def image(folder: Path, programs: list[bytes], bits: int) -> Path:
    """The ROM that runs them."""
    code = harness(bits, len(programs))
    assert len(code) <= TABLE, len(code)
    body = b"".join(program.ljust(SIZE, b"\xf4") for program in programs)
    whole = bytearray((code.ljust(TABLE, b"\0") + body).ljust(ROM_SIZE, b"\0"))
    whole[0xFFF0 : 0xFFF0 + len(RESET_VECTOR)] = RESET_VECTOR
    path = folder / f"programs{bits}.bin"
    path.write_bytes(whole)
    return path


def ends(seed: int, bits: int) -> bool:
    """Whether a program comes to its end, and not to a shutdown."""
    source = RomLoops(seed, bits, 3 + seed % 4).text
    return rare_guest("handlers", None, source=source, bits=bits).go(MOST) == "hlt"


def programs(base: int, bits: int) -> dict[int, bytes]:
    """As many as a ROM has room for, by seed."""
    made: dict[int, bytes] = {}
    while len(made) < N_PROGRAMS:
        base += 1
        code = assemble(source_of(base, bits), CODE, bits)
        if len(code) <= SIZE and ends(base, bits):
            made[base] = code
    return made
