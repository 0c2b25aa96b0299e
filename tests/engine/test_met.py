"""What earlier runs met: a warm start knows all forms, and comes back for handlers once a batch of the cache's."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

import pytest

from jitvm import bare
from jitvm.engine import cache
from jitvm.engine.accel import Accelerator, Options, VcpuEngine
from jitvm.engine.cache import Cache
from jitvm.engine.forms import Forms, Shape
from jitvm.engine.layout import GROUP_BIT
from jitvm.engine.met import Met
from tests.engine.guest import Guest, same
from tests.engine.programs import loaded, looping
from tests.engine.test_counts import LIMIT, to_the_end
from tests.texts import texts_of_this_session

SHAPES = Shape("alu.add", "value", ops=("r", "r")), Shape("alu.sub", "value", ops=("r", "r"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each time that a vCPU came back for forms, and for handlers or stencils."""
    found: list[str] = []
    for name in ("_learn", "_stamp"):

        def noted(engine: VcpuEngine, name: str = name, call: object = getattr(VcpuEngine, name)) -> None:
            found.append(name)
            call(engine)  # type: ignore[operator]  # a method

        monkeypatch.setattr(VcpuEngine, name, noted)
    return found


@pytest.mark.slow
def test_a_warm_start_asks_for_batches(tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    texts_of_this_session(tmp_path)
    monkeypatch.setattr(cache, "LOOSE_MOST", 2)  # a short program's objects are put together, too
    source, counts, guests = looping(31, 32), [], []
    for _ in range(3):
        accel = Accelerator(tmp_path / "jitvm")
        monkeypatch.setattr(bare, "_accelerator", accel)
        guests.append(loaded("handlers", source, 32, Options(hot=2, regions=False)))
        to_the_end(guests[-1], LIMIT)
        accel.keep()
        compiled = sum(tally.compiled for tally in accel.code.tallies.values())
        counts.append((asked.count("_learn"), asked.count("_stamp"), compiled))
        asked.clear()
    (learned, stamped, compiled), *warm = counts
    assert learned > 20 and stamped > 10 and compiled > stamped
    assert all(forms == again == 0 and batches <= stamped // 4 for forms, batches, again in warm), counts
    for guest in guests[1:]:
        same(guest.state(), guests[0].state(), "warm and cold")


def met(folder: Path, forms: Forms) -> Met:
    return Met(Cache(folder / "jitvm", "epoch"), forms)


def test_shapes_are_numbered_anew(tmp_path: Path) -> None:
    """Keys have numbers of shapes in them, which are another run's."""
    forms = Forms()
    first = met(tmp_path, forms)
    numbers = [forms.number(shape) for shape in SHAPES]
    first.learn(77, (5, numbers[1]))
    first.use({numbers[0]: "i_add", numbers[1] | 1 << 16: "i_sub", 1 << GROUP_BIT: "i_group"})
    first.keep()
    others = Forms()
    others.number(Shape("alu.xor", "value", ops=("r", "r")))
    again = met(tmp_path, others)
    add, sub = (others.number(shape) for shape in SHAPES)
    assert [add, sub] != numbers
    assert again.known == {77: (5, sub)}
    assert again.linked(["i_xor"]) == {}
    assert again.linked(["i_sub", "i_group"]) == {sub | 1 << 16: "i_sub"}
    assert again.linked(["i_sub", "i_add"]) == {add: "i_add"}, "told once, and nothing of groups"


def test_what_is_wanted_is_not_told_again(tmp_path: Path) -> None:
    forms = Forms()
    first = met(tmp_path, forms)
    n = forms.number(SHAPES[0])
    first.use({n: "i_add"})
    first.keep()
    again = met(tmp_path, forms)
    again.use({n: "i_add"})
    assert again.linked(["i_add"]) == {}


def test_asking_takes_as_long_however_much_earlier_runs_used(monkeypatch: pytest.MonkeyPatch) -> None:
    accel, calls = bare.accelerator(), 0
    monkeypatch.setattr(accel.met, "_not_linked", {f"i_{n}": [n] for n in range(5000)})

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal calls
        calls += event.endswith("call")

    sys.setprofile(count)
    try:
        accel._use({})
    finally:
        sys.setprofile(None)
    assert calls < 500


@pytest.mark.parametrize("kept", [[], {}, {"shapes": []}, {"shapes": [[1]], "forms": [[1]], "used": []}, "text"])
def test_what_is_no_such_file_is_not_believed(kept: object, tmp_path: Path) -> None:
    folder = Cache(tmp_path / "jitvm", "epoch")
    folder.save("forms", kept)
    assert Met(folder, Forms()).known == {}


def test_a_vcpu_that_is_there_gets_what_came_along(asked: list[str]) -> None:
    """Neighbours of what one vCPU wants are entered for it, and for those that are made later."""
    first = Guest("handlers")
    first.load("add eax, ebx\n sub ecx, edx\n hlt")
    assert first.go(10) == "hlt"
    asked.clear()
    second = Guest("handlers")
    second.load("add eax, ebx\n sub ecx, edx\n hlt")
    assert second.go(10) == "hlt"
    assert not asked
