"""A string instruction that a loop over host addresses completes at once: what most with few elements come to.

Upwards, all operands in pages that the TLB knows, no trap, no more iterations than may still retire; everything else is
for `string.py`.  A function returns the iterations with which the instruction is complete, 0 when nothing was done.

Source: as for `string.py`.
"""

from __future__ import annotations

from jitvm.isa.flags import DF
from jitvm.isa.host import peek, poke
from jitvm.isa.memory import host_run
from jitvm.isa.registers import get_reg, set_reg
from jitvm.isa.state import ES, RAX, RCX, RDI, RSI
from jitvm.isa.string import PAGE_SIZE, advance_index, lesser, run_length, string_flags
from jitvm.isa.string_loops import copy_up, fill_words, match_elements, scan_elements, skip_elements, spread_lanes
from jitvm.isa.words import W0, W1, W8, mask, u64


def elements_at_once(c, asize, rep, left):
    """Iterations that would complete the instruction, upwards; 0: none, more than `left` or a page has, or one at a time."""
    if c.rflags & DF != W0:
        return W0
    if rep == W0:
        return W1
    if c.step_armed | c.armed != W0:
        return W0
    n = get_reg(c, RCX, asize)
    if n > left or n > PAGE_SIZE:
        return W0
    return n


def near_host(c, seg, off, n_bytes, asize, write):
    """Host address of seg:off when all bytes lie in one plain page that the TLB knows, and `off` does not wrap; else 0."""
    if off + n_bytes - W1 > mask(asize):
        return W0
    return host_run(c, seg, off, n_bytes, write)


def completed(c, asize, rep, n):
    """`n`, the iterations with which the instruction is complete."""
    if rep != W0:
        set_reg(c, RCX, asize, W0)
    return n


def movs_at_once(c, size, asize, seg, rep, left):
    """MOVS as a whole where that is a copy between two pages; its iterations, 0: nothing was done."""
    n = elements_at_once(c, asize, rep, left)
    if n == W0:
        return W0
    src = near_host(c, seg, get_reg(c, RSI, asize), n * size, asize, W0)
    if src == W0:
        return W0
    dst = near_host(c, ES, get_reg(c, RDI, asize), n * size, asize, W1)
    if dst == W0 or dst - src < W8:
        return W0
    if rep == W0:
        poke(dst, size, peek(src, size))
    else:
        copy_up(dst, src, n * size)
    advance_index(c, RSI, size, asize, n)
    advance_index(c, RDI, size, asize, n)
    return completed(c, asize, rep, n)


def stos_at_once(c, size, asize, rep, left):
    """STOS as a whole within a page; its iterations, 0: nothing was done."""
    n = elements_at_once(c, asize, rep, left)
    if n == W0:
        return W0
    at = near_host(c, ES, get_reg(c, RDI, asize), n * size, asize, W1)
    if at == W0:
        return W0
    if rep == W0:
        poke(at, size, get_reg(c, RAX, size))
    else:
        fill_words(at, n * size, size, get_reg(c, RAX, size))
    advance_index(c, RDI, size, asize, n)
    return completed(c, asize, rep, n)


def lods_at_once(c, size, asize, seg, rep, left):
    """LODS as a whole within a page; its iterations, 0: nothing was done."""
    n = elements_at_once(c, asize, rep, left)
    if n == W0:
        return W0
    at = near_host(c, seg, get_reg(c, RSI, asize), n * size, asize, W0)
    if at == W0:
        return W0
    set_reg(c, RAX, size, peek(at + n * size - size, size))
    advance_index(c, RSI, size, asize, n)
    return completed(c, asize, rep, n)


def compared_at_once(c, asize, rep, left):
    """Pairs that a comparison, upwards, may look at; 0: it goes on one at a time, or the other way."""
    if c.rflags & DF != W0:
        return W0
    if rep == W0:
        return W1
    if c.step_armed | c.armed != W0:
        return W0
    return lesser(get_reg(c, RCX, asize), left)


def decided(c, asize, rep, n, equal):
    """Whether a comparison is complete with `n` pairs looked at, the last of them equal or not; then CX is written."""
    if rep == W0:
        return W1
    count = get_reg(c, RCX, asize) - n
    if equal == rep & W1 and count != W0:
        return W0
    set_reg(c, RCX, asize, count)
    return W1


def scas_at_once(c, size, asize, rep, left):
    """SCAS as a whole where it ends within a page; its iterations, 0: nothing was done."""
    di = get_reg(c, RDI, asize)
    n = run_length(c, ES, di, size, asize, compared_at_once(c, asize, rep, left))
    if n == W0:
        return W0
    at = host_run(c, ES, di, n * size, W0)
    if at == W0:
        return W0
    v, want = get_reg(c, RAX, size), rep & W1
    n = scanned_up(at, size, n, v, want)
    last = peek(at + n * size - size, size)
    if decided(c, asize, rep, n, u64(last == v)) == W0:
        return W0
    string_flags(c, size, v, last)
    advance_index(c, RDI, size, asize, n)
    return n


def scanned_up(at, size, n, v, want):
    """Elements looked at, upwards, up to the first that ends a comparison with `v`, or `n`."""
    done = skip_elements(at, W0, size, n, spread_lanes(size, v), want)
    return done + scan_elements(at + done * size, size, size, n - done, v, want)


def cmps_at_once(c, size, asize, seg, rep, left):
    """CMPS as a whole where it ends within a page on both sides; its iterations, 0: nothing was done."""
    si, di = get_reg(c, RSI, asize), get_reg(c, RDI, asize)
    n = run_length(c, seg, si, size, asize, compared_at_once(c, asize, rep, left))
    n = run_length(c, ES, di, size, asize, n)
    if n == W0:
        return W0
    a = host_run(c, seg, si, n * size, W0)
    if a == W0:
        return W0
    b = host_run(c, ES, di, n * size, W0)
    if b == W0:
        return W0
    n = matched_up(a, b, size, n, rep & W1)
    last = n * size - size
    x, y = peek(a + last, size), peek(b + last, size)
    if decided(c, asize, rep, n, u64(x == y)) == W0:
        return W0
    string_flags(c, size, x, y)
    advance_index(c, RSI, size, asize, n)
    advance_index(c, RDI, size, asize, n)
    return n


def matched_up(a, b, size, n, want):
    """Pairs looked at, upwards, up to the first that ends a comparison, or `n`."""
    done = skip_elements(a, b, size, n, W0, want)
    at = done * size
    return done + match_elements(a + at, b + at, size, size, n - done, want)
