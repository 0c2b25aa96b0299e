"""Jumps through memory in place of a load and a jump."""

from __future__ import annotations

import iced_x86 as ix
import pytest

from jitvm.engine.backend import compile_object
from jitvm.engine.dispatch import shorten
from jitvm.engine.objects import ObjectFile
from jitvm.engine.stencil import supported
from tests.needs import host_cannot

FAR = "mov rax, [r13 + 40]\n add r13, 40\n {}jmp rax"


@pytest.fixture(autouse=True)
def _x86_64() -> None:
    if not supported():
        host_cannot("handlers of other hosts stay as LLVM makes them")


def assembled(name: str, *lines: str) -> bytes:
    """An object file with one function."""
    text = "\\0A".join(
        (".intel_syntax noprefix", f".type {name}, @function", f"{name}:", *"\n".join(lines).split("\n"))
    )
    return compile_object(f'module asm "{text}\\0A.size {name}, . - {name}\\0A.att_syntax"')


def code(data: bytes) -> list[str]:
    """The instructions of its function."""
    file, formatter = ObjectFile(data), ix.Formatter(ix.FormatterSyntax.INTEL)
    (function,) = file.functions()
    return [formatter.format(i) for i in ix.Decoder(64, file.code(function), ip=0)]


@pytest.mark.parametrize("register", ["rax", "rcx", "rdx", "rbx", "rsi", "rdi"])
def test_to_the_next(register: str) -> None:
    data = assembled("i_next", FAR.format("").replace("rax", register))
    assert code(shorten(data)) == ["add r13,28h", "jmp qword ptr [r13]", "int3", "int3"]


def test_to_another_block() -> None:
    assert code(shorten(assembled("h_enter", "mov rcx, [r13]", "jmp rcx"))) == ["jmp qword ptr [r13]", "int3", "int3"]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        pytest.param("i_next", ["test rdx, rdx", "je 1f", FAR.format("1: ")], id="a jump into the middle"),
        pytest.param("i_next", ["mov rax, [r13]", "jmp rcx"], id="another register"),
        pytest.param("i_next", ["mov rax, [r13 + 8]", "jmp rax"], id="another word"),
        pytest.param("u_unit", [FAR.format("")], id="no handler"),
        pytest.param("i_next", ["movabs rdx, 0xe0ff00458b49", "ret"], id="inside of an immediate"),
    ],
)
def test_what_stays(name: str, lines: list[str]) -> None:
    data = assembled(name, *lines)
    assert shorten(data) == data
