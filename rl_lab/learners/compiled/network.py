"""Networks as compiled code reads them: a table of layers, and one array that has all parameters."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from rl_lab.core.interrupts import flag_address
from rl_lab.core.world import Array
from rl_lab.learners.compiled.matrix_intrinsics import PAD

# Columns of the table.
KIND, SOURCE, TARGET, INPUTS, OUTPUTS, WEIGHT, BIAS, TRANSPOSED, ROW_MAJOR_OUT, ACTIVATION, ADDS, ACROSS = range(12)
COLUMNS = ACROSS + 1
DENSE, CONVOLUTION = 0, 1
LINEAR, TANH, RELU = 0, 1, 2
# A row of `Network.tables`: addresses of functions and memory, the number of layers, and the address of an int64 that
# is not 0 once the user has interrupted the work.
(
    AT_FORWARD, AT_BACKWARD, AT_TRANSPOSE, AT_LAYERS, AT_COUNT, AT_BUFFERS, AT_WEIGHTS, AT_TRANSPOSED, AT_WORK, AT_GRAD,
    AT_GRADS, AT_ZEROS, AT_STARTS, AT_NONZERO_INDICES, AT_NONZERO_VALUES, AT_CONV_INDEX, AT_STOP,
) = range(17)  # fmt: skip
ADDRESSES = AT_STOP + 1
# Columns of `conv_index`, which says for an input of a convolution where it is used. Output positions whose windows
# contain it: the offset of the first one in a row of outputs, in bytes; the offset of its weight there, in bytes; the
# number of rows of such positions, and how many there are in each row.
OUT_OFFSET, WEIGHT_OFFSET, ROWS, COLS = range(4)
# Counters of a team of threads: bytes from its address, a cache line apart.
ARRIVED, ROUND, ABORTED = 0, 64, 128
# Adam's settings, the last of which is the number of its steps; and the columns of the report of PPO's update.
LEARNING_RATE, MAX_GRAD_NORM, BETA_1, BETA_2, EPSILON, ADAM_STEP = range(6)
POLICY_LOSS, VALUE_LOSS, ENTROPY_LOSS, CLIPPED, APPROX_KL, LOSS, STEPS, EPOCHS, FAILED = range(9)
TILE = 64  # rows that go through the network together
SHARDS = 4  # parts of a minibatch and of the parameters: as many threads can share the work, and fewer do the same
SHARD = 32  # rows, at least, of such a part
FILTERS = 16  # of a convolution: one vector


def padded(n: int) -> int:
    """Return n rounded up to a multiple of PAD."""
    return -(-n // PAD) * PAD


def spaced(width: int) -> int:
    """Return how far apart rows of this width lie: by a power of two, a column would fill one set of the cache."""
    return width + PAD if width >= 256 else width


@dataclass
class NetworkSpec:
    """A network under construction: buffer 0 is the input, each layer's output another.

    `parameters` says for each tensor, in the order of the framework's own list, where its elements lie: int64 [n]
    or, row by row, [n, inputs].
    """

    inputs: int
    layers: list[list[int]] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    parameters: list[Array] = field(default_factory=list)
    size: int = 0  # floats that the parameters take, padding included
    transposed_size: int = 0
    conv_index: Array = field(default_factory=lambda: np.zeros((0, 4), np.int64))  # of a convolution's inputs

    def __post_init__(self) -> None:
        self.widths.append(spaced(padded(self.inputs)))

    def dense(self, source: int, n: int, activation: int, order: Array | None = None) -> int:
        """Add a dense layer; return its buffer. `order`, int [inputs], says which input each column of weights is for.

        Its parameters are weight [n, inputs] and bias [n].
        """
        k = self.inputs if source == 0 else self._outputs(source)
        row_major_out = int(n < PAD and source > 0)
        weight = self._take(padded(k) * padded(n))
        bias = self._take(padded(n))
        back = source > 0 or row_major_out
        transposed = self.transposed_size if back else -1
        self.transposed_size += padded(k) * padded(n) if back else 0
        column = np.arange(k) if order is None else order
        row = np.arange(n)[:, None]
        index = row * padded(k) + column if row_major_out else column * padded(n) + row
        self.parameters += [weight + index, bias + np.arange(n)]
        return self._add([DENSE, source, 0, k, n, weight, bias, transposed, row_major_out, activation, 0, 0], padded(n))

    def convolution(self, rows: int, side: int, depth: int, activation: int) -> tuple[int, Array]:
        """Add 16 filters of 3 x 3 over boards [rows, side, depth]; return the buffer and the order of its outputs.

        Its parameters are weight [16, depth, 3, 3] and bias [16]. A framework flattens its outputs from
        [16, rows - 2, side - 2]; here the filters lie side by side, and the order says where each has gone.
        """
        weight, bias = self._take(9 * depth * FILTERS), self._take(FILTERS)
        f, c, dy, dx = np.indices((FILTERS, depth, 3, 3)).reshape(4, -1)
        # Towards the left, as the positions that see an input lie: three of them are one stretch of memory.
        self.parameters += [weight + ((c * 3 + dy) * 3 + 2 - dx) * FILTERS + f, bias + np.arange(FILTERS)]
        positions = (rows - 2) * (side - 2)
        f, position = np.indices((FILTERS, positions)).reshape(2, -1)
        layer = [CONVOLUTION, 0, 0, self.inputs, FILTERS * positions, weight, bias, -1, 0, activation, 0, side - 2]
        self.conv_index = _conv_index(rows, side, depth)
        return self._add(layer, FILTERS * positions), position * FILTERS + f

    def vector(self, n: int) -> int:
        """Add a parameter of its own, [n]; return its offset in the array of parameters."""
        offset = self._take(padded(n))
        self.parameters.append(offset + np.arange(n))
        return offset

    def _take(self, floats: int) -> int:
        offset = self.size
        self.size += floats
        return offset

    def _outputs(self, buffer: int) -> int:
        return next(layer[OUTPUTS] for layer in self.layers if layer[TARGET] == buffer)

    def _add(self, layer: list[int], width: int) -> int:
        layer[TARGET] = len(self.widths)
        self.layers.append(layer)
        self.widths.append(spaced(width))
        return layer[TARGET]

    @property
    def convolves(self) -> bool:
        """Return whether the first layer is a convolution, whose inputs are always sparse."""
        return self.layers[0][KIND] == CONVOLUTION


def _conv_index(rows: int, side: int, depth: int) -> Array:
    """Return the table `conv_index`, int64 [inputs, 4], of the inputs of boards [rows, side, depth]."""
    row, column, channel = np.indices((rows, side, depth)).reshape(3, -1)
    top, bottom = np.maximum(0, row - rows + 3), np.minimum(3, row + 1)
    left, right = np.maximum(0, column - side + 3), np.minimum(3, column + 1)
    position = (row - top) * (side - 2) + column - right + 1
    weight = (channel * 3 + top) * 3 + 3 - right
    return np.stack([4 * FILTERS * position, 4 * FILTERS * weight, bottom - top, right - left], axis=1).astype(np.int64)


class Network:
    """The memory of a network: parameters, gradients and, for each thread, transposed weights and space for one tile.

    `tables`, int64 [threads, ADDRESSES], has the addresses of all of it; those of the functions are filled in later.
    `grads`, float32 [shards, size]: the gradient is the sum of the shards.
    Of the framework's tensors, in its order: `param_index` is the index in `weights` of each element, int64; tensor i
    is param_index[param_bounds[i]:param_bounds[i + 1]], and has param_rows[i] rows.
    """

    def __init__(self, spec: NetworkSpec, threads: int = 1, shards: int = 1) -> None:
        self.spec = spec
        self.layers = np.array(spec.layers, np.int64)
        for index, layer in enumerate(self.layers):  # backwards, the last reader of a buffer is the first to write
            layer[ADDS] = layer[SOURCE] in self.layers[index + 1 :, SOURCE]
        offsets = np.concatenate([[0], np.cumsum([TILE * w for w in spec.widths])])
        self.buffers = np.stack([offsets[:-1], np.array(spec.widths)], axis=1).astype(np.int64)
        self.weights, self.grads = aligned(spec.size), aligned(spec.size, shards)
        self._transposed, self._zeros = aligned(spec.transposed_size, threads), aligned(max(spec.widths))
        self._work, self._work_grads = (aligned(int(offsets[-1]), threads) for _ in range(2))
        cells = TILE * spec.inputs + 1
        self._starts = np.zeros((threads, TILE, 2), np.int64)
        self._nonzero_indices, self._nonzero_values = np.zeros((threads, cells), np.int32), aligned(cells, threads)
        shared = (self.layers, self.buffers, self.weights, self.grads, self._zeros, spec.conv_index)
        # Each thread transposes all weights: that is faster than to fetch from another core what it has transposed.
        own = (
            self._transposed,
            self._work,
            self._work_grads,
            self._starts,
            self._nonzero_indices,
            self._nonzero_values,
        )
        self.tables = np.zeros((threads, ADDRESSES), np.int64)
        for rank, table in enumerate(self.tables):
            table[AT_COUNT], table[AT_STOP] = len(self.layers), flag_address()
            table[[AT_LAYERS, AT_BUFFERS, AT_WEIGHTS, AT_GRADS, AT_ZEROS, AT_CONV_INDEX]] = [
                a.ctypes.data for a in shared
            ]
            own_addresses = [AT_TRANSPOSED, AT_WORK, AT_GRAD, AT_STARTS, AT_NONZERO_INDICES, AT_NONZERO_VALUES]
            table[own_addresses] = [a[rank].ctypes.data for a in own]
        self.param_index = np.concatenate([p.ravel() for p in spec.parameters]).astype(np.int64)
        self.param_bounds = np.cumsum([0, *(p.size for p in spec.parameters)]).astype(np.int64)
        self.param_rows = np.array([len(p) if p.ndim == 2 else 1 for p in spec.parameters])


def aligned(floats: int, rows: int | None = None) -> Array:
    """Return float32 zeros [floats] or [rows, floats], each row at the beginning of a cache line."""
    row_size = padded(floats)
    unaligned = np.zeros(row_size * (rows or 1) + 16, np.float32)
    skip = (-unaligned.ctypes.data % 64) // 4
    array = unaligned[skip : skip + row_size * (rows or 1)]
    return array[:floats] if rows is None else array.reshape(rows, row_size)[:, :floats]
