"""Tests of action modes: training selects an agent by greedy or by sampled actions, and evaluations report that mode.

The figures of the other mode stand beside it, under "other".
"""

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
from rl_lab.evaluation.action_modes import ModeResult, evaluation_modes, select_mode
from rl_lab.experiments.build import evaluate_scenario
from rl_lab.experiments.compose import compose
from rl_lab.experiments.scenario_yaml import ScenarioError


class RandomDoorEnv(gymnasium.Env[Any, Any]):
    """Opens one of two doors, and does not show which; a step costs 0.05.

    A greedy policy tries the same door at each step. Only a policy that samples its actions passes both.
    """

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
def register_random_door_env() -> Any:
    gymnasium.register("test/RandomDoor-v0", lambda: RandomDoorEnv(), max_episode_steps=20)
    yield
    del gymnasium.registry["test/RandomDoor-v0"]


RunCommand = Callable[..., dict[str, Any]]


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str]) -> RunCommand:
    def run(*words: Any) -> dict[str, Any]:
        capsys.readouterr()
        assert main([*map(str, words), "--json"]) == 0
        summary: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return summary

    return run


SHORT = "worlds=4 budget=1024 agent.n_steps=32 agent.batch_size=64 agent.ent_coef=0.1 video=false".split()
TRAIN_RANDOM_DOOR = ["train", "gym:test/RandomDoor-v0", *SHORT, "evaluation.selections=2", "evaluation.episodes=60"]


def test_a_policy_that_is_better_with_sampled_actions_is_reported_with_them(
    run_command: RunCommand, tmp_path: Path
) -> None:
    summary = run_command(*TRAIN_RANDOM_DOOR, f"run_dir={tmp_path / 'run'}")
    assert summary["actions"] == "sampled" and summary["deterministic"] is False
    assert summary["mean_return"] > 0.85, "as in training"
    other = summary["other"]
    assert (other["actions"], other["deterministic"], other["better"]) == ("greedy", True, False)
    assert other["mean_return"] < 0.6, "greedy, one of the doors is never found"
    (agent_folder,) = (tmp_path / "run" / "agent").glob("step-*")
    state = json.loads((agent_folder / "state.json").read_text())
    assert state["deterministic"] is False
    assert state["selection_return"] == pytest.approx(summary["mean_return"], abs=0.1), "chosen by the same actions"
    evaluated_again = run_command("evaluate", tmp_path / "run")
    assert {key: evaluated_again[key] for key in ("mean_return", "actions", "other")} == {
        key: summary[key] for key in ("mean_return", "actions", "other")
    }


@pytest.mark.parametrize("actions", ["greedy", "sampled"])
def test_evaluation_actions_sets_the_mode_of_selection_and_of_the_report(
    run_command: RunCommand, tmp_path: Path, actions: str
) -> None:
    summary = run_command(*TRAIN_RANDOM_DOOR, f"evaluation.actions={actions}", f"run_dir={tmp_path / 'run'}")
    assert summary["actions"] == actions and "other" not in summary
    (agent_folder,) = (tmp_path / "run" / "agent").glob("step-*")
    state = json.loads((agent_folder / "state.json").read_text())
    assert state["deterministic"] is (actions == "greedy")
    assert (state["selection_return"] > 0.8) is (actions == "sampled")
    one = run_command("evaluate", tmp_path / "run", "evaluation.actions=sampled", "evaluation.episodes=200")
    assert one["mean_return"] > 0.8 and one["out"] is None or actions == "sampled"


def test_the_printed_table_names_the_mode_and_has_a_line_for_the_other_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main([*TRAIN_RANDOM_DOOR, f"run_dir={run}"]) == 0
    out = capsys.readouterr().out
    assert "60 episodes  sampled actions" in out and "mean return with greedy actions" in out
    assert main([*TRAIN_RANDOM_DOOR, "evaluation.actions=greedy", f"run_dir={tmp_path / 'greedy'}"]) == 0
    out = capsys.readouterr().out
    assert "60 episodes  greedy actions" in out and "sampled" not in out
    assert main(["evaluate", str(tmp_path / "greedy"), "evaluation.actions=auto"]) == 0
    out = capsys.readouterr().out
    assert "60 episodes  greedy actions" in out and "note: sampled actions have a higher mean return" in out


def test_deterministic_agents_are_evaluated_in_one_mode_only(run_command: RunCommand, tmp_path: Path) -> None:
    summary = run_command("evaluate", "scripted", "world=catch", "evaluation.episodes=3")
    assert "other" not in summary and "actions" not in summary
    quick = ["worlds=4", "budget=512", "video=false", "evaluation.episodes=3", "evaluation.selections=1"]
    dqn = run_command("train", "catch", "agent=dqn", *quick, f"run_dir={tmp_path / 'run'}")
    assert "other" not in dqn and dqn["deterministic"] is True


def test_an_unknown_value_of_evaluation_actions_is_refused() -> None:
    assert compose("catch").evaluation.actions == "auto"
    with pytest.raises(ScenarioError, match=r"evaluation.actions='gready'; did you mean 'greedy'"):
        compose("catch", ["evaluation.actions=gready"])


@dataclasses.dataclass
class _Agent:
    stochastic: bool
    selected_deterministic: bool = True
    name: str = "it"

    def bind(self, envs: Any) -> None: ...

    def act(self, observations: Array, **_: Any) -> tuple[Array, Any]:
        return observations, None


@given(st.booleans(), st.booleans(), st.sampled_from(["auto", "greedy", "sampled"]), st.booleans())
def test_the_first_mode_is_the_one_by_which_training_selected_the_agent(
    stochastic: bool, selected: bool, actions: str, deterministic: bool
) -> None:
    modes = evaluation_modes(_Agent(stochastic, selected), actions, deterministic=deterministic)
    if actions != "auto":
        assert modes == (actions == "greedy",)
    elif not deterministic or not stochastic:
        assert modes == (deterministic,)
    else:
        assert modes == (selected, not selected)


SCORES = st.floats(-100, 100, allow_nan=False)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine, not the data, is slow
@given(SCORES, SCORES, st.floats(0, 10), st.floats(0, 10), st.none() | SCORES)
def test_sampled_actions_are_selected_only_where_they_are_significantly_better(
    greedy: float, sampled: float, error: float, other: float, trained: float | None
) -> None:
    results = {True: ModeResult(True, greedy, error, 1.0), False: ModeResult(False, sampled, other, 1.0)}
    best, note = select_mode((True, False), results.__getitem__, trained)
    greedy_falls_short = trained is not None and trained - greedy > 2 * error
    sampled_is_better = sampled - greedy > 2 * np.hypot(error, other)
    assert best.deterministic is not (greedy_falls_short and sampled_is_better)
    assert bool(note) == greedy_falls_short


class _FirstLegal(_Agent):
    """Takes the first legal action in both modes, and records the modes with which `act` was called."""

    def __init__(self, *, stochastic: bool) -> None:
        super().__init__(stochastic)
        self.modes: set[bool] = set()

    def act(
        self, observations: Array, *, action_mask: Any = None, deterministic: bool = True, **_: Any
    ) -> tuple[Array, Any]:
        self.modes.add(deterministic)
        return np.asarray(action_mask).argmax(axis=1), None


def test_the_opponent_has_the_same_mode_in_the_evaluations_of_both_modes() -> None:
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
def test_the_opponent_has_the_agents_mode_and_is_greedy_where_both_are_evaluated(
    overrides: list[str], agents: set[bool], opponents: set[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, opponent = _FirstLegal(stochastic=True), _FirstLegal(stochastic=True)
    monkeypatch.setattr("rl_lab.experiments.build.make_opponent", lambda _: opponent)
    evaluate_scenario(agent, compose("tic_tac_toe", ["evaluation.episodes=4", *overrides]))
    assert (agent.modes, opponent.modes) == (agents, opponents)


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
    training_returns: list[float | None] = []

    def recording_select_mode(modes: Any, measure_in: Any, sampled_return: float | None) -> Any:
        training_returns.append(sampled_return)
        return select_mode(modes, measure_in, sampled_return)

    monkeypatch.setattr("rl_lab.experiments.selection.select_mode", recording_select_mode)
    text = "world: tic_tac_toe\nworlds: 8\nbudget: 1024\nvideo: false\nthreads: 1\n" + opponent
    text += "agent: {name: ppo, n_steps: 16, batch_size: 32}\n"
    text += "evaluation: {episodes: 4, selections: 2, selection_episodes: 4}\n"
    (tmp_path / "small.yaml").write_text(text)
    assert main(["train", str(tmp_path / "small.yaml"), f"run_dir={tmp_path / 'run'}", "--json"]) == 0
    assert len(training_returns) >= 2
    assert all((value is not None) is comparable for value in training_returns)
