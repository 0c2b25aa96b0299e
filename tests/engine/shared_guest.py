"""A guest whose CPU is the only one of those that share memory (`--smp-threads`): what it asks of the others is done."""

from __future__ import annotations

from collections import Counter

import pytest

from jitvm import bare
from jitvm.engine import layout as lay
from jitvm.engine.accel import Accelerator, Options, VcpuEngine
from jitvm.engine.common import Common
from jitvm.isa.state import EXIT_ALONE, EXIT_CODE, EXIT_DATA
from jitvm.memory import GuestMemory
from tests.engine.guest import Guest


class SharedEngine(VcpuEngine):
    """`asked`: how often it has left, by what it wanted."""

    common: Common

    def __init__(self, accel: Accelerator, memory: GuestMemory, options: Options | None = None) -> None:
        super().__init__(accel, memory, options, Common(memory, 1))
        self.asked: Counter[int] = Counter()
        memory.on_write.append(self.common.written)
        memory.on_map.append(lambda: accel.flush(self.address))

    def run(self, budget: int) -> int:
        end = self.retired() + budget
        why = super().run(budget)
        while why == lay.WHY_EXIT and (reason := int(self.c.exit_reason)) >= int(EXIT_ALONE):
            self.asked[reason] += 1
            if reason == int(EXIT_CODE):
                self.common.begin_code(int(self.c.asked_page))
            elif reason == int(EXIT_DATA):
                self.common.end_code(int(self.c.asked_page))
            else:
                why = self.alone()
                if why != lay.WHY_LIMIT or self.retired() == end:
                    break
            why = super().run(end - self.retired())
        return why

    def alone(self) -> int:
        """One instruction while all others stand."""
        self.c.alone = 1
        why = super().run(1)
        while why == lay.WHY_EXIT and int(self.c.exit_reason) == int(EXIT_CODE):
            self.common.begin_code(int(self.c.asked_page))
            why = super().run(1)
        self.c.alone = 0
        self.common.settle(self)
        return why


def shared_guest(monkeypatch: pytest.MonkeyPatch, engine: str, *, deliver: bool = False) -> tuple[Guest, SharedEngine]:
    """The guest and its engine."""
    with monkeypatch.context() as patch:
        patch.setattr(bare, "VcpuEngine", SharedEngine)
        guest = Guest(engine, deliver=deliver)
    assert isinstance(guest.bare.vcpu, SharedEngine)
    return guest, guest.bare.vcpu
