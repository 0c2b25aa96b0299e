"""What every command works on: the target, its facets, and the conversation with the client that is there now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from gdbstub import parse
from gdbstub.errors import PacketError
from gdbstub.facets import Facets
from gdbstub.framing import Link
from gdbstub.stop import BreakpointKind, WatchKind
from gdbstub.target import Target, ThreadInfo


class Phase(Enum):
    """How far a client has come."""

    FRESH = auto()
    """Connected; nothing that means anything has been received, and the guest has not been touched."""
    ATTACHED = auto()
    DETACHED = auto()
    """After `D`: the guest is not this client's, until it attaches again."""
    KILLED = auto()
    """After `k` in extended mode: the guest stands still until it is started again, or ends when the client goes."""


@dataclass(slots=True)
class Client:
    """A conversation: all that is forgotten when the client goes."""

    link: Link = field(default_factory=Link)
    phase: Phase = Phase.FRESH
    features: frozenset[str] = frozenset()
    """What it can do, from qSupported."""
    described: bool = False
    """It has read the target description."""
    extended: bool = False
    general: int = parse.ANY
    """The thread that registers and memory are read of (Hg)."""
    resumed: int = parse.ALL
    """The thread that c and s are about (Hc)."""
    documents: dict[str, bytes] = field(default_factory=dict)
    """What is being read in pieces by qXfer, as it was at the first piece."""

    def can(self, feature: str) -> bool:
        """It announced `feature+`."""
        return f"{feature}+" in self.features


@dataclass(frozen=True, slots=True)
class Point:
    """A breakpoint or watchpoint that a client set."""

    kind: BreakpointKind | WatchKind
    address: int
    size: int


class Context:
    """The target and the client, with what commands ask about threads."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.facets = Facets.of(target)
        self.layout = target.layout
        self.client = Client()
        self.points: set[Point] = set()
        self.changed = False
        """The client changed a setting that its successor must not find."""
        self.current = self.threads()[0].thread
        """The thread of the last stop."""

    def threads(self) -> list[ThreadInfo]:
        """All threads; one without a name if the target knows none."""
        return list(self.facets.threads.threads()) if self.facets.threads is not None else [ThreadInfo(1)]

    def listed_threads(self) -> list[ThreadInfo]:
        """Those of a thread list: none when the client has no guest (it has ended, or was killed or left)."""
        return self.threads() if self.has_guest else []

    @property
    def has_guest(self) -> bool:
        """There is a guest, and it is this client's."""
        return self.client.phase not in (Phase.DETACHED, Phase.KILLED)

    def thread(self, number: int) -> ThreadInfo:
        """The thread with this number; for ANY and ALL, that of the last stop."""
        number = number if number > 0 else self.current
        for info in self.threads():
            if info.thread == number:
                return info
        raise PacketError(f"no thread {number}")

    def general_thread(self, suffix: bytes = b"") -> int:
        """The thread a packet is about: by its `;thread:ID;` suffix (lldb's), or the one chosen by Hg."""
        if not suffix:
            return self.thread(self.client.general).thread
        key, _, value = suffix.rstrip(b";").partition(b":")
        if key != b"thread":
            raise PacketError("the suffix is not ;thread:ID;")
        return self.thread(parse.thread_id(value)).thread

    def thread_name(self, number: int) -> bytes:
        """A thread's id as this client writes it."""
        return b"p%x.%x" % (parse.PROCESS, number) if self.client.can("multiprocess") else b"%x" % number


class Form(Enum):
    """What stands behind a packet's name; the value is a regular expression."""

    ALONE = rb""
    COLON = rb":.*"
    COLON_OR_NOTHING = rb"(:.*)?"
    COMMA = rb",.*"
    EQUALS = rb"=.*"
    EQUALS_OR_NOTHING = rb"(=.*)?"
    SEMICOLON = rb";.*"
    SEMICOLON_OR_NOTHING = rb"(;.*)?"
    ANY = rb".*"
    """Arguments without a sign before them, which the command judges itself."""


@dataclass(frozen=True, slots=True)
class Command:
    """A packet: what it does and when it may come.

    `run` gets what stands behind the name and returns the payload of the reply, or None when there is none now.
    `anytime` commands don't touch the guest and may come while it runs. `text` is False for the packets whose errors
    gdb 13 takes as numbers only. `form` is what may stand behind the name; a packet of another form is an unknown one.
    """

    run: Callable[[Context, bytes], bytes | None]
    anytime: bool = False
    text: bool = True
    form: Form = Form.ANY
