"""The keyboard's commands, scan codes and buffer."""

from __future__ import annotations

import pytest

from jitvm.devices.ps2keyboard import KEYS, TYPE_NS, Ps2Keyboard, keys_of, scan_codes
from tests.devices.conformance import Rig


def make() -> tuple[Ps2Keyboard, Rig]:
    rig = Rig()
    return Ps2Keyboard(rig.clock, rig.trace), rig


def drain(keyboard: Ps2Keyboard) -> list[int]:
    got = []
    while (value := keyboard.take()) is not None:
        got.append(value)
    return got


def ask(keyboard: Ps2Keyboard, *values: int) -> list[int]:
    """Send bytes, collect all replies."""
    got = []
    for value in values:
        keyboard.write(value)
        got += drain(keyboard)
    return got


def test_make_and_break_codes() -> None:
    keyboard, _ = make()
    keyboard.press("a")
    keyboard.release("a")
    keyboard.press("up")
    keyboard.release("up")
    assert drain(keyboard) == [0x1C, 0xF0, 0x1C, 0xE0, 0x75, 0xE0, 0xF0, 0x75]
    assert ask(keyboard, 0xF0, 1) == [0xFA, 0xFA]
    keyboard.press("a")
    keyboard.release("a")
    keyboard.release("up")
    assert drain(keyboard) == [0x1E, 0x9E, 0xE0, 0xC8]


def test_pause_and_print() -> None:
    keyboard, _ = make()
    keyboard.press("pause")
    keyboard.release("pause")
    assert drain(keyboard) == [0xE1, 0x14, 0x77, 0xE1, 0xF0, 0x14, 0xF0, 0x77]
    keyboard.press("print")
    assert drain(keyboard) == [0xE0, 0x12, 0xE0, 0x7C]


def test_no_two_keys_share_a_code() -> None:
    for scan_set in (0, 1):
        codes = [codes[scan_set] for codes in KEYS.values()]
        assert len(codes) == len(set(codes))


def test_reset_identify_echo() -> None:
    keyboard, _ = make()
    assert ask(keyboard, 0xFF) == [0xFA, 0xAA]
    assert ask(keyboard, 0xF2) == [0xFA, 0xAB, 0x83]
    assert ask(keyboard, 0xEE) == [0xEE]


def test_leds_and_typematic() -> None:
    keyboard, _ = make()
    assert ask(keyboard, 0xED, 0x05) == [0xFA, 0xFA]
    assert keyboard.leds == 5
    assert ask(keyboard, 0xF3, 0x00) == [0xFA, 0xFA]
    assert keyboard.typematic == 0
    assert ask(keyboard, 0xF6) == [0xFA]
    assert keyboard.typematic == 0x2B
    assert ask(keyboard, 0xED, 0xF2) == [0xFA, 0xFA, 0xAB, 0x83], "a command ends the wait for a parameter"


def test_scan_set_query_and_set_3() -> None:
    keyboard, rig = make()
    assert ask(keyboard, 0xF0, 0) == [0xFA, 0xFA, 2]
    assert ask(keyboard, 0xF0, 3) == [0xFA, 0xFE]
    assert keyboard.scan_set == 2
    assert ask(keyboard, 0xF8) == [0xFE]
    assert len(rig.traced("unmodelled")) == 2


def test_disable_and_enable() -> None:
    keyboard, _ = make()
    keyboard.press("x")
    assert ask(keyboard, 0xF5) == [0xFA], "the buffer is cleared"
    keyboard.press("x")
    assert not keyboard.has_byte()
    assert ask(keyboard, 0xF4) == [0xFA]
    keyboard.press("x")
    assert drain(keyboard) == [0x22]


def test_resend() -> None:
    keyboard, _ = make()
    keyboard.press("q")
    assert drain(keyboard) == [0x15]
    assert ask(keyboard, 0xFE) == [0x15]


def test_replies_come_before_keys() -> None:
    keyboard, _ = make()
    keyboard.press("q")
    keyboard.write(0xED)
    assert drain(keyboard) == [0xFA, 0x15]


def test_overrun_after_sixteen_bytes() -> None:
    keyboard, _ = make()
    for _ in range(20):
        keyboard.press("a")
    assert drain(keyboard) == [0x1C] * 16 + [0x00]
    keyboard.press("b")
    assert drain(keyboard) == [0x32]
    ask(keyboard, 0xF0, 1)
    for _ in range(20):
        keyboard.press("a")
    assert drain(keyboard)[-1] == 0xFF


def test_ready_is_called() -> None:
    keyboard, _ = make()
    calls: list[int] = []
    keyboard.connect(lambda: calls.append(1))
    keyboard.press("a")
    keyboard.write(0xEE)
    assert len(calls) == 2


def test_typing_takes_virtual_time() -> None:
    keyboard, rig = make()
    keyboard.type_text("aB")
    assert not keyboard.has_byte()
    got = []
    for n in range(1, 7):
        rig.clock.advance_to(n * TYPE_NS)
        got.append(bytes(drain(keyboard)).hex())
    assert got == ["1c", "f01c", "12", "32", "f032", "f012"]
    assert rig.clock.deadline() is None


def test_typing_waits_for_room() -> None:
    keyboard, rig = make()
    keyboard.type_text("a" * 40)
    got = []
    for n in range(1, 1000):
        rig.clock.advance_to(n * TYPE_NS)
        if n % 50 == 0:
            got += drain(keyboard)
    assert got == [0x1C, 0xF0, 0x1C] * 40


def test_every_printable_character_has_keys() -> None:
    for code in range(0x20, 0x7F):
        assert all(key in KEYS for key in keys_of(chr(code)))
    assert keys_of("\n") == ["ret"]
    assert keys_of("\x03") == ["ctrl", "c"]
    assert keys_of("?") == ["shift", "slash"]


def test_unknown_keys_are_the_hosts_error() -> None:
    keyboard, _ = make()
    with pytest.raises(ValueError, match="no key types"):
        keyboard.type_text("ok é")
    assert not keyboard.snapshot()["typed"], "nothing of it is typed"
    with pytest.raises(ValueError, match="no key is called 'anykey'"):
        keyboard.press("anykey")
    with pytest.raises(ValueError, match="no key is called"):
        scan_codes("", True, 2)
