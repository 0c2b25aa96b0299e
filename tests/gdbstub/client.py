"""A debugger's side of a session, without a socket."""

from __future__ import annotations

from gdbstub import Session
from gdbstub.framing import Ack, Decoder, Packet, frame


class Client:
    """Sends packets to a session and collects what it answers; `log` has the bugs that the session met."""

    def __init__(self, session: Session, *features: str, no_ack: bool = True) -> None:
        self.session = session
        self._decoder = Decoder(1 << 20, replies=True)
        self.raw = b""
        session.connect()
        if no_ack:
            assert self.send("QStartNoAckMode") == ["OK"]
        if features:
            self.send("qSupported:" + ";".join(features))

    def wire(self, data: bytes) -> list[str]:
        """Feed bytes; the replies' payloads."""
        self.session.feed(data)
        return self.pump()

    def pump(self) -> list[str]:
        """What the session has to say now."""
        out = b"".join(self.session.pump())
        self.raw = out
        self._decoder.feed(out)
        events = list(self._decoder.events())
        assert all(isinstance(event, Packet | Ack) for event in events), events
        return [event.payload.decode("latin-1") for event in events if isinstance(event, Packet)]

    def send(self, packet: str | bytes) -> list[str]:
        """One packet; all that came back."""
        return self.wire(frame(packet.encode("latin-1") if isinstance(packet, str) else packet))

    def ask(self, packet: str | bytes) -> str:
        """One packet that has exactly one reply."""
        replies = self.send(packet)
        assert len(replies) == 1, replies
        return replies[0]
