"""A parser of options for all commands."""

from __future__ import annotations

import argparse
import shutil
from typing import Any, NoReturn

from jitvm.errors import ConfigError


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Names each option once, by its first spelling."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=min(shutil.get_terminal_size().columns, 110))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.dest == "help":
            return super()._format_action_invocation(action)
        if action.nargs == 0:
            return action.option_strings[0]
        return f"{action.option_strings[0]} {self._format_args(action, action.dest.upper())}"


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are `ConfigError`s."""

    def __init__(self, prog: str, **more: Any) -> None:
        super().__init__(prog, allow_abbrev=False, formatter_class=HelpFormatter, **more)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        """Options are written out, values stand apart or behind a `=`, as in QEMU: `-monitor` is not `-m onitor`."""
        return []

    def option(self, name: str, help: str, metavar: str | None = None, **more: Any) -> None:
        """An option with QEMU's one-dash spelling beside its two dashes; without `metavar` it is a switch."""
        flags = [f"-{name}"] if len(name) == 1 else [f"--{name}", f"-{name}"]
        if metavar is None:
            self.add_argument(*flags, action="store_true", help=help, **more)
        else:
            self.add_argument(*flags, metavar=metavar, help=help, **more)
