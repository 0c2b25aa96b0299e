"""The monitor: commands as text, for the console's Ctrl-A c.

`command` takes a line and gives an answer, lines without the last line end; an unknown command or a bad argument is a
`ConfigError`.  Commands that look at the CPU let it stand meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jitvm.config import parse_number
from jitvm.errors import ConfigError

if TYPE_CHECKING:
    from jitvm.machine import Machine

BYTES_A_LINE = 16
MAX_DUMP = 64 * 1024
MILLISECOND = 1e6
PRINTABLE = range(0x20, 0x7F)
HELP = """\
help                this list
info registers      the CPU's registers; also info status, irq, mem
x ADDRESS [BYTES]   a dump of physical memory
stats               what the run has cost so far
stop, cont          let the CPU stand, let it go on
system_reset        the reset button
quit                end the machine"""


class Monitor:
    """The commands of one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._commands: dict[str, Callable[[list[str]], str]] = {
            "help": self._help,
            "info": self._info,
            "x": self._dump,
            "stats": self._stats,
            "stop": self._stop,
            "cont": self._cont,
            "c": self._cont,
            "system_reset": self._reset,
            "quit": self._quit,
            "q": self._quit,
        }
        self._topics: dict[str, Callable[[], str]] = {
            "registers": self._registers,
            "status": self._status,
            "irq": self._irq,
            "mem": self._mem,
        }

    def command(self, line: str) -> str:
        """Do one command."""
        words = line.split()
        if not words:
            return ""
        run = self._commands.get(words[0])
        if run is None:
            raise ConfigError(f"unknown command '{words[0]}'; known: {', '.join(self._commands)}")
        return run(words[1:])

    def _help(self, _words: list[str]) -> str:
        return HELP

    def _info(self, words: list[str]) -> str:
        topic = self._topics.get(words[0]) if len(words) == 1 else None
        if topic is None:
            raise ConfigError(f"write info {'|'.join(self._topics)}")
        return topic()

    def _registers(self) -> str:
        with self._machine.standing():
            return "\n".join(vcpu.engine.dump() for vcpu in self._machine.vcpus)

    def _status(self) -> str:
        machine = self._machine
        with machine.standing() as paused:
            state = "ended" if machine.result is not None else "paused" if paused else "running"
            lines = [f"{state}, {machine.clock.now_ns / MILLISECOND:.3f} ms"]
            for vcpu in machine.vcpus:
                halted = ", halted" if vcpu.engine.c.halted else ""
                lines.append(f"vCPU {vcpu.index}: {vcpu.retired} instructions{halted}")
        return "\n".join(lines)

    def _irq(self) -> str:
        with self._machine.lock:
            chips: dict[str, Any] = self._machine.board.pic.snapshot()
        return "\n".join(
            f"{name}: irr {chip['irr']:08b} isr {chip['isr']:08b} imr {chip['imr']:08b} lines {chip['lines']:08b}"
            for name, chip in chips.items()
        )

    def _mem(self) -> str:
        with self._machine.lock:
            return "\n".join(
                f"{start:08x}-{end - 1:08x} {what}" for start, end, what in self._machine.board.memory_map()
            )

    def _dump(self, words: list[str]) -> str:
        if not 1 <= len(words) <= 2:
            raise ConfigError("write x ADDRESS [BYTES]")
        gpa, n = parse_number("x", words[0]), parse_number("x", words[1]) if len(words) > 1 else BYTES_A_LINE
        if not 0 < n <= MAX_DUMP or gpa < 0:
            raise ConfigError(f"x: give an address and 1 to {MAX_DUMP} bytes")
        data = self._machine.read_memory(gpa, n)
        lines = []
        for start in range(0, n, BYTES_A_LINE):
            row = data[start : start + BYTES_A_LINE]
            text = "".join(chr(byte) if byte in PRINTABLE else "." for byte in row)
            lines.append(f"{gpa + start:08x}: {row.hex(' '):<{3 * BYTES_A_LINE}} {text}")
        return "\n".join(lines)

    def _stats(self, _words: list[str]) -> str:
        with self._machine.standing():
            found = self._machine.stats()
        return "\n".join(f"{key}: {value}" for key, value in found.items() if key != "marks")

    def _stop(self, _words: list[str]) -> str:
        self._machine.pause()
        return ""

    def _cont(self, _words: list[str]) -> str:
        self._machine.resume()
        return ""

    def _reset(self, _words: list[str]) -> str:
        self._machine.reset("monitor")
        return ""

    def _quit(self, _words: list[str]) -> str:
        self._machine.quit()
        return ""
