"""Resource descriptors: the ports, interrupts, DMA channels and windows of a device, as _CRS and _PRS tell them.

Source: ACPI Specification 6.5, 6.4.2 (small), 6.4.3 (large descriptors).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from jitvm.acpi.aml import buffer

IRQ_TAG, DMA_TAG, IO_TAG, END_TAG = 0x22, 0x2A, 0x47, 0x79
DWORD_TAG, WORD_TAG, INTERRUPT_TAG = 0x87, 0x88, 0x89
DECODE_16 = 1
MEMORY, IO, BUS = 0, 1, 2
FIXED = 0x0C
"""Of a window: both its ends are fixed, the bridge passes on what lies inside."""
ENTIRE_RANGE = 0x03
READ_WRITE, CACHEABLE = 0x01, 0x02
CONSUMER, SHARED = 0x01, 0x08
INTERRUPT_AT = 5
"""Where in a descriptor of one interrupt its number is."""


def template(*descriptors: bytes) -> bytes:
    """A buffer of descriptors; no checksum (0)."""
    return buffer(b"".join(descriptors) + bytes((END_TAG, 0)))


def io(base: int, length: int) -> bytes:
    """Fixed ports."""
    return struct.pack("<BBHHBB", IO_TAG, DECODE_16, base, base, 1, length)


def irq(number: int) -> bytes:
    """An edge-triggered ISA interrupt."""
    return struct.pack("<BH", IRQ_TAG, 1 << number)


def dma(channel: int) -> bytes:
    """A channel of ISA's DMA, for bytes."""
    return struct.pack("<BBB", DMA_TAG, 1 << channel, 0)


def interrupts(numbers: Sequence[int]) -> bytes:
    """Level-triggered interrupts, active high and shared, one of which is used."""
    body = struct.pack(f"<BB{len(numbers)}I", CONSUMER | SHARED, len(numbers), *numbers)
    return struct.pack("<BH", INTERRUPT_TAG, len(body)) + body


def bus_numbers(first: int, last: int) -> bytes:
    """The buses behind a bridge."""
    return _word(BUS, 0, first, last)


def io_window(first: int, last: int) -> bytes:
    """Ports behind a bridge."""
    return _word(IO, ENTIRE_RANGE, first, last)


def memory_window(first: int, last: int, cacheable: bool = False) -> bytes:
    """Addresses below 4 GiB behind a bridge."""
    flags = READ_WRITE | CACHEABLE * cacheable
    body = struct.pack("<BBB5I", MEMORY, FIXED, flags, 0, first, last, 0, last - first + 1)
    return struct.pack("<BH", DWORD_TAG, len(body)) + body


def _word(kind: int, flags: int, first: int, last: int) -> bytes:
    body = struct.pack("<BBB5H", kind, FIXED, flags, 0, first, last, 0, last - first + 1)
    return struct.pack("<BH", WORD_TAG, len(body)) + body
