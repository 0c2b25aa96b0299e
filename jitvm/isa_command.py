"""`jitvm isa`: which instructions are implemented, by CPUID feature, and how each is proved."""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console
from rich.table import Table

from jitvm.engine import inventory

NOTHING = "-"


def _shown(n: int) -> str:
    """A count, a dash for none."""
    return f"{n:,}" if n else NOTHING


def table() -> Table:
    """The inventory as a table."""
    made = Table("feature", "CPU models", box=None, pad_edge=False, title_justify="left")
    for name in ("forms", *(f"{mode}-bit" for mode in inventory.MODES), *inventory.KINDS):
        made.add_column(name, justify="right")
    rows = inventory.entries()
    for row in rows:
        counts = (row.forms, *row.by_mode.values(), *row.proofs.values())
        made.add_row(row.feature, row.models, *map(_shown, counts))
    made.add_section()
    whole = inventory.total(rows)
    made.add_row("all", "", *map(_shown, (whole.forms, *whole.by_mode.values(), *whole.proofs.values())))
    return made


def fill(parser: argparse.ArgumentParser) -> None:
    """Options and explanation."""
    parser.description = (
        "Count the instruction forms (mnemonic, kinds and sizes of operands, as iced-x86 lists them) that are "
        "implemented, by CPUID feature or processor generation, and how they are proved: against a host's own CPU "
        "(silicon), against unicorn, by a ROM that runs on QEMU and Bochs too, by tests from the manual.  A form may be "
        "proved in several ways.  Features without forms are of the system (paging, registers)."
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--json", action="store_true", help="all of it as JSON")
    what.add_argument("--summary", action="store_true", help="the sums alone")
    what.add_argument("--forms", action="store_true", help="a line a form: feature, iced-x86's name, modes, proofs")


def show(args: argparse.Namespace) -> None:
    """Print what is asked for."""
    if args.json:
        print(json.dumps(inventory.as_json(), indent=2))
    elif args.summary:
        print(inventory.summary(), end="")
    elif args.forms:
        proved = inventory.proofs()
        for form in sorted(inventory.forms().values(), key=lambda form: (form.feature, form.name)):
            ways = [kind for kind in inventory.KINDS if form.name in proved[kind]]
            modes = ",".join(map(str, form.modes))
            print(f"{form.feature}\t{form.name}\t{modes}\t{','.join(ways) or NOTHING}")
    else:
        width = None if sys.stdout.isatty() else 120
        Console(highlight=False, width=width).print(table())
        print(f"\n{inventory.summary()}", end="")
