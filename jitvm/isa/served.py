"""Accesses that need no device: they are served without leaving the CPU.

Ports: those where nobody is, and latches.  `c.port_table` is the host address of the port bus's table (jitvm/bus.py): a
byte a port that says how it is served, and as many bytes with values `TABLE_BYTES` behind; 0 while somebody looks at each
access.  An access of several bytes is served here when all of its ports are.  Of the local APIC's page what
jitvm/isa/apic_page.py says.

An access takes ACCESS_NS of virtual time, whoever serves it.  The budget is virtual time, too: what an access takes comes
off it.  One that would leave less than what may be charged already for the instructions behind it asks the outside, as every
access once did, so that no timer is late: what the guest sees is the same to the nanosecond.

CPUs that run at the same time share the table of ports: its entries are bytes, each read and written by one access of the
host.  What was stored before such an access is seen by the others before anything behind it, as with the exit (SDM vol. 1,
"Ordering I/O").  A local APIC's page is its CPU's own (jitvm/devices/lapic.py, `Processor.at_rest`).
"""

from __future__ import annotations

from jitvm.isa.apic_page import ENABLED, QUIET, READABLE, register, written_here
from jitvm.isa.host import peek, poke
from jitvm.isa.shared import serialize_memory
from jitvm.isa.state import EXIT_IO
from jitvm.isa.words import M32, W0, W1, W3, W4, W7, W12, i64, mask, u64

ACCESS_NS = u64(1000)
"""Virtual time of a port or MMIO access: a bus cycle."""
AHEAD = u64(64)
"""Greatest number of instructions that are charged at once (a block), and go on behind an access without a question."""
ASK, FIXED, LATCH = u64(0), u64(1), u64(2)
"""How a port is served: by its device; it always reads as its value; it reads as what was written last."""
TABLE_BYTES = u64(0x1_0008)
"""One for each port, and as many as an access may reach beyond the last one: these are the outside's."""
APIC_PAGE, PAGE_OFFSET, W63_, W15_ = u64(0xFEE00), u64(0xFFF), u64(63), u64(15)


def data_element(c, size, k):
    """Element `k` of the packed bytes in `io_data`."""
    at = k * size
    return (c.io_data[at >> W3] >> ((at & W7) << W3)) & mask(size)


def set_data_element(c, size, k, v):
    """Write element `k` of the packed bytes in `io_data`."""
    at = k * size
    shift = (at & W7) << W3
    c.io_data[at >> W3] = (c.io_data[at >> W3] & ~(mask(size) << shift)) | (v << shift)
    return W0


def take_time(c, n):
    """`n` accesses are served."""
    ns = n * ACCESS_NS
    c.extra_ns = c.extra_ns + ns
    c.horizon = c.horizon - ns
    c.left = c.left - i64(ns)
    c.n_served = c.n_served + n
    return W1


def needs_no_device(c, port, size):
    """1 when all of `size` ports are empty or latches."""
    if c.port_table == W0:
        return W0
    k = W0
    while k < size:
        if peek(c.port_table + port + k, W1) == ASK:
            return W0
        k = k + W1
    return W1


def read_port(c, port, size, count):
    """`count` reads of the same ports, which all give the same."""
    v = peek(c.port_table + TABLE_BYTES + port, size)
    c.answer = v
    if count > W1:
        k = W0
        while k < count:
            set_data_element(c, size, k, v)
            k = k + W1
        c.answer = count
    return W1


def write_port(c, port, size, v, count):
    """`count` writes to the same ports, of which the last one stays."""
    c.answer = W0
    if count > W1:
        v = data_element(c, size, count - W1)
        c.answer = count
    k = W0
    while k < size:
        if peek(c.port_table + port + k, W1) == LATCH:
            poke(c.port_table + TABLE_BYTES + port + k, W1, v >> (k << W3))
        k = k + W1
    return W1


def serve_apic(c, address, size, write, v):
    """1 when an access to physical memory went to a register of the local APIC that needs no device."""
    if address >> W12 != APIC_PAGE or c.apic[QUIET] == W0 or size != W4 or address & W15_ != W0:
        return W0
    if c.apic[ENABLED] == W0:
        return W0
    n = (address & PAGE_OFFSET) >> W4
    c.answer = W0
    if n > W63_:
        return W0
    if write != W0:
        return written_here(c, n, v & M32)
    if (READABLE >> n) & W1 == W0:
        return W0
    c.answer = register(c, n)
    return W1


def serve(c, reason, address, size, write, count, v):
    """1 when an access, or a string of `count`, was served here; `answer` is what the outside would have said."""
    if c.left <= i64(count * (ACCESS_NS + W1) + AHEAD):
        return W0
    serialize_memory(c)
    if reason == EXIT_IO:
        if needs_no_device(c, address, size) == W0:
            return W0
        if write != W0:
            write_port(c, address, size, v, count)
        else:
            read_port(c, address, size, count)
        return take_time(c, count)
    if serve_apic(c, address, size, write, v) == W0:
        return W0
    return take_time(c, W1)
