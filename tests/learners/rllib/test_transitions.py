"""Rows that wait: in RLlib's train batch, every reward reaches the act it belongs to, wherever fragments end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("ray.rllib", reason="needs the extra rllib")

from rl_lab.adapters import make
from rl_lab.core import agent_registry
from rl_lab.learners.rllib.advantages import advantages_and_targets
from rl_lab.learners.rllib.fragment import Fragment
from rl_lab.learners.rllib.module import LabActorCritic
from rl_lab.learners.rllib.torch_sampler import sample_fragment
from rl_lab.learners.rllib.train_columns import train_columns
from rl_lab.learners.rllib.transitions import Pending

GAMMA, LAMBDA = 0.9, 0.8


class Play:
    """What happens to B rows in T steps, drawn at random. Each observation is a number of its own."""

    def __init__(self, seed: int, steps: int, rows: int, waiting: float) -> None:
        rng = np.random.default_rng(seed)
        self.shape = steps, rows
        self.acting = rng.random((steps + 1, rows)) >= waiting
        self.over = rng.random(self.shape) < 0.2
        self.truncated = self.over & (rng.random(self.shape) < 0.5)
        self.rewards = rng.integers(-3, 4, self.shape).astype(np.float32)
        self.observations = 1.0 + np.arange((steps + 1) * rows, dtype=np.float32).reshape(steps + 1, rows, 1)
        self.finals = -self.observations[:-1]

    def fragment(self, begin: int, stop: int) -> Fragment:
        part, rows = slice(begin, stop), self.shape[1]
        over = self.over[part]
        return Fragment(
            observations=self.observations[part],
            last_observations=self.observations[stop],
            final_observations=self.finals[part][over],
            actions=np.zeros((stop - begin, rows), np.int64),
            action_logp=self.observations[part, :, 0] / 2,
            action_dist_inputs=np.zeros((stop - begin, rows, 2), np.float32),
            rewards=self.rewards[part],
            terminated=over & ~self.truncated[part],
            truncated=self.truncated[part],
            acting=self.acting[part],
            last_acting=self.acting[stop],
        )

    def transition(self, t: int, row: int) -> tuple[float, int, str] | None:
        """Return what act (t, row) earns, the step after it, and how it ends; None where that is not known yet."""
        total = 0.0
        for step in range(t, self.shape[0]):
            total += self.rewards[step, row]
            if self.over[step, row]:
                return total, step + 1, "truncated" if self.truncated[step, row] else "terminated"
            if self.acting[step + 1, row]:
                return total, step + 1, "goes on"
        return None


def value(observation: float) -> float:
    return float(np.sin(observation))


def columns_by_act(play: Play, cuts: list[int]) -> tuple[dict[float, dict[str, float]], Pending | None]:
    """Return reward, target and raw data of each act by its observation, of fragments that end at these steps."""
    by_observation: dict[float, dict[str, float]] = {}
    pending: Pending | None = None
    begin = 0
    for stop in [*cuts, play.shape[0]]:
        columns, pending = train_columns(play.fragment(begin, stop), pending)
        begin = stop
        values = np.array([value(obs) for obs in columns["obs"][:, 0]], np.float32)
        if not len(values):
            continue
        _, targets = advantages_and_targets(columns, values, gamma=GAMMA, lambda_=0.0)
        for k in np.flatnonzero(columns["loss_mask"]):
            obs = float(columns["obs"][k, 0])
            assert obs not in by_observation, "an act is learned from twice"
            assert columns["action_logp"][k] == obs / 2, "columns of an act are of another"
            by_observation[obs] = {"reward": float(columns["rewards"][k]), "target": float(targets[k])}
    return by_observation, pending


@given(
    seed=st.integers(0, 2**31), rows=st.integers(1, 3), waiting=st.sampled_from([0.0, 0.3, 0.7, 0.95]), data=st.data()
)
def test_every_act_is_paid_once_and_bootstrapped_from_what_follows(
    seed: int, rows: int, waiting: float, data: Any
) -> None:
    """With lambda 0 a target is the act's reward and the discounted value of what its row sees next."""
    steps = data.draw(st.integers(1, 12))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(steps - 1, 1)), max_size=4)) - {steps})
    play = Play(seed, steps, rows, waiting)
    by_observation, pending = columns_by_act(play, cuts)
    expected, unknown = {}, []
    for t, row in zip(*np.nonzero(play.acting[:-1]), strict=True):
        transition = play.transition(t, row)
        if transition is None:
            unknown.append((row, float(play.rewards[t:, row].sum())))
            continue
        total, after, end = transition
        following = play.finals[after - 1, row, 0] if end == "truncated" else play.observations[after, row, 0]
        bootstrap = 0.0 if end == "terminated" else GAMMA * value(following)
        expected[float(play.observations[t, row, 0])] = {"reward": total, "target": total + bootstrap}
    assert set(by_observation) == set(expected)
    for obs, numbers in expected.items():
        assert by_observation[obs] == pytest.approx(numbers, abs=1e-5)
    assert pending is not None
    assert [*zip(pending.rows.tolist(), pending.columns["rewards"].tolist(), strict=True)] == sorted(unknown)


@given(seed=st.integers(0, 2**31), waiting=st.sampled_from([0.3, 0.8]))
def test_advantages_do_not_cross_episodes(seed: int, waiting: float) -> None:
    """With lambda above 0 the targets of a whole play are those of each row's acts taken one episode at a time."""
    play = Play(seed, 12, 2, waiting)
    columns, _ = train_columns(play.fragment(0, 12), None)
    if not len(columns["obs"]):
        return
    values = np.array([value(obs) for obs in columns["obs"][:, 0]], np.float32)
    _, targets = advantages_and_targets(columns, values, gamma=GAMMA, lambda_=LAMBDA)
    targets_of = {
        float(o): t for o, t, real in zip(columns["obs"][:, 0], targets, columns["loss_mask"], strict=True) if real
    }
    for obs, target in targets_of.items():
        t, row = divmod(int(obs) - 1, 2)
        assert target == pytest.approx(lambda_return(play, t, row), abs=1e-4)


def lambda_return(play: Play, t: int, row: int) -> float:
    """Return the lambda return of an act by its definition; the row's last complete act bootstraps from its value."""
    transition = play.transition(t, row)
    assert transition is not None
    total, after, end = transition
    if end == "terminated":
        return total
    if end == "truncated":
        return total + GAMMA * value(play.finals[after - 1, row, 0])
    bootstrap = value(play.observations[after, row, 0])
    if after < play.shape[0] and play.transition(after, row) is not None:
        bootstrap = (1 - LAMBDA) * bootstrap + LAMBDA * lambda_return(play, after, row)
    return total + GAMMA * bootstrap


@pytest.mark.parametrize(("steps", "fragments"), [(1, 200), (2, 200), (7, 100), (64, 20)])
def test_as_many_losses_as_wins_are_learned_from(steps: int, fragments: int) -> None:
    envs = make.make("tic_tac_toe", 4, seed=0)
    policy = agent_registry.load("ppo").learner(
        agent_registry.load("ppo").Config(n_steps=8, batch_size=8, net_arch=[8]), envs, budget=64, seed=0, device="cpu"
    )
    build = {"build": lambda: policy.model.policy}
    module = LabActorCritic(
        observation_space=envs.world.observation, action_space=envs.world.action, model_config=build
    )
    envs.reset()
    counts, pending = np.zeros(2, np.int64), None
    for _ in range(fragments):
        columns, pending = train_columns(sample_fragment(module, envs, steps).fragment, pending)
        paid = columns["rewards"][columns["loss_mask"]]
        counts += [(paid == 1).sum(), (paid == -1).sum()]
    assert pending is not None
    unpaid = pending.columns["rewards"]
    assert not unpaid.any(), "a reward without its act"
    assert counts[0] == counts[1] > fragments * steps * 4 / 12, "a game has at most nine moves; few are drawn"
