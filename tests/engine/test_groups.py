"""Several instructions as one handler: `jitvm/engine/group.py`, `jitvm/engine/gather.py`."""

from __future__ import annotations

import pytest

from jitvm.bare import accelerator
from jitvm.engine import group
from jitvm.engine.accel import Options
from jitvm.engine.block_reader import BlockReader, word_at
from jitvm.engine.layout import GROUP_BIT, UOP_SIZE
from tests.engine.guest import CODE, DATA, MEMORY, STACK, Guest, same
from tests.engine.ir_proof import prove

LOOP = (
    "1: add eax, ebx\n mov [esi], eax\n xor edx, [esi]\n push edx\n pop edi\n in al, 0x60\n lea ebp, [eax + edx * 2]\n"
)
LOOP += " adc edx, ebp\n dec ecx\n jnz 1b\n hlt"
OUTSIDE = {
    "first": "1: mov eax, [esi]\n add ebx, eax\n inc edx\n add esi, 0x400\n jmp 1b",
    "second": "1: inc edx\n mov [esi], edx\n adc ebx, eax\n add esi, 0x400\n jmp 1b",
    "third": "1: inc edx\n cmp edx, 5\n push eax\n add dword ptr [esi], 3\n sub esi, -0x400\n jmp 1b",
    "a pop": "1: mov edi, esp\n mov esp, esi\n pop eax\n add esi, 0x400\n mov esp, edi\n push offset 1b\n ret",
}
"""Loops that run until what they access is no memory, but a device."""


def guest(engine: str, source: str, options: Options | None = None) -> Guest:
    g = Guest(engine, options=options)
    g.load(source)
    g.registers(eax=1, ebx=7, ecx=40, edx=3, esi=DATA, esp=STACK)
    return g


def sizes(g: Guest) -> list[int]:
    """How many members the handlers of the first block's micro-ops have; an entry record counts, 0: no instruction."""
    vcpu = g.bare.vcpu
    reader = BlockReader(vcpu)
    b = next(k for k in range(reader.word("n_blocks")) if reader.rip[k] == CODE)
    by_address = {address: len(group.members(key)) for key, address in vcpu.accel._handlers.items()}
    n = (reader.state[b] >> 8) & 0xFFFF
    return [by_address.get(word_at(reader.uop[b] + UOP_SIZE * k), 0) for k in range(n)]


def test_a_hot_block_has_groups() -> None:
    g = guest("groups", LOOP, Options(stencils=False, group_hot=10))
    assert g.go(10 * 9) == "limit"
    assert max(sizes(g)) == 1
    assert g.go(10) == "limit"
    assert sizes(g)[:6] == [3, 1, 1, 3, 1, 1], "an entry record with two, then three; IN is none"


def test_equal_plain_and_counts() -> None:
    whole, plain, cut = guest("groups", LOOP), guest("plain", LOOP), guest("groups", LOOP)
    assert whole.go() == plain.go() == "hlt"
    while cut.go(3) == "limit":
        pass
    same(whole.state(), plain.state(), "in one go")
    same(cut.state(), plain.state(), "by three")


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_device_in_a_group(name: str) -> None:
    plain, groups = guest("plain", OUTSIDE[name]), guest("groups", OUTSIDE[name])
    for g in (plain, groups):
        g.registers(esi=MEMORY - 0x2000)
        assert g.go(200) == "limit"
    assert plain.device.seen
    same(groups.state(), plain.state(), name)


def test_a_store_over_the_next_member() -> None:
    """The second member becomes INC EDX (42h), when the first one has stored that."""
    source = f"mov edi, 3\n 1: inc ebp\n mov byte ptr [{CODE + 13}], 0x42\n inc ebx\n dec edi\n jnz 1b\n hlt"
    plain, groups = guest("plain", source), guest("groups", source)
    assert plain.go() == groups.go() == "hlt"
    assert plain.bare.registers()["edx"] == 3 + 3
    same(groups.state(), plain.state(), "store over code")


def test_accesses_are_proved() -> None:
    g = guest("groups", LOOP)
    g.go()
    accel = accelerator()
    keys = [key for key in accel._handlers if key >> GROUP_BIT]
    assert keys
    for key in keys:
        assert prove(group.build(accel.units, accel.forms.shapes, key, "i_test").text()) == []
