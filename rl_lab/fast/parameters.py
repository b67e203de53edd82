"""The step that both algorithms take: the gradient is clipped, then Adam moves all parameters at once.

Not imported as it stands: see `kernels.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_lab.fast.plan import BETA_1, BETA_2, EPSILON, NORM, RATE, SHARDS
from rl_lab.fast.vectors import PAD

if TYPE_CHECKING:
    from rl_lab.compiler import outlined, quick

    from .team import meet


@quick
def squares(values: Any) -> Any:
    """Return the sum of squares, float64."""
    total = 0.0
    for j in range(len(values)):
        total += np.float64(values[j]) * np.float64(values[j])
    return total


@quick
def adam(
    weights: Any,
    slopes: Any,
    first: Any,
    second: Any,
    scale: Any,
    keep_1: Any,
    keep_2: Any,
    size: Any,
    root: Any,
    epsilon: Any,
) -> None:
    """Move weights [n] by their moments, which take up the gradient times `scale`; all float32."""
    new_1, new_2 = np.float32(1.0) - keep_1, np.float32(1.0) - keep_2
    for j in range(len(weights)):
        slope = slopes[j] * scale
        first[j] += (slope - first[j]) * new_1
        second[j] = second[j] * keep_2 + slope * slope * new_2
        weights[j] -= size * first[j] / (np.float32(math.sqrt(second[j])) / root + epsilon)


@quick
def add(total: Any, more: Any) -> None:
    """Add more [n] to total [n]."""
    for j in range(len(total)):
        total[j] += more[j]


@outlined
def fold(rank: Any, ranks: Any, slopes: Any) -> Any:
    """Add a thread's own parts of the gradient [parts, n] to each other; return how many are left of all threads'.

    However many threads there are, four parts are summed as (0 + 2) + (1 + 3): two threads have these pairs to
    themselves, and one fetches the fewest numbers from the other's core.
    """
    if ranks > 2:
        return len(slopes)
    for part in range(rank + 2, len(slopes), ranks):
        add(slopes[part - 2], slopes[part])
    return min(len(slopes), 2)


@outlined
def descend(
    rank: Any,
    ranks: Any,
    team: Any,
    weights: Any,
    slopes: Any,
    first: Any,
    second: Any,
    settings: Any,
    taken: Any,
    norms: Any,
) -> Any:
    """Clip the gradient's norm and take Adam's step number `taken`; return False, and change nothing, if not finite.

    The gradient is the sum of slopes [parts, n], as `fold` leaves them, and stands in the first of them afterwards.
    Each thread does its share of the parameters; `norms` float64 [SHARDS] is for what they tell each other.

    Source: Kingma and Ba 2015
    """
    lines = -(-len(weights) // PAD)
    for share in range(rank, SHARDS, ranks):
        low, high = share * lines // SHARDS * PAD, min((share + 1) * lines // SHARDS * PAD, len(weights))
        for part in range(2, len(slopes)):
            add(slopes[part - 2, low:high], slopes[part, low:high])
        if len(slopes) > 1:
            add(slopes[0, low:high], slopes[1, low:high])
        norms[share] = squares(slopes[0, low:high])
    if not meet(ranks, team):
        return False
    norm = math.sqrt(norms.sum())
    if not math.isfinite(norm):
        return False
    scale = min(settings[NORM] / (norm + 1e-6), 1.0)
    beta_1, beta_2 = settings[BETA_1], settings[BETA_2]
    size, root = settings[RATE] / (1.0 - beta_1**taken), math.sqrt(1.0 - beta_2**taken)
    numbers = np.array([scale, beta_1, beta_2, size, root, settings[EPSILON]]).astype(np.float32)
    for share in range(rank, SHARDS, ranks):
        low, high = share * lines // SHARDS * PAD, min((share + 1) * lines // SHARDS * PAD, len(weights))
        w, g, m, v = weights[low:high], slopes[0, low:high], first[low:high], second[low:high]
        adam(w, g, m, v, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5])
    return meet(ranks, team)
