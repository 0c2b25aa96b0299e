"""Virtual-8086 mode by IOPL and VME, protected-mode virtual interrupts, and the I/O permission map, on all engines.

Source: Intel SDM vol. 3, 20.3 (table 20-2), 20.4; vol. 1, 19.5.2 (I/O map); vol. 2, CLI, STI, PUSHF, POPF, IRET, INT n.
"""

from __future__ import annotations

import struct

import pytest

from jitvm.isa.cpuid import cpuid_table, feature_words
from tests.engine.guest import same
from tests.engine.task_guest import CODE0, CODE3, DATA0, DATA3, ENGINES, OLD, TaskGuest, guest_of

CF, TF, IF, DF, IOPL, NT, VM = 1, 0x100, 0x200, 0x400, 0x3000, 0x4000, 0x20000
VIF, VIP = 1 << 19, 1 << 20
VME, PVI = 1, 2
MAP = 0x88
"""Offset of the I/O map, behind 32 bytes of redirection bitmap."""
IP, SP, BASE = 0x100, 0x800, 0x8000
HANDLER, OWN, RING0 = 0x3000, 0x40, 0x1C000


def in_v86(engine: str, flags: int, *, cr4: int = VME, code: bytes = b"", stack: bytes = b"") -> TaskGuest:
    """A virtual-8086 program at 800:100 with a monitor whose handlers halt at HANDLER + 16 * vector; SS is 900."""
    guest = guest_of(engine, deliver=True)
    c = guest.c
    c.features[:] = feature_words(cpuid_table("pentium"))
    for vector in range(64):
        guest.set_gate(vector, HANDLER + 0x10 * vector | CODE0 << 16 | 0xEE << 40)
        guest.bare.write(HANDLER + 0x10 * vector, b"\xf4")
    guest.bare.write(OLD + 4, struct.pack("<II", RING0, DATA0))
    guest.bare.write(OLD + 0x66, struct.pack("<H", MAP))
    guest.bare.write(OLD + MAP - 32, b"\0" * 32 + b"\0" * 0x20 + b"\xff")
    c.limit[7] = MAP + 0x20
    guest.bare.write(4 * 0x21, struct.pack("<HH", OWN, 0x700))
    c.cr4 = cr4
    c.cpl, c.rflags = 3, 2 | VM
    for seg, selector in enumerate((0x111, 0x800, 0x900, 0x333, 0x444, 0x555)):
        c.sel[seg], c.base[seg], c.limit[seg], c.attr[seg] = selector, selector << 4, 0xFFFF, 0xF3
    guest.update()
    guest.bare.write(BASE + IP, code)
    guest.bare.write(0x9000 + SP, stack)
    guest.registers(eip=IP, esp=SP, eflags=2 | VM | flags)
    assert guest.state()["eflags"] == 2 | VM | flags
    return guest


def monitor(guest: TaskGuest, vector: int) -> int | None:
    """The EFLAGS image that the monitor got with this exception or interrupt; None: it did not come."""
    if guest.state()["rip"] != HANDLER + 0x10 * vector:
        return None
    n = 4 * (10 if vector == 13 else 9)
    words = struct.unpack("<10I", guest.bare.read(RING0 - 40, 40))
    assert int(guest.c.gpr[4]) == RING0 - n
    frame = words[-9:]
    assert (frame[1], frame[3], frame[4]) == (0x800, SP, 0x900)
    if vector == 13:
        assert (words[0], frame[0]) == (0, IP)
    return int(frame[2])


STEPS = [
    # code, FLAGS, CR4, EFLAGS after it (None: #GP(0))
    (b"\xfa", IF, 0, None),
    (b"\xfb", 0, 0, None),
    (b"\xfa", IF | IOPL, 0, IOPL),
    (b"\xfb", IOPL, 0, IF | IOPL),
    (b"\xfa", IF | VIF, VME, IF),
    (b"\xfb", IF, VME, IF | VIF),
    (b"\xfb", IF | VIP, VME, None),
    (b"\xfa", IF | VIP | VIF, VME, IF | VIP),
    (b"\xfa", IF | VIF | IOPL, VME, VIF | IOPL),
    (b"\xfb", IOPL | VIP, VME, IF | IOPL | VIP),
    (b"\x9c", IF, 0, None),
    (b"\x9d", IF, 0, None),
    (b"\xcf", IF, 0, None),
    (b"\x66\x9c", IF, VME, None),
    (b"\x66\x9d", IF, VME, None),
    (b"\x66\xcf", IF, VME, None),
]


@pytest.mark.parametrize(("code", "flags", "cr4", "after"), STEPS)
def test_flags_of_the_monitor_and_the_program(code: bytes, flags: int, cr4: int, after: int | None) -> None:
    for engine in ENGINES:
        guest = in_v86(engine, flags, cr4=cr4, code=code)
        assert guest.go(1) == "limit"
        if after is None:
            assert monitor(guest, 13) == 2 | VM | flags | 0x10000
        else:
            assert guest.state()["eflags"] == 2 | VM | after


@pytest.mark.parametrize(("vif", "seen"), [(0, 0), (VIF, IF)])
def test_pushf_shows_vif(vif: int, seen: int) -> None:
    for engine in ENGINES:
        guest = in_v86(engine, IF | NT | vif | CF, code=b"\x9c")
        assert guest.go(1) == "limit"
        assert int(guest.c.gpr[4]) == SP - 2
        assert guest.bare.read(0x9000 + SP - 2, 2) == struct.pack("<H", 2 | NT | IOPL | CF | seen)


@pytest.mark.parametrize("code", [b"\x9d", b"\xcf"])
@pytest.mark.parametrize(
    ("flags", "image", "after"),
    [
        (IF, 0xFFFF & ~TF, IF | VIF | NT | DF | 0x8D5),
        (IF | VIF | CF, 0, IF),
        (0, IF, VIF),
        (VIP, IF, None),
        (VIP | VIF, DF, VIP | DF),
        (IF, TF, None),
    ],
)
def test_popf_and_iret_write_vif(code: bytes, flags: int, image: int, after: int | None) -> None:
    iret = code == b"\xcf"
    stack = struct.pack("<HHH", 0x1234, 0x700, image) if iret else struct.pack("<H", image)
    for engine in ENGINES:
        guest = in_v86(engine, flags, code=code, stack=stack)
        assert guest.go(1) == "limit"
        if after is None:
            assert monitor(guest, 13) == 2 | VM | flags | 0x10000
            continue
        now = guest.state()
        assert now["eflags"] == 2 | VM | after
        assert (now["rip"], now["sel"][1]) == ((0x1234, 0x700) if iret else (IP + 1, 0x800))
        assert now["gpr"][4] == SP + len(stack)


@pytest.mark.parametrize(
    ("cr4", "iopl", "bit", "where"),
    [
        (0, IOPL, 0, "monitor"),  # method 1
        (0, IOPL, 1, "monitor"),
        (0, 0, 0, "fault"),  # method 2
        (VME, 0, 1, "fault"),  # method 3
        (VME, IOPL, 1, "monitor"),  # method 4
        (VME, IOPL, 0, "own"),  # method 5
        (VME, 0, 0, "own"),  # method 6
    ],
)
@pytest.mark.parametrize("vif", [0, VIF])
def test_methods_of_int(cr4: int, iopl: int, bit: int, where: str, vif: int) -> None:
    flags = iopl | IF | vif | NT | CF
    states = []
    for engine in ENGINES:
        guest = in_v86(engine, flags, cr4=cr4, code=b"\xcd\x21")
        guest.bare.write(OLD + MAP - 32 + 4, bytes([bit << 1]))
        assert guest.go(1) == "limit"
        if where == "own":
            now = guest.state()
            assert (now["rip"], now["sel"][1], now["gpr"][4]) == (OWN, 0x700, SP - 6)
            image = 2 | NT | CF | IOPL | (IF if iopl or vif else 0)
            assert guest.bare.read(0x9000 + SP - 6, 6) == struct.pack("<HHH", IP + 2, 0x800, image)
            assert now["eflags"] == 2 | VM | flags & ~(IF if iopl else VIF)
        else:
            rf = 0x10000 if where == "fault" else 0
            assert monitor(guest, 13 if rf else 0x21) == 2 | VM | flags | rf
        states.append(guest.state())
    for state in states[1:]:
        same(state, states[0], where)


@pytest.mark.parametrize("code", [b"\xcc", b"\xf1"])
def test_int3_and_int1_are_not_redirected(code: bytes) -> None:
    for engine in ENGINES:
        guest = in_v86(engine, 0, code=code)
        assert guest.go(1) == "limit"
        assert monitor(guest, 3 if code == b"\xcc" else 1) == 2 | VM


@pytest.mark.parametrize(("limit", "base"), [(0x66, MAP), (MAP - 2, MAP), (0x100, 0x1F)])
def test_a_tss_without_bitmap(limit: int, base: int) -> None:
    for engine in ENGINES:
        guest = in_v86(engine, IOPL, code=b"\xcd\x21")
        guest.c.limit[7] = limit
        guest.bare.write(OLD + 0x66, struct.pack("<H", base))
        assert guest.go(1) == "limit"
        assert monitor(guest, 13) == 2 | VM | IOPL | 0x10000


# ---- protected mode ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("code", "flags", "cr4", "after"),
    [
        (b"\xfa", IF | VIF, 0, None),
        (b"\xfa", IF | VIF, VME, None),
        (b"\xfa", IF | VIF, PVI, IF),
        (b"\xfb", IF, PVI, IF | VIF),
        (b"\xfb", IF | VIP, PVI, None),
        (b"\xfa", IF | IOPL, PVI, IOPL),
        (b"\xfb", IOPL, PVI, IF | IOPL),
    ],
)
@pytest.mark.parametrize("cpl", [3, 1])
def test_protected_mode_virtual_interrupts(code: bytes, flags: int, cr4: int, after: int | None, cpl: int) -> None:
    for engine in ENGINES:
        guest = in_v86(engine, 0, cr4=cr4)
        c = guest.c
        c.cpl, c.rflags = cpl, 2
        for seg in range(6):
            c.sel[seg], c.base[seg], c.limit[seg], c.attr[seg] = DATA3, 0, 0xFFFFFFFF, 0xC0F3
        c.sel[1], c.attr[1] = CODE3, 0xC0FB
        guest.update()
        guest.bare.write(0x2000, code)
        guest.registers(eip=0x2000, eflags=2 | flags)
        assert guest.go(1) == "limit"
        if after is None or (cpl == 1 and not flags & IOPL):
            assert guest.state()["rip"] == HANDLER + 0x10 * 13
        else:
            assert guest.state()["eflags"] == 2 | after


def test_iretd_at_level_0_sets_the_virtual_flags() -> None:
    for engine in ENGINES:
        for model, flags in (("pentium", VIF | VIP), ("486", 0)):
            guest = guest_of(engine)
            guest.c.features[:] = feature_words(cpuid_table(model))
            guest.bare.write(0x1E000, struct.pack("<III", 0x2000, CODE0, 0x180002))
            guest.load("iretd")
            assert guest.go(1) == "limit"
            assert guest.state()["eflags"] == 2 | flags


def test_cr4_bits_need_the_feature() -> None:
    for engine in ENGINES:
        for model, end in (("pentium", "limit"), ("486", "fault 13 0")):
            guest = guest_of(engine)
            guest.c.features[:] = feature_words(cpuid_table(model))
            guest.load("mov eax, 3\n mov cr4, eax")
            assert guest.go(2) == end


# ---- I/O map ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("port", "size", "allowed"),
    [
        *((0x0F, 1, True), (0x10, 1, False), (0x0F, 2, False), (0x0E, 2, True), (0x0D, 4, False), (0x1F, 1, True)),
        *((0xF8, 4, True), (0xFF, 1, True), (0xFF, 2, False), (0x100, 1, False), (0xFFFF, 1, False)),
    ],
)
@pytest.mark.parametrize("iopl", [0, IOPL])
def test_io_map_holds_in_v86_mode_whatever_iopl(port: int, size: int, allowed: bool, iopl: int) -> None:
    for engine in ENGINES:
        code = {1: b"\xec", 2: b"\xed", 4: b"\x66\xed"}[size]
        guest = in_v86(engine, iopl, code=code)
        guest.bare.write(OLD + MAP + 2, b"\x01")
        guest.registers(edx=port)
        assert guest.go(1) == "limit"
        if allowed:
            assert [(a.address, a.size) for a in guest.device.seen] == [(port, size)]
        else:
            assert monitor(guest, 13) is not None and not guest.device.seen
