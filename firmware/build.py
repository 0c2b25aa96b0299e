"""Build everything in firmware/ with GNU as, gcc, ld and objcopy, the same bytes every time.

    python firmware/build.py                 build into firmware/images/
    python firmware/build.py --check         build elsewhere and compare with firmware/images/
    python firmware/build.py --out FOLDER    build somewhere else

Each `firmware/*/build_*.py` module has a function `build(out_dir: Path) -> list[Path]`
that makes its images and returns them; this script finds and calls them all. The functions
here (`compile_c`, `assemble`, `link`, `binary`) are the only callers of the toolchain.

The output holds no path, time or build id: sources are named relative to firmware/, the
compiler's ident string is left out and the images carry symbols but no debug records. The
bytes still depend on the compiler's version, which `images/toolchain.txt` records.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

FIRMWARE = Path(__file__).resolve().parent
IMAGES = FIRMWARE / "images"

COMMON_FLAGS = (
    "-march=i486", "-Os", "-ffreestanding", "-fno-pic", "-fno-pie", "-fno-ident",
    "-fno-stack-protector", "-fcf-protection=none", "-fno-asynchronous-unwind-tables",
    "-fno-unwind-tables", "-fomit-frame-pointer", "-mpreferred-stack-boundary=2",
    "-msoft-float", "-mno-mmx", "-mno-sse", "-fno-strict-aliasing", "-g0", "-nostdinc",
    "-Wall", "-Wextra", "-Werror",
)  # fmt: skip
CODE16 = ("-m16",)
CODE32 = ("-m32",)


class BuildError(Exception):
    """A tool of the toolchain failed; the message has its command line and what it said."""


def run(command: Sequence[str]) -> None:
    """Run one tool inside firmware/, in the C locale, and raise BuildError when it fails."""
    environment = dict(os.environ, LC_ALL="C", TZ="UTC", SOURCE_DATE_EPOCH="0")
    done = subprocess.run(
        command,
        cwd=FIRMWARE,
        env=environment,
        text=True,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{done.stdout}")


def _relative(source: Path) -> str:
    return str(source.resolve().relative_to(FIRMWARE))


def compile_c(source: Path, obj: Path, *flags: str) -> Path:
    """Compile one C file of firmware/ (flags: CODE16 or CODE32 and what the target adds)."""
    run(["gcc", *COMMON_FLAGS, *flags, "-c", _relative(source), "-o", str(obj)])
    return obj


def assemble(source: Path, obj: Path, *flags: str) -> Path:
    """Assemble one .S file of firmware/, through the C preprocessor, as 32-bit ELF (flag -m64: as 64-bit ELF)."""
    run(
        [
            "gcc",
            "-m32",
            "-g0",
            "-nostdinc",
            "-Wa,--fatal-warnings",
            *flags,
            "-c",
            _relative(source),
            "-o",
            str(obj),
        ]
    )
    return obj


def link(objects: Sequence[Path], script: Path, elf: Path, *flags: str, emulation: str = "elf_i386") -> Path:
    """Link objects by a linker script of firmware/ into an ELF file with symbols; `emulation`: ld's name of its kind."""
    run(
        [
            "ld",
            "-m",
            emulation,
            "-nostdlib",
            "--build-id=none",
            "-z",
            "noexecstack",
            "--no-warn-rwx-segments",
            "--fatal-warnings",
            "-T",
            _relative(script),
            *flags,
            "-o",
            str(elf),
            *map(str, objects),
        ]
    )
    elf.chmod(0o644)
    return elf


def binary(elf: Path, image: Path) -> Path:
    """Turn a linked ELF file into a raw image; gaps between its sections are zero."""
    run(["objcopy", "-O", "binary", "--gap-fill", "0", str(elf), str(image)])
    image.chmod(0o644)
    return image


def toolchain() -> str:
    """The versions that decide the bytes of the images, one per line."""
    lines = []
    for tool in ("gcc", "as", "ld", "objcopy"):
        said = subprocess.run(
            [tool, "--version"],
            env=dict(os.environ, LC_ALL="C"),
            text=True,
            check=True,
            stdout=subprocess.PIPE,
        ).stdout
        lines.append(f"{tool}: {said.splitlines()[0]}\n")
    return "".join(lines)


def builders() -> list[Path]:
    """The build_*.py modules of the folders of firmware/, in the order in which they run."""
    return sorted(FIRMWARE.glob("*/build_*.py"))


def build_all(out_dir: Path) -> list[Path]:
    """Run every builder and return all files made, toolchain.txt included."""
    out_dir.mkdir(parents=True, exist_ok=True)
    sys.modules.setdefault("build", sys.modules[__name__])  # what the builders import
    made: list[Path] = []
    for path in builders():
        spec = importlib.util.spec_from_file_location(f"firmware_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise BuildError(f"{path}: not a Python module")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        made += module.build(out_dir)
    record = out_dir / "toolchain.txt"
    record.write_text(toolchain(), encoding="utf-8")
    return [*made, record]


def differences(fresh: Path, kept: Path, made: Sequence[Path]) -> list[str]:
    """What a fresh build has that the kept images lack or have otherwise, one line each."""
    lines = []
    for path in made:
        other = kept / path.relative_to(fresh)
        if not other.is_file():
            lines.append(f"{other.name}: not in {kept.name}/")
        elif other.read_bytes() != path.read_bytes():
            lines.append(f"{other.name}: differs from a fresh build")
    known = {path.relative_to(fresh) for path in made}
    lines += [
        f"{path.name}: nothing builds it"
        for path in sorted(kept.rglob("*"))
        if path.is_file() and path.relative_to(kept) not in known
    ]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build the firmware images.")
    parser.add_argument("--check", action="store_true", help="compare a fresh build with images/")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder for the images")
    options = parser.parse_args(arguments)
    try:
        if not options.check:
            for path in build_all(options.out.resolve()):
                print(f"{path.stat().st_size:8d} {path.relative_to(options.out.resolve())}")
            return 0
        with tempfile.TemporaryDirectory() as folder:
            fresh = Path(folder)
            lines = differences(fresh, IMAGES, build_all(fresh))
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(lines) or "images/ is what the sources give")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
