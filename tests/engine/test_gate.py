"""Machine code written by hand: what it says, and that linked blocks stay exact when they are dropped."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import iced_x86 as ix
import numpy as np
import pytest

from jitvm.engine import gate, host_code
from jitvm.engine import layout as lay
from jitvm.engine.accel import Options
from jitvm.engine.layout import at
from jitvm.isa.words import u64
from tests.engine.guest import Guest, same

FORMAT = ix.Formatter(ix.FormatterSyntax.NASM)
FORMAT.branch_leading_zeros = False
FORMAT.hex_prefix, FORMAT.hex_suffix, FORMAT.uppercase_hex = "0x", "", False


def text(write: Callable[[int], object], size: int, room: int = 80) -> list[str]:
    """What a writer's bytes are, with the buffer at 0."""
    buffer = ctypes.create_string_buffer(b"\xcc" * room, room)
    with np.errstate(over="ignore"):
        write(u64(ctypes.addressof(buffer)))  # type: ignore[arg-type]  # units take words
    decoder = ix.Decoder(64, buffer.raw[:size], ip=0)
    return [FORMAT.format(i) for i in decoder]


def field(name: str) -> str:
    """An operand in the record."""
    return f"[r12+{at(name):#x}]"


def test_gates() -> None:
    for leads_to in ("h_hot", "h_pin"):
        lines = text(partial(gate.counting_gate, field=u64(at(leads_to))), 14)
        assert lines == ["dec qword [r13+0x10]", "jne short 0x10", f"jmp qword {field(leads_to)}"]
    assert [line.split()[0] for line in text(gate.open_gate, 16)] == ["nop", "nop"]
    assert text(gate.region_gate, 4) == ["jmp qword [r13]"]
    assert text(lambda to: gate.closed_gate(to, u64(77)), 15) == ["add r14,0x4d", f"jmp qword {field('h_enter')}"]


def test_new_pad() -> None:
    for options, leads_to in ((lay.OPT_PADS, "h_pad"), (0, "h_enter")):
        c = SimpleNamespace(options=u64(options))
        assert text(partial(gate.new_pad, c, slot=u64(0x198)), 30) == [
            "lea rax,[rel 0]",
            f"mov {field('pad_at')},rax",
            "mov r13,[r13+0x198]",
            f"jmp qword {field(leads_to)}",
        ]


def test_counter() -> None:
    add = text(lambda to: host_code.counter(to, u64(at("stat_copied_insns")), u64(9)), 12)
    assert add == [f"add qword {field('stat_copied_insns')},9"]


LOOP = """
 mov ecx, 40
1: add eax, ecx
 test cl, 1
 jz 2f
 add ebx, eax
 jmp 3f
2: xor ebx, eax
 {at_20}
3: dec ecx
 jnz 1b
 hlt
"""


@pytest.mark.parametrize("step", [7, 50, 1000])
@pytest.mark.parametrize("at_20", ["nop", "cmp ecx, 20\n jne 3f\n mov byte ptr [1b + 1], 0xD8"])
def test_linked_blocks(at_20: str, step: int) -> None:
    """Blocks that jump to each other directly, the head of the loop rewritten while it runs."""
    source = LOOP.format(at_20=at_20)
    ends = []
    for engine, options in (("plain", None), ("handlers", Options(hot=1, regions=False, drops=4))):
        guest = Guest(engine, options=options)
        guest.load(source)
        guest.registers(eax=3, ebx=4)
        while guest.go(step) == "limit":
            pass
        ends.append(guest.state())
    same(ends[1], ends[0], at_20)
    assert int(guest.c.stat_linked) >= 2
