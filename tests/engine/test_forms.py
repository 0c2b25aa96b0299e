"""Forms: what an encoding is taken for does not depend on which of its instances is met first."""

from __future__ import annotations

import struct

import pytest

from jitvm.bare import Bare, accelerator
from jitvm.engine import layout as lay
from jitvm.engine.tables import Tables
from tests.engine.guest import CODE, Guest, same
from tests.engine.programs import loaded, program

PAGE_END = CODE + 0x1000
SPLIT = {
    "add byte ptr [disp32], imm8": (b"\x80\x05" + struct.pack("<I", 0x9000) + b"\x01", range(1, 7)),
    "mov dword ptr [disp32], imm32": (b"\xc7\x05" + struct.pack("<II", 0x9000, 5), range(1, 10)),
    "add eax, imm32": (b"\x05" + struct.pack("<I", 5), range(1, 5)),
    "jmp rel32": (b"\xe9" + struct.pack("<i", -0x800), range(1, 5)),
    "call far": (b"\x9a" + struct.pack("<IH", 0x1234, 0x3), range(1, 7)),
    "enter": (b"\xc8\x08\x00\x01", range(1, 4)),
    "shld": (b"\x0f\xa4\x05" + struct.pack("<I", 0x9000) + b"\x04", range(1, 8)),
    "jz rel32": (b"\x0f\x84" + struct.pack("<i", 0x800), range(1, 6)),
    "mov eax, moffs": (b"\xa1" + struct.pack("<I", 0x9000), range(1, 5)),
}


def forget_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty tables, until the end of the test."""
    monkeypatch.setattr(accelerator().met, "known", {})
    monkeypatch.setattr(accelerator(), "tables", Tables())
    monkeypatch.setattr(accelerator(), "_handlers", {})  # the other tables must be told of what is made here


@pytest.fixture(autouse=True)
def no_forms_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has met nothing yet."""
    forget_forms(monkeypatch)


def result(engine: str, code: bytes, at: int) -> tuple[str, dict[str, int]]:
    guest = Guest(engine)
    guest.bare.write(at, code)
    guest.registers(eip=at)
    why = guest.go(1)
    return why, guest.bare.registers() | {name: guest.bare.registers()[name] - at for name in ("eip", "rip")}


@pytest.mark.parametrize("engine", ["plain", "handlers"])
@pytest.mark.parametrize("name", SPLIT)
def test_first_met_over_a_page_border(engine: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The translator asks for the form when the immediate's bytes are not all there."""
    code, cuts = SPLIT[name]
    whole = result(engine, code, CODE)
    for cut in cuts:
        forget_forms(monkeypatch)
        assert result(engine, code, PAGE_END - cut) == whole, f"{cut} bytes in the first page"


@pytest.mark.parametrize("engine", ["plain", "handlers"])
@pytest.mark.parametrize(
    ("prefixes", "code"),
    [
        (b"\x3e" * 15, b"\x40"),
        (b"\x3e" * 40, b"\x40"),
        (b"\x66\x67\x2e\xf2\xf0", b"\x81\x04\x05" + struct.pack("<II", 0x9000, 5)),
    ],
)
def test_first_met_too_long(engine: str, prefixes: bytes, code: bytes) -> None:
    """#GP(0) for the long one; it says nothing about the short one."""
    if len(prefixes) + len(code) > 15:
        assert result(engine, prefixes + code, CODE)[0] == "fault 13 0"
    guest = Guest(engine)
    guest.bare.write(CODE, prefixes + code + bytes(16))
    guest.registers(eip=CODE)
    guest.go(1)
    guest.bare.write(CODE, code)
    guest.registers(eip=CODE, eax=7)
    assert guest.go(1) == "limit"
    assert guest.bare.registers()["eip"] == CODE + len(code)
    assert guest.bare.registers()["eax"] == (8 if code == b"\x40" else 7)


@pytest.mark.parametrize("engine", ["plain", "handlers"])
@pytest.mark.parametrize(
    "code",
    [
        "f0 83 c3 00",  # LOCK add ebx, 0
        "f0 05 11 22",  # LOCK add ax, imm16
        "f0 e9 11 22",  # LOCK jmp rel16
        "f0 9a 11 22 33 44",  # LOCK call ptr16:16
        "f0 c8 11 22 33",  # LOCK enter imm16, imm8
        "c6 c8 11",  # C6 /1 ib
        "c7 c8 11 22",  # C7 /1 iw
        "0f ba c0 11",  # 0F BA /0 ib
        "f0 0f ba c0 11",
        "8f c8",  # 8F /1
        "0f 0b",
    ],
)
def test_an_undefined_instruction_has_a_length(engine: str, code: str) -> None:
    """The length limit goes before #UD and counts the immediate (this host's CPU does the same with each of these)."""
    data = bytes.fromhex(code)
    lock = data[:1] if data[0] == 0xF0 else b""
    for size, fault in ((15, "fault 6 None"), (16, "fault 13 0")):
        prefixes = b"\x66" * (size - len(data))
        assert result(engine, lock + prefixes + data[len(lock) :], CODE)[0] == fault, size


@pytest.mark.parametrize("n", [70, 80])
def test_more_forms_and_handlers_than_there_is_room_for(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables that are full are emptied: what was translated stays, what is needed again is entered again."""
    source = program(5, 32, 40)
    plain = loaded("plain", source, 32)
    assert plain.go(50_000) == "hlt"
    assert int(plain.c.n_forms) > n
    monkeypatch.setattr(lay, "N_FORMS", n)
    monkeypatch.setattr(lay, "N_HANDLERS", n)
    guest = loaded("handlers", source, 32)
    assert guest.go(50_000) == "hlt"
    assert int(guest.c.n_forms) <= n
    same(guest.state(), plain.state(), "small tables")


@pytest.mark.parametrize("engine", ["plain", "handlers", "stencils", "regions"])
def test_f3_before_bsf_and_bsr_is_nothing_to_an_older_cpu(engine: str) -> None:
    """TZCNT and LZCNT are BSF and BSR without their features (SDM vol. 2): Linux says REP BSF on every CPU."""
    bare = Bare(engine)
    bare.vcpu.set_cpu("pentiumpro")
    bare.set_mode("prot32")
    bare.write(0x1000, bytes.fromhex("f30fbcc3 f30fbdcb f4"))
    for source, lowest, highest in ((0x00F0_0000, 20, 23), (0, 0x1111, 0x2222)):
        bare.set_registers({"eip": 0x1000, "ebx": source, "eax": 0x1111, "ecx": 0x2222})
        assert bare.run(10).reason == "hlt"
        assert (bare.registers()["eax"], bare.registers()["ecx"]) == (lowest, highest)
