"""Write and read traces: files with the actions of one evaluated episode, from which it can be played again.

A trace is a safetensors file. Its one tensor is the actions; its metadata are the episode's other fields, the world and
the parameters as JSON. `video.film` writes one beside each video. A trace may come from a stranger: `load_trace` checks
every value, and executes nothing.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from rl_lab.core.files import atomic_write_bytes
from rl_lab.core.untrusted import parse_json
from rl_lab.engine.batch import NUM_SEEDS
from rl_lab.evaluation.evaluate import Episode

_FORMAT = "rl_lab.trace 1"


class Trace(NamedTuple):
    """An episode with its world and parameters, from which it can be recorded again.

    Example: `film(*load_trace(path), "again.mp4")`.
    """

    episode: Episode
    world: str
    params: dict[str, Any]


def save_trace(trace: Trace, path: Path) -> None:
    """Write an episode's actions as safetensors, with its other fields, world and parameters as metadata."""
    values = {"world": trace.world, "params": trace.params, **trace.episode.as_json()}
    # A parameter of a foreign environment may be infinite if its default is.
    metadata = {name: json.dumps(value, allow_nan=name == "params") for name, value in values.items()}
    tensors = {"actions": trace.episode.actions}
    atomic_write_bytes(path, safetensors.numpy.save(tensors, {"format": _FORMAT, **metadata}))


def load_trace(path: str | Path) -> Trace:
    """Read a trace that `save_trace` wrote. Raises ValueError, with the reason in one line, for any other file."""
    try:
        with safetensors.safe_open(str(path), "np") as file:
            metadata, actions = file.metadata() or {}, file.get_tensor("actions")
        if metadata.pop("format", None) != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT!r}")
        values = {name: parse_json(text) for name, text in metadata.items()}
        world, params = values.pop("world"), values.pop("params")
        for name in {"seats", "returns"} & set(values):
            values[name] = tuple(values[name])
        episode = Episode(return_=values.pop("return"), actions=actions, **values)
        _check(episode, world, params)
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not an action trace: {reason:.200}") from None
    return Trace(episode, world, params)


def _check(episode: Episode, world: Any, params: Any) -> None:
    """Raise ValueError where a value of a trace has another type than `save_trace` writes, or is out of range."""
    types = {
        "index": int,
        "seed": int,
        "return_": float,
        "length": int,
        "terminated": bool,
        "truncated": bool,
    }
    for name, type_ in types.items():
        if type(getattr(episode, name)) is not type_:
            raise ValueError(f"{name.rstrip('_')} is {getattr(episode, name)!r}")
    actions = episode.actions
    if not isinstance(world, str) or not isinstance(params, dict) or type(episode.success) not in (bool, type(None)):
        raise ValueError(f"world is {world!r}, params {params!r}, success {episode.success!r}")
    for number in (*episode.seats, *episode.returns):
        if type(number) not in (int, float) or not math.isfinite(number):
            raise ValueError(f"seats are {episode.seats}, returns {episode.returns}")
    if any(type(seat) is not int or not 0 <= seat < max(len(episode.returns), 1) for seat in episode.seats):
        raise ValueError(f"seats are {episode.seats}")
    if not 0 <= episode.seed < NUM_SEEDS or episode.index < 0 or not math.isfinite(episode.return_):
        raise ValueError(f"index {episode.index}, seed {episode.seed} or return {episode.return_} is out of range")
    is_multi_agent = len(episode.returns) > 1
    if (actions.dtype, actions.ndim - is_multi_agent) not in ((np.dtype(np.int64), 1), (np.dtype(np.float32), 2)):
        raise ValueError(f"actions are {actions.dtype} {list(actions.shape)}")
    if not np.isfinite(actions).all() or len(actions) != episode.length or episode.length < 1:
        raise ValueError(f"{len(actions)} actions, some perhaps not finite, for {episode.length} steps")
