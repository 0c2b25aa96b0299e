"""Random bytes in the maps 0F, 0F 38 and 0F 3A: lengths and #UD of SIMD instructions are those of iced-x86."""

from __future__ import annotations

import random

import iced_x86 as ix
import pytest

from jitvm.engine import simd_forms
from jitvm.engine.forms import feature_names
from tests.engine.native_decoder import Decoder

CASES = 12_000
PREFIXES = (b"", b"", b"\x66", b"\xf2", b"\xf3", b"\x67", b"\x2e", b"\x66\xf2", b"\xf3\x66", b"\xf2\xf3", b"\xf0")
UNDEFINED = ("misc.ud", "misc.nop")
"""Hints whose encoding has no meaning yet are NOPs (0F 18 to 0F 1F)."""
MAPS = (b"\x0f", b"\x0f\x38", b"\x0f\x3a")


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_random_bytes_decode_as_iced_says(bits: int, seed: int) -> None:
    rng = random.Random(f"{seed}/{bits}")
    native = Decoder()
    native.bare.vcpu.set_cpu("max")
    native.bare.set_registers({"cr4": 0x600})
    known = refused = 0
    for _ in range(CASES):
        rex = bytes([rng.randrange(0x40, 0x50)]) if bits == 64 and rng.random() < 0.5 else b""
        data = rng.choice(PREFIXES) + rex + rng.choice(MAPS) + rng.randbytes(1)
        data = (data + rng.randbytes(10)).ljust(15, b"\0")[:15]
        ins = ix.Decoder(bits, data, ip=0x1000).decode()
        if ins.code == ix.Code.INVALID:
            native(data, bits, 0x1000)
            assert native.shape().unit in UNDEFINED, data.hex()
            refused += 1
            continue
        if not feature_names(ins) <= set(simd_forms.FEATURES):
            continue
        length = native(data, bits, 0x1000)
        unit = native.shape().unit
        assert length == len(ins), (data.hex(), str(ins), length, unit)
        assert unit != "misc.ud", (data.hex(), str(ins))
        known += 1
        broken = b"\xf0" + data[:-1]  # with LOCK there is no such instruction
        native(broken, bits, 0x1000)
        assert native.shape().unit == "misc.ud", (broken.hex(), str(ins))
    assert known > 0.05 * CASES
    assert refused > 0.1 * CASES
