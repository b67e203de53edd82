"""Statistics of rows that wait: rewards while they wait are counted, observations only where a row acts.

The world `Tribute` pays the agent that waits. The last test is about the agents that a league's learners play against.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from rl_lab.core import agent_registry
from rl_lab.core.world import Array, Record, World, WorldState, bounded, i4, kernel
from rl_lab.engine.batch import Batch
from rl_lab.experiments.build import make_learner
from rl_lab.experiments.compose import compose
from rl_lab.league.league import League

# Tribute: two agents take turns, and one of them gets a reward whenever the other acts: 1 for action 1, -1 for action
# 0.


class Tribute(WorldState):
    moves: i4 = bounded(0, low=0, high=4)
    to_move: i4 = bounded(0, low=0, high=1)


class TributeParams(Record):
    rewarded_agent: i4 = bounded(0, low=0, high=1)  # the agent that gets rewards


@kernel
def tribute_reset(s: Tribute, p: TributeParams) -> None:
    s.moves = 0
    s.to_move = 0


@kernel
def tribute_step(s: Tribute, action: int, p: TributeParams, rewards: Array) -> bool:
    other = 1 - s.to_move
    if other == p.rewarded_agent:
        rewards[other] = 2.0 * action - 1.0
    s.moves += 1
    s.to_move = other
    return s.moves == 4


@kernel
def tribute_observe(s: Tribute, agent: int, p: TributeParams, out: Array) -> None:
    out[0] = s.moves


TRIBUTE: dict[str, Any] = {
    "State": Tribute,
    "Params": TributeParams,
    "reset": tribute_reset,
    "step": tribute_step,
    "observe": tribute_observe,
    "observation": Box(0, 4, (1,)),
    "action": Discrete(2),
    "agents": ("a", "b"),
    "current_player_field": "to_move",
    "horizon": 10,
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tribute(*, compiled: bool, rewarded_agent: int = 0, **values: Any) -> Any:
    module = agent_registry.load("ppo")
    config = module.Config(n_steps=16, batch_size=32, n_epochs=1, net_arch=[8], compiled=compiled, **values)
    envs = Batch(World(**TRIBUTE), 4, TributeParams(rewarded_agent=rewarded_agent), seed=0)
    return module.learner(config, envs, budget=10**6, seed=0, device="cpu")


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("rewarded_agent", [0, 1])
def test_rewards_of_waiting_rows_are_in_the_statistics_of_rewards(compiled: bool, rewarded_agent: int) -> None:
    learner = tribute(compiled=compiled, rewarded_agent=rewarded_agent, normalize_rewards=True, gamma=1.0)
    normalizer = learner.model.get_vec_normalize_env()
    running_returns: list[float] = []
    step = learner.vec_env.step_wait
    returns = np.zeros(8)

    def recording() -> Any:
        """Record the running returns of rows that act or get a reward, and of all rows at the end of an episode."""
        acting = learner.vec_env.acting.copy()
        result = step()
        _, rewards, dones, _ = result
        returns[:] += rewards
        running_returns.extend(returns[acting | dones | (rewards != 0)].tolist())
        returns[dones] = 0
        return result

    learner.vec_env.step_wait = recording
    for _ in range(4):
        learner.train_iteration()
    assert np.var(running_returns) > 0.1
    # VecNormalize begins with a mean of 0 and a variance of 1, which have a weight of 1e-4.
    assert normalizer.ret_rms.mean == pytest.approx(np.mean(running_returns), abs=1e-4)
    assert normalizer.ret_rms.var == pytest.approx(np.var(running_returns), abs=1e-4)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_explained_variance_is_that_of_complete_transitions(compiled: bool) -> None:
    learner = tribute(compiled=compiled)
    for _ in range(3):
        metrics = learner.train_iteration()
        buffer = learner.model.rollout_buffer
        assert buffer.has_complete_transition.sum() < 0.6 * buffer.has_complete_transition.size
        acted = buffer.has_complete_transition.swapaxes(0, 1).reshape(-1)
        rows = [buffer.values, buffer.returns]
        if compiled:
            rows = [array.swapaxes(0, 1) for array in rows]
        values, returns = (array.reshape(-1) for array in rows)
        expected = 1 - np.var((returns - values)[acted]) / np.var(returns[acted])
        assert metrics["train/explained_variance"] == pytest.approx(expected, abs=1e-4)
        assert metrics["train/explained_variance"] != pytest.approx(1 - np.var(returns - values) / np.var(returns))


def copied_arrays(agent: Any) -> list[Array]:
    """Return copies of a policy's parameters and of its observation statistics."""
    arrays = [value.detach().numpy().copy() for value in agent.policy.state_dict().values()]
    return [*arrays, *map(np.copy, agent.normalizer.values())]


def test_learners_play_against_each_other_as_they_were_at_the_start_of_the_iteration(tmp_path: Path) -> None:
    text = "world: tic_tac_toe\nworlds: 8\nvideo: false\nthreads: 1\nbudget: 4096\n"
    text += "league: {anchors: [random], members: {main: 1, league_exploiter: 1}}\n"
    text += "agent: {name: ppo, n_steps: 8, batch_size: 32, normalize_observations: true}\n"
    (tmp_path / "small.yaml").write_text(text)
    league, envs = make_learner(compose(str(tmp_path / "small.yaml")))
    assert isinstance(league, League)
    league.set_run_dir(tmp_path)
    assert league.batched_policies is None, "policies with observation statistics are not batched"
    main, other = league.learners
    train_iteration, checked = other.learner.train_iteration, []
    for _ in range(2):
        before = copied_arrays(main.learner.agent())

        def recording(before: list[Array] = before) -> dict[str, float]:
            opponent, current = copied_arrays(other.opponents.agents[0]), copied_arrays(main.learner.agent())
            assert all(map(np.array_equal, opponent, before)), "its opponent has learned in the meantime"
            assert not all(map(np.array_equal, current, before)), "main has learned"
            checked.append(True)
            return train_iteration()

        other.learner.train_iteration = recording  # type: ignore[method-assign]
        league.train_iteration()
    assert len(checked) == 2
    envs.close()
