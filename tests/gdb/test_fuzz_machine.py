"""Random packets at a machine in a process of its own: it and the next gdb go on working, whatever came.

A seed makes the packets, their damage, where they are cut and where the connection ends.  What a stream does to the
guest (registers, memory, resets, steps) depends on when its stops come, so a failure names its seed and has the log,
and need not come again.
"""

from __future__ import annotations

import random
import re
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gdbstub.framing import PACKET_SIZE, escape, frame
from gdbstub.x86 import LAYOUTS
from tests.boot.guests import rom
from tests.fast_set import share
from tests.gdb.programs import long_program, smp_program
from tests.gdb.vm import Start, Vm, interrupt, let_run
from tests.gdbstub.real_gdb import GdbError
from tests.gdbstub.test_fuzz import packet
from tests.needs import needs

pytestmark = needs("gdb")
GUEST = "31c0 8ed8 8ec0 40 a30005 b90800 bf0006 f3aa fe0e0307 ebef"
"""Loops over stores, a REP STOSB and a byte that is decremented."""
BUG = "internal error"
"""What the server logs for one."""
MOST_GROWTH = 64 << 20
N_THREADS = 4
"""Of the machine with most vCPUs."""
PER_CONNECTION = 400
"""Packets of a connection, on average."""
N_REGISTERS = len(LAYOUTS["x86-64"].registers)
RESUMING = (b"c", b"C", b"s", b"S", b"v", b"b")
"""First letters of packets that may let the guest run: Ctrl-C comes behind them."""
ENDING = (b"k", b"vKill", b"quit")
"""What ends the machine, as it should; it is left out."""
GUEST_ENDS = ("the CPU is halted with interrupts off",)
"""How a guest that runs random bytes may end its machine when no gdb is there, besides isa-debug-exit, whose status is
odd, and ACPI's power-off, whose is 0."""


def machine_packet(rng: random.Random) -> bytes:
    """A payload that a machine has more to do with than the toy of the other test."""
    kind = rng.random()
    if kind < 0.45:
        return packet(rng)
    address = rng.choice([0, 0x500, 0x7000, 0xF0000, 0xFFFFF, 0xFFFF_FFF0, 0xA0000, 0xFEE0_0000, rng.getrandbits(32)])
    size = rng.choice([1, 2, 4, 64, 4096, rng.randrange(1, 9000)])
    number = rng.choice([rng.randrange(N_REGISTERS + 3), rng.getrandbits(40), 0xFFFF_FFFF_FFFF])
    data = rng.randbytes(rng.choice([1, 2, 4, 8, 16, 300]))
    thread = rng.randrange(N_THREADS + 2)
    return rng.choice(
        [
            b"m%x,%x" % (address, size),
            b"x%x,%x" % (address, size),
            b"M%x,%x:%s" % (address, len(data), data.hex().encode()),
            b"X%x,%x:%s" % (address, len(data), data),
            b"Z%d,%x,%x" % (rng.randrange(6), address, rng.choice([1, 4, size])),
            b"z%d,%x,%x" % (rng.randrange(6), address, rng.choice([1, 4, size])),
            b"p%x" % number,
            b"p-%x" % number,
            b"P%x=%s" % (number, data.hex().encode()),
            b"G" + rng.randbytes(rng.randrange(1600)).hex().encode(),
            b"vCont;s:1",
            b"vCont;c",
            b"vCont;r%x,%x:%x" % (address, address + size, thread),
            b"vCont;s:%x;c:%x" % (thread, rng.randrange(1, N_THREADS + 2)),
            b"vCont;t:%x;c" % thread,
            b"H%c%x" % (rng.choice(b"gc"), thread),
            b"s",
            b"c",
            b"D",
            b"vRun;",
            b"qCRC:%x,%x" % (address, size),
            b"qSearch:memory:%x;%x;%s" % (address, size, data[:4]),
            b"qRcmd," + rng.choice([b"help", b"regs", b"reset", b"stats", b"pc raw", data]).hex().encode(),
            b"Qqemu.PhyMemMode:%d" % rng.randrange(3),
        ]
    )


def wanted(payload: bytes, rng: random.Random) -> bool:
    """It does not end the machine; and few let go of it, behind which all others are refused."""
    if payload.startswith(b"D"):
        return rng.random() < 0.03
    command = payload
    if payload.startswith(b"qRcmd,"):
        with suppress(ValueError):
            command = bytes.fromhex(payload[6:].decode("latin-1")).strip()
    return not any(command.startswith(word) for word in ENDING) and command != b"q"


def stream(rng: random.Random, n_packets: int) -> Iterator[bytes]:
    """Packets, some damaged, then cut at any byte; empty where a client that is no flood would wait for a stop."""
    pieces: list[bytes] = []
    for _ in range(n_packets):
        payload = machine_packet(rng)
        if not wanted(payload, rng):
            continue
        data = frame(escape(payload))
        kind = rng.random()
        if kind < 0.05:
            data = data[: rng.randrange(len(data))]
        elif kind < 0.1:
            data = data[:-1] + bytes((rng.randrange(256),))
        elif kind < 0.12:
            data = rng.choice([b"\x03", b"+", b"-", b"$", b"#", b"}", b"-" * 50, rng.randbytes(30)])
        elif kind < 0.1205:
            data = b"$" + b"m" * rng.randrange(PACKET_SIZE, 4 * PACKET_SIZE) + b"#00"
        pieces.append(data)
        if payload[:1] in RESUMING:
            yield from cut(b"".join(pieces) + b"\x03", rng)
            pieces.clear()
            if rng.random() < 0.9:
                yield b""
    yield from cut(b"".join(pieces), rng)


def cut(data: bytes, rng: random.Random) -> Iterator[bytes]:
    """In pieces of any length."""
    at = 0
    while at < len(data):
        n = rng.choice([1, 2, 7, 100, 1000, 20000])
        yield data[at : at + n]
        at += n


class Answers:
    """What came back: replies of all kinds, and the refusals among them."""

    def __init__(self) -> None:
        self.all = self.refused = 0

    def take(self, data: bytes) -> None:
        """Count roughly: a packet that is cut in two pieces at its `$` or behind it may be taken wrongly."""
        self.all += data.count(b"$")
        self.refused += data.count(b"$E")


def attack(vm: Vm, rng: random.Random, n_packets: int, answers: Answers) -> int:
    """Connections that end anywhere, until so many packets were sent or the guest has ended the machine; how many."""
    host, port = vm.address.rsplit(":", 1)
    sent = 0
    while sent < n_packets:
        n = min(n_packets - sent, rng.choice([1, 10, PER_CONNECTION, 2 * PER_CONNECTION]))
        try:
            with socket.create_connection((host, int(port)), timeout=30) as connection:
                connection.setblocking(False)
                for data in stream(rng, n):
                    if not (push(connection, data, answers) if data else pause(connection, answers)):
                        break
                if rng.random() < 0.5:
                    drain(connection, answers)
        except (ConnectionRefusedError, ConnectionResetError):  # the machine has ended, or is about to
            break
        sent += n
    return sent


def push(connection: socket.socket, data: bytes, answers: Answers) -> bool:
    """Send while reading whatever comes back; False when the server has hung up."""
    end = time.monotonic() + 60
    while data:
        assert time.monotonic() < end, "the server takes nothing"
        readable, writable, _ = select.select([connection], [connection], [], 1)
        try:
            if readable:
                back = connection.recv(1 << 16)
                answers.take(back)
                if not back:
                    return False
            if writable:
                data = data[connection.send(data) :]
        except BlockingIOError:
            continue
        except OSError:
            return False
    return True


def pause(connection: socket.socket, answers: Answers) -> bool:
    """Wait a moment for a stop, which may have come already, or not come at all; False when the server has hung up."""
    if select.select([connection], [], [], 0.01)[0]:
        return push(connection, b"+", answers)
    return True


def drain(connection: socket.socket, answers: Answers) -> None:
    """Read until nothing has come for a moment."""
    with suppress(OSError):
        while select.select([connection], [], [], 0.1)[0]:
            back = connection.recv(1 << 16)
            answers.take(back)
            if not back:
                return


def resident(vm: Vm) -> int:
    """Bytes of memory that are the process's own, guest RAM included; 0 if it has ended."""
    if vm.process.poll() is not None:
        return 0
    status = Path(f"/proc/{vm.process.pid}/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(found[1]) << 10 if found is not None else 0  # it is ending: `check` finds out how


def check(vm: Vm, seed: int) -> None:
    """The next gdb: a reset, steps, a breakpoint, Ctrl-C."""
    gdb = vm.gdb()
    gdb.cli("monitor reset")
    gdb.cli("monitor pc linear")
    gdb.cli("maintenance flush register-cache")
    gdb.cli("thread 1")  # the others wait for SIPI now
    assert gdb.pc() == 0xFFFF_FFF0, f"seed {seed}"
    gdb.cli("delete mem")
    gdb.cli("set mem inaccessible-by-default off")
    code = bytes.fromhex("ea000000f0")
    for at, data in ((0xF_FFF0, code), (0xFFFF_FFF0, code), (0xF_0000, bytes.fromhex(GUEST))):
        for n, byte in enumerate(data):
            gdb.cli(f"set {{unsigned char}}{at + n:#x} = {byte}")
    gdb.stop_of("stepi 5")
    gdb.cli("tbreak *0xf0007")
    assert gdb.stop_of("continue")["reason"] == "breakpoint-hit" and gdb.pc() == 0xF0007, f"seed {seed}"
    assert interrupt(gdb, let_run(gdb)) < 5
    gdb.cli("detach")
    gdb.close()
    look_at_log(vm, seed)


def look_at_log(vm: Vm, seed: int) -> None:
    """No bug was met on the way."""
    log = vm.log.read_text()
    assert "Traceback" not in log and BUG not in log, f"seed {seed}: {log[-3000:]}"


def ended_by_guest(vm: Vm, seed: int) -> bool:
    """The guest, which runs whatever was written into it, has ended the machine in one of its own ways."""
    try:
        status = vm.process.wait(5)
    except subprocess.TimeoutExpired:
        return False
    log = vm.log.read_text()
    by_itself = status == 0 or status & 1 or any(end in log for end in GUEST_ENDS)
    assert status >= 0 and by_itself, f"seed {seed}: status {status}: {log[-3000:]}"
    look_at_log(vm, seed)
    return True


def image_and_options(kind: str, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """A guest: of 16-bit code, of 64-bit code with paging, or with four vCPUs."""
    if kind == "long":
        return long_program(folder).image, ("--cpu", "max")
    if kind == "smp":
        return smp_program(folder, N_THREADS).image, ("--smp", str(N_THREADS))
    return rom(folder, GUEST), ()


def fuzz(boot: Start, folder: Path, seed: int, n_packets: int, arch: str, policy: str, *, kind: str = "real16") -> None:
    """Attack, look, and see that memory has not grown; another machine where the guest has ended one."""
    rng = random.Random(seed)
    image, more = image_and_options(kind, folder)
    options = ("-S", "--gdb-arch", arch, "--gdb-on-disconnect", policy, "--timeout", "3000", "-m", "16M", *more)
    machines, packets, answers = 0, 0, Answers()
    while n_packets > 0:
        vm = boot(image, *options)
        machines += 1
        # What is made once is there behind this: random code wants instructions that nobody has compiled yet, for which
        # the compiler is loaded, some 60 MiB.
        sent = attack(vm, rng, max(300, n_packets // 5), answers)
        before = resident(vm)
        sent += attack(vm, rng, n_packets, answers)
        n_packets -= sent
        packets += sent
        try:
            check(vm, seed)
        except GdbError:
            if not ended_by_guest(vm, seed):
                raise
            continue
        growth = resident(vm) - before
        print(f"seed {seed}: machine {machines}: {sent} packets, memory grew by {growth / (1 << 20):.1f} MiB")
        assert growth < MOST_GROWTH, f"seed {seed}: {growth >> 20} MiB more after {sent} packets"
        vm.close()
    print(f"seed {seed}: {packets} packets, {answers.all} answers, {answers.refused} of them refusals")
    assert answers.all - answers.refused > packets // 20, "what was sent did not get far"


@pytest.mark.parametrize(
    ("seed", "n", "arch", "policy"),
    share(
        [
            (11, 300, "i386", "stop"),
            (1, 1500, "x86-64", "stop"),
            (11, 1500, "i386", "stop"),
            (21, 1500, "i8086", "run"),
        ],
        1,
    ),
)
def test_random_packets(boot: Start, tmp_path: Path, seed: int, n: int, arch: str, policy: str) -> None:
    fuzz(boot, tmp_path, seed, n, arch, policy)


@needs("gcc")
@pytest.mark.parametrize(("seed", "kind", "policy"), share([(31, "long", "stop"), (41, "smp", "run")], 1))
def test_random_packets_in_long_mode_and_at_four_vcpus(
    boot: Start, tmp_path: Path, seed: int, kind: str, policy: str
) -> None:
    fuzz(boot, tmp_path, seed, 1500, "x86-64", policy, kind=kind)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "n", "policy"), [(1001, 50_000, "stop"), (1002, 20_000, "run")])
def test_many_random_packets(boot: Start, tmp_path: Path, seed: int, n: int, policy: str) -> None:
    """A guest that runs between two connections takes a core, and most of the server's time."""
    fuzz(boot, tmp_path, seed, n, "x86-64", policy)
