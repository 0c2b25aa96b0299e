"""Handlers that are no instruction: between blocks, and on the way from one tier to the next."""

from __future__ import annotations

from jitvm.engine import layout as lay
from jitvm.engine.stitch import CS_NUMBER, HandlerBuilder
from jitvm.engine.units import Units

SPECIALS = (
    *("h_finish", "h_resume", "h_out", "h_stale", "h_link", "h_cross", "h_at", "h_step", "h_limit"),
    *("h_count", "h_promote", "h_hot", "h_retry", "h_enter", "h_pad", "h_no_code"),
)
"""Handlers that are no instruction: end of an instruction that can't just go on; look `rip` up; out of budget; a dropped
block's; a link not yet made; a jump to another page; a jump that must be looked up completely; a step with TF set; a
direct branch beyond the limit of CS; the entry of a block that is not hot yet; one that has become hot; one that asks for
a region; a region that something has happened to; a block to be charged and entered; the same, through a pad that may be
linked; an indirect jump to what is no place for code."""


class SpecialBuilder(HandlerBuilder):
    """Writes a handler that is no instruction."""

    def take(self, u: str) -> None:
        """Enter the micro-op that a `jitvm/engine/run.py` function found, or leave with `why`."""
        go, out = self.label(), self.label()
        self.cond_branch(self.new(f"icmp eq i64 {u}, 0"), out, go, False)
        self.place(out)
        self.put(f"ret i64 {self.word('why')}")
        self.place(go)
        self.enter(self.new(f"inttoptr i64 {u} to ptr"), self.word("left"))

    def give_code(self, unit: str) -> None:
        """Let a unit give the block other code and go there, or leave with `why`."""
        self.set_word("left", self.new(f"add i64 %budget, {self.uop(lay.UOP_REST, 'i16')}"))
        done = self.call(unit, [self.here()])
        go, out = self.label(), self.label()
        self.cond_branch(self.new(f"icmp eq i64 {done}, 0"), out, go, False)
        self.place(out)
        self.put(f"ret i64 {self.word('why')}")
        self.place(go)
        self.go(self.new("load ptr, ptr %uop"), "%uop", "%budget")

    def here(self) -> str:
        return self.new("ptrtoint ptr %uop to i64")

    def stop_at(self, left: str) -> None:
        """rip and left of the micro-op that is not entered."""
        self.set_word("rip", self.uop(lay.UOP_EIP, "i64"))
        self.set_word("left", left)


def special(units: Units, name: str) -> HandlerBuilder:
    """One of SPECIALS."""
    b = SpecialBuilder(units, name)
    if name == "h_finish":
        b.take(b.call("run.finish", ["%budget"]))
    elif name == "h_resume":
        b.set_word("left", "%budget")
        b.take(b.call("run.next_block", []))
    elif name == "h_out":
        b.stop_at(b.new(f"add i64 %budget, {b.uop(lay.UOP_REST, 'i16')}"))
        b.take(b.call("run.next_short", []))
    elif name == "h_stale":
        b.set_word("left", "%budget")
        b.take(b.call("run.stale_block", [b.here()]))
    elif name == "h_link":
        b.set_word("left", "%budget")
        b.take(b.call("run.link_block", [b.here()]))
    elif name == "h_cross":
        b._jump(b.uop(lay.UOP_EIP, "i64"), "%budget", b.gep("%uop", lay.UOP_IMM))
    elif name == "h_at":
        b.stop_at("%budget")
        b.take(b.call("run.next_block", []))
    elif name == "h_count":
        counter = b.gep("%uop", lay.UOP_IMM)
        left = b.new(f"sub i64 {b.new(f'load i64, ptr {counter}')}, 1")
        b.put(f"store i64 {left}, ptr {counter}")
        hot, cold = b.label(), b.label()
        b.cond_branch(b.new(f"icmp eq i64 {left}, 0"), hot, cold, False)
        b.place(hot)
        b.tail("h_promote", "%budget")
        b.place(cold)
        b.next()
    elif name == "h_promote":
        b.give_code("copy.promote")
    elif name == "h_hot":
        b.set_word("left", b.new(f"add i64 %budget, {b.uop(lay.UOP_REST, 'i16')}"))
        b.call("hot.note_hot", [b.here()])
        b.put(f"ret i64 {b.word('why')}")
    elif name == "h_enter":
        b.enter("%uop", "%budget")
    elif name == "h_pad":
        b.call("gate.link_pad", [b.here()])
        b.enter("%uop", "%budget")
    elif name == "h_retry":
        b.go(b.new(f"inttoptr i64 {b.call('hot.recheck', [b.here()])} to ptr"), "%uop", "%budget")
    elif name == "h_no_code":
        b.publish()
        b.tail("h_finish", b.call("memory.segment_fault", [str(CS_NUMBER)]))
    elif name == "h_limit":
        b.set_word("left", "%budget")
        b.take(b.call("run.beyond_limit", [b.here()]))
    else:
        b.set_word("step_armed", "1")
        b.next()
    return b
