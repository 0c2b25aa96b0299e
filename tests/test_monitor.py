"""The monitor's commands on a machine without gdb, and what they say while gdb holds it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gdbstub.errors import TargetError
from gdbstub.stop import BreakpointKind
from jitvm.errors import ConfigError
from jitvm.machine import Machine
from tests.boot.guests import BIOS, GOOD, IMAGES, config, disk, rom
from tests.gdb.bench import bench, symbol

PATIENCE_S = 30.0
COUNTER = "40 ebfd"
"""inc ax; jmp back"""
ISSUED = (
    "help regs gdt idt ldt pagewalk xp mem irq devices stats reset pc step catch watch checkpoint screen quit stop cont"
)
Ask = Callable[[str], str]


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


class Guest:
    """A machine that runs in the background, stopped at its first instruction."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.ask = machine, machine.monitor.command
        self.told: list[str] = []
        machine.monitor.tell = self.told.append
        machine.start()

    def cont(self) -> str:
        """Go on to where the machine stops by itself; what it tells."""
        self.machine.monitor.context.stops.stopped.clear()
        assert self.ask("cont") == ""
        assert self.machine.monitor.context.stops.stopped.wait(PATIENCE_S)
        return self.told[-1]


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Callable[..., Guest]]:
    made: list[Machine] = []

    def make(code: str | Path, **more: object) -> Guest:
        image = code if isinstance(code, Path) else rom(tmp_path, code)
        made.append(Machine(config(image, start_paused=True, **more)))
        return Guest(made[-1])

    yield make
    for machine in made:
        machine.quit()
        machine.close()


# ---- help -----------------------------------------------------------------------------------------------------------
def test_every_command_has_help(guest: Callable[..., Guest]) -> None:
    ask = guest(COUNTER).ask
    lines = ask("help").split("\n")
    for name in ISSUED.split():
        assert any(re.match(rf"{name}\b", line) for line in lines), name
        said = ask(f"help {name}").split("\n")
        assert said[0].startswith(name) and len(said) >= 2 and said[1].startswith("  ")
    assert ask("help system_reset").startswith("reset") and ask("?") == ask("help")
    with pytest.raises(ConfigError, match="known: help"):
        ask("help dance")


def test_mistakes_say_what_to_write(guest: Callable[..., Guest]) -> None:
    ask = guest(COUNTER).ask
    for line, words in (
        ("dance", "unknown command 'dance'"), ("regs now", "no argument"), ("pc sideways", "pc raw"), ("step 0", "step"),
        ("step many", "'many'"), ("step 1 2", "write step"), ("pagewalk", "pagewalk ADDRESS"), ("pagewalk 1 2", "ADDRESS"),
        ("pagewalk 0x100000000", "4 GiB"), ("x", "ADDRESS"), ("x/4q 0", "ADDRESS"), ("x/4xw 0 4", "ADDRESS"),
        ("xp 0 70000", "bytes"), ("x 0xa0000", "no memory"), ("catch storms", "none of de"), ("catch int", "none of"),
        ("catch int 256", "0xff"), ("catch pf 1", "none of"), ("catch delete pf", "not caught"), ("watch 0", "write watch"),
        ("watch 0 0", "range"), ("watch 0 4 sometimes", "write watch"), ("watch delete", "delete N"),
        ("watch delete 1", "no number 1"), ("checkpoint save", "checkpoint save NAME"), ("checkpoint keep x", "NAME"),
        ("checkpoint restore x", "none called x"), ("devices toaster", "no chip 'toaster'"), ("screen 2", "no argument"),
        ("irq 1", "no argument"), ("mem all", "no argument"), ("info", "write info"), ("info weather", "write info"),
        ("watch phys", "write watch"), ("watch write", "write watch"), ("idt 3", "idt takes no argument"),
        ("gdt 99", "no argument"), ("ldt/x", "no argument"), ("stats x", "no argument"), ("reset now", "no argument"),
        ("quit now", "no argument"), ("status 1", "no argument"), ("stop 1", "no argument"), ("cont 1", "no argument"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=re.escape(words)):
            ask(line)


# ---- looking --------------------------------------------------------------------------------------------------------
def test_registers_and_the_program_counter(guest: Callable[..., Guest]) -> None:
    ask = guest(BIOS).ask
    assert ask("regs").startswith("CPU0 real16\nEAX=00000000") and "CS  =f000 ffff0000" in ask("info registers")
    assert ask("pc") == "pc is linear; CS:IP (linear): f000:0000fff0 (fffffff0)"
    assert ask("pc raw").startswith("pc is raw;") and ask("pc linear").startswith("pc is linear;")
    ask("step 200000")
    assert re.search(r"\(000f\w{4} \w+", ask("pc")), "the embedded firmware's symbols are known"


def test_tables_and_the_page_walk(guest: Callable[..., Guest]) -> None:
    g = guest(IMAGES / "bench" / "paging_chase.bin")
    assert g.ask("pagewalk 0xf0000") == "linear 000f0000\npaging is off\nphysical 000f0000"
    assert g.ask("idt").startswith("IDT at 00000000, limit ffff") and g.ask("ldt") == "there is no LDT"
    g.ask("catch cr3")
    g.cont()
    while not g.machine.registers()["cr0"] >> 31:
        g.ask("step")
    assert re.search(r"0008: 32-bit code, readable, base 00000000, limit ffffffff, dpl 0", g.ask("gdt"))
    walk = g.ask("pagewalk 0x1234").split("\n")
    assert walk[0] == "linear 00001234" and walk[1].startswith("PDE at ") and walk[-1].startswith("physical ")


def test_memory(guest: Callable[..., Guest]) -> None:
    ask = guest("b8 3412 ebfe 4869").ask
    assert ask("x 0xf0000 5").startswith("000f0000: b8 34 12 eb fe") and ask("xp 0xf0005 2").endswith(" Hi")
    assert ask("x/2xh 0xf0000") == "000f0000: 0x34b8 0xeb12" and ask("xp/1dw 0xf0001") == "000f0001: -18148812"
    assert ask("x/2c 0xf0005") == "000f0005: 'H' 'i'"
    code = ask("x/2i 0xf0000").split("\n")
    assert code[0].startswith("000f0000: b8 34 12 ") and code[0].endswith(" mov ax,1234h") and "jmp short" in code[1]
    assert ask("xp 0xa0000 4").startswith("000a0000: ff ff ff ff")
    assert ask("x 0x9fffe 4").endswith("\n000a0000: no memory")
    assert "00000000-0009ffff RAM rw" in ask("mem") and "BIOS ro" in ask("mem")


def test_symbols_are_addresses(guest: Callable[..., Guest]) -> None:
    ask = guest(BIOS).ask
    boot = 0xF0000 + symbol(BIOS.with_suffix(".elf"), "boot")
    assert ask("x/1i boot").startswith(f"{boot:08x} <boot>: ")
    assert ask("pagewalk boot+0x10").endswith(f"physical {boot + 16:08x}")
    with pytest.raises(ConfigError, match="'nobody' is not a number"):
        ask("x nobody")


def test_devices_with_ranges_wires_and_state(guest: Callable[..., Guest]) -> None:
    g = guest(BIOS)
    g.machine.resume()
    until(lambda: b"No bootable device, p" in g.machine.serial_output() or g.machine.result is not None)
    said = g.ask("devices")
    assert re.search(r"\n  pit\n    ports 0040-0043\n    IRQ 0( high)?\n    \S", said)
    assert re.search(r"02\.0 vga 1234:1111\n(    .*\n)*    MMIO 000a0000-000bffff vga window", said)
    assert "memory e0000000-e0ffffff vga.vram" in said and "ports 0600-063f piix4_pm.pm" in said
    names = [device.name for device in g.machine.board.devices()]
    owners = {place[4] for place in g.machine.board.ranges()} | {wire.owner for wire in g.machine.board.wires}
    assert owners <= set(names), "every range and wire belongs to a chip"
    assert all(re.search(rf"\b{re.escape(name)}\b", said) for name in names)
    assert "divisor=1" in g.ask("devices com1") and "fifo=" in g.ask("devices com1")
    assert re.search(r"master: irr [01]{8} isr", g.ask("irq")) and "\nhigh: " in g.ask("irq")
    assert g.ask("screen").split("\n")[-1].startswith("No bootable device")


def test_apics_in_words(guest: Callable[..., Guest]) -> None:
    """What a kernel with APICs has set up, of each CPU; masked entries are left out."""
    g = guest(COUNTER, smp=2)
    board = g.machine.board
    first, second = board.apic_bus.locals
    assert board.ioapic is not None
    assert "lapic0: disabled (SVR), tpr 00, irr none isr none\n  lint0 ExtINT edge\n" in g.ask("irq"), (
        "as reset leaves it"
    )
    with g.machine.lock:
        first.write(0xF0, 4, 0x1FF)
        first.write(0x320, 4, 0x200EC)
        first.irr, first.isr = 1 << 0xEC | 1 << 0x31, 1 << 0x40
        second.enabled = False
        board.ioapic.entries[4] = 0x0100_0000_0000_A931
    lines = g.ask("irq").split("\n")
    assert lines[2:] == [
        "ioapic pin 4: vector 31 level to logical 01",
        "lapic0: on, tpr 00, irr 31,ec isr 40",
        "  timer vector ec edge, lint0 ExtINT edge",
        "lapic1: off, tpr 00, irr none isr none",
        "high: none",
    ]


def test_an_empty_screen(guest: Callable[..., Guest]) -> None:
    assert guest(COUNTER).ask("screen") == "(the screen shows no text)"


# ---- steps ----------------------------------------------------------------------------------------------------------
def test_steps(guest: Callable[..., Guest]) -> None:
    g = guest(COUNTER)
    assert g.ask("step").split("\n")[0] == "f000:00000000 (000f0000)"
    assert g.ask("step 2").split("\n")[0] == "f000:00000000 (000f0000)"
    assert g.machine.vcpus[0].retired == 3 and g.machine.registers()["eax"] == 1
    assert g.ask("status").startswith("paused")
    g.ask("cont")
    until(lambda: g.machine.vcpus[0].retired > 1000)
    with pytest.raises(ConfigError, match="stop it first"):
        g.ask("step")
    g.ask("stop")
    before = g.machine.vcpus[0].retired
    g.ask("step 1000")
    assert g.machine.vcpus[0].retired == before + 1000


def test_a_step_into_an_exception_ends_at_its_handler(guest: Callable[..., Guest]) -> None:
    g = guest("c7061800 4000 c7061a00 00f0 0f0b")
    g.ask("step 3")
    assert g.ask("step").split("\n")[0] == "f000:00000040 (000f0040)"


def test_a_step_that_ends_the_machine(guest: Callable[..., Guest]) -> None:
    g = guest("fa f4")
    g.ask("step 3")
    until(lambda: g.machine.result is not None or not g.machine.gate.held or g.ask("cont") != "")
    until(lambda: g.machine.result is not None)
    with pytest.raises(ConfigError, match="does not run"):
        g.ask("step")


# ---- catch and watch ------------------------------------------------------------------------------------------------
def test_catch_tells_vector_error_and_cr2_in_words(guest: Callable[..., Guest]) -> None:
    g = guest("66b8 01000080 0f22c0")  # paging without tables
    assert g.ask("catch") == "nothing is caught"
    assert g.ask("catch pf") == "caught from now on: #PF page fault"
    assert g.ask("catch triple") == "caught from now on: triple" and g.ask("catch list") == "pf\ntriple"
    said = g.cont()
    assert "#PF page fault, error 0000 (page not present, read, supervisor), CR2 000f0009" in said
    assert g.ask("status").startswith("paused")
    while "triple" not in said:
        said = g.cont()
    assert "#PF" in said and g.machine.result is None, "before the machine resets"
    assert g.ask("catch delete all") == "nothing is caught"


@pytest.mark.parametrize(("what", "code", "words"), [
    ("ud", "90 0f0b", "#UD invalid opcode"), ("int 0x21", "90 cd21", "INT 21h"), ("any", "cd10", "INT 10h"),
    ("cr3", "66b8 00300000 0f22d8", "0x3000 is about to be loaded into CR3"), ("de", "31db f7f3", "#DE divide error"),
    ("msr", "66b9 74010000 0f32", "MSR 0x174 is about to be read"), ("msr 0x174", "66b9 74010000 0f30", "MSR 0x174"),
])  # fmt: skip
def test_what_can_be_caught(guest: Callable[..., Guest], what: str, code: str, words: str) -> None:
    g = guest(code)
    g.ask(f"catch {what}")
    assert words in g.cont()
    g.ask("catch delete")
    g.ask("step")


def test_what_a_wider_catch_covered_is_caught_after_it(guest: Callable[..., Guest]) -> None:
    g = guest("cd33 0f0b")
    g.ask("catch ud")
    g.ask("catch any")
    g.ask("catch delete any")
    g.machine.write_memory(0x33 * 4, bytes.fromhex("020000f0"))
    assert "#UD" in g.cont()


def test_watch(guest: Callable[..., Guest]) -> None:
    g = guest("b8 3412 a3 0030 8b1e 0030 a3 0230 ebf1")
    assert g.ask("watch phys 0x3000 2") == "1: phys 0x3000 2" and g.ask("watch 0x3000 1 read") == "2: 0x3000 1 read"
    assert "write access to physical 0x3000" in g.cont() and g.machine.registers()["eip"] == 6
    assert "read access to linear 0x3000" in g.cont() and g.machine.registers()["eip"] == 10
    assert g.ask("watch delete 1") == "1: 0x3000 1 read"
    assert "read access" in g.cont() and "read access" in g.cont()
    assert g.ask("watch delete all") == "nothing is watched"
    before = g.machine.vcpus[0].retired
    g.ask("cont")
    until(lambda: g.machine.vcpus[0].retired > before + 1000)


def test_a_watch_that_was_set_twice(guest: Callable[..., Guest]) -> None:
    g = guest("b8 3412 a3 0030 ebf8")
    for _ in range(2):
        g.ask("watch 0x3000 1")
    g.ask("watch delete 2")
    assert "0x3000" in g.cont()


# ---- the run --------------------------------------------------------------------------------------------------------
def test_checkpoints_by_name() -> None:
    with Machine(config(BIOS, drives=disk("bootsect"))) as m:
        ask = m.monitor.command
        assert ask("checkpoint") == "there are no checkpoints"
        m.run(100_000)
        assert ask("checkpoint save early") == "early: saved after 100000 instructions"
        assert m.run().code == GOOD
        end = m.vcpus[0].retired
        ask("checkpoint save late")
        assert re.fullmatch(r"early: 100000 instructions, .* MiB of memory\nlate: .*", ask("checkpoint list"))
        assert ask("checkpoint restore early") == "early: back after 100000 instructions"
        assert m.vcpus[0].retired == 100_000 and m.run().code == GOOD and m.vcpus[0].retired == end
        assert ask("checkpoint delete early") == "early: deleted"
        with pytest.raises(ConfigError, match="none called early; there are late"):
            ask("checkpoint restore early")


def test_a_checkpoint_under_catches(guest: Callable[..., Guest]) -> None:
    g = guest("c7061800 4000 c7061a00 00f0 90 0f0b")
    g.ask("step 3")
    g.ask("checkpoint save a")
    g.ask("catch ud")
    for _ in range(3):
        assert "#UD" in g.cont() and g.machine.vcpus[0].retired == 4
        g.ask("checkpoint restore a")
        assert g.machine.vcpus[0].retired == 3 and g.ask("status").startswith("paused")


def test_a_disk_image_is_not_in_a_checkpoint_and_that_is_said(tmp_path: Path) -> None:
    from jitvm.config import DriveConfig

    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with Machine(config(BIOS, drives=(DriveConfig(str(image)),))) as m:
        assert m.monitor.command("checkpoint save a").endswith(f"not in it: what the guest writes to {image}")


def test_stop_cont_reset_and_quit(guest: Callable[..., Guest]) -> None:
    g = guest(COUNTER)
    assert g.ask("cont") == "" and g.ask("status").startswith("running")
    until(lambda: g.machine.vcpus[0].retired > 1000)
    assert g.ask("stop") == "" and g.ask("status").startswith("paused")
    assert g.ask("reset") == "" and g.ask("cont") == "" and "retired" in g.ask("stats")
    assert g.ask("quit") == ""
    assert g.machine.wait().reason == "quit" and g.ask("status").startswith("ended")


# ---- gdb ------------------------------------------------------------------------------------------------------------
def test_while_gdb_holds_the_machine(tmp_path: Path) -> None:
    with bench(rom(tmp_path, COUNTER)) as b:
        ask = b.machine.monitor.command
        assert ask("status").startswith("held by gdb") and ask("stop") == "gdb holds the machine already"
        for line, words in (("cont", "continue"), ("step", "stepi"), ("reset", "monitor reset")):
            with pytest.raises(ConfigError, match=f"gdb holds the machine; .*{words}"):
                ask(line)
        assert b.step() and "CS  =f000" in ask("regs") and ask("status").startswith("held by gdb")
        assert b.machine.vcpus[0].retired == 1, "nothing let it go"


def test_steps_through_gdb_are_not_told_as_stops(tmp_path: Path) -> None:
    with bench(rom(tmp_path, "90 0f0b 90")) as b:
        said: list[str] = []
        b.target.monitor("step 2", said.append)
        assert b.pc == 0xF0001 and "f000:00000001" in said[-1] and b.stops.empty()
        b.target.monitor("catch ud", said.append)
        b.target.monitor("step", said.append)
        assert said[-1].startswith("vector 6 is about to be delivered: #UD") and b.pc == 0xF0001 and b.stops.empty()
        assert b.step() and b.stops.empty(), "the next stop is the client's again"


def test_the_monitor_through_gdb(tmp_path: Path) -> None:
    with bench(rom(tmp_path, COUNTER)) as b:
        said: list[str] = []
        for line in ("help", "pc raw", "gdt", "checkpoint save a", "catch ud", "screen"):
            b.target.monitor(line, said.append)
        assert "checkpoint save" in said[0] and "pc is raw" in said[1] and b.target.registers.raw
        assert said[0].count("\npagewalk ") == 1 and said[0].count("\nreset ") == 1
        with pytest.raises(TargetError, match="unknown command"):
            b.target.monitor("dance", said.append)
        b.step(3)
        b.target.monitor("checkpoint restore a", said.append)
        assert "maintenance flush register-cache" in said[-1]
        b.target.monitor("pc linear", said.append)
        assert b.pc == 0xFFFFFFF0 and not b.target.registers.raw


def test_what_gdb_catches_and_watches_goes_with_it(tmp_path: Path) -> None:
    """What the console has set stays, also where both have set the same."""
    with bench(rom(tmp_path, COUNTER)) as b:
        ask, c = b.machine.monitor.command, b.machine.vcpus[0].engine.c
        for line in ("catch ud", "catch cr3", "watch 0x600 4", "watch phys 0x700 2 access"):
            b.target.monitor(line, lambda text: None)
        for line in ("catch gp", "catch cr3", "watch 0x600 4", "watch 0x900 1"):
            ask(line)
        b.target.monitor("catch gp", lambda text: None)
        assert ask("catch list").split() == ["ud", "cr3", "gp"] and len(ask("watch list").splitlines()) == 4
        assert (int(c.n_catch), int(c.n_points)) == (4, 3), "MOV CR3 counts as two"
        b.target.client_left()
        assert ask("catch list").split() == ["cr3", "gp"]
        assert ask("watch list").splitlines() == ["1: 0x600 4", "2: 0x900 1"]
        assert (int(c.n_catch), int(c.n_points)) == (3, 2)


def test_the_console_s_choice_of_pc_is_gdb_s(tmp_path: Path) -> None:
    with bench(rom(tmp_path, COUNTER)) as b:
        b.machine.monitor.command("pc raw")
        b.step()
        assert b.read("rip") == 0 and b.pc == 0xF0000


def test_a_breakpoint_where_a_restored_machine_stood(tmp_path: Path) -> None:
    with bench(rom(tmp_path, COUNTER)) as b:
        b.step()
        b.target.monitor("checkpoint save a", lambda text: None)
        b.target.insert_breakpoint(BreakpointKind.SOFTWARE, 0xF0001, 1)
        b.run()
        assert b.pc == 0xF0001
        b.target.monitor("checkpoint restore a", lambda text: None)
        assert b.pc == 0xF0000
        b.run()
        assert b.pc == 0xF0001 and b.machine.vcpus[0].retired == 2
