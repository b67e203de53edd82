"""Evaluate an agent in exactly E complete episodes, whose seeds training does not use.

`evaluate` plays the episodes (by `episodes.play_part`) and returns an `Evaluation`: the episodes and a summary of
their returns. `Evaluation.save` writes it to files; `table` formats the summary for a terminal. Training, commands and
tournaments all evaluate through this module, so that their figures can be compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl_lab.core.agent import Agent
from rl_lab.core.files import atomic_write_bytes as atomic_write_bytes
from rl_lab.core.text_table import format_table
from rl_lab.core.untrusted import is_finite
from rl_lab.engine.batch import NUM_SEEDS
from rl_lab.engine.batch_arrays import mean_log
from rl_lab.evaluation import stats
from rl_lab.evaluation.episodes import MAX_EPISODE_STEPS as MAX_EPISODE_STEPS
from rl_lab.evaluation.episodes import EndlessEpisodeError as EndlessEpisodeError
from rl_lab.evaluation.episodes import Episode as Episode
from rl_lab.evaluation.episodes import EpisodePlan, EvaluationPart, play_part
from rl_lab.evaluation.episodes import mean_return as mean_return
from rl_lab.evaluation.episodes import preserve_global_rng as preserve_global_rng

TRAINING_SEEDS = range(0, 2**31)
EVALUATION_SEED = 2**31  # the seed of episode 0 of an evaluation; episode e has EVALUATION_SEED + e
SELECTION_SEED = EVALUATION_SEED + 2**30  # the seed of episode 0 where training selects its best agent


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
        lines = [json.dumps(episode.as_json(), allow_nan=False) + "\n" for episode in self.episodes]
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
    opponent_mode = deterministic if opponent_deterministic is None else opponent_deterministic
    modes = {"deterministic": deterministic, "opponent_deterministic": opponent_mode}
    plan = EpisodePlan(world, params, episodes, first_seed, role=role, num_envs=num_envs, **modes)
    return assemble(plan, [play_part(plan, agent, opponent, progress=progress)], agent, opponent)


def assemble(plan: EpisodePlan, parts: Sequence[EvaluationPart], agent: Agent, opponent: Agent | None) -> Evaluation:
    """Return the evaluation that consists of these parts, which together have all environments of the plan."""
    parts = sorted(parts, key=lambda part: part.env_indices.start)
    ordered = tuple(sorted((episode for part in parts for episode in part.episodes), key=lambda each: each.index))
    log = mean_log(np.concatenate([part.log_totals for part in parts]), parts[0].log_names)
    # JSON has no infinite numbers, which a parameter of a foreign environment may be if its default is.
    json_params = {name: value if is_finite(value) else str(value) for name, value in plan.params.items()}
    arguments: dict[str, Any] = {"agent": agent.name, "world": plan.world, "params": json_params}
    arguments |= {"deterministic": plan.deterministic, "first_seed": plan.first_seed}
    arguments |= {} if opponent is None else {"opponent": opponent.name, "role": plan.role}
    summary = _summary(ordered) | arguments | {"log": {name: log[name] for name in log if name != "episodes"}}
    return Evaluation(agent.name, plan.world, plan.params, ordered, summary)


def _check_counts(episodes: int, num_envs: int | None, first_seed: int) -> None:
    """Raise ValueError for numbers that are out of range."""
    if episodes < 1 or (num_envs is not None and num_envs < 1):
        raise ValueError(f"episodes={episodes}, num_envs={num_envs}: each must be at least 1")
    if first_seed < 0 or first_seed + episodes > NUM_SEEDS:
        raise ValueError(f"first_seed={first_seed} and {episodes} episodes: seeds lie in 0..2**32-1")


def _summary(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Return `stats.summary` of the episodes for JSON."""
    successes = None if episodes[0].success is None else [bool(e.success) for e in episodes]
    summary = stats.summary([e.return_ for e in episodes], [e.length for e in episodes], successes)
    return summary | {"ci95": list(summary["ci95"])}


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
