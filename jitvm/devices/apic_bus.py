"""What joins local and I/O APICs: messages to one, some or all processors, and the ends of level-triggered interrupts.

Source: Intel SDM vol. 3, 10.6.2 (destinations), 10.6.2.4 (lowest priority), 10.6.1 (shorthands).

Not modelled: the focus processor; arbitration IDs.
"""

from __future__ import annotations

from collections.abc import Callable

from jitvm.devices.lapic import LOWEST, SIZE, LocalApic, Message

SELF, ALL, OTHERS = 1, 2, 3


class ApicWindow:
    """The page in which every processor sees its own APIC: `current` is that of the processor whose access is served."""

    def __init__(self) -> None:
        self.current: LocalApic | None = None

    def read(self, offset: int, size: int) -> int:
        """All ones where there is no APIC."""
        return self.current.read(offset, size) if self.current else (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Lost where there is no APIC."""
        if self.current:
            self.current.write(offset, size, value)


class ApicOrders:
    """The page by which a processor tells its own APIC what was written to its MSRs (jitvm/isa/apic.py)."""

    def __init__(self, window: ApicWindow) -> None:
        self._window = window

    def read(self, offset: int, size: int) -> int:
        return self._window.read(SIZE + offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        self._window.write(SIZE + offset, size, value)


class ApicBus:
    """All APICs of a board: `locals` of the processors, `on_eoi` of the I/O APICs."""

    def __init__(self) -> None:
        self.locals: list[LocalApic] = []
        self.on_eoi: list[Callable[[int], None]] = []

    def send(self, message: Message) -> None:
        """To all whom it addresses; with lowest priority to the first of those whose priority is lowest."""
        found = [apic for apic in self.locals if apic.matches(message)]
        if message.mode == LOWEST and found:
            found = [min(found, key=LocalApic.priority)]
        for apic in found:
            apic.accept(message)

    def send_short(self, message: Message, sender: LocalApic, shorthand: int) -> None:
        """By a destination shorthand."""
        for apic in self.locals:
            if apic.enabled and (shorthand == ALL or (apic is sender) == (shorthand == SELF)):
                apic.accept(message)

    def end_of_interrupt(self, vector: int) -> None:
        """A level-triggered interrupt was served."""
        for listener in self.on_eoi:
            listener(vector)
