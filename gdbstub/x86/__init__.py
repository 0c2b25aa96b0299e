"""Register layouts of x86: `LAYOUTS["x86-64"]` (the default), `["i386"]` and `["i8086"]`.

A layout is chosen once for a session and right in every mode of the processor: gdb gives up a connection whose `g`
packet changes its length. The 64-bit layout serves real and protected mode, too. `i8086` has the registers of `i386`
and makes gdb disassemble 16-bit code.

A gdb that has not read the description, because it was told not to or knows no XML, has the first two features built in
(gdb 13, i386_gdbarch_init and amd64_init_abi) and refuses a `g` packet that is longer.
"""

from __future__ import annotations

from gdbstub.layout import Layout
from gdbstub.x86.registers import FEATURES_32, FEATURES_64

BUILT_IN = 2
LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("x86-64", "i386:x86-64", FEATURES_64, "rip", ("rbp", "rsp", "rip", "eflags", "cs"), basic=BUILT_IN),
        Layout("i386", "i386", FEATURES_32, "eip", ("esp", "ebp", "eip", "eflags", "cs"), basic=BUILT_IN),
        Layout("i8086", "i8086", FEATURES_32, "eip", ("esp", "ebp", "eip", "eflags", "cs"), basic=BUILT_IN),
    )
}
"""By the word that a user writes."""
