"""What CPUID says of sockets, cores and threads, by a ROM that jitvm and QEMU run with the same -smp."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from jitvm import option_values
from jitvm.machine import Machine
from tests.boot.guests import config, rom
from tests.engine.assembler import assemble
from tests.fast_set import share
from tests.firmware.qemu import DEBUG_EXIT, run_qemu
from tests.firmware.test_smp_qemu import BASE, TAKE_TURNS, image
from tests.needs import need

QEMU = "qemu-system-x86_64"
OUTPUT = """
    mov al, 0x10
    out 0xF4, al
    hlt
"""
ASK = """
    xor ax, ax
    mov ds, ax
    mov eax, {leaf}
    mov ecx, {subleaf}
    cpuid
    mov [0x600], eax
    mov [0x604], ebx
    mov [0x608], ecx
    mov [0x60C], edx
    mov dx, 0xE9
    mov si, 0x600
    mov cx, 16
    rep outsb
"""
SUBLEAVES = [(1, 0), *((4, k) for k in range(5)), *((11, k) for k in (0, 1, 2, 3, 0x1FE))]
SUBLEAVES += [(0x80000001, 0), (0x80000008, 0)]
TOPOLOGY = {1: (0, 0xFFFF_0000, 0, 1 << 28), 0x80000001: (0, 0, 1 << 1, 0), 0x80000008: (0, 0, 0xFFFF_FFFF, 0)}
"""Bits of EAX, EBX, ECX and EDX that belong here; of other leaves all do."""
MODELS = {"pentium3": ("pentium3", [1]), "core2duo": ("core2duo", [1, 4, 0x80000001, 0x80000008])} | {
    name: (theirs, [1, 4, 11, 0x80000001, 0x80000008])
    for name, theirs in (("nehalem", "Nehalem"), ("max", "max,vendor=GenuineIntel"))
}
"""Our models, QEMU's, and the leaves that both have."""
CASES = [
    ("max", "4"), ("nehalem", "cpus=4,sockets=2,cores=1,threads=2"), ("core2duo", "6,sockets=2,cores=3"), ("pentium3", "2"),
    *((model, smp) for model in MODELS for smp in ("1", "1,maxcpus=5", "12,cores=3,threads=2", "4,sockets=4")),
]  # fmt: skip


def answers(data: bytes) -> dict[tuple[int, int], tuple[int, ...]]:
    """EAX, EBX, ECX, EDX of each subleaf."""
    assert len(data) == 16 * len(SUBLEAVES)
    return {key: struct.unpack_from("<4I", data, 16 * k) for k, key in enumerate(SUBLEAVES)}


@pytest.mark.parametrize(("model", "smp"), share(CASES, 4))
def test_leaves_are_qemus(model: str, smp: str, tmp_path: Path) -> None:
    need(QEMU)
    code = "cli\n" + "".join(ASK.format(leaf=leaf, subleaf=subleaf) for leaf, subleaf in SUBLEAVES) + OUTPUT
    bios = rom(tmp_path, assemble(code, BASE, 16).hex())
    cpus, cores, threads = option_values.parse_smp(smp)
    with Machine(config(bios, cpu=model, smp=cpus, cores_per_socket=cores, threads_per_core=threads)) as machine:
        assert machine.run(10_000_000).reason == "debug-exit"
        found = answers(machine.debug_output(0xE9))
    theirs, leaves = MODELS[model]
    run_qemu(tmp_path, bios, "-smp", smp, "-cpu", theirs, *DEBUG_EXIT, program=QEMU)
    told = answers((tmp_path / "debug.txt").read_bytes())
    for (leaf, subleaf), registers in told.items():
        if leaf in leaves:
            masks = TOPOLOGY.get(leaf, (0xFFFF_FFFF,) * 4)
            both = found[leaf, subleaf], registers
            ours, qemus = ([value & mask for value, mask in zip(each, masks, strict=True)] for each in both)
            assert ours == qemus, f"leaf {leaf:x}h, subleaf {subleaf}"


WHO = """
    mov eax, 1
    cpuid
    shr ebx, 24
    lock bts [0x6030], ebx
    mov eax, 11
    mov ecx, 1
    cpuid
    lock bts [0x6034], edx
    mov eax, [edi + 0x20]
    shr eax, 24
    lock bts [0x6038], eax
    lock inc dword ptr [0x6004]
"""
"""A bit for each APIC ID in three places: by leaf 1, by leaf 0Bh, by the local APIC."""
TELL = "".join(f"mov eax, [{at:#x}]\n mov dx, 0xE9\n call number\n" for at in (0x6030, 0x6034, 0x6038))


def test_apic_ids_have_gaps_where_a_socket_is_no_power_of_two(tmp_path: Path) -> None:
    need(QEMU)
    main = f"call start_others\n {WHO} 1: pause\n cmp dword ptr [0x6004], 7\n jb 1b\n {TELL}"
    bios = image(tmp_path, main, WHO)
    with Machine(config(bios, smp=7, cores_per_socket=3)) as machine:
        assert machine.run(90_000_000).reason == "debug-exit"
        found = machine.debug_output(0xE9).decode()
    assert found == f"{0b1_0111_0111:08X}\n" * 3
    smp = ("-smp", "7,maxcpus=9,sockets=3,cores=3", "-cpu", "max,vendor=GenuineIntel")
    assert run_qemu(tmp_path, bios, *smp, *TAKE_TURNS, *DEBUG_EXIT, program=QEMU).debug == found
