"""The programs of tests/engine/debug_cases.py as a ROM: QEMU's log of #DB is ours, where QEMU models it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from jitvm.machine import Machine
from tests.boot.guests import config, rom
from tests.engine.assembler import assemble
from tests.engine.debug_cases import CASES, DB_HANDLER, LOG, UD_HANDLER, Case, source_of
from tests.fast_set import share
from tests.firmware.qemu import DEBUG_EXIT, QEMU, run_qemu
from tests.needs import need

BASE = 0xF0000
FINISH = f"""
    mov esi, {LOG}
    mov ecx, [{LOG}]
    lea ecx, [ecx*8 + 4]
    mov dx, 0xE9
    rep outsb
    mov al, 0x10
    out 0xF4, al
    hlt
"""
PROGRAM = """
start:
    cli
    lgdt cs:[gdtr - start]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xEA
    .long protected
    .word 8
    .align 8
gdt: .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
gdtr: .word 23
    .long gdt
idt: .fill 8, 1, 0
    .word on_db - start, 8, 0x8E00, 0xF
    .fill 32, 1, 0
    .word on_ud - start, 8, 0x8E00, 0xF
idtr: .word 55
    .long idt
    .code32
on_db: {db}
on_ud: {ud}
protected:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, 0x20000
    lidt [idtr]
    {case}
"""


def image(folder: Path, case: Case) -> Path:
    """The ROM of a case."""
    source = PROGRAM.format(db=DB_HANDLER, ud=UD_HANDLER, case=source_of(case).format(finish=FINISH))
    return rom(folder, assemble(source, BASE, 16).hex())


def entries(output: str) -> list[tuple[str, str]]:
    """The log that a run wrote to the debug port, in hex."""
    data = output.encode("latin-1")
    n = struct.unpack_from("<I", data)[0]
    assert len(data) == 4 + 8 * n
    return [(hex(eip), hex(bits)) for eip, bits in struct.iter_unpack("<II", data[4:])]


@pytest.mark.parametrize("name", share([name for name, case in CASES.items() if case.qemu], 4))
def test_log(name: str, tmp_path: Path) -> None:
    need(QEMU)
    bios = image(tmp_path, CASES[name])
    with Machine(config(bios)) as machine:
        assert machine.run().reason == "debug-exit"
        ours = machine.debug_output(0xE9).decode("latin-1")
    assert entries(ours) == entries(run_qemu(tmp_path, bios, *DEBUG_EXIT).debug)
