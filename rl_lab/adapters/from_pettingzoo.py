"""This module makes a batch of a PettingZoo environment, by its id: `world=pettingzoo:classic/connect_four_v3`.

`ForeignPettingZooBatch` steps N environments one after the other through `pettingzoo_games`, and copies what they
return into arrays like those of `engine.Batch`. Errors of the environments become one line, see `foreign_errors`; what
they return is checked by `foreign_data`.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode

from rl_lab.adapters import foreign_data as data
from rl_lab.adapters.foreign_errors import InvalidDataError, calling, close
from rl_lab.adapters.pettingzoo_games import make_game
from rl_lab.adapters.pettingzoo_registry import describe, find
from rl_lab.adapters.user_env import with_render_mode
from rl_lab.core.world import Array
from rl_lab.core.world_errors import StuckError
from rl_lab.engine.buffers import EnvBuffers, allocate_env


class ForeignPettingZooBatch(EnvBuffers):
    """A BatchedEnv of N environments of one PettingZoo or MPE2 id, with A agents; the arrays are `engine.Batch`'s.

    If the environment has a ParallelEnv, all agents act in each step; otherwise only `agent_selection` acts.
    Observations are float32 (images of bytes stay uint8), in one shape for all agents: vectors of different lengths are
    padded with zeros, and other arrays of different shapes are flattened first. Dict, Tuple, MultiDiscrete and
    MultiBinary observations become vectors, see `structured.ObservationStructure`.

    The seed of each episode is derived from the environment's seed and the episode's number, so episodes can be
    repeated. The state cannot be saved, so `restores_exactly` is False and a resumed run begins new episodes.

    Raises:
        ValueError: the id or an argument is unknown, a package is missing, or a space is not supported.
    """

    restores_exactly = False

    def __init__(
        self, name: str, num_envs: int, params: dict[str, Any], *, seed: int, autoreset: AutoresetMode, render: bool
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"worlds={num_envs}: expected at least 1")
        if autoreset == AutoresetMode.NEXT_STEP:
            raise ValueError(f"world {name!r}: autoreset is same step or disabled")
        kind, make = find(name)
        data.check_metadata(name, make)
        try:
            with calling(name, "constructor", make, params):
                arguments = with_render_mode(make, params) if render else dict(params)
                envs = [make(**arguments) for _ in range(num_envs)]
        except (TypeError, ImportError) as error:
            raise ValueError(f"cannot make world {name!r}: {error}") from None
        self.games, self._envs = [make_game(kind, env) for env in envs], envs
        self.num_envs, self.autoreset, self.renders = num_envs, autoreset, render and "render_mode" in arguments
        self.world, self._own_spaces = describe(name, self.games[0])
        vars(self).update(allocate_env(self.world, num_envs))
        self.acting[...] = False
        agents = len(self.world.agents)
        # Whether each agent's own episode ended in this step; those of one environment may end in different ways.
        self.agent_terminated, self.agent_truncated = (np.zeros((num_envs, agents), np.bool_) for _ in range(2))
        self._elapsed = np.zeros(num_envs, np.int32)
        self._index = {agent: a for a, agent in enumerate(self.world.agents)}
        self._episodes = np.zeros(num_envs, np.int64)  # episodes that have begun since the last call of `seed`
        self._num_finished = self._num_drained = 0
        self._has_warned = False  # True once the user was warned of observations outside their bounds
        self.seed(seed)

    @property
    def raw_spaces(self) -> list[tuple[Any, Any]]:
        """Return each agent's observation space and action space, as the environment itself declares them."""
        actions = [self.games[0].env.action_space(agent) for agent in self.games[0].possible_agents]
        return list(zip(self._own_spaces, actions, strict=True))

    def seed(self, seed: int | Array, first: int = 0) -> None:
        """Set the seeds of the next reset: environment i gets one derived from (seed, first + i), or seed[i].

        Derived seeds lie below 2**31; evaluation uses seeds above.
        """
        seeds = np.asarray(seed, np.int64)
        if seeds.ndim == 0:
            seeds = np.array([_derive_seed(int(seeds), first + i) for i in range(self.num_envs)], np.int64)
        self._seeds = seeds
        self._episodes[:] = 0

    def reset(self, mask: Array | None = None) -> Array:
        """Begin a new episode in every environment, or where mask, bool [N], is True; return `observations`."""
        selected = np.ones(self.num_envs, np.bool_) if mask is None else np.asarray(mask, np.bool_)
        for i in np.flatnonzero(selected):
            self._begin_episode(int(i))
            self.rewards[i], self.left_episode[i] = 0.0, False
            self.terminated[i] = self.truncated[i] = self.done[i] = False
            self.agent_terminated[i] = self.agent_truncated[i] = False
        self._check_numbers("observation", self.observations)
        return self.observations

    def _begin_episode(self, i: int) -> None:
        # The first episode uses the seed itself. Every later one is seeded too, because not all environments continue
        # their random stream reproducibly.
        seed, episode = int(self._seeds[i]), int(self._episodes[i])
        game, violation = self.games[i], ""
        with calling(self.world.name, "reset", game.env):
            game.reset(_derive_seed(seed, episode) if episode else seed)
            self.observations[i] = 0
            self._observe(i)
            if not self._has_warned:
                spaces = {agent: self._own_spaces[self._index[str(agent)]] for agent in game.observations}
                outside = {
                    agent: data.out_of_bounds(game.observations[agent], space) for agent, space in spaces.items()
                }
                violation = next((f"of agent {agent}, {text}" for agent, text in outside.items() if text), "")
        if violation:
            self._has_warned = True
            warnings.warn(f"{self.world.name}: in an observation that reset returned {violation}", stacklevel=2)
        self._episodes[i] += 1
        self.running_returns[i], self._elapsed[i] = 0.0, 0

    def _observe(self, i: int) -> None:
        """Write environment i's observations, the agents that act next and their action masks.

        Raises InvalidDataError for values that do not agree with the spaces.
        """
        game = self.games[i]
        self.acting[i], self.action_mask[i] = False, 0
        for agent, value in game.observations.items():
            a = self._index[str(agent)]
            space, row = self._own_spaces[a], self.observations[i, a]
            if (structure := self.world.structures[a]) is not None:
                vector = structure.flatten(value, str(agent))
                row[: len(vector)] = vector
                continue
            observation = data.checked_observation(value, space, str(agent))
            if isinstance(space, Discrete):
                row[...] = 0
                row[observation - int(space.start)] = 1
            elif row.shape == observation.shape:
                data.store(row, observation)
            else:
                data.store(row[: np.size(observation)], np.ravel(observation))
        for agent in game.acting:
            a = self._index[str(agent)]
            self.acting[i, a] = True
            if agent not in game.observations:
                raise InvalidDataError(f"returned no observation for agent {agent}, which acts next")
            if self.world.has_action_mask:
                count, mask = int(self.world.action_spaces[a].n), game.mask(agent)  # type: ignore[union-attr]
                self.action_mask[i, a, :count] = 1 if mask is None else data.checked_mask(mask, count, str(agent))

    def step(self) -> int:
        """Step every environment with `actions`; return how many episodes ended.

        Raises:
            ForeignError: an environment raised an exception or returned an invalid value.
            ValueError, NonFiniteError, StuckError: as `engine.Batch.step` does.
        """
        live = ~self.paused & ~(self.done & (self.autoreset == AutoresetMode.DISABLED))
        self._check_actions(live)
        self.rewards[~live] = 0.0
        done = np.zeros(self.num_envs, np.bool_)
        for i in np.flatnonzero(live):
            done[i] = self._step_env(int(i))
        self.done[live] = done[live]
        self._check_numbers("reward", self.rewards)
        self._check_numbers("observation", self.observations)
        if done.any():
            self.episode_returns[done], self.episode_lengths[done] = self.running_returns[done], self._elapsed[done]
            self._num_finished += int(done.sum())
            if self.autoreset == AutoresetMode.SAME_STEP:
                self.final_observations[done] = self.observations[done]
                for i in np.flatnonzero(done):
                    self._begin_episode(int(i))
                self._check_numbers("observation", self.observations)
        return int(done.sum())

    def _step_env(self, i: int) -> bool:
        """Step environment i; return whether its episode ended."""
        game, actions = self.games[i], {}
        for agent in game.acting:
            a = self._index[str(agent)]
            space, action = game.env.action_space(agent), self.actions[i, a]
            if isinstance(space, Discrete):
                actions[agent] = int(action) + int(space.start)
            else:
                actions[agent] = np.clip(action[: space.shape[0]].astype(space.dtype), space.low, space.high)
        reward_row = np.zeros(len(self.world.agents))
        with calling(self.world.name, "step", game.env):
            rewards, terminated, truncated = game.step(actions)
            for agent, reward in rewards.items():
                reward_row[self._index[str(agent)]] = data.checked_number(reward, "reward", str(agent))
            for agent in truncated:
                if agent not in game.observations:
                    raise InvalidDataError(f"returned no observation for agent {agent}, which it truncated")
            self._observe(i)
        # Returns are summed in double precision, because single precision would lose digits of the environment's
        # rewards.
        data.store(self.rewards[i], reward_row)
        self.running_returns[i] += reward_row
        self._elapsed[i] += 1
        done = not game.acting
        self.terminated[i], self.truncated[i] = done and bool(terminated), done and bool(truncated)
        for flags, agents in ((self.agent_terminated, terminated), (self.agent_truncated, truncated)):
            flags[i] = False
            flags[i, [self._index[str(agent)] for agent in agents]] = True
        self.left_episode[i] = (self.agent_terminated[i] | self.agent_truncated[i]) & (not done)
        return done

    def elapsed_steps(self, i: int) -> int:
        """Return the number of steps of environment i's episode so far."""
        return int(self._elapsed[i])

    def _check_actions(self, live: Array) -> None:
        for i in np.flatnonzero(live):
            for a in np.flatnonzero(self.acting[i]):
                space, row = self.world.action_spaces[a], self.actions[i, a]
                action: Any = int(row) if isinstance(space, Discrete) else row[: space.shape[0]].tolist()
                inside = 0 <= row < space.n if isinstance(space, Discrete) else space.contains(row[: space.shape[0]])
                if self.world.has_action_mask and not self.action_mask[i, a].any():
                    raise StuckError(self.world.name, self.world.agents[a], int(self._elapsed[i]))
                agent = self.world.agents[a]
                subject = f"{self.world.name}: action {action} of {agent} in world {i} at step {self._elapsed[i]}"
                if not inside:
                    raise ValueError(f"{subject} is outside {space}")
                if self.world.has_action_mask and not self.action_mask[i, a, action]:
                    legal = np.flatnonzero(self.action_mask[i, a]).tolist()
                    raise ValueError(f"{subject} is illegal; legal are {legal}")

    def _check_numbers(self, field: str, values: Array) -> None:
        data.check_finite(self.world, field, values, self._elapsed, self._envs)

    def picture(self, i: int) -> Array:
        """Return environment i's own picture, uint8 [height, width, 3]; the batch must be made with render=True."""
        env = self.games[i].env
        with calling(self.world.name, "render", env):
            return data.as_picture(env.render())

    def snapshot(self) -> dict[str, Array]:
        """Return seeds [N] and the number of episodes begun from each [N]; the state itself cannot be saved."""
        return {"seeds": self._seeds.copy(), "episodes": self._episodes.copy()}

    def restore(self, snapshot: dict[str, Array]) -> None:
        """Begin the episodes that would have come next after the snapshot."""
        if set(snapshot) != {"seeds", "episodes"} or any(a.shape != (self.num_envs,) for a in snapshot.values()):
            raise ValueError(f"snapshot of another batch: it does not fit {self.world.name} x {self.num_envs}")
        self._seeds, self._episodes = (np.asarray(snapshot[key], np.int64).copy() for key in ("seeds", "episodes"))
        self.reset()

    def drain_log(self) -> dict[str, float]:
        """Return the number of episodes that finished since the last call."""
        finished, self._num_drained = self._num_finished - self._num_drained, self._num_finished
        return {"episodes": float(finished)}

    def close(self) -> None:
        """Close the environments."""
        for game in self.games:
            close(self.world.name, game.env)


def _derive_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0]) >> 1
