"""IN and OUT, and the permission to use a port.

Source: Intel SDM vol. 1, 19.5 (protected-mode I/O); vol. 2, IN, OUT; vol. 3, 8.2.1 (the I/O map in a TSS).
"""

from __future__ import annotations

from jitvm.isa.debug import port_break
from jitvm.isa.flags import VM
from jitvm.isa.memory import load_system
from jitvm.isa.outside import port_access
from jitvm.isa.registers import set_reg
from jitvm.isa.state import GP, MODE_PE, OK, RAX, TR, fault
from jitvm.isa.words import M16, W0, W1, W2, W3, W7, W12, mask, u64

IO_MAP_BASE = u64(0x66)
"""Offset in a 32-bit TSS of the word that says where the I/O map begins."""
TSS_KIND, TSS_32 = u64(0x1D), u64(0x09)
"""Attributes of a 32-bit TSS, available or busy: type 9 or Bh, S = 0."""
W3_IOPL = u64(3)


def iopl(c):
    """I/O privilege level, 0 to 3."""
    return (c.rflags >> W12) & W3_IOPL


def io_allowed(c, port, size):
    """Status: may `size` ports from `port` on be used?  #GP(0) else (SDM vol. 1, 19.5.2).  I/O breakpoints look, too."""
    if c.mode & MODE_PE != W0 and (c.rflags & VM != W0 or c.cpl > iopl(c)) and check_io_map(c, port, size) != OK:
        return c.status
    if c.port_breaks != W0:
        return port_break(c, port, size)
    return OK


def check_io_map(c, port, size):
    """Status of a look into the I/O map: two bytes are read, all bits of the access must be 0."""
    limit = c.limit[TR]
    if c.attr[TR] & TSS_KIND != TSS_32 or limit < IO_MAP_BASE + W1:
        return fault(c, GP, W0)
    at = load_system(c, c.base[TR] + IO_MAP_BASE, W2)
    if c.status != OK:
        return c.status
    at = at + (port >> W3)
    if at + W1 > limit:
        return fault(c, GP, W0)
    bits = load_system(c, c.base[TR] + at, W2)
    if c.status != OK:
        return c.status
    if (bits >> (port & W7)) & ((W1 << size) - W1) != W0:
        return fault(c, GP, W0)
    return OK


def port_in(c, size, b):
    """IN: AL, AX or EAX from port `b`."""
    port = b & M16
    if io_allowed(c, port, size) != OK:
        return c.status
    v = port_access(c, port, size, W0, W0)
    if c.status != OK:
        return c.status
    set_reg(c, RAX, size, v)
    return OK


def port_out(c, a, b, bsize):
    """OUT: `b` of `bsize` bytes to port `a`."""
    port = a & M16
    if io_allowed(c, port, bsize) != OK:
        return c.status
    port_access(c, port, bsize, W1, b & mask(bsize))
    return c.status
