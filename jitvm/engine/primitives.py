"""Native bodies of `jitvm/isa/host.py`: the named primitives that all compiled code may use, always inlined.

Guest memory is read and written with `volatile` accesses of alignment 1: a plain one may be hoisted out of a loop, merged
or dropped by LLVM, and an `atomic` one of alignment 1 becomes a library call.  This list, the record accesses of the
units and the stitcher's own micro-op reads are all the memory accesses there are (the IR audit).
"""

from __future__ import annotations

import platform

from jitvm.engine.layout import at
from jitvm.isa.host_x87 import AVAILABLE, CODE

_PEEK_CASES = {1: "i8", 2: "i16", 4: "i32"}


def _peek() -> str:
    lines = ["define internal i64 @u_host_peek(i64 %address, i64 %size) alwaysinline {"]
    lines.append("  %p = inttoptr i64 %address to ptr")
    lines.append("  switch i64 %size, label %s8 [ i64 1, label %s1 i64 2, label %s2 i64 4, label %s4 ]")
    for size, ty in _PEEK_CASES.items():
        lines += [f"s{size}:", f"  %v{size} = load volatile {ty}, ptr %p, align 1"]
        lines += [f"  %w{size} = zext {ty} %v{size} to i64", f"  ret i64 %w{size}"]
    lines += ["s8:", "  %v8 = load volatile i64, ptr %p, align 1", "  ret i64 %v8", "}"]
    return "\n".join(lines)


def _poke() -> str:
    lines = ["define internal i64 @u_host_poke(i64 %address, i64 %size, i64 %v) alwaysinline {"]
    lines.append("  %p = inttoptr i64 %address to ptr")
    lines.append("  switch i64 %size, label %s8 [ i64 1, label %s1 i64 2, label %s2 i64 4, label %s4 ]")
    for size, ty in _PEEK_CASES.items():
        lines += [f"s{size}:", f"  %v{size} = trunc i64 %v to {ty}"]
        lines += [f"  store volatile {ty} %v{size}, ptr %p, align 1", "  ret i64 0"]
    lines += ["s8:", "  store volatile i64 %v, ptr %p, align 1", "  ret i64 0", "}"]
    return "\n".join(lines)


def _swap() -> str:
    lines = ["define internal i64 @u_host_swap(i64 %address, i64 %size, i64 %old, i64 %v) alwaysinline {"]
    lines.append("  %p = inttoptr i64 %address to ptr")
    lines.append("  switch i64 %size, label %s8 [ i64 1, label %s1 i64 2, label %s2 i64 4, label %s4 ]")
    for size, ty in (*_PEEK_CASES.items(), (8, "i64")):
        way = "trunc" if size < 8 else "bitcast"
        lines += [f"s{size}:", f"  %o{size} = {way} i64 %old to {ty}", f"  %n{size} = {way} i64 %v to {ty}"]
        pair = f"ptr %p, {ty} %o{size}, {ty} %n{size} seq_cst seq_cst, align {size}"
        lines += [f"  %b{size} = cmpxchg volatile {pair}", f"  %d{size} = extractvalue {{ {ty}, i1 }} %b{size}, 1"]
        lines += [f"  %r{size} = zext i1 %d{size} to i64", f"  ret i64 %r{size}"]
    return "\n".join([*lines, "}"])


_SWAP_WIDE_HEAD = (
    "define internal i64 @u_host_swap_wide"
    "(i64 %address, i64 %old_low, i64 %old_high, i64 %low, i64 %high) alwaysinline {"
)
_SWAP_WIDE_X86 = f"""{_SWAP_WIDE_HEAD}
  %r = call {{ i64, i64, i64, i64 }} asm sideeffect "xchgq %rbx, $3; lock cmpxchg16b ($4); movq $3, %rbx; sete %al; \
movzbl %al, %eax", "={{ax}},={{dx}},={{cx}},=&r,{{si}},0,1,2,3,~{{memory}},~{{dirflag}},~{{fpsr}},~{{flags}}"\
(i64 %address, i64 %old_low, i64 %old_high, i64 %high, i64 %low)
  %done = extractvalue {{ i64, i64, i64, i64 }} %r, 0
  ret i64 %done
}}"""
"""RBX is LLVM's own where a function has a base pointer: it is kept in the register that brings the low half."""
_SWAP_WIDE_OTHER = f"""{_SWAP_WIDE_HEAD}
  %p = inttoptr i64 %address to ptr
  %a = zext i64 %old_low to i128
  %b = zext i64 %old_high to i128
  %c = shl i128 %b, 64
  %old = or i128 %a, %c
  %d = zext i64 %low to i128
  %e = zext i64 %high to i128
  %f = shl i128 %e, 64
  %new = or i128 %d, %f
  %pair = cmpxchg volatile ptr %p, i128 %old, i128 %new seq_cst seq_cst, align 16
  %did = extractvalue {{ i128, i1 }} %pair, 1
  %r = zext i1 %did to i64
  ret i64 %r
}}"""

_FILL = """define internal i64 @u_host_fill(i64 %address, i64 %n, i64 %v) alwaysinline {
entry:
  %p = inttoptr i64 %address to ptr
  br label %test
test:
  %k = phi i64 [ 0, %entry ], [ %next, %word ]
  %more = icmp ult i64 %k, %n
  br i1 %more, label %word, label %done
word:
  %at = getelementptr i64, ptr %p, i64 %k
  store i64 %v, ptr %at, align 8
  %next = add i64 %k, 1
  br label %test
done:
  ret i64 0
}"""


def _product(name: str, extend: str) -> str:
    return f"""define internal i64 @u_host_{name}(i64 %a, i64 %b) alwaysinline {{
  %x = {extend} i64 %a to i128
  %y = {extend} i64 %b to i128
  %p = mul i128 %x, %y
  %h = lshr i128 %p, 64
  %r = trunc i128 %h to i64
  ret i64 %r
}}"""


_DIV_X86 = """define internal i64 @u_host_div_wide(i64 %hi, i64 %lo, i64 %d) alwaysinline {
  %both = call { i64, i64 } asm "divq $4", "={ax},={dx},{ax},{dx},r,~{dirflag},~{fpsr},~{flags}"(i64 %lo, i64 %hi, i64 %d)
  %q = extractvalue { i64, i64 } %both, 0
  ret i64 %q
}"""
_DIV_OTHER = """define internal i64 @u_host_div_wide(i64 %hi, i64 %lo, i64 %d) alwaysinline {
  %h = zext i64 %hi to i128
  %l = zext i64 %lo to i128
  %s = shl i128 %h, 64
  %n = or i128 %s, %l
  %w = zext i64 %d to i128
  %q = udiv i128 %n, %w
  %r = trunc i128 %q to i64
  ret i64 %r
}"""
"""On hosts without a 128-by-64 division LLVM calls libgcc's __udivti3, which the backend makes known."""

_SERIALIZE_X86 = """define internal i64 @u_host_serialize() alwaysinline {
  call void asm sideeffect "subq $$128, %rsp; mov %ss, %eax; pushq %rax; leaq 8(%rsp), %rax; pushq %rax; pushfq; \
mov %cs, %eax; pushq %rax; leaq 1f(%rip), %rax; pushq %rax; iretq; 1: addq $$128, %rsp", \
"~{rax},~{memory},~{dirflag},~{fpsr},~{flags}"()
  ret i64 0
}"""
"""IRET to the next instruction is serializing (SDM vol. 3, 9.3, "Serializing Instructions"), and no hypervisor need know."""
_SERIALIZE_OTHER = "define internal i64 @u_host_serialize() alwaysinline {\n  ret i64 0\n}"

_GET_MXCSR_X86 = """define internal i64 @u_host_get_mxcsr() alwaysinline {
  %p = alloca i32
  call void asm sideeffect "stmxcsr $0", "=*m"(ptr elementtype(i32) %p)
  %v = load i32, ptr %p
  %r = zext i32 %v to i64
  ret i64 %r
}"""
_SET_MXCSR_X86 = """define internal i64 @u_host_set_mxcsr(i64 %v) alwaysinline {
  %p = alloca i32
  %w = trunc i64 %v to i32
  store i32 %w, ptr %p
  call void asm sideeffect "ldmxcsr $0", "*m"(ptr elementtype(i32) %p)
  ret i64 0
}"""
_GET_MXCSR_OTHER = "define internal i64 @u_host_get_mxcsr() alwaysinline {\n  ret i64 0\n}"
_SET_MXCSR_OTHER = "define internal i64 @u_host_set_mxcsr(i64 %v) alwaysinline {\n  ret i64 0\n}"
"""On other hosts no CPU announces SSE: nobody asks."""
_FENCE = "define internal i64 @u_host_fence() alwaysinline {\n  fence seq_cst\n  ret i64 0\n}"
X87_CLOBBERS = ",".join(f"~{{{name}}}" for name in ("st", *(f"st({k})" for k in range(1, 8)), "fpsr", "fpcr"))
_X87_X86 = f"""define internal i64 @u_host_x87_run(ptr %c, i64 %op) alwaysinline {{
  %wide = getelementptr i8, ptr %c, i64 {at("wide")}
  %sw = call i64 asm sideeffect ".byte {",".join(map(str, CODE))}", \
"={{ax}},{{di}},{{si}},~{{rdx}},{X87_CLOBBERS},~{{memory}},~{{dirflag}},~{{flags}}"(ptr %wide, i64 %op)
  ret i64 %sw
}}"""
"""The machine code itself is `jitvm/isa/host_x87.py`'s, as the plain engine has it."""
_X87_OTHER = "define internal i64 @u_host_x87_run(ptr %c, i64 %op) alwaysinline {\n  ret i64 0\n}"
"""Never called: no CPU model has an FPU on such a host."""

PRIMITIVES: dict[str, str] = {
    "host.peek": _peek(),
    "host.poke": _poke(),
    "host.swap": _swap(),
    "host.swap_wide": _SWAP_WIDE_X86 if platform.machine() == "x86_64" else _SWAP_WIDE_OTHER,
    "host.fill": _FILL,
    "host.mul_high": _product("mul_high", "zext"),
    "host.smul_high": _product("smul_high", "sext"),
    "host.div_wide": _DIV_X86 if platform.machine() == "x86_64" else _DIV_OTHER,
    "host.serialize": _SERIALIZE_X86 if platform.machine() == "x86_64" else _SERIALIZE_OTHER,
    "host.get_mxcsr": _GET_MXCSR_X86 if platform.machine() == "x86_64" else _GET_MXCSR_OTHER,
    "host.set_mxcsr": _SET_MXCSR_X86 if platform.machine() == "x86_64" else _SET_MXCSR_OTHER,
    "host.fence": _FENCE,
    "host_x87.run": _X87_X86 if AVAILABLE else _X87_OTHER,
}
"""LLVM text by unit name; see `units.symbol`."""
