"""The tables as firmware puts them into memory: whole, true of the board, and the same as QEMU's where both have them."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from jitvm import board, option_values
from jitvm.acpi.tables import FADT_DSDT, LOADER, RSDP, TABLES
from jitvm.devices import fwcfg
from jitvm.devices.fwcfg import FwCfg
from jitvm.machine import Machine
from tests.acpi.linker import Linker, tables
from tests.boot.guests import config, rom
from tests.engine.assembler import assemble
from tests.fast_set import share
from tests.firmware.qemu import DEBUG_EXIT, run_qemu
from tests.needs import need

QEMU = "qemu-system-x86_64"
HEADER = 36
FLAGS_AT = 112
LOCAL_APIC = 0
RTC_S4_WAKE = 1 << 7
N_KEYS, PART = 24, 0x4000
"""Of fw_cfg's files, and of the bytes of each, so many are read: more than any has here."""
DUMP = f"""
    cli
    mov eax, 0x80000B40
    mov dx, 0xCF8
    out dx, eax
    mov eax, 0x601
    mov dx, 0xCFC
    out dx, eax
    mov eax, 0x80000B80
    mov dx, 0xCF8
    out dx, eax
    mov al, 1
    mov dx, 0xCFC
    out dx, al
    mov ax, 0x1000
    mov ds, ax
    mov es, ax
    cld
    mov bx, {fwcfg.FILE_DIR}
    call dump
    mov bx, {fwcfg.FILE_FIRST}
1:  call dump
    inc bx
    cmp bx, {fwcfg.FILE_FIRST + N_KEYS}
    jne 1b
    mov al, 0x10
    out 0xF4, al
    hlt
dump:
    mov ax, bx
    mov dx, 0x510
    out dx, ax
    inc dx
    xor di, di
    mov cx, {PART}
    rep insb
    mov dx, 0xE9
    xor si, si
    mov cx, {PART}
    rep outsb
    ret
"""
"""Power management at 600h; then the directory and the beginning of each file go to the debug port."""


def files_of(cfg: FwCfg) -> dict[str, bytes]:
    """What a guest reads of the three files."""
    found = {}
    for name, key in cfg.files().items():
        if name in (TABLES, RSDP, LOADER):
            cfg.select(key)
            found[name] = cfg.take(struct.unpack(">I", directory_entry(cfg, key)[:4])[0])
    return found


def directory_entry(cfg: FwCfg, key: int) -> bytes:
    cfg.select(fwcfg.FILE_DIR)
    cfg.take(4 + 64 * (key - fwcfg.FILE_FIRST))
    entry = cfg.take(64)
    cfg.select(key)
    return entry


def loaded(machine: Machine) -> dict[str, bytes]:
    """A machine's tables by signature."""
    files = files_of(machine.board.fw_cfg)
    return tables(Linker(files, files[LOADER]).memory)


def entries(madt: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and bytes of each."""
    at = HEADER + 8
    while at < len(madt):
        yield madt[at], madt[at : at + madt[at + 1]]
        at += madt[at + 1]


def read_by_a_guest(output: bytes) -> dict[str, bytes]:
    """The files of a run of DUMP, as much of them as it told."""
    parts = [output[k : k + PART] for k in range(0, len(output), PART)]
    assert len(parts) == 1 + N_KEYS
    (n,) = struct.unpack_from(">I", parts[0])
    found = [fwcfg.DIRECTORY_ENTRY.unpack_from(parts[0], 4 + 64 * k) for k in range(n)]
    sizes = {name.rstrip(b"\0").decode(): (key, size) for size, key, _, name in found}
    return {name: parts[1 + key - fwcfg.FILE_FIRST][:size].ljust(size, b"\0") for name, (key, size) in sizes.items()}


@functools.cache
def image(folder: Path) -> Path:
    return rom(folder, assemble(DUMP, 0xF0000, 16).hex())


def test_the_script_makes_whole_tables() -> None:
    with Machine(config(None, smp=3)) as machine:
        found = loaded(machine)
    assert set(found) == {"RSDP", "RSDT", "FACP", "FACS", "DSDT", "APIC"}
    assert len(found["FACP"]) == 116 and len(found["FACS"]) == 64
    assert [body[3] for kind, body in entries(found["APIC"]) if kind == LOCAL_APIC] == [0, 1, 2]


def test_no_madt_without_an_apic() -> None:
    with Machine(config(None, cpu="pentium")) as machine:
        assert set(loaded(machine)) == {"RSDP", "RSDT", "FACP", "FACS", "DSDT"}


def test_power_management_is_where_firmware_has_put_it() -> None:
    """Also behind a reset, before which it was elsewhere."""
    with Machine(config(None)) as machine:
        pm = machine.board.pm
        for base in (0x600, 0xB000):
            pm.config_write(0x40, 4, base | 1)
            facp = loaded(machine)["FACP"]
            assert struct.unpack_from("<I4xI4x4xII", facp, 56) == (base, base + 4, base + 8, 0xAFE0)
        machine.board.reset()
        assert struct.unpack_from("<I", loaded(machine)["FACP"], 56) == (board.PM_BASE,)


def test_a_checkpoint_in_the_middle_of_a_read() -> None:
    """What is being read stays what it was, wherever power management is by then."""
    with Machine(config(None)) as machine:
        cfg, pm = machine.board.fw_cfg, machine.board.pm
        pm.config_write(0x40, 4, 0xB001)
        cfg.select(cfg.files()[TABLES])
        half = cfg.take(0x100)
        state = cfg.snapshot()
        rest = cfg.take(0x1F00)
        pm.config_write(0x40, 4, 0x601)
        cfg.select(cfg.files()[TABLES])
        assert half + rest != cfg.take(0x2000)
        cfg.restore(state)
        assert cfg.take(0x1F00) == rest


@pytest.mark.parametrize("smp", share(["4", "1", "6,sockets=2,cores=3", "12"], 2))
def test_fixed_tables_are_qemus(smp: str, tmp_path: Path) -> None:
    """But for names, and for what of the PIIX4 is not there: the RTC wakes nobody from S4."""
    need(QEMU)
    bios = image(tmp_path)
    cpus, cores, threads = option_values.parse_smp(smp)
    with Machine(config(bios, smp=cpus, cores_per_socket=cores, threads_per_core=threads)) as machine:
        assert machine.run().reason == "debug-exit"
        ours = read_by_a_guest(machine.debug_output(0xE9))
    run_qemu(tmp_path, bios, "-nodefaults", "-m", "32M", "-smp", smp, "-M", "hpet=off", *DEBUG_EXIT, program=QEMU)
    theirs = read_by_a_guest((tmp_path / "debug.txt").read_bytes())
    found, told = (tables(Linker(files, files[LOADER]).memory) for files in (ours, theirs))
    assert set(told) - set(found) == {"WAET"} and set(found) <= set(told)
    assert len(ours[TABLES]) == len(theirs[TABLES])
    assert found["APIC"][HEADER:] == told["APIC"][HEADER:]
    (flags,) = struct.unpack_from("<I", told["FACP"], FLAGS_AT)
    body = told["FACP"][FADT_DSDT + 4 : FLAGS_AT] + struct.pack("<I", flags & ~RTC_S4_WAKE)
    assert found["FACP"][FADT_DSDT + 4 :] == body
    assert [found[name][8] for name in ("FACP", "APIC", "DSDT", "RSDT")] == [
        told[name][8] for name in ("FACP", "APIC", "DSDT", "RSDT")
    ]
