"""Where an episode is broken off, by a reset or by resuming in a new one, n-step returns end and bootstrap."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from support.compiled import plain_n_step_return

from rl_lab.adapters import make
from rl_lab.core import agent_registry
from rl_lab.learners.sb3.dqn_arguments import replay_arrays
from rl_lab.learners.sb3.masked_replay_buffer import ActingReplayBuffer, end_episodes

GAMMA, STEPS, SPACE = 0.9, 3, Box(-np.inf, np.inf, (1,))


class Rows:
    """A buffer of two rows, filled step by step; row 1 waits after its acts where it is said to."""

    def __init__(self, slots: int) -> None:
        self.vec_env: Any = SimpleNamespace(resets=0, envs=SimpleNamespace(world=SimpleNamespace(has_action_mask=True)))
        self.vec_env.action_masks = lambda: np.array([[True, False]] * 2)
        more: Any = {"vec_env": self.vec_env, "n_steps": STEPS, "gamma": GAMMA}
        self.kept = ActingReplayBuffer(2 * slots, SPACE, Discrete(2), "cpu", 2, **more)
        self.time = 0

    def step(
        self, paid: float, acted: tuple[bool, bool] = (True, True), then: tuple[bool, bool] = (True, True)
    ) -> None:
        self.vec_env.acted, self.vec_env.acting = np.array(acted), np.array(then)
        seen = np.full((2, 1), float(self.time))
        self.kept.add(seen, seen + 1, np.zeros((2, 1)), np.full(2, paid), np.zeros(2), [{}, {}])
        self.time += 1


def test_an_act_before_a_reset_is_paid_nothing_of_the_next_episode() -> None:
    one = Rows(slots=20)
    one.step(1.0)
    one.vec_env.resets += 1
    one.step(7.0)
    one.step(7.0)
    drawn = one.kept.sample(200)
    first = drawn.observations[:, 0] == 0
    assert first.any() and (drawn.rewards[first] == 1).all() and (drawn.rewards[~first] != 1).all()
    assert np.allclose(drawn.discounts[first], GAMMA) and (drawn.dones[first] == 0).all(), "it bootstraps"
    assert (drawn.next_observations[first] == 1).all(), "from what was seen before the reset"
    assert (drawn.next_action_masks[first].numpy() == [1, 0]).all(), "among the actions that were legal there"


def test_an_act_that_is_closed_while_its_row_waits_is_the_last_one_too() -> None:
    one = Rows(slots=20)
    one.step(1.0, then=(True, False))
    one.step(1.0, acted=(True, False), then=(True, True))  # now row 1's act is closed, and its row is to act
    one.vec_env.resets += 1
    for _ in range(4):
        one.step(7.0)
    drawn = one.kept.sample(300)
    before = (drawn.observations[:, 0] == 0).numpy()
    assert set(np.round(drawn.rewards[before].flatten().tolist(), 2)) == {1.9, 2.0}


@settings(deadline=None)  # the first example loads the compiled learner
@given(
    st.integers(2, 9),
    st.integers(1, 30),
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12),
)
def test_no_return_crosses_a_seam_wherever_the_ring_is(slots: int, before: int, moves: list[tuple[bool, bool]]) -> None:
    one = Rows(slots)
    active = (True, True)
    for then in (moves * 30)[:before]:
        one.step(1.0, active, then)
        active = then
    one.vec_env.resets += 1
    for _ in range(STEPS):
        one.step(1000.0)
    kept = one.kept
    drawn = kept.sample(200)
    old = (drawn.observations[:, 0] < before).numpy()
    assert (drawn.rewards[old] < 1000).all() and (drawn.next_observations[old] <= before).all()
    n_step_return = plain_n_step_return()
    filled = kept.size()
    for slot, row in np.argwhere(kept.acted[:filled]).tolist():
        paid, _, _ = n_step_return(slot, row, replay_arrays(kept), STEPS, GAMMA, kept.pos, filled)
        assert paid < 1000 or kept.observations[slot, row, 0] >= before


@pytest.mark.parametrize("kind", [ReplayBuffer, NStepReplayBuffer])
@pytest.mark.parametrize("steps", [0, 1, 4, 5, 7])
def test_the_librarys_buffers_end_their_episodes_too(kind: type[ReplayBuffer], steps: int) -> None:
    more: Any = {"n_steps": STEPS, "gamma": GAMMA} if kind is NStepReplayBuffer else {}
    kept = kind(5 * 2, SPACE, Discrete(2), "cpu", 2, **more)
    zero, done = np.zeros((2, 1)), np.array([0.0, 1.0])
    for t in range(steps):
        kept.add(zero, zero, zero, np.ones(2), done if t == steps - 1 else np.zeros(2), [{}, {}])
    end_episodes(kept)
    assert kept.dones.sum() == 2 * (steps > 0) and kept.timeouts.sum() == (steps > 0), "a true end stays one"
    for _ in range(2):
        kept.add(zero, zero, zero, np.full(2, 1000.0), np.zeros(2), [{}, {}])
    if steps:
        last = (steps - 1) % 5
        drawn = kept._get_samples(np.full(50, last))
        assert (drawn.rewards == 1).all() and set(drawn.dones.flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("compiled", [False, True])
def test_a_foreign_environment_resumes_without_a_chain_into_its_new_episode(compiled: bool) -> None:
    module = agent_registry.load("dqn")
    values = {"learning_starts": 10**6, "buffer_size": 3000, "n_steps": 3, "compiled": compiled}
    learners = []
    for _ in range(2):
        envs = make.make("gym:CartPole-v1", 3, seed=0)
        learners.append(module.learner(module.Config(**values), envs, budget=10**6, seed=0, device="cpu"))
    one, other = learners
    one.train_iteration()
    saved = one.save()
    other.vec_env.envs.restore(one.vec_env.envs.snapshot())
    other.restore(saved)
    buffer: Any = other.model.replay_buffer
    last = buffer.pos - 1
    going_on = one.model.replay_buffer.dones[last] == 0
    assert going_on.any(), "nothing would be seen of it"
    assert (buffer.dones[last] == 1).all() and (buffer.timeouts[last][going_on] == 1).all()
    assert np.array_equal(buffer.dones[:last], one.model.replay_buffer.dones[:last])
    for learner in learners:
        learner.vec_env.envs.close()
