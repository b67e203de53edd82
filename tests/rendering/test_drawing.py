"""These tests check that a world's `draw` that fails, or never returns, is an error that names the line."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from rl_lab.core.time_limit import TimeIsUp
from rl_lab.core.world import WorldError
from rl_lab.engine.batch import Batch
from rl_lab.engine.world_registry import load
from rl_lab.rendering import drawing, render
from rl_lab.rendering.json_canvas import JsonCanvas


def loops(s: Any, p: Any, canvas: Any) -> None:
    while True:
        pass


def draws_without_end(s: Any, p: Any, canvas: Any) -> None:
    for k in itertools.count():
        canvas.circle(k, 0, 1, (0, 0, 0))


def calls_what_loops(s: Any, p: Any, canvas: Any) -> None:
    loops(s, p, canvas)


def catches_once(s: Any, p: Any, canvas: Any) -> None:
    try:
        loops(s, p, canvas)
    except BaseException:
        loops(s, p, canvas)


def raises(s: Any, p: Any, canvas: Any) -> None:
    canvas.circle(s.nowhere, 0, 1, (0, 0, 0))


ENDLESS = (loops, draws_without_end, calls_what_loops, catches_once)


def expect_draw_error(function: Callable[..., None], how: str) -> str:
    """Draw a world with a function, as a picture or as shapes, and return the error's message."""
    world = dataclasses.replace(load("catch"), draw=function)
    batch = Batch(world, 1, plain=True)
    batch.reset()
    with pytest.raises(WorldError) as caught:
        if how == "picture":
            render.picture(batch, 0)
        else:
            drawing.draw(world, batch.states[0], batch.params[0], JsonCanvas())
    return str(caught.value)


@pytest.mark.parametrize("how", ["picture", "shapes"])
@pytest.mark.parametrize("function", ENDLESS, ids=lambda function: function.__name__)
def test_a_draw_that_never_returns_is_ended(
    function: Callable[..., None], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "MAX_SECONDS", 0.2)
    began = time.process_time()  # the loop takes processor time, of which other work on the machine takes none
    message = expect_draw_error(function, how)
    assert message.startswith(f"{__file__}:") and message.endswith("catch's draw did not return within 0.2 s")
    assert time.process_time() - began < 5


def test_what_comes_after_a_draw_that_was_ended_is_not_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "MAX_SECONDS", 0.05)
    expect_draw_error(loops, "shapes")
    until = time.monotonic() + 1.5
    try:
        while time.monotonic() < until:
            pass
    except TimeIsUp:
        pytest.fail("the time limit of the draw ended what came after it")


def test_a_draw_that_raises_is_told_with_its_line() -> None:
    line = raises.__code__.co_firstlineno + 1
    assert expect_draw_error(raises, "shapes").startswith(
        f"{__file__}:{line} raises: catch's draw raised AttributeError: "
    )
