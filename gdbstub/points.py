"""Z and z: breakpoints and watchpoints, and the book of those that are set.

Source: gdb's manual, "Packets". Conditions and commands of breakpoints are not offered, and refused. A client's points
end with it: a next one sets its own and would stop at places it does not know.
"""

from __future__ import annotations

from gdbstub import parse
from gdbstub.context import Command, Context, Point
from gdbstub.errors import MalformedError, PacketError
from gdbstub.stop import BreakpointKind, WatchKind

KINDS: dict[bytes, BreakpointKind | WatchKind] = {
    b"0": BreakpointKind.SOFTWARE,
    b"1": BreakpointKind.HARDWARE,
    b"2": WatchKind.WRITE,
    b"3": WatchKind.READ,
    b"4": WatchKind.ACCESS,
}


MAX_POINTS = 1 << 16
"""Far more than a person sets; a client gone mad is refused before it fills the memory."""


def insert(context: Context, point: Point) -> bool:
    """Set a point; False if the target knows no such. One that is set is not set again: a client removes it once."""
    if point in context.points:
        return True
    if len(context.points) >= MAX_POINTS:
        raise PacketError(f"there are {MAX_POINTS} breakpoints and watchpoints already")
    breakpoints, watchpoints = context.facets.breakpoints, context.facets.watchpoints
    if isinstance(point.kind, BreakpointKind):
        if breakpoints is None:
            return False
        breakpoints.insert_breakpoint(point.kind, point.address, point.size)
    else:
        if watchpoints is None:
            return False
        if point.size == 0:
            raise MalformedError("a watchpoint needs at least one byte")
        watchpoints.insert_watchpoint(point.kind, point.address, point.size)
    context.points.add(point)
    return True


def remove(context: Context, point: Point) -> bool:
    """Undo a point in the target; False if it knows no such."""
    breakpoints, watchpoints = context.facets.breakpoints, context.facets.watchpoints
    if isinstance(point.kind, BreakpointKind):
        if breakpoints is None:
            return False
        breakpoints.remove_breakpoint(point.kind, point.address, point.size)
    else:
        if watchpoints is None:
            return False
        watchpoints.remove_watchpoint(point.kind, point.address, point.size)
    return True


def _point(arguments: bytes) -> Point | None:
    fields = arguments.split(b",")
    if len(fields) != 3:
        raise MalformedError("TYPE,ADDRESS,KIND needed")
    kind = KINDS.get(fields[0])
    if kind is None:
        return None
    address, size = parse.number(fields[1]), parse.number(fields[2])
    parse.in_range(address, size)
    return Point(kind, address, size)


def _insert(context: Context, arguments: bytes) -> bytes:
    point = _point(arguments)
    return b"OK" if point is not None and insert(context, point) else b""


def _remove(context: Context, arguments: bytes) -> bytes:
    """Removing what is not set is fine, and the target is not asked."""
    point = _point(arguments)
    if point is None:
        return b""
    if point not in context.points:
        facet = context.facets.breakpoints if isinstance(point.kind, BreakpointKind) else context.facets.watchpoints
        return b"" if facet is None else b"OK"
    context.points.discard(point)
    return b"OK" if remove(context, point) else b""


COMMANDS = {"Z": Command(_insert), "z": Command(_remove)}
