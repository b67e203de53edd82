"""Evaluate an agent in exactly E complete episodes, whose seeds training does not use."""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from rl_lab.adapters import make
from rl_lab.core.agent import Agent
from rl_lab.core.errors import WorkFailed
from rl_lab.core.files import atomic_write_bytes as atomic_write_bytes
from rl_lab.core.protocols import EnvSpec
from rl_lab.core.text_table import format_table
from rl_lab.core.untrusted import is_finite
from rl_lab.core.world import Array
from rl_lab.engine.batch import SEEDS
from rl_lab.evaluation import stats
from rl_lab.multiagent.match_runner import MatchRunner, seat_rotation

TRAINING_SEEDS = range(0, 2**31)
EVALUATION_SEED = 2**31  # of episode 0; episode e has EVALUATION_SEED + e
SELECTION_SEED = EVALUATION_SEED + 2**30  # of episode 0 where training selects its best agent
MAX_EPISODE_STEPS = 100_000  # maximum length of an episode in steps where the world has no horizon
_NUM_ENVS, _NUM_FOREIGN_ENVS = 64, 8  # third-party environments step one after the other and gain little from a batch


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
    success: bool | None  # whether the return reached the world's `solved`; None for a world without `solved`
    actions: Array = field(compare=False, repr=False)  # int64 [T], or float32 [T, k]
    seats: tuple[int, ...] = (0,)
    returns: tuple[float, ...] = ()

    def line(self) -> dict[str, Any]:
        """Return the fields except the actions for JSON; seats and returns only in a world of several agents."""
        omitted = ("actions",) if self.returns else ("actions", "seats", "returns")
        return {f.name.rstrip("_"): getattr(self, f.name) for f in fields(self) if f.name not in omitted}


@dataclass(frozen=True)
class Evaluation:
    """The episodes of one agent in one world; `summary` is `stats.summary` with the settings of the evaluation."""

    agent: str
    world: str
    params: dict[str, Any]
    episodes: tuple[Episode, ...]
    summary: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write `episodes.jsonl`, with one object in each line, and `summary.json`, each atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(episode.line(), allow_nan=False) + "\n" for episode in self.episodes]
        atomic_write_bytes(folder / "episodes.jsonl", "".join(lines).encode())
        text = json.dumps(self.summary, allow_nan=False, indent=2)
        atomic_write_bytes(folder / "summary.json", f"{text}\n".encode())


def evaluate(
    agent: Agent,
    world: str,
    params: dict[str, Any],
    *,
    episodes: int,
    opponent: Agent | None = None,
    role: str = "",
    first_seed: int = EVALUATION_SEED,
    deterministic: bool = True,
    opponent_deterministic: bool | None = None,
    num_envs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Play E complete episodes, episode e from the seed `first_seed + e`.

    Environment n of N plays the episodes n, n + N, n + 2N and so on. Taking the first E episodes that end would favour
    short ones. The result does not depend on N unless the agent's actions for one row depend on the other rows: actions
    that are sampled from one generator do, and those of a matrix product may, by rounding. The global generators of
    numpy, random and torch are restored, so an evaluation does not change a training.

    Args:
        agent: the agent to evaluate.
        world: the name of a world of the lab, or the id of a third-party environment such as `gym:ID`.
        params: the parameters of the world by field.
        episodes: E.
        opponent: in a world of several agents, the agent at the seats that `agent` does not have. Without an opponent,
            the agent has all seats.
        role: the role that the agent plays against the opponent; by default each role in turn.
        first_seed: the seed of episode 0; all seeds must be below 2**32.
        deterministic: the agent's mode.
        opponent_deterministic: the opponent's mode, by default that of the agent.
        num_envs: N; the default depends on the world.
        progress: is called with (episodes that have ended, E).

    Raises:
        ValueError: an argument is out of range, or `make` or `MatchRunner` raises it.
        NonFiniteError: as in `Batch.step`.
        EndlessEpisodeError: an episode in a world without a horizon has not ended after 100,000 steps.
    """
    _check_counts(episodes, num_envs, first_seed)
    num_envs = num_envs or (_NUM_FOREIGN_ENVS if make.is_foreign(world, params) else _NUM_ENVS)
    opponent_mode = deterministic if opponent_deterministic is None else opponent_deterministic
    with preserve_global_rng():
        if not (deterministic and opponent_mode) and (torch := sys.modules.get("torch")):
            torch.manual_seed(first_seed)  # so that a repeated evaluation samples the same actions
        envs = make.make(world, min(num_envs, episodes), params, autoreset=AutoresetMode.DISABLED)
        with closing(envs):
            seats = _seats(envs.world, role, has_opponent=opponent is not None)
            modes = {"deterministic": deterministic, "opponent_deterministic": opponent_mode}
            runner = MatchRunner([agent, opponent] if opponent else agent, envs, **modes)
            ordered = _play(runner, episodes, first_seed, seats, progress)
            log = envs.drain_log()
    # JSON has no infinite numbers, which a parameter of a foreign environment may be if its default is.
    shown = {name: value if is_finite(value) else str(value) for name, value in params.items()}
    arguments: dict[str, Any] = {"agent": agent.name, "world": world, "params": shown}
    arguments |= {"deterministic": deterministic, "first_seed": first_seed}
    arguments |= {} if opponent is None else {"opponent": opponent.name, "role": role}
    summary = _summary(ordered) | arguments | {"log": {name: log[name] for name in log if name != "episodes"}}
    return Evaluation(agent.name, world, params, ordered, summary)


def _play(
    runner: MatchRunner,
    count: int,
    first_seed: int,
    seats: list[tuple[int, ...]],
    progress: Callable[[int, int], None] | None,
) -> tuple[Episode, ...]:
    """Return the episodes in their order, see `_episodes`."""
    by_index: dict[int, Episode] = {}
    for episode in _episodes(runner, count, first_seed, seats):
        by_index[episode.index] = episode
        if progress is not None:
            progress(len(by_index), count)
    return tuple(by_index[index] for index in range(count))


def _check_counts(episodes: int, num_envs: int | None, first_seed: int) -> None:
    """Raise ValueError for numbers that are out of range."""
    if episodes < 1 or (num_envs is not None and num_envs < 1):
        raise ValueError(f"episodes={episodes}, num_envs={num_envs}: each must be at least 1")
    if first_seed < 0 or first_seed + episodes > SEEDS:
        raise ValueError(f"first_seed={first_seed} and {episodes} episodes: seeds lie in 0..2**32-1")


def _seats(world: EnvSpec, role: str, *, has_opponent: bool) -> list[tuple[int, ...]]:
    """Return the seats of the evaluated agent, which episodes take in turn: all of them if there is no opponent."""
    if not has_opponent:
        return [tuple(range(len(world.agents)))]
    if len(world.agents) == 1:
        raise ValueError(f"{world.name} has one agent: there is no agent left for an opponent")
    return seat_rotation(world, role)


def _summary(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Return `stats.summary` of the episodes for JSON."""
    successes = None if episodes[0].success is None else [bool(e.success) for e in episodes]
    summary = stats.summary([e.return_ for e in episodes], [e.length for e in episodes], successes)
    return summary | {"ci95": list(summary["ci95"])}


def _episodes(runner: MatchRunner, count: int, first_seed: int, seats: list[tuple[int, ...]]) -> Iterator[Episode]:
    """Yield the episodes as they end; the first agent's seats in episode e are seats[e % len(seats)]."""
    envs, world, n = runner.envs, runner.envs.world, runner.envs.num_envs
    index, lengths, live = np.arange(n), np.zeros(n, np.int64), np.ones(n, np.bool_)
    is_multi_agent = len(world.agents) > 1
    step_actions = envs.actions if is_multi_agent else envs.actions[:, 0]
    actions = np.zeros((n, 64, *step_actions.shape[1:]), step_actions.dtype)  # [N, T], doubled when full

    def begin(new_episodes: Array) -> None:
        for i in np.flatnonzero(new_episodes).tolist():
            runner.assign_seats(i, seats[index[i] % len(seats)])
        # The seeds of the other environments have no effect, but they must be valid.
        runner.begin(new_episodes, first_seed + np.minimum(index, count - 1))

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
                success=None if world.solved is None else stats.reaches(return_, world.solved),
                actions=actions[i, : lengths[i]].copy(),
                seats=agent_seats,
                returns=tuple(envs.episode_returns[i].tolist()) if is_multi_agent else (),
            )
        index[ended] += n
        lengths[ended] = 0
        live = index < count
        if (new_episodes := live & ended).any():
            begin(new_episodes)


def mean_return(returns: Array, seats: tuple[int, ...]) -> float:
    """Return the mean of an episode's returns, float64 [A], over an agent's seats."""
    return float(np.mean(returns[list(seats)]))


def best_median_worst(evaluation: Evaluation) -> dict[str, Episode]:
    """Return the episodes with the best, the median (the lower of two) and the worst return; the first where equal."""
    returns = sorted(episode.return_ for episode in evaluation.episodes)
    targets = {"best": returns[-1], "median": returns[(len(returns) - 1) // 2], "worst": returns[0]}
    return {k: next(e for e in evaluation.episodes if e.return_ == value) for k, value in targets.items()}


def table(summary: dict[str, Any]) -> str:
    """Return an evaluation's summary as a few aligned lines for a terminal."""
    labels = {"mean": "mean return", "iqm": "IQM", "median": "median", "min": "min", "max": "max"}
    values, (low, high) = [summary[f"{key}_return"] for key in labels], summary["ci95"]
    # About four significant digits, for returns of any size.
    digits = max(3 - int(math.log10(max(1, *map(abs, values)))), 1)
    reason = stats.why_no_interval(summary["episodes"], summary["min_return"], summary["max_return"], "episode")
    notes = [reason or f"95% interval {low:,.{digits}f} to {high:,.{digits}f}", "mean of the middle half", "", "", ""]
    rows = [(label, f"{v:,.{digits}f}", note) for label, v, note in zip(labels.values(), values, notes, strict=True)]
    if summary["success_rate"] is not None:
        rows.append(("success", f"{summary['success_rate']:.1%}", ""))
    rows.append(("mean length", f"{summary['mean_length']:,.1f}", "steps"))
    rows += [(f"mean {name}", f"{value:,.3f}", "") for name, value in summary["log"].items()]
    if other := summary.get("other"):
        below, above = other["ci95"]
        span = f", 95% interval {below:,.{digits}f} to {above:,.{digits}f}" if below < above else ""
        note = f"mean return with {other['actions']} actions{span}"
        rows.append((other["actions"], f"{other['mean_return']:,.{digits}f}", note))
    count = summary["episodes"]
    against = f" against {summary['opponent']}" if summary.get("opponent") else ""
    mode = f"  {summary['actions']} actions" if summary.get("actions") else ""
    head = f"{summary['world']}  {summary['agent']}{against}  {count:,} episode{'s' * (count != 1)}{mode}"
    lines = [format_table(rows, left=(0, 2), indent="  ")]
    if other and other["better"]:
        name = other["actions"]
        lines.append(f"  note: {name} actions have a higher mean return; evaluation.actions={name} reports them")
    return "\n".join([head, *lines])


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
