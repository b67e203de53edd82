"""The step that both algorithms take: the gradient is clipped, then Adam moves all parameters at once.

Not imported as it stands: see `kernels.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_lab.fast.plan import BETA_1, BETA_2, EPSILON, NORM, RATE

if TYPE_CHECKING:
    from rl_lab.compiler import outlined, quick


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


@outlined
def descend(weights: Any, slopes: Any, first: Any, second: Any, settings: Any, taken: Any) -> Any:
    """Clip the gradient's norm and take Adam's step number `taken`; return False, and change nothing, if not finite.

    Source: Kingma and Ba 2015
    """
    n = len(weights)
    norm = math.sqrt(squares(slopes[:n]))
    if not math.isfinite(norm):
        return False
    scale = min(settings[NORM] / (norm + 1e-6), 1.0)
    beta_1, beta_2 = settings[BETA_1], settings[BETA_2]
    size, root = settings[RATE] / (1.0 - beta_1**taken), math.sqrt(1.0 - beta_2**taken)
    numbers = np.array([scale, beta_1, beta_2, size, root, settings[EPSILON]]).astype(np.float32)
    adam(weights, slopes[:n], first, second, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5])
    return True
