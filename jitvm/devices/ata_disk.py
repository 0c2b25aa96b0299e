"""An ATA disk.

ATA/ATAPI-6 (T13 1410D), 8 (commands); ATA-4 for CHS addressing and INITIALIZE DEVICE PARAMETERS.  PIO, READ/WRITE
MULTIPLE, DMA, 28- and 48-bit addresses; FLUSH CACHE flushes the host's file.

Not modelled: SMART, security, host protected area (READ NATIVE MAX answers, SET MAX is aborted), tagged queuing,
streaming, READ/WRITE LONG and BUFFER, power management timers (modes are reported), the write cache (the host's).
"""

from __future__ import annotations

from jitvm.backends.blockdev import BlockDevice
from jitvm.devices.ata import (
    ABRT,
    COUNT,
    DEVICE,
    DEVICE_LBA,
    EXECUTE_DIAGNOSTIC,
    FEATURES,
    IDNF,
    LBA_HIGH,
    LBA_LOW,
    LBA_MID,
    UNC,
    AtaDevice,
    identify_string,
)
from jitvm.devices.base import Snapshot
from jitvm.errors import BackendError
from jitvm.trace import SILENT, Trace

SECTOR = 512
HEADS, SECTORS_PER_TRACK, MAX_CYLINDERS = 16, 63, 16383
MAX_MULTIPLE = 16
LBA28_LIMIT = 1 << 28
KIND_MULTIWORD, KIND_ULTRA = 4, 8
POWER_ACTIVE, POWER_STANDBY = 0xFF, 0x00

(READ, READ_EXT, READ_DMA_EXT, READ_NATIVE_MAX_EXT, READ_MULTIPLE_EXT) = (0x20, 0x24, 0x25, 0x27, 0x29)
(WRITE, WRITE_EXT, WRITE_DMA_EXT, WRITE_MULTIPLE_EXT) = (0x30, 0x34, 0x35, 0x39)
(VERIFY, VERIFY_EXT, INITIALIZE_PARAMETERS) = (0x40, 0x42, 0x91)
(READ_MULTIPLE, WRITE_MULTIPLE, SET_MULTIPLE, READ_DMA, WRITE_DMA) = (0xC4, 0xC5, 0xC6, 0xC8, 0xCA)
(FLUSH, FLUSH_EXT, IDENTIFY, SET_FEATURES, READ_NATIVE_MAX) = (0xE7, 0xEA, 0xEC, 0xEF, 0xF8)
NOP, IDENTIFY_PACKET, DEVICE_RESET = 0x00, 0xA1, 0x08
STANDBY, IDLE, CHECK_POWER, SLEEP = {0xE0, 0xE2, 0x94, 0x96}, {0xE1, 0xE3, 0x95, 0x97}, {0xE5, 0x98}, {0xE6, 0x99}
EXTENDED = {READ_EXT, READ_DMA_EXT, READ_MULTIPLE_EXT, WRITE_EXT, WRITE_DMA_EXT, WRITE_MULTIPLE_EXT, VERIFY_EXT}
PIO_READS = {READ, READ + 1, READ_EXT, READ_MULTIPLE, READ_MULTIPLE_EXT}
PIO_WRITES = {WRITE, WRITE + 1, WRITE_EXT, WRITE_MULTIPLE, WRITE_MULTIPLE_EXT}
MULTIPLE = {READ_MULTIPLE, READ_MULTIPLE_EXT, WRITE_MULTIPLE, WRITE_MULTIPLE_EXT}
DMA_READS, DMA_WRITES = {READ_DMA, READ_DMA + 1, READ_DMA_EXT}, {WRITE_DMA, WRITE_DMA + 1, WRITE_DMA_EXT}
VERIFIES = {VERIFY, VERIFY + 1, VERIFY_EXT}


class AtaDisk(AtaDevice):
    """A hard disk of `disk.size // 512` sectors; `serial` is what IDENTIFY DEVICE gives."""

    def __init__(self, name: str, disk: BlockDevice, *, serial: str = "JV00001", trace: Trace = SILENT) -> None:
        self._disk, self._serial = disk, serial
        self.n_sectors = disk.size // SECTOR
        cylinders = self.n_sectors // (HEADS * SECTORS_PER_TRACK)
        self.cylinders = min(max(cylinders, 2), MAX_CYLINDERS)
        super().__init__(name, trace)

    def reset_device(self) -> None:
        self._heads, self._track = HEADS, SECTORS_PER_TRACK
        self._multiple = MAX_MULTIPLE
        self._write_cache = self._look_ahead = True
        self._multiword, self._ultra = 0, 0x2000
        self._power = POWER_ACTIVE
        self._lba = self._left = 0
        self._block = 1
        self._extended = False
        super().reset_device()

    # Commands

    def command(self, code: int) -> None:
        if code in STANDBY or code in SLEEP:
            self._power = POWER_STANDBY
            self._flush()
        elif code in CHECK_POWER:
            self.registers[COUNT] = self._power
            self.complete()
        elif code in PIO_READS or code in PIO_WRITES or code in DMA_READS or code in DMA_WRITES or code in VERIFIES:
            self._power = POWER_ACTIVE
            self._access(code)
        elif code in IDLE or code & 0xF0 == 0x10:
            self._power = POWER_ACTIVE
            self.complete()
        elif code & 0xF0 == 0x70:
            self._extended = False
            if self._address() is None:
                self.abort(IDNF)
            else:
                self.complete()
        else:
            self._control(code)

    def _control(self, code: int) -> None:
        """Commands that are not about sectors."""
        if code == IDENTIFY:
            self._left = 0
            self.send(self.identify())
        elif code in (FLUSH, FLUSH_EXT):
            self._flush()
        elif code == SET_FEATURES:
            self._set_features()
        elif code == SET_MULTIPLE:
            self._set_multiple()
        elif code == INITIALIZE_PARAMETERS:
            self._initialize_parameters()
        elif code == EXECUTE_DIAGNOSTIC:
            self.set_signature()
            self.status = self.ready
            self.set_intrq(True)
        elif code in (READ_NATIVE_MAX, READ_NATIVE_MAX_EXT):
            self._extended = code == READ_NATIVE_MAX_EXT
            self._put_address(self.n_sectors - 1 if self._extended else min(self.n_sectors, LBA28_LIMIT) - 1)
            self.complete()
        else:
            if code not in (NOP, IDENTIFY_PACKET, DEVICE_RESET):
                self.trace("unmodelled", device=self.name, what="ATA command", value=code)
            self.abort()

    def _flush(self) -> None:
        try:
            self._disk.flush()
        except BackendError as e:
            self.trace("device_state", device=self.name, what=f"host error: {e}", value=0)
            self.abort()
        else:
            self.complete()

    def _set_features(self) -> None:
        feature, count = self.registers[FEATURES], self.registers[COUNT]
        if feature == 0x03:
            if not self._set_transfer_mode(count >> 3, count & 7):
                return self.abort()
        elif feature in (0x02, 0x82):
            self._write_cache = feature == 0x02
        elif feature in (0xAA, 0x55):
            self._look_ahead = feature == 0xAA
        elif feature not in (0x66, 0xCC):
            return self.abort()
        self.complete()

    def _set_transfer_mode(self, kind: int, mode: int) -> bool:
        """Kinds: 0 and 1 PIO, 4 multiword DMA, 8 Ultra DMA.  What is chosen only shows in IDENTIFY DEVICE."""
        if kind == KIND_MULTIWORD and mode <= 2:
            self._multiword, self._ultra = 0x100 << mode, 0
        elif kind == KIND_ULTRA and mode <= 5:
            self._multiword, self._ultra = 0, 0x100 << mode
        else:
            return kind in (0, 1) and mode <= 4
        return True

    def _set_multiple(self) -> None:
        count = self.registers[COUNT]
        if count > MAX_MULTIPLE or count & (count - 1):
            self.abort()
        else:
            self._multiple = count
            self.complete()

    def _initialize_parameters(self) -> None:
        track, heads = self.registers[COUNT], (self.registers[DEVICE] & 0xF) + 1
        if track == 0:
            self.abort()
        else:
            self._heads, self._track = heads, track
            self.complete()

    # Addresses

    def _address(self) -> int | None:
        """First sector of the command, None when there is no such sector."""
        r, hob = self.registers, self.previous
        if self._extended:
            low = r[LBA_LOW] | r[LBA_MID] << 8 | r[LBA_HIGH] << 16
            lba = low | hob[LBA_LOW] << 24 | hob[LBA_MID] << 32 | hob[LBA_HIGH] << 40
        elif r[DEVICE] & DEVICE_LBA:
            lba = r[LBA_LOW] | r[LBA_MID] << 8 | r[LBA_HIGH] << 16 | (r[DEVICE] & 0xF) << 24
        else:
            cylinder, head, sector = r[LBA_MID] | r[LBA_HIGH] << 8, r[DEVICE] & 0xF, r[LBA_LOW]
            if not 1 <= sector <= self._track or head >= self._heads:
                return None
            lba = (cylinder * self._heads + head) * self._track + sector - 1
        return lba if lba < self.n_sectors else None

    def _put_address(self, lba: int) -> None:
        """The registers name the sector, in the form of addressing that is in use."""
        r, hob = self.registers, self.previous
        if self._extended:
            r[LBA_LOW], r[LBA_MID], r[LBA_HIGH] = lba & 0xFF, lba >> 8 & 0xFF, lba >> 16 & 0xFF
            hob[LBA_LOW], hob[LBA_MID], hob[LBA_HIGH] = lba >> 24 & 0xFF, lba >> 32 & 0xFF, lba >> 40 & 0xFF
        elif r[DEVICE] & DEVICE_LBA:
            r[LBA_LOW], r[LBA_MID], r[LBA_HIGH] = lba & 0xFF, lba >> 8 & 0xFF, lba >> 16 & 0xFF
            r[DEVICE] = r[DEVICE] & 0xF0 | lba >> 24 & 0xF
        else:
            cylinder, rest = divmod(lba, self._heads * self._track)
            r[LBA_MID], r[LBA_HIGH] = cylinder & 0xFF, cylinder >> 8 & 0xFF
            r[DEVICE] = r[DEVICE] & 0xF0 | rest // self._track
            r[LBA_LOW] = rest % self._track + 1

    # Sectors

    def _access(self, code: int) -> None:
        """Start a command that reads, writes or verifies sectors."""
        self._extended = code in EXTENDED
        lba = self._address()
        count = self.registers[COUNT]
        if self._extended:
            count |= self.previous[COUNT] << 8
        count = count or (0x1_0000 if self._extended else 0x100)
        if lba is None:
            return self.abort(IDNF)
        writing = code in PIO_WRITES or code in DMA_WRITES
        if (code in MULTIPLE and not self._multiple) or (writing and self._disk.read_only):
            return self.abort()
        self._block = self._multiple if code in MULTIPLE else 1
        self._lba, self._left = lba, count
        if code in VERIFIES:
            self._verify()
        elif code in PIO_READS:
            self._send_block()
        elif code in PIO_WRITES:
            self.receive(min(self._block, self._left) * SECTOR, False)
        else:
            self._start_dma(writing)

    def _fetch(self, n: int) -> bytes | None:
        """`n` sectors from the backend, after which the command has failed when it is None."""
        if self._lba + n > self.n_sectors:
            self._fail(IDNF, max(0, self.n_sectors - self._lba))
            return None
        try:
            return self._disk.read(self._lba * SECTOR, n * SECTOR)
        except BackendError as e:
            self.trace("device_state", device=self.name, what=f"host error: {e}", value=self._lba)
            self._fail(UNC, 0)
            return None

    def _store(self, data: bytes) -> bool:
        """Sectors to the backend; False after the command has failed."""
        n = len(data) // SECTOR
        if self._lba + n > self.n_sectors:
            self._fail(IDNF, max(0, self.n_sectors - self._lba))
            return False
        try:
            self._disk.write(self._lba * SECTOR, data)
        except BackendError as e:
            self.trace("device_state", device=self.name, what=f"host error: {e}", value=self._lba)
            self._fail(ABRT, 0)
            return False
        self._advance(n)
        return True

    def _advance(self, n: int) -> None:
        """`n` sectors are done: the registers name the last one and say how many are left."""
        self._lba, self._left = self._lba + n, self._left - n
        self._put_address(self._lba - 1)
        self.registers[COUNT] = self._left & 0xFF
        if self._extended:
            self.previous[COUNT] = self._left >> 8 & 0xFF

    def _fail(self, error: int, good: int) -> None:
        """The registers name the sector that failed, `good` sectors further on."""
        self._left = 0
        self._put_address(self._lba + good)
        self.abort(error)

    def _send_block(self) -> None:
        n = min(self._block, self._left)
        data = self._fetch(n)
        if data is not None:
            self._advance(n)
            self.send(data)

    def block_done(self) -> None:
        if self.read_end:
            self.read_end = 0
            self.status = self.ready
            if self._left:
                self._send_block()
            return
        self.write_end = 0
        if self._store(bytes(self.buffer)):
            if self._left:
                self.receive(min(self._block, self._left) * SECTOR, True)
            else:
                self.complete()

    def _verify(self) -> None:
        while self._left:
            n = min(self._left, 256)
            if self._fetch(n) is None:
                return
            self._advance(n)
        self.complete()

    def _start_dma(self, writing: bool) -> None:
        data = None
        if not writing:
            data = self._fetch(self._left)
            if data is None:
                return
        self.request_dma(data, self._left * SECTOR)

    def dma_done(self, data: bytes | None) -> None:
        self.dma = None
        if data is None:
            self._advance(self._left)
            self.complete()
        elif self._store(data):
            self.complete()

    # IDENTIFY DEVICE

    def identify(self) -> bytes:
        """The 512 bytes of IDENTIFY DEVICE."""
        w = [0] * 256
        w[0] = 0x0040
        w[1], w[3], w[6] = self.cylinders, HEADS, SECTORS_PER_TRACK
        w[4], w[5] = SECTORS_PER_TRACK * SECTOR, SECTOR
        w[20], w[21], w[22] = 3, 512, 4
        w[47], w[48] = 0x8000 | MAX_MULTIPLE, 1
        w[49], w[50], w[51], w[52], w[53] = 0x0F00, 0x4000, 0x0200, 0x0200, 0x0007
        cylinders = min(self.n_sectors // (self._heads * self._track), 0xFFFF)
        capacity = cylinders * self._heads * self._track
        w[54], w[55], w[56], w[57], w[58] = cylinders, self._heads, self._track, capacity & 0xFFFF, capacity >> 16
        w[59] = 0x100 | self._multiple if self._multiple else 0
        lba28 = min(self.n_sectors, LBA28_LIMIT - 1)
        w[60], w[61] = lba28 & 0xFFFF, lba28 >> 16
        w[63] = 0x0007 | self._multiword
        w[64], w[65], w[66], w[67], w[68] = 0x0003, 120, 120, 120, 120
        w[80], w[81] = 0x00F0, 0x0016
        w[82], w[83], w[84] = 0x4060, 0x7400, 0x4000
        w[85], w[86], w[87] = 0x4000 | self._write_cache << 5 | self._look_ahead << 6, 0x3400, 0x4000
        w[88] = 0x003F | self._ultra
        w[93] = 0x600B
        for k in range(4):
            w[100 + k] = self.n_sectors >> 16 * k & 0xFFFF
        page = bytearray(b"".join(word.to_bytes(2, "little") for word in w))
        page[20:40] = identify_string(self._serial.rjust(20), 20)
        page[46:54] = identify_string("1.0", 8)
        page[54:94] = identify_string("JITVM HARDDISK", 40)
        return bytes(page)

    # State

    def snapshot(self) -> Snapshot:
        return super().snapshot() | {
            "geometry": [self._heads, self._track],
            "settings": [self._multiple, self._write_cache, self._look_ahead, self._power],
            "dma_mode": [self._multiword, self._ultra],
            "progress": [self._lba, self._left, self._block, self._extended],
        }

    def restore(self, state: Snapshot) -> None:
        super().restore(state)
        self._heads, self._track = state["geometry"]
        self._multiple, self._write_cache, self._look_ahead, self._power = state["settings"]
        self._multiword, self._ultra = state["dma_mode"]
        self._lba, self._left, self._block, self._extended = state["progress"]
