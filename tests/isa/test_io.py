"""IN, OUT, INS, OUTS: permissions, one exit for a string, nothing lost or doubled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jitvm.isa import state
from jitvm.isa.io import port_in, port_out
from jitvm.isa.state import AGAIN, EXIT, FAULT
from jitvm.isa.stringio import ins, outs
from tests.isa.on_window import call
from tests.isa.plain_cpu import DS, ES, PlainMemory, enter_v86, fault_of, make_cpu, page_tables, protect
from tests.oracle.case import DF

EXIT_IO, EXIT_MMIO = int(state.EXIT_IO), int(state.EXIT_MMIO)
GP, OK, PF_FAULT = int(state.GP), int(state.OK), int(state.PF_FAULT)
RAX, RCX, RDX, RSI, RDI = 0, 1, 2, 6, 7
TR, TSS = 7, 0x4000
IO_MAP = 0x68


def flat(cpl: int = 0) -> tuple[Any, PlainMemory]:
    """A flat protected-mode record; DX is port 1F0h."""
    c, memory = make_cpu(2 << 20)
    protect(c, memory, cpl)
    c.gpr[RDX], c.gpr[RSI], c.gpr[RDI] = 0xABCD01F0, 0x10000, 0x20000
    return c, memory


def answer(c: Any, value: int = 0) -> None:
    """Append the outside's answer to the log: the value read, or for a string how many elements were moved."""
    c.io_value[int(c.io_n)] = value
    c.io_n += 1


def asked(c: Any) -> tuple[int, int, int, int]:
    """Port, size, direction and count of the exit."""
    assert (c.status, c.exit_reason) == (EXIT, EXIT_IO)
    return int(c.io_address), int(c.io_size), int(c.io_write), int(c.io_count)


# ---- IN and OUT ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "result"), [(1, 0x112233AA), (2, 0x1122AAAA), (4, 0xAAAAAAAA)])
def test_in_asks_once_and_writes_the_accumulator(size: int, result: int) -> None:
    c, _ = make_cpu()
    c.gpr[RAX] = 0x11223344
    assert call(port_in, c, size, 0x71) == EXIT
    assert asked(c) == (0x71, size, 0, 1)
    assert c.gpr[RAX] == 0x11223344
    answer(c, 0xAAAAAAAA & (1 << 8 * size) - 1)
    assert call(port_in, c, size, 0x71) == OK
    assert c.gpr[RAX] == result


def test_out_cuts_the_value_to_its_size() -> None:
    c, _ = make_cpu()
    assert call(port_out, c, 0x80, 0x1234, 1) == EXIT
    assert asked(c) == (0x80, 1, 1, 1)
    assert c.io_data[0] == 0x34
    answer(c)
    assert call(port_out, c, 0x80, 0x1234, 1) == OK


def with_io_map(c: Any, memory: PlainMemory, closed: tuple[int, ...] = (), limit: int = 0x200) -> None:
    """A TSS with an I/O map in which all ports are open but `closed`."""
    memory.put(TSS + 0x66, "H", IO_MAP)
    memory.write(TSS + IO_MAP, b"\0" * 0x400)
    for port in closed:
        bits = memory.read(TSS + IO_MAP + port // 8, 1)[0]
        memory.write(TSS + IO_MAP + port // 8, bytes([bits | 1 << port % 8]))
    c.limit[TR] = limit


@pytest.mark.parametrize(
    ("port", "size", "allowed"),
    [(0x3F8, 1, True), (0x3F9, 1, False), (0x3F8, 2, False), (0x3FA, 4, True), (0x3F6, 4, False), (0x3F5, 4, True)],
)
def test_io_map_is_asked_for_every_port_of_the_access(port: int, size: int, allowed: bool) -> None:
    c, memory = flat(3)
    with_io_map(c, memory, closed=(0x3F9,))
    status = call(port_in, c, size, port)
    assert status == (EXIT if allowed else FAULT)
    if not allowed:
        assert fault_of(c) == (GP, 0)


def test_iopl_decides_before_the_map() -> None:
    c, memory = flat(3)
    with_io_map(c, memory, closed=(0x71,))
    c.rflags |= 3 << 12
    assert call(port_in, c, 1, 0x71) == EXIT


def test_v86_mode_asks_the_map_whatever_iopl() -> None:
    c, memory = flat()
    with_io_map(c, memory, closed=(0x71,))
    enter_v86(c, iopl=3)
    assert call(port_in, c, 1, 0x70) == EXIT
    assert call(port_in, c, 1, 0x71) == FAULT
    assert fault_of(c) == (GP, 0)


@pytest.mark.parametrize(
    ("limit", "attr", "allowed"),
    [
        (IO_MAP + 2, 0x8B, True),
        (IO_MAP + 1, 0x8B, False),
        (0x66, 0x8B, False),
        (0x200, 0x89, True),
        (0x200, 0x83, False),
    ],
)
def test_map_needs_a_32_bit_tss_and_two_bytes_within_its_limit(limit: int, attr: int, allowed: bool) -> None:
    c, memory = flat(3)
    with_io_map(c, memory, limit=limit)
    c.attr[TR] = attr
    assert call(port_in, c, 1, 8) == (EXIT if allowed else FAULT)


def test_page_fault_of_the_map() -> None:
    c, memory = flat(3)
    with_io_map(c, memory)
    page_tables(c, memory, absent=(TSS,))
    assert call(port_in, c, 1, 8) == FAULT
    assert fault_of(c) == (PF_FAULT, 0)


# ---- INS and OUTS ----------------------------------------------------------------------------------------------------


def test_rep_insw_is_one_exit_with_its_count() -> None:
    c, memory = flat()
    c.gpr[RCX] = 256
    assert call(ins, c, 2, 4, 3) == EXIT
    assert asked(c) == (0x1F0, 2, 0, 256)
    c.io_data.view(np.uint8)[:512] = np.arange(512) % 251
    answer(c, 256)
    assert call(ins, c, 2, 4, 3) == OK
    assert memory.read(0x20000, 512) == bytes(k % 251 for k in range(512))
    assert (c.gpr[RDI], c.gpr[RCX], c.left) == (0x20200, 0, 745)


def test_rep_outsd_backwards_hands_over_the_elements_in_their_order() -> None:
    c, memory = flat()
    memory.put(0x10000, "4I", 1, 2, 3, 4)
    c.gpr[RSI], c.gpr[RCX], c.rflags = 0x1000C, 4, 2 | DF
    assert call(outs, c, 4, 4, DS, 3) == EXIT
    assert asked(c) == (0x1F0, 4, 1, 4)
    assert c.io_data.view(np.uint32)[:4].tolist() == [4, 3, 2, 1]
    answer(c, 4)
    assert call(outs, c, 4, 4, DS, 3) == OK
    assert (c.gpr[RSI], c.gpr[RCX], c.left) == (0xFFFC, 0, 997)


def test_rep_ins_backwards_over_a_page_border() -> None:
    c, memory = flat()
    c.gpr[RCX], c.rflags = 3, 2 | DF
    assert call(ins, c, 1, 4, 3) == EXIT
    assert asked(c)[3] == 1
    answer(c, 1)
    assert call(ins, c, 1, 4, 3) == AGAIN
    assert call(ins, c, 1, 4, 3) == EXIT
    assert asked(c)[3] == 2
    c.io_data.view(np.uint8)[:2] = [2, 3]
    answer(c, 2)
    assert call(ins, c, 1, 4, 3) == OK
    assert memory.read(0x1FFFE, 3) == b"\x03\x02\x01"
    assert (c.gpr[RDI], c.gpr[RCX], c.left) == (0x1FFFD, 0, 998)


def test_rep_ins_backwards_within_a_page() -> None:
    c, memory = flat()
    c.gpr[RDI], c.gpr[RCX], c.rflags = 0x20010, 3, 2 | DF
    assert call(ins, c, 1, 4, 3) == EXIT
    c.io_data.view(np.uint8)[:3] = [1, 2, 3]
    answer(c, 3)
    assert call(ins, c, 1, 4, 3) == OK
    assert memory.read(0x2000E, 3) == b"\x03\x02\x01"
    assert c.gpr[RDI] == 0x2000D


def test_count_is_bounded_by_page_budget_and_buffer() -> None:
    c, _ = flat()
    c.gpr[RDI], c.gpr[RCX] = 0x20FF0, 100
    assert call(ins, c, 4, 4, 3) == EXIT
    assert asked(c)[3] == 4
    c.gpr[RDI], c.left = 0x20000, 7
    assert call(ins, c, 4, 4, 3) == EXIT
    assert asked(c)[3] == 7
    c.gpr[RCX], c.left = 0x10000, 100_000
    assert call(ins, c, 1, 4, 3) == EXIT
    assert asked(c)[3] == 4096


def test_a_string_goes_on_page_by_page_until_its_fault() -> None:
    c, memory = flat()
    page_tables(c, memory, absent=(0x21000,))
    c.gpr[RDI], c.gpr[RCX] = 0x20FFA, 10
    assert call(ins, c, 2, 4, 3) == EXIT
    assert asked(c)[3] == 3
    answer(c, 3)
    assert call(ins, c, 2, 4, 3) == AGAIN
    assert (c.gpr[RDI], c.gpr[RCX], c.left) == (0x21000, 7, 997)
    assert call(ins, c, 2, 4, 3) == FAULT
    assert (c.vector, c.cr2, c.gpr[RCX], c.left) == (PF_FAULT, 0x21000, 7, 997)


def test_destination_is_checked_before_the_port_is_read() -> None:
    c, memory = flat()
    page_tables(c, memory, read_only=(0x20000,))
    c.gpr[RCX] = 10
    for words in ((2, 4, 3), (2, 4, 0)):
        assert call(ins, c, *words) == FAULT
        assert fault_of(c) == (PF_FAULT, 3)


def test_an_answered_string_completes_under_a_smaller_budget() -> None:
    c, _ = flat()
    c.gpr[RCX], c.left, c.horizon = 8, 8, 1008
    assert call(ins, c, 1, 4, 3) == EXIT
    assert asked(c)[3] == 8
    answer(c, 8)
    c.left, c.horizon = 2, 1002
    assert call(ins, c, 1, 4, 3) == OK
    assert (c.gpr[RCX], c.left) == (0, -5)


def test_an_answered_single_access_stays_one_under_a_larger_budget() -> None:
    c, memory = flat()
    c.gpr[RCX], c.left, c.horizon = 8, 1, 1001
    assert call(ins, c, 1, 4, 3) == EXIT
    assert asked(c)[3] == 1
    answer(c, 0x5A)
    c.left, c.horizon = 100, 1100
    assert call(ins, c, 1, 4, 3) == AGAIN
    assert (c.gpr[RCX], c.left, memory.read(0x20000, 2)) == (7, 99, b"\x5a\0")


def test_code_pages_do_not_change_the_exits() -> None:
    c, memory = flat()
    memory.code_pages[0x20] = 1
    c.gpr[RCX] = 16
    assert call(ins, c, 2, 4, 3) == EXIT
    assert asked(c)[3] == 16
    c.io_data[:4] = 0x0102030405060708
    answer(c, 16)
    assert call(ins, c, 2, 4, 3) == OK
    assert memory.get(0x20000, "4Q") == (0x0102030405060708,) * 4


def test_ins_to_mmio_goes_one_by_one_and_asks_each_access_once() -> None:
    c, _ = flat()
    c.gpr[RDI], c.gpr[RCX] = 0x400000, 2
    log = []
    while (status := call(ins, c, 2, 4, 3)) in (EXIT, AGAIN):
        if status == EXIT:
            log.append((int(c.exit_reason), int(c.io_address), int(c.io_data[0]), int(c.left)))
            answer(c, 0x1111 * len(log))
    assert status == OK
    assert log == [
        (EXIT_IO, 0x1F0, 0, 1000),
        (EXIT_MMIO, 0x400000, 0x1111, 1000),
        (EXIT_IO, 0x1F0, 0, 999),
        (EXIT_MMIO, 0x400002, 0x3333, 999),
    ]


def test_outs_from_mmio() -> None:
    c, _ = flat()
    c.gpr[RSI], c.gpr[RCX] = 0x400000, 1
    assert call(outs, c, 4, 4, DS, 3) == EXIT
    assert c.exit_reason == EXIT_MMIO
    answer(c, 0xCAFE)
    assert call(outs, c, 4, 4, DS, 3) == EXIT
    assert asked(c) == (0x1F0, 4, 1, 1)
    assert c.io_data[0] == 0xCAFE
    answer(c)
    assert call(outs, c, 4, 4, DS, 3) == OK
    assert (c.gpr[RSI], c.left) == (0x400004, 1000)


def test_segment_limit_shortens_a_string_to_single_elements() -> None:
    c, _ = make_cpu()
    c.limit[ES] = c.write_limit[ES] = c.read_limit[ES] = 0x103
    c.gpr[RDI], c.gpr[RCX] = 0x100, 4
    for k in range(2):
        assert call(ins, c, 2, 2, 3) == EXIT
        assert asked(c)[3] == 1
        answer(c, 0x1234)
        assert call(ins, c, 2, 2, 3) == AGAIN
        assert c.gpr[RDI] == 0x102 + 2 * k
    assert call(ins, c, 2, 2, 3) == FAULT
    assert fault_of(c) == (GP, 0)
    assert (c.left, c.gpr[RCX]) == (998, 2)


def test_count_zero_does_nothing_even_where_the_port_is_closed() -> None:
    c, memory = flat(3)
    with_io_map(c, memory, closed=(0x1F0,))
    c.gpr[RCX] = 0
    assert call(ins, c, 2, 4, 3) == OK
    assert call(outs, c, 2, 4, DS, 3) == OK
    c.gpr[RCX] = 1
    assert call(ins, c, 2, 4, 3) == FAULT
    assert call(outs, c, 2, 4, DS, 3) == FAULT
