"""Copy parameters between a framework's tensors and the one array in which compiled code has all of them.

A template, executed by `build`: see `engine/template_context.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.primitives import primitives

jit = decorators().jit
address_to_pointer = primitives().address_to_pointer
# Elements a side of the part of a matrix that is copied at a time: where the matrix lies the other way round, no more
# cache lines than the nearest cache keeps of one set.
TALL, WIDE = 16, 8


@jit
def copy_params(addresses: Any, bounds: Any, rows: Any, param_index: Any, flat: Any, out: Any) -> None:
    """Copy tensors to flat[param_index], or back if `out`.

    Tensor i is float32 [rows[i], ...] at addresses[i]; its elements lie in `flat` at
    param_index[bounds[i]:bounds[i + 1]].
    """
    for i in range(len(addresses)):
        low, n = bounds[i], rows[i]
        k = (bounds[i + 1] - low) // n
        tensor = carray(address_to_pointer(addresses[i]), (n * k,), np.float32)
        for top in range(0, n, TALL):
            for left in range(0, k, WIDE):
                for line in range(top, min(top + TALL, n)):
                    for j in range(line * k + left, line * k + min(left + WIDE, k)):
                        if out:
                            tensor[j] = flat[param_index[low + j]]
                        else:
                            flat[param_index[low + j]] = tensor[j]
