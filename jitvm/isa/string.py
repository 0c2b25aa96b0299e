"""String instructions: MOVS, CMPS, SCAS, LODS, STOS, alone and repeated.

One iteration of a repeated instruction counts as one instruction.  A call does at most `CHUNK` iterations and at most
as many as may still retire, and after a kick no more than one run; then it returns AGAIN and the instruction starts again
with what SI, DI and CX say.

While both operands are plain memory, the elements that lie in one page are done by a loop over host addresses; every
other element (over a page border, at a segment's limit, MMIO, code pages) is done alone and completely.  An element that
is stored alone ends the call: it may have changed the instruction itself, which is then fetched again.

Repeated CMPS and SCAS write the flags when they are complete; until then, at a fault, an interrupt or a trap between
two iterations, the flags are those from before the instruction (SDM vol. 2, REP, for faults; measured on silicon).

Source: Intel SDM vol. 2, MOVS, CMPS, SCAS, LODS, STOS, REP; vol. 1, 7.3.9.
"""

from __future__ import annotations

from jitvm.isa.flags import DF, get_zf, sub_flags
from jitvm.isa.host import peek
from jitvm.isa.memory import base_of, cached_host, host_run, is_user, linear, load, store
from jitvm.isa.paging import host_of
from jitvm.isa.paging_entry import PAGE_OFFSET
from jitvm.isa.registers import get_reg, set_reg
from jitvm.isa.state import AGAIN, ES, FAULT, OK, RAX, RCX, RDI, RSI
from jitvm.isa.string_loops import (
    copy_down,
    copy_elements,
    copy_up,
    fill_words,
    log2_size,
    match_elements,
    scan_elements,
    skip_elements,
    spread_lanes,
)
from jitvm.isa.tlb import READ, WRITE
from jitvm.isa.words import W0, W1, W8, cut, i64, mask, u64

CHUNK = u64(0x1_0000)
"""Iterations in one call at most."""
PAGE_SIZE = u64(0x1000)
NO_BUDGET = i64(0)


# ---- runs: consecutive elements in one page --------------------------------------------------------------------------


def lesser(a, b):
    """The smaller of two unsigned numbers."""
    if a < b:
        return a
    return b


def run_up(place, off, size, asize):
    """Elements from `off` upwards that end in the page (`place` is the offset in it) and before `off` wraps."""
    room = PAGE_SIZE - place
    to_wrap = mask(asize) - off
    if to_wrap < room:
        room = to_wrap + W1
    return room >> log2_size(size)


def run_down(place, off, size, asize):
    """Elements from `off` downwards that lie in the page and before `off` wraps."""
    if place + size > PAGE_SIZE or mask(asize) - off < size - W1:
        return W0
    return (lesser(place, off) >> log2_size(size)) + W1


def run_length(c, seg, off, size, asize, n):
    """How many of the next `n` elements at seg:off lie in one page, in the direction of DF."""
    place = (base_of(c, seg) + off) & PAGE_OFFSET
    if c.rflags & DF != W0:
        return lesser(n, run_down(place, off, size, asize))
    return lesser(n, run_up(place, off, size, asize))


def plain_page(c, seg, off, n_bytes, write):
    """Host address of seg:off when it and all `n_bytes` are plain memory of one page, else 0; no status is left.

    Fills the TLB, so that only what must be done element by element is.
    """
    h = host_run(c, seg, off, n_bytes, write)
    if h != W0:
        return h
    lin = linear(c, seg, off, n_bytes, write)
    if c.status == OK:
        if write != W0:
            host_of(c, lin, WRITE, is_user(c))
            h = host_run(c, seg, off, n_bytes, write)
        else:
            host_of(c, lin, READ, is_user(c))
            h = cached_host(c, lin, READ)
    c.status = OK
    return h


def run_host(c, seg, off, size, n, write):
    """Host address of the lowest of `n` elements that start at seg:off and go in the direction of DF; 0: not plain."""
    if n == W0:
        return W0
    if c.rflags & DF != W0:
        return plain_page(c, seg, off - (n - W1) * size, n * size, write)
    return plain_page(c, seg, off, n * size, write)


def advance_index(c, reg, size, asize, n):
    """Move SI or DI by `n` elements in the direction of DF."""
    delta = n * size
    if c.rflags & DF != W0:
        delta = W0 - delta
    set_reg(c, reg, asize, c.gpr[reg] + delta)
    return W0


def iterations(c):
    """Iterations in one call at most: one when a trap follows each, or when somebody looks at each."""
    if c.step_armed | c.armed != W0:
        return W1
    return CHUNK


def string_budget(c, asize, most):
    """Iterations of `most` that may be done now: by CX, by the instructions that may still retire.

    A count of 0 is written back: with 32-bit addresses RCX loses its upper half.
    """
    if c.left <= NO_BUDGET:
        return W0
    count = get_reg(c, RCX, asize)
    if count == W0:
        set_reg(c, RCX, asize, W0)
    return lesser(lesser(count, most), u64(c.left))


def write_back(c, asize, si, di):
    """`c.status` of a repeated instruction that has a count of 0, or a fault.

    With 32-bit addresses in 64-bit code registers lose their upper halves all the same: RCX, and of MOVS and STOS the
    indexes, too (measured on a Xeon of 2023, family 6 model 207; the manual says nothing).
    """
    if c.status == FAULT or get_reg(c, RCX, asize) == W0:
        set_reg(c, RCX, asize, c.gpr[RCX])
        if si != W0:
            set_reg(c, RSI, asize, c.gpr[RSI])
        if di != W0:
            set_reg(c, RDI, asize, c.gpr[RDI])
    return c.status


def book(c, asize, n, found):
    """Take `n` iterations from CX and from the budget; 1 when the instruction is complete (also by `found`), else 0.

    A complete one leaves its last iteration to be counted as all instructions are.
    """
    count = cut(asize, get_reg(c, RCX, asize) - n)
    set_reg(c, RCX, asize, count)
    if count == W0 or found != W0:
        c.left = c.left - i64(n - W1)
        return W1
    c.left = c.left - i64(n)
    return W0


def count_down(c, asize, n, budget, found):
    """Book `n` iterations of `budget`; how many may follow in this call: 0 when the instruction is complete, or kicked."""
    if book(c, asize, n, found) != W0 or c.left < c.floor:
        return W0
    return budget - n


def string_status(c, asize, found):
    """How a call that did what it could ends: OK when the instruction is complete (also by `found`)."""
    if found != W0 or get_reg(c, RCX, asize) == W0:
        return OK
    return AGAIN


# ---- flags -----------------------------------------------------------------------------------------------------------


def string_flags(c, size, a, b):
    """The flags of a - b."""
    return sub_flags(c.lazy, size, a, b, cut(size, a - b))


def keep_flags(c, status, res, aux):
    """`status` of a repeated comparison, which has written the flags only when it is complete; else they are as before."""
    if status != OK:
        c.lazy.res = res
        c.lazy.aux = aux
    return status


# ---- MOVS ------------------------------------------------------------------------------------------------------------


def movs_one(c, size, asize, seg):
    """One element."""
    v = load(c, seg, get_reg(c, RSI, asize), size)
    if c.status != OK:
        return c.status
    if store(c, ES, get_reg(c, RDI, asize), size, v) != OK:
        return c.status
    advance_index(c, RSI, size, asize, W1)
    advance_index(c, RDI, size, asize, W1)
    return OK


def copy_run(dst, src, size, n, down):
    """`n` elements between lowest addresses `src` and `dst`, in the order of the direction."""
    if down == W0:
        if dst - src >= W8:
            return copy_up(dst, src, n * size)
        if dst - src == size:
            return fill_words(dst, n * size, size, peek(src, size))
        return copy_elements(dst, src, size, size, n)
    if src - dst >= W8:
        return copy_down(dst, src, n * size)
    top = (n - W1) * size
    return copy_elements(dst + top, src + top, W0 - size, size, n)


def movs_run(c, size, asize, seg, n):
    """Up to `n` elements between plain pages; how many, 0 when the next is not plain."""
    si, di = get_reg(c, RSI, asize), get_reg(c, RDI, asize)
    n = run_length(c, seg, si, size, asize, n)
    n = run_length(c, ES, di, size, asize, n)
    src = run_host(c, seg, si, size, n, W0)
    if src == W0:
        return W0
    dst = run_host(c, ES, di, size, n, W1)
    if dst == W0:
        return W0
    copy_run(dst, src, size, n, c.rflags & DF)
    advance_index(c, RSI, size, asize, n)
    advance_index(c, RDI, size, asize, n)
    return n


def movs(c, size, asize, seg, rep):
    """MOVS: seg:SI to ES:DI."""
    if rep == W0:
        return movs_one(c, size, asize, seg)
    budget = string_budget(c, asize, iterations(c))
    if budget == W0:
        write_back(c, asize, W1, W1)
    while budget != W0:
        n = movs_run(c, size, asize, seg, budget)
        if n == W0:
            if movs_one(c, size, asize, seg) != OK:
                return write_back(c, asize, W1, W1)
            n = W1
            budget = W1
        budget = count_down(c, asize, n, budget, W0)
    return string_status(c, asize, W0)


# ---- LODS ------------------------------------------------------------------------------------------------------------


def lods_one(c, size, asize, seg):
    """One element."""
    v = load(c, seg, get_reg(c, RSI, asize), size)
    if c.status != OK:
        return c.status
    set_reg(c, RAX, size, v)
    advance_index(c, RSI, size, asize, W1)
    return OK


def lods_run(c, size, asize, seg, n):
    """Up to `n` elements of a plain page, of which the last one stays; how many, 0 when the next is not plain."""
    si = get_reg(c, RSI, asize)
    n = run_length(c, seg, si, size, asize, n)
    at = run_host(c, seg, si, size, n, W0)
    if at == W0:
        return W0
    if c.rflags & DF == W0:
        at = at + (n - W1) * size
    set_reg(c, RAX, size, peek(at, size))
    advance_index(c, RSI, size, asize, n)
    return n


def lods(c, size, asize, seg, rep):
    """LODS: seg:SI to AL, AX, EAX."""
    if rep == W0:
        return lods_one(c, size, asize, seg)
    budget = string_budget(c, asize, iterations(c))
    while budget != W0:
        n = lods_run(c, size, asize, seg, budget)
        if n == W0:
            if lods_one(c, size, asize, seg) != OK:
                return write_back(c, asize, W0, W0)
            n = W1
        budget = count_down(c, asize, n, budget, W0)
    return string_status(c, asize, W0)


# ---- STOS ------------------------------------------------------------------------------------------------------------


def stos_one(c, size, asize):
    """One element."""
    if store(c, ES, get_reg(c, RDI, asize), size, get_reg(c, RAX, size)) != OK:
        return c.status
    advance_index(c, RDI, size, asize, W1)
    return OK


def stos_run(c, size, asize, n):
    """Up to `n` elements of a plain page; how many, 0 when the next is not plain."""
    di = get_reg(c, RDI, asize)
    n = run_length(c, ES, di, size, asize, n)
    at = run_host(c, ES, di, size, n, W1)
    if at == W0:
        return W0
    fill_words(at, n * size, size, get_reg(c, RAX, size))
    advance_index(c, RDI, size, asize, n)
    return n


def stos(c, size, asize, rep):
    """STOS: AL, AX, EAX to ES:DI."""
    if rep == W0:
        return stos_one(c, size, asize)
    budget = string_budget(c, asize, iterations(c))
    if budget == W0:
        write_back(c, asize, W0, W1)
    while budget != W0:
        n = stos_run(c, size, asize, budget)
        if n == W0:
            if stos_one(c, size, asize) != OK:
                return write_back(c, asize, W0, W1)
            n = W1
            budget = W1
        budget = count_down(c, asize, n, budget, W0)
    return string_status(c, asize, W0)


# ---- SCAS ------------------------------------------------------------------------------------------------------------


def scas_one(c, size, asize):
    """One element."""
    v = load(c, ES, get_reg(c, RDI, asize), size)
    if c.status != OK:
        return c.status
    string_flags(c, size, get_reg(c, RAX, size), v)
    advance_index(c, RDI, size, asize, W1)
    return OK


def scas_run(c, size, asize, n, want):
    """Up to `n` elements of a plain page, while "equal" is `want`; how many, 0 when the next is not plain."""
    di = get_reg(c, RDI, asize)
    n = run_length(c, ES, di, size, asize, n)
    at = run_host(c, ES, di, size, n, W0)
    if at == W0:
        return W0
    v = get_reg(c, RAX, size)
    step, done = size, W0
    if c.rflags & DF == W0:
        done = skip_elements(at, W0, size, n, spread_lanes(size, v), want)
        at = at + done * size
    else:
        step = W0 - size
        at = at + (n - W1) * size
    looked = scan_elements(at, step, size, n - done, v, want)
    string_flags(c, size, v, peek(at + step * looked - step, size))
    advance_index(c, RDI, size, asize, done + looked)
    return done + looked


def scas_repeated(c, size, asize, rep):
    """All iterations that may be done now; their flags are in `c.lazy` whatever the status."""
    want, found = rep & W1, W0
    budget = string_budget(c, asize, iterations(c))
    while budget != W0:
        n = scas_run(c, size, asize, budget, want)
        if n == W0:
            if scas_one(c, size, asize) != OK:
                return write_back(c, asize, W0, W0)
            n = W1
        found = get_zf(c.lazy) ^ want
        budget = count_down(c, asize, n, budget, found)
    return string_status(c, asize, found)


def scas(c, size, asize, rep):
    """SCAS: compares AL, AX, EAX with ES:DI."""
    if rep == W0:
        return scas_one(c, size, asize)
    res, aux = c.lazy.res, c.lazy.aux
    return keep_flags(c, scas_repeated(c, size, asize, rep), res, aux)


# ---- CMPS ------------------------------------------------------------------------------------------------------------


def cmps_one(c, size, asize, seg):
    """One pair of elements; of two that fault it is ES:DI's fault (measured on silicon)."""
    b = load(c, ES, get_reg(c, RDI, asize), size)
    if c.status != OK:
        return c.status
    a = load(c, seg, get_reg(c, RSI, asize), size)
    if c.status != OK:
        return c.status
    string_flags(c, size, a, b)
    advance_index(c, RSI, size, asize, W1)
    advance_index(c, RDI, size, asize, W1)
    return OK


def cmps_pieces(c, a, b, size, n, want):
    """Pairs looked at among `n` at the lowest addresses `a` and `b`; sets the flags of the last one."""
    step, done = size, W0
    if c.rflags & DF == W0:
        done = skip_elements(a, b, size, n, W0, want)
        at = done * size
    else:
        step = W0 - size
        at = (n - W1) * size
    looked = match_elements(a + at, b + at, step, size, n - done, want)
    at = at + step * looked - step
    string_flags(c, size, peek(a + at, size), peek(b + at, size))
    return done + looked


def cmps_run(c, size, asize, seg, n, want):
    """Up to `n` pairs in plain pages, while "equal" is `want`; how many, 0 when the next is not plain."""
    si, di = get_reg(c, RSI, asize), get_reg(c, RDI, asize)
    n = run_length(c, seg, si, size, asize, n)
    n = run_length(c, ES, di, size, asize, n)
    b = run_host(c, ES, di, size, n, W0)
    if b == W0:
        return W0
    a = run_host(c, seg, si, size, n, W0)
    if a == W0:
        return W0
    n = cmps_pieces(c, a, b, size, n, want)
    advance_index(c, RSI, size, asize, n)
    advance_index(c, RDI, size, asize, n)
    return n


def cmps_repeated(c, size, asize, seg, rep):
    """All iterations that may be done now; their flags are in `c.lazy` whatever the status."""
    want, found = rep & W1, W0
    budget = string_budget(c, asize, iterations(c))
    while budget != W0:
        n = cmps_run(c, size, asize, seg, budget, want)
        if n == W0:
            if cmps_one(c, size, asize, seg) != OK:
                return write_back(c, asize, W0, W0)
            n = W1
        found = get_zf(c.lazy) ^ want
        budget = count_down(c, asize, n, budget, found)
    return string_status(c, asize, found)


def cmps(c, size, asize, seg, rep):
    """CMPS: compares seg:SI with ES:DI."""
    if rep == W0:
        return cmps_one(c, size, asize, seg)
    res, aux = c.lazy.res, c.lazy.aux
    return keep_flags(c, cmps_repeated(c, size, asize, seg, rep), res, aux)
