"""An agent is chosen, measured and reported by the actions that it plays by, greedy or sampled, and both are shown."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rl_lab.cli import main
from rl_lab.core.world import Array
from rl_lab.evaluation.action_modes import Measured, modes_of, select
from rl_lab.experiments.build import evaluate_scenario
from rl_lab.experiments.compose import compose
from rl_lab.experiments.scenario_yaml import ScenarioError


class Hidden(gymnasium.Env[Any, Any]):
    """One of two doors opens, which is not seen; a step costs 0.05. Only a policy that draws passes both."""

    observation_space = Box(-1.0, 1.0, (1,), np.float32)
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.door = int(self.np_random.integers(2))
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        opened = int(action) == self.door
        return np.ones(1, np.float32), 1.0 if opened else -0.05, opened, False, {}


@pytest.fixture(autouse=True)
def registered() -> Any:
    gymnasium.register("mended/Hidden-v0", lambda: Hidden(), max_episode_steps=20)
    yield
    del gymnasium.registry["mended/Hidden-v0"]


Call = Callable[..., dict[str, Any]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*words: Any) -> dict[str, Any]:
        capsys.readouterr()
        assert main([*map(str, words), "--json"]) == 0
        shown: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return shown

    return run


SHORT = "worlds=4 budget=1024 agent.n_steps=32 agent.batch_size=64 agent.ent_coef=0.1 video=false".split()
HIDDEN = ["train", "gym:mended/Hidden-v0", *SHORT, "evaluation.selections=2", "evaluation.episodes=60"]


def test_a_policy_that_needs_its_randomness_is_reported_by_it(call: Call, tmp_path: Path) -> None:
    shown = call(*HIDDEN, f"run_dir={tmp_path / 'run'}")
    assert shown["actions"] == "sampled" and shown["deterministic"] is False
    assert shown["mean_return"] > 0.85, "as in training"
    other = shown["other"]
    assert (other["actions"], other["deterministic"], other["better"]) == ("greedy", True, False)
    assert other["mean_return"] < 0.6, "greedy, one of the doors is never found"
    (kept,) = (tmp_path / "run" / "agent").glob("step-*")
    state = json.loads((kept / "state.json").read_text())
    assert state["deterministic"] is False
    assert state["selection_return"] == pytest.approx(shown["mean_return"], abs=0.1), "chosen by the same actions"
    again = call("evaluate", tmp_path / "run")
    assert {key: again[key] for key in ("mean_return", "actions", "other")} == {
        key: shown[key] for key in ("mean_return", "actions", "other")
    }


@pytest.mark.parametrize("actions", ["greedy", "sampled"])
def test_the_key_fixes_the_actions_of_choosing_and_reporting(call: Call, tmp_path: Path, actions: str) -> None:
    shown = call(*HIDDEN, f"evaluation.actions={actions}", f"run_dir={tmp_path / 'run'}")
    assert shown["actions"] == actions and "other" not in shown
    (kept,) = (tmp_path / "run" / "agent").glob("step-*")
    state = json.loads((kept / "state.json").read_text())
    assert state["deterministic"] is (actions == "greedy")
    assert (state["selection_return"] > 0.8) is (actions == "sampled")
    one = call("evaluate", tmp_path / "run", "evaluation.actions=sampled", "evaluation.episodes=200")
    assert one["mean_return"] > 0.8 and one["out"] is None or actions == "sampled"


def test_the_table_says_which_actions_and_shows_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main([*HIDDEN, f"run_dir={run}"]) == 0
    out = capsys.readouterr().out
    assert "60 episodes  sampled actions" in out and "mean return with greedy actions" in out
    assert main([*HIDDEN, "evaluation.actions=greedy", f"run_dir={tmp_path / 'greedy'}"]) == 0
    out = capsys.readouterr().out
    assert "60 episodes  greedy actions" in out and "sampled" not in out
    assert main(["evaluate", str(tmp_path / "greedy"), "evaluation.actions=auto"]) == 0
    out = capsys.readouterr().out
    assert "60 episodes  greedy actions" in out and "note: sampled actions have a higher mean return" in out


def test_agents_whose_actions_do_not_depend_on_it_are_measured_once(call: Call, tmp_path: Path) -> None:
    shown = call("evaluate", "scripted", "world=catch", "evaluation.episodes=3")
    assert "other" not in shown and "actions" not in shown
    quick = ["worlds=4", "budget=512", "video=false", "evaluation.episodes=3", "evaluation.selections=1"]
    dqn = call("train", "catch", "agent=dqn", *quick, f"run_dir={tmp_path / 'run'}")
    assert "other" not in dqn and dqn["deterministic"] is True


def test_an_unknown_kind_of_actions_is_refused() -> None:
    assert compose("catch").evaluation.actions == "auto"
    with pytest.raises(ScenarioError, match=r"evaluation.actions='gready'; did you mean 'greedy'"):
        compose("catch", ["evaluation.actions=gready"])


@dataclasses.dataclass
class _Agent:
    stochastic: bool
    chosen_deterministic: bool = True
    name: str = "it"

    def bind(self, envs: Any) -> None: ...

    def act(self, observations: Array, **_: Any) -> tuple[Array, Any]:
        return observations, None


@given(st.booleans(), st.booleans(), st.sampled_from(["auto", "greedy", "sampled"]), st.booleans())
def test_it_is_reported_by_what_it_was_chosen_by(
    stochastic: bool, chosen: bool, actions: str, deterministic: bool
) -> None:
    modes = modes_of(_Agent(stochastic, chosen), actions, deterministic=deterministic)
    if actions != "auto":
        assert modes == (actions == "greedy",)
    elif not deterministic or not stochastic:
        assert modes == (deterministic,)
    else:
        assert modes == (chosen, not chosen)


SCORES = st.floats(-100, 100, allow_nan=False)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine, not the data, is slow
@given(SCORES, SCORES, st.floats(0, 10), st.floats(0, 10), st.none() | SCORES)
def test_the_better_actions_are_chosen_unless_chance_explains_it(
    greedy: float, sampled: float, error: float, other: float, trained: float | None
) -> None:
    results = {True: Measured(True, greedy, error, 1.0), False: Measured(False, sampled, other, 1.0)}
    best, note = select((True, False), results.__getitem__, trained)
    needed = trained is not None and trained - greedy > 2 * error
    clearly = sampled - greedy > 2 * np.hypot(error, other)
    assert best.deterministic is not (needed and clearly)
    assert bool(note) == needed


class _FirstLegal(_Agent):
    """Takes the first legal action in both modes, and notes the modes in which it was asked."""

    def __init__(self, *, stochastic: bool) -> None:
        super().__init__(stochastic)
        self.asked: set[bool] = set()

    def act(
        self, observations: Array, *, action_mask: Any = None, deterministic: bool = True, **_: Any
    ) -> tuple[Array, Any]:
        self.asked.add(deterministic)
        return np.asarray(action_mask).argmax(axis=1), None


def test_both_modes_are_measured_against_an_opponent_of_one_mode() -> None:
    scenario = compose("tic_tac_toe", ["opponent=mcts", "opponent.simulations=20", "evaluation.episodes=40"])
    summary = evaluate_scenario(_FirstLegal(stochastic=True), scenario).summary
    other = summary["other"]
    assert other["mean_return"] == summary["mean_return"], "the agent plays alike in both modes"
    assert other["ci95"] == summary["ci95"] and not other["better"]


@pytest.mark.parametrize(
    ("overrides", "agents", "opponents"),
    [
        ([], {True, False}, {True}),
        (["evaluation.actions=greedy"], {True}, {True}),
        (["evaluation.actions=sampled"], {False}, {False}),
        (["evaluation.deterministic=false"], {False}, {False}),
    ],
)
def test_the_opponents_mode_is_the_agents_or_else_greedy(
    overrides: list[str], agents: set[bool], opponents: set[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, opponent = _FirstLegal(stochastic=True), _FirstLegal(stochastic=True)
    monkeypatch.setattr("rl_lab.experiments.build.make_opponent", lambda _: opponent)
    evaluate_scenario(agent, compose("tic_tac_toe", ["evaluation.episodes=4", *overrides]))
    assert (agent.asked, opponent.asked) == (agents, opponents)


LEAGUE = "league: {anchors: [random], members: {main: 1}}\n"


@pytest.mark.parametrize(
    ("opponent", "comparable"),
    [
        ("opponent: random\n", True),
        ("opponent: {name: mcts, simulations: 5}\n", False),
        (LEAGUE, False),
    ],
)
def test_training_returns_are_compared_only_with_returns_against_the_same_opponents(
    opponent: str, comparable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float | None] = []

    def noting(modes: Any, measure_in: Any, sampled_return: float | None) -> Any:
        given.append(sampled_return)
        return select(modes, measure_in, sampled_return)

    monkeypatch.setattr("rl_lab.experiments.selection.select", noting)
    text = "world: tic_tac_toe\nworlds: 8\nbudget: 1024\nvideo: false\nthreads: 1\n" + opponent
    text += "agent: {name: ppo, n_steps: 16, batch_size: 32}\n"
    text += "evaluation: {episodes: 4, selections: 2, selection_episodes: 4}\n"
    (tmp_path / "small.yaml").write_text(text)
    assert main(["train", str(tmp_path / "small.yaml"), f"run_dir={tmp_path / 'run'}", "--json"]) == 0
    assert len(given) >= 2 and all((value is not None) is comparable for value in given)
