"""The package stands alone: it imports nothing of jitvm, and nothing but the standard library."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "gdbstub"


def test_sources_import_only_themselves_and_the_standard_library() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, path
                names = [node.module or ""]
            for name in names:
                top = name.split(".")[0]
                assert top == "gdbstub" or top in sys.stdlib_module_names, f"{path.name} imports {name}"


def test_a_process_that_serves_has_loaded_nothing_else() -> None:
    code = "import sys, gdbstub.server, gdbstub.x86; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=60, check=True
    )
    foreign = set(done.stdout.split()) - set(sys.stdlib_module_names) - {"gdbstub", "__main__"}
    assert not foreign


def test_only_the_server_knows_sockets_and_threads() -> None:
    """What comes before it has a thread, too."""
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name != "server.py":
            assert "import socket" not in text
            if path.name != "patience.py":
                assert "import threading" not in text and "import select" not in text
