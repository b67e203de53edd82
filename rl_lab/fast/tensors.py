"""Between a framework's tensors and the one array in which compiled code has all parameters.

Not imported as it stands: see `kernels.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numba import carray

    from rl_lab.compiler import address_to_pointer, jit


@jit
def exchange(addresses: Any, bounds: Any, places: Any, flat: Any, out: Any) -> None:
    """Copy tensors to flat[places], or back if `out`; tensor i, float32 at an address, is bounds[i]:bounds[i + 1]."""
    for i in range(len(addresses)):
        low, high = bounds[i], bounds[i + 1]
        tensor = carray(address_to_pointer(addresses[i]), (high - low,), np.float32)
        for j in range(high - low):
            if out:
                tensor[j] = flat[places[low + j]]
            else:
                flat[places[low + j]] = tensor[j]
