"""A machine that nobody holds is freed at once: its memory knows its CPU only weakly, so there is no cycle to collect."""

from __future__ import annotations

import gc
import mmap
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
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


def mapping_of(table: np.ndarray) -> mmap.mmap:
    """The mapping whose pages an array shows."""
    below: object = table
    while isinstance(below, np.ndarray):
        below = below.base
    assert isinstance(below, memoryview) and isinstance(below.obj, mmap.mmap)
    return below.obj


@pytest.mark.usefixtures("no_collection")
def test_what_is_large_goes_back_to_the_host_at_once() -> None:
    """Not to the heap, which keeps it, 34 MiB of each machine, and fills it with zeros for the next one."""
    m = Bare(memory=4 << 20)
    engine, memory = m.vcpu, m.memory
    tables = [engine.array, engine._arena, *engine.page_tables.values(), memory.page_read, memory.page_write, memory.bytes]
    held = [weakref.ref(mapping_of(table)) for table in tables]
    assert len({reference() for reference in held}) == len(tables)
    del m, engine, memory, tables
    assert [reference() for reference in held] == [None] * len(held)


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
