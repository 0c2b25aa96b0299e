"""A stub of gdb's remote serial protocol that knows nothing of what is debugged.

    bytes -> framing -> session (a table of commands) -> Target
    Target -> Listener.stopped(stop) -> session -> stop reply -> bytes

`framing.py` is a byte-fed state machine, `session.py` the life of a guest under debuggers that come and go, `target.py`
what a thing must offer to be debugged (and the rules of threads), `stop.py` why it stopped, `server.py` the only file
with sockets, `patience.py` what a debugger hears before the server is there, `layout.py` and `x86/` the registers. Only
the standard library is used.

Not modelled: non-stop mode, tracepoints, conditions and commands evaluated by the stub, file access (`vFile`), the
guest's own processes and libraries.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gdbstub.errors import GdbStubError, PacketError, ServerError, TargetError
    from gdbstub.layout import Feature, Layout, Register
    from gdbstub.session import OnDisconnect, Session

__all__ = [
    "Feature",
    "GdbStubError",
    "Layout",
    "OnDisconnect",
    "PacketError",
    "Register",
    "ServerError",
    "Session",
    "TargetError",
]
_MODULES = {"Feature": "layout", "Layout": "layout", "Register": "layout", "OnDisconnect": "session", "Session": "session"}


def __getattr__(name: str) -> Any:
    """A name of the package's, whose module is loaded now: who only wants an exception does not load a session."""
    if name not in __all__:
        raise AttributeError(f"module 'gdbstub' has no attribute '{name}'")
    return getattr(import_module(f"gdbstub.{_MODULES.get(name, 'errors')}"), name)
