"""The bare CPU as a caller sees it: modes, registers, memory, why a run ended, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from jitvm.bare import ENGINES, HIGH, Bare, Fault, Stop
from jitvm.errors import ConfigError

CODE = 0x1000
ADD, DIV_BY_0, HLT = "01 d8", "31 c9 f7 f1", "f4"
PUSH_EAX_MMIO = "ff 35 00 00 00 f0"


def bare(engine: str, code: str, mode: str = "prot32", **registers: int) -> Bare:
    made = Bare(engine=engine)
    made.set_mode(mode)
    made.write(CODE, bytes.fromhex(code))
    made.set_registers({"eip": CODE, **registers})
    return made


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_gives_the_state_and_why_it_stopped(engine: str) -> None:
    cpu = bare(engine, f"{ADD} {HLT}", eax=1, ebx=2)
    assert cpu.run(1) == Stop("limit", 1)
    assert (cpu.registers()["eax"], cpu.registers()["eip"]) == (3, CODE + 2)
    assert cpu.run(10) == Stop("hlt", 1)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("code", "stop"),
    [
        (DIV_BY_0, Stop("fault", 1, Fault(0, None, None))),
        ("0f 0b", Stop("fault", 0, Fault(6, None, None))),
        ("8e d8", Stop("fault", 0, Fault(13, 0x1234, None))),
        ("cd 21", Stop("fault", 0, Fault(0x21, None, None))),
        (PUSH_EAX_MMIO, Stop("mmio", 0)),
        ("e4 60", Stop("io", 0)),
    ],
)
def test_a_fault_is_returned_with_its_error_code(engine: str, code: str, stop: Stop) -> None:
    cpu = bare(engine, code, eax=0x1234, esp=0x8000)
    assert cpu.run(10) == stop


@pytest.mark.parametrize(
    ("mode", "code", "ax"),
    [
        ("real", "b8 34 12 90 90", 0x1234),
        ("prot16", "b8 34 12", 0x1234),
        ("prot32", "66 b8 34 12", 0x1234),
        ("long", "48 b8 34 12 00 00 01 00 00 00", 0x1234),
    ],
)
def test_a_mode_is_how_code_is_read(mode: str, code: str, ax: int) -> None:
    cpu = bare("handlers", code, mode)
    assert cpu.run(1) == Stop("limit", 1)
    assert cpu.registers()["eax"] == ax


@pytest.mark.parametrize("engine", ENGINES)
def test_64_bit_mode_has_its_page_tables_in_ram(engine: str) -> None:
    """RAM at 0 and again at HIGH; what is not canonical is #GP, of the stack #SS; beyond the tables' reach #PF."""
    code = "48 8b 03 49 89 07"  # mov rax, [rbx]; mov [r15], rax
    cpu = bare(engine, code, "long", rbx=HIGH + 0x2000, r15=0x3000, rsp=0x8000)
    cpu.write(0x2000, bytes(range(1, 9)))
    assert cpu.run(2) == Stop("limit", 2)
    assert cpu.registers()["rax"] == 0x0807_0605_0403_0201
    assert cpu.read(0x3000, 8) == bytes(range(1, 9))
    tables = cpu.registers()["cr3"]
    assert tables == (1 << 20) - 3 * 0x1000
    for rbx, fault in (
        (1 << 47, Fault(13, 0, None)),
        ((1 << 47) - 4, Fault(13, 0, None)),
        (1 << 30, Fault(14, 0, 1 << 30)),
        (HIGH + (1 << 30), Fault(14, 0, HIGH + (1 << 30))),
    ):
        assert bare(engine, code, "long", rbx=rbx).run(1) == Stop("fault", 0, fault), hex(rbx)
    assert bare(engine, "50", "long", rsp=1 << 63).run(1) == Stop("fault", 0, Fault(12, 0, None))


def test_segments_have_a_base_and_a_limit() -> None:
    cpu = Bare()
    cpu.set_mode("prot32", base=0x2000, limit=0xFFF)
    cpu.write(0x2000, bytes.fromhex("a1 fc 0f 00 00 a1 fd 0f 00 00"))
    cpu.write(0x2FFC, (99).to_bytes(4, "little"))
    assert cpu.run(10) == Stop("fault", 1, Fault(13, 0, None))
    assert cpu.registers()["eax"] == 99


def test_memory_is_an_array_of_bytes() -> None:
    cpu = Bare(memory=1 << 16)
    assert cpu.ram.shape == (1 << 16,) and cpu.ram.dtype == np.uint8
    cpu.write(0xFFFE, b"abc")
    assert bytes(cpu.ram[-2:]) == b"ab"
    assert cpu.read(0xFFFE, 4) == b"ab\xff\xff"


def test_negative_numbers_are_twos_complement() -> None:
    cpu = bare("handlers", ADD, eax=-1, ebx=-2)
    cpu.run(1)
    assert cpu.registers()["eax"] == 0xFFFF_FFFD


@pytest.mark.parametrize("engine", ["plain", "handlers"])
def test_a_run_may_be_as_long_as_one_likes(engine: str) -> None:
    assert bare(engine, HLT).run(1 << 70) == Stop("hlt", 1)
    assert bare(engine, HLT).run(0) == Stop("limit", 0)
    with pytest.raises(ConfigError, match="-1 instructions"):
        bare(engine, HLT).run(-1)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"r16": 1}, "register 'r16' can't be set"),
        ({"efer": 1}, "register 'efer' can't be set"),
        ({"cs": 8}, "register 'cs' can't be set"),
        ({"eip": 1 << 32}, "'eip' has 32 bits; 0x100000000 does not fit"),
        ({"cr0": -(1 << 31) - 1}, "'cr0' has 32 bits"),
        ({"r8": 1 << 64}, "'r8' has 64 bits"),
    ],
)
def test_bad_registers_change_nothing(values: dict[str, int], words: str) -> None:
    cpu = bare("handlers", ADD)
    before = cpu.registers()
    with pytest.raises(ConfigError, match=words):
        cpu.set_registers({"ebx": 77, **values})
    assert cpu.registers() == before


def test_registers_have_64_bits_and_lower_halves() -> None:
    cpu = Bare()
    cpu.set_registers({"rax": -2, "r15": 1 << 63, "fs_base": 0x7FFF_FFFF_F000, "rsp": 0x1_2345_6789})
    seen = cpu.registers()
    assert (seen["rax"], seen["eax"], seen["r15"]) == ((1 << 64) - 2, (1 << 32) - 2, 1 << 63)
    assert (seen["fs_base"], seen["esp"]) == (0x7FFF_FFFF_F000, 0x2345_6789)
    cpu.set_registers({"eax": 1, "eip": -1})
    assert (cpu.registers()["rax"], cpu.registers()["rip"]) == (1, 0xFFFF_FFFF)


@pytest.mark.parametrize("size", [0, -4096, 100, 8 << 30])
def test_memory_that_can_not_be_is_refused(size: int) -> None:
    with pytest.raises(ConfigError):
        Bare(memory=size)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="engine 'warp' is unknown; there are plain, handlers"):
        Bare(engine="warp")
    with pytest.raises(ConfigError, match="mode 'vm86' is unknown; there are real"):
        Bare().set_mode("vm86")
    with pytest.raises(ConfigError, match="mode 'long' needs 16384 bytes of RAM"):
        Bare(memory=0x3000).set_mode("long")
    with pytest.raises(ConfigError, match="base -0x1"):
        Bare().set_mode("real", base=-1)
    with pytest.raises(ConfigError, match="limit 0x100000000"):
        Bare().set_mode("real", limit=1 << 32)
