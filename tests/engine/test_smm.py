"""System management mode on all engines: the save area, the handler's state, RSM.

Source: Intel SDM vol. 3, 34.3-34.11; AMD APM vol. 2, table 10-1 (the layout).
"""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.engine.guest import CODE, Guest, same
from tests.engine.task_guest import ENGINES, OLD_SEL, TaskGuest, guest_of

SMBASE, AREA = 0x30000, 0x38000
HANDLER = SMBASE + 0x8000
NAMES = "rax rcx rdx rbx rsp rbp rsi rdi".split()


def in_handler(engine: str, handler: str, *, flags: int = 2) -> TaskGuest:
    """A flat guest, interrupted by an SMI before its first instruction (INC EAX, HLT)."""
    guest = guest_of(engine)
    guest.load("inc eax\n hlt")
    guest.load(handler, HANDLER, 16)
    guest.registers(eip=CODE, eflags=flags)
    guest.before = guest.state()
    guest.bare.vcpu.smi()
    return guest


def word(guest: TaskGuest, at: int, size: int) -> int:
    return int.from_bytes(guest.bare.read(AREA + at, size), "little")


def test_save_area_and_state_of_the_handler() -> None:
    states = []
    for engine in ENGINES:
        guest = guest_of(engine)
        c = guest.c
        guest.load("inc eax\n hlt")
        c.dr[6], c.dr[7], c.cr3, c.cr4, c.nmi_blocked = 0xFFFF4FF1, 0x455, 0x7000, 8, 0
        c.base[3], c.limit[3], c.attr[3] = 0x123400, 0xFFFF, 0x40F3
        guest.update()
        guest.registers(eflags=0xA97)
        old = guest.state()
        guest.bare.vcpu.smi()
        for k in range(6):
            selector, attr, limit, base = struct.unpack("<HHIQ", guest.bare.read(AREA + 0x7E00 + 16 * k, 16))
            assert (selector, attr, limit, base) == (old["sel"][k], old["attr"][k], old["limit"][k], old["base"][k])
        assert (word(guest, 0x7E64, 4), word(guest, 0x7E68, 8)) == (old["gdt_limit"], old["gdt_base"])
        assert (word(guest, 0x7E84, 4), word(guest, 0x7E88, 8)) == (old["idt_limit"], old["idt_base"])
        assert (word(guest, 0x7E90, 2), word(guest, 0x7E92, 2), word(guest, 0x7E98, 8)) == (OLD_SEL, 0x8B, 0x6000)
        assert [word(guest, 0x7FF8 - 8 * k, 8) for k in range(8)] == old["gpr"][:8]
        assert [word(guest, at, 4) for at in (0x7EFC, 0x7F00)] == [0x20064, SMBASE]
        assert [word(guest, at, 4) for at in (0x7F48, 0x7F50, 0x7F58)] == [8, 0x7000, old["cr0"]]
        assert [word(guest, at, 4) for at in (0x7F60, 0x7F68, 0x7F70)] == [0x455, 0xFFFF4FF1, 0xA97]
        assert (word(guest, 0x7F78, 8), word(guest, 0x7EC9, 1)) == (CODE, 0)
        now = guest.state()
        assert (now["rip"], now["eflags"], now["cr0"], now["cr4"], now["cpl"]) == (0x8000, 2, 0x60000010, 0, 0)
        assert (now["sel"][:6], now["base"][:6]) == ([0, 0x3000, 0, 0, 0, 0], [0, SMBASE, 0, 0, 0, 0])
        assert (set(now["limit"][:6]), now["dr"][7], now["cr3"]) == ({0xFFFFFFFF}, 0x400, 0x7000)
        assert (c.smm, c.nmi_blocked) == (1, 1)
        states.append(now)
    for state in states[1:]:
        same(state, states[0], "smi")


def test_return() -> None:
    """The handler sees 4 GiB, changes a saved register and moves SMBASE."""
    handler = """
        mov eax, 0x3ffa0
        mov dword ptr ds:[eax], 0x12345678
        inc dword ptr cs:[0xfff8]
        mov dword ptr cs:[0xff00], 0x28000
        sti
        mov ax, 0x1000
        mov ss, ax
        rsm
    """
    states = []
    for engine in ENGINES:
        guest = in_handler(engine, handler, flags=0x202)
        assert guest.go(8) == "limit"
        now, old = guest.state(), guest.before
        for name in ("sel", "base", "attr", "limit", "cr0", "eflags", "dr", "cpl"):
            assert now[name] == old[name], name
        assert now["gpr"][:8] == [old["gpr"][0] + 1, *old["gpr"][1:8]]
        assert (guest.c.smm, guest.c.smbase, guest.c.nmi_blocked) == (0, 0x28000, 0)
        assert guest.bare.read(0x3FFA0, 4) == struct.pack("<I", 0x12345678)
        assert guest.go() == "hlt"
        guest.bare.vcpu.smi()
        assert (int(guest.c.base[1]), int(guest.c.sel[1])) == (0x28000, 0x2800)
        states.append(guest.state())
    for state in states[1:]:
        same(state, states[0], "rsm")


def test_smis_are_counted() -> None:
    """MSR_SMI_COUNT (SDM vol. 4, 2.8)."""
    for engine in ENGINES:
        guest = guest_of(engine)
        guest.bare.vcpu.set_cpu("max")
        guest.load("mov ecx, 0x34\n rdmsr\n hlt")
        guest.load("rsm", HANDLER, 16)
        for n in (1, 2):
            guest.registers(eip=CODE)
            guest.bare.vcpu.smi()
            assert (guest.go(1), guest.c.smm) == ("limit", 0)
            assert (guest.go(), guest.bare.registers()["eax"]) == ("hlt", n)


def test_nmi_stays_blocked_where_it_was() -> None:
    for engine in ENGINES:
        guest = guest_of(engine)
        guest.load("nop")
        guest.load("rsm", HANDLER, 16)
        guest.c.nmi_blocked = 1
        guest.bare.vcpu.smi()
        assert guest.go(1) == "limit"
        assert guest.c.nmi_blocked == 1


@pytest.mark.parametrize("again", [1, 0])
def test_a_halted_cpu_halts_again(again: int) -> None:
    """Auto HALT restart (SDM vol. 3, 34.10); the handler may clear it."""
    for engine in ENGINES:
        guest = guest_of(engine)
        guest.load("hlt\n hlt")
        assert guest.go(1) == "hlt"
        guest.c.halted = 1
        guest.load("rsm" if again else "mov byte ptr cs:[0xfec9], 0\n rsm", HANDLER, 16)
        guest.registers(eip=CODE + 1)
        guest.bare.vcpu.smi()
        assert word(guest, 0x7EC9, 1) == 1 and guest.c.halted == 0
        assert guest.go(1 if again else 2) == ("hlt" if again else "limit")
        assert guest.state()["rip"] == CODE + 1


def test_rsm_elsewhere_is_undefined() -> None:
    for engine in ENGINES:
        guest = guest_of(engine)
        guest.load("rsm")
        assert guest.go(1) == "fault 6 None"


@pytest.mark.parametrize(
    ("at", "value"), [(0xFF58, 0x80000010), (0xFF58, 0x20000011), (0xFF48, 0x80000000)]
)  # PG without PE; NW without CD; a bit of CR4 that there is not
def test_a_bad_state_shuts_down(at: int, value: int) -> None:
    for engine in ENGINES:
        guest = in_handler(engine, f"mov dword ptr cs:[{at}], {value}\n rsm")
        assert guest.go(2) == "shutdown"


def test_privilege_level_comes_from_ss() -> None:
    for engine in ENGINES:
        guest = guest_of(engine)
        guest.load("hlt")
        guest.load("rsm", HANDLER, 16)
        c = guest.c
        c.cpl, c.sel[1], c.attr[1], c.sel[2], c.attr[2] = 3, 0x1B, 0xC0FB, 0x23, 0xC0F3
        guest.update()
        guest.registers(eip=CODE)
        guest.bare.vcpu.smi()
        assert guest.c.cpl == 0
        assert guest.go(1) == "limit"
        assert guest.state()["cpl"] == 3
        assert guest.go(1) == "fault 13 0"


@pytest.mark.parametrize("smram", [0, 1])
def test_window_is_memory_in_the_mode_alone(smram: int) -> None:
    """A0000h is MMIO for everybody else, also behind RSM, and with paging off and on the TLB forgets it."""
    for engine in ENGINES:
        guest = Guest(engine, memory=0x100000)
        guest.bare.memory.map(0xA0000, 0x20000, None)
        guest.load("mov [0xA0010], ebx\n mov ecx, [0xA0010]\n hlt")
        guest.load("mov esi, 0xA0010\n mov [esi], eax\n mov edx, [esi]\n rsm", HANDLER, 16)
        guest.registers(eip=CODE, eax=0x11, ebx=0x22)
        with np.errstate(over="ignore"):
            guest.bare.vcpu.set_smram(bool(smram))
            guest.bare.vcpu.smi()
        assert guest.go(4) == "limit"
        n = 0 if smram else 2
        assert len(guest.device.seen) == n
        assert guest.bare.ram[0xA0010] == (0x11 if smram else 0)
        assert guest.go() == "hlt"
        assert [(a.write, a.address) for a in guest.device.seen[n:]] == [(True, 0xA0010), (False, 0xA0010)]
        assert guest.bare.ram[0xA0010] == (0x11 if smram else 0)
