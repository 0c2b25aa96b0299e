"""Frames: every split of the input gives the same events; nothing that comes in makes memory grow."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdbstub.framing import (
    PACKET_SIZE,
    Ack,
    Corrupt,
    Decoder,
    Event,
    Interrupt,
    Link,
    Nak,
    Overlong,
    Packet,
    escape,
    expand,
    frame,
    run_length,
    unescape,
)


def decode(data: bytes, *, step: int = 1 << 20, replies: bool = False) -> list[Event]:
    decoder = Decoder(replies=replies)
    events: list[Event] = []
    for at in range(0, len(data), step):
        decoder.feed(data[at : at + step])
        events += decoder.events()
    assert decoder.idle
    return events


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"$g#67", [Packet(b"g")]),
        (b"+$OK#9a-\x03", [Ack(), Packet(b"OK"), Nak(), Interrupt()]),
        (b"$#00", [Packet(b"")]),
        (b"$g#68$g#67", [Corrupt(), Packet(b"g")]),
        (b"$g#6$g#67", [Corrupt(), Packet(b"g")]),
        (b"$m10,$g#67", [Packet(b"g")]),
        (b"noise$g#67more", [Packet(b"g")]),
        (b"$g#6G+", [Corrupt(), Ack()]),
        (frame(b"X0,1:}\x03"), [Packet(b"X0,1:#")]),
        (frame(b"X0,1:\x03"), [Packet(b"X0,1:\x03")]),
        (b"$qC#B4", [Packet(b"qC")]),
    ],
)
def test_events(data: bytes, events: list[Event], step: int) -> None:
    assert decode(data, step=step) == events


def test_the_longest_packet_is_taken_and_one_more_byte_is_not() -> None:
    body = b"x" * PACKET_SIZE
    assert decode(frame(body)) == [Packet(body)]
    assert decode(frame(body + b"x") + b"$g#67") == [Overlong(PACKET_SIZE + 1), Packet(b"g")]


def test_an_endless_packet_takes_no_memory() -> None:
    decoder = Decoder()
    for _ in range(200):
        decoder.feed(b"$" + b"y" * PACKET_SIZE * 2)
        assert list(decoder.events()) == []
        assert len(decoder._body) <= PACKET_SIZE
        assert decoder.idle


def test_events_are_made_one_at_a_time() -> None:
    decoder = Decoder()
    decoder.feed(b"$a#61$b#62")
    assert next(decoder.events()) == Packet(b"a")
    assert not decoder.idle
    decoder.feed(b"$c#63")
    assert list(decoder.events()) == [Packet(b"b"), Packet(b"c")]


@given(st.binary(max_size=300))
def test_escape_round_trip(data: bytes) -> None:
    escaped = escape(data)
    assert not any(byte in b"#$*" for byte in escaped)
    assert unescape(escaped) == data
    assert decode(frame(escaped)) == [Packet(data)]


@given(st.lists(st.tuples(st.sampled_from(list(b"0f}#*$\x00\x03x")), st.integers(1, 300)), max_size=8))
def test_run_length_round_trip(runs: list[tuple[int, int]]) -> None:
    data = escape(b"".join(bytes((byte,)) * times for byte, times in runs))
    short = run_length(data)
    assert len(short) <= len(data)
    assert expand(short) == data
    assert decode(frame(short), replies=True) == [Packet(unescape(data))]


@pytest.mark.parametrize("times", range(1, 110))
def test_run_length_never_uses_a_frame_character_as_a_count(times: int) -> None:
    short = run_length(b"0" * times)
    assert expand(short) == b"0" * times
    assert not set(short) & set(b"#$+-")
    assert len(short) <= 8 + 5 * (times // 98)


@pytest.mark.parametrize("first", [b"0", b"f", b"x", b"\0"])
@pytest.mark.parametrize("second", [b"0", b"f", b"x", b"\0"])
def test_a_count_never_joins_the_run_behind_it(first: bytes, second: bytes) -> None:
    for times in range(1, 110):
        for rest in (0, 1, 7, 8, 90):
            data = first * times + second * rest
            assert expand(run_length(data)) == data


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=400), st.randoms(use_true_random=False))
def test_splits_do_not_matter(data: bytes, rng: random.Random) -> None:
    data = data.replace(b"z", b"$").replace(b"y", b"#")
    whole = decode(data)
    decoder = Decoder()
    events: list[Event] = []
    while data:
        cut = rng.randint(1, 9)
        decoder.feed(data[:cut])
        data = data[cut:]
        events += decoder.events()
    assert events == whole


def test_link_acknowledges_repeats_and_stops_doing_so() -> None:
    link = Link()
    link.feed(b"$g#67")
    assert link.next() == Packet(b"g")
    assert link.take() == b"+"
    link.send(b"OK")
    assert link.take() == b"$OK#9a"
    link.feed(b"----")
    assert link.next() is None
    assert link.take() == b"$OK#9a"
    link.feed(b"$g#00")
    assert link.next() is None
    assert link.take() == b"-"
    link.no_ack = True
    link.feed(b"$g#00$g#67-")
    assert link.next() == Packet(b"g")
    assert link.next() is None
    assert link.take() == b""
