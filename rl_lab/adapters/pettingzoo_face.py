"""What PettingZoo's two faces have in common: one world in a batch, and its agents by name."""

from __future__ import annotations

import operator
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode

from .. import worlds
from ..batch import parameters
from ..engine import Batch
from ..world import Array, World
from .shown import RENDER_MODES, Shown, check_render_mode, engine_seed

# What an episode is beside the batch's snapshot: a copy of an environment goes on with the same.
_EPISODE = "agents agent_selection rewards terminations truncations infos _cumulative_rewards _skip_agent_selection"
_EPISODE += " _seats _turn _fresh"
# Where an agent's part of the batch's arrays is: its name and number, then indices of its observation and its mask.
Seat = tuple[str, int, Any, Any]


class Face(Shown):
    """What both faces are: a batch of one world, its agents by name, and every agent's own spaces.

    Args: `world` by name or as it is; further keyword arguments are its parameters. `max_cycles`: its horizon, counted
    in environment steps; of a world with turns, each is one agent's move. `illegal`: what becomes of an illegal action,
    see `engine.Batch`: "refuse" raises ValueError, "forfeit" ends the episode as PettingZoo's classic games do, "noop".

    Observations are each agent's own, without padding. Where actions can be illegal they are a dictionary of
    `observation` and `action_mask`, int8 [actions]; infos hold the mask, too. Only who acts next has legal actions.
    `reset(seed=s)` begins what a Batch with seed s begins; later resets without a seed go on with its random stream.
    """

    def __init__(
        self,
        world: str | World,
        render_mode: str | None = None,
        max_cycles: int | None = None,
        illegal: str = "refuse",
        **params: Any,
    ) -> None:
        check_render_mode(render_mode)
        self._arguments = (world, render_mode, max_cycles, illegal, params)
        made = worlds.load(world) if isinstance(world, str) else world
        made = made if max_cycles is None else _shortened(made, max_cycles)
        b = Batch(
            made,
            1,
            parameters(made, params),
            threads=1,
            autoreset=AutoresetMode.DISABLED,
            illegal=illegal,
        )
        self.batch, self.render_mode = b, render_mode
        self.metadata: dict[str, Any] = {"render_modes": RENDER_MODES, "render_fps": made.frames_per_second}
        self.metadata |= {"name": f"{made.name}_v0", "is_parallelizable": not made.turns}
        self.possible_agents, self.agents = list(made.agents), list[str]()
        self._index = {agent: a for a, agent in enumerate(made.agents)}
        # Of its own: a space has a generator, and whoever seeds one agent's must not seed another's.
        own = list(zip(made.agents, made.observation_spaces, made.action_spaces, strict=True))
        self.action_spaces: dict[str, Any] = {agent: deepcopy(space) for agent, _, space in own}
        self.observation_spaces: dict[str, Any] = {
            agent: _with_mask(deepcopy(seen), space) if made.masked else deepcopy(seen) for agent, seen, space in own
        }
        self._observations, self._actions = b.observations[0], b.actions[0]
        self._legal, self._paid, self._departed = b.legal[0].view(np.int8), b.rewards[0], b.departed[0]
        # Where in those arrays an agent's own part is: name, index, observation, mask.
        every = [_seat(made, a) for a in range(len(made.agents))]
        self._places = dict(zip(made.agents, every, strict=True))
        self._masked, self._leaving = made.masked, bool(made.present)
        self._mover = b.states[made.turns] if made.turns else None
        self._put = self._put_choice if isinstance(made.action, Discrete) else self._put_numbers
        self._seats: list[Seat] = []
        self._fresh = True

    def observation_space(self, agent: str) -> Any:
        """Return the agent's own space, always the same object."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Any:
        """Return the agent's own space, always the same object."""
        return self.action_spaces[agent]

    @cached_property
    def state_space(self) -> Box:
        """The space of `state()`."""
        spaces = self.batch.world.observation_spaces
        low, high = (np.concatenate([getattr(space, side).ravel() for space in spaces]) for side in ("low", "high"))
        return Box(low, high, low.shape, low.dtype)  # type: ignore[arg-type]

    def state(self) -> Array:
        """Return what all agents observe, one after the other, as one vector."""
        together: Array = np.concatenate([self._observations[own].ravel() for _, _, own, _ in self._places.values()])
        return together

    def _begin(self, seed: int | None) -> None:
        if seed is not None or self._fresh:
            fresh = int(np.random.SeedSequence().generate_state(1)[0])
            self.batch.seed(fresh if seed is None else engine_seed(seed))
        self._fresh = False
        self.batch.reset()
        self._seats = list(self._places.values())
        if self._leaving:
            here = self.batch.states[self.batch.world.present][0]
            self._seats = [seat for seat in self._seats if here[seat[1]]]
        self.agents = [seat[0] for seat in self._seats]
        if self.render_mode == "human":
            self.render()

    def _put_choice(self, agent: str, index: int, action: Any) -> None:
        try:
            self._actions[index] = operator.index(action)
        except (TypeError, OverflowError):
            raise ValueError(f"action {action!r} of {agent}: expected one in {self.action_spaces[agent]}") from None

    def _put_numbers(self, agent: str, index: int, action: Any) -> None:
        given, space = np.asarray(action), self.action_spaces[agent]
        if given.shape != space.shape or given.dtype.kind not in "fiu":
            raise ValueError(f"action of {agent}, shape {given.shape}, dtype {given.dtype}: expected one in {space}")
        self._actions[index, : space.shape[0]] = given

    def _infos(self) -> dict[str, dict[str, Any]]:
        if not self._masked:
            return {seat[0]: {} for seat in self._seats}
        legal = self._legal.copy()
        return {agent: {"action_mask": legal[mask]} for agent, _, _, mask in self._seats}

    def _rewards(self) -> dict[str, float]:
        paid = self._paid.tolist()
        return {seat[0]: paid[seat[1]] for seat in self._seats}

    def _left(self) -> bool:
        return self._leaving and bool(np.count_nonzero(self._departed))  # quicker than any()

    def _ends(self) -> tuple[dict[str, bool], dict[str, bool]]:
        """Return who is terminated and who truncated: who left is the former only, whatever the clock says."""
        over, late = bool(self.batch.terminated[0]), bool(self.batch.truncated[0])
        left = self._departed.tolist()
        terminated = {seat[0]: over or left[seat[1]] for seat in self._seats}
        return terminated, {seat[0]: late and not left[seat[1]] for seat in self._seats}

    def __reduce__(self) -> tuple[Any, ...]:
        # Arrays lie where compiled code finds them by address: a copy is made anew and put into the same episode.
        episode = {name: value for name, value in vars(self).items() if name in _EPISODE.split()}
        return _again, (type(self), self._arguments, self.batch.snapshot(), self._actions.copy(), episode)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        again, (kind, arguments, *rest) = self.__reduce__()
        return again(kind, arguments, *deepcopy(rest))


def _again(kind: Any, arguments: tuple[Any, ...], snapshot: dict[str, Array], actions: Array, episode: Any) -> Any:
    world, render_mode, max_cycles, illegal, params = arguments
    made = kind(world, render_mode, max_cycles, illegal, **params)
    made.batch.restore(snapshot)
    made.batch.actions[0] = actions
    vars(made).update(episode)
    return made


def _shortened(world: World, horizon: int) -> World:
    if not isinstance(horizon, int | np.integer) or horizon < 1:
        raise ValueError(f"max_cycles={horizon!r}: expected an integer of at least 1")
    return replace(world, horizon=int(horizon))


def _with_mask(seen: Box, action: Any) -> Dict:
    return Dict({"observation": seen, "action_mask": Box(0, 1, (int(action.n),), np.int8)})


def _seat(world: World, a: int) -> Seat:
    shape, action = world.observation_spaces[a].shape, world.action_spaces[a]
    own = a if shape == world.observation.shape else (a, slice(shape[0]))
    count = int(getattr(action, "n", world.mask_size))
    return world.agents[a], a, own, a if count == world.mask_size else (a, slice(count))
