"""The small guests do on QEMU what their first comments claim."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from subprocess import DEVNULL, PIPE

import pytest

from tests.firmware.qemu import ATTEMPTS, BIOS, DEBUG_EXIT, ICOUNT, IMAGES, QEMU, run_qemu
from tests.needs import SEABIOS, need, needs

pytestmark = needs(QEMU)

GUESTS = IMAGES / "guests"


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("hello", "hello from the ROM\n"),
        ("halt_timer", "tick tick tick tick tick halt-with-timer ok\n"),
        ("port_storm", "port storm ok\n"),
        ("mmio_storm", "mmio storm ok\n"),
        ("smc_check", "smc self-check ok\n"),
    ],
)
def test_rom_guest(tmp_path: Path, name: str, output: str) -> None:
    run = run_qemu(tmp_path, GUESTS / f"{name}.bin", *DEBUG_EXIT)
    assert run.serial == output
    assert run.status == 1
    assert run.debug.endswith(output)


def test_port_storm_prints_by_string_output(tmp_path: Path) -> None:
    run = run_qemu(tmp_path, GUESTS / "port_storm.bin", *DEBUG_EXIT)
    assert run.debug == "by rep outsb\nport storm ok\n"


def test_triple_fault_ends_the_machine_under_no_reboot(tmp_path: Path) -> None:
    run = run_qemu(tmp_path, GUESTS / "triple_fault.bin", *DEBUG_EXIT)
    assert run.serial == "triple fault now\n"
    assert run.status == 0


def test_triple_fault_resets(tmp_path: Path) -> None:
    run = run_qemu(tmp_path, GUESTS / "triple_fault.bin", *DEBUG_EXIT, "-action", "reboot=reset")
    assert run.serial == "triple fault now\nreset by triple fault\n"
    assert run.status == 1


def test_echo_until_q(tmp_path: Path) -> None:
    run = run_qemu(tmp_path, GUESTS / "echo.bin", *DEBUG_EXIT, typed="hello, q")
    assert run.serial == "echo: q ends\nhello, q\nbye\n"
    assert run.status == 1


KEYS = {
    "a": "1e61/00",
    "shift-a": "1e41/02",
    "ctrl-a": "1e01/04",
    "alt-a": "1e00/08",
    "1": "0231/00",
    "shift-1": "0221/02",
    "alt-1": "7800/08",
    "ctrl-minus": "0c1f/04",
    "shift-tab": "0f00/02",
    "alt-tab": "a500/08",
    "ctrl-ret": "1c0a/04",
    "esc": "011b/00",
    "f1": "3b00/00",
    "shift-f1": "5400/02",
    "ctrl-f1": "5e00/04",
    "alt-f1": "6800/08",
    "f11": "8500/00",
    "alt-f12": "8c00/08",
    "up": "48e0/00",
    "ctrl-up": "8de0/04",
    "alt-up": "9800/08",
    "kp_7": "4700/00",
    "shift-kp_7": "4737/02",
    "kp_add": "4e2b/00",
    "kp_enter": "e00d/00",
    "kp_divide": "e02f/00",
    "ctrl-home": "77e0/04",
    "less": "565c/00",
    "q": "1071/00",
}
"""Keys by their names in QEMU's monitor, with the code and shift state that must come."""


@pytest.mark.slow
@pytest.mark.parametrize("bios", [BIOS, SEABIOS], ids=["ours", "seabios"])
def test_keystrokes(tmp_path: Path, bios: Path) -> None:
    need(bios)
    output = tmp_path / "debug.txt"
    command = [
        QEMU, "-M", "pc", "-accel", "tcg", *ICOUNT, "-display", "none", "-bios", str(bios),
        "-serial", "null", "-debugcon", f"file:{output}", "-monitor", "stdio", *DEBUG_EXIT,
        "-drive", f"file={GUESTS / 'keys.img'},format=raw,if=ide,snapshot=on",
    ]  # fmt: skip

    def shown(n_codes: int) -> list[str] | None:
        """The codes that the guest has printed when there are so many, None when half a minute brings no more."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            text = output.read_text("latin-1") if output.exists() else ""
            codes = text.partition("keys: ")[2].split()
            if "keys: " in text and len(codes) >= n_codes:
                return codes
            time.sleep(0.02)
        return None

    with ExitStack() as running:
        for _ in range(ATTEMPTS):  # its disk may never answer the BIOS
            output.unlink(missing_ok=True)
            machine = running.enter_context(subprocess.Popen(command, stdin=PIPE, stdout=DEVNULL, text=True))
            running.callback(machine.kill)
            if shown(0) is not None:
                break
            running.close()
        codes: list[str] | None = []
        assert machine.stdin is not None
        for number, key in enumerate(KEYS, start=1):
            machine.stdin.write(f"sendkey {key} 20\n")
            machine.stdin.flush()
            codes = shown(number)
            assert codes is not None, f"{number} keystrokes never came"
            time.sleep(0.1)  # the key's release, 20 ms later, must be over
        assert machine.wait(timeout=30) == 0x31 << 1 | 1
    assert codes == list(KEYS.values())
