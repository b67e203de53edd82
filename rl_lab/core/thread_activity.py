"""This module says which line a thread executes, for the message about a command that does not react to a signal."""

from __future__ import annotations

import sys
from pathlib import Path

_CALLERS_OF_COMPILED_CODE = ("engine/batch.py", "learners/compiled/thread_pool.py", "games/search/agents.py")


def activity(thread: int) -> str:
    """Return a text that says where a thread is: the innermost line of its Python code."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "because it was not handled"
    file = Path(frame.f_code.co_filename)
    if any(file.match(f"rl_lab/{caller}") for caller in _CALLERS_OF_COMPILED_CODE):
        return "in the middle of compiled code: does a loop in one of the world's kernels never end?"
    return f"at {file}:{frame.f_lineno} {frame.f_code.co_name}"
