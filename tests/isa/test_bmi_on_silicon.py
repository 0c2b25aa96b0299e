"""BMI1, BMI2, ADX, LZCNT, MOVBE, POPCNT and the bases of FS and GS against this host's CPU, in 32- and 64-bit code.

Flags that the manual leaves undefined are compared, too: they were measured, and are 0.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import iced_x86 as ix
import pytest

from jitvm.bare import Bare
from tests import needs
from tests.oracle import native
from tests.oracle.bare_cpu import BareCpu, Failure
from tests.oracle.case import IF, STATUS, UD, WINDOW, WINDOW_SIZE, Case, Layout, Result
from tests.oracle.compare import describe, differences
from tests.oracle.vendor import IS_AMD

NAMES = (
    *"ANDN_R{0}_R{0}_RM{0} BEXTR_R{0}_RM{0}_R{0} BLSI_R{0}_RM{0} BLSMSK_R{0}_RM{0} BLSR_R{0}_RM{0}".split(),
    *"BZHI_R{0}_RM{0}_R{0} MULX_R{0}_R{0}_RM{0} PDEP_R{0}_R{0}_RM{0} PEXT_R{0}_R{0}_RM{0} RORX_R{0}_RM{0}_IMM8".split(),
    *"SARX_R{0}_RM{0}_R{0} SHLX_R{0}_RM{0}_R{0} SHRX_R{0}_RM{0}_R{0}".split(),
)
"""VEX-encoded, with 32 and 64 bits."""
LEGACY = "TZCNT_R{0}_RM{0} LZCNT_R{0}_RM{0} POPCNT_R{0}_RM{0} MOVBE_R{0}_M{0} MOVBE_M{0}_R{0}".split()
CARRIES = "ADCX_R{0}_RM{0} ADOX_R{0}_RM{0}".split()
FIRST = {16: ix.Register.AX, 32: ix.Register.EAX, 64: ix.Register.RAX}
RSP, BASE = 4, 3
RANDOM = ("48 0f c7 f0", "0f c7 fb", "66 41 0f c7 f0", "0f c7 f1", "66 0f c7 f9", "48 0f c7 fa")
"""RDRAND RAX; RDSEED EBX; RDRAND R8W; of other sizes."""
CASES = 12
KIND = {v: k for k, v in vars(ix.OpCodeOperandKind).items() if isinstance(v, int)}


def codes(mode: int) -> list[int]:
    """iced-x86's codes of all that exist in code of a mode."""
    widths = (32, 64) if mode == 64 else (32,)
    names = [f"VEX_{name.format(width)}" for name in NAMES for width in widths]
    names += [name.format(width) for name in LEGACY for width in (16, *widths)]
    names += [name.format(width) for name in CARRIES for width in widths]
    return [getattr(ix.Code, name) for name in names]


def number(rng: random.Random) -> int:
    """An interesting number of 64 bits."""
    v = rng.choice((0, 1, (1 << 64) - 1, 1 << 31, 1 << 63, 0x0810, rng.getrandbits(64), rng.getrandbits(12)))
    return v >> rng.choice((0, 0, 0, 32))


def case_of(code: int, mode: int, rng: random.Random) -> Case:
    """A random case of one code."""
    kinds = [KIND[k] for k in ix.OpCodeInfo(code).op_kinds()]  # type: ignore[arg-type]  # an int at run time
    n = 16 if mode == 64 else 8
    regs = [number(rng) % (1 << mode) for _ in range(n)]
    in_memory = rng.random() < 0.4
    regs[RSP], at = WINDOW + 0x8000, WINDOW + rng.randrange(0x100, WINDOW_SIZE - 0x100)
    ins = ix.Instruction()
    ins.code = code  # type: ignore[assignment]  # an int at run time
    for k, kind in enumerate(kinds):
        if kind == "IMM8":
            ins.set_op_kind(k, ix.OpKind.IMMEDIATE8)
            ins.immediate8 = rng.randrange(256)
        elif kind == "MEM" or (in_memory and kind.endswith("_OR_MEM")):
            ins.set_op_kind(k, ix.OpKind.MEMORY)
            ins.memory_base = (FIRST[mode] if mode == 64 else FIRST[32]) + BASE  # type: ignore[assignment]
            ins.memory_displ_size, ins.memory_displacement = 1, rng.randrange(0x40)
            regs[BASE] = at
        else:
            ins.set_op_kind(k, ix.OpKind.REGISTER)
            width = int(kind[1:3])
            register = rng.choice([r for r in range(n) if r != RSP])
            ins.set_op_register(k, FIRST[width] + register)  # type: ignore[arg-type]
    encoder = ix.Encoder(mode)
    encoder.encode(ins, 0)
    flags = IF | 2 | rng.choice((0, STATUS, rng.getrandbits(12) & STATUS))
    return Case(mode, encoder.take_buffer(), tuple(regs), flags, layout=Layout.FLAT)


def base_case(rng: random.Random) -> Case:
    """WRFSBASE or WRGSBASE of a register, with a base that is canonical or not, and the reading instruction behind it."""
    gs, written, read = rng.getrandbits(1), rng.choice([r for r in range(8) if r != RSP]), rng.randrange(8, 16)
    w = [rng.getrandbits(1) << 3 for _ in range(2)]
    code = bytes([0xF3, 0x40 | w[0], 0x0F, 0xAE, 0xD0 | gs << 3 | written])
    code += bytes([0xF3, 0x41 | w[1], 0x0F, 0xAE, 0xC0 | gs << 3 | read - 8])
    regs = [number(rng) for _ in range(16)]
    regs[RSP] = WINDOW + 0x8000
    bases = [rng.choice((0, 0x7FFF_FFFF_FFFF, 0xFFFF_8000_0000_0000, rng.getrandbits(46))) for _ in range(3)]
    regs[written] = rng.choice((bases[0], bases[0], regs[written]))
    return Case(64, code, tuple(regs), IF | 2, count=2, layout=Layout.FLAT, fs_base=bases[1], gs_base=bases[2])


def cases(mode: int) -> Iterator[Case]:
    """Some of each."""
    rng = random.Random(mode)
    for code in codes(mode):
        for _ in range(CASES):
            yield case_of(code, mode, rng)
    if mode == 64:
        for _ in range(8 * CASES):
            yield base_case(rng)


@pytest.mark.parametrize("engine", ["plain", "handlers", "stencils"])
@pytest.mark.parametrize("mode", [32, 64])
def test_as_on_silicon(engine: str, mode: int) -> None:
    native.need(mode, Layout.FLAT)
    made = list(cases(mode))
    truths = native.NativeCpu().run(made)
    if any(truth.fault is not None and truth.fault.vector == UD for truth in truths):
        needs.host_cannot("BMI1, BMI2, ADX, LZCNT, MOVBE or FSGSBASE")
    results = BareCpu(engine).run(made, [truth.steps + (truth.fault is not None) for truth in truths])
    failures = []
    for case, truth, ours in zip(made, truths, results, strict=True):
        lines = [ours.reason] if isinstance(ours, Failure) else differences(case, truth, ours)
        if isinstance(ours, Result) and (truth.flags ^ ours.flags) & STATUS and not IS_AMD:  # also what is undefined
            lines.append(f"flags {truth.flags:#x} {ours.flags:#x}")
        if lines:
            failures.append(describe(case, lines, ("silicon", engine)))
    assert not failures, f"{len(failures)} of {len(made)} differ\n" + "\n".join(failures[:10])


@pytest.mark.parametrize("engine", ["plain", "handlers"])
@pytest.mark.parametrize("model", ["nehalem", "max"])
def test_without_the_feature_tzcnt_is_bsf(engine: str, model: str) -> None:
    """A CPU that lacks TZCNT and LZCNT does not mind F3; all others are #UD."""
    for code, lacking, having in (("f3 0f bc c1", 8, 8), ("f3 0f bd c1", 11, 20), ("f3 0f bc c2", 5, 32)):
        machine = Bare(engine=engine)
        machine.vcpu.set_cpu(model)
        machine.set_mode("prot32")
        machine.write(0x1000, bytes.fromhex(code))
        machine.set_registers({"eip": 0x1000, "eax": 5, "ecx": 0x900, "edx": 0})
        assert machine.run(1).retired == 1
        assert machine.registers()["eax"] == (having if model == "max" else lacking)
    for code in ("c4 e2 f0 f2 c1", "c4 e2 70 f2 c1", "0f 38 f0 00", "0f c7 f0", "0f c7 f8", "66 0f 38 f6 c1"):
        for mode in ("prot32", "long"):
            machine = Bare(engine=engine)
            machine.vcpu.set_cpu(model)
            machine.set_mode(mode)
            machine.write(0x1000, bytes.fromhex(code))
            machine.set_registers({"eip": 0x1000})
            stop = machine.run(1)
            assert (stop.fault is None) == (model == "max"), (code, mode)
            assert stop.fault is None or stop.fault.vector == UD


@pytest.mark.parametrize(
    "code", ["c5 f8 77", "c4 e2 74 f2 c1", "c4 e3 73 f0 c1 05", "66 c4 e2 70 f2 c1", "c4 e2 71 f2 c1"]
)
def test_what_vex_does_not_have(code: str) -> None:
    """AVX; ANDN with VEX.L, with prefix 66, with pp; RORX with vvvv: #UD, on silicon too but for AVX."""
    machine = Bare(engine="handlers")
    machine.vcpu.set_cpu("max")
    machine.set_mode("long")
    machine.write(0x1000, bytes.fromhex(code))
    machine.set_registers({"rip": 0x1000})
    stop = machine.run(1)
    assert stop.fault is not None
    assert stop.fault.vector == UD


@pytest.mark.parametrize("code", ["c4 e2 70 f2 c1", "c5 f8 77"])
def test_real_mode_has_no_vex(code: str) -> None:
    """There it is LES or LDS of a register, #UD, whichever mode met the bytes first (SDM vol. 2, 2.5.1)."""
    for mode in ("prot16", "real", "prot16"):
        machine = Bare(engine="handlers")
        machine.vcpu.set_cpu("max")
        machine.set_mode(mode)
        machine.write(0x1000, bytes.fromhex(code))
        machine.set_registers({"eip": 0x1000})
        fault = machine.run(1).fault
        assert (fault is not None) == (mode == "real" or code.startswith("c5"))
        assert fault is None or fault.vector == UD


@pytest.mark.parametrize("engine", ["plain", "handlers", "stencils"])
def test_random_numbers_are_the_same_in_every_run(engine: str) -> None:
    """RDRAND and RDSEED: SplitMix64 from state 0; the first number is the published one."""
    seen = []
    for _ in range(2):
        machine = Bare(engine=engine)
        machine.vcpu.set_cpu("max")
        machine.set_mode("long")
        machine.write(0x1000, bytes.fromhex("".join(RANDOM)))
        machine.set_registers({"rip": 0x1000, "rflags": STATUS | 2, "rbx": -1, "r8": -1})
        assert machine.run(len(RANDOM)).retired == len(RANDOM)
        after = machine.registers()
        seen.append((after["rax"], after["rbx"], after["r8"]))
        assert after["rflags"] & STATUS == 1
    assert seen[0] == seen[1]
    assert seen[0][0] == 0xE220_A839_7B1D_CDAF
    assert seen[0][1] == 0x6E78_9E6A_A1B9_65F4 & 0xFFFF_FFFF
    assert seen[0][2] == (1 << 64) - 0x1_0000 | 0x06C4_5D18_8009_454F & 0xFFFF
