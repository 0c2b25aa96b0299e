"""Debug output ports."""

from __future__ import annotations

from jitvm.backends.chardev import MemoryBackend
from jitvm.devices.debugcon import DebugCon


def test_bytes_go_out_and_the_port_is_found() -> None:
    backend = MemoryBackend()
    port = DebugCon(backend)
    assert port.read(0, 1) == 0xE9
    for byte in b"SeaBIOS\n":
        port.write(0, 1, byte)
    assert bytes(backend.output) == b"SeaBIOS\n"
    port.reset()
    assert port.snapshot() == {}
