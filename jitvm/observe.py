"""Who watches a machine's engine, as its config asks for: `--perf-map`, `--trace-json`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from jitvm import symbols
from jitvm.accelerators import shared_accelerator
from jitvm.config import MachineConfig
from jitvm.engine.accel import Accelerator
from jitvm.perf_map import PerfMap
from jitvm.trace_json import TraceJson
from jitvm.vcpu import Vcpu


class Watchers:
    """The observers of one machine; `resources` closes what they write."""

    def __init__(self, config: MachineConfig, resources: contextlib.ExitStack) -> None:
        self._config, self._resources = config, resources
        self._perf = PerfMap(symbols.load(config)) if config.perf_map else None
        if self._perf is not None:
            resources.callback(self._perf.close)
        self._trace = TraceJson(config.trace_json) if config.trace_json is not None else None
        if self._trace is not None:
            resources.callback(self._trace.close)
        self._all = [observer for observer in (self._perf, self._trace) if observer is not None]

    def observed(self, accel: Accelerator | None, on_progress: Callable[[str], None]) -> Accelerator:
        """An engine that tells the observers: the one given, or the process's."""
        if accel is None:
            accel = shared_accelerator(self._config.cache, on_progress, self._all)
        else:
            for observer in self._all:
                accel.observe(observer)
        for observer in self._all:
            self._resources.callback(accel.unobserve, observer)
        return accel

    def watch(self, vcpus: Sequence[Vcpu]) -> None:
        """The machine's vCPUs were made."""
        for vcpu in vcpus if self._all else ():
            if self._trace is not None:
                self._trace.watch(vcpu)
            self._resources.callback(vcpu.engine.tell_copied)
