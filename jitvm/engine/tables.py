"""The translator's tables as the accelerator knows them: a new vCPU begins with a copy of all that earlier ones learned."""

from __future__ import annotations

from typing import Any

import numpy as np

from jitvm.engine.cache import Cache
from jitvm.engine.decode import add_form
from jitvm.engine.forms import OPCODES, opcode_attributes
from jitvm.engine.layout import CPU, N_FORMS, N_HANDLERS
from jitvm.engine.translate import add_handler
from jitvm.isa.record import Record
from jitvm.isa.words import u64

FORMS = ("form_key", "form_index", "form", "form_shape")
HANDLERS = ("handler_key", "handler_address")
_FIELDS = [(name, *CPU[name].subdtype) for name in (*FORMS, *HANDLERS)]  # type: ignore[misc]  # all are arrays
TABLES = np.dtype([*_FIELDS, ("n_forms", np.uint64)])


def first_table(cache: Cache) -> np.ndarray:
    """Attributes of all opcodes: the cache tells them in a tenth of the time that iced-x86 takes."""
    kept = cache.load("opcodes")
    if isinstance(kept, list) and len(kept) == OPCODES and all(isinstance(bits, int) for bits in kept):
        return np.array(kept, np.uint64)
    made = opcode_attributes()
    cache.save("opcodes", made.tolist())
    return made


class Tables:
    """Form and handler tables with the layout of the CPU record's."""

    def __init__(self) -> None:
        self._array = np.zeros(1, TABLES)
        self.record: Any = Record(self._array)
        self.handlers: set[int] = set()
        """Keys in the handler table."""

    def add_form(self, key: int, word: int, shape: int) -> None:
        """Enter a form; beyond half of the table's room only the vCPUs that ask for it know it."""
        if int(self.record.n_forms) >= N_FORMS // 2:
            return
        with np.errstate(over="ignore"):
            add_form(self.record, u64(key), u64(word), u64(shape))

    def add_handler(self, key: int, address: int) -> None:
        """Enter a handler or a stencil; beyond half of the table's room only the vCPUs that ask for it know it."""
        if key not in self.handlers and len(self.handlers) < N_HANDLERS // 2:
            with np.errstate(over="ignore"):
                add_handler(self.record, u64(key), u64(address))
            self.handlers.add(key)

    def copy_forms(self, c: Any) -> None:
        """Give a vCPU all forms."""
        for name in FORMS:
            getattr(c, name)[:] = getattr(self.record, name)
        c.n_forms = self.record.n_forms

    def copy_handlers(self, c: Any) -> set[int]:
        """Give a vCPU all handlers; their keys."""
        for name in HANDLERS:
            getattr(c, name)[:] = getattr(self.record, name)
        return set(self.handlers)
