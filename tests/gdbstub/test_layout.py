"""Register layouts: what gdb asks of them, and that gdb 13 can assign every register."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from gdbstub import Layout
from gdbstub.x86 import LAYOUTS

CORE_64 = "rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip eflags cs ss ds es fs gs".split()
CORE_32 = "eax ecx edx ebx esp ebp esi edi eip eflags cs ss ds es fs gs".split()
FLOAT = [*(f"st{n}" for n in range(8)), *"fctrl fstat ftag fiseg fioff foseg fooff fop".split()]
SYSTEM = (
    "cr0 cr2 cr3 cr4 efer ip cs_base cs_limit cs_attr tr tr_base gdtr_base gdtr_limit idtr_base ldtr dr0 dr7".split()
)


def features(layout: Layout) -> dict[str, ET.Element]:
    root = ET.fromstring(layout.target_xml)
    return {element.attrib["name"]: element for element in root.iter("feature")}


@pytest.fixture(params=sorted(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param]


def test_document(layout: Layout) -> None:
    root = ET.fromstring(layout.target_xml)
    assert root.findtext("architecture") == layout.architecture
    assert [element.attrib["name"] for element in root.iter("reg")] == [r.name for r in layout.registers]
    assert [int(element.attrib["bitsize"]) for element in root.iter("reg")] == [8 * r.size for r in layout.registers]
    assert len(layout.numbers) == len(layout.registers)


def test_core_and_sse_are_as_gdb_demands(layout: Layout) -> None:
    found = features(layout)
    core = [element.attrib["name"] for element in found["org.gnu.gdb.i386.core"].iter("reg")]
    sse = [element.attrib["name"] for element in found["org.gnu.gdb.i386.sse"].iter("reg")]
    wide = layout.name == "x86-64"
    assert core == (CORE_64 if wide else CORE_32) + FLOAT
    assert sse == [*(f"xmm{n}" for n in range(16 if wide else 8)), "mxcsr"]
    assert ("org.gnu.gdb.i386.segments" in found) == wide


def test_every_part_of_the_processor_is_there(layout: Layout) -> None:
    assert set(SYSTEM) <= set(layout.numbers)
    bases = {f"{name}_base" for name in "cs ds es ss fs gs ldtr tr gdtr idtr".split()}
    assert bases <= set(layout.numbers)


def test_flag_types_are_small_enough_to_be_assigned(layout: Layout) -> None:
    root = ET.fromstring(layout.target_xml)
    kinds = {element.attrib["id"]: int(element.attrib["size"]) for element in root.iter("flags")}
    assert set(kinds.values()) == {4}
    for register in layout.registers:
        if register.type in kinds:
            assert register.size == kinds[register.type], register.name
        if register.name in ("cr0", "cr3", "cr4", "efer"):
            assert register.type.startswith("uint")


def test_views_show_a_register_that_is_not_a_view(layout: Layout) -> None:
    views = [register for register in layout.registers if register.view_of]
    bits = ["cr0_bits", "cr4_bits", "efer_bits", "dr6_bits", "dr7_bits"]
    halves = ["fioff", "fooff"] if layout.name == "x86-64" else []
    assert [view.name for view in views] == [*halves, *bits]
    for view in views:
        source = layout.registers[layout.numbers[view.view_of]]
        assert not source.view_of and source.size >= view.size
        assert layout.sources[layout.numbers[view.name]] == layout.numbers[source.name]
    assert len(layout.own) == len(layout.registers) - len(views)


def test_pc_and_expedited_registers_exist(layout: Layout) -> None:
    assert {layout.pc, *layout.expedited} <= set(layout.numbers)
    assert layout.pc in layout.expedited
