"""What the ROMs of random vectors share: descriptors, handlers, and how they tell what came of a vector."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from tests.boot.guests import RESET_VECTOR, ROM_SIZE

HAS_ERROR = (10, 11, 12, 13, 14, 17)
DIGIT = """mov al, bl
    and al, 15
    add al, '0'
    cmp al, '9'
    jbe 6f
    add al, 39
6:  out dx, al
    loop 5b
"""
"""The end of a loop at 5 that writes a number in hex: its lowest digit, which is in BL."""
PRINT = f"""{DIGIT}
    cmp esi, offset v_end
    jne 4b
    mov al, 10
    out dx, al
"""
"""The end of what writes down the variables up to `v_end`, which ESI points to."""


def descriptor(base: int, limit: int, access: int, flags: int = 0) -> bytes:
    """8 bytes of a segment or a system segment; `flags`: G, D/B, L, AVL."""
    low = limit & 0xFFFF | (base & 0xFFFFFF) << 16 | access << 40
    return (low | (limit >> 16 & 15) << 48 | flags << 52 | (base >> 24) << 56).to_bytes(8, "little")


def gate(selector: int, offset: int, access: int, n: int = 0) -> bytes:
    """8 bytes of a gate; `n`: parameters."""
    return struct.pack("<HHBBH", offset & 0xFFFF, selector, n, access, offset >> 16)


def stubs(with_error: Sequence[int]) -> str:
    """32 handlers, 16 bytes apart, that push what the CPU does not, and the vector."""
    heads = (f".balign 16\n stub_{n}:" + ("" if n in with_error else " push 0\n") for n in range(32))
    return "\n".join(f"{head} push {n}\n jmp common" for n, head in enumerate(heads))


def closing(pointer: str, base: int = 0) -> str:
    """The run's end; then `sum` and `more`, which add up ECX words at the pointer (ESI or RSI), `more` to what EAX has.

    `base`: what symbols lack to be linear addresses.
    """
    return f"""mov esi, {base} + offset shutdown
    mov ecx, 8
    mov edx, 0x8900
    rep outsb
    mov al, 0
    out 0xF4, al
    hlt
shutdown: .ascii "Shutdown"
sum: xor eax, eax
more: rol eax, 1
    add eax, [{pointer}]
    add esi, 4
    loop more
    ret
"""


def places(names: Sequence[str], at: int, size: int) -> str:
    """Variables of `size` bytes, the end of which is `v_end`."""
    lines = [f".equ v_{name}, {at + size * k}" for k, name in enumerate((*names, "end"))]
    return "\n".join(lines)


def image_of(folder: Path, code: bytes, table: int, vectors: Sequence[bytes]) -> Path:
    """The ROM of this code, which starts at its beginning and runs the packed vectors that begin at `table`."""
    assert len(code) <= table, len(code)
    whole = bytearray((code.ljust(table, b"\0") + b"".join(vectors)).ljust(ROM_SIZE, b"\0"))
    whole[0xFFF0 : 0xFFF0 + len(RESET_VECTOR)] = RESET_VECTOR
    path = folder / "vectors.bin"
    path.write_bytes(whole)
    return path


def parse(output: str, fields: Sequence[str], digits: int = 8) -> list[dict[str, int]]:
    """What such a ROM wrote: a dict a vector."""
    lines = [line for line in output.splitlines() if len(line) == digits * len(fields)]
    return [{name: int(line[digits * k : digits * (k + 1)], 16) for k, name in enumerate(fields)} for line in lines]
