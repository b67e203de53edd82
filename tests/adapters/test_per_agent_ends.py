"""These tests check agents of one foreign environment whose episodes end in different ways.

A learner must bootstrap the value of an agent's last state by that agent's own end: truncated yes, terminated no.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pettingzoo
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode

from rl_lab.adapters import make
from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.core import agent_registry
from rl_lab.core.world import Array
from rl_lab.multiagent.multi_policy import AgentSubsetView, LockstepScheduler
from rl_lab.multiagent.opponents_wrapper import OpponentsWrapper

GAMMA = 0.9
ENDS = {  # step and kind of each agent's end
    "other way": {"a": (5, "terminated"), "b": (5, "truncated")},
    "both truncated": {"a": (5, "truncated"), "b": (5, "truncated")},
    "both terminated": {"a": (5, "terminated"), "b": (5, "terminated")},
    "truncated first": {"a": (5, "terminated"), "b": (3, "truncated")},
    "terminated first": {"a": (3, "terminated"), "b": (5, "truncated")},
    "both at once": {"a": (5, "terminated"), "b": (5, "both")},
}


class Pair(pettingzoo.ParallelEnv):  # type: ignore[misc]
    """Two agents that see their own number and the time, and get 1 a step until their own ends."""

    metadata = {"name": "pair"}
    possible_agents = ["a", "b"]

    def __init__(self, ends: str = "other way", render_mode: str | None = None) -> None:
        self.ends = ENDS[ends]

    def observation_space(self, agent: str) -> Any:
        return Box(-9, 9, (2,), np.float32)

    def action_space(self, agent: str) -> Any:
        return Discrete(2)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self.t, self.agents = 0, ["a", "b"]
        return {agent: self.observation_of(agent) for agent in self.agents}, {agent: {} for agent in self.agents}

    def observation_of(self, agent: str) -> Array:
        return np.array([agent == "b", self.t], np.float32)

    def flags(self, kind: str, agents: list[str]) -> dict[str, bool]:
        return {each: self.t >= self.ends[each][0] and self.ends[each][1] in (kind, "both") for each in agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        self.t += 1
        live_agents = self.agents
        terminated, truncated = self.flags("terminated", live_agents), self.flags("truncated", live_agents)
        self.agents = [agent for agent in live_agents if not (terminated[agent] or truncated[agent])]
        seen = {agent: self.observation_of(agent) for agent in live_agents}
        return seen, dict.fromkeys(live_agents, 1.0), terminated, truncated, {agent: {} for agent in live_agents}


class PairInTurns(pettingzoo.AECEnv):  # type: ignore[misc]
    """The same in turns: a and b move, then both are paid."""

    metadata = {"name": "pair_in_turns", "is_parallelizable": True}
    possible_agents = ["a", "b"]
    __init__, observation_space, action_space, observation_of = (
        Pair.__init__,
        Pair.observation_space,
        Pair.action_space,
        Pair.observation_of,
    )

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.t, self.agents, self.agent_selection = 0, ["a", "b"], "a"
        self.rewards, self._cumulative_rewards = dict.fromkeys("ab", 0.0), dict.fromkeys("ab", 0.0)
        self.terminations, self.truncations = dict.fromkeys("ab", False), dict.fromkeys("ab", False)
        self.infos: dict[str, Any] = {"a": {}, "b": {}}

    def observe(self, agent: str) -> Array:
        return self.observation_of(agent)

    def step(self, action: Any) -> None:
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        self.rewards = dict.fromkeys(self.agents, 0.0)
        if agent == self.agents[-1]:
            self.t += 1
            self.rewards = dict.fromkeys(self.agents, 1.0)
            self.terminations = Pair.flags(self, "terminated", self.agents)
            self.truncations = Pair.flags(self, "truncated", self.agents)
        live_agents = [each for each in self.agents if not (self.terminations[each] or self.truncations[each])]
        later = [each for each in live_agents if each > agent]
        self.agent_selection = (later or live_agents or self.agents)[0]
        self._deads_step_first()


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pettingzoo.register("parallel", "labends/Pair_v0", Pair)
    pettingzoo.register("aec", "labends/PairInTurns_v0", PairInTurns)
    yield
    torch.set_num_threads(threads)
    del pettingzoo.parallel_registry["labends/Pair-v0"]
    del pettingzoo.aec_registry["labends/PairInTurns-v0"]


def make_envs(name: str, ends: str, n: int = 2) -> Any:
    return make.make(f"pettingzoo:labends/{name}_v0", n, {"ends": ends})


class Zero:
    """Takes action 0."""

    name = "zero"

    def bind(self, envs: Any) -> None:
        pass

    def act(self, observations: Array, **_: Any) -> tuple[Array, Any]:
        return np.zeros(len(observations), np.int64), None


def learner(name: str, view: Any, **values: Any) -> Any:
    module = agent_registry.load(name)
    return module.learner(module.Config(gamma=GAMMA, **values), view, budget=10**6, seed=0, device="cpu")


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("name", ["Pair", "PairInTurns"])
def test_ppo_bootstraps_each_agent_by_its_own_end(name: str, ends: str, compiled: bool) -> None:
    """Where every state is worth 10, as 1 a step for ever is, targets are 10, but for those before a true end."""
    taught = learner("ppo", make_envs(name, ends), n_steps=41, batch_size=82, gae_lambda=1.0, compiled=compiled)
    model = taught.model
    with torch.no_grad():
        model.policy.value_net.weight.zero_()
        model.policy.value_net.bias.fill_(10.0)
    for _ in range(2):
        model.collect_rollouts(model.env, taught.callback, model.rollout_buffer, 41)
        buffer = model.rollout_buffer
        checked = 0
        for t, row in np.argwhere(buffer.has_complete_transition):
            end, kind = ENDS[ends]["ab"[row % 2]]
            seen, left = buffer.observations[t, row], end - buffer.observations[t, row, 1]
            assert seen[0] == row % 2 and left > 0
            # What is before the last whole episode of the rollout sees the episode's end.
            whole = any(buffer.episode_starts[k, row] for k in range(t + 1, 41))
            wanted = 10.0 if kind == "truncated" else float(np.sum(GAMMA ** np.arange(left)))
            if whole:
                assert buffer.returns[t, row] == pytest.approx(wanted, rel=1e-5)
                checked += 1
        assert checked > 20


@pytest.mark.parametrize("ends", ENDS)
def test_dqn_keeps_each_agents_own_end(ends: str) -> None:
    taught = learner("dqn", make_envs("Pair", ends), learning_starts=10, train_freq=1, buffer_size=400)
    taught.train_iteration()
    buffer = taught.model.replay_buffer
    filled, checked = buffer.buffer_size if buffer.full else buffer.pos, 0
    for t, row in np.argwhere(buffer.has_complete_transition[:filled]):
        end, kind = ENDS[ends]["ab"[row % 2]]
        over = buffer.observations[t, row, 1] == end - 1
        assert buffer.next_observations[t, row].tolist() == [row % 2, buffer.observations[t, row, 1] + 1]
        assert buffer.dones[t, row] == over and buffer.timeouts[t, row] == (over and kind == "truncated")
        checked += over
    assert checked > 50


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("name", ["Pair", "PairInTurns"])
@pytest.mark.parametrize("role", ["a", "b"])
def test_against_an_opponent_the_learners_own_end_counts(role: str, name: str, ends: str) -> None:
    taught = learner(
        "dqn", OpponentsWrapper(make_envs(name, ends), [Zero()], role=role), learning_starts=5, buffer_size=300
    )
    taught.train_iteration()
    buffer, (end, kind) = taught.model.replay_buffer, ENDS[ends][role]
    filled, checked = buffer.buffer_size if buffer.full else buffer.pos, 0
    is_complete = getattr(buffer, "has_complete_transition", np.ones((filled, 2), bool))
    for t, row in np.argwhere(is_complete[:filled]):
        over = buffer.observations[t, row, 1] == end - 1
        assert buffer.next_observations[t, row, 1] == buffer.observations[t, row, 1] + 1
        assert buffer.dones[t, row] == over and buffer.timeouts[t, row] == (over and kind == "truncated")
        assert buffer.rewards[t, row] == 1
        checked += over
    assert checked > 20


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("name", ["Pair", "PairInTurns"])
def test_an_agents_end_is_told_once(name: str, ends: str) -> None:
    rows = LabVecEnv(make_envs(name, ends, 1))
    rows.reset()
    told: list[dict[str, Any]] = []
    while len(told) < 2:
        rows.step_async(np.zeros(2, np.int64))
        _, _, dones, infos = rows.step_wait()
        for row in np.flatnonzero(dones):
            told += [{"row": int(row), **infos[row]}] if infos[row] else []
    assert sorted(each["row"] for each in told) == [0, 1] and all(dones)
    for each in told:
        end, kind = ENDS[ends]["ab"[each["row"]]]
        assert each["TimeLimit.truncated"] == (kind == "truncated") and each["episode"]["r"] == end
        assert each["terminal_observation"].tolist() == [each["row"], end]


@pytest.mark.parametrize("ends", ENDS)
def test_a_view_of_some_seats_has_their_ends(ends: str) -> None:
    whole = make_envs("Pair", ends, 1)
    views = [AgentSubsetView(whole, (seat,), LockstepScheduler(whole)) for seat in range(2)]
    whole.reset()
    told = {}
    while len(told) < 2:
        whole.step()
        for agent, view in zip("ab", views, strict=True):
            view.refresh()
            if view.agent_terminated[0, 0] or view.agent_truncated[0, 0]:
                told[agent] = bool(view.agent_truncated[0, 0] and not view.agent_terminated[0, 0])
    assert told == {agent: ENDS[ends][agent][1] == "truncated" for agent in "ab"}


class OneMask(PairInTurns):
    """b, which moves second, has an illegal action; a has none, and says nothing of any."""

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        super().reset(seed, options)
        self.infos["b"] = {"action_mask": np.array([0, 1], np.int8)}


def test_masks_of_the_agent_that_moves_second_count() -> None:
    pettingzoo.register("aec", "labends/OneMask_v0", OneMask)
    try:
        whole = make_envs("OneMask", "both truncated", 1)
    finally:
        del pettingzoo.aec_registry["labends/OneMask-v0"]
    assert whole.world.has_action_mask
    whole.reset()
    action_mask = []
    for action in (0, 1):
        action_mask.append(whole.action_mask[0].tolist())
        whole.actions[:] = action
        whole.step()
    assert action_mask == [[[1, 1], [0, 0]], [[0, 0], [0, 1]]]


class EndsWithTheOther(PairInTurns):
    """The removal of a, which terminates first, ends b: by truncation, or together with the whole game."""

    def step(self, action: Any) -> None:
        was_dead = self.terminations[self.agent_selection]
        super().step(action)
        if was_dead and self.agents == ["b"]:
            self.truncations["b"] = True
            if self.ends["b"][1] == "terminated":
                self.terminations["b"] = True
                self.agents.clear()


@pytest.mark.parametrize("ends", ["terminated first", "both terminated"])
def test_an_end_that_follows_from_another_agents_removal_is_reported(
    ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENDS, "both terminated", {"a": (3, "terminated"), "b": (5, "terminated")})
    pettingzoo.register("aec", "labends/EndsWithTheOther_v0", EndsWithTheOther)
    try:
        whole = make.make("pettingzoo:labends/EndsWithTheOther_v0", 1, {"ends": ends}, autoreset=AutoresetMode.DISABLED)
    finally:
        del pettingzoo.aec_registry["labends/EndsWithTheOther-v0"]
    whole.reset()
    while not whole.done[0]:
        whole.step()
    assert whole.agent_terminated[0].tolist() == [True, ends == "both terminated"]
    assert whole.agent_truncated[0].tolist() == [False, True]
    assert whole.terminated[0] and whole.truncated[0]
