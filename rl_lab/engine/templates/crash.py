"""A last word for a process that machine code ends: what a segmentation fault most likely means, in one line.

A template that depends on no world, so that its machine code is kept on disk. The handler runs on the stack that
faulthandler sets aside, for a kernel that called itself for ever has used up its own; so it calls the system and
nothing else.
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


def last_word(signal: Any) -> None:
    """Write the message to the standard error stream and end the process with status 1. Called by address."""
    _write(np.int32(2), MESSAGE.ctypes.data, len(MESSAGE))
    _exit(np.int32(1))
