"""What allows SIMD instructions and what their memory operands do: CR0, CR4, CPUID, pages, MMIO, MXCSR over time."""

from __future__ import annotations

import struct

import pytest

from jitvm.bare import Bare
from jitvm.engine import accel
from jitvm.errors import ConfigError
from jitvm.isa.cpuid import BUILT, is_announced
from tests.oracle import fx

ENGINES = ("plain", "handlers", "stencils", "pinned")
CODE, DATA = 0x1000, 0x8000
EM, MP, TS, PG = 1 << 2, 1 << 1, 1 << 3, 1 << 31
OSFXSR, OSXMMEXCPT = 1 << 9, 1 << 10
UD, NM, GP, PF, MF, XM = 6, 7, 13, 14, 16, 19
RAM = 1 << 20
SSE = {
    "addps xmm0, xmm1": "0f58c1",
    "movaps xmm0, [ebx]": "0f2803",
    "ldmxcsr [ebx]": "0fae13",
    "movd xmm0, eax": "660f6ec0",
}
MMX = {"paddb mm0, mm1": "0ffcc1", "emms": "0f77", "movq mm0, [ebx]": "0f6f03"}
FXSR = {"fxsave [ebx]": "0fae03", "fxrstor [ebx]": "0fae0b"}
FREE = {
    "movnti [ebx], eax": "0fc303",
    "mfence": "0faef0",
    "crc32 eax, ecx": "f20f38f1c1",
    "popcnt eax, ecx": "f30fb8c1",
}


def machine(engine: str, cr0: int = 0, cr4: int = OSFXSR | OSXMMEXCPT, cpu: str = "max", without: str = "") -> Bare:
    """Flat 32-bit code with EBX at `DATA`."""
    m = Bare(engine=engine, memory=RAM)
    m.vcpu.set_cpu(cpu, remove=[without] if without else [])
    m.set_mode("prot32")
    m.set_registers({"cr0": m.registers()["cr0"] | cr0, "cr4": cr4, "ebx": DATA})
    m.write(DATA, fx.image(range(1, 9), fx.MXCSR_RESET) + bytes(96))
    return m


def vector(m: Bare, code: str) -> int | None:
    """The exception that one instruction raises."""
    m.write(CODE, bytes.fromhex(code))
    m.set_registers({"eip": CODE})
    stop = m.run(1)
    return stop.fault.vector if stop.fault is not None else None


def wide(m: Bare, n: int) -> int:
    """XMM register n."""
    return int(m.c.xmm[2 * n]) | int(m.c.xmm[2 * n + 1]) << 64


@pytest.mark.parametrize("engine", ENGINES)
def test_control_registers_allow_or_refuse(engine: str) -> None:
    """SDM vol. 3, tables 2-2, 12-1 and 13-1."""
    rows = [
        (SSE, 0, OSFXSR, None), (SSE, EM, OSFXSR, UD), (SSE, TS, OSFXSR, NM), (SSE, 0, 0, UD), (SSE, TS, 0, UD),
        (MMX, 0, 0, None), (MMX, EM, 0, UD), (MMX, TS, 0, NM), (MMX, EM | TS, 0, UD),
        (FXSR, 0, 0, None), (FXSR, EM, 0, NM), (FXSR, TS, OSFXSR, NM),
        (FREE, EM | TS, 0, None),
    ]  # fmt: skip
    for codes, cr0, cr4, wanted in rows:
        m = machine(engine, cr0, cr4)
        for name, code in codes.items():
            assert vector(m, code) == wanted, (name, cr0, cr4)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_change_of_control_registers_is_seen_by_code_that_ran(engine: str) -> None:
    m = machine(engine)
    assert [vector(m, SSE["addps xmm0, xmm1"]) for _ in range(3)] == [None] * 3
    m.set_registers({"cr0": m.registers()["cr0"] | TS})
    assert vector(m, SSE["addps xmm0, xmm1"]) == NM
    m.set_registers({"cr0": m.registers()["cr0"] & ~TS, "cr4": 0})
    assert vector(m, SSE["addps xmm0, xmm1"]) == UD


FEATURES = {
    "mmx": "0ffcc1",
    "sse": "0f58c1",
    "sse2": "660f58c1",
    "sse3": "f20fd0c1",
    "ssse3": "660f3800c1",
    "sse4.1": "660f3810c1",
    "sse4.2": "660f3837c1",
    "popcnt": "f30fb8c1",
    "aes": "660f38dcc1",
    "pclmulqdq": "660f3a44c100",
    "fxsr": "0fae03",
    "clflush": "0fae3b",
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_that_is_not_announced_is_not_there(engine: str, feature: str) -> None:
    assert feature in BUILT
    assert vector(machine(engine), FEATURES[feature]) is None
    assert vector(machine(engine, without=feature), FEATURES[feature]) == UD


def test_a_host_without_an_instruction_does_not_announce_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "host_lacks", lambda names: frozenset({"aes", "pclmul"} & set(names)))
    m = Bare(engine="handlers", memory=RAM)
    m.vcpu.set_cpu("max")
    assert not is_announced(m.c.features, "aes")
    assert not is_announced(m.c.features, "pclmulqdq")
    assert is_announced(m.c.features, "sse4.2")
    with pytest.raises(ConfigError, match=r"aes.*this host"):
        m.vcpu.set_cpu("pentium3", add=["aes"])


@pytest.mark.parametrize("engine", ENGINES)
def test_mxcsr_lives_on_between_runs(engine: str) -> None:
    """Flags that were raised in one run are there in the next, and only the guest's own."""
    m = machine(engine)
    one, third = struct.pack("<f", 1.0) * 4, struct.pack("<f", 3.0) * 4
    for n, data in ((0, one), (1, third)):
        m.c.xmm[2 * n], m.c.xmm[2 * n + 1] = struct.unpack("<2Q", data)
    assert 1.0 / 3.0 != 0  # the host raises its own inexact flag
    assert vector(m, "0f28c0") is None  # movaps
    assert int(m.c.mxcsr) == 0x1F80
    assert vector(m, "0f5ec1") is None  # divps
    assert int(m.c.mxcsr) == 0x1FA0
    assert vector(m, "0fae1b") is None  # stmxcsr [ebx]
    assert m.read(DATA, 4) == struct.pack("<I", 0x1FA0)
    m.write(DATA, struct.pack("<I", 0x7F80))
    assert vector(m, "0fae13") is None  # ldmxcsr [ebx]: toward zero
    assert int(m.c.mxcsr) == 0x7F80
    m.c.xmm[0], m.c.xmm[1] = struct.unpack("<2Q", one)
    assert vector(m, "0f5ec1") is None
    assert wide(m, 0) & 0xFFFF_FFFF == 0x3EAA_AAAA
    m.write(DATA, struct.pack("<I", 0x1_0000))
    assert vector(m, "0fae13") == GP


@pytest.mark.parametrize("engine", ENGINES)
def test_an_unmasked_exception_is_xm_or_ud(engine: str) -> None:
    for cr4, wanted in ((OSFXSR | OSXMMEXCPT, XM), (OSFXSR, UD)):
        m = machine(engine, cr4=cr4)
        m.c.mxcsr = 0x1D80  # division by zero is not masked
        m.c.xmm[:4] = (0x3F80_0000, 0, 0, 0)
        assert vector(m, "f30f5ec1") == wanted  # divss xmm0, xmm1
        assert wide(m, 0) == 0x3F80_0000
        assert int(m.c.mxcsr) == 0x1D84


@pytest.mark.parametrize("engine", ENGINES)
def test_a_pending_x87_exception_comes_before_mmx(engine: str) -> None:
    m = machine(engine, cr0=1 << 5)  # CR0.NE
    m.c.fsw = 0x8081
    assert vector(m, "0f6f1d00000900") == MF  # movq mm3, [90000h]
    assert int(m.c.fsw) == 0x8081
    assert vector(m, "0f58c1") is None  # SSE does not look at it


def paged(engine: str, present: dict[int, int]) -> Bare:
    """Paging with 4 KiB pages, all where they are but those of `present` (page number to entry)."""
    m = machine(engine)
    directory, table = 0x40000, 0x41000
    m.write(directory, struct.pack("<I", table | 7))
    for page in range(256):
        m.write(table + 4 * page, struct.pack("<I", present.get(page, page << 12 | 7)))
    m.set_registers({"cr3": directory, "cr0": m.registers()["cr0"] | PG | 1 << 16})
    return m


@pytest.mark.parametrize("engine", ENGINES)
def test_operands_over_a_page_border(engine: str) -> None:
    """Both pages count; nothing is stored when one of them refuses; CR2 is the first byte that it refuses."""
    code = {"load": "0f1003", "store": "0f1103"}  # movups
    for present, load, store in (({}, None, None), ({9: 0}, PF, PF), ({8: 0}, PF, PF), ({9: 9 << 12 | 5}, None, PF)):
        m = paged(engine, present)
        m.write(0x8FF8, bytes(range(16)))
        m.c.xmm[2], m.c.xmm[3] = 0x1111, 0x2222
        m.set_registers({"ebx": 0x8FF8})
        assert vector(m, code["load"]) == load
        if load is None:
            assert wide(m, 0) == int.from_bytes(bytes(range(16)), "little")
        else:
            assert int(m.c.cr2) == (0x9000 if 9 in present else 0x8FF8)
        m.c.xmm[0], m.c.xmm[1] = 0x1111, 0x2222
        assert vector(m, code["store"]) == store
        wanted = struct.pack("<2Q", 0x1111, 0x2222) if store is None else bytes(range(16))
        assert m.read(0x8FF8, 16) == wanted


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_odd_is_refused_before_its_page_is_looked_at(engine: str) -> None:
    m = paged(engine, {8: 0})
    m.set_registers({"ebx": 0x8004})
    assert vector(m, "0f2803") == GP  # movaps
    assert vector(m, "0f1003") == PF  # movups
    assert vector(m, "660ffc03") == GP  # paddb xmm0, [ebx]
    assert vector(m, "0fae03") == GP  # fxsave


@pytest.mark.parametrize("engine", ENGINES)
def test_devices_see_two_accesses_of_eight_bytes(engine: str) -> None:
    """Beyond RAM: the instruction leaves for each, and is complete when both are answered."""
    m = machine(engine)
    m.set_registers({"ebx": RAM})
    m.write(CODE, bytes.fromhex("0f2803"))
    m.set_registers({"eip": CODE})
    seen = []
    for answer in (0x1122_3344_5566_7788, 0x99AA_BBCC_DDEE_FF00):
        stop = m.run(1)
        assert (stop.reason, stop.retired) == ("mmio", 0)
        seen.append((int(m.c.io_address), int(m.c.io_size), int(m.c.io_write)))
        n = int(m.c.io_n)
        m.c.io_value[n] = answer
        m.c.io_n = n + 1
    assert m.run(1).retired == 1
    assert seen == [(RAM, 8, 0), (RAM + 8, 8, 0)]
    assert wide(m, 0) == 0x99AA_BBCC_DDEE_FF00 << 64 | 0x1122_3344_5566_7788


@pytest.mark.parametrize("engine", ENGINES)
def test_fxsave_and_fxrstor_are_each_others_inverse(engine: str) -> None:
    m = machine(engine)
    st = [k << 64 | 0x8000_0000_0000_0000 + k for k in range(0x3FF8, 0x4000)]
    image = fx.image([k * 0x0123_4567_89AB_CDEF for k in range(8)], 0x3FBF, st=st, fsw=0x2800, used=0x5A)
    m.write(DATA, image.ljust(512, b"\xcc"))
    assert vector(m, FXSR["fxrstor [ebx]"]) is None
    assert int(m.c.mxcsr) == 0x3FBF
    m.set_registers({"ebx": DATA + 0x400})
    m.write(DATA + 0x400, b"\xcc" * 512)
    assert vector(m, FXSR["fxsave [ebx]"]) is None
    assert m.read(DATA + 0x400, 288) == image[:288]
    assert m.read(DATA + 0x400 + 464, 48) == b"\xcc" * 48


OM = 1 << 10


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("code", "inexact"), [("0f5ec4", 0), ("0f59c4", 0x20)])
def test_a_nan_in_another_lane_is_not_inexact(engine: str, code: str, inexact: int) -> None:
    """DIVPS, MULPS XMM0, XMM4 with overflow unmasked: lane 0 overflows with a result that is exact, or not, but for its
    exponent; the others have a NaN or an infinity beside a number, which rounds nothing (as on silicon)."""
    m = machine(engine)
    lanes = {"0f5ec4": (0x7F65_0000, 0x0080_0000), "0f59c4": (0x7F65_0001, 0x7F00_0003)}[code]
    xmm0 = [lanes[0], 0x51AE_672D, 0x7FC0_0000, 0x7F80_0000]
    xmm4 = [lanes[1], 0x7FC0_0001, 0x3F80_0001, 0x51AE_672D]
    values = [sum(v << 32 * k for k, v in enumerate(x)) for x in (xmm0, xmm4)]
    fx.put(m.c, fx.image([values[0], 0, 0, 0, values[1]], 0x1F80 & ~OM))
    assert vector(m, code) == XM
    assert int(m.c.mxcsr) & 0x3F == 0x08 | inexact


@pytest.mark.parametrize("engine", ENGINES)
def test_a_conversion_does_not_look_at_the_old_destination(engine: str) -> None:
    """CVTSD2SS XMM0, XMM4: the NaN in XMM0 is not part of it; the overflow is inexact."""
    m = machine(engine)
    fx.put(m.c, fx.image([0x7FF8 << 48, 0, 0, 0, 0x7FDF_FFFF_FFFF_FFFF], 0x1F80 & ~OM))
    assert vector(m, "f20f5ac4") == XM
    assert int(m.c.mxcsr) & 0x3F == 0x28
