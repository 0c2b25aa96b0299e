"""A handler builder without slow paths: what stencils and regions have in common.

What misses (TLB, limit, a page with code, a watched page) goes to `again`, which leaves for the same instruction's handler.
Special handlers are reached through their addresses in the record: such code names no symbol of another object.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from jitvm.engine import layout as lay
from jitvm.engine.builder import Quick
from jitvm.engine.forms import Shape
from jitvm.engine.stitch import HandlerBuilder


class FastPathBuilder(HandlerBuilder, ABC):
    """`again` is what a subclass must say: the label to which a miss goes."""

    @abstractmethod
    def again(self) -> str:
        """The label that leaves for this instruction's handler."""

    # ---- memory: a hit, or the handler --------------------------------------------------------------------------------
    def _hit(self, seg: str, flat: bool, off: str, size: int, write: bool, *, aligned: bool = False) -> str:
        """Host address of a memory operand."""
        hit_label = self.label()
        lin, hit, entry = self._lookup(seg, flat, off, size, write, aligned=aligned)
        self.cond_branch(hit, hit_label, self.again(), True)
        self.place(hit_label)
        return self._host(lin, entry)

    def _load(self, slow: str, seg: str, flat: bool, off: str, size: int, write: bool) -> tuple[str, str]:
        host = self._hit(seg, flat, off, size, write)
        return self._guest_load(host, size), host

    def store_back(self, where: str, seg: str, off: str, size: int, v: str) -> None:
        self._guest_store(where, size, v)

    def load_locked(self, seg: str, flat: bool, off: str, size: int) -> tuple[str, str]:
        host = self._hit(seg, flat, off, size, True, aligned=True)
        return self._guest_load(host, size), host

    def store_locked(self, where: str, seg: str, off: str, size: int, old: str, v: str) -> None:
        done = self.label()
        self.cond_branch(self._guest_swap(where, size, old, v), done, self.again(), True)
        self.place(done)

    def store(self, seg: str, flat: bool, off: str, size: int, v: str) -> None:
        self._guest_store(self._hit(seg, flat, off, size, True), size, v)

    # ---- out-of-line semantics with a usual case ----------------------------------------------------------------------
    def either(self, quickly: Callable[[], Quick], otherwise: Callable[[], None]) -> None:
        done, commit = quickly()
        go = self.label()
        self.cond_branch(self.new(f"icmp ne i64 {done}, 0"), go, self.again(), True)
        self.place(go)
        commit()
        self.next()

    def at_once(self, whole: Callable[[str], str], otherwise: Callable[[], None], *, ends: bool) -> None:
        go = self.label()
        n = whole("1")
        self.cond_branch(self.new(f"icmp ne i64 {n}, 0"), go, self.again(), True)
        self.place(go)
        self.next()

    # ---- SIMD: nothing pending, nothing unmasked, or the handler -------------------------------------------------------
    def load_wide(self, seg: str, flat: bool, off: str, odd: bool) -> str:
        return self._guest_load_wide(self._hit(seg, flat, off, 16, False, aligned=not odd))

    def store_wide(self, seg: str, flat: bool, off: str, odd: bool, v: str) -> None:
        self._guest_store_wide(self._hit(seg, flat, off, 16, True, aligned=not odd), v)

    def mmx_check(self) -> None:
        go = self.label()
        found = self.call("simd.x87_pending", [self.word("fsw")])
        self.cond_branch(self.new(f"icmp eq i64 {found}, 0"), go, self.again(), True)
        self.place(go)

    def guarded(self, shape: Shape, args: Sequence[str]) -> tuple[str | None, str | None]:
        go = self.label()
        self.cond_branch(self._all_masked(), go, self.again(), True)
        self.place(go)
        return self.host_op(shape, args)

    def check_target(self, target: str) -> None:
        go = self.label()
        self.cond_branch(self._is_no_code(target), self.again(), go, False)
        self.place(go)

    # ---- where to go --------------------------------------------------------------------------------------------------
    def tail(self, special: str, value: str) -> None:
        self.go(self.new(f"load ptr, ptr {self.cpu(special)}"), "%uop", value)

    def floor(self) -> str:
        """What the budget may not fall below; a kick from another thread raises it."""
        return self.new(f"load volatile i64, ptr {self.cpu('floor')}")

    def enter(self, u: str, budget: str) -> None:
        n = self.new(f"zext i16 {self.new(f'load i16, ptr {self.gep(u, lay.UOP_REST)}')} to i64")
        left = self.new(f"sub i64 {budget}, {n}")
        go, out = self.label(), self.label()
        self.cond_branch(self.new(f"icmp slt i64 {left}, {self.floor()}"), out, go, False)
        self.place(out)
        self.go(self.new(f"load ptr, ptr {self.cpu('h_out')}"), u, left)
        self.place(go)
        self.go(self.new(f"load ptr, ptr {u}"), u, left)
