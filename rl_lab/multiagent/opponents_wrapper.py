"""This module has a wrapper that gives some agents of a batch to opponents, and leaves the others to the learner.

`OpponentsWrapper` is a `BatchedEnv` with arrays of its own. It writes actions into the inner batch, steps it, and
copies the learner's part of the results.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rl_lab.core.agent import Agent
from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.random_actions import write_random_actions
from rl_lab.core.random_streams import PhiloxStream
from rl_lab.core.rng import philox
from rl_lab.core.world import Array
from rl_lab.engine import buffers
from rl_lab.multiagent import agent_columns
from rl_lab.multiagent.episode_results import EpisodeResults
from rl_lab.multiagent.match_runner import seat_rotation
from rl_lab.multiagent.opponent_mixture import OpponentMixture
from rl_lab.multiagent.specs import AgentSubsetSpec, require_equal_size

# Prefixes of array names in a snapshot, which are part of the checkpoint format: of this wrapper's arrays, and of the
# opponents' arrays.
_PREFIX = "wrapper_"
_OPPONENTS_PREFIX = "wrapper_opponents_"


class OpponentsWrapper(buffers.EnvBuffers):
    """A `BatchedEnv` of N environments with the K agents of the learner; opponents act for the other A - K agents.

    The learner receives the observations of its own agents only. A step lasts until the learner has to act again. In a
    turn-based world, the opponents act inside of the step, and the rewards of their moves are added to the learner's.
    Each episode draws the role of the learner (all roles have K agents) and its opponent from the seed, so both depend
    neither on N nor on the opponents that other episodes meet. An episode that ends before the learner's first move is
    not reported. `pop_loss_draw_win` counts the results of the reported episodes.

    Args:
        envs: the batch with all A agents.
        opponents: agents, or an `OpponentMixture`, whose agents and probabilities may change between two steps.
        role: the role of the learner; by default the episodes draw one.
        seed: the seed of the roles and opponents.
        deterministic: True: the opponents take their most probable actions. False: they sample.
        random_opening_moves: the maximum of random moves of all agents at the start of an episode, so that more
            positions occur. The number is drawn from the seed for each episode. The moves are not part of the learner's
            experience.

    Raises:
        ValueError: the world has one agent, the role is unknown, the roles differ in size, or an opening is asked of a
            world that is not turn-based.
    """

    def __init__(
        self,
        envs: BatchedEnv,
        opponents: Sequence[Agent] | OpponentMixture,
        *,
        role: str = "",
        seed: int = 0,
        deterministic: bool = False,
        random_opening_moves: int = 0,
    ) -> None:
        world = envs.world
        if len(world.agents) == 1:
            raise ValueError(f"{world.name} has one agent: there is no agent left for an opponent")
        if random_opening_moves and not world.current_player_field:
            raise ValueError(f"{world.name}: random opening moves need a turn-based world")
        # [R, K]: the agents of each of R roles.
        self.roles = np.array(require_equal_size(world.name, seat_rotation(world, role)), np.int64)
        self.batch, self.deterministic = envs, deterministic
        self.opponents = opponents if isinstance(opponents, OpponentMixture) else OpponentMixture(opponents)
        self.num_envs, self.restores_exactly = envs.num_envs, envs.restores_exactly
        self.seed_value, self.first = seed, 0
        num_own_agents = self.roles.shape[1]
        agents = tuple(world.agents[a] if role else f"seat_{k}" for k, a in enumerate(self.roles[0]))
        # With several roles, the world's common spaces, to which the engine pads the rows of every role.
        space = world.observation_spaces[self.roles[0, 0]] if role else world.observation
        action = world.action_spaces[self.roles[0, 0]] if role else world.action
        # With one agent in a turn-based world, each step ends when that agent is to act, so it is never idle.
        is_multi_agent = not world.current_player_field or num_own_agents > 1
        self.world = AgentSubsetSpec.of(
            world, agents, space, action, is_multi_agent=is_multi_agent, seats=self.roles.ravel().tolist()
        )
        self._allocate_buffers()
        self._random_opening_moves = random_opening_moves
        self._opening_moves_left = np.zeros(self.num_envs, np.int64)  # 0 whenever the learner is to act
        self._opening_keys = np.zeros(self.num_envs, np.uint64)  # random keys of the openings
        self._results = EpisodeResults(self.roles, self.num_envs)
        self._env_index = np.arange(self.num_envs)[:, None]  # [N, 1], for indexing together with `self.seats`
        self._is_bound = False
        self.opponents.seed(seed, 0, envs)

    def _allocate_buffers(self) -> None:
        """Allocate the arrays of a `BatchedEnv`, and those that describe the current and the last episodes."""
        n, shape = self.num_envs, (self.num_envs, self.roles.shape[1])
        vars(self).update(buffers.allocate_env(self.world, n))
        self.agent_terminated, self.agent_truncated = (np.zeros(shape, np.bool_) for _ in range(2))
        self.episodes = np.zeros(n, np.int64)  # number of episodes begun in each environment
        self.seats = np.zeros(shape, np.int64)  # [N, K] indices of the learner's agents
        self.opponent_index = np.zeros(n, np.int64)  # [N] index of the opponent

    def seed(self, seed: int | Array, first: int = 0) -> None:
        """Seed the environments, as `Batch.seed` does, and the draws of roles and opponents."""
        self.batch.seed(seed, first)
        self.seed_value, self.first = int(np.asarray(seed).ravel()[0]), first
        self.episodes[:] = 0
        self.opponents.seed(self.seed_value, first, self.batch)

    def reset(self, mask: Array | None = None) -> Array:
        """Begin a new episode in every environment, or where mask, bool [N], is True; return `observations`.

        Raises as `step` does, and as the opponents' `bind` does.
        """
        selected = np.ones(self.num_envs, np.bool_) if mask is None else np.asarray(mask, np.bool_)
        self.batch.reset(selected)
        if not self._is_bound:
            self.opponents.bind(self.batch)
            self._is_bound = True
        self._start_episodes(selected)
        return self.observations

    def _start_episodes(self, mask: Array) -> None:
        """Play the new episodes of the environments where mask, bool [N], is True up to the learner's first move."""
        self._draw_seats_and_opponents(mask)
        self.done[mask] = False
        self._play_until_learner_acts(mask)
        # The rewards of the opponents' first moves follow no action of the learner.
        for array in self._step_outputs():
            array[mask] = 0
        self._copy_outputs()

    def step(self) -> int:
        """Apply the learner's actions, play until it is to act again, and return how many episodes ended.

        Raises as `Batch.step` does, for the opponents' actions too, and what an opponent raises while it acts.
        """
        for array in self._step_outputs():
            array[...] = 0
        agent_columns.write_actions(self.batch, self._agent_index(), self.actions)
        everywhere = np.ones(self.num_envs, np.bool_)
        if not self.batch.world.current_player_field:
            self._query_opponents(everywhere)
        self._advance(everywhere)
        self._play_until_learner_acts(everywhere)
        self._copy_outputs()
        self._results.count(self.done, len(self.opponents))
        return int(self.done.sum())

    def _step_outputs(self) -> tuple[Array, ...]:
        """Return the arrays that describe one step and are cleared before the next."""
        arrays = (self.terminated, self.truncated, self.done, self.rewards, self.left_episode)
        return (*arrays, self.agent_terminated, self.agent_truncated)

    def elapsed_steps(self, i: int) -> int:
        """Return the number of steps of the current episode of environment i."""
        return self.batch.elapsed_steps(i)

    def pop_loss_draw_win(self) -> Array:
        """Return how many episodes since the last call the learner lost, drew and won, int64 [opponents, roles, 3]."""
        return self._results.pop(len(self.opponents))

    def _advance(self, mask: Array) -> None:
        """Step the environments where mask, bool [N], is True.

        The rewards are added for those whose episode has not ended earlier in this step.
        """
        batch = self.batch
        batch.paused[...] = ~mask
        try:
            batch.step()
        finally:
            batch.paused[...] = False
        running = mask & ~self.done  # the other environments are in new episodes, whose rewards do not count yet
        rewards = batch.rewards[self._env_index, self.seats]
        self.rewards[running] += rewards[running]
        self.left_episode[running] |= batch.left_episode[self._env_index, self.seats][running]
        # An agent's own episode ends once: the end of the environment's episode later in the same step changes nothing.
        unfinished = running[:, None] & ~(self.agent_terminated | self.agent_truncated)
        self.agent_terminated |= unfinished & batch.agent_terminated[self._env_index, self.seats]
        self.agent_truncated |= unfinished & batch.agent_truncated[self._env_index, self.seats]
        new_episodes = mask & batch.done
        if new_episodes.any():
            self._record_ends(running & new_episodes)
            self._draw_seats_and_opponents(new_episodes)

    def _record_ends(self, ended: Array) -> None:
        """Record how episodes of the learner ended where ended, bool [N], is True."""
        batch = self.batch
        self.terminated[ended], self.truncated[ended] = batch.terminated[ended], batch.truncated[ended]
        self.done[ended] = True
        shape = self.final_observations.shape[2:]  # of one observation
        final = agent_columns.read(batch, "final_observations", self._agent_index(), shape)
        self.final_observations[ended] = final[ended]
        self.episode_returns[ended] = batch.episode_returns[self._env_index, self.seats][ended]
        self.episode_lengths[ended] = batch.episode_lengths[ended]
        self._results.record(ended, self.seats, self.opponent_index, self.episode_returns, batch.episode_returns)

    def _draw_seats_and_opponents(self, new_episodes: Array) -> None:
        """Draw the role, the opponent and the number of opening moves where new_episodes, bool [N], is True."""
        self.episodes[new_episodes] += 1
        self.opponents.begin(new_episodes, self.batch)
        index = np.flatnonzero(new_episodes)
        numbers = np.uint64(self.first) + index.astype(np.uint64)
        # Of each episode: the number of the environment above 40 bits for the number of the episode.
        counters = (numbers << np.uint64(40)) + self.episodes[index].astype(np.uint64)
        seed = np.uint64(self.seed_value)
        seat_bits = _bits_24(seed ^ PhiloxStream.ROLE.key, counters)
        opponent_bits = _bits_24(seed ^ PhiloxStream.OPPONENT.key, counters)
        if self._random_opening_moves:
            self._opening_keys[index] = philox(seed ^ PhiloxStream.RANDOM_OPENING.key, counters)
            moves = self._opening_keys[index] % np.uint64(self._random_opening_moves + 1)
            self._opening_moves_left[index] = moves.astype(np.int64)
        self.seats[index] = self.roles[seat_bits % len(self.roles)]
        if len(self.opponents):
            self.opponent_index[index] = self.opponents.draw(opponent_bits * 2.0**-24)

    def _play_until_learner_acts(self, mask: Array) -> None:
        """In a turn-based world, step the environments where mask, bool [N], is True until the learner is to act.

        First come the random opening moves of all agents, the learner's included; then the opponents act.
        """
        if not self.batch.world.current_player_field:
            return
        while True:
            opening = mask & (self._opening_moves_left > 0)
            waiting = opening | mask & ~self.batch.acting[self._env_index, self.seats].any(axis=1)
            if not waiting.any():
                return
            if opening.any():
                rows = np.flatnonzero(self.batch.acting & opening[:, None])
                index = rows // self.batch.acting.shape[1]
                write_random_actions(self.batch, rows, self._opening_keys[index], self._opening_moves_left[index])
                self._opening_moves_left[opening] -= 1
            self._query_opponents(waiting & ~opening)
            self._advance(waiting)

    def _query_opponents(self, mask: Array) -> None:
        """Write the actions of the opponents' agents that are to act where mask, bool [N], is True."""
        acting = self.batch.acting & mask[:, None]
        acting[self._env_index, self.seats] = False
        if len(rows := np.flatnonzero(acting)):
            indices = self.opponent_index[rows // acting.shape[1]]
            self.opponents.write_actions(self.batch, rows, indices, deterministic=self.deterministic)

    def _copy_outputs(self) -> None:
        """Copy the learner's part of the batch's arrays, but for those that add up what happens in a step."""
        names = ["observations", "acting", "running_returns"] + ["action_mask"] * self.world.has_action_mask
        agent_columns.copy_outputs(self.batch, self._agent_index(), self, names)

    def _agent_index(self) -> tuple[Array, Array]:
        """Return the index, [N, K] of [N, A], of the learner's agents in the batch's arrays."""
        return self._env_index, self.seats

    def snapshot(self) -> dict[str, Array]:
        """Return the batch's snapshot with this wrapper's arrays and the opponents' random counters."""
        arrays = {f"{_PREFIX}{name}": np.array(array) for name, array in self._saved_arrays().items()}
        opponents = {f"{_OPPONENTS_PREFIX}{name}": np.array(a) for name, a in self.opponents.snapshot().items()}
        return {**self.batch.snapshot(), **arrays, **opponents}

    def restore(self, snapshot: dict[str, Array]) -> None:
        """Restore a `snapshot`. Raises ValueError where it does not fit this wrapper, the batch or the opponents."""
        for name, array in self._saved_arrays().items():
            saved = snapshot.get(f"{_PREFIX}{name}")
            if saved is None or saved.dtype != array.dtype or saved.shape != array.shape:
                raise ValueError(f"the snapshot does not fit {self.world.name} x {self.num_envs}: array {name}")
        seats, opponents = snapshot[f"{_PREFIX}seats"], snapshot[f"{_PREFIX}opponent_index"]
        if not (seats[:, None] == self.roles[None]).all(axis=2).any(axis=1).all():
            raise ValueError("the snapshot does not fit: its seats belong to no role of this world")
        if len(opponents) and not 0 <= opponents.min() <= opponents.max() < len(self.opponents):
            raise ValueError(f"the snapshot does not fit: its opponent index is not below {len(self.opponents)}")
        self.batch.restore({name: array for name, array in snapshot.items() if not name.startswith(_PREFIX)})
        for name, array in self._saved_arrays().items():
            array[...] = snapshot[f"{_PREFIX}{name}"]
        self.opponents.bind(self.batch)
        saved_opponents = {name: a for name, a in snapshot.items() if name.startswith(_OPPONENTS_PREFIX)}
        self.opponents.restore({name.removeprefix(_OPPONENTS_PREFIX): a for name, a in saved_opponents.items()})
        self._is_bound = True
        if not self.restores_exactly:  # third-party environments begin new episodes
            self._start_episodes(np.ones(self.num_envs, np.bool_))

    def _saved_arrays(self) -> dict[str, Array]:
        """Return the arrays that a snapshot holds, by name."""
        names = [name for name, row in buffers.ENV_BUFFERS.items() if row.is_saved]
        return {name: getattr(self, name) for name in (*names, "episodes", "seats", "opponent_index")}

    def drain_log(self) -> dict[str, float]:
        """See `Batch.drain_log`."""
        return self.batch.drain_log()

    def close(self) -> None:
        """Close the environments."""
        self.batch.close()


def _bits_24(key: np.uint64, counters: Array) -> Array:
    """Return a random integer of 24 bits, int64, for each of the counters, uint64."""
    return np.asarray(((philox(key, counters) & np.uint64(0xFFFFFFFF)) >> np.uint64(8)).astype(np.int64))
