"""Events that a debugger catches: the vCPU leaves with EXIT_DEBUG before anything of them has happened.

Entered again it makes them happen: what was told once at this instruction (`caught_at`, `caught_rip`) passes.
"""

from __future__ import annotations

from jitvm.isa.state import CATCH_MSR, CATCH_TRACED_MSR, EXIT, EXIT_DEBUG, STOP_CATCH, retired
from jitvm.isa.words import ONES, W0, W1, W4, u64

OTHERS = W4
"""Index of the word of `catch` with the CATCH_* bits."""
W6, W63 = u64(6), u64(63)


def tell(c, word, bit):
    """1 when this is caught and was not told yet: c.status is EXIT then."""
    if c.catch[word] & bit == W0:
        return W0
    if c.caught_at != retired(c) or c.caught_rip != c.rip:
        c.caught_at = retired(c)
        c.caught_rip = c.rip
        k = W0
        while k <= OTHERS:
            c.caught[k] = W0
            k += W1
    if c.caught[word] & bit != W0:
        return W0
    c.caught[word] = c.caught[word] | bit
    c.status = EXIT
    c.exit_reason = EXIT_DEBUG
    c.stop_why = STOP_CATCH
    return W1


def catch_vector(c, vector, soft, has_error, error):
    """1 when the event `vector` is caught before its delivery; `soft`: INT n, INT3 or INTO asks for it."""
    if tell(c, vector >> W6, W1 << (vector & W63)) == W0:
        return W0
    c.caught_kind = W0
    c.caught_vector = vector
    c.caught_error = ONES
    if has_error != W0:
        c.caught_error = error
    c.caught_value = c.cr2
    c.caught_soft = soft
    return W1


def catch_other(c, kind, number, value, write):
    """1 when something else is caught before it happens: a third fault, MOV to CR3, RDMSR or WRMSR."""
    if tell(c, OTHERS, kind) == W0:
        return W0
    c.caught_kind = kind
    c.caught_vector = number
    c.caught_error = write
    c.caught_value = value
    return W1


def catch_msr(c, number, value, write):
    """The same for an MSR, of which one may be chosen (`catch_number`; ONES: all)."""
    if c.catch_number != ONES and c.catch_number != number:
        return W0
    return catch_other(c, CATCH_MSR, number, value, write)


def trace_msr(c, number, value, write, known):
    """The same for the trace, which also hears whether this CPU has such an MSR, and the value that is read."""
    if catch_other(c, CATCH_TRACED_MSR, number, value, write) == W0:
        return W0
    c.caught_soft = known
    return W1
