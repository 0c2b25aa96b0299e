"""LLVM: text to optimised objects to linked code.  All llvmlite calls are here.

A misuse of llvmlite aborts the process, so this module is small.  An object's symbols are looked up once; its code lives
as long as the `Linker`, or until it is unlinked.  Text that names symbols of other objects gets their addresses through
`import_symbol`.
"""

from __future__ import annotations

import ctypes
import functools
import platform
from collections.abc import Iterable, Mapping, Sequence

import llvmlite.binding as llvm
from llvmlite.binding.newpassmanagers import NewPassManager

from jitvm.errors import EngineError

PASSES = (
    "sroa simplify_cfg instruction_combine reassociate sccp jump_threading dead_store_elimination instruction_combine "
    "simplify_cfg sinking".split()
)
"""What a region goes through: shorter loops than O2's, at half of its time (of llvmlite's passes; no LICM).  Jump threading
knows which flags are to be made on which way, sinking leaves to the ways out what only they need; together they take a tenth
of the loops' instructions and no time.  NewGVN made a loop longer (36 host instructions in place of 29), and aborts on some
regions of a Linux kernel."""
NO_STRENGTH_REDUCTION = "-disable-lsr"
"""Loop strength reduction gives each address in a region's loop a register that counts beside the guest's own, and puts
others on the stack for it: without it sieve is 1.12 times as fast, C mix 1.04, nothing slower."""
_machine: llvm.TargetMachine | None = None


def machine() -> llvm.TargetMachine:
    """The target machine that makes all objects: this host's CPU, codegen level 2."""
    global _machine
    if _machine is None:
        llvm.set_option("jitvm", NO_STRENGTH_REDUCTION)
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        llvm.initialize_native_asmparser()
        if platform.machine() != "x86_64":
            ctypes.CDLL("libgcc_s.so.1", ctypes.RTLD_GLOBAL)
        _machine = new_machine()
    return _machine


@functools.cache
def _host_features() -> llvm.FeatureMap:
    return llvm.get_host_cpu_features()


def host_cpu() -> dict[str, str]:
    """What LLVM is told of the CPU that it makes code for."""
    return {"cpu": llvm.get_host_cpu_name(), "features": _host_features().flatten()}


def new_machine(level: int = 2) -> llvm.TargetMachine:
    """A target machine for this host (a `Linker` needs one of its own)."""
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(opt=level, jit=True, codemodel="jitdefault", **host_cpu())


@functools.cache
def _plain_machine() -> llvm.TargetMachine:
    machine()
    return new_machine(0)


def host_lacks(names: Iterable[str]) -> frozenset[str]:
    """Those of some features (LLVM's names) that this host's CPU has not."""
    has = _host_features()
    return frozenset(name for name in names if not has.get(name))


def host_key() -> str:
    """What compiled code depends on besides its source: LLVM, CPU and its features."""
    features = _host_features().flatten()
    return f"{llvm.llvm_version_info} {llvm.get_default_triple()} {llvm.get_host_cpu_name()} {features}"


def _parse(text: str) -> llvm.ModuleRef:
    try:
        return llvm.parse_assembly(text)
    except RuntimeError as e:
        raise EngineError(f"internal error: LLVM refuses generated text: {e}") from None


def _run(passes: llvm.ModulePassManager | llvm.FunctionPassManager, what: object, builder: llvm.PassBuilder) -> None:
    """Run passes, and give them back.

    llvmlite 0.50 does not when they are collected: in the order of their classes' bases `ObjectRef._dispose`, which does
    nothing, goes before `NewPassManager._dispose`; 60 KiB each time.
    """
    passes.run(what, builder)
    NewPassManager._dispose(passes)
    passes.detach()


def _optimise(text: str, level: int) -> llvm.ModuleRef:
    target = machine()
    module = _parse(text)
    builder = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=level))
    _run(builder.getModulePassManager(), module, builder)
    return module


def simplify(text: str) -> str:
    """Optimised text of a small module."""
    return str(_optimise(text, 2))


def compile_object(text: str, level: int = 2) -> bytes:
    """Object file of a module."""
    module = _optimise(text, level)
    return bytes(machine().emit_object(module))


def compile_quickly(text: str, function: str) -> bytes:
    """Object file of a module with one function worth optimising, by the few passes that pay (a third of O2's time)."""
    target = machine()
    module = _parse(text)
    builder = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=1))
    inline = llvm.create_new_module_pass_manager()
    inline.add_always_inliner_pass()
    inline.add_global_dead_code_eliminate_pass()
    _run(inline, module, builder)
    passes = llvm.create_new_function_pass_manager()
    for name in PASSES:
        getattr(passes, f"add_{name}_pass")()
    _run(passes, module.get_function(function), builder)
    return bytes(target.emit_object(module))


def compile_plainly(text: str) -> bytes:
    """Object file of a few instructions with nothing to optimise, in a third of the time."""
    return bytes(_plain_machine().emit_object(_parse(text)))


def compile_relocatable(text: str) -> bytes:
    """Object file whose references to absolute symbols are relocations in the code (stencils)."""
    module = _optimise(text, 2)
    target = llvm.Target.from_default_triple()
    return bytes(target.create_target_machine(opt=2, reloc="static", codemodel="small", **host_cpu()).emit_object(module))


class Linker:
    """Links objects into this process; their code stays until it is unlinked."""

    def __init__(self) -> None:
        machine()
        self._target = new_machine()
        self._jit = llvm.create_lljit_compiler(self._target)
        self._trackers: dict[str, llvm.ResourceTracker] = {}
        """The object that a symbol is from; code lives as long as its tracker."""
        self._n_linked = 0

    def link(self, objects: Sequence[bytes], exports: Iterable[str], imports: Mapping[str, int]) -> dict[str, int]:
        """Link objects that may need each other (thirty at once take the time of three); addresses of `exports`.

        `imports` gives every symbol that they need from elsewhere.
        """
        builder = llvm.JITLibraryBuilder().add_current_process()
        for data in objects:
            builder = builder.add_object_img(data)
        for name, address in imports.items():
            builder = builder.import_symbol(name, address)
        wanted = list(exports)
        for name in wanted:
            builder = builder.export_symbol(name)
        self._n_linked += 1
        try:
            tracker = builder.link(self._jit, f"jitvm{self._n_linked}")
        except RuntimeError as e:
            raise EngineError(f"internal error: LLVM can't link generated code: {e}") from None
        self._trackers.update(dict.fromkeys(wanted, tracker))
        return {name: int(tracker[name]) for name in wanted}

    def unlink(self, name: str) -> None:
        """Free the object that has this symbol alone; nothing may run in it, or lead to it."""
        self._trackers.pop(name).close()
