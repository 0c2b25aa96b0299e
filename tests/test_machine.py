"""The machine and its Python API, driven by our guests and by ROMs of a few bytes."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jitvm.backends.chardev import MemoryBackend
from jitvm.board import VGA_ROM_PATHS
from jitvm.config import DriveConfig
from jitvm.errors import BackendError, ConfigError, ImageError, JitvmError
from jitvm.machine import RTC_BASE, Machine
from jitvm.observe import Watchers
from jitvm.run_result import RunResult
from tests.boot.guests import (
    BIOS,
    DEBUG_EXIT,
    GOOD,
    GUESTS,
    config,
    debug_output,
    disk,
    fingerprint,
    need,
    rom,
    serial,
)
from tests.fast_set import share

LOOP = "ebfe"
"""jmp $"""
HANG = "fa f4"
"""cli; hlt"""
TO_RAM = "ea 0010 0000"
"""jmp 0000:1000"""
OUT_F4 = "b0 21 e6 f4"
"""mov al, 21h; out 0F4h, al"""


def let_run(m: Machine, n: int) -> None:
    """Wait until a machine that runs has retired more than `n` instructions."""
    while True:
        with m.standing():
            if m.vcpus[0].retired > n:
                return


# ---- guests ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("hello", "hello from the ROM\n"),
        ("halt_timer", "tick tick tick tick tick halt-with-timer ok\n"),
        ("port_storm", "port storm ok\n"),
        ("mmio_storm", "mmio storm ok\n"),
        ("smc_check", "smc self-check ok\n"),
        ("triple_fault", "triple fault now\nreset by triple fault\n"),
    ],
)
def test_rom_guest(name: str, output: str) -> None:
    with Machine(config(GUESTS / f"{name}.bin")) as m:
        assert m.run() == RunResult("debug-exit", 1, "the guest left through isa-debug-exit with status 1")
        assert serial(m) == output
        assert debug_output(m).endswith(output)


def test_our_firmware_tests_the_board_and_powers_off() -> None:
    with Machine(config(BIOS, drives=disk("keys"), boot="d")) as m:
        # the disk is there for the IDE tests; what it boots waits for a key
        for _ in range(400):
            m.run(100_000)
            if "Booting from disk" in serial(m):
                break
        text = serial(m)
        assert text.startswith("jitvm BIOS")
        assert "FAIL" not in text and "absent" not in text
        assert "self-test: 36 passed, 0 failed" in text
        assert "Booting from disk 80." in text


def test_without_a_disk_our_firmware_powers_off() -> None:
    with Machine(config(BIOS)) as m:
        assert m.run() == RunResult("poweroff", 0, "the guest powered off")
        assert serial(m).endswith("No bootable device, powering off.\n")
        assert any("self-test: 33 passed, 0 failed" in line for line in m.screen_text()) == bool(m.board.parts.vga_rom)
        assert m.run() == m.result, "a machine that is off stays off"


@pytest.mark.parametrize("name", share(["bootsect", "services", "diskwrite"], 1))
def test_boot_sector_guest_on_our_firmware(name: str) -> None:
    with Machine(config(BIOS, drives=disk(name))) as m:
        result = m.run()
        assert (result.reason, result.code) == ("debug-exit", GOOD), debug_output(m)


def test_disk_writes_reach_the_image(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes((GUESTS / "diskwrite.img").read_bytes())
    with Machine(config(BIOS, drives=(DriveConfig(str(image)),))) as m:
        assert m.run().code == GOOD
    assert image.read_bytes()[40 * 512 : 41 * 512] == b"W" * 512


# ---- counts and reproducibility -------------------------------------------------------------------------------------
def test_a_run_is_the_same_in_one_piece_and_in_many() -> None:
    with Machine(config(GUESTS / "halt_timer.bin")) as m:
        m.run()
        whole = fingerprint(m)
    with Machine(config(GUESTS / "halt_timer.bin")) as m:
        n = 0
        while (result := m.run(7)).reason == "max-insns":
            n += 7
            assert m.vcpus[0].retired == n
        assert result.reason == "debug-exit"
        pieces = fingerprint(m)
    for key in ("retired", "virtual_ns", "registers", "ram"):
        assert pieces[key] == whole[key], key
    reasons = [[e for e in print_["exits"] if e[0] in (2, 6)] for print_ in (whole, pieces)]
    assert reasons[0] == reasons[1]


def test_kicks_lose_and_double_nothing() -> None:
    with Machine(config(GUESTS / "port_storm.bin")) as m:
        m.run()
        calm = fingerprint(m)
    with Machine(config(GUESTS / "port_storm.bin")) as m:
        m.start()
        while m.result is None:
            m.vcpus[0].kick()
        m.wait()
        stormy = fingerprint(m)
        assert debug_output(m) == "by rep outsb\nport storm ok\n"
    for key in ("retired", "virtual_ns", "registers", "ram"):
        assert stormy[key] == calm[key], key


def test_max_insns_of_the_config_is_exact(tmp_path: Path) -> None:
    with Machine(config(rom(tmp_path, LOOP), max_insns=123_457)) as m:
        assert m.run().reason == "max-insns"
        assert m.vcpus[0].retired == 123_457
        assert m.run().reason == "max-insns"
        assert m.vcpus[0].retired == 123_457


def test_the_clock_chip_starts_at_a_fixed_date(tmp_path: Path) -> None:
    read_year = "b0 09 e6 70 e4 71"
    with Machine(config(rom(tmp_path, read_year + LOOP))) as m:
        m.run(10)
        assert f"{m.registers()['eax'] & 0xFF:02x}" == f"{RTC_BASE:%y}"


# ---- ends -----------------------------------------------------------------------------------------------------------
def test_time_out(tmp_path: Path) -> None:
    with Machine(config(rom(tmp_path, LOOP), timeout_s=0.2)) as m:
        assert m.run() == RunResult("timeout", 0, "the time of 0.2 seconds is over")


def test_quit_from_another_thread(tmp_path: Path) -> None:
    with Machine(config(rom(tmp_path, LOOP))) as m:
        timer = threading.Timer(0.1, m.quit)
        timer.start()
        assert m.run().reason == "quit"
        assert m.run(10).reason == "max-insns", "the guest can go on"


def test_quit_before_a_run_is_not_lost(tmp_path: Path) -> None:
    with Machine(config(rom(tmp_path, LOOP))) as m:
        m.quit()
        assert m.run().reason == "quit"
        assert m.run(10).reason == "max-insns"


def test_quit_does_not_wait_for_the_lock(tmp_path: Path) -> None:
    with Machine(config(rom(tmp_path, LOOP))) as m:
        m.start()
        with m.lock:
            m.quit()
        assert m.wait().reason == "quit"


def test_a_cpu_that_nothing_wakes_ends_the_run(tmp_path: Path) -> None:
    with Machine(config(rom(tmp_path, HANG))) as m:
        result = m.run()
        assert result.reason == "shutdown"
        assert "halted with interrupts off" in result.message


def test_triple_fault_under_no_reboot() -> None:
    with Machine(config(GUESTS / "triple_fault.bin", no_reboot=True)) as m:
        result = m.run()
        assert result.reason == "shutdown" and result.message.startswith("triple fault at f000:")
        assert serial(m) == "triple fault now\n"


def test_an_error_of_a_backend_is_raised_by_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_self: MemoryBackend, _data: bytes) -> None:
        raise BackendError("the pipe is broken")

    monkeypatch.setattr(MemoryBackend, "write", broken)
    with Machine(config(GUESTS / "hello.bin")) as m, pytest.raises(BackendError, match="the pipe is broken"):
        m.run()


def test_a_closed_machine_does_not_run(tmp_path: Path) -> None:
    m = Machine(config(rom(tmp_path, LOOP)))
    m.close()
    m.close()
    with pytest.raises(ConfigError, match="closed"):
        m.run()


def test_runs_are_one_at_a_time(tmp_path: Path) -> None:
    with Machine(config(rom(tmp_path, LOOP))) as m:
        with pytest.raises(ConfigError, match="not run yet"):
            m.wait()
        m.start()
        with pytest.raises(ConfigError, match="runs already"):
            m.start()
        m.quit()
        m.wait()


def test_what_was_opened_is_given_back_when_building_fails(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 16))
    good = DriveConfig(str(image))
    for _ in range(2):  # a lock left behind would make the second error another one
        with pytest.raises(BackendError, match=r"missing\.img"):
            Machine(config(BIOS, drives=(good, DriveConfig(str(tmp_path / "missing.img"), index=1))))
    with Machine(config(BIOS, drives=(good,))):
        pass


def test_bad_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        Machine(config(tmp_path / "missing.bin"))
    with pytest.raises(BackendError, match="can't be written"):
        Machine(config(BIOS, trace="exit", trace_file=tmp_path / "no" / "trace.txt"))


def test_what_cannot_be_opened_is_told_before_anything_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object) -> None:
        raise AssertionError("the engine was started")

    monkeypatch.setattr(Watchers, "observed", start)
    path = tmp_path / "no" / "such"
    wrong: list[dict[str, Any]] = [
        {"serials": (f"file:{path}",)},
        {"debugcons": ((0x402, f"file:{path}"),)},
        {"drives": (DriveConfig(str(path)),)},
        {"kernel": path},
        {"bios": path},
    ]
    for options in wrong:
        with pytest.raises(JitvmError, match="such"):
            Machine(replace(config(BIOS), **options))


# ---- pause, reset ---------------------------------------------------------------------------------------------------
def test_pause_and_resume(tmp_path: Path) -> None:
    with Machine(config(rom(tmp_path, LOOP))) as m:
        m.start()
        m.pause()
        before = m.vcpus[0].retired
        time.sleep(0.05)
        assert m.vcpus[0].retired == before
        assert m.result is None
        m.resume()
        let_run(m, before)
        m.quit()
        assert m.wait().reason == "quit"


def test_start_paused(tmp_path: Path) -> None:
    with Machine(config(rom(tmp_path, "40" * 5 + LOOP), start_paused=True)) as m:
        m.start(5)
        with m.standing():
            assert m.vcpus[0].retired == 0
        m.resume()
        assert m.wait().reason == "max-insns"
        assert m.vcpus[0].retired == 5


RESETS = {
    "port 92h": "b0 01 e6 92",
    "port CF9h": "ba f9 0c b0 06 ee",
    "8042": "b0 fe e6 64",
}


@pytest.mark.parametrize("code", RESETS.values(), ids=RESETS)
def test_reset_by_the_guest(tmp_path: Path, code: str) -> None:
    # cmp byte [500h], 5Ah; je exit; mov byte [500h], 5Ah; PIC mask := 77h; reset; hang
    body = f"c6 06 00 05 5a b0 77 e6 21 {code} {HANG}"
    length = len(bytes.fromhex(body))
    program = f"80 3e 00 05 5a 74 {length:02x} {body} {OUT_F4} {LOOP}"
    with Machine(config(rom(tmp_path, program))) as m:
        assert m.run().code == 0x43
        assert m.board.ports.read(0x21, 1) != 0x77, "the chips were reset"
        assert m.ram[0x500] == 0x5A, "RAM keeps its contents"
    with Machine(config(rom(tmp_path, program), no_reboot=True)) as m:
        result = m.run()
        assert result.reason == "poweroff" and "--no-reboot" in result.message


def test_reset_button_and_power_on_again() -> None:
    with Machine(config(GUESTS / "hello.bin")) as m:
        m.run(100)
        m.reset()
        assert m.run().reason == "debug-exit"
        assert serial(m).endswith("hello from the ROM\n")
    with Machine(config(BIOS)) as m:
        assert m.run().reason == "poweroff"
        first = serial(m)
        m.reset()
        assert m.run().reason == "poweroff"
        assert serial(m) == first * 2


@pytest.mark.parametrize("model", ["486", "pentiumpro", "max"])
def test_edx_tells_the_signature_after_a_reset_and_after_init(model: str) -> None:
    # SDM vol. 3, table 10-1: EDX has the component's identification
    with Machine(config(GUESTS / "hello.bin", cpu=model)) as m:
        (row,) = (r for r in m.vcpus[0].engine.c.cpuid[:252].reshape(42, 6).tolist() if r[0] == 1)
        signature = row[2]
        assert signature and m.registers()["edx"] == signature
        m.set_registers({"edx": 0})
        m.reset()
        assert m.registers()["edx"] == signature
        m.set_registers({"edx": 0, "eax": 1})
        m.vcpus[0].engine.init(park=False)
        assert (m.registers()["eax"], m.registers()["edx"]) == (0, signature)


# ---- memory ---------------------------------------------------------------------------------------------------------
def pci_write(m: Machine, devfn: int, register: int, size: int, value: int) -> None:
    m.board.ports.write(0xCF8, 4, 1 << 31 | devfn << 8 | register & ~3)
    m.board.ports.write(0xCFC + (register & 3), size, value)


def test_bios_is_at_the_top_and_below_1_mib(tmp_path: Path) -> None:
    path = rom(tmp_path, LOOP)
    with Machine(config(path)) as m:
        assert m.read_memory(0xFFFF_0000, 16) == m.read_memory(0xF_0000, 16) == path.read_bytes()[:16]
        assert m.read_memory(0xE_FFF0, 4) == b"\xff" * 4, "a 64 KiB image leaves the E segment empty"


def test_rom_writes_are_dropped_and_traced(tmp_path: Path) -> None:
    store = "b8 00 f0 8e d8 c6 06 00 20 11"  # mov ax, F000h; mov ds, ax; mov byte [2000h], 11h
    with Machine(config(rom(tmp_path, store + LOOP))) as m:
        seen: list[object] = []
        m.trace.listeners.append(lambda event, f: seen.append((f["address"], f["value"])) if "write" in event else None)
        m.run(10)
        assert seen == [(0xF_2000, 0x11)]
        assert m.read_memory(0xF_2000, 1) == b"\xf4"


def test_pam_shadows_the_rom_and_reset_brings_it_back(tmp_path: Path) -> None:
    with Machine(config(rom(tmp_path, LOOP))) as m:
        pci_write(m, 0, 0x59, 1, 0x20)  # PAM0: writes of F0000h-FFFFFh to RAM
        m.write_memory(0xF_1234, b"shadow")
        assert m.read_memory(0xF_1234, 6) == b"\xf4" * 6
        pci_write(m, 0, 0x59, 1, 0x10)  # reads from RAM, writes nowhere
        assert m.read_memory(0xF_1234, 6) == b"shadow"
        m.write_memory(0xF_1234, b"gone")
        assert m.read_memory(0xF_1234, 6) == b"shadow"
        m.reset()
        assert m.read_memory(0xF_1234, 6) == b"\xf4" * 6
        assert bytes(m.ram[0xF_1234:0xF_123A]) == b"shadow"


def test_a20_gate(tmp_path: Path) -> None:
    # mov ax, FFFFh; mov ds, ax; A20 off; mov byte [0010h], 22h; A20 on; mov byte [0011h], 33h
    program = "b8 ff ff 8e d8 b0 00 e6 92 c6 06 10 00 22 b0 02 e6 92 c6 06 11 00 33"
    with Machine(config(rom(tmp_path, program + LOOP))) as m:
        m.run(20)
        assert m.ram[0] == 0x22 and m.ram[0x10_0000] == 0
        assert m.ram[1] == 0 and m.ram[0x10_0001] == 0x33


def test_text_screen_is_memory() -> None:
    need(VGA_ROM_PATHS[0])
    with Machine(config(BIOS)) as m:
        m.run()
        assert not any(page.startswith("0xb8") for page in m.stats()["mmio"])
        assert ("VGA text rw") in {what for _, _, what in m.board.memory_map()}


def test_windows_on_top_of_others_do_no_harm(tmp_path: Path) -> None:
    with Machine(config(rom(tmp_path, LOOP))) as m:
        events: list[str] = []
        m.trace.listeners.append(lambda event, _fields: events.append(event))
        ide, vga = 1 << 3 | 1, 2 << 3
        pci_write(m, ide, 0x20, 4, 0x60)  # the bus master on the keyboard controller's ports
        pci_write(m, ide, 0x04, 2, 5)
        assert "guest_error" in events
        pci_write(m, ide, 0x20, 4, 0xC000)
        assert m.board.ports.find(0xC000) is not None
        events.clear()
        pci_write(m, vga, 0x10, 4, 0x0100_0000)  # the framebuffer on RAM
        pci_write(m, vga, 0x04, 2, 2)
        assert "guest_error" in events
        m.write_memory(0x0100_0000, b"RAM")
        assert bytes(m.ram[0x0100_0000:0x0100_0003]) == b"RAM"
        pci_write(m, vga, 0x10, 4, 0xE000_0000)
        m.write_memory(0xE000_0000, b"pixels")
        assert m.board.vga.memory.vram[:6].tobytes() == b"pixels"
        m.reset()
        assert m.read_memory(0xE000_0000, 2) == b"\xff\xff"


@pytest.mark.parametrize("mib", [1, 16, 128, 3072])
def test_cmos_tells_the_memory_size(tmp_path: Path, mib: int) -> None:
    with Machine(config(rom(tmp_path, LOOP), memory=mib << 20)) as m:

        def cmos(index: int) -> int:
            m.board.ports.write(0x70, 1, index)
            return m.board.ports.read(0x71, 1)

        assert cmos(0x15) | cmos(0x16) << 8 == 640
        assert cmos(0x17) | cmos(0x18) << 8 == min((mib - 1) << 10, 0xFFFF)
        assert cmos(0x34) | cmos(0x35) << 8 == max(mib - 16, 0) << 4
        assert (cmos(0x3D), cmos(0x38)) == (0x12, 0x30)


# ---- looking and touching -------------------------------------------------------------------------------------------
def test_registers_and_memory(tmp_path: Path) -> None:
    with Machine(config(rom(tmp_path, TO_RAM))) as m:
        m.write_memory(0x1000, bytes.fromhex("40 ebfd"))  # inc ax; jmp back
        m.run(2 + 2 * 50)
        assert m.registers()["eax"] == 50
        assert (m.registers()["cs"], m.registers()["eip"]) == (0, 0x1000)
        m.set_registers({"eax": 0x1234_FFFF, "eflags": 1})
        m.run(1)
        assert m.registers()["eax"] == 0x1234_0000
        assert m.registers()["eflags"] & 1, "INC leaves CF alone"
        m.write_memory(0x1000, bytes.fromhex("48"))  # dec ax: the translated code is dropped
        m.run(2)
        assert m.registers()["eax"] == 0x1234_FFFF
        assert m.ram[0x1000] == 0x48
        with pytest.raises(ConfigError, match="xyz"):
            m.set_registers({"xyz": 1})
        with pytest.raises(ConfigError, match="there is no vCPU 3"):
            m.registers(3)
        with pytest.raises(ConfigError, match="-1 instructions"):
            m.run(-1)


def test_input_wakes_a_halted_cpu() -> None:
    with Machine(config(GUESTS / "echo.bin")) as m:
        m.start()
        for part in (b"hel", b"lo, ", b"q"):
            time.sleep(0.02)
            m.send(part)
        assert m.wait().code == 1
        assert serial(m) == "echo: q ends\nhello, q\nbye\n"


def test_typing_reaches_int_16h() -> None:
    with Machine(config(BIOS, drives=disk("keys"))) as m:
        while "keys: " not in debug_output(m):
            assert m.run(200_000).reason == "max-insns"
        m.type_text("aA1q")
        assert m.run().code == GOOD
        assert debug_output(m).partition("keys: ")[2].split() == ["1e61/00", "1e41/02", "0231/00", "1071/00"]


def test_real_time_clock_waits() -> None:
    with Machine(config(GUESTS / "halt_timer.bin", clock="realtime")) as m:
        start = time.monotonic()
        assert m.run().code == 1
        assert time.monotonic() - start >= 0.004


def test_statistics_and_marks() -> None:
    with Machine(config(GUESTS / "hello.bin")) as m:
        m.run()
        found = m.stats()
        assert bytes(byte for _, byte in found["marks"]).decode() == "hello from the ROM\r\n"
        counts = [n for n, _ in found["marks"]]
        assert counts == sorted(set(counts))
        assert found["retired"] == m.vcpus[0].retired
        assert found["ports"]["0xe9"] == len(counts)
        assert found["exits"]["io"] == sum(found["ports"].values())
        assert found["translated_instructions"] >= found["tiers"]["handlers"]["blocks"] > 0


def test_trace_goes_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    with Machine(config(GUESTS / "hello.bin", trace="exit,reset", trace_file=path)) as m:
        m.run()
    lines = path.read_text(encoding="utf-8").splitlines()
    assert any("exit vcpu=0 reason=IO" in line for line in lines)
    stamps = [int(line.split()[0]) for line in lines]
    assert stamps == sorted(stamps)


def test_serial_and_debug_output_need_a_memory_backend() -> None:
    with Machine(config(BIOS, serials=("null",), debugcons=(), devices=(DEBUG_EXIT,))) as m:
        with pytest.raises(ConfigError, match="serial port 0 is not kept"):
            m.serial_output()
        with pytest.raises(ConfigError, match="there is no serial port 1"):
            m.send(b"x", 1)
        with pytest.raises(ConfigError, match="no debug port 0xe9"):
            m.debug_output()
        assert m.stats()["marks"] == []


# ---- monitor --------------------------------------------------------------------------------------------------------
def test_monitor(tmp_path: Path) -> None:
    with Machine(config(rom(tmp_path, "b8 34 12" + LOOP))) as m:
        command = m.monitor.command
        m.start()
        let_run(m, 100)
        assert "running" in command("info status")
        assert command("stop") == ""
        assert command("info status").startswith("paused")
        assert "1234" in command("info registers").lower()
        assert "imr" in command("info irq")
        assert "RAM rw" in command("info mem")
        assert command("x 0xf0000 5").startswith("000f0000: b8 34 12 eb fe")
        assert command("x 0xfffffff0").startswith("fffffff0: ea 00 00 00 f0")
        assert "retired" in command("stats")
        assert command("") == ""
        for bad in ("bogus", "info", "info bogus", "x", "x zz", "x 0 0", "x 0 100000000"):
            with pytest.raises(ConfigError):
                command(bad)
        before = m.vcpus[0].retired
        assert command("system_reset") == "" and command("cont") == ""
        let_run(m, before)
        assert command("quit") == ""
        assert m.wait().reason == "quit"
        assert command("info status").startswith("ended")
