"""AML: the byte code of ACPI's namespace, put together from functions that are named like ASL's operators.

Every function returns bytes; terms are bytes too, so that they nest as in ASL.  Names are written as in ASL ("_HID",
"\\\\_SB.PCI0"), shorter segments are filled up.

Source: ACPI Specification 6.5, chapter 20 (AML), 19.3.4 (EISA IDs).
"""

from __future__ import annotations

from collections.abc import Sequence

ZERO, ONE, BYTE, WORD, DWORD, STRING, QWORD = 0x00, 0x01, 0x0A, 0x0B, 0x0C, 0x0D, 0x0E
NAME, SCOPE, BUFFER, PACKAGE, METHOD, DUAL_NAME, MULTI_NAME = 0x08, 0x10, 0x11, 0x12, 0x14, 0x2E, 0x2F
LOCAL0, ARG0, STORE, AND, OR, CREATE_DWORD_FIELD, IF, ELSE, RETURN = 0x60, 0x68, 0x70, 0x7B, 0x7D, 0x8A, 0xA0, 0xA1, 0xA4
EXTENDED, REGION, FIELD, DEVICE = 0x5B, 0x80, 0x81, 0x82
PCI_CONFIG = 2
"""An address space."""
BYTE_ACCESS = 1
"""Field flags: accessed by bytes, no lock, other bits of an access are preserved."""
SERIALIZED = 0x08
SEGMENT = 4
ROOT, PARENT = "\\", "^"
NO_TARGET = bytes((ZERO,))
"""The result of an operator is not stored."""


# ---- data ------------------------------------------------------------------------------------------------------------
def path(text: str) -> bytes:
    """A name: of segments, from the root or from a parent where it says so."""
    rest = text.lstrip(ROOT + PARENT)
    prefix = text[: len(text) - len(rest)].encode()
    segments = [part.ljust(SEGMENT, "_").encode() for part in rest.split(".") if part]
    if not all(len(segment) == SEGMENT for segment in segments):
        raise ValueError(f"'{text}' has a segment of more than {SEGMENT} letters")
    count: tuple[int, ...] = (ZERO,) if not segments else () if len(segments) == 1 else (DUAL_NAME,)
    if len(segments) > 2:
        count = (MULTI_NAME, len(segments))
    return prefix + bytes(count) + b"".join(segments)


def integer(value: int) -> bytes:
    """A number in its shortest form."""
    if value <= 1:
        return bytes((value,))
    for prefix, size in ((BYTE, 1), (WORD, 2), (DWORD, 4)):
        if value < 1 << 8 * size:
            return bytes((prefix,)) + value.to_bytes(size, "little")
    return bytes((QWORD,)) + value.to_bytes(8, "little")


def string(text: str) -> bytes:
    """A string of ASCII."""
    return bytes((STRING,)) + text.encode("ascii") + b"\0"


def eisa_id(text: str) -> bytes:
    """An identity like PNP0A03: three letters of five bits and four digits, the highest byte first."""
    letters = sum(ord(letter) - 0x40 << shift for letter, shift in zip(text[:3], (26, 21, 16), strict=True))
    packed = (letters | int(text[3:], 16)).to_bytes(4, "big")
    return bytes((DWORD,)) + packed


def buffer(data: bytes) -> bytes:
    """Bytes."""
    return bytes((BUFFER,)) + _sized(integer(len(data)) + data)


def package(elements: Sequence[bytes]) -> bytes:
    """A list of up to 255 data objects or names."""
    return bytes((PACKAGE,)) + _sized(bytes((len(elements),)) + b"".join(elements))


def _length(value: int, size: int) -> bytes:
    """A package length in `size` bytes: six bits, or four and then eight a byte."""
    if size == 1:
        return bytes((value,))
    return bytes((size - 1 << 6 | value & 0xF,)) + (value >> 4).to_bytes(size - 1, "little")


def _sized(body: bytes) -> bytes:
    """A body behind its length, which counts itself."""
    size = next(n for n in (1, 2, 3, 4) if len(body) + n < (1 << 6 if n == 1 else 1 << 8 * n - 4))
    return _length(len(body) + size, size) + body


# ---- names -----------------------------------------------------------------------------------------------------------
def name(what: str, value: bytes) -> bytes:
    """Name (what, value)"""
    return bytes((NAME,)) + path(what) + value


def scope(what: str, *body: bytes) -> bytes:
    """Scope (what) { body }"""
    return bytes((SCOPE,)) + _sized(path(what) + b"".join(body))


def device(what: str, *body: bytes) -> bytes:
    """Device (what) { body }"""
    return bytes((EXTENDED, DEVICE)) + _sized(path(what) + b"".join(body))


def method(what: str, n_args: int, *body: bytes, serialized: bool = False) -> bytes:
    """Method (what, n_args) { body }; one that makes names must be serialized."""
    return bytes((METHOD,)) + _sized(path(what) + bytes((n_args | SERIALIZED * serialized,)) + b"".join(body))


def region(what: str, space: int, offset: int, length: int) -> bytes:
    """OperationRegion (what, space, offset, length)"""
    return bytes((EXTENDED, REGION)) + path(what) + bytes((space,)) + integer(offset) + integer(length)


def byte_fields(of: str, names: Sequence[str]) -> bytes:
    """Field (of, ByteAcc, NoLock, Preserve) with fields of eight bits, one behind the other."""
    return bytes((EXTENDED, FIELD)) + _sized(
        path(of) + bytes((BYTE_ACCESS,)) + b"".join(path(each) + _length(8, 1) for each in names)
    )


# ---- code ------------------------------------------------------------------------------------------------------------
def arg(number: int) -> bytes:
    """Arg0 ..."""
    return bytes((ARG0 + number,))


def local(number: int) -> bytes:
    """Local0 ..."""
    return bytes((LOCAL0 + number,))


def store(value: bytes, target: bytes) -> bytes:
    """Store (value, target)"""
    return bytes((STORE,)) + value + target


def bit_and(a: bytes, b: bytes, target: bytes = NO_TARGET) -> bytes:
    """And (a, b, target)"""
    return bytes((AND,)) + a + b + target


def bit_or(a: bytes, b: bytes, target: bytes = NO_TARGET) -> bytes:
    """Or (a, b, target)"""
    return bytes((OR,)) + a + b + target


def create_dword_field(source: bytes, offset: int, what: str) -> bytes:
    """CreateDWordField (source, offset, what)"""
    return bytes((CREATE_DWORD_FIELD,)) + source + integer(offset) + path(what)


def if_else(condition: bytes, then: Sequence[bytes], otherwise: Sequence[bytes]) -> bytes:
    """If (condition) { then } Else { otherwise }"""
    return bytes((IF,)) + _sized(condition + b"".join(then)) + bytes((ELSE,)) + _sized(b"".join(otherwise))


def give(value: bytes) -> bytes:
    """Return (value)"""
    return bytes((RETURN,)) + value


def call(what: str, *args: bytes) -> bytes:
    """what (args): as many as the method takes, which the reader knows from its definition."""
    return path(what) + b"".join(args)
