"""The programs of tests/engine/debug_cases.py as ROMs: QEMU's and Bochs' logs of #DB are ours, where they model it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from jitvm.machine import Machine
from tests.boot.bochs import run_bochs
from tests.boot.guests import config, rom
from tests.engine.assembler import assemble
from tests.engine.debug_cases import CASES, DB_HANDLER, LOG, UD_HANDLER, Case, source_of
from tests.fast_set import share
from tests.firmware.flat_rom import FLAT, START
from tests.firmware.qemu import DEBUG_EXIT, QEMU, run_qemu
from tests.needs import need

BASE = 0xF0000
MARK = "log:"
"""Before the log, where others write to the same place."""
FINISH = f"""
    mov dx, 0xE9
    {"".join(f"mov al, {ord(c)}; out dx, al; " for c in MARK)}
    mov esi, {LOG}
    mov ecx, [{LOG}]
    lea ecx, [ecx*8 + 4]
    mov dx, 0xE9
    rep outsb
    mov dx, 0x8900
    {"".join(f"mov al, {ord(c)}; out dx, al; " for c in "Shutdown")}
    mov al, 0x10
    out 0xF4, al
    hlt
"""
RF_OF_A_FAULT = "a fault, in whose image RF is set (vol. 3, 17.3.1.1, 17.3.1.3; QEMU does so)"
BOCHS_DIFFERS = {
    "rep movsb, in the middle": "RF is set in the image of a trap between two iterations (vol. 3, 17.3.1.1; as on silicon)",
    "general detect": RF_OF_A_FAULT,
    "general detect takes away earlier ones": RF_OF_A_FAULT,
}
PROGRAM = (
    START
    + """idt: .fill 8, 1, 0
    .word on_db - start, 8, 0x8E00, 0xF
    .fill 32, 1, 0
    .word on_ud - start, 8, 0x8E00, 0xF
idtr: .word 55
    .long idt
    .code32
on_db: {db}
on_ud: {ud}
"""
    + FLAT
    + """    lidt [idtr]
    {case}
"""
)


def image(folder: Path, case: Case) -> Path:
    """The ROM of a case."""
    source = PROGRAM.format(db=DB_HANDLER, ud=UD_HANDLER, case=source_of(case).format(finish=FINISH))
    return rom(folder, assemble(source, BASE, 16).hex())


def entries(output: str) -> list[tuple[str, str]]:
    """The log that a run wrote to the debug port, in hex."""
    data = output[output.index(MARK) + len(MARK) :].encode("latin-1")
    n = struct.unpack_from("<I", data)[0]
    return [(hex(eip), hex(bits)) for eip, bits in struct.iter_unpack("<II", data[4 : 4 + 8 * n])]


@pytest.mark.parametrize("name", share([name for name, case in CASES.items() if case.qemu], 4))
def test_log(name: str, tmp_path: Path) -> None:
    need(QEMU)
    bios = image(tmp_path, CASES[name])
    with Machine(config(bios)) as machine:
        assert machine.run().reason == "debug-exit"
        ours = machine.debug_output(0xE9).decode("latin-1")
    assert entries(ours) == entries(run_qemu(tmp_path, bios, *DEBUG_EXIT).debug)


@pytest.mark.parametrize("name", share(CASES, 2))
def test_log_on_bochs(name: str, tmp_path: Path) -> None:
    bios = image(tmp_path, CASES[name])
    with Machine(config(bios, cpu="max")) as machine:
        assert machine.run().reason == "debug-exit"
        ours = machine.debug_output(0xE9).decode("latin-1")
    assert (entries(ours) == entries(run_bochs(tmp_path, bios))) != (name in BOCHS_DIFFERS)
