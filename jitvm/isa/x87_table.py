"""Rows of the x87 instructions, by mnemonic and, where one has several formats, a suffix for the operand's.

Suffixes: M32, M64, M80 (real), I16, I32, I64 (integer) in memory; TO: the destination is ST(i).

Kinds (jitvm/engine/compose.py): "fpu" waits, then does its unit; "fpu_store" waits, makes a value, stores it and ends in the
unit `dst`; "fpu_put" stores a value without waiting; "status" checks for itself.

Source: Intel SDM vol. 2, the instructions; which do not wait: vol. 1, 8.3.12.
"""

from __future__ import annotations

from jitvm.isa.table import Row

_REGISTER_ROWS = {
    "FXCH": "x87_move.xch",
    "FCHS": "x87_move.sign",
    "FABS": "x87_move.sign",
    "FXAM": "x87_move.xam",
    "FTST": "x87_arith.tst",
    "FFREE": "x87_move.free",
    "FFREEP": "x87_move.free_pop",
    "FDECSTP": "x87_move.step_top",
    "FINCSTP": "x87_move.step_top",
    "FNOP": "x87_move.nop",
    "FLD": "x87_move.ld_sti",
    "FST": "x87_move.st_sti",
    "FSTP": "x87_move.stp_sti",
    "FSTPNCE": "x87_move.stp_unchecked",
    "FCOM": "x87_arith.com",
    "FCOMP": "x87_arith.comp",
    "FCOMPP": "x87_arith.compp",
    "FUCOM": "x87_arith.ucom",
    "FUCOMP": "x87_arith.ucomp",
    "FUCOMPP": "x87_arith.ucompp",
}
_MEMORY_ROWS = {
    "FLD_M32": "x87_move.ld_m32",
    "FLD_M64": "x87_move.ld_m64",
    "FLD_M80": "x87_move.ld_m80",
    "FILD_I16": "x87_move.ild_i16",
    "FILD_I32": "x87_move.ild_i32",
    "FILD_I64": "x87_move.ild_i64",
    "FBLD": "x87_move.bld",
    "FSTP_M80": "x87_move.stp_m80",
    "FBSTP": "x87_move.bstp",
    "FLDCW": "x87_env.ldcw",
    "FLDENV": "x87_env.ldenv",
    "FRSTOR": "x87_env.rstor",
}
_STORES = {
    "FST_M32": "m32_value",
    "FST_M64": "m64_value",
    "FIST_I16": "i16_value",
    "FIST_I32": "i32_value",
    "FSTP_M32": "m32_value",
    "FSTP_M64": "m64_value",
    "FISTP_I16": "i16_value",
    "FISTP_I32": "i32_value",
    "FISTP_I64": "i64_value",
    "FISTTP_I16": "i16_truncated",
    "FISTTP_I32": "i32_truncated",
    "FISTTP_I64": "i64_truncated",
}
_FUNCTIONS = "F2XM1 FYL2X FPTAN FPATAN FXTRACT FPREM1 FPREM FYL2XP1 FSQRT FSINCOS FRNDINT FSCALE FSIN FCOS"
_CONSTANTS = "FLD1 FLDL2T FLDL2E FLDPI FLDLG2 FLDLN2 FLDZ"

X87_ROWS: dict[str, Row] = {name: Row(unit, "fpu") for name, unit in (_REGISTER_ROWS | _MEMORY_ROWS).items()}
X87_ROWS |= {
    "FNSTCW": Row("x87_env.nstcw_value", "fpu_put"),
    "FNSTSW": Row("x87_env.nstsw_value", "fpu_put"),
    "FNSTSW_AX": Row("x87_env.nstsw_ax", "status"),
    "FNCLEX": Row("x87_env.nclex", "status"),
    "FNINIT": Row("x87_env.ninit", "status"),
    "FNENI": Row("x87_env.nothing", "status"),
    "FNDISI": Row("x87_env.nothing", "status"),
    "FNSETPM": Row("x87_env.nothing", "status"),
    "FNSTENV": Row("x87_env.nstenv", "status"),
    "FNSAVE": Row("x87_env.nsave", "status"),
}
X87_ROWS |= {name: Row("x87_arith.function", "fpu") for name in _FUNCTIONS.split()}
X87_ROWS |= {name: Row("x87_move.ld_constant", "fpu") for name in _CONSTANTS.split()}
for _name in ("ADD", "MUL", "SUB", "SUBR", "DIV", "DIVR"):
    X87_ROWS[f"F{_name}"] = Row("x87_arith.arith", "fpu")
    X87_ROWS[f"F{_name}_TO"] = Row("x87_arith.arith_to", "fpu")
    X87_ROWS[f"F{_name}P"] = Row("x87_arith.arith_pop", "fpu")
    for _letter, _format in (("", "M32"), ("", "M64"), ("I", "I32"), ("I", "I16")):
        X87_ROWS[f"F{_letter}{_name}_{_format}"] = Row(f"x87_arith.arith_{_format.lower()}", "fpu")
for _name in ("COM", "COMP"):
    for _letter, _format in (("", "M32"), ("", "M64"), ("I", "I32"), ("I", "I16")):
        X87_ROWS[f"F{_letter}{_name}_{_format}"] = Row(f"x87_arith.com_{_format.lower()}", "fpu")
for _name, _value in _STORES.items():
    _end = "x87_move.stored_pop" if "P_" in _name else "x87_move.stored"
    X87_ROWS[_name] = Row(f"x87_move.{_value}", "fpu_store", _end)
for _name in ("FCOMI", "FCOMIP", "FUCOMI", "FUCOMIP"):
    X87_ROWS[_name] = Row("x87_arith.ucomi" if _name[1] == "U" else "x87_arith.comi", "fpu", flags="w")
for _name in ("B", "E", "BE", "U", "NB", "NE", "NBE", "NU"):
    X87_ROWS[f"FCMOV{_name}"] = Row("x87_move.cmov", "fpu", flags="r")

X87_TOUCHED = {row.unit: () for row in X87_ROWS.values() if not row.flags and row.unit != "x87_env.nstsw_ax"}
"""As `table.TOUCHED`: no general register and no arithmetic flag."""
SUFFIXES = {"FLOAT32": "M32", "FLOAT64": "M64", "FLOAT80": "M80", "INT16": "I16", "INT32": "I32", "INT64": "I64"}
"""iced-x86's name of a memory operand's type to a row's suffix."""
SIZED = frozenset({"FNSTENV", "FLDENV", "FNSAVE", "FRSTOR"})
"""Rows whose size is that of the environment's words."""

NATIVE = {
    "x87_arith.arith": ("0i", 0),
    "x87_arith.arith_to": ("0i", 0),
    "x87_arith.arith_pop": ("0i", -1),
    "x87_arith.arith_m32": ("0", 0),
    "x87_arith.arith_m64": ("0", 0),
    "x87_arith.arith_i32": ("0", 0),
    "x87_arith.arith_i16": ("0", 0),
    "x87_arith.com": ("0i", 0),
    "x87_arith.comp": ("0i", -1),
    "x87_arith.ucom": ("0i", 0),
    "x87_arith.ucomp": ("0i", -1),
    "x87_arith.compp": ("01", -2),
    "x87_arith.ucompp": ("01", -2),
    "x87_arith.com_m32": ("0", 0),
    "x87_arith.com_m64": ("0", 0),
    "x87_arith.com_i32": ("0", 0),
    "x87_arith.com_i16": ("0", 0),
    "x87_arith.tst": ("0", 0),
    "x87_arith.comi": ("0i", 0),
    "x87_arith.ucomi": ("0i", 0),
    "x87_move.ld_m32": ("", 1),
    "x87_move.ld_m64": ("", 1),
    "x87_move.ld_m80": ("", 1),
    "x87_move.stp_m80": ("0", -1),
    "x87_move.ild_i16": ("", 1),
    "x87_move.ild_i32": ("", 1),
    "x87_move.ild_i64": ("", 1),
    "x87_move.ld_sti": ("i", 1),
    "x87_move.ld_constant": ("", 1),
    "x87_move.m32_value": ("0", 0),
    "x87_move.m64_value": ("0", 0),
    "x87_move.i16_value": ("0", 0),
    "x87_move.i32_value": ("0", 0),
    "x87_move.i64_value": ("0", 0),
    "x87_move.i16_truncated": ("0", 0),
    "x87_move.i32_truncated": ("0", 0),
    "x87_move.i64_truncated": ("0", 0),
    "x87_move.st_sti": ("0", 0),
    "x87_move.stp_sti": ("0", -1),
    "x87_move.xch": ("0i", 0),
    "x87_move.cmov": ("0i", 0),
    "x87_move.sign": ("0", 0),
    "x87_move.nop": ("", 0),
    "x87_env.nstsw_ax": ("", 0),
    "x87_env.ldcw": ("", 0),
    "x87_env.nstcw_value": ("", 0),
}
"""Units whose work regions may have done in place, on values of their own: which registers they read ("0", "1", ST(i)), and
by how much the stack grows.  A comparison with memory pops when ModRM.reg says so, a store when it ends in `stored_pop`."""
