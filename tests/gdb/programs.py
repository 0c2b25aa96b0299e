"""Guests with symbols and lines for tests with gdb: ROMs of assembler and C, built when a test asks for one."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.boot.guests import RESET_VECTOR, ROM_SIZE

BASE = 0xF0000
"""Where the ROM's low alias begins, which it is linked for."""
DATA = 0x2000
"""Where its variables are."""
START = """
        .code16
        .section .text.start, "ax"
        .globl start16, start32, gdt
start16: cli
        lgdtl %cs:gdtr - start16
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        ljmpl $8, $start32
        .code32
start32: mov $16, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        mov $0x8000, %esp
        call main
stop:   hlt
        jmp stop
        .balign 8
gdt:    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00009b0f0000ffff, 0x000093000000ffff
gdtr:   .word 39
        .long gdt
"""
"""From the reset vector to `main` with flat segments; selectors 18h and 20h are 16-bit ones, code at F0000h."""
COUNTING = """\
int counter, table[16];
int leaf(int a, int b)
{
    int sum = a + b;
    counter += sum;
    return sum;
}
int middle(int n)
{
    int result = leaf(n, 2);
    return result * 2;
}
int main(void)
{
    for (int i = 0;; i++)
        table[i & 15] = middle(i);
}
"""
FLAGS = (
    "-m32 -g -O0 -ffreestanding -fno-pic -fno-pie -fno-stack-protector -fcf-protection=none "
    "-fno-omit-frame-pointer -fno-asynchronous-unwind-tables"
)


@dataclass(frozen=True)
class Program:
    """A ROM image, its ELF, and the symbols' addresses."""

    image: Path
    elf: Path
    symbols: dict[str, int]


def link(folder: Path, *objects: Path) -> Program:
    """The ROM of these objects; execution begins with the first one's first byte."""
    image, elf, flat = folder / "program.bin", folder / "program.elf", folder / "program.raw"
    layout = [f"-Ttext={BASE:#x}", f"-Tbss={DATA:#x}", "-e", "start16", "-z", "noexecstack", "--no-warn-rwx-segments"]
    _do("ld", "-m", "elf_i386", *layout, "-o", elf, *objects)
    _do("objcopy", "-O", "binary", "-j", ".text", elf, flat)
    data = bytearray(flat.read_bytes().ljust(ROM_SIZE, b"\xf4"))
    data[0xFFF0 : 0xFFF0 + len(RESET_VECTOR)] = RESET_VECTOR
    image.write_bytes(data)
    said = subprocess.run(["nm", elf], check=True, capture_output=True, text=True, timeout=30).stdout
    rows = [line.split() for line in said.splitlines()]
    return Program(image, elf, {row[2]: int(row[0], 16) for row in rows})


def assembled(folder: Path, text: str, name: str = "start") -> Path:
    """An object file with lines."""
    source, made = folder / f"{name}.s", folder / f"{name}.o"
    source.write_text(text)
    _do("as", "--32", "-g", "-o", made, source)
    return made


def assembler_program(folder: Path, text: str) -> Program:
    """A program that is all assembler; `start16` is its entry."""
    return link(folder, assembled(folder, text))


def c_program(folder: Path, text: str = COUNTING) -> Program:
    """`START` and a C file with a `main` that never returns."""
    source, made = folder / "main.c", folder / "main.o"
    source.write_text(text)
    _do("gcc", *FLAGS.split(), "-c", source, "-o", made)
    return link(folder, assembled(folder, START), made)


def _do(*command: str | Path) -> None:
    subprocess.run(command, check=True, timeout=60)
