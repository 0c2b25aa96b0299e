"""How long compiled code is: deterministic counts of a fixed list of loops and instructions, kept in golden.json.

    python -m tests.engine.golden           writes them down anew (`make golden`); the diff shows what became of them

For each loop, of one iteration: guest instructions, and x86-64 host instructions on the way that is taken as handlers, as
stencils and as pinned ones (without gates and pads), and in the region, whose loop has several copies of its body; beside
that the LLVM instructions of the whole region, its ways out included.  For single handlers LLVM instructions after
optimisation.  For whole runs, with regions compiled at once, what was translated, compiled and asked of the outside.  LLVM
is told its generic CPU, so that the figures are the same on every host.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import iced_x86 as ix
import pytest

from jitvm.bare import accelerator
from jitvm.bench.workloads import images_folder, load_image, patch
from jitvm.config import DeviceConfig, MachineConfig
from jitvm.engine import backend, pinned, stencil, stencil_key, stitch
from jitvm.engine.accel import Options
from jitvm.engine.backend import compile_object, compile_quickly, simplify
from jitvm.engine.dispatch import shorten
from jitvm.engine.forms import GOTO
from jitvm.engine.grow import Grown
from jitvm.engine.objects import ObjectFile
from jitvm.engine.region import Node, Op
from jitvm.engine.region_ir import region_text
from jitvm.machine import Machine
from tests.engine.grown import note_grown
from tests.engine.guest import DATA, STACK, Guest
from tests.engine.native_decoder import Decoder

FILE = Path(__file__).with_suffix(".json")
HANDLERS = {
    "mov r32, r32": "89 d8",
    "add r32, r32": "01 d8",
    "add r32, imm8": "83 c0 05",
    "inc r32": "40",
    "mov r32, [base + disp]": "8b 43 04",
    "mov [base + disp], r32": "89 43 04",
    "add r32, [base + index * 4]": "03 04 8b",
    "add [base], imm": "83 03 01",
    "lea r32, [base + index * 4 + disp]": "8d 44 8b 10",
    "push r32": "50",
    "pop r32": "58",
    "ret": "c3",
    "jnz": "75 00",
    "cmp, jnz fused": "39 d8",
    "shl r32, imm": "c1 e0 03",
    "movzx r32, byte [base]": "0f b6 03",
}
"""Instructions in 32-bit code with flat segments."""
LOOPS = {
    "sum": "1: add eax, [esi + ecx * 4 - 4]\n dec ecx\n jnz 1b",
    "mark": "1: mov byte ptr [esi], 1\n add esi, ebx\n cmp esi, edi\n jb 1b",
    "copy": "1: mov al, [esi]\n mov [edi], al\n inc esi\n inc edi\n dec ecx\n jnz 1b",
    "crc": "1: mov ebx, eax\n shr eax, 1\n and ebx, 1\n neg ebx\n and ebx, 0xEDB88320\n xor eax, ebx\n dec ecx\n jnz 1b",
    "alu": "1: add eax, ebx\n xor edx, eax\n rol ebx, 5\n imul edx, edx, 77\n sub eax, 3\n dec ecx\n jnz 1b",
    "carry": "1: add eax, [esi]\n adc edx, [esi + 4]\n lea esi, [esi + 8]\n dec ecx\n jnz 1b",
    "locals": "1: mov eax, [ebp - 8]\n add eax, 1\n mov [ebp - 8], eax\n cmp eax, [ebp - 12]\n jl 1b",
    "call": "1: call 2f\n dec ecx\n jnz 1b\n hlt\n2: lea eax, [eax + ecx * 2 + 5]\n ret",
    "stack": "1: push eax\n push ebx\n pop eax\n pop ebx\n dec ecx\n jnz 1b",
}
REAL_MODE = {"sum": "1: add ax, [si]\n add si, 2\n dec cx\n jnz 1b"}
"""The same in 16-bit code with segments."""
RUNS = {"quicksort": 8, "cmix": 20, "calls": 400}
"""Bench guests and their iterations."""
SOON = Options(hot=2, region_hot=30, sync=True)


@contextlib.contextmanager
def generic_target() -> Iterator[None]:
    """LLVM optimises for its generic CPU."""
    backend.machine()
    patch = pytest.MonkeyPatch()
    patch.setattr(backend, "host_cpu", dict)
    patch.setattr(backend, "_machine", backend.new_machine())
    try:
        yield
    finally:
        patch.undo()


# ---- counting -------------------------------------------------------------------------------------------------------
def llvm_instructions(text: str, name: str) -> int:
    """Instructions of one function of LLVM text."""
    body = re.search(rf"^define [^\n]*@{name}\(.*?^}}", text, re.S | re.M)
    assert body is not None
    return sum(1 for line in body.group(0).splitlines()[1:-1] if line.startswith("  "))


class HostCode:
    """Host instructions by their offset.  `ends`: offsets of bytes in jumps that lead out."""

    def __init__(self, code: bytes, ends: Sequence[int] = ()) -> None:
        self.by_offset = {i.ip: i for i in ix.Decoder(64, code, ip=0)}
        self.ends = {i.ip for i in self.by_offset.values() for at in ends if i.ip <= at < i.ip + i.len}

    def following(self, at: int, *, straight: bool = False) -> list[int]:
        """Where it may go on; `straight`: conditional jumps are not taken, as LLVM lays out what is likely."""
        i, flow = self.by_offset[at], ix.FlowControl
        if i.flow_control == flow.UNCONDITIONAL_BRANCH:
            found = [] if at in self.ends else [i.near_branch_target]
        elif i.flow_control in (flow.INDIRECT_BRANCH, flow.RETURN, flow.EXCEPTION):
            found = []
        elif i.flow_control == flow.CONDITIONAL_BRANCH and not straight and at not in self.ends:
            found = [i.near_branch_target, i.next_ip]
        else:
            found = [i.next_ip]
        return [to for to in found if to in self.by_offset]

    def straight(self) -> int:
        """Instructions from the beginning to the end of the likely way."""
        at, n = 0, 1
        while to := self.following(at, straight=True):
            at, n = to[0], n + 1
            assert n < 1000, "the likely way is a loop"
        return n

    def shortest_cycle(self) -> int:
        """Instructions of the shortest way round: one iteration."""
        best = len(self.by_offset) + 1
        for start in {to for at in self.by_offset for to in self.following(at) if to <= at}:
            seen, work = {start}, [start]
            for n in range(1, best):
                work = list(dict.fromkeys(to for at in work for to in self.following(at)))
                if start in work:
                    best = n
                    break
                work = [at for at in work if at not in seen]
                seen.update(work)
        assert best <= len(self.by_offset), "there is no loop"
        return best


def host_code(data: bytes, name: str) -> HostCode:
    """A function of an object file."""
    file = ObjectFile(data)
    f = next(f for f in file.functions() if f.name == name)
    ends = [at - f.value for at, _, _, _ in file.relocations(f.section) if f.value <= at < f.value + f.size]
    return HostCode(file.code(f), ends)


# ---- the figures ----------------------------------------------------------------------------------------------------
def handler_lengths() -> dict[str, int]:
    """LLVM instructions of single handlers."""
    d = Decoder()
    units, out = accelerator().units, {}
    for name, code in HANDLERS.items():
        d(bytes.fromhex(code), 32, 0)
        number = accelerator().forms.number(d.shape())
        variant = 2 + 5 if name.endswith("fused") else 0
        b = stitch.handler(units, accelerator().forms.shapes, number | variant << 16, "i_test")
        text, _, _ = stitch.module(units, [b])
        out[name] = llvm_instructions(simplify(text), "i_test")
    return out


@dataclass(frozen=True)
class Loop:
    """A loop that was run until it became a region."""

    guest: int
    grown: Grown


def ran(source: str, bits: int) -> Loop:
    """Run a loop until a region is made of it; twice, as blocks become hot later while their stencils are being made."""
    patch = pytest.MonkeyPatch()
    found = note_grown(patch)
    try:
        for _ in range(2):
            found.clear()
            guest = Guest("handlers", options=SOON)
            if bits == 16:
                guest.bare.set_mode("real")
            guest.load(source + "\n hlt", bits=bits)
            places = {"esi": DATA, "edi": DATA + 0x2000, "ebp": DATA + 0x3000, "esp": STACK - 0x8000}
            guest.registers(eax=1, ebx=2, ecx=500, edx=3, **places)
            guest.bare.write(DATA + 0x3000 - 12, (500).to_bytes(4, "little"))
            assert guest.go(1000) in ("limit", "hlt")
    finally:
        patch.undo()
    return Loop(sum(node.charge for node in once(found[0])), found[0])


def once(grown: Grown) -> list[Node]:
    """The nodes of a region, without the further copies of an unrolled loop."""
    return list({node.rip: node for node in grown.nodes}.values())


def _key(op: Op) -> int:
    """A handler's key."""
    return accelerator().forms.number(op.shape) | op.variant << 16


def _stencil_key(op: Op) -> int:
    key = _key(op) | op.seg >> 3 << stencil_key.SEG_SHIFT | op.scale << stencil_key.SCALE_SHIFT
    return stencil.normal(accelerator().forms.shapes, key)


def _pinned_keys(node: Node) -> list[int]:
    """Keys of a block's pinned stencils, last one first; flags are made at once where the block reads them."""
    keys, wanted = [], False
    for op in reversed(node.ops):
        slots = sum(getattr(op, slot) << shift for slot, shift in stencil_key.SLOT_SHIFTS.items())
        key = _stencil_key(op) | slots | wanted << stencil_key.EAGER_BIT | 1 << stencil_key.PIN_BIT
        keys.append(pinned.normal(accelerator().forms.shapes, key))
        wanted = op.reads or (wanted and not op.kills)
    return keys


def copied_length(keys: Sequence[int], made: Mapping[int, stencil.Stencil | None]) -> int:
    """Host instructions of some stencils on the likely way."""
    total = 0
    for key in keys:
        cut = made[key]
        assert cut is not None
        ends = [at for at, kind, _, _ in cut.holes if kind >= len(stencil_key.HOLES)]
        total += HostCode(cut.code, ends).straight()
    return total


def loop_lengths(loop: Loop) -> dict[str, float]:
    """Host instructions of one iteration, by tier."""
    units, shapes = accelerator().units, accelerator().forms.shapes
    nodes = once(loop.grown)
    copies = len(loop.grown.nodes) // len(nodes)
    ops = [op for node in nodes for op in node.ops]
    keys = [_key(op) for op in ops] + [shapes.index(GOTO)] * sum(not node.jumps for node in nodes)
    names = {key: f"i_{n}" for n, key in enumerate(dict.fromkeys(keys))}
    text, _, _ = stitch.module(units, [stitch.handler(units, shapes, key, name) for key, name in names.items()])
    data = shorten(compile_object(text, 2))
    handlers = {key: host_code(data, name).straight() for key, name in names.items()}
    copied = list(map(_stencil_key, ops))
    in_registers = [key for node in nodes for key in _pinned_keys(node)]
    text, _ = region_text(units, "r_test", loop.grown.nodes)
    region = host_code(compile_quickly(text, "r_test"), "r_test")
    return {
        "guest": loop.guest,
        "handlers": sum(handlers[key] for key in keys),
        "stencils": copied_length(copied, stencil.stamp(units, shapes, list(dict.fromkeys(copied)))),
        "pinned": copied_length(in_registers, pinned.stamp(units, shapes, list(dict.fromkeys(in_registers)))),
        "region": round(region.shortest_cycle() / copies, 1),
        "llvm": llvm_instructions(simplify(text), "r_test"),
    }


def run_counts(name: str, folder: Path) -> dict[str, int]:
    """What a bench guest's run takes of the engine and of the outside."""
    image = folder / f"{name}.bin"
    image.write_bytes(patch(load_image(images_folder(), name), RUNS[name]))
    exits = DeviceConfig("isa-debug-exit", (("iobase", 0xF4),))
    config = MachineConfig(bios=image, debugcons=((0xE9, "null"),), devices=(exits,), jit="sync")
    for _ in range(2):
        with Machine(config) as m:
            m.run()
            stats = m.stats()
    return {
        "retired": stats["retired"],
        "exits": sum(stats["exits"].values()),
        "blocks": stats["tiers"]["handlers"]["blocks"],
        "copied": stats["tiers"]["stencils"]["blocks"],
        "asked": stats["tiers"]["regions"]["asked"],
        "regions": stats["tiers"]["regions"]["installed"],
    }


def measure(folder: Path) -> dict[str, dict[str, Any]]:
    """All figures; `folder` is for images."""
    loops = {name: ran(source, 32) for name, source in LOOPS.items()}
    loops |= {f"{name}, 16-bit": ran(source, 16) for name, source in REAL_MODE.items()}
    runs = {name: run_counts(name, folder) for name in RUNS}
    with generic_target():
        return {
            "handlers": handler_lengths(),
            "loops": {name: loop_lengths(loop) for name, loop in loops.items()},
            "runs": runs,
        }


def written(figures: dict[str, dict[str, Any]]) -> str:
    """As JSON with a line for each row, so that a diff shows rows."""
    parts = []
    for part, rows in figures.items():
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
        parts.append(f" {json.dumps(part)}: {{\n{lines}\n }}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> int:
    """Write the figures down."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        text = written(measure(Path(folder)))
    changed = not FILE.exists() or FILE.read_text() != text
    FILE.write_text(text)
    print(f"{FILE}: {'changed; git diff shows how' if changed else 'as it was'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
