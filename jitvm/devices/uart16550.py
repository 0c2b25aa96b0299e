"""The 16550A serial port as a PC wires it.

National Semiconductor PC16550D data sheet: registers, FIFO polled and interrupt modes, MODEM control and loopback.  The
PC's own part: OUT2 gates the interrupt output.

A character written is given to the backend at once, so the transmitter is always empty: THRE and TEMT stay set, and the
THRE interrupt comes as if the character had left immediately.  Received characters come as fast as the FIFO has room;
only the receive time-out (four character times) follows the line settings.  The other side is always there: CTS, DSR
and DCD are on.

Not modelled: the time that a character takes on the wire, word length and parity on the wire (all 8 bits pass, no
framing or parity errors), sending a break (LCR bit 6), the DMA signals RXRDY and TXRDY.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from jitvm.clock import NS_PER_SECOND, Clock
from jitvm.devices.base import Snapshot
from jitvm.irq import IrqLine
from jitvm.trace import SILENT, Trace

UART_HZ = 1_843_200
RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(8)
THR, FCR = RBR, IIR
IER_RDA, IER_THRE, IER_RLS, IER_MSI = 1, 2, 4, 8
IIR_NONE, IIR_MSI, IIR_THRE, IIR_RDA, IIR_RLS, IIR_CTI = 1, 0, 2, 4, 6, 12
IIR_FIFOS = 0xC0
FCR_ENABLE, FCR_CLEAR_RX, FCR_CLEAR_TX = 1, 2, 4
LCR_DLAB, LCR_BREAK = 0x80, 0x40
MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP = 1, 2, 4, 8, 16
LSR_DR, LSR_OE, LSR_BI, LSR_THRE, LSR_TEMT = 0x01, 0x02, 0x10, 0x20, 0x40
MSR_TERI = 0x04
MSR_CTS, MSR_DSR, MSR_RI, MSR_DCD = 0x10, 0x20, 0x40, 0x80
CONNECTED = MSR_CTS | MSR_DSR | MSR_DCD
FIFO_SIZE = 16
TRIGGER = (1, 4, 8, 14)
DIVISOR_9600 = 12

_BYTES = tuple(bytes((value,)) for value in range(256))
_STATE = (
    "ier", "lcr", "mcr", "lsr_errors", "msr_deltas", "scratch", "divisor", "fcr", "thre_pending", "timed_out", "modem",
)  # fmt: skip


class SerialLine(Protocol):
    """The other end: takes what is sent, and hands what it has to a receiver that says how much it took."""

    def write(self, data: bytes) -> None: ...

    def connect(self, receiver: Callable[[bytes], int]) -> None: ...

    def pump(self) -> int: ...


class Uart16550:
    """One port (8 ports of the bus: COM1 3F8h, COM2 2F8h)."""

    def __init__(self, name: str, irq: IrqLine, clock: Clock, backend: SerialLine, trace: Trace = SILENT) -> None:
        self.name, self._irq, self._clock, self._backend, self._trace = name, irq, clock, backend, trace
        self._timer = clock.timer(name, self._on_timeout)
        self._send = backend.write
        self._fifo: deque[int] = deque()
        self._power_on()
        backend.connect(self.receive)

    def _power_on(self) -> None:
        self.ier = self.lcr = self.mcr = self.fcr = self.scratch = 0
        self.lsr_errors = 0
        self.modem = CONNECTED
        """High half of the MSR."""
        self.msr_deltas = 0
        self.divisor = DIVISOR_9600
        self.thre_pending = False
        """The transmitter has become empty since IIR last said so."""
        self.timed_out = False
        self._fifo.clear()

    # Interrupts

    def _source(self) -> int:
        """IIR's low bits: the enabled interrupt of the highest priority."""
        ier = self.ier
        if ier & IER_RLS and self.lsr_errors:
            return IIR_RLS
        if ier & IER_RDA and self._fifo:
            fcr = self.fcr
            if not fcr & FCR_ENABLE or len(self._fifo) >= TRIGGER[fcr >> 6]:
                return IIR_RDA
            if self.timed_out:
                return IIR_CTI
        if ier & IER_THRE and self.thre_pending:
            return IIR_THRE
        if ier & IER_MSI and self.msr_deltas:
            return IIR_MSI
        return IIR_NONE

    def _update(self) -> None:
        self._irq.set(bool(self.mcr & MCR_OUT2) and self._source() != IIR_NONE)

    def _on_timeout(self) -> None:
        self.timed_out = True
        self._update()

    def _restart_timeout(self) -> None:
        """Four character times from the last character in or out of a FIFO that is not empty."""
        self.timed_out = False
        if self._fifo and self.fcr & FCR_ENABLE:
            lcr = self.lcr
            bits = 1 + 5 + (lcr & 3) + (1 if lcr & 8 else 0) + (2 if lcr & 4 else 1)
            wait = 4 * bits * 16 * (self.divisor or 65536) * NS_PER_SECOND // UART_HZ
            self._timer.arm(self._clock.now_ns + wait)
        else:
            self._timer.cancel()

    # Characters

    def receive(self, data: bytes) -> int:
        """Characters from the line; how many were taken.  In loopback the line is cut off."""
        if self.mcr & MCR_LOOP:
            return 0
        room = (FIFO_SIZE if self.fcr & FCR_ENABLE else 1) - len(self._fifo)
        taken = data[: max(room, 0)]
        if taken:
            self._fifo.extend(taken)
            self._restart_timeout()
            self._update()
        return len(taken)

    def _loop_back(self, value: int) -> None:
        """A character on the internal wire; a full receiver overruns."""
        if not self.fcr & FCR_ENABLE and self._fifo:
            self.lsr_errors |= LSR_OE
            self._fifo[0] = value
        elif len(self._fifo) >= FIFO_SIZE:
            self.lsr_errors |= LSR_OE
        else:
            self._fifo.append(value)
        self._restart_timeout()

    # Registers

    def read(self, offset: int, size: int) -> int:
        if offset == LSR:
            errors = self.lsr_errors
            if errors:
                self.lsr_errors = 0
                self._update()
            return LSR_THRE | LSR_TEMT | errors | (LSR_DR if self._fifo else 0)
        if offset == RBR:
            return self.divisor & 0xFF if self.lcr & LCR_DLAB else self._read_character()
        if offset == IIR:
            source = self._source()
            if source == IIR_THRE:
                self.thre_pending = False
                self._update()
            return source | IIR_FIFOS if self.fcr & FCR_ENABLE else source
        if offset == IER:
            return self.divisor >> 8 if self.lcr & LCR_DLAB else self.ier
        if offset == MSR:
            value = self.modem | self.msr_deltas
            self.msr_deltas = 0
            self._update()
            return value
        if offset == LCR:
            return self.lcr
        return self.mcr if offset == MCR else self.scratch

    def _read_character(self) -> int:
        fifo = self._fifo
        value = fifo.popleft() if fifo else 0
        self._restart_timeout()
        if not fifo:
            self._backend.pump()
        self._update()
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == THR:
            if self.lcr & LCR_DLAB:
                self.divisor = self.divisor & 0xFF00 | value
                return
            if self.mcr & MCR_LOOP:
                self._loop_back(value)
            else:
                self._send(_BYTES[value])
            if self.ier:
                self.thre_pending = False
                self._update()
            self.thre_pending = True
            if self.ier:
                self._update()
        elif offset == IER:
            if self.lcr & LCR_DLAB:
                self.divisor = self.divisor & 0xFF | value << 8
                return
            if value & IER_THRE and not self.ier & IER_THRE:
                self.thre_pending = True
            self.ier = value & 0x0F
            self._update()
        elif offset == FCR:
            self._write_fcr(value)
        elif offset == LCR:
            if value & LCR_BREAK & ~self.lcr:
                self._trace("unmodelled", device=self.name, what="sending a break (LCR bit 6)", value=value)
            self.lcr = value
        elif offset == MCR:
            self._write_mcr(value & 0x1F)
        elif offset == SCR:
            self.scratch = value

    def _write_fcr(self, value: int) -> None:
        if (value ^ self.fcr) & FCR_ENABLE:
            value |= FCR_CLEAR_RX | FCR_CLEAR_TX
        if value & FCR_CLEAR_TX:
            self.thre_pending = True
        if value & FCR_CLEAR_RX:
            self._fifo.clear()
        self.fcr = value & 0xC9 if value & FCR_ENABLE else 0
        self._restart_timeout()
        self._backend.pump()
        self._update()

    def _write_mcr(self, value: int) -> None:
        self.mcr = value
        modem = CONNECTED
        if value & MCR_LOOP:
            modem = MSR_CTS if value & MCR_RTS else 0
            modem |= MSR_DSR if value & MCR_DTR else 0
            modem |= MSR_RI if value & MCR_OUT1 else 0
            modem |= MSR_DCD if value & MCR_OUT2 else 0
        changed = modem ^ self.modem
        self.msr_deltas |= (changed & CONNECTED) >> 4 | (MSR_TERI if changed & self.modem & MSR_RI else 0)
        self.modem = modem
        self._backend.pump()
        self._update()

    # Device

    def reset(self) -> None:
        self._power_on()
        self._timer.cancel()
        self._irq.set(False)

    def snapshot(self) -> Snapshot:
        state: Snapshot = {key: getattr(self, key) for key in _STATE}
        return state | {"fifo": bytes(self._fifo), "deadline": self._timer.deadline}

    def restore(self, state: Snapshot) -> None:
        for key in _STATE:
            setattr(self, key, state[key])
        self._fifo = deque(state["fifo"])
        if state["deadline"] is None:
            self._timer.cancel()
        else:
            self._timer.arm(state["deadline"])
        self._update()
