"""The debugger's view of a machine, without sockets: registers, memory, steps, breakpoints, ends."""

from __future__ import annotations

import queue
import random
from pathlib import Path
from typing import Any

import pytest

from gdbstub.errors import TargetError
from gdbstub.stop import BreakpointHit, BreakpointKind, Exited, Interrupted, Signalled, Stepped
from gdbstub.target import Continue, MemoryRegion, Step
from jitvm.devices.lapic import SVR, LocalApic
from jitvm.errors import ConfigError, EngineError
from jitvm.gdb_target import GdbTarget, serve
from jitvm.machine import Machine
from tests.boot.guests import GUESTS, IMAGES, config, fingerprint, rom
from tests.gdb.bench import bench, symbol

SOFT, HARD = BreakpointKind.SOFTWARE, BreakpointKind.HARDWARE
RESET, START, HIGH = 0xFFFF_FFF0, 0xF0000, 0xFFFF_FFFF_8000_0000
BENCHES = IMAGES / "bench"
LOOP = "ebfe"
OUT_F4 = "b0 21 e6 f4"
ENTRY_EXITS = {4, 7, 10}
"""DEBUG, IRQ_WINDOW_OPEN and INTR: how often translated code was left, not what the guest did."""


def break_at(b: Any, *addresses: int, kind: BreakpointKind = SOFT) -> None:
    for address in addresses:
        b.target.insert_breakpoint(kind, address, 1)


# ---- registers ------------------------------------------------------------------------------------------------------
def test_the_reset_state(tmp_path: Path) -> None:
    with bench(rom(tmp_path, LOOP)) as b:
        assert b.read("rip") == RESET and b.read("ip") == 0xFFF0 and b.read("cs_base") == 0xFFFF_0000
        assert b.read("cs") == 0xF000 and b.read("cs_limit") == 0xFFFF and b.read("cs_attr") == 0x93
        assert b.read("eflags") == 2 and b.read("cr0") == 0x6000_0010 and b.read("dr7") == 0x400
        assert b.read("idtr_limit") == 0xFFFF and b.read("xmm0") == 0 and b.read("st0") == 0
        values = b.target.read_registers(1)
        assert len(values) == len(b.target.layout.registers)
        for value, register in zip(values, b.target.layout.registers, strict=True):
            assert (value is None) == bool(register.view_of) and (value is None or len(value) == register.size)


@pytest.mark.parametrize("arch", ["x86-64", "i386", "i8086"])
def test_each_layout_is_served_whole(tmp_path: Path, arch: str) -> None:
    with bench(rom(tmp_path, LOOP), arch) as b:
        assert sum(value is not None for value in b.target.read_registers(1)) == len(b.target.layout.own)


def test_what_is_written_is_read_and_used(tmp_path: Path) -> None:
    with bench(rom(tmp_path, "90 01d8")) as b:  # nop; add ax, bx
        b.step()
        b.write({"rax": 0x1111, "rbx": 0x2222, "eflags": 0x247, "r9": 5, "dr0": 0x1234, "gdtr_base": 0x5000, "tsc": 77})
        assert b.read("r9") == 5 and b.read("dr0") == 0x1234 and b.read("gdtr_base") == 0x5000 and b.read("tsc") == 77
        assert b.read("eflags") == 0x247
        b.step(2)
        assert b.read("rax") == 0x3333 and b.read("eflags") & 1 == 0


def test_the_program_counter_is_linear_or_raw(tmp_path: Path) -> None:
    with bench(rom(tmp_path, "90 90 90")) as b:
        b.step()
        b.write({"rip": START + 2})
        assert b.read("rip") == START + 2 and b.read("ip") == 2
        said: list[str] = []
        b.target.monitor("pc raw", said.append)
        assert b.read("rip") == 2
        b.write({"rip": 1})
        b.target.monitor("pc linear", said.append)
        assert b.read("rip") == START + 1
        assert said[0].startswith("pc is raw;") and said[1].startswith("pc is linear;")
        with pytest.raises(TargetError, match="outside of CS"):
            b.write({"rip": 0x10_FFF0})


def test_a_linear_program_counter_takes_cs_along_in_real_mode(tmp_path: Path) -> None:
    with bench(rom(tmp_path, "90")) as b:
        assert b.pc == 0xFFFF_FFF0, "which no selector reaches"
        for address, cs in (
            (0x7C00, 0),
            (0x12345, 0x1000),
            (0xFFFFF, 0xF000),
            (0x10_0000, 0xFFFF),
            (0x10_FFEF, 0xFFFF),
        ):
            b.write({"rip": address})
            assert (b.pc, b.read("cs"), b.read("cs_base")) == (address, cs, cs << 4)
        b.write({"cs": 0x1234, "rip": 0x12345})
        assert (b.read("cs"), b.read("ip")) == (0x1234, 5), "CS that reaches stays"
        b.target.write_memory(1, 0x500, bytes.fromhex("40ebfd"))
        b.write({"rip": 0x500})
        assert b.step() == Stepped(1) and b.pc == 0x501
        b.write({"cr0": 0x11, "cs_limit": 0xFFFF})
        with pytest.raises(TargetError, match="outside of CS"):
            b.write({"rip": 0x2_0000})


def test_a_selector_loads_its_segment(tmp_path: Path) -> None:
    with bench(rom(tmp_path, "90")) as b:
        b.write({"cs": 0x1234, "rip": 0x12345})
        assert b.read("cs_base") == 0x12340 and b.read("ip") == 5
        b.target.write_memory(1, 0x508, bytes.fromhex("ffff 0000 0093 cf00"))
        b.write({"gdtr_base": 0x500, "gdtr_limit": 0xF, "cr0": 0x11})
        b.write({"ds": 8})
        assert (b.read("ds_base"), b.read("ds_limit"), b.read("ds_attr")) == (0, 0xFFFF_FFFF, 0xC093)
        with pytest.raises(TargetError, match="no descriptor"):
            b.write({"es": 0x10})
        with pytest.raises(TargetError, match="null"):
            b.write({"ss": 0})


def test_paging_that_is_switched_on_by_registers(tmp_path: Path) -> None:
    """PAE's PDPTEs are loaded as by MOV to CR3; LMA follows LME and PG; what the CPU refuses is refused."""
    with bench(rom(tmp_path, LOOP), cpu="max") as b:
        b.target.write_memory(1, 0x4000, (0x5001).to_bytes(8, "little"))
        b.target.write_memory(1, 0x5000, (0x83).to_bytes(8, "little"))
        b.target.write_memory(1, 0x6000, (7).to_bytes(8, "little"))
        b.write({"cr3": 0x4000, "cr4": 0x20, "cr0": 0x11})
        b.write({"cr0": 0x8000_0011})
        assert b.target.memory.walk(0x1234) == 0x1234 and b.target.memory.walk(0x20_0000) is None
        with pytest.raises(TargetError, match="reserved"):
            b.write({"cr3": 0x6000})
        assert b.read("cr3") == 0x4000 and b.read("efer") == 0
        b.write({"cr0": 0x11})
        b.write({"efer": 0x100})
        assert b.read("efer") == 0x100
        b.write({"cr0": 0x8000_0011})
        assert b.read("efer") == 0x500 and "compat" in b.target.threads()[0].name
        b.write({"efer": 0x400})
        assert b.read("efer") == 0


# ---- memory ---------------------------------------------------------------------------------------------------------
def test_memory_ends_at_the_first_byte_that_is_none(tmp_path: Path) -> None:
    with bench(rom(tmp_path, "90")) as b:
        read = b.target.read_memory
        assert read(1, RESET, 16)[:5] == bytes.fromhex("ea000000f0") and len(read(1, RESET, 64)) == 16
        assert len(read(1, 0x9FFF0, 64)) == 16, "video memory is a device"
        assert read(1, 0xA0000, 4) == b"" and read(1, 1 << 32, 4) == b"" and len(read(1, (32 << 20) - 8, 64)) == 8
        with pytest.raises(TargetError, match="0xa0000"):
            b.target.write_memory(1, 0x9FFFE, b"1234")
        assert read(1, 0x9FFFE, 2) == b"\0\0"
        assert b.target.memory_map()[0] == MemoryRegion(0, START)


def test_reads_follow_the_page_tables_and_leave_no_trace() -> None:
    with bench(BENCHES / "paging_chase.bin") as b:
        break_at(b, symbol(BENCHES / "paging_chase.elf", "bench"))
        assert b.run() == BreakpointHit(1, SOFT)
        for _ in range(100):
            if b.read("cr0") >> 31:
                break
            b.step()
        before = b.machine.ram.tobytes()
        linear, directory = b.target.read_memory(1, b.read("rip"), 16), b.read("cr3")
        assert len(linear) == 16 and b.target.memory.walk(b.read("rip")) is not None
        b.target.set_physical_memory(True)
        assert b.target.physical_memory() and len(b.target.read_memory(1, directory, 8)) == 8
        b.target.set_physical_memory(False)
        assert b.machine.ram.tobytes() == before


def test_bytes_written_over_code_are_executed(tmp_path: Path) -> None:
    with bench(rom(tmp_path, "40 ebfd")) as b:  # inc ax; jmp back
        break_at(b, START)
        b.run()
        for _ in range(40):
            b.run()
        b.target.write_memory(1, START, b"\x48")  # dec ax
        ax = b.read("rax")
        b.run()
        assert b.read("rax") == (ax - 1) & 0xFFFF


# ---- steps ----------------------------------------------------------------------------------------------------------
def test_a_step_is_one_instruction(tmp_path: Path) -> None:
    with bench(rom(tmp_path, "b90300 f3aa f4")) as b:  # mov cx, 3; rep stosb; hlt
        seen = []
        for _ in range(6):
            assert b.step() == Stepped(1)
            seen.append((b.pc - START, b.read("rcx"), b.machine.vcpus[0].retired))
        assert seen[:5] == [(0, 0, 1), (3, 3, 2), (3, 2, 3), (3, 1, 4), (5, 0, 5)], "an iteration is a step"
        assert seen[5] == (6, 0, 6), "HLT is one"
        assert b.target.threads()[0].name == "CPU0 real16 halted"


def test_range_step(tmp_path: Path) -> None:
    with bench(rom(tmp_path, "90 40 83f805 75fa 90")) as b:  # nop; 1: inc ax; cmp ax, 5; jne 1b; nop
        b.step()
        assert b.range_step(START, START + 7) == Stepped(1)
        assert b.pc == START + 7 and b.read("rax") == 5


def test_interrupt_in_a_loop_in_hlt_and_in_a_storm_of_exits(tmp_path: Path) -> None:
    for code in (LOOP, "fb f4 ebfd", "fa f4", "e460 ebfc"):
        with bench(rom(tmp_path, code)) as b:
            for _ in range(5):
                b.go(Continue())
                b.target.interrupt()
                assert b.stop() == Interrupted(1)
                b.target.interrupt()
            with pytest.raises(queue.Empty):
                b.stops.get(timeout=0.05)


# ---- breakpoints ----------------------------------------------------------------------------------------------------
def test_breakpoints_are_exact_and_survive_a_reset(tmp_path: Path) -> None:
    with bench(rom(tmp_path, "90 90 40 ebfb")) as b:  # nop; 1: nop; inc ax; jmp 1b (to the second nop)
        break_at(b, START + 2)
        for n in range(100):
            assert b.run() == BreakpointHit(1, SOFT)
            assert (b.pc, b.read("rax")) == (START + 2, n)
        b.target.reset()
        assert b.pc == RESET and b.machine.vcpus[0].retired > 100
        assert b.run() == BreakpointHit(1, SOFT) and b.read("rax") == 0
        break_at(b, START + 2, START + 2, kind=HARD)
        b.target.remove_breakpoint(SOFT, START + 2, 1)
        assert b.run() == BreakpointHit(1, HARD)
        b.target.remove_breakpoint(HARD, START + 2, 1)
        b.go(Continue())
        with pytest.raises(queue.Empty):
            b.stops.get(timeout=0.1)
        b.target.interrupt()
        assert b.stop() == Interrupted(1)


def test_a_breakpoint_in_a_hot_loop_and_one_beside_it(tmp_path: Path) -> None:
    with bench(rom(tmp_path, "40 81f80080 75f9 43 31c0 ebf4")) as b:
        # 0: inc ax; cmp ax, 8000h; jne 0; inc bx; xor ax, ax; jmp 0
        break_at(b, START + 7)
        for n in range(3):
            assert b.run() == BreakpointHit(1, SOFT)
            assert (b.pc, b.read("rbx"), b.read("rax")) == (START + 7, n, 0x8000)
        break_at(b, START + 1)
        for n in range(3):
            assert b.run() == BreakpointHit(1, SOFT)
            assert (b.pc, b.read("rax")) == (START + 1, n + 1)


@pytest.mark.parametrize("off", ["stencils", "fuse", "dead_flags", "chain"])
def test_breakpoints_are_exact_with_each_option_off(off: str) -> None:
    """At random places of a program with calls, each stop is where a run without breakpoints passes at that count."""
    elf, image = BENCHES / "quicksort.elf", BENCHES / "quicksort.bin"
    with bench(image, engine=((off, False),)) as b, bench(image) as reference:
        start = symbol(elf, "bench")
        for each in (b, reference):
            break_at(each, start)
            assert each.run() == BreakpointHit(1, SOFT)
        places = []
        for _ in range(60):
            reference.step(7)
            places.append(reference.pc)
        break_at(b, *random.Random(1).sample(sorted(set(places)), min(12, len(set(places)))))
        chosen = set(b.target._points)
        reference.target.reset()
        assert reference.run() == BreakpointHit(1, SOFT)
        before = reference.machine.vcpus[0].retired - b.machine.vcpus[0].retired
        hits: list[tuple[int, int]] = []
        while len(hits) < 15:
            reference.step()
            if reference.pc in chosen:
                hits.append((reference.pc, reference.machine.vcpus[0].retired - before))
        for hit in hits:
            assert b.run() == BreakpointHit(1, SOFT)
            assert (b.pc, b.machine.vcpus[0].retired) == hit


def test_a_breakpoint_on_a_string_instruction_hits_once(tmp_path: Path) -> None:
    code = "b91000 f36c 40 ebf8"  # 0: mov cx, 16; rep insb; inc ax; jmp 0
    with bench(rom(tmp_path, "ba6000" + code)) as b:
        break_at(b, START + 6)
        for n in range(3):
            assert b.run() == BreakpointHit(1, SOFT)
            assert (b.read("rcx"), b.read("rax")) == (16, n)


def test_a_jump_to_a_breakpoint_stops_there_and_the_place_of_a_stop_does_not(tmp_path: Path) -> None:
    with bench(rom(tmp_path, "90 90 90 ebfe")) as b:
        b.step()
        break_at(b, START, START + 2)
        assert b.run() == BreakpointHit(1, SOFT) and b.pc == START + 2, "the stop before was at START"
        b.write({"rip": START})
        assert b.run() == BreakpointHit(1, SOFT) and b.pc == START


def test_a_step_passes_over_breakpoints(tmp_path: Path) -> None:
    with bench(rom(tmp_path, "90 90 90 ebfe")) as b:
        break_at(b, START, START + 1, START + 2)
        b.run()
        assert b.step() == Stepped(1) and b.pc == START + 1
        assert b.step() == Stepped(1) and b.pc == START + 2


def test_tens_of_thousands_of_breakpoints(tmp_path: Path) -> None:
    with bench(rom(tmp_path, "90 90 90 ebfb")) as b:
        others = range(0x1000, 0x1000 + 20_000)
        break_at(b, *reversed(others), START + 2, (1 << 64) - 1, HIGH, 0)
        break_at(b, HIGH, others[-1])
        for _ in range(3):
            assert b.run() == BreakpointHit(1, SOFT) and b.pc == START + 2


# ---- ends -----------------------------------------------------------------------------------------------------------
def test_the_end_of_the_machine_is_told_with_its_code(tmp_path: Path) -> None:
    with bench(rom(tmp_path, OUT_F4)) as b:
        stop = b.run()
        assert isinstance(stop, Exited) and stop.code == 0x21 << 1 | 1
        b.finish()
        with pytest.raises(TargetError, match="ended"):
            b.target.reset()


def test_kill(tmp_path: Path) -> None:
    with bench(rom(tmp_path, LOOP)) as b:
        b.step()
        b.target.kill()
        assert b.stop() == Exited(0)
        b.finish()


def test_an_error_of_the_engine_stops_with_a_signal(tmp_path: Path) -> None:
    def fail(due: int, end: int) -> tuple[int, ...]:
        raise EngineError("no room for another form")

    with bench(rom(tmp_path, LOOP)) as b:
        b.machine.vcpus[0].enter = fail
        stop = b.run()
        assert isinstance(stop, Signalled) and "INTERNAL_ERROR: no room for another form" in stop.message


def test_code_in_the_memory_of_a_device_is_stepped_through(tmp_path: Path) -> None:
    """Planar VGA memory, which is switched on by the miscellaneous output register and was cleared."""
    source = "ba c203 b0 03 ee ea 0000 00a0"  # mov dx, 3c2h; mov al, 3; out dx, al; jmp a000:0
    with bench(rom(tmp_path, source)) as b:
        b.step(5)
        assert b.pc == 0xA0000, "where zeros are `add [bx + si], al`"
        b.step()
        assert b.pc == 0xA0002
        break_at(b, 0xA0010)
        assert b.run() == BreakpointHit(1, SOFT) and b.pc == 0xA0010


def test_a_wrong_layout_and_a_bad_address(tmp_path: Path) -> None:
    with Machine(config(rom(tmp_path, LOOP))) as m:
        with pytest.raises(ConfigError, match="z80"):
            GdbTarget(m, "z80")
        for address in ("nowhere", "unix:/nonexistent/folder/socket"):
            with pytest.raises(ConfigError, match="--gdb"), serve(m, address):
                pass
        with serve(m, ":0") as first, pytest.raises(ConfigError, match="can't listen"), serve(m, str(first.address)):
            pass


def test_the_monitor(tmp_path: Path) -> None:
    with bench(rom(tmp_path, LOOP)) as b:
        said: list[str] = []
        b.target.monitor("help", said.append)
        b.target.monitor("info registers", said.append)
        assert "reset" in said[0] and "pc [raw|linear]" in said[0] and "EAX=" in said[1]
        with pytest.raises(TargetError, match="unknown command"):
            b.target.monitor("dance", said.append)


def test_the_tables_in_words() -> None:
    with bench(BENCHES / "paging_chase.bin") as b:

        def ask(command: str) -> str:
            said: list[str] = []
            b.target.monitor(command, said.append)
            return "".join(said)

        b.target.write_memory(1, 4 * 8, bytes.fromhex("3412 00f0"))
        assert "08: f000:1234" in ask("idt") and ask("ldt") == "there is no LDT\n"
        assert ask("pagewalk 0x1234") == "linear 00001234\npaging is off\nphysical 00001234\n"
        break_at(b, symbol(BENCHES / "paging_chase.elf", "bench"))
        b.run()
        while not b.read("cr0") >> 31:
            b.step()
        assert "32-bit code, readable, base 00000000, limit ffffffff, dpl 0" in ask("gdt")
        walk = ask(f"pagewalk {b.pc:#x}")
        assert "PDE at" in walk and walk.endswith(f"physical {b.target.memory.walk(b.pc):08x}\n")
        for wrong in ("pagewalk", "pagewalk x", "pagewalk 1 2", "pagewalk -1", "pc up"):
            with pytest.raises(TargetError, match=r"^(write )?p"):
                ask(wrong)
        assert "reset vector" in ask("reset") and b.pc == RESET


def test_steps_without_interrupts(tmp_path: Path) -> None:
    with bench(rom(tmp_path, "fb 90 90 ebfe")) as b:  # sti; nop; nop; jmp $
        assert b.target.step_flags() == 1 and b.target.supported_step_flags() == 7
        b.step(4)
        apic = b.machine.vcpus[0].apic
        assert isinstance(apic, LocalApic)
        apic.page[SVR >> 4] = 0x1FF
        apic.request(0x40, level=False)
        b.target.set_step_flags(3)
        b.step(5)
        assert b.pc == START + 3
        b.target.set_step_flags(1)
        b.step()
        assert b.pc >> 16 == 0, "in the handler"


def test_steps_without_timers(tmp_path: Path) -> None:
    """Their time passes, and they fire when the guest goes on; a range step is one, too."""
    fired: list[int] = []
    with bench(rom(tmp_path, "90 90 ebfc")) as b:  # nop; nop; jmp START
        b.step()
        clock = b.machine.clock
        timer = clock.timer("test", lambda: fired.append(clock.now_ns))
        timer.arm(clock.now_ns + 3)
        b.target.set_step_flags(5)
        b.step(10)
        b.range_step(START, START + 2)
        assert not fired and timer.deadline is not None and clock.now_ns > timer.deadline
        b.target.set_step_flags(1)
        b.step()
        assert len(fired) == 1
        timer.arm(clock.now_ns + 3)
        b.target.set_step_flags(5)
        b.step(10)
        b.target.insert_breakpoint(SOFT, START + 1, 1)
        assert b.run() == BreakpointHit(1, SOFT) and len(fired) == 2, "continue is no step"


# ---- the same run ---------------------------------------------------------------------------------------------------
def counted(machine: Machine) -> dict[str, Any]:
    found = fingerprint(machine)
    found["exits"] = [e for e in found["exits"] if e[0] not in ENTRY_EXITS]
    return found


@pytest.mark.parametrize("name", ["halt_timer", "port_storm", "smc_check"])
def test_a_debugged_run_is_the_same_run(name: str) -> None:
    with Machine(config(GUESTS / f"{name}.bin")) as m:
        m.run()
        expected = counted(m)
    with bench(GUESTS / f"{name}.bin") as b:
        b.step(300)
        here = b.pc
        break_at(b, here)
        for n in range(20):
            stop = b.run()
            if isinstance(stop, Exited):
                break
            b.step(n + 1)
        b.target.remove_breakpoint(SOFT, here, 1)
        while not isinstance(stop, Exited):
            stop = b.run()
        b.finish()
        assert counted(b.machine) == expected


def test_steps_alone_are_counted(tmp_path: Path) -> None:
    with bench(rom(tmp_path, LOOP)) as b:
        b.step(50)
        assert b.machine.vcpus[0].retired == 50
        b.go(Step())
        assert b.stop() == Stepped(1)
