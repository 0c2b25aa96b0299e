"""The local APIC of a processor: interrupt priorities, local vector table, timer, inter-processor interrupts.

Registers lie 16 bytes apart in a page of their own (FEE00000h, until IA32_APIC_BASE moves it: jitvm/isa/outside.py), which
every processor sees as its own APIC; accesses are 4 bytes wide.  They are kept where the processor reaches them
(`Processor.page`): it serves most reads itself, the task priority, ends of edge-triggered interrupts and messages to itself,
and takes interrupts (jitvm/isa/apic_page.py, whose rules are called here, too).  Of processors that run at the same time
each reaches its own page alone, without the machine lock; what comes from elsewhere meanwhile waits until it has left
translated code (`Processor.at_rest`).

Three 256-bit sets hold what was accepted (IRR), what is served (ISR), and which of it is level-triggered (TMR).  Vectors go
by classes of 16: one is delivered when its class is above that of the processor priority.

The 8259A's INTR comes in at LINT0, as ExtINT: its vector is fetched from there.  As on QEMU's "pc", LINT0 of the bootstrap
processor is open after reset, as its BIOS would have made it; the timer counts nanoseconds.

Source: Intel SDM vol. 3, 10 (advanced programmable interrupt controller): 10.4 (registers, enabling), 10.5 (local
interrupts, timer), 10.6 (inter-processor interrupts, logical destinations), 10.8 (acceptance, priorities, EOI), 10.9
(spurious interrupt).

Not modelled: x2APIC mode, arbitration between processors (a lowest-priority interrupt goes to the first processor with the
lowest priority), thermal and performance counter interrupts, bus errors; a debugger finds the page where it is after reset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from jitvm.clock import Clock
from jitvm.devices.base import Snapshot
from jitvm.trace import SILENT, Trace

APIC_ID, VERSION, TPR, APR, PPR, EOI, LDR, DFR, SVR = 0x20, 0x30, 0x80, 0x90, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0
ISR, TMR, IRR, ESR, ICR_LOW, ICR_HIGH = 0x100, 0x180, 0x200, 0x280, 0x300, 0x310
LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR = 0x320, 0x330, 0x340, 0x350, 0x360, 0x370
INITIAL_COUNT, CURRENT_COUNT, DIVIDE = 0x380, 0x390, 0x3E0
SIZE = 0x1000
BASE, DEADLINE, OFFSET = SIZE, SIZE + 8, SIZE + 16
"""Behind the page, where no guest reaches: 8 bytes each, by which the processor tells what is written to IA32_APIC_BASE and
IA32_TSC_DEADLINE, and the TSC's offset from virtual time when that changes."""
BASE_ENABLE = 0x800

VERSION_VALUE = 0x0005_0014
"""Integrated APIC, six LVT entries."""
FIXED, LOWEST, SMI, NMI, INIT, STARTUP, EXTINT = 0, 1, 2, 4, 5, 6, 7
"""Delivery modes."""
MASKED, LEVEL, REMOTE_IRR, POLARITY, PENDING = 0x1_0000, 0x8000, 0x4000, 0x2000, 0x1000
PERIODIC, BY_DEADLINE = 0x2_0000, 0x4_0000
SVR_ENABLE, SVR_BITS = 0x100, 0x1FF
ICR_LOGICAL, ICR_ASSERT = 0x800, 0x4000
ESR_SEND_VECTOR, ESR_RECEIVE_VECTOR, ESR_ADDRESS = 0x20, 0x40, 0x80
WRITABLE = {
    LVT_TIMER: 0x7_00FF, LVT_THERMAL: 0x1_07FF, LVT_PERF: 0x1_07FF, LVT_LINT0: 0x1_A7FF, LVT_LINT1: 0x1_A7FF,
    LVT_ERROR: 0x1_00FF,
}  # fmt: skip
"""Bits of each entry of the local vector table; delivery status and remote IRR can't be written."""
LINTS = (LVT_LINT0, LVT_LINT1)
HELD = {*WRITABLE, APIC_ID, VERSION, TPR, LDR, DFR, SVR, ESR, ICR_LOW, ICR_HIGH, INITIAL_COUNT, DIVIDE}
"""Registers, besides ISR, TMR and IRR, that read as the page holds them."""
EXTINT_LVT, FLAT_MODEL = 0x700, 0xF
NONE = -1
WORD_PENDING, WORD_ENABLED, WORD_EXTINT, SET_WORDS = 4, 5, 6, 8
"""In the page: something waits for the processor; IA32_APIC_BASE.EN; the 8259A's INTR reaches the processor.  Words of IRR,
ISR and TMR."""


class Register:
    """A register of the page as an attribute: its bits from `shift` on, of as many `words` as it has."""

    def __init__(self, offset: int, shift: int = 0, words: int = 1) -> None:
        self._first, self._shift, self._words = offset >> 4, shift, words

    def __get__(self, apic: LocalApic, owner: object = None) -> int:
        if self._words == 1:
            return int(apic.page[self._first]) >> self._shift
        return sum(int(apic.page[self._first + k]) << 32 * k for k in range(self._words))

    def __set__(self, apic: LocalApic, value: int) -> None:
        if self._words == 1:
            apic.page[self._first] = value << self._shift
            return
        for k in range(self._words):
            apic.page[self._first + k] = value >> 32 * k & 0xFFFF_FFFF


@dataclass(frozen=True)
class Message:
    """An interrupt on its way to processors: `mode` a delivery mode; `logical`: `destination` is a logical address."""

    vector: int
    mode: int
    destination: int
    logical: bool
    level: bool = False
    assertion: bool = True


class Sender(Protocol):
    """What carries messages between APICs (`jitvm.devices.apic_bus.ApicBus`)."""

    def send(self, message: Message) -> None:
        """To all whom it addresses."""
        ...

    def send_short(self, message: Message, sender: LocalApic, shorthand: int) -> None:
        """To self (1), all (2), all but self (3)."""
        ...

    def end_of_interrupt(self, vector: int) -> None:
        """A level-triggered interrupt was served: the I/O APICs may look at their pins again."""
        ...


class Processor(Protocol):
    """The processor around a local APIC."""

    page: memoryview
    """64 words of 64 bits: register `offset` is word `offset >> 4`; the WORD_* are no registers."""

    def priority(self) -> int:
        """Processor priority: the higher of task priority and served class (10.8.3.1)."""
        ...

    def look(self) -> bool:
        """Bring WORD_PENDING up to date; it."""
        ...

    def request(self, vector: int, level: bool) -> None:
        """A fixed interrupt comes in."""
        ...

    def take(self) -> int:
        """The vector that interrupts now, in service from now on; -1 for none."""
        ...

    def end_of_interrupt(self) -> int:
        """The highest vector in service is so no longer; which, or -1."""
        ...

    def tsc_offset(self) -> int:
        """TSC less virtual time, in ns."""
        ...

    def set_tpr(self, value: int) -> None:
        """The task priority, by its register or CR8: both change."""
        ...

    def interrupts_changed(self) -> None:
        """`pending` may have changed."""
        ...

    def at_rest(self, action: Callable[..., None], *arguments: object) -> None:
        """Call it when the processor does not touch the page: now, or as soon as it leaves translated code."""
        ...

    def nmi(self) -> None: ...

    def smi(self) -> None: ...

    def init(self) -> None: ...

    def startup(self, vector: int) -> None: ...


class LocalApic:
    """APIC number `apic_id`.  `bootstrap`: of the bootstrap processor.  `extint` acknowledges at the 8259A."""

    id, tpr, logical, format = Register(APIC_ID, 24), Register(TPR), Register(LDR), Register(DFR)
    spurious, errors, initial, divide = Register(SVR), Register(ESR), Register(INITIAL_COUNT), Register(DIVIDE)
    isr, tmr, irr = (Register(at, words=SET_WORDS) for at in (ISR, TMR, IRR))
    icr = Register(ICR_LOW, words=2)

    def __init__(
        self,
        apic_id: int,
        clock: Clock,
        processor: Processor,
        bus: Sender,
        extint: Callable[[], int],
        *,
        bootstrap: bool = True,
        trace: Trace = SILENT,
    ) -> None:
        self.name = f"lapic{apic_id}"
        self.number, self._bootstrap, self.page = apic_id, bootstrap, processor.page
        self._clock, self._processor, self._bus, self._extint, self._trace = clock, processor, bus, extint, trace
        self._timer = clock.timer(self.name, self._expired)
        self._lint = [False, False]
        self.pending = False
        """Something waits for the processor, as the device knows it: the processor may have taken it (`look`)."""
        self.page[VERSION >> 4] = VERSION_VALUE
        self._clear()

    def look(self) -> None:
        """Learn what the processor has done itself: whether anything waits for it."""
        self.pending = bool(self.page[WORD_PENDING])

    @property
    def enabled(self) -> bool:
        """IA32_APIC_BASE.EN."""
        return bool(self.page[WORD_ENABLED])

    @enabled.setter
    def enabled(self, on: bool) -> None:
        self.page[WORD_ENABLED] = on

    def _lvt(self, entry: int) -> int:
        """An entry of the local vector table."""
        return int(self.page[entry >> 4])

    def _set_lvt(self, entry: int, value: int) -> None:
        self.page[entry >> 4] = value

    def _clear(self) -> None:
        """State after power-up and INIT (10.4.7.1, 10.4.7.3); the APIC ID stays."""
        self.enabled = True
        self.irr = self.isr = self.tmr = 0
        self._processor.set_tpr(0)
        self.id = self.number
        self.logical, self.format, self.spurious = 0, 0xFFFF_FFFF, 0xFF
        for entry in WRITABLE:
            self._set_lvt(entry, EXTINT_LVT if entry == LVT_LINT0 and self._bootstrap else MASKED)
        self._errors = self.errors = 0
        self.icr = self.divide = self.initial = 0
        self._started = 0
        self._deadline = 0

    # ---- what the processor asks ------------------------------------------------------------------------------------
    def is_software_enabled(self) -> bool:
        return bool(self.spurious & SVR_ENABLE)

    def priority(self) -> int:
        """Processor priority."""
        return self._processor.priority()

    def takes_extint(self) -> bool:
        """Whether the 8259A's INTR reaches the processor: through LINT0, or past an APIC that is switched off."""
        if not self.enabled:
            return self._bootstrap
        return self._lvt(LVT_LINT0) & (MASKED | 0x700) == EXTINT_LVT

    def acknowledge(self) -> int:
        """The processor takes an interrupt: its vector."""
        vector = self._processor.take()
        if vector == NONE:
            vector = self._extint() if self._extint_asks() else self.spurious & 0xFF
        self.update()
        return vector

    def update(self) -> None:
        """Find out again whether there is something for the processor."""
        self.page[WORD_EXTINT] = self._extint_asks()
        pending = self._processor.look()
        if pending != self.pending:
            self.pending = pending
            self._processor.interrupts_changed()

    def set_tpr(self, value: int) -> None:
        """The task priority, by its register or CR8."""
        self._processor.set_tpr(value & 0xFF)
        self.update()

    # ---- interrupts that come in ------------------------------------------------------------------------------------
    def matches(self, message: Message) -> bool:
        """Whether a message is for this APIC (10.6.2); one that is switched off is not there (10.4.3)."""
        if not self.enabled:
            return False
        if message.destination == 0xFF:
            return True
        if not message.logical:
            return message.destination == self.id
        mine = self.logical >> 24
        if self.format >> 28 == FLAT_MODEL:
            return bool(mine & message.destination)
        cluster = message.destination >> 4
        return (cluster in (mine >> 4, 0xF)) and bool(mine & message.destination & 0xF)

    def accept(self, message: Message) -> None:
        """Take a message that is addressed to this APIC (10.8.1)."""
        mode = message.mode
        if mode in (FIXED, LOWEST):
            self.request(message.vector, message.level)
        elif mode == NMI:
            self._processor.nmi()
        elif mode == SMI:
            self._processor.smi()
        elif mode == INIT:
            if message.assertion:
                self._processor.init()
        elif mode == STARTUP:
            self._processor.startup(message.vector)
        else:
            self._trace("unmodelled", device=self.name, what="delivery mode", value=mode)

    def request(self, vector: int, level: bool) -> None:
        """A fixed interrupt; vectors below 16 are an error (10.5.2)."""
        if vector < 16:
            self._error(ESR_RECEIVE_VECTOR)
            return
        self._processor.at_rest(self._take_in, vector, level)

    def _take_in(self, vector: int, level: bool) -> None:
        """The request reaches IRR; an APIC that software has switched off takes none."""
        if self.is_software_enabled():
            self._processor.request(vector, level)
            self.update()

    def set_lint(self, pin: int, level: bool) -> None:
        """Drive LINT0 or LINT1; without an APIC these are INTR and NMI (10.4.3)."""
        rose = level and not self._lint[pin]
        self._lint[pin] = level
        entry = self._lvt(LINTS[pin])
        mode = entry >> 8 & 7
        if rose and pin == 1 and not self.enabled:
            self._processor.nmi()
        elif rose and self.enabled and not entry & MASKED:
            if mode == FIXED:
                self.request(entry & 0xFF, bool(entry & LEVEL))
            elif mode == NMI:
                self._processor.nmi()
            elif mode == SMI:
                self._processor.smi()
        if bool(self.page[WORD_EXTINT]) != self._extint_asks():
            self._processor.at_rest(self.update)

    def _extint_asks(self) -> bool:
        """The 8259A's INTR is up and reaches the processor."""
        return self._lint[0] and self.takes_extint()

    def _local(self, entry: int) -> None:
        """An interrupt of the local vector table."""
        word = self._lvt(entry)
        if not word & MASKED:
            self.request(word & 0xFF, False)

    def _error(self, bit: int) -> None:
        self._errors |= bit
        word = self._lvt(LVT_ERROR)
        if not word & MASKED and word & 0xFF >= 16:
            self.request(word & 0xFF, False)

    # ---- timer ------------------------------------------------------------------------------------------------------
    def _divisor(self) -> int:
        """Clocks for each count (10.5.4, figure 10-10)."""
        code = (self.divide & 3) | (self.divide >> 1 & 4)
        return 1 if code == 7 else 2 << code

    def _mode(self) -> int:
        return self._lvt(LVT_TIMER) & (PERIODIC | BY_DEADLINE)

    def _count(self) -> int:
        """The current count; 0 when it has come to an end, whatever mode was chosen since."""
        if self._timer.deadline is None or self._mode() == BY_DEADLINE:
            return 0
        passed = (self._clock.now_ns - self._started) // self._divisor()
        if self._mode() == PERIODIC:
            return self.initial - passed % self.initial
        return max(0, self.initial - passed)

    def _arm(self) -> None:
        """Set the alarm for the end of this count."""
        if not self.initial:
            self._timer.cancel()
            return
        self._timer.arm(self._started + self.initial * self._divisor())

    def _expired(self) -> None:
        """The count has come to 0, or the deadline."""
        mode = self._mode()
        if mode == BY_DEADLINE:
            left = self._until_deadline(self._processor.tsc_offset())
            if left:  # the TSC was set while this deadline was under way, and the clock went on until that was done
                self._timer.arm(self._clock.now_ns + left)
                return
            self._deadline = 0
        elif mode == PERIODIC:
            period = self.initial * self._divisor()
            self._started += max(1, (self._clock.now_ns - self._started) // period) * period
            self._arm()
        self._local(LVT_TIMER)

    def _start(self, count: int) -> None:
        if self._mode() == BY_DEADLINE:
            return
        self.initial, self._started = count, self._clock.now_ns
        self._arm()

    def set_deadline(self, tsc: int) -> None:
        """IA32_TSC_DEADLINE: 0 disarms; counts in that mode alone (10.5.4.1)."""
        if self._mode() != BY_DEADLINE:
            return
        self._deadline = tsc
        self._arm_deadline(self._processor.tsc_offset())

    def _arm_deadline(self, offset: int) -> None:
        """Set the alarm for the deadline, the TSC being `offset` away from virtual time."""
        if self._deadline:
            self._timer.arm(self._clock.now_ns + self._until_deadline(offset))
        else:
            self._timer.cancel()

    def _until_deadline(self, offset: int) -> int:
        """Nanoseconds; 0 when it has come.  The TSC's 64 bits wrap: it may be behind virtual time."""
        return max(0, self._deadline - (self._clock.now_ns + offset) % (1 << 64))

    def _set_timer_mode(self, before: int) -> None:
        """A switch to or from the deadline mode disarms the timer; between the others a count goes on to its end."""
        if (before ^ self._lvt(LVT_TIMER)) & BY_DEADLINE:
            self.initial = self._deadline = 0
            self._timer.cancel()

    def _set_divide(self, value: int) -> None:
        """The divide configuration: what is left of a count goes on at the new rate."""
        left, counts = self._count(), self._timer.deadline is not None and self._mode() != BY_DEADLINE
        self.divide = value & 0xB
        if counts:
            self._started = self._clock.now_ns - (self.initial - left) * self._divisor()
            self._arm()

    # ---- registers --------------------------------------------------------------------------------------------------
    def read(self, offset: int, size: int) -> int:
        """A register, or bytes of one; what lies between them reads as 0, and all ones where the APIC is switched off."""
        if offset >= BASE:
            return self._deadline if offset == DEADLINE else 0
        if not self.enabled:
            return (1 << 8 * size) - 1
        if offset & 0xF >= 4:
            return 0
        value = self._register(offset & ~0xF)
        return value >> 8 * (offset & 3) & ((1 << 8 * size) - 1)

    def _register(self, at: int) -> int:
        if at in HELD or ISR <= at < ESR:
            return int(self.page[at >> 4])
        if at == PPR:
            return self.priority()
        if at == CURRENT_COUNT:
            return self._count()
        self._error(ESR_ADDRESS)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """A register; lost are writes that are not of four aligned bytes, and all while the APIC is off (10.4.3)."""
        if offset >= BASE:
            self._write_msr(offset, value)
            return
        if not self.enabled:
            return
        if offset & 0xF or size != 4:
            self._trace("guest_error", device=self.name, what=f"write of {size} bytes at {offset:03x}h", value=value)
            return
        if offset in WRITABLE:
            self._write_lvt(offset, value)
        elif offset == EOI:
            self._end_of_interrupt()
        elif offset == TPR:
            self.set_tpr(value)
        elif offset == ICR_LOW:
            self.page[ICR_LOW >> 4] = value & 0xC_CFFF
            self._send(value)
        elif offset == ICR_HIGH:
            self.page[ICR_HIGH >> 4] = value & 0xFF00_0000
        elif offset == INITIAL_COUNT:
            self._start(value)
        elif offset == DIVIDE:
            self._set_divide(value)
        else:
            self._write_simple(offset, value)

    def _write_msr(self, offset: int, value: int) -> None:
        """What the processor tells.  An APIC that is switched on again has the ID of its start (10.4.3)."""
        if offset == DEADLINE:
            self.set_deadline(value)
        elif offset == OFFSET:
            if self._mode() == BY_DEADLINE:
                self._arm_deadline(value)
        else:
            if value & BASE_ENABLE and not self.enabled:
                self.id = self.number
            self.enabled = bool(value & BASE_ENABLE)
            self.update()

    def _write_simple(self, offset: int, value: int) -> None:
        """Registers that hold what is written."""
        if offset == APIC_ID:
            self.id = value >> 24
        elif offset == LDR:
            self.logical = value & 0xFF00_0000
        elif offset == DFR:
            self.format = value | 0x0FFF_FFFF
        elif offset == SVR:
            self.spurious = value & SVR_BITS
            if not value & SVR_ENABLE:
                for entry in WRITABLE:
                    self._set_lvt(entry, self._lvt(entry) | MASKED)
        elif offset == ESR:
            self.errors, self._errors = self._errors, 0
        else:
            self._error(ESR_ADDRESS)
            self._trace("guest_error", device=self.name, what=f"write to {offset:03x}h", value=value)
            return
        self.update()

    def _write_lvt(self, entry: int, value: int) -> None:
        """An entry of the local vector table; while the APIC is disabled it stays masked (10.4.7.2)."""
        before = self._lvt(entry)
        value &= WRITABLE[entry]
        if not self.is_software_enabled():
            value |= MASKED
        self._set_lvt(entry, value)
        if entry == LVT_TIMER:
            self._set_timer_mode(before)
        elif not value & MASKED and value >> 8 & 7 == FIXED and value & 0xFF < 16:
            self._error(ESR_RECEIVE_VECTOR)
        self.update()

    def _end_of_interrupt(self) -> None:
        vector = self._processor.end_of_interrupt()
        if vector == NONE:
            return
        if self.page[(TMR >> 4) + (vector >> 5)] >> (vector & 31) & 1:
            self._bus.end_of_interrupt(vector)
        self.update()

    def _send(self, value: int) -> None:
        """An inter-processor interrupt (10.6.1)."""
        vector, mode, shorthand = value & 0xFF, value >> 8 & 7, value >> 18 & 3
        if mode in (FIXED, LOWEST) and vector < 16:
            self._error(ESR_SEND_VECTOR)
            return
        level, assertion = bool(value & LEVEL), bool(value & ICR_ASSERT)
        destination = self.page[ICR_HIGH >> 4] >> 24
        message = Message(vector, mode, destination, bool(value & ICR_LOGICAL), False, assertion or not level)
        if shorthand:
            self._bus.send_short(message, self, shorthand)
        else:
            self._bus.send(message)

    # ---- state ------------------------------------------------------------------------------------------------------
    def init(self) -> None:
        """INIT: as after power-up, but for the APIC ID."""
        number, enabled = self.id, self.enabled
        self._timer.cancel()
        self._clear()
        self.id, self.enabled = number, enabled
        self.update()

    def reset(self) -> None:
        self._timer.cancel()
        self._clear()
        self.update()

    def snapshot(self) -> Snapshot:
        names = ("irr", "isr", "tmr", "tpr", "id", "logical", "format", "spurious", "errors", "icr", "divide", "initial",
                 "enabled")  # fmt: skip
        return {name: getattr(self, name) for name in names} | {
            "lvt": {entry: self._lvt(entry) for entry in WRITABLE},
            "lint": list(self._lint),
            "latched_errors": self._errors,
            "started": self._started,
            "deadline": self._deadline,
            "alarm": self._timer.deadline,
        }

    def restore(self, state: Snapshot) -> None:
        self._timer.cancel()
        for name in ("irr", "isr", "tmr", "id", "logical", "format", "spurious", "errors", "icr", "divide", "initial",
                     "enabled"):  # fmt: skip
            setattr(self, name, state[name])
        for entry, value in state["lvt"].items():
            self._set_lvt(entry, value)
        self._lint = list(state["lint"])
        self._errors, self._started, self._deadline = state["latched_errors"], state["started"], state["deadline"]
        if state["alarm"] is not None:
            self._timer.arm(state["alarm"])
        self.set_tpr(state["tpr"])
