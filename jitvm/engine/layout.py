"""The whole CPU record: the architectural part and what the engine keeps beside it, and the micro-op.

The record is one array per vCPU; large tables in it are touched only where they are used, so the host gives them memory
as they fill.  Everything that translated code reads lies at a constant offset of the record or of a micro-op.
"""

from __future__ import annotations

import numpy as np

from jitvm.isa.served import AHEAD
from jitvm.isa.state import ARCHITECTURAL, LAZY

U = np.uint64

N_BLOCKS = 1 << 17
N_BLOCK_HASH = 1 << 18
N_JUMP_CACHE, N_JUMP_LOG = 4096, 256
N_DATA_KNOWN = 64
N_FORMS = 1 << 13
N_FORM_HASH = 1 << 15
N_HANDLERS = 1 << 15
N_MISSING = 256
BLOCK_MAX = int(AHEAD)
"""Greatest number of instructions in a block."""
T_WORDS = 15
"""Words of one decoded instruction in `t`: see jitvm/engine/decode.py."""
SCRATCH = 8192
"""Bytes of the micro-op buffer for blocks that are cut short (budget, step)."""

# ---- micro-op: one record an instruction (40 bytes, a block's last one 56) -----------------------------------------------
UOP_D, UOP_S, UOP_B, UOP_I, UOP_SEG, UOP_SCALE, UOP_LEN = 8, 9, 10, 11, 12, 13, 14
UOP_IMM, UOP_DISP, UOP_REST, UOP_EIP, UOP_TAKEN, UOP_FALL = 16, 24, 28, 32, 40, 48
UOP_SIZE, UOP_END = 40, 16
"""Bytes 0 to 7 are the handler's address.  `d s b i`: byte offsets in `gpr` (for other register files: number times 8).
`seg`: number times 8.  `rest` (16 bits): instructions of the block from this one to the end, as charged; `imm` 64 bits;
`disp` 32 bits, signed; `taken`, `fall`: addresses of the micro-ops that follow a jump."""
N_NOTED = 8
"""Targets that an indirect jump remembers, in words behind its block: as many as a link's slots and stub have room."""

ENGINE = [
    ("why", U),  # why translated code came back: WHY_*
    ("bad_key", U),  # the form key that was not known
    ("bad_host", U),  # host address of the instruction, of `bad_size` readable bytes
    ("bad_size", U),
    ("uop_arena", U),
    ("uop_end", U),
    ("uop_next", U),
    ("h_stale", U),  # addresses of the special handlers
    ("h_link", U),
    ("h_cross", U),
    ("h_at", U),
    ("h_step", U),
    ("h_limit", U),
    ("h_out", U),
    ("copy_drops", U),  # blocks dropped as often (times BLOCK_DROP) stay with handlers
    ("hot", U),  # executions after which a block is given machine code
    ("h_count", U),  # 0: no stencils
    ("h_finish", U),
    ("h_hot", U),
    ("h_retry", U),
    ("region_hot", U),  # executions of a block's machine code after which it asks for a region; 0: no regions
    ("hot_block", U),  # the block that asks, for stencils or a region
    ("h_enter", U),
    ("h_pad", U),
    ("pad_at", U),  # executable address of the pad that was passed last
    ("stat_linked", U),
    ("pin_hot", U),  # executions of a block's machine code after which it is pinned (`pinned.py`); 0: never
    ("h_spill", U),
    ("h_leap", U),
    ("h_settle", U),
    ("h_jump", U),
    ("h_pin", U),
    ("h_pin_pad", U),
    ("out_u", U),  # where pinned code goes on that is left: micro-op, address
    ("out_to", U),
    ("flags_top", U),  # operand of the INC or DEC whose flags are not made yet
    ("pin_cut", U),  # instructions of the block that is being pinned before what has no stencil
    ("stat_pinned", U),
    ("epoch", U),  # counts what may make a region untrue: dropped blocks, forgotten translations
    ("page_version", U),  # host address of a word a page of guest memory: how often translated code on it was dropped
    ("page_written", U),  # host address of a word a page: what was written of it, a bit for 64 bytes (OTHERS_WRITTEN)
    ("code_next", U),  # code memory at its writable address: next free byte, end, start
    ("code_end", U),
    ("code_start", U),
    ("code_shift", U),  # added to a writable address gives the executable one
    ("stat_promoted", U),
    ("stat_code_bytes", U),
    ("log_start", U),  # where the copier notes what it copied, at its next entry and its end; 0: nobody wants to know
    ("log_next", U),
    ("log_end", U),
    ("stat_copied_insns", U),  # instructions of copied blocks and of regions that were entered; only with OPT_COUNT
    ("stat_region_insns", U),
    ("h_resume", U),
    ("block_most", U),  # greatest number of instructions in a block
    ("fetch_address", U),  # host addresses of `fetch_buffer` and `scratch`
    ("scratch_address", U),
    ("second_host", U),  # host address of the second page of the instruction decoded last, 0: in one page
    ("from_device", U),  # 1: it ends in, or comes from, what is no memory (jitvm/engine/outside_code.py)
    ("outside_lin", U),  # bytes of code that a device answered, in `fetch_buffer`: linear address, how many, `retired`
    ("outside_n", U),
    ("outside_at", U),
    ("options", U),  # OPT_* bits
    ("page_head", U),  # host addresses of tables with one entry a page of guest memory: list of blocks (4 bytes),
    ("page_bits", U),  # and which 64-byte pieces of the page hold translated bytes (8 bytes)
    ("n_guest_pages", U),
    ("n_breakpoints", U),
    ("breakpoints_at", U),  # host address of as many linear ones, in order: a debugger wants to stop before what is there
    ("breaks_off", U),  # 1: run over them
    ("range_on", U),  # 1: a debugger wants to stop before the first instruction outside of `range_size` linear addresses
    ("range_first", U),
    ("range_size", U),
    ("resume_at", U),  # `retired` and linear address at which the instruction is run, breakpoint or not: the debugger was
    ("resume_lin", U),  # told of it, or a string instruction goes on
    ("n_blocks", U),
    ("generation", U),
    ("stat_blocks", U),
    ("stat_insns", U),
    ("stat_dropped", U),
    ("stat_flushes", U),
    ("stat_lookups", U),
    ("stat_short", U),
    ("stat_faults", U),
    ("dec_disp", U),  # results of jitvm/engine/decode.py's address decoding
    ("dec_base", U),
    ("dec_index", U),
    ("dec_scale", U),
    ("dec_stack", U),
    ("n_missing", U),
    ("missing", U, (N_MISSING,)),
    ("any_data", U),  # not 0: `data_known` has entries
    ("data_known", U, (N_DATA_KNOWN,)),  # offset << 12 | size of stores beside code that overlap no block; ONES: none
    ("jump_cache", U, (N_JUMP_CACHE * 4,)),  # rip, ctx, micro-op, where pinned code enters
    ("jump_room", U),  # entries of `jump_log` that are free; 0: any entry of the jump cache may be in use
    ("jump_log", U, (N_JUMP_LOG,)),  # where the jump cache's entries in use begin, filled from the end
    ("opcode_attr", U, (4 * 256,)),
    ("form_key", U, (N_FORM_HASH,)),
    ("form_index", U, (N_FORM_HASH,)),
    ("form", U, (N_FORMS,)),  # F_* bits
    ("form_shape", U, (N_FORMS,)),
    ("n_forms", U),
    ("handler_key", U, (N_HANDLERS,)),
    ("handler_address", U, (N_HANDLERS,)),
    ("t", U, (BLOCK_MAX * T_WORDS,)),
    ("fetch_buffer", U, (8,)),
    ("scratch", U, (SCRATCH // 8,)),
    ("block_offset", U, (N_BLOCKS,)),
    ("block_rip", U, (N_BLOCKS,)),
    ("block_ctx", U, (N_BLOCKS,)),
    ("block_uop", U, (N_BLOCKS,)),
    ("block_room", U, (N_BLOCKS,)),
    ("block_bytes", U, (N_BLOCKS,)),  # length in bytes in bits 0-31, second page's number of bytes in bits 32-63
    ("block_second", U, (N_BLOCKS,)),  # offset of the second page when an instruction crosses into it
    ("block_state", U, (N_BLOCKS,)),  # BLOCK_* bits
    ("block_code", U, (N_BLOCKS,)),  # writable address of its machine code's gate, 0: none
    ("block_pin", U, (N_BLOCKS,)),  # writable address of its pinned code's gate, 0: none
    ("block_chain", U, (N_BLOCKS,)),  # hash chain: index + 1
    ("block_hash", U, (N_BLOCK_HASH,)),  # index + 1
    ("block_list", U, (2 * N_BLOCKS,)),  # per page lists: 2 * index + which + 1
]

CPU = np.dtype([*ARCHITECTURAL, *ENGINE], align=True)
__all__ = ["CPU", "LAZY"]

WHY_LIMIT, WHY_EXIT, WHY_FORM, WHY_HANDLER, WHY_FAULT, WHY_WINDOW, WHY_STENCIL, WHY_REGION = range(8)
OPT_FUSE, OPT_DEAD_FLAGS, OPT_CHAIN, OPT_PADS, OPT_JUMP_CACHE, OPT_COUNT = (1 << k for k in range(6))
TABLE_EPOCH, TABLE_PLAIN, TABLE_PAGES, TABLE_N_PAGES, TABLE_BLOCKS = 0, 8, 16, 24, 32
"""The region's table: the `epoch` at which it was last found true; where its first block's machine code is; address and
number of its pages' records (linear address, offset in guest memory, version, a word each); then the address of each block's
first micro-op."""
HOT = 24
"""Executions after which a block is given machine code."""
GROUP_HOT = 1000
"""Executions after which a block's handlers are groups, where it is not given machine code."""
GROUP_BIT, MEMBER_BITS, MEMBERS = 63, 21, 3
"""A group's key has this bit, and three members: a handler's key (shape, variant) each, 0 for none.  The first is 0 in the
group of a block's entry record, which is no instruction."""
PIN_HOT = 1000
"""Executions of a block's machine code after which it is pinned, where there are no regions."""
REGION_HOT = 2000
"""Executions of a block's machine code after which a region is made that begins with it."""


def at(name: str) -> int:
    """Byte offset of a field in the CPU record."""
    return int(CPU.fields[name][1])  # type: ignore[index]  # the dtype has fields
