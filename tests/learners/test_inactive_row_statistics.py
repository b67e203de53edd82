"""What is told and normalised of rows that wait: all that they are paid, and only the acts that are learned from."""

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

# Tribute: two move in turn, and each is paid when the other moves: 1 or -1, as the mover says.


class Tribute(WorldState):
    moves: i4 = bounded(0, low=0, high=4)
    to_move: i4 = bounded(0, low=0, high=1)


class TributeParams(Record):
    paid: i4 = bounded(0, low=0, high=1)  # the agent that is paid


@kernel
def tribute_reset(s: Tribute, p: TributeParams) -> None:
    s.moves = 0
    s.to_move = 0


@kernel
def tribute_step(s: Tribute, action: int, p: TributeParams, rewards: Array) -> bool:
    other = 1 - s.to_move
    if other == p.paid:
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


def tribute(*, compiled: bool, paid: int = 0, **values: Any) -> Any:
    module = agent_registry.load("ppo")
    config = module.Config(n_steps=16, batch_size=32, n_epochs=1, net_arch=[8], compiled=compiled, **values)
    envs = Batch(World(**TRIBUTE), 4, TributeParams(paid=paid), seed=0)
    return module.learner(config, envs, budget=10**6, seed=0, device="cpu")


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("paid", [0, 1])
def test_what_is_paid_while_a_row_waits_is_in_the_statistics_of_rewards(compiled: bool, paid: int) -> None:
    taught = tribute(compiled=compiled, paid=paid, normalize_rewards=True, gamma=1.0)
    normalizer = taught.model.get_vec_normalize_env()
    seen: list[float] = []
    step = taught.vec_env.step_wait
    returns = np.zeros(8)

    def noting() -> Any:
        """Note each row's running return in the steps in which it acts or is paid, and of both at the end."""
        acts = taught.vec_env.acting.copy()
        result = step()
        _, rewards, dones, _ = result
        returns[:] += rewards
        seen.extend(returns[acts | dones | (rewards != 0)].tolist())
        returns[dones] = 0
        return result

    taught.vec_env.step_wait = noting
    for _ in range(4):
        taught.train_iteration()
    assert np.var(seen) > 0.1
    # VecNormalize begins with a mean of 0 and a variance of 1, which have a weight of 1e-4.
    assert normalizer.ret_rms.mean == pytest.approx(np.mean(seen), abs=1e-4)
    assert normalizer.ret_rms.var == pytest.approx(np.var(seen), abs=1e-4)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_explained_variance_is_of_the_acts_that_are_learned_from(compiled: bool) -> None:
    taught = tribute(compiled=compiled)
    for _ in range(3):
        metrics = taught.train_iteration()
        buffer = taught.model.rollout_buffer
        assert buffer.acted.sum() < 0.6 * buffer.acted.size
        acted = buffer.acted.swapaxes(0, 1).reshape(-1)
        rows = [buffer.values, buffer.returns]
        if compiled:
            rows = [array.swapaxes(0, 1) for array in rows]
        values, returns = (array.reshape(-1) for array in rows)
        told = 1 - np.var((returns - values)[acted]) / np.var(returns[acted])
        assert metrics["train/explained_variance"] == pytest.approx(told, abs=1e-4)
        assert metrics["train/explained_variance"] != pytest.approx(1 - np.var(returns - values) / np.var(returns))


def weights(agent: Any) -> list[Array]:
    """Return copies of a policy's parameters and of its observation statistics."""
    arrays = [value.detach().numpy().copy() for value in agent.policy.state_dict().values()]
    return [*arrays, *map(np.copy, agent.normalizer.values())]


def test_opponents_that_learn_are_as_they_were_when_the_iteration_began(tmp_path: Path) -> None:
    text = "world: tic_tac_toe\nworlds: 8\nvideo: false\nthreads: 1\nbudget: 4096\n"
    text += "league: {anchors: [random], members: {main: 1, league_exploiter: 1}}\n"
    text += "agent: {name: ppo, n_steps: 8, batch_size: 32, normalize_observations: true}\n"
    (tmp_path / "small.yaml").write_text(text)
    league, envs = make_learner(compose(str(tmp_path / "small.yaml")))
    assert isinstance(league, League)
    league.set_run_dir(tmp_path)
    assert league.batched_policies is None, "with statistics, policies decide one by one"
    main, other = league.learners
    advance, compared = other.learner.train_iteration, []
    for _ in range(2):
        before = weights(main.learner.agent())

        def noting(before: list[Array] = before) -> dict[str, float]:
            met, now = weights(other.opponents.agents[0]), weights(main.learner.agent())
            assert all(map(np.array_equal, met, before)), "its opponent has learned in the meantime"
            assert not all(map(np.array_equal, now, before)), "main has learned"
            compared.append(True)
            return advance()

        other.learner.train_iteration = noting  # type: ignore[method-assign]
        league.train_iteration()
    assert len(compared) == 2
    envs.close()
