"""Parallel NOR flash with Intel's command set, on the memory bus: firmware and the variables that it keeps.

JEDEC JEP137B and JESD68 (CFI; command set 0001h), Intel 28F320J3 data sheet (290667) for the commands, with the size,
blocks and idle status that the flash of QEMU's "pc" has, by which firmware (OVMF) knows it: 8 bits wide, blocks of 4 KiB,
identifier 0, and a status of 0 after CLEAR STATUS, where Intel's chips are ready (80h).

In array mode the bytes are guest memory: reads cost nothing.  Every write comes here; a command that is no read of the array
takes the memory away, so that reads come here, too.  What is programmed goes to the disk behind it at once.

Not modelled: the time that programming and erasing take; bits that programming can't set (a byte becomes what is written,
as on QEMU); block locks, suspension, protection registers; an instruction that reads and writes the flash in one (its write
may be seen twice).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from jitvm.backends.blockdev import BlockDevice
from jitvm.devices.base import Snapshot
from jitvm.errors import BackendError
from jitvm.trace import SILENT, Trace

BLOCK = 4096
PAGE_BUFFER = 256
"""Bytes of WRITE TO BUFFER, as CFI says."""
PROGRAM, PROGRAM_TOO, ERASE, CLEAR_STATUS, LOCK, READ_STATUS = 0x10, 0x40, 0x20, 0x50, 0x60, 0x70
READ_ID, QUERY, WRITE_BUFFER, READ_ARRAY, CONFIRM, LOCK_CONFIRM = 0x90, 0x98, 0xE8, 0xFF, 0xD0, 0x01
ALSO_READ_ARRAY = {0x00, 0xF0, READ_ARRAY}
READY, ERASE_FAILED, PROGRAM_FAILED = 0x80, 0x20, 0x10
QRY, COMMAND_SET, PRIMARY_TABLE, INTERFACE_8_BIT = b"QRY", 0x0001, 0x31, 0


def query_table(size: int) -> bytes:
    """What QUERY shows: CFI's identification, voltages and times, geometry with one kind of block, the primary table."""
    head = struct.pack("<3sHHHH", QRY, COMMAND_SET, PRIMARY_TABLE, 0, 0)
    voltages_and_times = bytes((0x45, 0x55, 0, 0, 7, 7, 10, 0, 4, 4, 4, 0))
    geometry = struct.pack(
        "<BHHBHH", (size - 1).bit_length(), INTERFACE_8_BIT, PAGE_BUFFER.bit_length() - 1, 1, size // BLOCK - 1, BLOCK >> 8
    )
    primary = b"PRI10".ljust(12, b"\0")
    return (bytes(0x10) + head + voltages_and_times + geometry).ljust(PRIMARY_TABLE, b"\0") + primary


class Pflash:
    """A flash: a region as large as its disk.

    `put(offset, data)` changes what the guest reads in array mode; `on_array(seen)`: whether it is seen there.
    """

    def __init__(
        self,
        name: str,
        disk: BlockDevice,
        put: Callable[[int, bytes], None],
        on_array: Callable[[bool], None],
        trace: Trace = SILENT,
    ) -> None:
        self.name, self._disk, self._put, self._on_array, self._trace = name, disk, put, on_array, trace
        self._query = query_table(disk.size)
        self._array = True
        self._begin()

    def _begin(self) -> None:
        self._mode = READ_ARRAY
        self._doing: list[int] = []
        """A command that wants more writes: its code, then for WRITE TO BUFFER how many bytes are still to come."""
        self._buffer: dict[int, int] = {}
        self._status = 0
        self._see_array()

    def _see_array(self) -> None:
        """Reads find memory in array mode, unless a command is half said."""
        seen = self._mode == READ_ARRAY and not self._doing
        if seen != self._array:
            self._array = seen
            self._on_array(seen)

    # Region

    def read(self, offset: int, size: int) -> int:
        if self._mode == READ_ARRAY and not self._doing:
            return int.from_bytes(self._disk.read(offset, size), "little")
        if self._mode == READ_ID:
            return 0
        if self._mode == QUERY:
            return int.from_bytes(self._query[offset : offset + size].ljust(size, b"\0"), "little")
        return self._status

    def write(self, offset: int, size: int, value: int) -> None:
        if self._doing:
            self._go_on(offset, value)
        elif value in ALSO_READ_ARRAY:
            self._mode = READ_ARRAY
        elif value == CLEAR_STATUS:
            self._status = 0
            self._mode = READ_ARRAY
        elif value in (READ_STATUS, READ_ID, QUERY):
            self._mode = value
        elif value in (PROGRAM, PROGRAM_TOO, ERASE, LOCK, WRITE_BUFFER):
            self._mode, self._doing, self._buffer = READ_STATUS, [value], {}
            if value == WRITE_BUFFER:
                self._status |= READY
        else:
            self._trace("unmodelled", device=self.name, what="flash command", value=value)
            self._mode = READ_ARRAY
        self._see_array()

    def _go_on(self, offset: int, value: int) -> None:
        """A write that belongs to the command before."""
        code = self._doing[0]
        if code == WRITE_BUFFER:
            return self._go_on_buffer(offset, value)
        self._doing = []
        if code in (PROGRAM, PROGRAM_TOO):
            self._program(offset, bytes((value,)), PROGRAM_FAILED)
        elif code == ERASE and value == CONFIRM:
            self._program(offset & -BLOCK, b"\xff" * BLOCK, ERASE_FAILED)
        elif code == LOCK and value in (CONFIRM, LOCK_CONFIRM):
            self._status |= READY
        else:
            self._wrong(value)

    def _go_on_buffer(self, offset: int, value: int) -> None:
        """The count less one, so many bytes, and the confirmation."""
        if len(self._doing) == 1:
            self._doing.append(value + 1)
        elif self._doing[1]:
            self._doing[1] -= 1
            self._buffer[offset] = value
        else:
            self._doing = []
            if value != CONFIRM or len({at & -PAGE_BUFFER for at in self._buffer}) > 1:
                return self._wrong(value)
            for at, byte in sorted(self._buffer.items()):
                self._program(at, bytes((byte,)), PROGRAM_FAILED)

    def _wrong(self, value: int) -> None:
        """A sequence of commands that there is not: both failure bits, as the data sheet has it."""
        self._trace("guest_error", device=self.name, what="flash command sequence", value=value)
        self._status |= READY | ERASE_FAILED | PROGRAM_FAILED

    def _program(self, offset: int, data: bytes, failure: int) -> None:
        self._status |= READY
        try:
            self._disk.write(offset, data)
        except BackendError as e:
            if not self._disk.read_only:
                self._trace("device_state", device=self.name, what=f"host error: {e}", value=offset)
            self._status |= failure
        else:
            self._put(offset, data)

    # Device

    def reset(self) -> None:
        self._begin()

    def snapshot(self) -> Snapshot:
        return {
            "mode": self._mode, "doing": list(self._doing), "buffer": dict(self._buffer), "status": self._status,
        }  # fmt: skip

    def restore(self, state: Snapshot) -> None:
        self._mode, self._doing, self._buffer = state["mode"], list(state["doing"]), dict(state["buffer"])
        self._status = state["status"]
        self._see_array()
