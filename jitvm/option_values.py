"""The values of options in QEMU's syntax: numbers, sizes, key=value lists, and what each option of a run makes of them.

Every complaint is a `ConfigError` of one line: which option, what of it, what to write.

Sources: QEMU's manual page (sizes, key=value lists in which `,,` is a comma, -drive, -boot, -cpu, -debugcon).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from jitvm.config import (
    DEBUGCON_PORT,
    GIB,
    KIB,
    MIB,
    PLACES,
    DeviceConfig,
    DriveConfig,
    check_chardev,
    fail,
)

SIZE_SUFFIX = {"b": 1, "k": KIB, "m": MIB, "g": GIB, "t": GIB * KIB}


# ---- values ----------------------------------------------------------------------------------------------------------
def parse_number(option: str, text: str) -> int:
    """A whole number, decimal, 0x hexadecimal or 0 octal, as in QEMU."""
    try:
        if len(text) > 1 and text[0] == "0" and text.isdigit():
            return int(text, 8)
        return int(text, 0)
    except ValueError:
        fail(f"{option}: '{text}' is not a number")


def parse_size(option: str, text: str, unit: int = MIB) -> int:
    """A size in bytes: a number with b, k, M, G or T behind it, `unit` when there is none; `1.5G` is understood."""
    digits, suffix = text.strip(), unit
    hexadecimal = digits.lower().startswith("0x")
    if digits and digits[-1].lower() in SIZE_SUFFIX and not (hexadecimal and digits[-1].lower() == "b"):
        suffix = SIZE_SUFFIX[digits[-1].lower()]
        digits = digits[:-1]
    whole, point, fraction = digits.partition(".")
    try:
        if not point:
            return (int(whole, 16) if hexadecimal else int(whole)) * suffix
        if not (fraction.isdigit() and (whole or "0").isdigit()):
            raise ValueError
        return int(whole or "0") * suffix + int(fraction) * suffix // int("1" + "0" * len(fraction))
    except ValueError:
        fail(f"{option}: '{text}' is not a size; write 128 (MiB), 128M or 1G")


def parse_seconds(option: str, text: str) -> float:
    """Seconds of the host, more than none."""
    try:
        seconds = float(text)
    except ValueError:
        fail(f"{option}: '{text}' is not a number of seconds")
    if not 0 < seconds < 1e9:
        fail(f"{option}: '{text}' is no number of seconds above 0")
    return seconds


def parse_switch(option: str, text: str) -> bool:
    """on or off, with QEMU's other spellings."""
    if text in ("on", "yes", "true", "y"):
        return True
    if text in ("off", "no", "false", "n"):
        return False
    fail(f"{option}: '{text}' is neither on nor off")


def split_list(text: str) -> list[str]:
    """The parts of a list with commas between them; two commas together are one in a part."""
    parts = [""]
    at = 0
    while at < len(text):
        if text[at] != ",":
            parts[-1] += text[at]
        elif text[at + 1 : at + 2] == ",":
            parts[-1] += ","
            at += 1
        else:
            parts.append("")
        at += 1
    return parts


def parse_keys(option: str, text: str, implied: str | None = None) -> dict[str, str]:
    """A list of key=value; `implied` is the key of a first part without one, other such parts are switched on."""
    found: dict[str, str] = {}
    for place, part in enumerate(split_list(text)):
        key, equals, value = part.partition("=")
        if not equals:
            key, value = (implied, part) if place == 0 and implied else (part, "on")
        if not key:
            fail(f"{option}: '{text}' has a part without a name; write key=value,key=value")
        if key in found:
            fail(f"{option}: '{key}' is given twice")
        found[key] = value
    return found


T = TypeVar("T")


def _take(found: dict[str, str], key: str, option: str, parse: Callable[[str, str], T], default: T) -> T:
    """Remove a key and parse its value."""
    return parse(f"{option}: {key}", found.pop(key)) if key in found else default


def _refuse_rest(option: str, found: dict[str, str], known: Iterable[str]) -> None:
    for key in found:
        fail(f"{option}: unknown key '{key}'; known: {', '.join(known)}")


# ---- options ---------------------------------------------------------------------------------------------------------
def parse_memory(text: str) -> int:
    """-m: a size, or size=..."""
    found = parse_keys("-m", text, "size")
    size = found.pop("size", "")
    _refuse_rest("-m", found, ["size"])
    return parse_size("-m", size)


def parse_smp(text: str) -> tuple[int, int, int]:
    """--smp: CPUs, cores of a socket, threads of a core, by QEMU's rules: what is missing is worked out, cores first.

    The number may stand behind cpus=; maxcpus= is what the topology has room for (none is added later).
    """
    found = parse_keys("--smp", text, "cpus")
    topology = ("sockets", "dies", "cores", "threads")
    known = ("cpus", "maxcpus", *topology)
    _refuse_rest("--smp", {key: value for key, value in found.items() if key not in known}, known)
    counts = {key: parse_number("--smp", value) for key, value in found.items()}
    for key, count in counts.items():
        if count < 1:
            fail(f"--smp: {key} is {count}; give 1 or more")
    if counts.get("dies", 1) > 1:
        fail(f"--smp: dies is {counts['dies']}; a socket has one here, give sockets or cores")
    sockets, cores, threads = (counts.get(key, 0) for key in ("sockets", "cores", "threads"))
    if most := counts.get("maxcpus", counts.get("cpus", 0)):
        if not cores:
            sockets, threads = sockets or 1, threads or 1
            cores = most // (sockets * threads)
        elif not sockets:
            threads = threads or 1
            sockets = most // (cores * threads)
        threads = threads or most // (sockets * cores)
    else:
        sockets, cores, threads = sockets or 1, cores or 1, threads or 1
        most = sockets * cores * threads
    if sockets * cores * threads != most:
        parts = " x ".join(f"{counts[key]} {key}" for key in topology if key in counts)
        fail(f"--smp: {parts} are not {most} CPUs")
    cpus = counts.get("cpus", most)
    if most < cpus:
        fail(f"--smp: maxcpus {most} is less than {cpus} CPUs")
    return cpus, cores, threads


def parse_cpu(text: str) -> tuple[str, tuple[tuple[str, bool], ...]]:
    """--cpu: MODEL[,+feature][,-feature][,feature=on|off]; the names are the CPU's affair."""
    model, *parts = split_list(text)
    if not model:
        fail("--cpu: no model given; write MODEL[,+FEATURE][,-FEATURE]")
    features: list[tuple[str, bool]] = []
    for part in parts:
        name, equals, value = part.partition("=")
        if equals:
            features.append((name, parse_switch(f"--cpu: {name}", value)))
        elif part[:1] in ("+", "-") and part[1:]:
            features.append((part[1:], part[0] == "+"))
        else:
            fail(f"--cpu: '{part}' is no feature; write +NAME, -NAME or NAME=on|off")
    return model, tuple(features)


DRIVE_KEYS = ("file", "format", "if", "index", "bus", "unit", "media", "readonly", "snapshot")


def parse_drive(text: str, others: Iterable[DriveConfig] = ()) -> DriveConfig:
    """--drive; without an index the drive gets the first one that none of `others` has."""
    found = parse_keys("--drive", text, "file")
    interface = found.pop("if", "ide")
    places = PLACES.get(interface, 0)
    taken = {drive.index for drive in others if drive.interface == interface}
    free = next((k for k in range(places) if k not in taken), places)
    placed = "bus" in found or "unit" in found
    if placed and "index" in found:
        fail("--drive: give index=, or bus= and unit=, not both")
    bus = _take(found, "bus", "--drive", parse_number, 0)
    unit = _take(found, "unit", "--drive", parse_number, 0)
    if not (0 <= bus <= (interface == "ide") and 0 <= unit <= 1):
        fail("--drive: IDE has bus 0 and 1 with unit 0 and 1, other interfaces have bus 0")
    index = bus * 2 + unit if placed else free
    index = _take(found, "index", "--drive", parse_number, index)
    if places and index == places == free:
        fail(f"--drive: all {places} places are taken")
    drive = DriveConfig(
        file=found.pop("file", ""),
        format=found.pop("format", "raw"),
        interface=interface,
        index=index,
        media=found.pop("media", "disk"),
        readonly=_take(found, "readonly", "--drive", parse_switch, False),
        snapshot=_take(found, "snapshot", "--drive", parse_switch, False),
    )
    _refuse_rest("--drive", found, DRIVE_KEYS)
    return drive


def flash_drive(file: str) -> str:
    """--pflash FILE as --drive: each takes the next place, in the order in which both were given."""
    return f"if=pflash,file={file.replace(',', ',,')}"


def parse_device(text: str) -> DeviceConfig:
    """--device NAME[,property=number...]"""
    found = parse_keys("--device", text, "driver")
    name = found.pop("driver", "")
    return DeviceConfig(name, tuple((key, parse_number(f"--device {name}: {key}", v)) for key, v in found.items()))


def parse_boot(text: str) -> tuple[str, bool]:
    """--boot: [order=]LETTERS[,menu=on|off]"""
    found = parse_keys("--boot", text, "order")
    order = found.pop("order", "")
    menu = _take(found, "menu", "--boot", parse_switch, False)
    _refuse_rest("--boot", found, ["order", "menu"])
    return order, menu


def parse_serial(text: str) -> str:
    """--serial, with QEMU's `none` and `mon:stdio` (the keys of the monitor are always there)."""
    spec = {"none": "null", "mon:stdio": "stdio"}.get(text, text)
    check_chardev("--serial", spec)
    return spec


def parse_debugcon(text: str) -> tuple[int, str]:
    """--debugcon [PORT=]FILE|stdio|null|file:PATH|tcp:..."""
    port = DEBUGCON_PORT
    head, equals, rest = text.partition("=")
    if equals and head[:1].isdigit() and "/" not in head:
        port, text = parse_number("--debugcon: port", head), rest
    if not text:
        fail("--debugcon: no target given; write [PORT=]FILE or [PORT=]stdio")
    if text in ("null", "stdio", "pty", "memory") or text.startswith(("file:", "tcp:")):
        return port, text
    return port, f"file:{text}"


def parse_trace(text: str) -> tuple[str, Path | None]:
    """--trace PATTERNS[:FILE]"""
    patterns, colon, file = text.partition(":")
    if not patterns or (colon and not file):
        fail(f"--trace: '{text}' is not PATTERNS[:FILE]")
    return patterns, Path(file) if colon else None


def parse_symbols(text: str) -> tuple[Path, int]:
    """--symbols FILE[,offset=N]"""
    found = parse_keys("--symbols", text, "file")
    file = found.pop("file", "")
    offset = _take(found, "offset", "--symbols", parse_number, 0)
    _refuse_rest("--symbols", found, ("file", "offset"))
    if not file:
        fail("--symbols: no file given; write FILE[,offset=N]")
    return Path(file), offset


def parse_opt(text: str) -> tuple[tuple[str, bool], ...]:
    """--opt NAME=on|off[,...], also no-NAME; `-` in a name is `_`"""
    found: list[tuple[str, bool]] = []
    for key, value in parse_keys("--opt", text).items():
        name, on = key.replace("-", "_"), parse_switch(f"--opt: {key}", value)
        off = name.startswith("no_")
        found.append((name.removeprefix("no_"), on is not off))
    return tuple(found)
