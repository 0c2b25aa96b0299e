"""Random loops with accesses a few bytes apart: by the same registers, to which constants are added, or by rSP.

They lie in RAM, over the ends of pages, partly or all on a device, on read bytes of code; between them registers get other
values, or the same one by another way.
"""

from __future__ import annotations

from tests.engine.flag_programs import POINTER_TO, POINTERS, FlagLoops
from tests.engine.guest import DATA

SAVED = DATA + 0x90
"""Where the stack pointer is kept while it is elsewhere."""
STACKS = (0x9000, 0x9010, 0xA000, 0xA008, 0xAFFE, 0xA400)
"""Where it is then: at the end of a page or over it."""


class GroupLoops(FlagLoops):
    """One program; `text` is its source."""

    def instruction(self) -> str:
        """Accesses that belong together, or one that does not."""
        if self.rng.random() < 0.4:
            return super().instruction()
        return self.together() if self.rng.random() < 0.6 else self.on_stack()

    def together(self) -> str:
        """Some by one register, which moves meanwhile."""
        e, rng = self.e, self.rng
        base, other = rng.sample(["si", "di", "bx"], 2)
        word = f"{e}{base}"
        by = f"{e}{self.pick('cx', 'dx', other)}" if rng.random() < 0.3 and self.bits > 16 else ""
        index = f" + {by} * {self.pick('1', '4')}" if by else ""
        k = rng.randrange(8)
        where = f"[{POINTERS + k * self.bits // 8}]" if rng.random() < 0.6 else str(DATA + 0x1000 - rng.randrange(48))
        lines = [f"mov {word}, {where}"]
        nearby = range(-24, 40) if rng.random() < 0.8 else (8,)
        if by:
            lines.append(f"and {by}, 7")
        for _ in range(rng.randrange(2, 7)):
            size = self.size()
            place = f"{POINTER_TO[size]}[{word}{index} + {rng.choice(nearby)}]"
            lines.append(self.access(size, place))
            if rng.random() < 0.4:
                lines.append(
                    self.pick(
                        *(f"add {word}, {rng.randrange(-8, 9)}", f"sub {word}, 4", f"inc {word}", f"dec {word}"),
                        *(f"lea {word}, [{word} + 4]", f"mov {e}{other}, {word}; mov {word}, {e}{other}"),
                        *(f"xor {word}, 4", f"add {word[-2:]}, 2", f"push {word}; pop {word}"),
                    )
                )
        return "; ".join(lines)

    def access(self, size: int, place: str) -> str:
        """One of these."""
        a = {8: self.pick("al", "dl", "ah"), 16: "ax", 32: "eax", 64: "rax"}[size]
        return self.pick(
            *(f"mov {a}, {place}", f"mov {place}, {a}", f"add {a}, {place}", f"add {place}, {a}", f"inc {place}"),
            *(f"cmp {place}, 3", f"mov {place}, 77", f"xchg {place}, {a}", f"shl {place}, 1", f"adc {a}, {place}"),
        )

    def on_stack(self) -> str:
        """Pushes, pops and locals on a stack elsewhere."""
        e, rng, slot = self.e, self.rng, self.bits // 8
        sp, n = f"{e}sp", 0
        lines = [f"mov [{SAVED}], {sp}", f"mov {sp}, {self.pick(*map(str, STACKS))}"]
        if self.bits == 16:
            lines = []
        for _ in range(rng.randrange(2, 8)):
            move = rng.random()
            if move < 0.4 or not n:
                lines.append(f"push {self.pick(f'{e}ax', f'{e}dx', '5', f'{e}bp')}")
                n += 1
            elif move < 0.6:
                lines.append(f"pop {e}{self.pick('ax', 'dx', 'si')}")
                n -= 1
            elif self.bits > 16:
                place = f"{POINTER_TO[self.bits]}[{sp} + {slot * rng.randrange(n)}]"
                lines.append(self.access(self.bits, place))
        if self.bits > 16 and rng.random() < 0.3:
            local = f"{POINTER_TO[self.bits]}[{e}bp - {slot}]"
            lines += [f"push {e}bp; mov {e}bp, {sp}; sub {sp}, {slot * 2}", self.access(self.bits, local), "leave"]
        lines += [f"mov {sp}, [{SAVED}]"] if self.bits > 16 else [f"add {sp}, {slot * n}"]
        return "; ".join(lines)
