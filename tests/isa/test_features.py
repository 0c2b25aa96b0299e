"""Each CPU feature, there and away, on each engine: its probes give results, or #UD and #GP(0) in every round of a hot loop.

All models are asked everything, and `max` without each of its features what that feature brings.  Without an FPU its
instructions address nobody, and do nothing (tests/isa/test_x87.py); without ABM and BMI1, LZCNT and TZCNT are BSR and BSF
(test_bmi_on_silicon.py); what page tables lack is in tests/engine/test_wide_paging.py.
"""

from __future__ import annotations

import itertools

import pytest

from jitvm.bare import ENGINES
from jitvm.isa.cpuid import BUILT, GENERATIONS, MODELS, is_announced
from tests.engine.guest import Guest
from tests.engine.programs import COUNTS, RESUME, loaded
from tests.engine.test_counts import LIMIT, to_the_end
from tests.isa.feature_probes import DATA, GP, PROBES, UD, Probe

CODE, RESULTS, UNDEFINED, REFUSED = 0x10000, 0x9000, 0x9100, 0x9200
"""A byte a probe: how often it gave a result, was #UD, was #GP."""
HOT = 8
"""Rounds of the loop on engines that have hot code; two on the other one."""
CPUS = [(model, "") for model in MODELS] + [("max", name) for name in BUILT]
ENABLED = 1 << 9 | 1 << 10 | 1 << 16 | 1 << 18
"""CR4: OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE, so that it is not they that refuse; away where CR4 itself is written."""


def source(probes: list[Probe], bits: int, rounds: int) -> str:
    """A loop over all of them, each with its own place to go on at."""
    a, di = ("rax", "rdi") if bits == 64 else ("eax", "edi")
    lines = [f"mov {di}, {rounds}", "again:"]
    for k, probe in enumerate(probes):
        code = probe.code.replace("{a}", a).replace("1f", f"b{k}")
        lines += [f"mov dword ptr [{RESUME}], offset f{k}", f"mov byte ptr [{COUNTS + UD}], 0"]
        lines += [f"mov byte ptr [{COUNTS + GP}], 0", f"mov eax, {DATA}", code]
        lines += [f"b{k}: inc byte ptr [{RESULTS + k}]", f"jmp n{k}"]
        lines += [f"f{k}: mov al, [{COUNTS + UD}]", f"add [{UNDEFINED + k}], al"]
        lines += [f"mov al, [{COUNTS + GP}]", f"add [{REFUSED + k}], al", f"n{k}:"]
    return "\n ".join([*lines, f"dec {di}", "jnz again", "hlt"])


def prepared(engine: str, model: str, without: str, text: str, bits: int, cr4: int) -> Guest:
    """A guest of that CPU with the program."""
    guest = loaded(engine, "hlt", bits)
    guest.load(text, CODE, bits)
    guest.bare.vcpu.set_cpu(model, remove=[without] if without else [])
    guest.bare.write(DATA & ~0xFF, bytes(0x800))
    guest.bare.write(RESULTS, bytes(0x400))
    guest.registers(cr4=int(guest.c.cr4) | cr4)
    return guest


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "groups"])
@pytest.mark.parametrize(("model", "without"), CPUS, ids=[f"{a},-{b}" if b else a for a, b in CPUS])
def test_what_a_feature_brings(model: str, without: str, engine: str) -> None:
    wrong, rounds = [], 2 if engine == "plain" else HOT
    for bits, control in itertools.product((32, 64), (False, True)):
        names = [n for n, p in PROBES.items() if bits in p.bits and (not without or without in (*p.needs, p.by))]
        names = [n for n in names if n.startswith("CR4.") == control]
        text = source([PROBES[n] for n in names], bits, rounds)
        guest = prepared(engine, model, without, text, bits, 0 if control else ENABLED)
        if bits == 64 and not is_announced(guest.c.features, "lm"):
            continue
        to_the_end(guest, LIMIT)
        for k, name in enumerate(names):
            probe, ram = PROBES[name], guest.bare.ram
            has = {need: is_announced(guest.c.features, need) for need in (*probe.needs, *filter(None, [probe.by]))}
            there = (bool(probe.needs) and all(has.values())) or not has.get("fpu", True)
            undefined = not there and (probe.fault == UD or not has.get(probe.by, True))
            wanted = [rounds * there, rounds * undefined, rounds * (not there and not undefined)]
            found = [int(ram[at + k]) for at in (RESULTS, UNDEFINED, REFUSED)]
            if found != wanted:
                wrong.append(f"{bits}-bit {name}: results, #UD, #GP are {found}, not {wanted}")
    assert not wrong, "\n".join(wrong)


def test_each_feature_has_a_probe() -> None:
    """But those that page tables alone can tell, LZCNT, which is BSR without, and what clocks promise."""
    asked = {need for probe in PROBES.values() for need in probe.needs}
    assert set(BUILT) | set(GENERATIONS) == asked | {"pse36", "pdpe1gb", "abm", "arat", "invtsc"}
