"""Where a RET of a region may go: behind the calls of the functions that it ends.

A block belongs to a function when there is a way to it from where the function is called, on which calls are stepped over.
It may belong to several (a jump from one function into another).  A RET goes behind the calls of its functions; where no
call that is known leads to it, behind any.  What it finds at run time decides: this says only what is compared.

A plan so has no edges from each RET to behind each call, and its loops are those of the guest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """A block: the RIPs that follow it in its function; functions that it calls, and where they come back to.

    `ends`: its last instruction is a RET.
    """

    following: tuple[int, ...]
    calls: tuple[int, ...] = ()
    behind: int = -1
    ends: bool = False


def _function(begin: int, steps: Mapping[int, Step]) -> list[int]:
    """RIPs of the blocks of a function."""
    found = {begin: None} if begin in steps else {}
    work = list(found)
    for rip in work:
        step = steps[rip]
        new = [to for to in ((step.behind,) if step.calls else step.following) if to in steps and to not in found]
        found.update(dict.fromkeys(new))
        work += new
    return work


def return_places(steps: Mapping[int, Step]) -> dict[int, list[int]]:
    """RIPs that each block which ends in a RET may go to; `steps`: the blocks by their RIP."""
    callers: dict[int, list[int]] = {}
    for step in steps.values():
        for begin in step.calls if step.behind in steps else ():
            callers.setdefault(begin, []).append(step.behind)
    places: dict[int, dict[int, None]] = {rip: {} for rip, step in steps.items() if step.ends}
    for begin, behind in callers.items():
        for rip in _function(begin, steps):
            if rip in places:
                places[rip].update(dict.fromkeys(behind))
    every = [step.behind for step in steps.values() if step.calls and step.behind in steps]
    return {rip: list(found) or list(dict.fromkeys(every)) for rip, found in places.items()}
