"""The text of one function in LLVM's language, as it is written: values, labels, fields of CPU record and micro-op."""

from __future__ import annotations

from jitvm.engine.layout import at

SIGNATURE = "(ptr noalias %cpu, ptr %uop, i64 %budget)"
TYPES = "(ptr, ptr, i64)"


class FunctionText:
    """One function of a handler's type."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.u = "%uop"
        """The micro-op that operands come from."""
        self.lines: list[str] = []
        self._n = 0
        self._here = "entry"

    def fresh(self) -> str:
        """A name for a value."""
        self._n += 1
        return f"%v{self._n}"

    def new(self, text: str) -> str:
        name = self.fresh()
        self.lines.append(f"  {name} = {text}")
        return name

    def put(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def label(self) -> str:
        self._n += 1
        return f"L{self._n}"

    def place(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self._here = label

    def gep(self, base: str, offset: int | str) -> str:
        return self.new(f"getelementptr i8, ptr {base}, i64 {offset}")

    def cpu(self, field: str, index: int = 0) -> str:
        return self.gep("%cpu", at(field) + 8 * index)

    def word(self, field: str) -> str:
        return self.new(f"load i64, ptr {self.cpu(field)}")

    def set_word(self, field: str, v: str) -> None:
        self.put(f"store i64 {v}, ptr {self.cpu(field)}")

    def uop(self, offset: int, ty: str, *, signed: bool = False) -> str:
        v = self.new(f"load {ty}, ptr {self.gep(self.u, offset)}")
        return v if ty == "i64" else self.new(f"{'sext' if signed else 'zext'} {ty} {v} to i64")

    def text(self) -> str:
        body = "\n".join(self.lines)
        head = f'define preserve_nonecc i64 @{self.name}{SIGNATURE} nounwind "no-jump-tables"="true" {{\nentry:\n'
        return f"{head}  %flags = alloca [24 x i8], align 8\n{body}\n}}\n"

    def cond_branch(self, cond: str, yes: str, no: str, likely: bool | None = None) -> None:
        hint = "" if likely is None else f", !prof !{0 if likely else 1}"
        self.put(f"br i1 {cond}, label %{yes}, label %{no}{hint}")


def signed(v: int, bits: int) -> int:
    """A word of so many bits as a signed number."""
    v &= (1 << bits) - 1
    return v - (v >> bits - 1 << bits)
