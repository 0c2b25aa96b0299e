"""Guest memory in a handler: a TLB hit is done here; all else calls the ways of `jitvm/isa/memory.py` out of line."""

from __future__ import annotations

from jitvm.engine.handler_text import HandlerText
from jitvm.engine.layout import at
from jitvm.engine.simd_forms import WIDE
from jitvm.isa.state import TLB_ENTRIES

KIND_BYTES = TLB_ENTRIES * 16


class MemoryText(HandlerText):
    """Loads and stores: plain, locked, and of 16 bytes."""

    # ---- look-ups ----------------------------------------------------------------------------------------------------
    def _lookup(
        self, seg: str, flat: bool, off: str, size: int, write: bool, *, aligned: bool = False
    ) -> tuple[str, str, str]:
        """(linear address, i1 hit, pointer to the TLB entry); `aligned`: an address that is no multiple of `size` misses."""
        lin, good = self._linear(seg, flat, off, size, write)
        hit, entry = self._entry(lin, size, write, aligned=aligned)
        return lin, self._both(hit, good), entry

    def _both(self, hit: str, good: str) -> str:
        """i1: a hit, and within the segment's limit (`good`, empty when there is nothing to check)."""
        return self.new(f"and i1 {hit}, {good}") if good else hit

    def _linear(self, seg: str, flat: bool, off: str, size: int, write: bool) -> tuple[str, str]:
        """Linear address, and i1: it is within the plain limit of the segment; empty where there is none."""
        if flat:
            return off, ""
        if self.long:
            return self.new(f"add i64 {self.segment_word('base', seg)}, {off}"), ""
        last = self.new(f"add i64 {off}, {size - 1}")
        good = self.new(f"icmp sle i64 {last}, {self.segment_word('write_limit' if write else 'read_limit', seg)}")
        lin = self.new(f"add i64 {self.segment_word('base', seg)}, {off}")
        return self.new(f"and i64 {lin}, 4294967295"), good

    def _entry(self, lin: str, size: int, write: bool, *, aligned: bool = False) -> tuple[str, str]:
        """i1: the TLB has the page, and pointer to the entry."""
        index = self.new(f"and i64 {self.new(f'lshr i64 {lin}, 8')}, {(TLB_ENTRIES - 1) * 16}")
        here = self.new(f"or i64 {index}, {self.word('tlb_off')}")  # no bit in common; of a sum LLVM makes two pointers
        entry = self.gep(self.gep("%cpu", here), at("tlb") + (KIND_BYTES if write else 0))
        if aligned:
            last_page = self.new(f"and i64 {lin}, {-4096 | size - 1}")
        else:
            last_page = self.new(f"and i64 {self.new(f'add i64 {lin}, {size - 1}')}, -4096")
        return self.new(f"icmp eq i64 {self.new(f'load i64, ptr {entry}')}, {last_page}"), entry

    def _host(self, lin: str, entry: str) -> str:
        addend = self.new(f"load i64, ptr {self.gep(entry, 8)}")
        return self.new(f"inttoptr i64 {self.new(f'add i64 {addend}, {lin}')} to ptr")

    def _guest_load(self, pointer: str, size: int) -> str:
        v = self.new(f"load volatile i{8 * size}, ptr {pointer}, align 1")
        return v if size == 8 else self.new(f"zext i{8 * size} {v} to i64")

    def _guest_store(self, pointer: str, size: int, v: str) -> None:
        w = v if size == 8 else self.new(f"trunc i64 {v} to i{8 * size}")
        self.put(f"store volatile i{8 * size} {w}, ptr {pointer}, align 1")

    # ---- loads and stores --------------------------------------------------------------------------------------------
    def load(self, seg: str, flat: bool, off: str, size: int) -> str:
        return self._load("memory.load", seg, flat, off, size, False)[0]

    def load_rmw(self, seg: str, flat: bool, off: str, size: int) -> tuple[str, str]:
        return self._load("memory.load_rmw", seg, flat, off, size, True)

    def _load(self, slow: str, seg: str, flat: bool, off: str, size: int, write: bool) -> tuple[str, str]:
        fast, miss, ok, join = (self.label() for _ in range(4))
        lin, hit, entry = self._lookup(seg, flat, off, size, write)
        self.cond_branch(hit, fast, miss, True)
        self.place(fast)
        host = self._host(lin, entry)
        v = self._guest_load(host, size)
        self.put(f"br label %{join}")
        self.place(miss)
        self._publish()
        w = self.call(slow, [seg, off, str(size)])
        self._leave_if(self.word("status"), ok)
        self.place(ok)
        left, w = self.left_behind(), self._cut(w, size)
        self.put(f"br label %{join}")
        self.place(join)
        self._join_budget(fast, ok, left)
        value = self.new(f"phi i64 [ {v}, %{fast} ], [ {w}, %{ok} ]")
        return value, self.new(f"phi ptr [ {host}, %{fast} ], [ null, %{ok} ]")

    def _cut(self, v: str, size: int) -> str:
        """What a call gave, which has no more bytes: so that LLVM knows, where it meets what was loaded in place."""
        return v if size == 8 else self.new(f"and i64 {v}, {(1 << 8 * size) - 1}")

    def store_back(self, where: str, seg: str, off: str, size: int, v: str) -> None:
        fast, slow, join = (self.label() for _ in range(3))
        self.cond_branch(self.new(f"icmp ne ptr {where}, null"), fast, slow, True)
        self.place(fast)
        self._guest_store(where, size, v)
        self.put(f"br label %{join}")
        self.place(slow)
        self._slow_store(seg, off, size, v, fast, join)

    def load_locked(self, seg: str, flat: bool, off: str, size: int) -> tuple[str, str]:
        """What the TLB does not answer `memory.lock_host` is asked for; where that has no address either, others stand."""
        found, miss, allowed, given, fast, slow, ok, join = (self.label() for _ in range(8))
        lin, hit, entry = self._lookup(seg, flat, off, size, True, aligned=True)
        self.cond_branch(hit, found, miss, True)
        self.place(found)
        host = self._host(lin, entry)
        self.put(f"br label %{fast}")
        self.place(miss)
        self._publish()
        there = self.new(f"inttoptr i64 {self.call('memory.lock_host', [seg, off, str(size)])} to ptr")
        self._leave_if(self.word("status"), allowed)
        self.place(allowed)
        self.cond_branch(self.new(f"icmp ne ptr {there}, null"), given, slow)
        self.place(given)
        self.put(f"br label %{fast}")
        self.place(fast)
        where = self.new(f"phi ptr [ {host}, %{found} ], [ {there}, %{given} ]")
        v = self._guest_load(where, size)
        self.put(f"br label %{join}")
        self.place(slow)
        w = self.call("memory.load_rmw", [seg, off, str(size)])
        self._leave_if(self.word("status"), ok)
        self.place(ok)
        left = self.left_behind()
        self.put(f"br label %{join}")
        self.place(join)
        self._join_budget(fast, ok, left)
        value = self.new(f"phi i64 [ {v}, %{fast} ], [ {w}, %{ok} ]")
        return value, self.new(f"phi ptr [ {where}, %{fast} ], [ null, %{ok} ]")

    def store_locked(self, where: str, seg: str, off: str, size: int, old: str, v: str) -> None:
        fast, slow, lost, join = (self.label() for _ in range(4))
        self.cond_branch(self.new(f"icmp ne ptr {where}, null"), fast, slow, True)
        self.place(fast)
        self.cond_branch(self._guest_swap(where, size, old, v), join, lost, True)
        self.place(lost)
        self.go(self.new(f"load ptr, ptr {self.u}"), self.u, "%budget")
        self.place(slow)
        self._slow_store(seg, off, size, v, fast, join)

    def _guest_swap(self, pointer: str, size: int, old: str, v: str) -> str:
        """i1: memory was `old`, and is `v` now."""
        ty = f"i{8 * size}"
        words = [w if size == 8 else self.new(f"trunc i64 {w} to {ty}") for w in (old, v)]
        pair = f"ptr {pointer}, {ty} {words[0]}, {ty} {words[1]} seq_cst seq_cst, align {size}"
        return self.new(f"extractvalue {{ {ty}, i1 }} {self.new(f'cmpxchg volatile {pair}')}, 1")

    def _slow_store(self, seg: str, off: str, size: int, v: str, fast: str, join: str) -> None:
        status = self.call("memory.store", [seg, off, str(size), v])
        ok = self.label()
        self._leave_if(status, ok)
        self.place(ok)
        left = self.left_behind()
        self.put(f"br label %{join}")
        self.place(join)
        self._join_budget(fast, ok, left)

    def store(self, seg: str, flat: bool, off: str, size: int, v: str) -> None:
        fast, miss, join = (self.label() for _ in range(3))
        lin, hit, entry = self._lookup(seg, flat, off, size, True)
        self.cond_branch(hit, fast, miss, True)
        self.place(fast)
        self._guest_store(self._host(lin, entry), size, v)
        self.put(f"br label %{join}")
        self.place(miss)
        self._publish()
        self._slow_store(seg, off, size, v, fast, join)

    # ---- 16 bytes at a time ------------------------------------------------------------------------------------------
    def wide(self, low: str, high: str) -> str:
        v = self.new(f"insertelement {WIDE} zeroinitializer, i64 {low}, i32 0")
        return self.new(f"insertelement {WIDE} {v}, i64 {high}, i32 1")

    def half(self, v: str, n: int) -> str:
        return self.new(f"extractelement {WIDE} {v}, i32 {n}")

    def _read_wide(self, pointer: str) -> str:
        return self.new(f"load {WIDE}, ptr {pointer}, align 8")

    def _write_wide(self, pointer: str, v: str) -> None:
        self.put(f"store {WIDE} {v}, ptr {pointer}, align 8")

    def _wide_lookup(self, seg: str, flat: bool, off: str, odd: bool, write: bool) -> tuple[str, str, str]:
        return self._lookup(seg, flat, off, 16, write, aligned=not odd)

    def load_wide(self, seg: str, flat: bool, off: str, odd: bool) -> str:
        fast, miss, join = (self.label() for _ in range(3))
        lin, hit, entry = self._wide_lookup(seg, flat, off, odd, False)
        self.cond_branch(hit, fast, miss, True)
        self.place(fast)
        v = self._guest_load_wide(self._host(lin, entry))
        self.put(f"br label %{join}")
        self.place(miss)
        self._publish()
        self.call("simd.load_wide", [seg, off, str(int(not odd))])
        self.check()
        w, left = self._read_wide(self.cpu("wide")), self.left_behind()
        here = self._here
        self.put(f"br label %{join}")
        self.place(join)
        self._join_budget(fast, here, left)
        return self.new(f"phi {WIDE} [ {v}, %{fast} ], [ {w}, %{here} ]")

    def store_wide(self, seg: str, flat: bool, off: str, odd: bool, v: str) -> None:
        fast, miss, join = (self.label() for _ in range(3))
        lin, hit, entry = self._wide_lookup(seg, flat, off, odd, True)
        self.cond_branch(hit, fast, miss, True)
        self.place(fast)
        self._guest_store_wide(self._host(lin, entry), v)
        self.put(f"br label %{join}")
        self.place(miss)
        self._publish()
        self.call("simd.store_wide", [seg, off, str(int(not odd)), self.half(v, 0), self.half(v, 1)])
        self.check()
        left, here = self.left_behind(), self._here
        self.put(f"br label %{join}")
        self.place(join)
        self._join_budget(fast, here, left)

    def _guest_load_wide(self, pointer: str) -> str:
        return self.new(f"load volatile {WIDE}, ptr {pointer}, align 1")

    def _guest_store_wide(self, pointer: str, v: str) -> None:
        self.put(f"store volatile {WIDE} {v}, ptr {pointer}, align 1")
