"""The command line of ``jitvm bench``."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from jitvm.bench import ab, html, report
from jitvm.bench.errors import BenchError
from jitvm.bench.results import Results, load, save
from jitvm.bench.runners import Runner, all_runners
from jitvm.bench.session import Session, check_agreement
from jitvm.bench.startup import measure_start_up
from jitvm.bench.workloads import images_folder, load_image, select
from jitvm.config import OPTIMISATIONS

PIPE_WIDTH = 150
"""Columns of a table when the output is no terminal."""


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        raise BenchError(message)


def _positive(text: str) -> int:
    """A whole number of at least one."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def _duration(text: str) -> float:
    """Seconds, more than none."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def parser() -> argparse.ArgumentParser:
    """All options."""
    result = _Parser(
        prog="jitvm bench",
        description="Guest speed of jitvm beside QEMU (TCG), Bochs, unicorn and this host itself, where installed.",
        allow_abbrev=False,
    )
    add = result.add_argument
    add("--only", metavar="NAMES", help="workloads, with commas between them")
    add("--runners", metavar="NAMES", help="with commas: jitvm,qemu,bochs,unicorn,native (the same C code on this host)")
    add("--rounds", type=_positive, default=5, help="runs of each, interleaved (default 5)")
    add("--target", type=_duration, metavar="SECONDS", help="length of a run (default 0.5)")
    add("--quick", action="store_true", help="two short rounds, start-up left out")
    add("--no-startup", action="store_true", help="leave the start-up rows out")
    add("--timeout", type=_duration, default=60.0, metavar="SECONDS", help="of a run (default 60)")
    add("--jitvm-options", default="", metavar="TEXT", help="further options of jitvm boot")
    add("--images", type=Path, metavar="FOLDER", help="folder of the bench images")
    add("--ab", metavar="NAMES", help="with and without optimisations: " + ", ".join(OPTIMISATIONS))
    add("--json", type=Path, metavar="FILE", help="write the results to a file")
    add("--html", type=Path, metavar="FILE", help="write a page with charts")
    add("--compare", type=Path, metavar="OLD.json", help="compare with the results in a file")
    return result


def _chosen(text: str | None, runners: list[Runner]) -> list[Runner]:
    """The runners of a comma-separated list; None means all."""
    if text is None:
        return runners
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    names = [runner.name for runner in runners]
    for name in wanted:
        if name not in names:
            raise BenchError(f"unknown runner {name!r}: choose from {', '.join(names)}")
    return [runner for runner in runners if runner.name in wanted]


def _wanted(options: argparse.Namespace, scratch: Path) -> Sequence[Runner]:
    """The runners that the options ask for."""
    further = _options_of(options.jitvm_options)
    if options.ab is None:
        return _chosen(options.runners, all_runners(scratch, further))
    if options.runners is not None:
        raise BenchError("--ab runs jitvm only: leave --runners out")
    return ab.runners(options.ab, further)


def _options_of(text: str) -> list[str]:
    """Options of jitvm as a shell would split them."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise BenchError(f"--jitvm-options: {error}") from error


def _bench(options: argparse.Namespace, scratch: Path) -> None:
    """Measure what the options ask for, and show it."""
    workloads = select(options.only)
    images = options.images or images_folder()
    for workload in workloads:
        load_image(images, workload.name)
    old = load(options.compare) if options.compare else None
    for path in filter(None, (options.json, options.html)):
        if not path.absolute().parent.is_dir():
            raise BenchError(f"{path}: no such folder")
    results = Results(rounds=min(options.rounds, 2) if options.quick else options.rounds)
    results.compute = [workload.name for workload in workloads if workload.compute]
    runners: list[Runner] = []
    for runner in _wanted(options, scratch):
        missing = runner.missing()
        results.runners[runner.name] = missing or runner.version()
        if missing is None:
            runners.append(runner)
    results.present = [runner.name for runner in runners]
    console, progress = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    with progress.status("") as status:
        session = Session(
            runners=runners,
            images=images,
            scratch=scratch,
            rounds=results.rounds,
            target=options.target or (0.15 if options.quick else 0.5),
            timeout=options.timeout,
            say=status.update,
        )
        for workload in workloads:
            session.measure(workload, results)
        if not options.quick and not options.no_startup and options.ab is None:
            measure_start_up(session, results)
    check_agreement(results)
    report.show(results, old, console, report.speed(results) if options.ab is None else ab.table(results))
    if options.json:
        save(results, options.json)
    if options.html:
        html.save(results, old, options.html)


def main(argv: list[str]) -> int:
    """Run ``jitvm bench`` with its arguments; the exit status.

    0 when done (a runner that is missing or fails is told in the tables), 2
    for a bad argument or file, 130 when interrupted.
    """
    try:
        options = parser().parse_args(argv)
        with tempfile.TemporaryDirectory(prefix="jitvm-bench-") as scratch:
            _bench(options, Path(scratch))
    except BenchError as error:
        print(f"jitvm bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jitvm bench: interrupted", file=sys.stderr)
        return 130
    except SystemExit as done:  # argparse after --help
        return done.code if isinstance(done.code, int) else 0
    return 0
