"""From LLVM IR to machine code for this processor, and to a callable. Knows nothing of recurrences."""

from __future__ import annotations

import functools
import platform
import threading
from pathlib import Path

import llvmlite.binding as llvm

_lock = threading.RLock()
_engines: list[llvm.ExecutionEngine] = []
FACTS = Path("/proc/cpuinfo")
"""Where Linux says who made the processor."""

LONG = 6000
"""Lines from which on code is optimised by few passes: those of LLVM's usual pipeline that unroll loops and compare
everything with everything take time that grows faster than the code, and change next to nothing here, since vectors,
blocks in registers and what loops share are written as they are to be."""
BRIEF = ("sroa", "instruction_combine", "simplify_cfg", "loop_rotate", "instruction_combine")


@functools.cache
def target() -> llvm.TargetMachine:
    """This processor, with every instruction set it really has."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features(), opt=3, reloc="pic", codemodel="default"
    )


@functools.cache
def features() -> str:
    """The processor's instruction sets as LLVM names them, e.g. "+avx2,+fma"; part of every cache key."""
    return llvm.get_host_cpu_features().flatten()


@functools.cache
def vector_bytes() -> int:
    """Width of a vector register in bytes."""
    available = features().split(",")
    return 64 if "+avx512f" in available else 32 if "+avx2" in available else 16


def is_held_back() -> bool:
    """Whether MKL leaves half of the processor's vectors unused: those of 64 bytes of a vendor that is not its own."""
    if vector_bytes() < 64 or not target().triple.startswith("x86"):
        return False
    try:
        return "GenuineIntel" not in FACTS.read_text()
    except OSError:  # not on Linux
        return "GenuineIntel" not in platform.processor()


def has_half() -> bool:
    """Whether the processor converts float16; if not, LLVM would call functions of a library that is not there."""
    return _has_half(features())


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16, with sums in float32."""
    available = features().split(",")
    return any(name in available for name in ("+avx512bf16", "+amx-bf16", "+bf16"))


@functools.cache
def _has_half(features: str) -> bool:
    return "+f16c" in features.split(",") or not target().triple.startswith("x86")


def compile_object(ir: str) -> bytes:
    """Verify, optimise and assemble IR text to an object file. Raises RuntimeError with LLVM's words if it is wrong."""
    with _lock:
        module = llvm.parse_assembly(ir)
        module.triple, module.data_layout = target().triple, str(target().target_data)
        module.verify()
        options = llvm.create_pipeline_tuning_options(speed_level=2)
        options.loop_vectorization = options.slp_vectorization = False
        builder = llvm.create_pass_builder(target(), options)
        if ir.count("\n") <= LONG:
            builder.getModulePassManager().run(module, builder)
        else:
            passes = llvm.create_new_function_pass_manager()
            for name in BRIEF:
                getattr(passes, f"add_{name}_pass")()
            for function in module.functions:
                if not function.is_declaration:
                    passes.run(function, builder)
        return target().emit_object(module)


def load_functions(code: bytes, *names: str) -> list[int]:
    """Link an object file into this process and return the addresses of functions; the code stays for good.

    Raises RuntimeError or ValueError if `code` is not an object file or does not hold one of them.
    """
    with _lock:
        target()
        empty = llvm.parse_assembly("")
        empty.triple = target().triple
        engine = llvm.create_mcjit_compiler(empty, target())
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        addresses = [engine.get_function_address(name) for name in names]
        if not all(addresses):
            raise ValueError(f"the object file does not hold all of {names}")
        _engines.append(engine)
        return addresses
