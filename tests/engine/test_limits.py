"""Near transfers beyond the limit of CS: #GP(0) at the transfer, as if it had not begun."""

from __future__ import annotations

import pytest

from tests.engine.guest import CODE, Guest, same

LIMIT = CODE + 0x7FF
FAR = 0x2000
"""A target beyond it."""
BEYOND = {
    "jmp": f"jmp {FAR}",
    "jc taken": f"stc\n jc {FAR}",
    "cmp and jz taken": f"cmp eax, eax\n jz {FAR}",
    "dec and jnz taken": f"mov ebx, 5\n dec ebx\n jnz {FAR}",
    "loop": "mov ecx, 5\n .byte 0xE2, 0x7F",
    "loopne": "mov ecx, 5\n .byte 0xE0, 0x7F",
    "jecxz": "xor ecx, ecx\n .byte 0xE3, 0x7F",
    "call": f"call {FAR}",
    "call with the stack at its end": f"mov esp, 0\n call {FAR}",
    "call with the stack in MMIO": f"mov esp, 0x50010\n call {FAR}",
    "call, 16 bits": f"data16 call {FAR}",
    "jmp eax": f"mov eax, {FAR}\n jmp eax",
    "call eax": f"mov eax, {FAR}\n call eax",
    "ret": f"push {FAR}\n ret",
    "ret 8": f"push {FAR}\n ret 8",
    "jmp [mem]": f"mov dword ptr [0x8000], {FAR}\n jmp [0x8000]",
    "call [mmio]": "call [0x50000]",
}
WITHIN = {
    "jc not taken": f"clc\n jc {FAR}\n ud2",
    "cmp and jz not taken": f"cmp eax, 1\n jz {FAR}\n ud2",
    "loop not taken": "mov ecx, 1\n .byte 0xE2, 0x7F\n ud2",
}


def limited(engine: str, source: str) -> Guest:
    """The code stands at the end of the segment, so that short jumps leave it."""
    guest = Guest(engine)
    guest.load(source, LIMIT - 0x3F)
    guest.c.limit[1] = LIMIT
    guest.update()
    return guest


@pytest.mark.parametrize("name", BEYOND)
def test_beyond(name: str) -> None:
    states = []
    for engine, step in (("plain", 20), ("handlers", 20), ("handlers", 1)):
        guest = limited(engine, BEYOND[name])
        for _ in range(20):
            if (end := guest.go(step)) != "limit":
                break
        assert end == "fault 13 0"
        if "[mmio]" not in name:
            assert guest.device.seen == []
        states.append(guest.state())
    same(states[1], states[0], name)
    same(states[2], states[0], f"{name}, one at a time")


@pytest.mark.parametrize("engine", ["plain", "handlers"])
@pytest.mark.parametrize("name", WITHIN)
def test_not_taken(engine: str, name: str) -> None:
    assert limited(engine, WITHIN[name]).go(20) == "fault 6 None"


@pytest.mark.parametrize("engine", ["plain", "handlers"])
def test_code_that_runs_over_the_limit(engine: str) -> None:
    """The instruction whose last byte is beyond the limit faults, the one before it does not."""
    guest = Guest(engine)
    guest.bare.write(LIMIT - 3, b"\x40\x40\xb8\x01\x02\x03\x04")
    guest.c.limit[1] = LIMIT
    guest.update()
    guest.registers(eip=LIMIT - 3)
    assert guest.go(5) == "fault 13 0"
    assert (guest.retired, int(guest.c.rip)) == (2, LIMIT - 1)
    guest.bare.write(LIMIT - 3, b"\x40" * 8)
    assert guest.go(5) == "fault 13 0"
    assert (guest.retired, int(guest.c.rip)) == (4, LIMIT + 1)


@pytest.mark.parametrize("engine", ["plain", "handlers", "stencils"])
@pytest.mark.parametrize("code", ["0f020e", "0f030e", "0f0026", "0f002e", "0f0016", "0f001e", "630e"])
def test_undefined_before_the_operand(code: str, engine: str) -> None:
    """LAR, LSL, VERR, VERW, LLDT, LTR, ARPL in real mode: #UD, wherever their operand lies (vol. 3, table 6-2)."""
    guest = Guest(engine)
    guest.bare.set_mode("real")
    guest.bare.write(CODE, bytes.fromhex(code) + b"\xff\xff")
    guest.registers(eip=CODE)
    assert guest.go(1) == "fault 6 None"


@pytest.mark.parametrize("engine", ["plain", "handlers", "stencils"])
@pytest.mark.parametrize("code", ["0f0015", "0f001d", "0f0135"])
def test_privilege_before_the_operand(code: str, engine: str) -> None:
    """LLDT, LTR and LMSW at level 3: #GP(0), though their operand is beyond the limit of DS, and through SS it was #SS."""
    for prefix in (b"", b"\x36"):
        guest = Guest(engine)
        guest.bare.write(CODE, prefix + bytes.fromhex(code) + b"\xff\xff\xff\x7f")
        guest.registers(eip=CODE)
        guest.c.cpl, guest.c.limit[2], guest.c.limit[3] = 3, 0xFFFF, 0xFFFF
        guest.update()
        assert guest.go(1) == "fault 13 0"
