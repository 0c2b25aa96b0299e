"""The local APIC of vCPUs that run at the same time: its vCPU serves the page itself, what others have for it waits.

Source: Intel SDM vol. 3, 10.6 (messages), 10.8.4 (acceptance).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from jitvm.devices.lapic import EXTINT, FIXED, LVT_LINT0, SVR, Message
from jitvm.exits import ExitReason
from jitvm.parallel import ThreadVcpu
from jitvm.smp import are_dead
from tests.boot.guests import FIRST_STEPS, two_at_once
from tests.engine.assembler import assemble

MMIO, IO = int(ExitReason.MMIO), int(ExitReason.IO)
ROUNDS = 100
CROSSING = f"""{FIRST_STEPS}
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


BY_TURNS = f"""{FIRST_STEPS}
    mov ebx, fs:[0x20]
    shr ebx, 24
    jnz other

    mov word ptr [2 * 4], offset nmi
    mov word ptr [2 * 4 + 2], 0xF000
    mov word ptr [0x602], 1                     # whose turn it is
    mov word ptr [0x604], {2 * ROUNDS}
    mov dword ptr fs:[0x310], 0x01000000
    mov dword ptr fs:[0x300], 0x46F0            # SIPI: begin where this begins
other:
    mov sp, bx
    shl sp, 12
    add sp, 0x6000
wait:
    cmp [0x602], bx
    je mine
    hlt
end_of_wait:
    jmp wait
mine:
    dec word ptr [0x604]
    jz over
    mov eax, ebx
    xor eax, 1
    mov [0x602], ax
    shl eax, 24
    mov fs:[0x310], eax
    mov dword ptr fs:[0x300], 0x400
    jmp wait
over:
    out 0xF4, al
nmi:                                            # between the question and HLT: ask again
    push bp
    mov bp, sp
    cmp word ptr [bp + 2], offset wait
    jb 1f
    cmp word ptr [bp + 2], offset end_of_wait
    jae 1f
    mov word ptr [bp + 2], offset wait
1:  pop bp
    iret
"""
"""Two processors, interrupts off, halt in turns; each wakes the other by NMI before it halts itself."""


@pytest.mark.parametrize("jit", ["handlers", "regions"])
def test_halted_processors_wake_each_other_by_nmi(tmp_path: Path, jit: str) -> None:
    """All are halted with interrupts off for a moment, yet the machine is not dead: an NMI is on its way."""
    with two_at_once(tmp_path, assemble(BY_TURNS, 0, 16).hex(), jit) as machine:
        result = machine.run()
        assert result.reason == "debug-exit", result


def test_an_nmi_that_is_just_being_taken_is_no_death(tmp_path: Path) -> None:
    """It is no longer pending then, and the processor halted until it goes in, for which others may let it wait."""
    with two_at_once(tmp_path, "f4") as machine:
        for vcpu in machine.vcpus:
            vcpu.engine.c.halted = 1
        first, second = machine.vcpus
        assert machine.world is not None and isinstance(first, ThreadVcpu)
        assert are_dead(machine.vcpus) and not machine.world.others_go(first)
        second.engine.c.parked = 0  # it waits for no SIPI
        second.nmi_pending = True
        assert not are_dead(machine.vcpus) and machine.world.others_go(first)
        assert not second.offer_urgent() and not second.nmi_pending and second.engine.c.halted
        assert not are_dead(machine.vcpus) and machine.world.others_go(first), "no time is let pass to the next timer"
