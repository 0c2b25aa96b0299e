"""Accesses of a region's node that one question answers: those with the same registers in their address.

Pushes and pops, locals and a record's fields lie a few bytes apart.  Where a node has `LEAST` of them or more, the first
asks whether all are on the page that its stream looked up last, and only else the TLB, for that page; the others have the
same host address but for a constant.  Where they are not on one page, or it is not in the TLB, the node goes on in a second
text of the same instructions, behind all others, of which each looks its operand up in the TLB.  Those at one place need no
such text: where the question says no, the first instruction is its handler's, as that of an access that is alone.

Two accesses have the same registers when nothing but a constant was added to them in between (`_Follower`).  Segments are
flat.  Nothing makes the answer untrue before the node ends: what runs out of line ends a group.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from jitvm.engine.compose import RAX_AT, RBP_AT, RDX_AT, RSP_AT, effective_address
from jitvm.engine.ir_text import signed
from jitvm.engine.region import Node, Op
from jitvm.engine.region_pages import SharedLookups, Stream, stream
from jitvm.engine.units import Units
from jitvm.isa.state import SS, ZERO

LEAST, MOST_SPAN = 2, 512
"""Accesses that make a group; bytes that it may cover: on few pages' ends they don't fit."""
SP, BP, AX, DX, NONE = RSP_AT >> 3, RBP_AT >> 3, RAX_AT >> 3, RDX_AT >> 3, int(ZERO)
PUSHING = frozenset({"push", "call"})
STACK_KINDS = PUSHING | {"pop", "ret", "leave"}
Known = tuple[int, int]
"""What is known of a register: a number for what it was, and a constant that was added since."""


@dataclass(frozen=True)
class Access:
    """An access of instruction `at` of its node: what makes its address (segment, registers and scale), and the constant."""

    at: int
    key: tuple[int, ...]
    off: int
    size: int
    writes: bool
    stream: Stream


@dataclass(frozen=True)
class Group:
    """Accesses of a node within `span` bytes: where, by the number of their instruction, of which `first` is the least.

    `stream`: what the first one asks; `writes`: some of them do.
    """

    stream: Stream
    first: int
    span: int
    writes: bool
    offsets: Mapping[int, int]

    @property
    def one_place(self) -> bool:
        """All of them begin at the same byte."""
        return not any(self.offsets.values())


class _Follower:
    """Goes through a node's instructions and finds what is added to registers.  `params`: parameters of a unit."""

    def __init__(self, params: Callable[[str], Sequence[str]], long: bool) -> None:
        self._params, self._word = params, 8 if long else 4
        self._numbers = count()
        self._known: dict[int, Known] = {}

    def _get(self, register: int) -> Known:
        if register not in self._known:
            self._known[register] = next(self._numbers), 0
        return self._known[register]

    def _moved(self, register: int, by: int) -> Known:
        number, off = self._get(register)
        return number, off + by

    def access(self, at: int, op: Op) -> Access | None:
        """The access of an instruction that makes one, to a flat segment."""
        s = op.shape
        if s.kind in STACK_KINDS:
            writes = s.kind in PUSHING
            if s.mem or not s.stack_flat or "s" in s.ops or s.ssize != self._word:
                return None
            number, off = self._moved(BP if s.kind == "leave" else SP, -s.size if writes else 0)
            return Access(at, (int(SS), number), off, s.size, writes, stream(op, int(SS)))
        if s.kind != "value" or s.mem not in ("b", "x") or not s.flat or s.locked or s.asize != self._word:
            return None
        if op.b >> 3 == NONE:
            return None
        k = s.ops.index("m")
        writes = s.dst == "0" and k == 0
        if self._times(op) != 1:
            return None
        number, off = self._get(op.b >> 3)
        key = [op.seg >> 3, number]
        if s.mem == "x":
            other, more = self._get(op.i >> 3)
            key += [other, op.scale]
            off += more << op.scale
        return Access(at, tuple(key), off + signed(op.disp, 32), s.sizes[k], writes, stream(op, op.seg >> 3))

    def _times(self, op: Op) -> int:
        """How often `compose` accesses the memory operand of a value instruction."""
        s = op.shape
        names = [name for name in self._params(s.unit) if name in ("a", "b", "d")]
        operands = [min("abd".index(name), len(s.ops) - 1) for name in names]
        if len(s.ops) == 3 and s.unit == "muldiv.imul":
            operands = [min(k + 1, 2) for k in operands]
        if s.ops[0] == "m" and s.dst == "0":
            return 1 if "a" in names or 0 not in operands else 0
        return sum(s.ops[k] == "m" for k in operands)

    def step(self, op: Op) -> None:
        """What an instruction does to registers."""
        s = op.shape
        if s.kind in PUSHING:
            self._known[SP] = self._moved(SP, -s.size)
        elif s.kind == "pop" and s.ops[0] == "r":
            self._known[SP] = self._moved(SP, s.size)
            self._known.pop(op_register(op, 0), None)
        elif s.kind == "leave":
            self._known[SP] = self._moved(BP, s.size)
            self._known.pop(BP, None)
        elif s.kind == "value":
            self._value(op)
        elif s.kind not in ("nop", "jcc"):
            self._known.clear()

    def _value(self, op: Op) -> None:
        s = op.shape
        now = self._sum(op)
        for place in (s.dst, s.hi):
            if place in ("acc", "ah"):
                self._known.pop(AX, None)
            elif place == "high":
                self._known.pop(AX if s.size == 1 else DX, None)
            elif place and s.ops[int(place)] == "r":
                self._known.pop(op_register(op, int(place)), None)
        if now is not None:
            self._known[op_register(op, 0)] = now

    def _sum(self, op: Op) -> Known | None:
        """What an instruction makes of a register and a constant."""
        s = op.shape
        if s.dst != "0" or s.ops[0] != "r" or s.sizes[0] != self._word or s.slots[0] == "-":
            return None
        to = op_register(op, 0)
        if s.unit in ("alu.add", "alu.sub") and s.ops[1] == "i":
            by = signed(op.imm, 64)
            return self._moved(to, by if s.unit == "alu.add" else -by)
        if s.unit in ("alu.inc", "alu.dec"):
            return self._moved(to, 1 if s.unit == "alu.inc" else -1)
        if s.unit == "alu.mov" and s.ops[1] == "r" and s.slots[1] != "-":
            return self._get(op_register(op, 1))
        if s.unit == "address.lea" and s.mem == "b" and s.asize == self._word and op.b >> 3 != NONE:
            return self._moved(op.b >> 3, signed(op.disp, 32))
        return None


def op_register(op: Op, k: int) -> int:
    """Number of the general register that operand k is."""
    return int(getattr(op, op.shape.slots[k])) >> 3


def groups_of(node: Node, params: Callable[[str], Sequence[str]], streams: Mapping[Stream, bool]) -> list[Group]:
    """The groups of a node, of which each asks for a page of one of `streams`."""
    follower = _Follower(params, node.ops[0].shape.long)
    open_: dict[tuple[int, ...], list[Access]] = {}
    done: list[list[Access]] = []
    for at, op in enumerate(node.ops):
        access = follower.access(at, op)
        if access is not None:
            together = open_.setdefault(access.key, [])
            least = min([access.off, *(a.off for a in together)])
            if max([access.off + access.size, *(a.off + a.size for a in together)]) - least > MOST_SPAN:
                done.append(together)
                together = open_[access.key] = []
            together.append(access)
        follower.step(op)
    enough = [together for together in (*done, *open_.values()) if len(together) >= LEAST]
    return [_group(together) for together in enough if together[0].stream in streams]


def _group(accesses: Sequence[Access]) -> Group:
    least = min(a.off for a in accesses)
    offsets = {a.at: a.off - least for a in accesses}
    return Group(
        accesses[0].stream,
        accesses[0].at,
        max(a.off + a.size for a in accesses) - least,
        any(a.writes for a in accesses),
        offsets,
    )


class GroupedLookups(SharedLookups):
    """The part of a region's builder that puts a node's instructions together, with one question for each of its groups."""

    nodes: Sequence[Node]
    groups: Sequence[Sequence[Group]] = ()
    """Of each node."""

    def __init__(self, units: Units, name: str, *, long: bool) -> None:
        super().__init__(units, name, long=long)
        self._found: dict[int, str] = {}
        """Host addresses, as words, of what instructions of the node access."""
        self._at = 0
        """The instruction of the node that is being put together."""

    def plan_groups(self) -> None:
        """Decide which accesses are looked up together."""
        self.groups = [groups_of(node, self.params, self.streams) for node in self.nodes]
        for groups in self.groups:
            for group in groups:
                self.streams[group.stream] |= group.writes

    # ---- accesses -----------------------------------------------------------------------------------------------------
    def _hit(self, seg: str, flat: bool, off: str, size: int, write: bool, *, aligned: bool = False) -> str:
        if self._at in self._found:
            return self._pointer()
        return super()._hit(seg, flat, off, size, write, aligned=aligned)

    def load(self, seg: str, flat: bool, off: str, size: int) -> str:
        if self._at in self._found:
            return self._guest_load(self._pointer(), size)
        return super().load(seg, flat, off, size)

    def _pointer(self) -> str:
        return self.new(f"inttoptr i64 {self._found[self._at]} to ptr")

    def _ask(self, group: Group, other: str) -> None:
        """Look up what a group accesses, in front of its first instruction; where that misses, go to label `other` or to
        the instruction's handler."""
        s = self.op.shape
        if s.kind == "value":
            off, seg = effective_address(self, s), self.segment()
        else:
            pointer = self.gpr(RBP_AT if s.kind == "leave" else RSP_AT, s.ssize)
            pushed = s.size if s.kind in PUSHING else 0
            off, seg = self.call("address.below", [str(s.ssize), pointer, str(pushed)]), str(int(SS))
        least = self.call("address.below", [str(s.ssize), off, str(group.offsets[group.first])])
        writes = self.streams[group.stream]
        ways = self._both_ways(seg, True, least, group.span, writes, lambda *address: address, missed=other)
        here = self.new(f"add i64 {', '.join(self._met(ways))}")
        for at, more in group.offsets.items():
            self._found[at] = self.new(f"add i64 {here}, {more}")

    # ---- the instructions of a node -----------------------------------------------------------------------------------
    def instructions(self) -> None:
        """Put all instructions of the node together, those behind a miss of a group a second time."""
        groups = {group.first: group for group in self.groups[self._number]} if self.groups else {}
        labels = {at: self.label() for at, group in groups.items() if not group.one_place}
        for at in range(len(self._node.ops)):
            if at in groups:
                self.op = self._node.ops[at]
                self._ask(groups[at], labels.get(at, ""))
            self._instruction(at)
        self.node_end()
        self._found.clear()
        self.apart = True
        for at in range(min(labels, default=len(self._node.ops)), len(self._node.ops)):
            if at in labels:
                if at > min(labels):
                    self.put(f"br label %{labels[at]}")
                self.place(labels[at])
                self.forget_flags()
            self._instruction(at)
        if labels:
            self.node_end()
        self.apart = False

    @abstractmethod
    def _instruction(self, at: int) -> None:
        """Put one instruction together."""

    @abstractmethod
    def node_end(self) -> None:
        """On where the node leads, unless its last instruction did that."""
