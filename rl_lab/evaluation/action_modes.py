"""Decide in which mode a stochastic policy is evaluated: with greedy actions (its most probable ones) or sampled ones.

Training samples actions, and a policy's greedy actions need not reach the return that it has in training. The scenario
key `evaluation.actions` says which actions are evaluated: "greedy", "sampled", or "auto" for both. In this module a
mode is a bool, the value of `deterministic` that `Agent.act` receives: True is greedy, False is sampled.

`experiments.selection` calls `select_mode` while an agent is trained; `experiments.build.evaluate_scenario` and the
commands call `evaluation_modes`. The functions have no side effects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl_lab.core.agent import Agent
from rl_lab.evaluation.evaluate import Evaluation

MODE_NAMES = {True: "greedy", False: "sampled"}  # by mode
# Sampled actions are preferred only where they are better than greedy ones by more than this many standard errors.
_MIN_STANDARD_ERRORS = 2.0


def is_stochastic(agent: Agent) -> bool:
    """Return whether an agent's sampled actions may differ from its greedy ones."""
    return bool(getattr(agent, "stochastic", False))


def evaluation_modes(agent: Agent, actions: str, *, deterministic: bool = True) -> tuple[bool, ...]:
    """Return the modes in which an agent is evaluated; the result of the first one is reported.

    `actions` and `deterministic` are the scenario's `evaluation.actions` and `evaluation.deterministic`. With "auto",
    a stochastic agent is evaluated in both modes, beginning with the one in which training selected it. An agent that
    is not stochastic, and any agent with `deterministic` False, is evaluated in the mode `deterministic` alone.
    """
    if actions != "auto":
        return (actions == MODE_NAMES[True],)
    if not deterministic or not is_stochastic(agent):
        return (deterministic,)
    selected = bool(getattr(agent, "selected_deterministic", True))
    return (selected, not selected)


def opponent_is_deterministic(modes: tuple[bool, ...]) -> bool:
    """Return the mode of the opponents while an agent is evaluated in these modes.

    With one mode, the opponents have the agent's. With two modes, they are greedy in both evaluations, so that only the
    agent differs.
    """
    return len(modes) > 1 or modes[0]


def depends_on_mode(opponent: Agent) -> bool:
    """Return whether an opponent's actions may differ between training, where it samples, and evaluation."""
    return is_stochastic(opponent) or bool(getattr(opponent, "samples_on_request", False))


@dataclass(frozen=True)
class ModeResult:
    """The result of an agent in one mode: its mean return, averaged over its opponents, and the standard error."""

    deterministic: bool
    score: float
    error: float  # standard error of the score
    length: float  # mean length of the episodes in steps

    def falls_short(self, score: float, error: float = 0.0) -> bool:
        """Return whether this score is significantly below another one with its standard error."""
        return score - self.score > _MIN_STANDARD_ERRORS * math.hypot(self.error, error)


def mode_result(deterministic: bool, evaluations: Sequence[Evaluation]) -> ModeResult:
    """Return the result of evaluations of one agent in one mode, against one opponent each."""
    means, variances = [], []
    for each in evaluations:
        returns = np.array([episode.return_ for episode in each.episodes])
        means.append(float(each.summary["mean_return"]))
        variances.append(float(returns.var(ddof=1)) / len(returns) if len(returns) > 1 else 0.0)
    length = float(np.mean([each.summary["mean_length"] for each in evaluations]))
    return ModeResult(deterministic, float(np.mean(means)), math.sqrt(sum(variances)) / len(variances), length)


def select_mode(
    modes: tuple[bool, ...], measure: Callable[[bool], ModeResult], sampled_return: float | None
) -> tuple[ModeResult, str]:
    """Evaluate an agent by `measure(deterministic)`; return the result of the better mode and a note on the other one.

    Greedy actions are preferred. Sampled actions are evaluated only where the greedy ones fall short of
    `sampled_return`, the mean return of the last training episodes, whose actions were sampled. It is None where it is
    unknown or not comparable.
    """
    if len(modes) == 1:
        return measure(modes[0]), ""
    greedy = measure(True)
    if sampled_return is None or not greedy.falls_short(sampled_return):
        return greedy, ""
    sampled = measure(False)
    if greedy.falls_short(sampled.score, sampled.error):
        return sampled, f" with sampled actions, {greedy.score:.2f} with greedy ones"
    return greedy, f" with greedy actions, {sampled.score:.2f} with sampled ones"


def other_mode_figures(reported: Evaluation, other: Evaluation) -> dict[str, Any]:
    """Return figures of the mode that is not reported, for the entry "other" in the summary of the reported mode."""
    keys = ("mean_return", "iqm_return", "ci95", "success_rate", "episodes", "deterministic")
    first, second = (mode_result(bool(each.summary["deterministic"]), [each]) for each in (reported, other))
    return {
        "actions": MODE_NAMES[second.deterministic],
        **{key: other.summary[key] for key in keys},
        "better": first.falls_short(second.score, second.error),
    }
