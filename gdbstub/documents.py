"""qXfer: the documents that a client reads in pieces.

Source: gdb's manual, "General Query Packets" (qXfer), "Thread List Format", "Memory Map Format", "Target Descriptions".
A document is made when its first piece is read and kept until its last, so that a piece never comes from a newer
version.
"""

from __future__ import annotations

from collections.abc import Callable
from xml.sax.saxutils import escape as xml_text
from xml.sax.saxutils import quoteattr

from gdbstub import parse
from gdbstub.context import Command, Context, Form
from gdbstub.errors import MalformedError, PacketError
from gdbstub.framing import PACKET_SIZE, escape

MAX_PIECE = PACKET_SIZE // 2 - 1
"""Each byte may need two, and a letter stands in front."""


def _features(context: Context, annex: str) -> bytes | None:
    if annex != "target.xml":
        return None
    context.client.described = True
    return context.layout.target_xml.encode()


def _threads(context: Context, annex: str) -> bytes | None:
    if annex:
        return None
    lines = []
    for info in context.listed_threads():
        attributes = {"id": context.thread_name(info.thread).decode("ascii")}
        attributes |= {"core": str(info.core)} if info.core is not None else {}
        attributes |= {"name": info.name} if info.name else {}
        words = " ".join(f"{key}={quoteattr(value)}" for key, value in attributes.items())
        lines.append(f"<thread {words}>{xml_text(info.extra)}</thread>\n")
    return f'<?xml version="1.0"?>\n<threads>\n{"".join(lines)}</threads>\n'.encode()


def _memory_map(context: Context, annex: str) -> bytes | None:
    facet = context.facets.memory_map
    regions = facet.memory_map() if facet is not None and not annex else ()
    if not regions:
        return None
    lines = [f'<memory type="{r.kind}" start="{r.start:#x}" length="{r.size:#x}"/>\n' for r in regions]
    head = (
        '<?xml version="1.0"?>\n<!DOCTYPE memory-map PUBLIC "+//IDN gnu.org//DTD GDB Memory Map V1.0//EN" '
        '"http://sourceware.org/gdb/gdb-memory-map.dtd">\n'
    )
    return f"{head}<memory-map>\n{''.join(lines)}</memory-map>\n".encode()


def _exec_file(context: Context, annex: str) -> bytes | None:
    facet = context.facets.exec_file
    path = facet.exec_file() if facet is not None else None
    if path is None or (annex and parse.number(annex.encode()) != parse.PROCESS):
        return None
    return path.encode("utf-8", "surrogateescape")


OBJECTS: dict[str, Callable[[Context, str], bytes | None]] = {
    "features": _features,
    "threads": _threads,
    "memory-map": _memory_map,
    "exec-file": _exec_file,
}


def _available(context: Context, name: str) -> bool:
    facets = context.facets
    return {
        "memory-map": facets.memory_map is not None,
        "exec-file": facets.exec_file is not None,
    }.get(name, name in OBJECTS)


def _read(context: Context, arguments: bytes) -> bytes:
    fields = arguments.removeprefix(b":").split(b":")
    name = fields[0].decode("ascii", "replace")
    if not _available(context, name) or (len(fields) > 1 and fields[1] != b"read"):
        return b""
    if len(fields) != 4:
        raise MalformedError("qXfer:OBJECT:read:ANNEX:OFFSET,LENGTH needed")
    annex = fields[2].decode("ascii", "replace")
    offset, size = parse.pair(fields[3])
    kept = context.client.documents
    if offset == 0 or name not in kept:
        document = OBJECTS[name](context, annex)
        if document is None:
            raise PacketError(f"no {name} {annex}".strip(), 0)
        kept[name] = document
    piece = kept[name][offset : offset + min(size, MAX_PIECE)]
    more = offset + len(piece) < len(kept[name])
    if not more:
        del kept[name]
    return (b"m" if more else b"l") + escape(piece)


COMMANDS = {"qXfer": Command(_read, anytime=True, form=Form.COLON)}
