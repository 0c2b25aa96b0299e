"""The processors that a config asks for: model, features, and which of them share a socket."""

from __future__ import annotations

from typing import NamedTuple

from jitvm.config import MachineConfig
from jitvm.isa.cpuid import DEFAULT_MODEL, cpuid_table, feature_words, is_announced
from jitvm.isa.topology import Topology


class CpuModel(NamedTuple):
    """What `VcpuEngine.set_cpu` takes."""

    name: str
    added: list[str]
    removed: list[str]
    topology: Topology

    def has(self, feature: str) -> bool:
        """Whether the model has a feature by this name; ConfigError for a model or a feature that there is not."""
        return is_announced(feature_words(cpuid_table(*self)), feature)


def asked(config: MachineConfig) -> CpuModel:
    """That of all processors of a machine."""
    added, removed = ([name for name, on in config.cpu_features if on is which] for which in (True, False))
    topology = Topology(config.cores, config.threads_per_core)
    return CpuModel(config.cpu or DEFAULT_MODEL, added, removed, topology)
