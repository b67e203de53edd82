"""A slow test: in the T-maze, a policy without memory learns no more than the world's bound for such policies.

That the recurrent policy solves it is tested with all scenarios, in `test_training_slow`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rl_lab.cli import main

BOUND = 0.5  # see `test_puzzle_worlds`
EPISODES = 1000
STANDARD_ERROR = 0.5 / EPISODES**0.5  # an episode's return is 0 or 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_policy_without_memory_does_not_exceed_its_bound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["t_maze", "agent.policy=mlp", f"evaluation.episodes={EPISODES}", "video=false", "--json"]
    assert main(["train", *words, f"run_dir={tmp_path / 'run'}"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["mean_return"] < BOUND + 4 * STANDARD_ERROR
