"""Each optimisation has a switch (`--opt no-NAME`): it changes how the guest is run, and nothing that the guest can see."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from jitvm.config import ENGINE_OPTIONS, OPTIMISATIONS
from jitvm.engine import layout as lay
from jitvm.engine.accel import Options
from jitvm.engine.decode import T_FORM, T_VARIANT
from jitvm.engine.formbits import F_KIND_SHIFT, KIND_INDIRECT, VARIANT_DEAD, VARIANT_FUSED
from jitvm.engine.grow import Grown
from jitvm.engine.region import MODES
from jitvm.engine.region_ir import RegionBuilder
from tests.engine.grown import note_grown
from tests.engine.guest import CODE, STACK, Guest, same
from tests.engine.programs import loaded, looping
from tests.engine.test_counts import LIMIT, to_the_end
from tests.fast_set import share

SOON = Options(hot=2, region_hot=20, sync=True)
LESS = 101
"""Instructions to a moment on the way."""
LOOP = """
 mov ecx, 3000
again:
 add eax, ecx
 xor edx, eax
 call helper
 mov ebx, [0x8000]
 and ebx, 1
 jmp [ebx * 4 + 0x8100]
one:
 add edx, 5
two:
 inc dword ptr [0x8000]
 cmp ecx, 1500
 jne skip
 add eax, 77
skip:
 dec ecx
 jnz again
 hlt
helper:
 push ebx
 lea esi, [esi + eax * 2 + 5]
 pop ebx
 ret
"""
"""Two paths through an indirect jump, a call with a push and its pop, flags that nobody reads, a compare and its jump."""


def off(name: str) -> Options:
    """`SOON` without one optimisation, or with the counting."""
    return replace(SOON, **{name: name == "count"})


def started(options: Options) -> Guest:
    """The loop in a guest."""
    guest = Guest("handlers", options=options)
    guest.load(LOOP)
    labels = guest.bare.read(CODE, 0x60)
    one = CODE + labels.index(bytes.fromhex("83c205"))
    guest.bare.write(0x8100, one.to_bytes(4, "little") + (one + 3).to_bytes(4, "little"))
    guest.registers(eax=1, edx=2, esi=3, esp=STACK)
    return guest


def rows(guest: Guest, b: int) -> list[list[int]]:
    """What the translator knows of a block's instructions (`T_*` in jitvm/engine/decode.py)."""
    n = guest.bare.vcpu.accel.describe(guest.bare.vcpu.address, b)
    return guest.c.t[: n * lay.T_WORDS].reshape(n, lay.T_WORDS).tolist()  # type: ignore[no-any-return]  # the record


def variants(guest: Guest) -> set[int]:
    """Variants of handlers in all blocks."""
    return {row[int(T_VARIANT)] for b in range(int(guest.c.n_blocks)) for row in rows(guest, b)}


def jumps_linked(guest: Guest) -> int:
    """Direct jumps whose link slot leads to a block."""
    c, n = guest.c, 0
    entries = {int(u) for u in c.block_uop[: int(c.n_blocks)]}
    for b in range(int(c.n_blocks)):
        if rows(guest, b)[-1][int(T_FORM)] >> int(F_KIND_SHIFT) & 7 < int(KIND_INDIRECT):
            slot = int(c.block_uop[b]) + lay.UOP_SIZE * (int(c.block_state[b]) >> 8)
            n += ctypes.c_uint64.from_address(slot).value in entries
    return n


class Seen:
    """What the runs left behind: the guest, and the regions that were grown."""

    def __init__(self, guest: Guest, grown: list[Grown]) -> None:
        self.guest, self.grown, self.c = guest, grown, guest.c

    def returns(self, *, call: bool) -> int:
        """Known targets of indirect jumps (or of RET) in the regions."""
        kinds = {"ret"} if call else {"jmpi", "calli"}
        ends = [(n, n.ops[-1].shape.kind) for g in self.grown for n in g.nodes if n.ops]
        return sum(len(n.returns) for n, kind in ends if kind in kinds)

    def builder(self) -> RegionBuilder:
        """Of the first region."""
        vcpu = self.guest.bare.vcpu
        return RegionBuilder(vcpu.accel.units, "r_test", self.grown[0].nodes, vcpu.options.modes())

    def text(self) -> str:
        """Of the first region."""
        b = self.builder()
        b.build()
        return b.text()


EFFECT: dict[str, Callable[[Seen], Any]] = {
    "stencils": lambda s: int(s.c.stat_promoted),
    "regions": lambda s: s.guest.bare.vcpu.regions.installed,
    "fuse": lambda s: max(variants(s.guest)) >= int(VARIANT_FUSED),
    "dead_flags": lambda s: int(VARIANT_DEAD) in variants(s.guest),
    "chain": lambda s: jumps_linked(s.guest),
    "pads": lambda s: int(s.c.stat_linked),
    "jump_cache": lambda s: s.c.jump_cache.reshape(-1, 4)[:, 2].any(),
    "targets": lambda s: s.returns(call=False),
    "returns": lambda s: s.returns(call=True),
    "lazy_flags": lambda s: "switch i32" in s.text(),
    "shared_lookups": lambda s: "%page0" in s.text(),
    "grouped_lookups": lambda s: any(s.builder().groups),
    "joins": lambda s: [node.rip for g in s.grown for node in g.nodes if node.cut],
}
"""What is there with an optimisation, and nought (or False) without it."""
ELSEWHERE = {"latches", "copies", "groups", "pins", "beside"}
"""The first needs a board's ports (tests/test_latches.py), the second a small loop (below), the third a host without
stencils (tests/engine/test_groups.py), the fourth an engine without regions (tests/engine/test_pinned.py), the last
stencils that no run has made yet (tests/engine/test_stencils_beside.py)."""


def seen(options: Options, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Run the loop to its end."""
    found = note_grown(monkeypatch)
    guest = started(options)
    assert guest.go(60_000) == "hlt"
    return Seen(guest, found)


def test_all_switches_are_tested() -> None:
    assert set(EFFECT) | ELSEWHERE == set(OPTIMISATIONS)
    assert set(ENGINE_OPTIONS) - set(OPTIMISATIONS) == {"count"}
    told = [mode for name in ("lazy_flags", "count", "shared_lookups", "grouped_lookups") for mode in off(name).modes()]
    assert set(told) == set(MODES)


@pytest.mark.parametrize("name", EFFECT)
def test_a_switch_switches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_it, without = seen(SOON, monkeypatch), seen(off(name), monkeypatch)
    assert EFFECT[name](with_it)
    assert not EFFECT[name](without)
    same(without.guest.state(), with_it.guest.state(), f"without {name}")


@pytest.mark.parametrize("name", share(ENGINE_OPTIONS, 6))
@pytest.mark.parametrize("bits", [32, 16])
def test_random_programs_without(name: str, bits: int) -> None:
    """The state at the end, and at a count on the way, is the plain engine's."""
    for seed in (7, 8):
        source = looping(seed, bits)
        plain = loaded("plain", source, bits)
        assert plain.go(LESS) == "limit"
        middle = plain.state()
        to_the_end(plain, LIMIT)
        guest = loaded("handlers", source, bits, replace(off(name), hot=1, region_hot=2, drops=4))
        assert guest.go(LESS) == "limit"
        same(guest.state(), middle, f"after {LESS} without {name}\n{source}")
        to_the_end(guest, LIMIT)
        same(guest.state(), plain.state(), f"without {name}\n{source}")


@pytest.mark.parametrize("copies", [True, False])
def test_a_small_loop_has_copies(copies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    grown = note_grown(monkeypatch)
    guest = Guest("handlers", options=replace(SOON, copies=copies))
    guest.load("1: add eax, ecx\n dec ecx\n jnz 1b\n hlt")
    guest.registers(ecx=5000)
    assert guest.go(60_000) == "hlt" and int(guest.c.gpr[0]) == sum(range(5001))
    assert [len(g.nodes) for g in grown] == [4 if copies else 1]


def test_iterations_of_a_string_instruction_in_place_are_the_regions() -> None:
    guest = Guest("handlers", options=replace(SOON, count=True))
    guest.load("1: mov edi, 0x8000\n mov ecx, 32\n rep stosb\n dec edx\n jnz 1b\n hlt")
    guest.registers(edx=1000)
    assert guest.go(60_000) == "hlt"
    assert 0.9 * guest.retired < int(guest.c.stat_region_insns) <= guest.retired


def test_instructions_by_tier_add_up() -> None:
    """Counted by tier: what neither copied code nor regions ran, handlers did."""
    guest = started(replace(SOON, count=True))
    assert guest.go(60_000) == "hlt"
    copied, inside = int(guest.c.stat_copied_insns), int(guest.c.stat_region_insns)
    assert 0 < copied < inside < guest.retired
    assert copied + inside <= guest.retired
    slow = started(Options(hot=2, regions=False, count=True))
    assert slow.go(60_000) == "hlt"
    assert int(slow.c.stat_region_insns) == 0
    assert 0.99 * slow.retired < int(slow.c.stat_copied_insns) < slow.retired
    quiet = started(SOON)
    assert quiet.go(60_000) == "hlt"
    assert int(quiet.c.stat_copied_insns) == int(quiet.c.stat_region_insns) == 0
