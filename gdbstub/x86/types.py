"""Register types of target descriptions: bits with names, and vectors.

Source: gdb's manual, "Types" of target descriptions; Intel SDM volume 3, 2.3 and 2.5 (EFLAGS, control registers), 17.2
(debug registers), 3.4.5 (segment descriptors); volume 1, 10.2.3 (MXCSR); AMD APM volume 2, 3.1.7 (EFER).
"""

from __future__ import annotations

from collections.abc import Sequence

Bits = Sequence[tuple[str, int] | tuple[str, int, int]]
"""(name, bit) or (name, lowest bit, highest bit)."""


def flags(name: str, size: int, bits: Bits) -> str:
    """A type whose bits have names; of more than four bytes gdb 13 could not assign it."""
    fields = "".join(f'<field name="{bit[0]}" start="{bit[1]}" end="{bit[-1]}"/>' for bit in bits)
    return f'<flags id="{name}" size="{size}">{fields}</flags>'


EFLAGS = flags(
    "i386_eflags",
    4,
    [
        *(("CF", 0), ("", 1), ("PF", 2), ("AF", 4), ("ZF", 6), ("SF", 7), ("TF", 8), ("IF", 9), ("DF", 10), ("OF", 11)),
        *(("IOPL", 12, 13), ("NT", 14), ("RF", 16), ("VM", 17), ("AC", 18), ("VIF", 19), ("VIP", 20), ("ID", 21)),
    ],
)
MXCSR = flags(
    "i386_mxcsr",
    4,
    [
        *(("IE", 0), ("DE", 1), ("ZE", 2), ("OE", 3), ("UE", 4), ("PE", 5), ("DAZ", 6), ("IM", 7), ("DM", 8)),
        *(("ZM", 9), ("OM", 10), ("UM", 11), ("PM", 12), ("FZ", 15)),
    ],
)
CR0 = flags(
    "x86_cr0",
    4,
    [
        *(("PE", 0), ("MP", 1), ("EM", 2), ("TS", 3), ("ET", 4), ("NE", 5)),
        *(("WP", 16), ("AM", 18), ("NW", 29), ("CD", 30), ("PG", 31)),
    ],
)
CR4 = flags(
    "x86_cr4",
    4,
    [
        *(("VME", 0), ("PVI", 1), ("TSD", 2), ("DE", 3), ("PSE", 4), ("PAE", 5), ("MCE", 6), ("PGE", 7), ("PCE", 8)),
        *(("OSFXSR", 9), ("OSXMMEXCPT", 10), ("UMIP", 11), ("LA57", 12), ("VMXE", 13), ("SMXE", 14), ("FSGSBASE", 16)),
        *(("PCIDE", 17), ("OSXSAVE", 18), ("SMEP", 20), ("SMAP", 21), ("PKE", 22)),
    ],
)
EFER = flags(
    "x86_efer",
    4,
    [("SCE", 0), ("LME", 8), ("LMA", 10), ("NXE", 11), ("SVME", 12), ("LMSLE", 13), ("FFXSR", 14)],
)
DR6 = flags("x86_dr6", 4, [("B0", 0), ("B1", 1), ("B2", 2), ("B3", 3), ("BD", 13), ("BS", 14), ("BT", 15)])
DR7 = flags(
    "x86_dr7",
    4,
    [
        *(("L0", 0), ("G0", 1), ("L1", 2), ("G1", 3), ("L2", 4), ("G2", 5), ("L3", 6), ("G3", 7), ("LE", 8), ("GE", 9)),
        ("GD", 13),
        *(("RW0", 16, 17), ("LEN0", 18, 19), ("RW1", 20, 21), ("LEN1", 22, 23)),
        *(("RW2", 24, 25), ("LEN2", 26, 27), ("RW3", 28, 29), ("LEN3", 30, 31)),
    ],
)
ATTRIBUTES = flags(
    "x86_segment",
    4,
    [
        *(("type", 0, 3), ("S", 4), ("DPL", 5, 6), ("P", 7)),
        *(("AVL", 12), ("L", 13), ("DB", 14), ("G", 15), ("unusable", 16)),
    ],
)

_VECTORS = [("v4f", "ieee_single", 4), ("v2d", "ieee_double", 2), ("v16i8", "int8", 16), ("v8i16", "int16", 8)]
_VECTORS += [("v4i32", "int32", 4), ("v2i64", "int64", 2)]
_FIELDS = [("v4_float", "v4f"), ("v2_double", "v2d"), ("v16_int8", "v16i8"), ("v8_int16", "v8i16")]
_FIELDS += [("v4_int32", "v4i32"), ("v2_int64", "v2i64"), ("uint128", "uint128")]
VECTOR = (
    *(f'<vector id="{name}" type="{type_}" count="{count}"/>' for name, type_, count in _VECTORS),
    f'<union id="vec128">{"".join(f"""<field name="{name}" type="{type_}"/>""" for name, type_ in _FIELDS)}</union>',
)
"""The type of XMM registers: the same 16 bytes as every kind of element."""
