"""Two results of one case, compared field by field and shown side by side.

Left out of the comparison: what `tests.isa.undefined` says the manual leaves
open, what `vendor` says of this host's processor, and the selectors that the
segment registers happen to hold, which differ by environment and not by
meaning.
"""

from __future__ import annotations

from iced_x86 import Code, Instruction, Mnemonic, OpKind, Register

from tests.isa.undefined import STORES_BEFORE_FAULT, Undefined, undefined, width_of
from tests.oracle import vendor
from tests.oracle.case import COMPARED_FLAGS, FLAG_NAMES, STATUS, WINDOW, Case, Result
from tests.oracle.encoding import effective_address

NAMES = "eax ecx edx ebx esp ebp esi edi r8 r9 r10 r11 r12 r13 r14 r15".split()

_SEGMENT_REGISTERS = range(Register.ES, Register.GS + 1)


def differences(case: Case, one: Result, other: Result) -> list[str]:
    """The fields in which two results differ, but for what is undefined.

    Each is a line of the field's name and the two values.
    """
    if one == other:
        return []
    free = vendor.otherwise(case, one).fields
    instruction = case.instruction()
    undef = undefined(case)
    mask = COMPARED_FLAGS & ~undef.flags
    ignored_registers, ignored_memory = _ignored(case, instruction, undef, one)
    mask_at = None
    if vendor.IS_AMD and instruction.mnemonic in vendor.MASKED:
        mask_at = operand_byte(case, instruction, vendor.MASK_AT)
    if one.fault is not None and instruction.mnemonic in STORES_BEFORE_FAULT:
        ignored_memory |= one.memory.keys() | other.memory.keys()
    lines = []
    if one.fault != other.fault and "fault" not in free:
        lines.append(f"fault     {_fault(one):>28} {_fault(other):>28}")
    if one.steps != other.steps and "steps" not in free:
        lines.append(f"steps     {one.steps:>28} {other.steps:>28}")
    for i, (x, y) in enumerate(zip(one.regs, other.regs, strict=True)):
        if (x ^ y) & ~ignored_registers.get(i, 0) and not {NAMES[i], "registers"} & free:
            lines.append(f"{NAMES[i]:<9} {x:>28x} {y:>28x}")
    if "flags" in free:
        mask &= ~STATUS
    if (one.flags ^ other.flags) & mask:
        lines.append(f"flags     {_flags(one.flags & mask):>28} {_flags(other.flags & mask):>28}")
    if one.ip_delta != other.ip_delta and "ip delta" not in free:
        lines.append(f"ip delta  {_signed(one.ip_delta):>28} {_signed(other.ip_delta):>28}")
    before = case.image()
    for offset in sorted(one.memory.keys() | other.memory.keys() if "memory" not in free else ()):
        x, y = (r.memory.get(offset, before[offset]) for r in (one, other))
        if offset == mask_at and x ^ y == vendor.MASK_BIT:
            continue
        if x != y and offset not in ignored_memory:
            lines.append(f"[{offset:#07x}] {x:>28x} {y:>28x}  (was {before[offset]:x})")
    return lines


def _ignored(case: Case, instruction: Instruction, undef: Undefined, result: Result) -> tuple[dict[int, int], set[int]]:
    """Register bits (a mask by register number) and memory offsets not to compare."""
    registers: dict[int, int] = {}
    memory: set[int] = set()
    if _frame_pointer_borrows(case, instruction):
        registers[5] = 0xFFFF_0000
        level = instruction.immediate8_2nd & 31
        memory.update(case.offset("ss", case.regs[4] - 4 * (1 + level) + i) for i in (2, 3) if level)
    selector = any(
        instruction.op_kind(i) == OpKind.REGISTER and instruction.op_register(i) in _SEGMENT_REGISTERS
        for i in range(instruction.op_count)
    )
    if not (selector or undef.destination):
        return registers, memory
    if instruction.mnemonic == Mnemonic.PUSH:
        # The selector itself; the rest of a 32-bit slot too: newer CPUs leave
        # it as it was (SDM volume 2, PUSH), older and other ones write 0.
        size = (case.regs[4] - result.regs[4]) & 0xFF
        memory.update(case.offset("ss", result.regs[4] + i) for i in range(size))
    elif instruction.op0_kind == OpKind.REGISTER:
        width = width_of(instruction)
        full = instruction.op0_register - {16: Register.AX, 32: Register.EAX, 64: Register.RAX}[width]
        registers[full] = (1 << width) - 1 if undef.destination else 0xFFFF
    else:
        memory.update(operand_offsets(case, instruction))
    return registers, memory


def _frame_pointer_borrows(case: Case, instruction: Instruction) -> bool:
    """ENTER of 32 bits whose push wraps a 16-bit stack: newer silicon borrows from the upper half, SDM volume 2 does not."""
    return instruction.code == Code.ENTERD_IMM16_IMM8 and case.mode == 16 and case.regs[4] & 0xFFFF < 4


def operand_offsets(case: Case, instruction: Instruction) -> set[int]:
    """Window offsets of the memory operand, from the state before the case."""
    first_byte = operand_byte(case, instruction, 0)
    return {first_byte + i for i in range(width_of(instruction) // 8)}


def operand_byte(case: Case, instruction: Instruction, number: int) -> int:
    """Window offset of one of its bytes."""
    name = "es cs ss ds fs gs".split()[instruction.memory_segment - Register.ES]
    return (case.segment(name).base + effective_address(case, instruction, number)) % (1 << 64) - WINDOW


def _fault(result: Result) -> str:
    if result.fault is None:
        return "none"
    return f"#{result.fault.vector} error {result.fault.error:x} at {result.fault.address:x}"


def _flags(flags: int) -> str:
    return " ".join(name for bit, name in FLAG_NAMES.items() if flags & bit) or "-"


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def describe(case: Case, lines: list[str], names: tuple[str, str]) -> str:
    """A failure as text: the code, the state it started from, the differing fields."""
    registers = " ".join(f"{name}={value:x}" for name, value in zip(NAMES, case.regs, strict=False))
    head = f"{case.mode}-bit {case.layout.value} {case.code.hex(' ')}   {case.instruction()}"
    state = f"  {registers} flags: {_flags(case.flags & COMPARED_FLAGS)} ip={case.address:x}"
    if case.count > 1:
        state += f" count={case.count}"
    columns = f"  {'':<9} {names[0]:>28} {names[1]:>28}"
    return "\n".join([head, state, columns, *("  " + line for line in lines)])
