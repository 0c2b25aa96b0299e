"""Model-specific registers, RDTSC, RDPMC."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jitvm.isa import state
from jitvm.isa.cpuid import cpuid_table, feature_words, physical_mask
from jitvm.isa.msr import rdmsr, rdpmc, rdtsc, rdtscp, wrmsr
from jitvm.isa.reset import reset_cpu
from jitvm.isa.state import CR4_TSD, FAULT
from tests.isa.plain_cpu import PlainMemory, fault_of, make_cpu, protect, run

GP, OK, UD = (int(n) for n in (state.GP, state.OK, state.UD))
RAX, RCX, RDX = 0, 1, 2
FIXED = [0x250, 0x258, 0x259, *range(0x268, 0x270)]


def cpu(model: str = "pentiumpro", cpl: int = 0) -> tuple[Any, PlainMemory]:
    """A protected-mode record of a model."""
    c, memory = make_cpu()
    protect(c, memory, cpl)
    c.features[:] = feature_words(cpuid_table(model))
    return c, memory


def read(c: Any, memory: PlainMemory, n: int) -> int | None:
    """Value of an MSR; None for #GP(0)."""
    c.gpr[RCX] = 0xABCD << 32 | n
    if run(rdmsr, c, memory) == FAULT:
        assert fault_of(c) == (GP, 0)
        return None
    return int(c.gpr[RAX]) | int(c.gpr[RDX]) << 32


def write(c: Any, memory: PlainMemory, n: int, v: int) -> bool:
    """Write an MSR; False for #GP(0)."""
    c.gpr[RCX], c.gpr[RAX], c.gpr[RDX] = n, v & 0xFFFFFFFF, v >> 32
    if run(wrmsr, c, memory) == FAULT:
        assert fault_of(c) == (GP, 0)
        return False
    return True


def test_every_latch_keeps_its_own_value() -> None:
    c, memory = cpu()
    values = {n: 0x0606060606060600 + k % 2 for k, n in enumerate(FIXED)}
    values |= {0x200 + 2 * k: 0x10000006 + (k << 12) for k in range(8)}
    values |= {0x201 + 2 * k: 0xFF0000800 + (k << 12) for k in range(8)}
    values |= {0x2FF: 0xC06, 0x2A: 0x1234, 0x8B: 0x12 << 32}
    for n, v in values.items():
        assert write(c, memory, n, v)
    for n, v in values.items():
        assert read(c, memory, n) == v


@pytest.mark.parametrize(
    ("n", "v"),
    [
        (0x200, 2),
        (0x200, 0x106),
        (0x200, 1 << 36),
        (0x201, 0x400),
        (0x201, 1 << 36),
        (0x250, 0x0700000000000000),
        (0x250, 0xFF),
        (0x26F, 2 << 32),
        (0x2FF, 0x1000),
        (0x2FF, 3),
        (0x2A, 1 << 32),
        (0xFE, 0x508),
        (0x17, 0),
        (0x1D9, 2),
    ],
)
def test_reserved_bits_types_and_read_only(n: int, v: int) -> None:
    c, memory = cpu()
    before = read(c, memory, n)
    assert not write(c, memory, n, v)
    assert read(c, memory, n) == before


def test_fixed_values() -> None:
    c, memory = cpu()
    assert [read(c, memory, n) for n in (0xFE, 0x17, 0x1D9)] == [0x508, 0, 0]
    assert write(c, memory, 0x79, 0x12345678)
    assert read(c, memory, 0x79) is None
    assert write(c, memory, 0x1D9, 0)


@pytest.mark.parametrize(
    "n", [2, 0x17C, 0x414, 0x1A0, 0x6E0, 0x210, 0x251, 0x270, 0x277, 0xC0000080, 0xC0000103, 0xFFFFFFFF]
)
def test_what_is_not_announced_is_not_there(n: int) -> None:
    c, memory = cpu()
    assert read(c, memory, n) is None
    assert not write(c, memory, n, 0)


BANK_REGISTERS = [n for n in range(0x400, 0x414) if n % 4 != 1]
"""CTL, ADDR and MISC of five banks."""


def test_machine_check_registers_of_a_machine_without_errors() -> None:
    """SDM vol. 3, 15.3: five banks and MCG_CTL, each register a place of its own; nothing has failed."""
    c, memory = cpu()
    assert [read(c, memory, n) for n in (0, 1, 0x179, 0x17A, 0x17B)] == [0, 0, 0x105, 0, 0]
    for n in (0x17B, *BANK_REGISTERS):
        assert write(c, memory, n, (1 << 64) - 1)
        assert read(c, memory, n) == (1 << 64) - 1
    for n in BANK_REGISTERS:
        assert write(c, memory, n, 0)
        assert read(c, memory, n) == 0
    assert write(c, memory, 0x17A, 7)
    assert [read(c, memory, n) for n in (0x17A, 0x17B, 0x401, 0x411)] == [7, (1 << 64) - 1, 0, 0]


@pytest.mark.parametrize(
    ("n", "v"),
    [(0, 0), (1, 0), (0x179, 0), (0x17A, 8), (0x17B, 1), (0x400, 1), (0x40C, 1 << 63), (0x401, 1), (0x411, 1 << 63)],
)
def test_what_machine_check_registers_refuse(n: int, v: int) -> None:
    """MCi_CTL and MCG_CTL take all ones or zeros, MCi_STATUS zero (SDM vol. 3, 15.3.1, 15.3.2); the capabilities nothing."""
    c, memory = cpu()
    before = read(c, memory, n)
    assert not write(c, memory, n, v)
    assert read(c, memory, n) == before


def test_the_pentium_has_machine_check_without_banks() -> None:
    c, memory = cpu("pentium")
    assert [read(c, memory, n) for n in (0, 1, 0x179, 0x17A, 0x400)] == [0, 0, None, None, None]
    assert [read(*cpu("pentiumpro"), n) for n in (0x179, 0x413, 0x414)] == [0x105, 0, None]


def test_mtrrs_take_addresses_as_wide_as_the_processor_has_them() -> None:
    """36 bits, and 40 where CPUID says so: SeaBIOS makes its masks by leaf 80000008h."""
    for model, bits in (("pentiumpro", 36), ("max", 40)):
        c, memory = cpu(model)
        c.phys_mask = physical_mask(cpuid_table(model))
        for n, low in ((0x200, 6), (0x201, 0x800)):
            assert write(c, memory, n, (1 << bits) - 0x1000 | low)
            assert not write(c, memory, n, 1 << bits | low)


@pytest.mark.parametrize(
    ("n", "v"),
    [
        (0x1B, 0xFEE0_0D00),  # EXTD without x2APIC
        (0x1B, 1 << 40 | 0xFEE0_0900),
        (0x277, 0x0007_0406_0007_0402),  # 2 and 3 are no types
        (0x277, 0x0807_0406_0007_0406),
        (0xC0000080, 1 << 12),
        (0xC0000080, 2),
        (0xC0000103, 1 << 32),
        (0x3A, 5),  # locked
    ],
)
def test_reserved_bits_of_the_later_ones(n: int, v: int) -> None:
    c, memory = cpu("max")
    before = read(c, memory, n)
    assert not write(c, memory, n, v)
    assert read(c, memory, n) == before


def test_latches_of_the_later_ones() -> None:
    """SYSENTER's, PAT, NXE and TSC_AUX take what is written; the TSC is as wide as it is where long mode is built."""
    c, memory = cpu("max")
    for n, v in ((0x174, 8), (0x175, 0x12345678), (0x176, 0x87654321), (0x277, 0x0100_0504_0706_0100), (0xC0000103, 7)):
        assert write(c, memory, n, v)
        assert read(c, memory, n) == v
    assert read(c, memory, 0xC0000080) == 0
    assert write(c, memory, 0xC0000080, 0x800)
    assert read(c, memory, 0xC0000080) == 0x800
    c, memory = cpu("pentium3")
    assert not write(c, memory, 0xC0000080, 0x800)


def test_reset() -> None:
    """RESET# leaves nothing of what was written (SDM vol. 3, table 10-1)."""
    c, memory = cpu("max")
    numbers = (0x174, 0x175, 0x176, 0x200, 0x201, 0x250, 0x2FF, 0x277, 0x1A0, *range(0xC0000080, 0xC0000085),
               *range(0xC0000100, 0xC0000104))  # fmt: skip
    with np.errstate(over="ignore"):
        reset_cpu(c)
    before = {n: read(c, memory, n) for n in numbers}
    for n in numbers:
        assert write(
            c, memory, n, 0x800 if n in (0x201, 0x2FF, 0xC0000080) else 0x0606_0606_0606_0606 if n == 0x250 else 6
        )
        assert read(c, memory, n) != before[n], hex(n)
    with np.errstate(over="ignore"):
        reset_cpu(c)
    assert {n: read(c, memory, n) for n in numbers} == before


MISC_ENABLE, EFER = 0x1A0, 0xC0000080


def test_misc_enable_keeps_what_can_be_written() -> None:
    """SDM vol. 4, 2.1: bits 7, 11 and 12 are read-only (no counters, branch trace, event-based sampling)."""
    c, memory = cpu("max")
    with np.errstate(over="ignore"):
        reset_cpu(c)
    assert read(c, memory, MISC_ENABLE) == 0x1801
    for wanted in (0, 0x4_0005_0009, (1 << 34) - 1, 1):
        assert write(c, memory, MISC_ENABLE, wanted)
        assert read(c, memory, MISC_ENABLE) == wanted & ~0x80 | 0x1800
    assert read(*cpu("pentium3"), MISC_ENABLE) is None


def test_misc_enable_takes_nx_away() -> None:
    """Bit 34, where there is NX: EFER.NXE can't be set then."""
    c, memory = cpu("max")
    assert write(c, memory, EFER, 0x800) and write(c, memory, EFER, 0)
    assert write(c, memory, MISC_ENABLE, 1 << 34)
    assert not write(c, memory, EFER, 0x800)
    assert write(c, memory, MISC_ENABLE, 1) and write(c, memory, EFER, 0x800)
    c.features[:] = feature_words(cpuid_table("max", remove=["nx"]))
    assert not write(c, memory, MISC_ENABLE, 1 << 34)


def test_the_count_of_smis_is_read_only_and_came_with_nehalem() -> None:
    c, memory = cpu("nehalem")
    assert read(c, memory, 0x34) == 0
    assert not write(c, memory, 0x34, 0)
    assert read(*cpu("core2duo"), 0x34) is None


def test_mtrrs_come_with_their_feature() -> None:
    c, memory = cpu("pentium")
    assert [read(c, memory, n) for n in (0xFE, 0x200, 0x2FF)] == [None] * 3
    assert read(c, memory, 0x10) is not None


def test_privilege_and_missing_instructions() -> None:
    for function in (rdmsr, wrmsr):
        c, memory = cpu(cpl=3)
        c.gpr[RCX] = 0x10
        assert run(function, c, memory) == FAULT
        assert fault_of(c) == (GP, 0)
        c, memory = cpu("486")
        assert run(function, c, memory) == FAULT
        assert fault_of(c) == (UD, None)
    c, memory = cpu("486")
    assert run(rdtsc, c, memory) == FAULT
    assert fault_of(c) == (UD, None)
    assert run(rdpmc, c, memory) == FAULT


def test_tsc_is_virtual_time() -> None:
    c, memory = cpu()
    c.horizon, c.left, c.extra_ns, c.tsc_offset = 1 << 40, 1000, 5000, 7
    now = (1 << 40) - 1000 + 5000 + 7
    assert run(rdtsc, c, memory) == OK
    assert (c.gpr[RAX], c.gpr[RDX]) == (now & 0xFFFFFFFF, now >> 32)
    assert read(c, memory, 0x10) == now


def test_what_the_processor_is_not_affected_by() -> None:
    """IA32_ARCH_CAPABILITIES: RDCL_NO, L1D, MDS_NO, PSCHANGE_MC, TAA_NO, SBDR, FBSDP, PSDP, GDS_NO, RFDS_NO; read-only."""
    c, memory = cpu("max")
    assert read(c, memory, 0x10A) == 0x0C00_E169
    assert not write(c, memory, 0x10A, 0)


def test_writing_the_tsc_clears_its_upper_half() -> None:
    c, memory = cpu()
    c.horizon = 1 << 40
    assert write(c, memory, 0x10, 0x1_0000_1234)
    c.left -= 10
    assert read(c, memory, 0x10) == 0x1234 + 10


def test_tsd() -> None:
    for cpl in (0, 3):
        c, memory = cpu(cpl=cpl)
        assert run(rdtsc, c, memory) == OK
        c.cr4 = CR4_TSD
        assert run(rdtsc, c, memory) == (FAULT if cpl else OK)


def test_rdtscp_tells_tsc_aux() -> None:
    """As RDTSC, and 32 bits of TSC_AUX in RCX; #GP(0) under CR4.TSD leaves all as it was."""
    c, memory = cpu("max")
    c.msr_tsc_aux, c.gpr[RCX], c.tsc_offset = 0x1234, 1 << 63, 5 << 32
    assert run(rdtscp, c, memory) == OK
    assert int(c.gpr[RCX]) == 0x1234
    assert int(c.gpr[RDX]) == 5
    c, memory = cpu("max", cpl=3)
    c.cr4, c.gpr[RCX] = CR4_TSD, 7
    assert run(rdtscp, c, memory) == FAULT
    assert fault_of(c) == (GP, 0)
    assert int(c.gpr[RCX]) == 7
