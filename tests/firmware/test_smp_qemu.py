"""Several processors on the whole board: ROMs of ours on jitvm and on QEMU, and the same run twice.

Source: Intel SDM vol. 3, 8.4 (INIT, SIPI), 8.1 (LOCK), 8.1.3 (cross-modifying code).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from jitvm.checkpoint import restore, take
from jitvm.errors import ConfigError
from jitvm.machine import Machine
from tests.boot.guests import config, rom
from tests.engine.assembler import assemble
from tests.fast_set import share
from tests.firmware.flat_rom import DESCRIPTORS, SEGMENTS, enter
from tests.firmware.qemu import DEBUG_EXIT, QEMU, run_qemu
from tests.needs import need

BASE = 0xF0000
TAKE_TURNS = ("-icount", "shift=1,sleep=off")
"""QEMU 7.2 with a thread for each processor may run code that another one has just overwritten."""
PROGRAM = f"""
start:
    cli
    xor ax, ax
    mov es, ax
    mov di, 0x8000
    mov si, offset trampoline - start
    mov cx, 64
    rep movsb es:[di], cs:[si]{enter("gdtr - start", "protected")}
trampoline:{enter("trampoline_gdtr - trampoline", "other")}
trampoline_gdtr: .word 23
    .long gdt
    .align 8
gdt: .quad {DESCRIPTORS}
gdtr: .word 23
    .long gdt
idtr: .word 0x7FF
    .long 0x1000
    .code32
segments:{SEGMENTS}
    mov edi, 0xFEE00000
    mov dx, 0xE9
    lidt [idtr]
    mov dword ptr [edi + 0xF0], 0x1FF
    jmp ebp
other:
    mov ebp, offset 1f
    jmp segments
1:  mov esp, [edi + 0x20]
    shr esp, 12
    add esp, 0x40000
    {{other}}
    cli
2:  hlt
    jmp 2b
protected:
    mov ebp, offset 1f
    jmp segments
1:  mov esp, 0x20000
    mov eax, offset on_ipi
    and eax, 0xFFFF
    or eax, 0x80000
    mov [0x1000 + 8*0x40], eax
    mov eax, offset on_ipi
    mov ax, 0x8E00
    mov [0x1000 + 8*0x40 + 4], eax
    {{main}}
    mov al, 0x10
    out 0xF4, al
    hlt
on_ipi:
    lock inc dword ptr [0x6010]
    mov dword ptr [edi + 0xB0], 0
    iretd
start_others:
    mov dword ptr [edi + 0x300], 0xC4500
    mov ecx, 3000000
1:  loop 1b
    mov dword ptr [edi + 0x300], 0xC4608
    mov ecx, 1000000
1:  loop 1b
    mov dword ptr [edi + 0x300], 0xC4608
    ret
number:
    mov ebx, eax
    mov ecx, 8
1:  rol ebx, 4
    mov al, bl
    and al, 15
    add al, '0'
    cmp al, '9'
    jbe 2f
    add al, 7
2:  out dx, al
    loop 1b
    mov al, 10
    out dx, al
    ret
"""
COUNT = """
    mov ecx, 3000
1:  lock inc dword ptr [0x6000]
    inc dword ptr [0x6100 + {own}]
    loop 1b
    lock inc dword ptr [0x6004]
"""
TIME = """
    mov ecx, 6000
1:  xor eax, eax
2:  inc eax
    xchg [0x6040], eax
    test eax, eax
    jz 3f
    pause
    jmp 2b
3:  mov ebx, edx
    rdtsc
    cmp edx, [0x604C]
    jne 4f
    cmp eax, [0x6048]
4:  jae 5f
    inc dword ptr [0x6050]
5:  mov [0x6048], eax
    mov [0x604C], edx
    mov edx, ebx
    mov dword ptr [0x6040], 0
    loop 1b
    lock inc dword ptr [0x6004]
"""
"""Each time that this vCPU gets the lock its TSC is not below what the one before it saw; else [6050h] counts."""
CASES = {
    "time does not go back from one processor to the next": (
        f"call start_others\n{TIME} 1: pause\n cmp dword ptr [0x6004], 3\n jne 1b\n mov eax, [0x6050]\n call number\n",
        TIME,
        "00000000\n",
    ),
    "locked": (
        "call start_others\n" + COUNT.format(own="0") + "2: pause\n cmp dword ptr [0x6004], 3\n jne 2b\n"
        "mov eax, [0x6000]\n call number\n",
        COUNT.format(own="0x40"),
        "00002328\n",
    ),
    "interrupts to halted processors": (
        "call start_others\n 2: pause\n cmp dword ptr [0x6008], 2\n jne 2b\n mov esi, 5\n"
        "3: mov dword ptr [edi + 0x300], 0xC4040\n mov eax, [0x6010]\n add eax, 2\n"
        "4: pause\n cmp [0x6014], esi\n cmp dword ptr [0x6010], 10\n je 5f\n mov ecx, 200000\n 6: loop 6b\n"
        "dec esi\n jnz 3b\n 5: mov eax, [0x6010]\n call number\n",
        "lock inc dword ptr [0x6008]\n 1: sti\n hlt\n jmp 1b\n",
        "0000000A\n",
    ),
    "code that another one writes": (
        "mov dword ptr [0x7000], 0x000001B8\n mov dword ptr [0x7004], 0x0000C300\n call start_others\n"
        "mov ebx, 0\n 1: inc ebx\n mov [0x7001], ebx\n mov [0x6020], ebx\n"
        "2: pause\n cmp [0x6024], ebx\n jne 2b\n cmp ebx, 40\n jne 1b\n mov eax, [0x6028]\n call number\n",
        "mov eax, [edi + 0x20]\n cmp eax, 0x01000000\n jne 3f\n mov ebx, 0\n"
        "1: inc ebx\n 2: mov eax, 0x7000\n call eax\n pause\n cmp [0x6020], ebx\n jne 2b\n cpuid_\n mov eax, 0x7000\n"
        "call eax\n cmp eax, [0x6020]\n jne 3f\n inc dword ptr [0x6028]\n mov ebx, [0x6020]\n mov [0x6024], ebx\n"
        "jmp 1b\n 3:\n".replace("cpuid_", "push ebx\n cpuid\n pop ebx"),
        "00000028\n",
    ),
    "code that another one copies": (
        "mov dword ptr [0x5000], 0x000001B8\n mov dword ptr [0x5004], 0x0000C300\n mov ebx, 0\n call copy\n"
        "call start_others\n 1: inc ebx\n call copy\n mov [0x6020], ebx\n"
        "2: pause\n cmp [0x6024], ebx\n jne 2b\n cmp ebx, 40\n jne 1b\n mov eax, [0x6028]\n call number\n jmp 9f\n"
        "copy: push edi\n mov [0x5001], ebx\n mov esi, 0x5000\n mov edi, 0x7000\n mov ecx, 0x1000 / 4\n rep movsd\n"
        "pop edi\n ret\n 9:\n",
        "mov eax, [edi + 0x20]\n cmp eax, 0x01000000\n jne 3f\n mov ebx, 0\n"
        "1: inc ebx\n 2: mov eax, 0x7000\n call eax\n pause\n cmp [0x6020], ebx\n jne 2b\n push ebx\n cpuid\n pop ebx\n"
        "mov eax, 0x7000\n call eax\n cmp eax, [0x6020]\n jne 3f\n inc dword ptr [0x6028]\n mov ebx, [0x6020]\n"
        "mov [0x6024], ebx\n jmp 1b\n 3:\n",
        "00000028\n",
    ),
    "a running processor starts again": (
        "call start_others\n 1: pause\n cmp dword ptr [0x6004], 2\n jb 1b\n call start_others\n"
        "2: pause\n cmp dword ptr [0x6004], 4\n jb 2b\n mov eax, [0x6004]\n call number\n",
        "lock inc dword ptr [0x6004]\n 1: jmp 1b\n",
        "00000004\n",
    ),
    "who is who": (
        "mov eax, 1\n cpuid\n shr ebx, 24\n mov eax, ebx\n mov dx, 0xE9\n call number\n"
        "mov ecx, 0x1B\n rdmsr\n mov dx, 0xE9\n call number\n"
        "call start_others\n 1: pause\n cmp dword ptr [0x6004], 2\n jb 1b\n mov eax, [0x6030]\n call number\n"
        "mov eax, [0x6034]\n call number\n",
        "mov eax, 1\n cpuid\n shr ebx, 24\n mov esi, ebx\n mov ecx, 0x1B\n rdmsr\n mov [0x602C + esi*4], eax\n"
        "lock inc dword ptr [0x6004]\n",
        "00000000\nFEE00900\nFEE00800\nFEE00800\n",
    ),
}


def image(folder: Path, main: str, other: str) -> Path:
    """The ROM of a case."""
    return rom(folder, assemble(PROGRAM.format(main=main, other=other), BASE, 16).hex())


@pytest.mark.parametrize("name", share(CASES, 4))
def test_programs(name: str, tmp_path: Path) -> None:
    need(QEMU)
    main, other, wanted = CASES[name]
    bios = image(tmp_path, main, other)
    runs = []
    for _ in range(2):
        with Machine(config(bios, smp=3)) as machine:
            assert machine.run(90_000_000).reason == "debug-exit"
            assert machine.debug_output(0xE9).decode() == wanted
            counts = [vcpu.retired for vcpu in machine.vcpus]
            runs.append(
                (counts, machine.clock.now_ns, hashlib.sha256(machine.memory.bytes[:0x100000].tobytes()).hexdigest())
            )
    assert runs[0] == runs[1], "the same run twice"
    assert all(runs[0][0])
    assert run_qemu(tmp_path, bios, "-smp", "3", *TAKE_TURNS, *DEBUG_EXIT).debug == wanted


def test_data_beside_the_code_of_others_drops_none_of_it(tmp_path: Path) -> None:
    main = (
        "mov dword ptr [0x7000], 0x0000C340\n call start_others\n 1: inc dword ptr [0x7800]\n"
        "cmp dword ptr [0x6004], 2\n jne 1b\n mov eax, [0x6028]\n call number\n"
    )
    other = (
        "mov ecx, 200000\n xor eax, eax\n 1: mov ebx, 0x7000\n call ebx\n loop 1b\n lock add [0x6028], eax\n"
        "lock inc dword ptr [0x6004]\n"
    )
    with Machine(config(image(tmp_path, main, other), smp=3)) as machine:
        assert machine.run(90_000_000).reason == "debug-exit"
        assert machine.debug_output(0xE9).decode() == f"{400_000:08X}\n"
        assert sum(int(vcpu.engine.c.stat_dropped) for vcpu in machine.vcpus) == 0


def test_after_a_reset_all_processors_have_the_same_time(tmp_path: Path) -> None:
    main, other, wanted = CASES["time does not go back from one processor to the next"]
    with Machine(config(image(tmp_path, main, other), smp=3)) as machine:
        assert machine.run(3_000_000).reason == "max-insns"
        machine.reset()
        machine.write_memory(0x6000, bytes(0x100))
        assert machine.run(90_000_000).reason == "debug-exit"
        assert machine.debug_output(0xE9).decode() == wanted


def test_a_lock_that_is_nearly_always_held(tmp_path: Path) -> None:
    """A loop of ten instructions, which divide 100 us: the lock is free during one.  QEMU's icount never ends."""
    main = """
        lock bts dword ptr [0x6040], 0
        call start_others
    1:  mov dword ptr [0x6040], 0
        lock bts dword ptr [0x6040], 0
        jc 1b
        nop
        nop
        nop
        nop
        nop
        cmp dword ptr [0x6004], 2
        jne 1b
        mov eax, [0x6004]
        call number
    """
    other = """
    1:  pause
        lock bts dword ptr [0x6040], 0
        jc 1b
        inc dword ptr [0x6004]
        mov dword ptr [0x6040], 0
    """
    with Machine(config(image(tmp_path, main, other), smp=3)) as machine:
        assert machine.run(90_000_000).reason == "debug-exit"
        assert machine.debug_output(0xE9) == b"00000002\n"


def test_a_checkpoint_holds_whose_turn_it_is(tmp_path: Path) -> None:
    main, other, wanted = CASES["code that another one writes"]
    with Machine(config(image(tmp_path, main, other), smp=3)) as machine:
        assert machine.run(4_123_456).reason == "max-insns"
        checkpoint = take(machine)
        ends = []
        for _ in range(2):
            assert machine.run(90_000_000).reason == "debug-exit"
            ends.append(([vcpu.retired for vcpu in machine.vcpus], machine.clock.now_ns))
            assert machine.debug_output(0xE9).decode().endswith(wanted)
            restore(machine, checkpoint)
        assert ends[0] == ends[1]


def test_processors_need_an_apic(tmp_path: Path) -> None:
    bios = image(tmp_path, "", "")
    with pytest.raises(ConfigError, match="need a local APIC"):
        Machine(config(bios, smp=2, cpu="486"))
