"""This module refuses settings of numba, made by environment variables, with which nothing can be compiled.

`compiler` calls `check` before it compiles. To ask LLVM about a processor, it starts a process.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache

from rl_lab.core.errors import UsageError, one_line

_TIMEOUT = 60.0  # seconds for a process that asks LLVM
_PROBE_PROGRAM = """
import sys, llvmlite.binding as llvm
try:
    llvm.initialize_native_target()
except RuntimeError:
    pass  # newer versions initialise by themselves
target = llvm.Target.from_triple(llvm.get_process_triple())
target.create_target_machine(cpu=sys.argv[1], features=sys.argv[2])
"""


def check() -> None:
    """Raise UsageError where numba's compiler is switched off, or is to compile for a processor that LLVM lacks."""
    from numba import config

    if config.DISABLE_JIT:
        raise UsageError(
            "NUMBA_DISABLE_JIT is set, so nothing can be compiled: unset it; for a debugger in a world's "
            "kernels there is rl_lab.engine.batch.Batch(world, n, plain=True)"
        )
    if config.CPU_NAME is not None and _does_llvm_refuse(config.CPU_NAME, ""):
        name = one_line(config.CPU_NAME)[:80]
        raise UsageError(f"NUMBA_CPU_NAME={name}: LLVM knows no such processor; unset it, or name one as `generic`")
    if config.CPU_FEATURES and _does_llvm_refuse("generic", config.CPU_FEATURES):
        features = one_line(config.CPU_FEATURES)[:80]
        raise UsageError(f"NUMBA_CPU_FEATURES={features}: expected features that LLVM knows, such as +avx2,-avx512f")


@cache
def _does_llvm_refuse(processor: str, features: str) -> bool:
    """Return whether LLVM does not know a processor or a feature.

    LLVM writes that to the stderr of the process and goes on without, or aborts the process; so another one asks.
    """
    words = [sys.executable, "-c", _PROBE_PROGRAM, processor, features]
    try:
        process = subprocess.run(words, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return False
    return process.returncode != 0 or "is not a recognized" in process.stderr
