"""CPUID tables: what is announced, how leaves are found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jitvm.errors import ConfigError
from jitvm.isa.cpuid import (
    BUILT,
    EDX1,
    GENERATIONS,
    MODELS,
    cpuid,
    cpuid_table,
    feature_words,
    is_announced,
    physical_mask,
)
from jitvm.isa.state import OK
from tests.isa.plain_cpu import make_cpu, run

RAX, RCX, RDX, RBX = range(4)


def cpu(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """A record with a model's table and its memory."""
    c, memory = make_cpu(4096)
    c.cpuid[:] = cpuid_table(*args, **kwargs)
    c.features[:] = feature_words(c.cpuid)
    return c, memory


def ask(c: Any, memory: Any, leaf: int, subleaf: int = 0) -> tuple[int, int, int, int]:
    """EAX, EBX, ECX, EDX of a leaf."""
    c.gpr[RAX], c.gpr[RCX] = 0xFFFFFFFF00000000 | leaf, subleaf
    assert run(cpuid, c, memory) == OK
    return int(c.gpr[RAX]), int(c.gpr[RBX]), int(c.gpr[RCX]), int(c.gpr[RDX])


@pytest.mark.parametrize("model", MODELS)
def test_vendor_signature_and_brand(model: str) -> None:
    c, memory = cpu(model)
    top, ebx, ecx, edx = ask(c, memory, 0)
    assert b"".join(w.to_bytes(4, "little") for w in (ebx, edx, ecx)) == b"GenuineIntel"
    assert top >= (1 if model in ("486", "pentium") else 2)
    assert ask(c, memory, 1)[0] >> 8 & 15 == {"486": 4, "pentium": 5}.get(model, 6)
    brand = b"".join(w.to_bytes(4, "little") for leaf in (2, 3, 4) for w in ask(c, memory, 0x80000000 + leaf))
    assert brand.rstrip(b"\0").decode() == MODELS[model][1]


def test_features_by_model() -> None:
    """What silicon of these names has in leaf 1 EDX, as far as it is built."""
    silicon = {"486": 1, "pentium": 0x1BF, "pentiumpro": 0xFBFF, "pentium3": 0x0383FBFF}
    built = feature_words(cpuid_table("max"))
    for model, bits in silicon.items():
        assert int(cpuid_table(model)[11]) == bits & int(built[EDX1]) & ~(1 << 10)
        assert feature_words(cpuid_table(model)).tolist()[1:] == [0] * 6 + [model not in ("486", "pentium")]
    assert int(cpuid_table("pentium")[11]) & 0x13C == 0x13C


def test_only_what_is_built_is_announced() -> None:
    built = [sum(1 << bit for word, bit in (BUILT | GENERATIONS).values() if word == k) for k in range(8)]
    assert feature_words(cpuid_table("max")).tolist() == built
    for model in MODELS:
        assert all(int(w) & ~b == 0 for w, b in zip(feature_words(cpuid_table(model)), built, strict=True))
    for name in ("ds", "vmx", "avx512f"):
        with pytest.raises(ConfigError, match=name):
            cpuid_table(add=[name])


def test_every_feature_is_named_by_a_model() -> None:
    for name, (word, bit) in BUILT.items():
        assert is_announced(feature_words(cpuid_table("max")), name)
        without = feature_words(cpuid_table("max", remove=[name]))
        assert not is_announced(without, name)
        assert int(without[word]) | 1 << bit == int(feature_words(cpuid_table("max"))[word])


def test_width_of_physical_addresses() -> None:
    for model, bits in (("486", 32), ("pentium", 32), ("pentiumpro", 36), ("core2duo", 36), ("max", 40)):
        assert int(physical_mask(cpuid_table(model))) == (1 << bits) - 1


def test_features_are_added_and_removed() -> None:
    assert int(cpuid_table("486", add=["tsc"], remove=["fpu"])[11]) == 0x10
    assert int(cpuid_table("pentium", remove=["tsc", "msr"])[11]) == 0x18F
    with pytest.raises(ConfigError, match="z80"):
        cpuid_table("z80")


def test_clocks_that_never_stop() -> None:
    """The APIC's timer and the TSC (SDM vol. 2, CPUID: leaf 6 EAX bit 2, leaf 80000007h EDX bit 8)."""
    for model, add, timer, tsc in (
        ("max", "", 4, 0x100),
        ("nehalem", "", 0, 0x100),
        ("core2duo", "", 0, 0),
        ("pentium3", "arat", 4, 0),
        ("pentium3", "invtsc", 0, 0x100),
    ):
        c, memory = cpu(model, add.split())
        assert ask(c, memory, 0)[0] >= (6 if timer else 2)
        assert ask(c, memory, 6) == (timer, 0, 0, 0) or not timer
        assert ask(c, memory, 0x8000_0000)[0] >= (0x8000_0007 if tsc else 0x8000_0004)
        assert ask(c, memory, 0x8000_0007) == (0, 0, 0, tsc) or not tsc


def test_a_leaf_above_the_highest_answers_as_the_highest_basic_one() -> None:
    c, memory = cpu("pentiumpro")
    caches = ask(c, memory, 2)
    assert caches == (0x03020101, 0, 0, 0x06040A42)
    for leaf in (3, 0x12345678, 0x40000000, 0x80000005, 0xFFFFFFFF):
        assert ask(c, memory, leaf, 7) == caches


def test_a_cpu_that_nobody_chose_has_long_mode() -> None:
    c, memory = cpu()
    assert ask(c, memory, 0x8000_0001)[3] >> 29 & 1


def test_subleaves_and_leaves_that_are_missing_below_the_highest() -> None:
    c, memory = cpu()
    c.cpuid[2] = 8
    c.cpuid[6 * 20 : 6 * 22] = [3, 0, 10, 11, 12, 13, 3, 1, 20, 21, 22, 23]
    assert ask(c, memory, 3) == (10, 11, 12, 13)
    assert ask(c, memory, 3, 1) == (20, 21, 22, 23)
    assert ask(c, memory, 3, 2) == (0, 0, 0, 0)
    assert ask(c, memory, 5) == (0, 0, 0, 0)


def test_misc_enable_hides_leaves_and_nx() -> None:
    """IA32_MISC_ENABLE bits 22 and 34 (SDM vol. 4, 2.1)."""
    c, memory = cpu("max")
    before = ask(c, memory, 0), ask(c, memory, 2), ask(c, memory, 0x80000001), ask(c, memory, 0x80000008)
    assert before[0][0] == 13
    c.msr_misc[30] = 1 << 22 | 1 << 34
    assert ask(c, memory, 0) == (2, *before[0][1:])
    assert ask(c, memory, 7) == ask(c, memory, 13, 1) == before[1]
    eax, ebx, ecx, edx = before[2]
    assert edx >> 20 & 1
    assert ask(c, memory, 0x80000001) == (eax, ebx, ecx, edx & ~(1 << 20))
    assert ask(c, memory, 0x80000008) == before[3]


def test_table_shape() -> None:
    table = cpuid_table()
    assert table.shape == (256,)
    assert table.dtype == np.uint64


def test_a_local_apic_that_is_disabled_is_not_announced() -> None:
    c, memory = cpu("nehalem")
    c.msr_apic_base = 0xFEE00900
    before = ask(c, memory, 1)
    assert before[3] & 0x200
    c.msr_apic_base = 0xFEE00100
    assert ask(c, memory, 1) == (*before[:3], before[3] & ~0x200)
