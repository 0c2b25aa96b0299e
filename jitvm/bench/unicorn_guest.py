"""Run one bench image on unicorn, in a process of its own.

``python -m jitvm.bench.unicorn_guest IMAGE [--count]`` maps RAM, the ROM and
the VGA window, starts at the reset vector and passes port 0xE9 on to standard
output byte by byte, so that the harness times unicorn as it times any
emulator. A process of its own, because unicorn's Python calls can't be
interrupted by a time limit.

Unicorn is a CPU without a board: ports, the VGA window and the delivery of
software interrupts (32-bit interrupt gate, same privilege; Intel SDM volume
3, section 6.12.1) are Python callbacks here, and their workloads time them.

With ``--count`` the instructions between the marks are counted by a hook on
each of them (slow) and printed on standard error as one number. Unicorn calls
the hook once more for a REP instruction than it has iterations, and again for
an instruction that it restarts because it rewrote its own block; either way
the second call in a row at one address is the one that does not count, and a
REP iteration counts as one instruction, a REP without iterations too.

Not modelled: any device but the ports that the bench guests use.
"""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path
from typing import Any

RAM_SIZE = 128 << 20
ROM_SIZE = 0x10000
ROM_BASE = 0x100000 - ROM_SIZE
RESET_VECTOR = 0xFFFF0
VGA_BASE, VGA_SIZE = 0xA0000, 0x10000

DEBUG_PORT = 0xE9
CMOS_DATA, DMA_PAGE = 0x71, 0x81
EXIT_PORT = 0xF4


class UnicornGuest:
    """One image on one unicorn CPU.

    Args:
        image: the 64 KiB ROM.
        count: whether to count the instructions between the marks.
    """

    def __init__(self, image: bytes, *, count: bool) -> None:
        unicorn: Any = importlib.import_module("unicorn")
        x86: Any = importlib.import_module("unicorn.x86_const")
        if len(image) != ROM_SIZE:
            raise ValueError(f"image of {len(image)} bytes: a bench ROM has {ROM_SIZE}")
        self.x86 = x86
        self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_16)
        self.retired = 0
        self._last, self._in_a_row = -1, 0
        self.ports = {CMOS_DATA: 0, DMA_PAGE: 0}
        self.window = bytearray(VGA_SIZE)
        self._count = count
        uc = self.uc
        uc.mem_map(0, VGA_BASE)
        uc.mmio_map(VGA_BASE, VGA_SIZE, self._window_read, None, self._window_write, None)
        uc.mem_map(VGA_BASE + VGA_SIZE, RAM_SIZE - VGA_BASE - VGA_SIZE)
        uc.mem_write(ROM_BASE, image)
        uc.reg_write(x86.UC_X86_REG_CS, ROM_BASE >> 4)
        uc.hook_add(unicorn.UC_HOOK_INSN, self._port_in, None, 1, 0, x86.UC_X86_INS_IN)
        uc.hook_add(unicorn.UC_HOOK_INSN, self._port_out, None, 1, 0, x86.UC_X86_INS_OUT)
        uc.hook_add(unicorn.UC_HOOK_INTR, self._interrupt)
        self._code_hook = unicorn.UC_HOOK_CODE

    def run(self) -> None:
        """Run from the reset vector to the write to port 0xF4."""
        self.uc.emu_start(RESET_VECTOR, 0)

    def _port_in(self, _uc: object, port: int, _size: int, _data: object) -> int:
        return self.ports.get(port, 0xFF)

    def _port_out(self, uc: Any, port: int, _size: int, value: int, _data: object) -> None:
        if port == DEBUG_PORT:
            os.write(1, bytes([value & 0xFF]))
            if self._count and value in b"SE":
                self._mark(value)
        elif port == EXIT_PORT:
            uc.emu_stop()
        elif port in self.ports:
            self.ports[port] = value

    def _mark(self, value: int) -> None:
        """Count from 'S' to 'E'; the guests print no other capital S or E."""
        if value == ord("S"):
            self._hook = self.uc.hook_add(self._code_hook, self._step)
        else:
            self.uc.hook_del(self._hook)

    def _step(self, _uc: object, address: int, _size: int, _data: object) -> None:
        self._in_a_row = self._in_a_row + 1 if address == self._last else 1
        self._last = address
        if self._in_a_row != 2:
            self.retired += 1

    def _window_read(self, _uc: object, offset: int, size: int, _data: object) -> int:
        return int.from_bytes(self.window[offset : offset + size], "little")

    def _window_write(self, _uc: object, offset: int, size: int, value: int, _data: object) -> None:
        self.window[offset : offset + size] = value.to_bytes(size, "little")

    def _interrupt(self, uc: Any, vector: int, _data: object) -> None:
        """Deliver INT n, which unicorn leaves to its caller."""
        x86 = self.x86
        _selector, base, _limit, _flags = uc.reg_read(x86.UC_X86_REG_IDTR)
        gate = int.from_bytes(uc.mem_read(base + vector * 8, 8), "little")
        esp = uc.reg_read(x86.UC_X86_REG_ESP) - 12
        frame = (x86.UC_X86_REG_EIP, x86.UC_X86_REG_CS, x86.UC_X86_REG_EFLAGS)
        words = b"".join(uc.reg_read(register).to_bytes(4, "little") for register in frame)
        uc.mem_write(esp, words)
        uc.reg_write(x86.UC_X86_REG_ESP, esp)
        uc.reg_write(x86.UC_X86_REG_EIP, (gate & 0xFFFF) | (gate >> 32 & 0xFFFF0000))


def main() -> None:
    """Command line of the child process."""
    parser = argparse.ArgumentParser(description="one bench image on unicorn")
    parser.add_argument("image", type=Path)
    parser.add_argument("--count", action="store_true")
    options = parser.parse_args()
    guest = UnicornGuest(options.image.read_bytes(), count=options.count)
    guest.run()
    if options.count:
        os.write(2, b"%d\n" % guest.retired)


if __name__ == "__main__":
    main()
