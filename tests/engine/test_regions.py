"""Regions end every program as the plain engine does, whatever count they are cut at.

Random programs (tests/engine/programs.py) with longer loops, regions made after two executions of a block's machine code.
"""

from __future__ import annotations

import pytest

from jitvm.engine import region_pages
from jitvm.engine.accel import Options
from tests.engine.assembler import assemble
from tests.engine.grown import note_grown
from tests.engine.guest import CODE, DATA, STACK, Guest, same
from tests.engine.programs import GS, loaded, looping
from tests.engine.tables import TABLE, page_on
from tests.engine.test_counts import LIMIT, check, to_the_end
from tests.fast_set import share

SOON = Options(hot=1, region_hot=2, drops=4, sync=True)


@pytest.mark.parametrize("bits", [32, 16, 64])
@pytest.mark.parametrize("seed", share(range(3), 1))
def test_random(seed: int, bits: int) -> None:
    check(looping(seed, bits), bits, SOON, 100)


@pytest.mark.parametrize("bits", [32, 16, 64])
def test_streams_in_memory(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What large regions do about their look-ups, in small ones, of a program that no other test makes regions of."""
    monkeypatch.setattr(region_pages, "LARGE", 1)
    check(looping(77, bits), bits, SOON, 100)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [32, 16, 64])
@pytest.mark.parametrize("seed", range(100, 120))
def test_random_long(seed: int, bits: int) -> None:
    check(looping(seed, bits, 16), bits, SOON, 300)


FAR_LOOP = """
 mov edi, offset helper
 mov ecx, 60
again:
 add eax, ecx
 call helper
 cmp ecx, 30
 jne skip
 {at_30}
skip:
 dec ecx
 jnz again
 hlt
.org 0x1000
helper:
 lea ebx, [ebx + eax * 2 + 5]
 xor [0x8000], ebx
 ret
"""


NEST = """
 mov esi, 0x8000
 mov edi, 30
outer:
 mov ecx, 3
 add esi, 0x1000
 {access}
inner:
 xor eax, ecx
 {access}
 dec ecx
 jnz inner
 dec edi
 jnz outer
 hlt
"""
"""The way into the inner loop is a block with a round of it, and each time another page is looked up."""


@pytest.mark.parametrize("access", ["add ebx, [esi]", "add [esi], edx", "mul edx", "add ebx, [esi + 0x20000]"])
def test_what_two_blocks_hold_is_compiled_once_and_counted_exactly(
    access: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each way out of a block that ends where another goes on: a miss, an access of the outside, the end of the budget."""
    grown = note_grown(monkeypatch)
    check(NEST.format(access=access), 32, SOON, 150)
    assert any(node.cut for found in grown for node in found.nodes)


@pytest.mark.parametrize("at_30", ["nop", "mov byte ptr [helper + 3], 77", "mov byte ptr [skip], 0x90"])
def test_a_loop_over_pages_and_its_code_rewritten(at_30: str, monkeypatch: pytest.MonkeyPatch) -> None:
    grown = note_grown(monkeypatch)
    check(FAR_LOOP.format(at_30=at_30), 32, SOON, 60)
    assert any(len(one.pages) == 2 for one in grown)


@pytest.mark.parametrize("flush", ["invlpg [helper]", "mov edx, cr3\n mov cr3, edx"])
def test_a_page_of_a_region_mapped_elsewhere(flush: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The helper's page becomes another page of memory, with other code, while the loop runs."""
    grown = note_grown(monkeypatch)
    source = FAR_LOOP.format(at_30=f"mov dword ptr [{TABLE + 4 * 2}], 0x30003\n {flush}")
    other = assemble("lea ebx, [ebx + eax * 4 + 9]\n xor [0x8000], ebx\n ret", 0x2000)
    ends = []
    for engine, options in (("plain", None), ("handlers", SOON)):
        guest = Guest(engine, options=options)
        page_on(guest)
        guest.bare.write(0x30000, other)
        guest.load(source)
        guest.registers(eax=1, ebx=2, esp=STACK)
        assert guest.go(5000) == "hlt"
        ends.append(guest.state())
    same(ends[1], ends[0], flush)
    assert any(len(one.pages) == 2 for one in grown)


SEGMENT_LOOP = """
 mov cx, 40
again:
 l{x} {e}di, [{data}]
 add ax, {x}:[{e}di + {e}bx]
 push {x}
 pop gs
 mov dx, gs
 add dx, ax
 mov word ptr gs:[{e}di + {e}bx], dx
 lgs {e}si, [{data}]
 xor ax, gs:[{e}si]
 push gs
 mov {x}, [{e}bp]
 pop {x}
 stc
 mov {x}, [{data} + {e_size}]
 adc dx, 3
 push ss
 pop ss
 dec cx
 jnz again
 hlt
"""


@pytest.mark.parametrize("bits", [32, 16])
def test_a_loop_that_loads_segment_registers(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real mode does it in place; protected mode, by the out-of-line semantics."""
    grown = note_grown(monkeypatch)
    e = "e" if bits == 32 else ""
    selector = GS if bits == 32 else DATA >> 4
    pointer = f"mov dword ptr [{DATA}], 0x40\n mov word ptr [{DATA} + {bits // 8}], {selector}\n"
    head = f"{pointer} mov {e}bx, 8\n mov word ptr [{e}bp], {selector}"
    check(head + SEGMENT_LOOP.format(e=e, x="fs" if bits == 32 else "es", data=DATA, e_size=bits // 8), bits, SOON, 60)
    assert grown


STRINGS = """
 mov {e}dx, 20
again:
 mov {e}si, {data}
 mov {e}di, {e}dx
 add {e}di, {data} + 0x90
 mov {e}cx, {e}dx
 rep movsb
 mov {e}cx, 9
 rep lodsb
 lodsb
 stosb
 mov {e}cx, 5
 rep stosw
 add {e}ax, {e}dx
 movsw
 mov {e}cx, 7
 lea {e}si, [{e}di - 3]
 rep movsb
 mov {e}si, {data} + 0xFF0
 mov {e}di, {data}
 mov {e}cx, {e}dx
 rep movsw
 mov {e}cx, 6
 repe cmpsb
 setne bl
 mov {e}cx, 30
 repne scasb
 adc {e}bx, {e}cx
 std
 mov {e}cx, 3
 rep stosb
 cld
 test {e}dx, 7
 jnz less
 jmp again2
less:
 rep movsb
again2:
 dec {e}dx
 jnz again
 hlt
"""
PORTS = """
 mov {e}cx, 25
again:
 in al, 0x60
 add {e}bx, {e}ax
 stc
 out 0x80, al
 adc {e}bx, {e}cx
 pushf
 cli
 inc {e}dx
 popf
 sti
 rcl {e}dx, 1
 mov {e}di, {data}
 insb
 dec {e}cx
 jnz again
 hlt
"""


@pytest.mark.parametrize("bits", [32, 16, 64])
@pytest.mark.parametrize("source", [STRINGS, PORTS], ids=["strings", "ports"])
def test_a_loop_over_what_ends_a_block(source: str, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """String instructions, alone and repeated, ports, STI and POPF: the region goes on behind them."""
    grown = note_grown(monkeypatch)
    e = {16: "", 32: "e", 64: "r"}[bits]
    check(source.format(e=e, data=DATA), bits, SOON, 50)
    held = {op.shape.unit for one in grown for node in one.nodes if node.ends for op in node.ops[-1:]}
    wanted = (
        "string.movs string.stos string.cmps string.scas" if source == STRINGS else "io.port_in io.port_out system.popf"
    )
    assert held >= set(wanted.split())


@pytest.mark.parametrize("result", [1 << 32, 0xFF << 40 | 3, 1 << 63, (1 << 63) + (1 << 31) + 1, 0, 0x80])
def test_flags_that_64_bit_code_left(result: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 32-bit region keeps 32 bits of a result, and the flags of all 64; this one writes none."""
    grown = note_grown(monkeypatch)
    guest = Guest("handlers", options=SOON)
    guest.load("again: lea ecx, [ecx - 1]\n jecxz out\n jmp again\nout: hlt")
    for _ in range(2):
        guest.registers(eip=CODE, ecx=30)
        guest.c.lazy.res, guest.c.lazy.aux = result, 0
        before = guest.state()["eflags"]
        assert guest.go() == "hlt"
        assert guest.state()["eflags"] == before
    assert grown
    assert guest.bare.vcpu.regions.installed


def test_programs_do_make_regions() -> None:
    made = 0
    for seed in range(6):
        guest = loaded("handlers", looping(seed, 32), 32, SOON)
        to_the_end(guest, LIMIT)
        made += guest.bare.vcpu.regions.installed
    assert made >= 6
