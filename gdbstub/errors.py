"""The package's errors: every one is a single line that says what, where and what to do.

    GdbStubError
    ├── ServerError        the server can't listen: bad address, busy port
    └── PacketError        a packet can't be obeyed; becomes an error reply
        ├── MalformedError     the packet breaks the protocol's grammar
        ├── NotRunningError    the packet needs a guest that exists, attached and stopped
        └── TargetError        the target refuses; raised by `Target` implementations

Error replies (manual: "Standard Replies"): `Enn` with two hex digits is understood for every packet, `E.text` shows the
user a text but only some packets take it, and all of them once the client announced `error-message+`.
"""

from __future__ import annotations

EPERM = 0x01
EFAULT = 0x0E
EINVAL = 0x16
"""Numbers of `Enn` replies; the protocol gives them no meaning, these are errno's."""


class GdbStubError(Exception):
    """Base of all errors of this package."""


class ServerError(GdbStubError):
    """The server can't listen or talk at its address."""


class PacketError(GdbStubError):
    """A packet that gets an error reply: `number` for `Enn`, the message for `E.text`."""

    number = EPERM

    def __init__(self, text: str, number: int | None = None) -> None:
        super().__init__(text)
        if number is not None:
            self.number = number & 0xFF


class MalformedError(PacketError):
    """A packet that breaks the protocol's grammar."""

    number = EINVAL


class NotRunningError(PacketError):
    """The guest runs, has ended or was detached from, and the packet needs it stopped."""


class TargetError(PacketError):
    """The target refuses what was asked; its text is shown to the user where gdb takes one."""


def error_reply(error: PacketError, text_allowed: bool) -> bytes:
    """`E.text` or `Enn`; a text becomes one line of printable ASCII without the characters that frame packets."""
    if text_allowed:
        text = "".join(c if " " <= c <= "~" and c not in "#$*}" else " " for c in str(error)).strip()
        if text:
            return b"E." + text.encode("ascii")
    return b"E%02x" % error.number
