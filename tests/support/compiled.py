"""Functions of the compiled learners as plain Python, so that tests can call them with lists and step through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rl_lab.learners.compiled import build


def plain_n_step_return() -> Callable[..., Any]:
    """Return `n_step_return` of the compiled replay buffer, not compiled."""
    function: Callable[..., Any] = build.template(
        "replay_buffer", ("memory_views", "random_numbers")
    ).n_step_return.py_func
    return function
