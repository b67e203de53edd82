"""Tests of `rl-lab pretrain`, and of `rl-lab train` with the backbone that it has written, as a user types them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pygame
import pytest
import safetensors.numpy
from support.backbones import write_backbone, write_demonstrations
from support.datasets import cartpole_metadata, random_columns, write_data_set

from rl_lab.cli import main
from rl_lab.core import checkpoint
from rl_lab.datasets import cache

PRETRAIN_OVERRIDES = ["epochs=3", "batch_size=64", "evaluation.episodes=5", "learning_rate=3e-3"]
TRAIN_OVERRIDES = ["budget=1024", "video=false", "evaluation.episodes=5", "evaluation.selections=1"]
TRAIN_OVERRIDES += [
    "evaluation.selection_episodes=5",
    "agent.compiled=false",
    "checkpoint.steps=256",
    "agent.n_epochs=2",
]


@pytest.fixture(autouse=True)
def work_in_tmp_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cache, "root", lambda: tmp_path / "cache")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Return the exit status and the output of a command."""
    capsys.readouterr()
    status = main(list(words))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def reproducible_bytes(run: Path) -> dict[str, bytes]:
    """Return what must be equal of two runs: metrics, backbone, agent and the tensors of the last checkpoint."""
    last, errors = checkpoint.latest(run / "checkpoints")
    assert last is not None and not errors
    files = {"metrics": run / "metrics.jsonl", "backbone": run / "backbone" / "model.safetensors"}
    files |= {f"agent{n}": path for n, path in enumerate(sorted((run / "agent").rglob("*.safetensors")))}
    tensors = {
        f"{member}.{name}": array.tobytes() for member, part in last.tensors.items() for name, array in part.items()
    }
    return {name: path.read_bytes() for name, path in files.items()} | tensors


def test_a_cloned_policy_is_evaluated_and_trained_further(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_demonstrations(Path("demo"))
    status, out, _ = run(
        capsys, "pretrain", "bc", "data=demo", "backbone.hidden=[32]", "run_dir=bc", *PRETRAIN_OVERRIDES, "--json"
    )
    result = json.loads(out.splitlines()[-1])
    assert status == 0 and result["scores"]["accuracy"] > 0.9 and result["mean_return"] > 100  # random play gets 22
    card = json.loads(Path("bc/backbone/card.json").read_text())
    assert card["data"]["steps"] == 3000 and card["spent"]["epochs"] == 3 and card["scores"] == result["scores"]

    status, out, _ = run(capsys, "evaluate", "bc", "evaluation.episodes=5", "--json")
    assert status == 0 and json.loads(out.splitlines()[-1])["mean_return"] == result["mean_return"]

    status, _, err = run(capsys, "train", "cartpole", "backbone=bc", "mode=frozen", "run_dir=tuned", *TRAIN_OVERRIDES)
    assert status == 0 and f"backbone: mlp {result['sha256'][:12]}, frozen, parts trunk+policy" in err
    trunk = safetensors.numpy.load_file(Path("bc/backbone/model.safetensors"))
    (agent,) = Path("tuned/agent").glob("step-*/policy.safetensors")
    trained = safetensors.numpy.load_file(agent)
    assert (trained["features_extractor.backbone.layers.0.weight"] == trunk["trunk.layers.0.weight"]).all()
    assert not np.array_equal(trained["action_net.weight"], trunk["policy.0.weight"])

    status, _, err = run(capsys, "train", "cartpole", "backbone=tuned")
    expected = "tuned is no run of `rl-lab pretrain`; the backbone that it began with is tuned/backbone"
    assert status == 2 and expected in err

    shutil.rmtree("bc")  # the run has its own copy
    status, out, _ = run(capsys, "evaluate", "tuned", "evaluation.episodes=5", "--json")
    assert status == 0
    before = reproducible_bytes(Path("tuned"))
    shutil.rmtree(sorted(Path("tuned/checkpoints").iterdir())[-1])
    assert run(capsys, "resume", "tuned")[0] == 0 and reproducible_bytes(Path("tuned")) == before
    status, _, err = run(capsys, "export", "tuned", "agent.zip")
    assert status == 2 and "has a backbone" in err


def test_a_critic_is_added_to_a_cloned_policy(capsys: pytest.CaptureFixture[str]) -> None:
    write_demonstrations(Path("demo"))
    assert run(capsys, "pretrain", "bc", "data=demo", "backbone.hidden=[32]", "run_dir=bc", *PRETRAIN_OVERRIDES)[0] == 0
    words = ["pretrain", "critic", "data=demo", "backbone=bc", "run_dir=critic", *PRETRAIN_OVERRIDES]
    status, _, err = run(capsys, *words)
    assert status == 2 and err == "rl-lab: bc has a policy head, which fits its trunk: add freeze_trunk=true\n"
    assert run(capsys, *words, "freeze_trunk=true")[0] == 0
    first, second = (
        safetensors.numpy.load_file(Path(f"{name}/backbone/model.safetensors")) for name in ("bc", "critic")
    )
    assert all((second[name] == value).all() for name, value in first.items())
    assert sorted(set(second) - set(first)) == ["value.0.bias", "value.0.weight"]
    status, _, err = run(capsys, "train", "cartpole", "backbone=critic", "run_dir=tuned", *TRAIN_OVERRIDES)
    assert status == 0 and "finetune, parts trunk+policy+value" in err


@pytest.mark.parametrize("method", ["bc", "selfpred", "vae"])
def test_a_resumed_pretraining_has_the_same_bits(capsys: pytest.CaptureFixture[str], method: str) -> None:
    write_demonstrations(Path("demo"), episodes=20)
    assert run(capsys, "pretrain", method, "data=demo", "run_dir=bc", *PRETRAIN_OVERRIDES)[0] == 0
    before = reproducible_bytes(Path("bc"))
    shutil.rmtree(sorted(Path("bc/checkpoints").iterdir())[-1])
    shutil.rmtree("bc/backbone")
    status, out, _ = run(capsys, "resume", "bc")
    assert status == 0 and "next: rl-lab train cartpole backbone=bc" in out
    assert reproducible_bytes(Path("bc")) == before


@pytest.mark.parametrize("method", ["selfpred", "vae"])
def test_a_trunk_without_a_head_begins_a_training(capsys: pytest.CaptureFixture[str], method: str) -> None:
    write_demonstrations(Path("demo"), episodes=20)
    words = ["data=demo", "backbone.hidden=[32]", *PRETRAIN_OVERRIDES]
    status, out, _ = run(capsys, "pretrain", method, "run_dir=first", *words)
    assert status == 0 and "effective_rank" in out
    picture = Path("first/reconstructions.png")
    assert picture.is_file() == (method == "vae") == (str(picture) in out)
    if method == "vae":
        image = pygame.image.load(picture)
        assert image.get_width() > 10 * image.get_height() / 3 * 0.9  # 3 rows with a title and 10 squares each
    status, _, err = run(capsys, "train", "cartpole", "backbone=first", "run_dir=tuned", *TRAIN_OVERRIDES)
    assert status == 0 and "finetune, parts trunk" in err
    words = ["data=demo", "backbone=first", "run_dir=second", *PRETRAIN_OVERRIDES]
    assert run(capsys, "pretrain", "bc", *words)[0] == 0  # a policy is added to the trunk
    words[-len(PRETRAIN_OVERRIDES) - 1 :] = ["run_dir=third", "learning_rate=0", "epochs=1"]
    words[1] = "backbone=second"
    assert run(capsys, "pretrain", method, *words)[0] == 0  # and is left out where the trunk is trained further
    second, third = (safetensors.numpy.load_file(f"{name}/backbone/model.safetensors") for name in ("second", "third"))
    assert sorted(third) == [name for name in sorted(second) if name.startswith("trunk.")]
    assert all((second[name] == value).all() for name, value in third.items())


def test_features_that_collapse_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    about = cartpole_metadata()
    columns = random_columns(about, [20] * 8)
    columns.observations[:] = 1.0
    write_data_set(Path("demo"), about, columns)
    status, _, err = run(capsys, "pretrain", "selfpred", "data=demo", *PRETRAIN_OVERRIDES)
    assert status == 2 and "the features have collapsed" in err.splitlines()[-1] and "Traceback" not in err


def test_resume_refuses_data_that_have_changed(capsys: pytest.CaptureFixture[str]) -> None:
    write_demonstrations(Path("demo"))
    assert run(capsys, "pretrain", "bc", "data=demo", "run_dir=bc", *PRETRAIN_OVERRIDES)[0] == 0
    shutil.rmtree("demo")
    write_demonstrations(Path("demo"), shuffled=True)
    status, _, err = run(capsys, "resume", "bc")
    assert status == 2 and "has other data than at the start" in err
    Path("bc/pretraining.json").write_text("{")
    status, _, err = run(capsys, "resume", "bc")
    assert status == 2 and "pretraining.json is damaged" in err and err.count("\n") == 1


WRONG_PRETRAININGS: dict[str, tuple[list[str], str]] = {
    "method": (["bd", "data=demo"], "no method 'bd'; did you mean 'bc'?"),
    "no data": (["bc"], "say which data set to learn from: data=DIR"),
    "missing data": (["bc", "data=dmo"], "dmo: no such data set"),
    "key": (["bc", "data=demo", "batchsize=3"], "pretrain has no key 'batchsize'; did you mean 'batch_size'?"),
    "type": (["bc", "data=demo", "epochs=many"], "epochs"),
    "range": (["bc", "data=demo", "epochs=0"], "epochs=0: expected at least 1"),
    "share": (["bc", "data=demo", "validation=1.5"], "validation=1.5: expected a number from 0 to below 1"),
    "backbone": (["bc", "data=demo", "backbone=mpl"], "no backbone mpl; name a folder, or a run"),
    "layer": (["bc", "data=demo", "backbone.hiden=[3]"], "backbone mlp has no 'hiden'; did you mean 'hidden'?"),
    "world": (["bc", "data=demo", "world=acrobot"], "is data of another world"),
    "interpolation": (["bc", "data=demo", "net_arch=${oc.env:HOME}"], "is refused: settings are data"),
    "other contract": (["bc", "data=demo", "backbone=acrobot"], "backbone acrobot observes float32 [6]"),
    "layers of a folder": (["bc", "data=demo", "backbone=cartpole", "net_arch=[3]"], "has its own layers"),
}


@pytest.mark.parametrize("name", WRONG_PRETRAININGS)
def test_wrong_arguments_of_pretrain_are_refused_in_one_line(capsys: pytest.CaptureFixture[str], name: str) -> None:
    write_demonstrations(Path("demo"), episodes=4)
    write_backbone(Path("acrobot"), world="acrobot", heads=())
    write_backbone(Path("cartpole"), heads=())
    words, expected = WRONG_PRETRAININGS[name]
    status, _, err = run(capsys, "pretrain", *words)
    assert status == 2 and expected in err and err.count("\n") == 1
    assert not Path("runs").exists()


def test_the_code_of_a_world_that_only_the_data_name_does_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text("raise SystemExit('it ran')\n")
    about = cartpole_metadata()
    about = type(about)(**{**vars(about), "world": "mine.py:World"})
    write_data_set(Path("demo"), about, random_columns(about, [9] * 4))
    status, _, err = run(capsys, "pretrain", "bc", "data=demo")
    assert status == 2 and "name it yourself, world=mine.py:World" in err


WRONG_TRAININGS: dict[str, tuple[list[str], str]] = {
    "no folder": (["cartpole", "backbone=b2"], "no backbone b2; name a folder, or a run"),
    "mode alone": (["cartpole", "mode=frozen"], "say which backbone first: backbone=PATH"),
    "mode": (["cartpole", "backbone=b", "mode=freeze"], "did you mean 'frozen'?"),
    "key": (["cartpole", "backbone=b", "backbone.learningrate=1"], "did you mean 'learning_rate'?"),
    "world": (["acrobot", "backbone=b"], "observes float32 [4] from no bound to no bound; acrobot gives float32 [6]"),
    "agent": (
        ["cartpole", "agent=mcts", "backbone=b"],
        "agent mcts takes no backbone; dqn, ppo, rllib_appo, ",
    ),
    "dqn's parts": (["cartpole", "agent=dqn", "backbone=b", "parts=trunk,policy"], "a Q-network has no such head"),
    "policies": (
        ["simple_spread", "backbone=b", "policies={all: [agent_0, agent_1, agent_2]}"],
        "goes with one policy",
    ),
}


@pytest.mark.parametrize("name", WRONG_TRAININGS)
def test_wrong_arguments_of_train_with_a_backbone_are_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    write_backbone(Path("b"))
    words, expected = WRONG_TRAININGS[name]
    status, _, err = run(capsys, "train", *words)
    assert status == 2 and expected in err and err.count("\n") == 1
    assert not Path("runs").exists()


def test_a_run_without_a_backbone_does_not_mention_one(capsys: pytest.CaptureFixture[str]) -> None:
    words: list[Any] = ["cartpole", "run_dir=plain", *TRAIN_OVERRIDES]
    assert run(capsys, "train", *words)[0] == 0
    assert "backbone" not in Path("plain/config.yaml").read_text()


ENCODER = """
import torch
from torch import nn


class Encoder(nn.Module):
    def __init__(self, space, width=16):
        super().__init__()
        self.layer = nn.Linear(space.shape[0], width)
        self.norm = nn.LayerNorm(width)

    def forward(self, observations):
        return torch.tanh(self.norm(self.layer(observations)))
"""


def test_a_users_own_module_is_a_backbone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(Path("state").absolute()))
    write_demonstrations(Path("demo"))
    Path("mine.py").write_text(ENCODER)
    words = ["data=demo", "backbone=mine.py:Encoder", "backbone.width=24", "run_dir=bc", *PRETRAIN_OVERRIDES]
    assert run(capsys, "pretrain", "bc", *words)[0] == 0
    network = json.loads(Path("bc/backbone/config.json").read_text())["network"]
    assert network["kind"] == "mine.py:Encoder" and network["config"] == {"width": 24}
    status, _, err = run(capsys, "train", "cartpole", "backbone=bc", "run_dir=tuned", *TRAIN_OVERRIDES)
    assert status == 0 and "backbone: mine.py:Encoder " in err
    before = reproducible_bytes(Path("bc"))
    shutil.rmtree(sorted(Path("bc/checkpoints").iterdir())[-1])
    assert run(capsys, "resume", "bc")[0] == 0 and reproducible_bytes(Path("bc")) == before

    shutil.rmtree("state")  # another user got these folders, who has typed nothing
    for command in (["evaluate", "bc"], ["resume", "bc"], ["train", "cartpole", "backbone=bc"]):
        status, _, err = run(capsys, *command)
        assert status == 2 and "names code, mine.py:Encoder" in err and "--allow-code" in err
    assert run(capsys, "evaluate", "bc", "evaluation.episodes=5", "--allow-code", "mine.py")[0] == 0
    Path("mine.py").write_text(ENCODER + "\nraise SystemExit('it ran')\n")
    shutil.rmtree("state", ignore_errors=True)
    assert run(capsys, "evaluate", "bc")[0] == 2


def test_wrong_names_of_modules_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    write_demonstrations(Path("demo"), episodes=4)
    Path("mine.py").write_text("import torch\nEncoder = 3\n")
    for name, expected in {
        "mine.py:Encoder": "is no class of torch.nn.Module",
        "mine.py:Encodr": "has no 'Encodr'; did you mean 'Encoder'?",
        "other.py:Encoder": "no file other.py",
        "mine.py": "backbone=mine.py:CLASS",
    }.items():
        status, _, err = run(capsys, "pretrain", "bc", "data=demo", f"backbone={name}")
        assert status == 2 and expected in err and err.count("\n") == 1
