"""The recorder of transitions, stepped by hand: rewards between two decisions, and agents that leave."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from rl_lab.datasets.columns import Columns
from rl_lab.datasets.recorder import EpisodeRecorder


class _Envs(SimpleNamespace):
    """Two agents in one world; observation and action of agent a in step t are 10 a + t."""

    def __init__(self) -> None:
        world = SimpleNamespace(
            observation=Box(-1000, 1000, (1,), np.float32),
            action=Discrete(100),
            agents=("a", "b"),
            has_action_mask=False,
        )
        super().__init__(world=world, action_mask=np.zeros((1, 2, 1), np.uint8))
        self.show(0)
        self.outcome([0, 0])

    def show(self, t: int) -> None:
        numbers = 10 * np.arange(2) + t
        self.observations = numbers.reshape(1, 2, 1).astype(np.float32)
        self.actions = numbers.reshape(1, 2)

    def outcome(self, rewards: list[float], left: tuple[int, int] = (0, 0), terminated: int = 0) -> None:
        self.rewards = np.array([rewards], np.float32)
        self.agent_terminated = np.array([[terminated or left[0], terminated or left[1]]], np.bool_)
        self.agent_truncated = np.zeros((1, 2), np.bool_)


def _play(*steps: tuple[list[int], list[float], dict[str, Any]]) -> Columns | None:
    """Play one episode whose steps are (rows that act, rewards, what else happens)."""
    envs = _Envs()
    recorder = EpisodeRecorder(envs)  # type: ignore[arg-type]
    recorder.begin(np.array([0]), np.array([5]), np.array([0]), np.array([[0, 1]]))
    for t, (rows, rewards, events) in enumerate(steps):
        envs.show(t)
        recorder.record_decisions(np.array(rows, np.int64))
        envs.show(t + 1)
        envs.outcome(rewards, **events)
        recorder.record_outcomes()
    assert recorder.unfinished_steps == 0
    return recorder.take()


def test_rewards_between_two_decisions_are_summed() -> None:
    data = _play(([0], [1, 100], {}), ([1], [2, 3], {}), ([0], [4, 5], {"terminated": 1}))
    assert data is not None
    assert data.lengths.tolist() == [2, 1] and data.agent_indices.tolist() == [0, 1]
    assert data.actions.tolist() == [0, 2, 11]
    assert data.rewards.tolist() == [3, 4, 8]  # agent 1's reward before its first decision belongs to none
    assert data.terminated.tolist() == [False, True, True]
    assert data.final_observations[:, 0].tolist() == [3, 13]


def test_the_episode_of_an_agent_ends_when_it_leaves() -> None:
    both: list[int] = [0, 1]
    data = _play((both, [1, 1], {}), (both, [2, 2], {"left": (0, 1)}), ([0], [3, 9], {"terminated": 1}))
    assert data is not None
    assert data.lengths.tolist() == [3, 2] and data.rewards.tolist() == [1, 2, 3, 1, 2]
    assert data.final_observations[:, 0].tolist() == [3, 12]
    assert data.terminated.tolist() == [False, False, True, False, True]


def test_an_agent_that_never_acts_has_no_episode() -> None:
    data = _play(([0], [1, 1], {"terminated": 1}))
    assert data is not None and data.agent_indices.tolist() == [0]


def test_an_episode_after_one_that_filled_the_buffer_has_no_end_before_its_last_step() -> None:
    box, flags = Box(-1, 1, (1,), np.float32), np.zeros((2, 1), np.bool_)
    envs = SimpleNamespace(
        world=SimpleNamespace(observation=box, action=Discrete(2), agents=("a",), has_action_mask=False),
        observations=np.zeros((2, 1, 1), np.float32),
        actions=np.zeros((2, 1), np.int64),
        action_mask=np.zeros((2, 1, 1), np.uint8),
        rewards=np.zeros((2, 1), np.float32),
        agent_terminated=flags.copy(),
        agent_truncated=flags,
    )
    recorder, one = EpisodeRecorder(envs), np.array([0])  # type: ignore[arg-type]

    def begin(world: int) -> None:
        recorder.begin(np.array([world]), one, one, np.zeros((1, 1), np.int64))

    begin(0)
    begin(1)
    for number in range(10_000):  # the first world's episode ends in the step that fills the buffer
        recorder.record_decisions(np.arange(2))
        envs.agent_terminated[:, 0] = recorder.is_full, number == 2
        recorder.record_outcomes()
        if number == 2:
            begin(1)
        if recorder.is_full:
            break
    first = recorder.take()
    assert first is not None and first.terminated.sum() == 2
    begin(0)
    for is_last in (False, True):
        recorder.record_decisions(np.arange(2))
        envs.agent_terminated[:] = is_last
        recorder.record_outcomes()
    second = recorder.take()
    assert second is not None and second.lengths[0] == 2
    assert np.flatnonzero(second.terminated).tolist() == [1, 1 + second.lengths[1]]
