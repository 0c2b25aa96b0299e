"""What each CPU feature brings, a probe each: code that gives a result with the feature, and #UD or #GP(0) without.

Source: Intel SDM vol. 2 (each instruction's exceptions), vol. 3, 2.5 (bits of CR4), 13.3 (XCR0), vol. 4, 2.1 (MSRs).
"""

from __future__ import annotations

from typing import NamedTuple

UD, GP = 6, 13
DATA = 0x8100
"""Where memory operands lie: 64-byte aligned, zeros."""


class Probe(NamedTuple):
    """`needs`: names of features, all of which must be there; none: it never works.  `fault` comes without them, and #UD
    where the instruction itself comes with a feature, `by`, that is not there.

    `code` may change EAX to EDX and XMM0, and leaves CR4 as it was; `{a}` in it is EAX or RAX.
    """

    needs: tuple[str, ...]
    code: str
    fault: int = UD
    bits: tuple[int, ...] = (32, 64)
    by: str = ""


def on(code: str, *needs: str) -> Probe:
    """An instruction."""
    return Probe(needs, code)


def on_64(code: str, *needs: str) -> Probe:
    """One of 64-bit code alone."""
    return Probe((*needs, "lm"), code, UD, (64,))


def msr(number: int, *needs: str, write: bool = True) -> Probe:
    """An MSR that is read, and written with what it had."""
    return Probe(("msr", *needs), f"mov ecx, {number}\n rdmsr" + "\n wrmsr" * write, GP, by="msr")


def no_msr(number: int) -> Probe:
    """One that no feature brings."""
    return Probe((), f"mov ecx, {number}\n rdmsr", GP, by="msr")


def msr_bit(number: int, bit: int, *needs: str) -> Probe:
    """A bit of an MSR that is set, and goes again."""
    code = f"mov ecx, {number}\n rdmsr\n mov ebx, eax\n bts eax, {bit}\n wrmsr\n mov eax, ebx\n wrmsr"
    return Probe(("msr", *needs), code, GP, by="msr")


def cr4(bit: int, *needs: str, bits: tuple[int, ...] = (32,)) -> Probe:
    """A bit of CR4; in 32-bit code without paging, where it changes nothing."""
    a = "rax" if bits == (64,) else "eax"
    return Probe(needs, f"mov {a}, cr4\n bts {a}, {bit}\n mov cr4, {a}\n btr {a}, {bit}\n mov cr4, {a}", GP, bits)


M = f"[{DATA:#x}]"
PROBES: dict[str, Probe] = {
    # ---- instructions ----
    "fninit": on("fninit", "fpu"),
    "fld1": on("fninit\n fld1\n fstp st(0)", "fpu"),
    "movd mmx": on("movd mm0, eax\n emms", "mmx"),
    "pshufw": on("pshufw mm0, mm0, 0\n emms", "sse", "mmx"),
    "rdtsc": on("rdtsc", "tsc"),
    "rdmsr": on("mov ecx, 0x8B\n rdmsr", "msr"),
    "cmpxchg8b": on(f"cmpxchg8b {M}", "cx8"),
    "cmov": on("cmovz eax, ebx", "cmov"),
    "fcmov": on("fninit\n fld1\n fld1\n fcmove st, st(1)\n fninit", "cmov", "fpu"),
    "fcomi": on("fninit\n fld1\n fcomi st, st(0)\n fstp st(0)", "cmov", "fpu"),
    "fisttp": on(f"fninit\n fld1\n fisttp word ptr {M}", "sse3", "fpu"),
    "fxsave": on("fxsave [0x8200]", "fxsr"),
    "movaps": on("movaps xmm0, xmm0", "sse"),
    "prefetch": on(f"prefetcht0 {M}", "p6"),
    "sfence": on("sfence", "sse"),
    "ldmxcsr": on(f"mov dword ptr {M}, 0x1F80\n ldmxcsr {M}", "sse"),
    "addpd": on("addpd xmm0, xmm0", "sse2"),
    "mfence": on("mfence", "sse2"),
    "movnti": on(f"movnti {M}, eax", "sse2"),
    "clflush": on(f"clflush {M}", "clflush"),
    "haddps": on("haddps xmm0, xmm0", "sse3"),
    "lddqu": on(f"lddqu xmm0, {M}", "sse3"),
    "pshufb": on("pshufb xmm0, xmm0", "ssse3"),
    "pabsb mmx": on("pabsb mm0, mm0\n emms", "ssse3", "mmx"),
    "ptest": on("ptest xmm0, xmm0", "sse4.1"),
    "pcmpistri": on("pcmpistri xmm0, xmm0, 0", "sse4.2"),
    "crc32": on("crc32 eax, ebx", "sse4.2"),
    "popcnt": on("popcnt eax, ebx", "popcnt"),
    "aesenc": on("aesenc xmm0, xmm0", "aes"),
    "pclmulqdq": on("pclmulqdq xmm0, xmm0, 0", "pclmulqdq"),
    "movbe": on(f"movbe eax, {M}", "movbe"),
    "rdrand": on("rdrand eax", "rdrand"),
    "rdseed": on("rdseed eax", "rdseed"),
    "adcx": on("adcx eax, ebx", "adx"),
    "andn": on("andn eax, ebx, ecx", "bmi1"),
    "blsr": on("blsr eax, ebx", "bmi1"),
    "pext": on("pext eax, ebx, ecx", "bmi2"),
    "rorx": on("rorx eax, ebx, 3", "bmi2"),
    "rdtscp": on("rdtscp", "rdtscp", "tsc"),
    "stac": on("stac\n clac", "smap"),
    "invpcid": on("mov eax, 2\n invpcid {a}, [0x8300]", "invpcid"),
    "xgetbv": on("xor ecx, ecx\n xgetbv", "xsave"),
    "xsetbv": on("xor ecx, ecx\n xgetbv\n xsetbv", "xsave"),
    "xgetbv of 1": Probe(("xsave", "xgetbv1"), "mov ecx, 1\n xgetbv", GP, by="xsave"),
    "xsave": on("xor eax, eax\n xor edx, edx\n xsave [0x8400]", "xsave"),
    "xsaveopt": on("xor eax, eax\n xor edx, edx\n xsaveopt [0x8400]", "xsave", "xsaveopt"),
    "xsavec": on("xor eax, eax\n xor edx, edx\n xsavec [0x8400]", "xsave", "xsavec"),
    "long nop": on("nop dword ptr [eax]", "p6"),
    "lahf": on_64("lahf", "lahf_lm"),
    "cmpxchg16b": on_64("xor eax, eax\n xor edx, edx\n cmpxchg16b [0x8100]", "cx16"),
    "rdfsbase": on_64("rdfsbase rax\n wrfsbase rax", "fsgsbase"),
    # ---- MSRs ----
    "IA32_P5_MC_ADDR": msr(0, "mce", write=False),
    "IA32_TIME_STAMP_COUNTER": msr(0x10, "tsc", write=False),
    "IA32_APIC_BASE": msr(0x1B, "apic"),
    "IA32_MTRRCAP": msr(0xFE, "mtrr", write=False),
    "IA32_MTRR_PHYSBASE0": msr(0x200, "mtrr"),
    "IA32_MTRR_FIX4K_F8000": msr(0x26F, "mtrr"),
    "IA32_MTRR_DEF_TYPE": msr(0x2FF, "mtrr"),
    "IA32_SYSENTER_CS": msr(0x174, "sep"),
    "IA32_SYSENTER_ESP": msr(0x175, "sep"),
    "IA32_SYSENTER_EIP": msr(0x176, "sep"),
    "IA32_MCG_CAP": msr(0x179, "mca", write=False),
    "IA32_MC0_CTL": msr(0x400, "mca"),
    "IA32_PAT": msr(0x277, "pat"),
    "IA32_ARCH_CAPABILITIES": msr(0x10A, "arch-capabilities", write=False),
    "IA32_TSC_DEADLINE": msr(0x6E0, "tsc-deadline"),
    "IA32_TSC_AUX": msr(0xC000_0103, "rdtscp"),
    "EFER.SCE": msr_bit(0xC000_0080, 0, "syscall"),
    "EFER.LME": msr_bit(0xC000_0080, 8, "lm")._replace(bits=(32,)),
    "EFER.NXE": msr_bit(0xC000_0080, 11, "nx"),
    "IA32_STAR": msr(0xC000_0081, "syscall"),
    "IA32_FMASK": msr(0xC000_0084, "syscall"),
    "IA32_FS_BASE": msr(0xC000_0100, "lm"),
    "IA32_KERNEL_GS_BASE": msr(0xC000_0102, "lm"),
    # ---- CR4 ----
    "CR4.VME": cr4(0, "vme"),
    "CR4.PVI": cr4(1, "vme"),
    "CR4.TSD": cr4(2, "tsc"),
    "CR4.DE": cr4(3, "de"),
    "CR4.PSE": cr4(4, "pse"),
    "CR4.PAE": cr4(5, "pae"),
    "CR4.MCE": cr4(6, "mce"),
    "CR4.PGE": cr4(7, "pge"),
    "CR4.PCE": cr4(8, "p6"),
    "CR4.OSFXSR": cr4(9, "fxsr"),
    "CR4.OSXMMEXCPT": cr4(10, "sse"),
    "CR4.UMIP": cr4(11, "umip"),
    "CR4.FSGSBASE": cr4(16, "fsgsbase"),
    "CR4.PCIDE": cr4(17, "pcid", "lm", "pae", bits=(64,)),
    "CR4.SMEP": cr4(20, "smep"),
    "CR4.SMAP": cr4(21, "smap"),
    # ---- never there: no feature that brings them can be had ----
    "vaddps": Probe((), ".byte 0xC5, 0xF8, 0x58, 0xC0"),
    "vpaddb, 256 bits": Probe((), ".byte 0xC5, 0xFD, 0xFC, 0xC0"),
    "vzeroupper": Probe((), "vzeroupper"),
    "vfmadd": Probe((), "vfmadd132ps xmm0, xmm0, xmm0"),
    "vcvtph2ps": Probe((), "vcvtph2ps xmm0, xmm0"),
    "EVEX": Probe((), "vaddps zmm0, zmm0, zmm0"),
    "XOP": Probe((), ".byte 0x8F, 0xE9, 0x78, 0x01, 0xC8"),
    "monitor": Probe((), "monitor"),
    "mwait": Probe((), "mwait"),
    "vmxon": Probe((), f"vmxon {M}"),
    "vmcall": Probe((), "vmcall"),
    "getsec": Probe((), "getsec"),
    "vmrun": Probe((), ".byte 0x0F, 0x01, 0xD8"),
    "3DNow!": Probe((), ".byte 0x0F, 0x0F, 0xC0, 0x9E"),
    "femms": Probe((), "femms"),
    "extrq": Probe((), "extrq xmm0, xmm0"),
    "sha1nexte": Probe((), "sha1nexte xmm0, xmm0"),
    "xbegin": Probe((), "xbegin 1f"),
    "clflushopt": Probe((), f".byte 0x66\n clflush {M}"),
    "clwb": Probe((), f"clwb {M}"),
    "rdpkru": Probe((), "xor ecx, ecx\n rdpkru"),
    "rdpid": Probe((), ".byte 0xF3, 0x0F, 0xC7, 0xF8"),
    "ptwrite": Probe((), ".byte 0xF3, 0x0F, 0xAE, 0xE0"),
    "serialize": Probe((), ".byte 0x0F, 0x01, 0xE8"),
    "gf2p8mulb": Probe((), "gf2p8mulb xmm0, xmm0"),
    "xsaves": Probe((), ".byte 0x0F, 0xC7, 0x2D\n .long 0x8400"),
    "rdpmc": Probe((), "xor ecx, ecx\n rdpmc", GP, by="p6"),
    "xsetbv of AVX": Probe((), "xor ecx, ecx\n mov eax, 7\n xor edx, edx\n xsetbv", GP, by="xsave"),
    "xgetbv of 2": Probe((), "mov ecx, 2\n xgetbv", GP, by="xsave"),
    "IA32_APIC_BASE.EXTD": Probe((), "mov ecx, 0x1B\n rdmsr\n or eax, 0x400\n wrmsr", GP, by="msr"),
    "x2APIC's ID": no_msr(0x802),
    "x2APIC's EOI": Probe((), "mov ecx, 0x80B\n xor eax, eax\n xor edx, edx\n wrmsr", GP, by="msr"),
    "IA32_DEBUGCTL.BTF": Probe((), "mov ecx, 0x1D9\n mov eax, 2\n xor edx, edx\n wrmsr", GP, by="msr"),
    "IA32_PMC0": no_msr(0xC1),
    "IA32_PERFEVTSEL0": no_msr(0x186),
    "IA32_VMX_BASIC": no_msr(0x480),
    "IA32_SPEC_CTRL": no_msr(0x48),
    "IA32_TSC_ADJUST": no_msr(0x3B),
    "IA32_XSS": no_msr(0xDA0),
    "IA32_U_CET": no_msr(0x6A0),
    "CR4.LA57": cr4(12),
    "CR4.VMXE": cr4(13),
    "CR4.SMXE": cr4(14),
    "CR4.PKE": cr4(22),
    "CR4.CET": cr4(23),
    "CR1": Probe((), ".byte 0x0F, 0x20, 0xC8"),
    "CR9": Probe((), ".byte 0x44, 0x0F, 0x20, 0xC8", UD, (64,)),
}
"""By what is asked for."""
