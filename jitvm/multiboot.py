"""Multiboot kernels: their header, what of the file goes where, and what they are told.

The kernel comes as 32-bit ELF, or its header says itself what lies where (the "a.out kludge").  It is put into memory in one
piece with the strings and modules that belong to it, pages apart: kernel, table of modules and strings, each module.  The
option ROM (`firmware/linux/multiboot.S`) adds to the information structure what it asks of the firmware: memory below and
above 1 MiB and the memory map.

Source: Multiboot Specification 0.6.96, 3.1 (header) and 3.3 (information); System V ABI, "Program Header".  What these
leave open (boot device, command line with the kernel's name, place of the modules) is as with QEMU's -kernel.

Not modelled: 64-bit ELF without addresses in the header, which QEMU refuses, too; video modes; the information structure's
drives, ROM configuration table, APM table and ELF sections; a kernel on both sides of the hole between 640 KiB and 1 MiB;
version 2 of the specification.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from jitvm import elf_file
from jitvm.config import KIB, MIB, fail, show_size
from jitvm.devices import fwcfg
from jitvm.errors import ConfigError, ImageError
from jitvm.linux_boot import FIRMWARE_ROOM, PAGE

MAGIC, MAGIC_2, ALIGNMENT, SEARCHED = 0x1BADB002, 0xE85250D6, 4, 8 * KIB
PAGE_ALIGNED, MEMORY_INFO, VIDEO_MODE, REQUIREMENTS, HAS_ADDRESSES = 1 << 0, 1 << 1, 1 << 2, 0xFFFF, 1 << 16
HEADER, ADDRESSES = struct.Struct("<III"), struct.Struct("<IIIII")

MMAP_AT, INFO_AT, LOADER_END, RAM_END = 0x3000, 0x3500, 0x4000, 0x9_FC00
"""Memory map and information structure.  Up to LOADER_END memory is the firmware's and the option ROM's; at RAM_END SeaBIOS
keeps its extended data area."""
INFO = struct.Struct("<IIIIIII16xII12xI20x")
"""flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, mmap_length, mmap_addr, boot_loader_name"""
INFO_FLAGS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9
"""memory, boot device, command line, modules, memory map, name of the boot loader"""
FIRST_DISK = 0x8000_FFFF
MODULE = struct.Struct("<III4x")
LOADER_NAME = b"jitvm\0"


@dataclass(frozen=True)
class Header:
    """A header at `offset` in the file; `addresses`: header, load, load end, bss end, entry, where it has them."""

    offset: int
    flags: int
    addresses: tuple[int, ...] | None


@dataclass(frozen=True)
class Module:
    """A file for the kernel, and its command line, which begins with the file's name."""

    line: bytes
    data: bytes


@dataclass(frozen=True)
class Segment:
    """`size` bytes from `at` on: `data`, then zeros."""

    at: int
    size: int
    data: bytes


def find_header(where: str, kernel: bytes) -> Header | None:
    """The header in a file; None when there is none.

    Raises:
        ImageError: its checksum is wrong, it is cut off, or it asks for what there is not.
    """
    wrong: ImageError | None = None
    for offset in range(0, min(len(kernel), SEARCHED) - HEADER.size + 1, ALIGNMENT):
        magic, flags, checksum = HEADER.unpack_from(kernel, offset)
        if magic == MAGIC_2 and wrong is None:
            wrong = ImageError(f"{where} has a header of multiboot 2 at {offset:#x}; give one of version 1")
        if magic != MAGIC:
            continue
        if (magic + flags + checksum) & 0xFFFF_FFFF:
            right = -(magic + flags) & 0xFFFF_FFFF
            wrong = ImageError(
                f"{where}: the multiboot header at {offset:#x} has checksum {checksum:#x}, not {right:#x}"
            )
            continue
        return _checked(where, kernel, offset, flags)
    if wrong is not None:
        raise wrong
    return None


def _checked(where: str, kernel: bytes, offset: int, flags: int) -> Header:
    if flags & VIDEO_MODE:
        raise ImageError(f"{where}: the multiboot header asks for a video mode (flag 2), which this loader can't set")
    if flags & REQUIREMENTS & ~(PAGE_ALIGNED | MEMORY_INFO):
        raise ImageError(f"{where}: the multiboot header has flags {flags:#x}; of the lower 16, known are 0 and 1")
    if not flags & HAS_ADDRESSES:
        return Header(offset, flags, None)
    end = offset + HEADER.size + ADDRESSES.size
    if end > min(len(kernel), SEARCHED):
        raise ImageError(
            f"{where}: the multiboot header at {offset:#x} with its addresses is not within the first 8 KiB"
        )
    return Header(offset, flags, ADDRESSES.unpack_from(kernel, offset + HEADER.size))


def module_names(text: str) -> list[tuple[str, str]]:
    """(command line, file name) of each module in `FILE ARGUMENTS,FILE ...`; two commas are one in a name."""
    mark = "\0"  # in no argument of a command
    lines = [line.replace(mark, ",") for line in text.replace(",,", mark).split(",")] if text else []
    names = [line.split(" ", 1)[0] for line in lines]
    if "" in names:
        fail(f"--initrd: module {names.index('') + 1} of '{text}' has no name; give FILE[ ARGUMENTS][,FILE...]")
    return list(zip(lines, names, strict=True))


def items(
    where: str, kernel: bytes, header: Header, modules: Sequence[Module], line: bytes, memory: int
) -> dict[int, bytes]:
    """fw_cfg's items: kernel and what belongs to it, information structure, entry.

    Raises:
        ImageError: the file is malformed, or its segments lie where they can't.
        ConfigError: there is too little memory.
    """
    segments, entry = _elf(where, kernel) if header.addresses is None else _flat(where, kernel, header)
    at = min(segment.at for segment in segments)
    end = max(segment.at + segment.size for segment in segments)
    if not at <= entry < end:
        raise ImageError(f"{where}: its entry {entry:#x} is not in what is loaded, {at:#x} to {end - 1:#x}")
    strings = [*(module.line + b"\0" for module in modules), line + b"\0", LOADER_NAME]
    table_at = _page(end)
    strings_at = [table_at + MODULE.size * len(modules)]
    for string in strings:
        strings_at.append(strings_at[-1] + len(string))
    modules_at = [_page(strings_at[-1])]
    for module in modules:
        modules_at.append(_page(modules_at[-1] + len(module.data)))
    _check_place(where, at, modules_at[-1], memory)

    image = bytearray(modules_at[-1] - at)

    def put(place: int, data: bytes) -> None:
        image[place - at : place - at + len(data)] = data

    for segment in segments:
        put(segment.at, segment.data)
    for k, module in enumerate(modules):
        start = modules_at[k]
        put(table_at + MODULE.size * k, MODULE.pack(start, start + len(module.data), strings_at[k]))
        put(start, module.data)
    put(strings_at[0], b"".join(strings))
    line_at, name_at = strings_at[len(modules) : len(modules) + 2]
    info = INFO.pack(INFO_FLAGS, 0, 0, FIRST_DISK, line_at, len(modules), table_at, 0, MMAP_AT, name_at)
    return {
        **fwcfg.part(fwcfg.KERNEL_PART, at, bytes(image)),
        **fwcfg.part(fwcfg.INITRD_PART, INFO_AT, info),
        fwcfg.KERNEL_ENTRY: struct.pack("<I", entry),
    }


def _page(address: int) -> int:
    return (address + PAGE - 1) & -PAGE


def _check_place(where: str, at: int, end: int, memory: int) -> None:
    """Whether there is RAM for all of it that nobody needs to load it."""
    if at < LOADER_END:
        raise ImageError(f"{where} is to lie at {at:#x}; up to {LOADER_END - 1:#x} is the firmware's, link it higher")
    if at < MIB and end > RAM_END:
        raise ImageError(f"{where} is to lie at {at:#x} to {end - 1:#x}; from {RAM_END:#x} to 1 MiB there is no RAM")
    if end > memory - FIRMWARE_ROOM:
        least = -(-(end + FIRMWARE_ROOM) // MIB)
        raise ConfigError(f"-m: {show_size(memory)} are too few for {where}, which ends at {end:#x}; give {least}M")


def _flat(where: str, kernel: bytes, header: Header) -> tuple[list[Segment], int]:
    """What the addresses of the header say, and the entry."""
    assert header.addresses is not None
    header_at, load, load_end, bss_end, entry = header.addresses
    start = header.offset - (header_at - load)
    if not 0 <= start <= header.offset:
        raise ImageError(
            f"{where}: the multiboot header has addresses {header_at:#x}, {load:#x} that its file does not"
        )
    size = load_end - load if load_end else len(kernel) - start
    if size < 0 or (bss_end and bss_end < load + size):
        raise ImageError(
            f"{where}: the multiboot header has ends before begins: {load:#x}, {load_end:#x}, {bss_end:#x}"
        )
    if start + size > len(kernel):
        raise ImageError(f"{where} is cut off: {len(kernel)} bytes, of {start + size} by its multiboot header")
    return [Segment(load, bss_end - load if bss_end else size, kernel[start : start + size])], entry


def _elf(where: str, kernel: bytes) -> tuple[list[Segment], int]:
    """The segments of a 32-bit ELF file at their physical addresses, and the physical address of the entry."""
    if kernel[:4] != elf_file.MAGIC:
        raise ImageError(f"{where} is no ELF file, and its multiboot header has no addresses (flag 16)")
    with elf_file.opened(where, io.BytesIO(kernel)) as elf:
        if elf.elfclass != 32:
            raise ImageError(f"{where} is 64-bit ELF; make it 32-bit: objcopy -O elf32-i386 FILE")
        if not elf.little_endian or elf["e_machine"] != "EM_386":
            raise ImageError(f"{where} is ELF for {elf.get_machine_arch()}, not for x86")
        headers = [segment.header for segment in elf.iter_segments("PT_LOAD") if segment["p_memsz"]]
        entry = int(elf["e_entry"])
    if not headers:
        raise ImageError(f"{where} has no segment to load; link it")
    segments = []
    physical = entry
    for header in headers:
        at, size, offset, filled = header.p_paddr, header.p_memsz, header.p_offset, header.p_filesz
        if filled > size or offset + filled > len(kernel):
            raise ImageError(f"{where}: the segment at {at:#x} is cut off, or larger in the file than in memory")
        segments.append(Segment(at, size, kernel[offset : offset + filled]))
        if header.p_vaddr <= entry < header.p_vaddr + size:
            physical = at + entry - header.p_vaddr
    return segments, physical
