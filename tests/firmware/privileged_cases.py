"""What privileged code sees, case by case: priorities of faults, rights, shadows, traps, virtual interrupts, XSAVE,
translations, the local APIC, A20.

Source: Intel SDM; what must come is in tests/firmware/test_privileged_rom.py.
"""

from __future__ import annotations

from tests.firmware.privileged_rom import ENTRY, IDT, PAGE, PAGING, RESULT, STAYS, TSS, at_level_3, virtual_8086

IF, TF, IOPL3, NT, AC, VIF, VIP = 0x200, 0x100, 0x3000, 0x4000, 0x40000, 0x80000, 0x100000
TS, EM, MP, AM = 8, 4, 2, 0x40000


def cr0(bits: int, clear: int = 0) -> str:
    return f"mov eax, cr0\n or eax, {bits}\n and eax, {~clear & 0xFFFFFFFF}\n mov cr0, eax\n xor eax, eax\n"


def cr4(bits: int) -> str:
    return f"mov eax, {bits}\n mov cr4, eax\n xor eax, eax\n"


def send(command: int) -> str:
    """A message of the local APIC, to itself."""
    return f"mov dword ptr [edi + 0x300], {command | 0x44000:#x}\n"


def absent(vector: int) -> str:
    """An IDT gate that is not present."""
    return f"mov byte ptr [{IDT + 8 * vector + 5:#x}], 0x0E\n"


PENDING = send(0x51)
WAIT = "mov ecx, 2000\n 66: loop 66b\n"
UNMASKED = "mov dword ptr [0x700], 0x0340\n fldcw [0x700]\n fld1\n fldz\n fdivp\n"
"""A division by zero that is pending."""
V = virtual_8086
VME, PVI, OSFXSR, OSXSAVE, PSE, PGE = 1, 2, 0x200, 0x40000, 0x10, 0x80

CODES: dict[str, str] = {
    # ---- priorities of faults: vol. 3, table 6-2; vol. 2, the instructions' exceptions ----
    "undefined before privileged": at_level_3(".byte 0x0F, 0x20, 0xC8"),
    "lock before privileged": at_level_3(".byte 0xF0\n hlt"),
    "privileged": at_level_3("hlt"),
    "sse with em and ts": cr4(OSFXSR) + cr0(EM | TS) + "movaps xmm0, xmm0",
    "sse with ts": cr4(OSFXSR) + cr0(TS) + "movaps xmm0, xmm0",
    "sse without osfxsr": cr0(TS) + "movaps xmm0, xmm0",
    "mmx with em": cr0(EM) + "movd mm0, eax",
    "x87 with em": cr0(EM) + "fld1",
    "x87 with ts": cr0(TS) + "fld1",
    "wait with ts": cr0(TS) + f"fwait\n mov {RESULT}, 1",
    "wait with ts and mp": cr0(TS | MP) + "fwait",
    "device before pending x87": UNMASKED + cr0(TS | MP) + "fwait",
    "pending x87": UNMASKED + "fwait",
    "pending x87 before its operand": PAGING + "\n" + UNMASKED + f"fld dword ptr [{PAGE:#x}]",
    "no wait, no fault": UNMASKED + "fnstsw ax\n mov [0x600], eax\n fnclex",
    "device before its operand": PAGING + "\n" + cr0(TS) + f"fld dword ptr [{PAGE:#x}]",
    "alignment of sse before the page": PAGING + "\n" + cr4(OSFXSR) + f"movaps xmm0, [{PAGE + 8:#x}]",
    "limit before the page": PAGING + f"\n mov ax, 0x30\n mov fs, ax\n mov eax, fs:[{PAGE:#x}]",
    "stack limit before the page": PAGING + "\n" + at_level_3(f"mov ax, 0x3B\n mov ss, ax\n"
    f" mov ebp, {PAGE:#x}\n mov eax, [ebp]"),
    "null selector": "xor eax, eax\n mov fs, ax\n mov eax, fs:[0]",
    "too long": ".fill 15, 1, 0x3E\n nop",
    "as long as may be": f".fill 14, 1, 0x3E\n nop\n mov {RESULT}, 1",
    "int n by a gate of level 0": at_level_3("int 0x21"),
    "privilege of a gate before its presence": absent(0x21) + at_level_3("int 0x21"),
    "absent gate of int n": absent(0x21) + "int 0x21",
    "absent gate of int3": absent(3) + "int3",
    "absent gate of a fault": absent(6) + "ud2",
    "absent gate of an interrupt": absent(0x51) + PENDING + "sti\n nop\n nop",
    "double fault": absent(0) + "div ecx",
    "no double fault of a benign one": absent(1) + ".byte 0xF1",
    "page fault, then a fault": PAGING + "\n" + absent(14) + f"mov eax, [{PAGE:#x}]",
    "bound": "mov dword ptr [0x700], 5\n mov dword ptr [0x704], 9\n bound eax, [0x700]",
    "into": "mov al, 127\n inc al\n into",
    "alignment": cr0(AM) + at_level_3("mov eax, [0x701]\n ud2", AC),
    "alignment at level 0": cr0(AM) + f"push {AC}\n popfd\n mov eax, [0x701]\n push 2\n popfd",
    "alignment of sse": cr0(AM) + cr4(OSFXSR) + at_level_3("movaps xmm0, [0x708]", AC),
    # ---- what level 3 may not ----
    **{f"level 3: {code}": at_level_3(code + "\n ud2") for code in (
        "cli", "sti", "in al, dx", "out dx, al", "lgdt [0x700]", "lidt [0x700]", "lldt ax", "ltr ax", "clts", "lmsw ax",
        "mov eax, cr0", "mov cr3, eax", "mov eax, dr0", "mov dr7, eax", "invd", "wbinvd", "invlpg [eax]", "rdmsr", "wrmsr",
        "sysexit", "rdpmc", "rsm",
    )},
    "level 3: what it may": at_level_3(f"sldt ax\n str ax\n smsw ax\n sgdt [0x700]\n sidt [0x700]\n rdtsc\n"
    f" cpuid\n mov {RESULT}, 1\n ud2"),
    "level 3 with iopl 3": at_level_3(f"sti\n cli\n in al, 0x80\n mov {RESULT}, 1\n ud2", IOPL3),
    "iopl of popf": at_level_3("push 0x3202\n popfd\n pushfd\n pop [0x600]\n ud2"),
    **{f"umip: {code}": cr4(0x800) + at_level_3(code + "\n"
    " ud2") for code in ("sgdt [0x700]", "sidt [0x700]", "sldt ax", "str ax", "smsw ax")},
    "tsd": cr4(4) + at_level_3("rdtsc\n ud2"),
    # ---- control registers and MSRs ----
    "paging without protection": "mov eax, 0x80000010\n mov cr0, eax",
    "nw without cd": "mov eax, cr0\n or eax, 0x20000000\n and eax, 0xBFFFFFFF\n mov cr0, eax",
    "cr4's reserved bit": "mov eax, 0x80000000\n mov cr4, eax",
    "no msr": "mov ecx, 0x4FFFFFFF\n rdmsr",
    "reserved bits of the apic's base": "mov ecx, 0x1B\n mov eax, 0xFEE00801\n xor edx, edx\n wrmsr",
    "no memory type": "mov ecx, 0x277\n mov eax, 2\n xor edx, edx\n wrmsr",
    "long mode without pae": "mov ecx, 0xC0000080\n rdmsr\n or eax, 0x100\n wrmsr\n" + PAGING,
    "leave efer": "mov ecx, 0xC0000080\n xor eax, eax\n xor edx, edx\n wrmsr",
    "sysenter without a segment": "mov ecx, 0x174\n xor eax, eax\n xor edx, edx\n wrmsr\n sysenter",
    "sysenter": "mov ecx, 0x174\n mov eax, 8\n xor edx, edx\n wrmsr\n inc ecx\n mov eax, 0x1F000\n wrmsr\n inc ecx\n"
    "mov eax, offset 76f\n wrmsr\n sysenter\n 76: mov ax, cs\n shl eax, 16\n mov ax, ss\n mov [0x600], eax\n"
    " mov [0x604], esp\n ud2",
    # ---- STI, MOV SS, POPF, IRET: vol. 2, STI, MOV; vol. 3, 6.8.1, 6.8.3 ----
    "sti": f"{STAYS}\n {PENDING} sti\n nop\n nop",
    "sti and cli": f"{STAYS}\n {PENDING} sti\n cli\n nop\n nop",
    "popf": f"{STAYS}\n {PENDING} push {IF | 2}\n popfd\n nop\n nop",
    "iret": f"{STAYS}\n {PENDING} push {IF | 2}\n push 8\n push offset 76f\n iretd\n 76: nop\n nop",
    "sti and mov ss": f"{STAYS}\n {PENDING} mov ax, ss\n sti\n mov ss, ax\n nop\n nop",
    "sti and hlt": f"{STAYS}\n {PENDING} sti\n hlt\n nop",
    "sti before a fault": f"{PENDING} sti\n ud2",
    "sti before int": f"{PENDING} sti\n int 0x22",
    # ---- TF: vol. 3, 17.3.1.4, 6.8.3 ----
    "step": f"{STAYS}\n push {TF | 2}\n popfd\n nop\n nop",
    "step over mov ss": f"{STAYS}\n mov ax, ss\n push {TF | 2}\n popfd\n mov ss, ax\n nop\n nop",
    "step by iret": f"{STAYS}\n push {TF | 2}\n push 8\n push offset 76f\n iretd\n 76: nop\n nop",
    "step into a fault": f"push {TF | 2}\n popfd\n ud2",
    "step over int": f"push {TF | 2}\n popfd\n int 0x22",
    "step of sti": f"{STAYS}\n push {TF | 2}\n popfd\n sti\n nop",
    "step, and what is in dr6": f"push {TF | 2}\n popfd\n nop",
    "icebp": f"{STAYS}\n .byte 0xF1\n mov eax, dr6\n mov [0x600], eax",
    "step's dr6": f"{STAYS}\n push {TF | 2}\n popfd\n nop\n mov eax, dr6\n mov [0x600], eax",
    # ---- virtual-8086 mode with VME: vol. 3, 20.3 ----
    "v86: cli": V("cli", 0),
    "v86: cli with iopl 3": V("cli", IOPL3 | IF),
    "v86: pushf": V("pushf", 0),
    "v86: int": V("int 0x21", 0),
    "v86: int with iopl 3": V("int 0x21", IOPL3),
    "vme: cli": cr4(VME) + V("cli", VIF | IF),
    "vme: sti": cr4(VME) + V("sti\n nop", IF),
    "vme: sti while vip": cr4(VME) + V("sti", IF | VIP),
    "vme: pushf": cr4(VME) + V("pushf\n pop ax\n mov [0x600], ax", VIF | IF),
    "vme: pushf without vif": cr4(VME) + V("pushf\n pop ax\n mov [0x600], ax", IF),
    "vme: popf": cr4(VME) + V("push 0x200\n popf", IF),
    "vme: popf while vip": cr4(VME) + V("push 0x200\n popf", IF | VIP),
    "vme: popf of tf": cr4(VME) + V("push 0x100\n popf", IF),
    "vme: pushfd": cr4(VME) + V("pushfd", IF),
    "vme: int to the program": cr4(VME) + "mov eax, offset 78f\n and eax, 0xFFFF\n or eax, 0xF0000000\n mov [0x84], eax\n"
    + V("int 0x21\n hlt\n 78: pop ax\n pop ax\n pop ax\n mov [0x600], ax", VIF | IF),
    "vme: int to the monitor": cr4(VME) + f"mov byte ptr [{TSS + 0x6C:#x}], 2\n" + V("int 0x21", VIF | IF),
    "vme: int with iopl 3": cr4(VME) + f"mov byte ptr [{TSS + 0x6C:#x}], 2\n" + V("int 0x21", IOPL3 | IF),
    "vme: iret": cr4(VME) + V("push 0x200\n push 0xF000\n mov eax, offset 78f\n push ax\n iret\n 78: nop", IF),
    "vme: port": cr4(VME) + V("in al, 0x80", IF | IOPL3),
    "pvi: sti": cr4(PVI) + at_level_3("sti\n nop\n ud2"),
    "pvi: cli": cr4(PVI) + at_level_3("cli\n ud2", VIF),
    "pvi: sti while vip": cr4(PVI) + at_level_3("sti\n ud2", VIP),
    # ---- XSAVE: vol. 1, 13; vol. 2 ----
    "xgetbv without osxsave": "xgetbv",
    "xsave without osxsave": "xsave [0x8000]",
    "xgetbv": cr4(OSXSAVE) + "xor ecx, ecx\n xgetbv\n mov [0x600], eax",
    "osxsave in cpuid": cr4(OSXSAVE) + "mov eax, 1\n cpuid\n and ecx, 0x8000000\n mov [0x600], ecx",
    "xsetbv": cr4(OSXSAVE) + "mov eax, 3\n xsetbv\n xor eax, eax\n xgetbv\n mov [0x600], eax\n mov eax, 1\n"
    " xor edx, edx\n xsetbv",
    "xsetbv without x87": cr4(OSXSAVE) + "mov eax, 2\n xsetbv",
    "xsetbv of a reserved bit": cr4(OSXSAVE) + "mov eax, 1\n mov edx, 0x40000000\n xsetbv",
    "xsetbv of avx without sse": cr4(OSXSAVE) + "mov eax, 5\n xsetbv",
    "xsetbv of no register": cr4(OSXSAVE) + "mov eax, 1\n mov ecx, 5\n xsetbv",
    "xsetbv at level 3": cr4(OSXSAVE) + at_level_3("mov eax, 1\n xsetbv\n ud2"),
    "xgetbv at level 3": cr4(OSXSAVE) + at_level_3("xgetbv\n mov [0x600], eax\n ud2"),
    "xsave with ts": cr4(OSXSAVE) + cr0(TS) + "xsave [0x8000]",
    "xsave, misaligned": cr4(OSXSAVE) + "xsave [0x8010]",
    "xrstor, misaligned": cr4(OSXSAVE) + "xrstor [0x8010]",
    "xrstor of a bad header": cr4(OSXSAVE) + "mov eax, 1\n xsave [0x8000]\n mov byte ptr [0x8210], 1\n xrstor [0x8000]",
    "xrstor of what is not in xcr0": cr4(OSXSAVE) + "mov eax, 1\n xsave [0x8000]\n mov byte ptr [0x8200], 2\n"
    " xrstor [0x8000]",
    "xrstor of reserved mxcsr": cr4(OSXSAVE | OSFXSR) + "mov eax, 3\n xsetbv\n mov dword ptr [0x8210], 0\n"
    " xsave [0x8000]\n"
    "mov byte ptr [0x8200], 2\n mov dword ptr [0x8018], 0x80000000\n xrstor [0x8000]",
    "lock xsave": cr4(OSXSAVE) + ".byte 0xF0\n xsave [0x8000]",
    # ---- translations: vol. 3, 4.10 ----
    **{f"new page by {name}": f"mov dword ptr [0x9000], 0x1111\n mov dword ptr [0xA000], 0x2222\n {PAGING}\n {cr4(PGE)}"
       f"mov {ENTRY}, {0x9003 | wide:#x}\n mov eax, [{PAGE:#x}]\n mov {ENTRY}, {0xA003 | wide:#x}\n {code}\n"
       f"mov eax, [{PAGE:#x}]\n mov [0x600], eax"
       for name, wide, code in (
        ("invlpg", 0, f"invlpg [{PAGE:#x}]"), ("cr3", 0, "mov eax, cr3\n mov cr3, eax"),
        ("invlpg, global", 0x100, f"invlpg [{PAGE + 0x234:#x}]"),
        ("cr4.pge, global", 0x100, "xor eax, eax\n mov cr4, eax"),
        ("cr0.pg, global", 0x100, "mov eax, cr0\n btr eax, 31\n mov cr0, eax\n jmp 76f\n 76: bts eax, 31\n mov cr0, eax"),
        ("cr4.pse", 0x100, cr4(PSE | PGE)),
    )},
    "accessed and dirty": f"{PAGING}\n mov {ENTRY}, 0x9003\n mov eax, [{PAGE:#x}]\n mov eax, {ENTRY}\n mov [0x600], eax\n"
    f"mov dword ptr [{PAGE:#x}], 5\n mov eax, {ENTRY}\n shl eax, 16\n or [0x600], eax",
    "a present entry needs no invlpg": f"{PAGING}\n mov {ENTRY}, 0x9003\n mov dword ptr [{PAGE:#x}], 7\n"
    f" mov eax, [0x9000]\n mov [0x600], eax",
    "no page": f"{PAGING}\n mov eax, [{PAGE:#x}]",
    "no page to write at level 3": f"{PAGING}\n" + at_level_3(f"mov [{PAGE:#x}], eax"),
    "supervisor's page at level 3": f"{PAGING}\n mov {ENTRY}, 0x9003\n" + at_level_3(f"mov eax, [{PAGE:#x}]"),
    "wp": f"{PAGING}\n mov {ENTRY}, 0x9001\n mov [{PAGE:#x}], eax",
    "without wp": f"{PAGING}\n {cr0(0, 0x10000)} mov {ENTRY}, 0x9001\n mov [{PAGE:#x}], eax",
    "over the border": f"{PAGING}\n mov {ENTRY}, 0x9003\n mov [{PAGE + 0xFFE:#x}], eax",
    # ---- local APIC: vol. 3, 10.5-10.8 ----
    "apic: by priority": f"{STAYS}\n {send(0x51)} {send(0x71)} {send(0x61)} sti\n nop\n nop\n nop",
    "apic: tpr": f"{STAYS}\n mov dword ptr [edi + 0x80], 0x60\n {send(0x51)} {send(0x71)} sti\n nop\n nop\n"
    f"mov eax, [edi + 0x220]\n mov dword ptr [edi + 0x80], 0x40\n {WAIT}",
    "apic: irr": f"{send(0x51)} {send(0x62)} {WAIT} mov eax, [edi + 0x220]\n mov ecx, [edi + 0x230]\n"
    f" shl ecx, 16\n or eax, ecx\n shr eax, 1\n mov [0x600], eax",
    "apic: ppr": "mov dword ptr [edi + 0x80], 0x35\n mov eax, [edi + 0xA0]\n mov [0x600], eax",
    "apic: illegal vector": f"mov dword ptr [edi + 0x280], 0\n"
    f" {send(0x0F)} {WAIT} mov dword ptr [edi + 0x280], 0\n mov eax, [edi + 0x280]\n mov [0x600], eax",
    "apic: nmi": f"{STAYS}\n mov dword ptr [edi + 0x310], 0\n mov dword ptr [edi + 0x300], 0x4400\n {WAIT}",
    "apic: timer": f"{STAYS}\n mov dword ptr [edi + 0x3E0], 0xB\n mov dword ptr [edi + 0x320], 0x52\n"
    f" mov dword ptr [edi + 0x380], 100\n sti\n hlt",
    "apic: masked timer": f"{STAYS}\n mov dword ptr [edi + 0x3E0], 0xB\n mov dword ptr [edi + 0x320], 0x10052\n"
    f" mov dword ptr [edi + 0x380], 100\n sti\n {WAIT} cli",
    "apic: version and id": "mov eax, [edi + 0x30]\n and eax, 0xF0\n shl eax, 4\n or eax, [edi + 0x20]\n mov [0x600], eax",
    "apic: switched off": f"{STAYS}\n {send(0x51)} mov dword ptr [edi + 0xF0], 0xFF\n mov eax, [edi + 0x320]\n"
    f" mov [0x600], eax",
    # ---- A20: the line is masked outside of the processor, on physical addresses ----
    "a20 off and on": "mov byte ptr [0x100700], 2\n in al, 0x92\n and al, 0xFC\n out 0x92, al\n"
    " mov byte ptr [0x100700], 7\n mov ah, [0x700]\n"
    "or al, 2\n out 0x92, al\n shl eax, 8\n mov al, [0x100700]\n mov ah, 0\n and eax, 0xFF00FF\n mov [0x600], eax",
}  # fmt: skip
