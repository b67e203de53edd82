"""Builds the compiled learners: executes their templates, whose functions numba compiles at their first call.

Each function below returns one template of `templates/` as a module, which is made once in a process. Its machine code
is kept in the user's cache folder, where worlds' machine code is kept as well: see `engine.compiler`. The folder's name
has a hash of all sources that the machine code depends on.
"""

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
    thread_pool,
    tree_records,
    vector_builder,
)
from rl_lab.learners.compiled import network as network_memory

_CALLS = ("memory_views", "observations", "calls")
_ROLLOUT = (*_CALLS, "random_numbers", "barrier", "ppo_rollout")


@cache
def ppo() -> ModuleType:
    """Return the functions of `templates/ppo.py`."""
    return template("ppo", (*_ROLLOUT, "adam", "ppo_loss"))


@cache
def fragment() -> ModuleType:
    """Return the functions of `templates/fragment.py`."""
    return template("fragment", _ROLLOUT, fragment_records)


@cache
def rllib_ppo() -> ModuleType:
    """Return the functions of `templates/rllib_ppo.py`."""
    return template("rllib_ppo", (*_ROLLOUT, "adam", "ppo_loss", "rllib_loss"), rllib_records)


@cache
def discounted_sums() -> ModuleType:
    """Return the functions of `templates/discounted_sums.py`."""
    return template("discounted_sums", ())


@cache
def dqn() -> ModuleType:
    """Return the functions of `templates/dqn.py`."""
    parts = ("random_numbers", "barrier", "adam", "replay_buffer", "dqn_exploration", "dqn_loss")
    return template("dqn", (*_CALLS, *parts))


@cache
def inference() -> ModuleType:
    """Return the functions of `templates/inference.py`."""
    return template("inference", _CALLS)


@cache
def decision_tree() -> ModuleType:
    """Return the functions of `templates/decision_tree.py`."""
    return template("decision_tree", (), tree_records)


@cache
def tree_ensemble() -> ModuleType:
    """Return the functions of `templates/tree_ensemble.py`."""
    return template("tree_ensemble", (), tree_records)


@cache
def param_copy() -> ModuleType:
    """Return the functions of `templates/param_copy.py`."""
    return template("param_copy", ())


@cache
def network_functions() -> tuple[int, int, int]:
    """Return the addresses of `forward`, `backward` and `transpose_weights` of `templates/layers.py`."""
    layers = template("layers", ("memory_views", "matrix_product", "convolution"))
    return (
        compiler.address(layers.forward),
        compiler.address(layers.backward),
        compiler.address(layers.transpose_weights),
    )


def template(name: str, imported: tuple[str, ...], *records: ModuleType) -> ModuleType:
    """Return a template of the learners, executed after those that it imports.

    `imported` names these in the order of execution. `records` are modules outside of `templates/` that only this
    template depends on, so that an edit of them compiles it again.
    """
    folder = Path(__file__).parent / "templates"
    modules = (
        *(network_memory, intrinsics, matrix_intrinsics, vector_builder, primitives, atomics, buffers, rng),
        *(thread_pool, adam_records, ppo_records, dqn_records, *records),
    )
    sources = [Path(str(module.__file__)).read_text() for module in modules]
    files = tuple(folder / f"{file}.py" for file in (*imported, name))
    return compiler.instantiate_templates(f"learner-{name}", files, *sources, vector_builder.vector_shape())
