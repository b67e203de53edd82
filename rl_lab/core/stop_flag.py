"""This module has the flag by which `interrupts` stops loops of compiled code, which no exception can reach.

Process-wide state: the flag, an int64. Compiled loops read it at its address and return once it is not 0.
"""

from __future__ import annotations

import ctypes

_flag = ctypes.c_int64()


def flag_address() -> int:
    """Return the address of an int64 flag for compiled loops: once it is not 0, they return, with any result."""
    return ctypes.addressof(_flag)


def set_flag(is_set: bool) -> None:
    """Have compiled loops return early from now on, or no longer."""
    _flag.value = is_set


def check_flag() -> None:
    """Raise KeyboardInterrupt if the flag is set: compiled loops have returned early, with results of no use."""
    if _flag.value:
        raise KeyboardInterrupt
