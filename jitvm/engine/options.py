"""What an engine may do: the switches of its experiments, when code becomes hot, how much of it is kept."""

from __future__ import annotations

from dataclasses import dataclass

from jitvm.engine import layout as lay
from jitvm.engine.region import MODES
from jitvm.memory import PAGE

CODE_CACHE = 256 << 20
COPIED_MOST = 32 << 20
LEAST_CODE_CACHE = 256 << 10
"""Bytes: the room for a block of the greatest length, and for some regions."""


@dataclass(frozen=True)
class Options:
    """`--opt` switches of the engine (experiments): what each of the first ones does is said in `jitvm.config`."""

    stencils: bool = True
    fuse: bool = True
    dead_flags: bool = True
    chain: bool = True
    pads: bool = True
    jump_cache: bool = True
    targets: bool = True
    returns: bool = True
    lazy_flags: bool = True
    shared_lookups: bool = True
    grouped_lookups: bool = True
    copies: bool = True
    joins: bool = True
    latches: bool = True
    count: bool = False
    hot: int = lay.HOT
    """Executions after which a block is given machine code."""
    groups: bool = True
    group_hot: int = lay.GROUP_HOT
    """Executions after which the instructions of a block are put together to groups, where there are no stencils."""
    pins: bool = True
    pin_hot: int = lay.PIN_HOT
    """Executions of a block's machine code after which it is pinned, where there are no regions."""
    regions: bool = True
    region_hot: int = lay.REGION_HOT
    """Executions of a block's machine code after which a region is made that begins with it."""
    sync: bool = False
    """Regions and stencils are compiled at once, on the vCPU's thread (tests)."""
    beside: bool = False
    """Stencils that no run cut before are made by the compiler process, while the guest runs on; else at once."""
    code_cache: int = CODE_CACHE
    """Bytes of machine code of one vCPU: copied blocks and regions.  What is full is emptied as a whole."""
    drops: int = 2
    """Times that a block's bytes may be rewritten before it stays with handlers (at most 4: any number)."""

    def bits(self) -> int:
        """As `options` in the record."""
        return (
            lay.OPT_FUSE * self.fuse
            | lay.OPT_DEAD_FLAGS * self.dead_flags
            | lay.OPT_CHAIN * self.chain
            | lay.OPT_PADS * self.pads
            | lay.OPT_JUMP_CACHE * self.jump_cache
            | lay.OPT_COUNT * self.count
        )

    def copied_bytes(self) -> int:
        """Bytes for copied blocks."""
        return min(COPIED_MOST, self.code_cache // 4) & -PAGE

    def region_bytes(self) -> int:
        """Bytes for regions."""
        return self.code_cache - self.copied_bytes()

    def modes(self) -> tuple[str, ...]:
        """How regions are made, where that is not the usual way (`jitvm.engine.region.MODES`)."""
        wanted = (not self.lazy_flags, self.count, not self.shared_lookups, not self.grouped_lookups)
        return tuple(mode for mode, on in zip(MODES, wanted, strict=True) if on)
