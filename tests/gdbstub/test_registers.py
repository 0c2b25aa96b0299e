"""g, G, p and P."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gdbstub import Session
from gdbstub.x86 import LAYOUTS
from tests.gdbstub.client import Client
from tests.gdbstub.fake_target import CODE, FakeTarget, MandatoryTarget

LAYOUT = LAYOUTS["x86-64"]
N = {name: f"{number:x}" for name, number in LAYOUT.numbers.items()}


def offset(name: str) -> int:
    """Where a register stands in the g packet, in digits."""
    return 2 * sum(register.size for register in LAYOUT.registers[: LAYOUT.numbers[name]])


def read_description(client: Client) -> None:
    """As gdb does before its first g."""
    assert client.ask("qXfer:features:read:target.xml:0,1000").startswith("m")


def test_without_the_description_g_and_G_have_the_registers_that_gdb_has_built_in(client: Client) -> None:
    basic = client.ask("g")
    assert len(basic) == 2 * sum(register.size for register in LAYOUT.registers[: LAYOUT.numbers["mxcsr"] + 1])
    changed = basic[: offset("rbx")] + "efbeadde00000000" + basic[offset("rcx") :]
    assert client.ask("G" + changed.replace("x", "0")) == "OK" and client.ask("g") == changed
    assert client.ask(f"p{N['cr0']}") == "1000006000000000", "by its number every register is there"
    read_description(client)
    assert client.ask("g").startswith(changed) and len(client.ask("g")) > len(changed)
    assert client.ask("G" + changed).startswith("E.G needs")


def test_g_has_every_register_in_order(client: Client) -> None:
    read_description(client)
    text = client.ask("g")
    assert len(text) == 2 * sum(register.size for register in LAYOUT.registers)
    assert text[offset("rip") :][:16] == CODE.to_bytes(8, "little").hex()
    assert text[offset("tsc_aux") :][:16] == "x" * 16
    assert text[offset("cr0_bits") :][:8] == text[offset("cr0") :][:8] == "10000060"


@pytest.mark.parametrize("kind", [FakeTarget, MandatoryTarget])
def test_p_and_P(kind: type[MandatoryTarget], make: Callable[..., Session]) -> None:
    target = kind()
    client = Client(make(target))
    assert client.ask(f"p{N['rip']}") == "0010000000000000"
    assert client.ask(f"P{N['rax']}=8877665544332211") == "OK"
    assert target.cpu[1].values["rax"] == 0x1122334455667788
    assert client.ask(f"p{N['rax']}") == "8877665544332211"
    assert client.ask(f"p{N['tsc_aux']}") == "x" * 16


@pytest.mark.parametrize("kind", [FakeTarget, MandatoryTarget])
def test_a_view_reads_and_writes_its_source(kind: type[MandatoryTarget], make: Callable[..., Session]) -> None:
    target = kind()
    client = Client(make(target))
    target.cpu[1].values["cr0"] = 0x1_6000_0010
    assert client.ask(f"p{N['cr0_bits']}") == "10000060"
    assert client.ask(f"P{N['cr0_bits']}=11000080") == "OK"
    assert target.cpu[1].values["cr0"] == 0x1_8000_0011


def test_G_writes_what_differs(client: Client, target: FakeTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    real = target.write_registers

    def spy(thread: int, values: dict[int, bytes]) -> None:
        written.extend(LAYOUT.registers[number].name for number in values)
        real(thread, values)

    monkeypatch.setattr(target, "write_registers", spy)
    read_description(client)
    text = client.ask("g").replace("x", "0")
    assert client.ask("G" + text) == "OK"
    assert written == []
    at = offset("rbx")
    text = text[:at] + "efbeadde00000000" + text[at + 16 :]
    at = offset("efer_bits")
    text = text[:at] + "01000000" + text[at + 8 :]
    assert client.ask("G" + text) == "OK"
    assert written == ["rbx", "efer"]
    assert target.cpu[1].values["rbx"] == 0xDEADBEEF
    assert target.cpu[1].values["efer"] == 1


def test_thread_by_suffix_and_by_Hg(client: Client, target: FakeTarget) -> None:
    target.cpu[2].values["rax"] = 5
    assert client.ask("QThreadSuffixSupported") == "OK"
    assert client.ask("p0;thread:p1.2;") == "0500000000000000"
    assert client.ask("p0;thread:1;") == "0000000000000000"
    assert client.ask("P0=0700000000000000;thread:2;") == "OK"
    assert client.ask("g;thread:2;")[:16] == "0700000000000000"
    assert client.ask("Hgp1.2") == "OK"
    assert client.ask("p0") == "0700000000000000"
    assert client.ask("Hg0") == "OK"
    assert client.ask("p0") == "0000000000000000"


@pytest.mark.parametrize(
    ("packet", "error"),
    [
        ("p7fffffff", "E.no register 2147483647, there are"),
        ("pffffffffffffffff", "E.no register"),
        ("p-1", "E.not a hex number"),
        ("p", "E.not a hex number"),
        ("p" + "f" * 5000, "E.not a hex number"),
        ("p0;thread:9;", "E.no thread 9"),
        ("p0;core:1;", "E.the suffix is not"),
        ("P0=00", "E.register rax has 8 bytes, not 1"),
        ("P0", "E.P needs"),
        ("P0=0", "E.not pairs"),
        ("Pffff=00", "E.no register"),
        ("G00", "E.G needs"),
        ("Gzz", "E.not pairs"),
        ("g00", "E.g takes"),
    ],
)
def test_refusals(client: Client, packet: str, error: str) -> None:
    assert client.ask(packet).startswith(error)


def test_a_targets_refusal_reaches_the_user(client: Client) -> None:
    assert client.ask(f"P{N['tsc_aux']}=0000000000000000") == "E.this processor has no tsc_aux"


def test_a_bug_in_the_target_costs_one_packet(
    target: FakeTarget, make: Callable[..., Session], bugs: list[str]
) -> None:
    client = Client(make(target))
    del target.cpu[1].values["rax"]
    assert client.ask("p0").startswith("E.internal error: KeyError")
    assert client.ask("p1") == "0040000000000000"
    assert len(bugs) == 1 and "fake_target.py:" in bugs.pop()


def test_the_target_must_give_what_the_layout_says(target: FakeTarget, make: Callable[..., Session]) -> None:
    target.read_registers = lambda thread: [b""]  # type: ignore[method-assign]
    target.read_register = lambda thread, number: b"1"  # type: ignore[method-assign]
    client = Client(make(target))
    assert client.ask("g").startswith("E.the layout has")
    assert client.ask("p0") == "E.register rax has 8 bytes, the target gave 1"
