"""Stencils that the compiler process makes while the guest runs on with handlers: the guest sees nothing of it.

As in a first run no stencil is known at the beginning; units and handlers are.
"""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from jitvm import bare
from jitvm.engine.accel import Accelerator, Options, VcpuEngine
from jitvm.engine.cache import Cache
from jitvm.engine.code import source_epoch
from jitvm.engine.compiler import Compiler, Made, send
from jitvm.engine.forms import Shape
from jitvm.engine.stencil_store import UNCUTTABLE, StencilStore, compile_stencils
from jitvm.machine import Machine
from tests.boot.guests import config
from tests.engine.guest import CODE, Guest, same
from tests.engine.programs import loaded, looping
from tests.engine.test_code_cache import TINY, many_blocks
from tests.engine.test_compiler import PATIENCE, deaf
from tests.engine.test_counts import LIMIT, Restart, to_the_end
from tests.engine.test_regions_beside import in_steps
from tests.fast_set import share
from tests.texts import texts_of_this_session

PLAIN = Options(hot=1, drops=4, regions=False, pins=False, beside=True)
BESIDE = {
    "stencils": replace(PLAIN, count=True),
    "pinned": replace(PLAIN, pins=True, pin_hot=2, count=True),
    "regions": Options(hot=1, region_hot=2, drops=4, beside=True),
}
LOOP = "1: add eax, 2\n xor edx, eax\n dec ecx\n jnz 1b\n hlt"


def first_run(folder: Path, warnings: list[str]) -> Accelerator:
    """An accelerator that keeps its stencils in a folder, with a compiler process for them."""
    accel = Accelerator()
    accel.compiler = Compiler(folder, warnings.append)
    accel.stencils = StencilStore(accel.code, accel.forms.shapes, accel.compiler)
    accel.stencils.cache = Cache(folder, source_epoch())
    return accel


@pytest.fixture
def warnings() -> list[str]:
    """What the user was warned of."""
    return []


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]) -> Iterator[Accelerator]:
    """What the guests of a test run on."""
    texts_of_this_session(tmp_path)
    accel = first_run(tmp_path / "jitvm", warnings)
    monkeypatch.setattr(bare, "_accelerator", accel)
    yield accel
    accel.compiler.close()


def busy(accel: Accelerator) -> bool:
    """Whether stencils are on their way."""
    return bool(accel.stencils._under_way or accel.stencils._wanted)


def passes(accel: Accelerator) -> Iterator[int]:
    """So many times may a program be run until nothing is on its way, and three times more."""
    end, quiet = time.monotonic() + PATIENCE, 0
    while quiet < 3:
        assert time.monotonic() < end
        yield quiet
        quiet = 0 if busy(accel) else quiet + 1


def until(true: Callable[[], object]) -> None:
    """Wait for the compiler process."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@dataclass(frozen=True)
class Question:
    """A batch that was ordered."""

    names: Sequence[str]
    shapes: Sequence[Shape]
    keys: Sequence[int]
    done: Callable[[Made], None]
    lost: Callable[[bool], None]

    def answer(self, accel: Accelerator) -> None:
        """As the process would."""
        self.done(compile_stencils(accel.units, self.names, self.shapes, self.keys))


@pytest.fixture
def asked(first: Accelerator, monkeypatch: pytest.MonkeyPatch) -> list[Question]:
    """What the compiler process would be asked, which is not started."""
    found: list[Question] = []
    monkeypatch.setattr(first.compiler, "stamp", lambda *what: found.append(Question(*what)))
    return found


@pytest.mark.parametrize("engine", share(BESIDE, 2))
@pytest.mark.parametrize("bits", [32, 16, 64])
@pytest.mark.parametrize("seed", share(range(300, 303), 1))
def test_random(engine: str, bits: int, seed: int, first: Accelerator) -> None:
    """Programs run again and again, in steps of any length, until nothing is on its way."""
    source, chance = looping(seed, bits), random.Random(seed)
    plain = loaded("plain", source, bits)
    to_the_end(plain, LIMIT)
    end = plain.state()
    guest = loaded("handlers", source, bits, BESIDE[engine])
    again = Restart(guest)
    in_steps(guest, chance)
    same(guest.state(), end, f"at first\n{source}\n")
    assert busy(first) and not guest.c.stat_promoted
    for _ in passes(first):
        again()
        in_steps(guest, chance)
        same(guest.state(), end, f"while stencils arrive\n{source}\n")
    assert first.code.tallies["stencils"].compiled > 20
    assert int(guest.c.stat_promoted) > 3
    assert int(guest.c.stat_pinned) > 3 or engine != "pinned"
    if guest.bare.vcpu.options.count:
        before = int(guest.c.stat_copied_insns)
        again()
        in_steps(guest, chance)
        same(guest.state(), end, f"with stencils\n{source}\n")
        assert int(guest.c.stat_copied_insns) - before > guest.retired // 4


def test_no_room_for_what_arrives(first: Accelerator) -> None:
    """Hot blocks for more code than there is room: all is forgotten, also blocks that wait."""
    ends = []
    for engine, options in (("plain", None), ("handlers", replace(TINY, regions=False, sync=False, beside=True))):
        guest = Guest(engine, memory=0x80000, options=options)
        guest.load(many_blocks(150, 2), 0x30000)
        guest.registers(eax=1)
        again = Restart(guest)
        for _ in passes(first) if options else (0,):
            again()
            assert guest.go(LIMIT) == "hlt"
        ends.append(guest.state())
    same(ends[1], ends[0], "with little room for copied code")
    assert int(guest.c.stat_flushes) > 0 and int(guest.c.stat_promoted) > 150


def rewritten(guest: Guest) -> None:
    """The block is dropped, and translated anew in its place."""
    guest.bare.write(CODE + 2, b"\3")
    assert guest.go(100) == "limit"


def forgotten(guest: Guest) -> None:
    """All blocks are, and another one has the first's number and place."""
    guest.bare.vcpu.forget()
    assert guest.go(100) == "limit"


ACTS: dict[str, tuple[Callable[[Guest], None], int]] = {
    "nothing": (lambda guest: None, 4),
    "rewritten": (rewritten, 4),
    "rewritten, then without an entry record": (rewritten, 1),
    "rewritten and not run again": (lambda guest: guest.bare.write(CODE + 2, b"\3"), 4),
    "forgotten": (forgotten, 4),
    "forgotten and not run again": (lambda guest: guest.bare.vcpu.forget(), 4),
}


@pytest.mark.parametrize("engine", ["stencils", "pinned", "regions"])
@pytest.mark.parametrize("act", ACTS)
def test_what_became_of_the_block_meanwhile(
    act: str, engine: str, first: Accelerator, asked: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch arrives when there is another block in the place of the one that wanted it, or none."""
    monkeypatch.setattr(first.compiler, "submit", lambda *what: None)
    do, drops = ACTS[act]
    options = replace(BESIDE[engine], drops=drops, hot=5)
    cpus = [Guest("plain"), Guest("handlers", options=options)]
    for step in range(4):
        for guest in cpus:
            if step == 0:
                guest.load(LOOP)
                guest.registers(eax=0, ecx=600)
            if step == 2 and (guest.engine != "plain" or act.startswith("rewritten")):
                do(guest)
        if step == 1:
            assert len(asked) == 1
        if step > 1 and len(asked) >= step - 1:
            asked[step - 2].answer(first)
        cpus[1].go(400)
        cpus[0].go(cpus[1].retired - cpus[0].retired)
        same(cpus[1].state(), cpus[0].state(), f"{act}, step {step}")
    assert cpus[1].go(LIMIT) == cpus[0].go(LIMIT) == "hlt"
    same(cpus[1].state(), cpus[0].state(), act)
    assert bool(cpus[1].c.stat_promoted) == (drops > 1)


def test_a_block_that_waits_does_not_ask_again_and_again(asked: list[Question], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    stamp = VcpuEngine._stamp

    def counted(engine: VcpuEngine) -> None:
        calls.append(int(engine.c.why))
        assert len(calls) < 10
        stamp(engine)

    monkeypatch.setattr(VcpuEngine, "_stamp", counted)
    guest = Guest("handlers", options=PLAIN)
    guest.load(LOOP)
    guest.registers(ecx=30_000)
    assert guest.go(200_000) == "hlt"
    assert len(asked) == 1 and calls


def test_vcpus_want_the_same_and_get_it(first: Accelerator, asked: list[Question]) -> None:
    """Each stencil is ordered once; what is wanted meanwhile is in the next batch; both vCPUs have the code then."""
    said: list[str] = []
    first.code.on_progress = said.append
    cpus = [Guest("handlers", options=PLAIN) for _ in range(2)]
    for guest, last in zip(cpus, ("inc ebx", "lea ebx, [ebx + 3]"), strict=True):
        guest.load(f"again: mov ecx, 9\n1: add eax, 2\n dec ecx\n jnz 1b\n {last}\n jmp again")
        assert guest.go(1000) == "limit"
    assert len(asked) == 1
    asked[0].answer(first)
    cpus[0].bare.vcpu.kick()
    cpus[0].bare.vcpu.unkick()
    assert len(asked) == 2, "the first one that comes by orders the next batch"
    asked[1].answer(first)
    for guest in cpus:
        assert guest.go(1000) == "limit"
        assert int(guest.c.stat_promoted) > 1
    names = [name for question in asked for name in question.names]
    assert len(set(names)) == len(names) > 5
    assert [text for text in said if "stencils" in text] == [f"{len(q.names)} stencils" for q in asked]
    tally = first.code.tallies["stencils"]
    assert (tally.compiled, tally.from_cache) == (len(names), 0) and tally.seconds > 0


def test_who_asks_just_when_the_answer_comes_is_told(
    first: Accelerator, asked: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler's thread has told all that waited, before this one did."""
    guest, late = Guest("handlers", options=PLAIN), Guest("handlers", options=PLAIN).bare.vcpu.waiting
    guest.load(LOOP)
    assert guest.go(10) == "limit"
    name = first.stencils._name

    def answered(key: int) -> tuple[str, int]:
        if not first.stencils._arrived:
            asked[0].answer(first)
        return name(key)

    keys = list(first.stencils._known)
    monkeypatch.setattr(first.stencils, "_name", answered)
    assert not first.copied(keys, late) and late.arrived
    assert first.copied(keys, late).keys() == set(keys) and len(asked) == 1


def test_what_was_made_at_once_meanwhile_stays_where_it_is(first: Accelerator, asked: list[Question]) -> None:
    """Translated code of a vCPU that does not wait leads there."""
    cpus = [Guest("handlers", options=options) for options in (PLAIN, replace(PLAIN, beside=False))]
    for guest in cpus:
        guest.load(LOOP)
        guest.registers(ecx=5000)
        assert guest.go(1000) == "limit"
    assert int(cpus[1].c.stat_promoted) > 0
    before = dict(first.stencils.address)
    asked[0].answer(first)
    assert cpus[0].go(1000) == "limit"
    assert int(cpus[0].c.stat_promoted) > 0
    assert {name: first.stencils.address[name] for name in before} == before


def test_a_machine_that_is_gone_is_not_told(first: Accelerator, asked: list[Question]) -> None:
    for _ in range(2):
        guest = Guest("handlers", options=PLAIN)
        guest.load(LOOP)
        guest.registers(ecx=5000)
        assert guest.go(1000) == "limit"
        del guest
        gc.collect()
    asked[0].answer(first)
    assert len(asked) == len(first.stencils._waiting) == 1


def test_the_next_run_finds_them(first: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrived, what was under way at the end, and what was wanted and not yet ordered."""
    guest = loaded("handlers", looping(11, 32), 32, PLAIN)
    to_the_end(guest, LIMIT)
    until(lambda: first.compiler._process is not None)
    process = first.compiler._process
    assert process is not None and first.stencils._wanted
    monkeypatch.setattr(first.cache, "tidy", lambda wanted: None)
    monkeypatch.setattr(first.code, "on_progress", pytest.fail)
    first.keep()
    assert not first.stencils._wanted
    process.wait(PATIENCE)
    later = first_run(tmp_path / "jitvm", [])
    monkeypatch.setattr(bare, "_accelerator", later)
    warm = loaded("handlers", looping(11, 32), 32, PLAIN)
    to_the_end(warm, LIMIT)
    assert int(warm.c.stat_promoted) > 3 and not busy(later) and later.code.tallies["stencils"].compiled == 0
    same(warm.state(), guest.state(), "warm")


def test_a_process_that_nobody_listens_to_makes_stencils_and_no_region(
    first: Accelerator, asked: list[Question], tmp_path: Path
) -> None:
    guest = Guest("handlers", options=PLAIN)
    guest.load(LOOP)
    guest.registers(ecx=5000)
    assert guest.go(1000) == "limit"
    (question,) = asked
    command = [sys.executable, "-m", "jitvm.engine.compiler", str(tmp_path / "jitvm"), "60"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    process.stdout.close()
    for k, (name, key) in enumerate(zip(question.names, question.keys, strict=True)):
        send(process.stdin, (k, "stencils", ((name,), question.shapes, (key,))))
    send(process.stdin, (-1, "region", ("no nodes: it would end over them", ())))
    process.stdin.close()
    assert process.wait(PATIENCE) == 0
    kept = Cache(tmp_path / "jitvm", source_epoch())
    assert len(question.names) > 2
    assert all(kept.find(name) for name in question.names)


# ---- without a process -----------------------------------------------------------------------------------------------
def test_a_batch_over_which_the_process_ended(
    first: Accelerator, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    """It is not made in this run, by nobody; the blocks have machine code for the rest."""
    start, processes = Compiler._start, [deaf()]
    monkeypatch.setattr(Compiler, "_start", lambda self: processes[-1] if len(processes) == 1 else start(self))
    guest, plain = Guest("handlers", options=PLAIN), Guest("plain")
    for g in (guest, plain):
        g.load(f"mov ecx, 5000\n{LOOP}".replace("hlt", "add ebx, 7\n jmp 2f\n2: bswap edx\n hlt"))
    assert guest.go(1000) == "limit"
    until(lambda: first.compiler._process is processes[0])
    tried = set(first.stencils._under_way)
    processes.append(processes[0])
    processes[0].kill()
    until(lambda: first.compiler._process is not processes[0] and guest.bare.vcpu.waiting.arrived)
    assert guest.go(1000) == "limit"
    assert tried and all(first.stencils.address[name] == UNCUTTABLE for name in tried)
    assert int(guest.c.stat_promoted) > 0
    end = Restart(guest)
    while guest.go(1000) == "limit" or busy(first):
        if guest.ends:
            end()
    assert guest.ends[-1][0] == "hlt" and not warnings and first.compiler._deaths == 1
    assert not any(name in tried for name in first.stencils._under_way)


def test_stencils_are_made_at_once_where_there_is_no_process(
    first: Accelerator, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    """What was asked of it is made by who wants it, and the user is told once."""

    def refused(*args: object, **kwargs: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refused)
    guest = Guest("handlers", options=PLAIN)
    guest.load(LOOP)
    guest.registers(ecx=5000)
    assert guest.go(1000) == "limit"
    until(lambda: first.compiler.broken)
    assert guest.go(LIMIT) == "hlt"
    assert int(guest.c.stat_promoted) > 0 and first.code.tallies["stencils"].compiled > 3
    assert [*first.stencils.address.values()].count(UNCUTTABLE) == 1, "HLT alone"
    assert len(warnings) == 1


def test_a_process_that_was_closed_and_killed_has_tried_nothing_else(
    first: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two batches that it was given it was at the first; the second is ordered again."""
    process = deaf()
    monkeypatch.setattr(Compiler, "_start", lambda self: process)
    told: dict[str, list[object]] = {"first": [], "second": []}
    for found in told.values():
        first.compiler.stamp((), (), (), found.append, found.append)
    until(lambda: first.compiler._process is process)
    first.compiler.close()
    process.kill()
    until(lambda: told["second"])
    assert told == {"first": [True], "second": [False]}


@pytest.mark.parametrize("options", [replace(PLAIN, sync=True), replace(PLAIN, beside=False), PLAIN])
def test_who_is_to_wait_waits(options: Options, first: Accelerator, asked: list[Question]) -> None:
    """`--jit sync` and tests; also where the cache keeps nothing, and a process would have to begin with Numba."""
    if options is PLAIN:
        first.stencils.cache = Cache(None, "")
    guest = Guest("handlers", options=options)
    guest.load(LOOP)
    guest.registers(ecx=20)
    assert guest.go(1000) == "hlt"
    assert int(guest.c.stat_promoted) > 0 and not asked


@pytest.mark.parametrize(
    ("jit", "opt", "beside"),
    [("regions", (), True), ("stencils", (), True), ("sync", (), False), ("regions", (("beside", False),), False)],
)
def test_machines_do_not_wait(jit: str, opt: tuple[tuple[str, bool], ...], beside: bool, tmp_path: Path) -> None:
    image = tmp_path / "rom.bin"
    image.write_bytes(b"\xf4" * 0x10000)
    with Machine(replace(config(image), jit=jit, engine=opt)) as machine:
        assert machine.vcpus[0].engine._beside == beside
