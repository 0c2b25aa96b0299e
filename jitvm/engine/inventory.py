"""Which instructions there are, by CPUID feature: counted from iced-x86's list of codes and the tables of the semantics.

A *form* is one of iced-x86's codes (a mnemonic with kinds and sizes of its operands) that has a row.  How each is proved is
in `proofs.json`, which `python -m tests.isa.proofs` writes from the generators of the tests and from what the test ROMs run;
a test compares it with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import iced_x86 as ix

from jitvm.engine.forms import (
    ANNOUNCED_AS,
    FPU_ALSO,
    FPU_FEATURES,
    INTEGER_FEATURES,
    operand_kinds,
    row_name,
    x87_row_name,
)
from jitvm.isa.cpuid import BUILT, MODELS, cpuid_table, feature_words, is_announced
from jitvm.isa.table import ROWS
from jitvm.isa.x87_table import X87_ROWS

PROOFS = Path(__file__).with_name("proofs.json")
KINDS = ("silicon", "unicorn", "ROM", "manual")
"""Ways in which a form is proved: against this host's own CPU; against unicorn; by a ROM that QEMU and Bochs run, too; by
tests that were written from the manual."""
MODES = (16, 32, 64)
BASE = {
    "INTEL8086": "8086",
    "INTEL186": "80186",
    "INTEL286": "80286",
    "INTEL386": "80386",
    "INTEL486": "80486",
    "CPUID": "80486",
    "PAUSE": "sse2",
    "RDPMC": "Pentium Pro",
    "MULTIBYTENOP": "Pentium Pro",
    "SMM": "80486",
    "X64": "lm",
    "TSC": "tsc",
    "MSR": "msr",
    "CX8": "cx8",
}
"""Those of iced-x86's features that are no feature of `cpuid.BUILT` by a name of their own: generations of processors."""
WITHOUT_ROW = frozenset({"RESERVEDNOP", "UD0", "UD1", "UD2"})
"""Hints that nobody has defined are NOPs; those that are #UD by definition."""
NEVER = frozenset({"UD0", *(f"RESERVEDNOP_RM{n}_R{n}_0F1F" for n in (16, 32, 64))})
"""Other names of what iced-x86 decodes as UD0_R16_RM16, NOP_RM16 and so on."""
GENERATIONS = {"8086": "", "80186": "", "80286": "", "80386": "", "80486": "", "Pentium Pro": "p6"}
"""Generations of processors, with the name in `cpuid.GENERATIONS` where not all models are of them."""


@dataclass(frozen=True)
class Form:
    """An iced-x86 code: its name, its feature as the command prints it, and the modes that have it."""

    name: str
    feature: str
    modes: tuple[int, ...]


@dataclass
class Entry:
    """A line of the inventory: forms of a feature, how many there are in each mode, and how many are proved in each way."""

    feature: str
    models: str
    forms: int = 0
    by_mode: dict[int, int] = field(default_factory=lambda: dict.fromkeys(MODES, 0))
    proofs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))


def feature_of(features: frozenset[str]) -> str:
    """The name under which an instruction with these features (iced-x86's names) is counted."""
    if features & FPU_FEATURES:
        return " ".join(["fpu", *(FPU_ALSO[name] for name in sorted(features & FPU_ALSO.keys()))])
    announced = [ANNOUNCED_AS[name] for name in sorted(features) if ANNOUNCED_AS.get(name) in BUILT]
    return announced[0] if announced else BASE[min(features)]


def _form(name: str, code: int) -> Form | None:
    """The form of a code; None when it is no instruction that has a row."""
    info = ix.OpCodeInfo(code)  # type: ignore[arg-type]  # an int at run time
    if not info.is_instruction or info.encoding not in (ix.EncodingKind.LEGACY, ix.EncodingKind.VEX):
        return None
    ins = ix.Instruction()
    ins.code = code  # type: ignore[assignment]  # an int at run time
    kinds = operand_kinds(info)
    features = frozenset(FEATURE_NAMES[f] for f in ins.cpuid_features())
    if features & FPU_FEATURES:
        row = x87_row_name(ins.mnemonic, info.memory_size, kinds)
        known = features <= FPU_FEATURES | FPU_ALSO.keys() and row in X87_ROWS
    else:
        known = features <= INTEGER_FEATURES and (row_name(ins, kinds) in ROWS or name.split("_")[0] in WITHOUT_ROW)
    if not known or name in NEVER:
        return None
    modes = tuple(mode for mode in MODES if info.is_available_in_mode(mode) and (mode != 64 or info.intel_decoder64))
    return Form(name, feature_of(features), modes) if modes else None


FEATURE_NAMES = {v: k for k, v in vars(ix.CpuidFeature).items() if isinstance(v, int)}


@cache
def forms() -> dict[str, Form]:
    """All forms by iced-x86's name."""
    codes = {k: v for k, v in vars(ix.Code).items() if isinstance(v, int)}
    found = (_form(name, code) for name, code in codes.items())
    return {form.name: form for form in found if form is not None}


@cache
def proofs() -> dict[str, frozenset[str]]:
    """For each way of proof the names of the forms that are proved so."""
    read: dict[str, list[str]] = json.loads(PROOFS.read_text(encoding="utf-8"))
    return {kind: frozenset(read[kind]) for kind in KINDS}


@cache
def models_with(feature: str) -> str:
    """The CPU models that announce a feature, as "pentium3 and later"."""
    names = GENERATIONS.get(feature, feature).split()
    if not all(is_announced(feature_words(cpuid_table("max")), name) for name in names) or not names:
        return "all"
    having = [model for model in MODELS if all(is_announced(feature_words(cpuid_table(model)), n) for n in names)]
    return having[0] if len(having) == 1 else f"{having[0]} and later"


def entries() -> list[Entry]:
    """The inventory: generations of processors, then features in the order of `BUILT`; those without instructions, too."""
    table: dict[str, Entry] = {name: Entry(name, models_with(name)) for name in (*GENERATIONS, *BUILT)}
    proved = proofs()
    for form in forms().values():
        entry = table.setdefault(form.feature, Entry(form.feature, models_with(form.feature)))
        entry.forms += 1
        for mode in form.modes:
            entry.by_mode[mode] += 1
        for kind in KINDS:
            entry.proofs[kind] += form.name in proved[kind]
    return list(table.values())


def total(rows: list[Entry]) -> Entry:
    """The sum of all."""
    whole = Entry("all", "")
    for row in rows:
        whole.forms += row.forms
        for mode in MODES:
            whole.by_mode[mode] += row.by_mode[mode]
        for kind in KINDS:
            whole.proofs[kind] += row.proofs[kind]
    return whole


def unproved() -> Iterator[str]:
    """Forms of which no test says more than that they are there."""
    return (name for name in forms() if not any(name in names for names in proofs().values()))


def as_json() -> dict[str, Any]:
    """The inventory as plain values."""
    rows = entries()
    return {
        "forms": total(rows).forms,
        "proofs": total(rows).proofs,
        "features": {
            row.feature: {
                "models": row.models,
                "forms": row.forms,
                "modes": {str(mode): n for mode, n in row.by_mode.items()},
                "proofs": row.proofs,
            }
            for row in rows
        },
    }


def summary() -> str:
    """Some lines of text: what README shows."""
    whole = total(entries())
    with_forms = sum(1 for row in entries() if row.forms)
    modes = ", ".join(f"{n:,} in {mode}-bit code" for mode, n in whole.by_mode.items())
    ways = ", ".join(f"{kind} {n:,}" for kind, n in whole.proofs.items())
    return (
        f"{whole.forms:,} instruction forms of {with_forms} features and generations ({modes})\n"
        f"proved by: {ways}; by none {len(list(unproved())):,}\n"
    )
