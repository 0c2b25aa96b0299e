"""Packets that let the guest run, stop, start again or go: ?, vCont, c, s, bc, bs, D, k, R, vRun, vAttach, vKill,
vCtrlC.

Source: gdb's manual, "Packets"; "Stop Reply Packets".

`k` and `vKill` end the machine. In extended mode they only hold it, so that `run` can reset it; it ends if the client
then goes.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gdbstub import parse, registers, resume
from gdbstub.context import Command, Context, Form, Phase
from gdbstub.errors import PacketError
from gdbstub.stop import Signal, Signalled
from gdbstub.stopreply import stop_reply
from gdbstub.target import Plan

if TYPE_CHECKING:
    from gdbstub.session import Session


def commands(session: Session) -> dict[str, Command]:
    """The command table of one session."""
    control = _Control(session)
    table = {
        "?": Command(control.why, anytime=True, form=Form.ALONE),
        "D": Command(control.detach, anytime=True, form=Form.SEMICOLON_OR_NOTHING),
        "R": Command(control.restart, anytime=True),
        "bc": Command(control.reverse_continue, anytime=True, form=Form.ALONE),
        "bs": Command(control.reverse_step, anytime=True, form=Form.ALONE),
        "k": Command(control.kill, anytime=True, form=Form.ALONE),
        "vAttach": Command(control.attach, anytime=True, form=Form.SEMICOLON),
        "vCont": Command(control.vcont, anytime=True),
        "vCtrlC": Command(control.interrupt, anytime=True, form=Form.ALONE),
        "vKill": Command(control.kill_process, anytime=True, form=Form.SEMICOLON),
        "vRun": Command(control.run, anytime=True, form=Form.SEMICOLON),
    }
    for letter in ("c", "C", "s", "S"):
        table[letter] = Command(partial(control.single, letter), anytime=True)
    return table


class _Control:
    """The commands; they check themselves when they may come."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def why(self, context: Context, arguments: bytes) -> bytes:
        """`?`; without a guest, that of a process that is gone."""
        session = self._session
        if context.client.phase in (Phase.DETACHED, Phase.KILLED):
            return b"W00"
        if not session.ended:
            session.needs_guest()
        return session.report()

    def vcont(self, context: Context, arguments: bytes) -> bytes | None:
        if arguments == b"?":
            return context.facets.vcont_actions()
        if self._session.ended:
            return self._session.report()
        self._session.needs_guest()
        return self._resume(context, resume.vcont(context, arguments))

    def single(self, letter: str, context: Context, arguments: bytes) -> bytes | None:
        if self._session.ended:
            return self._session.report()
        self._session.needs_guest()
        plan, address = resume.single(context, letter, arguments)
        if address is not None:
            self._jump(context, next(iter(plan)) if len(plan) == 1 else context.current, address)
        return self._resume(context, plan)

    def _jump(self, context: Context, thread: int, address: int) -> None:
        number = context.layout.numbers[context.layout.pc]
        size = context.layout.registers[number].size
        if address >> 8 * size:
            raise PacketError(f"{context.layout.pc} can't hold {address:#x}")
        registers.write_one(context, thread, number, address.to_bytes(size, context.layout.byte_order))

    def _resume(self, context: Context, plan: Plan) -> bytes | None:
        if not plan:
            return stop_reply(context, Signalled(context.current, Signal.NONE))
        self._session.go(lambda: context.target.resume(plan))
        return None

    def reverse_step(self, context: Context, arguments: bytes) -> bytes | None:
        facet = context.facets.reverse
        if facet is None:
            return b""
        self._session.needs_guest()
        thread = context.thread(context.client.resumed).thread
        self._session.go(lambda: facet.reverse_step(thread))
        return None

    def reverse_continue(self, context: Context, arguments: bytes) -> bytes | None:
        facet = context.facets.reverse
        if facet is None:
            return b""
        self._session.needs_guest()
        self._session.go(facet.reverse_continue)
        return None

    def interrupt(self, context: Context, arguments: bytes) -> bytes:
        self._session.interrupt()
        return b"OK"

    def attach(self, context: Context, arguments: bytes) -> bytes | None:
        parse.only_process(arguments[1:])
        return self._session.attach()

    def detach(self, context: Context, arguments: bytes) -> bytes:
        """The client lets go of the guest: what happens to it is the policy's."""
        if arguments:
            parse.only_process(arguments[1:])
        if context.client.phase is Phase.ATTACHED:
            context.client.phase = Phase.DETACHED
            self._session.client_left()
        return b"OK"

    def kill(self, context: Context, arguments: bytes) -> None:
        if context.client.phase is Phase.DETACHED:
            return
        if context.client.extended or context.facets.kill is None:
            context.client.phase = Phase.KILLED
            self._session.hold()
        else:
            self._session.kill()

    def kill_process(self, context: Context, arguments: bytes) -> bytes:
        parse.only_process(arguments[1:])
        self.kill(context, b"")
        return b"OK"

    def restart(self, context: Context, arguments: bytes) -> None:
        if context.facets.reset is not None:
            self._session.restart(context.facets.reset.reset)

    def run(self, context: Context, arguments: bytes) -> bytes:
        """`vRun`; a file name and arguments mean nothing here."""
        if context.facets.reset is None:
            return b""
        self._session.restart(context.facets.reset.reset)
        return self._session.report()
