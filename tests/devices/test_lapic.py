"""The local APIC by its registers, with a fake clock and a fake processor.

Source: Intel SDM vol. 3, 10.4-10.9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jitvm.clock import Clock
from jitvm.devices.apic_bus import ApicBus, ApicWindow
from jitvm.devices.lapic import LocalApic, Message
from jitvm.isa import apic_page
from jitvm.isa.record import Record
from jitvm.isa.words import u64
from jitvm.trace import Trace

ID, VERSION, TPR, PPR, EOI, LDR, DFR, SVR, ISR, TMR, IRR, ESR = (
    0x20, 0x30, 0x80, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0, 0x100, 0x180, 0x200, 0x280,
)  # fmt: skip
ICR, ICR_HIGH, TIMER, LINT0, LINT1, ERROR, INITIAL, CURRENT, DIVIDE = (
    0x300, 0x310, 0x320, 0x350, 0x360, 0x370, 0x380, 0x390, 0x3E0,
)  # fmt: skip
BASE, DEADLINE, OFFSET = 0x1000, 0x1008, 0x1010
MASKED, PERIODIC, BY_DEADLINE = 0x10000, 0x20000, 0x40000


def vector(found: Any) -> int:
    """A vector, -1 for none."""
    return -1 if found == apic_page.NONE else int(found)


class Cpu:
    """A processor that notes what its APIC does; its record has the APIC's page."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.offset = 0
        self.c = Record(np.zeros(1, np.dtype([("apic", np.uint64, (64,)), ("cr8", np.uint64)])))
        self.page = memoryview(self.c.apic)

    @property
    def tpr(self) -> int:
        """As CR8 has it."""
        return int(self.c.cr8) << 4

    def priority(self) -> int:
        return int(apic_page.priority(self.c))

    def look(self) -> bool:
        return bool(apic_page.look(self.c))

    def request(self, vector: int, level: bool) -> None:
        apic_page.request(self.c, u64(vector), u64(level))

    def take(self) -> int:
        return vector(apic_page.acknowledge(self.c))

    def end_of_interrupt(self) -> int:
        return vector(apic_page.end_of_interrupt(self.c))

    def tsc_offset(self) -> int:
        return self.offset

    def set_tpr(self, value: int) -> None:
        apic_page.set_priority(self.c, u64(value))

    def interrupts_changed(self) -> None:
        pass

    def at_rest(self, action: Callable[..., None], *arguments: object) -> None:
        action(*arguments)

    def nmi(self) -> None:
        self.seen.append("nmi")

    def smi(self) -> None:
        self.seen.append("smi")

    def init(self) -> None:
        self.seen.append("init")

    def startup(self, vector: int) -> None:
        self.seen.append(("startup", vector))


class System:
    """`n` APICs on a bus; `pic` is the vector that the 8259A gives."""

    def __init__(self, n: int = 1, *, enabled: bool = True) -> None:
        self.clock, self.bus = Clock(), ApicBus()
        self.clock.now_ns = 1000
        self.cpus = [Cpu() for _ in range(n)]
        self.trace = Trace()
        self.eois: list[int] = []
        self.bus.on_eoi.append(self.eois.append)
        for k, cpu in enumerate(self.cpus):
            apic = LocalApic(k, self.clock, cpu, self.bus, lambda: 0x77, bootstrap=k == 0, trace=self.trace)
            self.bus.locals.append(apic)
            if enabled:
                apic.write(SVR, 4, 0x1FF)
                apic.write(LDR, 4, 1 << 24 + k)
        self.apic = self.bus.locals[0]

    def run(self, ns: int) -> None:
        """Let time pass, timer by timer."""
        end = self.clock.now_ns + ns
        while (due := self.clock.deadline()) is not None and due <= end:
            self.clock.advance_to(due)
        self.clock.advance_to(end)

    def vectors(self, k: int, where: int = IRR) -> list[int]:
        """Vectors of a register set, read as the guest does."""
        apic = self.bus.locals[k]
        words = [apic.read(where + 16 * i, 4) for i in range(8)]
        return [v for v in range(256) if words[v // 32] >> v % 32 & 1]


def test_state_after_reset() -> None:
    s = System(2, enabled=False)
    assert [s.apic.read(r, 4) for r in (ID, VERSION, TPR, PPR, LDR, DFR, SVR, ESR)] == [
        0, 0x50014, 0, 0, 0, 0xFFFFFFFF, 0xFF, 0,
    ]  # fmt: skip
    assert s.bus.locals[1].read(ID, 4) == 1 << 24
    assert [s.apic.read(r, 4) for r in (TIMER, LINT0, LINT1, ERROR)] == [MASKED, 0x700, MASKED, MASKED]
    assert s.bus.locals[1].read(LINT0, 4) == MASKED


def test_priorities() -> None:
    """The class counts: a second vector of the served one waits, a higher class interrupts it."""
    s = System()
    for vector in (0x41, 0x45, 0x62):
        s.apic.request(vector, False)
    assert s.vectors(0) == [0x41, 0x45, 0x62] and s.apic.pending
    assert s.apic.acknowledge() == 0x62
    assert (s.vectors(0), s.vectors(0, ISR), s.apic.read(PPR, 4)) == ([0x41, 0x45], [0x62], 0x60)
    assert not s.apic.pending
    s.apic.write(EOI, 4, 0)
    assert s.apic.pending and s.apic.acknowledge() == 0x45
    s.apic.request(0x51, False)
    assert s.apic.acknowledge() == 0x51
    assert s.vectors(0, ISR) == [0x45, 0x51]
    s.apic.write(EOI, 4, 0)
    assert s.vectors(0, ISR) == [0x45] and not s.apic.pending, "41h is of the class that is served"
    s.apic.write(EOI, 4, 0)
    assert s.apic.acknowledge() == 0x41
    assert s.eois == []


def test_task_priority() -> None:
    s = System()
    s.apic.request(0x45, False)
    s.apic.write(TPR, 4, 0x40)
    assert not s.apic.pending and s.cpus[0].tpr == 0x40
    assert s.apic.read(PPR, 4) == 0x40
    s.apic.write(TPR, 4, 0x3F)
    assert s.apic.pending
    s.apic.set_tpr(0xF0)
    assert s.apic.read(TPR, 4) == 0xF0 and not s.apic.pending
    assert s.apic.acknowledge() == 0xFF, "nothing is there any more: the spurious vector"
    assert s.vectors(0, ISR) == []


def test_level_triggered_interrupts_tell_their_end() -> None:
    s = System()
    s.apic.request(0x30, True)
    s.apic.request(0x31, False)
    assert s.vectors(0, TMR) == [0x30]
    assert [s.apic.acknowledge()] == [0x31]
    s.apic.write(EOI, 4, 0)
    assert s.apic.acknowledge() == 0x30
    s.apic.write(EOI, 4, 0)
    assert s.eois == [0x30]
    s.apic.write(EOI, 4, 0)
    assert s.eois == [0x30]


def test_disabled_by_software() -> None:
    s = System()
    s.apic.write(TIMER, 4, 0x40)
    s.apic.write(SVR, 4, 0xFF)
    assert s.apic.read(TIMER, 4) == 0x40 | MASKED
    s.apic.write(TIMER, 4, 0x40)
    assert s.apic.read(TIMER, 4) == 0x40 | MASKED, "stays masked"
    s.apic.request(0x50, False)
    assert s.vectors(0) == []
    s.bus.send(Message(2, 4, 0, False))
    assert s.cpus[0].seen == ["nmi"], "NMI, SMI, INIT and SIPI are taken all the same"


# ---- LINT ----------------------------------------------------------------------------------------------------------------
def test_external_interrupt_through_lint0() -> None:
    s = System()
    s.apic.set_lint(0, True)
    assert s.apic.pending and s.apic.acknowledge() == 0x77
    assert s.apic.pending, "it is the 8259A that lowers INTR"
    s.apic.write(LINT0, 4, 0x700 | MASKED)
    assert not s.apic.pending
    s.apic.write(LINT0, 4, 0x700)
    s.apic.request(0x90, False)
    assert s.apic.acknowledge() == 0x90, "the APIC's own go first"
    assert s.apic.pending and s.apic.acknowledge() == 0x77, "whatever is served"
    s.apic.set_lint(0, False)
    assert not s.apic.pending


def test_external_interrupt_past_a_disabled_apic() -> None:
    s = System(2)
    s.apic.write(LINT0, 4, MASKED)
    s.apic.request(0x40, False)
    s.apic.write(BASE, 8, 0xFEE00100)
    for apic in s.bus.locals:
        apic.set_lint(0, True)
    assert s.apic.pending and s.apic.acknowledge() == 0x77
    assert not s.bus.locals[1].pending
    s.apic.write(BASE, 8, 0xFEE00900)
    assert s.apic.acknowledge() == 0x40


@pytest.mark.parametrize(("entry", "effect"), [(0x400, "nmi"), (0x200, "smi"), (0x400 | MASKED, None), (0x35, 0x35)])
def test_lint1(entry: int, effect: Any) -> None:
    s = System()
    s.apic.write(LINT1, 4, entry)
    s.apic.set_lint(1, True)
    s.apic.set_lint(1, True)
    if isinstance(effect, int):
        assert s.vectors(0) == [effect]
    else:
        assert s.cpus[0].seen == ([effect] if effect else [])


# ---- timer ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("divide", "by"), [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)])
def test_one_shot(divide: int, by: int) -> None:
    s = System()
    s.apic.write(DIVIDE, 4, divide)
    s.apic.write(TIMER, 4, 0x50)
    s.apic.write(INITIAL, 4, 1000)
    assert s.apic.read(CURRENT, 4) == 1000
    s.run(300 * by)
    assert s.apic.read(CURRENT, 4) == 700 and s.vectors(0) == []
    s.run(700 * by - 1)
    assert s.vectors(0) == []
    s.run(1)
    assert s.vectors(0) == [0x50] and s.apic.read(CURRENT, 4) == 0
    s.apic.acknowledge()
    s.run(5000 * by)
    assert s.vectors(0) == [] and s.apic.read(INITIAL, 4) == 1000


def test_periodic() -> None:
    s = System()
    s.apic.write(DIVIDE, 4, 11)
    s.apic.write(TIMER, 4, 0x50 | PERIODIC)
    s.apic.write(INITIAL, 4, 100)
    times = []
    for _ in range(350):
        s.run(1)
        if s.apic.pending:
            times.append(s.clock.now_ns)
            s.apic.acknowledge()
            s.apic.write(EOI, 4, 0)
    assert times == [1100, 1200, 1300]
    assert s.apic.read(CURRENT, 4) == 50
    s.apic.write(TIMER, 4, 0x50 | PERIODIC | MASKED)
    s.run(200)
    assert s.vectors(0) == [] and s.apic.read(CURRENT, 4) == 50
    s.apic.write(INITIAL, 4, 0)
    assert s.clock.deadline() is None and s.apic.read(CURRENT, 4) == 0


def test_a_change_of_mode_or_divisor_lets_a_count_go_on_and_starts_none() -> None:
    s = System()
    s.apic.write(DIVIDE, 4, 11)
    s.apic.write(TIMER, 4, 0x50)
    s.apic.write(INITIAL, 4, 1000)
    s.run(600)
    s.apic.write(TIMER, 4, 0x50 | PERIODIC)
    assert (s.apic.read(CURRENT, 4), s.apic.read(INITIAL, 4)) == (400, 1000)
    s.run(500)
    assert s.vectors(0) == [0x50] and s.apic.read(CURRENT, 4) == 900, "it began again"
    s.apic.write(TIMER, 4, 0x50)
    s.apic.write(DIVIDE, 4, 0)
    assert s.apic.read(CURRENT, 4) == 900
    s.run(1000)
    assert s.apic.read(CURRENT, 4) == 400, "half as fast"
    s.run(1000)
    assert s.apic.read(CURRENT, 4) == 0
    s.apic.acknowledge()
    s.apic.write(EOI, 4, 0)
    for offset, value in ((DIVIDE, 11), (TIMER, 0x50 | PERIODIC), (DIVIDE, 0)):
        s.apic.write(offset, 4, value)
        s.run(5000)
        assert s.apic.read(CURRENT, 4) == 0 and s.vectors(0) == [], "nothing began it"


def test_an_apic_that_is_switched_off_is_not_there() -> None:
    """IA32_APIC_BASE.EN: its page is bus, no message reaches it, LINT1 is NMI (SDM vol. 3, 10.4.3)."""
    s = System(2)
    off, told = s.bus.locals[1], []
    s.trace.listeners.append(lambda event, fields: told.append(event))
    off.write(TPR, 4, 0x30)
    off.write(BASE, 8, 0xFEE0_0000)
    off.write(TPR, 4, 0x70)
    assert off.read(VERSION, 4) == off.read(TPR, 4) == 0xFFFF_FFFF and off.read(VERSION, 1) == 0xFF
    for command in (0xC4041, 0x4042, 0xC0400, 0xC4500):
        s.apic.write(ICR_HIGH, 4, 1 << 24)
        s.apic.write(ICR, 4, command)
    assert s.cpus[1].seen == []
    off.set_lint(1, True)
    assert s.cpus[1].seen == ["nmi"]
    off.write(BASE, 8, 0xFEE0_0800)
    assert off.read(TPR, 4) == 0x30 and s.vectors(1) == [] and told == []
    off.write(ID, 4, 5 << 24)
    off.write(BASE, 8, 0xFED4_0800)
    assert off.read(ID, 4) == 5 << 24
    off.write(BASE, 8, 0xFED4_0000)
    off.write(BASE, 8, 0xFED4_0800)
    assert off.read(ID, 4) == 1 << 24, "switched off and on again it has the ID of its start"


def test_late_clock_does_not_shift_the_period() -> None:
    s = System()
    s.apic.write(DIVIDE, 4, 11)
    s.apic.write(TIMER, 4, 0x50 | PERIODIC)
    s.apic.write(INITIAL, 4, 100)
    s.clock.advance_to(1350)
    assert s.vectors(0) == [0x50] and s.clock.deadline() == 1400


def test_deadline() -> None:
    s = System()
    s.cpus[0].offset = 5000
    s.apic.write(DEADLINE, 8, 99999)
    assert s.apic.read(DEADLINE, 8) == 0, "not in that mode"
    s.apic.write(TIMER, 4, 0x50 | BY_DEADLINE)
    s.apic.write(INITIAL, 4, 10)
    assert s.clock.deadline() is None, "the count does nothing in this mode"
    s.apic.write(DEADLINE, 8, 5000 + 1500)
    assert s.apic.read(DEADLINE, 8) == 6500
    s.run(499)
    assert s.vectors(0) == []
    s.run(1)
    assert s.vectors(0) == [0x50] and s.apic.read(DEADLINE, 8) == 0
    s.apic.acknowledge()
    s.apic.write(DEADLINE, 8, 1)
    s.run(0)
    assert s.vectors(0) == [0x50], "one that has passed"
    s.apic.write(DEADLINE, 8, 1 << 40)
    s.apic.write(DEADLINE, 8, 0)
    assert s.clock.deadline() is None
    s.apic.write(DEADLINE, 8, 1 << 40)
    s.apic.write(TIMER, 4, 0x50)
    assert s.clock.deadline() is None and s.apic.read(DEADLINE, 8) == 0


def test_deadline_of_a_counter_behind_virtual_time() -> None:
    """As after a reset, which sets the TSC to 0: its offset is negative, and kept in 64 bits."""
    s = System()
    s.cpus[0].offset = -s.clock.now_ns % (1 << 64)
    s.apic.write(TIMER, 4, 0x50 | BY_DEADLINE)
    s.apic.write(DEADLINE, 8, 500)
    s.run(499)
    assert s.vectors(0) == []
    s.run(1)
    assert s.vectors(0) == [0x50]
    s.apic.acknowledge()
    s.apic.write(DEADLINE, 8, (1 << 64) - 1)
    s.run(1 << 40)
    assert s.vectors(0) == []


def test_deadline_of_a_counter_that_is_set() -> None:
    s = System()
    s.apic.write(OFFSET, 8, 0)
    s.apic.write(TIMER, 4, 0x50 | BY_DEADLINE)
    s.apic.write(OFFSET, 8, 0)
    assert s.clock.deadline() is None, "no deadline"
    s.apic.write(DEADLINE, 8, 10_000)
    s.cpus[0].offset = 9500 - s.clock.now_ns
    s.apic.write(OFFSET, 8, s.cpus[0].offset)
    s.run(499)
    assert s.vectors(0) == []
    s.run(1)
    assert s.vectors(0) == [0x50]
    s.apic.acknowledge()
    s.apic.write(DEADLINE, 8, 12_000)
    s.apic.write(OFFSET, 8, 11_000 - s.clock.now_ns)
    s.cpus[0].offset = 11_000 - s.clock.now_ns - 100
    s.run(1099)
    assert s.vectors(0) == [], "the clock went on while the counter was set"
    s.run(1)
    assert s.vectors(0) == [0x50]


# ---- inter-processor interrupts ------------------------------------------------------------------------------------------
def ipi(s: System, low: int, destination: int = 0, sender: int = 0) -> list[list[int]]:
    """What each APIC holds after an interrupt command."""
    apic = s.bus.locals[sender]
    apic.write(ICR_HIGH, 4, destination << 24)
    apic.write(ICR, 4, low)
    return [s.vectors(k) for k in range(len(s.cpus))]


@pytest.mark.parametrize(
    ("low", "destination", "expected"),
    [
        (0x4041, 2, [2]),
        (0x4041, 0xFF, [0, 1, 2, 3]),
        (0x4041, 9, []),
        (0x44041, 0, [1]),  # self
        (0x84041, 0, [0, 1, 2, 3]),  # all
        (0xC4041, 0, [0, 2, 3]),  # all but self
        (0x4841, 0b0101, [0, 2]),  # logical, flat
        (0x4841, 0b1000, [3]),
        (0x4941, 0b0110, [2]),  # lowest priority: 1 is at a higher one
    ],
)
def test_destinations(low: int, destination: int, expected: list[int]) -> None:
    s = System(4)
    s.bus.locals[1].write(TPR, 4, 0x20)
    got = ipi(s, low, destination, sender=1)
    assert [k for k, vectors in enumerate(got) if vectors] == expected
    assert all(vectors in ([], [0x41]) for vectors in got)
    assert s.bus.locals[1].read(ICR, 4) == low and s.bus.locals[1].read(ICR_HIGH, 4) == destination << 24


@pytest.mark.parametrize(
    ("destination", "expected"), [(0x11, [0]), (0x13, [0, 1]), (0x21, [2]), (0x31, []), (0xF1, [0, 2]), (0x2F, [2, 3])]
)
def test_clusters(destination: int, expected: list[int]) -> None:
    s = System(4)
    for apic, logical in zip(s.bus.locals, (0x11, 0x12, 0x21, 0x22), strict=True):
        apic.write(DFR, 4, 0x0FFFFFFF)
        apic.write(LDR, 4, logical << 24)
    got = ipi(s, 0x4841, destination)
    assert [k for k, vectors in enumerate(got) if vectors] == expected


def test_init_and_startup() -> None:
    s = System(3)
    ipi(s, 0xC4500)
    ipi(s, 0xC8500)  # the deassertion does nothing
    ipi(s, 0xC4609)
    assert [cpu.seen for cpu in s.cpus] == [[], ["init", ("startup", 9)], ["init", ("startup", 9)]]


def test_errors() -> None:
    s = System()
    s.apic.write(ERROR, 4, 0x60)
    ipi(s, 0x4405)
    assert s.cpus[0].seen == ["nmi"] and s.apic.read(ESR, 4) == 0
    ipi(s, 0x4005)
    assert s.vectors(0) == [0x60], "the error's own interrupt"
    assert s.apic.read(ESR, 4) == 0, "latched by a write"
    s.apic.write(ESR, 4, 0)
    assert s.apic.read(ESR, 4) == 0x20
    s.apic.write(ESR, 4, 0)
    assert s.apic.read(ESR, 4) == 0
    s.apic.read(0x40, 4)
    s.apic.write(ESR, 4, 0)
    assert s.apic.read(ESR, 4) == 0x80


def test_init_keeps_the_id() -> None:
    s = System()
    s.apic.write(ID, 4, 5 << 24)
    s.apic.write(TPR, 4, 0x30)
    s.apic.request(0x50, False)
    s.apic.init()
    assert (s.apic.read(ID, 4), s.apic.read(SVR, 4), s.vectors(0), s.cpus[0].tpr) == (5 << 24, 0xFF, [], 0)


def test_odd_accesses() -> None:
    s = System()
    told: list[str] = []
    s.trace.listeners.append(lambda event, fields: told.append(event))
    s.apic.write(TPR + 4, 4, 0x50)
    s.apic.write(TPR, 1, 0x50)
    assert told == ["guest_error", "guest_error"] and s.apic.read(TPR, 4) == 0
    assert s.apic.read(VERSION + 2, 1) == 5 and s.apic.read(VERSION + 8, 4) == 0


def test_window_shows_the_own_apic() -> None:
    s, window = System(2), ApicWindow()
    assert window.read(ID, 4) == 0xFFFFFFFF
    window.write(EOI, 4, 0)
    window.current = s.bus.locals[1]
    assert window.read(ID, 4) == 1 << 24
    window.write(TPR, 4, 0x70)
    assert [cpu.tpr for cpu in s.cpus] == [0, 0x70]
