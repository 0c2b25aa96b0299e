"""The CPU record: one NumPy record holds all state of a vCPU that guest code, semantics and exits touch.

Every field is a 64-bit word (`u8` unsigned, `i8` signed in NumPy's spelling), so that semantics need no conversions.
The engine appends its own fields (jitvm/engine/layout.py).

Sizes: 16 general registers of 64 bits and one more that is always 0 (an absent base or index register); 8 segment
slots (ES CS SS DS FS GS LDTR TR), each selector, base, limit, attributes.

Source of layouts: Intel SDM vol. 3, 2.4-2.6, 3.4.5 (descriptors), 4.7 (page-fault error code), 6 (exceptions).
"""

from __future__ import annotations

import numpy as np

from jitvm.isa.words import u64

U, I = np.uint64, np.int64  # noqa: E741  the field types, as short as in a datasheet

# ---- registers ------------------------------------------------------------------------------------------------------
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = (u64(n) for n in range(8))
ZERO = u64(16)
"""Index in `gpr` of the word that is always 0."""
ES, CS, SS, DS, FS, GS, LDTR, TR = (u64(n) for n in range(8))

LAZY = np.dtype([("res", U), ("aux", U), ("hi", U)])
"""The arithmetic flags (jitvm/isa/flags.py) and the second result of an operation."""

TLB_ENTRIES = 512
TLB_KINDS = 4
TLB_PARTS = 3
TLB_WORDS = (TLB_PARTS + 1) * TLB_KINDS * TLB_ENTRIES * 2
"""(three privileges, always empty) x (read, write, fetch, beside) x entries x (tag, addend): see jitvm/isa/tlb.py."""
TLB_MARKS = TLB_PARTS * TLB_KINDS * TLB_ENTRIES // 64
"""Words with a bit an entry."""
N_WATCH = 4
"""Entries of the watch tables in the record, the guest's: debug registers 0 to 3."""
N_HITS = 8
"""Hits that are remembered of one instruction."""
IO_LOG = 256
"""Outside accesses that one instruction may make before it completes (see `io_*`)."""
IO_DATA = 512
"""Words of `io_data`: a string I/O exit moves at most 4096 bytes."""
WRITTEN = 16
"""Pages that `written` remembers; one more stands for all pages."""
FAULT_LOG, FAULT_WORDS = 16, 8
"""Faults that are remembered, and words of each (jitvm/isa/events.py, `note_fault`)."""

ARCHITECTURAL = [
    ("gpr", U, (17,)),
    ("lazy", LAZY),  # arithmetic flags
    ("rflags", U),  # all other flags, bit 1 set, arithmetic bits 0
    ("rip", U),  # true whenever no translated code runs, and inside out-of-line semantics
    (
        "next_rip",
        U,
    ),  # rip of the following instruction, cut to the operand size of CS; set before out-of-line semantics
    ("sel", U, (8,)),
    ("base", U, (8,)),
    ("limit", U, (8,)),  # scaled to bytes, inclusive
    ("attr", U, (8,)),  # descriptor bits 8-15 in bits 0-7 (type, S, DPL, P), bits 20-23 in bits 12-15 (AVL L D/B G)
    ("read_limit", I, (8,)),  # greatest offset that a plain read may touch; -1: take the slow path
    ("write_limit", I, (8,)),
    ("gdt_base", U),
    ("gdt_limit", U),
    ("idt_base", U),
    ("idt_limit", U),
    ("cr0", U),
    ("cr2", U),
    ("cr3", U),
    ("cr4", U),
    ("cr8", U),
    ("pdpte", U, (4,)),  # page-directory-pointer entries of PAE paging, loaded with CR3
    ("dr", U, (8,)),
    ("efer", U),
    ("xcr0", U),
    # ---- x87 and SSE
    ("fpr", U, (16,)),  # physical registers R0-R7: significand, sign and exponent (16 bits); MMX: the significands
    ("fpu_used", U),  # bit n: Rn is not empty; the full tag word is made from the contents
    ("fcw", U),
    ("fsw", U),  # TOP in its bits 11-13
    ("fop", U),  # last instruction: opcode (11 bits), address, address of its operand
    ("fip", U),
    ("fcs", U),
    ("fdp", U),
    ("fds", U),
    ("xmm", U, (32,)),  # low and high half of each of the 16
    ("mxcsr", U),
    ("ignne", U),  # 1: IGNNE# is asserted, a pending x87 exception is not waited for
    ("fpr_new", U, (16,)),  # ST(0)-ST(7) while they are read from memory
    ("wide", U, (8,)),  # an operand of more than 8 bytes on its way from or to memory
    # ---- model-specific registers
    ("msr_apic_base", U),
    ("msr_sysenter_cs", U),
    ("msr_sysenter_esp", U),
    ("msr_sysenter_eip", U),
    ("msr_pat", U),
    ("msr_star", U),
    ("msr_lstar", U),
    ("msr_cstar", U),
    ("msr_fmask", U),
    ("msr_kernel_gs_base", U),
    ("msr_tsc_aux", U),
    ("msr_misc", U, (64,)),  # MTRRs and other plain latches, by jitvm/isa/msr.py's table
    ("tsc_offset", U),  # TSC = virtual time in ns + tsc_offset
    ("random", U),  # state of the generator of RDRAND and RDSEED
    ("cpl", U),
    ("mode", U),  # MODE_* bits, derived: jitvm/isa/mode.py
    ("ctx", U),  # block context: cs base, limit code and mode in one word, derived: jitvm/isa/mode.py
    ("limit_codes", U, (64,)),  # CS limits met, by the code that `ctx` carries
    ("n_limit_codes", U),
    ("forget", U),  # 1: limit codes started over, blocks keyed by the old ones must go
    ("a20_mask", U),  # ones but for bit 20 when the A20 gate is closed
    ("halted", U),  # 1 after HLT, until an interrupt
    ("shadow", U),  # `retired` at which interrupts are held off for one instruction (STI, MOV SS), else ~0
    ("nmi_blocked", U),
    ("parked", U),  # 1: an application processor after INIT, until SIPI
    # ---- system management mode: jitvm/isa/smm.py
    ("smbase", U),
    ("smm", U),  # 1 in the mode
    ("smm_nmi", U),  # `nmi_blocked` at the SMI
    ("smram", U),  # 1: the chipset shows RAM at A0000h in the mode
    ("smm_window", U),  # 1: this CPU sees it now
    ("apic", U, (64,)),  # the local APIC's page, a word a register: jitvm/isa/apic_page.py
    ("features", U, (8,)),  # CPUID words that are announced: jitvm/isa/cpuid.py
    ("phys_mask", U),  # the bits that a physical address may have (MAXPHYADDR)
    ("cpuid", U, (256,)),  # CPUID leaves as (leaf, subleaf, eax, ebx, ecx, edx) rows: jitvm/isa/cpuid.py
    # ---- leaving
    ("status", U),  # OK, or why the instruction can't go on
    ("vector", U),  # of the fault
    ("error", U),  # its error code
    ("has_error", U),  # 1 when the fault pushes an error code
    ("step_armed", U),  # TRAP_* bits while an instruction runs that ends in a trap; any event delivery clears it
    ("delivering", U),  # vector + 1 of the event under delivery (double-fault logic), 0 for none
    ("deliver", U),  # 1: faults are delivered to the guest; 0: they stop the run (bare form)
    ("fault_log", U, (FAULT_LOG * FAULT_WORDS,)),  # the latest faults, in turn, for a crash report
    ("n_faults", U),  # faults that went into it
    # ---- counting: retired = horizon - left
    ("horizon", U),  # value of `retired` when the budget is used up
    ("left", I),  # instructions left before the current one; exact inside out-of-line semantics and after an exit
    ("extra_ns", U),  # virtual time spent on port and device accesses since the machine was switched on
    ("floor", I),  # translated code leaves at a block border when its budget falls below: 0, or huge when kicked
    ("want_window", U),  # 1: an interrupt waits until they are open; it is taken here, or WHY_WINDOW tells the loop
    ("injected", U),  # vector + 1 of an interrupt that was taken and has not reached its handler, 257: an NMI; 0: none
    # ---- exits
    ("exit_reason", U),
    ("io_address", U),  # the access that is asked for: port or physical address
    ("io_size", U),
    ("io_write", U),
    ("io_count", U),
    ("io_data", U, (IO_DATA,)),
    ("io_n", U),  # accesses of the current instruction that the outside has answered
    ("io_pos", U),  # of these, how many the instruction has used in this attempt
    ("io_tag", U),  # `retired` of the instruction they belong to
    ("io_key", U, (IO_LOG,)),
    ("io_value", U, (IO_LOG,)),
    # ---- debugging: jitvm/isa/watch.py, debug.py, catch.py
    ("armed", U),  # 1 while an instruction runs alone, as a block of its own, to be looked at when it ends
    ("noting", U),  # 1: watched accesses are noted, whoever makes them (delivery of an event, a fetch)
    ("n_watch", U),  # entries of the watch tables that count
    ("n_points", U),  # how many of them are a debugger's, from entry 4 on, and the host address of these: three words each
    ("points_at", U),
    ("watch_kind", U, (N_WATCH,)),  # WATCH_* bits
    ("watch_first", U, (N_WATCH,)),  # first and last address
    ("watch_last", U, (N_WATCH,)),
    ("watch_bits", U),  # B0-B3: entries of the guest that this instruction hit
    ("held_bits", U),  # those of an instruction that loaded SS: they wait for the end of the next one
    ("n_hits", U),  # entries of a debugger that this instruction hit
    ("hit_entry", U, (N_HITS,)),
    ("hit_address", U, (N_HITS,)),
    ("n_told", U),  # `n_hits` of the latest stop
    ("stop_why", U),  # why the vCPU left with EXIT_DEBUG: STOP_*
    ("code_breaks", U),  # bit n: DRn is an instruction breakpoint
    ("port_breaks", U),  # bit n: DRn is an I/O breakpoint
    ("dr_seen", U, (6,)),  # DR0-DR3, DR7 and CR4.DE from which the tables were made
    ("rf_taken", U),  # 1: the instruction that runs alone began with RF set
    ("trap_rf", U),  # RF for the image of a #DB that is being delivered
    ("trap_shadow", U),  # `retired` at which #DB is held off for one instruction (MOV SS), else ~0
    ("again_at", U),  # `retired` between two iterations of a string instruction, or behind IRET that set RF, else ~0
    ("step_stop", U),  # 1: the vCPU leaves with EXIT_DEBUG at the first instruction of an event's handler
    ("stop_now", U),  # 1: it is there
    ("n_catch", U),  # 0: nothing is caught
    ("catch", U, (5,)),  # a bit a vector, and CATCH_* bits
    ("catch_number", U),  # the MSR whose accesses are caught, ONES: all
    ("caught", U, (5,)),  # the same bits: what was told at `caught_at`
    ("caught_at", U),  # `retired` and RIP of the latest stop
    ("caught_rip", U),
    ("caught_kind", U),  # CATCH_* bit, 0: a vector
    ("caught_vector", U),  # vector, or number of the MSR
    ("caught_error", U),  # error code, ONES: it has none; or 1: WRMSR
    ("caught_value", U),  # CR2, or the value that is written or, where known, read
    ("caught_soft", U),  # 1: the vector is an instruction's, INT n, INT3 or INTO; or this CPU has the MSR
    # ---- memory
    ("ram", U),  # host address of offset 0 of guest memory
    ("page_read", U),  # host addresses of GuestMemory.page_read and page_write, and their number of entries
    ("page_write", U),
    ("n_pages", U),
    ("code_pages", U),  # host address of one byte a page of guest memory, not 0: translated code is on it
    # ---- other CPUs that run at the same time: jitvm/isa/shared.py
    ("shared", U),  # 1: there are some
    ("alone", U),  # 1: all of them stand
    ("peers", U),  # host address of a line of 64 bytes for each CPU, their number, and which of them this one is
    ("n_peers", U),
    ("peer", U),
    ("times", U),  # host address of the clock, and of the latest time that RDTSC has told anywhere
    ("asked_page", U),  # the page of guest memory that EXIT_CODE and EXIT_DATA are about
    ("data_page", U),  # the page without code that was stored to as if it had some, and how often in a row
    ("data_stores", U),
    ("n_written", U),  # pages with code that were stored to while alone
    ("written", U, (WRITTEN,)),
    ("walk_lost", U),  # 1: an entry changed under a page walk
    ("gpa", U),  # physical address of the last translation (jitvm/isa/paging.py)
    ("marks", U),  # MARK_* bits of the last page walk (jitvm/isa/tlb.py)
    ("walk_at", U, (5,)),  # by level: where the entries of a page walk lie, and what they say
    ("walk_entry", U, (5,)),
    ("tlb_host", U),  # host address of `tlb`
    ("tlb_off", U),  # byte offset of the part of `tlb` in which translated code looks, derived: jitvm/isa/mode.py
    ("port_table", U),  # host address of the ports that are served without a device, 0: none: jitvm/isa/served.py
    ("n_served", U),  # accesses that were served without a device
    ("answer", U),  # what such an access gave
    ("any_marks", U),  # not 0: a bit of the following is set
    ("tlb_global", U, (TLB_MARKS,)),
    ("tlb_large", U, (TLB_MARKS,)),
    ("tlb", U, (TLB_WORDS,)),
]

# ---- status ---------------------------------------------------------------------------------------------------------
OK = u64(0)
FAULT = u64(1)
"""`vector`, `error`, `has_error` say which; rip stays."""
EXIT = u64(2)
"""`exit_reason` and `io_*` say what is asked of the outside; the instruction starts again when it was answered."""
JUMP = u64(3)
"""The instruction is complete; execution goes on at `rip`."""
STOP = u64(4)
"""The instruction is complete, `rip` is behind it; leave with `exit_reason`."""
AGAIN = u64(5)
"""A string instruction did one or more iterations (already taken from `left`) and is not complete; rip stays."""

WATCHED = u64(6)
"""The instruction was left before it did anything that is not in the log of accesses: it runs again, alone.

It is about to make a watched access, or an interrupt is due behind it.
"""

# ---- watch_kind -----------------------------------------------------------------------------------------------------
WATCH_READ, WATCH_WRITE, WATCH_PHYSICAL = u64(1), u64(2), u64(4)

# ---- step_armed: TRAP_STEP for TF, TRAP_TASK for the T bit of a TSS, B0-B3 of DR6 from bit TRAP_SHIFT on ----------------
TRAP_STEP, TRAP_TASK, TRAP_SHIFT = u64(1), u64(2), u64(4)

# ---- stop_why -------------------------------------------------------------------------------------------------------
STOP_BREAK, STOP_WATCH, STOP_CATCH, STOP_STEP, STOP_RANGE = (u64(n) for n in range(5))

# ---- catch[4] -------------------------------------------------------------------------------------------------------
CATCH_TRIPLE, CATCH_CR3, CATCH_MSR, CATCH_TRACED_MSR = u64(1), u64(2), u64(4), u64(8)
"""The last is the trace's, not the debugger's: an MSR of any number."""

# ---- exit reasons: KVM's numbers (Documentation/virt/kvm/api.rst) ------------------------------------------------------
EXIT_UNKNOWN, EXIT_IO, EXIT_DEBUG, EXIT_HLT, EXIT_MMIO = u64(0), u64(2), u64(4), u64(5), u64(6)
EXIT_IRQ_WINDOW, EXIT_SHUTDOWN, EXIT_INTR, EXIT_INTERNAL_ERROR = u64(7), u64(8), u64(10), u64(17)
EXIT_ALONE, EXIT_CODE, EXIT_DATA = u64(257), u64(258), u64(259)
"""Not KVM's: what the CPUs that share memory ask of each other (jitvm/isa/shared.py)."""
EXIT_FERR = u64(256)
"""Not KVM's: an x87 exception is pending and is told by FERR#."""

# ---- exceptions -----------------------------------------------------------------------------------------------------
DE, DB, NMI, BP, OF_TRAP, BR, UD, NM = (u64(n) for n in range(8))
DF_FAULT, TS, NP, SS_FAULT, GP, PF_FAULT = u64(8), u64(10), u64(11), u64(12), u64(13), u64(14)
MF, AC_FAULT, MC, XM = u64(16), u64(17), u64(18), u64(19)

# ---- CR0, CR4, EFER, IA32_APIC_BASE ---------------------------------------------------------------------------------
CR0_PE, CR0_MP, CR0_EM, CR0_TS, CR0_ET, CR0_NE = (u64(1 << n) for n in range(6))
CR0_WP, CR0_AM, CR0_NW, CR0_CD, CR0_PG = u64(1 << 16), u64(1 << 18), u64(1 << 29), u64(1 << 30), u64(1 << 31)
CR4_OSFXSR, CR4_OSXMMEXCPT = u64(1 << 9), u64(1 << 10)
CR4_VME, CR4_PVI, CR4_TSD, CR4_DE, CR4_PSE, CR4_PAE, CR4_MCE, CR4_PGE, CR4_PCE = (u64(1 << n) for n in range(9))
CR4_UMIP, CR4_FSGSBASE, CR4_SMEP, CR4_SMAP = u64(1 << 11), u64(1 << 16), u64(1 << 20), u64(1 << 21)
CR4_PCIDE, CR4_OSXSAVE = u64(1 << 17), u64(1 << 18)
EFER_SCE, EFER_LME, EFER_LMA, EFER_NXE = u64(1), u64(1 << 8), u64(1 << 10), u64(1 << 11)
APIC_BASE_BSP, APIC_BASE_EN, APIC_BASE_RESET = u64(1 << 8), u64(1 << 11), u64(0xFEE0_0000)

# ---- segment attributes (as in `attr`) ------------------------------------------------------------------------------
ATTR_ACCESSED, ATTR_RW, ATTR_DC, ATTR_CODE = u64(1), u64(2), u64(4), u64(8)
ATTR_S, ATTR_DPL, ATTR_P = u64(0x10), u64(0x60), u64(0x80)
ATTR_AVL, ATTR_L, ATTR_DB, ATTR_G = u64(0x1000), u64(0x2000), u64(0x4000), u64(0x8000)

# ---- mode bits: what a block is translated for -------------------------------------------------------------------------
MODE_CODE32 = u64(1 << 0)  # CS.D
MODE_CODE64 = u64(1 << 1)  # CS.L in long mode
MODE_STACK32 = u64(1 << 2)  # SS.B
MODE_FLAT = u64(1 << 3)  # DS, ES, SS: base 0, limit 4 GiB, readable and writable, expand-up; always in 64-bit code
MODE_PE = u64(1 << 4)
MODE_VM = u64(1 << 5)
MODE_USER = u64(1 << 6)  # CPL = 3
MODE_TF = u64(1 << 7)
MODE_EM = u64(1 << 8)  # x87 and SSE: CR0.EM, CR0.TS, CR4.OSFXSR, CR0.MP
MODE_TS = u64(1 << 9)
MODE_SSE = u64(1 << 10)
MODE_MP = u64(1 << 11)
MODE_ALONE = u64(1 << 12)  # blocks of one instruction, after which the engine looks (`armed`)


def fault(c, vector, error):
    """Record a fault that pushes an error code."""
    c.status = FAULT
    c.vector = vector
    c.error = error
    c.has_error = u64(1)
    return FAULT


def fault0(c, vector):
    """Record a fault without an error code."""
    c.status = FAULT
    c.vector = vector
    c.error = u64(0)
    c.has_error = u64(0)
    return FAULT


def retired(c):
    """Instructions retired so far, exact inside out-of-line semantics."""
    return c.horizon - u64(c.left)
