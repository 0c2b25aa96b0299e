"""Programs that use debug registers, for our engines and for QEMU: flat 32-bit code with a log of what #DB was told.

The handler of #DB notes the return address, DR6 and RF of the image, clears DR6, sets RF in the image and goes on; that
of #UD notes its address and skips two bytes.  An entry of `wanted` is `label:bits`, bits as in DR6, with RF in bit 16.
"""

from __future__ import annotations

from dataclasses import dataclass

WORDS, LOG = 0x9000, 0xA000
"""Where breakpoints lie, and the log: number of entries, then two words an entry."""
DB_HANDLER = f"""
    push eax
    push ebx
    mov ebx, [{LOG}]
    mov eax, [esp + 8]
    mov [{LOG} + 4 + ebx*8], eax
    mov eax, [esp + 16]
    and eax, 0x10000
    mov [{LOG} + 8 + ebx*8], eax
    mov eax, dr6
    and eax, 0xE00F
    or [{LOG} + 8 + ebx*8], eax
    mov eax, 0xFFFF0FF0
    mov dr6, eax
    inc dword ptr [{LOG}]
    or dword ptr [esp + 16], 0x10000
    pop ebx
    pop eax
    iretd
"""
UD_HANDLER = f"""
    push eax
    push ebx
    mov ebx, [{LOG}]
    mov eax, [esp + 8]
    mov [{LOG} + 4 + ebx*8], eax
    mov dword ptr [{LOG} + 8 + ebx*8], 0x60000000
    inc dword ptr [{LOG}]
    add dword ptr [esp + 8], 2
    pop ebx
    pop eax
    iretd
"""
RF, UD = 0x10000, 0x60000000
CODE, WRITE, PORT, ACCESS = range(4)
LENGTHS = {1: 0, 2: 1, 4: 3}
ON = "pushfd\n or dword ptr [esp], 0x100\n popfd\n"
OLD = "mov eax, 0xFFFF4FFA\n mov dr6, eax\n"
"""DR6 tells of B1, B3 and BS of before."""
DE = "mov eax, cr4\n or eax, 8\n mov cr4, eax\n"


def points(*what: tuple[str | int, int, int], extra: int = 0) -> str:
    """Code that sets DR0, DR1, ... to (address, R/W, bytes) and DR7, globally enabled."""
    lines, dr7 = [], 0x400 | extra
    for n, (address, kind, size) in enumerate(what):
        lines += [f"mov eax, {f'offset {address}' if isinstance(address, str) else address}", f"mov dr{n}, eax"]
        dr7 |= 2 << 2 * n | (kind | LENGTHS[size] << 2) << 16 + 4 * n
    return "\n".join([*lines, f"mov eax, {dr7}", "mov dr7, eax", ""])


@dataclass(frozen=True)
class Case:
    """`wanted`: the log.  `qemu`: whether QEMU (TCG, 7.2) does the same; where it does not, why ours is right is said."""

    source: str
    wanted: str
    qemu: bool = True


V = WORDS
CASES = {
    "write": Case(points((V, WRITE, 4)) + f"mov [{V}], eax\n a: mov eax, [{V}]\n b: nop", "a:1"),
    "a byte of four": Case(points((V, WRITE, 4)) + f"mov [{V + 3}], al\n a: mov [{V + 4}], al\n nop", "a:1"),
    "an access that begins before": Case(points((V, WRITE, 1)) + f"mov [{V - 3}], eax\n a: nop", "a:1"),
    "the address is aligned to the length": Case(
        points((V + 3, WRITE, 4), (V + 9, WRITE, 2))
        + f"mov [{V}], al\n a: mov [{V + 8}], al\n b: mov [{V + 10}], al\n nop",
        "a:1 b:2",
        qemu=False,  # QEMU takes the address as it is; vol. 3, 17.2.5: low bits are masked
    ),
    "read and write": Case(
        points((V, ACCESS, 2)) + f"mov ax, [{V + 1}]\n a: mov [{V + 1}], al\n b: cmp [{V + 2}], al\n nop", "a:1 b:1"
    ),
    "read-modify-write": Case(points((V, WRITE, 4)) + f"inc dword ptr [{V}]\n a: xchg [{V}], eax\n b: nop", "a:1 b:1"),
    "two at once": Case(
        points((V, WRITE, 4), (V + 2, ACCESS, 1)) + f"mov [{V}], eax\n a: mov al, [{V + 2}]\n b: nop",
        "a:3 b:2",
        qemu=False,  # QEMU tells one; vol. 3, 17.2.3: each condition that is met sets its bit
    ),
    "push and call": Case(
        points((0x8000 - 4, WRITE, 4))
        + "mov ebp, esp\n mov esp, 0x8000\n push eax\n a: pop eax\n call f\n nop\n f: mov esp, ebp\n",
        "a:1 f:1",
    ),
    "movs from one to the other": Case(
        points((V, ACCESS, 1), (V + 8, WRITE, 1)) + f"mov esi, {V}\n mov edi, {V + 8}\n movsb\n a: nop",
        "a:3",
        qemu=False,  # QEMU tells one; vol. 3, 17.2.3
    ),
    "rep movsb, in the middle": Case(
        points((V + 2, WRITE, 1)) + f"mov esi, 0x8000\n mov edi, {V}\n mov ecx, 5\n r: rep movsb\n a: nop",
        f"r:{1 | RF:#x}",
        qemu=False,  # QEMU clears RF in the image; vol. 3, 17.3.1.1: it is set for a trap between iterations
    ),
    "rep stosd, at its end": Case(
        points((V + 8, WRITE, 4)) + f"mov edi, {V}\n mov ecx, 3\n r: rep stosd\n a: nop",
        "a:1",
        qemu=False,  # QEMU traps with the instruction not complete; vol. 3, 17.3.1.2: behind the iteration
    ),
    "a code breakpoint": Case(points(("a", CODE, 1)) + "nop\n a: inc ebx\n b: inc ebx\n", "a:1"),
    "in the middle of a loop, often": Case(
        "mov ecx, 60\n"
        + points(("b", CODE, 1))
        + "a: inc ebx\n b: inc edx\n loop a\n mov dr7, esi\n xor eax, eax\n mov dr7, eax",
        " ".join(["b:1"] * 60),
    ),
    "set while the loop runs": Case(
        "mov ecx, 60\n mov eax, offset b\n mov dr0, eax\n a: inc ebx\n b: inc edx\n cmp ecx, 3\n jne c\n mov eax, 0x402\n"
        "mov dr7, eax\n c: loop a",
        "b:1 b:1",
    ),
    "data, in a loop that runs already": Case(
        f"mov ecx, 60\n mov eax, {V}\n mov dr0, eax\n a: inc dword ptr [{V}]\n b: cmp ecx, 3\n jne c\n mov eax, 0xD0402\n"
        "mov dr7, eax\n c: loop a",
        "b:1 b:1",
    ),
    "not enabled": Case(points((V, WRITE, 4)) + f"mov eax, 0xD0400\n mov dr7, eax\n mov [{V}], eax\n nop", ""),
    "locally enabled": Case(
        points((V, WRITE, 4)) + f"mov eax, 0xD0401\n mov dr7, eax\n mov [{V}], eax\n a: nop", "a:1"
    ),
    "code and data on one instruction": Case(
        points(("a", CODE, 1), (V, WRITE, 4)) + f"a: mov [{V}], eax\n b: nop", "a:1 b:2"
    ),
    "before the instruction's own fault": Case(points(("a", CODE, 1)) + "a: ud2\n nop", f"a:1 a:{UD:#x}"),
    "single step and data": Case(
        points((V, WRITE, 4))
        + ON
        + f"a: mov [{V}], eax\n b: pushfd\n c: and dword ptr [esp], 0xFFFFFEFF\n d: popfd\n z: nop",
        "b:0x4001 c:0x4000 d:0x4000 z:0x4000",
        qemu=False,  # QEMU steps the handler, too; vol. 3, 6.12.1.3: delivery clears TF
    ),
    "icebp leaves DR6": Case(
        ".byte 0xF1\n a: nop",
        "a:0",
        qemu=False,  # #UD on QEMU; vol. 2, INT1
    ),
    "data takes the place of earlier ones, and leaves BS": Case(
        points((V, WRITE, 4)) + f"{OLD} mov [{V}], eax\n a: nop", "a:0x4001"
    ),
    "code takes the place of earlier ones, and leaves BS": Case(points(("a", CODE, 1)) + f"{OLD} a: nop", "a:0x4001"),
    "a step takes earlier ones away, and leaves BS": Case(
        f"{OLD}{ON} a: push 2\n b: popfd\n c: nop", "b:0x4000 c:0x4000"
    ),
    "general detect takes away earlier ones": Case(
        OLD + points(extra=0x2000) + "a: mov eax, dr0\n nop",
        f"a:{0x6000 | RF:#x}",
        qemu=False,  # QEMU has no general detect; vol. 3, 17.2.4
    ),
    "RF of an IRET lets one instruction pass": Case(
        points(("a", CODE, 1)) + "mov ecx, 2\n pushfd\n or dword ptr [esp], 0x10000\n push cs\n push offset a\n iretd\n"
        "a: dec ecx\n jnz a",
        "a:1",
    ),
    "RF of an IRET is in the image of its trap": Case(
        f"pushfd\n or dword ptr [esp], 0x10000\n push cs\n push offset a\n {ON} iretd\n a: nop",
        f"a:{0x4000 | RF:#x}",
    ),
    "POPF does not set RF": Case(
        points(("a", CODE, 1)) + "pushfd\n or dword ptr [esp], 0x10000\n popfd\n a: nop", "a:1"
    ),
    "general detect": Case(
        points(extra=0x2000) + "a: mov eax, dr0\n b: mov eax, dr7\n test ah, 0x20\n jz c\n ud2\n c: nop",
        f"a:{0x2000 | RF:#x}",
        qemu=False,  # QEMU has no general detect; vol. 3, 17.2.4
    ),
    "a port that is read": Case(DE + points((0x61, PORT, 1)) + "in al, 0x61\n a: in al, 0x60\n nop", "a:1"),
    "a port that is written": Case(DE + points((0x80, PORT, 4)) + "out 0x82, al\n a: out 0x84, al\n nop", "a:1"),
    "ports without CR4.DE": Case(
        points((0x61, PORT, 1)) + "in al, 0x61\n nop",
        "",
        qemu=False,  # QEMU takes them; vol. 3, 17.2.4: undefined without DE
    ),
    "MOV SS holds the data trap back": Case(
        points((V, ACCESS, 2))
        + f"mov word ptr [{V + 16}], ss\n mov eax, {V + 16}\n mov dr0, eax\n mov ss, [{V + 16}]\n nop\n a: nop",
        "a:1",
        qemu=False,  # QEMU traps at once; vol. 3, 6.8.3
    ),
    "ICEBP behind MOV SS takes the place of the data trap": Case(
        points((V, ACCESS, 2))
        + f"mov word ptr [{V + 16}], ss\n mov eax, {V + 16}\n mov dr0, eax\n mov ss, [{V + 16}]\n .byte 0xF1\n a: nop",
        "a:0",
        qemu=False,  # #UD on QEMU; measured on silicon, whose #DB is one
    ),
    "no code breakpoint behind MOV SS": Case(
        points(("a", CODE, 1)) + "mov ax, ss\n mov ss, ax\n a: inc ebx\n nop",
        "",
        qemu=False,  # QEMU stops; vol. 3, 6.8.3
    ),
}


def source_of(case: Case) -> str:
    """The program; behind it the log as it is expected."""
    words = [f"{label}, {bits}" for label, bits in (entry.split(":") for entry in case.wanted.split())]
    end = "xor eax, eax\n mov dr7, eax\n mov eax, cr4\n and eax, 0xFFFFFFF7\n mov cr4, eax\n"
    data = "\n".join(f" .long {pair}" for pair in words)
    return f"{case.source}\n jmp done\n done: {end}{{finish}}\n .align 4\n .long 0xE0D0E0D\n .long {len(words)}\n{data}"
