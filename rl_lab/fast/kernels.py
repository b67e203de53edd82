"""The compiled learners, built and cached as worlds are."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import ModuleType

from .. import compiler, kernel, layout, rng
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
    return _library("greedy", ("rows",))


@cache
def tensors() -> ModuleType:
    """Return the functions of `tensors.py`."""
    return _library("tensors", ())


@cache
def network() -> tuple[int, int, int]:
    """Return the addresses of `forward`, `backward` and `turn` of `network.py`."""
    made = _library("network", ("rows",))
    return compiler.address(made.forward), compiler.address(made.backward), compiler.address(made.turn)


def _library(name: str, below: tuple[str, ...] = ("rows", "team", "parameters")) -> ModuleType:
    here = Path(__file__).parent
    words = {
        **vectors.blocks(),
        **vectors.atomics(),
        "call": compiler.caller(),
        "cycles": vectors.clock(),
        "fetch": vectors.fetching(),
    }
    words["philox"] = kernel.link(rng.philox, compiler.inlining())
    widths = [(key, value) for key, value in words.items() if isinstance(value, int)]
    sources = [Path(str(module.__file__)).read_text() for module in (plan, vectors, layout, rng)]
    return compiler.assemble(
        f"learner-{name}", tuple(here / f"{file}.py" for file in (*below, name)), words, *sources, widths
    )
