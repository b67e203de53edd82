"""This template has the signal handler that says in one line what a segmentation fault most likely means.

It depends on no world, and its machine code is kept on disk. `crash_handler` installs it. The handler runs on the stack
that faulthandler sets aside, because a kernel that calls itself without end has used up the thread's own; so it makes
two system calls and nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

MESSAGE = np.frombuffer(
    b"\nrl-lab: machine code crashed (segmentation fault): most likely a kernel of the world writes far outside an "
    b"array, or calls itself without end; run rl-lab check WORLD, and look at indices that depend on the state\n",
    np.uint8,
)
_write = types.ExternalFunction("write", types.intp(types.int32, types.uintp, types.intp))
_exit = types.ExternalFunction("_exit", types.void(types.int32))


def write_message_and_exit(signal: Any) -> None:
    """Write the message to the standard error stream and end the process with status 1. Called by address."""
    _write(np.int32(2), MESSAGE.ctypes.data, len(MESSAGE))
    _exit(np.int32(1))
