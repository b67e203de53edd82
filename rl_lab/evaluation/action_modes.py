"""Choose between greedy and sampled actions when an agent is selected, evaluated and reported.

Training samples actions, and the most probable actions of a policy alone need not reach the return that it has in
training. `evaluation.actions` sets which actions are evaluated: "greedy", "sampled", or "auto" for both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl_lab.core.agent import Agent
from rl_lab.evaluation.evaluate import Evaluation

NAMES = {True: "greedy", False: "sampled"}  # by `deterministic`
_MIN_STANDARD_ERRORS = 2.0  # by which sampled actions must be better to be preferred


def differ(agent: Agent) -> bool:
    """Return whether an agent's sampled actions may differ from its greedy ones."""
    return bool(getattr(agent, "stochastic", False))


def modes_of(agent: Agent, actions: str, *, deterministic: bool = True) -> tuple[bool, ...]:
    """Return the modes in which an agent is evaluated, as values of `deterministic`; the first one is reported.

    `actions` is the scenario's `evaluation.actions`. With "auto", the modes are `deterministic` alone where the two do
    not differ, and else both, beginning with the mode in which training selected the agent.
    """
    if actions != "auto":
        return (actions == NAMES[True],)
    if not deterministic or not differ(agent):
        return (deterministic,)
    selected = bool(getattr(agent, "chosen_deterministic", True))
    return (selected, not selected)


def opponents_mode(modes: tuple[bool, ...]) -> bool:
    """Return the mode of the opponents, a value of `deterministic`, while an agent is evaluated in these modes.

    With one mode, the opponents have the agent's. With two modes, they are greedy in both evaluations, so that only the
    agent differs.
    """
    return len(modes) > 1 or modes[0]


def depends_on_mode(opponent: Agent) -> bool:
    """Return whether an opponent's actions may differ between training, where it samples, and evaluation."""
    return differ(opponent) or bool(getattr(opponent, "samples_on_request", False))


@dataclass(frozen=True)
class Measured:
    """The mean return of an agent in one mode, averaged over its opponents, and its standard error."""

    deterministic: bool
    score: float
    error: float  # standard error of the score
    length: float  # mean length of the episodes in steps

    def falls_short(self, score: float, error: float = 0.0) -> bool:
        """Return whether this score is significantly below another one with its standard error."""
        return score - self.score > _MIN_STANDARD_ERRORS * math.hypot(self.error, error)


def measured(deterministic: bool, evaluations: Sequence[Evaluation]) -> Measured:
    """Return the result of evaluations of one agent in one mode, against one opponent each."""
    means, variances = [], []
    for each in evaluations:
        returns = np.array([episode.return_ for episode in each.episodes])
        means.append(float(each.summary["mean_return"]))
        variances.append(float(returns.var(ddof=1)) / len(returns) if len(returns) > 1 else 0.0)
    length = float(np.mean([each.summary["mean_length"] for each in evaluations]))
    return Measured(deterministic, float(np.mean(means)), math.sqrt(sum(variances)) / len(variances), length)


def select(
    modes: tuple[bool, ...], measure: Callable[[bool], Measured], sampled_return: float | None
) -> tuple[Measured, str]:
    """Return the result of the better mode and a note on the other one; greedy actions are preferred.

    `sampled_return` is the mean return of the last training episodes, whose actions were sampled; None where it is
    unknown or not comparable. Sampled actions are evaluated only where greedy ones fall short of it.
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


def compared(reported: Evaluation, other: Evaluation) -> dict[str, Any]:
    """Return the results of the other mode for the summary of the reported mode."""
    keys = ("mean_return", "iqm_return", "ci95", "success_rate", "episodes", "deterministic")
    first, second = (measured(bool(each.summary["deterministic"]), [each]) for each in (reported, other))
    return {
        "actions": NAMES[second.deterministic],
        **{key: other.summary[key] for key in keys},
        "better": first.falls_short(second.score, second.error),
    }
