"""What vCont, c, s, C and S ask for, as a plan: which thread does what.

Source: gdb's manual, "Packets" (vCont: of several actions that fit a thread the leftmost counts; a thread that none
fits stays where it is). Without vCont, Hc chooses: one thread alone, or the one that stopped last does it and all
others run.
"""

from __future__ import annotations

from gdbstub import parse
from gdbstub.context import Context
from gdbstub.errors import MalformedError, PacketError
from gdbstub.stop import Signal
from gdbstub.target import Action, Continue, Plan, RangeStep, Step

MAX_ACTIONS = 4096


def _action(context: Context, text: bytes) -> Action | None:
    """One action; None for `t`, which keeps its thread where it is."""
    letter, rest = text[:1], text[1:]
    if text == b"t":
        return None
    if text in (b"c", b"s"):
        return Continue() if text == b"c" else Step()
    if letter == b"C":
        return Continue(_signal(rest))
    if letter == b"S":
        return Step(_signal(rest))
    if letter == b"r" and context.facets.range_steps:
        return RangeStep(*parse.pair(rest))
    raise MalformedError(f"unknown action {text[:20]!r}")


def _signal(text: bytes) -> Signal | int:
    value = parse.number(text)
    if value > 0xFF:
        raise MalformedError(f"no signal {value:#x}")
    return Signal(value) if value in Signal.__members__.values() else value


def vcont(context: Context, text: bytes) -> Plan:
    """The plan of `vCont;ACTION[:THREAD];...`; empty if no thread is to move."""
    parts = text.removeprefix(b";").split(b";")
    if not text.startswith(b";") or len(parts) > MAX_ACTIONS:
        raise MalformedError("vCont;ACTION[:THREAD]... needed")
    threads = [info.thread for info in context.threads()]
    plan: dict[int, Action] = {}
    undecided = set(threads)
    for part in parts:
        words, found, thread = part.partition(b":")
        action = _action(context, words)
        chosen = _chosen(context, thread, threads) if found else set(threads)
        for number in chosen & undecided:
            if action is not None:
                plan[number] = action
        undecided -= chosen
    return dict(sorted(plan.items()))


def _chosen(context: Context, thread: bytes, threads: list[int]) -> set[int]:
    number = parse.thread_id(thread)
    if number == parse.ALL:
        return set(threads)
    if number == parse.ANY:
        return {context.current}
    if number not in threads:
        raise PacketError(f"no thread {number}")
    return {number}


def single(context: Context, letter: str, arguments: bytes) -> tuple[Plan, int | None]:
    """The plan of c, s, C or S, and the address to go on at, if one is given."""
    signal: Signal | int = Signal.NONE
    has_address, address = bool(arguments), arguments
    if letter in "CS":
        number, found, address = arguments.partition(b";")
        signal, has_address = _signal(number), bool(found)
    where = parse.number(address) if has_address else None
    action: Action = Continue(signal) if letter in "cC" else Step(signal)
    if context.client.resumed > 0:
        return {context.thread(context.client.resumed).thread: action}, where
    plan: dict[int, Action] = {info.thread: Continue() for info in context.threads()}
    plan[context.current] = action
    return plan, where
