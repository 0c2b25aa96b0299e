"""Monitor commands about the board: devices, interrupt controllers, the text screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jitvm.devices.base import Device
from jitvm.devices.pci import PciFunction
from jitvm.errors import ConfigError
from jitvm.monitor.command import Command, Context

MAX_STATE = 24
"""Values of a chip's state that are shown."""
MAX_BYTES = 16
SPACES = {"port": "ports", "mmio": "MMIO", "memory": "memory"}


def devices(context: Context, words: Sequence[str]) -> str:
    """The tree of chips, or one of them with all of its state."""
    machine = context.machine
    with machine.standing(), machine.lock:
        board = machine.board
        if words:
            found = [device for device in board.devices() if device.name == " ".join(words)]
            if not found:
                names = ", ".join(device.name for device in board.devices())
                raise ConfigError(f"devices: no chip '{' '.join(words)}'; there are {names}")
            return "\n".join([found[0].name, *_about(context, found[0]), *_state(found[0], whole=True)])
        functions = board.pci.functions
        below = sorted(functions.items())
        isa = [device for device in board.devices() if device not in functions.values() and device is not board.pci]
        lines = ["pci, bus 0", *_indent(_about(context, board.pci))]
        for number, function in below:
            lines += _indent(
                [f"{number >> 3:02x}.{number & 7} {_identity(function)}", *_indent(_lines(context, function))]
            )
        lines.append("isa")
        for device in isa:
            lines += _indent([device.name, *_indent(_lines(context, device))])
    return "\n".join(lines)


def _indent(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _identity(function: PciFunction) -> str:
    """Name, vendor and device of a PCI function."""
    return f"{function.name} {function.register(0, 2):04x}:{function.register(2, 2):04x}"


def _lines(context: Context, device: Device) -> list[str]:
    return [*_about(context, device), *_state(device)]


def _about(context: Context, device: Device) -> list[str]:
    """What a chip answers to, and its interrupt lines with their levels."""
    board = context.machine.board
    lines = []
    for space, what in SPACES.items():
        own = [r for r in board.ranges() if r[0] == space and r[4] == device.name]
        digits = 4 if space == "port" else 8
        for _, start, end, name, _ in own:
            lines.append(f"{what} {start:0{digits}x}-{end - 1:0{digits}x}{'' if name == device.name else ' ' + name}")
    wires = [wire for wire in board.wires if wire.owner == device.name]
    if wires:
        levels = ", ".join(f"{wire.irq}{' high' if wire.line.level else ''}" for wire in wires)
        lines.append(f"IRQ {levels}")
    return lines


def _state(device: Device, *, whole: bool = False) -> list[str]:
    """Values that are not zero, or all; tables of bytes only when all are wanted."""
    values = [(name, value) for name, value in _flat(device.snapshot()) if whole or _matters(value)]
    shown = values if whole else values[:MAX_STATE]
    text = [f"{name}={_show(value, whole)}" for name, value in shown]
    if whole:
        return text
    more = f" (and {len(values) - len(shown)} more)" if len(values) > len(shown) else ""
    return [" ".join(text) + more] if text else []


def _flat(state: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A snapshot's values by their names, with dots between."""
    if isinstance(state, Mapping):
        for key, value in state.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(state, (list, tuple)) and any(isinstance(value, (Mapping, list, tuple, bytes)) for value in state):
        for k, value in enumerate(state):
            yield from _flat(value, f"{prefix}.{k}")
    else:
        yield prefix, state


def _matters(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(value)
    return bool(value) and (not isinstance(value, bytes) or (len(value) <= MAX_BYTES and any(value)))


def _show(value: Any, whole: bool) -> str:
    if isinstance(value, bytes):
        return value.hex() if len(value) <= 256 else f"({len(value)} bytes)"
    if isinstance(value, (list, tuple)):
        return f"[{' '.join(_show(v, whole) for v in value)}]"
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return str(value).lower()
    return str(value) if isinstance(value, int) and -10 < value < 10 else f"{value:#x}"


def irq(context: Context, words: Sequence[str]) -> str:
    """The interrupt controllers, and which chips drive lines that are high."""
    machine = context.machine
    with machine.lock:
        chips: dict[str, Any] = machine.board.pic.snapshot()
        high = [f"{wire.irq} by {wire.owner}" for wire in machine.board.wires if wire.line.level]
    lines = [
        f"{name}: irr {chip['irr']:08b} isr {chip['isr']:08b} imr {chip['imr']:08b} lines {chip['lines']:08b}"
        for name, chip in chips.items()
    ]
    return "\n".join([*lines, f"high: {', '.join(high) if high else 'none'}"])


def screen(context: Context, words: Sequence[str]) -> str:
    """The VGA's text screen without the empty lines below."""
    rows = [row.rstrip() for row in context.machine.screen_text()]
    while rows and not rows[-1]:
        rows.pop()
    return "\n".join(rows) or "(the screen shows no text)"


COMMANDS = (
    Command("devices [NAME]", "the tree of chips: ports, MMIO, interrupt lines, state that is not zero", devices,
            "With the name of one: all of its state."),
    Command("irq", "the interrupt controllers' registers, and which chips ask", irq),
    Command("screen", "the VGA text screen as text", screen),
)  # fmt: skip
