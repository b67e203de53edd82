"""This module calls the `draw` of a world, which is code of the world's author, on any canvas.

It ends a `draw` that does not return, and names the line of one that raises an exception.
"""

from __future__ import annotations

from typing import Any

from rl_lab.core.canvas import Canvas
from rl_lab.core.errors import one_line
from rl_lab.core.interrupts import is_interruption
from rl_lab.core.record import PlainRecord
from rl_lab.core.time_limit import TimeIsUp, TimeLimit
from rl_lab.core.world import World, WorldError
from rl_lab.engine.diagnostics import author_location, message_with_hint

MAX_SECONDS = 5.0  # for one picture: a loop that never ends would stop the command for ever


def draw(world: World, state: Any, params: Any, canvas: Canvas) -> None:
    """Call a world's `draw` with the records of a state and of parameters.

    Raises:
        WorldError: it raised an exception, or did not return within 5 s; the message has file and line.
    """
    assert world.draw is not None
    limit = TimeLimit(MAX_SECONDS)
    try:
        with limit:
            world.draw(PlainRecord(state), PlainRecord(params), canvas)
    except BaseException as error:
        is_endless = limit.raised(error)
        if is_interruption(error) or (isinstance(error, TimeIsUp) and not is_endless):
            raise  # TimeIsUp: of a block around this one
        location = author_location(error, {getattr(world.draw, "__code__", draw.__code__).co_filename})
        failure = f"did not return within {MAX_SECONDS:g} s" if is_endless else f"raised {message_with_hint(error)}"
        raise WorldError(one_line(f"{location}{world.name}'s draw {failure}")) from error
