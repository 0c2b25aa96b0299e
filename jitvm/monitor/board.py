"""Monitor commands about the board: devices, interrupt controllers, the text screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jitvm.devices.base import Device
from jitvm.devices.ioapic import LOGICAL, IoApic
from jitvm.devices.lapic import (
    LEVEL,
    LVT_ERROR,
    LVT_LINT0,
    LVT_LINT1,
    LVT_PERF,
    LVT_THERMAL,
    LVT_TIMER,
    MASKED,
    REMOTE_IRR,
    LocalApic,
)
from jitvm.devices.pci import PciFunction
from jitvm.errors import ConfigError
from jitvm.monitor.command import Command, Context

MAX_STATE = 24
"""Values of a chip's state that are shown."""
MAX_BYTES = 16
LOCAL_SOURCES = {
    "timer": LVT_TIMER, "lint0": LVT_LINT0, "lint1": LVT_LINT1, "error": LVT_ERROR, "perf": LVT_PERF,
    "thermal": LVT_THERMAL,
}  # fmt: skip
DELIVERY = ("fixed", "lowest", "SMI", "mode 3", "NMI", "INIT", "mode 6", "ExtINT")
"""Delivery modes of both kinds of APIC (SDM vol. 3, 10.5.1)."""
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
    with machine.standing(), machine.lock:
        board = machine.board
        chips: dict[str, Any] = board.pic.snapshot()
        high = [f"{wire.irq} by {wire.owner}" for wire in board.wires if wire.line.level]
        apics = [line for apic in board.apic_bus.locals for line in _local_apic(apic)]
        pins = _pins(board.ioapic) if board.ioapic is not None else []
    lines = [
        f"{name}: irr {chip['irr']:08b} isr {chip['isr']:08b} imr {chip['imr']:08b} lines {chip['lines']:08b}"
        for name, chip in chips.items()
    ]
    return "\n".join([*lines, *pins, *apics, f"high: {', '.join(high) if high else 'none'}"])


def _local_apic(apic: LocalApic) -> list[str]:
    """State and sets of vectors of a local APIC, and the open entries of its vector table."""
    state = "off" if not apic.enabled else "on" if apic.is_software_enabled() else "disabled (SVR)"
    sets = " ".join(f"{name} {_vectors(bits)}" for name, bits in (("irr", apic.irr), ("isr", apic.isr)))
    table = apic.snapshot()["lvt"]
    opened = [f"{name} {_entry(table[at])}" for name, at in LOCAL_SOURCES.items() if not table[at] & MASKED]
    return [f"{apic.name}: {state}, tpr {apic.tpr:02x}, {sets}", *([f"  {', '.join(opened)}"] if opened else [])]


def _pins(chip: IoApic) -> list[str]:
    """The pins of an I/O APIC that are open."""
    lines = []
    for pin, entry in enumerate(chip.entries):
        if not entry & MASKED:
            where = f"{'logical' if entry & LOGICAL else 'apic'} {entry >> 56:02x}"
            state = "".join([", high" * (chip.lines >> pin & 1), ", being served" * bool(entry & REMOTE_IRR)])
            lines.append(f"ioapic pin {pin}: {_entry(entry)} to {where}{state}")
    return lines


def _entry(entry: int) -> str:
    """Vector or delivery mode, and trigger, of an entry of either table."""
    mode = DELIVERY[entry >> 8 & 7]
    what = f"vector {entry & 0xFF:02x}" if mode in ("fixed", "lowest") else mode
    return f"{what} {'level' if entry & LEVEL else 'edge'}"


def _vectors(bits: int) -> str:
    """A set of vectors in hex."""
    return ",".join(f"{vector:02x}" for vector in range(256) if bits >> vector & 1) or "none"


def screen(context: Context, words: Sequence[str]) -> str:
    """The VGA's text screen without the empty lines below."""
    rows = [row.rstrip() for row in context.machine.screen_text()]
    while rows and not rows[-1]:
        rows.pop()
    return "\n".join(rows) or "(the screen shows no text)"


COMMANDS = (
    Command("devices [NAME]", "the tree of chips: ports, MMIO, interrupt lines, state that is not zero", devices,
            "With the name of one: all of its state."),
    Command("irq", "the interrupt controllers' registers, and which chips ask", irq,
            "The 8259As, the I/O APIC's open pins, each CPU's local APIC with the vectors that ask (irr) and that are\n"
            "served (isr) and the open entries of its vector table, and the wires that are high."),
    Command("screen", "the VGA text screen as text", screen),
)  # fmt: skip
