"""Questions about threads and about the stub itself, and its settings.

Source: gdb's manual, "General Query Packets" and "Packets"; QEMU's manual, "GDB usage" (qqemu.sstep, qqemu.PhyMemMode).
"""

from __future__ import annotations

from gdbstub import parse
from gdbstub.context import Command, Context, Form
from gdbstub.errors import MalformedError, PacketError, TargetError
from gdbstub.target import STEP_ENABLE, STEP_NOIRQ, STEP_NOTIMER

MAX_OUTPUT = 4 << 20
"""Characters of one monitor command's output that are sent."""
OUTPUT_PIECE = 0x4000
STEP_NAMES = {"ENABLE": STEP_ENABLE, "NOIRQ": STEP_NOIRQ, "NOTIMER": STEP_NOTIMER}


def _supported(context: Context, arguments: bytes) -> bytes:
    """A question without a list, such as a user's own `maint packet qSupported`, takes back nothing of what was said."""
    if not arguments:
        return context.facets.supported()
    words = arguments.removeprefix(b":").decode("ascii", "replace").split(";")
    context.client.features = frozenset(words[:256])
    return context.facets.supported()


def _no_ack(context: Context, arguments: bytes) -> bytes:
    context.client.link.no_ack = True
    return b"OK"


def _extended(context: Context, arguments: bytes) -> bytes:
    context.client.extended = True
    return b"OK"


def _ok(context: Context, arguments: bytes) -> bytes:
    return b"OK"


def _no_symbols(context: Context, arguments: bytes) -> bytes:
    """The client offers to look symbols up; none is asked for."""
    if arguments != b"::":
        raise MalformedError("qSymbol:: needed: no symbol was asked for")
    return b"OK"


def _unknown(context: Context, arguments: bytes) -> bytes:
    return b""


def _attached(context: Context, arguments: bytes) -> bytes:
    """1: the guest was there before the client, which therefore detaches from it when it quits, and does not kill it."""
    if arguments:
        parse.only_process(arguments[1:])
    return b"1"


def _current_thread(context: Context, arguments: bytes) -> bytes:
    return b"QC" + context.thread_name(context.general_thread())


def _choose_thread(context: Context, arguments: bytes) -> bytes:
    what, number = arguments[:1], parse.thread_id(arguments[1:])
    if number > 0:
        context.thread(number)
    if what == b"g":
        context.client.general = number
    elif what == b"c":
        context.client.resumed = number
    else:
        raise MalformedError("Hg or Hc needed")
    return b"OK"


def _alive(context: Context, arguments: bytes) -> bytes:
    context.thread(parse.thread_id(arguments))
    return b"OK"


def _first_threads(context: Context, arguments: bytes) -> bytes:
    names = [context.thread_name(info.thread) for info in context.listed_threads()]
    return b"m" + b",".join(names) if names else b"l"


def _more_threads(context: Context, arguments: bytes) -> bytes:
    return b"l"


def _thread_words(context: Context, arguments: bytes) -> bytes:
    info = context.thread(parse.thread_id(arguments.removeprefix(b",")))
    return parse.to_hex((info.extra or info.name or f"thread {info.thread}").encode())


def _monitor(context: Context, arguments: bytes) -> bytes:
    """Output goes out in O packets. A refusal is text, too: gdb 13 shows nothing of an error reply here."""
    facet = context.facets.monitor
    if facet is None:
        return b""
    command = parse.hex_bytes(arguments.removeprefix(b",")).decode("utf-8", "replace")
    context.changed = True
    sent = 0

    def write(text: str) -> None:
        nonlocal sent
        room = MAX_OUTPUT - sent
        sent += len(text)
        if room > 0:
            show(context, text[:room] + ("\n(the rest is cut)\n" if len(text) > room else ""))

    try:
        facet.monitor(command, write, context.general_thread())
    except TargetError as error:
        if context.client.can("error-message"):
            raise
        write(f"{error}\n")
    return b"OK"


def show(context: Context, text: str) -> None:
    """Text for the user's console, while the client waits for a reply that allows it."""
    data = text.encode("utf-8", "replace")
    for at in range(0, len(data), OUTPUT_PIECE):
        context.client.link.send(b"O" + parse.to_hex(data[at : at + OUTPUT_PIECE]))


def _physical(context: Context, arguments: bytes) -> bytes:
    facet = context.facets.physical_memory
    return b"" if facet is None else b"%d" % facet.physical_memory()


def _set_physical(context: Context, arguments: bytes) -> bytes:
    facet = context.facets.physical_memory
    if facet is None:
        return b""
    if arguments not in (b":0", b":1"):
        raise MalformedError("Qqemu.PhyMemMode:0 or :1 needed")
    context.changed = True
    facet.set_physical_memory(arguments == b":1")
    return b"OK"


def _step_names(context: Context, arguments: bytes) -> bytes:
    facet = context.facets.step_flags
    if facet is None:
        return b""
    known = facet.supported_step_flags()
    return ",".join(f"{name}={bit:x}" for name, bit in STEP_NAMES.items() if bit & known).encode("ascii")


def _step_flags(context: Context, arguments: bytes) -> bytes:
    """QEMU takes the packet that sets them with a small q, too; its manual spells it so ("GDB usage")."""
    if arguments:
        return _set_step_flags(context, arguments)
    facet = context.facets.step_flags
    return b"" if facet is None else b"0x%x" % facet.step_flags()


def _set_step_flags(context: Context, arguments: bytes) -> bytes:
    facet = context.facets.step_flags
    if facet is None:
        return b""
    flags = parse.number(arguments.removeprefix(b"=").removeprefix(b"0x"))
    if flags & ~facet.supported_step_flags():
        raise PacketError(f"step flags {flags:#x}: only {facet.supported_step_flags():#x} are known")
    context.changed = True
    facet.set_step_flags(flags)
    return b"OK"


COMMANDS = {
    "!": Command(_extended, anytime=True, form=Form.ALONE),
    "H": Command(_choose_thread, anytime=True),
    "QStartNoAckMode": Command(_no_ack, anytime=True, form=Form.ALONE),
    "QThreadSuffixSupported": Command(_ok, anytime=True, form=Form.ALONE),
    "Qqemu.PhyMemMode": Command(_set_physical, form=Form.COLON),
    "Qqemu.sstep": Command(_set_step_flags, form=Form.EQUALS),
    "T": Command(_alive, anytime=True),
    "qAttached": Command(_attached, anytime=True, form=Form.COLON_OR_NOTHING),
    "qC": Command(_current_thread, anytime=True, form=Form.ALONE),
    "qRcmd": Command(_monitor, text=False, form=Form.COMMA),
    "qSupported": Command(_supported, anytime=True, form=Form.COLON_OR_NOTHING),
    "qSymbol": Command(_no_symbols, anytime=True, form=Form.COLON),
    "qThreadExtraInfo": Command(_thread_words, anytime=True, form=Form.COMMA),
    "qfThreadInfo": Command(_first_threads, anytime=True, form=Form.ALONE),
    "qqemu.PhyMemMode": Command(_physical, form=Form.ALONE),
    "qqemu.sstep": Command(_step_flags, form=Form.EQUALS_OR_NOTHING),
    "qqemu.sstepbits": Command(_step_names, form=Form.ALONE),
    "qsThreadInfo": Command(_more_threads, anytime=True, form=Form.ALONE),
    "vMustReplyEmpty": Command(_unknown, anytime=True),
}
