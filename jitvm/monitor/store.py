"""Monitor commands about memory: dumps, disassembly, the memory map."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import iced_x86 as ix

from jitvm.errors import ConfigError
from jitvm.gdb_memory import address_mask, code_bits
from jitvm.monitor.command import Command, Context, address, number

BYTES_A_LINE = 16
MAX_DUMP = 64 * 1024
LONGEST = 15
PRINTABLE = range(0x20, 0x7F)
SIZES = {"b": 1, "h": 2, "w": 4, "g": 8}
FORM = re.compile(r"/(\d*)([xdci]?)([bhwg]?)")

Read = Callable[[int, int], bytes]


def _dump(at: int, data: bytes) -> str:
    """Bytes in hex and as text."""
    lines = []
    for start in range(0, len(data), BYTES_A_LINE):
        row = data[start : start + BYTES_A_LINE]
        text = "".join(chr(byte) if byte in PRINTABLE else "." for byte in row)
        lines.append(f"{at + start:08x}: {row.hex(' '):<{3 * BYTES_A_LINE}} {text}")
    return "\n".join(lines)


def _units(at: int, data: bytes, kind: str, size: int) -> str:
    """Numbers of `size` bytes, or characters."""
    n = BYTES_A_LINE // size
    values = [int.from_bytes(data[k : k + size], "little") for k in range(0, len(data), size)]

    def show(value: int) -> str:
        if kind == "d":
            return str(value - (1 << 8 * size) if value >> (8 * size - 1) else value)
        if kind == "c":
            return f"'{chr(value)}'" if value in PRINTABLE else f"{value:#04x}"
        return f"0x{value:0{2 * size}x}"

    rows = range(0, len(values), n)
    return "\n".join(f"{at + k * size:08x}: {' '.join(show(v) for v in values[k : k + n])}" for k in rows)


def _code(context: Context, at: int, count: int, read: Read) -> str:
    """Instructions, in the width of CS."""
    bits, mask = code_bits(context.c), address_mask(context.c)
    lines: list[str] = []
    for _ in range(count):
        data = read(at, LONGEST)
        if not data:
            lines.append(f"{at:08x}: no memory")
            break
        instruction = ix.Decoder(bits, data, ip=at).decode()
        size = max(1, instruction.len)
        name = context.symbols.at(at) if context.symbols is not None else ""
        lines.append(f"{at:08x}{f' <{name}>' if name else ''}: {data[:size].hex(' '):<24} {instruction}")
        at = at + size & mask
    return "\n".join(lines)


def _examine(context: Context, name: str, words: Sequence[str], read: Read) -> str:
    """`[/FORM] ADDRESS [BYTES]`"""
    form, rest = (words[0], words[1:]) if words and words[0].startswith("/") else ("", words)
    found = FORM.fullmatch(form) if form else None
    if not 1 <= len(rest) <= 2 or (form and (found is None or len(rest) > 1)):
        raise ConfigError(f"write {name}[/COUNT x|d|c|i b|h|w|g] ADDRESS, or {name} ADDRESS BYTES")
    at = address(context, name, rest[0])
    count, kind, unit = (int(found[1] or 1), found[2], found[3]) if found is not None else (1, "", "")
    size = SIZES[unit or ("b" if kind == "c" else "w")] if found is not None else 1
    n = count * size if found is not None else number(name, rest[1]) if len(rest) > 1 else BYTES_A_LINE
    if not 0 < n <= MAX_DUMP:
        raise ConfigError(f"{name}: 1 to {MAX_DUMP} bytes")
    with context.machine.standing():
        if kind == "i":
            return _code(context, at, count, read)
        data = read(at, n)
    if len(data) < n and not data:
        raise ConfigError(f"{name}: no memory at {at:#x}")
    text = _dump(at, data) if found is None else _units(at, data[: len(data) // size * size], kind, size)
    return text if len(data) == n else f"{text}\n{at + len(data):08x}: no memory"


def xp(context: Context, words: Sequence[str]) -> str:
    """Physical memory; what is no memory reads as FFh, as the CPU would read an empty bus."""
    return _examine(context, "xp", words, context.machine.memory.peek)


def x(context: Context, words: Sequence[str]) -> str:
    """Linear memory, through the CPU's current mapping."""
    return _examine(context, "x", words, context.memory().read)


def mem(context: Context, words: Sequence[str]) -> str:
    """The physical address space."""
    with context.machine.lock:
        found = context.machine.board.memory_map()
    return "\n".join(f"{start:08x}-{end - 1:08x} {what}" for start, end, what in found)


MORE = (
    "Without a form: BYTES bytes (16 unless told) in hex and as text.  The form is gdb's: a count, x hexadecimal,\n"
    "d decimal, c characters or i instructions, and b h w g for 1, 2, 4, 8 bytes.  ADDRESS is a number or a symbol.\n"
    "No device is touched."
)
COMMANDS = (
    Command("xp[/FORM] ADDRESS [BYTES]", "physical memory", xp, MORE),
    Command("x[/FORM] ADDRESS [BYTES]", "memory at a linear address, as the CPU sees it now", x, MORE),
    Command("mem", "the physical memory map: RAM, ROM, windows of devices", mem),
)
