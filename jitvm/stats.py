"""What a run cost, as plain data: `jitvm boot --stats`.

Counts of what the guest did are exact and the same in every run; times are the host's, and so is how much of it had machine
code already, where that is made beside the guest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
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


def tiers(vcpus: Sequence[Vcpu], accel: Accelerator, retired: int) -> dict[str, dict[str, int | float]]:
    """Each kind of code: functions compiled and taken from the cache, bytes, seconds; blocks, regions, instructions.

    All translated blocks begin as handlers; of those, `stencils` have machine code that was copied, too.
    Instructions are counted with `--opt count=on` only: the counters lie on the way of each block.
    A block counts where it is entered, whatever becomes of it inside (a TLB miss leaves copied code for handlers).
    """
    found: dict[str, dict[str, int | float]] = {
        tier: {
            "compiled": tally.compiled,
            "from_cache": tally.from_cache,
            "bytes": tally.bytes,
            "compile_seconds": round(tally.seconds, 6),
        }
        for tier, tally in accel.code.tallies.items()
    }

    def total(field: str) -> int:
        return sum(int(getattr(vcpu.engine.c, field)) for vcpu in vcpus)

    regions = [vcpu.engine.regions for vcpu in vcpus]
    found["handlers"]["blocks"] = total("stat_blocks")
    found["stencils"] |= {"blocks": total("stat_promoted"), "copied_bytes": total("stat_code_bytes")}
    found["stencils"]["pinned_blocks"] = total("stat_pinned")
    found["regions"] |= {
        "asked": sum(r.asked for r in regions),
        "installed": sum(r.installed for r in regions),
        "linked": len(accel.regions),
        "linked_bytes": accel.regions.bytes,
        "evicted": accel.regions.evicted,
        "generations": sum(r.generations for r in regions),
    }
    if all(vcpu.engine.options.count for vcpu in vcpus):
        copied, inside = total("stat_copied_insns"), total("stat_region_insns")
        for tier, n in (("handlers", retired - copied - inside), ("stencils", copied), ("regions", inside)):
            found[tier]["instructions"] = n
    return found


def collect(
    vcpus: Sequence[Vcpu], accel: Accelerator, marks: Marks | None, virtual_ns: int, host_seconds: float
) -> dict[str, Any]:
    """The statistics of a machine.

    `retired` and the engine's counts are sums over the vCPUs; `exits` is by KVM's reason, `ports` and `mmio` are the
    busiest addresses; `served_accesses` went to ports that need no device, without an exit; `marks` are [instructions
    retired, byte] for each byte written to port E9h.
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
        "served_accesses": total("n_served"),
        "ports": busiest(exits, IO),
        "mmio": busiest(exits, MMIO),
        "translated_instructions": total("stat_insns"),
        "dropped_blocks": total("stat_dropped"),
        "flushes": total("stat_flushes"),
        "lookups": total("stat_lookups"),
        "faults": total("stat_faults"),
        "linked_exits": total("stat_linked"),
        "forms": len(accel.met.known),
        "tiers": tiers(vcpus, accel, retired),
        "marks": [list(mark) for mark in marks.list] if marks else [],
    }


def flat(stats: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and values for people; nested names have dots between them."""
    for key, value in stats.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, float):
            yield f"{prefix}{key}", f"{value:,.3f}"
        elif isinstance(value, int):
            yield f"{prefix}{key}", f"{value:,}"
        elif isinstance(value, (list, tuple)) and len(value) > 8:
            yield f"{prefix}{key}", f"{len(value):,} entries"
        else:
            yield f"{prefix}{key}", str(value)
