"""Single steps: #DB after each instruction that began with TF set, on both engines and at every cut of the budget.

The handler of #DB writes each return address to a log and steps on; the log is the list of boundaries.
Source: Intel SDM vol. 3, 17.3.1.4 (single step), 6.8.3 (MOV SS), 17.2.3 (DR6.BS).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest

from tests.engine.guest import CODE, IDT, Guest, same
from tests.engine.programs import prepare, program

STEPS, RF = 0x3800, 1 << 16
LOG = 0xA000
HANDLER = f"""
    push eax
    push ebx
    mov ebx, [{LOG}]
    mov eax, [esp + 8]
    mov [{LOG} + 4 + ebx*4], eax
    inc dword ptr [{LOG}]
    pop ebx
    pop eax
    iretd
"""
ON, OFF = "pushfd\n or dword ptr [esp], 0x100\n popfd\n", "pushfd\n and dword ptr [esp], 0xFFFFFEFF\n popfd\n"


@dataclass(frozen=True)
class Case:
    """Code between POPFD setting TF and the one clearing it; `logged`: labels of the boundaries at which #DB is seen."""

    source: str
    logged: str


CASES = {
    "plain instructions": Case("a: inc eax\n b: add ebx, eax\n c: nop\n d:", "b c d"),
    "a jump": Case("a: jmp b\n nop\n b: inc eax\n c:", "b c"),
    "a loop": Case("a: mov ecx, 3\n b: dec ecx\n c: jnz b\n d:", "b c b c b c d"),
    "cmp and jcc": Case("a: cmp eax, eax\n b: jz c\n nop\n c: jnz a\n d:", "b c d"),
    "call and ret": Case("a: call f\n b: call f\n c: jmp d\n f: inc eax\n g: ret\n d:", "f g b f g c d"),
    "an indirect call, often": Case(
        "a: mov edi, offset f\n b: mov ecx, 3\n c: call edi\n d: loop c\n e: jmp z\n f: ret\n z:",
        "b c f d c f d c f d e z",
    ),
    "jmp eax": Case("a: mov eax, offset c\n b: jmp eax\n nop\n c: inc eax\n d:", "b c d"),
    "rep movsb": Case("a: mov ecx, 3\n b: mov esi, 0x8000\n c: mov edi, 0x9000\n d: rep movsb\n e:", "b c d d d e"),
    "rep stosd of nothing": Case("a: xor ecx, ecx\n b: rep stosd\n c:", "b c"),
    "repne scasb": Case(
        "a: mov ecx, 9\n b: mov edi, offset s\n c: xor al, al\n d: repne scasb\n e: jmp z\n s: .byte 1, 2, 0\n z:",
        "b c d d d e z",
    ),
    "repe cmpsd, downwards": Case(
        "a: std\n b: mov ecx, 2\n c: mov esi, 0x8010\n d: mov edi, esi\n e: repe cmpsd\n f: cld\n g:", "b c d e e f g"
    ),
    "rep lodsb": Case("a: mov ecx, 2\n b: mov esi, 0x8000\n c: rep lodsb\n d:", "b c c d"),
    "in and out": Case("a: in al, 0x60\n b: out 0x61, al\n c: inc eax\n d:", "b c d"),
    "rep insb": Case("a: mov ecx, 3\n b: mov edi, 0x8000\n c: rep insb\n d:", "b c c c d"),
    "rep outsb": Case("a: mov ecx, 2\n b: mov esi, 0x8000\n c: rep outsb\n d:", "b c c d"),
    "mmio": Case("a: add dword ptr [0x50000], 1\n b: push dword ptr [0x50000]\n c: pop eax\n d:", "b c d"),
    "mov ss holds the trap off": Case("a: mov ax, ss\n b: mov ss, ax\n c: inc eax\n d: inc eax\n e:", "b d e"),
    "pop ss holds the trap off": Case("a: push ss\n b: pop ss\n c: inc eax\n d:", "b d"),
    "sti does not": Case("a: cli\n b: sti\n c: inc eax\n d:", "b c d"),
    "lss does not": Case(
        "a: mov [0x8000], esp\n b: mov word ptr [0x8004], ss\n c: lss esp, [0x8000]\n d: inc eax\n e:", "b c d e"
    ),
    "int clears TF": Case("a: int 0x30\n b: inc eax\n c:", "c"),
    "a fault clears TF": Case("a: mov dword ptr [0xB800], offset c\n b: ud2\n c: inc eax\n d:", "b d"),
    "popf keeps TF": Case("a: pushfd\n b: popfd\n c: inc eax\n d:", "b c d"),
    "iret": Case("a: pushfd\n b: push 8\n c: push offset e\n d: iretd\n nop\n e: inc eax\n f:", "b c d e f"),
    "far jump": Case("a: .byte 0xEA\n .long b\n .word 8\n b: inc eax\n c:", "b c"),
    "cpuid and rdtsc": Case("a: cpuid\n b: rdtsc\n c:", "b c"),
    "mov cr3": Case("a: mov eax, cr3\n b: mov cr3, eax\n c: inc eax\n d:", "b c d"),
}
"""INT and faults: the handler runs without steps, and IRET's image has TF set again: the trap comes after the instruction
behind it, for INT; for a fault the same."""


def stepper(engine: str, source: str) -> Guest:
    guest = Guest(engine)
    prepare(guest, 32)
    guest.load(HANDLER, STEPS)
    guest.bare.write(IDT + 8, struct.pack("<HHHH", STEPS, 8, 0x8E00, 0))
    guest.load(source)
    return guest


def source_of(case: Case) -> str:
    """The program, with the address of each expected boundary behind it."""
    labels = ", ".join(case.logged.split())
    return f"{ON}{case.source}\n{OFF} hlt\n .align 4\n expected: .long {labels}, 0x{0xE0D:x}\n where: .long offset expected"


def log_of(guest: Guest) -> list[int]:
    n = int.from_bytes(guest.bare.read(LOG, 4), "little")
    return list(struct.unpack(f"<{n}I", guest.bare.read(LOG + 4, 4 * n)))


def expected_of(guest: Guest) -> list[int]:
    """The words that the program keeps behind its code."""
    memory = guest.bare.read(CODE, 0x400)
    end = memory.index(struct.pack("<I", 0xE0D))
    at = int.from_bytes(memory[end + 4 : end + 8], "little") - CODE
    return list(struct.unpack(f"<{(end - at) // 4}I", memory[at:end]))


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize("name", CASES)
def test_boundaries(name: str, step: int) -> None:
    states = []
    for engine in ("plain", "handlers"):
        guest = stepper(engine, source_of(CASES[name]))
        while (end := guest.go(step)) == "limit":
            assert guest.retired < 2000
        assert end == "hlt"
        wanted = expected_of(guest)
        assert log_of(guest)[: len(wanted)] == wanted
        states.append(guest.state())
    same(states[1], states[0], name)


@pytest.mark.parametrize("engine", ["plain", "handlers"])
def test_tf_is_clear_in_the_handler_and_bs_set(engine: str) -> None:
    guest = stepper(engine, f"{ON} inc eax\n hlt")
    guest.load("mov eax, dr6\n pushfd\n pop ebx\n hlt", STEPS)
    guest.registers(eip=CODE)
    assert guest.go() == "hlt"
    registers = guest.bare.registers()
    assert registers["eax"] & 0x4000
    assert not registers["ebx"] & 0x100


@pytest.mark.parametrize("engine", ["plain", "handlers"])
def test_popf_that_sets_tf_is_not_trapped_itself(engine: str) -> None:
    guest = stepper(engine, f"{ON} a: inc eax\n b: inc eax\n hlt")
    guest.go(3)
    assert log_of(guest) == []
    at = int(guest.c.rip)
    guest.go(200)
    assert log_of(guest)[0] == at + 1


@pytest.mark.parametrize("engine", ["plain", "handlers"])
def test_bare_form_reports_the_trap(engine: str) -> None:
    guest = Guest(engine)
    guest.load("inc eax\n inc ebx\n in al, 0x60\n inc ecx")
    guest.registers(eflags=0x102)
    for k in (1, 2, 4, 5):
        assert guest.go(9) == "fault 1 None"
        assert int(guest.c.rip) == CODE + k
    assert guest.retired == 4
    assert len(guest.device.seen) == 1


@pytest.mark.parametrize("seed", range(3))
def test_random_programs_under_tf(seed: int) -> None:
    """Whole random programs, stepped: handlers equal plain, in one go and cut."""
    source = ON + program(seed, 32, 6).replace("mov ax, 24", f"mov dword ptr [{LOG}], 0\n mov ax, 24", 1)
    states = []
    for engine, step in (("plain", 5000), ("handlers", 5000), ("handlers", 1), ("handlers", 5)):
        guest = stepper(engine, source)
        while guest.go(step) == "limit":
            assert guest.retired < 20_000
        states.append(guest.state())
    for state in states[1:]:
        same(state, states[0], f"seed {seed}")


@pytest.mark.parametrize("step", [1, 2, 100])
def test_trap_whose_frame_goes_to_a_device(step: int) -> None:
    """The stack lies in MMIO: each word of the frame is written once, whatever the budget, and no trap is lost."""
    states = []
    for engine in ("plain", "handlers", "stencils", "pinned"):
        guest = stepper(engine, "inc eax\n inc eax\n hlt")
        guest.load("hlt", STEPS)
        guest.registers(eip=CODE, eflags=0x102, esp=0x50100, eax=0)
        while (end := guest.go(step)) == "limit":
            assert guest.retired < 20
        assert end == "hlt"
        assert guest.bare.registers()["eax"] == 1
        pushed = {(a.address, a.value) for a in guest.device.seen}
        assert len(guest.device.seen) == len(pushed) == 3
        assert (0x500F4, CODE + 1) in pushed
        states.append(guest.state())
    for state in states[1:]:
        same(state, states[0], f"{step} at a time")


@pytest.mark.parametrize("engine", ["handlers", "stencils", "regions"])
@pytest.mark.parametrize(("done", "rf"), [(4, 0), (5, RF), (6, RF), (7, 0)])
def test_rf_in_the_image_of_an_interrupt(engine: str, done: int, rf: int) -> None:
    """Set between two iterations of a string instruction alone (SDM vol. 3, 17.3.1.1)."""
    guest = Guest(engine)
    prepare(guest, 32)
    guest.load("mov ecx, 3\n mov esi, 0x8000\n mov edi, 0x9000\n nop\n rep movsb\n nop\n hlt")
    assert guest.go(done) == "limit"
    guest.bare.vcpu.inject(0x30)
    assert guest.go(1) == "limit"
    image = int.from_bytes(guest.bare.read(int(guest.c.gpr[4]) + 8, 4), "little")
    assert image & RF == rf
    assert guest.go() == "hlt" and guest.bare.registers()["ecx"] == 0
