"""Random programs for several processors (tests/engine/smp_programs.py): in turns they end the same on each tier; at the
same time what they share has the sums that it must have, and what is a processor's own is as in turns.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jitvm.isa.mode import update_mode
from jitvm.machine import Machine
from tests.boot.guests import APIC_PAGE, FS, config, rom
from tests.engine.smp_programs import COUNTS, DONE, GUARDED, OWN, PRIVATE, SUMS, SmpLoops
from tests.fast_set import share

ROUNDS = 400


def run(folder: Path, program: SmpLoops, **more: Any) -> dict[str, Any]:
    """What a machine's run ends with."""
    with Machine(config(rom(folder, program.rom().hex()), smp=program.n, **more)) as machine:
        for vcpu in machine.vcpus:
            vcpu.engine.c.base[FS] = APIC_PAGE
            with np.errstate(over="ignore"):
                update_mode(vcpu.engine.c)
        result = machine.run()
        assert result.reason == "debug-exit", (result, program.text)
        ram = machine.ram.tobytes()
        words = np.frombuffer(ram, np.uint32)
        times = program.n * program.rounds
        assert words[SUMS // 4 : SUMS // 4 + 8].tolist() == [n * times & 0xFFFF_FFFF for n in program.sums], program.text
        assert int.from_bytes(ram[GUARDED : GUARDED + 4], "little") == program.guarded * times, program.text
        own = [OWN + k * PRIVATE for k in range(program.n)]
        return {
            "own": [ram[at : at + PRIVATE - 4].hex() for at in own],  # without the number of its interrupts
            "retired": [vcpu.retired for vcpu in machine.vcpus],
            "time": machine.clock.now_ns,
            "ram": hashlib.sha256(ram).hexdigest(),
            "interrupts": words[COUNTS // 4 : COUNTS // 4 + 2].tolist(),
            "done": int(words[DONE // 4]),
        }


@pytest.mark.parametrize("seed", share(range(4), 1))
def test_random(seed: int, tmp_path: Path) -> None:
    program = SmpLoops(seed, 2 + seed % 2, ROUNDS)
    first = run(tmp_path, program, jit="handlers")
    for jit in ("stencils", "sync", "regions"):
        assert run(tmp_path, program, jit=jit) == first, f"{jit}\n{program.text}"
        at_once = run(tmp_path, program, jit=jit, smp_threads=True)
        assert at_once["own"] == first["own"], f"{jit}, at the same time\n{program.text}"
