"""The accelerator: the engine of a process (compiled code, forms) and its vCPUs.

The accelerator is made first and knows no machine; a machine makes its vCPUs on it.  A `VcpuEngine` holds one CPU
record and runs it: `run` enters translated code, serves what the translator lacks (forms, handlers), and returns why
it came back.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from jitvm.engine import layout as lay
from jitvm.engine import pinned, stencil, stencil_key
from jitvm.engine.backend import host_lacks
from jitvm.engine.blocks import BLOCK_DROP
from jitvm.engine.cache import Cache, default_folder
from jitvm.engine.code import Code, handler_text, source_epoch, tier_of
from jitvm.engine.code_memory import CodeMemory
from jitvm.engine.common import Common
from jitvm.engine.compiler import Compiler
from jitvm.engine.decode import add_form
from jitvm.engine.dump import dump
from jitvm.engine.entry import Entry
from jitvm.engine.forms import Forms
from jitvm.engine.layout import CPU, at
from jitvm.engine.met import Met
from jitvm.engine.observer import CopiedLog, Observer
from jitvm.engine.options import LEAST_CODE_CACHE as LEAST_CODE_CACHE
from jitvm.engine.options import Options as Options
from jitvm.engine.region_store import RegionStore
from jitvm.engine.regions import Regions
from jitvm.engine.simd_forms import HOST_NAMES
from jitvm.engine.specials import SPECIALS
from jitvm.engine.stencil_store import StencilStore
from jitvm.engine.tables import Tables, first_table
from jitvm.engine.translate import add_handler
from jitvm.engine.units import Units
from jitvm.engine.waiting import Waiting
from jitvm.errors import CacheError, ConfigError
from jitvm.isa.cpuid import DEFAULT_MODEL, cpuid_table, feature_words, is_announced, physical_mask, set_apic_id
from jitvm.isa.debug import update_debug
from jitvm.isa.events import INJECTED_NMI
from jitvm.isa.mode import update_mode
from jitvm.isa.record import Record
from jitvm.isa.reset import reset_cpu
from jitvm.isa.state import APIC_BASE_BSP, CR0_CD, CR0_NW, CS
from jitvm.isa.topology import ALONE, Topology
from jitvm.isa.words import u64
from jitvm.memory import PAGE, GuestMemory, weakly, zeroed

ARENA_BYTES = 48 << 20
"""Micro-ops of one vCPU; when it is full all translations are forgotten."""
KICK = 1 << 62
KEPT_BY_INIT = (
    "fpr fpu_used fcw fsw fop fip fcs fdp fds xmm mxcsr xcr0 msr_apic_base msr_sysenter_cs msr_sysenter_esp "
    "msr_sysenter_eip msr_pat msr_star msr_lstar msr_cstar msr_fmask msr_kernel_gs_base msr_tsc_aux msr_misc tsc_offset "
    "smbase a20_mask"
).split()
"""Fields of the record that INIT leaves as they are."""
RECORDED = [name for name in SPECIALS if name in (CPU.names or ()) and name != "h_count"]
"""Special handlers whose addresses the record holds, whatever the options."""
LACKS = frozenset({lay.WHY_FORM, lay.WHY_HANDLER, lay.WHY_STENCIL, lay.WHY_REGION})
"""Why translated code comes back to be given what the translator lacks."""
PAGE_TABLE_BYTES = {
    "page_head": np.uint32, "page_bits": np.uint64, "code_pages": np.uint8, "page_version": np.uint64,
    "page_written": np.uint64,
}  # fmt: skip


class Accelerator:
    """Compiled code and forms, shared by all vCPUs of the process.

    `cache_folder`: None keeps nothing on disk.  An unusable folder is reported through `warn` and not used.
    """

    def __init__(
        self,
        cache_folder: Path | None = None,
        *,
        keep: bool = True,
        warn: Callable[[str], None] = lambda message: print(f"jitvm: warning: {message}", file=sys.stderr),
        on_progress: Callable[[str], None] = lambda what: None,
        observers: Iterable[Observer] = (),
    ) -> None:
        folder = (cache_folder or default_folder()) if keep else None
        epoch = source_epoch()
        try:
            self.cache = Cache(folder, epoch)
        except CacheError as e:
            warn(str(e))
            self.cache = Cache(None, epoch)
        if self.cache.folder is not None and not self.cache.writable:
            warn(f"cache folder {folder} is not writable; code compiled now is not kept")
        self.compiler = Compiler(folder if self.cache.folder else None, warn)
        self.units = Units(self.cache)
        self.code = Code(self.units, self.cache)
        self.code.on_progress = on_progress
        self.units.on_progress = on_progress
        self.regions = RegionStore(self.code)
        self.forms = Forms()
        self.stencils = StencilStore(self.code, self.forms.shapes, self.compiler)
        self.met = Met(self.cache, self.forms)
        for observer in observers:
            self.observe(observer)
        self.tables = Tables()
        for key, (word, shape) in self.met.known.items():
            self.tables.add_form(key, word, shape)
        self._handlers: dict[int, int] = {}
        self._attributes = first_table(self.cache)
        self.code.ensure_specials()
        self._written = self.code.function("blocks.written_outside", 2)
        self._forget = self.code.function("blocks.forget_blocks", 0)
        self._flush = self.code.function("tlb.flush_tlb_all", 0)
        self.known_block = self.code.function("blocks.known_block", 3, short=True)
        self.ask_again = self.code.function("hot.ask_again", 2)
        self.enter_region = self.code.function("hot.enter_region", 3)
        self.describe = self.code.function("hot.describe_block", 1, short=True)
        self.smi = self.code.function("smm.smi", 0)
        self.unmap_writes = self.code.function("blocks.unmap_writes", 1)
        self.serialize = self.code.function("gate.serialize_code", 0)
        self.lock = threading.RLock()
        """Held while compiled code and forms are looked for or made: vCPUs may run at the same time."""
        self.smm_window = self.code.function("smm.set_window", 0)

    # ---- forms and handlers -------------------------------------------------------------------------------------------
    def _address(self, name: str) -> int:
        """Of a handler or a stencil (1: it can't be cut), 0 where there is none yet."""
        return self.stencils.address.get(name, 0) if tier_of(name) == "stencils" else self.code.address.get(name, 0)

    def _use(self, names: Mapping[int, str]) -> dict[int, int]:
        """Addresses by key, of what is wanted and of what was linked with it; new vCPUs begin with them, too."""
        self.met.use(names)
        beside = self.met.linked(self.code.news)
        self.code.news.clear()
        self.code.wanted.update(dict.fromkeys(beside.values()))
        found = {key: self._address(name) for key, name in {**names, **beside}.items()}
        for key, address in found.items():
            self.tables.add_handler(key, address)
        return found

    def copied(self, keys: list[int], waiting: Waiting | None = None) -> dict[int, int]:
        """Addresses of stencil blobs by key, and of some that came with them: of all, or of those for which nobody waits."""
        return self._use(self.stencils.take(keys, waiting))

    def keep(self) -> None:
        """Write down what was learned, for the next run."""
        with self.lock:
            self.stencils.order(the_last=True)
        self.compiler.close()
        self.cache.tidy(self.code.wanted)
        self.met.keep()

    def learn(self, key: int, data: bytes, mode: int) -> None:
        """Describe the form of the instruction in `data` unless it is known."""
        if key not in self.met.known:
            form = self.forms.describe(data, mode, key)
            self.met.learn(key, form)
            self.tables.add_form(key, *form)

    def handlers(self, keys: list[int]) -> dict[int, int]:
        """Addresses of handlers by key, and of some that came with them."""
        missing = [k for k in keys if k not in self._handlers]
        fresh = self._use(self.code.handlers(self.forms.shapes, missing)) if missing else {}
        self._handlers.update(fresh)
        return {k: self._handlers[k] for k in keys} | fresh

    def opcode_attributes(self) -> np.ndarray:
        """The translator's first table."""
        return self._attributes

    def written(self, record: int, offset: int, size: int) -> None:
        """Tell one vCPU that guest memory was written from outside."""
        self._written(record, offset, size)

    def observe(self, observer: Observer) -> None:
        """Tell `observer` of all that is made from now on."""
        self.code.observers.append(observer)
        self.regions.keep_all |= observer.addresses
        for key, name in self.met.names():
            if tier_of(name) == "handlers":  # it may be linked with a neighbour that is wanted
                observer.described(name, handler_text(self.forms.shapes, key))

    def unobserve(self, observer: Observer) -> None:
        """Tell it no more."""
        self.code.observers.remove(observer)
        self.regions.keep_all = any(o.addresses for o in self.code.observers)

    def forget(self, record: int) -> None:
        """Drop all translations of one vCPU that stands."""
        self._forget(record)

    def flush(self, record: int) -> None:
        """Tell one vCPU that the memory map changed."""
        self._flush(record)


@functools.lru_cache(maxsize=64)
def _announced(
    model: str, add: tuple[str, ...], remove: tuple[str, ...], topology: Topology
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], np.uint64]:
    """`c.cpuid`, `c.features` and `c.phys_mask` of a CPU, to copy."""
    table = cpuid_table(model, add, remove, topology)
    return table, feature_words(table), physical_mask(table)


class VcpuEngine:
    """One CPU record on `memory`.  `c` is the record (for semantics in plain Python), `words` its 64-bit words, `uops` those
    of the micro-ops."""

    def __init__(
        self, accel: Accelerator, memory: GuestMemory, options: Options | None = None, common: Common | None = None
    ) -> None:
        self.accel, self.memory, self.common = accel, memory, common
        self.array = zeroed(1, CPU)
        self.c = Record(self.array)
        self.address = int(self.array.ctypes.data)
        self.words = self.array.view(np.uint8).data.cast("Q")
        self.signed = self.array.view(np.uint8).data.cast("q")
        n_pages = memory.size // PAGE
        self.page_tables = {name: zeroed(n_pages, ty) for name, ty in PAGE_TABLE_BYTES.items()}
        self._arena = zeroed(ARENA_BYTES, np.uint8, huge=True)
        self.uops = self._arena.data.cast("Q")
        c = self.c
        c.ram = memory.host
        c.page_read, c.page_write = memory.page_read.ctypes.data, memory.page_write.ctypes.data
        c.n_pages = len(memory.page_read)
        for name, table in self.page_tables.items():
            setattr(c, name, table.ctypes.data)
        c.n_guest_pages = n_pages
        c.tlb_host = self.address + at("tlb")
        c.uop_arena = c.uop_next = self._arena.ctypes.data
        c.uop_end = self._arena.ctypes.data + ARENA_BYTES
        c.block_most = lay.BLOCK_MAX
        c.fetch_address, c.scratch_address = self.address + at("fetch_buffer"), self.address + at("scratch")
        self.options = options = options or Options()
        self._beside = options.beside and not options.sync
        c.options = options.bits()
        if options.code_cache < LEAST_CODE_CACHE:
            raise ConfigError(
                f"--code-cache: {options.code_cache} bytes a CPU are less than {LEAST_CODE_CACHE >> 10} KiB"
            )
        self._code = CodeMemory(options.copied_bytes()) if options.stencils and stencil.supported() else None
        if self._code is not None:
            c.hot = options.hot
            c.copy_drops = options.drops * int(BLOCK_DROP)
            c.h_count = accel.code.address["h_count"]
            c.region_hot = options.region_hot if options.regions else 0
            if options.pins and not options.regions:
                accel.code.ensure_pinned()
                c.pin_hot = options.pin_hot
                for name in pinned.SPECIALS:
                    setattr(c, name, accel.code.address[name])
            self._use_code_memory()
        elif options.groups:
            c.hot = options.group_hot
            c.copy_drops = options.drops * int(BLOCK_DROP)
            c.h_count = accel.code.address["h_count"]
        c.opcode_attr[:] = accel.opcode_attributes()
        c.deliver = 1
        for name in RECORDED:
            setattr(c, name, accel.code.address[name])
        self._left, self._horizon, self._floor = at("left") // 8, at("horizon") // 8, at("floor") // 8
        self._a20, self._injected, self._why = at("a20_mask") // 8, at("injected") // 8, at("why") // 8
        self._entry = Entry(accel.code.address, self.address)
        entry = self._entry
        self.begin, self.enter, self.boundary, self.answer = entry.run, entry.enter, entry.boundary, entry.answer
        self._kicked = False
        self.regions = Regions(self, sync=options.sync, modes=options.modes())
        self.waiting = Waiting(self)
        self._log: CopiedLog | None = None
        self._retired_code: list[CodeMemory] = []
        """Kept, so that their addresses are not used again."""
        if self._code is not None and accel.code.observers:
            self._log = CopiedLog(self)
        self._known_handlers = accel.tables.copy_handlers(c)
        with np.errstate(over="ignore"):
            reset_cpu(c)
        self.set_cpu()
        if common is not None:
            common.join(self)
            return
        memory.on_write.append(weakly(self._on_write))
        memory.on_map.append(weakly(self._on_map))

    def set_cpu(
        self,
        model: str = DEFAULT_MODEL,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
        topology: Topology = ALONE,
    ) -> None:
        """Which CPU the guest sees (`--cpu`); ConfigError for an unknown model or feature, or one that this host lacks.

        A model goes without what its host has not: SIMD is done by the host's own instructions.
        """
        lacking = host_lacks(HOST_NAMES.values())
        missing = [name for name, its in HOST_NAMES.items() if its in lacking]
        for name in (added := tuple(add)):
            if name in missing:
                raise ConfigError(f"CPU feature {name!r}: this host's processor has no such instructions; leave it out")
        table, features, mask = _announced(model, added, (*remove, *missing), topology)
        self.c.cpuid[:], self.c.features[:], self.c.phys_mask = table, features, mask
        self.accel.tables.copy_forms(self.c)
        if self.common is not None or not all(is_announced(features, name) for name in self.accel.forms.features):
            self.c.form_key[:] = 0
            self.c.n_forms = 0

    def _add_form(self, key: int) -> None:
        """Make a known form this vCPU's, or #UD when it belongs to a feature that its CPU lacks."""
        c = self.c
        word, shape = self.accel.forms.for_cpu(self.accel.met.known[key], c.features, shared=self.common is not None)
        if int(c.n_forms) >= lay.N_FORMS - 1:
            c.form_key[:] = 0
            c.n_forms = 0
        with np.errstate(over="ignore"):
            add_form(c, u64(key), u64(word), u64(shape))

    def _on_write(self, offset: int, size: int) -> None:
        self.accel.written(self.address, offset, size)

    def _on_map(self) -> None:
        self.accel.flush(self.address)

    def run(self, budget: int) -> int:
        """Run at most `budget` instructions: WHY_LIMIT, WHY_EXIT, WHY_FAULT or WHY_WINDOW."""
        self.begin(budget)
        return self.go_on()

    def go_on(self) -> int:
        """Behind a run that was no plain access: go on with it as long as it only lacks something; why it came back."""
        why = self.words[self._why]
        while why in LACKS or (why == lay.WHY_LIMIT and self._woken()):
            with self.accel.lock:
                if why == lay.WHY_FORM:
                    self._learn()
                elif why == lay.WHY_REGION:
                    self.regions.ask()
                elif why != lay.WHY_LIMIT:
                    self._stamp()
            why = self.begin(self.signed[self._left])
        return why

    def _woken(self) -> bool:
        """Whether a run that came to its limit was only called to fetch what was compiled (`wake`), which is done then."""
        if self._kicked or not self.signed[self._floor]:
            return False
        self.signed[self._floor] = 0
        if self._kicked:  # just now: the line above took that kick's mark away
            self.signed[self._floor] = KICK
            return False
        self._fetch()
        return self.signed[self._left] > 0

    def _fetch(self) -> None:
        """Take what the compiler process has made meanwhile."""
        with self.accel.lock:
            self.regions.install_ready()
            if self.waiting.arrived:
                self.waiting.try_again()

    def inject(self, vector: int) -> None:
        """An external interrupt between instructions: the next `run` begins with its delivery.

        A delivery that needs the outside (a stack in MMIO) leaves like an instruction, and begins again, with the
        answers that it has got, in the run that follows.
        """
        self.words[self._injected] = vector + 1

    @property
    def injecting(self) -> bool:
        """An injected interrupt has not reached its handler yet."""
        return self.words[self._injected] != 0

    def set_breakpoints(self, addresses: Collection[int]) -> None:
        """Stop with EXIT_DEBUG before the instructions at these linear addresses; only while the vCPU stands."""
        self._breakpoints = np.array(sorted(addresses), np.uint64)
        self.c.n_breakpoints, self.c.breakpoints_at = len(addresses), self._breakpoints.ctypes.data
        self.accel.forget(self.address)

    def set_watches(self, rows: npt.NDArray[np.uint64], n: int) -> None:
        """A debugger's watched ranges are the first `n` rows of a table (`points.py`), which may be others' too."""
        self._watches = rows
        self.c.n_points, self.c.points_at = n, rows.ctypes.data

    def registers_changed(self) -> None:
        """Registers were written from outside: derive the mode again, forget address translations."""
        with np.errstate(over="ignore"):
            update_mode(self.c)
            update_debug(self.c)
        self.accel.flush(self.address)

    def reset(self) -> None:
        """RESET#."""
        with np.errstate(over="ignore"):
            reset_cpu(self.c)
        self.accel.flush(self.address)

    def set_a20(self, enabled: bool) -> None:
        """The A20 gate."""
        mask = 0xFFFF_FFFF_FFFF_FFFF if enabled else 0xFFFF_FFFF_FFEF_FFFF
        if mask != self.words[self._a20]:
            self.words[self._a20] = mask
            self.accel.flush(self.address)

    def has_blocks(self, page: int) -> bool:
        """Whether translated blocks are on a page of guest memory."""
        return bool(self.page_tables["page_head"][page])

    def drop_code(self, offset: int, size: int) -> None:
        """Guest memory was written, not by this vCPU."""
        self.accel.written(self.address, offset, size)

    def set_apic_id(self, apic_id: int) -> None:
        """What CPUID tells; all but number 0 are application processors, which wait for SIPI."""
        set_apic_id(self.c.cpuid, apic_id)
        self.park(apic_id != 0)

    def park(self, waits: bool) -> None:
        """After a reset: the bootstrap processor goes, the others wait for SIPI."""
        c = self.c
        c.parked = c.halted = int(waits)
        if waits:
            c.msr_apic_base = int(c.msr_apic_base) & ~int(APIC_BASE_BSP)

    def inject_nmi(self) -> None:
        """A non-maskable interrupt, in the place of an external one (`inject`)."""
        self.words[self._injected] = int(INJECTED_NMI)

    def init(self, *, park: bool) -> None:
        """INIT: as RESET#, but for caches, FPU, SSE, MSRs and SMBASE (SDM vol. 3, table 10-1); `park`: until SIPI."""
        c = self.c
        kept = {name: self.array[name].copy() for name in KEPT_BY_INIT}
        cache_bits = int(c.cr0) & int(CR0_CD | CR0_NW)
        self.reset()
        for name, value in kept.items():
            self.array[name] = value
        c.cr0 = (int(c.cr0) & ~int(CR0_CD | CR0_NW)) | cache_bits
        c.parked = c.halted = int(park)

    def startup(self, vector: int) -> None:
        """SIPI: begin at page `vector`, in real mode."""
        c = self.c
        c.sel[int(CS)], c.base[int(CS)] = vector << 8, vector << 12
        c.rip = c.next_rip = 0
        c.parked = c.halted = 0
        self.registers_changed()

    def smi(self) -> None:
        """SMI#, between instructions and outside of system management mode."""
        self.accel.smi(self.address)

    def set_smram(self, seen: bool) -> None:
        """The chipset shows RAM at A0000h in system management mode, or not."""
        self.c.smram = int(seen)
        self.accel.smm_window(self.address)

    def ignore_numeric_errors(self) -> None:
        """IGNNE# is asserted: x87 instructions don't wait for the pending exception."""
        self.c.ignne = 1

    def dump(self) -> str:
        """Registers and the bytes at rip, for error messages."""
        with np.errstate(over="ignore"):
            return dump(self.c, self.memory)

    def retired(self) -> int:
        """Instructions retired so far; true while no translated code runs."""
        return self.signed[self._horizon] - self.signed[self._left]

    def kick(self) -> None:
        """From any thread: make translated code come back within one block."""
        self._kicked = True
        self.signed[self._floor] = KICK

    def unkick(self) -> None:
        """Forget the kick, on the vCPU's thread; what arrived beside it is taken."""
        self._kicked = False
        self.signed[self._floor] = 0
        if self.regions.ready or self.waiting.arrived:
            self._fetch()

    @property
    def kicked(self) -> bool:
        """A kick has not been answered yet."""
        return self._kicked

    def wake(self) -> None:
        """From the compiler's thread: something is ready.  `run` takes it and goes on."""
        self.signed[self._floor] = KICK

    def _use_code_memory(self) -> None:
        """Let copied blocks go to the beginning of `_code`."""
        c, memory = self.c, self._code
        assert memory is not None
        c.code_next = c.code_start = memory.writable
        c.code_end = memory.writable + self.options.copied_bytes()
        c.code_shift = u64((memory.executable - memory.writable) & 0xFFFF_FFFF_FFFF_FFFF)

    def forget(self) -> None:
        """Forget all translations, while the vCPU stands: there is no room for more machine code."""
        self.tell_copied()
        self.accel.forget(self.address)
        if self._log is not None and self._code is not None:
            self._code.retire()
            self._retired_code.append(self._code)
            self._code = CodeMemory(self.options.copied_bytes())
            self._use_code_memory()
        for observer in self.accel.code.observers:
            observer.forgot(self)

    def tell_copied(self) -> None:
        """Tell observers which blocks were copied since the last call; only while the vCPU stands."""
        if self._log is not None and (blocks := self._log.drain()):
            for observer in self.accel.code.observers:
                observer.copied(self, blocks)

    def _learn(self) -> None:
        c = self.c
        key = int(c.bad_key)
        size = min(int(c.bad_size), 16)
        data = ctypes.string_at(int(c.bad_host), size)
        self.accel.learn(key, data, int(c.mode))
        self._add_form(key)

    def _stamp(self) -> None:
        c = self.c
        keys = list(dict.fromkeys(int(k) for k in c.missing[: int(c.n_missing)]))
        c.n_missing = 0
        self.tell_copied()
        if int(c.forget):  # code memory is full
            c.forget = 0
            self.forget()
            return
        found: dict[int, int] = {}
        if handlers := [k for k in keys if not stencil_key.is_copied(k)]:
            found |= self.accel.handlers(handlers)
        if stencils := [k for k in keys if stencil_key.is_copied(k)]:
            found |= self.accel.copied(stencils, self.waiting if self._beside else None)
            if not found.keys() >= set(stencils):
                self.waiting.add(int(c.hot_block))
        if len(self._known_handlers) + len(found) >= lay.N_HANDLERS - 1:
            c.handler_key[:] = 0
            self._known_handlers.clear()
        with np.errstate(over="ignore"):
            for key in found.keys() - self._known_handlers:
                add_handler(c, u64(key), u64(found[key]))
        self._known_handlers |= found.keys()
