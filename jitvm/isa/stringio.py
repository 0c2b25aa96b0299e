"""INS and OUTS, alone and repeated.

A repeated one asks the outside for many elements at once: those that lie in one page of plain memory, within the
segment, within the budget and within `io_data`.  Which these are depends on the guest's state alone, never on what is
cached, so that a run asks for the same strings on every engine.  Everything else goes element by element.  A string that
INS stores ends with the first element that overwrites the instruction, which is then fetched again.

Source: Intel SDM vol. 2, INS, OUTS, REP; vol. 1, 19.5.

Not modelled: the permission check of a repeated instruction whose count is 0 (it does nothing at all).
"""

from __future__ import annotations

from jitvm.isa.flags import DF
from jitvm.isa.host import peek, poke
from jitvm.isa.io import io_allowed
from jitvm.isa.memory import code_linear, fetch_host, is_user, linear, load, probe_store, store
from jitvm.isa.mode import CHECKED_TLB
from jitvm.isa.outside import port_access, port_string
from jitvm.isa.paging import host_of
from jitvm.isa.registers import get_reg
from jitvm.isa.served import data_element, set_data_element
from jitvm.isa.state import ES, OK, RCX, RDI, RDX, RSI, WATCH_READ, retired
from jitvm.isa.string import (
    advance_index,
    count_down,
    iterations,
    lesser,
    run_host,
    run_length,
    string_budget,
    string_status,
)
from jitvm.isa.string_loops import log2_size
from jitvm.isa.tlb import READ
from jitvm.isa.watch import watched_page
from jitvm.isa.words import M16, W0, W1, cut, u64

DATA_BYTES = u64(4096)


def string_host(c, seg, off, size, n, write):
    """Host address, for reading, of the lowest of `n` elements in one page; 0 when they are not all plain memory.

    Leaves no status: who goes on alone with the first element meets its fault again.
    """
    if c.rflags & DF != W0:
        off = off - (n - W1) * size
    lin = linear(c, seg, off, n * size, write)
    h = W0
    if c.status == OK and c.tlb_off != CHECKED_TLB:
        h = host_of(c, lin, READ, is_user(c))
        if c.n_watch != W0:
            host_of(c, lin, write, is_user(c))
            if watched_page(c, lin, c.gpa, WATCH_READ << write) != W0:
                h = W0
    c.status = OK
    return h


def string_place(c, size, n, k):
    """Byte offset from the lowest of `n` elements to the one that comes as number `k`."""
    if c.rflags & DF != W0:
        return (n - W1 - k) * size
    return k * size


def answered(c):
    """How the outside has answered this instruction's first access: 0 not yet, 1 as a single one, 2 as a string.

    The instruction must ask the same again, whatever the budget is now.
    """
    if c.io_tag != retired(c) or c.io_n == W0:
        return W0
    return W1 + (c.io_key[0] & W1)


def string_count(c, seg, off, size, asize):
    """Elements that one exit may move if all is plain memory."""
    n = run_length(c, seg, off, size, asize, lesser(get_reg(c, RCX, asize), DATA_BYTES >> log2_size(size)))
    n = lesser(n, iterations(c))
    kind = answered(c)
    if kind == W0:
        return string_budget(c, asize, n)
    if kind == W1:
        return W1
    return n


def string_finish(c, asize, n):
    """Book `n` elements of a repeated instruction: OK or AGAIN."""
    count_down(c, asize, n, n, W0)
    return string_status(c, asize, W0)


# ---- INS -------------------------------------------------------------------------------------------------------------


def ins_one(c, size, asize):
    """One element from port DX to ES:DI."""
    di, port = get_reg(c, RDI, asize), c.gpr[RDX] & M16
    if probe_store(c, ES, di, size) != OK:
        return c.status
    v = port_access(c, port, size, W0, W0)
    if c.status != OK:
        return c.status
    if store(c, ES, di, size, v) != OK:
        return c.status
    advance_index(c, RDI, size, asize, W1)
    return OK


def up_to_itself(c, at, size, n):
    """How many of `n` elements, whose lowest goes to host address `at`, INS may store before it must be fetched again."""
    most, length, k = n, c.next_rip - c.rip, W0
    while k < length:
        own = fetch_host(c, code_linear(c, c.rip + k))
        if own >= at and own < at + n * size:
            most = lesser(most, W1 + (string_place(c, size, n, (own - at) >> log2_size(size)) >> log2_size(size)))
        k = k + W1
    c.status = OK
    return most


def ins_string(c, size, asize, n):
    """`n` elements, or as many as the outside gave, to plain memory that was found writable; status."""
    n = port_string(c, c.gpr[RDX] & M16, size, W0, n)
    if c.status != OK:
        return c.status
    di = get_reg(c, RDI, asize)
    at = run_host(c, ES, di, size, n, W1)
    k = W0
    while k < n:
        v = data_element(c, size, k)
        if at != W0:
            poke(at + string_place(c, size, n, k), size, v)
        elif store(c, ES, cut(asize, di + string_place(c, size, n, k) - string_place(c, size, n, W0)), size, v) != OK:
            return c.status
        k = k + W1
    advance_index(c, RDI, size, asize, n)
    return string_finish(c, asize, n)


def ins(c, size, asize, rep):
    """INS: port DX to ES:DI.  The destination is found writable before the port is read."""
    if rep != W0 and get_reg(c, RCX, asize) == W0:
        return OK
    if io_allowed(c, c.gpr[RDX] & M16, size) != OK:
        return c.status
    if rep == W0:
        return ins_one(c, size, asize)
    di = get_reg(c, RDI, asize)
    if probe_store(c, ES, di, size) != OK:
        return c.status
    n = string_count(c, ES, di, size, asize)
    if n > W1:
        at = string_host(c, ES, di, size, n, W1)
        if at != W0:
            n = up_to_itself(c, at, size, n)
            if n > W1:
                return ins_string(c, size, asize, n)
    if ins_one(c, size, asize) != OK:
        return c.status
    return string_finish(c, asize, W1)


# ---- OUTS ------------------------------------------------------------------------------------------------------------


def outs_one(c, size, asize, seg):
    """One element from seg:SI to port DX."""
    v = load(c, seg, get_reg(c, RSI, asize), size)
    if c.status != OK:
        return c.status
    port_access(c, c.gpr[RDX] & M16, size, W1, v)
    if c.status != OK:
        return c.status
    advance_index(c, RSI, size, asize, W1)
    return OK


def outs_string(c, size, asize, at, n):
    """`n` elements of plain memory whose lowest is at the host address `at`; status."""
    k = W0
    while k < n:
        set_data_element(c, size, k, peek(at + string_place(c, size, n, k), size))
        k = k + W1
    got = port_string(c, c.gpr[RDX] & M16, size, W1, n)
    if c.status != OK:
        return c.status
    advance_index(c, RSI, size, asize, got)
    return string_finish(c, asize, got)


def outs(c, size, asize, seg, rep):
    """OUTS: seg:SI to port DX."""
    if rep != W0 and get_reg(c, RCX, asize) == W0:
        return OK
    if io_allowed(c, c.gpr[RDX] & M16, size) != OK:
        return c.status
    if rep == W0:
        return outs_one(c, size, asize, seg)
    si = get_reg(c, RSI, asize)
    n = string_count(c, seg, si, size, asize)
    if n > W1:
        at = string_host(c, seg, si, size, n, W0)
        if at != W0:
            return outs_string(c, size, asize, at, n)
    if outs_one(c, size, asize, seg) != OK:
        return c.status
    return string_finish(c, asize, W1)
