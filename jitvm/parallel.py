"""vCPUs that run at the same time, each on its host thread: `--smp N --smp-threads`.

While translated code runs, a vCPU is *inside*: it holds neither the machine lock nor the interpreter.  What one must not do
while others are inside it does when they all stand (`World.stop`): they are kicked and wait before they go in again.  So
are code of a page that was data until then, a store to code of others, DMA to code, a change of the memory map, and locked
accesses that no host instruction can make; `jitvm/isa/shared.py` says who asks for it.  Whoever is about to go in does
first what is due (`World.soon`), so that it is done before an instruction of anybody sees what asked for it.

Ports that need no device and the local APIC's registers are served in translated code here, too: the table of ports is made
of bytes, the APIC's page is its vCPU's own.  What other threads have for that page (messages, timers, the 8259A's INTR)
waits until the vCPU has come out (`ThreadVcpu.at_rest`).

Each vCPU counts its own time; where it enters translated code it goes on from the furthest one's (`Clock`), and RDTSC
never tells less than was told before.  A timer fires when the first vCPU reaches it.  When all are halted the last one
lets time go on.

No vCPU gets further than `LEASH` ahead of another that runs, or `NEAR` ahead of one for which an interrupt has just come: it
waits (`World.limit`).  A host that has other things to do, or less cores than there are vCPUs, lets some of their threads
stand for long; a guest whose time went on meanwhile would lose ticks, and find that its clocks go differently.  Where it was
a timer that interrupted it, that holds until it has executed `URGENT` instructions, however often it comes out for them: a
handler that reads the clock late, and sets the next tick from there, loses time with each.

An instruction for which all stand takes `ALONE_NS` of virtual time, about what it takes of the host's: a locked access over
a cache line's border is slow on silicon, too, and a guest that does nothing else would wait minutes for its next tick if
each were the nanosecond of any instruction.

A run is not reproducible: how far the vCPUs are against each other, within that, is the host's affair.

Source: Intel SDM vol. 3, 8.1 (locked operations), 8.1.3 (cross-modifying code), 8.2 (memory ordering: the host's own, on
x86-64 hosts), 8.4 (starting processors), 17.17 (time-stamp counter).

Not modelled: x86's memory order on other hosts (`--smp-threads` is refused there).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from jitvm.clock import NEVER, Clock
from jitvm.engine import layout as lay
from jitvm.engine.common import CLOCK, Common
from jitvm.errors import JitvmError
from jitvm.exits import ExitReason, Outcome, Run
from jitvm.isa.state import EXIT_ALONE, EXIT_CODE, EXIT_DATA
from jitvm.memory import GuestMemory, weakly
from jitvm.vcpu import EXTRA_NS, IDLE_S, WHY_EXIT, Vcpu

ALONE, CODE, DATA = int(EXIT_ALONE), int(EXIT_CODE), int(EXIT_DATA)
ASKED = frozenset({ALONE, CODE, DATA})
WINDOW = int(ExitReason.IRQ_WINDOW_OPEN)
LEASH, NEAR = 4_000_000, 50_000
"""Virtual nanoseconds: a tick of a kernel with 250 Hz; how late the interrupt of one may come, which makes the
next tick late, too, as long as a kernel has no other clock."""
URGENT = 20_000
"""Instructions, of the handler of an interrupt mostly, for which a vCPU waits for nobody, and the others wait for it."""
ALONE_NS = 10_000
"""Virtual time of an instruction for which all stand (measured: 12 us of the host's with one other vCPU, halted)."""
QUANTUM = LEASH // 2
"""How long a vCPU stays inside at most, so that two of the same speed need not wait for each other."""


class World:
    """The vCPUs of a machine, and what they do while they all stand; all of it under the machine lock.

    `is_held(index)`: a debugger keeps that vCPU standing.
    """

    def __init__(self, lock: threading.Lock, clock: Clock, memory: GuestMemory, n: int) -> None:
        self.lock, self.clock, self.common = lock, clock, Common(memory, n)
        self.vcpus: list[ThreadVcpu] = []
        self.is_held: Callable[[int], bool] = lambda index: False
        self.stops = {"alone": 0, "code": 0, "data": 0, "due": 0}
        """How often all had to stand, by what for."""
        self._stood = threading.Condition(lock)
        self._owner: ThreadVcpu | None = None
        self._due: list[Callable[[], None]] = []
        self._ahead: set[ThreadVcpu] = set()
        """Who waits for the others' time."""
        memory.on_write.append(weakly(self._on_write))
        memory.on_map.append(weakly(self._on_map))

    # ---- going in and coming out ----------------------------------------------------------------------------------------
    def go_in(self, vcpu: ThreadVcpu) -> None:
        """`vcpu` is about to run translated code: what is due is done, nobody wants all to stand; drops the lock."""
        while self._owner is not None or self._due:
            if self._owner is not None:
                self._stood.wait()
            else:
                self.stop(vcpu, "due")
                self.resume()
        if vcpu.rewritten:
            vcpu.rewritten = False
            vcpu.engine.accel.serialize(vcpu.engine.address)
        vcpu.inside = True
        self.lock.release()

    def come_out(self, vcpu: ThreadVcpu) -> None:
        """It is back; takes the lock."""
        self.lock.acquire()
        vcpu.inside = False
        while vcpu.letters:
            vcpu.letters.pop(0)()
        if self._owner is not None:
            self._stood.notify_all()

    # ---- all stand ------------------------------------------------------------------------------------------------------
    def stop(self, vcpu: ThreadVcpu, what: str) -> None:
        """Wait, with the lock dropped, until nobody is inside; do what is due.  Nobody goes in before `resume`."""
        while self._owner is not None:
            self._stood.wait()
        self._owner = vcpu
        self.stops[what] += 1
        for other in self.vcpus:
            if other.inside:
                other.engine.kick()
        while self.is_entered():
            self._stood.wait()
        while self._due:
            self._due.pop(0)()

    def resume(self) -> None:
        """The others may go in again; their translated code may be another."""
        for vcpu in self.vcpus:
            vcpu.rewritten = True
        self._owner = None
        self._stood.notify_all()

    def soon(self, action: Callable[[], None]) -> None:
        """Do it when all stand: at once, or before anybody goes in again."""
        if self.is_entered():
            self._due.append(action)
        else:
            action()

    def _on_write(self, offset: int, size: int) -> None:
        if self.common.holds_code(offset, size):
            self.soon(lambda: self.common.written(offset, size))

    def _on_map(self) -> None:
        def flush() -> None:
            for vcpu in self.vcpus:
                vcpu.engine.accel.flush(vcpu.engine.address)

        self.soon(flush)

    # ---- time -----------------------------------------------------------------------------------------------------------
    def limit(self, vcpu: ThreadVcpu) -> int:
        """Virtual time beyond which `vcpu` must not run, so that no other one is left behind."""
        limit = NEVER
        for other in self.vcpus:
            if other is vcpu or self.is_held(other.index):
                continue
            if other.is_expected():
                if other.expected == NEVER:
                    other.expected = self.clock.now_ns
                limit = min(limit, other.expected + NEAR)
            elif other.reached != NEVER:
                limit = min(limit, other.reached + LEASH)
        return limit

    def wait_for_others(self, vcpu: ThreadVcpu) -> None:
        """Until `vcpu`, which goes on from the furthest one's time, is not too far ahead, or is kicked; drops the lock."""
        vcpu.catch_up()
        while not vcpu.is_called() and not vcpu.is_urgent() and self.limit(vcpu) <= vcpu.now():
            self._ahead.add(vcpu)
            vcpu.sleep(IDLE_S)
            self._ahead.discard(vcpu)
            vcpu.catch_up()

    def has_reached(self, vcpu: ThreadVcpu, time_ns: int) -> None:
        """`vcpu` goes on from that time; NEVER: it does not run."""
        vcpu.reached = time_ns
        if time_ns == NEVER or not vcpu.is_urgent():
            vcpu.expected = NEVER
        for other in self._ahead:
            other.ring()

    def now(self) -> int:
        """The furthest vCPU's virtual time."""
        return self.clock.now_ns

    def skip(self, ns: int) -> None:
        """Let it go on; the vCPUs follow when they go in."""
        self.clock.now_ns += ns

    def restored(self) -> None:
        """Time was put back or forth."""
        self.common.set_time(self.clock.now_ns)

    def is_entered(self) -> bool:
        """Whether anybody is inside."""
        return any(vcpu.inside for vcpu in self.vcpus)

    def others_go(self, vcpu: ThreadVcpu) -> bool:
        """Whether any other vCPU runs, or is about to."""
        return any(v is not vcpu and not self.is_held(v.index) and v.goes() for v in self.vcpus)

    def watch_timers(self) -> None:
        """Who runs beyond the next timer, which another vCPU has set, shall look at it."""
        for vcpu in self.vcpus:
            if vcpu.inside and vcpu.ends_at > self.clock.due:
                vcpu.engine.kick()


class ThreadVcpu(Vcpu):
    """One of several vCPUs that run at the same time."""

    def __init__(self, world: World, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.world = world
        world.vcpus.append(self)
        self.inside = False
        """It runs translated code."""
        self.rewritten = False
        """Somebody may have written into its translated code."""
        self.letters: list[Callable[[], None]] = []
        """What others have for it, to be done when it has come out."""
        self.ends_at = 0
        """Virtual time at which it comes out at the latest."""
        self.reached = self.expected = NEVER
        """Virtual time at which it went in last, NEVER while it does not run; and since when it is expected to go in."""
        self._called = self._called_shut = False
        """A timer's interrupt has come for it, and it has not gone in since; or not with interrupts open."""
        self._urgent_to = 0
        """`retired` up to which it waits for nobody (a reset may have put it back)."""
        self._budget = 1
        self._thread = 0
        self._reason, self._alone, self._asked, self._n_written = (
            lay.at(n) // 8 for n in ("exit_reason", "alone", "asked_page", "n_written")
        )
        self.go_in = lambda: world.go_in(self)
        self.come_out = lambda: world.come_out(self)
        self.enter = self._enter

    def goes(self) -> bool:
        """Whether it runs, or what has come ends its HLT: that waits for it, is being let in, or is told when it is out."""
        return not self.is_halted() or self.inside or self.engine.injecting or self.wakes()

    def begin_turn(self) -> None:
        self._thread = threading.get_ident()
        super().begin_turn()

    def notice(self) -> None:
        """Its own thread looks before it goes in; others may find it inside, or about to go in."""
        self._called |= self.clock.firing
        if not self._in_turn or threading.get_ident() != self._thread:
            self.kick()

    def at_rest(self, action: Callable[..., None], *arguments: object) -> None:
        """Now, or when it has come out, which a kick makes soon: inside it reaches its local APIC's page itself."""
        if not self.inside:
            action(*arguments)
            return
        self._called |= self.clock.firing
        self.letters.append(lambda: action(*arguments))
        self.kick()

    def offer_urgent(self) -> bool:
        alone = super().offer_urgent()
        if self._words[self._n_written]:  # SMI: the state goes to memory
            self.world.soon(lambda: self.world.common.settle(self.engine))
        return alone

    def is_expected(self) -> bool:
        """Whether something waits for it to go in: an interrupt, mostly."""
        if self.is_halted():
            return self.wakes()
        return self.reached != NEVER and (self.engine.kicked or self.is_urgent())

    def is_urgent(self) -> bool:
        """Whether it has to take a timer's interrupt, or is at the beginning of its handler."""
        return self._called or self._urgent_to - URGENT <= self.retired < self._urgent_to

    def is_called(self) -> bool:
        """Whether it shall look around before anything else; the bell rings for what comes later."""
        self._bell.acquire(blocking=False)
        return self.engine.kicked

    def sleep(self, seconds: float) -> None:
        """Until a kick or the bell, at most for `seconds`; the lock is dropped meanwhile."""
        self._sleep(seconds)

    def catch_up(self) -> None:
        """It is as late as anywhere."""
        behind = self.clock.now_ns - self._now
        if behind > 0:
            self.skip(behind)
        self.world.has_reached(self, self._now)

    def execute(self) -> Outcome:
        try:
            return super().execute()
        finally:
            self.world.has_reached(self, NEVER)

    def pre_run(self) -> tuple[int, int]:
        world = self.world
        world.wait_for_others(self)
        due, end = super().pre_run()
        self.attention = True  # each entry begins here
        if self._called:
            self._called, self._called_shut = False, not self.interrupts_open()
            self._urgent_to = self._retired + URGENT
        room = self._urgent_to - self._retired if self.is_urgent() else world.limit(self) - self._now
        self._budget = max(1, min(due - self._now, end - self._retired, room, QUANTUM))
        self.ends_at = self._now + self._budget
        return due, end

    def _enter(self, due: int, end: int) -> tuple[int, ...]:
        """Each exit goes by `post_run`, which serves what vCPUs ask of each other."""
        self.engine.begin(self._budget)
        return ()

    def post_run(self, why: int) -> Run:
        if why == WHY_EXIT and self._words[self._reason] in ASKED:
            why = self._serve(self._words[self._reason])
        run = super().post_run(why)
        self._called |= self._called_shut and run.reason == WINDOW
        self.world.common.times[CLOCK] = self.clock.now_ns
        return run

    def _serve(self, reason: int) -> int:
        """Do what translated code has asked of all; why it would have come back else."""
        world, page = self.world, self._words[self._asked]
        world.stop(self, "alone" if reason == ALONE else "code" if reason == CODE else "data")
        try:
            if reason == ALONE:
                return self._run_alone()
            if reason == CODE:
                world.common.begin_code(page)
            else:
                world.common.end_code(page)
            return lay.WHY_LIMIT
        finally:
            world.resume()

    def _run_alone(self) -> int:
        """One instruction while all others stand; the machine lock is held."""
        common, words = self.world.common, self._words
        words[self._alone] = 1
        try:
            why = self.engine.run(1)
            while why == WHY_EXIT and words[self._reason] == CODE:
                common.begin_code(words[self._asked])
                why = self.engine.run(1)
        except JitvmError as e:
            why = self.run_failed(e)
        finally:
            words[self._alone] = 0
            words[EXTRA_NS] += ALONE_NS
            if words[self._n_written]:
                common.settle(self.engine)
        return why

    def wait(self) -> None:
        """While others run time goes on with them; the last to halt lets it pass."""
        self._bell.acquire(blocking=False)
        self.engine.unkick()
        self.pump()
        if self.exit_request or self.wakes():
            return
        if self.world.others_go(self):
            self.world.watch_timers()
            self._sleep(IDLE_S)
            return
        behind = self.clock.now_ns - self.now()
        if behind > 0:
            self.skip(behind)
        super().wait()
