"""The learner's own view of a game: its seats are worlds of a batch, and whoever has the others has moved already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from .agent import Agent
from .batch import WorldInfo, Worlds
from .player import decide, roles_played
from .rng import philox
from .world import Array, roles_of

_SEATS, _RIVALS = np.uint64(0x5EA7), np.uint64(0x21BA15)  # keys: what is drawn is apart from the worlds' own streams


@dataclass(frozen=True)
class SeatedWorld:
    """What is known of a world from one role's seats."""

    name: str
    observation: Box
    action: Discrete[Any] | Box
    horizon: int
    solved: float | None
    agents: tuple[str, ...]
    masked: bool
    frames_per_second: int
    waiting: bool
    turns: str

    @classmethod
    def of(
        cls,
        whole: WorldInfo,
        agents: tuple[str, ...],
        observation: Box,
        action: Discrete[Any] | Box,
        *,
        waiting: bool,
        turns: str = "",
    ) -> SeatedWorld:
        """Return what is known of the whole world at these agents' seats."""
        facts = whole.name, observation, action, whole.horizon, whole.solved, agents, whole.masked
        return cls(*facts, whole.frames_per_second, waiting, turns)

    @property
    def observation_spaces(self) -> tuple[Box, ...]:
        """See `World.observation_spaces`."""
        return (self.observation,) * len(self.agents)

    @property
    def action_spaces(self) -> tuple[Discrete[Any] | Box, ...]:
        """See `World.action_spaces`."""
        return (self.action,) * len(self.agents)

    @property
    def roles(self) -> dict[str, tuple[int, ...]]:
        """See `World.roles`."""
        return roles_of(self.agents)


class Seated:
    """N worlds of K learning seats each, in `engine.Batch`'s terms; rivals have the A - K others.

    A learner sees its own observations only. A step of it lasts until it has to act again: in a world of turns the
    rivals' moves happen inside, what they bring the learner is part of its reward, and their observations appear
    nowhere. Each episode draws the role it plays (all have K seats) and its rival, both from the seed, so they depend
    neither on N nor on who else plays. An episode that ends before the learner has acted is no experience, and passes.

    Args: `rivals` play as they do in evaluation, except that `deterministic` may let them draw; `role` fixes the
    learner's. Raises ValueError for a world of one agent, an unknown role or roles of different sizes.
    """

    def __init__(
        self, worlds: Worlds, rivals: Sequence[Agent], *, role: str = "", seed: int = 0, deterministic: bool = False
    ) -> None:
        whole = worlds.world
        if len(whole.agents) == 1:
            raise ValueError(f"{whole.name} has one agent: nobody can be its opponent")
        self.roles = np.array(_of_one_size(whole.name, roles_played(whole, role)), np.int64)  # [R, K]
        self.batch, self.rivals, self.deterministic = worlds, list(rivals), deterministic
        n, seats = worlds.n, self.roles.shape[1]
        named = role or "seat"
        own = tuple(whole.agents[a] for a in self.roles[0]) if role else tuple(f"{named}_{k}" for k in range(seats))
        # Of several roles, the spaces that hold all of theirs: the engine pads rows to them.
        space = whole.observation_spaces[self.roles[0, 0]] if role else whole.observation
        action = whole.action_spaces[self.roles[0, 0]] if role else whole.action
        # Of one seat in a world of turns, a step lasts until it acts.
        self.world = SeatedWorld.of(whole, own, space, action, waiting=not whole.turns or seats > 1)
        self.n, self.exact, self.seed_value, self.first = n, worlds.exact, seed, 0
        self._width = space.shape[0] if len(space.shape) == 1 else None
        self._count = int(action.n) if isinstance(action, Discrete) else 0
        self._size = None if isinstance(action, Discrete) else action.shape[0]
        self.actions = np.zeros((n, seats, *(action.shape or ())), worlds.actions.dtype)
        self.observations = np.zeros((n, seats, *space.shape), worlds.observations.dtype)
        self.final_observations = np.zeros_like(self.observations)
        self.rewards = np.zeros((n, seats), np.float32)
        self.terminated, self.truncated, self.ended, self.held = (np.zeros(n, np.bool_) for _ in range(4))
        self.active, self.departed = np.ones((n, seats), np.bool_), np.zeros((n, seats), np.bool_)
        self.legal = np.zeros((n, seats, self._count if whole.masked else 1), np.uint8)
        self.episode_returns, self.episode_lengths = np.zeros((n, seats)), np.zeros(n, np.int32)
        self.running_returns = np.zeros((n, seats))
        self.episodes = np.zeros(n, np.int64)  # begun in each world
        self.seats = np.zeros((n, seats), np.int64)  # the learner's
        self.rival = np.zeros(n, np.int64)  # which of the rivals has the others
        self._worlds = np.arange(n)[:, None]
        self._attend = True

    def seed(self, seed: int | Array, first: int = 0) -> None:
        """As `Batch.seed`, for the worlds and for who sits where."""
        self.batch.seed(seed, first)
        self.seed_value, self.first = int(np.asarray(seed).ravel()[0]), first
        self.episodes[:] = 0

    def reset(self, mask: Array | None = None) -> Array:
        """Begin a new episode in every world, or where mask bool [N] says so; returns `observations`."""
        wanted = np.ones(self.n, np.bool_) if mask is None else np.asarray(mask, np.bool_)
        self.batch.reset(wanted)
        if self._attend:
            for rival in self.rivals:
                rival.attend(self.batch)
            self._attend = False
        self._open(wanted)
        return self.observations

    def _open(self, wanted: Array) -> None:
        """Let these worlds' new episodes come to the learner's first move."""
        self._begin(wanted)
        self.ended[wanted] = False
        self._let_rivals_move(wanted)
        # What the rivals' first moves brought belongs to no action of the learner's.
        for array in (self.terminated, self.truncated, self.ended, self.rewards, self.departed):
            array[wanted] = 0
        self._look()

    def step(self) -> int:
        """Take the learner's actions and go on to where it acts again; return how many episodes ended.

        Raises as `Batch.step` does.
        """
        for array in (self.terminated, self.truncated, self.ended, self.rewards, self.departed):
            array[...] = 0
        own = self.batch.actions[self._worlds, self.seats]
        if self._size is None:
            own = self.actions
        else:
            own[..., : self._size] = self.actions
        self.batch.actions[self._worlds, self.seats] = own
        everywhere = np.ones(self.n, np.bool_)
        if not self.batch.world.turns:
            self._ask_rivals(everywhere)
        self._advance(everywhere)
        self._let_rivals_move(everywhere)
        self._look()
        return int(self.ended.sum())

    def _advance(self, where: Array) -> None:
        """Step these worlds, and note what it brings the learner; of an episode that begins now, nothing yet."""
        b = self.batch
        b.held[...] = ~where
        try:
            b.step()
        finally:
            b.held[...] = False
        first = where & ~self.ended
        gained = b.rewards[self._worlds, self.seats]
        self.rewards[first] += gained[first]
        self.departed[first] |= b.departed[self._worlds, self.seats][first]
        over = first & b.ended
        self.terminated[over], self.truncated[over] = b.terminated[over], b.truncated[over]
        self.ended[over] = True
        final = b.final_observations[self._worlds, self.seats]
        self.final_observations[over] = self._cut(final)[over]
        self.episode_returns[over] = b.episode_returns[self._worlds, self.seats][over]
        self.episode_lengths[over] = b.episode_lengths[over]
        self._begin(where & b.ended)

    def _begin(self, fresh: Array) -> None:
        """Draw role and rival of the episodes that begin."""
        self.episodes[fresh] += 1
        place = np.flatnonzero(fresh)
        numbers = np.uint64(self.first) + place.astype(np.uint64)
        counter = (numbers << np.uint64(40)) + self.episodes[place].astype(np.uint64)
        drawn = [
            ((philox(np.uint64(self.seed_value) ^ key, counter) & np.uint64(0xFFFFFFFF)) >> np.uint64(8)).astype(
                np.int64
            )
            for key in (_SEATS, _RIVALS)
        ]
        self.seats[place] = self.roles[drawn[0] % len(self.roles)]
        self.rival[place] = drawn[1] % max(len(self.rivals), 1)

    def _let_rivals_move(self, where: Array) -> None:
        """In a world of turns, step these worlds until each is at the learner's turn."""
        while self.batch.world.turns:
            waiting = where & ~self.batch.active[self._worlds, self.seats].any(axis=1)
            if not waiting.any():
                return
            self._ask_rivals(waiting)
            self._advance(waiting)

    def _ask_rivals(self, where: Array) -> None:
        theirs = self.batch.active & where[:, None]
        theirs[self._worlds, self.seats] = False
        for index, rival in enumerate(self.rivals):
            rows = np.flatnonzero(theirs & (self.rival == index)[:, None])
            if len(rows):
                decide(rival, self.batch, rows, deterministic=self.deterministic)

    def _cut(self, rows: Array) -> Array:
        return rows if self._width is None else rows[..., : self._width]

    def _look(self) -> None:
        b = self.batch
        self.observations[...] = self._cut(b.observations[self._worlds, self.seats])
        self.active[...] = b.active[self._worlds, self.seats]
        self.running_returns[...] = b.running_returns[self._worlds, self.seats]
        if self.world.masked:
            self.legal[...] = b.legal[self._worlds, self.seats][..., : self._count]

    def snapshot(self) -> dict[str, Array]:
        """As `Batch.snapshot`, with who sits where and how often a rival that draws has drawn."""
        own = {f"seated_{name}": np.array(array) for name, array in self._persistent().items()}
        calls = np.array([getattr(rival, "calls", 0) for rival in self.rivals], np.int64)
        return {**self.batch.snapshot(), **own, "seated_calls": calls}

    def restore(self, snapshot: dict[str, Array]) -> None:
        """Go on from a `snapshot`. ValueError names what does not fit."""
        calls = snapshot.get("seated_calls")
        if calls is None or calls.shape != (len(self.rivals),) or calls.dtype != np.int64:
            raise ValueError(f"snapshot of another game: it is not of {len(self.rivals)} rivals")
        for name, array in self._persistent().items():
            given = snapshot.get(f"seated_{name}")
            if given is None or given.dtype != array.dtype or given.shape != array.shape:
                raise ValueError(f"snapshot of another game: {name} does not fit {self.world.name} x {self.n}")
        seats, rival = snapshot["seated_seats"], snapshot["seated_rival"]
        if not (seats[:, None] == self.roles[None]).all(axis=2).any(axis=1).all():
            raise ValueError("snapshot of another game: its seats are nobody's")
        if len(rival) and not 0 <= rival.min() <= rival.max() < len(self.rivals):
            raise ValueError("snapshot of another game: its rivals are not here")
        self.batch.restore({name: array for name, array in snapshot.items() if not name.startswith("seated_")})
        for name, array in self._persistent().items():
            array[...] = snapshot[f"seated_{name}"]
        for each, count in zip(self.rivals, calls.tolist(), strict=True):
            each.attend(self.batch)
            if hasattr(each, "calls"):
                each.calls = count
        self._attend = False
        if not self.exact:  # foreign worlds are in new episodes
            self._open(np.ones(self.n, np.bool_))

    def _persistent(self) -> dict[str, Array]:
        names = "observations final_observations rewards terminated truncated ended active departed legal"
        names += " episode_returns episode_lengths running_returns episodes seats rival"
        return {name: getattr(self, name) for name in names.split()}

    def drain_log(self) -> dict[str, float]:
        """See `Batch.drain_log`."""
        return self.batch.drain_log()

    def close(self) -> None:
        """Close the worlds."""
        self.batch.close()


def _of_one_size(name: str, roles: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    if len({len(seats) for seats in roles}) > 1:
        raise ValueError(f"{name}: its roles have different numbers of agents; choose one with role=")
    return roles
