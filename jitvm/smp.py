"""Several vCPUs that take turns by instruction count: `--smp N`, reproducible.

Each vCPU keeps its thread, as the debugger knows it; but one at a time has the turn, in the order of their numbers, and
only that one enters translated code.  A turn lasts about `SLICE_NS` of virtual time: it ends with the first instruction
behind that.  One that is halted, or waits for SIPI, gets no turn.  While only one can go it goes on without turns.

Turns are not of one length (`turn_after`): a vCPU that gives a lock back and takes it again, in a loop whose length divides
that of a turn, would always lose the turn while it holds the lock.

A turn begins at the virtual time at which the one before it ended, so time never goes back, whoever looks at whatever
shows it: kernels compare the TSCs of their processors, and do not use them where one is behind.  Each vCPU counts its own
time (`retired + extra_ns`); what passed in the turns of others is skipped when its own comes.

What one vCPU does to memory the others see between turns; at a turn's end they drop what they have translated of what was
written in it (`jitvm/engine/shared_code.py`).  TLBs are the guest's affair, by INVLPG and inter-processor interrupts, as on
every multiprocessor.  LOCK and XCHG need nothing: no turn ends inside of an
instruction.

Source: Intel SDM vol. 3, 8.1 (locked operations), 8.1.3 (cross-modifying code), 8.4 (starting processors).

vCPUs that run at the same time: jitvm/parallel.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jitvm.clock import NEVER
from jitvm.engine.shared_code import SharedCode
from jitvm.exits import HANDLED, Outcome
from jitvm.vcpu import IDLE_S, Vcpu

SLICE_NS = 100_000
SHORTER = 128
"""Turns are shorter than `SLICE_NS` by less than this."""
GOLDEN = 0x9E37_79B9


def turn_after(start: int) -> int:
    """Length of a turn that begins at that virtual time: looks random, and is the same in every run."""
    return SLICE_NS - (start * GOLDEN >> 16) % SHORTER


def are_dead(vcpus: Sequence[Vcpu]) -> bool:
    """All are halted with interrupts off, and nothing that has come for one ends that, or is just being taken by it."""
    return all(
        v.is_halted() and not (v.interrupts_open() or v.wakes() or v.init_pending or v.engine.injecting) for v in vcpus
    )


class Rotation:
    """Whose turn it is; all of it under the machine lock.  `is_held(index)`: a debugger keeps that vCPU standing."""

    def __init__(self) -> None:
        self.vcpus: list[TurnVcpu] = []
        self.shared_code = SharedCode()
        self.current = 0
        self.end = SLICE_NS
        """Virtual time at which the turn ends; NEVER while nobody else can go."""
        self.is_held: Callable[[int], bool] = lambda index: False

    def can_go(self, vcpu: TurnVcpu) -> bool:
        """It is neither halted nor held."""
        return not self.is_held(vcpu.index) and (not vcpu.is_halted() or vcpu.wakes())

    def others_can_go(self, vcpu: TurnVcpu) -> bool:
        """Whether anybody but `vcpu` is ready."""
        return any(v is not vcpu and self.can_go(v) for v in self.vcpus)

    def pass_on(self, vcpu: TurnVcpu) -> bool:
        """The turn of `vcpu` is over: True when another one has it now."""
        chosen = self._next(vcpu.index)
        if chosen is vcpu:
            self.end = NEVER
            return False
        self.shared_code.turn_ended(vcpu.index)
        self.current = chosen.index
        chosen.catch_up(vcpu)
        self.end = chosen.now() + turn_after(chosen.now())
        chosen.ring()
        return True

    def give_way(self, index: int) -> None:
        """If this vCPU has the turn it loses the rest of it: a debugger that stops it again and again gets to the others'
        breakpoints, too, which lie a whole turn ahead."""
        if self.current == index:
            self.pass_on(self.vcpus[index])

    def _next(self, index: int) -> TurnVcpu:
        """The next one in the circle that is ready; the one that has the turn when nobody else is.  When that one is held
        it is the next that is not: it is halted, and waits for a timer, so that time goes on.
        """
        n = len(self.vcpus)
        others = [self.vcpus[(index + k) % n] for k in range(1, n)]
        ready = next((vcpu for vcpu in others if self.can_go(vcpu)), None)
        if ready is None and self.is_held(index):
            ready = next((vcpu for vcpu in others if not self.is_held(vcpu.index)), None)
        return ready if ready is not None else self.vcpus[index]

    def changed(self) -> None:
        """Somebody may have become ready: the turn of the one that goes alone gets an end."""
        holder = self.vcpus[self.current]
        if self.end == NEVER and self.others_can_go(holder):
            self.end = holder.now() + SLICE_NS

    def acquire(self, vcpu: TurnVcpu) -> bool:
        """Wait for the turn; False when the vCPU shall stop first."""
        while self.current != vcpu.index:
            if vcpu.exit_request:
                vcpu.exit_request = False
                return False
            holder = self.vcpus[self.current]
            if self.is_held(holder.index) and self.pass_on(holder):
                continue
            vcpu.sleep(IDLE_S)
        self.changed()
        return True

    def restore(self, current: int, end: int) -> None:
        """Back to a turn of before."""
        if self.vcpus:  # a single vCPU takes no turns
            self.shared_code.turn_ended(self.current)
        self.current, self.end = current, end

    def reset(self) -> None:
        """The machine is being reset: it is as late on all vCPUs, and the first one begins."""
        latest = max(self.vcpus, key=TurnVcpu.now)
        for vcpu in self.vcpus:
            vcpu.catch_up(latest)
        self.shared_code.turn_ended(self.current)
        self.current = 0
        self.end = latest.now() + SLICE_NS


class TurnVcpu(Vcpu):
    """A vCPU that runs when it has the turn."""

    def __init__(self, rotation: Rotation, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.rotation = rotation
        rotation.vcpus.append(self)
        rotation.shared_code.add(self.engine)

    def sleep(self, seconds: float) -> None:
        """Until a kick, at most for `seconds`; the lock is dropped meanwhile."""
        self._sleep(seconds)

    def notice(self) -> None:
        super().notice()
        self.rotation.changed()

    # ---- turns
    def catch_up(self, other: TurnVcpu) -> None:
        """It is as late as on `other`."""
        self.skip(max(0, other.now() - self.now()))

    def run_until_stopped(self) -> Outcome:
        with self.lock:
            while self.rotation.acquire(self):
                outcome = self.execute()
                if outcome is Outcome.TURN:
                    self.rotation.pass_on(self)
                elif outcome is not Outcome.HLT:
                    return outcome
                elif self.halt_at <= self.retired:
                    return Outcome.INTERRUPT
                elif not self.rotation.pass_on(self):
                    self.wait()
            return Outcome.INTERRUPT

    def run_a_little(self, n: int) -> Outcome:
        rotation = self.rotation
        holder = rotation.vcpus[rotation.current]
        if holder is not self and rotation.is_held(holder.index):
            rotation.pass_on(holder)
        if rotation.current != self.index:
            return Outcome.INTERRUPT
        rotation.changed()
        outcome = super().run_a_little(n)
        if outcome is not Outcome.TURN:
            return outcome
        rotation.pass_on(self)
        return Outcome.INTERRUPT

    def pre_run(self) -> tuple[int, int]:
        due, end = super().pre_run()
        self.attention = True  # the turn's end moves
        return min(due, self.rotation.end), end

    def look_around(self) -> Outcome:
        outcome = super().look_around()
        over = outcome is HANDLED and self._now >= self.rotation.end and not self.half_done
        return Outcome.TURN if over else outcome
