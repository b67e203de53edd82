"""Tests of hints for users: the nearest valid name, the right option, and how many steps are trained for a budget."""

from __future__ import annotations

import re
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_lab.cli import main
from rl_lab.core.agent import Rollout
from rl_lab.core.errors import nearest_id
from rl_lab.engine import compile_notice
from rl_lab.experiments.build import make_learner
from rl_lab.experiments.compose import compose
from rl_lab.experiments.training_result import budget_rounding

SB3_LEARNER = (
    "agent.compiled=false agent.n_steps=48 agent.batch_size=48 agent.n_epochs=1 worlds=1 device=cpu video=false "
    "evaluation.episodes=1 evaluation.selections=0 checkpoint.seconds=1e9"
).split()


@pytest.fixture(autouse=True)
def work_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_line(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("words", [["--file", "x.mp4"], ["x.mp4", "--file"], ["--out", "films", "x.mp4"]])
def test_a_file_name_after_watch_is_refused_with_the_option_out(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_line(capsys, "watch", "random", "world=catch", *words)
    assert line.startswith("rl-lab: x.mp4 is no key=value") and "--out FOLDER" in line


@pytest.mark.parametrize(
    "name, hint",
    [
        ("gym:Nope-v1", ""),
        ("gym:Foo-v0", ""),
        ("gym:CartPol-v1", "did you mean 'gym:CartPole-v1'?"),
        ("gym:cartpole-v1", "did you mean 'gym:CartPole-v1'?"),
        ("gym:Acrobot-v9", "did you mean 'gym:Acrobot-v1'?"),
        ("pettingzoo:classic/nope_v0", ""),
        ("pettingzoo:classic/ches_v6", "did you mean 'pettingzoo:classic/chess_v6'?"),
    ],
)
def test_an_unknown_environment_id_is_refused_with_the_nearest_id_if_there_is_one(
    name: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = [["evaluate", "random", f"world={name}"], *([["check", name]] if name.startswith("gym:") else [])]
    for words in commands:
        line = error_line(capsys, *words)
        assert line.endswith(hint) and ("did you mean" in line.lower()) is bool(hint), line


@given(st.text("abcdefghij", min_size=4, max_size=12), st.integers(0, 11), st.integers(0, 99))
def test_an_id_with_one_letter_missing_is_suggested(name: str, index: int, version: int) -> None:
    typed = f"{name[: index % len(name)]}{name[index % len(name) + 1 :]}-v1"
    assert nearest_id(typed, [f"{name}-v{version}"], "gym:") == f"; did you mean 'gym:{name}-v{version}'?"
    assert nearest_id(typed, ["KLMNOP-v1"], "gym:") == ""


def test_train_prints_how_many_steps_whole_rollouts_have(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "gym:CartPole-v1", "budget=64", *SB3_LEARNER]
    assert main(words) == 0  # compiles what the evaluation calls, where the cache has not got it
    capsys.readouterr()
    monkeypatch.setattr(compile_notice, "DELAY", 0.0)
    monkeypatch.setattr("rl_lab.commands.train._COMPILING_SECONDS", 0.0)
    assert main(words) == 0
    out, err = capsys.readouterr()
    reason = "a rollout of 48 steps (agent.n_steps=48 in 1 world) is not cut"
    assert f"  budget=64: 96 steps are trained, because {reason}\n" in err
    assert "compiling" not in out + err and re.search(r"trained 96 steps in [0-9.]+ s \(", out)


LEAGUE_OF_THREE_LEARNERS = ("league.members={main: 1, main_exploiter: 2}", "league.anchors=[random]")
PPO = ("agent.n_steps=24", "agent.batch_size=24", "agent.n_epochs=1")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("catch", "agent=dqn", "worlds=32"), "128 steps (agent.train_freq=4 in 32 worlds)"),
        (("kuhn_poker", "worlds=2", *PPO), "96 steps (agent.n_steps=24 in 2 worlds)"),
        (
            ("kuhn_poker", "worlds=2", "policies={a: [first], b: [second]}", *PPO),
            "96 steps (agent.n_steps=24 in 2 worlds)",
        ),
        (
            ("kuhn_poker_league", "worlds=2", *LEAGUE_OF_THREE_LEARNERS, *PPO),
            "144 steps (agent.n_steps=24 in 2 worlds for each of 3 learners)",
        ),
        pytest.param(
            ("catch", "agent=rllib_ppo", "worlds=32", "agent.train_batch_size_per_learner=256"),
            "256 steps (agent.train_batch_size_per_learner=256 in 32 worlds)",
            marks=pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra rllib"),
        ),
        pytest.param(
            ("catch", "agent=rllib_appo", "worlds=32", "agent.rollout_fragment_length=8"),
            "256 steps (agent.rollout_fragment_length=8 in 32 worlds)",
            marks=pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra rllib"),
        ),
    ],
)
def test_every_learner_reports_the_steps_of_its_rollouts(words: tuple[str, ...], reason: str) -> None:
    scenario = compose(words[0], [*words[1:], "budget=64", "agent.compiled=false"])
    learner, _ = make_learner(scenario)
    with closing(learner):
        line = budget_rounding(scenario, learner)
        total = int(reason.split()[0])
        assert line == f"budget=64: {total} steps are trained, because a rollout of {reason} is not cut"
        learner.train_iteration()
        assert learner.steps == total


@given(st.integers(0, 5), st.integers(20, 5000), st.integers(1, 20_000))
def test_the_reported_steps_are_those_of_the_fewest_rollouts_that_reach_the_budget(
    num_rollouts: int, rollout: int, budget: int
) -> None:
    scenario: Any = SimpleNamespace(budget=budget, worlds=2, config=SimpleNamespace(n_steps=rollout))
    learner: Any = SimpleNamespace(steps=num_rollouts * rollout, rollout=Rollout(rollout, "n_steps"))
    line, steps = budget_rounding(scenario, learner), num_rollouts * rollout
    while steps < budget:
        steps += rollout
    is_reported = num_rollouts * rollout < budget and steps > 1.05 * budget
    assert line.startswith(f"budget={budget:,}: {steps:,} steps" if is_reported else "")
    assert bool(line) is is_reported


def test_a_small_excess_over_the_budget_is_not_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "gym:CartPole-v1", "budget=94", *SB3_LEARNER]) == 0
    out, err = capsys.readouterr()
    assert "is not cut" not in err and "trained 96 steps" in out
