"""Random loops of x87, MMX and SSE among integer code, in which control words change: rounding, precision, masks, DAZ, FTZ.

What raises an unmasked exception is done again with all masked.
"""

from __future__ import annotations

import struct

from jitvm.engine.accel import Options
from tests.engine.assembler import assemble
from tests.engine.flag_programs import FlagLoops
from tests.engine.guest import DATA, Guest
from tests.engine.ways import set_vector, start

CONTROL, NUMBERS, AREA, SCRATCH, PLACE = DATA + 0x700, DATA + 0x740, DATA + 0x800, 0xB900, 0x3800
WORDS = (0x37F, 0x27F, 0x07F, 0x77F, 0xB7F, 0xF7F, 0x37B, 0x35F, 0x37E, 0x36F, 0x340, 0xC3F)
MXCSR = (0x1F80, 0x1FC0, 0x9F80, 0x9FC0, 0x3F80, 0x5F80, 0x7F80, 0x1F00, 0x1D80, 0x0F80, 0x1E80, 0x1780, 0x0000, 0x1FBF)
PATTERNS = (
    *(0x3FF0_0000_0000_0000, 0xBFF8_0000_0000_0000, 0x4008_CCCC_CCCC_CCCD, 0x0000_0000_0000_0001, 0x8000_0000_0000_0000),
    *(0x7FF0_0000_0000_0000, 0xFFF0_0000_0000_0001, 0x7FF8_0000_1234_5678, 0x000F_FFFF_FFFF_FFFF, 0x7FEF_FFFF_FFFF_FFFF),
    *(0x3F80_0000_0000_0001, 0x7F80_0000_FF80_0001, 0x8000_0001_0080_0000, 0x41DF_FFFF_FFE0_0000, 0xC1E0_0000_0000_0000),
    0x3FB9_9999_9999_999A,
)
HANDLERS = {
    16: f"fnstcw [{SCRATCH}]; or word ptr [{SCRATCH}], 0x3F; fnclex; fldcw [{SCRATCH}]; inc byte ptr [{SCRATCH + 8}]",
    19: f"stmxcsr [{SCRATCH}]; or dword ptr [{SCRATCH}], 0x1F80; and dword ptr [{SCRATCH}], 0xFFFFFFC0; "
    f"ldmxcsr [{SCRATCH}]; inc byte ptr [{SCRATCH + 9}]",
}
"""#MF and #XM: all exceptions masked, flags gone, once more."""


def handler(vector: int, bits: int) -> str:
    """Source of an exception's handler."""
    return HANDLERS[vector].replace("; ", "\n") + "\n" + {16: "iret", 32: "iretd", 64: "iretq"}[bits]


class FpLoops(FlagLoops):
    """One program."""

    def number(self, size: int) -> str:
        """Memory that may hold anything, of so many bytes."""
        near = f"{self.e}bp + {self.rng.randrange(-0x80, 0x80)}", str(NUMBERS + self.rng.randrange(0, 120, 4))
        place = self.pick(*near, near[1], near[1], f"{self.e}bp + {0xBF0 + self.rng.randrange(18)}")
        return {4: "dword", 8: "qword", 10: "tbyte", 2: "word"}[size] + f" ptr [{place}]"

    def x(self) -> str:
        """An XMM register."""
        return f"xmm{self.rng.choice((0, 1, 2, 9, 15) if self.bits == 64 else (0, 1, 2))}"

    def x87(self) -> str:
        """One or two of them, often without a look at the stack."""
        i = self.rng.randrange(4)
        op = self.pick("add", "sub", "mul", "div", "subr", "divr", "com", "comp")
        arith = self.pick("add", "sub", "mul", "div", "subr", "divr")
        cc = self.pick("b", "e", "be", "nu", "u", "nb")
        return self.pick(
            f"fldcw [{CONTROL + 2 * self.rng.randrange(len(WORDS))}]",
            f"fldcw [{CONTROL + 2 * self.rng.randrange(len(WORDS))}]",
            f"fld {self.number(self.rng.choice((4, 8, 10)))}",
            f"fld {self.number(8)}; f{op} {self.number(self.rng.choice((4, 8)))}",
            f"fld {self.number(8)}; f{arith} st({i}), st; fstp {self.number(self.rng.choice((4, 8, 10)))}",
            f"fild {self.number(self.rng.choice((2, 4, 8)))}; f{arith}p st({i}), st",
            f"f{arith} st, st({i})",
            f"fi{arith} {self.number(self.rng.choice((2, 4)))}",
            f"f{self.pick('ist', 'istp', 'isttp')} {self.number(self.rng.choice((2, 4)))}",
            f"fst {self.number(self.rng.choice((4, 8)))}; fistp {self.number(8)}",
            f"f{self.pick('comi', 'ucomi')} st, st({i}); fcmov{cc} st, st({i})",
            self.pick("fxch", "fxch st(2)", "ffree st(3)", "fincstp", "fdecstp", "fnclex", "fninit", "emms", "fwait"),
            self.pick("fsqrt", "frndint", "fchs", "fabs", "ftst", "fxam", "fscale", "fprem", "fxtract", "fld1", "fldpi"),
            f"fnstsw ax; fnstcw {self.number(2)}",
            f"fnstenv [{AREA}]; fldenv [{AREA}]" if i else f"fnsave [{AREA}]; frstor [{AREA}]",
            f"fxsave [{AREA}]; {'fxrstor' if i else 'fwait; fxrstor'} [{AREA}]",
        )

    def mmx(self) -> str:
        """On the same registers."""
        a, b = f"mm{self.rng.randrange(4)}", f"mm{self.rng.randrange(4)}"
        op = self.pick("paddw", "pmullw", "psubusb", "pcmpgtd", "pxor", "pmaddwd", "packsswb", "punpckhwd", "psrlq", "paddq")
        return self.pick(
            f"movq {a}, {self.number(8)}; {op} {a}, {b}",
            f"movd {a}, {self.reg(32)}; {op} {b}, {a}; movd {self.reg(32)}, {b}",
            f"movq {self.number(8)}, {a}; emms",
            f"cvtps2pi {a}, {self.x()}; cvtpi2pd {self.x()}, {b}",
            f"movdq2q {a}, {self.x()}; movq2dq {self.x()}, {b}",
            f"{op} {a}, {self.number(8)}; emms; fild {self.number(8)}",
        )

    def sse(self) -> str:
        """Arithmetic, conversions, compares; MXCSR loaded and stored."""
        a, b, kind = self.x(), self.x(), self.pick("ss", "sd", "ps", "pd")
        memory = self.number(8 if kind == "sd" else 4)
        other = b if kind in ("ps", "pd") else self.pick(b, memory)
        r, word = self.reg(32), self.reg(self.bits if self.bits == 64 else 32)
        mxcsr = NUMBERS + 128 + 4 * self.rng.randrange(len(MXCSR))
        return self.pick(
            *(f"ldmxcsr [{mxcsr}]",) * 3,
            f"stmxcsr {self.number(4)}",
            *(f"{self.pick('add', 'sub', 'mul', 'div', 'sqrt', 'min', 'max')}{kind} {a}, {other}",) * 4,
            f"movups {a}, [{self.pick(str(NUMBERS), str(NUMBERS + 40), f'{self.e}bp + {0xBF0}')}]",
            f"movups [{self.e}bp + {0xBE0 + self.rng.randrange(32)}], {a}",
            f"cvtsi2sd {a}, {r}; cvtsd2si {r}, {b}",
            f"cvttss2si {word}, {b}; cvtsi2ss {a}, {word}",
            f"cvtss2sd {a}, {b}; cvtsd2ss {b}, {self.number(8)}",
            f"cmp{self.pick('eq', 'lt', 'le', 'unord', 'neq', 'nlt')}{kind} {a}, {b}",
            f"{self.pick('comiss', 'ucomiss')} {a}, {b}; set{self.cc()} al",
            f"{self.pick('comisd', 'ucomisd')} {a}, {self.number(8)}; adc {r}, 0",
            f"cvtdq2ps {a}, {b}; cvtps2dq {b}, {a}; cvttpd2dq {b}, {a}",
            f"movd {a}, {r}; pshufd {a}, {a}, 0x1B; paddd {b}, {a}; pmovmskb {r}, {b}",
            f"{self.pick('haddps', 'addsubpd', 'roundpd', 'dpps')} {a}, {b}",
        )

    def body(self, most: int) -> list[str]:
        """Up to so many pieces; half of them are integer code."""
        lines = []
        for _ in range(self.rng.randrange(1, most)):
            kinds = (self.instruction, self.instruction, self.x87, self.sse, self.sse, self.mmx)
            line = self.rng.choice(kinds)()
            if line.startswith(("roundpd", "dpps")):
                line += f", {self.rng.randrange(16)}"
            lines.append(line)
        return lines


def fp_guest(engine: str, options: Options | None, *, source: str, bits: int) -> Guest:
    """A guest about to run such a program."""
    guest = start(engine, options, source=source, bits=bits)
    for vector in HANDLERS:
        guest.bare.write(PLACE + 64 * vector, assemble(handler(vector, bits), PLACE + 64 * vector, bits))
        set_vector(guest, bits, vector, PLACE + 64 * vector)
    guest.registers(cr0=int(guest.c.cr0) | 0x20)
    guest.bare.write(CONTROL, struct.pack("<12H", *WORDS))
    guest.bare.write(NUMBERS, struct.pack("<16Q", *PATTERNS) + struct.pack("<14I", *MXCSR))
    return guest
