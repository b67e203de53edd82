"""Play the episodes of an evaluation: one agent, maybe an opponent, fixed seeds, N environments stepped as a batch.

An `EpisodePlan` says which episodes there are and in which of the N environments each of them is played. `play_part`
plays those of all environments or of some: `evaluate.evaluate` plays them all at once, and workers on a Ray cluster
(`experiments.ray_evaluation`) play a part each. No files are written. Environments are made and closed here, and the
global random generators are as before when a function returns.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from rl_lab.adapters import make
from rl_lab.core.agent import Agent
from rl_lab.core.errors import WorkFailed
from rl_lab.core.protocols import EnvSpec
from rl_lab.core.world import Array
from rl_lab.evaluation import stats
from rl_lab.multiagent.match_runner import MatchRunner, seat_rotation

MAX_EPISODE_STEPS = 100_000  # maximum length of an episode in steps where the world has no horizon
# The default number of environments. Third-party ones step one after the other, and gain little from a large batch.
_NUM_ENVS, _NUM_FOREIGN_ENVS = 64, 8


class EndlessEpisodeError(WorkFailed, RuntimeError):
    """An episode of a world without a horizon has not ended after `MAX_EPISODE_STEPS` steps."""


@dataclass(frozen=True)
class Episode:
    """One evaluated episode and its actions, with which it can be played again.

    In a world of several agents, `seats` are the indices of the agent's seats, `return_` is the mean over them,
    `returns` are the returns of all A agents, and actions are [T, A] or [T, A, k].
    """

    index: int
    seed: int
    return_: float
    length: int  # environment steps
    terminated: bool
    truncated: bool
    success: bool | None  # whether the return reached the world's `reward_threshold`; None where it has none
    actions: Array = field(compare=False, repr=False)  # int64 [T], or float32 [T, k]
    seats: tuple[int, ...] = (0,)
    returns: tuple[float, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the fields except the actions, for JSON; seats and returns only in a world of several agents."""
        omitted = ("actions",) if self.returns else ("actions", "seats", "returns")
        return {f.name.rstrip("_"): getattr(self, f.name) for f in fields(self) if f.name not in omitted}


@dataclass(frozen=True)
class EpisodePlan:
    """The settings of the episodes of an evaluation, without the agents; see the arguments of `evaluate.evaluate`."""

    world: str
    params: dict[str, Any]
    episodes: int
    first_seed: int
    deterministic: bool
    opponent_deterministic: bool
    role: str = ""
    num_envs: int | None = None  # N; environment n plays the episodes n, n + N, n + 2N and so on

    def with_num_envs(self) -> EpisodePlan:
        """Return the plan with `num_envs` set: at most one environment for each episode."""
        default = _NUM_FOREIGN_ENVS if make.is_foreign(self.world, self.params) else _NUM_ENVS
        return replace(self, num_envs=min(self.num_envs or default, self.episodes))

    def divide(self, parts: int) -> list[range]:
        """Divide the indices of the environments into at most `parts` ranges of nearly equal size, and return these."""
        num_envs = self.with_num_envs().num_envs or 1
        ends = [round(k * num_envs / min(parts, num_envs)) for k in range(min(parts, num_envs) + 1)]
        return [range(first, last) for first, last in zip(ends, ends[1:], strict=False)]


@dataclass(frozen=True)
class EvaluationPart:
    """The episodes of some of a plan's environments, and what the world has logged in each of these environments.

    `log_totals` is float64 [n, 1 + K]: the number of episodes, and the sums of the K fields in `log_names` over them.
    """

    env_indices: range
    episodes: tuple[Episode, ...]
    log_totals: Array
    log_names: tuple[str, ...]


def can_be_divided(plan: EpisodePlan, agent: Agent, opponent: Agent | None) -> bool:
    """Return whether the episodes are the same bit for bit where the environments are divided among several batches.

    They are where each action depends on one row of the batch alone; agents say so with `is_row_wise`.
    """
    agents_and_modes = [(agent, plan.deterministic)] + (
        [] if opponent is None else [(opponent, plan.opponent_deterministic)]
    )
    return all(
        (is_row_wise := getattr(each, "is_row_wise", None)) is not None and is_row_wise(deterministic=mode)
        for each, mode in agents_and_modes
    )


def play_part(
    plan: EpisodePlan,
    agent: Agent,
    opponent: Agent | None,
    env_indices: range | None = None,
    *,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationPart:
    """Play the episodes of the environments with these indices, by default of all. Raises as `evaluate.evaluate`."""
    plan = plan.with_num_envs()
    env_indices = range(plan.num_envs or 1) if env_indices is None else env_indices
    with preserve_global_rng():
        if not (plan.deterministic and plan.opponent_deterministic) and (torch := sys.modules.get("torch")):
            torch.manual_seed(plan.first_seed)  # so that a repeated evaluation samples the same actions
        disabled = AutoresetMode.DISABLED
        envs = make.make(plan.world, len(env_indices), plan.params, autoreset=disabled, threads=threads)
        with closing(envs):
            modes = {"deterministic": plan.deterministic, "opponent_deterministic": plan.opponent_deterministic}
            runner = MatchRunner([agent, opponent] if opponent else agent, envs, **modes)
            episodes = []
            for episode in _play_episodes(runner, plan, env_indices):
                episodes.append(episode)
                if progress is not None:
                    progress(len(episodes), plan.episodes)
            totals = np.array(getattr(envs, "log_totals", np.zeros((len(env_indices), 1))))
            return EvaluationPart(env_indices, tuple(episodes), totals, tuple(getattr(envs.world, "log_names", ())))


# The type of a function (agent, plans with their opponents, progress) that plays all episodes of the plans and returns
# the parts of each plan. `progress` is called with (episodes that have ended, episodes of the plan).
PlayPlans = Callable[
    [Agent, Sequence[tuple[EpisodePlan, Agent | None]], Callable[[int, int], None] | None], list[list[EvaluationPart]]
]


def play_in_this_process(
    agent: Agent,
    plans: Sequence[tuple[EpisodePlan, Agent | None]],
    progress: Callable[[int, int], None] | None = None,
) -> list[list[EvaluationPart]]:
    """Play the plans one after the other in this process, as a function of type `PlayPlans` does."""
    return [[play_part(plan, agent, opponent, progress=progress)] for plan, opponent in plans]


def _agent_seats(world: EnvSpec, role: str, *, has_opponent: bool) -> list[tuple[int, ...]]:
    """Return the seats of the evaluated agent, which episodes take in turn: all of them if there is no opponent."""
    if not has_opponent:
        return [tuple(range(len(world.agents)))]
    if len(world.agents) == 1:
        raise ValueError(f"{world.name} has one agent: there is no agent left for an opponent")
    return seat_rotation(world, role)


def _play_episodes(runner: MatchRunner, plan: EpisodePlan, env_indices: range) -> Iterator[Episode]:
    """Step the environments until all their episodes have ended, and yield each episode when it ends.

    The evaluated agent, the first of the runner's, has the seats `seats[e % len(seats)]` in episode e.
    """
    envs, world, num_envs = runner.envs, runner.envs.world, runner.envs.num_envs
    seats = _agent_seats(world, plan.role, has_opponent=len(runner.agents) > 1)
    num_episodes, first_seed, envs_of_plan = plan.episodes, plan.first_seed, plan.num_envs or num_envs
    index = np.array(env_indices)  # of the episode that each environment plays
    lengths, live = np.zeros(num_envs, np.int64), np.ones(num_envs, np.bool_)
    is_multi_agent = len(world.agents) > 1
    step_actions = envs.actions if is_multi_agent else envs.actions[:, 0]
    actions = np.zeros((num_envs, 64, *step_actions.shape[1:]), step_actions.dtype)  # [N, T], doubled when full

    def begin(new_episodes: Array) -> None:
        for i in np.flatnonzero(new_episodes).tolist():
            runner.assign_seats(i, seats[index[i] % len(seats)])
        # The seeds of the other environments have no effect, but they must be valid.
        runner.begin(new_episodes, first_seed + np.minimum(index, num_episodes - 1))

    begin(live)
    while live.any():
        if world.horizon == 0 and lengths.max() == MAX_EPISODE_STEPS:
            where = f"{world.name}: episode {index[lengths.argmax()]}"
            raise EndlessEpisodeError(
                f"{where} has not ended after {MAX_EPISODE_STEPS:,} steps; give the world a horizon"
            )
        runner.step()
        if lengths.max() == actions.shape[1]:
            actions = np.concatenate([actions, np.zeros_like(actions)], axis=1)
        actions[live, lengths[live]] = step_actions[live]
        lengths[live] += 1
        ended = live & envs.done
        for i in np.flatnonzero(ended):
            agent_seats = seats[index[i] % len(seats)]
            return_ = mean_return(envs.episode_returns[i], agent_seats)
            yield Episode(
                index=int(index[i]),
                seed=first_seed + int(index[i]),
                return_=return_,
                length=int(envs.episode_lengths[i]),
                terminated=bool(envs.terminated[i]),
                truncated=bool(envs.truncated[i]),
                success=None if world.reward_threshold is None else stats.reaches(return_, world.reward_threshold),
                actions=actions[i, : lengths[i]].copy(),
                seats=agent_seats,
                returns=tuple(envs.episode_returns[i].tolist()) if is_multi_agent else (),
            )
        index[ended] += envs_of_plan
        lengths[ended] = 0
        live = index < num_episodes
        if (new_episodes := live & ended).any():
            begin(new_episodes)


def mean_return(returns: Array, seats: tuple[int, ...]) -> float:
    """Return the mean of an episode's returns, float64 [A], over an agent's seats."""
    return float(np.mean(returns[list(seats)]))


@contextmanager
def preserve_global_rng() -> Iterator[None]:
    """Restore the global generators of numpy, random and, where it has been imported, torch at the end of the block."""
    states, torch = (np.random.get_state(), random.getstate()), sys.modules.get("torch")
    torch_state = torch.get_rng_state() if torch else None
    cuda_states = torch.cuda.get_rng_state_all() if torch and torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
        if torch:
            torch.set_rng_state(torch_state)
            torch.cuda.set_rng_state_all(cuda_states)
