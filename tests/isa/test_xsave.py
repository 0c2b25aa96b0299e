"""What allows XSAVE and its relatives, XCR0, FSGSBASE, PCID and INVPCID: CR4, CPUID, privilege, pages, by the manual."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from jitvm.bare import Bare
from jitvm.isa.cpuid import MODELS
from tests.oracle import fx

ENGINES = ("plain", "handlers", "stencils")
CODE, DATA = 0x1000, 0x8000
TS = 1 << 3
OSFXSR, FSGSBASE, PCIDE, OSXSAVE = 1 << 9, 1 << 16, 1 << 17, 1 << 18
UD, NM, GP, PF = 6, 7, 13, 14
COMPACTED = 1 << 63
XGETBV, XSETBV = "0f01d0", "0f01d1"
AREA = {"xsave": "0fae23", "xsaveopt": "0fae33", "xsavec": "0fc723", "xrstor": "0fae2b"}
"""Operand [EBX], [RBX]."""
BASES = {
    "rdfsbase rax": "f3480faec0",
    "rdgsbase eax": "f30faec8",
    "wrfsbase rax": "f3480faed0",
    "wrgsbase eax": "f30faed8",
}
INVPCID = "660f388203"
"""INVPCID EAX, [EBX]; of 64-bit code RAX, [RBX]."""
TRIED = (XGETBV, XSETBV, INVPCID, *BASES.values())


def machine(
    engine: str = "handlers", mode: str = "long", cr0: int = 0, cr4: int = OSXSAVE | OSFXSR, **cpu: Any
) -> Bare:
    """Code of a mode with EBX at `DATA`, where there is an area with nothing in it, and all components enabled."""
    m = Bare(engine=engine, memory=1 << 20)
    m.vcpu.set_cpu("max", **cpu)
    m.set_mode(mode)
    have = m.registers()
    m.set_registers({"cr0": have["cr0"] | cr0, "cr4": have["cr4"] | cr4, "rbx": DATA, "rax": 3, "rdx": 0, "rcx": 0})
    m.c.xcr0 = m.c.xcr0 | 2 if cr4 & OSXSAVE else m.c.xcr0
    return m


def run(m: Bare, code: str, **registers: int) -> int | None:
    """The exception that one instruction raises."""
    m.write(CODE, bytes.fromhex(code))
    m.set_registers({"rip": CODE, **registers})
    fault = m.run(1).fault
    return None if fault is None else fault.vector


def header(m: Bare) -> tuple[int, ...]:
    """XSTATE_BV, XCOMP_BV and the other words of the area's header."""
    return struct.unpack("<8Q", m.read(DATA + 512, 64))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", ["prot16", "prot32", "long"])
def test_control_registers_allow_or_refuse(engine: str, mode: str) -> None:
    """SDM vol. 2: #UD without CR4.OSXSAVE, #NM under CR0.TS, which XGETBV and XSETBV do not mind."""
    codes = [*AREA.values()] if mode != "prot16" else ["0fae27", "0fae37", "0fc727", "0fae2f"]
    for cr0, cr4, wanted, register in (
        (0, OSXSAVE, None, None),
        (TS, OSXSAVE, NM, None),
        (TS, 0, UD, UD),
        (0, 0, UD, UD),
    ):
        m = machine(engine, mode, cr0, cr4)
        assert [run(m, code) for code in codes] == [wanted] * 4
        assert [run(m, code, rax=3, rdx=0, rcx=0) for code in (XGETBV, XSETBV)] == [register] * 2


@pytest.mark.parametrize("engine", ENGINES)
def test_xcr0(engine: str) -> None:
    """1 after a reset; x87 state stays enabled; only what there is can be."""
    m = machine(engine, cr4=0)
    m.set_registers({"cr4": m.registers()["cr4"] | OSXSAVE})
    assert run(m, XGETBV, rcx=0, rdx=7) is None
    assert (m.registers()["rax"], m.registers()["rdx"]) == (1, 0)
    for low, high, n, wanted in (
        (3, 0, 0, None),
        (0, 0, 0, GP),
        (2, 0, 0, GP),
        (7, 0, 0, GP),
        (1, 1, 0, GP),
        (3, 0, 1, GP),
    ):
        assert run(m, XSETBV, rax=low | 0xFF << 32, rdx=high, rcx=n | 0x100 << 32) == wanted
        assert int(m.c.xcr0) == 3
    assert run(m, XGETBV, rcx=2) == GP
    assert run(m, XSETBV, rax=1, rdx=0, rcx=0) is None
    assert int(m.c.xcr0) == 1


def test_xsetbv_is_privileged() -> None:
    """#GP(0) but at privilege level 0."""
    m = machine(mode="prot32")
    m.c.cpl = 3
    assert run(m, XSETBV) == GP
    assert int(m.c.xcr0) == 3


def put(m: Bare, **fields: Any) -> None:
    """x87 and SSE state by the fields of `fx.image`."""
    fx.put(m.c, fx.image(**fields))


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_in_its_initial_configuration_is_not_in_use(engine: str) -> None:
    """SDM vol. 1, 13.6: XINUSE, as XGETBV with ECX = 1 tells it, and XSTATE_BV; MXCSR counts for the former."""
    m = machine(engine)
    for fields, used, saved in (
        ({}, 0, 0),
        ({"xmm": [0] * 15 + [1 << 127]}, 2, 2),
        ({"mxcsr": 0x1F81}, 2, 0),
        ({"fcw": 0x27F}, 1, 1),
        ({"st": [1]}, 1, 1),
        ({"used": 1, "xmm": [1]}, 3, 3),
    ):
        put(m, **fields)
        assert run(m, XGETBV, rcx=1) is None
        assert m.registers()["rax"] == used, fields
        m.write(DATA, b"\xa5" * 512 + bytes(64))
        assert run(m, AREA["xsaveopt"], rax=3, rdx=0) is None
        assert header(m) == (saved, *(0,) * 7), fields
        written = m.read(DATA, 512)
        assert (written[:2] != b"\xa5\xa5", written[160:162] != b"\xa5\xa5") == (bool(saved & 1), bool(saved & 2))
        assert run(m, AREA["xsavec"], rax=3, rdx=0) is None
        assert header(m)[:2] == (used, COMPACTED | 3)
        assert run(m, AREA["xsave"], rax=3, rdx=0) is None
        assert header(m)[0] == saved


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_not_in_the_area_is_put_into_its_initial_configuration(engine: str) -> None:
    m = machine(engine)
    m.write(DATA, fx.image([7] * 16, 0x9FC0).ljust(512, b"\xff") + bytes(64))
    for xcomp, wanted in ((0, 0x9FC0), (COMPACTED | 3, 0x1F80)):
        put(m, xmm=[1] * 16, mxcsr=0x1FBF, st=[5], fcw=0x27F, used=1)
        m.write(DATA + 512, struct.pack("<2Q", 0, xcomp))
        assert run(m, AREA["xrstor"], rax=3, rdx=0) is None
        assert fx.take(m.c) == fx.image(mxcsr=wanted)


def test_components_that_xcr0_lacks_are_left_alone() -> None:
    m = machine()
    m.c.xcr0 = m.c.xcr0 & 1
    put(m, xmm=[9], used=1)
    m.write(DATA, bytes(576))
    assert run(m, AREA["xsave"], rax=3, rdx=0) is None
    assert header(m)[0] == 1
    assert m.read(DATA + 160, 16) == bytes(16)
    m.write(DATA + 512, struct.pack("<Q", 2))
    assert run(m, AREA["xrstor"], rax=1, rdx=0) == GP
    m.write(DATA + 512, struct.pack("<Q", 0))
    assert run(m, AREA["xrstor"], rax=3, rdx=0) is None
    assert (fx.xmm_of(fx.take(m.c), 0), int(m.c.fpu_used)) == (9, 0)


def test_an_area_without_the_compacted_format() -> None:
    """XCOMP_BV must be 0 for a processor that lacks XSAVEC; XGETBV knows XCR0 alone without its own feature."""
    m = machine(remove=["xsavec", "xgetbv1", "xsaveopt"])
    m.write(DATA + 512, struct.pack("<2Q", 0, COMPACTED | 3))
    assert run(m, AREA["xrstor"]) == GP
    assert run(m, XGETBV, rcx=1) == GP
    assert [run(m, AREA[name]) for name in ("xsavec", "xsaveopt", "xsave")] == [UD, UD, None]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_page_that_is_missing_behind_the_beginning(engine: str) -> None:
    """Nothing is stored or loaded when the header's page is not there."""
    m = machine(engine, mode="prot32", cr4=0)
    table, entries = 0x3000, 0x4000
    m.write(table, struct.pack("<I", entries | 3))
    m.write(entries, struct.pack("<256I", *(k << 12 | (3 if k != 9 else 0) for k in range(256))))
    m.set_registers({"cr3": table, "cr0": m.registers()["cr0"] | 1 << 31, "cr4": OSXSAVE | OSFXSR, "ebx": 0x8E00})
    m.c.xcr0 = m.c.xcr0 | 2
    put(m, xmm=[3], used=1)
    for code in AREA.values():
        assert run(m, code, eax=3, edx=0) == PF
        assert m.registers()["cr2"] == 0x9000
    assert m.read(0x8E00, 512) == bytes(512)
    assert fx.take(m.c) == fx.image([3], used=1)


# ---- bases of FS and GS -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("engine", ENGINES)
def test_bases(engine: str) -> None:
    """Read and written whole or by half; #GP(0) for what is not canonical; #UD without CR4.FSGSBASE and in 32-bit code."""
    m = machine(engine, cr4=FSGSBASE)
    assert run(m, BASES["wrfsbase rax"], rax=0x7F12_3456_789A) is None
    assert run(m, BASES["rdfsbase rax"], rax=0) is None
    assert m.registers()["rax"] == 0x7F12_3456_789A
    assert run(m, BASES["wrfsbase rax"], rax=0x8000_0000_0000) == GP
    assert m.registers()["fs_base"] == 0x7F12_3456_789A
    assert run(m, BASES["wrgsbase eax"], rax=0x8765_4321_8765_4321) is None
    assert m.registers()["gs_base"] == 0x8765_4321
    assert run(m, BASES["rdgsbase eax"], rax=(1 << 64) - 1) is None
    assert m.registers()["rax"] == 0x8765_4321
    for kept in (machine(engine, cr4=0), machine(engine, cr4=FSGSBASE, mode="prot32")):
        assert {run(kept, code.replace("48", "") if kept.c.cr4 & FSGSBASE else code) for code in BASES.values()} == {UD}


@pytest.mark.parametrize("engine", ENGINES)
def test_code_behind_sees_the_new_base(engine: str) -> None:
    """MOV RAX, FS:[0] in a loop: the base changes beneath it."""
    m = machine(engine, cr4=FSGSBASE)
    m.write(DATA, struct.pack("<64Q", *range(64)))
    # WRFSBASE RBX; ADD RAX, FS:[0]; ADD RBX, 8; LOOP; WRFSBASE RBX
    m.write(CODE, bytes.fromhex("f3480faed3 6448030425 00000000 4883c308 e2ec f3480faed3"))
    m.set_registers({"rip": CODE, "rax": 0, "rbx": DATA, "rcx": 64})
    m.run(64 * 4 + 1)
    assert m.registers()["rax"] == sum(range(64))
    assert m.registers()["fs_base"] == DATA + 64 * 8


# ---- PCID -------------------------------------------------------------------------------------------------------------
TABLES = 0x10000


def paged() -> Bare:
    """64-bit code; the page at `DATA` is mapped by an entry of its own."""
    m = machine(cr4=0)
    m.write(TABLES, struct.pack("<Q", TABLES + 0x1003).ljust(4096, b"\0") + struct.pack("<Q", TABLES + 0x2003))
    m.write(TABLES + 0x2000, struct.pack("<Q", TABLES + 0x3003))
    m.write(TABLES + 0x3000, struct.pack("<512Q", *(k << 12 | 3 for k in range(512))))
    assert run(m, "0f22d8", rax=TABLES) is None
    return m


def mov_cr4(m: Bare, v: int) -> int | None:
    """MOV CR4, RAX."""
    return run(m, "0f22e0", rax=v)


def test_pcide_can_be_set_with_pcid_0_alone() -> None:
    m = paged()
    cr4 = m.registers()["cr4"]
    assert run(m, "0f22d8", rax=TABLES | 0x18) is None  # PCD and PWT, without PCIDE
    assert mov_cr4(m, cr4 | PCIDE) == GP
    assert run(m, "0f22d8", rax=TABLES) is None
    assert run(m, "0f22d8", rax=TABLES | 1 << 63) == GP
    assert mov_cr4(m, cr4 | PCIDE) is None
    assert run(m, "0f22d8", rax=TABLES | 0xABC | 1 << 63) is None
    assert m.registers()["cr3"] == TABLES | 0xABC
    assert run(m, "0f22d8", rax=TABLES | 1 << 62) == GP
    assert mov_cr4(m, cr4) is None
    assert mov_cr4(machine(mode="prot32", cr4=0), PCIDE) == GP
    assert mov_cr4(machine(cr4=0, remove=["pcid"]), cr4 | PCIDE) == GP


def descriptor(m: Bare, pcid: int, address: int = 0) -> None:
    m.write(0x9000, struct.pack("<QQ", pcid, address))


def test_invpcid_forgets() -> None:
    """A page is mapped elsewhere: each type makes the new mapping seen."""
    load = "488b0425" + struct.pack("<I", DATA).hex()
    for kind in range(4):
        m = paged()
        m.write(DATA, struct.pack("<Q", 111))
        m.write(0xA000, struct.pack("<Q", 222))
        assert mov_cr4(m, m.registers()["cr4"] | PCIDE) is None
        assert run(m, load) is None
        m.write(TABLES + 0x3000 + 8 * (DATA >> 12), struct.pack("<Q", 0xA003))
        assert run(m, load) is None
        assert m.registers()["rax"] == 111
        descriptor(m, 0, DATA)
        assert run(m, INVPCID, rax=kind, rbx=0x9000) is None
        assert run(m, load) is None
        assert m.registers()["rax"] == 222, kind


def test_invpcid_refuses() -> None:
    """#GP(0): privilege, type, reserved bits, a PCID without PCIDE, an address that is not canonical."""
    m = paged()
    for kind, pcid, address, wanted in (
        (0, 0, 0, None), (4, 0, 0, GP), (1 << 32, 0, 0, GP), (2, 1 << 12, 0, GP), (0, 5, 0, GP),
        (1, 5, 0, GP), (2, 5, 0, None), (3, 5, 1 << 63, None), (0, 0, 1 << 63, GP), (1, 0, 1 << 63, None),
    ):  # fmt: skip
        descriptor(m, pcid, address)
        assert run(m, INVPCID, rax=kind, rbx=0x9000) == wanted, (kind, pcid, address)
    assert mov_cr4(m, m.registers()["cr4"] | PCIDE) is None
    descriptor(m, 5)
    assert run(m, INVPCID, rax=1, rbx=0x9000) is None
    user = machine(mode="prot32")
    user.c.cpl = 3
    assert run(user, INVPCID) == GP
    assert run(machine(remove=["invpcid"]), INVPCID) == UD


# ---- CPUID ------------------------------------------------------------------------------------------------------------
def test_cpuid_tells_of_it() -> None:
    """OSXSAVE as CR4 has it; leaf 0Dh; a CPU without XSAVE has neither."""
    m = machine(cr4=0)
    assert run(m, "0fa2", rax=1) is None
    assert m.registers()["rcx"] >> 26 & 3 == 1
    assert mov_cr4(m, m.registers()["cr4"] | OSXSAVE) is None
    assert run(m, "0fa2", rax=1) is None
    assert m.registers()["rcx"] >> 26 & 3 == 3
    answers = []
    for subleaf in range(3):
        assert run(m, "0fa2", rax=0xD, rcx=subleaf) is None
        after = m.registers()
        answers.append(tuple(after[name] for name in ("rax", "rbx", "rcx", "rdx")))
    assert answers == [(3, 576, 576, 0), (7, 576, 0, 0), (0, 0, 0, 0)]
    assert run(m, "0fa2", rax=0) is None
    assert m.registers()["rax"] == 0xD
    without = machine(cr4=0, remove=["xsave"])
    assert mov_cr4(without, without.registers()["cr4"] | OSXSAVE) == GP
    assert run(without, "0fa2", rax=0) is None
    assert without.registers()["rax"] == 0xB  # the topology
    assert int(without.c.features[6]) == 0


@pytest.mark.parametrize("model", [name for name in MODELS if name != "max"])
def test_no_older_model_has_them(model: str) -> None:
    """They came with Penryn and later: XSAVE (Sandy Bridge at the latest), FSGSBASE (Ivy Bridge), INVPCID (Haswell), PCID
    (Westmere), RDSEED and ADX (Broadwell)."""
    codes = [*AREA.values(), XGETBV, XSETBV, INVPCID, "0fc7f8", "660f38f6c1", "f30f38f6c1"]
    m = Bare(engine="handlers")
    m.vcpu.set_cpu(model)
    m.set_mode("prot32")
    for code in codes:
        assert run(m, code) == UD, code
    for bit in (FSGSBASE, PCIDE, OSXSAVE):
        assert run(m, "0f22e0", eax=bit) == GP
