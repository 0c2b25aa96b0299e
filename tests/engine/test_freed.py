"""What nobody holds is freed: a bare machine at once, as its memory knows its CPU only weakly and there is no cycle to
collect; one with a board by a collection, for which guest memory asks before there is much of it."""

from __future__ import annotations

import gc
import mmap
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from jitvm.bare import ENGINES, Bare
from jitvm.machine import Machine
from jitvm.memory import PAGE, GuestMemory, Mapped, weakly
from tests.boot.guests import GUESTS, config

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
    held: list[weakref.ref[Any]] = [
        weakref.ref(m),
        weakref.ref(m.vcpu),
        weakref.ref(m.vcpu.array),
        weakref.ref(m.memory),
    ]
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
    tables = [
        engine.array,
        engine._arena,
        *engine.page_tables.values(),
        memory.page_read,
        memory.page_write,
        memory.bytes,
    ]
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


@pytest.mark.usefixtures("no_collection")
def test_machines_that_nobody_holds_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many a process makes, and though Python's own thresholds never ask for a collection."""
    monkeypatch.setattr("jitvm.memory.mapped", Mapped())
    size, made, most = 128 << 20, 12, 0
    known: list[weakref.ref[GuestMemory]] = []
    for _ in range(made):
        with Machine(config(GUESTS / "hello.bin", memory=size)) as m:
            m.run()
        known.append(weakref.ref(m.memory))
        del m
        most = max(most, sum(reference() is not None for reference in known))
    assert 1 < most <= Mapped.LEAST // size < made


def test_memory_that_is_held_is_not_collected_for_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    collections: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda: collections.append(1))
    taken, owners = Mapped(), [GuestMemory(PAGE) for _ in range(64)]
    taken.more(owners[0], 2 * Mapped.LEAST)
    assert not collections, "there is nothing yet"
    for owner in owners[1:]:
        taken.more(owner, Mapped.LEAST)
    assert len(collections) < 8
    assert taken.bytes == 65 * Mapped.LEAST
    del owners, owner
    assert taken.bytes == 0
