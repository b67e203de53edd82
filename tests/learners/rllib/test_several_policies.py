"""Several learners of RLlib in one process: policies of one batch, and leagues."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support.runs import reproducible_content

from rl_lab.cli import main
from rl_lab.experiments.build import make_learner
from rl_lab.experiments.compose import compose

pytest.importorskip("ray", reason="needs the extra rllib")

PPO = "agent=rllib_ppo seed=3 agent.minibatch_size=16 agent.num_epochs=2 agent.net_arch=[16]"
HUNTERS = "policies={hunters: [adversary_0, adversary_1, adversary_2], prey: [agent_0]}"
POLICIES = [*PPO.split(), HUNTERS, "worlds=4", "agent.train_batch_size_per_learner=320"]
LEAGUE = [*PPO.split(), "worlds=8", "agent.train_batch_size_per_learner=128", "league.freeze_every=256"]
SHORT = "budget=2048 video=false evaluation.episodes=2 evaluation.selection_episodes=1 checkpoint.steps=512"
CASES = [("simple_tag", POLICIES), ("kuhn_poker_league", LEAGUE)]


@pytest.mark.parametrize(("name", "words"), CASES)
def test_a_resume_has_the_bits_of_an_uninterrupted_run(name: str, words: list[str], tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert main(["train", name, *words, *SHORT.split(), f"run_dir={whole}"]) == 0
    shutil.copytree(whole, part)
    shutil.rmtree(sorted((part / "checkpoints").iterdir())[-1])
    assert main(["resume", str(part)]) == 0
    assert reproducible_content(part) == reproducible_content(whole)
    assert main(["evaluate", str(whole)]) == 0


def test_each_policy_learns_from_the_rows_of_its_agents() -> None:
    """Of 320 rows of four agents, a train batch has 240 of three hunters and 80 of the prey."""
    learner: Any = make_learner(compose("simple_tag", POLICIES))[0]
    learner.train_iteration()
    assert learner.steps == 320
    assert {name: each.steps for name, each in learner.learners.items()} == {"hunters": 240, "prey": 80}
    learner.close()


def test_rllibs_dqn_refuses_several_policies(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "simple_tag", "agent=rllib_dqn", HUNTERS]) == 2
    assert "rllib_dqn trains one policy; several need agent=rllib_ppo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["agent.train_batch_size_per_learner=330"], "is no multiple of 16 rows a step: 320 is"),
        (["agent.minibatch_size=100"], "is larger than a train batch of 80 rows"),
        (["agent.env_runners=2"], "several policies train in one process: they need agent.env_runners=0"),
    ],
)
def test_wrong_settings_are_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "simple_tag", *POLICIES, *words, f"run_dir={tmp_path / 'run'}"]) == 2
    assert said in capsys.readouterr().err
