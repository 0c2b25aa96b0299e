"""Checkpoints: the whole state of a machine kept in memory, and put back.

    checkpoint = take(machine)
    machine.run()
    restore(machine, checkpoint)        # the machine stands where it stood; the same run can be made again

A checkpoint holds guest memory (RAM, ROM, the VGA's memories; pages of zeros are left out), the CPU record's
architectural part with its counters, every chip's snapshot, virtual time with its timers in the order in which they
will fire, the level of every interrupt wire, and what was written to disks opened with `snapshot=on`.

Not part of it: what the guest wrote to disk images (they stay as they are now: such a machine can come back to a file
system that is older or newer than its memory), what has left the machine through serial and debug ports, input that no
chip has taken yet, statistics, trace, `--max-insns`, and with `--clock realtime` the host's time.

Watchpoints and catches of a debugger stay as they are; whether a caught event was told already is state.

Translated code is dropped at a restore and made again: it is no state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from jitvm.backends.blockdev import Overlay
from jitvm.clock import Timer
from jitvm.devices.base import Snapshot
from jitvm.isa.state import ARCHITECTURAL
from jitvm.memory import PAGE

if TYPE_CHECKING:
    from jitvm.machine import Machine
    from jitvm.vcpu import Vcpu

HOST = frozenset(
    "ram page_read page_write n_pages code_pages tlb_host tlb_off tlb tlb_global tlb_large any_marks marks floor "
    "port_table n_served "
    "shared alone peers n_peers peer times asked_page data_page data_stores n_written written walk_lost".split()
)
"""Fields of the record that belong to the host: addresses, what is looked up again, kicks, statistics."""
DEBUGGER = frozenset(
    "n_watch n_points points_at watch_kind watch_first watch_last dr_seen code_breaks port_breaks n_catch catch "
    "catch_number step_stop".split()
)
"""What a debugger has set stays as it is, and with it the tables that are made from the guest's debug registers."""
FIELDS = tuple(name for name in (str(field[0]) for field in ARCHITECTURAL) if name not in HOST | DEBUGGER)

Pages = tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]
"""Numbers and contents of pages."""


@dataclass(frozen=True)
class Cpu:
    """One vCPU: the record's fields, and whether an instruction is half done, and an SMI waits."""

    fields: dict[str, np.ndarray]
    half_done: bool
    waiting: tuple[int, int, int]
    """SMI, NMIs, INIT."""


@dataclass(frozen=True)
class Checkpoint:
    """A machine's state; `retired` and `virtual_ns` say when it was."""

    retired: int
    virtual_ns: int
    cpus: tuple[Cpu, ...]
    memory: Pages
    devices: tuple[Snapshot, ...]
    timers: tuple[tuple[Timer, int], ...]
    disks: tuple[dict[int, bytes] | None, ...]
    turn: tuple[int, int]
    """Which vCPU has the turn, and until when."""

    @property
    def size(self) -> int:
        """Bytes of guest memory that it holds."""
        return int(self.memory[1].nbytes)


def take(machine: Machine) -> Checkpoint:
    """The state now; the CPU stands meanwhile."""
    with machine.standing(), machine.lock:
        return Checkpoint(
            retired=sum(vcpu.retired for vcpu in machine.vcpus),
            virtual_ns=machine.clock.now_ns,
            cpus=tuple(_take_cpu(vcpu) for vcpu in machine.vcpus),
            memory=_used_pages(machine.memory.bytes),
            devices=tuple(device.snapshot() for device in machine.board.devices()),
            timers=tuple(machine.clock.pending()),
            disks=tuple(disk.written() if isinstance(disk, Overlay) else None for disk in machine.disks),
            turn=(machine.rotation.current, machine.rotation.end),
        )


def restore(machine: Machine, checkpoint: Checkpoint) -> None:
    """Back to a checkpoint of the same machine, whatever has ended its run; it runs on, or stands, as before."""
    with machine.standing(), machine.lock:
        _restore_board(machine, checkpoint)
        _set_pages(machine.memory.bytes, checkpoint.memory)
        for disk, written in zip(machine.disks, checkpoint.disks, strict=True):
            if isinstance(disk, Overlay) and written is not None:
                disk.set_written(written)
        for vcpu, cpu in zip(machine.vcpus, checkpoint.cpus, strict=True):
            _restore_cpu(vcpu, cpu)
        machine.rotation.restore(*checkpoint.turn)
        if machine.world is not None:
            machine.world.restored()
        machine.revived()


def lasting_disks(machine: Machine) -> list[str]:
    """Names of the disks that a checkpoint does not hold: images which the guest may write."""
    return [disk.name for disk in machine.disks if not isinstance(disk, Overlay) and not disk.read_only]


# ---- the CPU --------------------------------------------------------------------------------------------------------
def _take_cpu(vcpu: Vcpu) -> Cpu:
    array = vcpu.engine.array
    waiting = vcpu.smi_pending, vcpu.nmi_pending, vcpu.init_pending
    return Cpu({name: array[name].copy() for name in FIELDS}, vcpu.half_done, waiting)


def _restore_cpu(vcpu: Vcpu, cpu: Cpu) -> None:
    """Last of all, as chips that are put back drive A20 and interrupts."""
    engine = vcpu.engine
    engine.reset()
    for name, value in cpu.fields.items():
        engine.array[name] = value
    vcpu.half_done = cpu.half_done
    vcpu.smi_pending, vcpu.nmi_pending, vcpu.init_pending = cpu.waiting
    engine.accel.forget(engine.address)
    engine.registers_changed()


# ---- the board ------------------------------------------------------------------------------------------------------
def _restore_board(machine: Machine, checkpoint: Checkpoint) -> None:
    """The time comes first, as chips look at it; timers follow when all chips have armed theirs in their own order.

    Chips are reset before, so that no PCI window meets another one's old place and no wire is still up.  The interrupt
    controller comes last and takes its wires' levels without an edge, whatever the others did to them.
    """
    board, clock = machine.board, machine.clock
    clock.set(checkpoint.virtual_ns, [])
    board.reset()
    for device, saved in zip(board.devices(), checkpoint.devices, strict=True):
        device.restore(saved)
    board.pic.restore(checkpoint.devices[board.devices().index(board.pic)])
    clock.set(checkpoint.virtual_ns, list(checkpoint.timers))


# ---- memory ---------------------------------------------------------------------------------------------------------
def _numbers(memory: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Pages that are not all zeros."""
    words = memory.view(np.uint64).reshape(-1, PAGE // 8)
    return np.flatnonzero(words.any(axis=1))


def _used_pages(memory: npt.NDArray[np.uint8]) -> Pages:
    numbers = _numbers(memory)
    return numbers, memory.reshape(-1, PAGE)[numbers]


def _set_pages(memory: npt.NDArray[np.uint8], pages: Pages) -> None:
    """Written in place: the host's mapping stays."""
    numbers, contents = pages
    by_page = memory.reshape(-1, PAGE)
    by_page[np.setdiff1d(_numbers(memory), numbers)] = 0
    by_page[numbers] = contents
