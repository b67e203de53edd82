"""Says in one line what a segmentation fault in compiled code most likely means."""

from __future__ import annotations

import ctypes
import faulthandler
import signal
from contextlib import suppress
from functools import cache

from rl_lab.engine import compiler


@cache
def explain_crashes() -> None:
    """Let a segmentation fault end the process with one line that says what it most likely means; see `crash`.

    A debugger's or a test runner's own handlers stay.
    """
    from numba import types

    if faulthandler.is_enabled() or not hasattr(ctypes.pythonapi, "PyOS_setsig"):
        return
    handler = compiler.address_with_signature(
        compiler.instantiate_templates("crash", (compiler.template_path("engine/templates/crash"),)).last_word,
        types.void(types.int32),
    )
    with suppress(OSError, RuntimeError, ValueError, AttributeError):  # there may be no standard error stream
        faulthandler.enable()  # for its stack; its own handlers print many lines
        install = ctypes.pythonapi.PyOS_setsig
        install.argtypes, install.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
        for number in (signal.SIGABRT, signal.SIGFPE, signal.SIGILL):
            install(number, 0)
        for number in (signal.SIGSEGV, signal.SIGBUS):
            install(number, handler)
