"""These tests train on a user's own environment whose observations are Dicts, Tuples or other structured spaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runs import check_evaluates_and_resumes

from rl_lab.adapters import make
from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.adapters.structured import ObservationStructure
from rl_lab.cli import main
from rl_lab.engine import user_code

ENV = """
import gymnasium, numpy as np
from gymnasium import spaces

SPACES = {
    "dict": spaces.Dict({"place": spaces.Box(-1, 1, (2,), np.float64), "goal": spaces.Discrete(3, start=1)}),
    "nested": spaces.Dict({"a.b": spaces.Tuple((spaces.MultiBinary(3), spaces.Dict({"x": spaces.Box(0, 9, (1,))})))}),
    "tuple": spaces.Tuple((spaces.Discrete(4), spaces.Box(-1, 1, (2, 2), np.float32))),
    "choices": spaces.MultiDiscrete([3, 4], start=[1, -2]),
    "bits": spaces.MultiBinary(5),
    "camera": spaces.Dict(
        {"image": spaces.Box(0, 255, (36, 40, 3), np.uint8), "small": spaces.Box(0, 255, (4, 5, 3), np.uint8)}
    ),
    "image": spaces.Box(0, 255, (36, 40, 3), np.uint8),
}

class Shows(gymnasium.Env):
    '''Its first bit of chance says which action pays.'''
    action_space = spaces.Discrete(2)

    def __init__(self, kind="dict"):
        self.observation_space = SPACES[kind]

    def _see(self):
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._see(), {}

    def step(self, action):
        self.t += 1
        return self._see(), float(action), False, self.t >= 6, {}
"""
KINDS = ["dict", "nested", "tuple", "choices", "bits", "camera", "image"]
SMALL = "budget=128 worlds=2 agent.batch_size=16 agent.net_arch=[16] evaluation.episodes=3 run_dir=run".split()
SMALL += "evaluation.selections=2 evaluation.selection_episodes=2 video=false checkpoint.steps=32".split()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    user_code.reset_permissions(None)
    (tmp_path / "shows.py").write_text(ENV)
    return tmp_path


@pytest.mark.parametrize("agent", ["ppo agent.n_steps=16", "dqn agent.learning_starts=16 agent.buffer_size=100"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_is_measured_and_goes_on(kind: str, agent: str, capsys: Any, here: Path) -> None:
    words = ["train", "shows.py:Shows", f"world.params.kind={kind}", *f"agent={agent}".split(), *SMALL]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "learner: Stable-Baselines3's own, because" in said
    check_evaluates_and_resumes(Path("run"), capsys)
    assert main(["watch", "run", "--file"]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_saved_agent_is_the_one_that_was_trained(kind: str) -> None:
    from rl_lab.core import agent_registry
    from rl_lab.experiments.compose import compose

    lines = [f"world.params.kind={kind}", "agent.n_steps=16", "agent.batch_size=16"]
    scenario, factory = compose("shows.py:Shows", lines), agent_registry.load("ppo")
    envs = make.make(scenario.world, 8, scenario.params, seed=3)
    learner = factory.learner(scenario.config, envs, budget=64, seed=0, device="cpu")
    learner.train_iteration()
    saved = factory.load(scenario.config, envs.world, learner.save_agent(), device="cpu")
    seen = envs.reset()[:, 0].copy()
    one, other = (agent.probabilities(seen) for agent in (learner.agent(), saved))
    np.testing.assert_array_equal(one, other)
    assert len(np.unique(one, axis=0)) > 1  # it does look at them


def test_every_part_keeps_its_place(here: Path) -> None:
    from rl_lab.experiments.compose import compose

    scenario = compose("shows.py:Shows", ["world.params.kind=dict"])
    face = LabVecEnv(make.make(scenario.world, 3, scenario.params))
    assert face.observation_space == spaces.Dict(
        {"place": spaces.Box(-1, 1, (2,), np.float32), "goal": spaces.Discrete(3)}
    )
    seen = face.reset()
    face.step_async(np.zeros(3, np.int64))
    for shown in (seen, face.step_wait()[0]):
        assert {key: value.shape for key, value in shown.items()} == {"place": (3, 2), "goal": (3,)}
        for i in range(3):
            assert face.observation_space.contains({key: value[i] for key, value in shown.items()})


PARTS = st.one_of(
    st.integers(1, 5).flatmap(lambda n: st.integers(-3, 3).map(lambda start: spaces.Discrete(n, start=start))),
    st.lists(st.integers(1, 4), min_size=1, max_size=3).map(spaces.MultiDiscrete),
    st.integers(1, 4).map(spaces.MultiBinary),
    st.lists(st.integers(1, 3), max_size=3).map(lambda shape: spaces.Box(-2, 2, tuple(shape), np.float32)),
)
NESTED = st.recursive(
    PARTS,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: spaces.Tuple(tuple(parts)))
        | st.dictionaries(st.text("ab.", min_size=1, max_size=2), inner, min_size=1, max_size=3).map(spaces.Dict)
    ),
    max_leaves=5,
)


@settings(deadline=None, max_examples=60)
@given(NESTED.filter(lambda space: not isinstance(space, spaces.Box | spaces.Discrete)), st.integers(0, 2**31))
def test_a_vector_holds_all_that_was_seen(space: spaces.Space[Any], seed: int) -> None:
    structure = ObservationStructure("any", space)
    space.seed(seed)
    sample = space.sample()
    vector = structure.flatten(sample)
    assert structure.box.contains(vector)
    shown = structure.unflatten_row(vector)
    assert structure.space.contains(shown)
    values = list(shown.values()) if isinstance(shown, dict) else [shown]
    for (path, part), value in zip(structure.parts, values, strict=True):
        told = sample
        for key in path:
            told = told[key]  # type: ignore[index]
        start = np.ravel(getattr(part, "start", 0))
        np.testing.assert_array_equal(np.ravel(value), np.ravel(told) - start)


@pytest.mark.parametrize(
    "words, said",
    [
        ("agent=dqn agent.double_q=true", "double_q needs the compiled learner"),
        ("agent.policy=cnn", "policy=cnn"),
        ("agent.normalize_observations=true", "normalize_observations"),
        ("agent.agent_indicator=true", "agent_indicator"),
    ],
)
def test_what_does_not_go_with_them_is_one_line(words: str, said: str, capsys: Any, here: Path) -> None:
    assert main(["train", "shows.py:Shows", *words.split(), *SMALL, "agent.batch_size=16"]) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1 and not (here / "run").exists()
