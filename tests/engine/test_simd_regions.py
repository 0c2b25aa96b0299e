"""SIMD in hot loops: what a region keeps in host registers is true wherever it is left."""

from __future__ import annotations

import functools
import struct

import pytest

from jitvm.bare import Bare, Stop
from tests.oracle import fx

CODE, DATA, COUNT = 0x1000, 0x8000, 100
ENGINES = ("plain", "handlers", "stencils", "regions")
SUM = bytes.fromhex(
    "f20f5803"  # again: addsd xmm0, [ebx]
    "660f58c8"  # addpd xmm1, xmm0
    "660ffed0"  # paddd xmm2, xmm0
    "f20f114308"  # movsd [ebx+8], xmm0
    "83c310"  # add ebx, 16
    "49"  # dec ecx
    "75e9"  # jnz again
    "f4"  # hlt
)
ROUNDING = bytes.fromhex(
    "0fae13"  # again: ldmxcsr [ebx]
    "f20f5ec1"  # divsd xmm0, xmm1
    "f20f58d0"  # addsd xmm2, xmm0
    "f20f1006"  # movsd xmm0, [esi]
    "83f304"  # xor ebx, 4
    "49"  # dec ecx
    "75eb"  # jnz again
    "f4"  # hlt
)


def start(engine: str, code: bytes, ecx: int, mxcsr: int = fx.MXCSR_RESET) -> Bare:
    """Flat 32-bit code at `CODE`, data at `DATA`."""
    m = Bare(engine=engine, memory=1 << 20)
    m.vcpu.set_cpu("max")
    m.set_mode("prot32")
    m.write(CODE, code)
    m.set_registers({"eip": CODE, "ebx": DATA, "esi": DATA + 8, "ecx": ecx, "cr4": 0x600})
    m.c.mxcsr = mxcsr
    m.c.xmm[:6] = struct.unpack("<6Q", struct.pack("<6d", 1.0, 2.0, 3.0, 4.0, 5.0, 6.0))
    return m


def state(m: Bare, stop: Stop) -> tuple[object, ...]:
    """Why it stopped, registers, XMM registers, MXCSR, and the data."""
    r = m.registers()
    data = bytes(m.ram[DATA : DATA + 16 * COUNT])
    return stop.reason, stop.fault, r["eip"], r["ebx"], r["ecx"], m.c.xmm[:6].tolist(), int(m.c.mxcsr), hash(data)


def filled(m: Bare, odd: dict[int, float]) -> Bare:
    """`COUNT` numbers to add up, those of `odd` among them."""
    for k in range(COUNT):
        m.write(DATA + 16 * k, struct.pack("<2d", odd.get(k, 0.1 * k), 0.0))
    return m


ODD: tuple[dict[int, float], ...] = ({}, {60: float("inf")}, {70: float("nan"), 71: 5e-324})
CONTROLS = (0x1F80, 0x1F00, 0x0F80, 0x7FC0, 0x1E80)


@functools.cache
def summed(engine: str, odd: int, mxcsr: int) -> tuple[object, ...]:
    """The loop's end."""
    m = filled(start(engine, SUM, COUNT, mxcsr), ODD[odd])
    stop = m.run(100_000)
    assert engine != "regions" or m.vcpu.regions.installed or stop.fault is not None
    return state(m, stop)


@pytest.mark.parametrize("engine", ENGINES[1:])
@pytest.mark.parametrize("odd", range(len(ODD)))
@pytest.mark.parametrize("mxcsr", CONTROLS)
def test_a_loop_leaves_the_same_state(engine: str, odd: int, mxcsr: int) -> None:
    """With exceptions masked and not; what is unmasked is raised in the very iteration."""
    assert summed(engine, odd, mxcsr) == summed("plain", odd, mxcsr)


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_a_loop_is_left_with_its_registers_at_any_count(engine: str) -> None:
    for n in (1, 301, 404):
        results = []
        for e in ("plain", engine):
            m = filled(start(e, SUM, COUNT), {})
            results.append(state(m, m.run(n)))
        assert results[1] == results[0], n


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_a_loop_ends_at_the_end_of_memory(engine: str) -> None:
    """The access that leaves finds the registers stored."""
    results = []
    for e in ("plain", engine):
        m = start(e, SUM, 5_000)
        m.set_registers({"ebx": (1 << 20) - 16 * COUNT})
        results.append(state(m, m.run(100_000)))
    assert results[0][0] == "mmio"
    assert results[1] == results[0]


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_rounding_changes_in_a_loop(engine: str) -> None:
    """LDMXCSR in each iteration: nearest and upward in turn."""
    results = []
    for e in ("plain", engine):
        m = start(e, ROUNDING, COUNT)
        m.write(DATA, struct.pack("<IId", 0x1F80, 0x5F80, 1.0))
        results.append(state(m, m.run(100_000)))
    assert results[0][0] == "hlt"
    assert results[1] == results[0]
