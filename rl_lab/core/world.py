"""This module has everything that a world file imports: `World`, record field types, kernels and spaces."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from rl_lab.core.agent_spaces import action_dtype_of, join_spaces, mask_size_of, roles_of
from rl_lab.core.canvas import Canvas
from rl_lab.core.kernel import is_kernel, kernel, loop_limited_copy, source_location
from rl_lab.core.levels import Levels
from rl_lab.core.record import Record, WorldState, bounded, f4, f8, i1, i2, i4, i8, u1, u2, u4, u8
from rl_lab.core.symmetry import Symmetry
from rl_lab.core.world_errors import WorldError

Array = np.ndarray[Any, Any]

__all__ = [
    "Array",
    "Box",
    "Canvas",
    "Discrete",
    "Levels",
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


@dataclass(frozen=True, eq=False)
class World:
    """The definition of a world: records, scalar kernels for one world, and spaces; `engine.Batch` steps N of them.

    Kernels, all marked `@kernel`, where s is a State record and p a Params record:
        reset(s, p)                  sets s, whose fields are zero except for the random stream
        step(s, action, p)           -> (reward, terminated); action is an int, or f4 [k] for a Box
        observe(s, p, out)           fills out, the zeroed observation
        action_mask(s, p, mask)      optional: sets mask, a zeroed u1 [actions], to 1 for legal actions
        expert(s, p) -> int          optional; for a Box, expert(s, p, action) fills action f4 [k]
        novice                       optional: a weaker expert, for tests that a tournament ranks the expert higher
    With several `agents`, which are numbered in the order of their names:
        step(s, actions, p, rewards) -> terminated; actions int [A] or f4 [A, k], rewards a zeroed f4 [A]
        observe(s, agent, p, out), action_mask(s, agent, p, mask), expert(s, agent, p), expert(s, agent, p, action)
        rotate_seats(s, p)           optional, where the rules are the same for all agents: moves each agent's part of
                                     the state to the next (that of agent a to agent (a + 1) % A)

    Fields:
        observation, action: a space, or a tuple with one space per agent. Vectors are padded with zeros to the longest
            one, and Discrete spaces to the largest one.
        horizon: the step at which the engine truncates an episode; 0 for never.
        draw: `draw(s, p, canvas)`, ordinary Python.
        current_player_field: the State field that holds the number of the agent to move. Then step uses that agent's
            action alone, but sets the rewards of all.
        alive_field: a State field u1 [A], 1 for agents that are still in the episode. The others neither act nor
            learn.
        zero_sum: True if the rewards of a step always add up to 0.
        perfect_information: True if agents may know the whole state; None lets search find out whether resets hide
            anything.
        illegal_action_reward: the reward of an agent whose illegal action ends the episode, in a batch with
            `illegal="forfeit"`.
        reward_threshold: the mean return that counts as a solution; None if there is no such return.
        symmetries: ways to permute observations and actions under which the world behaves alike, for pretraining.
        levels: what its levels look like, where Params can hold levels to play in; see `Levels`.

    A State may have a field `log`, a Record of f8 fields: the engine sums it over finished episodes.

    Raises:
        WorldError: a kernel is missing or not marked, has the wrong parameters, a space is not supported, or a field
            is missing or out of range.
    """

    State: type[WorldState]
    Params: type[Record]
    reset: Callable[..., Any]
    step: Callable[..., Any]
    observe: Callable[..., Any]
    observation: Box  # also accepts a tuple of one space per agent; __post_init__ replaces it by the joint space
    action: Discrete[Any] | Box  # likewise
    horizon: int = 0
    action_mask: Callable[..., Any] | None = None
    expert: Callable[..., Any] | None = None
    novice: Callable[..., Any] | None = None
    rotate_seats: Callable[..., Any] | None = None
    draw: Callable[..., Any] | None = None
    agents: tuple[str, ...] = ("agent",)
    current_player_field: str = ""
    alive_field: str = ""
    zero_sum: bool = False
    perfect_information: bool | None = None
    illegal_action_reward: float = -1.0
    frames_per_second: int = 30
    reward_threshold: float | None = None
    symmetries: tuple[Symmetry, ...] = ()
    levels: Levels | None = None

    def __post_init__(self) -> None:
        location = source_location(self.step)
        self._check_numbers(location)
        self._set_spaces(location)
        self._check_kernels()
        self._check_records(location)
        self._check_agents(location)
        for symmetry in self.symmetries:
            symmetry.check(location, self.observation, self.action)
        if self.levels is not None:
            self.levels.check(location, self.Params.dtype)

    def _set_spaces(self, location: str) -> None:
        """Store each agent's spaces, and set `observation` and `action` to the spaces that hold those of all agents."""
        for name in ("observation", "action"):
            declared = getattr(self, name)
            declared = getattr(declared, "of_agents", declared)  # dataclasses.replace passes the joined space
            spaces = tuple(declared) if isinstance(declared, tuple | list) else (declared,) * len(self.agents)
            if len(spaces) != len(self.agents):
                raise WorldError(f"{location}: {name} has {len(spaces)} spaces for {len(self.agents)} agents")
            object.__setattr__(self, f"_{name}_spaces", spaces)
            joined = join_spaces(name, spaces, location)
            if any(space != joined for space in spaces):
                joined.of_agents = spaces
            object.__setattr__(self, name, joined)

    def _check_kernels(self) -> None:
        """Raise WorldError for a kernel that is missing, not marked or has another number of parameters."""
        several = len(self.agents) > 1
        agent = "agent, " * several
        action = "actions" if several and not self.current_player_field else "action"
        expert = f"s, {agent}p" + ", action" * (not isinstance(self.action, Discrete))
        signatures = {
            "reset": "s, p",
            "step": f"s, {action}, p" + ", rewards" * several,
            "observe": f"s, {agent}p, out",
            "action_mask": f"s, {agent}p, mask",
            "rotate_seats": "s, p",
            "expert": expert,
            "novice": expert,
        }
        for name, signature in signatures.items():
            function = getattr(self, name)
            if function is None and name not in ("reset", "step", "observe"):
                continue
            if not is_kernel(function):
                raise WorldError(f"{source_location(function)}: {name} must be a function decorated with @kernel")
            count = signature.count(",") + 1
            if len(inspect.signature(function).parameters) != count:
                raise WorldError(f"{source_location(function)}: {name} takes {count} parameters, {name}({signature})")

    def _check_records(self, location: str) -> None:
        """Raise WorldError for a State, Params or log that the engine cannot use."""
        if not issubclass(self.State, WorldState):
            raise WorldError(f"{location}: State must derive from WorldState")
        if missing := set(self.Params.dtype.names or ()) - set(self.Params.defaults):
            raise WorldError(f"{location}: Params.{min(missing)} needs a default")
        fields = dict(self.State.dtype.fields or {})
        log = fields["log"][0] if "log" in fields else np.dtype([])
        if any(log[name] != np.float64 for name in log.names or ()):
            raise WorldError(f"{location}: every field of the log is f8")

    def _check_agents(self, location: str) -> None:
        """Raise WorldError for agents of equal names, or State fields that do not fit them."""
        fields = dict(self.State.dtype.fields or {})
        if len(set(self.agents)) != len(self.agents) or not self.agents:
            raise WorldError(f"{location}: agents must have distinct names, got {self.agents}")
        if len(self.agents) == 1 and (self.current_player_field or self.alive_field or self.rotate_seats):
            raise WorldError(
                f"{location}: current_player_field, alive_field and rotate_seats are for worlds of several agents"
            )
        if self.current_player_field and (
            self.current_player_field not in fields or fields[self.current_player_field][0].kind not in "iu"
        ):
            raise WorldError(
                f"{location}: current_player_field={self.current_player_field!r} must name an integer "
                "field of State; give it bounded(...)"
            )
        if self.current_player_field and self.current_player_field not in self.State.ranges:
            raise WorldError(
                f"{location}: State.{self.current_player_field} needs bounded(0, low=0, high={len(self.agents) - 1})"
            )
        if self.alive_field and (
            self.alive_field not in fields or fields[self.alive_field][0] != np.dtype(("u1", len(self.agents)))
        ):
            raise WorldError(
                f"{location}: alive_field={self.alive_field!r} must name a field u1[{len(self.agents)}] of State"
            )
        if not isinstance(self.action, Discrete) and (self.action_mask or self.current_player_field):
            raise WorldError(f"{location}: worlds with action_mask or current_player_field need Discrete actions")

    def _check_numbers(self, location: str) -> None:
        """Raise WorldError for a number that does not fit compiled code, a video or a table."""
        limits: tuple[tuple[str, float, float, tuple[Any, ...]], ...] = (
            ("horizon", 0, 2**31 - 1, (int, np.integer)),
            ("frames_per_second", 1, 1000, (int, np.integer)),
            ("illegal_action_reward", -1e9, 1e9, (int, float, np.number)),
            ("reward_threshold", -1e30, 1e30, (int, float, np.number)),
        )
        for name, low, high, kinds in limits:
            value: Any = getattr(self, name)
            if value is None and name == "reward_threshold":
                continue
            is_number = isinstance(value, kinds) and not isinstance(value, bool)
            if not is_number or not low <= value <= high:
                kind = "a number" if float in kinds else "a whole number"
                raise WorldError(f"{location}: {name} is {value!r:.40}; expected {kind}, {low:g} to {high:g}")

    def __deepcopy__(self, memo: dict[int, Any]) -> World:
        """Return the world itself: it is immutable, and compiled code is cached by its identity."""
        return self

    @property
    def name(self) -> str:
        """Return the world's name, which is its file's."""
        return self.step.__module__.rpartition(".")[2]

    @property
    def doc(self) -> str:
        """Return the file's docstring."""
        return inspect.cleandoc(sys.modules[self.step.__module__].__doc__ or "")

    @property
    def observation_spaces(self) -> tuple[Box, ...]:
        """Return each agent's own observation space, before padding."""
        return self._observation_spaces  # type: ignore[attr-defined,no-any-return]

    @property
    def action_spaces(self) -> tuple[Discrete[Any] | Box, ...]:
        """Return each agent's own action space, before padding."""
        return self._action_spaces  # type: ignore[attr-defined,no-any-return]

    @property
    def roles(self) -> dict[str, tuple[int, ...]]:
        """Return agents' indices by their names without a final number: predator_0 and predator_1 have one role."""
        return roles_of(self.agents)

    @property
    def is_multi_agent(self) -> bool:
        """Return True if the world has several agents; then an agent may be idle in a step."""
        return len(self.agents) > 1

    @property
    def has_action_mask(self) -> bool:
        """Return True if actions can be illegal: there is an `action_mask`, or agents' numbers of actions differ."""
        counts = {space.n for space in self.action_spaces if isinstance(space, Discrete)}
        return self.action_mask is not None or len(counts) > 1

    @property
    def mask_size(self) -> int:
        """Return the length of an agent's row in the engine's `action_mask` buffer."""
        return mask_size_of(self.action, self.has_action_mask)

    @property
    def action_dtype(self) -> np.dtype[Any]:
        """Return the dtype of the engine's action buffer: int64, or float32 for a Box."""
        return action_dtype_of(self.action)

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Return the shape of one agent's action."""
        return self.action.shape or ()

    @property
    def log_names(self) -> tuple[str, ...]:
        """Return the field names of the State's log record, () without one."""
        names = self.State.dtype.names or ()
        return (self.State.dtype["log"].names or ()) if "log" in names else ()


@cache
def with_loop_limit(world: World) -> World:
    """Return the world with plain-Python kernels in which an endless `while` loop raises LoopError."""
    all_copies: dict[Any, Any] = {}
    names = ("reset", "step", "observe", "action_mask", "expert", "novice", "rotate_seats")
    kernels = {name: getattr(world, name) for name in names}
    copies = {name: loop_limited_copy(k, all_copies) for name, k in kernels.items() if k is not None}
    return (
        replace(world, **copies)
        if any(compiled_copy is not kernels[name] for name, compiled_copy in copies.items())
        else world
    )
