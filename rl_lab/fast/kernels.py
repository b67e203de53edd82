"""The compiled learners, built and cached as worlds are."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import ModuleType

from .. import compiler, kernel, rng
from . import plan, vectors


@cache
def ppo() -> ModuleType:
    """Return the functions of `ppo.py`."""
    return _library("ppo")


@cache
def dqn() -> ModuleType:
    """Return the functions of `dqn.py`."""
    return _library("dqn")


@cache
def greedy() -> ModuleType:
    """Return the functions of `greedy.py`."""
    return _library("greedy", ("network", "rows"))


@cache
def tensors() -> ModuleType:
    """Return the functions of `tensors.py`."""
    return _library("tensors", ())


def _library(name: str, below: tuple[str, ...] = ("network", "parameters", "rows")) -> ModuleType:
    here = Path(__file__).parent
    words = {**vectors.blocks(), "call": vectors.caller(), "cycles": vectors.clock()}
    words["philox"] = kernel.link(rng.philox, compiler.inlining())
    widths = [(key, value) for key, value in words.items() if isinstance(value, int)]
    sources = [Path(str(module.__file__)).read_text() for module in (plan, vectors, rng)]
    return compiler.assemble(
        f"learner-{name}", tuple(here / f"{file}.py" for file in (*below, name)), words, *sources, widths
    )
