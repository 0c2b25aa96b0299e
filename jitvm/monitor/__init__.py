"""The monitor: commands as text, for the console's Ctrl-A c, for gdb's `monitor`, and for tests.

    machine.monitor.command("pagewalk 0xb8000")

`command` takes a line and gives an answer, lines without the last line end; an unknown command or a bad argument is a
`ConfigError`.  Commands that look at the CPU let it stand meanwhile.  `help` lists the commands, `help NAME` tells all of
one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gdbstub.errors import TargetError
from jitvm.errors import ConfigError
from jitvm.monitor import board, cpu, points, run, store
from jitvm.monitor.command import Command, Context
from jitvm.monitor.stops import Stops

if TYPE_CHECKING:
    from jitvm.machine import Machine

ALIASES = {
    "c": "cont", "q": "quit", "?": "help", "system_reset": "reset", "system_powerdown": "powerdown", "registers": "regs",
}  # fmt: skip
INFO = {"registers": "regs", "status": "status", "irq": "irq", "mem": "mem"}
"""`info X`, as in QEMU's monitor."""


class Monitor:
    """The commands of one machine."""

    def __init__(self, machine: Machine) -> None:
        self.context = Context(machine, Stops(machine))
        own = (
            Command("help [COMMAND]", "this list, or all about one command", self._help),
            Command("info registers|status|irq|mem", "the same as regs, status, irq, mem", self._info),
        )
        every = (*own, *cpu.COMMANDS, *store.COMMANDS, *board.COMMANDS, *points.COMMANDS, *run.COMMANDS)
        self._commands = {command.name: command for command in every}

    @property
    def tell(self) -> Callable[[str], None]:
        """Who is told when the machine stops by itself."""
        return self.context.stops.tell

    @tell.setter
    def tell(self, tell: Callable[[str], None]) -> None:
        self.context.stops.tell = tell

    def names(self) -> list[str]:
        """The commands."""
        return list(self._commands)

    def command(self, line: str) -> str:
        """Do one command."""
        words = line.split()
        if not words:
            return ""
        name, slash, form = words[0].partition("/")
        command = self._commands.get(ALIASES.get(name, name))
        if command is None:
            raise ConfigError(f"unknown command '{words[0]}'; known: {', '.join(self._commands)}")
        if command.alone and (slash or len(words) > 1):
            raise ConfigError(f"{command.name} takes no argument")
        try:
            return command.run(self.context, [slash + form, *words[1:]] if slash else words[1:])
        except TargetError as e:
            raise ConfigError(str(e)) from None

    def _help(self, _context: Context, words: Sequence[str]) -> str:
        if not words:
            width = max(len(command.usage) for command in self._commands.values() if len(command.usage) < 40)
            return "\n".join(f"{command.usage:<{width}}  {command.about}" for command in self._commands.values())
        command = self._commands.get(ALIASES.get(words[0], words[0]))
        if command is None or len(words) > 1:
            raise ConfigError(f"help: no command '{' '.join(words)}'; known: {', '.join(self._commands)}")
        return f"{command.usage}\n  {command.about}" + (f"\n{command.more}" if command.more else "")

    def _info(self, context: Context, words: Sequence[str]) -> str:
        name = INFO.get(words[0]) if len(words) == 1 else None
        if name is None:
            raise ConfigError(f"write info {'|'.join(INFO)}")
        return self._commands[name].run(context, [])
