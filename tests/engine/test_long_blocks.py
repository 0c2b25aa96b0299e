"""Blocks of 64-bit code on every engine, run whole, so that copied code runs and not the handlers of a short budget."""

from __future__ import annotations

import pytest

from jitvm.bare import Bare

CASES = {
    "lea rcx, [rsi-1]": ("48 8d 4e ff", {"rsi": 0x60}, {"rcx": 0x5F}),
    "lea rcx, [rsi+rdi*8-0x1000]": ("48 8d 8c fe 00 f0 ff ff", {"rsi": 1, "rdi": 2}, {"rcx": 0xFFFF_FFFF_FFFF_F011}),
    "lea ecx, [rsi-1]": ("8d 4e ff", {"rsi": 0}, {"rcx": 0xFFFF_FFFF}),
    "mov rcx, [rsi-8]": ("48 8b 4e f8", {"rsi": 0x2008}, {"rcx": 0x1122334455667788}),
    "mov rcx, [ebx-8]": ("67 48 8b 4b f8", {"rbx": 0xFFFF_FFFF_0000_2008}, {"rcx": 0x1122334455667788}),
    "add rcx, -1": ("48 83 c1 ff", {"rcx": 1 << 40}, {"rcx": (1 << 40) - 1}),
    "mov rcx, -2": ("48 c7 c1 fe ff ff ff", {}, {"rcx": 0xFFFF_FFFF_FFFF_FFFE}),
    "mov ecx, -2": ("b9 fe ff ff ff", {}, {"rcx": 0xFFFF_FFFE}),
    "push -3; pop rcx": ("6a fd 59", {"rsp": 0x3000}, {"rcx": 0xFFFF_FFFF_FFFF_FFFD, "rsp": 0x3000}),
}


@pytest.mark.parametrize("engine", ["plain", "handlers", "stencils", "regions"])
@pytest.mark.parametrize("name", CASES)
def test_signs(engine: str, name: str) -> None:
    """Displacements and immediates of 32 bits are sign-extended (SDM vol. 1, 3.7.5.1; vol. 2, 2.2.1.3, 2.2.1.5)."""
    code, before, after = CASES[name]
    bare = Bare(engine)
    bare.set_mode("long")
    bare.write(0x1000, bytes.fromhex(code) + b"\xf4")
    bare.write(0x2000, (0x1122334455667788).to_bytes(8, "little"))
    for _ in range(3):
        bare.set_registers({**before, "rip": 0x1000})
        assert bare.run(10).reason == "hlt"
        found = bare.registers()
        assert {register: found[register] for register in after} == after
