"""Tests of `rl-lab validate`: that every value passes, how failures are reported, and what the command prints."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from rl_lab.cli import main
from rl_lab.core import agent_registry
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch
from rl_lab.validation import connect_four_solver, reference_values


def test_everything_that_is_published_comes_out(capsys: pytest.CaptureFixture[str]) -> None:
    begin = time.process_time()
    assert main(["validate", "--json"]) == 0
    assert time.process_time() - begin < 60  # measured: 3
    *_, last = capsys.readouterr().out.splitlines()
    values = json.loads(last)["values"]
    assert json.loads(last)["ok"] is True and len(values) == len(reference_values.entries())
    assert {value["status"] for value in values} == {"pass", "elsewhere", "slow"}
    reasons = {"pass": "", "elsewhere": "measured by: ", "slow": "not recomputed: it takes"}
    for value in values:
        assert value["source"] and value["note"].startswith(reasons[value["status"]])
        assert (value["actual"] is None) == (value["status"] != "pass")
    assert [value["name"] for value in values if value["status"] == "slow"] == ["connect_four.perfect_play"]


def test_names_are_unique_and_what_is_measured_elsewhere_is_what_takes_long() -> None:
    entries = reference_values.entries()
    assert len({entry["name"] for entry in entries}) == len(entries)
    long = ("single_agent_reference_returns", "minatar_returns")
    assert all(("measured_by" in entry) == entry["name"].startswith(long) for entry in entries)
    assert all(("tolerance" in entry) != ("measured_by" in entry) for entry in entries)


def test_a_value_that_is_off_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [entry for entry in reference_values.entries() if entry["name"].startswith("elo")]
    wrong = [entries[0] | {"expected": 0.76}, entries[0] | {"name": "elo_expected_score.much"}, *entries]
    monkeypatch.setattr(reference_values, "entries", lambda: wrong)
    assert main(["validate"]) == 1
    output = capsys.readouterr().out
    fails = [line for line in output.splitlines() if line.startswith("fail")]
    assert len(fails) == 2 and "expected 0.76  actual 0.7597" in fails[0] and "ValueError" in fails[1]
    assert f"source: {entries[0]['source']}" in output and f"{len(entries)} passed, 2 failed" in output
    assert main(["validate", "--json"]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["ok"] is False


def test_some_are_chosen_by_how_their_names_begin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "sprt", "nash_averaging.transitive", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)["values"]
    assert {value["name"].partition(".")[0] for value in values} == {"sprt", "nash_averaging"} and len(values) == 6
    assert main(["validate", "kuhn_pokr"]) == 2
    assert "did you mean 'kuhn_poker'?" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_connect_four_is_solved(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--slow", "connect_four.perfect_play"]) == 0
    assert "pass  connect_four.perfect_play" in capsys.readouterr().out


def test_the_solver_of_connect_four_knows_what_search_knows() -> None:
    """Late positions of random games, each also searched to its end by minimax, which knows the world's rules alone."""
    world, generator, won = world_registry.load("connect_four"), np.random.default_rng(3), []
    factory = agent_registry.load("minimax")
    while len(won) < 40:
        batch, moves = Batch(world, 1, autoreset=AutoresetMode.DISABLED), []
        batch.reset()
        while len(moves) < 28 and not batch.done[0]:
            seat = int(batch.acting[0].argmax())
            moves.append(int(generator.choice(np.flatnonzero(batch.action_mask[0, seat]))))
            batch.actions[0, seat] = moves[-1]
            batch.step()
        if batch.done[0]:
            with pytest.raises(ValueError, match="the game is over|no disc fits"):
                connect_four_solver.red_wins([*moves, 0])
            continue
        agent = factory.make(factory.Config(depth=0, nodes=0), world)
        agent.bind(batch)
        while not batch.done[0]:
            seat = int(batch.acting[0].argmax())
            batch.actions[0, seat] = agent.act(batch.observations[0, [seat]], rows=np.array([seat]))[0][0]
            batch.step()
        won.append(batch.episode_returns[0, 0] > 0)
        assert connect_four_solver.red_wins(moves) == won[-1], moves
    assert 5 < sum(won) < 35
    with pytest.raises(ValueError, match="no disc fits into column 7"):
        connect_four_solver.red_wins([3, 7])


def test_asking_for_help_loads_no_statistics() -> None:
    program = "import rl_lab.cli as c; c.parser().format_help(); import sys; print('scipy' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert process.stdout.strip() == "False"
