"""Tests that no interval is reported for one sample or for samples that are all equal, and that the output says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_lab.cli import main
from rl_lab.evaluation import exploitability, stats
from rl_lab.rating import head_to_head
from rl_lab.tournament.compare import Hypotheses, ResultCounts, comparison_data, render_comparison
from rl_lab.tournament.runner import run_tournament
from rl_lab.tournament.store import create

FLOATS = st.floats(-1e6, 1e6, width=32)


@pytest.fixture(autouse=True)
def work_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@given(st.lists(FLOATS, min_size=1, max_size=8))
def test_an_interval_without_width_comes_with_a_warning(values: list[float]) -> None:
    for report, unit in ((stats.summary(values), "episode"), (stats.across_seeds(values), "seed")):
        low, high = report["ci95"]
        if len(set(values)) == 1:
            assert low == pytest.approx(high) and report["warning"]
            assert (len(values) > 2 or unit == "episode") == report["warning"].startswith("no interval")
        elif unit == "episode":
            assert report["warning"] is None


def test_evaluation_prints_no_interval_of_one_episode_or_of_equal_ones(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "random", "world=tic_tac_toe", "opponent=random"]
    expected_note = {1: "no interval from one episode", 2: "95% interval"}
    for episodes in (1, 2):
        assert main([*words, f"evaluation.episodes={episodes}"]) == 0
        out = capsys.readouterr().out
        assert ("95% interval" in out) == (episodes > 1) or "no interval" in out
        assert expected_note[episodes] in out or "no interval: all 2 episodes gave the same" in out
    assert main(["evaluate", "scripted", "world=catch", "evaluation.episodes=3"]) == 0
    out = capsys.readouterr().out
    assert "no interval: all 3 episodes gave the same" in out and "95% interval" not in out


def test_exploit_prints_no_interval_of_equal_episodes() -> None:
    result: dict[str, Any] = {"world": "w", "agent": "a", "method": "learned", "lower_bound": -1.0, "episodes": 9}
    result |= {"seats": {}, "selection": {"0": -1.0}, "budget": 5}
    assert "(no interval: all 9 episodes gave the same)" in exploitability.text({**result, "ci95": [-1.0, -1.0]})
    assert "(95% interval -1.500 to -0.500)" in exploitability.text({**result, "ci95": [-1.5, -0.5]})


@given(st.integers(0, 4), st.integers(1, 10**6), st.sampled_from([3, 5]))
def test_results_that_are_all_equal_have_no_standard_error_but_an_interval_with_width(
    category: int, count: int, kinds: int
) -> None:
    observed = np.zeros(kinds)
    observed[category % kinds] = count
    comparison = head_to_head.compare(observed)
    assert comparison.elo_error is None and comparison.low < comparison.high


def test_a_comparison_of_few_different_games_says_so_and_prints_no_interval() -> None:
    Path("bots.py").write_text("def low(observation, legal):\n    return int(legal.argmax())\n")
    outcome = run_tournament(create(["a=bots.py:low", "b=bots.py:low"], "tic_tac_toe", {}, path=Path("t"), pairs=20))
    counts = ResultCounts("a", "b")
    counts.add(outcome.matches)
    result = comparison_data(counts, Hypotheses())
    assert (result["different"], result["games"]) == (2, 40)
    assert "only 2 different games of 40" in render_comparison(result) and "+-" not in render_comparison(result)
