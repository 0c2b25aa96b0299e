"""Hardware task switches on all engines.

Source: Intel SDM vol. 3, 7.3 (what is saved and loaded, table 7-1: checks), 7.4 (table 7-2: busy, NT, link), 7.6 (16-bit
TSS), 17.3.1.5 (T bit), 6.13 (EXT).
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.guest import CODE, GDT, same
from tests.engine.task_guest import (
    CODE0,
    CODE3,
    DATA0,
    DATA3,
    ENGINES,
    GATE,
    GDT_LIMIT,
    IF,
    LDT_SEL,
    LOCAL_CODE,
    LOCAL_DATA,
    NAMES_32,
    NEW,
    NEW_CODE,
    NEW_SEL,
    NT,
    OLD,
    OLD_SEL,
    REGISTERS,
    SELECTORS,
    SPARE,
    STACK,
    VECTOR,
    VM,
    TaskGuest,
    descriptor,
    guest_of,
)

BYS = ("jmp", "call", "gate-jmp", "gate-call", "int", "iret")
NESTING = ("call", "gate-call", "int")
TS, NP, SS, GP, PF, DB = 10, 11, 12, 13, 14, 1


@pytest.mark.parametrize("old_wide", [True, False])
@pytest.mark.parametrize("new_wide", [True, False])
@pytest.mark.parametrize("by", BYS)
def test_what_a_switch_does(by: str, new_wide: bool, old_wide: bool) -> None:
    states = []
    for engine in ENGINES:
        guest = guest_of(engine, old_wide=old_wide, new_wide=new_wide, deliver=True)
        guest.c.dr[7] = 0x7FF
        guest.registers(eflags=0x8D7)
        assert guest.switch(by) == "limit"
        old = guest.before
        saved = [guest.look(OLD, old_wide, name) for name in NAMES_32]
        m = 0xFFFFFFFF if old_wide else 0xFFFF
        eflags = 2 if by == "iret" else 0x8D7
        assert saved == [CODE + guest.code_size, eflags, *(v & m for v in old["gpr"][:8])]
        n = 6 if old_wide else 4
        assert [guest.look(OLD, old_wide, name) for name in SELECTORS[:n]] == old["sel"][:n]
        upper = 0 if new_wide else 0xFFFF0000
        low = 0xFFFFFFFF if new_wide else 0xFFFF
        wanted = [REGISTERS[name] & low | upper for name in NAMES_32[2:]]
        assert [int(v) for v in guest.c.gpr[:8]] == wanted
        nested = by in NESTING
        now = guest.state()
        assert (now["rip"], now["eflags"]) == (NEW_CODE, 2 | NT * nested)
        assert guest.selectors() == [DATA0, CODE0, DATA0, DATA0, 0, 0, 0, NEW_SEL]
        assert guest.look(NEW, new_wide, "link") == (OLD_SEL if nested else 0)
        assert (guest.busy(OLD_SEL), guest.busy(NEW_SEL)) == (nested, True)
        assert now["attr"][7] == (0x8B if new_wide else 0x83)
        assert now["cr0"] & 8 and now["dr"][7] == 0x7FF & ~0x155
        assert now["cr3"] == 0
        states.append(now)
    for state in states[1:]:
        same(state, states[0], by)


@pytest.mark.parametrize("wide", [True, False])
def test_call_and_return(wide: bool) -> None:
    for engine in ENGINES:
        guest = guest_of(engine, new_wide=wide)
        guest.bare.write(NEW_CODE, b"\x40\xcf\x40\xcf" if wide else b"\x66\x40\xcf\x66\x40\xcf")
        assert guest.switch("call") == "limit"
        guest.bare.write(CODE + 7, bytes.fromhex("9a00000000") + NEW_SEL.to_bytes(2, "little") + b"\xf4")
        old = guest.before
        assert guest.go(2) == "limit"
        now = guest.state()
        assert now["gpr"] == old["gpr"] and now["rip"] == CODE + 7 and now["sel"] == old["sel"]
        assert not now["eflags"] & NT
        assert (guest.busy(OLD_SEL), guest.busy(NEW_SEL)) == (True, False)
        assert not guest.look(NEW, wide, "eflags") & NT
        assert guest.go() == "hlt"
        assert guest.look(NEW, wide, "eax") == (REGISTERS["eax"] + 2) & (0xFFFFFFFF if wide else 0xFFFF)


# ---- faults ---------------------------------------------------------------------------------------------------------
def gdt(selector: int, base: int, limit: int, attr: int) -> Any:
    return lambda guest: guest.put(selector, descriptor(base, limit, attr))


def tss(**fields: int) -> Any:
    return lambda guest: guest.fill(NEW, True, **fields)


def spare(attr: int, **fields: int) -> Any:
    """A descriptor at SPARE, and fields of the new TSS."""

    def apply(guest: TaskGuest) -> None:
        guest.put(SPARE, descriptor(0, 0xFFFFFFFF, 0xC000 | attr))
        guest.fill(NEW, True, **fields)

    return apply


def short_old(guest: TaskGuest) -> None:
    guest.c.limit[7] = 0x5E


BEFORE = {
    "absent": (gdt(NEW_SEL, NEW, 0x67, 0x09), ("jmp", "call", "gate-jmp", "int"), (NP, NEW_SEL)),
    "absent, IRET": (gdt(NEW_SEL, NEW, 0x67, 0x09), ("iret",), (NP, NEW_SEL)),
    "busy": (gdt(NEW_SEL, NEW, 0x67, 0x8B), ("jmp", "call", "gate-jmp", "int"), (GP, NEW_SEL)),
    "not busy, IRET": (gdt(NEW_SEL, NEW, 0x67, 0x8B), ("iret",), (TS, NEW_SEL)),
    "not a TSS": (gdt(NEW_SEL, NEW, 0x67, 0x82), ("jmp", "gate-call", "int"), (GP, NEW_SEL)),
    "not a TSS, IRET": (gdt(NEW_SEL, NEW, 0x67, 0x8E), ("iret",), (TS, NEW_SEL)),
    "too short": (gdt(NEW_SEL, NEW, 0x66, 0x89), BYS, (TS, NEW_SEL)),
    "16-bit, too short": (gdt(NEW_SEL, NEW, 0x2A, 0x81), BYS, (TS, NEW_SEL)),
    "the current TSS is too short": (short_old, BYS, (TS, OLD_SEL)),
    "gate to the LDT": (lambda g: g.put(GATE, 4 << 16 | 0x85 << 40), ("gate-jmp",), (GP, 4)),
    "gate to null": (lambda g: g.put(GATE, 0x85 << 40), ("gate-call",), (GP, 0)),
    "gate beyond the GDT": (lambda g: g.put(GATE, 0xFF8 << 16 | 0x85 << 40), ("gate-call",), (GP, 0xFF8)),
    "gate is absent": (lambda g: g.put(GATE, NEW_SEL << 16 | 0x05 << 40), ("gate-jmp",), (NP, GATE)),
    "gate of the IDT to the LDT": (lambda g: g.set_gate(VECTOR, 4 << 16 | 0x85 << 40), ("int",), (GP, 4)),
}


@pytest.mark.parametrize(("name", "by"), [(name, by) for name, row in BEFORE.items() for by in row[1]])
def test_faults_in_the_old_task(name: str, by: str) -> None:
    break_it, _, wanted = BEFORE[name]
    for engine in ENGINES:
        guest = deliverable(engine)
        break_it(guest)
        assert guest.switch(by) == "limit"
        check_frame(guest, wanted, 0x1E000, CODE, OLD_SEL)


AFTER = {
    "LDT in the LDT": (tss(ldt=4), (TS, 4)),
    "LDT beyond the GDT": (tss(ldt=0x1008), (TS, 0x1008)),
    "LDT is data": (tss(ldt=DATA0), (TS, DATA0)),
    "LDT absent": (spare(0x02, ldt=SPARE), (TS, SPARE)),
    "CS null": (tss(cs=0), (TS, 0)),
    "CS beyond the GDT": (tss(cs=0x1008), (TS, 0x1008)),
    "CS is data": (tss(cs=DATA0), (TS, DATA0)),
    "CS absent": (spare(0x1B, cs=SPARE), (NP, SPARE)),
    "CS DPL above RPL": (tss(cs=CODE3 & ~3), (TS, CODE3 & ~3)),
    "conforming CS of an outer level": (spare(0xFF, cs=SPARE), (TS, SPARE)),
    "DS beyond the GDT": (tss(ds=0x1008), (TS, 0x1008)),
    "DS is execute-only": (spare(0x99, ds=SPARE), (TS, SPARE)),
    "ES is a TSS": (tss(es=OLD_SEL), (TS, OLD_SEL)),
    "FS absent": (spare(0x13, fs=SPARE), (NP, SPARE)),
    "GS with a greater RPL": (tss(gs=DATA0 | 3), (TS, DATA0)),
    "LDT before CS": (tss(ldt=4, cs=0), (TS, 4)),
    "CS DPL before DS": (tss(cs=CODE3 & ~3, ds=0x1008), (TS, CODE3 & ~3)),
    "DS before GS": (tss(gs=0x1000, ds=0x1008), (TS, 0x1008)),
}
STACKLESS = {
    "SS null": (tss(ss=0), (TS, 0)),
    "SS beyond the GDT": (tss(ss=0x1008), (TS, 0x1008)),
    "SS is code": (tss(ss=CODE0), (TS, CODE0)),
    "SS is read-only": (spare(0x91, ss=SPARE), (TS, SPARE)),
    "SS absent": (spare(0x13, ss=SPARE), (SS, SPARE)),
    "SS DPL": (tss(ss=DATA3), (TS, DATA3 & ~3)),
    "SS RPL": (tss(ss=DATA0 | 3), (TS, DATA0)),
    "CS DPL before SS": (tss(cs=CODE3 & ~3, ss=0), (TS, CODE3 & ~3)),
    "SS before CS": (tss(cs=0, ss=0x1008), (TS, 0x1008)),
}


def deliverable(engine: str, **options: Any) -> TaskGuest:
    """A guest whose faults come to handlers that halt."""
    guest = guest_of(engine, deliver=True, **options)
    for vector in range(20):
        guest.set_gate(vector, 0x3000 + 0x10 * vector | CODE0 << 16 | 0x8E << 40)
        guest.bare.write(0x3000 + 0x10 * vector, b"\xf4")
    return guest


def check_frame(guest: TaskGuest, wanted: tuple[int, int], sp: int, rip: int, tr: int) -> None:
    """The fault was delivered to its handler, with this stack, return address and task."""
    vector, error = wanted
    assert guest.state()["rip"] == 0x3000 + 0x10 * vector
    words = [int.from_bytes(guest.bare.read(sp - 16 + 4 * k, 4), "little") for k in range(3)]
    assert words[:2] == [error, rip]
    assert (int(guest.c.gpr[4]), int(guest.c.sel[7])) == (sp - 16, tr)


@pytest.mark.parametrize("by", [by for by in BYS if by != "int"])
@pytest.mark.parametrize("name", AFTER)
def test_faults_in_the_new_task(name: str, by: str) -> None:
    break_it, wanted = AFTER[name]
    states = []
    for engine in ENGINES:
        guest = guest_of(engine)
        break_it(guest)
        assert guest.switch(by) == f"fault {wanted[0]} {wanted[1]}"
        now = guest.state()
        assert (now["rip"], now["sel"][7]) == (NEW_CODE, NEW_SEL)
        assert guest.look(OLD, True, "eip") == CODE + guest.code_size
        assert guest.selectors()[:6] == [guest.look(NEW, True, name) for name in SELECTORS]
        states.append(now)
    for state in states[1:]:
        same(state, states[0], name)


@pytest.mark.parametrize("name", AFTER)
def test_faults_behind_an_interrupt(name: str) -> None:
    """INT through a task gate: no EXT; what is wrong before there is a stack ends in shutdown."""
    break_it, wanted = AFTER[name]
    for engine in ENGINES:
        guest = deliverable(engine)
        break_it(guest)
        if name.startswith(("LDT", "CS DPL", "conforming")):
            assert guest.switch("int") == "shutdown"
            assert (int(guest.c.fault_log[0]) & 0xFF, int(guest.c.fault_log[1])) == wanted
            continue
        assert guest.switch("int") == "limit"
        check_frame(guest, wanted, STACK, NEW_CODE, NEW_SEL)


@pytest.mark.parametrize("name", STACKLESS)
def test_faults_of_the_new_stack(name: str) -> None:
    break_it, wanted = STACKLESS[name]
    for engine in ENGINES:
        guest = guest_of(engine)
        break_it(guest)
        assert guest.switch("jmp") == f"fault {wanted[0]} {wanted[1]}"
        assert guest.state()["rip"] == NEW_CODE and guest.busy(NEW_SEL) and not guest.busy(OLD_SEL)


@pytest.mark.parametrize("name", ["DS beyond the GDT", "FS absent", "LDT is data"])
def test_the_new_task_handles_its_fault(name: str) -> None:
    """The frame is on the new stack; a bad LDT is met before the stack is there: the double fault has none either."""
    break_it, wanted = AFTER[name]
    for engine in ENGINES:
        guest = deliverable(engine)
        break_it(guest)
        if name == "LDT is data":
            assert guest.switch("call") == "shutdown"
            continue
        assert guest.switch("call") == "limit"
        check_frame(guest, wanted, STACK, NEW_CODE, NEW_SEL)
        assert guest.look(NEW, True, "link") == OLD_SEL


def test_instruction_pointer_beyond_the_limit() -> None:
    for engine in ENGINES:
        guest = deliverable(engine)
        guest.put(SPARE, descriptor(0, 0xFFF, 0x409B))
        guest.fill(NEW, True, cs=SPARE, eip=0x1000)
        assert guest.switch("jmp") == "limit"
        check_frame(guest, (GP, 0), STACK, 0x1000, NEW_SEL)


# ---- events ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("wide", [True, False])
def test_error_code_is_pushed_on_the_new_stack(wide: bool) -> None:
    for engine in ENGINES:
        guest = deliverable(engine, new_wide=wide)
        guest.set_gate(GP, NEW_SEL << 16 | 0x85 << 40)
        guest.fill(NEW, wide, esp=0x8000)
        guest.put(DATA0, descriptor(0, 0xFFFF, 0x93 if not wide else 0x4093))
        guest.load("mov ax, 0x1238\n mov ds, ax")
        assert guest.go(2) == "limit"
        size = 4 if wide else 2
        assert int.from_bytes(guest.bare.read(0x8000 - size, size), "little") == 0x1238
        assert int(guest.c.gpr[4]) & 0xFFFF == 0x8000 - size
        assert guest.look(OLD, True, "eip") == CODE + 4
        assert guest.look(OLD, True, "eflags") & 0x10000, "RF is set in the saved image of a fault"


def test_no_room_for_the_error_code() -> None:
    for engine in ENGINES:
        guest = deliverable(engine)
        guest.set_gate(GP, NEW_SEL << 16 | 0x85 << 40)
        guest.put(SPARE, descriptor(0, 0xFFF, 0x4093))
        guest.fill(NEW, True, esp=0x3000, ss=SPARE)
        guest.set_gate(8, OLD_SEL << 16 | 0x85 << 40)
        guest.load("mov ax, 0x1238\n mov ds, ax")
        assert guest.go(2) == "shutdown"
        faults = [int(guest.c.fault_log[8 * k]) & 0x1FF for k in range(int(guest.c.n_faults))]
        errors = [int(guest.c.fault_log[8 * k + 1]) for k in range(int(guest.c.n_faults))]
        assert (faults[:2], errors[:2]) == ([0x100 | GP, 0x100 | SS], [0x1238, 1])


@pytest.mark.parametrize(
    ("break_it", "wanted"),
    [
        (gdt(NEW_SEL, NEW, 0x67, 0x8B), (GP, NEW_SEL | 1)),
        (gdt(NEW_SEL, NEW, 0x67, 0x09), (NP, NEW_SEL | 1)),
        (gdt(NEW_SEL, NEW, 0x66, 0x89), (TS, NEW_SEL | 1)),
    ],
)
def test_faults_of_an_exception_have_ext(break_it: Any, wanted: tuple[int, int]) -> None:
    for engine in ENGINES:
        guest = deliverable(engine)
        guest.set_gate(6, NEW_SEL << 16 | 0x85 << 40)
        break_it(guest)
        guest.load("ud2")
        assert guest.go(1) == "limit"
        check_frame(guest, wanted, 0x1E000, CODE, OLD_SEL)


def test_trap_of_the_t_bit() -> None:
    for engine in ENGINES:
        guest = deliverable(engine)
        guest.fill(NEW, True, t=1)
        assert guest.switch("jmp") == "limit"
        assert guest.go(1) == "limit"
        assert guest.state()["dr"][6] == 0xFFFF0FF0 | 0x8000
        assert guest.state()["rip"] == 0x3010
        assert int.from_bytes(guest.bare.read(STACK - 12, 4), "little") == NEW_CODE
        assert not int.from_bytes(guest.bare.read(STACK - 4, 4), "little") & 0x10000


def test_t_bit_behind_an_event() -> None:
    for engine in ENGINES:
        guest = deliverable(engine)
        guest.fill(NEW, True, t=1)
        guest.set_gate(6, NEW_SEL << 16 | 0x85 << 40)
        guest.load("ud2")
        assert guest.go(2) == "limit"
        assert (guest.state()["rip"], guest.state()["dr"][6]) == (0x3010, 0xFFFF8FF0)


# ---- privilege, virtual-8086 mode, paging -------------------------------------------------------------------------------
def test_privilege_of_tss_and_gate() -> None:
    """DPL of the TSS counts for JMP and CALL to it, not behind a gate (SDM vol. 3, 7.2.5)."""
    for engine in ENGINES:
        for gate_dpl, selector, wanted in (
            (0, NEW_SEL, f"fault {GP} {NEW_SEL}"),
            (0, GATE, f"fault {GP} {GATE}"),
            (3, GATE, "limit"),
        ):
            guest = guest_of(engine)
            guest.put(GATE, NEW_SEL << 16 | (0x85 | gate_dpl << 5) << 40)
            c = guest.c
            c.cpl, c.sel[1], c.attr[1] = 3, CODE3, 0xC0FB
            c.sel[2], c.attr[2] = DATA3, 0xC0F3
            guest.update()
            guest.bare.write(CODE, b"\xea\0\0\0\0" + selector.to_bytes(2, "little"))
            guest.registers(eip=CODE)
            assert guest.go(1) == wanted
            if wanted == "limit":
                assert (guest.state()["cpl"], guest.look(OLD, True, "cs"), guest.look(OLD, True, "ss")) == (
                    0,
                    CODE3,
                    DATA3,
                )


def test_task_at_level_3_with_an_ldt() -> None:
    for engine in ENGINES:
        guest = guest_of(engine)
        guest.put(LOCAL_CODE, descriptor(0, 0xFFFFFFFF, 0xC0FB))
        guest.put(LOCAL_DATA, descriptor(0x100, 0xFFFFF, 0x40F2))
        guest.fill(NEW, True, ldt=LDT_SEL, cs=LOCAL_CODE | 3, ss=LOCAL_DATA | 3, ds=LOCAL_DATA | 3, es=0, eflags=IF | 2)
        assert guest.switch("jmp") == "limit"
        now = guest.state()
        assert (now["cpl"], now["sel"]) == (
            3,
            [0, LOCAL_CODE | 3, LOCAL_DATA | 3, LOCAL_DATA | 3, 0, 0, LDT_SEL, NEW_SEL],
        )
        assert now["base"][2:4] == [0x100, 0x100] and now["attr"][2] == 0x40F3
        assert guest.go(1) == f"fault {GP} 0", "HLT at level 3"


def test_task_in_virtual_8086_mode() -> None:
    for engine in ENGINES:
        guest = guest_of(engine)
        guest.fill(NEW, True, eflags=VM | 2, cs=0x180, eip=0x800, ss=0x1000, esp=0x100, ds=0x1234, es=3, fs=4, gs=5)
        guest.bare.write(0x2000, b"\x0e\x90")
        assert guest.switch("gate-call") == "limit"
        now = guest.state()
        assert (now["cpl"], now["eflags"]) == (3, VM | NT | 2)
        assert now["sel"][:6] == [3, 0x180, 0x1000, 0x1234, 4, 5] and now["base"][3] == 0x12340
        assert guest.go(1) == "limit"
        assert guest.bare.read(0x100FE, 2) == b"\x80\x01"


PAGES = 0x30000


def paged(engine: str, **rights: int) -> TaskGuest:
    """Paging on, identity; `new`, `old`, `gdt`: the entry's low bits of the page with the new TSS (moved to 7000h) ..."""
    guest = guest_of(engine)
    guest.bare.write(PAGES, (PAGES + 0x1000 | 7).to_bytes(4, "little"))
    for page in range(0x40):
        low = {7: rights.get("new", 7), 6: rights.get("old", 7), 5: rights.get("gdt", 7)}.get(page, 7)
        guest.bare.write(PAGES + 0x1000 + 4 * page, (page << 12 | low).to_bytes(4, "little"))
    guest.bare.write(0x7000, guest.bare.read(NEW, 0x68))
    guest.put(NEW_SEL, descriptor(0x7000, 0x67, 0x89))
    guest.fill(0x7000, True, cr3=PAGES + 0x2000)
    guest.bare.write(PAGES + 0x2000, guest.bare.read(PAGES, 4))
    c = guest.c
    c.cr3, c.cr0 = PAGES, int(c.cr0) | 0x80010000
    guest.update()
    return guest


def test_page_directory_of_the_new_task() -> None:
    for engine in ENGINES:
        guest = paged(engine)
        assert guest.switch("jmp") == "limit"
        assert guest.state()["cr3"] == PAGES + 0x2000
        assert guest.go() == "hlt"


@pytest.mark.parametrize(
    ("rights", "by", "error", "address"),
    [
        ({"new": 0}, "jmp", 0, 0x701C),
        ({"new": 5}, "call", 3, 0x7000),
        ({"old": 5}, "jmp", 3, OLD + 0x20),
        ({"gdt": 5}, "jmp", 3, GDT + OLD_SEL + 5),
        ({"gdt": 5}, "call", 3, GDT + NEW_SEL + 5),
    ],
)
def test_page_faults_change_nothing(rights: dict[str, int], by: str, error: int, address: int) -> None:
    for engine in ENGINES:
        guest = paged(engine, **rights)
        assert guest.switch(by) == f"fault {PF} {error}"
        now, old = guest.state(), guest.before
        assert now["cr2"] == address
        for name in ("gpr", "sel", "base", "attr", "rip", "eflags", "cr3", "cr0"):
            assert now[name] == old[name], name
        assert now["memory"][GDT : GDT + GDT_LIMIT] == old["memory"][GDT : GDT + GDT_LIMIT]
        assert now["memory"][OLD:0x8000] == old["memory"][OLD:0x8000]


def test_jump_to_the_current_task_is_busy() -> None:
    for engine in ENGINES:
        guest = guest_of(engine)
        guest.bare.write(CODE, b"\xea\0\0\0\0" + OLD_SEL.to_bytes(2, "little"))
        guest.registers(eip=CODE)
        assert guest.go(1) == f"fault {GP} {OLD_SEL}"


def test_words_outside_of_memory_are_written_once() -> None:
    """The current TSS is MMIO: the instruction begins again for each word, and none is lost or doubled."""
    states = []
    for engine in ENGINES:
        guest = guest_of(engine)
        guest.c.base[7] = 0x50000
        assert guest.switch("call") == "limit"
        seen = guest.device.seen
        assert [a.address - 0x50000 for a in seen] == [*range(0x20, 0x48, 4), *range(0x48, 0x60, 4)]
        assert [a.value for a in seen[:2]] == [CODE + guest.code_size, 2] and all(a.write for a in seen)
        assert guest.selectors()[7] == NEW_SEL
        states.append(guest.state())
    for state in states[1:]:
        same(state, states[0], "MMIO")
