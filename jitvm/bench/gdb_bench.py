"""How fast the debugger's side is, beside QEMU's: ``make bench-gdb`` or ``python -m jitvm.bench.gdb_bench``.

Steps, breakpoint hits and reads are timed from a client's side: by bare packets, as a front end with
registers on the screen sends them (a step or a hit, then `g`), and by gdb itself. Latency is from
Ctrl-C to the stop reply. The guest's own speed is measured by a bench guest between its marks:
without gdb, with one that is attached and lets it run, and with a watchpoint on a page that it
does not use. Rounds alternate between the emulators.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from jitvm.bench.errors import BenchError, RunError
from jitvm.bench.gdb_client import Debuggee, Gdb, Jitvm, Packets, Qemu, free_port, started
from jitvm.bench.report import NOTHING, number
from jitvm.bench.results import host
from jitvm.bench.stats import median, ratio
from jitvm.bench.workloads import images_folder, load_image, patch

ENTRY = 0xF0020
"""Where a guest of a few bytes runs, in flat 32-bit protected mode."""
PROLOGUE = bytes.fromhex(
    "fa"  # cli
    "2e660f01164000"  # lgdt cs:[40h]
    "0f20c0 0c01 0f22c0"  # cr0 |= PE
    "66ea20000f000800"  # jmp 8:ENTRY
)
TABLES = bytes.fromhex(
    "1700 48000f00 0000"  # limit, base F0048h
    "0000000000000000 ffff0000009bcf00 ffff00000093cf00"
)
RESET_VECTOR = bytes.fromhex("ea000000f0")
GUESTS = {"loop": "40ebfd", "hlt": "f4ebfd", "storm": "e460ebfc", "still": "ebfe"}
"""inc eax, jump; hlt, jump; in al, 60h, jump; jump."""
SPEED_GUEST, ITERATIONS = "sieve", 12000
"""A bench guest of loads and stores, and how many of its iterations are a second's work."""
ELSEWHERE = 0x5000000
"""A page that the bench guest does not use."""
MARKS = re.compile(rb"\n(S)[^\n]*?(E)[0-9a-f]{8}\n")


@dataclass(frozen=True)
class Measure:
    """A row: its unit, what is wanted (`at_least` or at most) and how it is measured."""

    title: str
    unit: str
    aim: float | None = None
    at_least: bool = True
    worst: bool = False
    """Of the rounds the largest value counts, not the median."""

    def met(self, value: float) -> bool:
        """Whether a value is as wanted."""
        return self.aim is None or (value >= self.aim if self.at_least else value <= self.aim)


STEPS = Measure("stepi, packets", "/s", 500)
GDB_STEPS = Measure("stepi, gdb", "/s", 500)
HITS = Measure("breakpoint hits, packets", "/s", 800)
GDB_HITS = Measure("breakpoint hits, gdb", "/s", 800)
READS = Measure("memory reads", "MiB/s")
LATENCIES = {
    guest: (
        Measure(f"Ctrl-C in {words}, median", "ms", 50, False),
        Measure(f"Ctrl-C in {words}, worst", "ms", 50, False, True),
    )
    for guest, words in (("still", "a tight loop"), ("hlt", "HLT"), ("storm", "an exit storm"))
}
IDLE = Measure("speed with gdb attached / without", "", 0.97)
WATCHED = Measure("slowdown by a watchpoint elsewhere", "x", 2.0, False)


@dataclass
class Results:
    """Values of the rounds, by row and emulator."""

    values: dict[Measure, dict[str, list[float]]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def add(self, row: Measure, name: str, value: float) -> None:
        self.values.setdefault(row, {}).setdefault(name, []).append(value)

    def value(self, row: Measure, name: str) -> float | None:
        """The figure of a row for an emulator."""
        values = self.values.get(row, {}).get(name, [])
        return max(values, default=None) if row.worst else median(values)


@dataclass
class Bench:
    """What is measured on each emulator in each round; `scale`: how much of it."""

    scratch: Path
    results: Results
    scale: float = 1.0
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def count(self, n: int) -> int:
        """A number of repetitions, by the scale."""
        return max(2, int(n * self.scale))

    def image(self, guest: str) -> Path:
        """The ROM of a guest of a few bytes."""
        path = self.scratch / f"{guest}.bin"
        if not path.exists():
            data = bytearray(b"\xf4" * 0x10000)
            pieces = ((0, PROLOGUE), (0x20, bytes.fromhex(GUESTS[guest])), (0x40, TABLES))
            for at, piece in (*pieces, (0xFFF0, RESET_VECTOR)):
                data[at : at + len(piece)] = piece
            path.write_bytes(data)
        return path

    def round(self, who: Debuggee) -> None:
        """All rows once; what fails is told, the rest goes on."""
        for part in (self.packets, self.with_gdb, self.latencies, self.speed):
            try:
                part(who)
            except (RunError, OSError) as error:
                self.results.errors.append(f"{who.name}, {part.__name__}: {error}")

    def packets(self, who: Debuggee) -> None:
        """Steps, breakpoint hits and reads by bare packets."""
        port, add = free_port(), self.results.add
        with started(who, self.image("loop"), port), closing(Packets(port)) as debugger:
            point = b"0,%x,1" % ENTRY
            _want(debugger.ask(b"Z" + point), b"OK")
            debugger.stop_of(b"c")

            def step() -> None:
                debugger.stop_of(b"s")
                debugger.ask(b"g")

            def hit() -> None:
                """As gdb does it: step off the place without the breakpoint, then go on."""
                debugger.ask(b"z" + point)
                debugger.stop_of(b"s")
                debugger.ask(b"Z" + point)
                debugger.stop_of(b"c")
                debugger.ask(b"g")

            size = 0x400
            for _ in range(20):
                hit()
            add(HITS, who.name, _rate(hit, self.count(400)))
            debugger.ask(b"z" + point)
            add(STEPS, who.name, _rate(step, self.count(800)))
            _want(debugger.ask(b"m0,%x" % size), b"")
            while size < 0x8000 and len(debugger.ask(b"m0,%x" % (2 * size))) == 4 * size:
                size *= 2
            reads = _rate(lambda: debugger.ask(b"m10000,%x" % size), self.count(200))
            add(READS, who.name, reads * size / (1 << 20))

    def with_gdb(self, who: Debuggee) -> None:
        """Steps and breakpoint hits by gdb, where it is installed."""
        if Gdb.missing():
            return
        port, steps, hits = free_port(), self.count(400), self.count(400)
        with started(who, self.image("loop"), port), closing(Gdb(port)) as gdb:
            gdb.do(f"break *{ENTRY:#x}")
            gdb.stop_of("continue")
            gdb.do(f"ignore 1 {hits - 1}")
            self.results.add(GDB_HITS, who.name, hits / gdb.stop_of("continue"))
            gdb.do("delete")
            self.results.add(GDB_STEPS, who.name, steps / gdb.stop_of(f"stepi {steps}"))

    def latencies(self, who: Debuggee) -> None:
        """Ctrl-C at random moments of three guests."""
        for guest, (middle, worst) in LATENCIES.items():
            port = free_port()
            with started(who, self.image(guest), port), closing(Packets(port)) as debugger:
                seconds = []
                for _ in range(self.count(30)):
                    debugger.send(b"c")
                    time.sleep(self.rng.uniform(0.002, 0.02))
                    began = time.perf_counter()
                    debugger.break_in()
                    debugger.read()
                    seconds.append(time.perf_counter() - began)
                self.results.add(middle, who.name, (median(seconds) or 0) * 1e3)
                self.results.add(worst, who.name, max(seconds) * 1e3)

    def speed(self, who: Debuggee) -> None:
        """A bench guest without gdb, with one, and with a watchpoint."""
        image = self.scratch / "speed.bin"
        iterations = self.count(ITERATIONS)
        image.write_bytes(patch(load_image(images_folder(), SPEED_GUEST), iterations))
        if IDLE not in self.results.values:
            guest_seconds(who, image, None)  # so that what is compiled once is kept
        plain = guest_seconds(who, image, None)
        idle = guest_seconds(who, image, ())
        self.results.add(IDLE, who.name, plain / idle)
        watched = guest_seconds(who, image, (b"Z2,%x,4" % ELSEWHERE,))
        self.results.add(WATCHED, who.name, watched / plain)


def guest_seconds(who: Debuggee, image: Path, setup: tuple[bytes, ...] | None) -> float:
    """Time between a bench guest's marks; with packets that are sent before it runs, or without a debugger."""
    port = free_port() if setup is not None else 0
    with started(who, image, port) as process:
        if setup is None:
            return _seconds_between_marks(process.stdout.fileno() if process.stdout else -1)
        with closing(Packets(port)) as debugger:
            for packet in setup:
                _want(debugger.ask(packet), b"OK")
            debugger.send(b"c")
            return _seconds_between_marks(process.stdout.fileno() if process.stdout else -1)


def _seconds_between_marks(output: int) -> float:
    content, arrivals = b"", []
    while (found := MARKS.search(content)) is None:
        piece = os.read(output, 1 << 12)
        if not piece:
            raise RunError(f"the guest ended without its marks: {content[-80:]!r}")
        content += piece
        arrivals.append((len(content), time.perf_counter()))
    start, end = (next(t for n, t in arrivals if n > found.start(group)) for group in (1, 2))
    return end - start


def _want(reply: bytes, start: bytes) -> None:
    if not reply.startswith(start) or reply.startswith(b"E"):
        raise RunError(f"the answer was {reply[:60]!r}")


def _rate(action: Callable[[], object], n: int) -> float:
    """How often a second it can be done."""
    began = time.perf_counter()
    for _ in range(n):
        action()
    return n / (time.perf_counter() - began)


def table(results: Results, names: list[str]) -> Table:
    """The figures beside each other and beside what is wanted of ours."""
    ours, others = names[0], names[1:]
    made = Table(title="Debugging: medians of the rounds, of worst cases the worst")
    made.add_column("what")
    for name in names:
        made.add_column(name, justify="right")
    for name in others:
        made.add_column(f"{ours} / {name}", justify="right")
    made.add_column("aim", justify="right")
    made.add_column("met")
    for row in results.values:
        own = results.value(row, ours)
        figures = [results.value(row, name) for name in names]
        aim = NOTHING
        if row.aim is not None:
            aim = f"{'>=' if row.at_least else '<='} {number(row.aim)}"
        made.add_row(
            f"{row.title} {row.unit}".rstrip(),
            *(number(value) for value in figures),
            *(number(ratio(own, value)) for value in figures[1:]),
            aim,
            NOTHING if row.aim is None or own is None else "yes" if row.met(own) else "NO",
        )
    return made


def main(argv: list[str]) -> int:
    """Measure and print; 0 when done, 2 for a bad argument."""
    parser = argparse.ArgumentParser(prog="jitvm.bench.gdb_bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of each emulator, alternating")
    parser.add_argument("--quick", action="store_true", help="one short round")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error("--rounds: at least one")
    candidates: list[Debuggee] = [Jitvm(), Qemu()]
    emulators = [who for who in candidates if who.missing() is None]
    results, console = Results(), Console()
    if not console.is_terminal:
        console = Console(width=120)
    with tempfile.TemporaryDirectory(prefix="jitvm-bench-gdb-") as scratch:
        bench = Bench(Path(scratch), results, 0.05 if options.quick else 1.0)
        try:
            for _ in range(1 if options.quick else options.rounds):
                for who in emulators:
                    bench.round(who)
        except BenchError as error:
            print(f"jitvm bench-gdb: {error}", file=sys.stderr)
            return 2
    about = host()
    console.print(f"{about['cpu']}, {about['cores']} cores, Python {about['python']}")
    console.print(table(results, [who.name for who in emulators]))
    for text in dict.fromkeys(results.errors):
        console.print(f"failed: {text}", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
