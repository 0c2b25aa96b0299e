"""Ports that need no device are served in translated code: the guest sees what it sees when each access is an exit.

Random programs access ports of a device, latches and ports where nobody is, alone and in strings, while timers interrupt
them; what they leave behind, counts and virtual time included, must be the same on every engine as on one that asks the
outside for everything.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jitvm import bus
from jitvm.bus import Bus
from jitvm.devices.base import Latches
from jitvm.engine.accel import Options, VcpuEngine
from jitvm.engine.plain import PlainEngine
from jitvm.exits import ExitReason, Outcome
from jitvm.isa import served
from jitvm.vcpu import ACCESS_NS
from tests.engine.assembler import assemble
from tests.fast_set import share
from tests.vcpu_guest import START, Guest, code

IF, IO = 0x200, int(ExitReason.IO)
LATCHES, N_LATCHES = 0x70, 8
TURNS = 60
PORTS = (0x5E, 0x5F, 0x60, 0x66, 0x67, 0x68, 0x6E, 0x6F, 0x70, 0x72, 0x75, 0x77, 0x78, 0x80, 0xFFFF)
"""In the device, in the latches, where nobody is, at all borders, and over the last port."""
NOTE = "xor [0x500], eax\n rol dword ptr [0x500], 5"
SOON: dict[str, Options] = {
    "plain": Options(stencils=False),
    "handlers": Options(stencils=False),
    "stencils": Options(regions=False, hot=1, drops=4),
    "regions": Options(hot=1, region_hot=2, drops=4, sync=True),
}
HANDLER = """
 push eax
 push edx
 inc word ptr ss:[0x508]
 in ax, 0x71
 inc ax
 out 0x71, ax
 rdtsc
 xor ss:[0x504], eax
 rol dword ptr ss:[0x504], 7
 in al, 0x90
 pop edx
 pop eax
 iret
"""


class OnPlain(VcpuEngine):
    """The plain engine in the place of translated code."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        plain = PlainEngine(self.c, self.accel.forms)
        self._enter = lambda budget, _status: plain.run(budget)


def single(rng: random.Random) -> str:
    """IN or OUT."""
    port, a = rng.choice(PORTS), rng.choice(("al", "ax", "eax"))
    at = "dx" if port > 0xFF or rng.random() < 0.5 else str(port)
    way = f"in {a}, {at}\n {NOTE}" if rng.random() < 0.5 else f"mov eax, {rng.getrandbits(32)}\n out {at}, {a}"
    return f"mov dx, {port}\n {way}"


def string(rng: random.Random) -> str:
    """INS or OUTS, alone or repeated, in both directions, also over a page border and to a device."""
    size, rep, n = rng.choice("bwd"), rng.choice(("", "rep ")), rng.choice((0, 1, 2, 5, 30))
    at = rng.choice((0x2100, 0x2FFA))
    lines = [f"mov dx, {rng.choice(PORTS)}", f"mov cx, {n}", rng.choice(("cld", "std"))]
    if rng.random() < 0.5:
        lines += [f"mov si, {at}", f"{rep}outs{size}"]
    elif rng.random() < 0.3:
        lines += ["mov di, 0x20", f"{rep}ins{size}"]
    else:
        lines += ["push ss", "pop es", f"mov di, {at}", f"{rep}ins{size}", "mov ax, 0xA000", "mov es, ax"]
    return "\n ".join([*lines, "cld"])


def other(rng: random.Random) -> str:
    """What looks at time, and what lies between."""
    return rng.choice((f"rdtsc\n {NOTE}", "nop", "mov al, es:[0x10]", "add bx, 3"))


def program(seed: int) -> str:
    """A loop over random accesses."""
    rng = random.Random(seed)
    kinds: list[Callable[[random.Random], str]] = [single, single, single, string, other]
    body = [rng.choice(kinds)(rng) for _ in range(14)]
    return "\n ".join([f"mov bp, {TURNS}", "again:", *body, "dec bp", "jnz again", "hlt"])


def made(source: str, engine: str, *, latches: bool = True) -> tuple[Guest, Latches]:
    """A guest that nobody traces."""
    options = SOON[engine] if latches else Options(stencils=False, latches=False)
    make = OnPlain if engine == "plain" else VcpuEngine
    handlers = dict.fromkeys(range(0x40, 0x44), assemble(HANDLER, 0, 16))
    guest = Guest(assemble(source, START, 16), handlers, flags=IF | 2, make=make, options=options)
    latch = Latches(N_LATCHES)
    guest.ports.map(LATCHES, N_LATCHES, latch, name="latches")
    guest.trace.listeners.clear()
    guest.memory.write(0x2000, random.Random(1).randbytes(0x2000))
    return guest, latch


def ended(source: str, engine: str, seed: int, *, latches: bool = True) -> tuple[Guest, tuple[object, ...]]:
    """Run to HLT, interrupted now and then; the guest, and all that can be seen."""
    guest, latch = made(source, engine, latches=latches)
    rng = random.Random(seed)
    for _ in range(60):
        guest.at(rng.randrange(900_000), 0x40 + rng.randrange(4))
    guest.vcpu.limit = 100_000
    while guest.execute() is Outcome.HLT and int(guest.c.halted):
        if guest.clock.deadline() is None and not guest.interrupts.pending:
            break
        with guest.lock:
            guest.vcpu.wait()
    return guest, (*guest.state(), bytes(latch.values))


@pytest.mark.parametrize("engine", SOON)
@pytest.mark.parametrize("seed", share(range(6), 2))
def test_random_programs_are_as_with_exits(seed: int, engine: str) -> None:
    source = program(seed)
    asked, expected = ended(source, "handlers", seed, latches=False)
    assert int(asked.c.n_served) == 0 and len(asked.interrupts.taken) > 20
    guest, found = ended(source, engine, seed)
    assert found == expected, source
    n = int(guest.c.n_served)
    assert n > 300 and sum(guest.vcpu.exits.values()) < sum(asked.vcpu.exits.values())
    whole = {what: k for (why, what), k in guest.vcpu.exits.items() if why == IO and what not in range(0x5D, 0x68)}
    assert sum(whole.values()) < n // 3, f"only where a timer is near: {whole}"


@pytest.mark.parametrize("engine", SOON)
@pytest.mark.parametrize("due", [1, 999, 1000, 1001, 1002, 1003, 2001, 2002, 2003, 2004])
def test_a_deadline_at_an_access_is_met_as_with_exits(due: int, engine: str) -> None:
    """Two accesses, of 1001 ns each with their instruction, from time 0 on; the interrupt comes behind the right one."""
    source = "out 0x70, al\n in al, 0x90\n nop\n hlt"
    seen = []
    for latches in (False, True):
        guest, latch = made(source, engine, latches=latches)
        guest.at(due, 0x40)
        guest.execute()
        seen.append((*guest.state(), bytes(latch.values), guest.memory.read(0x7FF0, 16)))
    assert seen[0] == seen[1]


def test_the_time_of_an_access_is_that_of_an_exit() -> None:
    guest, latch = made("mov al, 5\n out 0x70, al\n in ax, 0x70\n in eax, 0x88\n hlt", "handlers")
    guest.at(1_000_000, 0x40)
    assert guest.execute() is Outcome.HLT
    assert (guest.vcpu.retired, guest.vcpu.now(), int(guest.c.n_served)) == (5, 5 + 3 * ACCESS_NS, 3)
    assert guest.c.gpr[0] == 0xFFFF_FFFF and latch.values[0] == 5
    assert IO not in {why for why, _ in guest.vcpu.exits}


def test_who_traces_sees_each_access_and_then_no_more() -> None:
    guest, _ = made("out 0x70, al\n in al, 0x90\n hlt\n out 0x70, al\n in al, 0x90\n hlt", "handlers")
    guest.trace.listeners.append(guest._on_trace)
    guest.execute()
    assert [(r.address, r.write) for _, r in guest.runs[:-1]] == [(0x70, 1), (0x90, 0)]
    guest.trace.listeners.clear()
    guest.c.halted = 0
    guest.execute()
    assert len(guest.runs) == 3 and int(guest.c.n_served) == 2


@pytest.mark.parametrize("engine", SOON)
def test_the_guest_s_breakpoint_on_a_port_that_is_served(engine: str) -> None:
    """DR0 at port 70h with CR4.DE: #DB behind each access that touches it (SDM vol. 3, 17.2.4)."""
    source = """
 mov eax, 8
 mov cr4, eax
 mov eax, 0x70
 mov dr0, eax
 mov eax, 0x20002
 mov dr7, eax
 out 0x70, al
 in ax, 0x6f
 in al, 0x71
 hlt
"""
    guest, _ = made(source, engine)
    guest.memory.write(4, b"\x00\x45\x00\x00")
    guest.memory.write(0x4500, code("ff 06 00 07 ; inc word [700h]", "cf ; iret"))
    assert guest.execute() is Outcome.HLT
    assert guest.word(0x700) == 2
    assert int(guest.c.n_served) == 3


def test_the_table_follows_what_is_mapped() -> None:
    ports = Bus("port", 0x100, direct=True)
    latch = Latches(2)
    latch.values[:] = b"\x12\x34"
    held = ports.map(0x10, 2, latch, name="latch")
    other = ports.map(0x12, 1, Latches(1), name="another")
    kinds, values = ports.table
    assert kinds[0x0F:0x14].tolist() == [bus.FIXED, bus.LATCH, bus.LATCH, bus.LATCH, bus.FIXED]
    assert values[0x0F:0x14].tolist() == [0xFF, 0x12, 0x34, 0, 0xFF]
    values[0x11] = 0x56
    assert ports.read(0x10, 2) == 0x5612
    ports.write(0x11, 2, 0xA1A0)
    assert values[0x10:0x13].tolist() == [0x12, 0xA0, 0xA1]
    ports.unmap(held)
    ports.unmap(other)
    assert kinds[0x0F:0x14].tolist() == [bus.FIXED] * 5 and set(values[0x0F:0x14].tolist()) == {0xFF}
    values[0x10] = 0x77
    assert latch.read(0, 2) == 0xA012, "it has its values back"
    assert kinds[0x100:].tolist() == [bus.ASK] * bus.BEYOND
    assert not Bus("mmio", 1 << 32).table.size


def test_the_bus_and_the_semantics_mean_the_same_table() -> None:
    assert tuple(int(n) for n in (served.ASK, served.FIXED, served.LATCH)) == (bus.ASK, bus.FIXED, bus.LATCH)
    table = Bus("port", 0x1_0000, direct=True).table
    assert table.shape == (2, int(served.TABLE_BYTES)) and table.flags.c_contiguous and table.dtype == np.uint8
