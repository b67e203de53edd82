"""This module tells the two orders of the axes of images and boards apart."""

from __future__ import annotations

from collections.abc import Sequence


def has_channels_first(shape: Sequence[int]) -> bool:
    """Return whether a shape of three axes is [C, H, W], as torch has it, and not [H, W, C], as most worlds have it.

    A Box does not say which of its axes has the channels. The assumption is that an image or board has no more channels
    than rows and columns, so the first axis has them if it is shorter than the last one. Of a board with more channels
    than that, for example [4, 4, 6], the channels are taken for columns.
    """
    first, _, last = shape
    return first < last
