"""The 16550A, driven as SeaBIOS, Linux's 8250 driver and DOS programs do."""

from __future__ import annotations

from jitvm.backends.chardev import MemoryBackend
from jitvm.devices.uart16550 import FCR, IER, IIR, LCR, LSR, MCR, MSR, RBR, SCR, THR, Uart16550
from tests.devices.conformance import Rig


def make() -> tuple[Uart16550, MemoryBackend, Rig]:
    rig = Rig()
    backend = MemoryBackend()
    return Uart16550("com1", rig.line(), rig.clock, backend, rig.trace), backend, rig


def irq(rig: Rig) -> bool:
    return bool(rig.edges) and rig.edges[-1][1]


def give(backend: MemoryBackend, data: bytes) -> int:
    backend.feed(data)
    return backend.pump()


def test_detection_as_linux_does_it() -> None:
    uart, _, _ = make()
    uart.write(IER, 1, 0)
    assert uart.read(IER, 1) == 0
    uart.write(IER, 1, 0xFF)
    assert uart.read(IER, 1) == 0x0F
    uart.write(IER, 1, 0)
    uart.write(MCR, 1, 0x1A)
    assert uart.read(MSR, 1) & 0xF0 == 0x90
    uart.write(MCR, 1, 0)
    uart.write(FCR, 1, 0x01)
    assert uart.read(IIR, 1) == 0xC1
    uart.write(FCR, 1, 0x00)
    assert uart.read(IIR, 1) == 0x01
    uart.write(SCR, 1, 0x5A)
    assert uart.read(SCR, 1) == 0x5A


def test_divisor_latch() -> None:
    uart, backend, _ = make()
    uart.write(LCR, 1, 0x83)
    assert (uart.read(0, 1), uart.read(1, 1)) == (12, 0)
    uart.write(0, 1, 0x01)
    uart.write(1, 1, 0x02)
    assert (uart.read(0, 1), uart.read(1, 1)) == (1, 2)
    uart.write(LCR, 1, 0x03)
    assert uart.read(LCR, 1) == 0x03
    assert uart.read(IER, 1) == 0
    assert not backend.output


def test_polled_output() -> None:
    uart, backend, rig = make()
    for byte in b"hello":
        assert uart.read(LSR, 1) == 0x60
        uart.write(THR, 1, byte)
    assert bytes(backend.output) == b"hello"
    assert rig.edges == []


def test_thre_interrupt() -> None:
    uart, backend, rig = make()
    uart.write(MCR, 1, 0x08)
    uart.write(IER, 1, 0x02)
    assert irq(rig), "enabling it with an empty transmitter asks at once"
    assert uart.read(IIR, 1) == 0x02
    assert not irq(rig), "reading IIR ends it"
    assert uart.read(IIR, 1) == 0x01
    uart.write(THR, 1, 0x41)
    assert irq(rig)
    rig.edges.clear()
    uart.write(THR, 1, 0x42)
    assert rig.edges == [("irq", False), ("irq", True)], "a new edge for each character"
    assert bytes(backend.output) == b"AB"
    uart.write(IER, 1, 0)
    assert not irq(rig)


def test_out2_gates_the_interrupt() -> None:
    uart, _, rig = make()
    uart.write(IER, 1, 0x02)
    assert not irq(rig)
    uart.write(MCR, 1, 0x08)
    assert irq(rig)


def test_receive_without_fifo_takes_one_character_at_a_time() -> None:
    uart, backend, rig = make()
    uart.write(MCR, 1, 0x08)
    uart.write(IER, 1, 0x01)
    assert give(backend, b"xyz") == 1
    assert irq(rig)
    assert uart.read(IIR, 1) == 0x04
    assert uart.read(LSR, 1) == 0x61
    assert uart.read(RBR, 1) == ord("x")
    assert uart.read(LSR, 1) == 0x61, "the next one follows without the loop's help"
    assert uart.read(RBR, 1) == ord("y")
    assert uart.read(RBR, 1) == ord("z")
    assert uart.read(LSR, 1) == 0x60
    assert not irq(rig)
    assert uart.read(RBR, 1) == 0


def test_trigger_level_and_timeout() -> None:
    uart, backend, rig = make()
    uart.write(LCR, 1, 0x83)
    uart.write(0, 1, 1)
    uart.write(LCR, 1, 0x03)
    uart.write(FCR, 1, 0x81)
    uart.write(MCR, 1, 0x08)
    uart.write(IER, 1, 0x01)
    give(backend, b"1234567")
    assert not irq(rig)
    give(backend, b"8")
    assert irq(rig)
    assert uart.read(IIR, 1) == 0xC4
    assert uart.read(RBR, 1) == ord("1")
    assert not irq(rig), "below the trigger level again"
    four_characters = 4 * 10 * 16 * 10**9 // 1_843_200
    assert rig.clock.deadline() == four_characters
    rig.clock.advance_to(four_characters)
    assert irq(rig)
    assert uart.read(IIR, 1) == 0xCC
    assert uart.read(RBR, 1) == ord("2")
    assert not irq(rig)
    rig.clock.advance_to(2 * four_characters)
    assert irq(rig)
    while uart.read(LSR, 1) & 1:
        uart.read(RBR, 1)
    assert not irq(rig)
    assert rig.clock.deadline() is None


def test_full_fifo_holds_the_rest_back() -> None:
    uart, backend, _ = make()
    uart.write(FCR, 1, 0xC1)
    assert give(backend, bytes(range(40))) == 16
    assert backend.pending() == 24
    got = []
    while uart.read(LSR, 1) & 1:
        got.append(uart.read(RBR, 1))
    assert got == list(range(40))


def test_loopback_data_and_overrun() -> None:
    uart, backend, rig = make()
    uart.write(MCR, 1, 0x18)
    uart.write(IER, 1, 0x05)
    uart.write(THR, 1, 0xAA)
    assert irq(rig)
    assert uart.read(LSR, 1) == 0x61
    assert uart.read(RBR, 1) == 0xAA
    uart.write(THR, 1, 1)
    uart.write(THR, 1, 2)
    assert uart.read(IIR, 1) == 0x06
    assert uart.read(LSR, 1) == 0x63
    assert uart.read(LSR, 1) == 0x61, "reading clears the error"
    assert uart.read(RBR, 1) == 2
    uart.write(FCR, 1, 0x01)
    for byte in range(20):
        uart.write(THR, 1, byte)
    assert uart.read(LSR, 1) == 0x63
    assert [uart.read(RBR, 1) for _ in range(16)] == list(range(16))
    assert not backend.output
    assert give(backend, b"q") == 0, "cut off from the line"
    uart.write(MCR, 1, 0x00)
    assert uart.read(RBR, 1) == ord("q")


def test_modem_status_deltas() -> None:
    uart, _, rig = make()
    assert uart.read(MSR, 1) == 0xB0
    uart.write(MCR, 1, 0x18)
    assert uart.read(MSR, 1) == 0x83
    uart.write(IER, 1, 0x08)
    uart.write(MCR, 1, 0x1C)
    assert not irq(rig), "RI rising is no delta"
    uart.write(MCR, 1, 0x1B)
    assert irq(rig)
    assert uart.read(IIR, 1) == 0x00
    assert uart.read(MSR, 1) == 0xB7
    assert not irq(rig)


def test_fifo_clear_and_switch() -> None:
    uart, backend, _ = make()
    uart.write(FCR, 1, 0x01)
    give(backend, b"abc")
    uart.write(FCR, 1, 0x03)
    assert uart.read(LSR, 1) == 0x60
    give(backend, b"abc")
    uart.write(FCR, 1, 0x00)
    assert uart.read(LSR, 1) == 0x60


def test_interrupt_priority() -> None:
    uart, backend, _ = make()
    uart.write(MCR, 1, 0x08)
    uart.write(IER, 1, 0x0F)
    give(backend, b"k")
    assert uart.read(IIR, 1) == 0x04
    assert uart.read(IIR, 1) == 0x04, "reading IIR does not end it"
    uart.read(RBR, 1)
    assert uart.read(IIR, 1) == 0x02
    assert uart.read(IIR, 1) == 0x01


def test_break_is_traced() -> None:
    uart, _, rig = make()
    uart.write(LCR, 1, 0x43)
    assert rig.traced("unmodelled")
    assert uart.read(LCR, 1) == 0x43
