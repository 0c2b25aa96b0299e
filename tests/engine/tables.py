"""Page tables and rings for engine tests."""

from __future__ import annotations

import struct

from tests.engine.guest import Guest

DIRECTORY, TABLE = 0x10000, 0x11000
P, W, U, A, D, PS = 1, 2, 4, 0x20, 0x40, 0x80
PSE = 0x10
PG, WP, PE = 0x8000_0000, 0x1_0000, 0x11
N_PAGES = 128


def page_on(guest: Guest, *, wp: bool = False, cr4: int = 0) -> None:
    """Map the first 512 KiB one to one, for everybody, and turn paging on."""
    guest.bare.write(DIRECTORY, struct.pack("<I", TABLE | P | W | U))
    guest.bare.write(TABLE, struct.pack(f"<{N_PAGES}I", *(page << 12 | P | W | U for page in range(N_PAGES))))
    guest.registers(cr3=DIRECTORY, cr4=cr4, cr0=PG | PE | (WP if wp else 0))


def entry(guest: Guest, page: int) -> int:
    """The page-table entry of a linear page."""
    return int(struct.unpack("<I", guest.bare.read(TABLE + 4 * page, 4))[0])


def directory_entry(guest: Guest, k: int = 0) -> int:
    """A page-directory entry."""
    return int(struct.unpack("<I", guest.bare.read(DIRECTORY + 4 * k, 4))[0])


def set_entry(guest: Guest, page: int, value: int, *, flush: bool = True) -> None:
    """Write the page-table entry of a linear page, as another CPU's INVLPG would make it known."""
    guest.bare.write(TABLE + 4 * page, struct.pack("<I", value))
    if flush:
        guest.bare.vcpu.accel.flush(guest.bare.vcpu.address)


def set_ring(guest: Guest, ring: int) -> None:
    """CPL, and segments that it may use."""
    c = guest.c
    for k in range(6):
        c.attr[k] = int(c.attr[k]) & ~0x60 | ring << 5
        c.sel[k] = int(c.sel[k]) & ~3 | ring
    c.cpl = ring
    guest.update()
