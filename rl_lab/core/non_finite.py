"""This module describes NaN and infinity in an environment's rewards and observations, for error messages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rl_lab.core.world import Array


def describe(values: Array, agents: Sequence[str]) -> str:
    """Return the first number in an environment's values, [A, ...], that is not finite, as text with its place.

    The text names the agent where there are several, and the index where an agent has several values:
    "nan for agent b at [3]".
    """
    agent, *index = np.argwhere(~np.isfinite(values))[0].tolist()
    whose = f" for agent {agents[agent]}" if len(agents) > 1 else ""
    where = f" at {index}" if index else ""
    return f"{values[(agent, *index)]:g}{whose}{where}"
