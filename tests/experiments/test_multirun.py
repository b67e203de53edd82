"""Sweeps: every combination runs, its settings are visible, and failures are rows of the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rl_lab.cli import main
from rl_lab.experiments.compose import compose

TINY = (
    "budget=256 worlds=2 agent.n_steps=64 agent.batch_size=64 agent.n_epochs=1 device=cpu video=false "
    "evaluation.episodes=3 evaluation.selections=1 evaluation.selection_episodes=1"
).split()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_table_has_a_column_for_each_swept_key(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ["agent.learning_rate=1e-3,1e-4", "agent.gamma=0.9,0.99", "seed=0,1"]
    assert main(["train", "-m", "cartpole", *TINY, *sweep]) == 0
    lines = capsys.readouterr().out.splitlines()
    header = next(k for k, line in enumerate(lines) if line.split()[:1] == ["scenario"])
    assert lines[header].split()[:5] == ["scenario", "agent", "agent.learning_rate", "agent.gamma", "seeds"]
    rows = [line.split()[2:5] for line in lines[header + 1 : header + 5]]
    assert rows == [["0.001", "0.9", "2"], ["0.001", "0.99", "2"], ["0.0001", "0.9", "2"], ["0.0001", "0.99", "2"]]


def test_runs_and_their_list_tell_swept_settings_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "-m", "cartpole", *TINY, "agent.learning_rate=1e-3,1e-4"]) == 0
    names = [path.name for path in Path("runs").iterdir()]
    assert len({name.partition("learning_rate_")[2].partition("-")[0] for name in names}) == 2
    capsys.readouterr()
    assert main(["list", "runs", "--json"]) == 0
    items = json.loads(capsys.readouterr().out)["items"]
    assert ["agent.learning_rate=0.001" in item["settings"] for item in items].count(True) == 1


@pytest.mark.parametrize("bad", ["agent.learning_rate=-1,1e-3", "agent.batch_size=7,64", "world=nonsense,catch"])
def test_a_failing_combination_costs_no_other_its_result(bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One fails while it is composed, one while its learner is made: whichever it is, it is a row of the table."""
    assert main(["train", "-m", "cartpole", *TINY, bad, "--json"]) == 1
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    key, _, values = bad.partition("=")
    assert len(shown["runs"]) == 1
    (failure,) = shown["failed"]
    assert failure["swept"][key] == str(compose_value(values.split(",")[0]))
    assert failure["error"]
    assert sorted(row["failed"] for row in shown["table"]) == [0, 1]


def test_a_sweep_of_worlds_names_no_scenario_and_survives_a_broken_file(capsys: pytest.CaptureFixture[str]) -> None:
    """A file may raise whatever it likes when it is imported: no other world's run ends by it."""
    broken = {"leaves": "raise SystemExit(3)", "fails": "1 / 0", "is_cut": "x = (", "says": "raise UserWarning"}
    for name, code in broken.items():
        Path(f"{name}.py").write_text(code)
    worlds = ",".join([*(f"{name}.py" for name in broken), "cartpole", "no_such_file.py"])
    assert main(["train", "-m", f"world={worlds}", *TINY, "--json"]) == 1
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [run["world"] for run in shown["runs"]] == ["cartpole"]
    assert [failure["swept"]["world"] for failure in shown["failed"]] == [f"{n}.py" for n in broken] + [
        "no_such_file.py"
    ]
    assert all(failure["error"] for failure in shown["failed"])
    assert {row["agent"] for row in shown["table"]} == {"ppo"}
    assert [row["scenario"] for row in shown["table"]] == worlds.split(","), "no row is named after another's world"


def compose_value(text: str) -> object:
    return int(text) if text.lstrip("-").isdigit() else text


def test_a_failure_while_training_is_a_row_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rl_lab.experiments import trainer

    real = trainer.train

    def failing(scenario, *arguments):  # type: ignore[no-untyped-def]
        if scenario.seed == 0:
            raise ZeroDivisionError("in the third step")
        return real(scenario, *arguments)

    monkeypatch.setattr(trainer, "train", failing)
    assert main(["train", "-m", "cartpole", *TINY, "seed=0,1"]) == 1
    out = capsys.readouterr().out
    assert "failed: seed=0: ZeroDivisionError: in the third step" in out
    assert "1       1" in next(line for line in out.splitlines() if line.split()[:2] == ["cartpole", "ppo"])


def test_a_sweep_in_which_no_combination_is_valid_is_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "-m", "cartpole", "agent.gama=0.9,0.99"]) == 2
    assert "did you mean 'agent.gamma'?" in capsys.readouterr().err


OTHER_NAMES = {
    "lr=1": "agent.learning_rate",
    "agent.lr=1": "agent.learning_rate",
    "gamma=1": "agent.gamma",
    "total_timesteps=1": "budget",
    "agent.total_timesteps=1": "budget",
    "num_envs=1": "worlds",
    "env=catch": "world",
    "n_eval_episodes=1": "evaluation.episodes",
    "agent.hidden_sizes=[1]": "agent.net_arch",
    "agent.clip_coef=0.1": "agent.clip_range",
    "epochs=3": "agent.n_epochs",
}


@pytest.mark.parametrize("override, ours", OTHER_NAMES.items())
def test_other_libraries_names_are_answered_with_ours(override: str, ours: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{ours}'"):
        compose("cartpole", [override])


def test_the_answer_is_a_key_that_the_agent_has() -> None:
    """`clip_coef` is PPO's: DQN has nothing like it, so it is not offered."""
    with pytest.raises(ValueError) as caught:
        compose("cartpole", ["agent=dqn", "agent.clip_coef=0.1"])
    assert "clip_range" not in str(caught.value)


@pytest.mark.parametrize("agent", ["ppo", "dqn", "mcts", "minimax"])
def test_an_agents_hyperparameters_are_listed(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "agents", agent, "--json"]) == 0
    items = json.loads(capsys.readouterr().out)["items"]
    assert items
    for item in items:
        assert item["type"] and item["meaning"] and item["override"].startswith("agent.")
    if agent == "ppo":
        (rate,) = [item for item in items if item["override"] == "agent.learning_rate"]
        assert (rate["type"], rate["default"], rate["range"]) == ("float", 3e-4, "at least 0")
    assert main(["list", "agents", agent]) == 0
    assert items[0]["override"] in capsys.readouterr().out


def test_hyperparameters_of_no_agent_name_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "agents", "pppo"]) == 2
    assert "did you mean 'ppo'?" in capsys.readouterr().err
    assert main(["list", "worlds", "catch"]) == 2
