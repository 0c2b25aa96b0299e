"""CR0.NE = 0: a pending x87 exception is told by FERR#, IRQ 13 and ports F0h and F1h, as in a PC AT.

The handler is vector 75h, as firmware programs the second interrupt controller.
"""

from __future__ import annotations

import pytest

from jitvm.devices.numeric_error import NumericError
from jitvm.exits import ExitReason, Outcome
from jitvm.irq import IrqLine
from tests.vcpu_guest import START, Guest, code

VECTOR, IF = 0x75, 0x202
CONTROL = 0x600
DIVIDE = code(
    "db e3 ; fninit",
    "c7 06 00 06 7b 03 ; mov word [600h], 37bh: zero divide unmasked",
    "d9 2e 00 06 ; fldcw [600h]",
    "d9 e8 ; fld1",
    "d9 ee ; fldz",
    "de f9 ; fdivp: the exception",
    "b0 01 ; mov al, 1: not waited for",
)
WAITING = START + len(DIVIDE)


def guest_with_irq13(program: bytes, handler: bytes, flags: int = IF) -> Guest:
    """A guest whose FERR# is wired as on the board."""
    guest = Guest(program, {VECTOR: handler}, flags=flags)
    line = IrqLine(lambda level: guest.interrupts.raise_(VECTOR) if level else None)
    latch = NumericError(line, guest.engine.ignore_numeric_errors)
    guest.vcpu.on_ferr = latch.report
    guest.ports.map(0xF0, 2, latch, name="numeric error")
    return guest


CLEARING = {
    "clears the exception": code("30 c0 ; xor al, al", "e6 f0 ; out f0h, al", "db e2 ; fnclex", "cf ; iret"),
    "waits under IGNNE#": code(
        "e6 f0 ; out f0h, al", "9b ; wait", "d9 c0 ; fld st0", "dd d8 ; fstp st0", "db e2", "cf"
    ),
}


@pytest.mark.parametrize("waiting", [code("9b ; wait"), code("d9 e8 ; fld1"), code("9b db e2 ; fclex")])
@pytest.mark.parametrize("way", sorted(CLEARING))
def test_the_instruction_that_waits_begins_again_behind_the_handler(waiting: bytes, way: str) -> None:
    guest = guest_with_irq13(DIVIDE + waiting + code("b3 07 ; mov bl, 7", "f4 ; hlt"), CLEARING[way])
    assert guest.execute() is Outcome.HLT
    assert guest.vcpu.last_run.reason == ExitReason.FERR
    assert guest.reg("eip") == WAITING and guest.interrupts.pending and guest.reg("ax") & 0xFF == 1
    assert guest.execute() is Outcome.HLT
    assert guest.vcpu.last_run.reason == ExitReason.HLT
    assert guest.interrupts.taken == [VECTOR] and guest.reg("bx") == 7
    assert int(guest.c.fsw) & 0x80FF == 0 and int(guest.c.ignne) == 0


def test_without_interrupts_the_processor_stands() -> None:
    guest = guest_with_irq13(DIVIDE + code("9b ; wait", "f4"), CLEARING["clears the exception"], flags=2)
    assert guest.execute() is Outcome.HLT
    assert guest.execute() is Outcome.HLT
    assert guest.reg("eip") == WAITING and guest.interrupts.taken == []
    assert guest.reasons == [ExitReason.FERR]


def test_with_ne_it_is_an_exception() -> None:
    on = code("0f 20 c0 ; mov eax, cr0", "66 83 c8 20 ; or eax, 20h", "0f 22 c0 ; mov cr0, eax")
    handler = code("db e2 ; fnclex", "b3 09 ; mov bl, 9", "cf ; iret")
    guest = Guest(on + DIVIDE + code("9b ; wait", "f4 ; hlt"), {16: handler}, flags=IF)
    assert guest.execute() is Outcome.HLT
    assert guest.reasons == [ExitReason.HLT] and guest.reg("bx") == 9
