"""Stop reply packets.

Source: gdb's manual, "Stop Reply Packets". `swbreak` and `hwbreak` only go to clients that know them; for those the
program counter is where the breakpoint is, on every processor.
"""

from __future__ import annotations

from gdbstub import registers
from gdbstub.context import Context
from gdbstub.parse import PROCESS
from gdbstub.stop import (
    BreakpointHit,
    Exited,
    HistoryEnd,
    Interrupted,
    Signal,
    Signalled,
    Stop,
    ThreadStop,
    WatchpointHit,
)


def signal_of(stop: ThreadStop) -> int:
    """The signal a stop is told as."""
    if isinstance(stop, Interrupted):
        return Signal.INT
    return stop.signal if isinstance(stop, Signalled) else Signal.TRAP


def _why(context: Context, stop: ThreadStop) -> bytes:
    if isinstance(stop, WatchpointHit):
        return b"%b:%x;" % (stop.kind.value.encode("ascii"), stop.address)
    if isinstance(stop, BreakpointHit) and context.client.can(stop.kind.value):
        return b"%b:;" % stop.kind.value.encode("ascii")
    if isinstance(stop, HistoryEnd):
        return b"replaylog:begin;" if stop.at_begin else b"replaylog:end;"
    return b""


def stop_reply(context: Context, stop: Stop) -> bytes:
    """The T or W packet."""
    if isinstance(stop, Exited):
        process = b";process:%x" % PROCESS if context.client.can("multiprocess") else b""
        return b"W%02x%b" % (stop.code & 0xFFFFFFFF, process)
    info = context.thread(stop.thread)
    core = b"core:%x;" % info.core if info.core is not None else b""
    return b"T%02x%bthread:%b;%b%b" % (
        signal_of(stop),
        _why(context, stop),
        context.thread_name(stop.thread),
        core,
        registers.expedited(context, stop.thread),
    )
