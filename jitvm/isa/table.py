"""Which semantics an instruction has: one row an instruction (mnemonic, or iced-x86 code name where a mnemonic has several).

Everything about the encoding (operands, sizes, prefixes) comes from iced-x86; a row says what to call and what it does to
the arithmetic flags.  An instruction without a row, and one of a feature that the CPU does not announce, is #UD.
"""

from __future__ import annotations

from dataclasses import dataclass

from jitvm.isa.simd import BLENDS, COMPARES, FLOAT, INTEGER, STRINGS
from jitvm.isa.state import RAX, RCX, RDI, RDX, RSI, RSP


@dataclass(frozen=True)
class Row:
    """`unit`: the semantics.  `kind`: how it is put together (jitvm/engine/compose.py).

    `dst`: where the result goes: "0" (operand 0), "acc", "high" (rDX, or AH for bytes), "ah", "" (nowhere); `hi`: where the
    second result goes: "1" (operand 1), "acc", "high" or "".
    `flags`: "w" writes, "k" writes all six (kills), "r" reads, "n" count-dependent kill; `fuse`: may be fused with a Jcc.
    `ends`: a look-up must follow (context, interrupt flag, or code may have changed).
    """

    unit: str
    kind: str = "value"
    dst: str = "0"
    hi: str = ""
    flags: str = ""
    fuse: bool = False
    ends: bool = False


def _value(unit: str, flags: str = "", *, dst: str = "0", hi: str = "", fuse: bool = False) -> Row:
    return Row(unit, "value", dst, hi, flags, fuse)


def _status(unit: str, flags: str = "", *, ends: bool = False) -> Row:
    return Row(unit, "status", "", "", flags, ends=ends)


ROWS: dict[str, Row] = {
    # ---- arithmetic and logic
    "ADD": _value("alu.add", "wk", fuse=True),
    "ADC": _value("alu.adc", "wkr"),
    "ADCX": _value("alu.adcx", "wr"),
    "ADOX": _value("alu.adox", "wr"),
    "SUB": _value("alu.sub", "wk", fuse=True),
    "SBB": _value("alu.sbb", "wkr"),
    "CMP": _value("alu.sub", "wk", dst="", fuse=True),
    "INC": _value("alu.inc", "w", fuse=True),
    "DEC": _value("alu.dec", "w", fuse=True),
    "NEG": _value("alu.neg", "wk", fuse=True),
    "AND": _value("alu.and_", "wk", fuse=True),
    "OR": _value("alu.or_", "wk", fuse=True),
    "XOR": _value("alu.xor", "wk", fuse=True),
    "TEST": _value("alu.and_", "wk", dst="", fuse=True),
    "NOT": _value("alu.not_"),
    "XADD": _value("alu.xadd", "wk", hi="1"),
    "CMPXCHG": _value("alu.cmpxchg", "wk", hi="acc"),
    "XCHG": _value("address.xchg", hi="1"),
    "BSWAP": _value("alu.bswap"),
    "MOVBE": _value("alu.reverse"),
    "MOV": _value("alu.mov"),
    "MOVZX": _value("alu.movzx"),
    "MOVSX": _value("alu.movsx"),
    "CBW": _value("alu.cbw", dst="acc"),
    "CWDE": _value("alu.cbw", dst="acc"),
    "CWD": _value("alu.cwd", dst="high"),
    "CDQ": _value("alu.cwd", dst="high"),
    "LEA": _value("address.lea"),
    "XLATB": _value("alu.mov", dst="acc"),
    "LAHF": _value("alu.lahf", "r", dst="ah"),
    "SAHF": _value("alu.sahf", "w", dst=""),
    "CLC": _value("alu.clc", "w", dst=""),
    "STC": _value("alu.stc", "w", dst=""),
    "CMC": _value("alu.cmc", "wr", dst=""),
    "SALC": _value("alu.salc", "r", dst="acc"),
    # ---- shifts
    "SHL": _value("shift.shl", "wkn"),
    "SAL": _value("shift.shl", "wkn"),
    "SHR": _value("shift.shr", "wkn"),
    "SAR": _value("shift.sar", "wkn"),
    "ROL": _value("shift.rol", "w"),
    "ROR": _value("shift.ror", "w"),
    "RCL": _value("shift.rcl", "wr"),
    "RCR": _value("shift.rcr", "wr"),
    "SHLD": _value("shift.shld", "wkn"),
    "SHRD": _value("shift.shrd", "wkn"),
    # ---- multiply, divide, decimal
    "MUL": _value("muldiv.mul", "wk", dst="acc", hi="high"),
    "IMUL1": _value("muldiv.imul_wide", "wk", dst="acc", hi="high"),
    "IMUL": _value("muldiv.imul", "wk"),
    "DIV": _status("muldiv.div"),
    "IDIV": _status("muldiv.idiv"),
    "AAM": _status("muldiv.aam", "wk"),
    "AAD": _value("muldiv.aad", "wk", dst="acc"),
    "DAA": _value("bcd.daa", "wkr", dst="acc"),
    "DAS": _value("bcd.das", "wkr", dst="acc"),
    "AAA": _value("bcd.aaa", "wkr", dst="acc"),
    "AAS": _value("bcd.aas", "wkr", dst="acc"),
    # ---- bits
    "BT": _value("bits.bt", "w", dst=""),
    "BTS": _value("bits.bts", "w"),
    "BTR": _value("bits.btr", "w"),
    "BTC": _value("bits.btc", "w"),
    "BSF": _value("bits.bsf", "wk"),
    "BSR": _value("bits.bsr", "wk"),
    "ANDN": _value("bmi.andn", "wk"),
    "BEXTR": _value("bmi.bextr", "wk"),
    "BLSI": _value("bmi.blsi", "wk"),
    "BLSMSK": _value("bmi.blsmsk", "wk"),
    "BLSR": _value("bmi.blsr", "wk"),
    "BZHI": _value("bmi.bzhi", "wk"),
    "TZCNT": _value("bmi.tzcnt", "wk"),
    "LZCNT": _value("bmi.lzcnt", "wk"),
    "MULX": _value("bmi.mulx", hi="1"),
    "PDEP": _value("bmi.pdep"),
    "PEXT": _value("bmi.pext"),
    "RORX": _value("bmi.rorx"),
    "SARX": _value("bmi.sarx"),
    "SHLX": _value("bmi.shlx"),
    "SHRX": _value("bmi.shrx"),
    # ---- stack
    "PUSH": Row("alu.mov", "push"),
    "POP": Row("alu.mov", "pop"),
    "POP_SREG": _status("segment.pop_segment"),
    "PUSHA": _status("stack.pusha"),
    "POPA": _status("stack.popa"),
    "PUSHF": _status("system.pushf", "r"),
    "POPF": _status("system.popf", "wk", ends=True),
    "ENTER": _status("stack.enter"),
    "LEAVE": Row("alu.mov", "leave"),
    # ---- control
    "JMP": Row("address.near", "jmp"),
    "CALL": Row("address.near", "call"),
    "RET": Row("address.near", "ret"),
    "LOOP": Row("branch.loop_", "loop"),
    "LOOPE": Row("branch.loope", "loop", flags="r"),
    "LOOPNE": Row("branch.loopne", "loop", flags="r"),
    "JCXZ": Row("branch.jcxz", "loop"),
    "JMP_FAR": _status("far.far_jmp", ends=True),
    "CALL_FAR": _status("far.far_call", ends=True),
    "JMP_FAR_MEM": _status("far.far_jmp_mem", ends=True),
    "CALL_FAR_MEM": _status("far.far_call_mem", ends=True),
    "RETF": _status("far.far_ret", ends=True),
    "INT": _status("events.interrupt", "r", ends=True),
    "INT3": _status("events.int3", "r", ends=True),
    "INTO": _status("events.into", "r"),
    "INT1": _status("events.int1", "r", ends=True),
    "IRET": _status("iret.iret", "wk", ends=True),
    "BOUND": _status("misc.bound"),
    # ---- strings
    "MOVS": _status("string.movs"),
    "CMPS": _status("string.cmps", "w"),
    "SCAS": _status("string.scas", "w"),
    "LODS": _status("string.lods"),
    "STOS": _status("string.stos"),
    "INS": _status("stringio.ins", ends=True),
    "OUTS": _status("stringio.outs", ends=True),
    # ---- segments
    "MOV_TO_SREG": _status("segment.load_segment"),
    "LES": _status("segment.load_far_pointer"),
    "LDS": _status("segment.load_far_pointer"),
    "LSS": _status("segment.load_far_pointer"),
    "LFS": _status("segment.load_far_pointer"),
    "LGS": _status("segment.load_far_pointer"),
    "LLDT": _status("segment.lldt", ends=True),
    "LTR": _status("segment.ltr", ends=True),
    "SLDT": Row("segment.sldt", "checked"),
    "STR": Row("segment.str_", "checked"),
    "LAR": _status("verify.lar", "w"),
    "LSL": _status("verify.lsl", "w"),
    "VERR": _status("verify.verr", "w"),
    "VERW": _status("verify.verw", "w"),
    "ARPL_MEM": _status("verify.arpl_mem", "w"),
    "ARPL": Row("verify.arpl", "checked", flags="w"),
    # ---- system
    "MOV_TO_CR": _status("control.mov_to_cr", ends=True),
    "MOV_FROM_CR": _status("control.mov_from_cr"),
    "MOV_TO_DR": _status("system.mov_to_dr", ends=True),
    "MOV_FROM_DR": _status("system.mov_from_dr"),
    "LMSW": _status("control.lmsw", ends=True),
    "SMSW": Row("control.smsw", "checked"),
    "CLTS": _status("control.clts", ends=True),
    "LGDT": _status("system.lgdt"),
    "LIDT": _status("system.lidt"),
    "SGDT": _status("system.sgdt"),
    "SIDT": _status("system.sidt"),
    "INVLPG": _status("system.invlpg", ends=True),
    "INVPCID": _status("system.invpcid", ends=True),
    "INVD": _status("system.invd"),
    "WBINVD": _status("system.wbinvd"),
    "HLT": _status("system.hlt", ends=True),
    "RSM": _status("smm.rsm", "wk", ends=True),
    "CLI": _status("system.cli"),
    "STI": _status("system.sti", ends=True),
    "CLD": _status("system.cld"),
    "STD": _status("system.std"),
    "IN": _status("io.port_in", ends=True),
    "OUT": _status("io.port_out", ends=True),
    "RDMSR": _status("msr.rdmsr"),
    "WRMSR": _status("msr.wrmsr", ends=True),
    "RDTSC": _status("msr.rdtsc"),
    "RDPMC": _status("msr.rdpmc"),
    "RDTSCP": _status("msr.rdtscp"),
    "STAC": _status("system.stac", ends=True),
    "CLAC": _status("system.clac", ends=True),
    "SYSENTER": _status("syscall.sysenter", ends=True),
    "SYSEXIT": _status("syscall.sysexit", ends=True),
    "SYSCALL": _status("syscall.syscall", "r", ends=True),
    "SYSRET": _status("syscall.sysret", "wk", ends=True),
    "SWAPGS": _status("syscall.swapgs", ends=True),
    "RDFSBASE": _status("syscall.rdfsbase"),
    "RDGSBASE": _status("syscall.rdgsbase"),
    "WRFSBASE": _status("syscall.wrfsbase", ends=True),
    "WRGSBASE": _status("syscall.wrgsbase", ends=True),
    "CPUID": _status("cpuid.cpuid"),
    "CMPXCHG8B": _status("misc.cmpxchg8b", "w"),
    "CMPXCHG16B": _status("misc.cmpxchg16b", "w"),
    "RDRAND": _status("misc.rdrand", "wk"),
    "RDSEED": _status("misc.rdrand", "wk"),
    # ---- SIMD: moves, state, and what is beside it
    "MOVD": Row("", "move"),
    "MOVQ": Row("quad", "move"),
    "MOVDQ2Q": Row("", "move"),
    "MOVQ2DQ": Row("", "move"),
    "MOVSS": Row("", "move"),
    "MOVSD_XMM": Row("", "move"),
    "MOVLPS": Row("low", "move"),
    "MOVLPD": Row("low", "move"),
    "MOVHPS": Row("high", "move"),
    "MOVHPD": Row("high", "move"),
    "MOVNTQ": Row("", "move"),
    "MOVNTI": _value("alu.mov"),
    "MASKMOVQ": _status("simd.maskmovq"),
    "MASKMOVDQU": _status("simd.maskmovdqu"),
    "FXSAVE": _status("fxsave.fxsave"),
    "FXRSTOR": _status("fxsave.fxrstor"),
    "XGETBV": _status("xsave.xgetbv"),
    "XSETBV": _status("xsave.xsetbv"),
    "XSAVE": _status("xsave.xsave"),
    "XSAVEOPT": _status("xsave.xsaveopt"),
    "XSAVEC": _status("xsave.xsavec"),
    "XRSTOR": _status("xsave.xrstor"),
    "CLFLUSH": _status("simd.clflush"),
    "LFENCE": Row("misc.nop", "nop"),
    "SFENCE": Row("misc.nop", "nop"),
    "MFENCE": _status("simd.mfence"),
    "PREFETCHNTA": Row("misc.nop", "nop"),
    "PREFETCHT0": Row("misc.nop", "nop"),
    "PREFETCHT1": Row("misc.nop", "nop"),
    "PREFETCHT2": Row("misc.nop", "nop"),
    "LDMXCSR": _status("simd.ldmxcsr"),
    "STMXCSR": _status("simd.stmxcsr"),
    "EMMS": _status("simd.emms"),
    "POPCNT": _value("bits.popcnt", "wk"),
    # ---- nothing, nobody, never
    "NOP": Row("misc.nop", "nop"),
    "PAUSE": Row("misc.nop", "nop"),
    "WAIT": _status("x87.wait_"),
    "ESC": _status("misc.no_fpu"),
    "UD": _status("misc.ud", ends=True),
}
"""By row name."""

for _name in "MOVAPS MOVAPD MOVUPS MOVUPD MOVDQA MOVDQU LDDQU MOVNTDQA MOVNTPS MOVNTPD MOVNTDQ".split():
    ROWS[_name] = Row("", "move")
for _name in FLOAT | INTEGER | COMPARES | BLENDS | STRINGS:
    _flags = "wk" if _name in COMPARES | STRINGS else ""
    ROWS.setdefault(_name.upper(), Row(_name, "host", flags=_flags, fuse=_name in COMPARES))
ROWS["CMPSD_XMM"] = ROWS.pop("CMPSD")
del ROWS["MOVSD"]  # the string instruction has an alias; between registers `MOVSD_XMM` is the operation "movsd"

_CONDITIONS = "O NO B AE E NE BE A S NS P NP L GE LE G".split()
for _cc, _name in enumerate(_CONDITIONS):
    ROWS[f"J{_name}"] = Row("flags.condition", "jcc", flags="r")
    ROWS[f"SET{_name}"] = _value("alu.setcc", "r")
    ROWS[f"CMOV{_name}"] = _value("alu.cmov", "r")

CONDITION_OF = {f"{prefix}{name}": cc for cc, name in enumerate(_CONDITIONS) for prefix in ("J", "SET", "CMOV")}
"""Condition code by row name."""

MAY_KEEP = {"CMPXCHG": _value("alu.cmpxchg_keep", "wk", hi="acc"), "BSF": ROWS["BSF"], "BSR": ROWS["BSR"]}
"""In 64-bit code, with 32-bit operands, these may leave a register as it was, the upper half too: it is read and written
whole."""

_SUFFIXED = {
    "MOVS": ("MOVSB", "MOVSW", "MOVSD", "MOVSQ"),
    "CMPS": ("CMPSB", "CMPSW", "CMPSD", "CMPSQ"),
    "SCAS": ("SCASB", "SCASW", "SCASD", "SCASQ"),
    "LODS": ("LODSB", "LODSW", "LODSD", "LODSQ"),
    "STOS": ("STOSB", "STOSW", "STOSD", "STOSQ"),
    "INS": ("INSB", "INSW", "INSD"),
    "OUTS": ("OUTSB", "OUTSW", "OUTSD"),
    "PUSHA": ("PUSHA", "PUSHAD"),
    "POPA": ("POPA", "POPAD"),
    "PUSHF": ("PUSHF", "PUSHFD", "PUSHFQ"),
    "POPF": ("POPF", "POPFD", "POPFQ"),
    "IRET": ("IRET", "IRETD", "IRETQ"),
    "JCXZ": ("JCXZ", "JECXZ", "JRCXZ"),
    "CBW": ("CDQE",),
    "CWD": ("CQO",),
    "MOVSX": ("MOVSXD",),
    "WAIT": ("WAIT", "FWAIT"),
    "FXSAVE": ("FXSAVE", "FXSAVE64"),
    "FXRSTOR": ("FXRSTOR", "FXRSTOR64"),
    "XSAVE": ("XSAVE", "XSAVE64"),
    "XSAVEOPT": ("XSAVEOPT", "XSAVEOPT64"),
    "XSAVEC": ("XSAVEC", "XSAVEC64"),
    "XRSTOR": ("XRSTOR", "XRSTOR64"),
    "SYSEXIT": ("SYSEXIT", "SYSEXITQ"),
    "SYSRET": ("SYSRET", "SYSRETQ"),
}
ALIASES = {alias: row for row, names in _SUFFIXED.items() for alias in names}
"""iced-x86 mnemonics whose operand size is in the name, to their row."""

CHECKED_BY = {
    "segment.sldt": "segment.may_store_selector",
    "segment.str_": "segment.may_store_selector",
    "verify.arpl": "segment.need_protected",
    "control.smsw": "mode.umip",
    "control.lmsw": "mode.check_privilege",
    "segment.lldt": "segment.need_supervisor",
    "segment.ltr": "segment.need_supervisor",
    "verify.lar": "segment.need_protected",
    "verify.lsl": "segment.need_protected",
    "verify.verr": "segment.need_protected",
    "verify.verw": "segment.need_protected",
}
"""What is asked before an operand is read: a status.  All units of kind "checked" have one."""

NAMED = (-1,)
TOUCHED: dict[str, tuple[int, ...]] = {
    "segment.load_segment": (),
    "segment.load_far_pointer": NAMED,
    "segment.pop_segment": (int(RSP),),
    "x87.wait_": (),
    "string.movs": (int(RCX), int(RSI), int(RDI)),
    "string.stos": (int(RAX), int(RCX), int(RDI)),
    "string.lods": (int(RAX), int(RCX), int(RSI)),
    "io.port_in": (int(RAX),),
    "io.port_out": (),

    "muldiv.div": (int(RAX), int(RDX)),
    "muldiv.idiv": (int(RAX), int(RDX)),
}
"""Units on the CPU record that touch no arithmetic flags, and of the general registers only these (NAMED: the one that the
instruction names)."""
QUICK = {
    "segment.load_segment": "segment.load_quickly",
    "segment.load_far_pointer": "segment.load_quickly",
    "segment.pop_segment": "segment.load_quickly",
}
"""Units whose usual case is short: a unit that does it and returns 1, or returns 0 and has done nothing."""
AT_ONCE = {f"string.{name}": f"string_once.{name}_at_once" for name in ("movs", "stos", "lods", "scas", "cmps")}
"""Units of string instructions: a unit that does the whole instruction where that is short, and returns its iterations, or
returns 0 and has done nothing.  It is told how many instructions may retire."""
COMPARISONS = {"string.scas": (int(RAX), int(RCX), int(RDI)), "string.cmps": (int(RCX), int(RSI), int(RDI))}
"""Those of them that write all arithmetic flags, and the general registers that are touched then."""
GOES_ON = frozenset(
    "string.movs string.stos string.lods string.scas string.cmps stringio.ins stringio.outs io.port_in io.port_out "
    "system.sti system.popf".split()
)
"""Units that end a block, and when they come back with OK mostly go on with the next instruction in the same context."""
READ_ZF = frozenset({"branch.loope", "branch.loopne"})
"""Loop conditions that look at a flag."""
