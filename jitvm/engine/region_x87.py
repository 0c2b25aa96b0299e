"""x87 registers of a region: values of the host's x87 while nothing can go wrong.

A plan says how the stack stood when the region was grown (`Node.x87`: TOP, registers in use, control word).  Where it
stands so at the region's entry, and all exceptions are masked, the stack is known at every instruction of the region: no
stack fault is possible that is not seen here, before code is made.  Then each register is a local variable, instructions
are the host's own (`sideeffect`: in their order, none left out), and exception flags gather in the host's status word, as
its control word is the guest's.  The status word is put together where it is asked for and where the region is left.

C1 is looked at together with an instruction that rounds, unless another sets it before the next that can be interrupted.
What is not in `NATIVE`, and a stack that stands in two ways at one place, lets the whole region use the units.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from jitvm.engine.compose import effective_address
from jitvm.engine.layout import at
from jitvm.engine.region import Node, Op
from jitvm.engine.region_groups import GroupedLookups
from jitvm.engine.units import Units
from jitvm.isa.x87_table import NATIVE

ALL_MASKED = 0x3F
HOST_CONTROL = 0x37F
EXCEPTIONS, TOP_SHIFT, C0, C1, C2, C3 = 0x3F, 11, 0x100, 0x200, 0x400, 0x4000
CONDITIONS = C0 | C1 | C2 | C3
STATUS_CLOBBER = "~{dirflag},~{fpsr},~{flags}"
WORDS = ("top", "used", "cc", "fip", "fcs", "fop", "fdp", "fds")
"""Local variables beside the registers: TOP in its place, bits of the registers in use, C0-C3, the last instruction."""
OPERATIONS = ("fadd", "fmul", "fcom", "fcomp", "fsub", "fsubr", "fdiv", "fdivr")
INTEGERS = {"i16": "s", "i32": "l", "i64": "ll"}
CONSTANTS = ("fld1", "fldl2t", "fldl2e", "fldpi", "fldlg2", "fldln2", "fldz")
EXACT = frozenset(
    "nop sign xch cmov st_sti stp_sti ld_sti ild_i16 ild_i32 ild_i64 ld_m32 ld_m64 com comp ucom ucomp compp ucompp com_m32 "
    "com_m64 com_i32 com_i16 tst nstsw_ax comi ucomi ld_m80 stp_m80 ldcw nstcw_value".split()
)
"""Instructions that don't round: what they make of C1 is known."""
KEEPING = ("x87_move.cmov", "x87_move.nop", "x87_arith.comi", "x87_arith.ucomi")
CONTROL = ("nstsw_ax", "ldcw", "nstcw_value")
"""Instructions that are not remembered as the last one."""
CONTROL_BITS, CONTROL_ONES = 0x1F3F, 0x40
FLAGS_OF_CONDITIONS = 0x45
"""CF, PF and ZF where C0, C2 and C3 of the status word's upper byte are."""
"""Instructions that leave C1 as it is."""
Stack = tuple[int, int]
"""TOP; a bit for each register in use."""


def pops(op: Op) -> bool:
    """Whether ModRM or the end of a store takes ST(0) off, beyond what `NATIVE` says."""
    unit = op.shape.unit
    if unit.startswith("x87_arith.com_"):
        return bool(op.imm >> 3 & 1)
    if unit in ("x87_arith.comi", "x87_arith.ucomi"):
        return op.imm >> 8 == 7
    return op.shape.dst == "x87_move.stored_pop"


def behind(op: Op, stack: Stack) -> Stack | None:
    """How the stack stands behind an instruction; None where that is not known here, or is a stack fault."""
    unit = op.shape.unit
    if not unit.startswith("x87"):
        return None if "y" in op.shape.ops or "y" in op.shape.host or unit == "simd.emms" else stack
    if unit not in NATIVE:
        return stack if unit == "x87.wait_" else None
    top, used = stack
    reads, grows = NATIVE[unit]
    for letter in reads:
        i = {"0": 0, "1": 1, "i": op.imm & 7}[letter]
        if not used >> ((top + i) & 7) & 1:
            return None
    if unit in ("x87_move.st_sti", "x87_move.stp_sti"):
        used |= 1 << ((top + op.imm) & 7)
    for _ in range(-grows + pops(op)):
        used &= ~(1 << top)
        top = (top + 1) & 7
    if grows > 0:
        top = (top - 1) & 7
        if used >> top & 1:
            return None
        used |= 1 << top
    return top, used


def stacks(nodes: Sequence[Node]) -> list[Stack]:
    """How the stack stands where each node begins; [] where regions have to use the units."""
    if nodes[0].x87 is None:
        return []
    found: dict[int, Stack] = {0: (nodes[0].x87[0], nodes[0].x87[1])}
    work = [0]
    for n in work:
        now: Stack | None = found[n]
        for op in nodes[n].ops:
            now = behind(op, now) if now else None
        if now is None:
            return []
        for m in nodes[n].successors():
            if m not in found:
                found[m] = now
                work.append(m)
            elif found[m] != now:
                return []
    return [found.get(n, (0, 0)) for n in range(len(nodes))]


def _load_control(pointer: str) -> str:
    """Text that loads the host's control word."""
    return f'  call void asm sideeffect "fldcw $0", "*m,~{{fpcr}},{STATUS_CLOBBER}"(ptr elementtype(i16) {pointer})'


class X87Values(GroupedLookups):
    """The part of a region's builder that deals with the x87; `stack` is how it stands before the current instruction."""

    def __init__(self, units: Units, name: str, nodes: Sequence[Node]) -> None:
        super().__init__(units, name, long=any(op.shape.long for node in nodes for op in node.ops))
        self.stacks = stacks(nodes)
        self.stack: Stack = (0, 0)
        self.control = nodes[0].x87[2] if nodes[0].x87 else HOST_CONTROL
        self.sets_control = any(op.shape.unit == "x87_env.ldcw" for node in nodes for op in node.ops)
        """The control word may be another one later, in which all exceptions are masked, too."""
        self.own_control = self.control != HOST_CONTROL or self.sets_control
        self._x87_written: set[int] = set()
        self._rounds = False
        """C1 is looked at behind the current instruction."""

    def st(self, i: int) -> int:
        """Number of the register ST(i)."""
        return (self.stack[0] + i) & 7

    def st_value(self, i: int) -> str:
        return self.new(f"load x86_fp80, ptr %f{self.st(i)}")

    def set_st(self, i: int, v: str) -> None:
        self._x87_written.add(self.st(i))
        self.put(f"store x86_fp80 {v}, ptr %f{self.st(i)}")

    # ---- between the record and the local variables ---------------------------------------------------------------------
    def x87_places(self) -> list[str]:
        """Text that makes the local variables, and pointers to what they stand for."""
        if not self.stacks:
            return []
        lines = []
        for n in range(8):
            lines += [f"  %f{n} = alloca x86_fp80, align 16"]
            lines += [f"  %pf{n} = getelementptr i8, ptr %cpu, i64 {at('fpr') + 16 * n}"]
        lines += [f"  %x_{name} = alloca i64" for name in WORDS]
        lines += ["  %x_own = alloca i16", f"  store i16 {HOST_CONTROL}, ptr %x_own"]
        fields = {"used": "fpu_used", "sw": "fsw", "cw": "fcw"} | {n: n for n in ("fip", "fcs", "fop", "fdp", "fds")}
        return [*lines, *(f"  %px_{name} = getelementptr i8, ptr %cpu, i64 {at(f)}" for name, f in fields.items())]

    def x87_load(self) -> list[str]:
        """Text that takes the record's x87 over; the host's flags are empty then."""
        if not self.stacks:
            return []
        lines = []
        for n in range(8):
            v = self.fresh()
            lines += [f"  {v} = load x86_fp80, ptr %pf{n}, align 8", f"  store x86_fp80 {v}, ptr %f{n}"]
        for name in ("used", "fip", "fcs", "fop", "fdp", "fds"):
            v = self.fresh()
            lines += [f"  {v} = load i64, ptr %px_{name}", f"  store i64 {v}, ptr %x_{name}"]
        sw, top, cc = self.fresh(), self.fresh(), self.fresh()
        lines += [f"  {sw} = load i64, ptr %px_sw", f"  {top} = and i64 {sw}, {7 << TOP_SHIFT}"]
        lines += [f"  store i64 {top}, ptr %x_top", f"  {cc} = and i64 {sw}, {CONDITIONS}", f"  store i64 {cc}, ptr %x_cc"]
        lines.append(f'  call void asm sideeffect "fnclex", "{STATUS_CLOBBER}"()')
        if self.own_control:
            lines.append(_load_control("%px_cw"))
        return lines

    def _status_lines(self) -> tuple[list[str], str]:
        """Text that puts the status word together, and its name."""
        old, kept, host, flags, top, cc, a, b, v = (self.fresh() for _ in range(9))
        return [
            f"  {old} = load i64, ptr %px_sw",
            f"  {kept} = and i64 {old}, {0xFFFF & ~(7 << TOP_SHIFT | CONDITIONS)}",
            f'  {host} = call i64 asm sideeffect "fnstsw %ax", "={{ax}},{STATUS_CLOBBER}"()',
            f"  {flags} = and i64 {host}, {EXCEPTIONS}",
            f"  {top} = load i64, ptr %x_top",
            f"  {cc} = load i64, ptr %x_cc",
            f"  {a} = or i64 {kept}, {flags}",
            f"  {b} = or i64 {top}, {cc}",
            f"  {v} = or i64 {a}, {b}",
        ], v

    def x87_store(self) -> list[str]:
        """Text that makes the record's x87 true; the host's control word is its own again."""
        if not self.stacks:
            return []
        lines = []
        for n in sorted(self._x87_written):
            v = self.fresh()
            lines += [f"  {v} = load x86_fp80, ptr %f{n}", f"  store x86_fp80 {v}, ptr %pf{n}, align 8"]
        for name in ("used", "fip", "fcs", "fop", "fdp", "fds"):
            v = self.fresh()
            lines += [f"  {v} = load i64, ptr %x_{name}", f"  store i64 {v}, ptr %px_{name}"]
        status, v = self._status_lines()
        lines += [*status, f"  store i64 {v}, ptr %px_sw"]
        if self.own_control:
            lines.append(_load_control("%x_own"))
        return lines

    def x87_stands(self, stack: Stack, other: str) -> None:
        """Go on only where the record's x87 stands as it must here, else to label `other`."""
        go = self.label()
        top, used = stack
        here = self.new(f"and i64 {self.word('fsw')}, {7 << TOP_SHIFT}")
        a = self.new(f"xor i64 {here}, {top << TOP_SHIFT}")
        b = self.new(f"xor i64 {self.word('fpu_used')}, {used}")
        control, wanted = self.word("fcw"), self.control
        if self.sets_control:
            control, wanted = self.new(f"and i64 {control}, {ALL_MASKED}"), ALL_MASKED
        d = self.new(f"xor i64 {control}, {wanted}")
        all_ = self.new(f"or i64 {self.new(f'or i64 {a}, {b}')}, {d}")
        self.cond_branch(self.new(f"icmp eq i64 {all_}, 0"), go, other, True)
        self.place(go)
        self.put(f"store i64 {top << TOP_SHIFT}, ptr %x_top")
        self.put(f"store i64 {used}, ptr %x_used")

    # ---- instructions -----------------------------------------------------------------------------------------------------
    def x87_op(self, op: Op, rest: Sequence[Op]) -> bool:
        """Do an x87 instruction in place; False where its unit must."""
        stack = behind(op, self.stack)
        if op.shape.unit not in NATIVE or stack is None:
            return False
        name = op.shape.unit.partition(".")[2]
        pointer, off = "", ""
        if op.shape.ops == ("m",):
            off = effective_address(self, op.shape)
            stores = op.shape.kind in ("fpu_store", "fpu_put") or name == "stp_m80"
            pointer = self._hit(self.segment(), op.shape.flat, off, op.shape.sizes[0], stores)
        if name not in CONTROL:
            self._note_x87(op, off)
        self._rounds = name not in EXACT and self._asked(rest)
        _DO[name](self, op, pointer)
        self._stand(stack)
        return True

    def _asked(self, rest: Sequence[Op]) -> bool:
        """Whether C1 may be seen before another instruction of the node sets it."""
        for op in rest:
            unit = op.shape.unit
            if op.shape.mem or op.shape.kind not in ("value", "fpu"):
                return True
            if unit in NATIVE and unit not in KEEPING:
                return False
        return True

    def _stand(self, stack: Stack) -> None:
        self.put(f"store i64 {stack[0] << TOP_SHIFT}, ptr %x_top")
        self.put(f"store i64 {stack[1]}, ptr %x_used")
        self.stack = stack

    def _note_x87(self, op: Op, off: str) -> None:
        """The last instruction, and its memory operand."""
        self.put(f"store i64 {op.eip - (op.eip >> 63 << 64)}, ptr %x_fip")
        self.put(f"store i64 {op.imm}, ptr %x_fop")
        self.put(f"store i64 {self._at_entry('sel1', at('sel') + 8)}, ptr %x_fcs")
        if off:
            seg = op.seg >> 3
            self.put(f"store i64 {off}, ptr %x_fdp")
            self.put(f"store i64 {self._at_entry(f'sel{seg}', at('sel') + 8 * seg)}, ptr %x_fds")

    @abstractmethod
    def _at_entry(self, name: str, offset: int) -> str:
        """A word of the record that only out-of-line semantics change."""

    def _set_conditions(self, changed: int, sw: str) -> None:
        """Take conditions over from a status word."""
        kept = self.new(f"and i64 {self.new('load i64, ptr %x_cc')}, {CONDITIONS & ~changed}")
        new = self.new(f"and i64 {sw}, {changed}")
        self.put(f"store i64 {self.new(f'or i64 {kept}, {new}')}, ptr %x_cc")

    def _clear_c1(self) -> None:
        self._set_conditions(C1, "0")

    # ---- host instructions ------------------------------------------------------------------------------------------------
    def _asm(self, text: str, inputs: Sequence[tuple[str, str]]) -> str:
        """An instruction that gives ST(0); inputs as (constraint, typed value), the memory operand being `$M` in the text.

        The status word is read in the same breath: between two of these LLVM moves values about, which clears C1.
        """
        operands = [k for k, _ in inputs]
        outputs, result = ["={st}"], "x86_fp80"
        if self._rounds:
            outputs, result, text = [*outputs, "={ax}"], "{ x86_fp80, i64 }", f"{text}; fnstsw %ax"
        if "*m" in operands:
            text = text.replace("$M", f"${len(outputs) + operands.index('*m')}")
        constraints = ",".join([*outputs, *operands, "~{memory}", STATUS_CLOBBER])
        arguments = ", ".join(v for _, v in inputs)
        v = self.new(f'call {result} asm sideeffect "{text}", "{constraints}"({arguments})')
        if not self._rounds:
            return v
        self._set_conditions(C1, self.new(f"extractvalue {result} {v}, 1"))
        return self.new(f"extractvalue {result} {v}, 0")

    def _compare(self, text: str, inputs: Sequence[tuple[str, str]]) -> str:
        """A comparison: the status word behind it."""
        text = text.replace("$M", "$2")
        constraints = ",".join(["={ax}", *(k for k, _ in inputs), "~{memory}", STATUS_CLOBBER])
        arguments = ", ".join(v for _, v in inputs)
        return self.new(f'call i64 asm sideeffect "{text}; fnstsw %ax", "{constraints}"({arguments})')

    def _binary(self, op: Op, d: int, s: int, operation: int) -> None:
        a, b = self.st_value(d), self.st_value(s)
        inputs = [("0", f"x86_fp80 {a}"), ("{st(1)}", f"x86_fp80 {b}")]
        self.set_st(d, self._asm(f"{OPERATIONS[operation]} %st(1), %st", inputs))

    def do_arith(self, op: Op, pointer: str) -> None:
        self._binary(op, 0, op.imm & 7, op.imm >> 3 & 7)

    def do_arith_to(self, op: Op, pointer: str) -> None:
        operation = op.imm >> 3 & 7
        self._binary(op, op.imm & 7, 0, operation ^ operation >> 2)

    def _with_memory(self, op: Op, pointer: str) -> tuple[str, list[tuple[str, str]]]:
        """Host instruction and inputs for ST(0) with a memory operand."""
        form = op.shape.unit.rpartition("_")[2]
        name = OPERATIONS[op.imm >> 3 & 7]
        if form in INTEGERS:
            name = f"fi{name[1:]}{INTEGERS[form]}"
        else:
            name = f"{name}{'s' if form == 'm32' else 'l'}"
        bits = int(form[1:])
        return f"{name} $M", [("0", f"x86_fp80 {self.st_value(0)}"), ("*m", f"ptr elementtype(i{bits}) {pointer}")]

    def do_arith_memory(self, op: Op, pointer: str) -> None:
        text, inputs = self._with_memory(op, pointer)
        self.set_st(0, self._asm(text, inputs))

    def do_com(self, op: Op, pointer: str) -> None:
        name = op.shape.unit.rpartition(".")[2]
        i = 1 if name.endswith("pp") else op.imm & 7
        text = f"f{name.rstrip('p')} %st(1)"
        inputs = [("{st}", f"x86_fp80 {self.st_value(0)}"), ("{st(1)}", f"x86_fp80 {self.st_value(i)}")]
        self._set_conditions(CONDITIONS, self._compare(text, inputs))

    def do_com_memory(self, op: Op, pointer: str) -> None:
        text, inputs = self._with_memory(op, pointer)
        text = text.replace("comp", "com")
        inputs[0] = ("{st}", inputs[0][1])
        self._set_conditions(CONDITIONS, self._compare(text, inputs))

    def do_tst(self, op: Op, pointer: str) -> None:
        self._set_conditions(CONDITIONS, self._compare("ftst", [("{st}", f"x86_fp80 {self.st_value(0)}")]))

    def _push(self, v: str) -> None:
        self.set_st(7, v)
        self._clear_c1()

    def do_ld_memory(self, op: Op, pointer: str) -> None:
        form = op.shape.unit.rpartition("_")[2]
        name = f"fild{INTEGERS[form]}" if form in INTEGERS else f"fld{'s' if form == 'm32' else 'l'}"
        self._push(self._asm(f"{name} $M", [("*m", f"ptr elementtype(i{form[1:]}) {pointer}")]))

    def do_ld_sti(self, op: Op, pointer: str) -> None:
        self._push(self.st_value(op.imm & 7))

    def do_ld_constant(self, op: Op, pointer: str) -> None:
        self._push(self._asm(CONSTANTS[op.imm & 7], []))

    def do_store(self, op: Op, pointer: str) -> None:
        form, _, way = op.shape.unit.partition(".")[2].partition("_")
        if way == "truncated":
            name = f"fisttp{INTEGERS[form]}"
        else:
            name = f"fistp{INTEGERS[form]}" if form in INTEGERS else f"fstp{'s' if form == 'm32' else 'l'}"
        target, value = f"ptr elementtype(i{form[1:]}) {pointer}", f"x86_fp80 {self.st_value(0)}"
        constraints = f"=*m,{{st}},~{{st}},~{{memory}},{STATUS_CLOBBER}"
        if not self._rounds:
            self.put(f'call void asm sideeffect "{name} $0", "{constraints}"({target}, {value})')
            return
        text = f'call i64 asm sideeffect "{name} $1; fnstsw %ax", "={{ax}},{constraints}"({target}, {value})'
        self._set_conditions(C1, self.new(text))

    def do_ld_m80(self, op: Op, pointer: str) -> None:
        self._push(self._asm("fldt $M", [("*m", f"ptr elementtype(x86_fp80) {pointer}")]))

    def do_stp_m80(self, op: Op, pointer: str) -> None:
        constraints = f"=*m,{{st}},~{{st}},~{{memory}},{STATUS_CLOBBER}"
        arguments = f"ptr elementtype(x86_fp80) {pointer}, x86_fp80 {self.st_value(0)}"
        self.put(f'call void asm sideeffect "fstpt $0", "{constraints}"({arguments})')
        self._clear_c1()

    def do_ldcw(self, op: Op, pointer: str) -> None:
        """A word that unmasks an exception is the handler's affair."""
        v, go = self._guest_load(pointer, 2), self.label()
        masked = self.new(f"icmp eq i64 {self.new(f'and i64 {v}, {ALL_MASKED}')}, {ALL_MASKED}")
        self.cond_branch(masked, go, self.again(), True)
        self.place(go)
        v = self.new(f"or i64 {self.new(f'and i64 {v}, {CONTROL_BITS}')}, {CONTROL_ONES}")
        self.put(f"store i64 {v}, ptr %px_cw")
        self.lines.append(_load_control("%px_cw"))

    def do_nstcw(self, op: Op, pointer: str) -> None:
        self._guest_store(pointer, 2, self.new("load i64, ptr %px_cw"))

    def do_comi(self, op: Op, pointer: str) -> None:
        text = f"{'fucom' if op.shape.unit.endswith('ucomi') else 'fcom'} %st(1)"
        inputs = [("{st}", f"x86_fp80 {self.st_value(0)}"), ("{st(1)}", f"x86_fp80 {self.st_value(op.imm & 7)}")]
        sw = self.new(f"lshr i64 {self._compare(text, inputs)}, 8")
        self.call("flags.put_flags", [self.new(f"and i64 {sw}, {FLAGS_OF_CONDITIONS}")], flags="new")
        self.commit_flags()

    def do_st_sti(self, op: Op, pointer: str) -> None:
        self.set_st(op.imm & 7, self.st_value(0))
        self._clear_c1()

    def do_xch(self, op: Op, pointer: str) -> None:
        a, b = self.st_value(0), self.st_value(op.imm & 7)
        self.set_st(0, b)
        self.set_st(op.imm & 7, a)
        self._clear_c1()

    def do_sign(self, op: Op, pointer: str) -> None:
        text = "fabs" if op.imm & 1 else "fchs"
        self.set_st(0, self._asm(text, [("0", f"x86_fp80 {self.st_value(0)}")]))
        self._clear_c1()

    def do_cmov(self, op: Op, pointer: str) -> None:
        which = op.imm >> 3 & 3
        cc = (10 if which == 3 else 2 + 2 * which) | op.imm >> 8 & 1
        holds = self.new(f"icmp ne i64 {self.call('flags.condition', [str(cc)])}, 0")
        a, b = self.st_value(op.imm & 7), self.st_value(0)
        self.set_st(0, self.new(f"select i1 {holds}, x86_fp80 {a}, x86_fp80 {b}"))

    def do_nop(self, op: Op, pointer: str) -> None:
        """Only noted."""

    def do_nstsw_ax(self, op: Op, pointer: str) -> None:
        lines, v = self._status_lines()
        self.lines += lines
        self.set_gpr(0, 2, v)


_DO = {
    "arith": X87Values.do_arith,
    "arith_to": X87Values.do_arith_to,
    "arith_pop": X87Values.do_arith_to,
    **{f"arith_{form}": X87Values.do_arith_memory for form in ("m32", "m64", "i32", "i16")},
    **dict.fromkeys(("com", "comp", "compp", "ucom", "ucomp", "ucompp"), X87Values.do_com),
    **{f"com_{form}": X87Values.do_com_memory for form in ("m32", "m64", "i32", "i16")},
    "tst": X87Values.do_tst,
    **dict.fromkeys(("ld_m32", "ld_m64", "ild_i16", "ild_i32", "ild_i64"), X87Values.do_ld_memory),
    "ld_m80": X87Values.do_ld_m80,
    "stp_m80": X87Values.do_stp_m80,
    "ldcw": X87Values.do_ldcw,
    "nstcw_value": X87Values.do_nstcw,
    "comi": X87Values.do_comi,
    "ucomi": X87Values.do_comi,
    "ld_sti": X87Values.do_ld_sti,
    "ld_constant": X87Values.do_ld_constant,
    **{f"{form}_value": X87Values.do_store for form in ("m32", "m64", "i16", "i32", "i64")},
    **{f"{form}_truncated": X87Values.do_store for form in ("i16", "i32", "i64")},
    "st_sti": X87Values.do_st_sti,
    "stp_sti": X87Values.do_st_sti,
    "xch": X87Values.do_xch,
    "sign": X87Values.do_sign,
    "cmov": X87Values.do_cmov,
    "nop": X87Values.do_nop,
    "nstsw_ax": X87Values.do_nstsw_ax,
}
