"""The local APIC's timer in its deadline mode goes by the TSC as the guest has set it (Intel SDM vol. 3, 10.5.4.1)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jitvm.isa.mode import update_mode
from jitvm.machine import Machine
from tests.boot.guests import APIC_PAGE, FS, WITH_A_HANDLER, config, rom
from tests.engine.assembler import assemble

ARM = """
    mov ecx, 0x6E0
    mov eax, {deadline}
    xor edx, edx
    wrmsr
"""
SET = """
    mov ecx, 0x10
    mov eax, {tsc}
    xor edx, edx
    wrmsr
"""
GUEST = WITH_A_HANDLER + """
    mov dword ptr fs:[0x320], 0x40041
    mov ecx, 20000
1:  dec ecx
    jnz 1b
    {first}
    {then}
    sti
    hlt
on_41:
    rdtsc
    mov [0x600], eax
    out 0xF4, al
"""
DEADLINE, NEAR = 400_000, 5000


@pytest.mark.parametrize("threads", [False, True], ids=["turns", "threads"])
@pytest.mark.parametrize("tsc", [5000, 300_000], ids=["back", "on"])
@pytest.mark.parametrize("order", ["set, armed", "armed, set"])
def test_deadline_of_a_guest_that_sets_the_tsc(order: str, tsc: int, threads: bool, tmp_path: Path) -> None:
    """Virtual time is then behind or before the TSC."""
    parts = SET.format(tsc=tsc), ARM.format(deadline=DEADLINE)
    first, then = parts if order == "set, armed" else reversed(parts)
    code = assemble(GUEST.format(first=first, then=then), 0, 16).hex()
    with Machine(config(rom(tmp_path, code), smp=1 + threads, smp_threads=threads, cpu="max")) as machine:
        c = machine.vcpus[0].engine.c
        c.base[FS] = APIC_PAGE
        with np.errstate(over="ignore"):
            update_mode(c)
        assert machine.run(2_000_000).reason == "debug-exit"
        assert DEADLINE <= int.from_bytes(machine.ram[0x600:0x604].tobytes(), "little") < DEADLINE + NEAR
