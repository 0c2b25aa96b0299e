"""From guest bytes to micro-ops, natively.

`find_block` gives the micro-op of the block at `rip`, translating it when it is new or was dropped.  A block ends at a
jump, at an instruction that must be followed by a look-up, at the end of its page, before an instruction that runs over
it, or after BLOCK_MAX instructions; an instruction over a page border is a block of its own.  One that a device answers
(`outside_code.py`) is never kept: it is fetched and translated each time.
"""

from __future__ import annotations

from jitvm.engine.blocks import (
    BLOCK_DROPS,
    BLOCK_KEPT,
    BLOCK_LISTED,
    BLOCK_VALID,
    MAX_BLOCKS,
    NO_BLOCK,
    forget_blocks,
    jump_slot,
    known_block,
    list_block,
    look_at_lone,
    new_block,
    remember_jump,
    unlist_second,
)
from jitvm.engine.decode import (
    T_B,
    T_D,
    T_DISP,
    T_EIP,
    T_FORM,
    T_I,
    T_IMM,
    T_LEN,
    T_NEXT,
    T_S,
    T_SCALE,
    T_SEG,
    T_SHAPE,
    T_STEP,
    T_UOP,
    T_VARIANT,
    TOO_LONG,
    TRUNCATED,
    UNKNOWN,
    decode,
)
from jitvm.engine.formbits import (
    F_CC_SHIFT,
    F_COUNT,
    F_FAULTS,
    F_FUSE,
    F_KILLS,
    F_KIND_SHIFT,
    F_READS,
    F_UNDO_SHIFT,
    F_WRITES,
    KIND_CALL,
    KIND_INDIRECT,
    KIND_JCC,
    KIND_NOP,
    VARIANT_DEAD,
    VARIANT_FUSED,
    VARIANT_SHIFT,
)
from jitvm.engine.layout import (
    BLOCK_MAX,
    N_HANDLERS,
    OPT_CHAIN,
    OPT_DEAD_FLAGS,
    OPT_FUSE,
    OPT_JUMP_CACHE,
    UOP_B,
    UOP_D,
    UOP_DISP,
    UOP_EIP,
    UOP_END,
    UOP_I,
    UOP_IMM,
    UOP_LEN,
    UOP_REST,
    UOP_S,
    UOP_SCALE,
    UOP_SEG,
    UOP_SIZE,
)
from jitvm.engine.layout import WHY_EXIT as WHY_EXIT_
from jitvm.engine.layout import WHY_FORM as WHY_FORM_
from jitvm.engine.layout import WHY_HANDLER as WHY_HANDLER_
from jitvm.engine.outside_code import decode_outside
from jitvm.engine.pin_gate import pinned_entry
from jitvm.isa.debug import code_break, is_code_break
from jitvm.isa.host import peek, poke
from jitvm.isa.memory import code_linear, cut_linear, fetch_host, is_code
from jitvm.isa.paging_entry import PAGE_OFFSET
from jitvm.isa.shared import begin_translation, end_translation, need_code
from jitvm.isa.state import (
    EXIT,
    EXIT_DEBUG,
    GP,
    MODE_ALONE,
    MODE_TF,
    OK,
    STOP_BREAK,
    STOP_RANGE,
    fault,
    retired,
)
from jitvm.isa.words import M32, W0, W1, W2, W3, W4, W7, W8, W12, W16, W31, W32, u64

WHY_EXIT, WHY_FORM, WHY_HANDLER = u64(WHY_EXIT_), u64(WHY_FORM_), u64(WHY_HANDLER_)
FUSE, DEAD_FLAGS, CHAIN, JUMP_CACHE = u64(OPT_FUSE), u64(OPT_DEAD_FLAGS), u64(OPT_CHAIN), u64(OPT_JUMP_CACHE)
MOST, UOP_BYTES, END_BYTES = u64(BLOCK_MAX), u64(UOP_SIZE), u64(UOP_END)
PAGE_BYTES, SAFE, LAST_HANDLER = u64(4096), u64(16), u64(N_HANDLERS - 1)
HANDLER_HASH, W49, MISSING_ROOM = u64(0x9E37_79B9_7F4A_7C15), u64(49), u64(256)
SKIPPED = u64(0xFFFF)
HANDLER_GOTO = u64(1)
"""Shape of the micro-op that ends a block which no jump ends."""
O_D, O_S, O_B, O_I = u64(UOP_D), u64(UOP_S), u64(UOP_B), u64(UOP_I)
O_SEG, O_SCALE, O_LEN = u64(UOP_SEG), u64(UOP_SCALE), u64(UOP_LEN)
O_IMM, O_DISP, O_REST, O_EIP = u64(UOP_IMM), u64(UOP_DISP), u64(UOP_REST), u64(UOP_EIP)


def code_of(c, key):
    """Address of a handler or a stencil, 0 and noted as missing when it is not there yet."""
    h = (key * HANDLER_HASH) >> W49
    while c.handler_key[h] != W0:
        if c.handler_key[h] == key:
            return c.handler_address[h]
        h = (h + W1) & LAST_HANDLER
    if c.n_missing < MISSING_ROOM:
        c.missing[c.n_missing] = key
        c.n_missing += W1
    return W0


def handler_of(c, key):
    """Address of a handler; `stale` stands in for one that is not there yet."""
    address = code_of(c, key)
    if address == W0:
        return c.h_stale
    return address


def add_handler(c, key, address):
    """Enter a handler (called from Python)."""
    h = (key * HANDLER_HASH) >> W49
    while c.handler_key[h] != W0:
        h = (h + W1) & LAST_HANDLER
    c.handler_address[h] = address
    c.handler_key[h] = key
    return W0


def fetch_over(c, host, room, lin):
    """Gather the bytes of an instruction that may run into the next page in `fetch_buffer`; how many, 0 on a fault."""
    k = W0
    at = c.fetch_address
    while k < room:
        poke(at + k, W1, peek(host + k, W1))
        k += W1
    second = fetch_host(c, cut_linear(c, lin + room))
    if second == W0:
        return W0
    if c.shared != W0:
        if need_code(c, second - c.ram) != OK:
            return W0
        begin_translation(c, second - c.ram, W16)
    k = W0
    while k < W16:
        poke(at + room + k, W1, peek(second + k, W1))
        k += W1
    c.second_host = second
    return room + W16


def decode_at(c, host, rip, lin, k):
    """Decode the instruction at `lin` into t[k...]: its length, or TRUNCATED, UNKNOWN, TOO_LONG.

    `host`: of its first byte; 0: no memory is there, k is 0.  TRUNCATED with k = 0 is a fault on the next page, or a
    device has to answer first (c.status); with k > 0 the instruction runs into the next page.
    """
    if host == W0:
        return decode_outside(c, rip, lin)
    room = PAGE_BYTES - (lin & PAGE_OFFSET)
    mode = c.mode
    c.second_host = c.from_device = W0
    if room >= SAFE:
        return decode(c, host, room, rip, mode, k)
    at = c.fetch_address
    j = W0
    while j < room:
        poke(at + j, W1, peek(host + j, W1))
        j += W1
    n = decode(c, at, room, rip, mode, k)
    if n != TRUNCATED or k != W0:
        return n
    if is_code(c, rip + room) == W0:
        fault(c, GP, W0)
        return TRUNCATED
    if fetch_over(c, host, room, lin) == W0:
        if c.status == OK:
            return decode_outside(c, rip, lin)
        return TRUNCATED
    return decode(c, at, room + SAFE, rip, mode, k)


def has_breakpoint(c, lin):
    """1 when a debugger's breakpoint is at a linear address; they are in order."""
    low, high = W0, c.n_breakpoints
    while low < high:
        middle = (low + high) >> W1
        if peek(c.breakpoints_at + (middle << W3), W8) < lin:
            low = middle + W1
        else:
            high = middle
    return u64(low < c.n_breakpoints and peek(c.breakpoints_at + (low << W3), W8) == lin)


def is_breakpoint(c, lin):
    """1 when a debugger, or the guest, wants to stop before the instruction at a linear address.

    For a debugger that steps over a range every address outside of it is one.
    """
    if c.range_on != W0 and lin - c.range_first >= c.range_size:
        return W1
    if c.n_breakpoints != W0 and has_breakpoint(c, lin) != W0:
        return W1
    if c.code_breaks != W0:
        return is_code_break(c, lin)
    return W0


def decode_block(c, host, rip, most):
    """Decode the block at `rip` into `t`; number of instructions, 0 with c.status or c.why.

    A breakpoint behind its first instruction ends it.
    """
    n = W0
    lin = code_linear(c, rip)
    while n < most:
        if n != W0 and is_breakpoint(c, lin) != W0:
            return n
        k = n * T_STEP
        room = PAGE_BYTES - (lin & PAGE_OFFSET)
        length = decode_at(c, host, rip, lin, k)
        if length >= UNKNOWN or length == TRUNCATED:
            if n != W0 and length != UNKNOWN:
                return n
            if length == UNKNOWN:
                c.why = WHY_FORM
                if n != W0:
                    c.status = OK
                return W0
            if length == TOO_LONG:
                fault(c, GP, W0)
            return W0
        if is_code(c, rip + length - W1) == W0:
            if n == W0:
                fault(c, GP, W0)
            return n
        n += W1
        kind = (c.t[k + T_FORM] >> F_KIND_SHIFT) & W7
        if kind >= KIND_JCC or length >= room:
            return n
        rip = c.t[k + T_NEXT]
        lin = cut_linear(c, lin + length)
        host += length
    return n


def mark_flags(c, n):
    """Backwards over t: VARIANT_DEAD for those whose flags are written again before anything can see them."""
    need = W1
    k = n
    while k != W0:
        k -= W1
        at = k * T_STEP
        f = c.t[at + T_FORM]
        if f & F_WRITES != W0 and need == W0:
            c.t[at + T_VARIANT] = VARIANT_DEAD
        kills = u64(f & F_KILLS != W0)
        if f & F_COUNT != W0 and c.t[at + T_IMM] & W31 == W0:
            kills = W0
        if kills != W0:
            need = W0
        if f & (F_READS | F_FAULTS) != W0:
            need = W1
    return W0


def put_stub(c, u, handler, rip, slot):
    """A micro-op that looks the block at `rip` up when it is first reached; `slot` will point to it."""
    poke(u, W8, handler)
    poke(u + O_IMM, W8, slot)
    poke(u + O_REST, W2, W0)
    poke(u + O_EIP, W8, rip)
    poke(slot, W8, u)
    return W0


def exit_handler(c, first, alone, target):
    """Which stub leads from the block at linear address `first` to `target`."""
    to = code_linear(c, target)
    if c.mode & (MODE_TF | MODE_ALONE) != W0 or is_breakpoint(c, to) != W0:
        return c.h_at
    # Look-ups ask whether what runs into the next page still finds it there (`moved`); links do not.
    crosses = u64((to ^ first) >> W12 != W0) | u64(PAGE_BYTES - (to & PAGE_OFFSET) < SAFE)
    if alone != W0 or crosses != W0 or c.options & CHAIN == W0:
        return c.h_cross
    return c.h_link


def put_uop(c, u, at, handler, rest):
    """Fill a micro-op from the decoded words t[at...]."""
    poke(u, W8, handler)
    poke(u + O_D, W1, c.t[at + T_D])
    poke(u + O_S, W1, c.t[at + T_S])
    poke(u + O_B, W1, c.t[at + T_B])
    poke(u + O_I, W1, c.t[at + T_I])
    poke(u + O_SEG, W1, c.t[at + T_SEG])
    poke(u + O_SCALE, W1, c.t[at + T_SCALE])
    poke(u + O_LEN, W1, c.t[at + T_LEN])
    poke(u + O_IMM, W8, c.t[at + T_IMM])
    poke(u + O_DISP, W4, c.t[at + T_DISP])
    poke(u + O_REST, W2, rest)
    poke(u + O_EIP, W8, c.t[at + T_EIP])
    return W0


def room_for(n):
    """Bytes of micro-ops that a block of n instructions may need: an entry, a goto, the end slots and two stubs beside."""
    return (n + W4) * UOP_BYTES + END_BYTES


def put_entry(c, u, n, b):
    """The record that begins a block: counts its executions until it is hot, then leads to its machine code."""
    poke(u, W8, c.h_count)
    poke(u + O_IMM, W8, c.hot)
    poke(u + O_DISP, W4, b)
    poke(u + O_REST, W2, n)
    poke(u + O_EIP, W8, c.t[T_EIP])
    return W0


def plan_block(c, n):
    """Fill T_VARIANT and T_UOP of the n instructions in t: which handler, and which micro-op (SKIPPED: none).

    The number of micro-ops.  A NOP has none, but for one that begins the block or stands behind an instruction that may
    have changed it; a Jcc that is fused with the instruction before it has none of its own.
    """
    if c.options & DEAD_FLAGS != W0:
        mark_flags(c, n)
    last_at = (n - W1) * T_STEP
    last = c.t[last_at + T_FORM]
    count = W0
    stores = W1
    j = W0
    while j < n:
        at = j * T_STEP
        form = c.t[at + T_FORM]
        c.t[at + T_UOP] = count
        if (form >> F_KIND_SHIFT) & W7 == KIND_NOP and stores == W0 and j + W1 < n:
            c.t[at + T_UOP] = SKIPPED
        else:
            stores = form & F_FAULTS
            count += W1
        j += W1
    if c.options & FUSE != W0 and n > W1 and (last >> F_KIND_SHIFT) & W7 == KIND_JCC and last & F_FUSE != W0:
        before = last_at - T_STEP
        if c.t[before + T_FORM] & F_FUSE != W0:
            c.t[before + T_VARIANT] = VARIANT_FUSED + ((last >> F_CC_SHIFT) & u64(15))
            c.t[last_at + T_UOP] = SKIPPED
            count -= W1
    return count


def emit_block(c, n, where, first, alone, b):
    """Micro-ops of the n instructions in t at `where`; their number, 0 when handlers are missing.

    `first` is the block's linear address, `alone` 1 when it may not be chained, `b` its index, NO_BLOCK for one that is
    not kept.
    """
    planned = plan_block(c, n)
    last_at = (n - W1) * T_STEP
    last = c.t[last_at + T_FORM]
    kind = (last >> F_KIND_SHIFT) & W7
    missing = c.n_missing
    u = where
    count = planned
    if c.mode & MODE_TF != W0:
        poke(u, W8, c.h_step)
        poke(u + O_REST, W2, n)
        poke(u + O_EIP, W8, c.t[T_EIP])
        u += UOP_BYTES
        count += W1
    elif (
        b != NO_BLOCK
        and c.mode & MODE_ALONE == W0
        and c.h_count != W0
        and c.block_state[b] & BLOCK_DROPS < c.copy_drops
    ):
        put_entry(c, u, n, b)
        u += UOP_BYTES
        count += W1
    j = W0
    while j < n:
        at = j * T_STEP
        if c.t[at + T_UOP] != SKIPPED:
            put_uop(c, u, at, handler_of(c, c.t[at + T_SHAPE] | (c.t[at + T_VARIANT] << VARIANT_SHIFT)), n - j)
            u += UOP_BYTES
        j += W1
    following = c.t[last_at + T_NEXT]
    if kind < KIND_JCC:
        poke(u, W8, handler_of(c, HANDLER_GOTO))
        poke(u + O_REST, W2, W0)
        poke(u + O_EIP, W8, following)
        u += UOP_BYTES
        count += W1
    slot = u
    u += END_BYTES
    target = following
    if kind >= KIND_JCC:
        target = c.t[last_at + T_IMM]
    if kind < KIND_INDIRECT:
        put_stub(c, u, exit_handler(c, first, alone, target), target, slot)
        if kind >= KIND_JCC and is_code(c, target) == W0:
            poke(u, W8, c.h_limit)
            poke(u + O_IMM, W8, c.t[last_at + T_EIP])
            poke(u + O_SCALE, W1, (last >> F_UNDO_SHIFT) & u64(15))
    if kind == KIND_JCC:
        u += UOP_BYTES
        put_stub(c, u, exit_handler(c, first, alone, following), following, slot + W8)
    if kind == KIND_CALL:
        call = slot - UOP_BYTES
        poke(call + O_IMM, W8, following)
        if is_code(c, target) == W0:
            poke(call, W8, c.h_limit)
            poke(call + O_IMM, W8, c.t[last_at + T_EIP])
    if c.n_missing != missing:
        c.why = WHY_HANDLER
        return W0
    return count


def translate(c, host, rip):
    """Translate the block at `rip`, whose first byte is at `host`; its index, or NO_BLOCK with c.status or c.why.

    NO_BLOCK with neither: its one instruction, which is decoded, ends in a device's memory (`from_device`).
    """
    most = c.block_most
    if c.mode & (MODE_TF | MODE_ALONE) != W0:
        most = W1
    offset = host - c.ram
    lin = code_linear(c, rip)
    before = W0
    if c.shared != W0:
        if need_code(c, offset) != OK:
            return NO_BLOCK
        before = begin_translation(c, offset, PAGE_BYTES - (offset & PAGE_OFFSET))
    n = decode_block(c, host, rip, most)
    if n == W0 or c.from_device != W0:
        return NO_BLOCK
    room = room_for(n)
    if c.uop_next + room > c.uop_end or c.n_blocks >= MAX_BLOCKS:
        forget_blocks(c)
    b = known_block(c, offset, rip, c.ctx)
    if b == NO_BLOCK:
        b = new_block(c, offset, rip, c.ctx)
    where = c.block_uop[b]
    if c.block_room[b] < room:
        where = c.uop_next
    size = (c.t[(n - W1) * T_STEP + T_NEXT] - rip) & M32
    here = PAGE_BYTES - (lin & PAGE_OFFSET)
    over = W0
    if size > here:
        over = size - here
        size = here
    count = emit_block(c, n, where, lin, u64(over != W0), b)
    if count == W0:
        return NO_BLOCK
    if where == c.uop_next:
        c.block_uop[b] = where
        c.block_room[b] = room
        c.uop_next = where + room
    c.block_bytes[b] = size | (over << W32)
    c.block_state[b] = (c.block_state[b] & BLOCK_KEPT) | BLOCK_VALID | (count << W8)
    list_block(c, b, W0, offset >> W12, offset & PAGE_OFFSET, size)
    if c.shared != W0:
        end_translation(c, offset, size, before)
    if c.block_state[b] & (BLOCK_LISTED << W1) != W0:
        unlist_second(c, b)
    if over != W0:
        c.block_second[b] = c.second_host - c.ram
        list_block(c, b, W1, (c.second_host - c.ram) >> W12, W0, over)
    c.stat_blocks += W1
    c.stat_insns += n
    return b


def moved(c, b):
    """1 when a block that runs over its page finds another second page there now; c.status when it finds none."""
    if c.block_bytes[b] >> W32 == W0:
        return W0
    lin = code_linear(c, c.rip + (c.block_bytes[b] & M32))
    second = fetch_host(c, lin)
    return u64(second - c.ram != c.block_second[b])


def stops_here(c, lin):
    """1 when the run ends before the instruction at the breakpoint `lin`: it leaves with EXIT_DEBUG."""
    if c.breaks_off != W0 or (c.resume_at == retired(c) and c.resume_lin == lin):
        return W0
    why = W0
    if c.range_on != W0 and lin - c.range_first >= c.range_size:
        why = STOP_RANGE
    found = u64(why != W0)
    if has_breakpoint(c, lin) != W0:
        why = STOP_BREAK
        found = W1
    if found != W0:
        c.status = EXIT
        c.why = WHY_EXIT
        c.exit_reason = EXIT_DEBUG
        c.stop_why = why
    return found


def find_block(c):
    """Micro-op of the block at rip; 0 with c.status or c.why.

    A block that begins at a breakpoint is never remembered by a jump: all ways to it lead through here.
    """
    rip, ctx = c.rip, c.ctx
    held = W0
    if c.n_breakpoints | c.code_breaks | c.range_on != W0:
        lin = code_linear(c, rip)
        held = is_breakpoint(c, lin)
        if held != W0 and (stops_here(c, lin) != W0 or code_break(c, lin) != OK):
            return W0
    k = jump_slot(rip)
    if c.jump_cache[k] == rip and c.jump_cache[k + W1] == ctx:
        return c.jump_cache[k + W2]
    c.stat_lookups += W1
    c.why = WHY_EXIT
    if c.forget != W0:
        c.forget = W0
        forget_blocks(c)
    if is_code(c, rip) == W0:
        fault(c, GP, W0)
        return W0
    lin = code_linear(c, rip)
    host = fetch_host(c, lin)
    if host == W0:
        return lone_instruction(c, host, rip, lin)
    b = known_block(c, host - c.ram, rip, ctx)
    if b == NO_BLOCK or c.block_state[b] & BLOCK_VALID == W0 or moved(c, b) != W0:
        if c.status != OK:
            return W0
        b = translate(c, host, rip)
        if b == NO_BLOCK:
            if c.status != OK or c.why != WHY_EXIT:
                return W0
            return emit_lone(c, host, lin)
    u = c.block_uop[b]
    if c.mode & (MODE_TF | MODE_ALONE) == W0 and held == W0 and c.options & JUMP_CACHE != W0:
        remember_jump(c, k, rip, ctx, u, pinned_entry(c, b))  # not at a breakpoint: a jump would pass by the trap
    return u


def emit_lone(c, host, lin):
    """Micro-op of the one instruction that was decoded, in the scratch buffer; 0 with c.status or c.why."""
    if look_at_lone(c, host) != OK:
        return W0
    if emit_block(c, W1, c.scratch_address, lin, W1, NO_BLOCK) == W0:
        return W0
    return c.scratch_address


def lone_instruction(c, host, rip, lin):
    """Micro-op of one instruction, whose first byte is at `host` (0: no memory is there); 0 as find_block."""
    if c.status != OK or decode_block(c, host, rip, W1) == W0:
        return W0
    return emit_lone(c, host, lin)


def short_block(c):
    """Micro-op of one instruction at rip, in the scratch buffer (the budget does not hold the block); 0 as find_block."""
    rip = c.rip
    c.stat_short += W1
    c.why = WHY_EXIT
    if is_code(c, rip) == W0:
        fault(c, GP, W0)
        return W0
    lin = code_linear(c, rip)
    return lone_instruction(c, fetch_host(c, lin), rip, lin)
