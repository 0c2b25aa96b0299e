"""Random clients: whatever comes in, at whatever split, nothing escapes, nothing grows, and the next client finds all
in order.
"""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdbstub import OnDisconnect, Session
from gdbstub.framing import PACKET_SIZE, Decoder, Packet, escape, frame
from gdbstub.stop import Exited
from tests.fast_set import share
from tests.gdbstub.client import Client
from tests.gdbstub.fake_target import CODE, FakeTarget

NUMBERS = [*b"0 1 3 1000 4000 fff0 ffffffff ffffffffffffffff -1 -5 zz".split(), b"", b"1" * 40]
HEADS = [
    *(b"? g G p P m x M X c C s S Z0, Z1, Z2, Z3, Z4, Z9, z0, z1, z2, Hg Hc H T R ! bc bs b v q Q j".split()),
    *(b"vCont vCont; vCont;c vCont;s: vCont;r vCont;t: vAttach; vRun; vCtrlC vMustReplyEmpty".split()),
    *(b"qC qCRC: qAttached qSupported: qfThreadInfo qsThreadInfo qThreadExtraInfo, qRcmd, qSymbol:: qTStatus".split()),
    *(b"qSearch:memory: qXfer:features:read:target.xml: qXfer:threads:read:: qXfer:memory-map:read:: qXfer:".split()),
    *(b"qqemu.sstep qqemu.sstepbits Qqemu.sstep= Qqemu.PhyMemMode: qqemu.PhyMemMode QStartNoAckMode".split()),
]
SEPARATORS = [b",", b";", b":", b"=", b"", b".", b"p1.", b";thread:", b",1:"]
ENDS = [b"qRcmd," + b"quit".hex().encode(), b"k", b"D", b"vKill;1"]


VALID = [
    *(
        b"? g p10 p0;thread:2; m1000,20 mfff0,20 x4000,10 M1008,2:9090 P0=0000000000000000 H g0 Hgp1.2 Hc2 Hc-1 T1".split()
    ),
    *(b"c s vCont;c vCont;s:1 vCont;s:p1.2;c vCont;r1000,1006:1 vCont;t S05 C0b bs bc vRun; vAttach;1 R00 !".split()),
    *(b"Z0,1003,1 z0,1003,1 Z1,1005,1 Z2,4000,4 Z3,4000,1 Z4,7ff8,8 z2,4000,4 qCRC:1000,10 Qqemu.sstep=3".split()),
    *(b"qSupported:multiprocess+;swbreak+ qXfer:threads:read::0,20 qRcmd,68656c70 qSearch:memory:0;10000;xx".split()),
]


def packet(rng: random.Random) -> bytes:
    """A payload that looks like one, more or less."""
    kind = rng.random()
    if kind < 0.02:
        return rng.choice(ENDS)
    if kind < 0.5:
        return rng.choice(VALID)
    body = rng.choice(HEADS) if kind < 0.8 else rng.choice(HEADS[:30])
    for _ in range(rng.randrange(5)):
        body += rng.choice(NUMBERS) + rng.choice(SEPARATORS)
    if rng.random() < 0.1:
        body += rng.randbytes(rng.randrange(60))
    if rng.random() < 0.005:
        body += b"7" * PACKET_SIZE
    return body


def wire(rng: random.Random) -> bytes:
    """A packet or what is left of one."""
    kind = rng.random()
    data = frame(escape(packet(rng)))
    if kind < 0.7:
        return data
    if kind < 0.8:
        return data[: rng.randrange(len(data))]
    if kind < 0.9:
        return data[:-1] + bytes((rng.randrange(256),))
    return rng.choice([b"\x03", b"+", b"-", b"$", b"#", b"}", b"-" * 50, rng.randbytes(30)])


def let_run(target: FakeTarget) -> None:
    """The guest's own doings, between packets."""
    if target.running:
        target.advance()


def run(seed: int, clients: int, packets: int) -> None:
    rng = random.Random(seed)
    bugs: list[str] = []
    target = FakeTarget(budget=5)
    policy = rng.choice([OnDisconnect.RUN, OnDisconnect.STOP])
    session = Session(target, on_disconnect=policy, log=bugs.append)
    for _ in range(clients):
        session.connect()
        for _ in range(packets):
            data = wire(rng)
            while data and session.wants_input:
                cut = rng.choice([1, 2, 5, 100000])
                session.feed(data[:cut])
                data = data[cut:]
                for _ in session.pump():
                    pass
            let_run(target)
        session.disconnect()
        for _ in session.pump():
            pass
    assert [line for line in bugs if "waits for a debugger" not in line] == []
    client = Client(session, "multiprocess+", "swbreak+")
    if client.ask("?")[0] == "W":
        assert client.ask("vRun;")[0] == "T"
    assert target.points == set()
    target.power_on()
    target.write_memory(1, CODE, target.program)
    assert client.ask("qXfer:features:read:target.xml:0,ffff")[0] == "l"
    assert "p1.1" in client.ask("vCont;s:p1.1")
    assert client.ask("P0=0102030405060708") == "OK"
    assert client.ask("p0") == "0102030405060708"


@pytest.mark.parametrize("seed", share(range(12), 3))
def test_random_packets(seed: int) -> None:
    run(seed, clients=8, packets=150)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1012))
def test_many_random_packets(seed: int) -> None:
    run(seed, clients=100, packets=500)


def test_memory_stays(make: Callable[..., Session]) -> None:
    """Breakpoints of one client are the only thing that may add up, and they are bounded and end with it."""
    run(77, clients=2, packets=300)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        run(78, clients=10, packets=300)
        assert tracemalloc.get_traced_memory()[0] - before < 2 << 20
        assert tracemalloc.get_traced_memory()[1] - before < 32 << 20
    finally:
        tracemalloc.stop()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=40), st.builds(frame, st.binary(max_size=30))), max_size=8))
def test_any_bytes(chunks: list[bytes]) -> None:
    bugs: list[str] = []
    session = Session(FakeTarget(budget=3), log=bugs.append)
    session.connect()
    decoder = Decoder(1 << 20, replies=True)
    for chunk in chunks:
        session.feed(chunk)
        for out in session.pump():
            decoder.feed(out)
    assert bugs == []
    assert all(len(event.payload) <= 2 * PACKET_SIZE for event in decoder.events() if isinstance(event, Packet))


STEPS = ["resume", "interrupt", "stop", "exit", "gone", "come", "detach", "point", "pump"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=25))
def test_any_order_of_events(steps: list[str]) -> None:
    """Stops, clients and Ctrl-C in any order: one report for a resume, and never a touch of a running guest."""
    bugs: list[str] = []
    target = FakeTarget(budget=1)
    session = Session(target, log=bugs.append)
    decoder = Decoder(replies=True)
    resumes = stops = 0
    for step in steps:
        if step in ("come", "gone"):
            session.disconnect() if session.attached or step == "gone" else None
            if step == "come":
                session.connect()
            resumes = stops = 0
        elif step == "stop" and target.running:
            target.interrupt()
        elif step == "exit":
            target.running = False
            session.stopped(Exited(1))
        else:
            data = {"resume": frame(b"c"), "interrupt": b"\x03", "detach": frame(b"D"), "point": frame(b"Z0,9000,1")}
            if session.wants_input:
                session.feed(data.get(step, b""))
                resumes += step == "resume"
        for out in session.pump():
            decoder.feed(out)
        stops += sum(isinstance(e, Packet) and e.payload[:1] in (b"T", b"W") for e in decoder.events())
        assert stops <= resumes
    assert bugs == []
