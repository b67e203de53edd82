"""Tests of `rl-lab data`: its files and output, and that a mistake is reported in one line and leaves no file."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from rl_lab.cli import main
from rl_lab.datasets import cache
from rl_lab.datasets.dataset import open_dataset


@pytest.fixture(autouse=True)
def work_in_tmp_path(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(cache, "root", lambda: folder)


def data_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert main(["data", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_data_set_is_collected_shown_and_exported(capsys: pytest.CaptureFixture[str]) -> None:
    words = "collect scripted random world=cartpole steps=1e3 noise=0.1 seed=2"
    collected = data_json(capsys, *words.split(), "out=demos/one-v0")
    assert collected["steps"] >= 1000 and collected["world"] == "cartpole"
    summary = data_json(capsys, "show", "demos/one-v0")
    assert {key: summary[key] for key in ("steps", "episodes", "content_hash")} == {
        key: collected[key] for key in ("steps", "episodes", "content_hash")
    }
    assert list(summary["policies"]) == ["scripted", "random"]
    assert sum(each["steps"] for each in summary["policies"].values()) == summary["steps"]
    assert summary["info"]["noise"] == 0.1 and summary["info"]["seed"] == 2
    assert len(summary["info"]["policies"][0]["sha256"]) == 64
    assert main(["data", "show", "demos/one-v0"]) == 0
    text = capsys.readouterr().out
    assert "float32 [4]" in text and "mean return" in text

    exported = data_json(capsys, "export", "demos/one-v0", "one.parquet")
    assert exported["steps"] == summary["steps"]
    table, data = parquet.read_table("one.parquet"), open_dataset(Path("demos/one-v0"))
    np.testing.assert_array_equal(np.stack(table["observation"].to_numpy()), data.observations)
    np.testing.assert_array_equal(
        np.stack(table["next_observation"].to_numpy()), data.next_observations(np.arange(data.num_steps))
    )
    np.testing.assert_array_equal(table["action"].to_numpy(), data.actions)
    np.testing.assert_array_equal(table["reward"].to_numpy(), data.rewards)
    assert set(table["policy"].to_pylist()) == {"scripted", "random"}
    assert json.loads(table.schema.metadata[b"rl_lab"])["content_hash"] == data.content_hash

    collected_again = data_json(capsys, *words.split(), "out=demos/two-v0")
    assert collected_again["content_hash"] == collected["content_hash"]
    one, two = files_of(Path("demos/one-v0")), files_of(Path("demos/two-v0"))
    names = [one.pop("data/metadata.json"), two.pop("data/metadata.json")]
    assert one == two and names[0].replace(b"one-v0", b"two-v0") == names[1]


def test_a_game_has_an_episode_for_each_agent(capsys: pytest.CaptureFixture[str]) -> None:
    words = "collect scripted random:seed=3 world=tic_tac_toe episodes=10 out=games"
    assert data_json(capsys, *words.split())["episodes"] == 20
    summary = data_json(capsys, "show", "games")
    assert summary["groups"] == 10 and summary["action_masks"] and summary["action"] == "Discrete(9)"
    masks = open_dataset(Path("games")).action_masks
    assert masks is not None and masks.shape == (summary["steps"], 9)
    data_json(capsys, "export", "games", "games.parquet")
    assert len(parquet.read_table("games.parquet")["action_mask"][0].as_py()) == 9


WRONG_ARGUMENTS = {
    "collect scriptd world=cartpole steps=9 out=a": "did you mean 'scripted'",
    "collect ppo world=cartpole steps=9 out=a": "must be trained first",
    "collect scripted world=cartpol steps=9 out=a": "did you mean 'cartpole'",
    "collect scripted steps=9 out=a": "add world=NAME",
    "collect world=cartpole steps=9 out=a": "name the agent",
    "collect scripted world=cartpole steps=9": "out=DIR",
    "collect scripted world=cartpole steps=9 out=": "out=DIR",
    "collect scripted world=cartpole steps=9 out=there": "exists already",
    "collect scripted world=cartpole steps=9 out=file/a": "cannot write there",
    "collect scripted world=cartpole steps=0 out=a": "steps=0",
    "collect scripted world=cartpole steps=-5 out=a": "steps=-5",
    "collect scripted world=cartpole steps=1.5 out=a": "a whole number",
    "collect scripted world=cartpole steps=nan out=a": "steps=nan",
    "collect scripted world=cartpole episodes=0 out=a": "episodes=0",
    "collect scripted world=cartpole out=a": "steps=N transitions, or episodes=N",
    "collect scripted world=cartpole steps=1 episodes=1 out=a": "steps=N transitions, or episodes=N",
    "collect scripted world=cartpole steps=9 noise=2 out=a": "noise=2",
    "collect scripted world=cartpole steps=9 seed=-1 out=a": "seed=-1",
    "collect scripted world=cartpole stps=9 out=a": "did you mean 'steps'",
    "collect scripted world=cartpole world.params.gravityy=9 steps=9 out=a": "did you mean 'gravity'",
    "collect minimax world=cartpole steps=9 out=a": "minimax",
    "collect scripted scripted world=cartpole steps=9 out=a": "two entrants",
    "show": "takes DIR",
    "show nowhere": "no such data set",
    "show there": "is no data set",
    "export nowhere a.parquet": "no such data set",
    "export nowhere a.csv": "ends in .parquet",
    "export nowhere file.parquet": "exists already",
    "export nowhere none/a.parquet": "is not a folder",
}


@pytest.mark.parametrize("words", WRONG_ARGUMENTS)
def test_wrong_arguments_are_refused_in_one_line(
    words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Path("there").mkdir()
    Path("file").touch()
    Path("file.parquet").touch()
    before = sorted(tmp_path.rglob("*"))
    assert main(["data", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and WRONG_ARGUMENTS[words] in err, err
    assert sorted(tmp_path.rglob("*")) == before


def test_without_pyarrow_the_error_names_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    importing = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return importing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert main(["data", "show", "nowhere"]) == 2
    assert 'pip install "rl-lab[data]"' in capsys.readouterr().err


def test_a_collection_that_fails_leaves_no_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from rl_lab.datasets.minari_format import MinariWriter

    def fail(self: object, columns: object) -> None:
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr(MinariWriter, "write", fail)
    assert main("data collect scripted world=cartpole steps=9 out=a".split()) == 1
    assert "No space left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_collected_from_in_its_own_world(capsys: pytest.CaptureFixture[str]) -> None:
    tiny = "budget=256 worlds=2 agent.n_steps=64 agent.batch_size=64 agent.n_epochs=1 device=cpu video=false"
    measured = "evaluation.episodes=1 evaluation.selections=1 evaluation.selection_episodes=1"
    words = f"train cartpole {tiny} {measured} world.params.gravity=5 run_dir=run --json"
    assert main(words.split()) == 0
    first = data_json(capsys, *"collect run run@256:sample=true random episodes=6 out=a".split())
    assert first["world"] == "cartpole" and first["episodes"] == 6
    shown = data_json(capsys, "show", "a")
    assert list(shown["policies"]) == ["run", "run@256:sample=true", "random"]
    assert [each["deterministic"] for each in shown["info"]["policies"][:2]] == [True, False]
    assert shown["info"]["params"]["gravity"] == 5
    again = data_json(capsys, *"collect run run@256:sample=true random episodes=6 out=b".split())
    assert again["content_hash"] == first["content_hash"]
    capsys.readouterr()
    assert main("data collect run world=catch episodes=6 out=c".split()) == 2
    assert "was trained in cartpole, not in catch" in capsys.readouterr().err
