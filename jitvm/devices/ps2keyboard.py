"""An IBM PS/2 keyboard with US keys: what sits at the other end of the keyboard cable.

IBM PS/2 Hardware Interface Technical Reference, "Keyboards (101- and 102-key)": commands, scan code sets 1 and 2, the
16-byte buffer with overrun.

The console or a test presses keys by QEMU's key names; `type_text` presses and releases the keys of a text at a
typist's pace of virtual time.

Not modelled: scan code set 3 and its commands F7h to FDh, typematic repeat (the rate is accepted; who holds a key down
presses it again), the codes that depend on other keys (SysRq, and the false shifts around the cursor keys), the time
that the self-test takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from jitvm.clock import Clock
from jitvm.devices.base import Snapshot
from jitvm.trace import SILENT, Trace

ACK, RESEND, BAT_OK, ECHO = 0xFA, 0xFE, 0xAA, 0xEE
CMD_LEDS, CMD_ECHO, CMD_SCAN_SET, CMD_IDENTIFY, CMD_TYPEMATIC = 0xED, 0xEE, 0xF0, 0xF2, 0xF3
CMD_ENABLE, CMD_DISABLE, CMD_DEFAULTS, CMD_RESEND, CMD_RESET = 0xF4, 0xF5, 0xF6, 0xFE, 0xFF
IDENTITY = (0xAB, 0x83)
BUFFER_SIZE = 16
DEFAULT_TYPEMATIC = 0x2B
"""10.9 characters a second after half a second."""
TYPE_NS = 10_000_000
"""Between two key movements of `type_text`."""
EXTENDED = 0xE0
RELEASE = 0xF0

# Key: (code in set 1, code in set 2); E0xxh for the keys that the 84-key keyboard did not have.
KEYS: dict[str, tuple[int, int]] = {
    "esc": (0x01, 0x76), "1": (0x02, 0x16), "2": (0x03, 0x1E), "3": (0x04, 0x26), "4": (0x05, 0x25),
    "5": (0x06, 0x2E), "6": (0x07, 0x36), "7": (0x08, 0x3D), "8": (0x09, 0x3E), "9": (0x0A, 0x46),
    "0": (0x0B, 0x45), "minus": (0x0C, 0x4E), "equal": (0x0D, 0x55), "backspace": (0x0E, 0x66), "tab": (0x0F, 0x0D),
    "q": (0x10, 0x15), "w": (0x11, 0x1D), "e": (0x12, 0x24), "r": (0x13, 0x2D), "t": (0x14, 0x2C),
    "y": (0x15, 0x35), "u": (0x16, 0x3C), "i": (0x17, 0x43), "o": (0x18, 0x44), "p": (0x19, 0x4D),
    "bracket_left": (0x1A, 0x54), "bracket_right": (0x1B, 0x5B), "ret": (0x1C, 0x5A), "ctrl": (0x1D, 0x14),
    "a": (0x1E, 0x1C), "s": (0x1F, 0x1B), "d": (0x20, 0x23), "f": (0x21, 0x2B), "g": (0x22, 0x34),
    "h": (0x23, 0x33), "j": (0x24, 0x3B), "k": (0x25, 0x42), "l": (0x26, 0x4B), "semicolon": (0x27, 0x4C),
    "apostrophe": (0x28, 0x52), "grave_accent": (0x29, 0x0E), "shift": (0x2A, 0x12), "backslash": (0x2B, 0x5D),
    "z": (0x2C, 0x1A), "x": (0x2D, 0x22), "c": (0x2E, 0x21), "v": (0x2F, 0x2A), "b": (0x30, 0x32),
    "n": (0x31, 0x31), "m": (0x32, 0x3A), "comma": (0x33, 0x41), "dot": (0x34, 0x49), "slash": (0x35, 0x4A),
    "shift_r": (0x36, 0x59), "kp_multiply": (0x37, 0x7C), "alt": (0x38, 0x11), "spc": (0x39, 0x29),
    "caps_lock": (0x3A, 0x58), "f1": (0x3B, 0x05), "f2": (0x3C, 0x06), "f3": (0x3D, 0x04), "f4": (0x3E, 0x0C),
    "f5": (0x3F, 0x03), "f6": (0x40, 0x0B), "f7": (0x41, 0x83), "f8": (0x42, 0x0A), "f9": (0x43, 0x01),
    "f10": (0x44, 0x09), "num_lock": (0x45, 0x77), "scroll_lock": (0x46, 0x7E), "kp_7": (0x47, 0x6C),
    "kp_8": (0x48, 0x75), "kp_9": (0x49, 0x7D), "kp_subtract": (0x4A, 0x7B), "kp_4": (0x4B, 0x6B),
    "kp_5": (0x4C, 0x73), "kp_6": (0x4D, 0x74), "kp_add": (0x4E, 0x79), "kp_1": (0x4F, 0x69), "kp_2": (0x50, 0x72),
    "kp_3": (0x51, 0x7A), "kp_0": (0x52, 0x70), "kp_decimal": (0x53, 0x71), "less": (0x56, 0x61),
    "f11": (0x57, 0x78), "f12": (0x58, 0x07), "kp_enter": (0xE01C, 0xE05A), "ctrl_r": (0xE01D, 0xE014),
    "kp_divide": (0xE035, 0xE04A), "alt_r": (0xE038, 0xE011), "home": (0xE047, 0xE06C), "up": (0xE048, 0xE075),
    "pgup": (0xE049, 0xE07D), "left": (0xE04B, 0xE06B), "right": (0xE04D, 0xE074), "end": (0xE04F, 0xE069),
    "down": (0xE050, 0xE072), "pgdn": (0xE051, 0xE07A), "insert": (0xE052, 0xE070), "delete": (0xE053, 0xE071),
    "meta_l": (0xE05B, 0xE01F), "meta_r": (0xE05C, 0xE027), "menu": (0xE05D, 0xE02F),
}  # fmt: skip

# Keys with sequences of their own: (make, break) in set 1, then in set 2.
SEQUENCES: dict[str, tuple[tuple[bytes, bytes], tuple[bytes, bytes]]] = {
    "print": (
        (b"\xe0\x2a\xe0\x37", b"\xe0\xb7\xe0\xaa"),
        (b"\xe0\x12\xe0\x7c", b"\xe0\xf0\x7c\xe0\xf0\x12"),
    ),
    "pause": ((b"\xe1\x1d\x45\xe1\x9d\xc5", b""), (b"\xe1\x14\x77\xe1\xf0\x14\xf0\x77", b"")),
}

_PLAIN = {
    "\n": "ret", "\r": "ret", "\t": "tab", "\b": "backspace", "\x7f": "backspace", "\x1b": "esc", " ": "spc",
    "-": "minus", "=": "equal", "[": "bracket_left", "]": "bracket_right", ";": "semicolon", "'": "apostrophe",
    "`": "grave_accent", "\\": "backslash", ",": "comma", ".": "dot", "/": "slash",
}  # fmt: skip
_SHIFTED = dict(zip('!@#$%^&*()_+{}:"~|<>?', "1234567890-=[];'`\\,./", strict=True))


def keys_of(char: str) -> list[str]:
    """The keys that type a character, modifier first; `ValueError` for one that a US keyboard lacks."""
    shifted = _SHIFTED.get(char, char.lower() if char.isascii() and char.isupper() else "")
    plain = shifted or char
    name = _PLAIN.get(plain, plain)
    if name in KEYS:
        return ["shift", name] if shifted else [name]
    if "\x01" <= char <= "\x1a":
        return ["ctrl", chr(ord(char) + 0x60)]
    raise ValueError(f"no key types {char!r}")


def scan_codes(name: str, down: bool, scan_set: int) -> bytes:
    """The bytes of a key movement in scan code set 1 or 2; `ValueError` for an unknown key."""
    if name in SEQUENCES:
        return SEQUENCES[name][scan_set - 1][0 if down else 1]
    if name not in KEYS:
        raise ValueError(f"no key is called {name!r}")
    code = KEYS[name][scan_set - 1]
    prefix = bytes((EXTENDED,)) if code > 0xFF else b""
    code &= 0xFF
    if down:
        return prefix + bytes((code,))
    return prefix + (bytes((code | 0x80,)) if scan_set == 1 else bytes((RELEASE, code)))


_STATE = ("scanning", "scan_set", "leds", "typematic", "expecting", "last", "overrun")


class Ps2Keyboard:
    """The keyboard; the controller takes bytes by `take` after `ready` was called, and sends by `write`."""

    name = "ps2keyboard"

    def __init__(self, clock: Clock, trace: Trace = SILENT) -> None:
        self._clock, self._trace = clock, trace
        self._timer = clock.timer(self.name, self._type_next)
        self._ready: Callable[[], None] = lambda: None
        self._replies: deque[int] = deque()
        self._buffer: deque[int] = deque()
        self._typed: deque[tuple[str, bool]] = deque()
        self._power_on()

    def _power_on(self) -> None:
        self._replies.clear()
        self._typed.clear()
        self.leds = 0
        """Bit 0 scroll lock, bit 1 num lock, bit 2 caps lock."""
        self.expecting = 0
        """The command that waits for its parameter."""
        self.last = 0
        self._defaults()

    def _defaults(self) -> None:
        self.scan_set = 2
        self.typematic = DEFAULT_TYPEMATIC
        self.scanning = True
        self._clear_buffer()

    def _clear_buffer(self) -> None:
        self._buffer.clear()
        self.overrun = False

    # The user's side

    def press(self, name: str) -> None:
        """A key goes down."""
        self._move(name, True)

    def release(self, name: str) -> None:
        """A key comes up."""
        self._move(name, False)

    def _move(self, name: str, down: bool) -> None:
        codes = scan_codes(name, down, self.scan_set)
        if not self.scanning or not codes:
            return
        buffer = self._buffer
        if len(buffer) + len(codes) <= BUFFER_SIZE:
            buffer.extend(codes)
            self.overrun = False
        elif not self.overrun:
            buffer.append(0xFF if self.scan_set == 1 else 0x00)
            self.overrun = True
        self._ready()

    def type_text(self, text: str) -> None:
        """Press and release the keys of a text, one movement each 10 ms of virtual time."""
        moves: list[tuple[str, bool]] = []
        for char in text:
            keys = keys_of(char)
            moves += [(key, True) for key in keys]
            moves += [(key, False) for key in reversed(keys)]
        self._typed.extend(moves)
        if self._typed and self._timer.deadline is None:
            self._timer.arm(self._clock.now_ns + TYPE_NS)

    def _type_next(self) -> None:
        name, down = self._typed[0]
        if len(self._buffer) + len(scan_codes(name, down, self.scan_set)) <= BUFFER_SIZE:
            self._typed.popleft()
            self._move(name, down)
        if self._typed:
            self._timer.arm(self._clock.now_ns + TYPE_NS)

    # The controller's side

    def connect(self, ready: Callable[[], None]) -> None:
        """`ready` is called whenever there may be a new byte to take."""
        self._ready = ready

    def has_byte(self) -> bool:
        """Whether `take` would give something."""
        return bool(self._replies or self._buffer)

    def take(self) -> int | None:
        """The next byte on the cable."""
        if self._replies:
            value = self._replies.popleft()
        elif self._buffer:
            value = self._buffer.popleft()
        else:
            return None
        self.last = value
        return value

    def write(self, value: int) -> None:
        """A byte from the controller: a command or the parameter of one."""
        self._replies.clear()
        command, self.expecting = self.expecting, 0
        if command and value < CMD_LEDS:
            self._parameter(command, value)
        else:
            self._command(value)
        self._ready()

    def _reply(self, *values: int) -> None:
        self._replies.extend(values)

    def _command(self, value: int) -> None:
        if value == CMD_ECHO:
            self._reply(ECHO)
        elif value == CMD_RESEND:
            self._reply(self.last)
        elif value == CMD_IDENTIFY:
            self._reply(ACK, *IDENTITY)
        elif value in (CMD_LEDS, CMD_SCAN_SET, CMD_TYPEMATIC):
            self.expecting = value
            self._reply(ACK)
        elif value == CMD_ENABLE:
            self.scanning = True
            self._clear_buffer()
            self._reply(ACK)
        elif value in (CMD_DISABLE, CMD_DEFAULTS):
            self._defaults()
            self.scanning = value == CMD_DEFAULTS
            self._reply(ACK)
        elif value == CMD_RESET:
            self.leds = 0
            self._defaults()
            self._reply(ACK, BAT_OK)
        else:
            self._refuse("command", value)

    def _parameter(self, command: int, value: int) -> None:
        if command == CMD_LEDS:
            self.leds = value & 7
            self._reply(ACK)
        elif command == CMD_TYPEMATIC:
            self.typematic = value & 0x7F
            self._reply(ACK)
        elif value == 0:
            self._reply(ACK, self.scan_set)
        elif value in (1, 2):
            self.scan_set = value
            self._clear_buffer()
            self._reply(ACK)
        else:
            self._refuse("scan code set", value)

    def _refuse(self, what: str, value: int) -> None:
        self._trace("unmodelled", device=self.name, what=what, value=value)
        self._reply(RESEND)

    # Device

    def reset(self) -> None:
        """Power on; the self-test has been passed and its AAh sent while nobody listened."""
        self._power_on()
        self._timer.cancel()

    def snapshot(self) -> Snapshot:
        state: Snapshot = {key: getattr(self, key) for key in _STATE}
        return state | {
            "replies": bytes(self._replies),
            "buffer": bytes(self._buffer),
            "typed": [[name, down] for name, down in self._typed],
            "deadline": self._timer.deadline,
        }

    def restore(self, state: Snapshot) -> None:
        for key in _STATE:
            setattr(self, key, state[key])
        self._replies = deque(state["replies"])
        self._buffer = deque(state["buffer"])
        self._typed = deque((name, down) for name, down in state["typed"])
        if state["deadline"] is None:
            self._timer.cancel()
        else:
            self._timer.arm(state["deadline"])
