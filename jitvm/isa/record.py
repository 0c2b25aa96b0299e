"""A NumPy record as semantics see it in plain Python: `c.rip`, `c.gpr[reg]`, `c.lazy.res`.

NumPy's own record type offers the same but for names that its scalars already use (`base`, `flags`, `shape`).
"""

from __future__ import annotations

from typing import Any

import numpy as np


class Record:
    """Fields of a one-element structured array as attributes; nested records and arrays are views."""

    __slots__ = ("_parts", "_words")

    def __init__(self, array: np.ndarray) -> None:
        words: dict[str, np.ndarray] = {}
        parts: dict[str, Any] = {}
        for name in array.dtype.names or ():
            field = array[name]
            if field.dtype.names:
                parts[name] = Record(field)
            elif field.ndim > 1:
                parts[name] = field[0]
            else:
                words[name] = field
        object.__setattr__(self, "_words", words)
        object.__setattr__(self, "_parts", parts)

    def __getattr__(self, name: str) -> Any:
        words = self._words
        if name in words:
            return words[name][0]
        try:
            return self._parts[name]
        except KeyError:
            raise AttributeError(f"no field is called {name}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self._words[name][0] = value
