"""A small network as compiled code sees it: a list of layers, one array of parameters, and addresses of both.

`learners.sb3.network_import` describes a torch policy to a `NetworkSpec`, layer by layer, and makes a `NetworkMemory`
of it. A `NetworkMemory` only allocates memory. The functions that compute with this memory are in
`templates/layers.py`; they get the address of one row of `NetworkMemory.tables` and find everything else through it.
Nothing here is global but the constants: positions in the integer arrays that Python and compiled code share.

Memory of a network with B buffers (buffer 0 is the input; each layer reads one buffer and writes the next new one):

    weights      float32 [size]             of all layers, one after the other, rows padded to multiples of PAD
    activations  float32, for each thread   buffer 0 [TILE, stride 0] | buffer 1 [TILE, stride 1] | ...
    tables       int64 [threads, NUM_ADDRESSES], the addresses of these arrays and of the functions
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from rl_lab.core.stop_flag import flag_address
from rl_lab.core.world import Array
from rl_lab.learners.compiled.matrix_intrinsics import PAD

# Columns of `NetworkMemory.layers`, int64 [layers, LAYER_COLUMNS].
LAYER_KIND = 0  # DENSE or CONVOLUTION
SOURCE_BUFFER = 1  # the buffer that the layer reads
TARGET_BUFFER = 2  # the buffer that it writes
INPUTS = 3  # how many numbers of a row it reads
OUTPUTS = 4  # how many it writes
WEIGHT = 5  # where its weight begins in the array of parameters, in floats
BIAS = 6  # where its bias begins there
TRANSPOSED = 7  # where the transposed copy of its weight begins among those copies; -1 where there is none
ROW_MAJOR_OUT = 8  # whether its weight lies as [outputs, inputs], and not as [inputs, outputs]
ACTIVATION = 9  # LINEAR, TANH or RELU
ADD_TO_SOURCE_GRAD = 10  # whether, backwards, another layer has written the gradient with respect to the source buffer
OUT_WIDTH = 11  # of a convolution, how many output positions a row of the board has
LAYER_COLUMNS = 12
DENSE, CONVOLUTION = 0, 1
LINEAR, TANH, RELU = 0, 1, 2
# Columns of `NetworkMemory.tables`: addresses of functions and arrays, the number of layers, and the address of an
# int64 that is not 0 once the user has interrupted the work.
(
    AT_FORWARD, AT_BACKWARD, AT_TRANSPOSE_WEIGHTS, AT_LAYERS, AT_NUM_LAYERS, AT_BUFFER_LAYOUT, AT_WEIGHTS,
    AT_TRANSPOSED_WEIGHTS, AT_ACTIVATIONS, AT_ACTIVATION_GRADS, AT_PARAM_GRADS, AT_ZEROS, AT_NONZERO_STARTS,
    AT_NONZERO_INDICES, AT_NONZERO_VALUES, AT_CONV_INDEX, AT_STOP_FLAG,
) = range(17)  # fmt: skip
NUM_ADDRESSES = AT_STOP_FLAG + 1
# Columns of `conv_index`, int64 [inputs, 4]: the window of a convolution's input, that is, the output positions that
# depend on it.
OUT_OFFSET = 0  # of the window's first position in a row of outputs, in bytes
WEIGHT_OFFSET = 1  # of the input's weight for this position, in bytes
ROWS, COLS = 2, 3  # how many rows of positions the window has, and positions in each
TILE = 64  # rows that go through the network together: their activations stay in the nearest cache
FILTERS = 16  # of a convolution: one vector


def padded_length(n: int) -> int:
    """Return n rounded up to a multiple of PAD."""
    return -(-n // PAD) * PAD


def row_stride(width: int) -> int:
    """Return how far apart rows of this width lie, in floats.

    Wide rows get PAD floats more: by a power of two, all numbers of a column would compete for the same few cache
    lines.
    """
    return width + PAD if width >= 256 else width


@dataclass
class NetworkSpec:
    """The layers of a network under construction; the `add_` methods append to all fields but `inputs`.

    `param_indices` says for each tensor, in the order in which it was added, where its elements lie in the array of
    parameters: int64 [n] or, row by row, [n, inputs].
    """

    inputs: int  # numbers of an observation
    layers: list[list[int]] = field(default_factory=list)  # rows of `NetworkMemory.layers`
    strides: list[int] = field(default_factory=list)  # of each buffer, the distance of its rows in floats
    param_indices: list[Array] = field(default_factory=list)
    size: int = 0  # floats that the parameters take, padding included
    transposed_size: int = 0  # floats of the transposed copies of weights
    conv_index: Array = field(default_factory=lambda: np.zeros((0, 4), np.int64))  # of a convolution's inputs

    def __post_init__(self) -> None:
        self.strides.append(row_stride(padded_length(self.inputs)))

    def add_dense(self, source: int, n: int, activation: int, order: Array | None = None) -> int:
        """Add a dense layer that reads buffer `source`; return its own buffer.

        Its parameters are weight [n, inputs] and bias [n]. `order`, int [inputs], says which input of the buffer each
        column of the framework's weight is for; None: in the buffer's order.
        """
        k = self.inputs if source == 0 else self._outputs(source)
        row_major_out = int(n < PAD and source > 0)  # rows of n floats would be padding mostly
        weight = self._allocate(padded_length(k) * padded_length(n))
        bias = self._allocate(padded_length(n))
        # The first layer needs no transposed copy: nothing asks for the gradient with respect to observations.
        needs_transposed = source > 0 or row_major_out
        transposed = self.transposed_size if needs_transposed else -1
        self.transposed_size += padded_length(k) * padded_length(n) if needs_transposed else 0
        column = np.arange(k) if order is None else order
        row = np.arange(n)[:, None]
        index = row * padded_length(k) + column if row_major_out else column * padded_length(n) + row
        self.param_indices += [weight + index, bias + np.arange(n)]
        layer = {
            LAYER_KIND: DENSE,
            SOURCE_BUFFER: source,
            INPUTS: k,
            OUTPUTS: n,
            WEIGHT: weight,
            BIAS: bias,
            TRANSPOSED: transposed,
            ROW_MAJOR_OUT: row_major_out,
            ACTIVATION: activation,
        }
        return self._add_layer(layer, padded_length(n))

    def add_convolution(self, rows: int, side: int, depth: int, activation: int) -> tuple[int, Array]:
        """Add 16 filters of 3 x 3 over boards [rows, side, depth]; return the buffer and the order of its outputs.

        Its parameters are weight [16, depth, 3, 3] and bias [16]. A framework flattens its outputs from
        [16, rows - 2, side - 2]; here they are [rows - 2, side - 2, 16], and the order says where each has gone.
        """
        weight, bias = self._allocate(9 * depth * FILTERS), self._allocate(FILTERS)
        f, c, dy, dx = np.indices((FILTERS, depth, 3, 3)).reshape(4, -1)
        # Columns of a filter lie from right to left, because the positions whose windows contain an input lie from left
        # to right: the weights of three neighbouring positions are then one stretch of memory.
        self.param_indices += [weight + ((c * 3 + dy) * 3 + 2 - dx) * FILTERS + f, bias + np.arange(FILTERS)]
        positions = (rows - 2) * (side - 2)
        f, position = np.indices((FILTERS, positions)).reshape(2, -1)
        layer = {
            LAYER_KIND: CONVOLUTION,
            SOURCE_BUFFER: 0,
            INPUTS: self.inputs,
            OUTPUTS: FILTERS * positions,
            WEIGHT: weight,
            BIAS: bias,
            TRANSPOSED: -1,
            ACTIVATION: activation,
            OUT_WIDTH: side - 2,
        }
        self.conv_index = _conv_index(rows, side, depth)
        return self._add_layer(layer, FILTERS * positions), position * FILTERS + f

    def add_vector(self, n: int) -> int:
        """Add a parameter [n] that belongs to no layer; return its offset in the array of parameters."""
        offset = self._allocate(padded_length(n))
        self.param_indices.append(offset + np.arange(n))
        return offset

    def _allocate(self, floats: int) -> int:
        """Reserve so many parameters; return the offset of the first one."""
        offset = self.size
        self.size += floats
        return offset

    def _outputs(self, buffer: int) -> int:
        """Return how many outputs the layer has that writes this buffer."""
        return next(layer[OUTPUTS] for layer in self.layers if layer[TARGET_BUFFER] == buffer)

    def _add_layer(self, layer: dict[int, int], width: int) -> int:
        """Append a layer with a new buffer, whose rows have `width` numbers; return the buffer.

        `layer` has the numbers by the columns of `Network.layers`; those that are left out are 0.
        """
        buffer = len(self.strides)
        layer = {**layer, TARGET_BUFFER: buffer}
        self.layers.append([layer.get(column, 0) for column in range(LAYER_COLUMNS)])
        self.strides.append(row_stride(width))
        return buffer

    @property
    def begins_with_convolution(self) -> bool:
        """Return whether the first layer is a convolution, whose inputs are always sparse."""
        return self.layers[0][LAYER_KIND] == CONVOLUTION


def _conv_index(rows: int, side: int, depth: int) -> Array:
    """Return the table `conv_index`, int64 [inputs, 4], of the inputs of boards [rows, side, depth]."""
    row, column, channel = np.indices((rows, side, depth)).reshape(3, -1)
    # The filter at output position (y, x) covers the board's rows y to y + 2 and columns x to x + 2. So the input at
    # (row, column) has the weight (dy, dx) of the filter at position (row - dy, column - dx). Here are the first dy and
    # dx, and the ends of their ranges (exclusive), for which that position is one of the outputs.
    top, bottom = np.maximum(0, row - rows + 3), np.minimum(3, row + 1)
    left, right = np.maximum(0, column - side + 3), np.minimum(3, column + 1)
    position = (row - top) * (side - 2) + column - right + 1  # in the last row of the window, its first one
    weight = (channel * 3 + top) * 3 + 3 - right
    return np.stack([4 * FILTERS * position, 4 * FILTERS * weight, bottom - top, right - left], axis=1).astype(np.int64)


class NetworkMemory:
    """The memory of a network: parameters, gradients and, for each thread, transposed weights and space for one tile.

    Public arrays: `weights`, float32 [size]. `grads`, float32 [shards, size]: the gradient is the sum of the shards.
    `tables`, int64 [threads, NUM_ADDRESSES]: a row for each thread; the caller fills in the addresses of functions.
    `layers` and `buffer_layout`, int64 [buffers, 2], the offset and stride of each buffer in floats, are for compiled
    code.

    To copy the framework's tensors, in its order: `param_index` is the index in `weights` of each element, int64;
    tensor i is param_index[param_bounds[i]:param_bounds[i + 1]], and has param_rows[i] rows.
    """

    def __init__(self, spec: NetworkSpec, threads: int = 1, shards: int = 1) -> None:
        self.spec = spec
        self.layers = np.array(spec.layers, np.int64)
        for index, layer in enumerate(self.layers):  # backwards, the last reader of a buffer is the first to write
            layer[ADD_TO_SOURCE_GRAD] = layer[SOURCE_BUFFER] in self.layers[index + 1 :, SOURCE_BUFFER]
        offsets = np.concatenate([[0], np.cumsum([TILE * stride for stride in spec.strides])])
        self.buffer_layout = np.stack([offsets[:-1], np.array(spec.strides)], axis=1).astype(np.int64)
        self.weights, self.grads = aligned_zeros(spec.size), aligned_zeros(spec.size, shards)
        self._zeros = aligned_zeros(max(spec.strides))  # what a gradient is before the first layer adds to it
        # Each thread transposes all weights: that is faster than to read from another core's cache what it has
        # transposed.
        self._transposed = aligned_zeros(spec.transposed_size, threads)
        self._activations, self._activation_grads = (aligned_zeros(int(offsets[-1]), threads) for _ in range(2))
        capacity = TILE * spec.inputs + 1  # of the lists of a tile's numbers that are not zero
        self._nonzero_starts = np.zeros((threads, TILE, 2), np.int64)
        self._nonzero_indices = np.zeros((threads, capacity), np.int32)
        self._nonzero_values = aligned_zeros(capacity, threads)
        self.tables = np.zeros((threads, NUM_ADDRESSES), np.int64)
        self._write_addresses()
        self.param_index = np.concatenate([p.ravel() for p in spec.param_indices]).astype(np.int64)
        self.param_bounds = np.cumsum([0, *(p.size for p in spec.param_indices)]).astype(np.int64)
        self.param_rows = np.array([len(p) if p.ndim == 2 else 1 for p in spec.param_indices])

    def _write_addresses(self) -> None:
        """Write the addresses of all arrays to `tables`."""
        shared = {
            AT_LAYERS: self.layers,
            AT_BUFFER_LAYOUT: self.buffer_layout,
            AT_WEIGHTS: self.weights,
            AT_PARAM_GRADS: self.grads,
            AT_ZEROS: self._zeros,
            AT_CONV_INDEX: self.spec.conv_index,
        }
        of_each_thread = {
            AT_TRANSPOSED_WEIGHTS: self._transposed,
            AT_ACTIVATIONS: self._activations,
            AT_ACTIVATION_GRADS: self._activation_grads,
            AT_NONZERO_STARTS: self._nonzero_starts,
            AT_NONZERO_INDICES: self._nonzero_indices,
            AT_NONZERO_VALUES: self._nonzero_values,
        }
        for rank, table in enumerate(self.tables):
            table[AT_NUM_LAYERS], table[AT_STOP_FLAG] = len(self.layers), flag_address()
            for column, array in shared.items():
                table[column] = array.ctypes.data
            for column, array in of_each_thread.items():
                table[column] = array[rank].ctypes.data


def aligned_zeros(floats: int, rows: int | None = None) -> Array:
    """Return float32 zeros [floats] or [rows, floats], each row at the beginning of a cache line (64 bytes)."""
    row_size = padded_length(floats)
    unaligned = np.zeros(row_size * (rows or 1) + 16, np.float32)
    skip = (-unaligned.ctypes.data % 64) // 4
    array = unaligned[skip : skip + row_size * (rows or 1)]
    return array[:floats] if rows is None else array.reshape(rows, row_size)[:, :floats]
