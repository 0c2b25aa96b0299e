"""The bench guests as the harness sees them: image, iterations, instructions.

The images are built from ``firmware/bench`` (its ``build_bench.py`` documents
the header that is patched here). Every workload does the same work in each
iteration, so its instruction count is exactly linear in their number; the
figures below count one instruction per REP iteration and were found alike by
Bochs' counter and by a hook of unicorn on each instruction. The constant part
(call, set-up and return between the marks) is theirs too. When jitvm runs,
its own exact count at two iteration counts takes the place of the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jitvm.bench.errors import BenchError

IMAGE_SIZE = 0x10000
MAGIC = b"JVMBENCH"
MAGIC_OFFSET = 0xFEF8
ITERATIONS_OFFSET = 0xFF00
NAME_OFFSET, NAME_SIZE = 0xFF10, 16

START_UP_GUEST = "first"
"""The image that prints its mark with one of its first instructions."""


@dataclass(frozen=True)
class Workload:
    """One guest program.

    Attributes:
        name: of the image, without suffix.
        start: iterations with which calibration begins.
        constant: instructions between the marks with no iteration.
        per_iteration: instructions of each iteration.
        compute: whether it counts in the geometric means.
        exits: device accesses of each iteration.
        interrupts: interrupts of each iteration.
        board: whether it wants interrupts from devices, which unicorn, a CPU alone, has not.
        cpus: how many CPUs work at the same time; its instructions are those of all, waiting aside.
        native: whether it uses nothing of a machine, so that a host's own CPU can run it as a program.
        fixed: iterations that are never calibrated (0: calibrated).
    """

    name: str
    start: int
    constant: int
    per_iteration: int
    compute: bool = False
    exits: int = 0
    fixed: int = 0
    interrupts: int = 0
    board: bool = False
    cpus: int = 1
    native: bool = False

    def instructions(self, iterations: int) -> int:
        """Instructions that the guest retires between its marks."""
        return self.constant + self.per_iteration * iterations


WORKLOADS = (
    Workload("alu", 100_000, 36, 18, compute=True, native=True),
    Workload("sieve", 10, 24, 160_328, compute=True, native=True),
    Workload("one_cpu", 10, 50, 306_336, native=True),  # two_cpus' work; sieve's array has a fixed address
    Workload("two_cpus", 10, 50, 306_336, board=True, cpus=2, native=True),
    Workload("crc", 100, 24, 17_681, compute=True, native=True),
    Workload("cmix", 80, 32, 23_298, compute=True, native=True),
    Workload("quicksort", 30, 25, 54_407, compute=True, native=True),
    Workload("cmix64", 80, 23, 16_543, compute=True, native=True),
    Workload("quicksort64", 30, 13, 49_503, compute=True, native=True),
    Workload("matrix", 60, 24, 31_145, compute=True, native=True),
    Workload("mandel", 2, 24, 191_633, compute=True, native=True),
    Workload("mandel_sse2", 10, 26, 44_194, compute=True),
    Workload("memcpy_loop", 300, 22, 6_151, compute=True, native=True),
    Workload("calls", 2_000, 25, 877, compute=True, native=True),
    Workload("real16", 50_000, 53, 18, compute=True),
    Workload("paging_chase", 100_000, 27, 4),
    Workload("rep_movsd", 200, 20, 4_103),
    Workload("rep_stosb", 50, 21, 16_391),
    Workload("rep_short", 5_000, 22, 183),
    Workload("fresh", 20_000, 199, 40, fixed=20_000),
    Workload("smc", 5_000, 16, 6),
    Workload("smc_data", 20_000, 16, 7),
    Workload("irq", 5_000, 16, 6, interrupts=1),
    Workload("irq_ipi", 2_000, 11, 9, interrupts=1, board=True),
    Workload("irq_pit", 1_000, 11, 16, interrupts=1, board=True),
    Workload("port_storm", 10_000, 19, 8, exits=2),
    Workload("mmio_storm", 10_000, 20, 8, exits=2),
    Workload("port_latch", 10_000, 20, 8, exits=3),
    Workload("port_empty", 10_000, 20, 7, exits=2),
    Workload("vga_text", 10_000, 20, 9, exits=2),
    Workload("apic_eoi", 10_000, 12, 9, exits=5, board=True),
)


def select(names: str | None) -> tuple[Workload, ...]:
    """The workloads of a comma-separated list, in table order; None means all."""
    if names is None:
        return WORKLOADS
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = {workload.name for workload in WORKLOADS}
    for name in wanted:
        if name not in known:
            raise BenchError(f"unknown workload {name!r}: choose from {', '.join(sorted(known))}")
    return tuple(workload for workload in WORKLOADS if workload.name in wanted)


def images_folder() -> Path:
    """Where the images are: beside the package, or inside it when installed."""
    package = Path(__file__).resolve().parents[1]
    candidates = [root / "firmware/images/bench" for root in (package.parent, package)]
    return next((path for path in candidates if path.is_dir()), candidates[0])


def load_image(folder: Path, name: str) -> bytes:
    """Read an image and check that it is what its name says."""
    path = folder / f"{name}.bin"
    try:
        image = path.read_bytes()
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror}: build the bench guests first") from error
    if len(image) != IMAGE_SIZE or image[MAGIC_OFFSET:ITERATIONS_OFFSET] != MAGIC:
        raise BenchError(f"{path}: not a bench image")
    if name_of(image) != name:
        raise BenchError(f"{path}: the image of another workload")
    return image


def name_of(image: bytes) -> str:
    """The name of an image's workload."""
    return image[NAME_OFFSET : NAME_OFFSET + NAME_SIZE].rstrip(b"\0").decode("ascii")


def iterations_of(image: bytes) -> int:
    """The iterations that an image does."""
    return int.from_bytes(image[ITERATIONS_OFFSET : ITERATIONS_OFFSET + 4], "little")


def patch(image: bytes, iterations: int) -> bytes:
    """The image with another iteration count (1 to 2^32-1)."""
    if not 1 <= iterations < 1 << 32:
        raise ValueError(f"{iterations} iterations do not fit 32 bits, or are none")
    field = iterations.to_bytes(4, "little")
    return image[:ITERATIONS_OFFSET] + field + image[ITERATIONS_OFFSET + 4 :]
