"""This module ends a process after a segmentation fault in compiled code with a line that says its likely cause.

It installs signal handlers for the whole process, and enables faulthandler for its stack.
"""

from __future__ import annotations

import ctypes
import faulthandler
import signal
from contextlib import suppress
from functools import cache

from rl_lab.engine import compiler


@cache
def explain_crashes() -> None:
    """Install the signal handlers of `templates/crash.py`; they stay until the process ends.

    Nothing is changed where faulthandler is enabled, because a debugger or a test runner has its own handlers then.
    """
    from numba import types

    if faulthandler.is_enabled() or not hasattr(ctypes.pythonapi, "PyOS_setsig"):
        return
    crash = compiler.instantiate_templates("crash", (compiler.template_path("engine/templates/crash"),))
    handler = compiler.address_with_signature(crash.write_message_and_exit, types.void(types.int32))
    with suppress(OSError, RuntimeError, ValueError, AttributeError):  # there may be no standard error stream
        faulthandler.enable()  # for its stack; its own handlers print many lines
        install = ctypes.pythonapi.PyOS_setsig
        install.argtypes, install.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
        for number in (signal.SIGABRT, signal.SIGFPE, signal.SIGILL):
            install(number, 0)
        for number in (signal.SIGSEGV, signal.SIGBUS):
            install(number, handler)
