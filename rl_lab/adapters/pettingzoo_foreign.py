"""Foreign PettingZoo environments as a batch, by id: `world=pettingzoo:classic/connect_four_v3`."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode

from ..engine import NonFiniteError
from ..world import Array
from .pettingzoo_games import describe, find, game_of


class ForeignPettingZooBatch:
    """N environments of one PettingZoo or MPE2 id with A agents, in `engine.Batch`'s terms.

    Of an environment that has a ParallelEnv, a step is one of all agents; else it is the move of `agent_selection`,
    who alone is active. Observations are float32 (images of bytes stay bytes) in one shape for all: vectors of
    different lengths are padded with zeros, and anything else of different shapes is flattened first.
    Environment i's episodes begin from seeds made of its own seed and their number, so they can be repeated; states
    cannot be saved as bytes: `exact` is False, and a resumed run begins new episodes.
    Raises ValueError for an unknown id or arguments, a package that is missing, and spaces that do not fit.
    """

    exact = False

    def __init__(
        self, name: str, n: int, params: dict[str, Any], *, seed: int, autoreset: AutoresetMode, render: bool
    ) -> None:
        if n < 1:
            raise ValueError(f"worlds={n}: expected at least 1")
        if autoreset == AutoresetMode.NEXT_STEP:
            raise ValueError(f"world {name!r}: autoreset is same step or disabled")
        kind, make = find(name)
        arguments = {**params, "render_mode": "rgb_array"} if render else dict(params)
        try:
            made = [make(**arguments) for _ in range(n)]
        except (TypeError, ImportError, AssertionError) as error:
            raise ValueError(f"cannot make world {name!r}: {error}") from None
        self.games = [game_of(kind, env) for env in made]
        self.n, self.autoreset, self.renders = n, autoreset, render
        self.world, self._sources = describe(name, self.games[0])
        agents, world = len(self.world.agents), self.world
        counts = [int(space.n) if isinstance(space, Discrete) else 1 for space in world.action_spaces]
        taken = np.int64 if isinstance(world.action, Discrete) else np.float32
        self.actions = np.zeros((n, agents, *(world.action.shape or ())), taken)
        self.observations = np.zeros((n, agents, *world.observation.shape), world.observation.dtype)
        self.final_observations = np.zeros_like(self.observations)
        self.rewards = np.zeros((n, agents), np.float32)
        self.terminated, self.truncated, self.ended = (np.zeros(n, np.bool_) for _ in range(3))
        self.legal = np.zeros((n, agents, max(counts) if world.masked else 1), np.uint8)
        self.active, self.departed, self.fouls = (np.zeros((n, agents), np.bool_) for _ in range(3))
        self.episode_returns, self.running_returns = np.zeros((n, agents)), np.zeros((n, agents))
        self.episode_lengths, self._t = np.zeros(n, np.int32), np.zeros(n, np.int32)
        self._index = {agent: a for a, agent in enumerate(world.agents)}
        self._episodes = np.zeros(n, np.int64)  # begun since the last seed
        self.held = np.zeros(n, np.bool_)
        self._finished = self._drained = 0
        self.seed(seed)

    def seed(self, seed: int | Array, first: int = 0) -> None:
        """Derive environment i's seed from (seed, first + i), or take its own of int [N]; takes hold at reset.

        Derived seeds lie below 2**31, where no evaluation's seeds are.
        """
        seeds = np.asarray(seed, np.int64)
        if seeds.ndim == 0:
            seeds = np.array([_derived(int(seeds), first + i) for i in range(self.n)], np.int64)
        self._seeds = seeds
        self._episodes[:] = 0

    def reset(self, mask: Array | None = None) -> Array:
        """Begin a new episode in every environment, or where mask bool [N] says so; returns `observations`."""
        wanted = np.ones(self.n, np.bool_) if mask is None else np.asarray(mask, np.bool_)
        for i in np.flatnonzero(wanted):
            self._begin(int(i))
            self.rewards[i], self.departed[i] = 0.0, False
            self.terminated[i] = self.truncated[i] = self.ended[i] = False
        self._check_numbers("observation", self.observations)
        return self.observations

    def _begin(self, i: int) -> None:
        # A seed is its first episode's own; not all environments go on by themselves in a way that can be repeated.
        seed, episode = int(self._seeds[i]), int(self._episodes[i])
        self.games[i].reset(_derived(seed, episode) if episode else seed)
        self._episodes[i] += 1
        self.running_returns[i], self._t[i] = 0.0, 0
        self.observations[i] = 0
        self._look(i)

    def _look(self, i: int) -> None:
        """Write what environment i shows: observations of who is there, who acts, and what is legal."""
        game = self.games[i]
        self.active[i], self.legal[i] = False, 0
        for agent, seen in game.seen.items():
            a = self._index[str(agent)]
            space, row = self._sources[a], self.observations[i, a]
            if isinstance(space, Discrete):
                row[...] = 0
                row[int(seen) - int(space.start)] = 1
            elif row.shape == np.shape(seen):
                row[...] = seen
            else:
                row[: np.size(seen)] = np.ravel(seen)
        for agent in game.active:
            a = self._index[str(agent)]
            self.active[i, a] = True
            if self.world.masked:
                count, mask = int(self.world.action_spaces[a].n), game.mask(agent)  # type: ignore[union-attr]
                self.legal[i, a, :count] = 1 if mask is None else np.asarray(mask) != 0

    def step(self) -> int:
        """Step every environment with `actions`; return how many episodes ended. Errors as `engine.Batch.step`."""
        live = ~self.held & ~(self.ended & (self.autoreset == AutoresetMode.DISABLED))
        self._check_actions(live)
        self.rewards[~live] = 0.0
        done = np.zeros(self.n, np.bool_)
        for i in np.flatnonzero(live):
            done[i] = self._step(int(i))
        self.ended[live] = done[live]
        self._check_numbers("reward", self.rewards)
        self._check_numbers("observation", self.observations)
        if done.any():
            self.episode_returns[done], self.episode_lengths[done] = self.running_returns[done], self._t[done]
            self._finished += int(done.sum())
            if self.autoreset == AutoresetMode.SAME_STEP:
                self.final_observations[done] = self.observations[done]
                for i in np.flatnonzero(done):
                    self._begin(int(i))
                self._check_numbers("observation", self.observations)
        return int(done.sum())

    def _step(self, i: int) -> bool:
        """Step environment i; return whether its episode ended."""
        game, acted = self.games[i], {}
        for agent in game.active:
            a = self._index[str(agent)]
            space, given = game.env.action_space(agent), self.actions[i, a]
            if isinstance(space, Discrete):
                acted[agent] = int(given) + int(space.start)
            else:
                acted[agent] = np.clip(given[: space.shape[0]].astype(space.dtype), space.low, space.high)
        rewards, terminated, truncated = game.step(acted)
        self.rewards[i] = 0.0
        for agent, reward in rewards.items():
            self.rewards[i, self._index[str(agent)]] = reward
        self._look(i)
        self.running_returns[i] += self.rewards[i]
        self._t[i] += 1
        over = not game.active
        self.terminated[i], self.truncated[i] = over and bool(terminated), over and bool(truncated)
        self.departed[i] = False
        for agent in {*terminated, *truncated} if not over else ():
            self.departed[i, self._index[str(agent)]] = True
        return over

    def _check_actions(self, live: Array) -> None:
        for i in np.flatnonzero(live):
            for a in np.flatnonzero(self.active[i]):
                space, given = self.world.action_spaces[a], self.actions[i, a]
                if isinstance(space, Discrete):
                    inside, own = 0 <= given < space.n, int(given)
                else:
                    inside, own = space.contains(given[: space.shape[0]]), given[: space.shape[0]].tolist()
                who = f"{self.world.name}: action {own} of {self.world.agents[a]} in world {i} at step {self._t[i]}"
                if not inside:
                    raise ValueError(f"{who} is outside {space}")
                if self.world.masked and not self.legal[i, a, own]:
                    raise ValueError(f"{who} is illegal; legal are {np.flatnonzero(self.legal[i, a]).tolist()}")

    def _check_numbers(self, field: str, values: Array) -> None:
        good = np.isfinite(values).reshape(self.n, -1).all(axis=1)
        if not good.all():
            i = int(np.argmin(good))
            raise NonFiniteError(f"{self.world.name}: non-finite {field} in world {i} at step {self._t[i]}")

    def picture(self, i: int) -> Array:
        """Return environment i's own picture, uint8 [height, width, 3]; made with render=True only."""
        return np.asarray(self.games[i].env.render(), np.uint8)

    def snapshot(self) -> dict[str, Array]:
        """Return seeds [N] and the episodes begun from them [N]: all that can be kept of foreign environments."""
        return {"seeds": self._seeds.copy(), "episodes": self._episodes.copy()}

    def restore(self, snapshot: dict[str, Array]) -> None:
        """Begin the episodes that would have come next."""
        if set(snapshot) != {"seeds", "episodes"} or any(a.shape != (self.n,) for a in snapshot.values()):
            raise ValueError(f"snapshot of another batch: it does not fit {self.world.name} x {self.n}")
        self._seeds, self._episodes = (np.asarray(snapshot[key], np.int64).copy() for key in ("seeds", "episodes"))
        self.reset()

    def drain_log(self) -> dict[str, float]:
        """Return how many episodes finished since the last call."""
        finished, self._drained = self._finished - self._drained, self._finished
        return {"episodes": float(finished)}

    def close(self) -> None:
        """Close the environments."""
        for game in self.games:
            game.env.close()


def _derived(seed: int, number: int) -> int:
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0]) >> 1
