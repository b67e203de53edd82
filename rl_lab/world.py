"""What a world file declares: its records, its kernels and its spaces. Everything an author imports is here."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from .canvas import Canvas
from .kernel import is_kernel, kernel, where
from .record import Record, WorldState, bounded, f4, f8, i1, i2, i4, i8, u1, u2, u4, u8

Array = np.ndarray[Any, Any]

__all__ = [
    "Array",
    "Box",
    "Canvas",
    "Discrete",
    "Record",
    "World",
    "WorldError",
    "WorldState",
    "bounded",
    "f4",
    "f8",
    "i1",
    "i2",
    "i4",
    "i8",
    "kernel",
    "u1",
    "u2",
    "u4",
    "u8",
]


class WorldError(TypeError):
    """A mistake in a world file; the message names the file, the line and the fix."""


@dataclass(frozen=True, eq=False)
class World:
    """A world as its author wrote it: scalars for one world; `engine.Batch` makes N of them.

    Kernels, all marked `@kernel`, s a State and p a Params record:
        reset(s, p)                  s arrives zeroed but for its random stream
        step(s, action, p)           -> (reward, terminated); action int, or f4 [k] for a Box
        observe(s, p, out)           out: this world's zeroed row of the observation buffer
        expert(s, p) -> int          optional; for a Box expert(s, p, action) fills action f4 [k]
    `draw(s, p, canvas)` is ordinary Python. `horizon` is the step at which the engine truncates (0: never). A State
    with a field `log`, a Record of f8 fields, has them summed over finished episodes.

    Raises WorldError for a missing or unmarked kernel, wrong parameters or an unsupported space.
    """

    State: type[WorldState]
    Params: type[Record]
    reset: Callable[..., Any]
    step: Callable[..., Any]
    observe: Callable[..., Any]
    observation: Box
    action: Discrete[Any] | Box
    horizon: int = 0
    expert: Callable[..., Any] | None = None
    draw: Callable[..., Any] | None = None
    agents: tuple[str, ...] = ("agent",)
    frames_per_second: int = 30
    solved: float | None = None

    def __post_init__(self) -> None:
        discrete = isinstance(self.action, Discrete)
        wanted = {"reset": 2, "step": 3, "observe": 3, "expert": 2 if discrete else 3}
        for name, parameters in wanted.items():
            function = getattr(self, name)
            if function is None and name == "expert":
                continue
            if not is_kernel(function):
                raise WorldError(f"{where(function)}: {name} must be a function decorated with @kernel")
            if len(inspect.signature(function).parameters) != parameters:
                raise WorldError(f"{where(function)}: {name} takes {parameters} parameters, see World's docstring")
        if not issubclass(self.State, WorldState):
            raise WorldError(f"{where(self.step)}: State must derive from WorldState")
        if missing := set(self.Params.dtype.names or ()) - set(self.Params.defaults):
            raise WorldError(f"{where(self.step)}: Params.{min(missing)} needs a default")
        if isinstance(self.action, Discrete) and self.action.start != 0:
            raise WorldError(f"{where(self.step)}: a Discrete action space starts at 0")
        if isinstance(self.action, Box) and (self.action.dtype != np.float32 or len(self.action.shape) != 1):
            raise WorldError(f"{where(self.step)}: a Box action space is float32 of shape [k]")
        log = self.State.dtype["log"] if "log" in (self.State.dtype.names or ()) else np.dtype([])
        if any(log[name] != np.float64 for name in log.names or ()):
            raise WorldError(f"{where(self.step)}: every field of the log is f8")
        if len(self.agents) != 1:
            raise WorldError(f"{where(self.step)}: worlds of more than one agent are not supported yet")

    @property
    def name(self) -> str:
        """The file's name, which is the world's."""
        return self.step.__module__.rpartition(".")[2]

    @property
    def doc(self) -> str:
        """The file's docstring."""
        return inspect.cleandoc(sys.modules[self.step.__module__].__doc__ or "")

    @property
    def action_dtype(self) -> np.dtype[Any]:
        """Of the engine's action buffer: int64, or float32 for a Box."""
        return np.dtype(np.int64) if isinstance(self.action, Discrete) else np.dtype(np.float32)

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Of one agent's action."""
        return self.action.shape or ()

    @property
    def log_names(self) -> tuple[str, ...]:
        """Fields of the State's log record, () without one."""
        names = self.State.dtype.names or ()
        return (self.State.dtype["log"].names or ()) if "log" in names else ()
