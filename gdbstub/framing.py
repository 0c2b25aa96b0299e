"""The frame around gdb's packets, as a machine that is fed with bytes and knows no socket.

Source: gdb's manual, "Remote Serial Protocol: Overview, Packet Acknowledgment, Interrupts". A packet is `$payload#cc`,
cc the sum of the payload's bytes as sent, modulo 256, in hex. `}` escapes the next byte, which is sent XOR 20h. `*` in
a *reply* repeats the byte before it as often as the next byte says, less 29. `+` and `-` acknowledge until
QStartNoAckMode. 03h outside of a packet asks for an interrupt.

Rules chosen here, where the manual leaves room:

* `$` inside a packet starts a new one: a packet cut off in the middle costs only itself. A client escapes `$` in binary
  data.
* Memory is bounded: of a payload longer than the limit nothing is kept, it is acknowledged and reported as `Overlong`.
* A wrong checksum is answered by `-`, or dropped in no-ack mode, where the transport is reliable and a `-` is not
  awaited.
* Several `-` in one go send the last packet again once: garbage must not be multiplied into megabytes.

Not modelled: notifications (`%`), which only non-stop mode needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

PACKET_SIZE = 0x20000
"""Longest payload taken, 128 KiB; announced as PacketSize."""
WORTH_SHORTENING = 1024
"""Shorter payloads are sent as they are: that takes less time than looking for runs."""

_IDLE, _BODY, _SUM_HIGH, _SUM_LOW = range(4)
_START = re.compile(rb"[$+\-\x03]")
_WHOLE = re.compile(rb"\$([^$#]*)#([0-9a-fA-F]{2})")
"""A packet that came in one piece."""
_END = re.compile(rb"[$#]")
_HEX = {value: int(chr(value), 16) for value in b"0123456789abcdefABCDEF"}
_MUST_ESCAPE = re.compile(rb"[#$}*]")
_ESCAPED = re.compile(rb"\}(.)", re.DOTALL)
_RUNS = [(byte * 8, re.compile(byte + rb"{8,98}")) for byte in (b"0", b"f", b"x", b"\0")]
"""Runs worth the time: those of zeros, ones and missing registers. Looking for all takes longer than sending them."""
_REPEATED = re.compile(rb"(.)\*([ -~])", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Packet:
    """A payload with a right checksum, escapes resolved."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Corrupt:
    """A packet with a wrong checksum."""


@dataclass(frozen=True, slots=True)
class Overlong:
    """A packet longer than the limit; its bytes are gone."""

    length: int


@dataclass(frozen=True, slots=True)
class Interrupt:
    """03h between packets: Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Ack:
    """`+`."""


@dataclass(frozen=True, slots=True)
class Nak:
    """`-`: send the last packet again."""


Event = Packet | Corrupt | Overlong | Interrupt | Ack | Nak


def escape(data: bytes) -> bytes:
    """Binary data as it stands in a payload (manual: "Overview", binary data)."""
    return _MUST_ESCAPE.sub(lambda m: bytes((0x7D, m[0][0] ^ 0x20)), data)


def unescape(payload: bytes) -> bytes:
    """Binary data as it was before `escape`; a lone `}` at the end stays."""
    if b"}" not in payload:
        return payload
    return _ESCAPED.sub(lambda m: bytes((m[1][0] ^ 0x20,)), payload)


def run_length(payload: bytes) -> bytes:
    """A payload with its longer runs of zeros and ones shortened, as replies may be."""
    for shortest, run in _RUNS:
        if shortest in payload:
            payload = run.sub(_shorten, payload)
    return payload


def _shorten(match: re.Match[bytes]) -> bytes:
    """One run of up to 98 bytes; a count whose letter frames packets or may begin a run gives way to a smaller one."""
    byte, letter = match[0][:1], len(match[0]) + 28
    count = letter
    while count in b"#$*+-0fx":
        count -= 1
    return byte + b"*" + bytes((count,)) + byte * (letter - count)


def expand(payload: bytes) -> bytes:
    """The inverse of `run_length`: what a client does with a reply."""
    if b"*" not in payload:
        return payload
    return _REPEATED.sub(lambda m: m[1] * (m[2][0] - 28), payload)


def frame(payload: bytes) -> bytes:
    """A payload, escaped where binary, as a packet."""
    return b"$%b#%02x" % (payload, sum(payload) & 0xFF)


class Decoder:
    """Bytes in, events out. `feed` takes any split; `events` yields what is complete, one at a time.

    With `replies` it decodes the other direction, where runs may be shortened: for clients and tests.
    """

    def __init__(self, limit: int = PACKET_SIZE, *, replies: bool = False) -> None:
        self._limit = limit
        self._replies = replies
        self._input = b""
        self._at = 0
        self._state = _IDLE
        self._body = bytearray()
        self._length = 0
        self._sum = 0
        self._digit = 0

    def feed(self, data: bytes) -> None:
        """Append bytes from the wire."""
        self._input = self._input[self._at :] + data
        self._at = 0

    @property
    def idle(self) -> bool:
        """All that was fed has been turned into events or kept as the beginning of a packet."""
        return self._at == len(self._input)

    def events(self) -> Iterator[Event]:
        """The events in what was fed; a consumer may stop in between and ask again later."""
        while self._at < len(self._input):
            event = self._advance()
            if event is not None:
                yield event

    def _advance(self) -> Event | None:
        if self._state == _IDLE:
            return self._between()
        if self._state == _BODY:
            self._inside()
            return None
        return self._checksum()

    def _between(self) -> Event | None:
        match = _START.search(self._input, self._at)
        if match is None:
            self._at = len(self._input)
            return None
        self._at = match.end()
        start = match[0]
        if start == b"$":
            whole = _WHOLE.match(self._input, match.start())
            if whole is not None and len(whole[1]) <= self._limit and int(whole[2], 16) == sum(whole[1]) & 0xFF:
                self._at = whole.end()
                return self._packet(whole[1])
            self._begin()
            return None
        if start == b"+":
            return Ack()
        return Nak() if start == b"-" else Interrupt()

    def _begin(self) -> None:
        self._state = _BODY
        self._body.clear()
        self._length = self._sum = 0

    def _inside(self) -> None:
        match = _END.search(self._input, self._at)
        end = match.start() if match else len(self._input)
        piece = self._input[self._at : end]
        self._at = end + 1 if match else end
        self._length += len(piece)
        self._sum += sum(piece)
        if self._length <= self._limit:
            self._body += piece
        else:
            self._body.clear()
        if match is not None:
            if match[0] == b"$":
                self._begin()
            else:
                self._state = _SUM_HIGH

    def _checksum(self) -> Event | None:
        byte = self._input[self._at]
        digit = _HEX.get(byte)
        if digit is None:
            self._state = _IDLE
            return Corrupt()  # the byte stays: it may be the `$` of the next packet
        self._at += 1
        if self._state == _SUM_HIGH:
            self._digit = digit
            self._state = _SUM_LOW
            return None
        self._state = _IDLE
        if (self._digit << 4 | digit) != self._sum & 0xFF:
            return Corrupt()
        if self._length > self._limit:
            return Overlong(self._length)
        body = bytes(self._body)
        self._body.clear()
        return self._packet(body)

    def _packet(self, body: bytes) -> Packet:
        return Packet(unescape(expand(body) if self._replies else body))


class Link:
    """One client's connection: events in, packets out, with acknowledgments and repetition."""

    def __init__(self, *, limit: int = PACKET_SIZE) -> None:
        self._decoder = Decoder(limit)
        self._out = bytearray()
        self._last = b""
        self._repeated = False
        self.no_ack = False
        """Set after the reply to QStartNoAckMode."""

    def feed(self, data: bytes) -> None:
        """Append bytes from the wire."""
        self._decoder.feed(data)
        self._repeated = False

    @property
    def idle(self) -> bool:
        """All input has been seen."""
        return self._decoder.idle

    def next(self) -> Packet | Overlong | Interrupt | None:
        """The next event that concerns a session, acknowledged; None when the input is used up."""
        if self._decoder.idle:
            return None
        for event in self._decoder.events():
            if isinstance(event, Packet | Overlong):
                if not self.no_ack:
                    self._out += b"+"
                return event
            if isinstance(event, Interrupt):
                return event
            if not self.no_ack:
                self._acknowledgment(event)
        return None

    def _acknowledgment(self, event: Corrupt | Ack | Nak) -> None:
        if isinstance(event, Corrupt):
            self._out += b"-"
        elif isinstance(event, Nak) and self._last and not self._repeated:
            self._repeated = True
            self._out += self._last

    def send(self, payload: bytes) -> None:
        """Send a packet whose payload is already escaped where it is binary."""
        self._last = frame(run_length(payload) if len(payload) >= WORTH_SHORTENING else payload)
        self._out += self._last
        if self.no_ack:
            self._last = b""

    def take(self) -> bytes:
        """What must go out to the wire; it is forgotten here."""
        out = bytes(self._out)
        self._out.clear()
        return out
