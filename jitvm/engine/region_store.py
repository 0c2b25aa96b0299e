"""The linked regions of a process: who uses them, what they take, and when they go.

Each vCPU may use regions of so many bytes (`--code-cache`).  When the next one does not fit, the vCPU forgets all of its
translations, a whole generation, while its code stands: nothing leads into its regions then.  A region that no vCPU uses
stays linked, to be found again, until its room is wanted.  So code that may be running is never freed.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING

from jitvm.engine.compiler import Made

if TYPE_CHECKING:
    from jitvm.engine.code import Code
    from jitvm.engine.regions import Regions

PAGE = 4096
BESIDE = 40 << 10
"""Bytes that LLVM keeps beside the code of an object, measured with 2,000 of them."""


def cost(code: bytes) -> int:
    """Bytes of memory that a linked object takes, about."""
    return -(-len(code) // PAGE) * PAGE + BESIDE


class RegionStore:
    """Regions of `code` by name.  `Regions` take room before they link one."""

    def __init__(self, code: Code) -> None:
        self._code = code
        self._lock = threading.RLock()
        self._cost: dict[str, int] = {}
        """Of all that are linked, the ones that were linked first in front."""
        self._users: dict[str, set[int]] = {}
        self._shares: dict[int, int] = {}
        self._gone: deque[int] = deque()
        """Users that are no more."""
        self.evicted = 0
        self.keep_all = False
        """Nothing is unlinked: somebody wants addresses to stay what they are."""

    @property
    def bytes(self) -> int:
        """What all linked regions take."""
        with self._lock:
            return sum(self._cost.values())

    def __len__(self) -> int:
        return len(self._cost)

    # ---- users --------------------------------------------------------------------------------------------------------
    def join(self, user: Regions, share: int) -> int:
        """A new user, which may use regions of `share` bytes; its number."""
        with self._lock:
            number = max(self._shares, default=0) + 1
            self._shares[number] = share
        weakref.finalize(user, self._gone.append, number)
        return number

    def release(self, number: int) -> None:
        """A user's code leads to no region any more."""
        with self._lock:
            for users in self._users.values():
                users.discard(number)

    def used(self, number: int) -> int:
        """Bytes of the regions that a user's code leads to."""
        with self._lock:
            return sum(self._cost[name] for name, users in self._users.items() if number in users)

    def _bury(self) -> None:
        while self._gone:
            number = self._gone.popleft()
            self.release(number)
            del self._shares[number]

    # ---- regions ------------------------------------------------------------------------------------------------------
    def take(self, number: int, made: Made) -> int | None:
        """Address of a region to which a user's code is about to lead; None when the user's share has no room for it.

        What nobody uses goes as far as the room is wanted.
        """
        with self._lock:
            self._bury()
            if made.name not in self._cost:
                wanted = cost(made.code)
                if not made.code or self.used(number) + wanted > self._shares[number]:
                    return None
                self._drop_unused(sum(self._shares.values()) - wanted)
                self._cost[made.name] = wanted
                self._users[made.name] = set()
            elif self.used(number) + self._cost[made.name] > self._shares[number] and number not in self._users[made.name]:
                return None
            self._users[made.name].add(number)
            return self._code.link_region(made)

    def _drop_unused(self, most: int) -> None:
        """Unlink regions that nobody uses, the first ones first, until all take no more than `most`."""
        total = sum(self._cost.values())
        for name in [n for n, users in self._users.items() if not users]:
            if total <= most or self.keep_all:
                return
            total -= self._cost.pop(name)
            del self._users[name]
            self._code.unlink(name)
            self.evicted += 1
