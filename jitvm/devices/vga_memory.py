"""VGA display memory: four planes behind the window A0000h-BFFFFh, with latches, write modes and read modes.

IBM Personal System/2 Hardware Interface Technical Reference, "Video Subsystem": sequencer memory mode, graphics
controller; the same is in FreeVGA's "Accessing the VGA Display Memory".

Video memory is one array.  Its first 256 KiB are the planes, byte by byte: plane p at address a is byte 4a + p, so that
chain-4 and the linear VBE modes are plain bytes.  While odd/even addressing is in plain use (every text mode), planes 0
and 1 live in a second array, interleaved as the window shows them; they move when the mode changes.  `linear` says when
the window is such plain memory, so that the board may map it like RAM.

Not modelled: the address bits that chain-4 and odd/even drop (plane addresses are a/4 and a/2: a program sees the
difference only when it changes the addressing without clearing the screen), the high page bits of the misc output
register, latches loaded by reads of plain memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jitvm.devices.base import Snapshot

Bytes = npt.NDArray[np.uint8]

WINDOW = 0x2_0000
PLANE = 0x1_0000
PLANES = 4 * PLANE
BANK = 0x1_0000
REPEAT = 0x0101_0101
EXPAND = [sum(0xFF << 8 * plane for plane in range(4) if bits >> plane & 1) for bits in range(16)]
"""Four plane bits to four bytes."""
DECODE = [(0x0_0000, 0x2_0000), (0x0_0000, 0x1_0000), (0x1_0000, 0x0_8000), (0x1_8000, 0x0_8000)]
"""Memory map select (graphics miscellaneous, bits 2 and 3): offset in the window and size."""
SR_MASK, SR_MODE = 2, 4
SR4_ODD_EVEN_OFF, SR4_CHAIN4 = 4, 8
GR_SET_RESET, GR_ENABLE, GR_COMPARE, GR_ROTATE, GR_READ_MAP, GR_MODE, GR_MISC, GR_CARE, GR_BITS = range(9)
GR5_WRITE_MODE, GR5_READ_COMPARE, GR5_ODD_EVEN = 3, 8, 0x10
MISC_RAM = 2


class LinearWindow(NamedTuple):
    """A part of the window that is plain memory: `size` bytes at `offset` show `array` ("vram", "text") at `start`."""

    offset: int
    size: int
    array: str
    start: int


class VgaMemory:
    """Display memory and the window's region (`read`, `write`: 128 KiB, `max_size` 8).

    `sr` and `gr` are the sequencer's and the graphics controller's registers, shared with their owner, who calls
    `update` after changing one.
    """

    __slots__ = (
        "_base", "_bits", "_cells", "_direct", "_gr", "_latch", "_plain", "_planes", "_shift", "_size", "_sr", "_start",
        "_text_bytes", "_vram_bytes", "linear", "on_linear", "text", "text_active", "vram",
    )  # fmt: skip

    def __init__(self, vram: Bytes, text: Bytes, sr: bytearray, gr: bytearray) -> None:
        self.vram, self.text = vram, text
        self._vram_bytes, self._text_bytes = vram.data, text.data
        self._planes = self._vram_bytes[:PLANES].cast("I")
        self._sr, self._gr = sr, gr
        self._latch = 0
        self._base = self._size = self._start = 0
        self._plain: memoryview | None = None
        self._direct = False
        """An address is one of all planes, a byte written goes as it is to those that `_bits` masks, and a byte read comes
        from the plane at `_shift`: 16-colour modes, when nothing is set up for a special effect."""
        self._bits = self._shift = 0
        self.text_active = False
        self.linear: LinearWindow | None = None
        self.on_linear: Callable[[LinearWindow | None], None] = lambda _window: None

    def update(self, misc: int, bank: int | None) -> None:
        """Find out what the window shows now; `bank` is the 64 KiB bank of a linear VBE mode, else None."""
        sr4, gr = self._sr[SR_MODE], self._gr
        self._base, self._size = DECODE[gr[GR_MISC] >> 2 & 3] if misc & MISC_RAM else (0, 0)
        self._plain, self._start = None, 0
        odd_even = not sr4 & (SR4_CHAIN4 | SR4_ODD_EVEN_OFF) and bool(gr[GR_MODE] & GR5_ODD_EVEN)
        simple = not (gr[GR_MODE] & (GR5_WRITE_MODE | GR5_READ_COMPARE) or gr[GR_ENABLE] or gr[GR_ROTATE])
        simple = simple and gr[GR_BITS] == 0xFF
        mask = self._sr[SR_MASK] & 0xF
        planar = sr4 & (SR4_CHAIN4 | SR4_ODD_EVEN_OFF) == SR4_ODD_EVEN_OFF and not gr[GR_MODE] & GR5_ODD_EVEN
        self._direct = planar and simple
        self._bits, self._shift = EXPAND[mask], 8 * gr[GR_READ_MAP]
        text_active = bank is None and odd_even and simple and mask & 3 == 3 and not gr[GR_READ_MAP] & 2
        if text_active != self.text_active:
            self._move_cells(text_active)
        name = "vram"
        if bank is not None:
            self._base, self._size = DECODE[1]
            self._start = bank * BANK
            self._plain = self._vram_bytes if self._start + BANK <= len(self._vram_bytes) else None
        elif text_active:
            self._plain, name = self._text_bytes, "text"
        elif sr4 & SR4_CHAIN4 and simple and mask == 0xF:
            self._plain = self._vram_bytes
        linear = None
        if self._plain is not None and self._size:
            linear = LinearWindow(self._base, self._size, name, self._start)
        if linear != self.linear:
            self.linear = linear
            self.on_linear(linear)

    def _move_cells(self, to_text: bool) -> None:
        """Planes 0 and 1 change their place."""
        planes = self.vram[:PLANES].reshape(PLANE, 4)
        cells = self.text.reshape(PLANE, 2)
        if to_text:
            cells[:] = planes[:, :2]
        else:
            planes[:, :2] = cells
        self.text_active = to_text

    def plane_view(self) -> Bytes:
        """The planes as an array [address, plane], wherever they live now."""
        planes = self.vram[:PLANES].reshape(PLANE, 4)
        if not self.text_active:
            return planes
        planes = planes.copy()
        planes[:, :2] = self.text.reshape(PLANE, 2)
        return planes

    def cells(self) -> Bytes:
        """Character and attribute of each cell: an array [address, 2]."""
        return self.text.reshape(PLANE, 2) if self.text_active else self.vram[:PLANES].reshape(PLANE, 4)[:, :2]

    def read(self, offset: int, size: int) -> int:
        at = offset - self._base
        if at < 0 or at + size > self._size:
            return (1 << 8 * size) - 1
        plain = self._plain
        if plain is not None:
            at += self._start
            if size == 1:
                return plain[at]
            return int.from_bytes(plain[at : at + size], "little")
        if size == 1:
            if self._direct:
                latch = self._latch = self._planes[at & PLANE - 1]
                return latch >> self._shift & 0xFF
            return self._read_planes(at)
        return int.from_bytes(bytes(self._read_planes(at + k) for k in range(size)), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        at = offset - self._base
        if at < 0 or at + size > self._size:
            return
        plain = self._plain
        if plain is not None:
            at += self._start
            if size == 1:
                plain[at] = value
            else:
                plain[at : at + size] = value.to_bytes(size, "little")
            return
        if size == 1 and self._direct:
            at &= PLANE - 1
            bits = self._bits
            self._planes[at] = self._planes[at] & ~bits | value * REPEAT & bits
            return
        for k in range(size):
            self._write_planes(at + k, value >> 8 * k & 0xFF)

    def read_block(self, offset: int, size: int, count: int) -> bytes:
        """`count` reads of `size` bytes from ascending offsets."""
        at, n = offset - self._base, size * count
        if self._plain is not None and at >= 0 and at + n <= self._size:
            at += self._start
            return bytes(self._plain[at : at + n])
        return b"".join(self.read(offset + k * size, size).to_bytes(size, "little") for k in range(count))

    def write_block(self, offset: int, size: int, data: bytes) -> None:
        """Writes of `size` bytes each to ascending offsets."""
        at, n = offset - self._base, len(data)
        if self._plain is not None and at >= 0 and at + n <= self._size:
            at += self._start
            self._plain[at : at + n] = data
            return
        for k in range(0, n, size):
            self.write(offset + k, size, int.from_bytes(data[k : k + size], "little"))

    def _read_planes(self, at: int) -> int:
        """One byte by read mode 0 or 1; the latches take the four bytes at its address."""
        gr, sr4 = self._gr, self._sr[SR_MODE]
        plane = gr[GR_READ_MAP]
        if sr4 & SR4_CHAIN4:
            address, plane = at >> 2, at & 3
        elif gr[GR_MODE] & GR5_ODD_EVEN:
            address, plane = at >> 1, plane & 2 | at & 1
        else:
            address = at
        latch = self._latch = self._planes[address & PLANE - 1]
        if not gr[GR_MODE] & GR5_READ_COMPARE:
            return latch >> 8 * plane & 0xFF
        differ = (latch ^ EXPAND[gr[GR_COMPARE]]) & EXPAND[gr[GR_CARE]]
        return ~(differ | differ >> 8 | differ >> 16 | differ >> 24) & 0xFF

    def _write_planes(self, at: int, value: int) -> None:
        """One byte through write modes 0 to 3 into the enabled planes."""
        gr, sr4, mask = self._gr, self._sr[SR_MODE], self._sr[SR_MASK]
        if sr4 & SR4_CHAIN4:
            address, mask = at >> 2, mask & 1 << (at & 3)
        elif not sr4 & SR4_ODD_EVEN_OFF:
            address, mask = at >> 1, mask & (0xA if at & 1 else 0x5)
        else:
            address = at
        address &= PLANE - 1
        mode, latch = gr[GR_MODE] & GR5_WRITE_MODE, self._latch
        if mode == 1:
            data = latch
        else:
            bits = gr[GR_BITS]
            if mode == 2:
                data = EXPAND[value & 0xF]
            else:
                rotate = gr[GR_ROTATE] & 7
                value = (value >> rotate | value << 8 - rotate) & 0xFF
                if mode == 0:
                    enable = EXPAND[gr[GR_ENABLE]]
                    data = value * REPEAT & ~enable | EXPAND[gr[GR_SET_RESET]] & enable
                else:
                    bits &= value
                    data = EXPAND[gr[GR_SET_RESET]]
            function = gr[GR_ROTATE] >> 3 & 3
            if function == 1:
                data &= latch
            elif function == 2:
                data |= latch
            elif function == 3:
                data ^= latch
            bits *= REPEAT
            data = data & bits | latch & ~bits
        planes = EXPAND[mask]
        self._planes[address] = self._planes[address] & ~planes | data & planes

    def state(self) -> Snapshot:
        """Everything that is not the owner's registers."""
        return {"vram": self.vram.tobytes(), "text": self.text.tobytes(), "latch": self._latch}

    def set_state(self, state: Snapshot, text_active: bool) -> None:
        """Put `state` back; the owner restores its registers and calls `update`."""
        self.text_active = text_active
        self.vram[:] = np.frombuffer(state["vram"], np.uint8)
        self.text[:] = np.frombuffer(state["text"], np.uint8)
        self._latch = state["latch"]

    def clear(self) -> None:
        self.vram[:] = 0
        self.text[:] = 0
        self._latch = 0
        self.text_active = False
