"""An unmodified gdb through mode switches, rewritten and unmapped code, resets, faults and halts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot.guests import BIOS, rom
from tests.gdb.programs import BASE, START, Program, assembler_program
from tests.gdb.vm import RESET, Start, interrupt, let_run
from tests.gdbstub.real_gdb import Gdb, GdbError
from tests.needs import TOOLCHAIN, needs

pytestmark = [pytest.mark.slow, needs("gdb", "nm", *TOOLCHAIN)]  # the fast ones are in test_real_gdb_machine.py
START_16 = "        .code16\n        .globl start16\nstart16: cli\n        xor %ax, %ax\n        mov %ax, %ds\n"
"""A real-mode program's first lines, DS = 0."""


def with_main(folder: Path, text: str) -> Program:
    """A 32-bit program with this `main`."""
    return assembler_program(folder, f"{START}\n        .globl main\n{text}")


def at(gdb: Gdb, address: int) -> None:
    """Let it run to an address."""
    gdb.cli(f"tbreak *{address:#x}")
    stop = gdb.stop_of("continue")
    assert stop["reason"] == "breakpoint-hit" and gdb.pc() == address


# ---- mode switches --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("arch", ["x86-64", "i386", "i8086"])
def test_steps_through_a_mode_switch_and_back(boot: Start, tmp_path: Path, arch: str) -> None:
    program = with_main(tmp_path, """
main:   ljmp $0x18, $(back16 - start16)
        .code16
back16: mov %cr0, %eax
        and $0xfe, %al
        mov %eax, %cr0
        ljmp $0xf000, $(real - start16)
real:   nop
        jmp real
""")  # fmt: skip
    symbols = program.symbols
    gdb = boot(program.image, "-S", "--gdb-arch", arch).gdb()
    seen = []
    for _ in range(20):
        gdb.stop_of("stepi")
        mode = next(word for word in ("real16", "prot16", "prot32") if word in gdb.cli("info threads"))
        seen.append((gdb.pc(), mode))
    modes = [mode for _, mode in seen]
    assert [m for m, before in zip(modes, ["", *modes], strict=False) if m != before] == [
        "real16", "prot16", "prot32", "prot16", "real16",
    ]  # fmt: skip
    assert (symbols["start32"], "prot32") in seen and (symbols["back16"], "prot16") in seen
    assert (symbols["real"], "real16") in seen


@pytest.mark.parametrize(("arch", "there"), [("i386", "mov    $0x10,%eax"), ("x86-64", "mov    $0x10,%eax")])
def test_disassembly_behind_the_switch_to_32_bits(boot: Start, tmp_path: Path, arch: str, there: str) -> None:
    program = with_main(tmp_path, "main: hlt\n")
    gdb = boot(program.image, "-S", "--gdb-arch", arch).gdb()
    at(gdb, program.symbols["start32"])
    assert there in gdb.cli("x/i $pc") and gdb.value("$cs") == 8


def test_16_bit_disassembly_with_symbols(boot: Start, tmp_path: Path) -> None:
    program = with_main(tmp_path, "main: hlt\n")
    gdb = boot(program.image, "-S", "--gdb-arch", "i8086").gdb()
    assert "i8086" in gdb.cli("set architecture i8086") and "i8086" in gdb.cli("show architecture")
    at(gdb, BASE)
    said = gdb.cli("x/6i $pc")
    assert "cli" in said and "lgdtl  %cs:" in said and "or     $0x1,%al" in said and "ljmpl  $0x8,$0xf00" in said
    gdb.stop_of("stepi")
    assert gdb.pc() == BASE + 1


def test_segment_bases_in_both_modes(boot: Start, tmp_path: Path) -> None:
    program = assembler_program(tmp_path, START_16 + """
        mov $0x1234, %ax
        mov %ax, %es
        mov $0x9000, %ax
        mov %ax, %ss
hang:   jmp hang
""")  # fmt: skip
    gdb = boot(program.image, "-S").gdb()
    at(gdb, program.symbols["hang"])
    said = gdb.cli("info registers cs_base es_base ss_base ds_base cs es ss ds")
    values = {row.split()[0]: int(row.split()[1], 0) for row in said.splitlines()}
    assert values == {
        "cs": 0xF000, "cs_base": 0xF0000, "es": 0x1234, "es_base": 0x12340, "ss": 0x9000, "ss_base": 0x90000,
        "ds": 0, "ds_base": 0,
    }  # fmt: skip


def test_descriptor_parts_in_protected_mode(boot: Start, tmp_path: Path) -> None:
    program = with_main(tmp_path, "main: hlt\n")
    gdb = boot(program.image, "-S").gdb()
    at(gdb, program.symbols["main"])
    assert (gdb.value("$cs_base"), gdb.value("$cs_limit")) == (0, 0xFFFF_FFFF)
    assert "0xc09b" in gdb.cli("p/x $cs_attr")
    assert (gdb.value("$gdtr_base"), gdb.value("$gdtr_limit")) == (program.symbols["gdt"], 39)


# ---- registers that are written -------------------------------------------------------------------------------------
def test_cr0_written_switches_the_mode(boot: Start, tmp_path: Path) -> None:
    program = assembler_program(tmp_path, START_16 + "hang: jmp hang\n")
    gdb = boot(program.image, "-S").gdb()
    at(gdb, program.symbols["hang"])
    gdb.cli("set $cr0 = $cr0 | 1")
    assert "prot16" in gdb.cli("info threads")
    gdb.stop_of("stepi")
    gdb.cli("set $cr0 = $cr0 & ~1")
    assert "real16" in gdb.cli("info threads")
    assert interrupt(gdb, let_run(gdb)) < 5 and gdb.pc() == program.symbols["hang"]


def test_paging_switched_on_by_gdb_maps_memory(boot: Start, tmp_path: Path) -> None:
    program = with_main(tmp_path, "main: movl (0x40002000), %eax\n hang: jmp hang\n")
    gdb = boot(program.image, "-S", "--gdb-arch", "i386").gdb()
    at(gdb, program.symbols["main"])
    gdb.cli("set {unsigned}0x10000 = 0x83")  # 4 MiB pages: linear 0 and 1 GiB show physical 0
    gdb.cli("set {unsigned}0x10400 = 0x83")
    gdb.cli("set {unsigned}0x2000 = 0x12345678")
    gdb.cli("set $cr4 = 0x10")
    gdb.cli("set $cr3 = 0x10000")
    gdb.cli("set $cr0 = $cr0 | 0x80000000")
    assert gdb.value("*(unsigned *)0x40002000") == 0x12345678
    gdb.stop_of("stepi")
    assert gdb.value("$eax") == 0x12345678


def test_a_segment_register_written_loads_its_descriptor(boot: Start, tmp_path: Path) -> None:
    program = with_main(tmp_path, "main: movl %ds:0, %eax\n hang: jmp hang\n")
    gdb = boot(program.image, "-S", "--gdb-arch", "i386").gdb()
    at(gdb, program.symbols["main"])
    gdb.cli("set $fs = 0x20")
    assert (gdb.value("$fs_base"), gdb.value("$fs_limit"), gdb.value("$fs_attr")) == (0, 0xFFFF, 0x93)
    gdb.cli("set $ds_base = 0x3000")
    gdb.cli("set {unsigned}0x3000 = 0xcafe")
    gdb.stop_of("stepi")
    assert gdb.value("$eax") == 0xCAFE


def test_eip_written_goes_on_there(boot: Start, tmp_path: Path) -> None:
    program = assembler_program(tmp_path, START_16 + "hang: jmp hang\nthere: inc %bx\n hlt\n")
    gdb = boot(program.image, "-S", "--gdb-arch", "i386").gdb()
    at(gdb, program.symbols["hang"])
    gdb.cli(f"set $eip = {program.symbols['there']:#x}")
    gdb.stop_of("stepi")
    assert gdb.pc() == program.symbols["there"] + 1 and gdb.value("$ebx") & 0xFFFF == 1


def test_flags_in_words(boot: Start, tmp_path: Path) -> None:
    program = assembler_program(tmp_path, START_16 + "stc\n std\n hang: jmp hang\n")
    gdb = boot(program.image, "-S").gdb()
    at(gdb, program.symbols["hang"])
    assert all(flag in gdb.cli("p $eflags") for flag in ("CF", "ZF", "PF", "DF"))
    gdb.cli("set $eflags = 0x2")
    assert "CF" not in gdb.cli("p $eflags")


# ---- code that is elsewhere or changes ------------------------------------------------------------------------------
def test_a_breakpoint_in_code_that_the_guest_rewrites(boot: Start, tmp_path: Path) -> None:
    program = assembler_program(tmp_path, START_16 + """
        xor %bx, %bx
        mov %ax, %ss
        mov $0x7000, %sp
again:  movl $0x90cb4340, 0x3000
        lcall $0, $0x3000
        jmp again
""")  # fmt: skip
    gdb = boot(program.image, "-S").gdb()
    gdb.cli("break *0x3001")
    for n in range(4):
        assert gdb.stop_of("continue")["reason"] == "breakpoint-hit"
        assert (gdb.pc(), gdb.value("$bx")) == (0x3001, n)
        assert gdb.memory(0x3000, 4) == bytes.fromhex("4043cb90"), "no INT3 of gdb's is seen"


@pytest.mark.parametrize("command", ["break", "hbreak"])
def test_a_breakpoint_in_memory_that_is_filled_later(boot: Start, tmp_path: Path, command: str) -> None:
    program = assembler_program(tmp_path, START_16 + "movw $0x9090, 0x4000\n movb $0xf4, 0x4002\n ljmp $0, $0x4000\n")
    gdb = boot(program.image, "-S").gdb()
    gdb.cli(f"{command} *0x4001")
    assert gdb.stop_of("continue")["reason"] == "breakpoint-hit" and gdb.pc() == 0x4001


PAGED = """
main:   movl $0x83, 0x10000
        movl $0x10000, %eax
        mov %eax, %cr3
        mov $0x10, %eax
        mov %eax, %cr4
        mov %cr0, %eax
        or $0x80000000, %eax
        mov %eax, %cr0
        movl $0x83, 0x10a00
        movl $0xf4904390, 0x3000
mapped: mov $0xa0003000, %eax
        jmp *%eax
"""
"""Maps physical 0 at 0, later at 2.5 GiB too, and jumps there."""


@pytest.mark.parametrize("command", ["break", "hbreak"])
def test_a_breakpoint_in_a_page_that_is_mapped_later(boot: Start, tmp_path: Path, command: str) -> None:
    program = with_main(tmp_path, PAGED)
    gdb = boot(program.image, "-S", "--gdb-arch", "i386").gdb()
    gdb.cli(f"{command} *0xa0003001")
    assert gdb.stop_of("continue")["reason"] == "breakpoint-hit" and gdb.pc() == 0xA0003001
    gdb.stop_of("stepi")
    assert gdb.pc() == 0xA0003002 and gdb.value("$ebx") == 1


def test_unmapped_linear_memory_is_an_error(boot: Start, tmp_path: Path) -> None:
    program = with_main(tmp_path, PAGED)
    gdb = boot(program.image, "-S", "--gdb-arch", "i386").gdb()
    at(gdb, program.symbols["mapped"])
    assert gdb.memory(0xA0003000, 4) == bytes.fromhex("904390f4")
    for command, where in (
        ("x/4bx 0xb0000000", 0xB0000000),
        ("x/8bx 0xa03ffffc", 0xA0400000),
        ("set {int}0xb0000000 = 1", 0xB0000000),
    ):
        with pytest.raises(GdbError, match=f"Cannot access memory at address {where:#x}"):
            gdb.cli(command)


# ---- resets, faults, halts ------------------------------------------------------------------------------------------
def test_breakpoints_stay_over_monitor_reset(boot: Start, tmp_path: Path) -> None:
    program = with_main(tmp_path, "main: nop\n hang: jmp hang\n")
    gdb = boot(program.image, "-S").gdb()
    gdb.cli(f"break *{program.symbols['main']:#x}")
    for _ in range(3):
        assert gdb.stop_of("continue")["reason"] == "breakpoint-hit" and gdb.value("$cr0") & 1
        gdb.cli("monitor reset")
        gdb.cli("maintenance flush register-cache")
        assert gdb.pc() == RESET and not gdb.value("$cr0") & 1


def test_a_reset_by_the_guest_keeps_breakpoints(boot: Start, tmp_path: Path) -> None:
    program = assembler_program(
        tmp_path, START_16 + "incw 0x500\n mov $0xfe, %al\n out %al, $0x64\n hang: hlt\n jmp hang\n"
    )
    gdb = boot(program.image, "-S").gdb()
    gdb.cli(f"break *{BASE:#x}")
    for n in range(4):
        assert gdb.stop_of("continue")["reason"] == "breakpoint-hit" and gdb.memory(0x500, 1)[0] == n


def test_a_triple_fault_resets_and_breakpoints_stay(boot: Start, tmp_path: Path) -> None:
    program = assembler_program(tmp_path, START_16 + "incw 0x500\n movw $0, 0x400\n lidtl 0x400\n ud2\n")
    gdb = boot(program.image, "-S").gdb()
    gdb.cli(f"hbreak *{BASE:#x}")
    for n in range(3):
        assert gdb.stop_of("continue")["reason"] == "breakpoint-hit" and gdb.memory(0x500, 1)[0] == n


def test_continue_twice_on_hlt(boot: Start, tmp_path: Path) -> None:
    """A halted CPU stays halted: the program counter is behind HLT, and nothing is executed by stopping there."""
    gdb = boot(rom(tmp_path, "31db fa f4 43 ebfb"), "-S").gdb()  # xor bx, bx; cli; 3: hlt; inc bx; jmp 2
    at(gdb, BASE + 3)
    gdb.stop_of("stepi")  # a Ctrl-C may come before the first instruction of a continue
    for _ in range(3):
        interrupt(gdb, let_run(gdb))
        assert (gdb.pc(), gdb.value("$bx")) == (BASE + 4, 0) and "halted" in gdb.cli("info threads")


def test_the_guest_s_int3_is_its_own(boot: Start, tmp_path: Path) -> None:
    program = assembler_program(tmp_path, START_16 + """
        mov %ax, %ss
        mov $0x7000, %sp
        movw $(handler - start16), 3 * 4
        movw %cs, 3 * 4 + 2
        int3
behind: jmp behind
handler: incw 0x500
        iret
""")  # fmt: skip
    gdb = boot(program.image, "-S").gdb()
    at(gdb, program.symbols["behind"])
    assert gdb.memory(0x500, 1) == b"\x01"


def test_the_guest_s_trap_flag_is_its_own(boot: Start, tmp_path: Path) -> None:
    """Its handler runs behind each instruction, with gdb stepping and without; the trap's delivery is a step."""
    program = assembler_program(tmp_path, START_16 + """
        mov %ax, %ss
        mov $0x7000, %sp
        movw $(handler - start16), 1 * 4
        movw %cs, 1 * 4 + 2
        pushf
        orw $0x100, (0x6ffe)
        popf
one:    nop
        nop
        nop
behind: jmp behind
handler: incw 0x500
        iret
""")  # fmt: skip
    one, handler = program.symbols["one"], program.symbols["handler"]
    gdb = boot(program.image, "-S").gdb()
    at(gdb, one)
    seen = []
    for _ in range(12):
        gdb.stop_of("stepi")
        seen.append(gdb.pc())
    assert seen == [pc for n in (1, 2, 3) for pc in (one + n, handler, handler + 4, one + n)]
    gdb.cli("monitor reset")
    gdb.cli("maintenance flush register-cache")
    gdb.cli("set {short}0x500 = 0")
    at(gdb, program.symbols["behind"])
    assert gdb.memory(0x500, 1) == b"\x03"


def test_stepi_at_sti_and_mov_ss(boot: Start, tmp_path: Path) -> None:
    gdb = boot(rom(tmp_path, "fa fb 90 8ed0 90 90 ebfe"), "-S").gdb()  # cli; sti; nop; mov ss, ax; nop; nop; hang
    seen = []
    for _ in range(7):
        gdb.stop_of("stepi")
        seen.append(gdb.pc() - BASE)
    assert seen == [0, 1, 2, 3, 5, 6, 7], "each step is one instruction"


def test_stepi_at_rep_is_one_iteration(boot: Start, tmp_path: Path) -> None:
    gdb = boot(rom(tmp_path, "b90400 f3aa ebfe"), "-S").gdb()  # mov cx, 4; rep stosb
    gdb.stop_of("stepi 2")
    for left in (3, 2, 1, 0):
        gdb.stop_of("stepi")
        assert gdb.value("$cx") == left and gdb.pc() == BASE + (3 if left else 5)


def test_signals_of_the_user_do_nothing_to_the_guest(boot: Start, tmp_path: Path) -> None:
    gdb = boot(rom(tmp_path, "40 ebfd"), "-S").gdb()
    gdb.cli(f"break *{BASE:#x}")
    for n, command in enumerate(("continue", "signal SIGINT", "signal 0", "queue-signal SIGUSR1", "signal SIGSEGV")):
        if command.startswith("queue"):
            gdb.cli(command)
            command = "continue"
        assert gdb.stop_of(command)["reason"] == "breakpoint-hit" and gdb.value("$ax") == n


def test_monitor_pc_raw_and_back(boot: Start) -> None:
    gdb = boot(BIOS, "-S").gdb()
    gdb.cli("monitor pc raw")
    gdb.cli("maintenance flush register-cache")
    assert gdb.pc() == 0xFFF0 and gdb.value("$cs_base") == 0xFFFF_0000
    gdb.cli("monitor pc linear")
    gdb.cli("maintenance flush register-cache")
    assert gdb.pc() == RESET and gdb.value("$ip") == 0xFFF0
