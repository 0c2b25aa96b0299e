"""The local APIC's registers are served in translated code: the guest sees what it sees when each access is an exit.

Random programs raise interrupts, lower and raise the task priority, and end interrupts, while others come from outside;
what they leave behind, order of interrupts, counts and virtual time included, must be the same on every engine as on one
that asks the device for everything.
"""

from __future__ import annotations

import itertools
import random
import re
import struct

import numpy as np
import pytest

from jitvm.bare import Bare
from jitvm.board import APIC_ORDERS
from jitvm.devices.apic_bus import ApicBus, ApicOrders, ApicWindow
from jitvm.devices.lapic import FIXED, LocalApic, Message
from jitvm.engine.accel import Options, VcpuEngine
from jitvm.exits import ExitReason, Outcome
from jitvm.isa import apic_page
from jitvm.isa.mode import update_mode
from jitvm.processor import ProcessorPins
from tests.engine.assembler import assemble
from tests.fast_set import share
from tests.test_latches import SOON, OnPlain
from tests.vcpu_guest import START, Guest

PAGE, PAGE_SIZE = 0xFEE0_0000, 0x1000
IF, MMIO = 0x200, int(ExitReason.MMIO)
FS, GS = 4, 5
ID, TPR, PPR, EOI, SVR, ISR, IRR, ICR, ICR_HIGH, TIMER, INITIAL, CURRENT, DIVIDE = (
    0x20, 0x80, 0xA0, 0xB0, 0xF0, 0x100, 0x200, 0x300, 0x310, 0x320, 0x380, 0x390, 0x3E0,
)  # fmt: skip
READ = (
    ID, 0x30, TPR, PPR, 0xD0, 0xE0, SVR, ISR + 0x20, IRR + 0x20, 0x1A0, 0x280, ICR, ICR_HIGH, TIMER, INITIAL, CURRENT,
    DIVIDE,
)  # fmt: skip
VECTORS = (0x41, 0x4F, 0x50, 0x55, 0x62)
TURNS = 60
SELF = 0x4_4000
WAYS = (0x4000, 0x4000, 0x4100, 0x4800, 0x8_4000, 0xC_4000, SELF)
"""By physical destination, with lowest priority, by logical destination, to all, to others, to self."""
NOTE = "xor ss:[0x500], eax\n rol dword ptr ss:[0x500], 5"
HANDLER = f"""
 push eax
 mov eax, fs:[{PPR}]
 {NOTE}
 rdtsc
 {NOTE}
 {{middle}}
 mov dword ptr fs:[{EOI}], 0
 pop eax
 iret
"""
MIDDLES = (
    "",
    "sti\n nop",
    f"mov dword ptr fs:[{TPR}], 0x20",
    f"mov eax, fs:[{ISR + 0x20}]\n {NOTE}",
    "sti\n nop\n cli",
)


class Machine:
    """A vCPU with its local APIC at the page that FS shows, and a second one behind the bus."""

    def __init__(self, source: str, engine: str, seed: int, *, latches: bool = True) -> None:
        options = SOON[engine] if latches else Options(stencils=False, latches=False)
        make = OnPlain if engine == "plain" else VcpuEngine
        rng = random.Random(seed)
        handlers = {v: assemble(HANDLER.format(middle=rng.choice(MIDDLES)), 0, 16) for v in VECTORS}
        guest = self.guest = Guest(assemble(source, START, 16), handlers, flags=IF | 2, make=make, options=options)
        self.bus, self.ended = ApicBus(), list[tuple[int, int]]()
        self.apic = LocalApic(0, guest.clock, ProcessorPins(guest.vcpu), self.bus, lambda: 0x4F)
        self.bus.locals.append(self.apic)
        self.bus.on_eoi.append(lambda vector: self.ended.append((guest.clock.now_ns, vector)))
        window = ApicWindow()
        window.current = self.apic
        guest.mmio.map(PAGE, PAGE_SIZE, window, name="apic", max_size=8)
        guest.mmio.map(APIC_ORDERS, PAGE_SIZE, ApicOrders(window), name="orders", max_size=8)
        guest.vcpu.apic = guest.vcpu.interrupts = self.apic
        guest.trace.listeners.clear()
        guest.c.base[FS] = PAGE
        with np.errstate(over="ignore"):
            update_mode(guest.c)
        self.apic.write(SVR, 4, 0x1FF)
        for _ in range(40):
            self._later(rng, rng.randrange(900_000))

    def _later(self, rng: random.Random, due: int) -> None:
        """An interrupt from another place, edge- or level-triggered; now and then the 8259A's line."""
        vector, level, pic = rng.choice(VECTORS), rng.random() < 0.4, rng.random() < 0.2

        def come() -> None:
            if pic:
                self.apic.set_lint(0, True)
                self.guest.clock.timer("low", lambda: self.apic.set_lint(0, False)).arm(due + 7000)
            else:
                self.bus.send(Message(vector, FIXED, 0, False, level))

        self.guest.clock.timer("come", come).arm(due)

    def run(self) -> tuple[object, ...]:
        """To the end; all that can be seen."""
        guest = self.guest
        guest.vcpu.limit = 200_000
        while guest.execute() is Outcome.HLT and (guest.clock.deadline() is not None or self.apic.pending):
            with guest.lock:
                guest.vcpu.wait()
        return (*guest.state(), self.apic.snapshot(), int(guest.c.cr8), self.ended)


def access(rng: random.Random) -> str:
    """Something with the APIC."""
    way = rng.randrange(8)
    if way == 0:
        if rng.random() < 0.3:
            to = f"mov dword ptr fs:[{ICR_HIGH}], {rng.choice((0, 0, 1 << 24, 0xFF << 24))}"
            return f"{to}\n mov dword ptr fs:[{ICR}], {rng.choice(WAYS) + rng.choice((*VECTORS, 5))}"
        return f"mov dword ptr fs:[{ICR}], {SELF + rng.choice(VECTORS)}"
    if way == 1:
        return f"mov dword ptr fs:[{TPR}], {rng.choice((0, 0x20, 0x45, 0x50, 0x70))}"
    if way == 2:
        return f"mov dword ptr fs:[{rng.choice((ICR_HIGH, EOI, EOI))}], {rng.getrandbits(32)}"
    if way == 3:
        return rng.choice(("sti", "cli\n nop\n sti", "nop", f"cli\n mov dword ptr fs:[{TPR}], 0\n nop\n sti"))
    if way == 4:
        at = rng.choice((EOI, TPR, ID)) + rng.choice((0, 1, 4))
        return f"mov {rng.choice(('al', 'ax', 'eax'))}, fs:[{at}]\n {NOTE}"
    if way == 5:
        both = f"or dword ptr fs:[{TPR}], 0x10", f"xchg fs:[{TPR}], eax"
        return rng.choice((*both, f"push dword ptr fs:[{PPR}]\n pop eax"))
    if way == 6:
        return f"mov di, 0x10\n mov si, {TPR}\n movsd es:[di], fs:[si]"
    return f"mov eax, fs:[{rng.choice(READ)}]\n {NOTE}"


def program(seed: int) -> str:
    """A loop over random accesses."""
    rng = random.Random(seed)
    body = [access(rng) for _ in range(14)]
    return "\n ".join([f"mov bp, {TURNS}", "again:", *body, "dec bp", "jnz again", "sti", "park:", "hlt", "jmp park"])


@pytest.mark.parametrize("engine", SOON)
@pytest.mark.parametrize("seed", share(range(6), 2))
def test_random_programs_are_as_with_exits(seed: int, engine: str) -> None:
    source = program(seed)
    asked = Machine(source, "handlers", seed, latches=False)
    expected = asked.run()
    assert int(asked.guest.c.n_served) == 0
    machine = Machine(source, engine, seed)
    found = machine.run()
    assert found == expected, source
    assert int(machine.guest.c.n_served) > 300


def test_an_interrupt_s_end_is_one_access_without_an_exit() -> None:
    """A level-triggered one is told to the I/O APIC."""
    source = f"mov dword ptr fs:[{EOI}], 0\n mov eax, fs:[{ISR + 0x20}]\n hlt"
    for level, waiting, served, exits in ((False, False, 2, 0), (True, False, 1, 1), (False, True, 2, 0)):
        machine = Machine(source, "handlers", 0)
        machine.guest.clock.set(0, [])
        machine.apic.request(0x55, level)
        assert machine.apic.acknowledge() == 0x55
        if waiting:
            machine.apic.request(0x50, False)
            assert not machine.apic.pending
        machine.guest.c.rflags &= ~np.uint64(IF)
        assert machine.guest.execute() is Outcome.HLT
        guest = machine.guest
        assert int(guest.c.n_served) == served
        assert sum(n for (why, _), n in guest.vcpu.exits.items() if why == MMIO) == exits
        assert (int(guest.c.gpr[0]), machine.apic.isr, machine.apic.pending) == (0, 0, waiting)
        assert [vector for _, vector in machine.ended] == [0x55] * level


@pytest.mark.parametrize("engine", ["plain", "handlers", "stencils", "regions"])
def test_cr8_is_the_task_priority(engine: str) -> None:
    """It is served, also when it lets an interrupt in, which waits for IF (SDM vol. 3, 10.8.6)."""
    for waiting in (0, 0x55):
        cpu = Bare(engine)
        cpu.set_mode("long")
        cpu.write(0x1000, assemble("mov cr8, rax\n mov rbx, cr8\n jmp .", 0x1000, 64))
        cpu.set_registers({"rip": 0x1000, "rax": 3})
        apic = cpu.c.apic
        for at in (apic_page.PRESENT, apic_page.QUIET, apic_page.ENABLED):
            apic[at] = 1
        apic[apic_page.SVR], apic[apic_page.TPR] = 0x1FF, 0x90
        if waiting:
            apic[int(apic_page.IRR) + (waiting >> 5)] = 1 << (waiting & 31)
        assert cpu.run(2000).reason == "limit"
        assert int(apic[apic_page.TPR]) == 0x30
        assert (cpu.registers()["rbx"], int(cpu.c.n_served)) == (3, 1)
        assert int(apic[apic_page.PENDING]) == int(cpu.c.want_window) == int(waiting != 0)


MOVED = f"""
 note fs:[0x30]
 mov dword ptr fs:[0xFE0], ecx
 mov dword ptr fs:[0xFF0], ecx
 note fs:[0x30]
 mov dword ptr [0x6080], 0xAAAA5555
 mov ecx, 0x1B
 mov eax, 0xFED40900
 xor edx, edx
 wrmsr
 note gs:[0x30]
 note fs:[0x30]
 mov dword ptr gs:[{TPR}], 0x30
 note gs:[{PPR}]
 mov eax, 0x6900
 wrmsr
 note [0x6080]
 mov dword ptr [0x6080], 0x40
 note gs:[{TPR}]
 mov eax, 0x6100
 wrmsr
 note [0x6080]
 mov eax, 0xFEE00900
 wrmsr
 note [0x6080]
 note fs:[{TPR}]
 hlt
"""
"""FS shows the page's first place, GS another one; the third is memory.  `note`: a word that is kept."""


@pytest.mark.parametrize("engine", SOON)
def test_the_page_moves(engine: str) -> None:
    """IA32_APIC_BASE: the page lies above the memory that is there, and nobody is where it was (SDM vol. 3, 10.4.4)."""
    places = itertools.count(0x600, 4)
    source = re.sub("note (.*)", lambda m: f"mov eax, {m[1]}\n mov [{next(places)}], eax", MOVED)
    machine = Machine(source, engine, 0)
    guest = machine.guest
    guest.clock.set(0, [])
    guest.c.rflags &= ~np.uint64(IF)
    guest.c.base[GS] = 0xFED4_0000
    with np.errstate(over="ignore"):
        update_mode(guest.c)
    assert guest.execute() is Outcome.HLT
    version, ones, ram = 0x5_0014, 0xFFFF_FFFF, 0xAAAA_5555
    assert struct.unpack("<10I", guest.memory.read(0x600, 40)) == (
        version, version, version, ones, 0x30, 0x30, ones, ram, ram, 0x40,
    )  # fmt: skip
    assert machine.apic.enabled


SWITCHED_OFF = f"""
 mov dword ptr fs:[{TPR}], 0x20
 mov ecx, 0x1B
 rdmsr
 xor ah, 8
 wrmsr
 mov esi, fs:[0x30]
 mov dword ptr fs:[{TPR}], 0x50
 mov edi, fs:[{TPR}]
 xor ah, 8
 wrmsr
 mov ebp, fs:[{TPR}]
 cli
 hlt
"""


@pytest.mark.parametrize("engine", SOON)
def test_the_page_of_an_apic_that_is_switched_off_is_bus(engine: str) -> None:
    """SDM vol. 3, 10.4.3: as without an APIC."""
    machine = Machine(SWITCHED_OFF, engine, 0)
    machine.guest.clock.set(0, [])
    assert machine.guest.execute() is Outcome.HLT
    assert [int(machine.guest.c.gpr[n]) for n in (6, 7, 5)] == [0xFFFF_FFFF, 0xFFFF_FFFF, 0x20]


@pytest.mark.parametrize("engine", ["plain", "handlers", "stencils", "regions"])
def test_cr8_without_an_apic(engine: str) -> None:
    """It is the processor's own register (SDM vol. 3, 10.8.6), and what the APIC finds when it is switched on."""
    cpu = Bare(engine)
    cpu.set_mode("long")
    cpu.write(0x1000, assemble("mov cr8, rax\n mov rbx, cr8\n jmp .", 0x1000, 64))
    cpu.set_registers({"rip": 0x1000, "rax": 3})
    cpu.c.apic[apic_page.PRESENT] = cpu.c.apic[apic_page.QUIET] = 1
    assert cpu.run(100).reason == "limit"
    assert (cpu.registers()["rbx"], int(cpu.c.apic[apic_page.TPR]), int(cpu.c.n_served)) == (3, 0x30, 0)


SERVICE = f"""
 inc word ptr ss:[0x600]
 mov dword ptr fs:[{EOI}], 0
 iret
"""
LOOP = f"""
 mov cx, 100
again:
 mov dword ptr fs:[{ICR}], {{command}}
 inc ax
 sub ax, ss:[0x600]
 {{more}}
 dec cx
 jnz again
 cli
 hlt
"""


def served_loop(engine: str, command: int, more: str = "", **state: int) -> Machine:
    """A hundred messages to self, whose handler counts at 600h and is as far as the program at each of them."""
    machine = Machine(LOOP.format(command=command, more=more), engine, 0)
    machine.guest.clock.set(0, [])
    machine.guest.memory.write(0x4000 + 0x100 * 0x41, assemble(SERVICE, 0, 16))
    for name, value in state.items():
        setattr(machine.guest.c, name, value)
    return machine


@pytest.mark.parametrize("engine", SOON)
@pytest.mark.parametrize("command", [SELF + 0x41, 0x4000 + 0x41])
def test_a_message_to_self_interrupts_at_the_next_instruction_without_an_exit(command: int, engine: str) -> None:
    machine = served_loop(engine, command, "add ax, ss:[0x600]")
    guest = machine.guest
    assert guest.execute() is Outcome.HLT
    assert guest.word(0x600) == 100 and guest.reg("ax") == 100 and machine.apic.isr == machine.apic.irr == 0
    assert not [1 for why, _ in guest.vcpu.exits if why == MMIO]
    assert int(guest.c.n_served) == 200
    assert guest.vcpu.retired == 1 + 100 * (6 + 3) + 2


@pytest.mark.parametrize("engine", SOON)
def test_who_traces_sees_each_message_and_each_interrupt(engine: str) -> None:
    machine = served_loop(engine, SELF + 0x41)
    guest, seen = machine.guest, []
    guest.trace.listeners.append(lambda event, fields: seen.append(event))
    assert guest.execute() is Outcome.HLT
    assert seen.count("irq_inject") == 100 and guest.word(0x600) == 100 and int(guest.c.n_served) == 0


@pytest.mark.parametrize("engine", SOON)
def test_a_debuggers_step_keeps_a_message_to_self_away(engine: str) -> None:
    machine = served_loop(engine, SELF + 0x41)
    guest = machine.guest
    guest.vcpu.hold_interrupts = True
    guest.vcpu.limit = 10
    guest.execute()
    assert guest.word(0x600) == 0 and machine.apic.pending
    guest.vcpu.hold_interrupts = False
    guest.vcpu.limit = 11
    guest.execute()
    assert guest.word(0x600) == 1 and machine.apic.isr == 1 << 0x41


@pytest.mark.parametrize("engine", SOON)
def test_a_frame_in_device_memory_is_written_once(engine: str) -> None:
    """The stack is a device's: delivery and IRET ask it for each word, and go on where they were."""
    machine = served_loop(engine, SELF + 0x41)
    guest = machine.guest
    guest.c.sel[2], guest.c.base[2], guest.c.gpr[4] = 0xA000, 0xA_0000, 0x100
    with np.errstate(over="ignore"):
        update_mode(guest.c)
    guest.vcpu.limit = 3
    guest.execute()
    frame = [("write", at, 2) for at in (0xFE, 0xFC, 0xFA)]
    assert [what[:3] for what in guest.window.log] == [*frame, ("read", 0x600, 2), ("write", 0x600, 2)]
    assert machine.apic.isr == 1 << 0x41 and int(guest.c.injected) == 0 and guest.reg("sp") == 0xFA


def test_an_interrupt_comes_while_an_nmi_waits_for_the_end_of_another() -> None:
    """The handler of an NMI lets interrupts in; a second NMI waits for its IRET (SDM vol. 3, 6.7.1)."""
    handlers = {2: assemble("nop\n nop\n nop\n nop\n sti\n nop\n nop\n iret", 0, 16), 0x40: b"\xcf"}
    guest = Guest(assemble("nop\n nop\n hlt", START, 16), handlers)

    def nmi() -> None:
        guest.vcpu.nmi_pending = True

    nmi()
    guest.at(1, 0x40)
    guest.clock.timer("another", nmi).arm(3)
    guest.vcpu.limit = 100
    assert guest.execute() is Outcome.HLT
    assert guest.interrupts.taken == [0x40] and not guest.vcpu.nmi_pending
    assert guest.vcpu.retired == 8 + 1 + 8 + 3


@pytest.mark.parametrize(("before", "inside", "handled"), [(1, 0, 1), (2, 0, 2), (3, 0, 2), (1, 1, 2), (1, 2, 2)])
def test_nmis_that_come_before_one_is_taken(before: int, inside: int, handled: int) -> None:
    """The second waits as if the first had been taken when it came; one waits while a handler runs (SDM vol. 3, 6.7.1)."""
    guest = Guest(assemble("nop\n nop\n hlt", START, 16), {2: assemble("inc word ptr ss:[0x600]\n nop\n iret", 0, 16)})
    pins = ProcessorPins(guest.vcpu)

    def come(n: int) -> None:
        for _ in range(n):
            pins.nmi()

    come(before)
    guest.clock.timer("more", lambda: come(inside)).arm(2)
    guest.vcpu.limit = 100
    assert guest.execute() is Outcome.HLT
    assert guest.word(0x600) == handled
