"""The compiled learners, built and cached as worlds are."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import ModuleType

from rl_lab.core import rng
from rl_lab.engine import atomics, buffers, compiler
from rl_lab.learners.compiled import (
    adam_records,
    dqn_records,
    fragment_records,
    intrinsics,
    matrix_intrinsics,
    ppo_records,
    primitives,
    rllib_records,
    vector_builder,
)
from rl_lab.learners.compiled import network as network_layout


@cache
def ppo() -> ModuleType:
    """Return the functions of `templates/ppo.py`."""
    return library("ppo", ("tiles", "barrier", "adam", "ppo_rollout", "ppo_loss"))


@cache
def fragment() -> ModuleType:
    """Return the functions of `templates/fragment.py`."""
    return library("fragment", ("tiles", "barrier", "ppo_rollout"), fragment_records)


@cache
def rllib_ppo() -> ModuleType:
    """Return the functions of `templates/rllib_ppo.py`."""
    below = ("tiles", "barrier", "adam", "ppo_rollout", "ppo_loss", "rllib_loss")
    return library("rllib_ppo", below, rllib_records)


@cache
def sums() -> ModuleType:
    """Return the functions of `templates/discounted_sums.py`."""
    return library("discounted_sums", ())


@cache
def dqn() -> ModuleType:
    """Return the functions of `templates/dqn.py`."""
    return library("dqn", ("tiles", "barrier", "adam", "replay_buffer", "dqn_exploration", "dqn_loss"))


@cache
def greedy() -> ModuleType:
    """Return the functions of `templates/inference.py`."""
    return library("inference", ("tiles",))


@cache
def tensors() -> ModuleType:
    """Return the functions of `templates/param_copy.py`."""
    return library("param_copy", ())


@cache
def network() -> tuple[int, int, int]:
    """Return the addresses of `forward`, `backward` and `transpose_weights` of `templates/layers.py`."""
    made = library("layers", ("tiles", "matrix_product", "convolution"))
    return compiler.address(made.forward), compiler.address(made.backward), compiler.address(made.transpose_weights)


def library(name: str, below: tuple[str, ...], *records: ModuleType) -> ModuleType:
    """Return a template of the learners, executed after those that it imports; `records` are modules of its own."""
    folder = Path(__file__).parent / "templates"
    modules = (
        *(network_layout, intrinsics, matrix_intrinsics, vector_builder, primitives, atomics, buffers, rng),
        *(adam_records, ppo_records, dqn_records, *records),
    )
    sources = [Path(str(module.__file__)).read_text() for module in modules]
    files = tuple(folder / f"{file}.py" for file in (*below, name))
    return compiler.instantiate_templates(f"learner-{name}", files, *sources, vector_builder.vector_shape())
