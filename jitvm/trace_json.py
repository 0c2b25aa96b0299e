"""`--trace-json FILE`: what the engine did and when, for a trace viewer (ui.perfetto.dev, chrome://tracing).

Trace Event Format, JSON array form: complete events (X) for what is compiled and for the guest's turns, instants (i) for
regions and copied blocks, counters (C) for exits.  A turn is some ten milliseconds of a vCPU's, with the time in guest code,
the instructions and the exits by kind; a gap between turns is a vCPU that is halted or stopped.

The file is complete JSON after each write, also when the process is killed.  It is bounded: turns grow longer as it fills
up, and when it is full the rest is left out, which its last event says.

Not modelled: single exits (`--trace exit` has them), time inside devices.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitvm.engine.observer import Copied, Observer
from jitvm.errors import BackendError
from jitvm.exits import reason_name

if TYPE_CHECKING:
    from jitvm.engine.accel import VcpuEngine
    from jitvm.engine.grow import Grown
    from jitvm.vcpu import Vcpu

MOST_BYTES = 64 << 20
TURN_S = 0.01
CHUNK = 256
"""Events between two writes."""
MOST_NAMES = 40
"""Names listed in one event."""
COMPILER_TRACK, OTHERS_TRACK = 1000, 1001
"""Thread numbers in the file: vCPUs have their index."""
BESIDE = ("stencils", "regions")
"""Kinds of code that the compiler process makes, unless the guest is to wait for them."""
TRAILER = b"\n]\n"


class JsonFile:
    """An array of events in a file that is complete JSON at any time."""

    def __init__(self, path: Path, most: int = MOST_BYTES) -> None:
        self.path, self.most = path, most
        self._lock = threading.Lock()
        self._waiting: list[str] = []
        self._end = 0
        self._full = False
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except OSError as e:
            raise BackendError(f"--trace-json: '{path}' can't be written: {e.strerror}") from None
        os.pwrite(self._file, b"[" + TRAILER, 0)
        self._end = 1

    @property
    def filled(self) -> float:
        """The part of the room that is used."""
        return self._end / self.most

    def add(self, event: dict[str, Any]) -> None:
        """An event, written with others or at the end."""
        with self._lock:
            if self._full:
                return
            self._waiting.append(json.dumps(event, separators=(",", ":")))
            if len(self._waiting) >= CHUNK:
                self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        lines, self._waiting = self._waiting, []
        size = sum(len(line) + 2 for line in lines)
        if self._end + size > self.most:
            self._full = True
            lines = [json.dumps({"name": "the trace is full", "ph": "i", "s": "g", "ts": 0, "pid": 0, "tid": 0})]
        data = ("\n" if self._end == 1 else ",\n").encode() + ",\n".join(lines).encode()
        with contextlib.suppress(OSError):  # a full disk ends the trace
            if os.pwrite(self._file, data + TRAILER, self._end) == len(data) + len(TRAILER):
                self._end += len(data)

    def close(self) -> None:
        """Write what waits."""
        with self._lock:
            self._flush()
            os.close(self._file)
            self._full = True


class _Turn:
    """What is added up of a vCPU from one event to the next."""

    def __init__(self, vcpu: Vcpu) -> None:
        self.vcpu = vcpu
        self.begin = self.end = self.guest = 0.0
        self.entries = 0
        self.retired = vcpu.engine.retired()
        self.exits: Counter[int] = Counter()

    def reasons(self) -> Counter[int]:
        """Exits so far, by reason."""
        found: Counter[int] = Counter()
        for (reason, _), n in self.vcpu.exits.items():
            found[reason] += n
        return found


class TraceJson(Observer):
    """The trace of a machine.  `BackendError` for a file that can't be written."""

    def __init__(self, path: Path, most: int = MOST_BYTES) -> None:
        self.file = JsonFile(path, most)
        self._zero = time.perf_counter()
        self._turns: dict[int, _Turn] = {}
        self._names: dict[str, str] = {}
        self._tracks: dict[int, int] = {}
        """vCPU index by the host's thread number."""
        self._metadata("process_name", 0, "jitvm")
        self._metadata("thread_name", COMPILER_TRACK, "compiler of stencils and regions")
        self._metadata("thread_name", OTHERS_TRACK, "start")

    # ---- events -------------------------------------------------------------------------------------------------------
    def _metadata(self, what: str, track: int, name: str) -> None:
        self.file.add({"name": what, "ph": "M", "pid": 0, "tid": track, "args": {"name": name}})

    def _micros(self, at: float) -> float:
        return round((at - self._zero) * 1e6, 1)

    def _span(self, name: str, track: int, start: float, seconds: float, args: dict[str, Any]) -> None:
        ts, dur = self._micros(start), round(seconds * 1e6, 1)
        self.file.add({"name": name, "ph": "X", "pid": 0, "tid": track, "ts": ts, "dur": dur, "args": args})

    def _instant(self, name: str, engine: VcpuEngine, args: dict[str, Any]) -> None:
        track = next((k for k, turn in self._turns.items() if turn.vcpu.engine.address == engine.address), OTHERS_TRACK)
        now = self._micros(time.perf_counter())
        self.file.add({"name": name, "ph": "i", "s": "t", "pid": 0, "tid": track, "ts": now, "args": args})

    # ---- what the engine tells ------------------------------------------------------------------------------------------
    def compiled(self, tier: str, names: Sequence[str], start: float, seconds: float, size: int) -> None:
        track = COMPILER_TRACK if tier in BESIDE else self._tracks.get(threading.get_ident(), OTHERS_TRACK)
        shown = [self._names.get(name, name) for name in names[:MOST_NAMES]]
        args = {"tier": tier, "bytes": size, "names": shown, "n": len(names)}
        self._span(f"{tier}: {shown[0] if len(names) == 1 else len(names)}", track, start, seconds, args)

    def described(self, symbol: str, text: str) -> None:
        self._names[symbol] = text

    def copied(self, engine: VcpuEngine, blocks: Sequence[Copied]) -> None:
        places = [f"{b.linear:#x}" for b in blocks[:MOST_NAMES]]
        args = {"n": len(blocks), "bytes": sum(b.size for b in blocks), "first": places}
        self._instant("copied blocks", engine, args)

    def installed(self, engine: VcpuEngine, grown: Grown, symbol: str) -> None:
        args = {"symbol": symbol, "linear": f"{grown.linear:#x}", "blocks": [f"{node.rip:#x}" for node in grown.nodes]}
        self._instant("region", engine, args)

    def forgot(self, engine: VcpuEngine) -> None:
        self._instant("all translations forgotten", engine, {})

    # ---- the guest's time -----------------------------------------------------------------------------------------------
    def watch(self, vcpu: Vcpu) -> None:
        """Add up the time of a vCPU's that is spent in guest code."""
        turn = self._turns[vcpu.index] = _Turn(vcpu)
        self._metadata("thread_name", vcpu.index, f"vCPU {vcpu.index}")
        enter, go_on, clock = vcpu.enter, vcpu.go_on, time.perf_counter

        def timed_enter(due: int, end: int) -> tuple[int, ...]:
            start = clock()
            if start - turn.begin > TURN_S * (1 << int(16 * self.file.filled)):
                self._tracks[threading.get_ident()] = turn.vcpu.index
                self._end_turn(turn)
                turn.begin = start
            access = enter(due, end)
            turn.end = clock()
            turn.guest += turn.end - start
            turn.entries += 1
            return access

        def timed_go_on() -> int:
            start = clock()
            why = go_on()
            turn.end = clock()
            turn.guest += turn.end - start
            return why

        vcpu.enter, vcpu.go_on = timed_enter, timed_go_on

    def _end_turn(self, turn: _Turn) -> None:
        """Tell of what was added up."""
        if not turn.entries:
            return
        turn.vcpu.engine.tell_copied()
        retired, exits = turn.vcpu.engine.retired(), turn.reasons()
        new = {reason_name(reason): n for reason, n in sorted((exits - turn.exits).items())}
        args = {
            "guest_us": round(turn.guest * 1e6, 1),
            "instructions": retired - turn.retired,
            "entries": turn.entries,
            "exits": new,
        }
        index = turn.vcpu.index
        self._span("guest", index, turn.begin, turn.end - turn.begin, args)
        ts = self._micros(turn.begin)
        self.file.add({"name": f"exits of vCPU {index}", "ph": "C", "pid": 0, "tid": index, "ts": ts, "args": new})
        turn.retired, turn.exits, turn.guest, turn.entries = retired, exits, 0.0, 0

    def close(self) -> None:
        """The last turns, and the end of the file; the vCPUs stand."""
        for turn in self._turns.values():
            self._end_turn(turn)
        self.file.close()
