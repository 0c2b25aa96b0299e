"""What silicon can't show from user mode: #NM, the environments of real mode, operands that leave in the middle."""

from __future__ import annotations

import struct

import pytest

from jitvm.bare import Bare
from tests.isa.x87_state import Fx
from tests.oracle import fx

ENGINES = ("plain", "handlers", "regions")
CODE, DATA = 0x1000, 0x2000
MP, EM, TS, NE = 2, 4, 8, 0x20
NM, MF, PF = 7, 16, 14
ESCAPES = {"fld1": "d9 e8", "fninit": "db e3", "fnstsw ax": "df e0", "fnstcw [bx]": "d9 3f", "fld dword [bx]": "d9 07"}
WAIT = "9b"


def bare(engine: str, mode: str, code: str, **registers: int) -> Bare:
    """A machine about to run some code, with BX at the data."""
    machine = Bare(engine, 1 << 16)
    machine.vcpu.set_cpu("max")
    machine.set_mode(mode)
    machine.write(CODE, bytes.fromhex(code))
    machine.set_registers({"eip": CODE, "ebx": DATA, **registers})
    return machine


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("bits", "escapes", "wait"), [(0, 0, 0), (EM, 1, 0), (TS, 1, 0), (MP, 0, 0), (MP | TS, 1, 1)])
def test_device_not_available(engine: str, bits: int, escapes: int, wait: int) -> None:
    for code, faults in [*((code, escapes) for code in ESCAPES.values()), (WAIT, wait)]:
        machine = bare(engine, "prot16", code)
        machine.set_registers({"cr0": machine.registers()["cr0"] | bits})
        fx.put(machine.c, Fx().pack())
        stop = machine.run(1)
        assert (stop.fault.vector if stop.fault else None) == (NM if faults else None), code
        assert stop.retired == (not faults)


@pytest.mark.parametrize("engine", ENGINES)
def test_not_available_goes_before_the_operand_and_a_pending_exception(engine: str) -> None:
    machine = bare(engine, "prot16", "d9 07", ebx=0xFFFE)  # FLD dword beyond the limit of DS
    fx.put(machine.c, Fx(0x37E, 0x8081).pack())
    for bits, vector in ((NE | TS, NM), (NE, MF)):
        machine.set_registers({"cr0": machine.registers()["cr0"] & ~TS | bits})
        stop = machine.run(1)
        assert stop.fault is not None and stop.fault.vector == vector


def test_without_an_fpu_nothing_is_written() -> None:
    machine = bare("handlers", "real", "db e3 d9 3f df e0 d9 07", eax=0x1234)
    machine.vcpu.set_cpu("486", remove=["fpu"])
    assert machine.run(4).retired == 4
    assert machine.read(DATA, 2) == b"\0\0" and machine.registers()["eax"] == 0x1234
    machine.vcpu.set_cpu("pentiumpro", remove=["cmov"])
    machine.write(CODE, bytes.fromhex("da c1"))
    machine.set_registers({"eip": CODE})
    stop = machine.run(1)
    assert stop.fault is not None and stop.fault.vector == 6


IP, OPERAND, OPCODE = 0x1_2345, 0xA_BCDE, 0x5A5
ENVIRONMENT_16 = (0x37B, 0x4700, 0x3FFF, 0x2345, 0x1000 | OPCODE, 0xBCDE, 0xA000)
ENVIRONMENT_32 = (*(0xFFFF_037B, 0xFFFF_4700, 0xFFFF_3FFF, 0xFFFF_2345, 0x1000 | OPCODE, 0xFFFF_BCDE, 0xA000),)
"""As the figures 8-10 and 8-12 of the manual have it, of an instruction at 1000h:2345h with an operand at A000h:BCDEh - the
upper four bits lie behind each other; in 32 bits bits 16 to 31 of the address lie in bits 12 to 27."""


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("prefix", "form", "words"), [("", "<7H", ENVIRONMENT_16), ("66", "<7I", ENVIRONMENT_32)])
def test_the_environment_in_real_mode(engine: str, prefix: str, form: str, words: tuple[int, ...]) -> None:
    machine = bare(engine, "real", f"{prefix} d9 37 {prefix} d9 27 {prefix} d9 77 40")  # FNSTENV, FLDENV, FNSTENV
    machine.c.fcw, machine.c.fsw, machine.c.fpu_used, machine.c.fop = 0x37B, 0x4700, 0x80, OPCODE
    machine.c.fcs, machine.c.fip, machine.c.fds, machine.c.fdp = 0x1000, 0x2345, 0xA000, 0xBCDE
    machine.c.fpr[14] = 1 << 63
    machine.c.fpr[15] = 0x3FFF
    assert machine.run(1).retired == 1
    stored = machine.read(DATA, struct.calcsize(form))
    assert struct.unpack(form, stored) == words
    assert int(machine.c.fcw) == 0x37F
    assert machine.run(2).retired == 2
    assert machine.read(DATA + 0x40, len(stored)) == stored
    assert (int(machine.c.fcs), int(machine.c.fip)) == (0, 0x1_2345)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("prefix", ["", "66"])
def test_save_and_restore_bring_everything_back(engine: str, prefix: str) -> None:
    machine = bare(engine, "prot32", f"{prefix} dd 33 {prefix} dd 23")  # FNSAVE, FRSTOR
    values = [(1 << 63 | k, 0x3FFF + k) for k in range(8)]
    state = Fx(0x27B, 0x6900 | 0x20, 0xF7, 0x123, 0x4567, 0x89AB, values)
    fx.put(machine.c, state.pack())
    machine.run(1)
    assert (int(machine.c.fcw), int(machine.c.fsw), int(machine.c.fpu_used)) == (0x37F, 0, 0)
    machine.run(1)
    after = fx.take(machine.c)
    assert after == (state if prefix == "" else Fx(0x27B, 0x6920, 0xF7, 0, 0x4567, 0x89AB, values)).pack()


LEAVING = {
    "fstp tbyte": "db 3f",
    "fbstp": "df 37",
    "fnsave": "dd 37",
    "fnstenv": "d9 37",
    "fld tbyte": "db 2f",
    "frstor": "dd 27",
    "fldenv": "d9 27",
    "fstp qword": "dd 1f",
    "fld qword": "dd 07",
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", sorted(LEAVING))
def test_an_operand_that_ends_beyond_the_limit_changes_nothing(engine: str, name: str) -> None:
    machine = bare(engine, "prot16", LEAVING[name])
    machine.c.limit[3] = DATA + 5
    machine.set_registers({})
    state = Fx(0x37F, 0x3900, 0xFF, 1, 2, 3, [(1 << 63, 0x3FFF + k) for k in range(8)]).pack()
    fx.put(machine.c, state)
    stop = machine.run(1)
    assert stop.fault is not None and (stop.fault.vector, stop.retired) == (13, 0)
    assert fx.take(machine.c) == state
    assert machine.read(DATA, 128) == bytes(128)
