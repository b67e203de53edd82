"""This module makes the `View` of a batch, the NamedTuple of settings and arrays that the loops in templates use.

`compiled_view` returns an intrinsic that builds it from the address of the header, in machine code. `plain_view` builds
it from the arrays, for loops that run as plain Python. Neither copies an array.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rl_lab.core.record import PlainArray
from rl_lab.engine.buffers import (
    BUFFERS,
    HEADER_SETTINGS,
    HEADER_SLOTS,
    NUM_ENVS,
    NUM_PARAMS,
    RESHAPED_BUFFERS,
    BatchBuffers,
    Layout,
    View,
)

if TYPE_CHECKING:
    from rl_lab.core.world import World


def compiled_view(world: World) -> Any:
    """Return the intrinsic `batch_view(header)`: the View of the batch whose header lies at this address.

    Positions, dtypes and the shape of a row are constants in it; the number of worlds is read from the header.
    """
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic
    from numba.np import arrayobj

    layout = Layout.of(world)
    specs = [BUFFERS[name] for name in HEADER_SLOTS] + [spec for _, spec in RESHAPED_BUFFERS.values()]
    slots = [*HEADER_SLOTS.values(), *(HEADER_SLOTS[source] for source, _ in RESHAPED_BUFFERS.values())]
    array_types = [_array_type(layout.dtype(spec), 1 + len(layout.shape(spec))) for spec in specs]
    view_type = types.NamedTuple([types.intp] * len(HEADER_SETTINGS) + array_types, View)

    @intrinsic  # type: ignore[untyped-decorator]
    def batch_view(context: Any, header: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            word = context.get_value_type(types.intp)
            header = builder.inttoptr(arguments[0], word.as_pointer())

            def read(slot: int) -> Any:
                return builder.load(builder.gep(header, [word(slot)]))

            counts = {"N": read(NUM_ENVS), "P": read(NUM_PARAMS)}
            parts = [read(slot) for slot in HEADER_SETTINGS.values()]
            for slot, spec, array_type in zip(slots, specs, array_types, strict=True):
                itemsize, sizes = layout.dtype(spec).itemsize, layout.shape(spec)
                strides = [itemsize * int(np.prod(sizes[axis:])) for axis in range(1 + len(sizes))]
                array = arrayobj.make_array(array_type)(context, builder)
                arrayobj.populate_array(
                    array,
                    data=builder.inttoptr(read(slot), array.data.type),
                    shape=cgutils.pack_array(builder, [counts[spec.shape[0]], *map(word, sizes)], ty=word),
                    strides=cgutils.pack_array(builder, [word(stride) for stride in strides], ty=word),
                    itemsize=word(itemsize),
                    meminfo=None,
                )
                parts.append(array._getvalue())
            return context.make_tuple(builder, signature.return_type, parts)

        return view_type(types.intp), code

    return batch_view


def _array_type(dtype: np.dtype[Any], axes: int) -> Any:
    from numba import from_dtype, types

    # The loops calculate with flags and write numbers to them, so they see bytes of 0 or 1 instead of booleans.
    return types.Array(from_dtype(np.dtype(np.uint8) if dtype == np.bool_ else dtype), axes, "C")


def plain_view(batch: BatchBuffers, settings: dict[str, int]) -> Any:
    """Return the View that plain loops use: records and rows that read as Python numbers."""
    arrays = {name: getattr(batch, name) for name in HEADER_SLOTS}
    arrays_by_field = dict(arrays)
    for name, (source, spec) in RESHAPED_BUFFERS.items():
        array = arrays[source] if spec.dtype == "observation" else arrays[source].view(spec.dtype)
        arrays_by_field[name] = array.reshape(*arrays[source].shape[: len(spec.shape) - 1], -1)
    return View(**settings, **{name: PlainArray(array) for name, array in arrays_by_field.items()})
