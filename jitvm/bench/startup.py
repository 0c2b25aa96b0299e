"""Start-up rows: to the first guest instruction, and SeaBIOS to its last word.

The guest ``first`` writes a byte with its second instruction; the time from
the start of the process to that byte is the start-up time. Cold means an
empty cache folder (``XDG_CACHE_HOME`` in a temporary one), warm the user's
own after a run that is not counted. Without regions: a copy of a cache folder
that has all but regions, from a run that made none and waited for its
stencils. SeaBIOS' debug log (port 0x402) also has
what it prints on the screen, so its "No bootable device." is waited for there.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from jitvm.bench import measure
from jitvm.bench.errors import RunError
from jitvm.bench.results import Results, StartUp
from jitvm.bench.runners import Jitvm, Qemu, Runner
from jitvm.bench.session import Session, environment
from jitvm.bench.workloads import START_UP_GUEST, load_image

SEABIOS = Path("/usr/share/seabios/bios.bin")
FIRST_OUTPUT = re.compile(rb"(S)E00000000\n")
NO_DEVICE = re.compile(rb"(No bootable device)")
COLD_TIMEOUT = 180.0
"""A first start compiles everything, also on a slow machine."""

COLD = "first instruction, cold"
WARM = "first instruction"
SEABIOS_ROW = "SeaBIOS to no device"
NO_REGIONS_ROW = "SeaBIOS, no regions cached"
NO_REGIONS = ("--jit", "stencils", "--opt", "no-beside")


def _times(
    session: Session,
    command: list[str],
    pattern: re.Pattern[bytes],
    row: StartUp,
    *,
    rounds: int,
    cache: str | None = None,
) -> None:
    """Add the times of some runs to a row, or the reason why there are none."""
    variables = environment()
    if cache is not None:
        variables["XDG_CACHE_HOME"] = cache
    timeout = session.timeout if cache is None else COLD_TIMEOUT
    for _ in range(rounds):
        try:
            run = measure.run(
                command,
                pattern,
                timeout=timeout,
                environment=variables,
                until_match=pattern is NO_DEVICE,
            )
        except RunError as error:
            row.error = str(error)
            return
        row.seconds.append(run.times[0])


def _seabios_command(runner: Runner) -> list[str] | None:
    """How a runner boots SeaBIOS with its debug log on standard output."""
    if isinstance(runner, Jitvm):
        return [*runner.boot(SEABIOS), "--debugcon", "0x402=stdio", *runner.options]
    if isinstance(runner, Qemu):
        return [
            *runner.boot(SEABIOS), "-chardev", "stdio,id=log",
            "-device", "isa-debugcon,iobase=0x402,chardev=log",
        ]  # fmt: skip
    return None


def _without_regions(session: Session, runner: Jitvm, results: Results, cache: Path) -> None:
    """SeaBIOS with a cache that has units, handlers and what it needs of stencils, but no region: a new copy each time."""
    row = results.start_up.setdefault(NO_REGIONS_ROW, {})[runner.name] = StartUp()
    command = _seabios_command(runner) or []
    made = StartUp()
    _times(session, [*command, *NO_REGIONS], NO_DEVICE, made, rounds=1, cache=str(cache))
    row.error = made.error
    for number in range(session.rounds):
        if row.error is None:
            copy = cache / f"copy{number}"
            shutil.copytree(cache / "jitvm", copy / "jitvm")
            _times(session, command, NO_DEVICE, row, rounds=1, cache=str(copy))


def measure_start_up(session: Session, results: Results) -> None:
    """All start-up rows into `results`; runners take turns within a round."""
    load_image(session.images, START_UP_GUEST)
    first = session.images / f"{START_UP_GUEST}.bin"
    warm = results.start_up.setdefault(WARM, {})
    seabios = results.start_up.setdefault(SEABIOS_ROW, {})
    machines = [runner for runner in session.runners if runner.machine]
    for runner in machines:
        session.say(f"start-up: {runner.name}")
        warm[runner.name] = StartUp()
        command = runner.command(first)
        if isinstance(runner, Jitvm):
            cold = results.start_up.setdefault(COLD, {})[runner.name] = StartUp()
            with tempfile.TemporaryDirectory() as cache:
                _times(session, command, FIRST_OUTPUT, cold, rounds=1, cache=cache)
                if SEABIOS.is_file() and cold.error is None:
                    _without_regions(session, runner, results, Path(cache))
            _times(session, command, FIRST_OUTPUT, StartUp(), rounds=1)
            if SEABIOS.is_file():
                _times(session, _seabios_command(runner) or [], NO_DEVICE, StartUp(), rounds=1)
    for _ in range(session.rounds):
        for runner in machines:
            session.say(f"start-up: {runner.name}")
            if warm[runner.name].error is None:
                command = runner.command(first)
                _times(session, command, FIRST_OUTPUT, warm[runner.name], rounds=1)
            boot = _seabios_command(runner)
            if boot is not None and SEABIOS.is_file():
                row = seabios.setdefault(runner.name, StartUp())
                if row.error is None:
                    _times(session, boot, NO_DEVICE, row, rounds=1)
