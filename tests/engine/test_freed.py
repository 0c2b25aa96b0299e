"""A machine that nobody holds is freed at once: its memory knows its CPU only weakly, so there is no cycle to collect."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from jitvm.bare import ENGINES, Bare
from jitvm.memory import PAGE, GuestMemory, weakly

LOOP = bytes.fromhex("01d8 40 75fb")
"""add eax, ebx; inc eax; jnz back"""


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Only reference counts free anything."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("engine", ENGINES)
def test_a_dropped_machine_is_freed_without_the_collector(engine: str) -> None:
    m = Bare(engine)
    m.set_mode("prot32")
    m.write(PAGE, LOOP)
    m.set_registers({"eip": PAGE, "ebx": 1})
    assert m.run(100).reason == "limit"
    held: list[weakref.ref[Any]] = [weakref.ref(m), weakref.ref(m.vcpu), weakref.ref(m.vcpu.array), weakref.ref(m.memory)]
    del m
    assert [reference() for reference in held] == [None] * 4


@pytest.mark.usefixtures("no_collection")
def test_memory_outlives_its_cpu() -> None:
    m = Bare()
    memory, cpu = m.memory, weakref.ref(m.vcpu)
    del m
    assert cpu() is None
    memory.write(PAGE, LOOP)  # tells a CPU that is gone
    memory.map(0, PAGE, 0)
    assert memory.read(PAGE, len(LOOP)) == LOOP


class Listener:
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int]] = []

    def hear(self, offset: int, n: int) -> None:
        """A listener of `on_write`."""
        self.heard.append((offset, n))


def test_a_weak_listener_hears_while_it_lives() -> None:
    memory, listener = GuestMemory(PAGE), Listener()
    memory.map(0, PAGE, 0)
    memory.on_write.append(weakly(listener.hear))
    memory.write(8, b"abc")
    assert listener.heard == [(8, 3)]
