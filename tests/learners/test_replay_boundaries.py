"""Episodes that are broken off, by a reset or by resuming in a new one: n-step returns end there and bootstrap.

The tests fill replay buffers by hand, or by DQN learners, and look at the transitions that they sample.
"""

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
from rl_lab.learners.sb3.masked_replay_buffer import CompleteTransitionReplayBuffer, end_episodes

GAMMA, STEPS, SPACE = 0.9, 3, Box(-np.inf, np.inf, (1,))


class TwoRows:
    """A replay buffer of two rows that is filled step by step; observations are the number of the step."""

    def __init__(self, slots: int) -> None:
        self.vec_env: Any = SimpleNamespace(resets=0, envs=SimpleNamespace(world=SimpleNamespace(has_action_mask=True)))
        self.vec_env.action_masks = lambda: np.array([[True, False]] * 2)
        options: Any = {"vec_env": self.vec_env, "n_steps": STEPS, "gamma": GAMMA}
        self.buffer = CompleteTransitionReplayBuffer(2 * slots, SPACE, Discrete(2), "cpu", 2, **options)
        self.time = 0

    def step(
        self, reward: float, acted: tuple[bool, bool] = (True, True), acting_next: tuple[bool, bool] = (True, True)
    ) -> None:
        """Add a step in which rows get this reward, rows of `acted` act, and those of `acting_next` act in the next."""
        self.vec_env.is_decision_step, self.vec_env.acting = np.array(acted), np.array(acting_next)
        obs = np.full((2, 1), float(self.time))
        self.buffer.add(obs, obs + 1, np.zeros((2, 1)), np.full(2, reward), np.zeros(2), [{}, {}])
        self.time += 1


def test_returns_before_a_reset_have_no_rewards_of_the_next_episode() -> None:
    rows = TwoRows(slots=20)
    rows.step(1.0)
    rows.vec_env.resets += 1
    rows.step(7.0)
    rows.step(7.0)
    batch = rows.buffer.sample(200)
    before_reset = batch.observations[:, 0] == 0
    assert before_reset.any() and (batch.rewards[before_reset] == 1).all() and (batch.rewards[~before_reset] != 1).all()
    assert np.allclose(batch.discounts[before_reset], GAMMA) and (batch.dones[before_reset] == 0).all(), "it bootstraps"
    assert (batch.next_observations[before_reset] == 1).all(), "from the observation before the reset"
    assert (batch.next_action_masks[before_reset].numpy() == [1, 0]).all(), "among the actions that were legal there"


def test_a_transition_that_ended_while_its_row_waited_is_truncated_by_a_reset() -> None:
    rows = TwoRows(slots=20)
    rows.step(1.0, acting_next=(True, False))
    rows.step(1.0, acted=(True, False), acting_next=(True, True))  # row 1's transition is complete, and row 1 acts next
    rows.vec_env.resets += 1
    for _ in range(4):
        rows.step(7.0)
    batch = rows.buffer.sample(300)
    is_first = (batch.observations[:, 0] == 0).numpy()
    assert set(np.round(batch.rewards[is_first].flatten().tolist(), 2)) == {1.9, 2.0}


@settings(deadline=None)  # the first example loads the compiled learner
@given(
    st.integers(2, 9),
    st.integers(1, 30),
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12),
)
def test_no_return_crosses_a_reset_wherever_the_buffer_wraps(
    slots: int, steps_before: int, acting_flags: list[tuple[bool, bool]]
) -> None:
    rows = TwoRows(slots)
    acting = (True, True)
    for acting_next in (acting_flags * 30)[:steps_before]:
        rows.step(1.0, acting, acting_next)
        acting = acting_next
    rows.vec_env.resets += 1
    for _ in range(STEPS):
        rows.step(1000.0)
    buffer = rows.buffer
    batch = buffer.sample(200)
    is_before = (batch.observations[:, 0] < steps_before).numpy()
    assert (batch.rewards[is_before] < 1000).all() and (batch.next_observations[is_before] <= steps_before).all()
    n_step_return = plain_n_step_return()
    filled = buffer.size()
    for slot, row in np.argwhere(buffer.has_complete_transition[:filled]).tolist():
        reward, _, _ = n_step_return(slot, row, replay_arrays(buffer), STEPS, GAMMA, buffer.pos, filled)
        assert reward < 1000 or buffer.observations[slot, row, 0] >= steps_before


@pytest.mark.parametrize("buffer_class", [ReplayBuffer, NStepReplayBuffer])
@pytest.mark.parametrize("steps", [0, 1, 4, 5, 7])
def test_sb3s_own_buffers_end_their_episodes_too(buffer_class: type[ReplayBuffer], steps: int) -> None:
    options: Any = {"n_steps": STEPS, "gamma": GAMMA} if buffer_class is NStepReplayBuffer else {}
    buffer = buffer_class(5 * 2, SPACE, Discrete(2), "cpu", 2, **options)
    zero, done = np.zeros((2, 1)), np.array([0.0, 1.0])
    for t in range(steps):
        buffer.add(zero, zero, zero, np.ones(2), done if t == steps - 1 else np.zeros(2), [{}, {}])
    end_episodes(buffer)
    assert buffer.dones.sum() == 2 * (steps > 0) and buffer.timeouts.sum() == (steps > 0), (
        "a terminated episode is not marked as truncated"
    )
    for _ in range(2):
        buffer.add(zero, zero, zero, np.full(2, 1000.0), np.zeros(2), [{}, {}])
    if steps:
        last = (steps - 1) % 5
        batch = buffer._get_samples(np.full(50, last))
        assert (batch.rewards == 1).all() and set(batch.dones.flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("compiled", [False, True])
def test_n_step_returns_end_where_a_third_party_environment_resumes_in_a_new_episode(compiled: bool) -> None:
    module = agent_registry.load("dqn")
    values = {"learning_starts": 10**6, "buffer_size": 3000, "n_steps": 3, "compiled": compiled}
    learners = []
    for _ in range(2):
        envs = make.make("gym:CartPole-v1", 3, seed=0)
        learners.append(module.learner(module.Config(**values), envs, budget=10**6, seed=0, device="cpu"))
    first, resumed = learners
    first.train_iteration()
    saved = first.save()
    resumed.vec_env.envs.restore(first.vec_env.envs.snapshot())
    resumed.restore(saved)
    buffer: Any = resumed.model.replay_buffer
    last = buffer.pos - 1
    unfinished = first.model.replay_buffer.dones[last] == 0
    assert unfinished.any(), "otherwise the test would show nothing"
    assert (buffer.dones[last] == 1).all() and (buffer.timeouts[last][unfinished] == 1).all()
    assert np.array_equal(buffer.dones[:last], first.model.replay_buffer.dones[:last])
    for learner in learners:
        learner.vec_env.envs.close()
