"""An ATAPI CD-ROM drive with a data disc of one track, or no disc.

ATA/ATAPI-6 (T13 1410D), 8.23 (PACKET) and 9.8 (packet protocol); INF-8020i / MMC-3 for the packet commands.

Not modelled: audio, raw sectors (READ CD of anything but 2048 bytes of user data), raw TOC, writing, changers, drive
speed, event notification by media polling (GET EVENT STATUS NOTIFICATION is an illegal request, as in early drives).
"""

from __future__ import annotations

from collections.abc import Callable

from jitvm.backends.blockdev import BlockDevice
from jitvm.devices.ata import (
    ABRT,
    COUNT,
    DRDY,
    DSC,
    ERR,
    EXECUTE_DIAGNOSTIC,
    FEATURES,
    LBA_HIGH,
    LBA_MID,
    AtaDevice,
    identify_string,
)
from jitvm.devices.base import Snapshot
from jitvm.errors import BackendError
from jitvm.trace import SILENT, Trace

BLOCK = 2048
PACKET_SIZE = 12
FETCH_BLOCKS = 32
COD, IO = 1, 2
"""Interrupt reason (in the sector count register): a command is wanted; data goes to the host."""
FEATURE_DMA = 1
DEVICE_RESET, PACKET, IDENTIFY_PACKET, IDENTIFY, SET_FEATURES = 0x08, 0xA0, 0xA1, 0xEC, 0xEF
POWER_COMMANDS = {0xE0, 0xE1, 0xE2, 0xE3, 0xE5, 0xE6}
NO_SENSE, NOT_READY, MEDIUM_ERROR, ILLEGAL_REQUEST, UNIT_ATTENTION = 0x0, 0x2, 0x3, 0x5, 0x6
INVALID_COMMAND, OUT_OF_RANGE, INVALID_FIELD, NO_MEDIUM, MEDIUM_CHANGED = 0x20, 0x21, 0x24, 0x3A, 0x28
REMOVAL_PREVENTED, UNRECOVERED_READ = 0x53, 0x11
LEAD_OUT = 0xAA
PAGE_RECOVERY, PAGE_CAPABILITIES, PAGE_ALL = 0x01, 0x2A, 0x3F


class AtapiCdrom(AtaDevice):
    """A CD-ROM drive; `disk` is the disc's image (None: empty)."""

    signature = (1, 1, 0x14, 0xEB)
    ready = 0

    def __init__(self, name: str, disk: BlockDevice | None, *, serial: str = "JV00003", trace: Trace = SILENT) -> None:
        self._disk, self._serial = disk, serial
        self._commands: dict[int, Callable[[bytes], None]] = {
            0x00: self._test_unit_ready,
            0x03: self._request_sense,
            0x12: self._inquiry,
            0x1B: self._start_stop,
            0x1E: self._prevent,
            0x25: self._read_capacity,
            0x28: lambda p: self._read(p, int.from_bytes(p[7:9], "big")),
            0x2B: self._seek,
            0x43: self._read_toc,
            0x5A: self._mode_sense,
            0xA8: lambda p: self._read(p, int.from_bytes(p[6:10], "big")),
            0xBE: self._read_cd,
        }
        super().__init__(name, trace)

    def reset_device(self) -> None:
        self._sense = (NO_SENSE, 0)
        self._in = self._disk is not None
        self._locked = self._changed = False
        super().reset_device()

    def soft_reset(self) -> None:
        self._reply = b""
        self._lba = self._blocks = 0
        self._limit = 0
        self._dma_wanted = self._packet = False
        super().soft_reset()

    def insert(self, disk: BlockDevice) -> None:
        """Put a disc in; the next command hears of it."""
        self._disk, self._in, self._changed = disk, True, True

    def n_blocks(self) -> int:
        """Blocks of the disc, 0 without one."""
        return self._disk.size // BLOCK if self._in and self._disk else 0

    # ATA commands

    def command(self, code: int) -> None:
        self._packet = False
        if code == PACKET:
            self._dma_wanted = bool(self.registers[FEATURES] & FEATURE_DMA)
            limit = self.registers[LBA_MID] | self.registers[LBA_HIGH] << 8
            self._limit = limit & 0xFFFE or 0xFFFE
            self._packet = True
            self.registers[COUNT] = COD
            self.receive(PACKET_SIZE, False)
        elif code == IDENTIFY_PACKET:
            self._reply, self._blocks = b"", 0
            self.send(self.identify())
        elif code in (IDENTIFY, DEVICE_RESET):
            self.soft_reset()
            if code == IDENTIFY:
                self.abort()
        elif code == EXECUTE_DIAGNOSTIC:
            self.set_signature()
            self.status = self.ready
            self.set_intrq(True)
        elif code == SET_FEATURES or code in POWER_COMMANDS:
            self.complete()
        else:
            self.abort()

    def block_done(self) -> None:
        if self._packet:
            self._packet = False
            self.write_end = 0
            self._execute_packet(bytes(self.buffer))
        else:
            self.read_end = 0
            self.status = DRDY | DSC
            self._send_next()

    def dma_done(self, data: bytes | None) -> None:
        self.dma = None
        self._finish()

    # The packet protocol

    def _execute_packet(self, packet: bytes) -> None:
        code = packet[0]
        if self._changed and code not in (0x03, 0x12):
            self._changed = False
            return self._check(UNIT_ATTENTION, MEDIUM_CHANGED)
        handler = self._commands.get(code)
        if handler is None:
            self.trace("unmodelled", device=self.name, what="packet command", value=code)
            return self._check(ILLEGAL_REQUEST, INVALID_COMMAND)
        if code != 0x03:
            self._sense = (NO_SENSE, 0)
        handler(packet)

    def _check(self, key: int, code: int) -> None:
        """CHECK CONDITION with sense data."""
        self._sense = (key, code)
        self.read_end = 0
        self.registers[COUNT] = COD | IO
        self.error = key << 4 | ABRT
        self.status = DRDY | DSC | ERR
        self.set_intrq(True)

    def _finish(self) -> None:
        self.registers[COUNT] = COD | IO
        self.complete()

    def _answer(self, reply: bytes, allocated: int) -> None:
        """Send a reply, cut to what the host has room for."""
        self._reply, self._blocks = reply[:allocated], 0
        self._start()

    def _start(self) -> None:
        """Begin to send `_reply` and the blocks behind it."""
        if not self._dma_wanted:
            return self._send_next()
        data = bytearray(self._reply)
        while self._blocks:
            if not self._fetch():
                return
            data += self._reply
        self._reply = b""
        if data:
            self.registers[COUNT] = IO
            self.request_dma(bytes(data), len(data))
        else:
            self._finish()

    def _send_next(self) -> None:
        """The next piece of at most the byte count limit, or the end."""
        while self._blocks and len(self._reply) < self._limit:
            before = self._reply
            if not self._fetch():
                return
            self._reply = before + self._reply
        if not self._reply:
            return self._finish()
        piece, self._reply = self._reply[: self._limit], self._reply[self._limit :]
        self.registers[COUNT] = IO
        self.registers[LBA_MID], self.registers[LBA_HIGH] = len(piece) & 0xFF, len(piece) >> 8
        self.send(piece)

    def _fetch(self) -> bool:
        """The next blocks into `_reply`; False after the command has failed."""
        n = min(self._blocks, FETCH_BLOCKS)
        assert self._disk is not None
        try:
            self._reply = self._disk.read(self._lba * BLOCK, n * BLOCK)
        except BackendError as e:
            self.trace("device_state", device=self.name, what=f"host error: {e}", value=self._lba)
            self._blocks, self._reply = 0, b""
            self._check(MEDIUM_ERROR, UNRECOVERED_READ)
            return False
        self._lba, self._blocks = self._lba + n, self._blocks - n
        return True

    # Packet commands

    def _medium(self) -> bool:
        """Whether there is a disc; the command has failed if not."""
        if not self.n_blocks():
            self._check(NOT_READY, NO_MEDIUM)
            return False
        return True

    def _test_unit_ready(self, _packet: bytes) -> None:
        if self._medium():
            self._finish()

    def _request_sense(self, packet: bytes) -> None:
        key, code = self._sense
        self._sense = (NO_SENSE, 0)
        self._answer(bytes([0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, 0, 0, 0, 0, 0]), packet[4])

    def _inquiry(self, packet: bytes) -> None:
        if packet[1] & 1:
            return self._check(ILLEGAL_REQUEST, INVALID_FIELD)
        self._answer(bytes([0x05, 0x80, 0, 0x21, 31, 0, 0, 0]) + b"JITVM   DVD-ROM         1.0 ", packet[4])

    def _start_stop(self, packet: bytes) -> None:
        eject = packet[4] & 3 == 2
        if eject and self._locked and self._in:
            return self._check(ILLEGAL_REQUEST, REMOVAL_PREVENTED)
        if packet[4] & 2:
            self._in = not eject and self._disk is not None
            self._changed = self._in
        self._finish()

    def _prevent(self, packet: bytes) -> None:
        self._locked = bool(packet[4] & 1)
        self._finish()

    def _read_capacity(self, _packet: bytes) -> None:
        if self._medium():
            self._answer((self.n_blocks() - 1).to_bytes(4, "big") + BLOCK.to_bytes(4, "big"), 8)

    def _read(self, packet: bytes, n: int) -> None:
        lba = int.from_bytes(packet[2:6], "big")
        if not self._medium():
            return
        if lba + n > self.n_blocks():
            return self._check(ILLEGAL_REQUEST, OUT_OF_RANGE)
        self._lba, self._blocks, self._reply = lba, n, b""
        self._start()

    def _read_cd(self, packet: bytes) -> None:
        """READ CD: user data only, or nothing."""
        wanted = packet[9] & 0xF8
        if wanted not in (0x00, 0x10):
            return self._check(ILLEGAL_REQUEST, INVALID_FIELD)
        self._read(packet, int.from_bytes(packet[6:9], "big") if wanted else 0)

    def _seek(self, packet: bytes) -> None:
        if not self._medium():
            return
        if int.from_bytes(packet[2:6], "big") >= self.n_blocks():
            return self._check(ILLEGAL_REQUEST, OUT_OF_RANGE)
        self._finish()

    def _read_toc(self, packet: bytes) -> None:
        if not self._medium():
            return
        kind = packet[2] & 0xF or packet[9] >> 6
        first = packet[6]
        msf = bool(packet[1] & 2)
        track = bytes([0, 0x14, 1, 0]) + toc_address(0, msf)
        if kind == 1:
            body = bytes([1, 1]) + track
        elif kind == 0 and (first <= 1 or first == LEAD_OUT):
            body = bytes([1, 1]) + (track if first <= 1 else b"")
            body += bytes([0, 0x14, LEAD_OUT, 0]) + toc_address(self.n_blocks(), msf)
        else:
            return self._check(ILLEGAL_REQUEST, INVALID_FIELD)
        self._answer(len(body).to_bytes(2, "big") + body, int.from_bytes(packet[7:9], "big"))

    def _mode_sense(self, packet: bytes) -> None:
        page = packet[2] & 0x3F
        recovery = bytes([PAGE_RECOVERY, 6, 0, 5, 0, 0, 0, 0])
        capabilities = bytes([PAGE_CAPABILITIES, 18, 0x3B, 0, 0x71, 0x60, 0x29 | 2 * self._locked, 0]) + bytes(
            [0x02, 0xC2, 0, 2, 2, 0, 0x02, 0xC2, 0, 0, 0, 0]
        )
        pages = {PAGE_RECOVERY: recovery, PAGE_CAPABILITIES: capabilities, PAGE_ALL: recovery + capabilities}
        body = pages.get(page)
        if body is None or packet[2] >> 6 == 3:
            return self._check(ILLEGAL_REQUEST, INVALID_FIELD)
        medium = 0x01 if self.n_blocks() else 0x70
        header = (len(body) + 6).to_bytes(2, "big") + bytes([medium, 0, 0, 0, 0, 0])
        self._answer(header + body, int.from_bytes(packet[7:9], "big"))

    # IDENTIFY PACKET DEVICE

    def identify(self) -> bytes:
        """The 512 bytes of IDENTIFY PACKET DEVICE."""
        w = [0] * 256
        w[0] = 0x85C0
        w[48], w[49], w[53] = 1, 0x0B00, 0x0007
        w[63], w[64], w[65], w[66], w[67], w[68] = 0x0007, 0x0003, 180, 180, 300, 300
        w[80], w[82], w[83], w[84], w[85], w[87], w[88] = 0x001E, 0x4210, 0x4000, 0x4000, 0x4210, 0x4000, 0x003F
        page = bytearray(b"".join(word.to_bytes(2, "little") for word in w))
        page[20:40] = identify_string(self._serial.rjust(20), 20)
        page[46:54] = identify_string("1.0", 8)
        page[54:94] = identify_string("JITVM DVD-ROM", 40)
        return bytes(page)

    # State

    def snapshot(self) -> Snapshot:
        return super().snapshot() | {
            "sense": list(self._sense),
            "medium": [self._in, self._locked, self._changed],
            "reply": self._reply,
            "progress": [self._lba, self._blocks, self._limit, self._dma_wanted, self._packet],
        }

    def restore(self, state: Snapshot) -> None:
        super().restore(state)
        self._sense = (state["sense"][0], state["sense"][1])
        self._in, self._locked, self._changed = state["medium"]
        self._reply = state["reply"]
        self._lba, self._blocks, self._limit, self._dma_wanted, self._packet = state["progress"]


def toc_address(lba: int, msf: bool) -> bytes:
    """Four bytes of a table of contents: a block address, or minute, second and frame."""
    if not msf:
        return lba.to_bytes(4, "big")
    frames = lba + 150
    return bytes([0, frames // 4500 & 0xFF, frames // 75 % 60, frames % 75])
