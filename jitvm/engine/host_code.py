"""Host instructions of which gates, pads and counters are made, each written by hand to an address, natively.

Each function gives the address behind what it wrote.  Registers (preserve_none of LLVM 22): r12 CPU record, r13 micro-op
(in pinned code a guest register: `pinned.ARGUMENTS`), r14 budget; rax is free.  Encodings: Intel SDM vol. 2, chapters 3, 4.
"""

from __future__ import annotations

from jitvm.engine.layout import at
from jitvm.isa.host import poke
from jitvm.isa.words import W1, W2, W3, W4, W5, W7, W8, W10, W12, u64

FLOOR = u64(at("floor"))


def jump(to, target):
    """jmp target"""
    poke(to, W1, u64(0xE9))
    poke(to + W1, W4, target - (to + W5))
    return to + W5


def jump_by_record(to, field):
    """jmp [r12 + field]"""
    poke(to, W4, u64(0x24A4_FF41))
    poke(to + W4, W4, field)
    return to + W8


def set_rax(to, v):
    """mov rax, v"""
    poke(to, W2, u64(0xB848))
    poke(to + W2, W8, v)
    return to + W10


def record_to_rax(to, field):
    """mov rax, [r12 + field]"""
    poke(to, W4, u64(0x2484_8B49))
    poke(to + W4, W4, field)
    return to + W8


def rax_to_record(to, field):
    """mov [r12 + field], rax"""
    poke(to, W4, u64(0x2484_8949))
    poke(to + W4, W4, field)
    return to + W8


def set_uop(to, u):
    """mov r13, u"""
    poke(to, W2, u64(0xBD49))
    poke(to + W2, W8, u)
    return to + W10


def change_budget(to, modrm, n):
    """add (modrm C6h) or sub (EEh) r14, n"""
    poke(to, W2, u64(0x8149))
    poke(to + W2, W1, modrm)
    poke(to + W3, W4, n)
    return to + W7


def charge(to, n, out):
    """sub r14, n; cmp r14, [r12 + floor]; jl out: 21 bytes."""
    to = change_budget(to, u64(0xEE), n)
    poke(to, W4, u64(0x24B4_3B4D))
    poke(to + W4, W4, FLOOR)
    poke(to + W8, W2, u64(0x8C0F))
    poke(to + W10, W4, out - (to + W7 + W7))
    return to + W7 + W7


def counter(to, field, n):
    """add qword [r12 + field], n"""
    poke(to, W4, u64(0x2484_8149))
    poke(to + W4, W4, field)
    poke(to + W8, W4, n)
    return to + W12
