"""Handlers, stencils and regions access nothing but what they may (tests/engine/ir_proof.py); the proof sees what is wrong.

All that a test run stitches is proved as it is made (`tests/conftest.py`); with `--prove-ir` the cache is not asked for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from jitvm import bare
from jitvm.bare import accelerator
from jitvm.engine import group, region_pages, stencil, stencil_key, stitch
from jitvm.engine.accel import Accelerator
from jitvm.engine.grow import Grown
from jitvm.engine.layout import at
from jitvm.engine.memory_text import KIND_BYTES
from jitvm.engine.region import MODES
from jitvm.engine.region_ir import RegionBuilder
from jitvm.engine.specials import SPECIALS, special
from jitvm.engine.stitch import HandlerBuilder
from tests.engine.golden import ran
from tests.engine.grown import note_grown
from tests.engine.guest import Guest
from tests.engine.ir_proof import Function, prove, proving
from tests.engine.native_decoder import Decoder
from tests.engine.programs import loaded, looping, program
from tests.fast_set import share


@pytest.fixture(scope="module")
def grown() -> Iterator[list[Grown]]:
    """Regions of some programs, whose handlers are there too."""
    patch = pytest.MonkeyPatch()
    found = note_grown(patch)
    for seed, bits in ((1, 32), (2, 16), (3, 32)):
        assert loaded("handlers", program(seed, bits), bits).go(20_000) == "hlt"
        assert loaded("regions", looping(seed, bits), bits).go(20_000) == "hlt"
    yield found
    patch.undo()


@pytest.mark.parametrize("large", share([region_pages.LARGE, 1], 1))
def test_regions(grown: list[Grown], large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_pages, "LARGE", large)
    assert len(grown) > 3
    for modes in ((), *((mode,) for mode in MODES)):
        for region in grown:
            b = RegionBuilder(accelerator().units, "r_test", region.nodes, modes)
            b.build()
            assert prove(b.text()) == []


@pytest.mark.usefixtures("grown")
def test_handlers_and_stencils() -> None:
    accel = accelerator()
    shapes, keys = accel.forms.shapes, list(accel._handlers)
    assert len(keys) > 60
    n = 0
    for key in keys:
        assert prove(group.build(accel.units, shapes, key, "i_test").text()) == []
        if len(group.members(key)) == 1 and stencil.possible(shapes[key & 0xFFFF]):
            n += 1
            for seg, scale in ((0, 0), (3, 2)):
                operands = seg << stencil_key.SEG_SHIFT | scale << stencil_key.SCALE_SHIFT
                assert prove(stencil.builder(accel.units, shapes, key | operands, "s_test").text()) == []
    assert n > 30


@pytest.mark.parametrize("name", SPECIALS)
def test_special_handlers(name: str) -> None:
    assert prove(special(accelerator().units, name).text()) == []


# ---- what is wrong is seen --------------------------------------------------------------------------------------------
def handler(code: str) -> str:
    """The text of an instruction's handler, in 32-bit code with flat segments."""
    d = Decoder()
    d(bytes.fromhex(code), 32, 0)
    accel = accelerator()
    return stitch.handler(accel.units, accel.forms.shapes, accel.forms.number(d.shape()), "i_test").text()


LOAD, STORE, ADD_TO = "8b 43 04", "89 43 04", "01 03"
"""mov eax, [ebx + 4]; mov [ebx + 4], eax; add [ebx], eax."""


@pytest.mark.parametrize(
    ("code", "pattern", "into"),
    [
        (LOAD, r"load volatile i32", "load i32"),  # may be moved
        (LOAD, r"load volatile i32", "load volatile i64"),  # longer than what was looked up
        (LOAD, r"br i1 (%\w+), label %(\w+), label %(\w+)", r"br i1 \1, label %\3, label %\2"),  # on the miss
        (LOAD, r"br i1 (%\w+), label %(\w+), label %(\w+).*", r"br label %\2"),  # not asked for
        (LOAD, r", -4096", ", -8192"),  # another page's entry would do
        (LOAD, r"i64 (%\w+), 3$", r"i64 \1, 2"),  # the last byte is not asked for
        (STORE, rf"i64 {at('tlb') + KIND_BYTES}$", f"i64 {at('tlb')}"),  # an entry for reads
        (STORE, r"(getelementptr i8, ptr %\w+, i64) 8$", r"\1 0"),  # not the addend
        (ADD_TO, r"icmp ne ptr (%\w+), null", r"icmp eq ptr \1, null"),  # where there is no pointer
        (ADD_TO, r"phi ptr \[ (%\w+),", "phi ptr [ %uop,"),
        ("01 d8", r"ptr %cpu, i64 \d+", "ptr %cpu, i64 99999999"),  # outside of the record
        ("01 d8", r"ptr %uop, i64 9$", "ptr %uop, i64 -8"),
        ("01 d8", r"zext i8 (%\w+) to i64", r"sext i8 \1 to i64"),  # an offset without bounds
    ],
)
def test_the_proof_sees(code: str, pattern: str, into: str) -> None:
    text = handler(code)
    assert prove(text) == []
    changed = re.sub(pattern, into, text, flags=re.M)
    assert changed != text
    assert prove(changed) != []


@pytest.mark.parametrize(
    ("pattern", "into"),
    [
        (r"icmp ule i64 (%\w+), 40\d\d", r"icmp ule i64 \1, 4096"),  # beyond the page that is remembered
        (r"store i64 (%\w+), ptr %host(\d)", r"store i64 %left, ptr %host\2"),  # remembers what was not looked up
        (r"store i64 (%\w+), ptr %page(\d)", r"store i64 0, ptr %page\2"),
        (r"(store i64 %\w+, ptr %page\d\n)", ""),
        (r"(%\w+) = load i64, ptr %host0", r"\1 = load i64, ptr %host1"),  # another stream's page
    ],
)
def test_the_proof_sees_shared_pages(pattern: str, into: str, grown: list[Grown]) -> None:
    texts = []
    for region in grown:
        b = RegionBuilder(accelerator().units, "r_test", region.nodes)
        b.build()
        texts.append(b.text())
    text = next(t for t in texts if "%host1" in t and re.search(r"icmp ule i64 %\w+, 40\d\d", t))
    assert prove(text) == []
    changed = re.sub(pattern, into, text)
    assert changed != text
    assert prove(changed) != []


GROUP = "1: mov eax, [ebp - 8]\n add [ebp - 12], eax\n dec ecx\n jnz 1b"


@pytest.mark.parametrize(
    ("pattern", "into"),
    [
        (r"icmp ule i64 (%\w+), 4088", r"icmp ule i64 \1, 4092"),  # one of two is on the page
        (r"add i64 (%\w+), 7$", r"add i64 \1, 3"),
        (r"(phi i64 .*\n.* phi i64 .*\n.* add i64 .*\n.* add i64 %\w+), 4$", r"\1, 8"),  # behind what was asked for
        (rf"i64 {at('tlb') + KIND_BYTES}$", f"i64 {at('tlb')}"),
    ],
)
def test_the_proof_sees_groups(pattern: str, into: str) -> None:
    b = RegionBuilder(accelerator().units, "r_test", ran(GROUP, 32).grown.nodes)
    b.build()
    assert prove(b.text()) == []
    changed = re.sub(pattern, into, b.text(), flags=re.M)
    assert changed != b.text()
    assert prove(changed) != []


@pytest.mark.parametrize(
    ("pattern", "into"),
    [
        (r"load i64, ptr %page0$", "load i64, ptr %page1"),  # taken over from another page
        (r"store i64 %\w+, ptr %host_loop0\n", "\n"),
    ],
)
def test_the_proof_sees_loops(pattern: str, into: str, grown: list[Grown], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_pages, "values_of", lambda nodes: 0)
    texts = []
    for region in grown:
        b = RegionBuilder(accelerator().units, "r_test", region.nodes)
        b.build()
        texts.append(b.text())
    text = next(t for t in texts if re.search(r"load i64, ptr %page0$", t, re.M) and "%page1" in t)
    assert prove(text) == []
    changed = re.sub(pattern, into, text, flags=re.M)
    assert changed != text
    assert prove(changed) != []


def test_facts_hold_behind_their_edge_only() -> None:
    function = Function("""define i64 @x(ptr %cpu) {
entry:
  %a = icmp eq i64 1, 2
  %b = icmp eq i64 3, 4
  %c = and i1 %a, %b
  br i1 %c, label %yes, label %no
yes:
  br label %join
no:
  br label %join
join:
  ret i64 0
}
""")
    assert function.facts("yes") == {"%c": True, "%a": True, "%b": True}
    assert function.facts("no") == {"%c": False}
    assert function.facts("join") == {}


# ---- the mode -------------------------------------------------------------------------------------------------------
def test_all_that_is_stitched_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    with proving(anew=True) as proved:
        monkeypatch.setattr(bare, "_accelerator", Accelerator())
        guest = Guest("regions")
        guest.load("mov ecx, 9\n1: add [0x8000], ecx\n dec ecx\n jnz 1b\n hlt")
        assert guest.go(100) == "hlt"
    kinds = {name[0] for name in proved}
    assert kinds == {"h", "i", "s", "r"}
    assert set(SPECIALS) <= set(proved)


@pytest.mark.slow
def test_what_is_wrong_ends_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    def plainly(b: HandlerBuilder, pointer: str, size: int) -> str:
        return b.new(f"zext i{8 * size} {b.new(f'load i{8 * size}, ptr {pointer}')} to i64")

    with proving(anew=True):
        monkeypatch.setattr(bare, "_accelerator", Accelerator())
        guest = Guest("handlers")
        monkeypatch.setattr(HandlerBuilder, "_guest_load", plainly)
        guest.load("mov eax, [0x8000]\n hlt")
        with pytest.raises(AssertionError, match="a pointer from nowhere"):
            guest.go(10)
