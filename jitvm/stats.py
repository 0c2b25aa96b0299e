"""What a run cost, as plain data: `jitvm boot --stats`.

Counts are exact and the same in every run of the same guest; times are the host's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from jitvm.devices.debugcon import Sink
from jitvm.engine.accel import Accelerator
from jitvm.exits import IO, MMIO, reason_name
from jitvm.vcpu import Vcpu

MARKS = 4096
"""Bytes of the debug port that are kept with their instruction counts."""
TOP = 16
"""Ports and pages that are listed by themselves."""


class Marks:
    """A sink for the debug port that notes the instruction count of each byte and passes it on."""

    def __init__(self, sink: Sink | None, retired: Callable[[], int]) -> None:
        self._sink, self._retired = sink, retired
        self.list: list[tuple[int, int]] = []

    def write(self, data: bytes) -> None:
        """Bytes as the port gives them, one at a time."""
        if len(self.list) < MARKS:
            now = self._retired()
            self.list += [(now, byte) for byte in data]
        if self._sink is not None:
            self._sink.write(data)


def exits_by_reason(exits: Counter[tuple[int, int]]) -> dict[str, int]:
    """KVM's word for each reason with its number of exits, most frequent first."""
    found: Counter[str] = Counter()
    for (reason, _), n in exits.items():
        found[reason_name(reason).lower()] += n
    return dict(found.most_common())


def busiest(exits: Counter[tuple[int, int]], reason: int) -> dict[str, int]:
    """The ports (or 4 KiB pages) with the most accesses, by their address in hex."""
    found = Counter({address: n for (why, address), n in exits.items() if why == reason})
    return {f"{address:#x}": n for address, n in found.most_common(TOP)}


def collect(
    vcpus: Sequence[Vcpu], accel: Accelerator, marks: Marks | None, virtual_ns: int, host_seconds: float
) -> dict[str, Any]:
    """The statistics of a machine.

    `retired` and the engine's counts are sums over the vCPUs; `exits` is by KVM's reason, `ports` and `mmio` are the
    busiest addresses; `marks` are [instructions retired, byte] for each byte written to port E9h.
    """
    exits: Counter[tuple[int, int]] = Counter()
    for vcpu in vcpus:
        exits.update(vcpu.exits)

    def total(field: str) -> int:
        return sum(int(getattr(vcpu.engine.c, field)) for vcpu in vcpus)

    retired = sum(vcpu.retired for vcpu in vcpus)
    return {
        "retired": retired,
        "virtual_ns": virtual_ns,
        "host_seconds": round(host_seconds, 6),
        "mips": round(retired / host_seconds / 1e6, 3) if host_seconds else 0.0,
        "exits": exits_by_reason(exits),
        "ports": busiest(exits, IO),
        "mmio": busiest(exits, MMIO),
        "blocks": total("stat_blocks"),
        "translated_instructions": total("stat_insns"),
        "dropped_blocks": total("stat_dropped"),
        "flushes": total("stat_flushes"),
        "lookups": total("stat_lookups"),
        "faults": total("stat_faults"),
        "promoted_blocks": total("stat_promoted"),
        "stencil_bytes": total("stat_code_bytes"),
        "linked_exits": total("stat_linked"),
        "regions": {
            "asked": sum(vcpu.engine.regions.asked for vcpu in vcpus),
            "installed": sum(vcpu.engine.regions.installed for vcpu in vcpus),
            "compile_seconds": round(accel.compiler.seconds, 6),
        },
        "forms": len(accel.known),
        "handlers_compiled": accel.code.compiled,
        "handlers_from_cache": accel.code.from_cache,
        "compile_seconds": round(accel.code.compile_seconds, 6),
        "marks": [list(mark) for mark in marks.list] if marks else [],
    }
