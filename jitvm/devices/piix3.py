"""The PCI-to-ISA bridge of an Intel 82371SB (PIIX3), function 0, as QEMU's "pc" board presents it.

Intel 82371FB/82371SB datasheet (290550): PIRQ route control registers (60h-63h), reset control register (CF9h).
Reset values are those of QEMU 7.2.

Each PIRQ# input is a wired OR of PCI interrupt pins; it drives the ISA interrupt that its route control register names.
Deterministic latency control (82h: passive release, delayed transactions) shapes the PCI bus's timing: a latch here.
The edge/level registers (4D0h, 4D1h) are the interrupt controllers', port 92h is the board's.

Not modelled: chip selects and BIOS decoding (XBCS 4Eh), ISA recovery timers, top of memory (69h), motherboard and
MSTAT registers, the I/O APIC's base address, the SMI timers (A0h-AFh); they are stored without effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jitvm.devices.base import Registers, Snapshot
from jitvm.devices.pci import MULTIFUNCTION, STATUS_DEVSEL_MEDIUM, PciFunction
from jitvm.irq import IrqLine
from jitvm.trace import SILENT, Trace

PIRQRCA, DLC = 0x60, 0x82
ROUTE_DISABLE = 0x80
ROUTABLE = frozenset({3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15})
RCR_HARD, RCR_CPU = 2, 4
DEFAULTS = {
    0x4C: 0x4D, 0x4E: 0x03, 0x69: 0x02, 0x70: 0x80, 0x76: 0x0C, 0x77: 0x0C, 0x78: 0x02, 0xA0: 0x08, 0xA8: 0x0F,
}  # fmt: skip


class Piix3Isa(PciFunction):
    """8086:7000 at 01.0.

    `irqs[n]` is the wire to ISA interrupt n (16 of them; those that can't be routed stay low).  `on_reset(hard)` is
    called by a write to the reset control register: `hard` resets the whole board, else only the CPU.
    """

    def __init__(self, irqs: Sequence[IrqLine], on_reset: Callable[[bool], None], trace: Trace = SILENT) -> None:
        super().__init__(
            "piix3", vendor=0x8086, device=0x7000, class_code=0x060100, status=STATUS_DEVSEL_MEDIUM,
            header_type=MULTIFUNCTION, trace=trace,
        )  # fmt: skip
        self._irqs, self._on_reset = irqs, on_reset
        for offset in range(0x40, 0x100):
            self.define(offset, 1, DEFAULTS.get(offset, 0), 0xFF)
        for offset in range(PIRQRCA, PIRQRCA + 4):
            self.define(offset, 1, ROUTE_DISABLE, 0x8F)
        self._inputs: list[list[IrqLine]] = [[], [], [], []]
        self._reset_control = 0
        self.reset_control = Registers(self._read_reset, self._write_reset)

    def pirq(self, n: int) -> IrqLine:
        """A new wire to input PIRQ n (0 is PIRQA#), for one pin of one function."""
        line = IrqLine(lambda _level: self._route())
        self._inputs[n].append(line)
        return line

    def _route(self) -> None:
        """Drive every ISA interrupt with the OR of the PIRQ inputs that lead to it."""
        high = 0
        for n, inputs in enumerate(self._inputs):
            route = self.config[PIRQRCA + n]
            if not route & ROUTE_DISABLE and any(line.level for line in inputs):
                high |= 1 << (route & 0x0F)
        for irq in ROUTABLE:
            self._irqs[irq].set(bool(high >> irq & 1))

    def config_written(self, offset: int, size: int) -> None:
        if self.wrote(PIRQRCA, offset, size, 4):
            for n in range(4):
                route = self.config[PIRQRCA + n]
                if not route & ROUTE_DISABLE and route & 0x0F not in ROUTABLE:
                    self.trace("guest_error", device=self.name, what="PIRQRC names a reserved IRQ", value=route)
            self._route()
        elif offset >= 0x40 and not (offset == DLC and size == 1):
            self.unmodelled_register(offset, size)

    def _read_reset(self, _offset: int, _size: int) -> int:
        return self._reset_control

    def _write_reset(self, _offset: int, _size: int, value: int) -> None:
        """RCPU never reads as 1, so every write of 1 is the edge that starts a reset."""
        self._reset_control = value & RCR_HARD
        if value & RCR_CPU:
            self._on_reset(bool(value & RCR_HARD))

    def reset(self) -> None:
        super().reset()
        self._reset_control = 0
        self._route()

    def snapshot(self) -> Snapshot:
        return super().snapshot() | {"reset_control": self._reset_control}

    def restore(self, state: Snapshot) -> None:
        super().restore(state)
        self._reset_control = state["reset_control"]
        self._route()
