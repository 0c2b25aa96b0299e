"""Every instruction form on every CPU model: #UD on the models that are older than the instruction, and on no other.

Which generation brought an instruction is said here once more, from Intel's manuals and not from the engine's tables.  The
decoder is asked for all forms; those whose semantics look at the feature themselves are run.
"""

from __future__ import annotations

from collections.abc import Iterator

import iced_x86 as ix
import pytest

from jitvm.bare import Bare
from jitvm.engine import inventory
from jitvm.engine.forms import UNDEFINED
from jitvm.isa.cpuid import MODELS
from tests.engine.guest import CODE
from tests.engine.native_decoder import Decoder
from tests.isa.test_inventory import DIFFERENT, OSFXSR, encoded

NAMES = {v: k for k, v in vars(ix.CpuidFeature).items() if isinstance(v, int)}
SINCE = {
    "486": "INTEL8086 INTEL186 INTEL286 INTEL386 INTEL486 FPU FPU287 FPU387 CPUID SMM PAUSE",
    "pentium": "TSC MSR CX8",
    "pentiumpro": "CMOV RDPMC SEP MULTIBYTENOP",
    "pentium3": "MMX FXSR SSE",
    "core2duo": "CLFSH SSE2 SSE3 SSSE3 CMPXCHG16B SYSCALL X64",
    "nehalem": "SSE4_1 SSE4_2 POPCNT RDTSCP",
    "max": "AES PCLMULQDQ MOVBE RDRAND RDSEED ADX BMI1 BMI2 SMAP FSGSBASE INVPCID XSAVE XSAVEOPT XSAVEC LZCNT",
}
"""iced-x86's names of features by the model that has them first: the Pentium (vol. 2, RDTSC, RDMSR, CMPXCHG8B), the P6
family (CMOVcc, RDPMC, SYSENTER, NOP with ModRM), and so on; "max" has what Westmere to Broadwell brought."""
FIRST = {feature: model for model, features in SINCE.items() for feature in features.split()}
PREFETCHES = ("PREFETCH", "RESERVEDNOP")
"""Hints: NOPs since the P6 family, whatever a later processor does with them."""
OWN_CHECK = frozenset({"TSC", "MSR", "CX8"})
"""Semantics that look at the feature when they run."""
ORDER = list(MODELS)


def features_of(name: str, data: bytes, mode: int) -> set[str]:
    """What an instance belongs to, in iced-x86's names."""
    if name.startswith(PREFETCHES):
        return {"MULTIBYTENOP"}
    if name.startswith(("TZCNT", "LZCNT")):
        return {"INTEL386"}  # older processors ignore F3: BSF and BSR
    return {NAMES[f] for f in ix.Decoder(mode, data).decode().cpuid_features()}


def instances(mode: int) -> Iterator[tuple[str, bytes, set[str]]]:
    """(name, bytes, features) of all forms of a mode but those that are #UD by definition."""
    for name, form in inventory.forms().items():
        data = next(encoded(name, mode), None) if mode in form.modes else None
        if data is not None and name not in DIFFERENT and not name.startswith("UD"):
            yield name, data, features_of(name, data, mode)


def has(model: str, features: set[str]) -> bool:
    return all(ORDER.index(FIRST[feature]) <= ORDER.index(model) for feature in features)


@pytest.mark.parametrize("model", MODELS)
def test_the_decoder_knows_what_the_model_has(model: str) -> None:
    decoder = Decoder(model)
    decoder.bare.set_registers({"cr4": OSFXSR if has(model, {"FXSR"}) else 0})
    wrong, tried = [], 0
    for mode in (16, 32, 64) if has(model, {"X64"}) else (16, 32):
        for name, data, features in instances(mode):
            decoder(data, mode, 0x1000)
            known = decoder.shape() != UNDEFINED
            tried += 1
            if known != has(model, features - OWN_CHECK):
                wrong.append(f"{mode}-bit {name} {data.hex()} is {'known' if known else 'undefined'}")
    assert not wrong, f"{len(wrong)} of {tried}\n" + "\n".join(wrong)
    assert tried > 2000


@pytest.mark.parametrize("engine", ["plain", "handlers"])
@pytest.mark.parametrize("model", MODELS)
def test_semantics_know_what_the_model_has(model: str, engine: str) -> None:
    machine = Bare(engine, memory=0x10000)
    machine.vcpu.set_cpu(model)
    tried = set()
    for name, data, features in instances(32):
        if not features & OWN_CHECK:
            continue
        machine.set_mode("prot32")
        machine.write(CODE, data)
        machine.set_registers({"eip": CODE, "ebx": 0x2000, "ecx": 0x10})
        fault = machine.run(1).fault
        assert (fault is None or fault.vector != 6) == has(model, features), name
        tried.add(name)
    assert tried == {"RDTSC", "RDMSR", "WRMSR", "CMPXCHG8B_M64"}
