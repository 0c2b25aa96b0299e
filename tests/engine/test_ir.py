"""What compiled code may do: an audit of the LLVM text of units and handlers.

Every load and store goes to the CPU record, the micro-op, an alloca, or is a volatile access through the named primitives
or a TLB hit; nothing is called but units and LLVM intrinsics.
"""

from __future__ import annotations

import re

import pytest

from jitvm.bare import accelerator
from jitvm.engine import group, stitch
from jitvm.engine.primitives import PRIMITIVES
from jitvm.engine.region_ir import RegionBuilder
from jitvm.engine.specials import SPECIALS, special
from jitvm.engine.units import check, symbol
from jitvm.errors import EngineError
from tests.engine.grown import note_grown
from tests.engine.programs import loaded, looping, program

RECORDS = ("%c", "%cpu", "%uop", "%0")
STORE = re.compile(r"^\s*store (volatile )?\S+ .*?, ptr (%[\w.]+|@[\w.]+|null)")
LOAD = re.compile(r"^\s*%\S+ = load (volatile )?[\w<> ]+, ptr (%[\w.]+|@[\w.]+|null)")
SWAP = re.compile(r"^\s*%\S+ = cmpxchg (volatile )?ptr (%[\w.]+), ")
DEFINED = re.compile(r"^\s*(%[\w.]+) = (.*)$")
POINTER = re.compile(r"ptr (%[\w.]+|@[\w.]+|null)")
BETWEEN = re.compile(r"\[ (%[\w.]+|null), ")


def origins(name: str, defined: dict[str, str], seen: frozenset[str] = frozenset()) -> set[str]:
    """Where a pointer comes from: record, alloca, loaded, cast, constant."""
    if name in RECORDS and name not in defined:
        return {"record"}
    if name.startswith("@"):
        return {"constant"}
    if name == "null" or name in seen:
        return set()
    text = defined.get(name, "argument")
    seen = seen | {name}
    if text.startswith("getelementptr"):
        found = POINTER.search(text)
        return origins(found.group(1), defined, seen) if found else {text}
    if text.startswith("extractelement"):
        return origins(text.split("> ", 1)[1].split(",")[0], defined, seen)
    if text.startswith("alloca"):
        return {"alloca"}
    if text.startswith("load ptr"):
        return {"loaded"}
    if text.startswith("inttoptr"):
        return {"cast"}
    if text.startswith("phi ptr"):
        return {o for p in BETWEEN.findall(text) for o in origins(p, defined, seen)}
    if text.startswith("select"):
        return {o for p in POINTER.findall(text) for o in origins(p, defined, seen)}
    return {text}


def audit(text: str, *, code_pointers: bool) -> list[str]:
    """Accesses that may not be.  `code_pointers`: handlers may read micro-ops that a pointer leads to."""
    wrong = []
    for body in re.findall(r"^define .*?^}", text, re.S | re.M):
        lines = body.splitlines()
        defined: dict[str, str] = {m[1]: m[2] for line in lines if (m := DEFINED.match(line))}
        for line in lines:
            store, load = STORE.match(line), LOAD.match(line)
            found = store or load or SWAP.match(line)
            if re.match(r"\s*(%\S+ = )?(load|store|atomicrmw|cmpxchg) ", line) and found is None:
                wrong.append(line)
            if found is None:
                continue
            volatile, pointer = found.groups()
            allowed = {"record", "alloca"}
            if volatile:
                allowed |= {"cast"}
            elif load and code_pointers:
                allowed |= {"loaded", "cast"}
            if load:
                allowed |= {"constant"}
            if not origins(pointer, defined) <= allowed:
                wrong.append(f"{line.strip()}  from {origins(pointer, defined)}")
    return wrong


# ---- the check of units ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "line",
    [
        "  %1 = call ptr @NRT_MemInfo_alloc(i64 8)",
        "  call void @PyErr_SetString(ptr %0, ptr %1)",
        "  %1 = tail call i64 @malloc(i64 8)",
        "  %1 = call i64 @u_alu_sub(ptr %c, i64 1)",
        '  %1 = call i64 @"u_alu.other"(i64 1)',
        "  %1 = call i64 %0(i64 1)",
        "  %1 = call i64 %0(ptr @u_alu_add)",
        '  %1 = call i64 asm "divq $1", "=r,r"(i64 %0)',
        "  %1 = invoke i64 @u_alu_add(ptr %c) to label %a unwind label %b",
    ],
)
def test_check_refuses(line: str) -> None:
    with pytest.raises(EngineError, match=r"alu\.test"):
        check("alu.test", f"define i64 @x(ptr %c) {{\n{line}\n  ret i64 0\n}}\n", ["alu.add"])


@pytest.mark.parametrize(
    "line",
    [
        "  %1 = call i64 @u_alu_add(ptr %c, i64 1)",
        "  %1 = tail call i64 @llvm.ctpop.i64(i64 %0)",
        "  %called = add i64 %0, 1",
    ],
)
def test_check_accepts(line: str) -> None:
    check("alu.test", f"define i64 @x(ptr %c) {{\n{line}\n  ret i64 0\n}}\n", ["alu.add"])


# ---- the audit -------------------------------------------------------------------------------------------------------
def test_audit_sees_what_is_wrong() -> None:
    """A pointer out of nothing, a plain access to guest memory, a store through a loaded pointer."""
    bad = """define i64 @x(ptr %c) {
  %1 = inttoptr i64 4096 to ptr
  %2 = load i64, ptr %1, align 8
  store i64 %2, ptr %1, align 8
  %3 = getelementptr i8, ptr %c, i64 8
  %4 = load ptr, ptr %3, align 8
  store i64 0, ptr %4, align 8
  %5 = load volatile i64, ptr %1, align 1
  store i64 %5, ptr %3, align 8
  ret i64 0
}
"""
    assert len(audit(bad, code_pointers=False)) == 3
    assert len(audit(bad, code_pointers=True)) == 2


@pytest.fixture(scope="module")
def sample() -> list[stitch.HandlerBuilder]:
    """The handlers that two programs use, as they are handed to LLVM, and the special ones."""
    for seed, bits in ((1, 32), (2, 16)):
        guest = loaded("handlers", program(seed, bits), bits)
        assert guest.go(20_000) == "hlt"
    accel = accelerator()
    keys = list(accel._handlers)
    assert len(keys) > 60
    builders = [group.build(accel.units, accel.forms.shapes, key, f"i_{key}") for key in keys]
    return builders + [special(accel.units, name) for name in SPECIALS]


def test_handlers_of_a_sample(sample: list[stitch.HandlerBuilder]) -> None:
    for b in sample:
        assert audit(b.text(), code_pointers=True) == [], b.name
        used = {symbol(u) for u in b.used} | set(b.specials)
        called = set(re.findall(r"call [^@\n]*@([\w.]+)", b.text()))
        assert {n for n in called if not n.startswith("llvm.")} <= used


def test_regions_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions too: the record, local variables, guest memory by volatile accesses, and what their table leads to."""
    found = note_grown(monkeypatch)
    for seed, bits in ((1, 32), (2, 16), (3, 32)):
        assert loaded("regions", looping(seed, bits), bits).go(20_000) == "hlt"
    assert len(found) > 3
    for k, grown in enumerate(found):
        b = RegionBuilder(accelerator().units, f"r{k}", grown.nodes)
        b.build()
        assert audit(b.text(), code_pointers=True) == []
        called = set(re.findall(r"call [^@\n]*@([\w.]+)", b.text()))
        assert {n for n in called if not n.startswith("llvm.")} <= {symbol(u) for u in b.used}


OWN_TABLES = frozenset({"host.fill"})
"""Primitives that are for the engine's own tables, never for guest memory."""


def test_units_of_a_sample(sample: list[stitch.HandlerBuilder]) -> None:
    """All units that they reach."""
    units = accelerator().units
    seen: set[str] = set()
    work = {u for b in sample for u in b.used}
    while work:
        name = work.pop()
        seen.add(name)
        if name not in PRIMITIVES:
            work |= {callee for callee in units[name].callees if callee not in seen}
    assert len(seen) > 150
    for name in seen - OWN_TABLES:
        assert audit(units.text(name), code_pointers=False) == [], name


@pytest.mark.slow
def test_all_units() -> None:
    """Numba takes each function alone, and it calls nothing but other units."""
    accel = accelerator()
    assert len(accel.units.functions) > 300
    for name in accel.units.functions:
        text = accel.units.text(name)
        assert audit(text, code_pointers=False) == [], name
        check(name, text, accel.units[name].callees)


def test_primitives() -> None:
    """The named primitives access guest memory only by volatile accesses of alignment 1."""
    for name, text in PRIMITIVES.items():
        if name in OWN_TABLES:
            continue
        assert audit(text, code_pointers=False) == []
        own = re.findall(r"(%\w+) = alloca", text)
        for line in text.splitlines():
            if re.search(r"\b(load|store)\b", line) and not line.endswith(tuple(f"ptr {name}" for name in own)):
                assert "volatile" in line
                assert line.endswith("align 1")
