"""Random loops of what programs do seldom: far calls and returns, call gates, frames of IRET and POPF, prefixes, limits.

Beside the instructions of flag_programs.py: IRET and POPF that change TF, IF, DF, NT, RF, AC and ID; ENTER with levels; near
branches with 66h; loops with 67h; string and port instructions with every prefix, both directions and all sizes of operands
and addresses, over the ends of pages, of segments, of 64 KiB and of RAM; segment registers loaded in loops; operands over
limits, by 16-, 32- and 64-bit addresses; all locked forms, also where LOCK is none; descriptors looked at.

A piece keeps rCX, rBP, rSP and DS.  What faults goes on behind it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from jitvm.engine.accel import Options
from tests.engine.assembler import assemble
from tests.engine.flag_programs import POINTER_TO, FlagLoops
from tests.engine.guest import DATA, GDT, Guest
from tests.engine.programs import COUNTS, FS, GS, MMIO, RESUME, SLOTS
from tests.engine.ways import set_vector, start

TRAPS, GATE, GATE16, SAVED, POINTER = 0x3800, 0x28, 0x30, DATA + 0x90, DATA + 0xA0
TF, IF, DF, NT, RF, AC, ID = 0x100, 0x200, 0x400, 0x4000, 0x10000, 0x40000, 0x200000
ANOTHER_CS = 0x10
"""A selector of real mode by which code has other offsets."""
UPPER = 0x1000
"""A segment of real mode in which nothing else lies."""
PREFIXES = (0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65)
STRINGS = {"movs": 0xA4, "cmps": 0xA6, "stos": 0xAA, "lods": 0xAC, "scas": 0xAE, "ins": 0x6C, "outs": 0x6E}
LOCKED = "add or adc sbb and sub xor inc dec not neg bts btr btc xadd cmpxchg".split()
SCRATCH = ("ax", "bx", "dx", "si", "di")


def trap(vector: int, bits: int) -> str:
    """The handler of #DB or #BP: it counts."""
    return f"inc word ptr [{COUNTS + 0x40 + 2 * vector}]\n { {16: 'iret', 32: 'iretd', 64: 'iretq'}[bits] }"


def call_gates(bits: int) -> bytes:
    """From GATE on: the program fills in where they lead."""
    if bits == 64:
        return struct.pack("<HHHHQ", 0, 8, 0x8C00, 0, 0)
    return struct.pack("<HHHH", 0, 8, 0x8C00, 0) + struct.pack("<HHHH", 0, 8, 0x8400, 0)


def rare_guest(engine: str, options: Options | None, *, source: str, bits: int) -> Guest:
    """A guest about to run such a program: traps are counted, and there is room for two gates."""
    guest = start(engine, options, source=source, bits=bits)
    for vector in (1, 3):
        at = TRAPS + 32 * vector
        guest.bare.write(at, assemble(trap(vector, bits), at, bits))
        set_vector(guest, bits, vector, at)
    if bits != 16:
        guest.c.gdt_limit = GATE16 + 7
        guest.bare.write(GDT + GATE, call_gates(bits))
    return guest


class RareLoops(FlagLoops):
    """One program."""

    strings_made: tuple[str, ...] = tuple(STRINGS)

    def instruction(self) -> str:
        """One of the rare ones, or another."""
        if self.rng.random() < 0.5:
            return super().instruction()
        return str(getattr(self, self.rng.choice(PIECES).__name__)())

    def plain(self) -> str:
        """One that asks nothing of where it is."""
        while True:
            text = super().instruction()
            if not any(word in text for word in ("div ", "offset", "push", "pop", "int")):
                return text

    # ---- help ---------------------------------------------------------------------------------------------------------
    def fresh(self) -> int:
        """A number for labels."""
        self.faults += 1
        return self.faults

    def guarded(self, text: str) -> str:
        """What may fault."""
        n = self.fresh()
        return f"mov {SLOTS[self.bits]} ptr [{RESUME}], offset F{n}; {text}; F{n}:"

    def free(self) -> str:
        """A register of the code's size."""
        return self.e + self.pick(*SCRATCH)

    def number(self, size: int) -> str:
        """A directive for a number of so many bits."""
        return {16: ".word", 32: ".long", 64: ".quad"}[size]

    def other(self) -> int:
        """The operand size of 66h."""
        return 32 if self.bits == 16 else 16

    # ---- far transfers ------------------------------------------------------------------------------------------------
    def far_call(self) -> str:
        """A far call to a function that returns so."""
        bits, n = self.bits, self.fresh()
        to, cs = ("farfn", 0 if bits == 16 else 8)
        at = f"[{POINTER}]"
        if bits == 64:
            wide, gate = self.rng.random() < 0.5, self.rng.random() < 0.4
            fn = "farfnq" if wide or gate else "farfn"
            lines = f"mov rax, offset {fn}; mov {at}, rax"
            lines += f"; mov dword ptr [{POINTER + (8 if wide else 4)}], {GATE if gate else 8}"
            return f"{lines}; .byte {'0x48, ' if wide else ''}0xFF, 0x1C, 0x25; .long {POINTER}"
        narrow = self.rng.random() < 0.4
        size = self.other() if narrow else bits
        fn = to if size == bits else "farfn66"
        up, selector = 0, cs
        if bits == 16 and self.rng.random() < 0.5:
            up, selector = ANOTHER_CS << 4, ANOTHER_CS
        elif bits == 32 and self.rng.random() < 0.3:
            fn, selector = ("farfn", GATE) if self.rng.random() < 0.6 else ("farfn66", GATE16)
        head = "0x66, " if narrow else ""
        direct = f".byte {head}0x9A; {self.number(size)} {fn} - {up}; .word {selector}"
        offset = f"mov word ptr {at}, offset {fn} - {up}" + (f"; mov word ptr [{POINTER + 2}], 0" if size == 32 else "")
        modrm = f"0x1E; .word {POINTER}" if bits == 16 else f"0x1D; .long {POINTER}"
        memory = f"{offset}; mov word ptr [{POINTER + size // 8}], {selector}; .byte {head}0xFF, {modrm}"
        near = f"push cs; call {to}"
        pushed = f"push cs; push offset n{n}; jmp {to}; n{n}:"
        return self.pick(direct, direct, memory, near, pushed)

    def far_jump(self) -> str:
        """To behind itself, by another way."""
        n, bits = self.fresh(), self.bits
        if bits == 64:
            return f"push 8; push offset n{n}; .byte 0x48, 0xCB; ud2; n{n}:"
        size = self.rng.choice((16, 32))
        head = "" if size == bits else "0x66, "
        cs = 0 if bits == 16 else 8
        slot = f".byte {head.rstrip(', ')}; " if head else ""
        direct = f".byte {head}0xEA; {self.number(size)} n{n}; .word {cs}; ud2; n{n}:"
        word = {16: "ax", 32: "eax"}[size]
        behind = f"{slot}push cs; mov eax, offset n{n}; push {word}; .byte {head}0xCB; ud2; n{n}:"
        return self.pick(direct, behind)

    def near_66(self) -> str:
        """A near call or branch whose offset has the other size; in 64-bit code Intel's processors make nothing of it."""
        n, bits = self.fresh(), self.bits
        size = 32 if bits == 64 else self.other()
        number = self.number(size)
        code = f"0x0F, {0x80 + self.rng.randrange(16):#x}"
        return self.pick(
            f".byte 0x66, 0xE8; {number} near66 - . - {size // 8}",
            f".byte 0x66, {code}; {number} n{n} - . - {size // 8}; {self.plain()}; n{n}:",
            f".byte 0x66, 0xE9; {number} n{n} - . - {size // 8}; ud2; n{n}:",
            f".byte 0x66, 0xEB, n{n} - . - 1; ud2; n{n}:",
        )

    def returns(self) -> str:
        """RET n of a call of its own."""
        n, size = self.fresh(), self.bits // 8
        count, a = self.rng.randrange(3), self.free()
        pushes = f"push {a}; " * count
        return f"{pushes}call n{n}; jmp m{n}; n{n}: {self.plain()}; ret {size * count}; m{n}:"

    # ---- flags --------------------------------------------------------------------------------------------------------
    def calm(self) -> str:
        """TF, DF and NT off."""
        a, kept = f"{self.e}ax", (0xFF_FFFF if self.e else 0x7FFF) & ~(TF | DF | NT)
        return f"pushf; pop {a}; and {a}, {kept}; push {a}; popf"

    def mask(self, size: int) -> int:
        """Flags that are to change."""
        bits = (TF, IF, DF, NT, 1, 0x40, 0x800, *((RF, AC, ID) if size > 16 else ()))
        return sum(self.rng.sample(bits, self.rng.randrange(1, 4)))

    def popf(self) -> str:
        """Flags change on the stack."""
        size = self.rng.choice((16, 32)) if self.bits < 64 else self.rng.choice((64, 64, 16))
        a = {16: "ax", 32: "eax", 64: "rax"}[size]
        head = "" if size == self.bits else ".byte 0x66; "
        image = f"{head}pushf; pop {a}; xor {a}, {self.mask(size)}; push {a}; {head}popf"
        return f"{image}; {self.plain()}; {self.plain()}; {self.calm()}"

    def iret(self) -> str:
        """IRET to behind itself, with other flags."""
        n, bits = self.fresh(), self.bits
        end = f"ud2; n{n}: {self.plain()}; {self.calm()}"
        if bits == 64:
            flags = f"pushf; pop rax; xor eax, {self.mask(32)}"
            if self.rng.random() < 0.5:
                frame = f"mov edx, ss; mov rbx, rsp; push rdx; push rbx; push rax; push 8; push offset n{n}; iretq"
                return f"{flags}; {frame}; {end}"
            frame = (
                "mov rbx, rsp; sub rsp, 20; mov edx, ss; mov [rsp + 16], edx; mov [rsp + 12], ebx; mov [rsp + 8], eax"
            )
            return f"{flags}; {frame}; mov dword ptr [rsp + 4], 8; mov dword ptr [rsp], offset n{n}; .byte 0xCF; {end}"
        size = self.rng.choice((16, 32))
        a, head = {16: "ax", 32: "eax"}[size], "" if size == bits else ".byte 0x66; "
        flags = f"{head}pushf; pop {a}; xor {a}, {self.mask(size)}; push {a}"
        return f"{flags}; {head}push cs; mov eax, offset n{n}; push {a}; {head}.byte 0xCF; {end}"

    # ---- frames and loops -----------------------------------------------------------------------------------------------
    def frames(self) -> str:
        """ENTER and LEAVE, also of the other size."""
        head = self.pick("", "", ".byte 0x66; ")
        level = self.rng.choice((0, 0, 1, 2, 3, 31))
        keep = f"mov [{SAVED}], {self.e}sp; mov [{SAVED + 8}], {self.e}bp"
        back = f"mov {self.e}sp, [{SAVED}]; mov {self.e}bp, [{SAVED + 8}]"
        enter = f"{head}enter {self.rng.choice((0, 2, 8, 16, 30))}, {level}"
        return f"{keep}; {enter}; {self.pick('nop', self.plain())}; {head}leave; {back}"

    def loops(self) -> str:
        """LOOP, LOOPE, LOOPNE and JCXZ that count in the register of 67h."""
        n, bits, e = self.fresh(), self.bits, self.e
        upper = self.rng.choice((0, 0, 1, 0x7FFF)) << 16 if bits == 32 else 0
        if bits == 64:
            upper = self.rng.choice((0, 1 << 32, 5 << 40))
        size = self.pick("", "", ".byte 0x66; ")
        jump = self.pick(f"loop n{n}", f"loope n{n}", f"loopne n{n}", f"loop n{n}")
        body = self.pick("nop", f"inc {self.reg(16)}", f"cmp {self.reg(8)}, {self.reg(8)}", f"add {self.mem(16)}, 1")
        head = f"push {e}cx; mov {e}cx, {upper + self.rng.randrange(1, 6)}"
        jump_zero = {16: "jcxz", 32: "jecxz", 64: "jrcxz"}[bits]
        return self.pick(
            *(f"{head}; n{n}: {body}; {size}.byte 0x67; {jump}; pop {e}cx",) * 2,
            f"push {e}cx; mov {e}cx, {upper}; .byte 0x67; {jump_zero} n{n}; {self.plain()}; n{n}: pop {e}cx",
        )

    # ---- strings and ports ----------------------------------------------------------------------------------------------
    def places(self) -> tuple[str, str, str]:
        """Where sources and targets lie: code that makes ES so, and one of each."""
        rng, bits = self.rng, self.bits
        k = rng.randrange(24)
        ends = (DATA + 0x1000 - k, DATA + 0x2000 - k, DATA + 0x100 + k)
        if bits == 16:
            es, places = rng.choice(
                ((0, ends), (UPPER, (0xFFFF - k, k, 0x8000)), (DATA >> 4, (0x1000 - k, k, 0x2000 - k)))
            )
            to = rng.choice(places)
            upper = rng.choice((0, 0, 0, 0x10000))
            return f"mov ax, {es}; mov es, ax", str(rng.choice((*ends, 0xFFFF - k, k)) | upper), str(to | upper)
        low = k if bits == 32 else 0x200 + k  # in long mode there is nothing below 4 GiB, and nobody for a page fault
        source = rng.choice((*ends, 0x4_0000 - k, 0x1_0000 - k, low))
        to = rng.choice((*ends, 0x4_0000 - k, 0x3_0000 - k, low))
        if bits == 32 and rng.random() < 0.4:
            return (
                f"mov eax, {GS}; mov es, eax",
                str(rng.choice((source, 0xFF8 + k % 12))),
                str(rng.choice((k, 0x1000 - k))),
            )
        upper = rng.choice((0, 0, 0xFFFF_8000 << 32)) if bits == 64 else 0
        return "nop", str(source | upper), str(to | upper)

    def strings(self) -> str:
        """A string instruction with prefixes in any order."""
        rng, e, bits = self.rng, self.e, self.bits
        name = rng.choice([*self.strings_made, "movs", "cmps", "stos", "scas"])
        size = rng.choice((8, 16, 32) if bits < 64 or name in ("ins", "outs") else (8, 16, 32, 64))
        prefixes = [rng.choice(PREFIXES)] if rng.random() < 0.4 else []
        if rng.random() < 0.3:
            prefixes.append(0x67)
        if size not in (8, 64) and (size == 16) != (bits == 16):
            prefixes.append(0x66)
        if rng.random() < 0.75:
            prefixes.append(rng.choice((0xF3, 0xF3, 0xF2)))
        rng.shuffle(prefixes)
        code = [*prefixes, *([0x48] if size == 64 else []), STRINGS[name] + (size > 8)]
        es, source, to = self.places()
        wide = "r" if bits == 64 else "e"
        where = f"mov {wide}si, {source}; mov {wide}di, {to}; mov {e}cx, {rng.choice((0, 1, rng.randrange(2, 20)))}"
        run = f"mov dx, {rng.randrange(1000)}; {self.pick('cld', 'cld', 'std')}; .byte {', '.join(map(hex, code))}"
        flat = "" if es == "nop" else f"; mov ax, {0 if bits == 16 else 0x10}; mov es, ax"
        return f"push {e}cx; {es}; {where}; {self.guarded(run)} cld{flat}; pop {e}cx"

    # ---- segments -------------------------------------------------------------------------------------------------------
    def loads(self) -> str:
        """Segment registers get values, good ones and others."""
        rng, bits = self.rng, self.bits
        seg = self.pick("es", "fs", "gs")
        values = (
            (0, UPPER, DATA >> 4, MMIO >> 4, 0xFFFF) if bits == 16 else (0, 3, 0x10, FS, GS, 0x11, 8, 0x78, 0x2B, GATE)
        )
        value, size = rng.choice(values), self.size()
        a = self.reg(size)
        pointer = f"mov word ptr [{POINTER + (2 if bits == 16 else 4)}], {value}"
        ways = [f"mov ax, {value}; mov {seg}, ax", f"mov word ptr [{POINTER}], {value}; mov {seg}, [{POINTER}]"]
        if bits < 64:
            ways += [
                f"{pointer}; l{seg} {self.free()}, [{POINTER}]",
                f"push {value}; pop {seg}" if value < 0x80 else "nop",
            ]
            ways += [f"mov [{POINTER}], {self.e}sp; mov [{POINTER + bits // 8}], ss; lss {self.e}sp, [{POINTER}]"]
            ways += ["push ds; pop ds", f"mov [{POINTER + bits // 8}], ds; lds {self.free()}, [{POINTER}]"]
        elif seg != "es":
            ways += [f"push {value}; pop {seg}"]
        place = f"{POINTER_TO[size]}{seg}:[{rng.choice((0x10, 0xFF8, 0xFFD, 0xFFF, 0x1000, 0xFFFD, 0xFFFF))}]"
        if bits == 16 and value == 0:
            place = f"{POINTER_TO[size]}{seg}:[{DATA + rng.randrange(0x1000)}]"
        if value in (0x10, 8, 0x11) or (bits == 64 and seg == "es"):
            place = self.mem(size)
        use = self.pick(f"mov {a}, {place}", f"add {place}, {a}", f"mov {place}, {a}", f"cmp {a}, {place}")
        return f"{self.guarded(self.pick(*ways))} {self.guarded(use)} {self.home()}"

    def home(self) -> str:
        """ES, FS and GS as they were."""
        values = (
            (("es", 0), ("fs", MMIO >> 4), ("gs", DATA >> 4))
            if self.bits == 16
            else (("es", 0x10), ("fs", FS), ("gs", GS))
        )
        return "; ".join(f"mov ax, {value}; mov {seg}, ax" for seg, value in values)

    def limits(self) -> str:
        """An operand at the end of a segment, by any size of address."""
        rng, bits, size = self.rng, self.bits, self.size()
        a, k = self.reg(size), rng.randrange(9)
        ways: tuple[tuple[str, str], ...]
        if bits == 64:
            upper = rng.choice((0, 1 << 31, 0xFFFF_8000, rng.getrandbits(32)))
            ways = (
                (f"[ebx + {k}]", f"movabs rbx, {upper << 32 | DATA + 0xFF8}"),
                (f"[rbx + {k}]", f"movabs rbx, {1 << 47}"), (f"[rbx - {k + 8}]", f"movabs rbx, {0xFFFF_8000 << 32}"),
                (f"[rbx + rsi * 8 + {k}]", f"mov ebx, {DATA}; movabs rsi, {1 << 44}"),
            )  # fmt: skip
        elif bits == 32:
            ways = (
                (f"gs:[ebx + {k}]", f"mov ebx, {0xFF8 + rng.randrange(4)}"),
                ("gs:[bx]", f"mov ebx, {0x7_0FF8 + k}"),
                (f"[bx + {k}]", f"mov ebx, {DATA + 0xFF8}"),
                (f"gs:[ebx - {k}]", "xor ebx, ebx"),
            )  # fmt: skip
        else:
            ways = (
                ("[bx]", f"mov bx, {0xFFF8 + k % 8}"), (f"es:[ebx + {k}]", "mov ebx, 0xFFF8"), ("[ebx]", "mov ebx, 0x10000"),
                (f"gs:[bx + {k}]", "mov bx, 0xFFF8"), (f"[bx + {0xFFF8 + k}]", f"mov bx, {DATA}"),
                (f"[bp + {0xFFF8 - DATA - 0x400 + k}]", "nop"),
                (f"gs:[ebx + edx * 2 + {k}]", "mov ebx, 0xFFF0; movzx edx, dl"),
            )  # fmt: skip
        place, head = rng.choice(ways)
        place = f"{POINTER_TO[size]}{place}"
        use = self.pick(
            *(f"mov {a}, {place}", f"mov {place}, {a}", f"xor {place}, {a}", f"inc {place}", f"xchg {place}, {a}"),
            *(
                f"lock xadd {place}, {a}",
                f"cmp {place}, {a}",
                f"push {SLOTS[self.bits]} ptr {place.split('ptr ')[1]}; pop {self.free()}",
            ),
        )
        if use.startswith("push"):  # nothing is popped when nothing was pushed
            n = self.fresh()
            push, pop = use.split("; ")
            return f"{head}; mov {SLOTS[bits]} ptr [{RESUME}], offset F{n}; {push}; {pop}; F{n}:"
        return f"{head}; {self.guarded(use)}"

    def looks(self) -> str:
        """What looks at descriptors and tables."""
        size = self.rng.choice((16, 32))
        a, value = self.reg(size), self.rng.choice((0, 3, 8, 0x10, GS, GATE, 0x78, 0x11))
        name = self.pick("lar", "lsl")
        tables: tuple[str, ...] = (f"sgdt [{POINTER}]", f"sidt [{POINTER}]", f"smsw {a}", f"mov {self.free()}, cs")
        if self.bits == 16:
            tables += (self.guarded(f"{name} ax, bx"), self.guarded("sldt ax"), self.guarded("arpl ax, bx"))
            return self.pick(*tables)
        known = f"; pushf; and {a}, 0xF0FFFF; popf" if name == "lar" and size == 32 else ""  # not the limit's bits
        check = self.pick(f"mov bx, {value}; {name} {a}, bx{known}", f"mov bx, {value}; {self.pick('verr', 'verw')} bx")
        return self.pick(
            *tables,
            check,
            check,
            f"sldt {a}",
            f"str {a}",
            "clts",
            "mov dl, 3; arpl bx, dx" if self.bits == 32 else "nop",
        )

    # ---- single ones ----------------------------------------------------------------------------------------------------
    def locked(self) -> str:
        """A locked form, or LOCK before what can't be locked."""
        name, size = self.pick(*LOCKED), self.size()
        if name[:2] == "bt":
            size = max(size, 16)
        a, place = self.reg(size), self.mem(size)
        two = f"lock cmpxchg{8 if self.bits < 64 or self.rng.random() < 0.6 else 16}b [{DATA + 0xFF0}]"
        near = two.replace("8b [", f"8b [{self.rng.randrange(16)} + ") if "8b" in two else two
        pair = f"push {self.e}cx; {near}; pop {self.e}cx"
        one = f"lock {name} {place}" + ("" if name in ("inc", "dec", "not", "neg") else f", {a}")
        wrong = self.pick(
            "0xF0, 0x90", "0xF0, 0x01, 0xD8", "0xF0, 0x8B, 0x07", "0xF0, 0x38, 0x07", "0xF0, 0x0F, 0xA3, 0x07"
        )
        if name[:2] == "bt":
            one = f"and {a}, 0x7F; {one}"
        return self.pick(one, one, one, pair, self.guarded(f".byte {wrong}"))

    def mixed(self) -> str:
        """Addresses of the other size."""
        size = self.size()
        a, k = self.reg(size), self.rng.randrange(0x40)
        if self.bits == 16:
            place = self.pick(f"[ebx + esi * 4 + {k}]", f"[ebx + {k}]", f"[esi * 8 + {DATA + k}]", f"[esi + ebx + {k}]")
            head = f"mov ebx, {DATA + 0x200}; and esi, 0x3F"
        elif self.bits == 32:
            place = self.pick(f"[bx + si + {k}]", f"[bx + {k}]", "[bx + si]", f"[si + {DATA + k}]")
            head = f"mov bx, {DATA + 0x200}; and si, 0x3F"
        else:
            place = self.pick(f"[ebx + esi * 4 + {k}]", f"[ebx + {k}]", f"[r8d + ebx + {k}]", f"[esi * 8 + {DATA + k}]")
            head = f"mov ebx, {DATA + 0x200}; and esi, 0x3F; mov r8, 0x500000007"
            a = a.replace("h", "l")  # high bytes know no REX
        where = f"{POINTER_TO[size]}{place}"
        return f"{head}; " + self.pick(
            *(f"add {where}, {a}", f"mov {a}, {where}", f"lea {self.reg(32)}, {place}", f"lea {self.reg(16)}, {place}"),
            *(f"push {SLOTS[self.bits]} ptr {place}; pop {self.free()}", f"xlat; .byte 0x67; xlat; mov {where}, {a}"),
        )

    def traps(self) -> str:
        """Interrupts of one byte, BOUND, INTO and divisions."""
        e, size = self.e, self.bits // 8
        bounds = f"mov {SLOTS[self.bits]} ptr [{POINTER}], 2; mov {SLOTS[self.bits]} ptr [{POINTER + size}], 9"
        ways = ["int3", "int 0x30", "int 0x32", self.guarded(f"div {self.mem(8)}"), self.guarded("ud2")]
        if self.bits < 64:
            ways += [f"mov {e}ax, {self.rng.randrange(12)}; {bounds}; {self.guarded(f'bound {e}ax, [{POINTER}]')}"]
            ways += [
                f"add {self.reg(8)}, 100; {self.guarded('into')}",
                self.guarded(f"aam {self.rng.choice((0, 7, 16))}"),
            ]
        return self.pick(*ways)

    # ---- the program ----------------------------------------------------------------------------------------------------
    def program(self, blocks: int) -> list[str]:
        """Its parts: gates first, and the functions that are called far."""
        bits = self.bits
        lines = [self.home()]
        if bits == 64:
            lines += [f"mov eax, offset farfnq; mov [{GDT + GATE}], ax; mov dword ptr [{GDT + GATE + 4}], 0x8C00"]
        elif bits == 32:
            lines += [
                f"mov eax, offset farfn; mov [{GDT + GATE}], ax; mov eax, offset farfn66; mov [{GDT + GATE16}], ax"
            ]
        functions = {"farfn": ".byte 0xCB"}
        if bits == 64:
            functions |= {"farfnq": ".byte 0x48, 0xCB", "near66": "ret"}
        else:
            functions |= {"farfn66": ".byte 0x66, 0xCB", "near66": ".byte 0x66, 0xC3"}
        made = super().program(blocks)
        for name, end in functions.items():
            made[-1:-1] = [f"{name}:", *(self.plain() for _ in range(self.rng.randrange(1, 4))), end]
        return [*lines, *made]


PIECES: tuple[Callable[[RareLoops], str], ...] = (
    *(RareLoops.far_call, RareLoops.far_call, RareLoops.far_jump, RareLoops.near_66, RareLoops.returns),
    *(RareLoops.popf, RareLoops.iret, RareLoops.frames, RareLoops.loops, RareLoops.loops),
    *(RareLoops.strings, RareLoops.strings, RareLoops.strings, RareLoops.loads, RareLoops.limits, RareLoops.limits),
    *(RareLoops.looks, RareLoops.locked, RareLoops.locked, RareLoops.mixed, RareLoops.mixed, RareLoops.traps),
)
