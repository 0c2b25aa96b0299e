"""Two cascaded 8259A interrupt controllers with the edge/level registers of the PCI-to-ISA bridge.

Intel 8259A data sheet (order number 231468): ICW1-4, OCW1-3, priority modes, poll command.  Intel 82371SB (PIIX3),
section 3.4: ELCR1 and ELCR2 replace the LTIM bit of ICW1.

An edge-triggered request stays latched in the IRR until it is acknowledged, also if its line falls before that (the
8259A would give IRQ 7 instead); a level-triggered one follows its line.  An acknowledge that finds no request gives the
vector of IRQ 7 of the chip that was asked and sets no ISR bit.

Not modelled: MCS-80/85 vectors (ICW4 bit 0 clear), buffered mode (no pin to see it by), a cascade other than the PC's
slave on IR2.
"""

from __future__ import annotations

from jitvm.devices.base import Registers, Snapshot
from jitvm.irq import IrqLine, unconnected
from jitvm.trace import SILENT, Trace

ICW1_IC4 = 0x01
ICW1_SNGL = 0x02
ICW1 = 0x10
ICW4_8086 = 0x01
ICW4_AEOI = 0x02
ICW4_SFNM = 0x10
OCW3 = 0x08
OCW3_RIS = 0x01
OCW3_RR = 0x02
OCW3_POLL = 0x04
OCW3_SMM = 0x20
OCW3_ESMM = 0x40
OCW2_EOI = 0x20
OCW2_SL = 0x40
OCW2_R = 0x80

CASCADE = 2
"""The master's input that the slave drives."""
ELCR_MASTER = 0xF8
ELCR_SLAVE = 0xDE
"""Inputs that may be level-triggered: not the timer, keyboard, cascade, clock and coprocessor."""

_STATE = (
    "irr", "isr", "imr", "elcr", "lines", "vector_base", "top", "read_isr", "poll", "special_mask", "auto_eoi",
    "rotate_aeoi", "fully_nested", "icw_step", "icw4_expected",
)  # fmt: skip


class Pic8259:
    """One 8259A. `output` is its INT pin; inputs are driven through `set_input`."""

    def __init__(self, name: str, output: IrqLine, *, elcr_mask: int, cascade: int = -1, trace: Trace = SILENT) -> None:
        self.name, self.output, self._elcr_mask, self._cascade, self._trace = name, output, elcr_mask, cascade, trace
        self.lines = 0
        self._power_on()

    def _power_on(self) -> None:
        self.irr = self.isr = self.imr = self.elcr = 0
        self.vector_base = 0
        self.top = 0
        """The IR with the highest priority."""
        self.icw_step = 0
        self.icw4_expected = False
        self._clear_modes()

    def _clear_modes(self) -> None:
        self.read_isr = self.poll = self.special_mask = False
        self.auto_eoi = self.rotate_aeoi = self.fully_nested = False

    def reset(self) -> None:
        """Back to power-on; `lines` are wires and stay as they are driven."""
        self._power_on()
        self._update()

    def snapshot(self) -> Snapshot:
        return {key: getattr(self, key) for key in _STATE}

    def restore(self, state: Snapshot) -> None:
        for key in _STATE:
            setattr(self, key, state[key])
        self._update()

    # Inputs and priority

    def set_input(self, ir: int, level: bool) -> None:
        """Drive input IR0 to IR7."""
        bit = 1 << ir
        if level:
            if not self.lines & bit:
                self.lines |= bit
                self.irr |= bit
                self._update()
        elif self.lines & bit:
            self.lines &= ~bit
            if self.elcr & bit:
                self.irr &= ~bit
                self._update()

    def pending(self) -> int:
        """The IR that an acknowledge would take now, -1 when there is none."""
        requests = self.irr & ~self.imr
        if not requests:
            return -1
        top = self.top
        turned = (requests >> top | requests << (8 - top)) & 0xFF
        rank = (turned & -turned).bit_length() - 1
        serving = self.isr & ~self.imr if self.special_mask else self.isr
        if serving:
            turned = (serving >> top | serving << (8 - top)) & 0xFF
            busy = (turned & -turned).bit_length() - 1
            if rank > busy or (rank == busy and not (self.fully_nested and (rank + top) & 7 == self._cascade)):
                return -1
        return (rank + top) & 7

    def take(self) -> int:
        """The first INTA pulse: the IR goes into service; -1 when the request has gone."""
        ir = self.pending()
        if ir >= 0:
            bit = 1 << ir
            if not self.elcr & bit:
                self.irr &= ~bit
            if not self.auto_eoi:
                self.isr |= bit
            elif self.rotate_aeoi:
                self.top = (ir + 1) & 7
            self.output.set(False)
            self._update()
        return ir

    def _update(self) -> None:
        self.output.set(self.pending() >= 0)

    # Registers

    def read(self, offset: int, size: int) -> int:
        if self.poll:
            self.poll = False
            ir = self.take()
            return 0x80 | ir if ir >= 0 else 0
        if offset:
            return self.imr
        return self.isr if self.read_isr else self.irr

    def write(self, offset: int, size: int, value: int) -> None:
        if offset:
            if self.icw_step:
                self._write_icw(value)
            else:
                self.imr = value
                self._update()
        elif value & ICW1:
            self._write_icw1(value)
        elif value & OCW3:
            self._write_ocw3(value)
        else:
            self._write_ocw2(value)

    def _write_icw1(self, value: int) -> None:
        """Start of initialisation: the edge sense latch is cleared, a line has to rise again to request."""
        self.irr &= self.elcr
        self.imr = self.isr = 0
        self.top = 0
        self._clear_modes()
        self.icw4_expected = bool(value & ICW1_IC4)
        self.icw_step = 2
        if value & ICW1_SNGL:
            self._unmodelled("single mode (ICW1.SNGL)", value)
        if not self.icw4_expected:
            self._unmodelled("MCS-80/85 mode (no ICW4)", value)
        self._update()

    def _write_icw(self, value: int) -> None:
        if self.icw_step == 2:
            self.vector_base = value & 0xF8
            self.icw_step = 3
        elif self.icw_step == 3:
            if value != (1 << self._cascade if self._cascade >= 0 else CASCADE):
                self._unmodelled("cascade (ICW3)", value)
            self.icw_step = 4 if self.icw4_expected else 0
        else:
            self.auto_eoi = bool(value & ICW4_AEOI)
            self.fully_nested = bool(value & ICW4_SFNM)
            self.icw_step = 0
            if not value & ICW4_8086:
                self._unmodelled("MCS-80/85 mode (ICW4)", value)
        self._update()

    def _write_ocw2(self, value: int) -> None:
        ir = value & 7
        if value & OCW2_EOI:
            if not value & OCW2_SL:
                ir = self._highest_in_service()
                if ir < 0:
                    return
            self.isr &= ~(1 << ir)
            if value & OCW2_R:
                self.top = (ir + 1) & 7
        elif value & OCW2_SL:
            if not value & OCW2_R:
                return
            self.top = (ir + 1) & 7
        else:
            self.rotate_aeoi = bool(value & OCW2_R)
        self._update()

    def _highest_in_service(self) -> int:
        """What a non-specific EOI ends; in special mask mode not a masked level."""
        serving = self.isr & ~self.imr if self.special_mask else self.isr
        if not serving:
            return -1
        turned = (serving >> self.top | serving << (8 - self.top)) & 0xFF
        return ((turned & -turned).bit_length() - 1 + self.top) & 7

    def _write_ocw3(self, value: int) -> None:
        self.poll = bool(value & OCW3_POLL)
        if value & OCW3_RR:
            self.read_isr = bool(value & OCW3_RIS)
        if value & OCW3_ESMM:
            self.special_mask = bool(value & OCW3_SMM)
            self._update()

    def read_elcr(self) -> int:
        return self.elcr

    def write_elcr(self, value: int) -> None:
        """A new set of level-triggered inputs: those request as long as their line is high."""
        self.elcr = value & self._elcr_mask
        self.irr = (self.irr & ~self.elcr) | (self.lines & self.elcr)
        self._update()

    def _unmodelled(self, what: str, value: int) -> None:
        self._trace("unmodelled", device=self.name, what=what, value=value)


class PicPair:
    """Master and slave of a PC; `output` is the master's INT, the processor's INTR.

    Ranges: `master` (2 ports, 20h), `slave` (2 ports, A0h), `elcr` (2 ports, 4D0h).
    """

    name = "pic"

    def __init__(self, output: IrqLine, trace: Trace = SILENT) -> None:
        self._trace = trace
        self._master = Pic8259("pic-master", output, elcr_mask=ELCR_MASTER, cascade=CASCADE, trace=trace)
        cascade = IrqLine(lambda level: self._master.set_input(CASCADE, level))
        self._slave = Pic8259("pic-slave", cascade, elcr_mask=ELCR_SLAVE, trace=trace)
        self.master = Registers(self._master.read, self._master.write)
        self.slave = Registers(self._slave.read, self._slave.write)
        self.elcr = Registers(self._read_elcr, self._write_elcr)
        self._lines = [self._input(irq) for irq in range(16)]

    def _input(self, irq: int) -> IrqLine:
        if irq == CASCADE:
            return unconnected()
        chip, ir = (self._slave, irq - 8) if irq >= 8 else (self._master, irq)

        def sink(level: bool) -> None:
            if self._trace.wants("irq_line"):
                self._trace("irq_line", irq=irq, level=level)
            chip.set_input(ir, level)

        return IrqLine(sink)

    def line(self, irq: int) -> IrqLine:
        """The wire of IRQ 0 to 15. IRQ 2 leads nowhere: its pin belongs to the cascade."""
        return self._lines[irq]

    def acknowledge(self) -> int:
        """An INTA cycle: the vector of the interrupt that goes into service."""
        ir = self._master.take()
        if ir == CASCADE:
            ir = self._slave.take()
            return self._slave.vector_base | (ir if ir >= 0 else 7)
        return self._master.vector_base | (ir if ir >= 0 else 7)

    def _read_elcr(self, offset: int, size: int) -> int:
        return (self._slave if offset else self._master).read_elcr()

    def _write_elcr(self, offset: int, size: int, value: int) -> None:
        (self._slave if offset else self._master).write_elcr(value)

    def reset(self) -> None:
        self._slave.reset()
        self._master.reset()

    def snapshot(self) -> Snapshot:
        return {"master": self._master.snapshot(), "slave": self._slave.snapshot()}

    def restore(self, state: Snapshot) -> None:
        """The slave first: its INT drives the master.  The wires take their levels without a new edge."""
        self._slave.restore(state["slave"])
        self._master.restore(state["master"])
        lines = self._master.lines | self._slave.lines << 8
        for irq, line in enumerate(self._lines):
            line.level = irq != CASCADE and bool(lines >> irq & 1)
