"""Virtual time of vCPUs that run at the same time: none gets far ahead of one whose host thread stands."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from jitvm.parallel import LEASH, NEAR, ThreadVcpu
from tests.boot.guests import WITH_A_HANDLER, two_at_once
from tests.engine.assembler import assemble

LOOPS = 50_000_000
PATIENCE = 30
"""Seconds of the host that a broken run takes; no other one waits for them."""
BOTH = f"""{WITH_A_HANDLER}
    mov eax, fs:[0x20]
    test eax, eax
    jnz other
    mov dword ptr fs:[0x310], 0x01000000
    mov dword ptr fs:[0x300], 0x46F0            # SIPI: begin where this begins
1:  cmp byte ptr [0x600], 1
    jne 1b
    mov dword ptr fs:[0x300], 0x4041
    mov ecx, {LOOPS}
2:  dec ecx
    jnz 2b
    out 0xF4, al
"""
"""The first one interrupts the second, and counts."""
RUNS = """
other:
    mov byte ptr [0x600], 1
1:  jmp 1b
on_41:
    iret
"""
SLEEPS = """
other:
    mov sp, 0x6000
    mov byte ptr [0x600], 1
1:  sti
    hlt
    jmp 1b
on_41:
    mov byte ptr [0x601], 1
    mov dword ptr fs:[0xB0], 0
    iret
"""
TICKS = """
other:
    mov word ptr [0x42 * 4], offset tick
    mov word ptr [0x42 * 4 + 2], 0xF000
    mov sp, 0x6000
    mov dword ptr fs:[0xF0], 0x1FF
    mov dword ptr fs:[0x3E0], 0xB
    mov dword ptr fs:[0x320], 0x42
    mov dword ptr fs:[0x380], 5000000           # further away than anybody goes at once
    sti
    mov byte ptr [0x600], 1
1:  jmp 1b
tick:
    mov byte ptr [0x601], 1
    in al, 0x71
on_41:
    mov dword ptr fs:[0xB0], 0
    iret
"""
"""A timer's handler that comes out for a device."""


class Host:
    """The host lets the thread of a vCPU stand, until `go`."""

    def __init__(self, vcpu: ThreadVcpu) -> None:
        self._vcpu = vcpu
        self.stands, self.go = False, threading.Event()

    def _stand(self) -> None:
        self.stands = True
        self._vcpu.lock.release()
        self.go.wait(PATIENCE)
        self._vcpu.lock.acquire()
        self.stands = False

    def at_entry(self, n: int) -> None:
        """When it goes in for the n-th time."""
        real: Callable[[], object] = self._vcpu.go_in
        entries = iter(range(1, n + 1))

        def go_in() -> None:
            if next(entries, 0) == n:
                self._stand()
            real()

        self._vcpu.go_in = go_in

    def behind_an_access(self, when: Callable[[], bool]) -> None:
        """When it goes in for the rest of an instruction that a device has answered, the first time that is so."""
        real: Callable[[], object] = self._vcpu.go_in

        def go_in() -> None:
            if self._vcpu.half_done and when() and not self.go.is_set():
                self._stand()
            real()

        self._vcpu.go_in = go_in

    def when_woken(self) -> None:
        """When the interrupt has come that ends its HLT."""
        real = self._vcpu.wait

        def wait() -> None:
            real()
            if self._vcpu.wakes():
                self._stand()

        self._vcpu.wait = wait  # type: ignore[method-assign]  # the vCPU as it is but for this


@pytest.mark.parametrize(
    ("second", "most"),
    [(RUNS, LEASH), (SLEEPS, NEAR), (TICKS, NEAR)],
    ids=["a running one", "a woken one", "one in the handler of a timer"],
)
def test_nobody_runs_ahead_of_a_thread_that_stands(second: str, most: int, tmp_path: Path) -> None:
    code = assemble(BOTH + second, 0, 16).hex()
    with two_at_once(tmp_path, code) as machine:
        first, other = machine.vcpus
        assert isinstance(first, ThreadVcpu) and isinstance(other, ThreadVcpu)
        host, waits = Host(other), threading.Event()
        ahead: list[int] = []
        sleep = first.sleep

        def noted(seconds: float) -> None:
            since = min(other.reached, other.expected)
            if host.stands and since < first.now() and not waits.is_set():
                ahead.append(first.now() - since)
                waits.set()
            sleep(seconds)

        first.sleep = noted  # type: ignore[method-assign]  # the vCPU as it is but for this
        if second is RUNS:
            host.at_entry(5)
        elif second is TICKS:
            host.behind_an_access(lambda: bool(machine.ram[0x601]))
        else:
            host.when_woken()
        machine.start()
        assert waits.wait(PATIENCE), "it ran on alone"
        host.go.set()
        assert machine.wait().reason == "debug-exit"
        assert ahead[0] <= most + 5000, "the block that it was in, and what the handler did"
        assert first.retired > LOOPS


LOCKS = WITH_A_HANDLER + """
    mov dword ptr fs:[0x3E0], 0xB
    mov dword ptr fs:[0x320], 0x20041           # periodic
    mov dword ptr fs:[0x380], 1000000
    sti
1:  lock inc dword ptr [{at}]
    cmp byte ptr [0x601], 5
    jb 1b
    out 0xF4, al
on_41:
    inc byte ptr [0x601]
    mov dword ptr fs:[0xB0], 0
    iret
"""


@pytest.mark.parametrize("at", [0x503E, 0x5FFE], ids=["a line", "a page"])
def test_ticks_come_while_a_guest_locks_over_borders(at: int, tmp_path: Path) -> None:
    """All others stand for each, which is slow: a nanosecond each would be a million of them a tick (an hour of the host's
    for five seconds of a program that does nothing else)."""
    with two_at_once(tmp_path, assemble(LOCKS.format(at=at), 0, 16).hex()) as machine:
        assert machine.run(200_000).reason == "debug-exit"
        world = machine.world
        assert world is not None
        assert int.from_bytes(machine.ram[at : at + 4].tobytes(), "little") == world.stops["alone"]
