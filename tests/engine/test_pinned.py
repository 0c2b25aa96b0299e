"""Blocks with the guest's registers in the host's: `jitvm/engine/pinned.py`, `pin.py` and `pin_gate.py`."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest

from jitvm.bare import ENGINES
from jitvm.engine import layout as lay
from jitvm.engine import pin_gate, pinned
from jitvm.engine.accel import Options
from jitvm.engine.layout import at
from jitvm.isa.words import u64
from tests.engine.golden import LOOPS
from tests.engine.guest import CODE, DATA, STACK, Guest, same
from tests.engine.programs import looping, program
from tests.engine.test_counts import LIMIT, check, to_the_end
from tests.engine.test_gate import field, text
from tests.fast_set import share

PINNED = ENGINES["pinned"]
MIXED = {
    "string": "1: inc eax\n lodsb\n add bl, al\n dec edi\n jnz 1b",
    "segment": "1: inc eax\n mov edx, ds\n mov es, edx\n add bl, al\n dec edi\n jnz 1b",
    "loop": "1: lea eax, [eax + ecx * 2]\n loop 1b",
    "loope": "1: lea eax, [eax + ecx * 2]\n test eax, eax\n loopne 1b",
    "divide": "1: mov eax, ebp\n mov edx, 0\n mov ebx, 7\n div ebx\n dec edi\n jnz 1b",
    "high bytes": "1: mov ah, cl\n add dh, ah\n mov bl, dh\n xchg ch, bl\n movzx ebp, bh\n dec edi\n jnz 1b",
    "16-bit registers": "1: mov ax, cx\n add dx, ax\n movsx ebp, dx\n xchg cx, bx\n dec edi\n jnz 1b",
}
"""Loops of what is pinned and what is not."""
FLAGS = {
    "carry kept": "1: add eax, 0x70000000\n inc edx\n adc ebx, 0\n dec edi\n jnz 1b",
    "carry of the block before": "1: add eax, 0x70000000\n jmp 2f\n2: adc ebx, 0\n dec edi\n jnz 1b",
    "carry behind dec": "1: add eax, 0x70000000\n dec edi\n jbe 2f\n inc ebx\n2: test edi, edi\n jnz 1b",
    "two branches of one compare": "1: cmp edi, 20\n je 3f\n jl 2f\n inc ebx\n jmp 3f\n2: inc edx\n3: dec edi\n jnz 1b",
    "byte compare": "1: cmp al, 0x80\n jo 2f\n inc ebx\n2: add al, 7\n jmp 3f\n3: setc dl\n lahf\n dec edi\n jnz 1b",
    "neg and logic": "1: neg eax\n jmp 2f\n2: adc ebx, 1\n and eax, ebx\n jmp 3f\n3: setp cl\n dec edi\n jnz 1b",
    "shift by nothing": "mov ecx, 0\n1: sub eax, edi\n jmp 2f\n2: shl edx, cl\n pushf\n pop ebx\n dec edi\n jnz 1b",
    "words": "1: sub ax, di\n jmp 2f\n2: sbb bx, 3\n inc dx\n jmp 3f\n3: lahf\n xor cx, ax\n jmp 4f\n4: dec di\n jg 1b",
}
"""Flags that another block reads than made them."""


def guest(engine: str, source: str) -> Guest:
    g = Guest(engine)
    g.load(source + "\n hlt")
    places = {"esi": DATA, "ebp": DATA + 0x3000, "esp": STACK - 0x8000}
    g.registers(eax=1, ebx=2, ecx=40, edx=3, edi=40, **places)
    return g


@pytest.mark.parametrize("step", [5, LIMIT])
@pytest.mark.parametrize("name", [*LOOPS, *MIXED, *FLAGS])
def test_equal_plain(name: str, step: int) -> None:
    source = (LOOPS | MIXED | FLAGS)[name].replace("hlt\n", "jmp 9f\n") + "\n9:"
    plain, its = guest("plain", source), guest("pinned", source)
    for g in (plain, its):
        if name in LOOPS:
            g.registers(edi=DATA + 0x2000)
    to_the_end(plain, LIMIT)
    to_the_end(its, step)
    same(its.state(), plain.state(), f"{name}\n{source}\n")
    assert step < LIMIT or int(its.c.stat_pinned) >= 1


@pytest.mark.parametrize("name", FLAGS)
def test_flags_wherever_it_is_left(name: str) -> None:
    its, plain = guest("pinned", FLAGS[name]), guest("plain", FLAGS[name])
    for k in (40, 1, 2, 3, 5, 8, 13):
        assert its.go(k) == plain.go(k) == "limit"
        same(its.state(), plain.state(), f"{k} more\n{FLAGS[name]}\n")


# ---- machine code written by hand -----------------------------------------------------------------------------------
def spilled(to: str) -> list[str]:
    """The way to a handler whose address the record has."""
    return [
        "mov rax,7",
        f"mov {field('out_u')},rax",
        f"mov rax,{field(to)}",
        f"mov {field('out_to')},rax",
        f"jmp qword {field('h_spill')}",
    ]


CHARGE = ["sub r14,5", f"cmp r14,{field('floor')}"]
TAKEN_BACK = ["add r14,5", *spilled("h_enter")]


def test_entries() -> None:
    lines = text(partial(pin_gate.entries, u=u64(7), n=u64(5)), 64 + 5 + int(pin_gate.BACK), 200)
    hosts = "r13 rcx rdx r15 r8 r9 rsi rdi".split()
    places = ["", "+8", *(f"+{8 * k:#x}" for k in range(2, 8))]
    loads = [f"mov {host},[r12{place}]" for host, place in zip(hosts, places, strict=True)]
    assert lines[:9] == [*loads, f"jmp {69 + int(pin_gate.BACK):#x}"]
    assert lines[9:] == [*TAKEN_BACK, *CHARGE, "jl near 0x45"]


def test_pads() -> None:
    for options, leads_to in ((lay.OPT_PADS, "h_pin_pad"), (0, "h_enter")):
        new = text(partial(pin_gate.new_pad, SimpleNamespace(options=u64(options)), slot=u64(7)), 60)
        head = ["lea rax,[rel 0]", f"mov {field('pad_at')},rax", "mov rax,7", "mov rax,[rax]"]
        assert new == [*head, f"mov {field('out_u')},rax", *spilled(leads_to)[2:]]
    linked = text(partial(pin_gate.make_direct, u=u64(7), n=u64(5), gate=u64(0)), 75)
    assert linked[:3] == [*CHARGE, "jl near 0x1a"]
    assert linked[4:] == TAKEN_BACK


def test_settled() -> None:
    lines = text(pin_gate.settled, 37)
    assert lines[0] == f"cmp qword [r12+{at('lazy') + 8:#x}],0xff"
    assert lines[1:3] == ["jbe short 0x25", "lea rax,[rel 0x25]"]
    assert lines[3:] == [f"mov {field('out_to')},rax", f"jmp qword {field('h_settle')}"]


def test_host_registers_are_those_of_the_arguments() -> None:
    given = "r13 r14 r15 rdi rsi rdx rcx r8 r9".split()
    hosts = {f"%g{k}": host for k, host in enumerate("r13 rcx rdx r15 r8 r9 rsi rdi".split())} | {"%budget": "r14"}
    assert [hosts[name] for name in pinned.ARGUMENTS] == given


# ---- what becomes of pinned blocks ----------------------------------------------------------------------------------
def test_a_block_is_pinned_when_it_is_hot() -> None:
    g = Guest("handlers", options=Options(regions=False, hot=2, pin_hot=10))
    g.load("1: inc eax\n jmp 1b")
    g.go(2 * 10)
    assert int(g.c.stat_promoted) == 1
    assert int(g.c.stat_pinned) == 0
    g.go(2 * 4)
    assert int(g.c.stat_pinned) == 1
    without = Guest("handlers", options=Options(regions=False, hot=2, pin_hot=10, pins=False))
    without.load("1: inc eax\n jmp 1b")
    without.go(40)
    assert int(without.c.stat_pinned) == 0
    with_regions = Guest("handlers", options=Options(hot=1, region_hot=1 << 40, pin_hot=1))
    with_regions.load("1: inc eax\n jmp 1b")
    with_regions.go(40)
    assert int(with_regions.c.stat_pinned) == 0


def test_a_dropped_block_that_a_pad_and_a_return_lead_to() -> None:
    """The loop's blocks are rewritten while others that are pinned lead to them directly, and by RET."""
    source = "1: call 2f\n dec edi\n jnz 1b\n jmp 9f\n2: inc eax\n cmp edi, 20\n jne 3f\n"
    source += f" mov byte ptr [{CODE} + 5], 0x4F\n mov byte ptr [2b], 0x43\n3: ret\n9:"
    plain, its = guest("plain", source), guest("pinned", source)
    to_the_end(plain, LIMIT)
    to_the_end(its, LIMIT)
    assert plain.bare.registers()["ebx"] == 2 + 19
    same(its.state(), plain.state(), source)
    assert int(its.c.stat_dropped) >= 2


@pytest.mark.parametrize("bits", [32, 16, 64])
@pytest.mark.parametrize("seed", share(range(60, 64), 1))
def test_random(seed: int, bits: int) -> None:
    check(looping(seed, bits), bits, PINNED, 100)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [32, 16, 64])
@pytest.mark.parametrize("seed", range(300, 325))
def test_random_long(seed: int, bits: int) -> None:
    check((program if seed % 2 else looping)(seed, bits, 16), bits, PINNED, 60)
