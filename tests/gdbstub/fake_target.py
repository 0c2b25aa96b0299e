"""A toy machine behind the `Target` protocol: memory, a few processors that know a dozen real x86 instructions, every
optional part.

It runs on the caller's thread: `resume` executes until something stops it or `budget` rounds are over; then it counts
as running, until `advance` or `interrupt`. `threaded_target.py` puts the same machine on a thread of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gdbstub import Layout, TargetError
from gdbstub.stop import (
    BreakpointHit,
    BreakpointKind,
    Exited,
    HistoryEnd,
    Interrupted,
    Signal,
    Signalled,
    Stepped,
    Stop,
    WatchKind,
    WatchpointHit,
)
from gdbstub.target import Listener, MemoryRegion, Plan, RangeStep, Step, ThreadInfo
from gdbstub.x86 import LAYOUTS

RAM = 0x10000
CODE, DATA, STACK = 0x1000, 0x4000, 0x8000
LOOP = bytes.fromhex("ffc0 90 8803 90 ebf8")
"""inc eax; nop; mov [rbx], al; nop; jmp to the first."""


@dataclass
class Cpu:
    """Registers by name, and whether it waits in HLT."""

    thread: int
    values: dict[str, int]
    halted: bool = False


@dataclass
class MandatoryTarget:
    """Only what a target must have."""

    layout: Layout = field(default_factory=lambda: LAYOUTS["x86-64"])
    cpus: int = 2
    program: bytes = LOOP
    budget: int = 200

    def __post_init__(self) -> None:
        self.ram = bytearray(RAM)
        self.ram[CODE : CODE + len(self.program)] = self.program
        self.word = self.layout.registers[self.layout.numbers[self.layout.pc]].size
        self.sp, self.bp = ("rsp", "rbp") if self.word == 8 else ("esp", "ebp")
        self.ax, self.bx = ("rax", "rbx") if self.word == 8 else ("eax", "ebx")
        self.cpu = {n + 1: Cpu(n + 1, {}) for n in range(self.cpus)}
        self.points: set[tuple[BreakpointKind | WatchKind, int, int]] = set()
        self.plan: Plan = {}
        self.running = False
        self.n_resumes = self.n_interrupts = self.n_kills = 0
        self.history: deque[tuple[int, dict[str, int], int, int]] = deque(maxlen=1000)
        self.power_on()

    def power_on(self) -> None:
        for cpu in self.cpu.values():
            cpu.values = {register.name: 0 for register in self.layout.registers if not register.view_of}
            cpu.values |= {self.layout.pc: CODE, self.sp: STACK, self.bp: STACK, self.bx: DATA, "eflags": 2}
            cpu.values |= {"cr0": 0x60000010, "mxcsr": 0x1F80, "fctrl": 0x37F, "ftag": 0xFFFF, "cs": 8}
            cpu.halted = False
        self.history.clear()

    # Target

    def listen(self, listener: Listener) -> None:
        self.listener = listener

    def _bytes(self, thread: int, number: int) -> bytes | None:
        register = self.layout.registers[number]
        if register.view_of or register.name == "tsc_aux":
            return None
        return self.cpu[thread].values[register.name].to_bytes(register.size, "little")

    def read_registers(self, thread: int) -> Sequence[bytes | None]:
        return [self._bytes(thread, number) for number in range(len(self.layout.registers))]

    def write_registers(self, thread: int, values: Mapping[int, bytes]) -> None:
        for number, value in values.items():
            name = self.layout.registers[number].name
            if name == "tsc_aux":
                raise TargetError("this processor has no tsc_aux")
            self.cpu[thread].values[name] = int.from_bytes(value, "little")

    def read_memory(self, thread: int, address: int, size: int) -> bytes:
        return bytes(self.ram[address : address + size])

    def write_memory(self, thread: int, address: int, data: bytes) -> None:
        if address + len(data) > RAM:
            raise TargetError(f"no memory at {max(address, RAM):#x}")
        self.ram[address : address + len(data)] = data

    def resume(self, plan: Plan) -> None:
        self.begin(plan)
        self.advance()

    def interrupt(self) -> None:
        self.n_interrupts += 1
        if self.running:
            self.stop(Interrupted(min(self.plan)))

    # the machine

    def begin(self, plan: Plan) -> None:
        """Take a plan without moving yet."""
        assert not self.running and plan
        self.n_resumes += 1
        self.plan = plan
        self.running = True
        self.fresh = set(plan)

    def advance(self) -> None:
        """Run for a while."""
        for _ in range(self.budget):
            for thread in self.plan if self.running else ():
                reason = self.one(thread)
                if reason is not None:
                    self.stop(reason)
                    break

    def stop(self, reason: Stop) -> None:
        """Stand still and tell why."""
        self.running = False
        self.listener.stopped(reason)

    def one(self, thread: int) -> Stop | None:
        """One instruction of a thread, if it has any to do, as its action says."""
        cpu, action = self.cpu[thread], self.plan[thread]
        pc = cpu.values[self.layout.pc]
        if thread not in self.fresh:
            for kind in BreakpointKind:
                if any(point[:2] == (kind, pc) for point in self.points):
                    return BreakpointHit(thread, kind)
        self.fresh.discard(thread)
        if cpu.halted and not isinstance(action, Step):
            return None
        cpu.halted = False
        reason = self.execute(cpu)
        if reason is not None:
            return reason
        if isinstance(action, Step):
            return Stepped(thread)
        if isinstance(action, RangeStep) and not action.start <= cpu.values[self.layout.pc] < action.end:
            return Stepped(thread)
        return None

    def execute(self, cpu: Cpu) -> Stop | None:
        """The instruction at the program counter."""
        values, pc = cpu.values, cpu.values[self.layout.pc]
        code = bytes(self.ram[pc : pc + 5])
        old = dict(values)
        address, size, store = 0, 0, b""
        length, mask = 1, (1 << 8 * self.word) - 1
        if code[:2] == b"\xff\xc0":
            length, values[self.ax] = 2, (values[self.ax] + 1) & 0xFFFFFFFF
        elif code[:2] == b"\x88\x03":
            length, address, size, store = 2, values[self.bx], 1, bytes((values[self.ax] & 0xFF,))
        elif code[:2] == b"\x8a\x03":
            length, address, size = 2, values[self.bx], 1
            values[self.ax] = values[self.ax] & ~0xFF | self.ram[address % RAM]
        elif code[:1] == b"\xeb":
            length = 2 + int.from_bytes(code[1:2], "little", signed=True)
        elif code[:1] == b"\xe8":
            values[self.sp] -= self.word
            length = 5 + int.from_bytes(code[1:5], "little", signed=True)
            address, size, store = values[self.sp], self.word, (pc + 5).to_bytes(self.word, "little")
        elif code[:1] == b"\xc3":
            address, size = values[self.sp], self.word
            length = int.from_bytes(self.ram[address : address + size], "little") - pc
            values[self.sp] += self.word
        elif code[:1] == b"\xf4":
            cpu.halted = True
        elif code[:1] == b"\xe6":
            return Exited(values[self.ax] & 0xFF, "the guest said goodbye")
        elif code[:1] != b"\x90":
            return Signalled(cpu.thread, Signal.ILL, f"undefined instruction {code[:2].hex()} at {pc:#x}")
        values[self.layout.pc] = (pc + length) & mask
        self.history.append((cpu.thread, old, address, self.ram[address % RAM]))
        if store:
            self.ram[address : address + size] = store
        return self.watched(cpu.thread, address, size, bool(store)) if size else None

    def watched(self, thread: int, address: int, size: int, is_write: bool) -> Stop | None:
        """The stop that an access brings."""
        for kind, start, length in self.points:
            hit = kind is WatchKind.ACCESS or kind is (WatchKind.WRITE if is_write else WatchKind.READ)
            if isinstance(kind, WatchKind) and hit and address < start + length and start < address + size:
                return WatchpointHit(thread, kind, max(address, start))
        return None


class FakeTarget(MandatoryTarget):
    """Everything a target can have."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.is_physical = False
        self.flags = 7
        self.commands: list[str] = []
        self.file: str | None = "/nowhere/kernel.elf"
        self.n_left = 0

    def read_register(self, thread: int, number: int) -> bytes | None:
        return self._bytes(thread, number)

    def write_register(self, thread: int, number: int, value: bytes) -> None:
        self.write_registers(thread, {number: value})

    def threads(self) -> Sequence[ThreadInfo]:
        return [
            ThreadInfo(
                cpu.thread, f"CPU{cpu.thread - 1} long64 {'halted' if cpu.halted else 'running'}", cpu.thread - 1
            )
            for cpu in self.cpu.values()
        ]

    def insert_breakpoint(self, kind: BreakpointKind, address: int, size: int) -> None:
        if address == 0xBAD:
            raise TargetError("nobody breaks at 0xbad")
        self.points.add((kind, address, size))

    def remove_breakpoint(self, kind: BreakpointKind, address: int, size: int) -> None:
        self.points.discard((kind, address, size))

    def insert_watchpoint(self, kind: WatchKind, address: int, size: int) -> None:
        self.points.add((kind, address, size))

    def remove_watchpoint(self, kind: WatchKind, address: int, size: int) -> None:
        self.points.discard((kind, address, size))

    def can_range_step(self) -> bool:
        return True

    def monitor(self, command: str, write: Callable[[str], None], thread: int) -> None:
        self.commands.append(command)
        if command == "help":
            write("help   this list\n")
            write("quit   end the machine\n")
        elif command == "quit":
            self.listener.stopped(Exited(7))
        elif command == "bug":
            raise ZeroDivisionError("oops")
        elif command == "flood":
            write("x" * (5 << 20))
        else:
            raise TargetError(f"unknown command {command}")

    def memory_map(self) -> Sequence[MemoryRegion]:
        return [
            MemoryRegion(0, RAM),
            MemoryRegion(RAM, (1 << 32) - RAM, "rom"),
            MemoryRegion(1 << 32, (1 << 64) - (1 << 32)),
        ]

    def exec_file(self) -> str | None:
        return self.file

    def search_memory(self, thread: int, address: int, size: int, pattern: bytes) -> int | None:
        found = self.ram.find(pattern, address, min(address + size, RAM))
        return found if found >= 0 else None

    def crc32(self, thread: int, address: int, size: int) -> int | None:
        return 0x1234ABCD if address + size <= RAM else None

    def reset(self) -> None:
        self.power_on()

    def kill(self) -> None:
        self.running = False
        self.n_kills += 1

    def client_left(self) -> None:
        assert not self.running
        self.n_left += 1

    def physical_memory(self) -> bool:
        return self.is_physical

    def set_physical_memory(self, on: bool) -> None:
        self.is_physical = on

    def step_flags(self) -> int:
        return self.flags

    def set_step_flags(self, flags: int) -> None:
        self.flags = flags

    def supported_step_flags(self) -> int:
        return 7

    def back(self) -> bool:
        """Undo the last instruction; False at the begin."""
        if not self.history:
            return False
        thread, values, address, byte = self.history.pop()
        self.cpu[thread].values = values
        self.ram[address % RAM] = byte
        return True

    def reverse_step(self, thread: int) -> None:
        self.listener.stopped(Stepped(thread) if self.back() else HistoryEnd(thread, True))

    def reverse_continue(self) -> None:
        while self.back():
            for cpu in self.cpu.values():
                at = cpu.values[self.layout.pc]
                if any(isinstance(point[0], BreakpointKind) and point[1] == at for point in self.points):
                    self.listener.stopped(BreakpointHit(cpu.thread))
                    return
        self.listener.stopped(HistoryEnd(1, True))
