"""A machine looked at and touched from outside: registers, memory, screen, what was written to its ports, what is typed.

The part of `jitvm.machine.Machine` that a user calls between runs, and from other threads while it runs.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from jitvm.backends.chardev import CharBackend, MemoryBackend
from jitvm.board import DEBUG_MARKS_PORT, Board
from jitvm.config import MachineConfig
from jitvm.errors import ConfigError
from jitvm.memory import GuestMemory
from jitvm.registers import read_registers, write_registers
from jitvm.vcpu import Vcpu


class Access:
    """What `Machine` has, and how it is read and written."""

    config: MachineConfig
    lock: threading.Lock
    memory: GuestMemory
    board: Board
    vcpus: list[Vcpu]
    serials: list[CharBackend]
    _backends: list[CharBackend]

    def registers(self, vcpu: int = 0) -> dict[str, int]:
        """Registers of a vCPU that stands by name (jitvm/registers.py), as unsigned numbers."""
        return read_registers(self._vcpu(vcpu).engine.c)

    def set_registers(self, values: Mapping[str, int], vcpu: int = 0) -> None:
        """Write registers by name (those of `registers`, but no selectors) of a vCPU that stands.

        Raises:
            ConfigError: no such vCPU; a name that can't be written, a value that does not fit; nothing has been written.
        """
        write_registers(self._vcpu(vcpu).engine.c, values)
        self.vcpus[vcpu].registers_dirty = True

    def _vcpu(self, number: int) -> Vcpu:
        if not 0 <= number < len(self.vcpus):
            raise ConfigError(f"there is no vCPU {number}")
        return self.vcpus[number]

    @property
    def ram(self) -> npt.NDArray[np.uint8]:
        """RAM as an array (config.memory,) of uint8, the guest's own bytes.  Code is changed through `write_memory`."""
        return self.memory.bytes[: self.config.memory]

    def read_memory(self, gpa: int, size: int) -> bytes:
        """Physical memory as the CPU sees it; what is not memory reads as FFh."""
        with self.lock:
            return self.memory.peek(gpa, size)

    def write_memory(self, gpa: int, data: bytes) -> None:
        """Store to physical memory; translated code there is dropped.  ROM and devices are left alone."""
        with self.lock:
            self.memory.write(gpa, data)

    def screen_text(self) -> list[str]:
        """The rows of the VGA's text screen; none in graphics modes and before a mode is set."""
        with self.lock:
            return self.board.vga.text_screen()

    def serial_output(self, number: int = 0) -> bytes:
        """What the guest has sent to a serial port (from 0) whose backend is `memory`; `ConfigError` for any other."""
        return bytes(self._serial(number).output)

    def _serial(self, number: int) -> MemoryBackend:
        if not 0 <= number < len(self.serials):
            raise ConfigError(f"there is no serial port {number}")
        return _in_memory(self.serials[number], f"serial port {number}")

    def debug_output(self, port: int = DEBUG_MARKS_PORT) -> bytes:
        """What the guest has written to a debug port whose backend is `memory`; `ConfigError` for any other."""
        ports = [port for port, _ in self.config.debugcons]
        if port not in ports:
            raise ConfigError(f"there is no debug port {port:#x}")
        return bytes(_in_memory(self._backends[len(self.serials) + ports.index(port)], f"debug port {port:#x}").output)

    def send(self, data: bytes, number: int = 0) -> None:
        """Input to a serial port (from 0) whose backend is `memory`; `ConfigError` for any other."""
        self._serial(number).feed(data)

    def type_text(self, text: str) -> None:
        """Type on the PS/2 keyboard, at a typist's pace of virtual time."""
        with self.lock:
            self.board.keyboard.type_text(text)
            for vcpu in self.vcpus:
                vcpu.wake()


def _in_memory(backend: CharBackend, what: str) -> MemoryBackend:
    if not isinstance(backend, MemoryBackend):
        raise ConfigError(f"{what} is not kept; give it the backend 'memory'")
    return backend
