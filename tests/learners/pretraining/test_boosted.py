"""Boosted trees: their actions are the library's, with and without masks, from files too; and what is refused."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl_lab.cli import main
from rl_lab.core.errors import UsageError
from rl_lab.learners.compiled.tree_records import EnsembleArrays
from rl_lab.learners.pretraining import boosted_fit, tree_files
from rl_lab.learners.pretraining.boosted_fit import Boosting
from rl_lab.learners.pretraining.contract import ObservationContract
from rl_lab.learners.pretraining.tree_ensemble import TreeEnsemble
from rl_lab.learners.pretraining.tree_rules import ensemble_rules

CONTRACT = ObservationContract((4,), "float32", None, None)
BOOSTING = Boosting(num_trees=12, learning_rate=0.3, max_depth=4, max_leaf_nodes=None, min_samples_leaf=1, seed=0)


@pytest.fixture(params=boosted_fit.NAMES)
def name(request: pytest.FixtureRequest) -> str:
    pytest.importorskip({"hist_gradient_boosting": "sklearn"}.get(request.param, request.param))
    return str(request.param)


def fitted(
    monkeypatch: pytest.MonkeyPatch, name: str, classes: list[int] | None, num_actions: int | None, **values: Any
) -> tuple[list[Any], TreeEnsemble]:
    """Return the library's estimators, which have learned a rule with noise, and their trees."""
    models: list[Any] = []
    original = boosted_fit._fit_library

    def remember(*arguments: Any) -> Any:
        result = original(*arguments)
        models.append(result)
        return result

    monkeypatch.setattr(boosted_fit, "_fit_library", remember)
    rng = np.random.default_rng(5)
    obs = rng.normal(size=(600, 4)).astype(np.float32)
    score = obs[:, 0] + obs[:, 1] * obs[:, 2] + 0.3 * rng.normal(size=600)
    actions: Any = np.stack([score, obs[:, 3] ** 2], axis=1).astype(np.float32)
    if classes is not None:
        actions = np.array(classes)[np.digitize(score, np.quantile(score, np.linspace(0, 1, len(classes) + 1)[1:-1]))]
    weights = rng.random(600) + 0.1
    boosting = dataclasses.replace(BOOSTING, **values)
    trees = boosted_fit.fit(name, boosting, obs, actions, weights, contract=CONTRACT, num_actions=num_actions)
    return models, trees


def near(trees: TreeEnsemble, rows: int) -> np.ndarray:
    """Return observations of which many have a number at a threshold, or beside it."""
    rng = np.random.default_rng(9)
    obs = rng.normal(size=(rows, 4)).astype(np.float32)
    at = trees.nodes.threshold[trees.nodes.left >= 0].astype(np.float32)
    if len(at):
        places = np.concatenate([at, np.nextafter(at, np.float32(9)), np.nextafter(at, np.float32(-9))])
        obs[np.arange(rows), rng.integers(0, 4, rows)] = rng.choice(places, rows)
    return obs


@pytest.mark.parametrize(("classes", "num_actions"), [([0, 1], 2), ([3, 1], 5), ([4, 0, 2], 5), ([2], 3)])
def test_actions_are_the_librarys(
    monkeypatch: pytest.MonkeyPatch, name: str, classes: list[int], num_actions: int
) -> None:
    (model,), trees = fitted(monkeypatch, name, classes, num_actions)
    obs = near(trees, 2000)
    expected = np.sort(classes)[np.asarray(model.predict(obs), np.int64)]
    assert np.array_equal(trees.act(obs), expected) and (len(classes) == 1 or len(np.unique(expected)) > 1)
    assert np.array_equal(trees.act(obs[7:8]), expected[7:8])
    assert trees.num_trees == {1: 0, 2: 12, 3: 36}[len(classes)] and trees.depth <= 4


def test_continuous_actions_are_the_librarys(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    models, trees = fitted(monkeypatch, name, None, None)
    obs = near(trees, 2000)
    expected = np.stack([model.predict(obs) for model in models], axis=1)
    actions = trees.act(obs)
    assert actions.dtype == np.float32 and np.allclose(actions, expected, rtol=1e-5, atol=1e-5)


def test_limits_of_a_tree_are_kept(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _, trees = fitted(monkeypatch, name, [0, 1], 2, max_leaf_nodes=5, max_depth=3)
    leaves = [(trees.tree(number).nodes.left < 0).sum() for number in range(trees.num_trees)]
    assert max(leaves) == 5 and trees.depth == 3
    assert len(trees.nodes.root) == 12 and sum(leaves) == trees.num_leaves


def test_the_best_legal_action_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    _, trees = fitted(monkeypatch, "hist_gradient_boosting", [0, 2, 3], 5)
    rng = np.random.default_rng(1)
    obs, mask = rng.normal(size=(200, 4)).astype(np.float32), (rng.random((200, 6)) < 0.5).astype(np.uint8)
    mask[:190, 0] = 1
    expected = np.where(mask[:, :5] != 0, trees.scores(obs), -np.inf).argmax(axis=1)
    assert np.array_equal(trees.act(obs, mask), np.where(mask[:, :5].any(axis=1), expected, 0))
    only = np.zeros((200, 5), np.uint8)
    only[:, 4] = 1  # of which there were no examples
    assert (trees.act(obs, only) == 4).all() and not (trees.act(obs) == 4).any()


@pytest.mark.parametrize("classes", [[0, 1, 2], [1], None])
def test_a_folder_is_read_as_it_was_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, classes: list[int] | None
) -> None:
    num_actions = None if classes is None else 3
    _, trees = fitted(monkeypatch, "hist_gradient_boosting", classes, num_actions)
    tree_files.save(tmp_path, trees, {})
    tensors, state = tree_files.as_state(trees)
    for again in (tree_files.load(tmp_path), tree_files.from_state(tensors, json.loads(json.dumps(state)))):
        assert isinstance(again, TreeEnsemble) and tree_files.sha256(again) == tree_files.sha256(trees)
        for field in EnsembleArrays._fields:
            before, after = getattr(trees.nodes, field), getattr(again.nodes, field)
            assert after.dtype == before.dtype and np.array_equal(after, before)


DAMAGES: dict[str, tuple[str, Any]] = {
    "another tree's child": ("left", lambda nodes: [nodes["root"][1] + 1, *nodes["left"][1:]]),
    "a root too many": ("root", lambda nodes: [*nodes["root"], nodes["root"][-1] + 1]),
    "no root": ("root", lambda nodes: []),
    "roots whose differences overflow": ("root", lambda nodes: [0, 2**63 - 1, -(2**63), -(2**63) + 1]),
    "roots in disorder": ("root", lambda nodes: nodes["root"][::-1]),
    "a score that is none": ("output", lambda nodes: [9, *nodes["output"][1:]]),
    "a text": ("value", lambda nodes: ["1", *nodes["value"][1:]]),
    "a short list": ("value", lambda nodes: nodes["value"][1:]),
    "a feature that is none": ("feature", lambda nodes: [4, *nodes["feature"][1:]]),
    "no score": ("base", lambda nodes: []),
    "another number": ("value", lambda nodes: [*nodes["value"][:-1], 0.5]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str) -> None:
    _, trees = fitted(monkeypatch, "hist_gradient_boosting", [0, 1], 2)
    tree_files.save(tmp_path, trees, {})
    node, (field, change) = json.loads((tmp_path / "tree.json").read_text()), DAMAGES[damage]
    node["nodes"][field] = change(node["nodes"])
    (tmp_path / "tree.json").write_text(json.dumps(node))
    with pytest.raises(UsageError) as error:
        tree_files.load(tmp_path)
    assert "tree.json is damaged: " in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("hist_gradient_boosting", "sklearn.ensemble", "trees"),
        ("xgboost",) * 2 + ("boosted",),
        ("lightgbm",) * 2 + ("boosted",),
    ],
)
def test_without_the_library_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError) as error:
        boosted_fit.library(name)
    assert f'pip install "rl-lab[{extra}]"' in str(error.value)


def test_rules_say_what_the_leaves_add() -> None:
    ints = {
        "root": [0, 3],
        "output": [1, 0],
        "feature": [1, 0, 0, 0],
        "left": [1, -1, -1, -1],
        "right": [2, -1, -1, -1],
    }
    arrays: dict[str, Any] = {key: np.array(value, np.int64) for key, value in ints.items()}
    arrays |= {"base": np.zeros(2), "threshold": np.array([0.5, 0, 0, 0]), "value": np.array([0, 0.25, -1.5, 2])}
    trees = TreeEnsemble(ObservationContract((2,), "float32", None, None), "discrete", EnsembleArrays(**arrays))
    assert trees.act(np.array([[0, 0.5], [0, 0.6]], np.float32)).tolist() == [0, 0]
    assert trees.scores(np.array([[0, 0.5], [0, 0.6]], np.float32)).tolist() == [[2, 0.25], [2, -1.5]]
    assert ensemble_rules(trees, ["here", "there"]).splitlines() == [
        "## Tree 1, which adds to action 1",
        "",
        "1. there <= 0.5: +0.25",
        "2. there > 0.5: -1.5",
        "",
        "## Tree 2, which adds to action 0",
        "",
        "1. always: +2",
    ]


def test_distil_evaluate_and_resume(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "pretrain tree teacher=scripted world=cartpole model=hist_gradient_boosting num_trees=8 max_depth=3"
    words += (
        " iterations=1 rollout_episodes=6 evaluation.episodes=5 evaluation.selection_episodes=5 run_dir=made --json"
    )
    assert main(words.split()) == 0
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert made["trees"] == 8 and made["depth"] <= 3 and made["mean_return"] > 100  # random play gets 22
    rules = Path("made/tree/rules.md").read_text()
    assert rules.startswith("# 8 boosted trees for cartpole\n\nThey imitate scripted: depth 3, ")
    assert "The first 3 trees are shown." in rules and rules.count("## Tree") == 3
    assert main("evaluate made evaluation.episodes=5 --json".split()) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["mean_return"] == made["mean_return"]
    before = Path("made/tree/tree.json").read_bytes()
    Path("made/tree/tree.json").unlink()
    assert main(["resume", "made"]) == 0
    assert Path("made/tree/tree.json").read_bytes() == before


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("model=xgbost", "did you mean 'xgboost'?"),
        ("num_trees=50", "num_trees is of boosted trees: add model=hist_gradient_boosting"),
        ("learning_rate=2", "learning_rate=2.0: expected 1e-06 to 1"),
    ],
)
def test_wrong_settings_are_one_line(capsys: pytest.CaptureFixture[str], setting: str, expected: str) -> None:
    assert main(["pretrain", "tree", "teacher=scripted", "world=cartpole", setting]) == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1
