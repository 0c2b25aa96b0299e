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
START_LONG = """
        .code16
        .section .text.start, "ax"
        .globl start16, start32, start64, gdt
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
        movl $0x11023, 0x10000
        movl $0x11023, 0x10800
        movl $0x12023, 0x11000
        movl $0x0e3, 0x12000
        mov $0x10000, %eax
        mov %eax, %cr3
        mov %cr4, %eax
        or $0x620, %eax
        mov %eax, %cr4
        mov $0xc0000080, %ecx
        rdmsr
        or $0x100, %eax
        wrmsr
        mov %cr0, %eax
        or $0x80000000, %eax
        mov %eax, %cr0
        ljmp $24, $start64
        .code64
start64: mov $0xffff800000000000, %rax
        mov $16, %ecx
        mov %ecx, %ss
        lea 0x8000(%rax), %rsp
        lea high(%rax), %rax
        jmp *%rax
high:   mov $0x1122334455667788, %r9
        movq %r9, %xmm3
        fninit
        fldpi
        call main
stop:   hlt
        jmp stop
        .balign 8
gdt:    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
        .quad 0x0000890100000067, 0x00000000ffff8000
gdtr:   .word 47
        .long gdt
"""
"""To `main` in 64-bit code with 4-level paging: the first 2 MiB, and the same from FFFF800000000000h on."""
START_SMP = """
        .code16
        .section .text.start, "ax"
        .globl start16, start32, gdt, ap16, ap16_end, ap32
start16: cli
        lgdtl %cs:gdtr - start16
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        ljmpl $8, $start32
ap16:   mov $5, %bx
        lgdtl %cs:ap_gdtr - ap16
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        ljmpl $8, $ap32
ap_gdtr: .word 23
        .long gdt
ap16_end:
        .code32
ap32:   mov $16, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        mov 0xfee00020, %ebx
        shr $24, %ebx
        mov %ebx, %esp
        shl $12, %esp
        add $0x20000, %esp
        push %ebx
        call ap_main
start32: mov $16, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        mov $0x7000, %esp
        call main
        .balign 8
gdt:    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdtr:   .word 23
        .long gdt
"""
"""`main` on the first CPU, `ap_main(number)` on those that it starts with a SIPI to `AP_PAGE`."""
AP_PAGE = 0x8000
SMP = """\
typedef unsigned int u32;
extern char ap16[], ap16_end[];
int alive, done[16];
static void wait_a_moment(void) { for (volatile int i = 0; i < 500; i++); }
static void copy(void)
{
    for (int i = 0; i < ap16_end - ap16; i++)
        ((volatile char *)0x8000)[i] = ap16[i];
}
static void icr(u32 value) { *(volatile u32 *)0xfee00300 = value; }
void work(int number)
{
    done[number]++;
}
void ap_main(int number)
{
    __sync_fetch_and_add(&alive, 1);
    for (;;)
        work(number);
}
void ready(void) { }
int main(void)
{
    alive = 0;
    for (int i = 0; i < N; i++)
        done[i] = 0;
    *(volatile u32 *)0xfee000f0 = 0x1ff;
    copy();
    icr(0xc4500);
    wait_a_moment();
    icr(0xc4608);
    while (*(volatile int *)&alive < N - 1);
    ready();
    for (;;)
        work(0);
}
"""
"""Starts the others, which count in `done` for ever as it does."""
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


def link(folder: Path, *objects: Path, emulation: str = "elf_i386") -> Program:
    """The ROM of these objects; execution begins with the first one's first byte."""
    image, elf, flat = folder / "program.bin", folder / "program.elf", folder / "program.raw"
    layout = [f"-Ttext={BASE:#x}", f"-Tbss={DATA:#x}", "-e", "start16", "-z", "noexecstack", "--no-warn-rwx-segments"]
    _do("ld", "-m", emulation, *layout, "-o", elf, *objects)
    _do("objcopy", "-O", "binary", "-j", ".text", elf, flat)
    data = bytearray(flat.read_bytes().ljust(ROM_SIZE, b"\xf4"))
    data[0xFFF0 : 0xFFF0 + len(RESET_VECTOR)] = RESET_VECTOR
    image.write_bytes(data)
    said = subprocess.run(["nm", elf], check=True, capture_output=True, text=True, timeout=30).stdout
    rows = [line.split() for line in said.splitlines()]
    return Program(image, elf, {row[2]: int(row[0], 16) for row in rows})


def assembled(folder: Path, text: str, name: str = "start", width: int = 32) -> Path:
    """An object file with lines."""
    source, made = folder / f"{name}.s", folder / f"{name}.o"
    source.write_text(text)
    _do("as", f"--{width}", "-g", "-o", made, source)
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


def long_program(folder: Path, text: str = COUNTING) -> Program:
    """`START_LONG` and a C file with a `main` that never returns, which runs at the low addresses that it is linked for."""
    source, made = folder / "main.c", folder / "main.o"
    source.write_text(text)
    _do("gcc", *FLAGS.replace("-m32", "-m64 -mcmodel=large -mno-red-zone").split(), "-c", source, "-o", made)
    return link(folder, assembled(folder, START_LONG, width=64), made, emulation="elf_x86_64")


def smp_program(folder: Path, n_cpus: int) -> Program:
    """A program that starts so many CPUs."""
    source, made = folder / "main.c", folder / "main.o"
    source.write_text(SMP)
    _do("gcc", *FLAGS.split(), f"-DN={n_cpus}", "-c", source, "-o", made)
    return link(folder, assembled(folder, START_SMP), made)


def _do(*command: str | Path) -> None:
    subprocess.run(command, check=True, timeout=60)
