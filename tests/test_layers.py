"""Imports go one way: isa <- engine <- vcpu <- machine <- cli; nothing light imports anything heavy."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for package in ("jitvm", "gdbstub") for path in (ROOT / package).rglob("*.py"))

LEAVES = frozenset({"bus", "errors", "memory", "irq", "clock", "trace", "exits"})
"""Below them there are only other leaves."""
ALLOWED: dict[str, frozenset[str]] = {
    "__init__": frozenset(),
    "errors": frozenset(),
    "isa": frozenset({"isa", "errors"}),
    "memory": LEAVES,
    "irq": LEAVES,
    "clock": LEAVES,
    "trace": LEAVES,
    "exits": LEAVES,
    "bus": LEAVES,
    "engine": LEAVES | {"engine", "isa"},
    "devices": (LEAVES - {"bus", "exits"}) | {"devices", "backends"},
    "acpi": frozenset({"acpi"}),
    "backends": frozenset({"backends", "errors"}),
    "bench": frozenset({"bench", "__init__", "config", "errors"}),
    "config": frozenset({"errors", "trace"}),
    "console": frozenset({"backends", "errors"}),
    "symbols": frozenset({"config", "elf_file", "elf_shift", "errors"}),
    "elf_file": frozenset({"errors"}),
    "elf_shift": frozenset(),
    "progress": frozenset(),
    "vcpu": LEAVES | {"isa", "engine"},
    "cli": frozenset(
        {"__init__", "boot_command", "config", "errors", "exit_status", "parser", "bench", "engine", "isa_command"}
    ),
    "boot_command": frozenset(
        {"config", "option_values", "exit_status", "parser", "console", "progress", "machine", "gdb_target", "symbols"}
        | {"crash_report", "stats"}
    ),
    "option_values": frozenset({"config"}),
    "exit_status": frozenset(),
    "parser": frozenset({"errors"}),
    "isa_command": frozenset({"engine"}),
    "__main__": frozenset({"cli"}),
}
"""For each part of jitvm the parts that it may import; a part without a row stands above the vCPU and below the CLI."""
UPPER = frozenset({"cli", "boot_command", "exit_status", "parser", "__main__", "bench", "console", "progress"})
DEVICE_FORBIDDEN = frozenset({"socket", "threading", "time", "select", "asyncio", "multiprocessing"})
HEAVY = ("numba", "llvmlite", "numpy", "iced_x86", "rich", "unicorn")


def _part(module: str) -> str:
    """The part of jitvm that a module's name names."""
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


def _module(path: Path) -> str:
    """A file's name as a module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def _is_typing_only(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """All statements that run, also those inside functions; not what only type checkers see."""
    for node in body:
        yield node
        if _is_typing_only(node):
            yield from _statements(node.orelse)  # type: ignore[attr-defined]  # an ast.If, as _is_typing_only says
            continue
        for field in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(node, field, []))
        for handler in getattr(node, "handlers", []):
            yield from _statements(handler.body)


@functools.cache
def parsed(path: Path) -> ast.Module:
    """A file's statements."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports(path: Path) -> list[str]:
    """Full names of the modules that a file imports; `from jitvm import x` counts as jitvm.x."""
    found: list[str] = []
    for node in _statements(parsed(path).body):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            if node.module == "jitvm":
                found += ["jitvm" if alias.name.startswith("__") else f"jitvm.{alias.name}" for alias in node.names]
            else:
                found.append(node.module)
    return found


def _ids(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


JITVM = [path for path in SOURCES if path.is_relative_to(ROOT / "jitvm")]


@pytest.mark.parametrize("path", JITVM, ids=_ids(JITVM))
def test_imports_of_jitvm_go_down_only(path: Path) -> None:
    part = _part(_module(path))
    inner = {_part(name) for name in imports(path) if name.split(".")[0] == "jitvm"}
    if part in ALLOWED:
        assert inner <= ALLOWED[part], f"{path.name} imports {sorted(inner - ALLOWED[part])}"
    else:
        assert not inner & UPPER, f"{path.name} imports {sorted(inner & UPPER)}"


def test_every_rule_is_about_a_part_that_exists() -> None:
    parts = {_part(_module(path)) for path in JITVM}
    assert set(ALLOWED) <= parts


@pytest.mark.parametrize("path", SOURCES, ids=_ids(SOURCES))
def test_numba_and_llvmlite_stay_in_the_engine(path: Path) -> None:
    outside = {name.split(".")[0] for name in imports(path)} & {"numba", "llvmlite"}
    user = {"numba_ir.py": {"numba"}, "backend.py": {"llvmlite"}}
    assert outside <= (user.get(path.name, set()) if path.is_relative_to(ROOT / "jitvm" / "engine") else set())


def test_devices_own_no_thread_and_read_no_host_clock() -> None:
    for path in (ROOT / "jitvm" / "devices").glob("*.py"):
        outside = {name.split(".")[0] for name in imports(path)}
        assert not outside & DEVICE_FORBIDDEN, f"{path.name} imports {sorted(outside & DEVICE_FORBIDDEN)}"


def test_gdbstub_knows_nothing_of_jitvm() -> None:
    for path in SOURCES:
        if path.is_relative_to(ROOT / "gdbstub"):
            assert "jitvm" not in {name.split(".")[0] for name in imports(path)}, path.name


def test_no_star_imports() -> None:
    for path in SOURCES:
        for node in ast.walk(parsed(path)):
            assert not (isinstance(node, ast.ImportFrom) and any(a.name == "*" for a in node.names)), path.name


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import jitvm", ()),
        ("import jitvm.cli; jitvm.cli.main(['--help'])", ()),
        ("import jitvm.cli; jitvm.cli.main(['boot', '--help'])", ()),
        ("import jitvm.cli; jitvm.cli.main(['version'])", ()),
        ("import jitvm.cli; jitvm.cli.main(['cache', 'info'])", ()),
        ("import jitvm.cli; jitvm.cli.main(['boot', '/nonexistent/image'])", ()),
        ("import jitvm.console, jitvm.progress", ()),
        ("import jitvm.isa.table", ("numpy", "iced_x86")),
        ("import jitvm.engine.accel", ("numpy", "iced_x86", "llvmlite")),
        ("import jitvm.bench.cli", ("rich",)),
    ],
)
def test_nothing_heavy_is_imported_early(code: str, allowed: tuple[str, ...]) -> None:
    heavy = [name for name in HEAVY if name not in allowed]
    check = f"{code}\nimport sys\nprint('HEAVY', [n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"
