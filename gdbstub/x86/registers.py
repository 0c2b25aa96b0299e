"""The registers of a PC's processor, in the order and by the names that gdb knows, and those that it does not know.

Source: gdb's manual, "i386 Features" (core, sse, segments); the rest is this package's own feature. In it:

* `fip` and `fdp` are all 64 bits of the x87 pointers of 64-bit code, of which `fioff` and `fooff` show the lower ones.
* `ip` and `cs_base` are the program counter in parts; `rip` (`eip`) is what the target makes of them for breakpoints
  and symbols.
* `XX_base`, `XX_limit` (in bytes, after granularity) and `XX_attr` are the hidden parts of segment registers.
  Attributes are bits 8 to 23 of the descriptor's high word, moved down by 8, with bit 16 for a segment that can't be
  used: the VMX format.
* `cr0`, `cr4`, `efer`, `dr6` and `dr7` are plain integers; `cr0_bits` and so on name their bits (views).
* MSRs go by their names without MSR or IA32; `efer` and `k_gs_base` have the names that QEMU gave them.
"""

from __future__ import annotations

from gdbstub.layout import Feature, Register
from gdbstub.x86 import types

SEGMENTS = "es cs ss ds fs gs".split()
SYSTEM = "system"
"""The group of registers that programs do not use: a set of its own in lldb.  gdb 13 has groups of its own on x86."""


def _core(general: str, size: int, pc: str, pointers: str) -> Feature:
    registers = [Register(n, size, "data_ptr" if n in pointers.split() else f"int{size * 8}") for n in general.split()]
    registers += [Register(pc, size, "code_ptr"), Register("eflags", 4, "i386_eflags")]
    registers += [Register(name, 4, "int32") for name in "cs ss ds es fs gs".split()]
    registers += [Register(f"st{n}", 10, "i387_ext") for n in range(8)]
    wide = {"fioff": "fip", "fooff": "fdp"} if size == 8 else {}
    words = "fctrl fstat ftag fiseg fioff foseg fooff fop".split()
    registers += [Register(n, 4, "int", "float", wide.get(n, "")) for n in words]
    return Feature("org.gnu.gdb.i386.core", tuple(registers), (types.EFLAGS,))


def _sse(count: int) -> Feature:
    registers = [Register(f"xmm{n}", 16, "vec128") for n in range(count)]
    registers.append(Register("mxcsr", 4, "i386_mxcsr", "vector"))
    return Feature("org.gnu.gdb.i386.sse", tuple(registers), (*types.VECTOR, types.MXCSR))


def _system(width: int, segment_bases: str, extra_control: str, x87: str) -> Feature:
    """Everything else; `width` is the size of an address."""
    word = f"uint{width * 8}"
    registers = [Register(name, width, word) for name in ("cr0", "cr2", "cr3", "cr4", *extra_control.split())]
    registers += [Register("efer", 8, "uint64")]
    registers += [Register("cr0_bits", 4, "x86_cr0", "", "cr0"), Register("cr4_bits", 4, "x86_cr4", "", "cr4")]
    registers += [Register("efer_bits", 4, "x86_efer", "", "efer")]
    registers += [Register(name, width, word, "float") for name in x87.split()]
    registers += [Register("ip", width, word, SYSTEM)]
    registers += [Register(f"{name}_base", width, word, SYSTEM) for name in segment_bases.split()]
    for name in [*SEGMENTS, "ldtr", "tr"]:
        registers.append(Register(f"{name}_limit", 4, "uint32", SYSTEM))
        registers.append(Register(f"{name}_attr", 4, "x86_segment", SYSTEM))
    registers += [Register(name, 4, "uint32", SYSTEM) for name in ("ldtr", "tr")]
    registers += [Register(f"{name}_base", width, word, SYSTEM) for name in ("ldtr", "tr", "gdtr", "idtr")]
    registers += [Register(f"{name}_limit", 4, "uint32", SYSTEM) for name in ("gdtr", "idtr")]
    registers += [Register(f"dr{n}", width, word, SYSTEM) for n in (0, 1, 2, 3, 6, 7)]
    registers += [Register(f"dr{n}_bits", 4, f"x86_dr{n}", SYSTEM, f"dr{n}") for n in (6, 7)]
    registers += [Register(name, 8, "uint64", SYSTEM) for name in MSRS.split()]
    kinds = (types.CR0, types.CR4, types.EFER, types.ATTRIBUTES, types.DR6, types.DR7)
    return Feature("org.jitvm.x86.system", tuple(registers), kinds)


MSRS = "tsc apic_base sysenter_cs sysenter_esp sysenter_eip pat star lstar cstar fmask tsc_aux"

FEATURES_64 = (
    _core("rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15", 8, "rip", "rbp rsp"),
    _sse(16),
    Feature("org.gnu.gdb.i386.segments", (Register("fs_base", 8, "uint64"), Register("gs_base", 8, "uint64"))),
    _system(8, "cs es ss ds", "cr8 k_gs_base", "fip fdp"),
)
FEATURES_32 = (
    _core("eax ecx edx ebx esp ebp esi edi", 4, "eip", "esp ebp"),
    _sse(8),
    _system(4, "cs es ss ds fs gs", "", ""),
)
