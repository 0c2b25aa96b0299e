"""What every x86 operation means: plain Python functions over the CPU record.  Imports no Numba.

Rules of this package (ARCHITECTURE.md, "Writing semantics"):

* A parameter named `f` is the lazy-flags record, `c` the whole CPU record; every other parameter and every result is an
  unsigned 64-bit number (`u64`), operands masked to their size.  Sizes are in bytes: 1, 2, 4, 8.
* No bare literals beside a `u64`: name a constant (`jitvm.isa.words`).  No closures, no default arguments, no keyword
  arguments, no tuples returned, no Python containers, no exceptions: Numba compiles each function on its own.
* A function calls others by their plain global name (`from jitvm.isa.flags import set_flags`), never `module.name`.
* What may leave (a fault, an exit) is found in `c.status` after each call that can set it; nothing that the guest can
  see changes before the last such call.
"""
