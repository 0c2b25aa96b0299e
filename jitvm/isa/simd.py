"""SIMD operations: what each does with MXCSR and flags, its faults, and moves of 128-bit operands from and to memory.

The arithmetic itself is the host's: an operation of this list is the host's own instruction of the same name, on operands
in host registers, with the guest's rounding control, DAZ and FTZ in the host's MXCSR (jitvm/engine/host_op.py).  So results
and flags are exact, also of the approximations (RCPPS, RSQRTPS).  Only hosts that have an instruction can announce it.

While translated code runs, the host's MXCSR is the guest's with all exceptions masked, and collects the guest's flags;
`c.mxcsr` has the guest's control bits, and the flags up to then (`pending_flags`).  An exception that the guest unmasked
can't be had so: then an operation runs with clean flags (`begin_unmasked`) and `settle` decides.  Unmasked underflow is
also signalled for a tiny result that is exact, which the host's FTZ shows (`ask_tiny`).

Not modelled: AVX, AVX2 and what came later (no CPU model announces them: #UD, and XCR0 has no bit of theirs); what silicon
has done to TOP and tags when an MMX instruction faults (nothing, here and in the manual).

Source: Intel SDM vol. 1, 10.2.3 (MXCSR), 11.5 (SIMD floating-point exceptions), 11.5.3.3 (both kinds at once), 9.6.2 (MMX
and the x87 tag word); vol. 3, 2.5, 13.1 (CR0.EM, TS, CR4.OSFXSR, OSXMMEXCPT), 15.2; vol. 2, table 2-18 on (alignment).
"""

from __future__ import annotations

from jitvm.isa.flags import put_flags, set_flags
from jitvm.isa.host import fence, get_mxcsr, set_mxcsr
from jitvm.isa.memory import base_of, cut_linear, is_user, linear, load_linear, probe_linear, store, store_linear
from jitvm.isa.misc import beside
from jitvm.isa.mode import CHECKED_TLB
from jitvm.isa.paging import host_of
from jitvm.isa.state import AC_FAULT, CR4_OSXMMEXCPT, GP, OK, RDI, UD, XM, fault, fault0
from jitvm.isa.tlb import READ
from jitvm.isa.words import M8, M32, W0, W1, W2, W3, W4, W7, W8, W15, W16, W32, cut, u64
from jitvm.isa.x87 import pending

# ---- the operations --------------------------------------------------------------------------------------------------
FLOAT = frozenset(
    "addps addpd addss addsd subps subpd subss subsd mulps mulpd mulss mulsd divps divpd divss divsd "
    "minps minpd minss minsd maxps maxpd maxss maxsd sqrtps sqrtpd sqrtss sqrtsd cmpps cmppd cmpss cmpsd "
    "comiss comisd ucomiss ucomisd addsubps addsubpd haddps haddpd hsubps hsubpd roundps roundpd roundss roundsd "
    "dpps dppd cvtps2pd cvtpd2ps cvtss2sd cvtsd2ss cvtdq2ps cvtps2dq cvttps2dq cvtpd2dq cvttpd2dq cvtsi2ss cvtsi2sd "
    "cvtss2si cvtsd2si cvttss2si cvttsd2si cvtpi2ps cvtps2pi cvttps2pi cvtpd2pi cvttpd2pi".split()
)
"""Those that obey MXCSR and raise its exceptions."""
INTEGER = frozenset(
    "punpcklbw punpcklwd punpckldq punpckhbw punpckhwd punpckhdq punpcklqdq punpckhqdq packsswb packssdw packuswb packusdw "
    "pcmpgtb pcmpgtw pcmpgtd pcmpgtq pcmpeqb pcmpeqw pcmpeqd pcmpeqq psrlw psrld psrlq psraw psrad psllw pslld psllq "
    "psrldq pslldq paddb paddw paddd paddq psubb psubw psubd psubq paddsb paddsw paddusb paddusw psubsb psubsw psubusb "
    "psubusw pmullw pmulhw pmulhuw pmuludq pmuldq pmulld pmaddwd pmaddubsw pmulhrsw psadbw mpsadbw pavgb pavgw "
    "pminub pminsw pminsb pminsd pminuw pminud pmaxub pmaxsw pmaxsb pmaxsd pmaxuw pmaxud pand pandn por pxor "
    "phaddw phaddd phaddsw phsubw phsubd phsubsw psignb psignw psignd pabsb pabsw pabsd phminposuw "
    "pshufb pshufw pshufd pshufhw pshuflw palignr pblendw pinsrb pinsrw pinsrd pinsrq pextrb pextrw pextrd pextrq pmovmskb "
    "pmovsxbw pmovsxbd pmovsxbq pmovsxwd pmovsxwq pmovsxdq pmovzxbw pmovzxbd pmovzxbq pmovzxwd pmovzxwq pmovzxdq "
    "andps andpd andnps andnpd orps orpd xorps xorpd unpcklps unpcklpd unpckhps unpckhpd shufps shufpd "
    "movhlps movlhps movsldup movshdup movddup movss movsd movmskps movmskpd insertps extractps blendps blendpd "
    "rcpps rcpss rsqrtps rsqrtss cvtdq2pd cvtpi2pd "
    "aesenc aesenclast aesdec aesdeclast aesimc aeskeygenassist pclmulqdq "
    "crc32".split()
)
"""Those that do not look at it."""
COMPARES = frozenset("comiss comisd ucomiss ucomisd ptest".split())
"""Their only result is EFLAGS."""
BLENDS = frozenset("pblendvb blendvps blendvpd".split())
"""They choose by XMM0."""
STRINGS = frozenset("pcmpestri pcmpestrm pcmpistri pcmpistrm pcmpestri64 pcmpestrm64".split())
"""They write ECX or XMM0, and EFLAGS; pcmpestr* take lengths from EAX and EDX, with 64-bit operands from RAX and RDX."""
UNALIGNED = frozenset("MOVUPS MOVUPD MOVDQU LDDQU".split()) | {name.upper() for name in STRINGS}
"""Rows whose 16-byte memory operand may lie anywhere; of all others an odd one is #GP(0)."""
SCALED = frozenset("mulps mulpd mulss mulsd divps divpd divss divsd cvtsd2ss cvtpd2ps".split())
"""Whether they are exact does not depend on the exponents of their operands."""
SUMS = frozenset("addps addpd addss addsd subps subpd subss subsd addsubps addsubpd".split())
ACROSS = frozenset("haddps haddpd hsubps hsubpd".split())
"""Sums of numbers at the same places of two registers; of neighbours."""
DOTS = {
    "dpps": ("mulps", (("addps", "neighbours"), ("addps", "halves"))),
    "dppd": ("mulpd", (("addpd", "halves"),)),
}
"""Products of which some are added up: the operations by which that is done, a sum with what its numbers are exchanged by.
Each step has exceptions of its own (SDM vol. 2, DPPS, DPPD)."""
SIGNIFICANT = {"cmp": 0x07, "round": 0x0F, "mpsadbw": 0x07, "pclmulqdq": 0x11, "shufpd": 0x03, "pcmp": 0x7F}
"""Bits of the immediate that matter, by the beginning of an operation's name."""
SHIFTS_FULL = 64
"""A shift by so many bits or more does the same, whatever the element."""


def immediate(name: str, v: int, *, memory: bool) -> int:
    """What an operation's immediate comes to; `memory`: its source is in memory."""
    if name == "insertps" and memory:
        return v & 0x3F  # there is but one element to choose
    if name[:3] in ("psr", "psl"):
        return min(v, SHIFTS_FULL)
    return v & next((bits for prefix, bits in SIGNIFICANT.items() if name.startswith(prefix)), 0xFF)


# ---- MXCSR -----------------------------------------------------------------------------------------------------------
MXCSR_FLAGS, MXCSR_MASKS, MXCSR_RESET = u64(0x3F), u64(0x1F80), u64(0x1F80)
MXCSR_DAZ, MXCSR_UM, MXCSR_FTZ = u64(1 << 6), u64(1 << 11), u64(1 << 15)
MXCSR_VALID = u64(0xFFFF)
"""MXCSR_MASK: other bits are reserved."""
BEFORE, UNDERFLOW, RANGE, INEXACT = u64(0x07), u64(0x10), u64(0x18), u64(0x20)
"""IE, DE, ZE: found before the operation.  UE; OE and UE; PE."""
W23, W52 = u64(23), u64(52)
FSW_ES, FSW_TOP = u64(1 << 7), u64(7 << 11)


def pending_flags(c):
    """Take the flags that the host has collected into `c.mxcsr`."""
    c.mxcsr = c.mxcsr | (get_mxcsr() & MXCSR_FLAGS)
    return W0


def put_mxcsr(c, v):
    """Make `v` the guest's MXCSR."""
    c.mxcsr = v
    return set_mxcsr(v | MXCSR_MASKS)


def begin_unmasked(c):
    """Before an operation that may raise an unmasked exception: no flags; no FTZ where underflow is one of them."""
    pending_flags(c)
    v = (c.mxcsr & ~MXCSR_FLAGS) | MXCSR_MASKS
    if c.mxcsr & MXCSR_UM == W0:
        v = v & ~MXCSR_FTZ
    return set_mxcsr(v)


def ask_tiny(c):
    """The flags of the operation; done once more now, it flushes what is tiny, and says so."""
    seen = get_mxcsr()
    set_mxcsr((c.mxcsr & ~MXCSR_FLAGS) | MXCSR_MASKS | MXCSR_FTZ)
    return seen


def ask_exact(c):
    """The flags of that; what is done now, with operands of which nothing overflows (`scaled`, `halved`), says PE alone."""
    tiny = get_mxcsr()
    set_mxcsr((c.mxcsr & ~(MXCSR_FLAGS | MXCSR_FTZ)) | MXCSR_MASKS)
    return tiny


def lane_one(lane, v, other, daz):
    """A number of `lane` bytes with the exponent of 1.  It is 1 where nothing is rounded: the other one or it is a zero, an
    infinity or a NaN."""
    n, bias = W23, u64(127)
    if lane == W8:
        n, bias = W52, u64(1023)
    one = bias << n
    m = significand(lane, v, daz)
    if m == W0 or significand(lane, other, daz) == W0:
        return one
    while m >> n == W0:
        m = m << W1
    return one | (m & ((W1 << n) - W1))


def significand(lane, v, daz):
    """That of a finite number, with the bit before the point; 0 for zeros, infinities, NaNs, and denormals under DAZ."""
    n, top = W23, u64(0xFF)
    if lane == W8:
        n, top = W52, u64(0x7FF)
    exponent = (v >> n) & top
    m = v & ((W1 << n) - W1)
    if exponent == top or (exponent == W0 and daz != W0):
        return W0
    if exponent != W0:
        return m | (W1 << n)
    return m


def scaled(c, lane, v, other):
    """The numbers of `lane` bytes in a word with the exponent of 1: products and quotients are rounded as before.

    `other`: those that they are multiplied with, or divide; the same word for a conversion.
    """
    daz = c.mxcsr & MXCSR_DAZ
    if lane == W8:
        return lane_one(W8, v, other, daz)
    return lane_one(W4, v & M32, other & M32, daz) | (lane_one(W4, v >> W32, other >> W32, daz) << W32)


def lane_half(lane, v, other):
    """Half a number when it or the other one is big; what is too small for that makes an inexact sum as it is."""
    n, top = W23, u64(0xFF)
    if lane == W8:
        n, top = W52, u64(0x7FF)
    a, b = (v >> n) & top, (other >> n) & top
    if a == top or b == top or a < W2 or (a < top - W3 and b < top - W3):
        return v
    return v - (W1 << n)


def halved(lane, v, other):
    """Words of numbers of `lane` bytes that are added: halves where the sum may overflow."""
    if lane == W8:
        return lane_half(W8, v, other)
    return lane_half(W4, v & M32, other & M32) | (lane_half(W4, v >> W32, other >> W32) << W32)


def multiplied(lane: int, imm: int) -> tuple[int, int]:
    """Both words of the mask of numbers that DPPS or DPPD multiplies: bits 4 to 7 of the immediate."""
    mask = sum((1 << 8 * lane) - 1 << 8 * lane * k for k in range(16 // lane) if imm >> 4 + k & 1)
    return mask & (1 << 64) - 1, mask >> 64


def chosen(v, lanes):
    """The numbers of a word that are multiplied; the others are +0."""
    return v & lanes


def neighbours(v):
    """The two numbers in a word, exchanged."""
    return (v << W32) | (v >> W32)


def settle(c, seen, tiny):
    """Status: the operation's flags go to MXCSR; an unmasked one is #XM, or #UD.

    What is unmasked and found before the operation keeps it from being done: no other flags then.  PE beside unmasked
    overflow or underflow tells whether the result would be exact if exponents had no limits (SDM vol. 1, 4.9.1.4, 4.9.1.5).
    """
    unlimited = get_mxcsr() & INEXACT
    masks = (c.mxcsr >> W7) & MXCSR_FLAGS
    flags = seen & MXCSR_FLAGS
    if flags & BEFORE & ~masks != W0:
        flags = flags & BEFORE
    elif masks & UNDERFLOW == W0:
        flags = flags | (tiny & UNDERFLOW)
    if flags & BEFORE & ~masks == W0 and flags & RANGE & ~masks != W0 and flags & RANGE & masks == W0:
        flags = (flags & ~INEXACT) | unlimited
    put_mxcsr(c, c.mxcsr | flags)
    if flags & ~masks == W0:
        return OK
    if c.cr4 & CR4_OSXMMEXCPT == W0:
        return fault0(c, UD)
    return fault0(c, XM)


def ldmxcsr(c, a):
    """LDMXCSR: #GP(0) for reserved bits."""
    if a & ~MXCSR_VALID != W0:
        return fault(c, GP, W0)
    put_mxcsr(c, a)
    return OK


def stmxcsr(c, seg, off):
    """STMXCSR."""
    pending_flags(c)
    return store(c, seg, off, W4, c.mxcsr)


# ---- EFLAGS ----------------------------------------------------------------------------------------------------------
def host_flags(f, v):
    """The arithmetic flags as the host's: AH has SF, ZF, AF, PF and CF (LAHF), AL has OF."""
    return put_flags(f, ((v >> W8) & M8) | ((v & W1) << u64(11)))


def compare_flags(f, v):
    """ZF, PF and CF of a comparison: bits 0, 1 and 2 of `v`; the others are 0."""
    zf = v & W1
    return set_flags(f, zf ^ W1, v >> W2, W0, W0) | fix_parity(f, (v >> W1) ^ zf)


def fix_parity(f, wrong):
    """PF is not that of the result when `wrong` is odd."""
    f.aux = f.aux | ((wrong & W1) << W3)
    return W0


# ---- MMX -------------------------------------------------------------------------------------------------------------
MMX_EXPONENT = u64(0xFFFF)
"""What an MMX instruction writes to sign and exponent of a register that it changes."""


def x87_pending(fsw):
    """Not 0 when an x87 exception is pending: an MMX instruction raises it."""
    return fsw & FSW_ES


def raise_pending(c):
    """The status of a pending x87 exception; IGNNE# is not looked at."""
    c.ignne = W0
    return pending(c)


def mmx_fsw(fsw):
    """The x87 status word behind an MMX instruction: TOP is 0.  All registers are in use then."""
    return fsw & ~FSW_TOP


def emms(c):
    """EMMS: the registers are empty again."""
    if c.fsw & FSW_ES != W0:
        return raise_pending(c)
    c.fsw = c.fsw & ~FSW_TOP
    c.fpu_used = W0
    return OK


# ---- memory ----------------------------------------------------------------------------------------------------------
def is_odd(c, lin, aligned):
    """1, and #GP(0), where a 16-byte operand that must be aligned is not."""
    if aligned != W0 and lin & W15 != W0:
        fault(c, GP, W0)
        return W1
    return W0


def load_wide(c, seg, off, aligned):
    """16 bytes at seg:off into `c.wide`; status."""
    lin = linear(c, seg, off, W16, W0)
    if c.status != OK or is_odd(c, lin, aligned) != W0:
        return c.status
    low = load_linear(c, lin, W8, READ, is_user(c))
    if c.status != OK:
        return c.status
    high = load_linear(c, cut_linear(c, lin + W8), W8, READ, is_user(c))
    if c.status != OK:
        return c.status
    c.wide[0] = low
    c.wide[1] = high
    return OK


def store_wide(c, seg, off, aligned, low, high):
    """Store 16 bytes at seg:off; status."""
    lin = linear(c, seg, off, W16, W1)
    if c.status != OK or is_odd(c, lin, aligned) != W0:
        return c.status
    if probe_linear(c, lin, W16, is_user(c)) != OK:
        return c.status
    if store_linear(c, lin, W8, low, is_user(c)) != OK:
        return c.status
    return store_linear(c, cut_linear(c, lin + W8), W8, high, is_user(c))


def store_masked(c, seg, off, size, low, high, mask_low, mask_high):
    """Those of `size` bytes whose mask byte has its top bit set; all of them are probed before one is stored.  Status.

    Where alignment is checked the address must be a multiple of 8, whatever is stored.
    """
    if c.tlb_off == CHECKED_TLB and (base_of(c, seg) + off) & W7 != W0:
        return fault(c, AC_FAULT, W0)
    k = W0
    while k < size + size:
        n = k & (size - W1)
        mask, v = mask_low, low
        if n >= W8:
            mask, v = mask_high, high
        shift = (n & W7) << W3
        if (mask >> (shift + W7)) & W1 != W0:
            lin = linear(c, seg, beside(c, off, n), W1, W1)
            if c.status != OK:
                return c.status
            if k < size:
                probe_linear(c, lin, W1, is_user(c))
            else:
                store_linear(c, lin, W1, (v >> shift) & M8, is_user(c))
            if c.status != OK:
                return c.status
        k += W1
    return OK


def maskmovdqu(c, asize, seg, reg, rm):
    """MASKMOVDQU: bytes of XMM `reg` by the mask in XMM `rm` to seg:rDI."""
    off = cut(asize, c.gpr[RDI])
    v, mask = reg << W1, rm << W1
    return store_masked(c, seg, off, W16, c.xmm[v], c.xmm[v + W1], c.xmm[mask], c.xmm[mask + W1])


def maskmovq(c, asize, seg, reg, rm):
    """MASKMOVQ: the same with MMX registers."""
    if x87_pending(c.fsw) != W0:
        return raise_pending(c)
    v, mask = c.fpr[reg << W1], c.fpr[rm << W1]
    if store_masked(c, seg, cut(asize, c.gpr[RDI]), W8, v, W0, mask, W0) != OK:
        return c.status
    c.fsw = mmx_fsw(c.fsw)
    c.fpu_used = M8
    return OK


def mfence(c):
    """MFENCE."""
    fence()
    return OK


def clflush(c, seg, off):
    """CLFLUSH: nothing to flush, but the byte must be readable."""
    lin = linear(c, seg, off, W1, W0)
    if c.status == OK:
        host_of(c, lin, READ, is_user(c))
    return c.status
