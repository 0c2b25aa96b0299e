"""What debuggers do between two pieces of a run, at random, and a program whose debug registers change in its loops.

A handler of #DB notes DR6 and the place, and goes on with RF set; so many traps of TF later it clears TF.
"""

from __future__ import annotations

import random

from jitvm.engine.accel import Options
from jitvm.engine.points import Point, Points, set_range
from jitvm.isa.state import WATCH_PHYSICAL, WATCH_READ, WATCH_WRITE
from tests.engine.assembler import assemble
from tests.engine.flag_programs import FlagLoops
from tests.engine.guest import DATA, Guest
from tests.engine.ways import Act, linear_pc, set_vector, start

LOG, BURST, HANDLER = 0xBA00, 0xBA08, 0x3800
KINDS = [int(k) for k in (WATCH_WRITE, WATCH_READ, WATCH_READ | WATCH_WRITE, WATCH_WRITE | WATCH_PHYSICAL)]
WRITE, ACCESS = 1, 3
FRAMES = {16: ("push bp\n mov bp, sp\n push eax", "bp + 2", "bp + 6", "pop eax\n pop bp\n iret")}
FRAMES[32] = ("push eax", "esp + 4", "esp + 12", "pop eax\n iretd")
FRAMES[64] = ("push rax", "rsp + 8", "rsp + 24", "pop rax\n iretq")


def handler(bits: int) -> str:
    """Source of #DB's handler."""
    begin, place, flags, end = FRAMES[bits]
    e, again = "r" if bits == 64 else "e", "" if bits == 16 else f"or dword ptr [{flags}], 0x10000"
    return f"""
    {begin}
    mov {e}ax, dr6
    xor [{LOG}], eax
    rol dword ptr [{LOG}], 3
    mov ax, [{place}]
    add [{LOG}], eax
    mov eax, 0
    mov dr6, {e}ax
    dec byte ptr [{BURST}]
    jns 1f
    mov byte ptr [{BURST}], 0
    and word ptr [{flags}], 0xFEFF
1:  {again}
    {end}
    """


class DebugLoops(FlagLoops):
    """One program."""

    def instruction(self) -> str:
        """Sometimes one that looks at, or moves, the debug registers."""
        if self.rng.random() < 0.9:
            return super().instruction()
        r = "r" if self.bits == 64 else "e"
        n, a = self.rng.randrange(4), DATA + self.rng.choice((0x100, 0x120, 0x3A0, 0x400, 0x440, 0xFF8, 0xFFF, 0x1002))
        return self.pick(
            f"mov {r}ax, {a}; mov dr{n}, {r}ax",
            f"mov {r}ax, dr7; xor {r}ax, {2 << 2 * n}; mov dr7, {r}ax",
            f"mov {r}ax, {data_breaks(self.rng)}; mov dr7, {r}ax",
            f"mov {r}ax, dr{self.rng.choice((0, 3, 6))}",
        )


def data_breaks(rng: random.Random) -> int:
    """A value of DR7 with data breakpoints of any kind and size, some of them on."""
    kinds = [rng.choice((WRITE, ACCESS)) | rng.choice((0, 1, 3)) << 2 for _ in range(4)]
    return 0x400 | sum(kind << 16 + 4 * n | rng.choice((0, 0, 2)) << 2 * n for n, kind in enumerate(kinds))


def debug_guest(engine: str, options: Options | None, *, source: str, bits: int) -> Guest:
    """A guest about to run such a program."""
    guest = start(engine, options, source=source, bits=bits)
    guest.bare.write(HANDLER, assemble(handler(bits), HANDLER, bits))
    set_vector(guest, bits, 1, HANDLER)
    return guest


# ---- acts -------------------------------------------------------------------------------------------------------------
def watch(rng: random.Random) -> Act:
    """Other watched ranges; none, now and then."""
    points = []
    for _ in range(rng.randrange(4)):
        first = rng.choice((DATA + rng.randrange(0x1010), DATA + 0x400 + rng.randrange(-64, 64), 0x1FFF0, 0xEFF8))
        points.append(Point(rng.choice(KINDS), first, first + rng.choice((0, 1, 3, 40))))
    return lambda guest: Points(points).watch(guest.bare.vcpu)


def break_near(rng: random.Random) -> Act:
    """Breakpoints around where the program is, on instructions or within."""
    near = [rng.randrange(-24, 25) for _ in range(rng.randrange(5))]
    return lambda guest: guest.bare.vcpu.set_breakpoints({max(0, linear_pc(guest) + k) for k in near})


def step_over_range(rng: random.Random) -> Act:
    """On, until some instruction around here is left behind."""
    before, size = rng.randrange(12), rng.randrange(1, 60)

    def act(guest: Guest) -> None:
        guest.c.resume_at, guest.c.resume_lin = guest.bare.vcpu.retired(), linear_pc(guest)
        set_range(guest.bare.vcpu, linear_pc(guest) - before, size)

    return act


def debug_registers(rng: random.Random, bits: int) -> Act:
    """Other DR0-DR3 and DR7; code breakpoints near by, where IRET sets RF."""
    places, dr7 = [DATA + rng.choice((0x3F0, 0x410, 0x100, 0x441, 0x600, 0xFFE)) for _ in range(4)], data_breaks(rng)
    near = rng.randrange(-20, 20)
    code = bits > 16 and rng.random() < 0.5

    def act(guest: Guest) -> None:
        c = guest.c
        c.dr[:4], c.dr[7] = places, dr7
        if code:
            c.dr[2], c.dr[7] = linear_pc(guest) + near, dr7 & ~(15 << 24) | 2 << 4
        guest.bare.vcpu.registers_changed()

    return act


def trap(rng: random.Random) -> Act:
    """TF for some instructions."""
    n = rng.randrange(12)

    def act(guest: Guest) -> None:
        guest.bare.write(BURST, bytes([n]))
        guest.registers(eflags=guest.bare.registers()["eflags"] | 0x100)

    return act


def some_acts(rng: random.Random, bits: int) -> list[Act]:
    """Some of each."""
    makers = (watch, watch, break_near, step_over_range, trap, lambda r: debug_registers(r, bits))
    return [make(rng) for make in makers for _ in range(3)]
