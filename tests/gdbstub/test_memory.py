"""m, x, M, X, qCRC and qSearch."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gdbstub import Session
from gdbstub.framing import escape
from gdbstub.memory import MAX_READ, crc32, search
from tests.gdbstub.client import Client
from tests.gdbstub.fake_target import DATA, RAM, FakeTarget, MandatoryTarget


def test_read_and_write(client: Client, target: FakeTarget) -> None:
    assert client.ask("M4000,3:010aff") == "OK"
    assert client.ask("m4000,4") == "010aff00"
    assert client.ask(b"X4000,4:" + escape(b"#$}*")) == "OK"
    assert target.ram[DATA : DATA + 4] == b"#$}*"
    assert client.ask("x4000,4") == "b#$}*"
    assert client.ask("X0,0:") == "OK"
    assert client.ask("x0,0") == "b"


def test_a_read_ends_at_the_first_bad_page(client: Client) -> None:
    assert client.ask(f"m{RAM - 2:x},100") == "0000"
    assert client.ask(f"m{RAM:x},1") == "E0e"
    assert client.ask(f"x{RAM:x},1") == f"E.no memory at {RAM:#x}"
    assert client.ask("mffffffffffffffff,2") == "E0e"


def test_a_long_read_is_cut_to_a_packet(make: Callable[..., Session]) -> None:
    target = MandatoryTarget()
    target.ram = bytearray(b"#" * 0x40000)
    client = Client(make(target))
    assert client.ask("m0,30000") == "23" * MAX_READ
    assert client.ask("x0,30000") == "b" + "#" * MAX_READ


def test_a_write_is_whole_or_not_at_all(client: Client, target: FakeTarget) -> None:
    target.ram[-1] = 0x55
    assert client.ask(f"M{RAM - 1:x},2:aabb") == f"E.no memory at {RAM:#x}"
    assert target.ram[-1] == 0x55
    assert client.ask("Mffffffffffffffff,2:aabb").startswith("E.0x2 bytes from 0xffffffffffffffff leave")


@pytest.mark.parametrize(
    "packet",
    "m m1 m1, m,1 m1,0 M0,2:00 M0,1 X0,1: X0:1 m-1,1 m1_0,1 mfffffffffffffffff,1".split(),
)
def test_malformed(client: Client, packet: str) -> None:
    assert client.ask(packet).startswith("E16" if packet[0] == "m" else "E.")


def test_crc_and_search_of_a_target_that_has_them(client: Client, target: FakeTarget) -> None:
    target.ram[0x5000:0x5004] = b"*#$}"
    assert client.ask("qCRC:1000,10") == "C1234abcd"
    assert client.ask(f"qCRC:{RAM:x},10").startswith("E.no memory")
    assert client.ask(b"qSearch:memory:0;10000;" + escape(b"*#$}")) == "1,5000"
    assert client.ask("qSearch:memory:0;10000;nowhere") == "0"


def test_crc_and_search_by_reading(make: Callable[..., Session]) -> None:
    """The checksum is that of the string 123456789 under CRC-32/MPEG-2, a published check value."""
    target = MandatoryTarget()
    client = Client(make(target))
    target.ram[0x200:0x209] = b"123456789"
    assert client.ask("qCRC:200,9") == "C376e6e7"
    assert client.ask("qCRC:200,0") == "Cffffffff"
    assert client.ask("qSearch:memory:0;300;345") == "1,202"
    assert client.ask("qSearch:memory:0;204;345") == "0"
    assert client.ask(f"qSearch:memory:0;{2 * RAM:x};345") == "1,202"
    assert client.ask(f"qSearch:memory:0;{2 * RAM:x};nowhere").startswith("E.no memory at 0x10000")
    assert client.ask(f"qCRC:{RAM - 1:x},2").startswith("E.no memory at 0x10000")
    assert client.ask("qCRC:0,ffffffffffff").startswith("E.0xffffffffffff bytes are too many")
    assert client.ask("qSearch:registers:0;1;x") == ""
    assert client.ask("qSearch:memory:0;1;").startswith("E.")


def test_long_ranges_are_read_in_pieces(make: Callable[..., Session]) -> None:
    target = MandatoryTarget()
    target.ram = bytearray(0x50000)
    session = make(target)
    target.ram[0x1FFFE:0x20003] = b"across"[:5]
    assert search(session, 0, 0x50000, b"acros") == 0x1FFFE
    assert search(session, 0x1FFFE, 5, b"acros") == 0x1FFFE
    assert search(session, 0, 0x20002, b"acros") is None
    assert crc32(session, 0, 0x50000) != crc32(session, 0, 0x4FFFF)
