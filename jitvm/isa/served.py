"""Ports that need no device: they hold a value or nothing, and an access to them is served without leaving the CPU.

`c.port_table` is the host address of the port bus's table (jitvm/bus.py): a byte a port that says how it is served, and as
many bytes with values `TABLE_BYTES` behind; 0 while somebody looks at each access.  An access of several bytes is served
here when all of its ports are.

An access takes ACCESS_NS of virtual time, whoever serves it.  The budget is virtual time, too: what an access takes comes
off it.  One that would take all of it asks the outside, as every access once did, so that no timer is late: what the guest
sees is the same to the nanosecond.
"""

from __future__ import annotations

from jitvm.isa.host import peek, poke
from jitvm.isa.state import retired
from jitvm.isa.words import W0, W1, W3, i64, u64

ACCESS_NS = u64(1000)
"""Virtual time of a port or MMIO access: a bus cycle."""
ASK, FIXED, LATCH = u64(0), u64(1), u64(2)
"""How a port is served: by its device; it always reads as its value; it reads as what was written last."""
TABLE_BYTES = u64(0x1_0008)
"""One for each port, and as many as an access may reach beyond the last one: these are the outside's."""


def serves(c, port, size, n):
    """1 when `n` accesses to the same `size` ports are served here; those that the outside has answered are not."""
    if c.port_table == W0 or c.left <= i64(n * (ACCESS_NS + W1)):
        return W0
    if c.io_tag == retired(c) and c.io_pos < c.io_n:
        return W0
    k = W0
    while k < size:
        if peek(c.port_table + port + k, W1) == ASK:
            return W0
        k = k + W1
    return W1


def take_time(c, n):
    """`n` accesses have been served."""
    ns = n * ACCESS_NS
    c.extra_ns = c.extra_ns + ns
    c.horizon = c.horizon - ns
    c.left = c.left - i64(ns)
    c.n_served = c.n_served + n
    return W0


def served_in(c, port, size, n):
    """What each of `n` reads gives."""
    take_time(c, n)
    return peek(c.port_table + TABLE_BYTES + port, size)


def served_out(c, port, size, v, n):
    """`n` writes, the last of them of `v`."""
    take_time(c, n)
    k = W0
    while k < size:
        if peek(c.port_table + port + k, W1) == LATCH:
            poke(c.port_table + TABLE_BYTES + port + k, W1, v >> (k << W3))
        k = k + W1
    return W0
