"""m, x, M, X, qCRC, qSearch:memory and qMemoryRegionInfo.

Source: gdb's manual, "Packets" and "General Query Packets"; lldb's "GDB Remote Protocol Extensions". A read that meets a
bad page gives the bytes before it, and an error if there are none: never an invented byte. Reads are cut to what fits a
packet, which the protocol allows.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from gdbstub import parse
from gdbstub.context import Command, Context, Form
from gdbstub.errors import EFAULT, MalformedError, PacketError
from gdbstub.framing import PACKET_SIZE, escape

MAX_READ = PACKET_SIZE // 2
"""Two digits, or in the worst case two escaped bytes, for each byte."""
CHUNK = 0x10000
MAX_SCAN = 1 << 32
"""qCRC and qSearch refuse longer ranges: the client would wait for minutes."""

_REFLECTED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def read(context: Context, address: int, size: int) -> bytes:
    """At least one byte from `address`, at most `size`."""
    size = min(size, MAX_READ, parse.ADDRESS_END - address)
    data = context.target.read_memory(context.general_thread(), address, size)[:size]
    if not data:
        raise PacketError(f"no memory at {address:#x}", EFAULT)
    return data


def write(context: Context, address: int, data: bytes) -> None:
    """All of `data`."""
    parse.in_range(address, len(data))
    if data:
        context.target.write_memory(context.general_thread(), address, data)


def _chunks(context: Context, address: int, size: int) -> Iterator[bytes]:
    """The bytes of a long range; an error at the first that can't be read."""
    parse.in_range(address, size)
    if size > MAX_SCAN:
        raise PacketError(f"{size:#x} bytes are too many at once, {MAX_SCAN:#x} is the limit")
    while size:
        data = read(context, address, min(size, CHUNK))
        yield data
        address += len(data)
        size -= len(data)


def crc32(context: Context, address: int, size: int) -> int:
    """gdb's checksum: most significant bit first, not inverted at the end. zlib's is its mirror image."""
    crc = 0
    for data in _chunks(context, address, size):
        crc = zlib.crc32(data.translate(_REFLECTED), crc)
    return int(f"{crc ^ 0xFFFFFFFF:032b}"[::-1], 2)


def search(context: Context, address: int, size: int, pattern: bytes) -> int | None:
    """The first address at which all of `pattern` lies in the range."""
    kept = b""
    for data in _chunks(context, address, size):
        window = kept + data
        found = window.find(pattern)
        if found >= 0:
            return address - len(kept) + found
        address += len(data)
        kept = window[max(0, len(window) - len(pattern) + 1) :] if len(pattern) > 1 else b""
    return None


def _read_hex(context: Context, arguments: bytes) -> bytes:
    address, size = parse.pair(arguments)
    if size == 0:
        raise MalformedError("nothing to read")
    return parse.to_hex(read(context, address, size))


def _read_binary(context: Context, arguments: bytes) -> bytes:
    address, size = parse.pair(arguments)
    return b"b" + (escape(read(context, address, size)) if size else b"")


def _head(arguments: bytes) -> tuple[int, int, bytes]:
    head, found, data = arguments.partition(b":")
    if not found:
        raise MalformedError("ADDRESS,LENGTH:DATA needed")
    return *parse.pair(head), data


def _write_hex(context: Context, arguments: bytes) -> bytes:
    address, size, text = _head(arguments)
    return _write(context, address, size, parse.hex_bytes(text))


def _write_binary(context: Context, arguments: bytes) -> bytes:
    return _write(context, *_head(arguments))


def _write(context: Context, address: int, size: int, data: bytes) -> bytes:
    if len(data) != size:
        raise MalformedError(f"{size:#x} bytes announced, {len(data):#x} came")
    write(context, address, data)
    return b"OK"


def _crc(context: Context, arguments: bytes) -> bytes:
    address, size = parse.pair(arguments.removeprefix(b":"))
    if context.facets.crc is None:
        return b"C%x" % crc32(context, address, size)
    parse.in_range(address, size)
    value = context.facets.crc.crc32(context.general_thread(), address, size)
    if value is None:
        raise PacketError(f"no memory in {size:#x} bytes from {address:#x}", EFAULT)
    return b"C%x" % value


def _search(context: Context, arguments: bytes) -> bytes | None:
    kind, _, rest = arguments.removeprefix(b":").partition(b":")
    if kind != b"memory":
        return b""
    start, _, rest = rest.partition(b";")
    length, found, pattern = rest.partition(b";")
    if not found or not pattern:
        raise MalformedError("ADDRESS;LENGTH;PATTERN needed")
    address, size = parse.number(start), parse.number(length)
    size = min(size, parse.ADDRESS_END - address)
    if context.facets.search is not None:
        at = context.facets.search.search_memory(context.general_thread(), address, size, pattern)
    else:
        at = search(context, address, size, pattern)
    return b"0" if at is None else b"1,%x" % at


def _region(context: Context, arguments: bytes) -> bytes:
    """lldb's question what is at an address; it does not ask for the memory map's holes otherwise."""
    address = parse.number(arguments[1:])
    facet = context.facets.memory_map
    regions = facet.memory_map() if facet is not None else ()
    if not regions:
        return b""
    before = 0
    for region in regions:
        end = region.start + region.size
        if address < region.start:
            return b"start:%x;size:%x;" % (before, region.start - before)
        if address < end:
            access = b"rwx" if region.kind == "ram" else b"rx"
            return b"start:%x;size:%x;permissions:%b;" % (region.start, region.size, access)
        before = end
    return b"start:%x;size:%x;" % (before, parse.ADDRESS_END - before)


COMMANDS = {
    "m": Command(_read_hex, text=False),
    "x": Command(_read_binary),
    "M": Command(_write_hex),
    "X": Command(_write_binary),
    "qCRC": Command(_crc, form=Form.COLON),
    "qMemoryRegionInfo": Command(_region, anytime=True, form=Form.COLON),
    "qSearch": Command(_search, form=Form.COLON),
}
