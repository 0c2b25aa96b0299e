"""CPUID: what the CPU says about itself, and the feature bits that the semantics obey.

`cpuid_table` makes the rows that a machine puts into `c.cpuid`, `feature_words` the words for `c.features`.  Only what
is built can be announced (`BUILT`); a feature that is not announced is not there: its instructions are #UD, its MSRs
and CR4 bits #GP.

Source: Intel SDM vol. 2, CPUID; vol. 1, chapters 13.2 (leaf 0Dh) and 21.

Not modelled: the caches that leaf 2 describes; the processor serial number; leaves of later CPUs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jitvm.errors import ConfigError
from jitvm.isa.host_x87 import AVAILABLE
from jitvm.isa.shared import serialize_memory
from jitvm.isa.state import APIC_BASE_EN, CR4_OSXSAVE, MODE_CODE64, OK, RAX, RBX, RCX, RDX
from jitvm.isa.topology import ALONE, HTT, LEAF_CACHES, LEAF_TOPOLOGY, Topology
from jitvm.isa.words import M32, ONES, W0, W1, W2, W3, W4, W5, u64

# ---- features: bits of the words of `c.features` ---------------------------------------------------------------------
# word 0: leaf 1 EDX
FEATURE_FPU, FEATURE_VME, FEATURE_DE, FEATURE_PSE = u64(1 << 0), u64(1 << 1), u64(1 << 2), u64(1 << 3)
FEATURE_TSC, FEATURE_MSR, FEATURE_PAE, FEATURE_MCE = u64(1 << 4), u64(1 << 5), u64(1 << 6), u64(1 << 7)
FEATURE_CX8, FEATURE_APIC, FEATURE_SEP, FEATURE_MTRR = u64(1 << 8), u64(1 << 9), u64(1 << 11), u64(1 << 12)
FEATURE_PGE, FEATURE_MCA, FEATURE_CMOV, FEATURE_PAT = u64(1 << 13), u64(1 << 14), u64(1 << 15), u64(1 << 16)
FEATURE_CLFLUSH = u64(1 << 19)
FEATURE_PSE36, FEATURE_FXSR, FEATURE_SSE = u64(1 << 17), u64(1 << 24), u64(1 << 25)
# word 1: leaf 1 ECX
FEATURE_PCID, FEATURE_SSE42, FEATURE_TSC_DEADLINE, FEATURE_XSAVE = u64(1 << 17), u64(1 << 20), u64(1 << 24), u64(1 << 26)
OSXSAVE = u64(1 << 27)
"""Leaf 1 ECX: CR4.OSXSAVE."""
# word 2: leaf 80000001h EDX
FEATURE_SYSCALL, FEATURE_NX, FEATURE_PDPE1GB = u64(1 << 11), u64(1 << 20), u64(1 << 26)
FEATURE_RDTSCP, FEATURE_LM = u64(1 << 27), u64(1 << 29)
# word 4: leaf 7 EBX
FEATURE_FSGSBASE, FEATURE_SMEP, FEATURE_SMAP = u64(1 << 0), u64(1 << 7), u64(1 << 20)
# word 5: leaf 7 ECX
FEATURE_UMIP = u64(1 << 2)
# word 7: the family, which is no bit of CPUID, and others
GENERATION_P6, FEATURE_ARCH_CAPABILITIES = u64(1), u64(1 << 29)

EDX1, ECX1, EDX8, ECX8, EBX7, ECX7, EAXD, OTHER = range(8)
"""Words of `c.features`: leaf 1, leaf 80000001h, leaf 7, subleaf 1 of leaf 0Dh; the rest, a bit of one leaf each."""
P6_FAMILY = 6
GENERATIONS = {"p6": (OTHER, 0)}
"""What a processor has by its family (leaf 1 EAX): RDPMC and the NOPs with a ModRM byte (SDM vol. 2, NOP, RDPMC)."""

BUILT: dict[str, tuple[int, int]] = {
    "fpu": (EDX1, 0),
    "vme": (EDX1, 1),
    "de": (EDX1, 2),
    "pse": (EDX1, 3),
    "tsc": (EDX1, 4),
    "msr": (EDX1, 5),
    "pae": (EDX1, 6),
    "mce": (EDX1, 7),
    "cx8": (EDX1, 8),
    "apic": (EDX1, 9),
    "sep": (EDX1, 11),
    "mtrr": (EDX1, 12),
    "pge": (EDX1, 13),
    "mca": (EDX1, 14),
    "cmov": (EDX1, 15),
    "pat": (EDX1, 16),
    "pse36": (EDX1, 17),
    "syscall": (EDX8, 11),
    "nx": (EDX8, 20),
    "pdpe1gb": (EDX8, 26),
    "rdtscp": (EDX8, 27),
    "lm": (EDX8, 29),
    "smep": (EBX7, 7),
    "smap": (EBX7, 20),
    "umip": (ECX7, 2),
    "clflush": (EDX1, 19),
    "mmx": (EDX1, 23),
    "fxsr": (EDX1, 24),
    "sse": (EDX1, 25),
    "sse2": (EDX1, 26),
    "sse3": (ECX1, 0),
    "pclmulqdq": (ECX1, 1),
    "ssse3": (ECX1, 9),
    "sse4.1": (ECX1, 19),
    "sse4.2": (ECX1, 20),
    "popcnt": (ECX1, 23),
    "tsc-deadline": (ECX1, 24),
    "aes": (ECX1, 25),
    "xsave": (ECX1, 26),
    "xsaveopt": (EAXD, 0),
    "xsavec": (EAXD, 1),
    "xgetbv1": (EAXD, 2),
    "cx16": (ECX1, 13),
    "pcid": (ECX1, 17),
    "movbe": (ECX1, 22),
    "rdrand": (ECX1, 30),
    "lahf_lm": (ECX8, 0),
    "abm": (ECX8, 5),
    "bmi1": (EBX7, 3),
    "bmi2": (EBX7, 8),
    "fsgsbase": (EBX7, 0),
    "invpcid": (EBX7, 10),
    "rdseed": (EBX7, 18),
    "adx": (EBX7, 19),
    "arat": (OTHER, 2),
    "invtsc": (OTHER, 8),
    "arch-capabilities": (OTHER, 29),
}
if not AVAILABLE:
    del BUILT["fpu"]
"""Features that can be announced, by their names on the command line: word of `c.features` and number of the bit."""

_PENTIUM = "fpu vme de pse tsc msr mce cx8"
_P6 = f"{_PENTIUM} pae mtrr pge mca cmov apic sep"
_PENTIUM3 = f"{_P6} pat pse36 mmx fxsr sse"
_CORE2 = f"{_PENTIUM3} clflush sse2 sse3 ssse3 cx16 syscall nx lm lahf_lm"
_NEHALEM = f"{_CORE2} sse4.1 sse4.2 popcnt rdtscp invtsc"
POWER, POWER_8, ARAT, INVTSC = 6, 0x8000_0007, 1 << 2, 1 << 8
"""Leaf 6 EAX: the local APIC's timer runs always.  Leaf 80000007h EDX: the TSC runs at one rate, always.  Both are so here
whatever is announced: they are virtual time."""
CAPABILITIES = int(FEATURE_ARCH_CAPABILITIES)
"""Leaf 7 EDX: there is IA32_ARCH_CAPABILITIES."""
CACHE_LINE = 8 << 8
"""Leaf 1 EBX: CLFLUSH takes lines of 64 bytes."""
XSTATE, XCR0_BITS, XSAVE_BYTES, XSAVEC = 0xD, 0b11, 576, 1 << 1
"""Leaf 0Dh: x87 and SSE state, and the bytes of an area with both; subleaf 1 EAX: the compacted format."""
P6_CACHES = (0x0302_0101, 0, 0, 0x0604_0A42)
CORE_CACHES = (1, 0, 0x4D, 0x2C_307D)
"""The caches of leaf 4, as leaf 2 has them in QEMU 7.2."""


class Model(NamedTuple):
    """A CPU that can be asked for: it has those of `features` that are built."""

    signature: int
    """Leaf 1 EAX: family, model, stepping."""
    brand: str
    features: str
    caches: tuple[int, ...] = ()
    """Leaf 2; empty: the model has none."""
    physical_bits: int = 32
    """Width of a physical address (MAXPHYADDR)."""
    highest: int = 0
    """The highest basic leaf, where features do not ask for a higher one."""


MODELS = {
    "486": Model(0x0413, "jitvm i486 DX", "fpu"),
    "pentium": Model(0x052C, "jitvm Pentium", _PENTIUM),
    "pentiumpro": Model(0x0619, "jitvm Pentium Pro", _P6, P6_CACHES, 36),
    "pentium3": Model(0x0673, "jitvm Pentium III", _PENTIUM3, P6_CACHES, 36),
    "core2duo": Model(0x06FB, "jitvm Core 2 Duo", _CORE2, CORE_CACHES, 36, 0xA),
    "nehalem": Model(0x0106A3, "jitvm Nehalem", _NEHALEM, CORE_CACHES, 40, 0xB),
    "max": Model(0x0706E5, "jitvm max", "max", CORE_CACHES, 40, 0xB),
}
"""What the silicon of this name has (Intel's CPUID tables; QEMU's models of the same names); "max" has all that is built."""
DEFAULT_MODEL = "max"

VENDOR = b"GenuineIntel"
ROW_WORDS, N_ROWS, TABLE_WORDS, FEATURE_WORDS = 6, 42, 256, 8
EXTENDED = 0x8000_0000
BRAND_BYTES, LINEAR_BITS = 48, 48
PHYSICAL_BITS = ROW_WORDS * N_ROWS
"""Index in the table of the width of a physical address, for machines whose CPUID has no leaf that tells it."""

ROW, ROWS = u64(ROW_WORDS), u64(N_ROWS * ROW_WORDS)
TOPOLOGY, TOPOLOGY_LEVELS, SUBLEAF = u64(LEAF_TOPOLOGY), u64(2), u64(0xFF)
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
    top = c.cpuid[k + W2]
    if top > W2 and top < EXTENDED_LEAF and c.msr_misc[SLOT_MISC_ENABLE] & LIMIT_CPUID != W0:
        return W2
    return top


SLOT_MISC_ENABLE = u64(30)
"""Place of IA32_MISC_ENABLE in `c.msr_misc` (jitvm/isa/msr.py)."""
LIMIT_CPUID, XD_DISABLE = u64(1 << 22), u64(1 << 34)
"""IA32_MISC_ENABLE: the highest basic leaf is 2; there is no NX."""


def cpuid(c):
    """CPUID by EAX and ECX.  A leaf above the highest answers as the highest basic leaf does.

    Subleaves of leaf 0Bh that are no level of the topology tell the APIC ID and which they are.

    SYSCALL is told only in 64-bit mode, where alone Intel's processors have it, OSXSAVE while CR4 has it, and the local
    APIC while it is enabled (SDM vol. 3, 10.4.3).  IA32_MISC_ENABLE hides basic leaves behind 2, and NX (vol. 4, 2.1).
    """
    serialize_memory(c)
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
    if leaf == W0:
        c.gpr[RAX] = cpuid_highest(c, W0)
    c.gpr[RBX] = c.cpuid[k + W3]
    c.gpr[RCX] = c.cpuid[k + W4]
    c.gpr[RDX] = c.cpuid[k + W5]
    if leaf == TOPOLOGY and subleaf >= TOPOLOGY_LEVELS:
        c.gpr[RCX] = subleaf & SUBLEAF
    if leaf == EXTENDED_LEAF + W1 and c.mode & MODE_CODE64 == W0:
        c.gpr[RDX] = c.gpr[RDX] & ~FEATURE_SYSCALL
    if leaf == EXTENDED_LEAF + W1 and c.msr_misc[SLOT_MISC_ENABLE] & XD_DISABLE != W0:
        c.gpr[RDX] = c.gpr[RDX] & ~FEATURE_NX
    if leaf == W1 and c.cr4 & CR4_OSXSAVE != W0:
        c.gpr[RCX] = c.gpr[RCX] | OSXSAVE
    if leaf == W1 and c.msr_apic_base & APIC_BASE_EN == W0:
        c.gpr[RDX] = c.gpr[RDX] & ~FEATURE_APIC
    return OK


def _words_of(text: bytes) -> list[int]:
    """Four-byte words of a string, little endian."""
    return [int.from_bytes(text[k : k + 4], "little") for k in range(0, len(text), 4)]


def _choose_features(model: str, add: Iterable[str], remove: Iterable[str]) -> list[int]:
    """The words of `c.features` of a model with features added and removed; ConfigError for a name that is not built."""
    wanted = MODELS[model].features
    names = set(BUILT) if wanted == "max" else {name for name in wanted.split() if name in BUILT}
    for name in [*add, *remove]:
        if name not in BUILT:
            raise ConfigError(f"CPU feature {name!r} is not built; there are {', '.join(sorted(BUILT))}")
    words = [0] * FEATURE_WORDS
    for name in (names | set(add)) - set(remove):
        word, bit = BUILT[name]
        words[word] |= 1 << bit
    return words


def cpuid_table(
    model: str = DEFAULT_MODEL, add: Iterable[str] = (), remove: Iterable[str] = (), topology: Topology = ALONE
) -> npt.NDArray[np.uint64]:
    """The 256 words of `c.cpuid`: 42 rows of leaf, subleaf, EAX, EBX, ECX, EDX, with APIC ID 0 (`set_apic_id`).

    ConfigError for an unknown name.
    """
    if model not in MODELS:
        raise ConfigError(f"CPU model {model!r} is unknown; there are {', '.join(sorted(MODELS))}")
    signature, brand, _, caches, physical_bits, highest = MODELS[model]
    words = _choose_features(model, add, remove)
    long = words[EDX8] & int(FEATURE_LM)
    ebx, edx, ecx = _words_of(VENDOR)
    xsave = words[ECX1] & int(FEATURE_XSAVE)
    power, power_8, more = (words[OTHER] & bit for bit in (ARAT, INVTSC, CAPABILITIES))
    basic = max(highest, XSTATE if xsave else 7 if words[EBX7] | words[ECX7] | more else 6 if power else 2 if caches else 1)
    several = topology.per_socket > 1
    line = CACHE_LINE if words[EDX1] & int(FEATURE_CLFLUSH) else 0
    rows: list[tuple[int, ...]] = [
        (0, basic, ebx, ecx, edx),
        (1, signature, line | several * topology.per_socket << 16, words[ECX1], words[EDX1] | several * HTT),
        (EXTENDED, EXTENDED + (8 if long else 7 if power_8 else 4), 0, 0, 0),
        (EXTENDED + 1, 0, 0, words[ECX8], words[EDX8]),
    ]
    if caches:
        rows.append((2, *caches))
    if power:
        rows.append((POWER, power, 0, 0, 0))
    if power_8:
        rows.append((POWER_8, 0, 0, 0, power_8))
    if basic >= 7:
        rows.append((7, 0, words[EBX7], words[ECX7], more))
    if long:
        rows.append((EXTENDED + 8, physical_bits | LINEAR_BITS << 8, 0, topology.sizes(), 0))
    text = _words_of(brand.encode().ljust(BRAND_BYTES, b"\0"))
    for k in range(3):
        rows.append((EXTENDED + 2 + k, *text[4 * k : 4 * k + 4]))
    table = np.full(TABLE_WORDS, ONES, np.uint64)
    keyed = [(leaf, int(ANY), *registers) for leaf, *registers in rows]
    if xsave:
        keyed.append((XSTATE, 0, XCR0_BITS, XSAVE_BYTES, XSAVE_BYTES, 0))
        keyed.append((XSTATE, 1, words[EAXD], XSAVE_BYTES if words[EAXD] & XSAVEC else 0, 0, 0))
    if basic >= LEAF_CACHES:
        keyed += [(LEAF_CACHES, k, *row) for k, row in enumerate(topology.caches())]
    if basic >= LEAF_TOPOLOGY:
        keyed += [(LEAF_TOPOLOGY, k, *row) for k, row in enumerate(topology.levels())]
        keyed.append((LEAF_TOPOLOGY, int(ANY), 0, 0, 0, 0))
    for k, row in enumerate(keyed):
        table[ROW_WORDS * k : ROW_WORDS * (k + 1)] = row
    table[PHYSICAL_BITS] = physical_bits
    return table


def set_apic_id(table: npt.NDArray[np.uint64], apic_id: int) -> None:
    """Make a CPUID table that of the processor with this initial APIC ID: leaf 1 EBX, leaf 0Bh EDX."""
    for row in table[: ROW_WORDS * N_ROWS].reshape(N_ROWS, ROW_WORDS):
        if row[0] == 1:
            row[3] = int(row[3]) & 0x00FF_FFFF | apic_id << 24
        elif row[0] == LEAF_TOPOLOGY:
            row[5] = apic_id


def feature_words(table: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The 8 words of `c.features` from a CPUID table (EDX1 ...)."""
    words = np.zeros(FEATURE_WORDS, np.uint64)
    for row in table[: ROW_WORDS * N_ROWS].reshape(N_ROWS, ROW_WORDS):
        if row[0] == 1:
            words[EDX1], words[ECX1] = row[5], row[4]
        elif row[0] == EXTENDED + 1:
            words[EDX8], words[ECX8] = row[5], row[4]
        elif row[0] == 7 and row[1] in (0, ANY):
            words[EBX7], words[ECX7] = row[3], row[4]
            words[OTHER] |= row[5]
        elif row[0] == XSTATE and row[1] == 1:
            words[EAXD] = row[2]
        elif row[0] == POWER:
            words[OTHER] |= row[2]
        elif row[0] == POWER_8:
            words[OTHER] |= row[5]
        if row[0] == 1 and int(row[2]) >> 8 & 15 >= P6_FAMILY:
            words[OTHER] |= 1
    return words


def is_announced(features: npt.NDArray[np.uint64], name: str) -> bool:
    """Does a CPU with these `c.features` have the feature of this name?"""
    if name not in BUILT and name not in GENERATIONS:
        return False
    word, bit = BUILT.get(name) or GENERATIONS[name]
    return bool(int(features[word]) >> bit & 1)


def physical_mask(table: npt.NDArray[np.uint64]) -> np.uint64:
    """`c.phys_mask` from a CPUID table: the bits that a physical address may have."""
    bits = min(int(table[PHYSICAL_BITS]), 52)
    return u64((1 << bits) - 1)
