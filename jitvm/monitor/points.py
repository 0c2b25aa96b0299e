"""Monitor commands that make the machine stop by itself: catch and watch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from jitvm.debugger import CatchKind, Debugger, WatchKind
from jitvm.errors import ConfigError
from jitvm.faults import SHORT, vector_words
from jitvm.monitor.command import Command, Context, Kept, address, number

KINDS: tuple[WatchKind, ...] = get_args(WatchKind)
MSRS = 1 << 32


def _event(words: Sequence[str]) -> tuple[CatchKind, int | None]:
    """What `catch` names."""
    what = words[0].lower()
    if what in ("triple", "cr3") and len(words) == 1:
        return ("triple" if what == "triple" else "cr3"), None
    if what == "msr" and len(words) <= 2:
        return "msr", number("catch msr", words[1], MSRS) if len(words) == 2 else None
    if what == "int" and len(words) == 2:
        return "vector", number("catch int", words[1], 256)
    if what == "any" and len(words) == 1:
        return "vector", None
    if what in SHORT and len(words) == 1:
        return "vector", SHORT[what]
    raise ConfigError(f"catch: '{' '.join(words)}' is none of {', '.join(SHORT)}, triple, int N, any, cr3, msr [N]")


def catch(context: Context, words: Sequence[str]) -> str:
    """Stop before an event."""
    if not words or list(words) == ["list"]:
        return "\n".join(kept.text for kept in context.catches) or "nothing is caught"
    machine, delete = context.machine, words[0] == "delete"
    debugger = Debugger.of(machine)
    with machine.standing(), machine.lock:
        context.stops.take()
        if delete and list(words[1:]) in ([], ["all"]):
            debugger.uncatch()
            context.catches.clear()
            return "nothing is caught"
        kind, which = _event(words[1:] if delete else words)
        name = " ".join(words[1:] if delete else words).lower()
        if not delete:
            debugger.catch(kind, which)
            kept, known = context.kept(name), _caught(context, name)
            if known is None:
                context.catches.append(kept)
            elif known.by_gdb and not kept.by_gdb:
                context.catches[context.catches.index(known)] = kept
            by_name = kind == "vector" and which is not None and not name.startswith("int")
            return f"caught from now on: {vector_words(which or 0) if by_name else name}"
        known = _caught(context, name)
        if known is None:
            raise ConfigError(f"catch: {name} is not caught")
        _uncatch(context, debugger, known)
        return f"no longer caught: {name}"


def _caught(context: Context, name: str) -> Kept | None:
    """The catch of this name."""
    return next((kept for kept in context.catches if kept.text == name), None)


def _uncatch(context: Context, debugger: Debugger, gone: Kept) -> None:
    """End one; what a wider one covered is still wanted."""
    debugger.uncatch(*_event(gone.text.split()))
    context.catches.remove(gone)
    for other in context.catches:
        debugger.catch(*_event(other.text.split()))


def client_left(context: Context) -> None:
    """gdb is gone: what it has caught and watched is no more, as its breakpoints are; what the console has set stays."""
    debugger = Debugger.of(context.machine)
    with context.machine.lock:
        for kept in [kept for kept in context.catches if kept.by_gdb]:
            _uncatch(context, debugger, kept)
        for k in [k for k, kept in enumerate(context.watches) if kept.by_gdb][::-1]:
            _end_watch(context, debugger, k)


def _watch(context: Context, text: str) -> tuple[bool, int, int, WatchKind]:
    """(physical, address, length, kind) of what was written."""
    words = text.split()
    physical = words[0] == "phys"
    rest = words[1:] if physical else words
    kind = next((k for k in KINDS if rest[-1:] == [k]), None)
    rest = rest[:-1] if kind is not None else rest
    if len(rest) != 2:
        raise ConfigError(f"write watch [phys] ADDRESS LENGTH [{'|'.join(KINDS)}], watch list or watch delete N")
    return physical, address(context, "watch", rest[0]), number("watch", rest[1]), kind or "write"


def watch(context: Context, words: Sequence[str]) -> str:
    """Stop after an access to memory."""
    if not words or list(words) == ["list"]:
        return "\n".join(f"{n}: {kept.text}" for n, kept in enumerate(context.watches, 1)) or "nothing is watched"
    machine = context.machine
    debugger = Debugger.of(machine)
    with machine.standing(), machine.lock:
        context.stops.take()
        if words[0] == "delete":
            return _unwatch(context, debugger, words[1:])
        text = " ".join(words)
        physical, at, length, kind = _watch(context, text)
        (debugger.watch_physical if physical else debugger.watch)(at, length, kind)
        context.watches.append(context.kept(text))
    return f"{len(context.watches)}: {text}"


def _unwatch(context: Context, debugger: Debugger, words: Sequence[str]) -> str:
    """`delete N` or `delete all`; a watch that was set twice is watched until both are gone."""
    n = len(context.watches)
    if len(words) != 1:
        raise ConfigError("write watch delete N, or watch delete all")
    chosen = range(n) if words[0] == "all" else [number("watch delete", words[0]) - 1]
    if any(not 0 <= k < n for k in chosen):
        raise ConfigError(f"watch: there is no number {words[0]}; watch list shows them")
    for k in sorted(chosen, reverse=True):
        _end_watch(context, debugger, k)
    return watch(context, ["list"])


def _end_watch(context: Context, debugger: Debugger, k: int) -> None:
    """End the watch number `k`, counted from 0."""
    gone = _watch(context, context.watches.pop(k).text)
    if gone not in [_watch(context, kept.text) for kept in context.watches]:
        physical, at, length, kind = gone
        (debugger.unwatch_physical if physical else debugger.unwatch)(at, length, kind)


COMMANDS = (
    Command("catch pf|gp|ud|df|...|triple|int N|any|cr3|msr [N]", "stop before such an event", catch,
            "The stop tells the vector, the error code and CR2 in words; going on lets the event happen.\n"
            "catch list shows what is caught, catch delete [WHAT] ends it.  int N is any delivery of vector N, be it an\n"
            "exception, an interrupt or INT n; any is all of them; triple is the fault that would reset the machine."),
    Command("watch [phys] ADDRESS LENGTH [write|read|access]", "stop after such an access to memory", watch,
            "phys: physical addresses, by whatever mapping, by the page walk and by DMA, too.\n"
            "watch list numbers them, watch delete N (or all) ends them."),
)  # fmt: skip
