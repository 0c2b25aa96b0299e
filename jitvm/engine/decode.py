"""Decoding one instruction of a known form, natively: prefixes, REX, VEX, ModRM, SIB, displacement, immediates.

Writes the words of `c.t` (T_*).  Everything that depends on the encoding comes from `opcode_attr` and the form word,
which were filled from iced-x86's tables; a form not met before comes back as `why` = WHY_FORM.

Source: Intel SDM vol. 2, 2.1 (formats), tables 2-1 to 2-3 (ModRM and SIB), 2.2.1 (REX, RIP-relative addressing),
2.3 (VEX).
"""

from __future__ import annotations

from jitvm.engine.formbits import (
    A_66,
    A_GROUP,
    A_GROUP3,
    A_KNOWN,
    A_MODRM,
    A_MOFFS,
    A_REGISTER,
    A_REX_B,
    A_REX_R,
    F_D_BYTE,
    F_D_LOW,
    F_FAULTS,
    F_IMM2_SHIFT,
    F_IMM_CUT_SHIFT,
    F_IMM_FORM,
    F_IMM_SHIFT,
    F_IMM_SIGNED,
    F_KIND_SHIFT,
    F_OPCODE,
    F_RELATIVE,
    F_S_BYTE,
    F_S_LOW,
    F_S_SHIFT,
    F_TARGET16,
    FROM_OPCODE,
    FROM_R0,
    FROM_REG,
    FROM_RM,
    FROM_VVVV,
    K_EXTENDED,
    K_LONG,
    K_REX,
    K_VEX,
    K_VEX_L,
    KIND_ENDS,
    form_key,
    immediate_key,
    refused,
)
from jitvm.engine.layout import T_WORDS
from jitvm.isa.host import peek
from jitvm.isa.state import MODE_CODE32, MODE_CODE64, MODE_FLAT, MODE_PE, MODE_STACK32, MODE_VM
from jitvm.isa.words import M16, M32, W0, W1, W2, W3, W4, W5, W6, W7, W8, W20, W21, W31, cut, sext, u64

T_FORM, T_SHAPE, T_EIP, T_D, T_S, T_B, T_I, T_SEG, T_SCALE, T_DISP, T_IMM, T_NEXT, T_LEN, T_VARIANT, T_UOP = (
    u64(n) for n in range(15)
)
T_STEP = u64(T_WORDS)
MAX_LENGTH = u64(15)
TRUNCATED = u64(0)
UNKNOWN = u64(16)
"""Results of `decode` that are no length: more bytes are needed; the form is not known."""
TOO_LONG = u64(17)
ZERO_AT, RIP_AT = u64(16 * 8), u64(17 * 8)
"""In place of a base register's offset: none; RIP."""
SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, NO_SEG = (u64(n) for n in range(7))
MAP_0F, MAP_0F38, MAP_0F3A = u64(1 << 8), u64(2 << 8), u64(3 << 8)
VEX, M10, W10 = u64(0xC4), u64(0x3FF), u64(10)
REX_W, REX_R, REX_X, REX_B, REX = (u64(n) for n in (8, 4, 2, 1, 0x40))
HASH = u64(0x9E37_79B9_7F4A_7C15)
W34, LOW_REGISTERS = u64(34), u64(7 * 8)
FORM_MASK, W49, NOT_FOUND = u64((1 << 15) - 1), u64(49), u64(0xFFFF_FFFF)
BP_FORMS = u64(0b1001100)
BASE16 = u64(0x3_5_7_6_5_5_3_3)
INDEX16 = u64(0x8_8_8_8_7_6_7_6)


def find_form(c, key):
    """Index of a form, or NOT_FOUND."""
    h = (key * HASH) >> W49
    while c.form_key[h] != W0:
        if c.form_key[h] == key:
            return c.form_index[h]
        h = (h + W1) & FORM_MASK
    return NOT_FOUND


def add_form(c, key, word, shape):
    """Enter a form into the table (called from Python)."""
    n = c.n_forms
    c.form[n] = word
    c.form_shape[n] = shape
    c.n_forms = n + W1
    h = (key * HASH) >> W49
    while c.form_key[h] != W0:
        h = (h + W1) & FORM_MASK
    c.form_index[h] = n
    c.form_key[h] = key
    return n


def address16(c, p, modrm):
    """16-bit addressing (SDM table 2-1): fills dec_*; the number of bytes used behind ModRM."""
    mod, rm = modrm >> W6, modrm & W7
    base = (BASE16 >> (rm << W2)) & u64(15)
    index = (INDEX16 >> (rm << W2)) & u64(15)
    c.dec_scale = W0
    c.dec_stack = (BP_FORMS >> rm) & W1
    c.dec_index = ZERO_AT
    if index != W8:
        c.dec_index = index << W3
    c.dec_base = base << W3
    if mod == W1:
        c.dec_disp = sext(W1, peek(p, W1))
        return W1
    if mod == W2:
        c.dec_disp = peek(p, W2)
        return W2
    c.dec_disp = W0
    if rm == W6:
        c.dec_base = ZERO_AT
        c.dec_stack = W0
        c.dec_disp = peek(p, W2)
        return W2
    return W0


def address32(c, p, modrm, rex):
    """32-bit addressing (SDM tables 2-2, 2-3): fills dec_*; the number of bytes used behind ModRM.

    `rex`: 0, in 64-bit code REX and the bits of the prefix.
    """
    mod, rm = modrm >> W6, modrm & W7
    n = W0
    c.dec_scale = W0
    c.dec_index = ZERO_AT
    base = rm
    if rm == W4:
        sib = peek(p, W1)
        n = W1
        base = sib & W7
        index = ((sib >> W3) & W7) | ((rex & REX_X) << W2)
        if index != W4:
            c.dec_index = index << W3
            c.dec_scale = sib >> W6
    c.dec_base = (base | ((rex & REX_B) << W3)) << W3
    c.dec_stack = (u64(base == W4) | u64(base == W5)) & ~(rex & REX_B)
    if base == W5 and mod == W0:
        c.dec_base = ZERO_AT
        if rex != W0 and rm == W5:
            c.dec_base = RIP_AT
        c.dec_stack = W0
        c.dec_disp = peek(p + n, W4)
        return n + W4
    if mod == W1:
        c.dec_disp = sext(W1, peek(p + n, W1))
        return n + W1
    if mod == W2:
        c.dec_disp = peek(p + n, W4)
        return n + W4
    c.dec_disp = W0
    return n


def register_at(way, reg, rm, vvvv, opcode, byte):
    """Byte offset in `gpr` of a register operand."""
    n = W0
    if way == FROM_REG:
        n = reg
    elif way == FROM_RM:
        n = rm
    elif way == FROM_OPCODE:
        n = (opcode & W7) | (rm & W8)
    elif way == FROM_VVVV:
        n = vvvv
    elif way > FROM_R0:
        n = way - FROM_R0
    if byte != W0 and way < FROM_R0:
        return ((n & W3) << W3) | (n >> W2)
    return n << W3


def vex_fields(q, short, long):
    """A VEX prefix, of which q is the second byte (`short`: it has two), and the opcode behind it.

    In bits 0-9 opcode and map, 10-13 REX's bits, 14-17 vvvv, 18-19 pp as the prefix that it stands for (0; 1: 66, 2: F2, 3:
    F3), 20 L, 21: vvvv is not 1111b.  Outside of 64-bit code there are 8 registers, and W is ignored.
    """
    first = peek(q, W1)
    last = first
    rex = (~first >> W5) & REX_R
    opcode = MAP_0F | peek(q + W1, W1)
    if short == W0:
        last = peek(q + W1, W1)
        rex = ((~first >> W5) & W7) | ((last >> W4) & REX_W)
        opcode = peek(q + W2, W1)
        if first & W31 <= W3:
            opcode = opcode | ((first & W31) << W8)
    vvvv = (~last >> W3) & u64(15)
    named = u64(vvvv != W0)
    if long == W0:
        rex = W0
        vvvv = vvvv & W7
    pp = last & W3
    if pp >= W2:
        pp = pp ^ W1
    return opcode | (rex << W10) | (vvvv << u64(14)) | (pp << u64(18)) | (((last >> W2) & W1) << W20) | (named << W21)


def decode(c, p, avail, rip, mode, k):
    """Decode at host address p, of which `avail` bytes may be used, into t[k...].

    The length, or TRUNCATED, UNKNOWN, TOO_LONG.
    """
    long = mode & MODE_CODE64
    osize = W2 + ((mode & MODE_CODE32) << W1)
    asize, osize_66, asize_67 = osize, W6 - osize, W6 - osize
    if long != W0:
        osize, asize, osize_66, asize_67 = W4, W8, W2, W4
    rex, rep, lock, seg, p66 = W0, W0, W0, NO_SEG, W0
    q = p
    end = p + avail
    more = True
    byte = W0
    while more:
        if q >= end:
            if q - p >= MAX_LENGTH:
                return TOO_LONG
            return TRUNCATED
        byte = peek(q, W1)
        q += W1
        if byte & u64(0xF0) == REX and long != W0:
            rex = byte
            continue
        if byte == u64(0x66):
            osize = osize_66
            p66 = W1
        elif byte == u64(0x67):
            asize = asize_67
        elif byte & u64(0xE7) == u64(0x26):
            if long == W0:
                seg = (byte >> W3) & W3
        elif byte & u64(0xFE) == u64(0x64):
            seg = byte - u64(0x60)
        elif byte & u64(0xFE) == u64(0xF2):
            rep = byte & W1
            rep = rep + W2
        elif byte == u64(0xF0):
            lock = W1
        else:
            more = False
        if more:
            rex = W0
    if rex & REX_W != W0:
        osize = W8
    opcode, vex, vvvv = byte, W0, W0
    if byte & u64(0xFE) == VEX and rex | rep | lock | p66 == W0 and mode & (MODE_PE | MODE_VM) == MODE_PE:
        if q >= end:
            return TRUNCATED
        if long != W0 or peek(q, W1) >= u64(0xC0):
            n = W3 - (byte & W1)
            if q + n > end:
                return TRUNCATED
            vex = vex_fields(q, byte & W1, long)
            q += n
            opcode, rex, vvvv, rep = vex & M10, (vex >> W10) & u64(15), (vex >> u64(14)) & u64(15), (vex >> u64(18)) & W3
            osize = W4 + ((rex & REX_W) >> W1)
    if vex != W0:
        byte = W0
    elif byte == u64(0x0F):
        if q >= end:
            return TRUNCATED
        byte = peek(q, W1)
        q += W1
        opcode = MAP_0F | byte
        if byte == u64(0x38) or byte == u64(0x3A):
            opcode = MAP_0F38
            if byte == u64(0x3A):
                opcode = MAP_0F3A
            if q >= end:
                return TRUNCATED
            opcode = opcode | peek(q, W1)
            q += W1
    attr = c.opcode_attr[opcode]
    if vex != W0:
        attr = A_KNOWN | A_MODRM | A_GROUP
    reg, rm, cls, select, modrm, moffs = W0, (rex & REX_B) << W3, W0, W0, W0, W0
    c.dec_stack = W0
    c.dec_base = ZERO_AT
    c.dec_index = ZERO_AT
    c.dec_disp = W0
    c.dec_scale = W0
    if attr & A_MODRM != W0:
        if q >= end:
            return TRUNCATED
        modrm = peek(q, W1)
        q += W1
        if attr & A_REGISTER != W0:
            modrm = modrm | u64(0xC0)
        reg = ((modrm >> W3) & W7) | ((rex & REX_R) << W1)
        rm = (modrm & W7) | ((rex & REX_B) << W3)
        if attr & A_GROUP != W0:
            select = modrm & u64(0x38)
        if modrm < u64(0xC0):
            if asize == W2:
                q += address16(c, q, modrm)
            else:
                more_bits = W0
                if long != W0:
                    more_bits = rex | REX
                q += address32(c, q, modrm, more_bits)
            cls = W1
            if c.dec_index != ZERO_AT:
                cls = W2
            if c.dec_base == RIP_AT:
                c.dec_base = ZERO_AT
                cls = W3
        else:
            select = select | u64(0xC0)
            if attr & A_GROUP3 != W0:
                select = modrm
            if vex != W0:
                c.dec_base = rm << W3
    elif attr & A_MOFFS != W0:
        moffs = peek(q, asize)
        c.dec_disp = moffs
        q += asize
        cls = W1
    if q - p > MAX_LENGTH:
        return TOO_LONG
    if q > end:
        return TRUNCATED
    if seg == NO_SEG:
        seg = SEG_DS
        if c.dec_stack != W0:
            seg = SEG_SS
    mode_flat = u64(mode & MODE_FLAT != W0)
    flat = mode_flat
    if seg == SEG_CS or seg > SEG_DS:
        flat = W0
    key = form_key(opcode, osize, asize, rep, lock, cls, select, u64(mode & MODE_STACK32 != W0), flat, mode_flat)
    if attr & A_66 != W0:
        key = key | (p66 << W34)
    if vex != W0:
        key = key | K_VEX | (((vex >> W20) & W1) * K_VEX_L) | (((vex >> W21) & W1) * K_EXTENDED)
    if long != W0:
        key = key | K_LONG
        if rex != W0 and vex == W0:
            key = key | K_REX
        if (attr & A_REX_R != W0 and rex & REX_R != W0) or (attr & A_REX_B != W0 and rex & REX_B != W0):
            key = key | K_EXTENDED
    form = find_form(c, key)
    if form != NOT_FOUND and c.form[form] & F_IMM_FORM != W0:
        if q >= end:
            return TRUNCATED
        key = immediate_key(key, peek(q, W1))
        form = find_form(c, key)
    if form == NOT_FOUND:
        c.bad_key = key
        c.bad_host = p
        c.bad_size = avail
        return UNKNOWN
    word = c.form[form]
    imm = moffs
    isize = (word >> F_IMM_SHIFT) & u64(15)
    if isize != W0:
        imm = peek(q, isize)
        q += isize
        if word & F_IMM_SIGNED != W0:
            imm = cut(W1 << ((word >> F_IMM_CUT_SHIFT) & W3), sext(isize, imm))
    if word & F_OPCODE != W0:
        imm = ((opcode & W7) << W8) | modrm
    second = (word >> F_IMM2_SHIFT) & W3
    if second != W0:
        c.dec_disp = peek(q, second)
        q += second
    length = q - p
    if q > end:
        if length > MAX_LENGTH:
            return TOO_LONG
        return TRUNCATED
    if length > MAX_LENGTH:
        return TOO_LONG
    following = rip + length
    if mode & MODE_CODE32 != W0:
        following = following & M32
    if word & F_RELATIVE != W0:
        imm = following + sext(isize, imm)
        if word & F_TARGET16 != W0:
            imm = imm & M16
        elif long == W0:
            imm = imm & M32
    shape = refused(word, mode)
    if shape != W0:
        word = (KIND_ENDS << F_KIND_SHIFT) | F_FAULTS
    else:
        shape = c.form_shape[form]
    c.t[k + T_FORM] = word
    c.t[k + T_SHAPE] = shape
    c.t[k + T_EIP] = rip
    d = register_at(word & W7, reg, rm, vvvv, opcode, word & F_D_BYTE)
    if word & F_D_LOW != W0:
        d = d & LOW_REGISTERS
    s = register_at((word >> F_S_SHIFT) & W7, reg, rm, vvvv, opcode, word & F_S_BYTE)
    if word & F_S_LOW != W0:
        s = s & LOW_REGISTERS
    c.t[k + T_D] = d
    c.t[k + T_S] = s
    c.t[k + T_B] = c.dec_base
    c.t[k + T_I] = c.dec_index
    c.t[k + T_SEG] = seg << W3
    c.t[k + T_SCALE] = c.dec_scale
    c.t[k + T_DISP] = c.dec_disp & M32
    c.t[k + T_IMM] = imm
    c.t[k + T_NEXT] = following
    c.t[k + T_LEN] = length
    c.t[k + T_VARIANT] = W0
    return length
