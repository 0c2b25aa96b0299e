"""The keyboard controller through ports 60h and 64h, with the keyboard and with the empty mouse port."""

from __future__ import annotations

from jitvm.devices.i8042 import BYTE_NS, I8042, TRANSLATION
from jitvm.devices.ps2keyboard import KEYS, Ps2Keyboard
from tests.devices.conformance import Rig


class Board:
    """Controller and keyboard with recorded lines."""

    def __init__(self) -> None:
        self.rig = Rig()
        self.keyboard = Ps2Keyboard(self.rig.clock, self.rig.trace)
        self.a20: list[bool] = []
        self.resets: list[str] = []
        self.chip = I8042(
            self.rig.clock,
            self.keyboard,
            self.rig.line("irq1"),
            self.rig.line("irq12"),
            self.a20.append,
            self.resets.append,
            self.rig.trace,
        )

    def status(self) -> int:
        return self.chip.command_port.read(0, 1)

    def data(self) -> int:
        return self.chip.data_port.read(0, 1)

    def command(self, value: int, *parameters: int) -> None:
        self.chip.command_port.write(0, 1, value)
        for parameter in parameters:
            self.chip.data_port.write(0, 1, parameter)

    def send(self, value: int) -> None:
        self.chip.data_port.write(0, 1, value)

    def wait(self) -> int:
        """Let time pass until a byte has come, and read it."""
        for _ in range(20):
            if self.status() & 1:
                return self.data()
            self.rig.clock.advance_to(self.rig.clock.now_ns + BYTE_NS)
        raise AssertionError("no byte")

    def idle(self) -> bool:
        self.rig.clock.advance_to(self.rig.clock.now_ns + 20 * BYTE_NS)
        return not self.status() & 1


def test_initialisation_as_seabios_does_it() -> None:
    b = Board()
    assert not b.status() & 1
    b.command(0xAA)
    assert b.status() & 5 == 5
    assert b.data() == 0x55
    b.command(0xAB)
    assert b.data() == 0x00
    b.command(0x60, 0x30)
    b.command(0xAE)
    b.send(0xFF)
    assert [b.wait(), b.wait()] == [0xFA, 0xAA]
    b.send(0xF5)
    assert b.wait() == 0xFA
    b.send(0xF0)
    assert b.wait() == 0xFA
    b.send(0x02)
    assert b.wait() == 0xFA
    b.command(0x60, 0x61)
    b.send(0xF4)
    assert b.wait() == 0xFA
    b.keyboard.press("a")
    assert b.wait() == 0x1E
    assert ("irq1", True) in b.rig.edges


def test_translation_matches_the_keyboards_own_set_1() -> None:
    for name, (set_1, set_2) in KEYS.items():
        assert TRANSLATION[set_2 & 0xFF] == set_1 & 0xFF, name
    assert len(TRANSLATION) == 256


def test_break_codes_are_folded() -> None:
    b = Board()
    b.command(0x60, 0x41)
    b.keyboard.press("right")
    b.keyboard.release("right")
    b.keyboard.release("f7")
    assert [b.wait() for _ in range(5)] == [0xE0, 0x4D, 0xE0, 0xCD, 0xC1]
    assert b.idle()
    b.command(0x60, 0x01)
    b.keyboard.release("a")
    assert [b.wait(), b.wait()] == [0xF0, 0x1C]


def test_irq1_edge_per_byte_and_a_second_read_sees_the_same() -> None:
    b = Board()
    b.command(0x60, 0x41)
    b.keyboard.press("a")
    b.keyboard.release("a")
    assert b.rig.edges == []
    b.rig.clock.advance_to(BYTE_NS)
    assert b.rig.edges == [("irq1", True)]
    assert b.data() == 0x1E
    assert b.rig.edges == [("irq1", True), ("irq1", False)]
    assert b.data() == 0x1E, "an INT 9 hook may read it again"
    b.rig.clock.advance_to(2 * BYTE_NS)
    assert b.rig.edges[-1] == ("irq1", True)
    assert b.data() == 0x9E


def test_interrupts_can_be_off() -> None:
    b = Board()
    b.command(0x60, 0x40)
    b.keyboard.press("a")
    assert not b.idle()
    assert b.rig.edges == []
    b.command(0x60, 0x41)
    assert b.rig.edges == [("irq1", True)], "the byte still waits"


def test_disabled_port_holds_the_keyboard() -> None:
    b = Board()
    b.command(0xAD)
    b.keyboard.press("a")
    assert b.idle()
    b.command(0x20)
    assert b.data() & 0x10
    b.command(0xAE)
    assert b.wait() == 0x1C
    b.command(0xAD)
    b.send(0xEE)
    assert b.wait() == 0xEE, "a byte to the keyboard switches its port on"


def test_command_byte_and_ram() -> None:
    b = Board()
    b.command(0x20)
    assert b.data() == 0x03
    b.command(0x60, 0x65)
    b.command(0x20)
    assert b.data() == 0x65
    assert b.status() & 4
    b.command(0x7F, 0xA5)
    b.command(0x3F)
    assert b.data() == 0xA5


def test_status_tells_command_from_data() -> None:
    b = Board()
    b.command(0x60)
    assert b.status() == 0x18
    b.send(0x03)
    assert b.status() == 0x10


def test_output_port_and_a20() -> None:
    b = Board()
    b.command(0xD0)
    assert b.data() & 3 == 3
    b.command(0xD1, 0xDD)
    b.command(0xD0)
    assert b.data() & 3 == 1
    b.command(0xD1, 0xDF)
    b.command(0xDD)
    b.command(0xDF)
    assert b.a20 == [False, True, False, True]
    assert b.resets == []


def test_reset_pulse_and_reset_bit() -> None:
    b = Board()
    b.command(0xFF)
    assert b.resets == []
    b.command(0xFE)
    b.command(0xD1, 0x02)
    assert b.resets == ["keyboard controller pulse", "keyboard controller output port"]
    b.chip.reset()
    assert b.a20[-1] is True


def test_linux_finds_the_empty_mouse_port() -> None:
    """i8042_check_aux: loopback by D3h, the disable bit follows A7h and A8h, then no answer to a command."""
    b = Board()
    b.command(0x60, 0x47)
    b.command(0xD3, 0x5A)
    assert b.status() & 0x21 == 0x21
    assert ("irq12", True) in b.rig.edges
    assert b.data() == 0x5A
    assert b.rig.edges[-1] == ("irq12", False)
    b.command(0xA7)
    b.command(0x20)
    assert b.data() & 0x20
    b.command(0xA8)
    b.command(0x20)
    assert not b.data() & 0x20
    b.command(0xA9)
    assert b.data() == 0x00
    b.command(0xD4, 0xF2)
    assert b.status() & 0x61 == 0x61
    assert b.data() == 0xFE
    assert not b.status() & 0x60


def test_write_keyboard_output_buffer() -> None:
    b = Board()
    b.command(0xD2, 0x77)
    assert b.status() & 0x21 == 0x01
    assert b.rig.edges == [("irq1", True)]
    assert b.data() == 0x77


def test_replies_wait_for_the_output_buffer() -> None:
    b = Board()
    b.keyboard.press("a")
    b.rig.clock.advance_to(BYTE_NS)
    b.command(0x20)
    assert b.data() == 0x1C
    assert b.status() & 1
    assert b.data() == 0x03


def test_input_port_test_inputs_and_the_unknown() -> None:
    b = Board()
    b.command(0xC0)
    assert b.data() == 0xA0
    b.command(0xE0)
    assert b.data() == 3
    b.command(0xA4)
    assert b.data() == 0xF1
    assert not b.rig.traced("unmodelled")
    b.command(0xAC)
    assert b.idle()
    assert b.rig.traced("unmodelled")


def test_typed_text_arrives() -> None:
    b = Board()
    b.command(0x60, 0x41)
    b.keyboard.type_text("dir\n")
    got = []
    while (due := b.rig.clock.deadline()) is not None:
        b.rig.clock.advance_to(due)
        if b.status() & 1:
            got.append(b.data())
    assert got == [0x20, 0xA0, 0x17, 0x97, 0x13, 0x93, 0x1C, 0x9C]
