"""Which socket, core and thread a processor is: its APIC ID, and what CPUID tells of it.

An APIC ID is made of fields: thread, core, socket, each as wide as its number needs.  The caches of leaf 4 are those that
QEMU 7.2 gives its Intel models: of a core, but for the third level, which a socket shares.

Sources: Intel SDM vol. 2, CPUID, leaves 01h, 04h and 0Bh; vol. 3, 8.9 (APIC IDs); AMD64 manual vol. 3, CPUID
Fn8000_0008 ECX; what QEMU 7.2 reports with the same -smp.

Not modelled: dies, modules and tiles (leaf 1Fh).
"""

from __future__ import annotations

from typing import NamedTuple

LEAF_CACHES, LEAF_TOPOLOGY = 0x4, 0xB
HTT = 1 << 28
"""Leaf 1 EDX: EBX tells how many processors a socket has."""
LEVEL_THREAD, LEVEL_CORE = 1, 2
DATA, CODE, UNIFIED = 1, 2, 3
SELF_INITIALIZING = 1 << 8
INVALIDATES, INCLUSIVE, COMPLEX = 1 << 0, 1 << 1, 1 << 2
LINE = 64


class Cache(NamedTuple):
    """A cache of leaf 4, with lines of 64 bytes."""

    kind: int
    level: int
    ways: int
    sets: int
    flags: int


L1_DATA, L1_CODE = Cache(DATA, 1, 8, 64, INVALIDATES), Cache(CODE, 1, 8, 64, INVALIDATES)
L2, L3 = Cache(UNIFIED, 2, 16, 4096, INVALIDATES), Cache(UNIFIED, 3, 16, 16384, INCLUSIVE | COMPLEX)


class Topology(NamedTuple):
    """`cores` of each socket, `threads` of each core."""

    cores: int = 1
    threads: int = 1

    @property
    def per_socket(self) -> int:
        """Processors of a socket."""
        return self.cores * self.threads

    @property
    def core_shift(self) -> int:
        """Where in an APIC ID the core's number begins."""
        return (self.threads - 1).bit_length()

    @property
    def socket_shift(self) -> int:
        """Where in an APIC ID the socket's number begins."""
        return self.core_shift + (self.cores - 1).bit_length()

    def apic_id(self, number: int) -> int:
        """Of the processor with this number, counted from 0."""
        socket, rest = divmod(number, self.per_socket)
        core, thread = divmod(rest, self.threads)
        return socket << self.socket_shift | core << self.core_shift | thread

    def sizes(self) -> int:
        """Leaf 80000008h ECX: processors of a socket, less one, and how many bits of an APIC ID number them."""
        return 0 if self.per_socket == 1 else self.socket_shift << 12 | self.per_socket - 1

    def caches(self) -> list[tuple[int, int, int, int]]:
        """Leaf 4, by its subleaves."""
        shared = ((L1_DATA, 1), (L1_CODE, 1), (L2, self.threads), (L3, 1 << self.socket_shift))
        return [
            (
                cache.kind | cache.level << 5 | SELF_INITIALIZING | n - 1 << 14 | self.cores - 1 << 26,
                LINE - 1 | cache.ways - 1 << 22,
                cache.sets - 1,
                cache.flags,
            )
            for cache, n in shared
        ]

    def levels(self) -> list[tuple[int, int, int, int]]:
        """Leaf 0Bh, by its subleaves; EDX is the APIC ID."""
        return [
            (self.core_shift, self.threads, LEVEL_THREAD << 8, 0),
            (self.socket_shift, self.per_socket, LEVEL_CORE << 8 | 1, 0),
        ]


ALONE = Topology()
"""One processor."""
