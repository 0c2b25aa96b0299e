"""What who makes stencils and who pastes them have agreed on: bits of a stencil's key, its holes and ways out, its marks.

The lowest 24 bits of a key are a handler's (shape, variant).
"""

from __future__ import annotations

# ---- keys -----------------------------------------------------------------------------------------------------------
SEG_SHIFT, SCALE_SHIFT, STENCIL_BIT = 24, 27, 40
SLOT_SHIFTS = {"d": 29, "s": 37, "b": 45, "i": 53}
"""Where a pinned stencil's key has the offsets of its registers."""
EAGER_BIT, PIN_BIT = 61, 62
"""Of a pinned stencil's key: flags are made at once; it is one."""


def is_pinned(key: int) -> bool:
    """Whether a key is a pinned stencil's."""
    return key >> PIN_BIT == 1


def is_plain(key: int) -> bool:
    """Whether a key is that of a stencil which is not pinned."""
    return bool(key >> STENCIL_BIT & 1) and not key >> PIN_BIT


def is_copied(key: int) -> bool:
    """Whether a key is a stencil's, not a handler's."""
    return is_plain(key) or is_pinned(key)


# ---- holes ----------------------------------------------------------------------------------------------------------
HOLES = ("imm", "disp", "next", "uop", "end", "d", "s", "b", "i", "relative")
EXITS = ("taken", "fall")
MISS = "miss"
"""What a hole is filled with: immediate, displacement, following RIP (32 bits each), distance from the entry record to the
instruction's micro-op and to the block's link slots, offsets of registers in the CPU record, following RIP plus
displacement.  EXITS: jumps to the block's pads; MISS: to where a pinned stencil leaves for its handler."""
KINDS_OF_HOLES = (*HOLES, *EXITS, MISS)
"""A hole's number is its place here."""

# ---- marks ----------------------------------------------------------------------------------------------------------
TURNED_MARK, PINNED_MARK, DEFERRED_MARK = 1, 2, 8
"""Bits of a blob's byte of marks: of its pads that of the fall-through stands first; they are pinned code's; flags are left
as operands."""
