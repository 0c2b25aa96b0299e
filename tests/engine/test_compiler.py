"""The compiler process: what it delivers while a guest runs, and how its end is borne."""

from __future__ import annotations

import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from jitvm.bare import accelerator
from jitvm.engine import layout as lay
from jitvm.engine.accel import Options
from jitvm.engine.compiler import LAST, MOST_DEATHS, NOW, RANKS, Compiler, Made, Outbox, Question
from jitvm.engine.region import Node
from tests.engine.grown import note_grown
from tests.engine.guest import Guest, same

LOOP = "mov ecx, 1000\n1: add eax, ecx\n xor [0x8000], eax\n dec ecx\n jnz 1b\n mov ecx, 77\n jmp 1b"
BESIDE = Options(hot=1, region_hot=2)
PATIENCE = 60
"""Seconds that a busy host may take to compile a loop."""


@pytest.fixture(scope="module")
def nodes() -> tuple[Node, ...]:
    """A small region's."""
    patch = pytest.MonkeyPatch()
    grown = note_grown(patch)
    guest = Guest("regions")
    guest.load(LOOP)
    guest.go(10_000)
    patch.undo()
    return grown[0].nodes


@pytest.fixture
def compiler() -> Iterator[tuple[Compiler, list[str]]]:
    """A process that finds the units in the cache, where `nodes` has put them, and what it warned of."""
    warnings: list[str] = []
    compiler = Compiler(accelerator().cache.folder, warnings.append)
    yield compiler, warnings
    compiler.close()


def deliver(compiler: Compiler, nodes: tuple[Node, ...]) -> Made:
    """One region, waited for."""
    made: queue.Queue[Made] = queue.Queue()
    compiler.submit(nodes, made.put)
    return made.get(timeout=PATIENCE)


def test_a_guest_runs_on_while_a_region_is_made() -> None:
    guest, other = Guest("handlers", options=BESIDE), Guest("handlers")
    for g in (guest, other):
        g.load(LOOP)
    end = time.monotonic() + PATIENCE
    while not guest.bare.vcpu.regions.installed and time.monotonic() < end:
        assert guest.go(100_000) == "limit"
    assert guest.bare.vcpu.regions.installed >= 1
    assert guest.go(12_345) == "limit"
    other.go(guest.retired)
    same(guest.state(), other.state(), "with a region installed on the way")


def test_it_delivers_without_a_cache_and_begins_again_after_close(nodes: tuple[Node, ...]) -> None:
    warnings: list[str] = []
    compiler = Compiler(None, warnings.append)
    first = deliver(compiler, nodes)
    assert first.code.startswith(b"\x7fELF")
    compiler.close()
    assert deliver(compiler, nodes).name == first.name
    compiler.close()
    assert not warnings


def deaf() -> subprocess.Popen[bytes]:
    """A process that neither reads nor writes."""
    return subprocess.Popen(["sleep", "600"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def started(compiler: Compiler) -> subprocess.Popen[bytes]:
    """Its process, once there is one."""
    end = time.monotonic() + PATIENCE
    while (process := compiler._process) is None and time.monotonic() < end:
        time.sleep(0.01)
    assert process is not None
    return process


def kill(compiler: Compiler) -> None:
    """End the process from outside, and wait until that was noticed."""
    process = started(compiler)
    process.kill()
    end = time.monotonic() + PATIENCE
    while compiler._process is process and not compiler.broken and time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.slow
def test_one_that_ended_is_followed_by_another(compiler: tuple[Compiler, list[str]], nodes: tuple[Node, ...]) -> None:
    first = deliver(compiler[0], nodes)
    kill(compiler[0])
    assert deliver(compiler[0], nodes).name == first.name
    assert not compiler[1]


def began(compiler: Compiler, nodes: object, done: Callable[[Made], None]) -> None:
    """A region that the process is given before any that is submitted later."""
    compiler.submit(nodes, done)  # type: ignore[arg-type]  # some are no nodes
    end = time.monotonic() + PATIENCE
    while not (compiler._outbox and compiler._outbox.given) and time.monotonic() < end:
        time.sleep(0.001)


def test_what_it_was_at_is_left_out_and_the_rest_is_made(
    compiler: tuple[Compiler, list[str]], nodes: tuple[Node, ...]
) -> None:
    """A region on which LLVM aborts is not tried again."""
    never: list[Made] = []
    began(compiler[0], ("no node",), never.append)  # the process fails on it
    assert deliver(compiler[0], nodes).code.startswith(b"\x7fELF")
    assert compiler[0]._deaths == 1
    assert not never and not compiler[1]


def test_who_submits_never_waits(nodes: tuple[Node, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not read, as while it starts: more is submitted than any pipe holds."""
    monkeypatch.setattr(Compiler, "_start", lambda self: deaf())
    compiler = Compiler(None, print)
    made: list[Made] = []
    for _ in range(200):
        compiler.submit(nodes * 50, made.append)
    assert len(compiler._waiting) == 200 and not made
    started(compiler).kill()
    compiler.close()


def test_an_answer_that_ends_in_the_middle_is_an_end(
    nodes: tuple[Node, ...], monkeypatch: pytest.MonkeyPatch, compiler: tuple[Compiler, list[str]]
) -> None:
    """A process that is killed while it writes: the length of an answer is there, the answer is not."""
    start, ends = Compiler._start, ["printf '\\1\\1\\0\\0\\0\\0\\0\\0half'", "printf '\\1\\1'"]

    def half(self: Compiler) -> subprocess.Popen[bytes]:
        if not ends:
            return start(self)
        script = f"head -c 1 > /dev/null; {ends.pop()}"
        return subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    monkeypatch.setattr(Compiler, "_start", half)
    made: queue.Queue[Made] = queue.Queue()
    for _ in range(3):
        compiler[0].submit(nodes, made.put)
    assert made.get(timeout=PATIENCE).code.startswith(b"\x7fELF")
    assert compiler[0]._deaths == 2
    assert made.empty() and not compiler[0]._waiting and not compiler[1]


class Endless:
    """In place of a region's nodes: what never ends, or takes all memory, where it is read."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return exec, (self.code,)


TOO_LONG = """
import signal
left, _ = signal.getitimer(signal.ITIMER_PROF)
signal.setitimer(signal.ITIMER_PROF, left / 1000)
while True: pass
"""
TOO_LARGE = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))
bytes(1 << 30)
"""


@pytest.mark.parametrize("code", [TOO_LONG, TOO_LARGE])
def test_a_region_that_takes_too_much_is_left_out(
    code: str, compiler: tuple[Compiler, list[str]], nodes: tuple[Node, ...]
) -> None:
    """Too much time (less of it is waited for here), too much memory: the next process makes the others."""
    never: list[Made] = []
    began(compiler[0], (Endless(code),), never.append)
    assert deliver(compiler[0], nodes).code.startswith(b"\x7fELF")
    assert compiler[0]._deaths == 1
    assert not never and not compiler[1]


def question(n: int, what: str) -> Question:
    """Number n, which nobody waits for."""
    return Question(RANKS[what], (n, what), lambda made: None, lambda at_it: None)


def test_stencils_go_before_regions() -> None:
    """One at a time; at the end all that is left."""
    outbox = Outbox()
    for n in (1, 2):
        outbox.put(n, question(n, "region"))
    assert outbox.take() == (2, "region"), "the last one"
    for n in (3, 4):
        outbox.put(n, question(n, "stencils"))
    assert [*outbox.given] == [2]
    outbox.answered(2)
    assert outbox.take() == (3, "stencils")
    outbox.answered(3)
    outbox.put(5, question(5, "region"))
    outbox.end(LAST)
    assert [outbox.take() for _ in range(4)] == [(4, "stencils"), (5, "region"), (1, "region"), None]
    assert [*outbox.given] == [4, 5, 1]


def test_nothing_is_written_to_a_process_that_has_ended() -> None:
    outbox = Outbox()
    for n in (1, 2):
        outbox.put(n, question(n, "stencils"))
    assert outbox.take() == (1, "stencils")
    outbox.end(NOW)
    assert outbox.take() is None and [*outbox.given] == [1]


def test_a_busy_process_takes_all_that_it_is_given() -> None:
    """More than any pipe holds, while it is at one region: who ends does not wait for it."""
    compiler = Compiler(accelerator().cache.folder, print)
    made: list[Made] = []
    began(compiler, (Endless("while True: pass"),), made.append)
    for _ in range(4):
        compiler.submit(("no node" * 100_000,), made.append)  # type: ignore[arg-type]
    process, writer = started(compiler), compiler._writer
    compiler.close()
    writer.join(PATIENCE)
    assert not writer.is_alive()
    assert process.poll() is None, "it is still at the first"
    process.kill()
    assert not made


def test_a_host_that_starts_no_process(nodes: tuple[Node, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Said once, in one line; the guest runs on without regions."""

    def refused(*args: object, **kwargs: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refused)
    warnings: queue.Queue[str] = queue.Queue()
    compiler = Compiler(None, warnings.put)
    made: list[Made] = []
    for _ in range(3):
        compiler.submit(nodes, made.append)
    told = warnings.get(timeout=PATIENCE)
    assert told == "no compiler process (Resource temporarily unavailable); hot loops stay with copied code"
    compiler.submit(nodes, made.append)
    compiler.close()
    assert warnings.empty() and not made and not compiler._waiting


def test_a_host_without_room_for_a_thread(nodes: tuple[Node, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    warnings: list[str] = []
    compiler = Compiler(None, warnings.append)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        compiler.submit(nodes, print)
    compiler.submit(nodes, print)
    assert warnings == ["no compiler process (can't start new thread); hot loops stay with copied code"]
    compiler.close()


def test_its_last_end_is_told_once(compiler: tuple[Compiler, list[str]], nodes: tuple[Node, ...]) -> None:
    deliver(compiler[0], nodes)
    for _ in range(MOST_DEATHS + 1):
        kill(compiler[0])
    end = time.monotonic() + PATIENCE
    while not compiler[1] and time.monotonic() < end:
        time.sleep(0.01)
    assert compiler[1] == ["the compiler process ended (status -9); hot loops stay with copied code"]
    made: list[Made] = []
    compiler[0].submit(nodes, made.append)
    assert len(compiler[1]) == 1
    assert not made


def test_a_wake_without_a_region_is_no_end() -> None:
    """The vCPU may fetch a region just before it is called to."""
    guest = Guest("handlers", options=BESIDE)
    guest.load(LOOP)
    guest.bare.vcpu.wake()
    assert guest.go(10_000) == "limit"
    assert guest.retired == 10_000


def test_a_region_is_not_lost_where_a_kick_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its wake and the kick are the same mark."""
    guest = Guest("handlers", options=BESIDE)
    guest.load(LOOP)
    vcpu = guest.bare.vcpu
    monkeypatch.setattr(vcpu.accel.code, "find_region", lambda nodes, modes: None)
    guest.go(10_000)
    end = time.monotonic() + PATIENCE
    while not vcpu.regions.ready and time.monotonic() < end:
        time.sleep(0.01)
    installed = vcpu.regions.installed
    assert vcpu.regions.ready
    vcpu.kick()
    vcpu.unkick()
    assert vcpu.regions.installed > installed


def test_a_kick_is_not_lost_where_a_wake_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kick that comes while the floor is being lowered keeps the run from going on."""
    guest = Guest("handlers", options=BESIDE)
    guest.load(LOOP)
    vcpu = guest.bare.vcpu
    vcpu.wake()

    class Signed:
        """The record's words, with a kick from elsewhere in front of the write that lowers the floor."""

        def __init__(self, words: memoryview) -> None:
            self.words = words

        def __getitem__(self, k: int) -> int:
            return int(self.words[k])

        def __setitem__(self, k: int, v: int) -> None:
            if v == 0 and k == vcpu._floor and not vcpu.kicked:
                vcpu.kick()
            self.words[k] = v

    monkeypatch.setattr(vcpu, "signed", Signed(vcpu.signed))
    assert vcpu.run(10_000) == lay.WHY_LIMIT
    assert vcpu.kicked
    assert guest.retired < 10_000
    assert vcpu.signed[vcpu._floor] != 0
