"""A data set in a few figures, for the command line."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from rl_lab.core.text_table import format_table
from rl_lab.datasets.columns import NO_SEED
from rl_lab.datasets.dataset import Dataset


def summary(data: Dataset) -> dict[str, Any]:
    """Return figures of a data set for JSON: of all episodes together, and of those of each policy."""
    returns, lengths = data.returns(), data.lengths
    last = data.episode_offsets[1:] - 1
    policies = {}
    for index, name in enumerate(data.policies):
        own = data.policy_indices == index
        if own.any():
            steps = int(lengths[own].sum())
            policies[name] = {
                "episodes": int(own.sum()),
                "steps": steps,
                "mean_return": float(returns[own].mean()),
                "mean_length": steps / int(own.sum()),
            }
    return {
        "path": str(data.path),
        "world": data.world,
        "observation": _describe_space(data.observation_space),
        "action": _describe_space(data.action_space),
        "action_masks": data.action_masks is not None,
        "episodes": data.num_episodes,
        "steps": data.num_steps,
        "groups": len(np.unique(data.group_ids)),
        "level_seeds": len(np.unique(data.seeds[data.seeds != NO_SEED])),
        "mean_return": float(returns.mean()),
        "min_return": float(returns.min()),
        "max_return": float(returns.max()),
        "mean_length": float(lengths.mean()),
        "terminated": int(data.terminated[last].sum()),
        "truncated": int(data.truncated[last].sum()),
        "policies": policies,
        "content_hash": data.content_hash,
        "info": data.info,
    }


def _describe_space(space: Box | Discrete[Any]) -> str:
    if isinstance(space, Discrete):
        return f"Discrete({int(space.n)})"
    return f"{space.low.dtype} {list(space.shape)}"


def text(figures: dict[str, Any]) -> str:
    """Return a summary as aligned lines for a terminal."""
    masks = ", with action masks" if figures["action_masks"] else ""
    rows = [
        ("world", figures["world"] or "unknown"),
        ("observations", figures["observation"]),
        ("actions", figures["action"] + masks),
        ("transitions", f"{figures['steps']:,}"),
        ("episodes", f"{figures['episodes']:,} from {figures['level_seeds']:,} level seeds"),
        ("ends", f"{figures['terminated']:,} terminated, {figures['truncated']:,} truncated"),
        ("mean length", f"{figures['mean_length']:,.1f}"),
        ("return", f"{figures['mean_return']:,.2f}, from {figures['min_return']:,.2f} to {figures['max_return']:,.2f}"),
        *((key, str(value)) for key, value in figures["info"].items() if isinstance(value, int | float | str)),
        ("SHA-256", figures["content_hash"][:16]),
    ]
    table = [("policy", "episodes", "transitions", "mean return", "mean length")]
    table += [
        (name, f"{p['episodes']:,}", f"{p['steps']:,}", f"{p['mean_return']:,.2f}", f"{p['mean_length']:,.1f}")
        for name, p in figures["policies"].items()
    ]
    parts = [figures["path"], format_table(rows, left=(0, 1), indent="  "), ""]
    return "\n".join([*parts, format_table(table, left=(0,), indent="  ")])
