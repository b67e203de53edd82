"""Copy parameters between a framework's tensors and the one array in which compiled code has all of them.

A template, executed by `build` alone: see `engine/template_context.py`. `network_import.ParameterMirror` calls
`copy_params` before and after compiled training. It writes either the array or the tensors, in place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.primitives import primitives

jit = decorators().jit
address_to_pointer = primitives().address_to_pointer
# Rows and columns of the part of a matrix that is copied at a time. Where the matrix lies transposed in the array, the
# numbers of a row are far apart there: parts of this size touch no more cache lines than the nearest cache keeps.
TILE_ROWS, TILE_COLS = 16, 8


@jit
def copy_params(addresses: Any, bounds: Any, rows: Any, param_index: Any, flat: Any, to_tensors: Any) -> None:
    """Copy tensors to flat[param_index], or back if `to_tensors`.

    Tensor i is float32 [rows[i], ...] at addresses[i]; its elements lie in `flat`, float32 [P], at
    param_index[bounds[i]:bounds[i + 1]]. The arguments but `flat` are int64 arrays, see `network.NetworkMemory`.
    """
    for i in range(len(addresses)):
        first, n = bounds[i], rows[i]
        columns = (bounds[i + 1] - first) // n
        tensor = carray(address_to_pointer(addresses[i]), (n * columns,), np.float32)
        for top in range(0, n, TILE_ROWS):
            for left in range(0, columns, TILE_COLS):
                for row in range(top, min(top + TILE_ROWS, n)):
                    for j in range(row * columns + left, row * columns + min(left + TILE_COLS, columns)):
                        if to_tensors:
                            tensor[j] = flat[param_index[first + j]]
                        else:
                            flat[param_index[first + j]] = tensor[j]
