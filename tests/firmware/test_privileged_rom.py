"""The ROM of tests/firmware/privileged_cases.py on jitvm, QEMU and Bochs: each line is what the manual (Intel SDM) says."""

from __future__ import annotations

from pathlib import Path

import pytest

from jitvm.machine import Machine
from tests.boot.bochs import run_bochs
from tests.boot.guests import config, debug_output, rom
from tests.fast_set import share
from tests.firmware.privileged_cases import CODES
from tests.firmware.privileged_rom import code_of
from tests.firmware.qemu import DEBUG_EXIT, run_qemu
from tests.needs import need

WANTED = """\
undefined before privileged 06:0000@001a/000000 =00000000
lock before privileged 06:0000@001a/000000 =00000000
privileged 0d:0000@001a/000000 =00000000
sse with em and ts 06:0000@0018/000000 =00000000
sse with ts 07:0000@0018/000000 =00000000
sse without osfxsr 06:0000@000e/000000 =00000000
mmx with em 06:0000@000e/000000 =00000000
x87 with em 07:0000@000e/000000 =00000000
x87 with ts 07:0000@000e/000000 =00000000
wait with ts =00000001
wait with ts and mp 07:0000@000e/000000 =00000000
device before pending x87 07:0000@0024/000000 =00000000
pending x87 10:0000@0016/000000 =00000000
pending x87 before its operand 10:0000@0029/000000 =00000000
no wait, no fault =0000b084
device before its operand 07:0000@0021/000000 =00000000
alignment of sse before the page 0d:0000@001d/000000 =00000000
limit before the page 0d:0000@0019/000000 =00000000
stack limit before the page 0c:0000@0038/000000 =00000000
null selector 0d:0000@0004/000000 =00000000
too long 0d:0000@0000/000000 =00000000
as long as may be =00000001
int n by a gate of level 0 0d:010a@001a/000000 =00000000
privilege of a gate before its presence 0d:010a@0021/000000 =00000000
absent gate of int n 0b:010a@0007/000000 =00000000
absent gate of int3 0b:001a@0007/000000 =00000000
absent gate of a fault 0b:0033@0007/000000 =00000000
absent gate of an interrupt 0b:028b@0013/000200 =00000000
double fault 08:0000@0007/000000 =00000000
no double fault of a benign one 0b:000b@0007/000000 =00000000
page fault, then a fault 08:0000@001a/000000 =00000000
bound 05:0000@0014/000000 =00000000
into 04:0000@0005/000000 =00000000
alignment 11:0000@002d/040000 =00000000
alignment at level 0 =00000000
alignment of sse 0d:0000@0037/040000 =00000000
level 3: cli 0d:0000@001a/000000 =00000000
level 3: sti 0d:0000@001a/000000 =00000000
level 3: in al, dx 0d:0000@001a/000000 =00000000
level 3: out dx, al 0d:0000@001a/000000 =00000000
level 3: lgdt [0x700] 0d:0000@001a/000000 =00000000
level 3: lidt [0x700] 0d:0000@001a/000000 =00000000
level 3: lldt ax 0d:0000@001a/000000 =00000000
level 3: ltr ax 0d:0000@001a/000000 =00000000
level 3: clts 0d:0000@001a/000000 =00000000
level 3: lmsw ax 0d:0000@001a/000000 =00000000
level 3: mov eax, cr0 0d:0000@001a/000000 =00000000
level 3: mov cr3, eax 0d:0000@001a/000000 =00000000
level 3: mov eax, dr0 0d:0000@001a/000000 =00000000
level 3: mov dr7, eax 0d:0000@001a/000000 =00000000
level 3: invd 0d:0000@001a/000000 =00000000
level 3: wbinvd 0d:0000@001a/000000 =00000000
level 3: invlpg [eax] 0d:0000@001a/000000 =00000000
level 3: rdmsr 0d:0000@001a/000000 =00000000
level 3: wrmsr 0d:0000@001a/000000 =00000000
level 3: sysexit 0d:0000@001a/000000 =00000000
level 3: rdpmc 0d:0000@001a/000000 =00000000
level 3: rsm 06:0000@001a/000000 =00000000
level 3: what it may 06:0000@0042/000000 =00000001
level 3 with iopl 3 06:0000@002b/003000 =00000001
iopl of popf 06:0000@0027/000000 =00000002
umip: sgdt [0x700] 0d:0000@0024/000000 =00000000
umip: sidt [0x700] 0d:0000@0024/000000 =00000000
umip: sldt ax 0d:0000@0024/000000 =00000000
umip: str ax 0d:0000@0024/000000 =00000000
umip: smsw ax 0d:0000@0024/000000 =00000000
tsd 0d:0000@0024/000000 =00000000
paging without protection 0d:0000@0005/000000 =00000000
nw without cd 0d:0000@000d/000000 =00000000
cr4's reserved bit 0d:0000@0005/000000 =00000000
no msr 0d:0000@0005/000000 =00000000
reserved bits of the apic's base 0d:0000@000c/000000 =00000000
no memory type 0d:0000@000c/000000 =00000000
long mode without pae 0d:0000@001e/000000 =00000000
leave efer =00000000
sysenter without a segment 0d:0000@000b/000000 =00000000
sysenter 06:0000@0034/000000 =00080010
sti 51:0000@0013/000200 =00000000
sti and cli =00000000
popf 51:0000@0017/000200 =00000000
iret 51:0000@001e/000200 =00000000
sti and mov ss 51:0000@0018/000200 =00000000
sti and hlt 51:0000@0013/000200 =00000000
sti before a fault 06:0000@000b/000200 =00000000
sti before int 22:0000@000d/000200 =00000000
step 01:0000@000e/000100 =00000000
step over mov ss 01:0000@0013/000100 =00000000
step by iret 01:0000@0015/000100 =00000000
step into a fault 06:0000@0006/000100 =00000000
step over int 22:0000@0008/000100 =00000000
step of sti 01:0000@000e/000300 =00000000
step, and what is in dr6 01:0000@0007/000100 =00000000
icebp 01:0000@0008/000000 =ffff0ff0
step's dr6 01:0000@000e/000100 =ffff4ff0
v86: cli 0d:0000@0028/020000 =00000000
v86: cli with iopl 3 0d:0000@0029/023000 =00000000
v86: pushf 0d:0000@0028/020000 =00000000
v86: int 0d:0000@0028/020000 =00000000
v86: int with iopl 3 0d:010a@0028/023000 =00000000
vme: cli 0d:0000@0033/020200 =00000000
vme: sti 0d:0000@0034/0a0200 =00000000
vme: sti while vip 0d:0000@0032/120200 =00000000
vme: pushf 0d:0000@0037/0a0200 =00003202
vme: pushf without vif 0d:0000@0037/020200 =00003002
vme: popf 0d:0000@0036/0a0200 =00000000
vme: popf while vip 0d:0000@0035/120200 =00000000
vme: popf of tf 0d:0000@0035/020200 =00000000
vme: pushfd 0d:0000@0032/020200 =00000000
vme: int to the program 0d:0000@004f/020200 =00003202
vme: int to the monitor 0d:0000@0039/0a0200 =00000000
vme: int with iopl 3 0d:010a@0039/023200 =00000000
vme: iret 0d:0000@0041/0a0200 =00000000
vme: port 0d:0000@0034/023200 =00000000
pvi: sti 06:0000@0026/080000 =00000000
pvi: cli 06:0000@0028/000000 =00000000
pvi: sti while vip 0d:0000@0027/100000 =00000000
xgetbv without osxsave 06:0000@0000/000000 =00000000
xsave without osxsave 06:0000@0000/000000 =00000000
xgetbv =00000001
osxsave in cpuid =08000000
xsetbv =00000003
xsetbv without x87 0d:0000@000f/000000 =00000000
xsetbv of a reserved bit 0d:0000@0014/000000 =00000000
xsetbv of avx without sse 0d:0000@000f/000000 =00000000
xsetbv of no register 0d:0000@0014/000000 =00000000
xsetbv at level 3 0d:0000@0029/000000 =00000000
xgetbv at level 3 06:0000@002c/000000 =00000001
xsave with ts 07:0000@0018/000000 =00000000
xsave, misaligned 0d:0000@000a/000000 =00000000
xrstor, misaligned 0d:0000@000a/000000 =00000000
xrstor of a bad header 0d:0000@001d/000000 =00000000
xrstor of what is not in xcr0 0d:0000@001d/000000 =00000000
xrstor of reserved mxcsr 0d:0000@0034/000000 =00000000
lock xsave 06:0000@000a/000000 =00000000
new page by invlpg =00002222
new page by cr3 =00002222
new page by invlpg, global =00002222
new page by cr4.pge, global =00002222
new page by cr0.pg, global =00002222
new page by cr4.pse =00002222
accessed and dirty =90639023
a present entry needs no invlpg =00000007
no page 0e:0000@0013/000000 =00000000
no page to write at level 3 0e:0006@002d/000000 =00000000
supervisor's page at level 3 0e:0005@0037/000000 =00000000
wp 0e:0003@001d/000000 =00000000
without wp =00000000
over the border 0e:0002@001d/000000 =00000000
apic: by priority 71:0000@0027/000200 61:0000@0027/000200 51:0000@0027/000200 =00000000
apic: tpr 71:0000@0027/000200 51:0000@0038/000200 =00000000
apic: irr =00030000
apic: ppr =00000035
apic: illegal vector =00000020
apic: nmi 02:0000@001b/000000 =00000000
apic: timer 52:0000@0027/000200 =00000000
apic: masked timer =00000000
apic: version and id =00000100
apic: switched off =00010000
a20 off and on =00070002
.
"""
BOCHS_DIFFERS = {
    **{
        f"umip: {code}": "its CPU of 2017 has no UMIP"
        for code in ("sgdt [0x700]", "sidt [0x700]", "sldt ax", "str ax", "smsw ax")
    },
    "no msr": "it is told to ignore unknown ones (vol. 2, RDMSR: #GP)",
    "apic: illegal vector": "received, and not sent (vol. 3, 10.5.3: bit 5, send illegal vector)",
}
QEMU_DIES = (
    "paging without protection", "nw without cd", "long mode without pae", "leave efer", "cr4's reserved bit", "no msr",
    "reserved bits of the apic's base", "no memory type", "sysenter without a segment",
)  # fmt: skip
"""What QEMU 7.2's translator does not check; some of it ends the run."""
LIMITS, VIRTUAL = "limits and null selectors (vol. 3, 5.3, 5.4.1)", "VME and PVI (vol. 3, 20.3, 20.4)"
UNDEFINED, EXTERNAL = "#UD before #GP (vol. 3, table 6-2)", "EXT of the error code (vol. 3, 6.13)"
LATE = "looks for interrupts at the end of a translated block"
QEMU_LACKS = {
    "undefined before privileged": UNDEFINED,
    "lock before privileged": UNDEFINED,
    "sse with em and ts": "#UD of EM before #NM (vol. 3, table 13-1)",
    "pending x87 before its operand": "#MF is before the operand's faults (vol. 1, 8.6)",
    "no wait, no fault": "an unmasked division leaves its operands and the stack as they are (vol. 1, 8.5.3)",
    "limit before the page": LIMITS,
    "stack limit before the page": LIMITS,
    "null selector": LIMITS,
    "absent gate of a fault": EXTERNAL,
    "absent gate of an interrupt": EXTERNAL,
    "no double fault of a benign one": "F1 (vol. 2, INT1)",
    "icebp": "F1 (vol. 2, INT1)",
    "alignment": "alignment checks (vol. 3, 6.15, #AC)",
    "sti and mov ss": "the shadow of MOV SS in that of STI (vol. 2, MOV)",
    "step of sti": "STI holds no trap off (vol. 3, 6.8.1)",
    **dict.fromkeys(
        (
            "vme: cli", "vme: sti", "vme: pushf", "vme: pushf without vif", "vme: popf", "vme: int to the program",
            "vme: iret", "pvi: sti", "pvi: cli", "pvi: sti while vip",
        ),
        VIRTUAL,
    ),
    "xsave with ts": "#NM under CR0.TS (vol. 2, XSAVE)",
    "xrstor of reserved mxcsr": "#GP for a reserved bit of MXCSR (vol. 1, 13.8.1)",
    "apic: illegal vector": "the error status register (vol. 3, 10.5.3)",
    "apic: tpr": LATE,
    "apic: nmi": LATE,
}  # fmt: skip
"""Where QEMU 7.2's translator is not the manual's; Bochs is, in all of them."""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rom(tmp_path_factory.mktemp("privileged"), code_of(CODES).hex())


def name_of(line: str) -> str:
    """A line's name: the longest that it begins with."""
    return max((name for name in CODES if line.startswith(name + " ")), key=len, default="")


def lines_of(text: str) -> list[str]:
    """From the first case to the end."""
    lines = text.replace("\r\n", "\n").splitlines()
    first = next(k for k, line in enumerate(lines) if name_of(line) == next(iter(CODES)))
    return lines[first : lines.index(".") + 1]


def test_each_case_has_its_line() -> None:
    assert [name_of(line) for line in WANTED.splitlines()] == [*CODES, ""]
    assert CODES.keys() >= {*BOCHS_DIFFERS, *QEMU_DIES, *QEMU_LACKS}


@pytest.mark.parametrize("jit", share(["regions", "handlers", "stencils", "sync"], 1))
def test_jitvm(jit: str, image: Path) -> None:
    with Machine(config(image, cpu="max", jit=jit, no_reboot=True)) as machine:
        assert machine.run().reason == "debug-exit"
        assert debug_output(machine) == WANTED


def test_qemu(tmp_path: Path) -> None:
    need("qemu-system-x86_64")
    left = {name: code for name, code in CODES.items() if name not in QEMU_DIES}
    run = run_qemu(
        tmp_path, rom(tmp_path, code_of(left).hex()), *DEBUG_EXIT, "-cpu", "max", program="qemu-system-x86_64"
    )
    theirs = lines_of(run.debug)
    ours = [line for line in WANTED.splitlines() if name_of(line) not in QEMU_DIES]
    assert [name_of(line) for line in theirs] == [name_of(line) for line in ours]
    for line, wanted in zip(theirs, ours, strict=True):
        assert (line == wanted) != (name_of(wanted) in QEMU_LACKS), (line, wanted)


def test_bochs(image: Path, tmp_path: Path) -> None:
    for line, wanted in zip(lines_of(run_bochs(tmp_path, image)), WANTED.splitlines(), strict=True):
        assert (line == wanted) != (name_of(wanted) in BOCHS_DIFFERS), (line, wanted)
