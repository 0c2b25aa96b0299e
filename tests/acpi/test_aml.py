"""Byte code of single terms, as ACPI's chapter 20 has it; whole tables are iasl's to judge."""

from __future__ import annotations

import pytest

from jitvm.acpi import aml, resources


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("\\", "5c00"),
        ("_S5", "5f53355f"),
        ("\\_SB", "5c5f53425f"),
        ("^PRQ0", "5e50525130"),
        ("\\_SB.PCI0", "5c2e5f53425f50434930"),
        ("\\_SB.PCI0.ISA", "5c2f035f53425f504349304953415f"),
    ],
)
def test_names(text: str, code: str) -> None:
    assert aml.path(text).hex() == code


def test_a_segment_has_four_letters() -> None:
    with pytest.raises(ValueError, match="TOOLONG"):
        aml.path("\\_SB.TOOLONG")


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0, "00"), (1, "01"), (2, "0a02"), (0xFF, "0aff"), (0x100, "0b0001"), (0x1_0000, "0c00000100"),
        (1 << 32, "0e0000000001000000"),
    ],
)  # fmt: skip
def test_numbers(value: int, code: str) -> None:
    assert aml.integer(value).hex() == code


def test_eisa_ids() -> None:
    """19.3.4; the PCI bus's is EisaId ("PNP0A03") = 030AD041h."""
    assert aml.eisa_id("PNP0A03") == b"\x0c\x41\xd0\x0a\x03"


@pytest.mark.parametrize(
    ("n", "length"),
    [(1, "07"), (57, "3f"), (58, "4104"), (200, "4f0c"), (4088, "4fff"), (4089, "810001"), (0x10_0000, "c9000001")],
)
def test_lengths_count_themselves(n: int, length: str) -> None:
    """Each form at its ends: 6 bits, then 4 bits and one to three bytes."""
    code = aml.scope("\\_SB_", bytes(n))
    assert code[1 : 1 + len(length) // 2].hex() == length
    given = bytes.fromhex(length)
    total = given[0] & 0x3F if len(given) == 1 else given[0] & 0xF | int.from_bytes(given[1:], "little") << 4
    assert total == len(code) - 1


def test_resources() -> None:
    assert resources.io(0x3F8, 8).hex() == "4701f803f8030108"
    assert resources.irq(12).hex() == "220010" and resources.dma(2).hex() == "2a0400"
    assert resources.interrupts([5, 10]).hex() == "890a000902050000000a000000"
    assert resources.bus_numbers(0, 255).hex() == "880d00020c0000000000ff0000000001"
    assert resources.template(resources.irq(1)).hex() == "11080a052202007900"
