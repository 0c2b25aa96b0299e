"""The oracles against each other and against facts checked by hand.

An oracle that is wrong would make every instruction test wrong, so this comes
before them: the host's CPU and unicorn, which share no code, must agree on
cases of all forms, and both must know what the manual states.
"""

from __future__ import annotations

import random
import struct
import warnings
from dataclasses import replace

import pytest

from tests.fast_set import share
from tests.isa.cases import Form, forms, generate, legal
from tests.oracle import native, unicorn_cpu
from tests.oracle.case import (
    AF,
    BR,
    CF,
    CODE_OFFSET,
    DE,
    FX_SIZE,
    GP,
    IF,
    OF,
    PF,
    SF,
    SS,
    STATUS,
    UD,
    WINDOW,
    ZF,
    Case,
    Fault,
    Layout,
    Oracle,
    Result,
)
from tests.oracle.compare import describe, differences
from tests.oracle.known_errors import fatal, known_error

CASES = 4000
SEED = 1


@pytest.fixture(scope="module", params=["native", "unicorn"])
def oracle_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Runner:
    """Runs a case on one oracle, or skips the test with the reason."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.oracle: Oracle | None = None

    def __call__(self, case: Case) -> Result:
        if self.name == "native":
            native.need(case.mode, case.layout)
        else:
            unicorn_cpu.need()
        if self.oracle is None:
            self.oracle = native.NativeCpu() if self.name == "native" else unicorn_cpu.UnicornCpu()
        return self.oracle.run([case])[0]


@pytest.fixture(scope="module")
def run(oracle_name: str) -> Runner:
    return Runner(oracle_name)


@pytest.fixture
def silicon() -> Runner:
    return Runner("native")


def vector_and_error(result: Result) -> tuple[int, int] | None:
    """What faulted, or None."""
    return None if result.fault is None else (result.fault.vector, result.fault.error)


def registers(**values: int) -> tuple[int, ...]:
    """Eight registers, the stack in the middle of the window if not said otherwise."""
    names = "eax ecx edx ebx esp ebp esi edi".split()
    return tuple(values.get(name, 0x8000 if name == "esp" else 0) for name in names)


def code32(code: str, flags: int = 0, count: int = 1, **values: int) -> Case:
    """32-bit code in hex and its registers."""
    return Case(32, bytes.fromhex(code), registers(**values), flags | IF | 2, count=count)


def code16(code: str, flags: int = 0, **values: int) -> Case:
    """16-bit code in hex and its registers."""
    return Case(16, bytes.fromhex(code), registers(**values), flags | IF | 2)


@pytest.mark.parametrize("layout", [Layout.FLAT, Layout.WINDOW])
def test_the_stack_pointer_may_have_any_value(layout: Layout) -> None:
    """Also those of addresses at which the harness lies."""
    native.need(32, layout)
    cases = [Case(32, b"\x90", registers(esp=esp), layout=layout) for esp in range(0x40_0000, 0x44_0000, 0x80)]
    assert [result.regs for result in native.NativeCpu().run(cases)] == [case.regs for case in cases]


def test_availability_is_said_aloud() -> None:
    """What this host cannot run is a warning in the report, not a silent skip."""
    for mode, layout in ((16, Layout.WINDOW), (32, Layout.WINDOW), (32, Layout.FLAT), (64, Layout.FLAT)):
        reason = native.available(mode, layout)
        if reason is not None:
            warnings.warn(f"no {mode}-bit {layout.value} code on this CPU: {reason}", stacklevel=1)
            assert reason.strip()


@pytest.mark.parametrize("mode", [16, 32, 64])
def test_every_form_is_encoded_as_itself(mode: int) -> None:
    """iced-x86's decoder, fed with the generator's bytes, names the form they were made for."""
    wrong = []
    rng = random.Random(SEED)
    for form in forms(mode):
        for _ in range(3):
            case = legal(form, mode, rng)
            if not same_form(case, form):
                wrong.append(f"{case.code.hex()} is {case.instruction()}, not {form.text}")
    assert not wrong, "\n".join(wrong)


def same_form(case: Case, form: Form) -> bool:
    """The form itself, or what a register operand of it is called in the tables."""
    instruction = case.instruction()
    nop = case.code in (b"\x90", b"\x66\x90")  # XCHG AX, AX
    bad_segment = not instruction and form.text.endswith(", Sreg")
    return nop or bad_segment or instruction.code == form.code or _reserved_nop(case, form)


def _reserved_nop(case: Case, form: Form) -> bool:
    # These opcodes have names for single ModRM values since the Pentium III.
    return form.opcode[0] == 0x0F and 0x0D <= form.opcode[1] <= 0x1F and bool(case.instruction())


def test_generator_is_reproducible() -> None:
    assert list(generate(32, 50, 3)) == list(generate(32, 50, 3))
    assert list(generate(32, 50, 3)) != list(generate(32, 50, 4))


@pytest.mark.parametrize("mode", share([64, 32, 16], 0))
def test_native_and_unicorn_agree_on_all_forms(mode: int) -> None:
    native.need(mode, Layout.FLAT if mode == 64 else Layout.WINDOW)
    unicorn_cpu.need()
    cases = [case for case in generate(mode, CASES, SEED) if fatal(case) is None]
    silicon = native.NativeCpu().run(cases)
    other = unicorn_cpu.UnicornCpu().run(cases)
    failures, compared = [], 0
    for case, truth, result in zip(cases, silicon, other, strict=True):
        lines = differences(case, truth, result)
        if known_error(case, truth) is None:
            compared += 1
            if lines:
                failures.append(describe(case, lines, ("native", "unicorn")))
    assert not failures, f"{len(failures)} differences\n" + "\n".join(failures[:10])
    assert compared > 0.8 * CASES


RELATIVE = {
    "SHLD by an immediate": ("0fa4 05", "08", True), "SHRD by an immediate": ("0fac 05", "08", True),
    "RORX": ("c4e37bf0 05", "01", True), "SHLD by CL": ("0fa5 05", "", False), "IMUL": ("6b 05", "08", False),
    "SHL": ("c1 25", "08", False), "BTS": ("0fba 2d", "08", False), "CMP": ("83 3d", "08", False),
}  # fmt: skip


@pytest.mark.parametrize("name", RELATIVE)
def test_unicorn_forgets_immediates_behind_some_relative_addresses(name: str) -> None:
    """The operand of four bytes lies at WINDOW + 3000h, and bytes beside it differ."""
    native.need(64, Layout.FLAT)
    unicorn_cpu.need()
    opcode, immediate, is_wrong = RELATIVE[name]
    head, tail = bytes.fromhex(opcode), bytes.fromhex(immediate)
    distance = 0x3000 - CODE_OFFSET - len(head) - 4 - len(tail)
    values = (0x1234_5678, 3, *(0,) * 2, WINDOW + 0x8000, *(0,) * 11)
    memory = {0x2FF8: bytes(range(1, 17))}
    case = Case(64, head + struct.pack("<i", distance) + tail, values, memory=memory, layout=Layout.FLAT)
    truth, other = native.NativeCpu().run([case])[0], unicorn_cpu.UnicornCpu().run([case])[0]
    assert bool(differences(case, truth, other)) == is_wrong == (known_error(case, truth) is not None)


def test_a_difference_is_seen_in_every_field() -> None:
    case = code32("01c8", eax=1, ecx=2)  # ADD EAX, ECX
    right = Result((3, *case.regs[1:]), PF, 2, {}, None, 1)
    assert differences(case, right, right) == []
    for wrong, name in (
        (replace(right, regs=(4, *case.regs[1:])), "eax"),
        (replace(right, flags=PF | AF), "flags"),
        (replace(right, ip_delta=3), "ip delta"),
        (replace(right, memory={0x10: 256}), "[0x00010]"),
        (replace(right, fault=Fault(UD)), "fault"),
        (replace(right, steps=0), "steps"),
    ):
        (line,) = differences(case, right, wrong)
        assert line.startswith(name)


def test_the_undefined_is_no_difference_and_the_defined_is() -> None:
    logic = code32("21c8")  # AND: AF is undefined, CF is not
    result = Result(logic.regs, ZF | PF, 2, {}, None, 1)
    assert differences(logic, result, replace(result, flags=ZF | PF | AF)) == []
    assert differences(logic, result, replace(result, flags=ZF | PF | CF))
    shift = code32("d3e0", ecx=1)  # SHL by 1: OF is defined, by 2 it is not
    result = Result(shift.regs, ZF | PF, 2, {}, None, 1)
    assert differences(shift, result, replace(result, flags=ZF | PF | OF))
    twice = replace(shift, regs=registers(ecx=2))
    result = replace(result, regs=twice.regs)
    assert differences(twice, result, replace(result, flags=ZF | PF | OF)) == []


# ---- facts from the manual ---------------------------------------------------

ARITHMETIC = [
    # code, flags before, eax before, eax after, flags after; ecx is 1
    ("01c8", 0, 0x0F, 0x10, AF),
    ("01c8", 0, 0x7FFFFFFF, 0x80000000, SF | OF | AF | PF),
    ("01c8", 0, 0xFFFFFFFF, 0, CF | ZF | AF | PF),
    ("11c8", CF, 0xFFFFFFFF, 1, CF | AF),
    ("29c8", 0, 0, 0xFFFFFFFF, CF | SF | AF | PF),
    ("29c8", 0, 0x80000000, 0x7FFFFFFF, OF | AF | PF),
    ("40", CF, 0x7FFFFFFF, 0x80000000, CF | SF | OF | AF | PF),
    ("48", CF, 0, 0xFFFFFFFF, CF | SF | AF | PF),
    ("f7d8", 0, 0x80000000, 0x80000000, CF | SF | OF | PF),
    ("f7d8", CF, 0, 0, ZF | PF),
    # DAA and DAS, rows of the tables (OF is undefined)
    ("27", 0, 0x0A, 0x10, AF),
    ("27", 0, 0x9A, 0x00, CF | AF | ZF | PF),
    ("27", AF, 0x12, 0x18, AF | PF),
    ("27", CF, 0x00, 0x60, CF | PF),
    ("27", CF | AF, 0x33, 0x99, CF | AF | SF | PF),
    ("2f", 0, 0xFF, 0x99, CF | AF | SF | PF),
    ("2f", CF | AF, 0x05, 0x9F, CF | AF | SF | PF),
    # SALC copies CF to AL and leaves the flags
    ("d6", CF, 0x1234, 0x12FF, CF),
    ("d6", 0, 0x1234, 0x1200, 0),
    # AAM and AAD with a base other than 10
    ("d410", 0, 0x3C, 0x030C, PF),
    ("d508", 0, 0x0305, 0x001D, PF),
]


@pytest.mark.parametrize(("code", "before", "eax", "after", "flags"), ARITHMETIC)
def test_arithmetic(run: Runner, code: str, before: int, eax: int, after: int, flags: int) -> None:
    case = code32(code, before, eax=eax, ecx=1)
    result = run(case)
    undefined = {0x27: OF, 0x2F: OF, 0xD4: OF | AF | CF, 0xD5: OF | AF | CF}
    mask = STATUS & ~undefined.get(case.code[0], 0)
    assert (result.regs[0], result.flags & mask) == (after, flags & mask)


def test_multiplication_tells_what_does_not_fit(run: Runner) -> None:
    fits = run(code32("0fafc1", eax=0x7FFF, ecx=0x10000))
    assert (fits.regs[0], fits.flags & (CF | OF)) == (0x7FFF0000, 0)
    lost = run(code32("0fafc1", eax=0x8000, ecx=0x10000))
    assert (lost.regs[0], lost.flags & (CF | OF)) == (0x80000000, CF | OF)
    signed = run(code32("f7e9", eax=0xFFFFFFFF, ecx=0x80000000))  # -1 * -2**31
    assert (signed.regs[0], signed.regs[2]) == (0x80000000, 0)
    assert signed.flags & (CF | OF) == CF | OF


@pytest.mark.parametrize("count", [0, 1, 8, 9, 10, 18, 31, 32, 33, 40, 255])
def test_rotates_through_carry_mask_the_count_by_31_and_then_by_width_plus_1(run: Runner, count: int) -> None:
    result = run(code32("d2d0", CF, eax=0x81, ecx=count))  # RCL AL, CL
    turns = (count & 31) % 9
    ring = 0x181
    ring = (ring << turns | ring >> (9 - turns)) & 0x1FF
    assert (result.regs[0], result.flags & CF) == (ring & 0xFF, ring >> 8)


def test_shift_by_0_changes_no_flag(run: Runner) -> None:
    for code in ("d3e0", "d3e8", "d3f8", "d3c0", "d3d0", "0fa5c8"):
        for flags in (0, STATUS):
            result = run(code32(code, flags, eax=0x1234, ecx=0x20))
            assert (result.regs[0], result.flags & STATUS) == (0x1234, flags)


def test_double_shift(run: Runner) -> None:
    result = run(code32("0fa4d004", eax=0x12345678, edx=0xABCDEF01))  # SHLD EAX, EDX, 4
    assert (result.regs[0], result.flags & CF) == (0x2345678A, CF)
    result = run(code32("660facd010", eax=0x12345678, edx=0xABCDEF01))  # SHRD AX, DX, 16
    assert result.regs[0] == 0x1234EF01


def test_scan_of_zero_leaves_the_destination(run: Runner) -> None:
    for code in ("0fbcc1", "0fbdc1"):
        result = run(code32(code, eax=0x55, ecx=0))
        assert (result.regs[0], result.flags & ZF) == (0x55, ZF)


def test_bit_offset_reaches_below_the_operand(run: Runner) -> None:
    values = registers(eax=-1 & 0xFFFFFFFF, ebx=0x204)
    assert run(Case(32, bytes.fromhex("0fab03"), values, memory={0x200: bytes(8)})).memory == {0x203: 0x80}


@pytest.mark.parametrize(
    ("code", "vector", "values"),
    [
        ("f7f1", DE, {"eax": 1, "ecx": 0}),
        ("f7f1", DE, {"edx": 1, "ecx": 1}),
        ("f7f9", DE, {"eax": 0x80000000, "edx": 0xFFFFFFFF, "ecx": 0xFFFFFFFF}),
        ("f6f1", DE, {"eax": 0x100, "ecx": 1}),
        ("d400", DE, {"eax": 5}),
        ("0f0b", UD, {}),
        ("8cf8", UD, {}),  # MOV EAX, a seventh segment register
        ("620500020000", BR, {"eax": 0x7FFFFFFF}),
    ],
)
def test_faults_leave_the_state(run: Runner, code: str, vector: int, values: dict[str, int]) -> None:
    memory = {0x200: bytes(8)}
    case = Case(32, bytes.fromhex(code), registers(**values), memory=memory)
    result = run(case)
    assert result.fault is not None
    assert result.fault.vector == vector
    assert (result.regs, result.ip_delta, result.steps) == (case.regs, 0, 0)
    assert not result.memory


@pytest.mark.parametrize(("code", "flags", "vector"), [("cc", 0, 3), ("ce", OF, 4)], ids=["INT3", "INTO"])
def test_traps_point_behind_the_instruction(run: Runner, code: str, flags: int, vector: int) -> None:
    result = run(code32(code, flags))
    assert result.fault is not None
    assert (result.fault.vector, result.ip_delta) == (vector, 1)
    assert run(code32("ce")).fault is None


def test_stack_instructions_of_16_bit_code(run: Runner) -> None:
    result = run(code16("54", esp=0x12340100))  # PUSH SP stores the old value since the 286
    assert result.regs[4] == 0x123400FE
    assert result.memory.get(0xFF) == 0x01
    wrapped = run(code16("50", esp=0xABCD0000, eax=0x5AA5))
    assert wrapped.regs[4] == 0xABCDFFFE
    assert wrapped.memory == {0xFFFE: 0xA5, 0xFFFF: 0x5A}


def test_push_flags_shows_no_trace_of_the_stepping(run: Runner) -> None:
    result = run(Case(32, b"\x9c", registers(), CF | IF | 2, memory={0x7FFC: b"\xff" * 4}))
    assert [result.memory.get(0x7FFC + i) for i in range(4)] == [0x03, 0x02, 0, 0]


def test_repeat_counts_its_iterations(run: Runner) -> None:
    done = run(code32("f3a4", count=10, ecx=3, esi=0x100, edi=0x200))
    assert (done.steps, done.ip_delta, done.regs[1]) == (3, 2, 0)
    none = run(code32("f3a4", count=10, ecx=0, esi=0x100, edi=0x200))
    assert (none.steps, none.ip_delta, none.regs[6]) == (1, 2, 0x100)


def test_repeat_can_be_left_in_the_middle(silicon: Runner) -> None:
    part = silicon(code32("f3a4", count=2, ecx=5, esi=0x100, edi=0x200))
    assert (part.steps, part.ip_delta, part.regs[1]) == (2, 0, 3)


# ---- what the host's CPU alone can tell -----------------------------------------


def test_segment_limits(silicon: Runner) -> None:
    beyond = silicon(code32("a1ffff0000"))  # MOV EAX, [0xFFFF]: three bytes too far
    assert vector_and_error(beyond) == (GP, 0)
    stack = silicon(code16("50", esp=1))
    assert vector_and_error(stack) == (SS, 0)
    assert stack.regs[4] == 1


def test_page_fault_has_an_address(silicon: Runner) -> None:
    code = b"\xa1" + (WINDOW - 4).to_bytes(4, "little")
    result = silicon(Case(32, code, registers(), layout=Layout.FLAT))
    assert result.fault is not None
    assert (result.fault.vector, result.fault.address) == (14, WINDOW - 4)


def test_lock_needs_a_memory_destination(silicon: Runner) -> None:
    for code in ("f001c8", "f090", "f00303", "f03903", "f0f8", "f0a4"):
        result = silicon(code32(code, ebx=0x100, esi=0x100, edi=0x200))
        assert vector_and_error(result) == (UD, 0), code
    assert silicon(code32("f00103", ebx=0x100)).fault is None


def test_an_instruction_has_at_most_15_bytes(silicon: Runner) -> None:
    assert silicon(code32("2e" * 13 + "8bc1")).fault is None
    result = silicon(code32("2e" * 14 + "8bc1"))
    assert vector_and_error(result) == (GP, 0)


def test_segments_of_their_own(silicon: Runner) -> None:
    """Each override reaches another place, and an expand-down limit holds."""
    memory = {0x2100: b"d", 0x1100: b"e", 0x8100: b"s", 0x900: b"g", 0x1000: b"f", 0x100: b"c"}
    for prefix, address, letter in (
        ("3e", 0x100, b"d"), ("26", 0x100, b"e"), ("36", 0x100, b"s"),
        ("65", 0x100, b"g"), ("64", 0x1000, b"f"), ("2e", 0x100, b"c"),
    ):  # fmt: skip
        code = bytes.fromhex(prefix) + b"\xa0" + address.to_bytes(2, "little")
        result = silicon(Case(16, code, registers(), memory=memory, layout=Layout.SPLIT))
        assert result.regs[0] == letter[0]
    below = silicon(Case(16, bytes.fromhex("64a0ff0f"), registers(), layout=Layout.SPLIT))
    assert vector_and_error(below) == (GP, 0)


def test_64_bit_code(run: Runner) -> None:
    values = (0xFFFF_FFFF_FFFF_FFFF, 1, *(0,) * 2, WINDOW + 0x8000, *(0,) * 10, 5)
    result = run(Case(64, bytes.fromhex("4801c8"), values, layout=Layout.FLAT))
    assert (result.regs[0], result.flags & STATUS) == (0, CF | ZF | AF | PF)
    result = run(Case(64, bytes.fromhex("4901cf"), values, layout=Layout.FLAT))
    assert result.regs[15] == 6
    code = bytes.fromhex("64488b042500000000")  # MOV RAX, FS:[0]
    case = Case(64, code, values, memory={0x40: b"12345678"}, layout=Layout.FLAT, fs_base=WINDOW + 0x40)
    assert run(case).regs[0] == int.from_bytes(b"12345678", "little")


def test_silicon_takes_and_gives_the_floating_point_state() -> None:
    native.need()
    fx = bytearray(FX_SIZE)
    struct.pack_into("<HHB", fx, 0, 0x037F, 7 << 11, 1 << 7)
    struct.pack_into("<I", fx, 24, 0x1F80)
    struct.pack_into("<QH", fx, 32, 0x9000_0000_0000_0000, 0x4000)  # ST(0) = 2.25
    struct.pack_into("<QQ", fx, 160 + 16, 0x1111, 0x2222)
    load = b"\xd8\xc0" + b"\x66\x0f\xfe\xc9"  # FADD ST0, ST0; PADDD XMM1, XMM1
    case = Case(32, load, (0,) * 8, layout=Layout.FLAT, count=2, fx=bytes(fx))
    after = native.NativeCpu().run([case])[0].fx
    assert after is not None
    assert struct.unpack_from("<QH", after, 32) == (0x9000_0000_0000_0000, 0x4001)
    assert struct.unpack_from("<QQ", after, 160 + 16) == (0x2222, 0x4444)
    assert native.NativeCpu().run([replace(case, fx=None)])[0].fx is None
