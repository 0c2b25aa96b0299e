"""16-bit stack frames: who called the code at an address, for `jitvm gdb-init` and the monitor.

A function whose beginning is known by a symbol is read from there to the address, and what it pushed is counted; so
frames without BP are found too (gcc -m16 makes them).  Without symbols: the return address on the stack's top when the
call before it leads here, or the one above the BP that the usual prologue saved.  A return address is believed only when
a call stands before it, or FLAGS above it where the function ends with IRET.

Not modelled: functions that leave through others' code, callees that drop their arguments, alloca.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import iced_x86 as ix

Read = Callable[[int, int], bytes]
"""(linear address, size): the bytes up to the first that can't be read."""

M16, M32 = 0xFFFF, 0xFFFF_FFFF
RESERVED_FLAGS, ALWAYS_FLAG, IF = 0x8028, 0x0002, 0x0200
LONGEST, FARTHEST = 15, 0x2000
SP, BP = (ix.Register.SP, ix.Register.ESP), (ix.Register.BP, ix.Register.EBP)
CALLS = (ix.FlowControl.CALL, ix.FlowControl.INDIRECT_CALL, ix.FlowControl.INTERRUPT)
JUMPS = (ix.FlowControl.UNCONDITIONAL_BRANCH, ix.FlowControl.INDIRECT_BRANCH, ix.FlowControl.RETURN)
BRANCHES = (ix.FlowControl.UNCONDITIONAL_BRANCH, ix.FlowControl.CONDITIONAL_BRANCH)
KINDS = {
    ix.Code.RETNW: (2, False, 0), ix.Code.RETND: (4, False, 0), ix.Code.RETFW: (2, True, 0),
    ix.Code.RETFD: (4, True, 0), ix.Code.IRETW: (2, True, 2), ix.Code.IRETD: (4, True, 4),
    ix.Code.RETNW_IMM16: (2, False, 0), ix.Code.RETND_IMM16: (4, False, 0), ix.Code.RETFW_IMM16: (2, True, 0),
    ix.Code.RETFD_IMM16: (4, True, 0),
}  # fmt: skip
"""Returns: size of each word, whether CS is among them, and what lies above (flags)."""
NEAR, NEAR32, FAR, INTERRUPT = (2, False, 0), (4, False, 0), (2, True, 0), (2, True, 2)
Kind = tuple[int, bool, int]


@dataclass(frozen=True)
class Frame:
    """Where code stands: `pc` is linear, `sp` and `bp` are offsets in SS, whose base is `ss_base`."""

    pc: int
    sp: int
    bp: int
    cs: int
    cs_base: int
    ss_base: int


@dataclass(frozen=True)
class Unwound:
    """`cfa`: linear address behind the return address, the same in all of the function.

    `caller` None: not found; then `cfa` is the end of the stack segment, whatever the code pushes.
    """

    cfa: int
    function: int
    caller: Frame | None


def unwind(frame: Frame, read: Read, start_of: Callable[[int], int | None]) -> Unwound:
    """The caller of a frame; `start_of` gives the beginning of the function that an address belongs to."""
    begin = start_of(frame.pc)
    guesses = [*_by_code(frame, read, begin)] if begin is not None else []
    guesses += [*_on_top(frame, read, begin), *_by_bp(frame)]
    for at, kind, bp in guesses:
        caller = _caller(frame, read, at, kind, bp)
        if caller is not None:
            return Unwound(frame.ss_base + caller.sp, begin or 0, caller)
    return Unwound(frame.ss_base + M16 + 1, begin or 0, None)


def _word(read: Read, at: int, size: int) -> int:
    """A word; 0 where no memory is."""
    return int.from_bytes(read(at & M32, size).ljust(size, b"\0"), "little")


def _decode(frame: Frame, read: Read, lin: int) -> ix.Instruction:
    return ix.Decoder(16, read(lin & M32, LONGEST), ip=lin - frame.cs_base & M32).decode()


def _caller(frame: Frame, read: Read, at: int, kind: Kind, saved_bp: int | None) -> Frame | None:
    """The frame to which the return address at SS:`at` leads, None when no call stands before it."""
    size, far, above = kind
    ip = _word(read, frame.ss_base + (at & M16), size)
    cs, base = frame.cs, frame.cs_base
    if far:
        cs = _word(read, frame.ss_base + (at + size & M16), 2)
        base = cs << 4
    if ip > M16:
        return None
    call = _call_before(frame, read, base, ip)
    fits = call is not None and _fits(call, kind)
    if not fits and not (above and _flags(_word(read, frame.ss_base + (at + 2 * size & M16), 2))):
        return None
    bp = frame.bp if saved_bp is None else _word(read, frame.ss_base + (saved_bp & M16), 2)
    return Frame(base + ip & M32, at + size * (2 if far else 1) + above & M16, bp, cs, base, frame.ss_base)


def _call_before(frame: Frame, read: Read, base: int, ip: int) -> ix.Instruction | None:
    """The call or INT that ends at an address."""
    for size in range(2, 9):
        if size > ip:
            return None
        data = read(base + ip - size & M32, size)
        if len(data) == size:
            found = ix.Decoder(16, data, ip=ip - size).decode()
            if found.len == size and found.flow_control in CALLS:
                return found
    return None


def _fits(call: ix.Instruction, kind: Kind) -> bool:
    """Whether a call leaves what such a return takes."""
    size, far, above = kind
    far_call = bool(call.is_call_far or call.is_call_far_indirect)
    if above:
        return far_call or call.flow_control == ix.FlowControl.INTERRUPT
    pushed = -int(call.stack_pointer_increment)
    return far_call == far and pushed == size * (2 if far else 1) and call.flow_control != ix.FlowControl.INTERRUPT


def _flags(word: int) -> bool:
    """Whether a word may be FLAGS with interrupts open: above the return address of a hardware interrupt."""
    return word & (RESERVED_FLAGS | ALWAYS_FLAG | IF) == ALWAYS_FLAG | IF


# ---- with symbols ---------------------------------------------------------------------------------------------------
def _by_code(frame: Frame, read: Read, begin: int) -> Iterator[tuple[int, Kind, int | None]]:
    """What the function has pushed up to here; where its return address and the saved BP lie."""
    depth, bp_depth, saved_bp, at = 0, None, None, begin
    most = 0
    depths: dict[int, int] = {}
    while at < frame.pc:
        instruction = _decode(frame, read, at)
        if not instruction.len or frame.pc - begin > FARTHEST:
            return
        if instruction.mnemonic == ix.Mnemonic.PUSH and instruction.op0_register in BP and saved_bp is None:
            saved_bp = depth - instruction.stack_pointer_increment
        if instruction.mnemonic == ix.Mnemonic.MOV and _registers(instruction) in ((BP[0], SP[0]), (BP[1], SP[1])):
            bp_depth = depth
        elif instruction.mnemonic == ix.Mnemonic.LEAVE or (
            instruction.mnemonic == ix.Mnemonic.POP and instruction.op0_register in BP
        ):
            before = depth if bp_depth is None or instruction.mnemonic == ix.Mnemonic.POP else bp_depth
            size = 4 if instruction.op0_register == BP[1] or instruction.code == ix.Code.LEAVED else 2
            depth, bp_depth, saved_bp = before - size, None, None
        elif instruction.flow_control in BRANCHES and instruction.op0_kind in (
            ix.OpKind.NEAR_BRANCH16, ix.OpKind.NEAR_BRANCH32,
        ):  # fmt: skip
            depths.setdefault(frame.cs_base + int(instruction.near_branch_target) & M32, depth)
        elif instruction.flow_control not in CALLS and instruction.flow_control != ix.FlowControl.RETURN:
            depth -= _moves(instruction)
        most = max(most, depth)
        at += instruction.len
        if instruction.flow_control in JUMPS:
            depth = depths.get(at, most)
    if bp_depth is not None:
        ret, saved = frame.bp + bp_depth, frame.bp + bp_depth - (saved_bp or 0)
    else:
        ret, saved = frame.sp + depth, frame.sp + depth - (saved_bp or 0)
    kind = _return(frame, read, at)
    for one in (kind,) if kind is not None else (NEAR, NEAR32, FAR, INTERRUPT):
        yield ret, one, saved if saved_bp is not None else None


def _registers(instruction: ix.Instruction) -> tuple[int, int]:
    return instruction.op0_register, instruction.op1_register


def _moves(instruction: ix.Instruction) -> int:
    """What an instruction adds to the stack pointer."""
    if instruction.mnemonic in (ix.Mnemonic.ADD, ix.Mnemonic.SUB) and instruction.op0_register in SP:
        value = int(instruction.immediate(1)) & M32 if instruction.op_count == 2 and _immediate(instruction) else 0
        value -= (1 << 32) if value >> 31 else 0
        return value if instruction.mnemonic == ix.Mnemonic.ADD else -value
    return int(instruction.stack_pointer_increment)


def _immediate(instruction: ix.Instruction) -> bool:
    return instruction.op1_kind not in (ix.OpKind.REGISTER, ix.OpKind.MEMORY)


def _return(frame: Frame, read: Read, at: int) -> Kind | None:
    """The kind of the next return behind an address."""
    end = at + FARTHEST
    while at < end:
        instruction = _decode(frame, read, at)
        if not instruction.len:
            return None
        if instruction.code in KINDS:
            return KINDS[instruction.code]
        at += instruction.len
    return None


# ---- without --------------------------------------------------------------------------------------------------------
def _on_top(frame: Frame, read: Read, begin: int | None) -> Iterator[tuple[int, Kind, int | None]]:
    """At a function's first instruction, or behind its push of BP: the call before the return address leads here."""
    pushed = next((n for n, code in ((1, b"\x55"), (2, b"\x66\x55")) if read(frame.pc - n & M32, n) == code), 0)
    for above, entry in ((0, frame.pc), (2 * pushed, frame.pc - pushed)):
        for kind in (NEAR, NEAR32, FAR):
            caller = _caller(frame, read, frame.sp + above, kind, None)
            call = None if caller is None else _call_before(frame, read, caller.cs_base, caller.pc - caller.cs_base)
            if call is not None and _leads_to(call, frame, entry):
                yield frame.sp + above, kind, frame.sp if above else None


def _leads_to(call: ix.Instruction, frame: Frame, entry: int) -> bool:
    """Whether a direct call's target is the linear address `entry`."""
    if call.op0_kind in (ix.OpKind.NEAR_BRANCH16, ix.OpKind.NEAR_BRANCH32):
        return int(call.near_branch_target) == entry - frame.cs_base & M32
    if call.op0_kind == ix.OpKind.FAR_BRANCH16:
        return (int(call.far_branch_selector) << 4) + int(call.far_branch16) == entry
    return False


def _by_bp(frame: Frame) -> Iterator[tuple[int, Kind, int | None]]:
    """`push bp; mov bp, sp` (or EBP): what lies above BP."""
    if frame.bp >= frame.sp:
        yield frame.bp + 2, NEAR, frame.bp
        yield frame.bp + 4, NEAR32, frame.bp
        yield frame.bp + 2, FAR, frame.bp
