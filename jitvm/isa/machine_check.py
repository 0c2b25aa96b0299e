"""The machine-check architecture: what its registers answer on a machine whose hardware has no errors to report.

MCE brings CR4.MCE and the Pentium's two registers, MCA the global registers and five banks of four, as the P6 family has
them.  Nothing here ever fails, so no bank has an error: MCi_STATUS is 0, and #MC (18) is not raised.  Error enables,
MCG_STATUS, and MCi_ADDR and MCi_MISC, which software clears, hold what is written: latches in `c.msr_misc`.

Source: Intel SDM vol. 3, 15.3 (registers), 15.3.2.1 (MCi_CTL: all ones or zeros), 15.3.2.2 (MCi_STATUS: only cleared);
vol. 4, table 2-2, 2.23 (P6 family).

Not modelled: that MC0_CTL is EBL_CR_POWERON by another name on the P6 family.
"""

from __future__ import annotations

from jitvm.isa.cpuid import FEATURE_MCA, FEATURE_MCE
from jitvm.isa.state import GP, OK, fault
from jitvm.isa.words import ONES, W0, W1, W2, W3, W7, u64

P5_MC_ADDR, P5_MC_TYPE = u64(0), u64(1)
MCG_CAP, MCG_STATUS, MCG_CTL = u64(0x179), u64(0x17A), u64(0x17B)
MC0_CTL, MC_END = u64(0x400), u64(0x400 + 4 * 5)
MCG_CAP_VALUE = u64(0x105)
"""MCG_CTL_P, five banks."""
MCG_STATUS_BITS = W7
"""RIPV, EIPV, MCIP."""
STATUS = W1
"""Of a bank's registers (CTL, STATUS, ADDR, MISC) the one that can only be cleared."""
SLOT_FIRST = u64(31)
"""In `msr_misc`: MCG_STATUS, MCG_CTL, then four a bank."""


def is_machine_check(c, n):
    """1 for a register of the machine-check architecture that this CPU has."""
    f = c.features[0]
    if n == P5_MC_ADDR or n == P5_MC_TYPE:
        return u64(f & FEATURE_MCE != W0)
    if f & FEATURE_MCA == W0:
        return W0
    return u64((n >= MCG_CAP and n <= MCG_CTL) or (n >= MC0_CTL and n < MC_END))


def machine_check_slot(n):
    """Index in `msr_misc` of a register that is a latch; MCi_STATUS has one, too, in which there never is anything but 0."""
    if n >= MC0_CTL:
        return SLOT_FIRST + W2 + n - MC0_CTL
    return SLOT_FIRST + n - MCG_STATUS


def read_machine_check(c, n):
    """Value of such a register."""
    if n <= P5_MC_TYPE:
        return W0
    if n == MCG_CAP:
        return MCG_CAP_VALUE
    return c.msr_misc[machine_check_slot(n)]


def write_machine_check(c, n, v):
    """Write such a register: #GP(0) for a read-only one, and for a value that it can't have."""
    enables = u64(n == MCG_CTL or (n >= MC0_CTL and n & W3 == W0))
    refused = u64(n <= MCG_CAP) | u64(n == MCG_STATUS and v & ~MCG_STATUS_BITS != W0)
    refused = refused | u64(enables != W0 and v != W0 and v != ONES)
    refused = refused | u64(n >= MC0_CTL and n & W3 == STATUS and v != W0)
    if refused != W0:
        return fault(c, GP, W0)
    c.msr_misc[machine_check_slot(n)] = v
    return OK
