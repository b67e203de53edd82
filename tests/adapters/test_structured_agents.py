"""These tests train agents of several agents' environments whose observations are Dicts or Tuples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.runs import check_evaluates_and_resumes

from rl_lab.adapters import make
from rl_lab.cli import main
from rl_lab.core import agent_registry
from rl_lab.engine import user_code
from rl_lab.experiments.compose import compose

ENV = """
import numpy as np, pettingzoo
from gymnasium import spaces
from gymnasium.utils import seeding

MASK = spaces.Box(0, 1, (2,), np.int8)
DICT = {"place": spaces.Box(-1, 1, (2,), np.float64), "goal": spaces.Discrete(3, start=1)}
SPACES = {
    "dict": spaces.Dict(DICT),
    "goal": spaces.Dict({"observation": spaces.Box(-1, 1, (2,)), "goal": spaces.Box(-1, 1, (1,))}),
    "masked": spaces.Dict({"observation": spaces.Dict(DICT), "action_mask": MASK}),
    "beside": spaces.Dict({**DICT, "action_mask": MASK}),
    "nested": spaces.Dict({"a.b": spaces.Tuple((spaces.MultiBinary(3), spaces.Dict({"x": spaces.Box(0, 9, (1,))})))}),
    "tuple": spaces.Tuple((spaces.Discrete(4), spaces.Box(-1, 1, (2, 2), np.float32))),
    "choices": spaces.MultiDiscrete([3, 4], start=[1, -2]),
    "bits": spaces.MultiBinary(5),
    "camera": spaces.Dict({"image": spaces.Box(0, 255, (36, 40, 3), np.uint8), "age": spaces.Box(0, 9, (1,))}),
    "image": spaces.Box(0, 255, (36, 40, 3), np.uint8),
    "place": spaces.Discrete(4),
}

class Pair(pettingzoo.ParallelEnv):
    '''Two agents; action 1 pays.'''
    metadata = {"name": "pair"}
    possible_agents = ["a", "b"]
    render_mode = None

    def __init__(self, kind="dict", other=""):
        self.kinds = {"a": kind, "b": other or kind}

    def observation_space(self, agent):
        return SPACES[self.kinds[agent]]

    def action_space(self, agent):
        return spaces.Discrete(2)

    def _see(self):
        seen = {}
        for agent in self.agents:
            space = self.observation_space(agent)
            space.seed(int(self.chance.integers(2**31)))
            seen[agent] = space.sample()
            if isinstance(space, spaces.Dict) and "action_mask" in space.spaces:
                seen[agent]["action_mask"] = np.array([1, self.t % 2], np.int8)
        return seen

    def reset(self, seed=None, options=None):
        if seed is not None or not hasattr(self, "chance"):
            self.chance, _ = seeding.np_random(seed)
        self.t, self.agents = 0, ["a", "b"]
        return self._see(), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.t += 1
        seen, there = self._see(), list(self.agents)
        if self.t == 4:
            self.agents = ["a"]
        if self.t == 6:
            self.agents = []
        ends = {agent: agent not in self.agents for agent in there}
        no = dict.fromkeys(there, False)
        return seen, {k: float(actions[k]) for k in there}, ends, no, {agent: {} for agent in there}


class Turns(pettingzoo.AECEnv):
    '''The same two, one after the other.'''
    metadata = {"name": "turns", "is_parallelizable": True}
    possible_agents = ["a", "b"]
    render_mode = None

    def __init__(self, kind="dict"):
        self.kinds = {"a": kind, "b": kind}

    observation_space, action_space, _see = Pair.observation_space, Pair.action_space, Pair._see

    def reset(self, seed=None, options=None):
        if seed is not None or not hasattr(self, "chance"):
            self.chance, _ = seeding.np_random(seed)
        self.t, self.agents, self.agent_selection = 0, ["a", "b"], "a"
        self.rewards, self._cumulative_rewards = dict.fromkeys("ab", 0.0), dict.fromkeys("ab", 0.0)
        self.terminations, self.truncations = dict.fromkeys("ab", False), dict.fromkeys("ab", False)
        self.infos, self.seen = {"a": {}, "b": {}}, self._see()

    def observe(self, agent):
        return self.seen[agent]

    def step(self, action):
        if self.terminations[self.agent_selection]:
            self._was_dead_step(action)
            return
        self.t += 1
        sign = 1.0 if self.agent_selection == "a" else -1.0
        self.rewards = {"a": sign * float(action), "b": -sign * float(action)}
        self.agent_selection = "b" if self.agent_selection == "a" else "a"
        self.seen = self._see()
        if self.t == 6:
            self.terminations = dict.fromkeys("ab", True)
        self._accumulate_rewards()
"""
KINDS = ["dict", "goal", "masked", "beside", "nested", "tuple", "choices", "bits", "camera", "image"]
DICTS = {"dict", "goal", "masked", "beside", "nested", "tuple", "camera"}
SMALL = (
    "budget=128 worlds=2 agent.net_arch=[16] evaluation.episodes=3 run_dir=run video=false checkpoint.steps=32".split()
)
SMALL += "evaluation.selections=2 evaluation.selection_episodes=2".split()
PPO = "agent=ppo agent.n_steps=8 agent.batch_size=16".split()
DQN = "agent=dqn agent.learning_starts=16 agent.buffer_size=100 agent.batch_size=16".split()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    user_code.reset_permissions(None)
    (tmp_path / "pair.py").write_text(ENV)
    return tmp_path


def check_training(words: list[str], capsys: Any, here: Path) -> str:
    """Train, evaluate again with the same result, resume from the checkpoint before; return what training said."""
    assert main(["train", *words, *SMALL]) == 0
    said = str(capsys.readouterr().err)
    check_evaluates_and_resumes(Path("run"), capsys)
    return said


@pytest.mark.parametrize(
    ("kind", "world"), [*((kind, "Pair") for kind in KINDS), ("dict", "Turns"), ("masked", "Turns"), ("bits", "Turns")]
)
def test_agents_that_share_a_policy_train(kind: str, world: str, capsys: Any, here: Path) -> None:
    said = check_training([f"pair.py:{world}", f"world.params.kind={kind}", *PPO], capsys, here)
    assert "learner: Stable-Baselines3's own, because" in said or kind == "image"


@pytest.mark.parametrize(
    ("kind", "world"), [*((kind, "Pair") for kind in KINDS), ("dict", "Turns"), ("masked", "Turns"), ("bits", "Turns")]
)
def test_dqn_trains_agents_that_share_a_network(kind: str, world: str, capsys: Any, here: Path) -> None:
    check_training([f"pair.py:{world}", f"world.params.kind={kind}", "agent.n_steps=2", *DQN], capsys, here)


def test_against_an_opponent(capsys: Any, here: Path) -> None:
    check_training(["pair.py:Turns", "world.params.kind=masked", "opponent=random", *PPO], capsys, here)


@pytest.mark.parametrize("other", ["place", "bits", "camera"])
def test_agents_that_observe_different_things_have_policies_of_their_own(other: str, capsys: Any, here: Path) -> None:
    words = ["pair.py:Pair", "world.params.kind=dict", f"world.params.other={other}", *PPO]
    assert main(["train", *words, *SMALL]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "observe different things, a Dict and" in line and "policies=" in line
    check_training([*words, "policies={one: [a], two: [b]}"], capsys, here)


@pytest.mark.parametrize("kind", sorted(DICTS))
def test_what_is_learned_from_is_what_the_agents_saw(kind: str) -> None:
    """Of every act: a rollout's observations, in the space, are those that the environment showed when it acted."""
    scenario = compose("pair.py:Pair", [f"world.params.kind={kind}"])
    envs = make.make(scenario.world, 2, scenario.params)
    module = agent_registry.load("ppo")
    config = module.Config(n_steps=3, batch_size=6, n_epochs=1, net_arch=[8])
    taught = module.learner(config, envs, budget=10**6, seed=0, device="cpu")
    rows, shown = taught.model.env, []  # images have their channels in front there
    step, last = rows.step_wait, taught.model._last_obs

    def step_wait() -> Any:
        nonlocal last
        shown.append(last)
        result = step()
        last = result[0]
        return result

    rows.step_wait = step_wait
    for _ in range(4):
        shown.clear()
        taught.model.collect_rollouts(rows, taught.callback, taught.model.rollout_buffer, 3)
        buffer = taught.model.rollout_buffer
        assert buffer.has_complete_transition.any()
        for key, kept in buffer.observations.items():
            for t, row in np.argwhere(buffer.has_complete_transition):
                np.testing.assert_array_equal(kept[t, row], np.reshape(shown[t][key][row], kept[t, row].shape))
        taught.model.train()
