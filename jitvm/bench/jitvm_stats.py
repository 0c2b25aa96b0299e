"""What the harness takes from jitvm's ``--stats json``.

The statistics are one JSON object, printed after the run on standard error or
standard output. Read here: ``marks``, a list of [retired instructions, byte]
for each byte written to port 0xE9; how many blocks were translated (the tier
``handlers``), and the time spent compiling in each tier. A missing key is None.
"""

from __future__ import annotations

import json
from typing import Any

from jitvm.bench.measure import Run


def document(run: Run) -> dict[str, Any]:
    """The statistics among the outputs of a run; empty if there are none."""
    for text in (run.messages, run.output.decode("utf-8", "replace")):
        found = _last_object(text)
        if found is not None:
            return found
    return {}


def _last_object(text: str) -> dict[str, Any] | None:
    """The last JSON object of `text` that begins at the start of a line."""
    decoder = json.JSONDecoder()
    found = None
    position = 0
    while position < len(text):
        if text[position] == "{":
            try:
                value, end = decoder.raw_decode(text, position)
            except ValueError:
                pass
            else:
                if isinstance(value, dict):
                    found, position = value, end
        line_end = text.find("\n", position)
        if line_end < 0:
            break
        position = line_end + 1
    return found


def retired_between_marks(stats: dict[str, Any]) -> int | None:
    """Instructions between the marks 'S' and 'E'."""
    start: int | None = None
    for retired, byte in stats.get("marks", ()):
        value = ord(byte) if isinstance(byte, str) else int(byte)
        if value == ord("S"):
            start = int(retired)
        elif value == ord("E") and start is not None:
            return int(retired) - start
    return None


def blocks(stats: dict[str, Any]) -> int | None:
    """Guest blocks translated; each begins as handlers."""
    found = stats.get("tiers", {}).get("handlers", {}).get("blocks")
    return None if found is None else int(found)


def compile_seconds(stats: dict[str, Any]) -> float | None:
    """Seconds spent compiling, in all tiers, also beside the guest."""
    found = [tier["compile_seconds"] for tier in stats.get("tiers", {}).values() if "compile_seconds" in tier]
    return float(sum(found)) if found else None
