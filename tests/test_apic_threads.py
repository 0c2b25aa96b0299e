"""The local APIC of vCPUs that run at the same time: its vCPU serves the page itself, what others have for it waits.

Source: Intel SDM vol. 3, 10.6 (messages), 10.8.4 (acceptance).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from jitvm.devices.lapic import EXTINT, FIXED, LVT_LINT0, SVR, Message
from jitvm.exits import ExitReason
from jitvm.parallel import ThreadVcpu
from tests.boot.guests import two_at_once
from tests.engine.assembler import assemble

MMIO, IO = int(ExitReason.MMIO), int(ExitReason.IO)
ROUNDS = 100
CROSSING = f"""
    cli
    xor ax, ax
    mov ds, ax
    mov ss, ax
    mov dword ptr fs:[0xF0], 0x1FF
    mov eax, fs:[0x20]
    test eax, eax
    jnz other

    mov sp, 0x7000
    mov word ptr [0x41 * 4], offset from_first
    mov word ptr [0x41 * 4 + 2], 0xF000
    mov word ptr [0x42 * 4], offset from_self
    mov word ptr [0x42 * 4 + 2], 0xF000
    mov dword ptr fs:[0x310], 0x01000000
    mov dword ptr fs:[0x300], 0x46F0            # SIPI: begin where this begins
1:  cmp word ptr [0x600], 1
    jne 1b
    mov ecx, {ROUNDS}
2:  mov eax, [0x604]
    mov dword ptr fs:[0x300], 0x4041
3:  cmp [0x604], eax
    je 3b
    dec ecx
    jnz 2b
    mov word ptr [0x602], 1
4:  cmp word ptr [0x60C], 1
    jne 4b
    out 0xF4, al

other:
    mov sp, 0x6000
    sti
    mov word ptr [0x600], 1
5:  mov eax, [0x608]
    mov dword ptr fs:[0x300], 0x44042
    cmp [0x608], eax
    je lost
    inc dword ptr [0x610]
    out 0x80, al
    cmp word ptr [0x602], 0
    je 5b
    mov word ptr [0x60C], 1
lost:
    cli
    hlt

from_first:
    inc dword ptr [0x604]
    mov dword ptr fs:[0xB0], 0
    iret
from_self:
    inc dword ptr [0x608]
    mov dword ptr fs:[0xB0], 0
    iret
"""
"""The second processor interrupts itself, again and again; the first one interrupts it meanwhile, waiting for each time."""


@pytest.mark.parametrize("jit", ["handlers", "stencils", "regions"])
def test_messages_to_a_processor_that_interrupts_itself(jit: str, tmp_path: Path) -> None:
    with two_at_once(tmp_path, assemble(CROSSING, 0, 16).hex(), jit) as machine:
        result = machine.run()
        words = {at: int.from_bytes(machine.ram[at : at + 4], "little") for at in (0x604, 0x608, 0x60C, 0x610)}
        assert result.reason == "debug-exit", (result, words)
        assert words[0x604] == ROUNDS and words[0x608] == words[0x610] > 0
        second = machine.vcpus[1]
        asked = sum(n for (why, _), n in second.exits.items() if why in (IO, MMIO))
        served = int(second.engine.c.n_served)
        assert asked + served == 2 + 3 * words[0x610] + ROUNDS, "each access once"
        assert asked * 20 < served, "to switch its APIC on, and the last one before a time slice ends"


def test_what_comes_from_elsewhere_waits_until_the_processor_is_out(tmp_path: Path) -> None:
    """A message, a timer, and the 8259A's INTR: translated code of the other vCPU may be in its page just now."""
    with two_at_once(tmp_path, "f4", "handlers") as machine:
        vcpu, apic, world = machine.vcpus[1], machine.board.apic_bus.locals[1], machine.world
        assert isinstance(vcpu, ThreadVcpu) and world is not None
        with machine.lock:
            apic.write(SVR, 4, 0x1FF)
            apic.write(LVT_LINT0, 4, EXTINT << 8)
            vcpu.inside = True
            before = bytes(apic.page)
            machine.board.apic_bus.send(Message(0x55, FIXED, 1, False))
            apic.set_lint(0, True)
            assert bytes(apic.page) == before and vcpu.engine.kicked and not apic.pending
        world.come_out(vcpu)
        assert apic.irr == 1 << 0x55 and apic.pending and apic.acknowledge() == 0x55
        assert apic.pending, "INTR is up still"
        apic.set_lint(0, False)
        assert not apic.pending
        machine.lock.release()
