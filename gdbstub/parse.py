"""The small grammar inside payloads: numbers, pairs, thread ids.

Source: gdb's manual, "Packets" (thread-id syntax). Python's own `int` takes signs, blanks and underscores, which the
protocol does not, so digits are checked first.
"""

from __future__ import annotations

import re

from gdbstub.errors import MalformedError, PacketError

_NUMBER = re.compile(rb"0*([0-9a-fA-F]{1,16})")
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2})*")
ADDRESS_END = 1 << 64
PROCESS = 1
"""The one process: the machine."""
ANY, ALL = 0, -1
"""Thread numbers with a meaning of their own."""


def number(text: bytes) -> int:
    """A hex number below 2**64."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise MalformedError(f"not a hex number: {text[:20]!r}")
    return int(match[1], 16)


def pair(text: bytes, separator: bytes = b",") -> tuple[int, int]:
    """Two hex numbers, such as an address with a length."""
    first, found, second = text.partition(separator)
    if not found:
        raise MalformedError(f"two numbers needed: {text[:40]!r}")
    return number(first), number(second)


def hex_bytes(text: bytes) -> bytes:
    """Bytes from pairs of hex digits."""
    if _HEX.fullmatch(text) is None:
        raise MalformedError(f"not pairs of hex digits: {text[:20]!r}")
    return bytes.fromhex(text.decode("ascii"))


def to_hex(data: bytes) -> bytes:
    """Bytes as pairs of hex digits."""
    return data.hex().encode("ascii")


def thread_id(text: bytes) -> int:
    """`TID`, `pPID.TID` or `pPID`: the thread's number, ANY or ALL."""
    if not text.startswith(b"p"):
        return _thread_number(text)
    process, found, thread = text[1:].partition(b".")
    if _thread_number(process) not in (PROCESS, ANY, ALL):
        raise PacketError(f"no process {process[:20].decode('ascii', 'replace')}, there is only 1")
    return _thread_number(thread) if found else ALL


def _thread_number(text: bytes) -> int:
    return ALL if text == b"-1" else number(text)


def only_process(text: bytes) -> None:
    """Refuse another process than ours."""
    if number(text) != PROCESS:
        raise PacketError(f"no process {text[:20].decode('ascii', 'replace')}, there is only {PROCESS}")


def in_range(address: int, size: int) -> None:
    """Refuse a range that leaves the address space."""
    if address + size > ADDRESS_END:
        raise PacketError(f"{size:#x} bytes from {address:#x} leave the address space")
