"""Tests of learned values in an environment in which one agent terminates and another is truncated in the same step.

The values of states can be computed exactly: an agent that terminates gets nothing more, and that of one that is
truncated must be bootstrapped, as if its episode went on for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pettingzoo
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from pettingzoo.utils.conversions import parallel_to_aec
from support.commands import run_command

from rl_lab.core.world import Array
from rl_lab.experiments.agent_loading import load_agent
from rl_lab.experiments.run_dir import Run

GAMMA, STEPS = 0.9, 5
VALUES_BEFORE_TERMINATION = [
    float(np.sum(GAMMA ** np.arange(left))) for left in range(STEPS, 0, -1)
]  # of the states after 0, 1, ... steps
VALUE_WITHOUT_END = 1 / (1 - GAMMA)
ENDS = [("terminated", "truncated"), ("truncated", "terminated"), ("truncated", "truncated")]
# The networks have one weight for each observation, so that learned values can be exact.
TRAIN_OVERRIDES = (
    "agent.net_arch=[] agent.learning_rate=0.05 budget=6000 worlds=4 video=false evaluation.episodes=2".split()
)
LEARNERS = {
    "ppo": "agent=ppo agent.n_steps=50 agent.batch_size=100 agent.gae_lambda=1.0",
    "dqn": "agent=dqn agent.learning_starts=50 agent.train_freq=1 agent.target_update_interval=20",
}


class TwoEndsEnv(pettingzoo.ParallelEnv):  # type: ignore[misc]
    """Two agents that get 1 a step, and end after 5 steps, each in its own way.

    An agent that terminates sees the number of steps; one that is truncated always sees the same. Both see it one-hot,
    agent a in the first half of a vector and agent b in the second.
    """

    metadata = {"name": "pair", "is_parallelizable": True}
    possible_agents = ["a", "b"]
    render_mode = None

    def __init__(self, a: str = "terminated", b: str = "truncated") -> None:
        self.ends = {"a": a, "b": b}

    def observation_space(self, agent: str) -> Any:
        return Box(0, 1, (2 * (STEPS + 1),), np.float32)

    def action_space(self, agent: str) -> Any:
        return Discrete(2)

    def observe_all(self) -> dict[str, Array]:
        return {agent: np.eye(2 * (STEPS + 1), dtype=np.float32)[self.index(agent)] for agent in self.possible_agents}

    def index(self, agent: str) -> int:
        return "ab".index(agent) * (STEPS + 1) + (self.t if self.ends[agent] == "terminated" else 0)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self.t, self.agents = 0, list(self.possible_agents)
        return self.observe_all(), {"a": {}, "b": {}}

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        self.t += 1
        flags = [
            {agent: self.t == STEPS and self.ends[agent] == kind for agent in "ab"}
            for kind in ("terminated", "truncated")
        ]
        if self.t == STEPS:
            self.agents = []
        return self.observe_all(), {"a": 1.0, "b": 1.0}, *flags, {"a": {}, "b": {}}


def aec_env(**ends: str) -> Any:
    return parallel_to_aec(TwoEndsEnv(**ends))


@pytest.fixture(autouse=True, scope="module")
def register_environments() -> Iterator[None]:
    pettingzoo.register("parallel", "labvalues/Pair_v0", TwoEndsEnv)
    pettingzoo.register("aec", "labvalues/PairInTurns_v0", aec_env)
    yield
    del pettingzoo.parallel_registry["labvalues/Pair-v0"]
    del pettingzoo.aec_registry["labvalues/PairInTurns-v0"]


def learned_values(folder: Path, name: str, ends: tuple[str, str], *words: str) -> Any:
    """Train with the command, and return the kept agent's value of every state, [2, states]."""
    params = [f"world.params.{agent}={end}" for agent, end in zip("ab", ends, strict=True)]
    words = (f"agent.gamma={GAMMA}", f"run_dir={folder}", *params, *TRAIN_OVERRIDES, *words)
    run_command("train", f"pettingzoo:labvalues/{name}_v0", *words)
    trained_run = Run(folder)
    policy: Any = getattr(load_agent(trained_run.agent, trained_run.scenario())[0], "policy")  # noqa: B009 (of these learners only)
    states = torch.eye(2 * (STEPS + 1))
    with torch.no_grad():
        values = policy.predict_values(states) if hasattr(policy, "predict_values") else policy.q_net(states).amax(1)
    return values.reshape(2, STEPS + 1).numpy()


def assert_exact(values: Array, end: str) -> None:
    """Compare an agent's values with the sums of its discounted rewards, which go on for ever where it is truncated."""
    expected = VALUES_BEFORE_TERMINATION if end == "terminated" else [VALUE_WITHOUT_END]
    np.testing.assert_allclose(values[: len(expected)], expected, rtol=0.01)


@pytest.mark.parametrize("ends", ENDS, ids="-".join)
@pytest.mark.parametrize("agent", LEARNERS)
def test_only_the_agent_that_is_truncated_is_bootstrapped(agent: str, ends: tuple[str, str], tmp_path: Path) -> None:
    values = learned_values(tmp_path / "run", "Pair", ends, *LEARNERS[agent].split())
    for agent_values, end in zip(values, ends, strict=True):
        assert_exact(agent_values, end)


def test_only_the_agent_that_is_truncated_is_bootstrapped_in_turns(tmp_path: Path) -> None:
    values = learned_values(tmp_path / "run", "PairInTurns", ENDS[0], *LEARNERS["ppo"].split())
    for agent_values, end in zip(values, ENDS[0], strict=True):
        assert_exact(agent_values, end)


def test_against_an_opponent_the_end_of_the_learners_agent_decides(tmp_path: Path) -> None:
    against = ("opponent=random", "role=b")
    values = learned_values(tmp_path / "run", "Pair", ENDS[0], *LEARNERS["ppo"].split(), *against)
    assert_exact(values[1], "truncated")
