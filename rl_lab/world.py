"""What a world file declares: its records, its kernels and its spaces. Everything an author imports is here."""

from __future__ import annotations

import inspect
import re
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
        legal(s, p, mask)            optional: sets mask, a zeroed u1 [actions], to 1 where an action may be taken
        expert(s, p) -> int          optional; for a Box expert(s, p, action) fills action f4 [k]
        novice                       optional: a weaker expert, to be told from it by a tournament
    With several `agents`, who are numbered in this order:
        step(s, actions, p, rewards) -> terminated; actions int [A] or f4 [A, k], rewards a zeroed f4 [A]
        observe(s, agent, p, out), legal(s, agent, p, mask), expert(s, agent, p), expert(s, agent, p, action)
        swap(s, p)                   optional, where the rules do not tell agents apart: hands every seat to the next
                                     agent (seat a's part goes to (a + 1) % A)
    `turns` names the State field that says whose move it is: step then takes that agent's action alone, and `rewards`
    still pays all. `present` names a State field u1 [A], 1 for agents that are still in the episode; one that is not
    neither acts nor learns. `observation` and `action` may be a tuple, one space an agent: vectors are padded with
    zeros to the longest, and Discrete spaces to the largest.
    `draw(s, p, canvas)` is ordinary Python. `horizon` is the step at which the engine truncates (0: never). A State
    with a field `log`, a Record of f8 fields, has them summed over finished episodes. `zero_sum` promises that rewards
    add up to 0; `perfect_information` says whether agents may know the whole state (None: search looks whether resets
    hide anything); `forfeit` is what an illegal action costs where a batch counts it as a loss.

    Raises WorldError for a missing or unmarked kernel, wrong parameters, an unsupported space or a missing field.
    """

    State: type[WorldState]
    Params: type[Record]
    reset: Callable[..., Any]
    step: Callable[..., Any]
    observe: Callable[..., Any]
    observation: Box
    action: Discrete[Any] | Box
    horizon: int = 0
    legal: Callable[..., Any] | None = None
    expert: Callable[..., Any] | None = None
    novice: Callable[..., Any] | None = None
    swap: Callable[..., Any] | None = None
    draw: Callable[..., Any] | None = None
    agents: tuple[str, ...] = ("agent",)
    turns: str = ""
    present: str = ""
    zero_sum: bool = False
    perfect_information: bool | None = None
    forfeit: float = -1.0
    frames_per_second: int = 30
    solved: float | None = None

    def __post_init__(self) -> None:
        several, here = len(self.agents) > 1, where(self.step)
        for name in ("observation", "action"):
            given = getattr(self, name)
            given = getattr(given, "of_agents", given)  # dataclasses.replace hands back the joined space
            spaces = tuple(given) if isinstance(given, tuple | list) else (given,) * len(self.agents)
            if len(spaces) != len(self.agents):
                raise WorldError(f"{here}: {name} has {len(spaces)} spaces for {len(self.agents)} agents")
            object.__setattr__(self, f"_{name}_spaces", spaces)
            joined = _joined(name, spaces, here)
            if any(space != joined for space in spaces):
                joined.of_agents = spaces
            object.__setattr__(self, name, joined)
        discrete = isinstance(self.action, Discrete)
        wanted = {"reset": 2, "step": 3 + several, "observe": 3 + several, "legal": 3 + several, "swap": 2}
        wanted |= dict.fromkeys(("expert", "novice"), (2 if discrete else 3) + several)
        for name, parameters in wanted.items():
            function = getattr(self, name)
            if function is None and name not in ("reset", "step", "observe"):
                continue
            if not is_kernel(function):
                raise WorldError(f"{where(function)}: {name} must be a function decorated with @kernel")
            if len(inspect.signature(function).parameters) != parameters:
                raise WorldError(f"{where(function)}: {name} takes {parameters} parameters, see World's docstring")
        if not issubclass(self.State, WorldState):
            raise WorldError(f"{here}: State must derive from WorldState")
        if missing := set(self.Params.dtype.names or ()) - set(self.Params.defaults):
            raise WorldError(f"{here}: Params.{min(missing)} needs a default")
        fields = dict(self.State.dtype.fields or {})
        log = fields["log"][0] if "log" in fields else np.dtype([])
        if any(log[name] != np.float64 for name in log.names or ()):
            raise WorldError(f"{here}: every field of the log is f8")
        if len(set(self.agents)) != len(self.agents) or not self.agents:
            raise WorldError(f"{here}: agents need names of their own, got {self.agents}")
        if not several and (self.turns or self.present or self.swap):
            raise WorldError(f"{here}: turns, present and swap are for worlds of several agents")
        if self.turns and (self.turns not in fields or fields[self.turns][0].kind not in "iu"):
            raise WorldError(f"{here}: turns={self.turns!r} must name an integer field of State; give it bounded(...)")
        if self.turns and self.turns not in self.State.ranges:
            raise WorldError(f"{here}: State.{self.turns} needs bounded(0, low=0, high={len(self.agents) - 1})")
        if self.present and (
            self.present not in fields or fields[self.present][0] != np.dtype(("u1", len(self.agents)))
        ):
            raise WorldError(f"{here}: present={self.present!r} must name a field u1[{len(self.agents)}] of State")
        if not discrete and (self.legal or self.turns):
            raise WorldError(f"{here}: worlds with legal or turns need Discrete actions")

    @property
    def name(self) -> str:
        """The file's name, which is the world's."""
        return self.step.__module__.rpartition(".")[2]

    @property
    def doc(self) -> str:
        """The file's docstring."""
        return inspect.cleandoc(sys.modules[self.step.__module__].__doc__ or "")

    @property
    def observation_spaces(self) -> tuple[Box, ...]:
        """Each agent's own, before padding."""
        return self._observation_spaces  # type: ignore[attr-defined,no-any-return]

    @property
    def action_spaces(self) -> tuple[Discrete[Any] | Box, ...]:
        """Each agent's own, before padding."""
        return self._action_spaces  # type: ignore[attr-defined,no-any-return]

    @property
    def roles(self) -> dict[str, tuple[int, ...]]:
        """Agents by their names without a number at the end: predator_0 and predator_1 are predators."""
        return roles_of(self.agents)

    @property
    def waiting(self) -> bool:
        """Whether agents can be there without acting: others move, or they have left."""
        return len(self.agents) > 1

    @property
    def masked(self) -> bool:
        """Whether actions can be illegal: where the author says so, or where agents have different numbers of them."""
        counts = {space.n for space in self.action_spaces if isinstance(space, Discrete)}
        return self.legal is not None or len(counts) > 1

    @property
    def mask_size(self) -> int:
        """Length of an agent's row in the engine's `legal` buffer."""
        return int(self.action.n) if self.masked and isinstance(self.action, Discrete) else 1

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


def roles_of(agents: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Return agents' positions by what their names are without a number at the end."""
    found: dict[str, tuple[int, ...]] = {}
    for index, agent in enumerate(agents):
        role = re.sub(r"_\d+$", "", agent)
        found[role] = (*found.get(role, ()), index)
    return found


def _joined(name: str, spaces: tuple[Any, ...], here: str) -> Any:
    """Return the space that holds every agent's."""
    first = spaces[0]
    if name == "action" and all(isinstance(space, Discrete) for space in spaces):
        if any(space.start != 0 for space in spaces):
            raise WorldError(f"{here}: a Discrete action space starts at 0")
        return Discrete(max(space.n for space in spaces))
    if not all(isinstance(space, Box) and space.dtype == first.dtype for space in spaces):
        raise WorldError(
            f"{here}: {name} must be a Box{' or a Discrete' * (name == 'action')}, of one kind for all agents"
        )
    if name == "action" and any(space.dtype != np.float32 or len(space.shape) != 1 for space in spaces):
        raise WorldError(f"{here}: a Box action space is float32 of shape [k]")
    if all(space == first for space in spaces):
        return first
    if any(len(space.shape) != 1 for space in spaces):
        raise WorldError(f"{here}: only vectors can differ between agents in their {name}")
    longest = max(len(space.low) for space in spaces)
    padded = [[np.pad(side, (0, longest - len(side))) for side in (space.low, space.high)] for space in spaces]
    low, high = np.min([p[0] for p in padded], axis=0), np.max([p[1] for p in padded], axis=0)
    return Box(low, high, (longest,), first.dtype)
