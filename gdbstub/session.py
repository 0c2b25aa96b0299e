"""A session: the life of a guest under debuggers that come and go.

It is fed with a client's bytes and a target's stops, and yields the bytes to send: no socket, no thread, no clock. One
session serves a target for the whole of its life; what belongs to one client is in `Client` and is forgotten when the
client goes.

The guest is in one of four states:

    RUNNING --(a client's first packet, a client gone with breakpoints set)--> HALTING
    RUNNING, HALTING --(the target reports a stop)--> STOPPED
    STOPPED --(vCont, c, s; the client leaves and the policy is to run)--> RUNNING
    any --(the target reports its end)--> EXITED --(vRun, R)--> STOPPED

While it is HALTING no packet is looked at: the bytes wait in the connection, and what comes next finds the guest
stopped.

Source: gdb's manual, "Remote Serial Protocol".
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum, auto
from functools import partial

from gdbstub import control, documents, memory, parse, points, queries, registers
from gdbstub.context import Client, Command, Context, Form, Phase, Point
from gdbstub.errors import GdbStubError, NotRunningError, PacketError, TargetError, error_reply
from gdbstub.framing import Interrupt, Overlong, Packet
from gdbstub.stop import Exited, HistoryEnd, Interrupted, Signal, Signalled, Stop
from gdbstub.stopreply import stop_reply
from gdbstub.target import Continue, Target

_NAME = re.compile(rb"[qQvj][A-Za-z]*(?:\.[A-Za-z]+)*|b[cs]|[\x21-\x7e]")
_FORMS = {form: re.compile(form.value, re.DOTALL) for form in Form}


class State(Enum):
    """What the guest does, as far as the session has been told."""

    RUNNING = auto()
    HALTING = auto()
    STOPPED = auto()
    EXITED = auto()


class OnDisconnect(Enum):
    """What becomes of the guest when a client leaves, by detaching or by being gone."""

    RUN = "run"
    STOP = "stop"
    EXIT = "exit"


def _log(line: str) -> None:
    logging.getLogger("gdbstub").error("%s", line)


class Session(Context):
    """A target's conversation with its debuggers; also the target's `Listener`.

    `running` says whether the guest runs at this moment; `log` gets one line for each bug met in the target, and for a
    guest that stops with nobody there. `wake` is set by who drives the session: it is called, from any thread, when
    `pump` has something to do.
    """

    def __init__(
        self,
        target: Target,
        *,
        running: bool = False,
        on_disconnect: OnDisconnect = OnDisconnect.RUN,
        log: Callable[[str], None] = _log,
    ) -> None:
        super().__init__(target)
        if on_disconnect is OnDisconnect.EXIT and self.facets.kill is None:
            raise GdbStubError("gdb: this machine can't be ended by a debugger that leaves; use run or stop")
        self.on_disconnect = on_disconnect
        self.wake: Callable[[], None] = lambda: None
        self.state = State.RUNNING if running else State.STOPPED
        self._log = log
        self._stops: deque[Stop] = deque()
        self._last: Stop = Signalled(self.current)
        self._connected = False
        self._held: Packet | Overlong | Interrupt | None = None
        self._awaiting = False
        """The client waits for a stop reply."""
        self._leaving = False
        """At the next stop the departed client's breakpoints are removed and the policy is applied."""
        self._abandoned: set[Point] = set()
        """Points of clients that left after the guest's end: removed if it is started again."""
        self._step_flags = self.facets.step_flags.step_flags() if self.facets.step_flags is not None else 0
        self._commands: dict[str, Command] = {
            **registers.COMMANDS,
            **memory.COMMANDS,
            **points.COMMANDS,
            **queries.COMMANDS,
            **documents.COMMANDS,
            **control.commands(self),
        }
        target.listen(self)

    # the target's side

    def stopped(self, stop: Stop) -> None:
        """Take a stop from any thread (`target.Listener`)."""
        self._stops.append(stop)
        self.wake()

    # the connection's side

    @property
    def wants_input(self) -> bool:
        """All that came has been dealt with, and more may come."""
        return self._connected and self._held is None and self.client.link.idle and self.state is not State.HALTING

    @property
    def attached(self) -> bool:
        """A client has sent a packet and has not left."""
        return self._connected and self.client.phase in (Phase.ATTACHED, Phase.KILLED)

    @property
    def ended(self) -> bool:
        """The machine has ended."""
        return self.state is State.EXITED

    @property
    def has_guest(self) -> bool:
        """There is a guest, and it is this client's."""
        return not self.ended and super().has_guest

    def connect(self) -> None:
        """A client is there. The guest is not touched until it says something."""
        self.client = Client()
        self._held = None
        self._connected = True

    def feed(self, data: bytes) -> None:
        """Bytes from the client; ask `wants_input` before, so that they do not pile up."""
        self.client.link.feed(data)

    def pump(self) -> Iterator[bytes]:
        """Do all that can be done now; yields what is to be sent, one packet's answer at a time."""
        busy = True
        while busy:
            busy = self._take_stop() or self._take_event()
            out = self.client.link.take()
            if out and self._connected:
                yield out

    def disconnect(self) -> None:
        """The client is gone, in the middle of whatever it was."""
        phase = self.client.phase
        self.client = Client()
        self._held = None
        self._connected = self._awaiting = False
        if phase is Phase.KILLED:
            self.kill()
        elif phase is Phase.ATTACHED:
            self.client_left()
        if self.ended:
            self._abandon()

    # stops

    def _take_stop(self) -> bool:
        if not self._stops:
            return False
        stop = self._stops.popleft()
        if self.state is State.EXITED or (self.state is State.STOPPED and not isinstance(stop, Exited)):
            return True
        if isinstance(stop, Exited):
            self.state = State.EXITED
            if self._leaving:
                self._leaving = False
                self._abandon()
        else:
            if self.state is State.HALTING and isinstance(stop, Interrupted):
                stop = Signalled(stop.thread, Signal.TRAP, stop.message)
            self.state = State.STOPPED
            self.current = stop.thread
        self._last = stop
        if self._awaiting:
            self._awaiting = False
            if stop.message:
                queries.show(self, stop.message if stop.message.endswith("\n") else f"{stop.message}\n")
            self.client.link.send(self._guarded(self.report, text=True) or b"")
        elif self.state is State.STOPPED and (self._leaving or not self.attached):
            self._stopped_alone(stop)
        return True

    def _stopped_alone(self, stop: Stop) -> None:
        """A stop with nobody there. What a departed client caused is passed over; a guest that can't go on waits."""
        if self._leaving or not isinstance(stop, Signalled | HistoryEnd):
            self._leave()
        elif not self._connected:
            self._log(f"gdb: the guest has stopped and waits for a debugger; {stop.message or 'no reason is known'}")

    # packets

    def _take_event(self) -> bool:
        if not self._connected or self.state is State.HALTING:
            return False
        event = self._held or self.client.link.next()
        self._held = None
        if event is None:
            return False
        if self.client.phase is Phase.FRESH:
            self.client.phase = Phase.ATTACHED
            if self.state is State.RUNNING:
                self._held = event
                self.halt()
                return True
        if isinstance(event, Interrupt):
            self.interrupt()
        elif isinstance(event, Overlong):
            error = PacketError(f"a packet of {event.length} bytes is longer than PacketSize")
            self.client.link.send(error_reply(error, True))
        else:
            self._answer(event.payload)
        return True

    def _answer(self, payload: bytes) -> None:
        match = _NAME.match(payload)
        name = match[0].decode("ascii") if match else ""
        command = self._commands.get(name)
        arguments = payload[len(name) :]
        if command is None or not _FORMS[command.form].fullmatch(arguments):
            self.client.link.send(b"")
            return
        reply = self._guarded(lambda: self._run(command, arguments), text=command.text)
        if reply is not None:
            self.client.link.send(reply)

    def _run(self, command: Command, arguments: bytes) -> bytes | None:
        if not command.anytime:
            self.needs_guest()
        return command.run(self, arguments)

    def needs_guest(self) -> None:
        """Refuse unless the guest is this client's and stands still."""
        if self.client.phase is Phase.DETACHED:
            raise NotRunningError("detached from the guest")
        if self.client.phase is Phase.KILLED:
            raise NotRunningError("the guest was killed; run it again")
        if self.state is State.EXITED:
            raise NotRunningError("the guest has ended")
        if self.state is not State.STOPPED:
            raise NotRunningError("the guest is running")

    def _guarded(self, action: Callable[[], bytes | None], *, text: bool) -> bytes | None:
        """Do it; an error becomes its reply. A bug in the target must cost one packet, not the session."""
        text = text or self.client.can("error-message")
        try:
            return action()
        except PacketError as error:
            return error_reply(error, text)
        except Exception as error:  # the target is foreign code: whatever it raises is told to gdb and logged
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"
            self._log(f"gdb: internal error at {place}: {type(error).__name__}: {error}")
            return error_reply(TargetError(f"internal error: {type(error).__name__}: {error}"), text)

    def _tell(self, action: Callable[[], object]) -> bool:
        """Ask the target something that no packet waits for; False, and a line in the log, if it refuses."""

        def run() -> None:
            action()

        reply = self._guarded(run, text=True)
        if reply is not None and not reply.startswith(b"E.internal error"):
            self._log(f"gdb: {reply.removeprefix(b'E.').decode('ascii', 'replace')}")
        return reply is None

    # what control.py's commands do to the guest

    def report(self) -> bytes:
        """The reply that tells the last stop; the client takes its thread for the chosen one."""
        self.client.general = parse.ANY
        return stop_reply(self, self._last)

    def go(self, resume: Callable[[], None]) -> None:
        """Let the guest run by a method of the target; the stop reply comes when it stops."""
        resume()
        self.state = State.RUNNING
        self._awaiting = True

    def interrupt(self) -> None:
        """Ctrl-C: stop a guest that the client waits for."""
        if self.state is State.RUNNING and self._awaiting:
            self._tell(self.target.interrupt)

    def halt(self) -> None:
        """Stop the guest because a client comes or has gone."""
        self.state = State.HALTING
        self._tell(self.target.interrupt)

    def hold(self) -> None:
        """Stop the guest for good; the client waits for nothing any more."""
        self._awaiting = False
        if self.state is State.RUNNING:
            self.halt()

    def attach(self) -> bytes | None:
        """A client that detached is back."""
        self.client.phase = Phase.ATTACHED
        if self.state is State.RUNNING:
            self._awaiting = True
            self.halt()
            return None
        return self.report()

    def client_left(self) -> None:
        """Undo what the client set and apply the policy, now or as soon as the guest stands still."""
        if self.state is State.STOPPED:
            self._leave()
        elif self.state is State.HALTING:
            self._leaving = True
        elif self.state is State.RUNNING:
            if self.on_disconnect is OnDisconnect.EXIT:
                self.kill()
            elif self.points or self.changed or self.on_disconnect is OnDisconnect.STOP:
                self._leaving = True
                self.halt()

    def _abandon(self) -> None:
        """The machine has ended under breakpoints whose client is gone."""
        self._abandoned |= self.points
        self.points.clear()

    def _leave(self) -> None:
        if self.changed and self.facets.leave is not None:
            self._tell(self.facets.leave.client_left)
        self._leaving = self.changed = False
        while self.points:
            self._tell(partial(points.remove, self, self.points.pop()))
        physical, steps = self.facets.physical_memory, self.facets.step_flags
        if physical is not None:
            self._tell(lambda: physical.set_physical_memory(False))
        if steps is not None:
            self._tell(lambda: steps.set_step_flags(self._step_flags))
        if self.on_disconnect is OnDisconnect.EXIT:
            self.kill()
        elif self.on_disconnect is OnDisconnect.RUN and self._tell(self._resume_all):
            self.state = State.RUNNING

    def _resume_all(self) -> None:
        self.target.resume({info.thread: Continue() for info in self.threads()})

    def kill(self) -> None:
        """End the machine."""
        self.state = State.EXITED
        self._last = Exited(0)
        self._awaiting = False
        if self.facets.kill is not None:
            self._tell(self.facets.kill.kill)

    def restart(self, reset: Callable[[], None]) -> None:
        """Put the machine into its reset state; the client's breakpoints stay."""
        if self.state not in (State.STOPPED, State.EXITED):
            raise NotRunningError("the guest is running")
        reset()
        self.state = State.STOPPED
        for point in self._abandoned - self.points:
            self._tell(partial(points.remove, self, point))
        self._abandoned.clear()
        self.client.phase = Phase.ATTACHED
        self.client.general, self.client.resumed = parse.ANY, parse.ALL
        self.current = self.threads()[0].thread
        self._last = Signalled(self.current)
