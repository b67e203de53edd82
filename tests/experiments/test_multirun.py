"""Tests of sweeps (`train -m`) and their table, of hints for keys of other libraries, and of `list agents NAME`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rl_lab.cli import main
from rl_lab.experiments.compose import compose

TINY_TRAINING = (
    "budget=256 worlds=2 agent.n_steps=64 agent.batch_size=64 agent.n_epochs=1 device=cpu video=false "
    "evaluation.episodes=3 evaluation.selections=1 evaluation.selection_episodes=1"
).split()


@pytest.fixture(autouse=True)
def work_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_table_has_a_column_for_each_swept_key(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ["agent.learning_rate=1e-3,1e-4", "agent.gamma=0.9,0.99", "seed=0,1"]
    assert main(["train", "-m", "cartpole", *TINY_TRAINING, *sweep]) == 0
    lines = capsys.readouterr().out.splitlines()
    header = next(k for k, line in enumerate(lines) if line.split()[:1] == ["scenario"])
    assert lines[header].split()[:5] == ["scenario", "agent", "agent.learning_rate", "agent.gamma", "seeds"]
    rows = [line.split()[2:5] for line in lines[header + 1 : header + 5]]
    assert rows == [["0.001", "0.9", "2"], ["0.001", "0.99", "2"], ["0.0001", "0.9", "2"], ["0.0001", "0.99", "2"]]


def test_names_of_runs_and_list_runs_show_the_swept_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "-m", "cartpole", *TINY_TRAINING, "agent.learning_rate=1e-3,1e-4"]) == 0
    names = [path.name for path in Path("runs").iterdir()]
    assert len({name.partition("learning_rate_")[2].partition("-")[0] for name in names}) == 2
    capsys.readouterr()
    assert main(["list", "runs", "--json"]) == 0
    items = json.loads(capsys.readouterr().out)["items"]
    assert ["agent.learning_rate=0.001" in item["settings"] for item in items].count(True) == 1


@pytest.mark.parametrize("overrides", ["agent.learning_rate=-1,1e-3", "agent.batch_size=7,64", "world=nonsense,catch"])
def test_a_combination_that_fails_does_not_end_the_others(overrides: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The combination fails when it is composed or when its learner is made; in both cases it is a row of the table."""
    assert main(["train", "-m", "cartpole", *TINY_TRAINING, overrides, "--json"]) == 1
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    key, _, values = overrides.partition("=")
    assert len(result["runs"]) == 1
    (failure,) = result["failed"]
    assert failure["swept"][key] == str(compose_value(values.split(",")[0]))
    assert failure["error"]
    assert sorted(row["failed"] for row in result["table"]) == [0, 1]


def test_a_sweep_over_worlds_continues_after_broken_files(capsys: pytest.CaptureFixture[str]) -> None:
    """A file may raise any exception when it is imported; the other worlds are trained all the same."""
    broken = {"leaves": "raise SystemExit(3)", "fails": "1 / 0", "is_cut": "x = (", "says": "raise UserWarning"}
    for name, code in broken.items():
        Path(f"{name}.py").write_text(code)
    worlds = ",".join([*(f"{name}.py" for name in broken), "cartpole", "no_such_file.py"])
    assert main(["train", "-m", f"world={worlds}", *TINY_TRAINING, "--json"]) == 1
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [run["world"] for run in result["runs"]] == ["cartpole"]
    assert [failure["swept"]["world"] for failure in result["failed"]] == [f"{n}.py" for n in broken] + [
        "no_such_file.py"
    ]
    assert all(failure["error"] for failure in result["failed"])
    assert {row["agent"] for row in result["table"]} == {"ppo"}
    assert [row["scenario"] for row in result["table"]] == worlds.split(","), "no row is named after another's world"


def compose_value(text: str) -> object:
    return int(text) if text.lstrip("-").isdigit() else text


def test_a_failure_in_training_is_a_row_of_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rl_lab.experiments import trainer

    original_train = trainer.train

    def failing_train(scenario, *arguments):  # type: ignore[no-untyped-def]
        if scenario.seed == 0:
            raise ZeroDivisionError("in the third step")
        return original_train(scenario, *arguments)

    monkeypatch.setattr(trainer, "train", failing_train)
    assert main(["train", "-m", "cartpole", *TINY_TRAINING, "seed=0,1"]) == 1
    out = capsys.readouterr().out
    assert "failed: seed=0: ZeroDivisionError: in the third step" in out
    assert "1       1" in next(line for line in out.splitlines() if line.split()[:2] == ["cartpole", "ppo"])


def test_a_sweep_without_a_valid_combination_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "-m", "cartpole", "agent.gama=0.9,0.99"]) == 2
    assert "did you mean 'agent.gamma'?" in capsys.readouterr().err


KEYS_OF_OTHER_LIBRARIES = {
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


@pytest.mark.parametrize("override, ours", KEYS_OF_OTHER_LIBRARIES.items())
def test_keys_of_other_libraries_are_refused_with_ours(override: str, ours: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{ours}'"):
        compose("cartpole", [override])


def test_the_suggested_key_is_one_that_the_agent_has() -> None:
    """`clip_coef` is PPO's: DQN has nothing like it, so it is not offered."""
    with pytest.raises(ValueError) as error:
        compose("cartpole", ["agent=dqn", "agent.clip_coef=0.1"])
    assert "clip_range" not in str(error.value)


@pytest.mark.parametrize("agent", ["ppo", "dqn", "mcts", "minimax"])
def test_list_agents_lists_hyperparameters_of_an_agent(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_list_agents_refuses_an_unknown_agent_with_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "agents", "pppo"]) == 2
    assert "did you mean 'ppo'?" in capsys.readouterr().err
    assert main(["list", "worlds", "catch"]) == 2
