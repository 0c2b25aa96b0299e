"""CPUID: what the CPU says about itself, and the feature bits that the semantics obey.

`cpuid_table` makes the rows that a machine puts into `c.cpuid`, `feature_words` the words for `c.features`.  Only what
is built can be announced (`BUILT`); a feature that is not announced is not there: its instructions are #UD, its MSRs
and CR4 bits #GP.

Source: Intel SDM vol. 2, CPUID; vol. 1, chapter 21.

Not modelled: the caches that leaf 2 describes; the processor serial number; leaves of later CPUs.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from jitvm.errors import ConfigError
from jitvm.isa.state import OK, RAX, RBX, RCX, RDX
from jitvm.isa.words import M32, ONES, W0, W1, W2, W3, W4, W5, u64

# ---- features: bits of EDX in leaf 1, word 0 of `c.features` --------------------------------------------------------
FEATURE_FPU, FEATURE_VME, FEATURE_DE, FEATURE_PSE = u64(1 << 0), u64(1 << 1), u64(1 << 2), u64(1 << 3)
FEATURE_TSC, FEATURE_MSR, FEATURE_PAE, FEATURE_MCE = u64(1 << 4), u64(1 << 5), u64(1 << 6), u64(1 << 7)
FEATURE_CX8, FEATURE_APIC, FEATURE_SEP, FEATURE_MTRR = u64(1 << 8), u64(1 << 9), u64(1 << 11), u64(1 << 12)
FEATURE_PGE, FEATURE_MCA, FEATURE_CMOV, FEATURE_PAT = u64(1 << 13), u64(1 << 14), u64(1 << 15), u64(1 << 16)

BUILT = {
    "de": FEATURE_DE,
    "pse": FEATURE_PSE,
    "tsc": FEATURE_TSC,
    "msr": FEATURE_MSR,
    "cx8": FEATURE_CX8,
    "mtrr": FEATURE_MTRR,
    "pge": FEATURE_PGE,
    "cmov": FEATURE_CMOV,
}
"""Features that can be announced, by their names on the command line."""

MODELS: dict[str, tuple[int, str, tuple[str, ...], tuple[int, ...]]] = {
    "486": (0x0423, "jitvm i486 SX", (), ()),
    "pentium": (0x052C, "jitvm Pentium without FPU", ("de", "pse", "tsc", "msr", "cx8"), ()),
    "pentiumpro": (
        0x0619,
        "jitvm Pentium Pro without FPU",
        ("de", "pse", "tsc", "msr", "cx8", "mtrr", "pge", "cmov"),
        (0x0302_0101, 0, 0, 0x0604_0A42),
    ),
}
"""Name: signature (type, family, model, stepping), brand string, features, leaf 2."""
DEFAULT_MODEL = "pentiumpro"

VENDOR = b"GenuineIntel"
ROW_WORDS, N_ROWS, TABLE_WORDS, FEATURE_WORDS = 6, 42, 256, 8
EXTENDED = 0x8000_0000
BRAND_BYTES = 48

ROW, ROWS = u64(ROW_WORDS), u64(N_ROWS * ROW_WORDS)
ANY = ONES
"""Subleaf of a row that answers for every ECX; leaf of a row that is not used."""
EXTENDED_LEAF = u64(EXTENDED)


def cpuid_row(c, leaf, subleaf):
    """Index in `c.cpuid` of the row that answers, else ONES."""
    k = W0
    while k < ROWS:
        if c.cpuid[k] == leaf and (c.cpuid[k + W1] == ANY or c.cpuid[k + W1] == subleaf):
            return k
        k = k + ROW
    return ONES


def cpuid_highest(c, base):
    """Number of the highest leaf of a range, which its first leaf tells in EAX; 0 when there is none."""
    k = cpuid_row(c, base, W0)
    if k == ONES:
        return W0
    return c.cpuid[k + W2]


def cpuid(c):
    """CPUID by EAX and ECX.  A leaf above the highest answers as the highest basic leaf does."""
    leaf, subleaf = c.gpr[RAX] & M32, c.gpr[RCX] & M32
    top = cpuid_highest(c, leaf & EXTENDED_LEAF)
    if leaf > top:
        leaf = cpuid_highest(c, W0)
    k = cpuid_row(c, leaf, subleaf)
    if k == ONES:
        c.gpr[RAX] = W0
        c.gpr[RBX] = W0
        c.gpr[RCX] = W0
        c.gpr[RDX] = W0
        return OK
    c.gpr[RAX] = c.cpuid[k + W2]
    c.gpr[RBX] = c.cpuid[k + W3]
    c.gpr[RCX] = c.cpuid[k + W4]
    c.gpr[RDX] = c.cpuid[k + W5]
    return OK


def _words_of(text: bytes) -> list[int]:
    """Four-byte words of a string, little endian."""
    return [int.from_bytes(text[k : k + 4], "little") for k in range(0, len(text), 4)]


def _choose_features(model: str, add: Iterable[str], remove: Iterable[str]) -> int:
    """Leaf 1's EDX for a model with features added and removed; ConfigError for a name that is not built."""
    names = set(MODELS[model][2])
    for name in [*add, *remove]:
        if name not in BUILT:
            raise ConfigError(f"CPU feature {name!r} is not built; there are {', '.join(sorted(BUILT))}")
    names = (names | set(add)) - set(remove)
    return sum(int(BUILT[name]) for name in names)


def cpuid_table(
    model: str = DEFAULT_MODEL, add: Iterable[str] = (), remove: Iterable[str] = ()
) -> npt.NDArray[np.uint64]:
    """The 256 words of `c.cpuid`: 42 rows of leaf, subleaf, EAX, EBX, ECX, EDX.  ConfigError for an unknown name."""
    if model not in MODELS:
        raise ConfigError(f"CPU model {model!r} is unknown; there are {', '.join(sorted(MODELS))}")
    signature, brand, _, caches = MODELS[model]
    ebx, edx, ecx = _words_of(VENDOR)
    rows: list[tuple[int, ...]] = [
        (0, 2 if caches else 1, ebx, ecx, edx),
        (1, signature, 0, 0, _choose_features(model, add, remove)),
        (EXTENDED, EXTENDED + 4, 0, 0, 0),
        (EXTENDED + 1, 0, 0, 0, 0),
    ]
    if caches:
        rows.append((2, *caches))
    text = _words_of(brand.encode().ljust(BRAND_BYTES, b"\0"))
    for k in range(3):
        rows.append((EXTENDED + 2 + k, *text[4 * k : 4 * k + 4]))
    table = np.full(TABLE_WORDS, ONES, np.uint64)
    for k, (leaf, *registers) in enumerate(rows):
        table[ROW_WORDS * k : ROW_WORDS * (k + 1)] = [leaf, int(ANY), *registers]
    return table


def feature_words(table: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The 8 words of `c.features` from a CPUID table: leaf 1 EDX, leaf 1 ECX, leaf 80000001h EDX and ECX, then 0."""
    words = np.zeros(FEATURE_WORDS, np.uint64)
    for row in table[: ROW_WORDS * N_ROWS].reshape(N_ROWS, ROW_WORDS):
        if row[0] == 1:
            words[0], words[1] = row[5], row[4]
        elif row[0] == EXTENDED + 1:
            words[2], words[3] = row[5], row[4]
    return words
