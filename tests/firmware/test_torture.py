"""Processors that get in each other's way, in turns and at the same time: what must never happen is counted by the guest.

Each program ends when all have done their rounds, and tells what it counted; the numbers do not depend on who was first.

Source: Intel SDM vol. 3, 8.1 (locked operations), 8.1.3 (cross-modifying code), 8.2.2 (memory ordering), 4.8 (accessed and
dirty flags), 4.10.5 (propagation of paging-structure changes); Peterson, "Myths about the mutual exclusion problem" (1981).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from jitvm.machine import Machine
from tests.boot.guests import config
from tests.fast_set import share
from tests.firmware.test_smp_qemu import image

ROUNDS, TAKEN, CPUS = 100_000, 8_000, 3
START = "call start_others\n"
READY, GO, DONE = "dword ptr [0x6208]", "dword ptr [0x6200]", "dword ptr [0x6004]"


class Torture(NamedTuple):
    """What every processor does (`both`; `main` and `other` before it), and the words from 6100h on at the end."""

    both: str
    wanted: tuple[int, ...]
    main: str = ""
    other: str = ""
    after: str = ""
    """What the first one does when all are done."""
    cpus: int = CPUS
    least: tuple[tuple[str, int], ...] = ()
    """How often the processors had to stand at least, by what for, where they run at the same time."""


def whole(t: Torture) -> tuple[str, str]:
    """The programs of the first processor, and of the others."""
    told = "".join(f"mov eax, [{0x6100 + 4 * k:#x}]\n mov dx, 0xE9\n call number\n" for k in range(len(t.wanted)))
    wait = f"lock inc {DONE}\n 99: pause\n cmp {DONE}, {t.cpus}\n jne 99b\n" + t.after
    begin = f"lock inc {READY}\n 98: pause\n cmp {READY}, {t.cpus}\n jne 98b\n" if t.both else ""
    return START + t.main + begin + t.both + wait + told, t.other + begin + t.both + f"lock inc {DONE}\n"


FENCES = {"lock": "lock or dword ptr [esp], 0", "mfence": "mfence", "cpuid": "push ebx\n cpuid\n pop ebx"}
PETERSON = f"""
    mov esi, [edi + 0x20]
    shr esi, 24
    mov ebp, esi
    xor ebp, 1
    mov dword ptr [0x6308 + esi*4], {TAKEN}
1:  mov dword ptr [0x6180 + esi*4], 1
    mov [0x6190], ebp
    {{fence}}
2:  cmp dword ptr [0x6180 + ebp*4], 0
    je 3f
    cmp [0x6190], ebp
    je 2b
3:  mov eax, [0x6100]
    inc eax
    mov [0x6100], eax
    mov dword ptr [0x6180 + esi*4], 0
    dec dword ptr [0x6308 + esi*4]
    jnz 1b
"""
COUNTED = f"mov esi, {ROUNDS}\n"
MODIFY = f"""
    mov ebp, [edi + 0x20]
    shr ebp, 24
    mov esi, 100
1:  mov eax, [0x6100]
    xor edx, edx
    mov ecx, {CPUS}
    div ecx
    cmp edx, ebp
    je 3f
    mov eax, 0x7000
    call eax
    jmp 1b
3:  xor eax, eax
    cpuid
    mov eax, 0x7000
    call eax
    cmp eax, [0x6100]
    je 4f
    inc dword ptr [0x6104]
4:  mov eax, [0x6100]
    inc eax
    mov [0x7001], eax
    mov [0x6100], eax
    dec esi
    jnz 1b
"""
PAGED = """
    mov dword ptr [0x200000], 0x83
    mov dword ptr [0x200000 + 0x100*4], 0x201003
    mov dword ptr [0x200000 + 0x3FB*4], 0xFEC00083
    mov dword ptr [0x300000], 0
    mov dword ptr [0x301000], 1
    mov dword ptr [0x302000], 2
    mov dword ptr [0x201000], 0x300003
    mov ecx, offset {handler}
    and ecx, 0xFFFF
    or ecx, 0x80000
    mov [0x1000 + 8*{vector}], ecx
    mov ecx, offset {handler}
    mov cx, 0x8E00
    mov [0x1000 + 8*{vector} + 4], ecx
    jmp 8f
{handler}:
    {code}
    iretd
8:
"""
ON = """
    mov eax, 0x200000
    mov cr3, eax
    mov eax, cr4
    or al, 0x10
    mov cr4, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
"""
SHOOT = "push eax\n invlpg [0x40000000]\n lock inc dword ptr [0x6180]\n mov dword ptr [edi + 0xB0], 0\n pop eax"
SHOOT_DOWNS = 60
WAIT = f"9: pause\n cmp {GO}, 1\n jne 9b\n"
NODES = f"""
    mov eax, 0x9000
    mov ecx, 8
1:  lea ebx, [eax + 8]
    mov [eax], ebx
    mov eax, ebx
    loop 1b
    mov dword ptr [0x9038], 0
    mov dword ptr [0x6180], 0x9000
    mov {GO}, 1
"""
"""A list of eight nodes: the next one, and how often it was taken."""
CALL = "mov eax, 0x7000\n call eax\n"


def function(value: int) -> str:
    """Code at 7000h that returns a value."""
    return f"mov dword ptr [0x7000], {0xB8 | value << 8}\n mov dword ptr [0x7004], 0xC300\n mov {GO}, 1\n{CALL}"


TORTURES = {
    "locks": Torture(
        COUNTED + "1: mov eax, 1\n 2: xchg eax, [0x6180]\n test eax, eax\n jz 3f\n pause\n mov eax, 1\n jmp 2b\n"
        "3: mov ebx, [0x6100]\n inc ebx\n mov ecx, [0x6104]\n add ecx, 2\n mov [0x6100], ebx\n mov [0x6104], ecx\n"
        "mov dword ptr [0x6180], 0\n dec esi\n jnz 1b\n",
        (CPUS * ROUNDS, 2 * CPUS * ROUNDS),
    ),
    "all kinds of locked counting": Torture(
        COUNTED + "1: lock inc dword ptr [0x6100]\n lock add dword ptr [0x6104], 3\n lock sub dword ptr [0x6108], 1\n"
        "mov eax, 2\n lock xadd [0x610C], eax\n lock adc byte ptr [0x6110], 0\n lock inc word ptr [0x6114]\n"
        "2: mov eax, [0x6118]\n lea ecx, [eax + 5]\n lock cmpxchg [0x6118], ecx\n jne 2b\n"
        "3: mov eax, [0x6180]\n mov edx, [0x6184]\n mov ebx, eax\n mov ecx, edx\n add ebx, 0x40000001\n adc ecx, 1\n"
        "lock cmpxchg8b [0x6180]\n jne 3b\n dec esi\n jnz 1b\n"
        "mov ecx, 8\n 4: lock bts [0x6124], ecx\n inc ecx\n cmp ecx, 20\n jne 4b\n",
        (
            CPUS * ROUNDS,
            3 * CPUS * ROUNDS,
            -CPUS * ROUNDS,
            2 * CPUS * ROUNDS,
            0,
            CPUS * ROUNDS & 0xFFFF,
            5 * CPUS * ROUNDS,
            CPUS * ROUNDS * 0x140000001,
            CPUS * ROUNDS * 0x140000001 >> 32,
            0xFFF00,
        ),
        after="mov eax, [0x6180]\n mov [0x611C], eax\n mov eax, [0x6184]\n mov [0x6120], eax\n",
    ),
    "over lines and pages": Torture(
        "mov esi, 200\n 1: lock inc dword ptr [0x61FE]\n lock add dword ptr [0x8FFD], 3\n lock inc word ptr [0x6141]\n"
        "dec esi\n jnz 1b\n",
        (CPUS * 200, CPUS * 600, CPUS * 200),
        after="mov eax, [0x61FE]\n mov [0x6100], eax\n mov eax, [0x8FFD]\n mov [0x6104], eax\n"
        "movzx eax, word ptr [0x6141]\n mov [0x6108], eax\n",
        least=(("alone", CPUS * 600),),
    ),
    **{
        f"Peterson's algorithm, {name}": Torture(PETERSON.format(fence=fence), (2 * TAKEN,), cpus=2)
        for name, fence in FENCES.items()
    },
    "a stack by CMPXCHG8B": Torture(  # nodes of 8 bytes from 9000h on, the top and how often it changed at 6180h
        COUNTED
        + "1: mov eax, [0x6180]\n mov edx, [0x6184]\n test eax, eax\n jz 3f\n mov ebx, [eax]\n lea ecx, [edx + 1]\n"
        "lock cmpxchg8b [0x6180]\n jne 1b\n mov ebp, eax\n inc dword ptr [ebp + 4]\n"
        "2: mov eax, [0x6180]\n mov edx, [0x6184]\n mov [ebp], eax\n mov ebx, ebp\n lea ecx, [edx + 1]\n"
        "lock cmpxchg8b [0x6180]\n jne 2b\n lock inc dword ptr [0x6100]\n 3: dec esi\n jnz 1b\n",
        (CPUS * ROUNDS,),
        main=NODES,
        other=WAIT,
    ),
    "messages": Torture(
        "",
        (0,),
        cpus=2,
        main=f"mov ecx, {40 * ROUNDS}\n xor eax, eax\n 1: inc eax\n mov [0x6180], eax\n mov [0x61C0], eax\n loop 1b\n",
        other=f"1: mov eax, [0x61C0]\n mov ebx, [0x6180]\n cmp ebx, eax\n jae 2f\n inc dword ptr [0x6100]\n"
        f"2: cmp eax, {40 * ROUNDS}\n jne 1b\n",
    ),
    "code that all write": Torture(
        MODIFY,
        (CPUS * 100, 0),
        main=function(0),
        other=WAIT + CALL,  # the others have translated it when the first one writes
        least=(("alone", 1), ("code", 3)),
    ),
    "code and data on one page": Torture(
        "mov esi, 150\n 1: mov eax, 0x7000\n call eax\n add [0x7800], esi\n lock add [0x7804], eax\n dec esi\n jnz 1b\n",
        (CPUS * 150 * 7,),
        main=function(7),
        other=WAIT + CALL,
        after="mov eax, [0x7804]\n mov [0x6100], eax\n",
    ),
    "shoot-downs": Torture(
        "",
        (SHOOT_DOWNS, 0),
        cpus=2,
        main=PAGED.format(handler="shoot", vector=0x41, code=SHOOT)
        + ON
        + f"""
    mov dword ptr [0x6200], 1
9:  pause
    cmp {READY}, 1
    jne 9b
    mov esi, {SHOOT_DOWNS}
1:  mov eax, [0x6100]
    inc eax
    mov ecx, eax
    xor edx, edx
    mov ebx, 3
    div ebx
    shl edx, 12
    lea ebx, [edx + 0x300000]
    mov [ebx], ecx
    or ebx, 3
    mov [0x201000], ebx
    invlpg [0x40000000]
    mov dword ptr [0x6180], 0
    mov dword ptr [edi + 0x300], 0xC4041
2:  pause
    cmp dword ptr [0x6180], 1
    jne 2b
    mov [0x6100], ecx
    dec esi
    jnz 1b
""",
        other="9: pause\n cmp dword ptr [0x6200], 1\n jne 9b\n"
        + ON
        + f"""
    sti
    lock inc {READY}
1:  mov eax, [0x6100]
    mov ebx, [0x40000000]
    sub ebx, eax
    jns 2f
    inc dword ptr [0x6104]
2:  cmp eax, {SHOOT_DOWNS}
    jne 1b
    cli
""",
    ),
    "accessed and dirty bits": Torture(  # an entry that is cleared stays so, whatever the other one's page walks do
        "",
        (0,),
        cpus=2,
        main=PAGED.format(handler="absent", vector=14, code="add esp, 4")
        + ON
        + f"""
    mov dword ptr [0x6200], 1
    xor edx, edx
1:  xor eax, eax
    xchg eax, [0x201000]
    mov ecx, 20
2:  or edx, [0x201000]
    dec ecx
    jnz 2b
    mov dword ptr [0x201000], 0x300003
    cmp dword ptr [0x300004], {ROUNDS // 5}
    jb 1b
    test edx, edx
    setnz byte ptr [0x6100]
    mov dword ptr [0x6204], 1
""",
        other="9: pause\n cmp dword ptr [0x6200], 1\n jne 9b\n"
        + ON
        + """
1:  inc dword ptr [0x40000004]
    invlpg [0x40000000]
    cmp dword ptr [0x6204], 1
    jne 1b
""",
    ),
    "interrupts to halted processors, each answered": Torture(
        "",
        (120,),
        cpus=2,
        main=f"""
9:  pause
    cmp {READY}, 1
    jne 9b
    mov esi, 120
1:  mov eax, [0x6010]
    mov dword ptr [edi + 0x300], 0xC4040
2:  pause
    cmp [0x6010], eax
    je 2b
    mov ecx, esi
    and ecx, 63
    inc ecx
3:  loop 3b
    dec esi
    jnz 1b
    mov {GO}, 1
    mov eax, [0x6010]
    mov [0x6100], eax
    mov dword ptr [edi + 0x300], 0xC4040
""",
        other=f"lock inc {READY}\n 1: sti\n hlt\n cmp {GO}, 1\n jne 1b\n cli\n",
    ),
    "a halted processor's timer while another one runs": Torture(
        "",
        (50,),
        cpus=2,
        main="1: cmp dword ptr [0x6010], 50\n jb 1b\n mov eax, [0x6010]\n mov [0x6100], eax\n",
        other="mov dword ptr [edi + 0x3E0], 0xB\n mov dword ptr [edi + 0x320], 0x40\n mov esi, 50\n"
        "1: mov dword ptr [edi + 0x380], 20000\n sti\n hlt\n cli\n dec esi\n jnz 1b\n",
    ),
    "time goes forward for all": Torture(
        COUNTED + "1: mov ebx, [0x6180]\n mov ecx, [0x6184]\n rdtsc\n cmp ecx, [0x6184]\n jne 1b\n sub ebx, eax\n"
        "jle 2f\n lock inc dword ptr [0x6100]\n 2: mov [0x6180], eax\n dec esi\n jnz 1b\n",
        (0,),
    ),
}
IN_TURNS_TOO = [name for name in TORTURES if name != "time goes forward for all"]
"""Processors that take turns count time each for itself."""


@pytest.mark.parametrize("name", share(list(TORTURES), 5))
def test_at_the_same_time(name: str, tmp_path: Path) -> None:
    torture(TORTURES[name], tmp_path, threads=True)


@pytest.mark.parametrize("name", share(IN_TURNS_TOO, 5))
def test_in_turns(name: str, tmp_path: Path) -> None:
    torture(TORTURES[name], tmp_path, threads=False)


def torture(t: Torture, tmp_path: Path, *, threads: bool) -> None:
    bios = image(tmp_path, *whole(t))
    with Machine(config(bios, smp=t.cpus, smp_threads=threads, cpu="max")) as machine:
        result = machine.run()
        assert result.reason == "debug-exit", result
        told = [int(line, 16) for line in machine.debug_output(0xE9).decode().split()]
        assert told == [word & 0xFFFF_FFFF for word in t.wanted]
        if machine.world is not None:
            assert all(machine.world.stops[what] >= n for what, n in t.least), machine.world.stops
