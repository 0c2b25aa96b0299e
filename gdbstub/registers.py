"""g, G, p and P: registers, with the views of a layout resolved.

Source: gdb's manual, "Packets". A register that this machine lacks reads as `xx` and is skipped by G. lldb's thread
suffix is taken by all four. g and G have all registers for a client that has read the description, and for others those
that it has built in.
"""

from __future__ import annotations

from gdbstub import parse
from gdbstub.context import Command, Context
from gdbstub.errors import MalformedError, PacketError, TargetError


def _checked(context: Context, number: int, value: bytes | None) -> bytes | None:
    register = context.layout.registers[number]
    if value is not None and len(value) != register.size:
        raise TargetError(f"register {register.name} has {register.size} bytes, the target gave {len(value)}")
    return value


def read_all(context: Context, thread: int) -> list[bytes | None]:
    """Every register by number."""
    values = list(context.target.read_registers(thread))
    layout = context.layout
    if len(values) != len(layout.registers):
        raise TargetError(f"the layout has {len(layout.registers)} registers, the target gave {len(values)}")
    if [0 if value is None else len(value) for value in values] != layout.own_sizes:  # a None may be the reason, too
        for number, value in enumerate(values):
            _checked(context, number, value)
    for number, source in layout.views:
        values[number] = _part(context, number, values[source])
    return values


def _part(context: Context, number: int, value: bytes | None) -> bytes | None:
    """Of a source's bytes those that a register shows: all, or a view's."""
    return None if value is None else value[: context.layout.registers[number].size]


def _read_source(context: Context, thread: int, number: int) -> bytes | None:
    single = context.facets.single_register
    if single is not None:
        return _checked(context, number, single.read_register(thread, number))
    return read_all(context, thread)[number]


def read_one(context: Context, thread: int, number: int) -> bytes | None:
    """One register, or a view of one."""
    if number >= len(context.layout.registers):
        raise PacketError(f"no register {number}, there are {len(context.layout.registers)}")
    return _part(context, number, _read_source(context, thread, context.layout.sources[number]))


def write_one(context: Context, thread: int, number: int, value: bytes) -> None:
    """One register, or through a view of one."""
    if number >= len(context.layout.registers):
        raise PacketError(f"no register {number}, there are {len(context.layout.registers)}")
    register = context.layout.registers[number]
    if len(value) != register.size:
        raise MalformedError(f"register {register.name} has {register.size} bytes, not {len(value)}")
    source = context.layout.sources[number]
    if source != number:
        old = _read_source(context, thread, source)
        if old is None:
            raise TargetError(f"this machine has no register {register.name}")
        value = value + old[register.size :]
    single = context.facets.single_register
    if single is not None:
        single.write_register(thread, source, value)
    else:
        context.target.write_registers(thread, {source: value})


def _in_g(context: Context) -> int:
    """How many registers g and G have."""
    return len(context.layout.registers) if context.client.described else context.layout.n_basic


def write_all(context: Context, thread: int, data: bytes) -> None:
    """All registers from a G packet. Only what differs is written: most of them have side effects."""
    registers = context.layout.registers[: _in_g(context)]
    if len(data) != sum(register.size for register in registers):
        raise MalformedError(f"G needs {sum(register.size for register in registers)} bytes, not {len(data)}")
    old = read_all(context, thread)
    new: dict[int, bytes] = {}
    at = 0
    views: list[tuple[int, bytes]] = []
    for number, register in enumerate(registers):
        value = data[at : at + register.size]
        at += register.size
        if old[number] is None or old[number] == value:
            continue
        if register.view_of:
            views.append((number, value))
        else:
            new[number] = value
    for number, value in views:
        source = context.layout.sources[number]
        whole = new.get(source) or old[source] or b""
        new[source] = value + whole[len(value) :]
    if new:
        context.target.write_registers(thread, dict(sorted(new.items())))


def to_text(context: Context, number: int, value: bytes | None) -> bytes:
    """A register as hex digits, or x's."""
    return parse.to_hex(value) if value is not None else b"xx" * context.layout.registers[number].size


def expedited(context: Context, thread: int) -> bytes:
    """The registers of a stop reply, `NUMBER:VALUE;` each. A target that can't tell them now does not spoil the reply."""
    numbers = context.layout.expedited_numbers
    try:
        if context.facets.single_register is not None:
            values = [read_one(context, thread, number) for number in numbers]
        else:
            everything = read_all(context, thread)
            values = [everything[number] for number in numbers]
    except PacketError:
        return b""
    named = zip(numbers, values, strict=True)
    return b"".join([b"%02x:%b;" % (n, parse.to_hex(value)) for n, value in named if value is not None])


def _split(text: bytes) -> tuple[bytes, bytes]:
    data, _, suffix = text.partition(b";")
    return data, suffix


def _read_all(context: Context, arguments: bytes) -> bytes:
    data, suffix = _split(arguments)
    if data:
        raise MalformedError("g takes nothing but a thread suffix")
    values = read_all(context, context.general_thread(suffix))[: _in_g(context)]
    known = [value for value in values if value is not None]
    if len(known) == len(values):
        return parse.to_hex(b"".join(known))
    return b"".join(to_text(context, number, value) for number, value in enumerate(values))


def _write_all(context: Context, arguments: bytes) -> bytes:
    data, suffix = _split(arguments)
    write_all(context, context.general_thread(suffix), parse.hex_bytes(data))
    return b"OK"


def _read_one(context: Context, arguments: bytes) -> bytes:
    data, suffix = _split(arguments)
    number = parse.number(data)
    return to_text(context, number, read_one(context, context.general_thread(suffix), number))


def _write_one(context: Context, arguments: bytes) -> bytes:
    data, suffix = _split(arguments)
    number, found, value = data.partition(b"=")
    if not found:
        raise MalformedError("P needs NUMBER=VALUE")
    write_one(context, context.general_thread(suffix), parse.number(number), parse.hex_bytes(value))
    return b"OK"


COMMANDS = {
    "g": Command(_read_all),
    "G": Command(_write_all),
    "p": Command(_read_one),
    "P": Command(_write_one),
}
