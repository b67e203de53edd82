"""Functions of the compiled learners, run as plain Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rl_lab.learners.compiled import build


def plain_n_step_return() -> Callable[..., Any]:
    """Return the n-step return of the replay buffer."""
    function: Callable[..., Any] = build.template(
        "replay_buffer", ("memory_views", "random_numbers")
    ).n_step_return.py_func
    return function
