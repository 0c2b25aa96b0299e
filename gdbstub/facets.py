"""What a target can do: its optional protocols, found once, and what follows from them in `qSupported` and `vCont?`.

Source: gdb's manual, "General Query Packets" (qSupported), "Packets" (vCont?).
"""

from __future__ import annotations

from dataclasses import dataclass

from gdbstub.framing import PACKET_SIZE
from gdbstub.target import (
    Breakpoints,
    Crc,
    ExecFile,
    Kill,
    Leave,
    MemoryMap,
    Monitor,
    PhysicalMemory,
    RangeStepping,
    Reset,
    Reverse,
    Search,
    SingleRegister,
    StepFlags,
    Target,
    Threads,
    Watchpoints,
)


@dataclass(frozen=True, slots=True)
class Facets:
    """A target seen as each of the optional protocols, None where it is not one."""

    single_register: SingleRegister | None
    threads: Threads | None
    breakpoints: Breakpoints | None
    watchpoints: Watchpoints | None
    range_stepping: RangeStepping | None
    monitor: Monitor | None
    memory_map: MemoryMap | None
    exec_file: ExecFile | None
    search: Search | None
    crc: Crc | None
    reset: Reset | None
    kill: Kill | None
    physical_memory: PhysicalMemory | None
    step_flags: StepFlags | None
    reverse: Reverse | None
    leave: Leave | None

    @classmethod
    def of(cls, target: Target) -> Facets:
        """Ask the target's methods."""
        return cls(
            single_register=target if isinstance(target, SingleRegister) else None,
            threads=target if isinstance(target, Threads) else None,
            breakpoints=target if isinstance(target, Breakpoints) else None,
            watchpoints=target if isinstance(target, Watchpoints) else None,
            range_stepping=target if isinstance(target, RangeStepping) else None,
            monitor=target if isinstance(target, Monitor) else None,
            memory_map=target if isinstance(target, MemoryMap) else None,
            exec_file=target if isinstance(target, ExecFile) else None,
            search=target if isinstance(target, Search) else None,
            crc=target if isinstance(target, Crc) else None,
            reset=target if isinstance(target, Reset) else None,
            kill=target if isinstance(target, Kill) else None,
            physical_memory=target if isinstance(target, PhysicalMemory) else None,
            step_flags=target if isinstance(target, StepFlags) else None,
            reverse=target if isinstance(target, Reverse) else None,
            leave=target if isinstance(target, Leave) else None,
        )

    @property
    def range_steps(self) -> bool:
        """`vCont;r` may be used."""
        return self.range_stepping is not None and self.range_stepping.can_range_step()

    def supported(self) -> bytes:
        """The reply to qSupported."""
        words = [f"PacketSize={PACKET_SIZE:x}", "QStartNoAckMode+", "multiprocess+", "vContSupported+"]
        words += ["binary-upload+", "qXfer:features:read+", "qXfer:threads:read+"]
        if self.breakpoints is not None:
            words += ["swbreak+", "hwbreak+"]
        if self.memory_map is not None and self.memory_map.memory_map():
            words.append("qXfer:memory-map:read+")
        if self.exec_file is not None and self.exec_file.exec_file() is not None:
            words.append("qXfer:exec-file:read+")
        if self.reverse is not None:
            words += ["ReverseStep+", "ReverseContinue+"]
        return ";".join(words).encode("ascii")

    def vcont_actions(self) -> bytes:
        """The reply to `vCont?`. gdb uses vCont only if c, C, s and S come together."""
        return b"vCont;c;C;s;S;t;r" if self.range_steps else b"vCont;c;C;s;S;t"
