"""Decision trees: compiled actions equal scikit-learn's, masks, files, rules; and what a teacher's decisions weigh."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.backbones import learner_of

from rl_lab.core import agent_registry
from rl_lab.core.errors import UsageError
from rl_lab.engine import world_registry
from rl_lab.evaluation.demonstrations import DemonstrationPlan, Demonstrations, demonstrate
from rl_lab.learners.compiled.tree_records import TreeArrays
from rl_lab.learners.pretraining import tree_files, tree_fit
from rl_lab.learners.pretraining.contract import ObservationContract
from rl_lab.learners.pretraining.decision_tree import DecisionTree
from rl_lab.learners.pretraining.tree_rules import rules

CARTPOLE = DemonstrationPlan("cartpole", {}, episodes=4, steps=100_000, seed=5)


def fitted(
    seed: int, num_actions: int | None, *, depth: int = 5, d: int = 3, dtype: str = "float32", rows: int = 200
) -> tuple[Any, DecisionTree]:
    """Return an estimator of scikit-learn that has learned random actions, and its tree."""
    rng = np.random.default_rng(seed)
    contract = ObservationContract((d,), dtype, None, None)
    obs = (rng.integers(0, 4, (rows, d)) if dtype == "uint8" else rng.normal(size=(rows, d))).astype(dtype)
    if num_actions is None:
        actions: Any = rng.normal(size=(rows, 2)).astype(np.float32)
    else:
        actions = rng.choice(rng.permutation(num_actions)[: max(num_actions - 1, 1)], rows)  # one action never occurs
    model = tree_fit.estimator(num_actions, max_depth=depth, max_leaf_nodes=None, min_samples_leaf=1, seed=0)
    weights = rng.random(rows) + 0.1
    return model, tree_fit.fit(model, obs, actions, weights, contract=contract, num_actions=num_actions)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_actions=st.sampled_from([1, 2, 5, None]),
    depth=st.integers(1, 12),
    d=st.integers(1, 6),
    dtype=st.sampled_from(["float32", "uint8"]),
)
def test_compiled_actions_are_scikit_learns(seed: int, num_actions: int | None, depth: int, d: int, dtype: str) -> None:
    model, tree = fitted(seed, num_actions, depth=depth, d=d, dtype=dtype)
    rng = np.random.default_rng(seed)
    obs = (rng.integers(0, 6, (300, d)) if dtype == "uint8" else rng.normal(size=(300, d))).astype(dtype)
    inner = tree.nodes.left >= 0
    if inner.any() and dtype == "float32":  # numbers at the thresholds and on both sides of them
        at = tree.nodes.threshold[inner].astype(np.float32)
        near = rng.choice(np.concatenate([at, np.nextafter(at, np.float32(9)), np.nextafter(at, np.float32(-9))]), 300)
        obs[np.arange(300), rng.integers(0, d, 300)] = near
    expected = model.predict(obs.astype(np.float32))
    assert np.array_equal(tree.act(obs), expected if num_actions else expected.astype(np.float32))
    assert np.array_equal(tree.act(obs[7:8])[0], tree.act(obs)[7])
    assert tree.depth == model.get_depth() and tree.num_leaves == model.get_n_leaves()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), extra=st.integers(0, 2))
def test_the_best_legal_action_is_taken(seed: int, extra: int) -> None:
    model, tree = fitted(seed, 5)
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(100, 3)).astype(np.float32)
    mask = (rng.random((100, 5 + extra)) < 0.4).astype(np.uint8)  # the batch may have actions of another role
    mask[:90, rng.integers(0, 5, 90)] = 1
    probs = np.zeros((100, 5))
    probs[:, model.classes_] = model.predict_proba(obs)
    expected = np.where(mask[:, :5] != 0, probs, -1).argmax(axis=1)
    assert np.array_equal(tree.act(obs, mask), np.where(mask[:, :5].any(axis=1), expected, 0))


def test_other_shapes_are_refused() -> None:
    _, tree = fitted(0, 3)
    with pytest.raises(ValueError, match=r"the tree observes float32 \[3\].*, not \[4\]"):
        tree.act(np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match=r"the mask is \[2, 2\]; expected \[2, 3 or more\]"):
        tree.act(np.zeros((2, 3), np.float32), np.ones((2, 2), np.uint8))


# ------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("num_actions", [4, None])
def test_a_folder_is_read_as_it_was_written(tmp_path: Path, num_actions: int | None) -> None:
    _, tree = fitted(1, num_actions)
    tree_files.save(tmp_path, tree, {"teacher": "scripted"})
    again = tree_files.load(tmp_path)
    assert tree_files.sha256(again) == tree_files.sha256(tree)
    for name in TreeArrays._fields:
        before, after = getattr(tree.nodes, name), getattr(again.nodes, name)
        assert after.dtype == before.dtype and np.array_equal(after, before)
    tensors, state = tree_files.as_state(tree)
    again = tree_files.from_state(tensors, json.loads(json.dumps(state)))
    assert tree_files.sha256(again) == tree_files.sha256(tree)


def damage(node: dict[str, Any], name: str) -> None:
    """Change what tree.json says, in one of the ways of `DAMAGES`."""
    nodes, last = node["nodes"], len(node["nodes"]["left"]) - 1
    changes: dict[str, Any] = {
        "version": lambda: node.update(version=2),
        "foreign": lambda: node.update(format="rl_lab.backbone"),
        "missing": lambda: nodes.pop("threshold"),
        "one threshold": lambda: nodes["threshold"].__setitem__(0, 0.5),
        "text": lambda: nodes["threshold"].__setitem__(0, "0"),
        "infinite": lambda: nodes["threshold"].__setitem__(0, float("inf")),
        "circle": lambda: nodes["left"].__setitem__(0, 0),
        "beyond": lambda: nodes["right"].__setitem__(0, last + 1),
        "negative": lambda: nodes["right"].__setitem__(0, -1),
        "feature": lambda: nodes["feature"].__setitem__(0, 3),
        "fraction": lambda: nodes["feature"].__setitem__(0, 0.5),
        "huge": lambda: nodes["feature"].__setitem__(0, 10**30),
        "short": lambda: nodes["values"].pop(),
        "ragged": lambda: nodes["values"][0].pop(),
        "probability": lambda: nodes["values"][last].__setitem__(0, -1.0),
        "empty": lambda: nodes.update({key: [] for key in nodes}),
        "action": lambda: node.update(action="both"),
        "observation": lambda: node["observation"].update(shape=[2**30, 2**30]),
        "list": lambda: node.update(nodes=[]),
    }
    changes[name]()


DAMAGES = """version foreign missing infinite circle beyond negative feature fraction huge short ragged probability
    empty action observation list text""".split()


@pytest.mark.parametrize("name", [*DAMAGES, "one threshold"])
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str) -> None:
    _, tree = fitted(2, 3)
    tree_files.save(tmp_path, tree, {})
    node = json.loads((tmp_path / "tree.json").read_text())
    damage(node, name)
    (tmp_path / "tree.json").write_text(json.dumps(node))
    with pytest.raises(UsageError) as error:
        tree_files.load(tmp_path)
    assert "tree.json is damaged: " in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_tree_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a tree: it has no tree.json"):
        tree_files.load(tmp_path)
    for text in ("", "{", "[]", "null", "[" * 10_000):
        (tmp_path / "tree.json").write_text(text)
        with pytest.raises(UsageError, match="is damaged"):
            tree_files.load(tmp_path)


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.tree", None)
    with pytest.raises(UsageError, match=r'pip install "rl-lab\[trees\]"'):
        tree_fit.sklearn_tree()


# ------------------------------------------------------------------------------------------------- rules


def small(values: list[list[float]], kind: str = "discrete") -> DecisionTree:
    """Return a tree of three leaves: x[1] <= 0.5, or else x[1] <= 2, or else."""
    ints = {"feature": [1, 0, 1, 0, 0], "left": [1, -1, 3, -1, -1], "right": [2, -1, 4, -1, -1]}
    arrays: dict[str, Any] = {key: np.array(value, np.int64) for key, value in ints.items()}
    arrays |= {"threshold": np.array([0.5, 0, 2, 0, 0]), "values": np.array(values, np.float64)}
    return DecisionTree(ObservationContract((2,), "float32", None, None), kind, TreeArrays(**arrays))


def test_rules_name_the_bounds_and_the_action() -> None:
    tree = small([[0, 0], [1, 0], [0, 0], [0.3, 0.7], [0.2, 0.8]])
    assert rules(tree) == "1. x[1] <= 0.5: action 0\n2. x[1] > 0.5: action 1\n"
    masked = small([[0, 0], [1, 0], [0, 0], [0.3, 0.7], [0, 1]])  # where a mask may forbid the best action
    assert rules(masked, ["here", "there"], all_legal=False).splitlines() == [
        "1. there <= 0.5: action 0",
        "2. 0.5 < there <= 2: action 1, else 0",
        "3. there > 2: action 1",
    ]
    lines = rules(small([[0, 0], [1, -2], [0, 0], [0.25, 3], [0.5, 3]], "continuous")).splitlines()
    assert lines == [
        "1. x[1] <= 0.5: action [1, -2]",
        "2. 0.5 < x[1] <= 2: action [0.25, 3]",
        "3. x[1] > 2: action [0.5, 3]",
    ]
    assert rules(small([[1, 0]] * 5)) == "1. always: action 0\n"


def test_rules_of_depth_six_fit_on_a_page_and_say_what_the_tree_does() -> None:
    _, tree = fitted(4, 3, depth=6, rows=4000)
    lines = rules(tree).splitlines()
    assert 16 < len(lines) <= 64 and max(map(len, lines)) <= 120
    obs = np.random.default_rng(9).normal(size=(500, 3)).astype(np.float32)
    actions, times = np.zeros(500, np.int64), np.zeros(500, np.int64)
    for line in lines:
        conditions, action = line.partition(". ")[2].split(": action ")
        applies = np.array([all(holds(condition, x) for condition in conditions.split(" and ")) for x in obs])
        actions[applies] = int(action)
        times += applies
    # The rules have four digits of each bound, which no row but a rare one lies close to.
    assert (times == 1).mean() > 0.99 and (actions == tree.act(obs)).mean() > 0.99


def holds(condition: str, x: Any) -> bool:
    """Return whether a rule's condition on one number holds, such as 0.5 < x[1] <= 2."""
    low, index, high = re.fullmatch(r"(?:(\S+) < )?x\[(\d)\](?: (<= \S+|> \S+))?", condition).groups()  # type: ignore[union-attr]
    number = x[int(index)]
    above = low is None or float(low) < number
    return above and (high is None or (number <= float(high[2:]) if high[0] == "<" else number > float(high[1:])))


# ------------------------------------------------------------------------------------------------- demonstrations


def scripted(world: str) -> Any:
    module = agent_registry.load("scripted")
    return module.make(module.Config(), world_registry.load(world))


def test_the_teacher_names_the_actions_while_another_agent_plays() -> None:
    module = agent_registry.load("random")
    player = module.make(module.Config(seed=3), world_registry.load("cartpole"))
    played, alone = (demonstrate(CARTPOLE, scripted("cartpole"), each, 0) for each in (player, None))
    assert len(alone.actions) == 4 * 500 and 40 < len(played.actions) < 400  # random play gets 22 steps
    assert played.observations.shape == (len(played.actions), 4) and (played.weights == 1).all()
    first = demonstrate(CARTPOLE, scripted("cartpole"), player, 0)
    other = demonstrate(CARTPOLE, scripted("cartpole"), player, 1)
    assert np.array_equal(first.observations, played.observations) and np.array_equal(first.actions, played.actions)
    assert not np.array_equal(first.observations[:4], other.observations[:4])
    short = demonstrate(dataclasses.replace(CARTPOLE, steps=50), scripted("cartpole"), None, 0)
    assert 50 <= len(short.actions) < 54


def test_noise_changes_what_is_played_and_not_what_the_teacher_says() -> None:
    teacher = learner_of(None, agent="dqn").agent()
    alone, noisy = (demonstrate(dataclasses.replace(CARTPOLE, noise=each), teacher, None, 0) for each in (0.0, 1.0))
    assert np.array_equal(noisy.observations[:4], alone.observations[:4])
    assert not np.array_equal(noisy.observations[4:40], alone.observations[4:40])
    for data in (alone, noisy):
        assert np.array_equal(data.actions, teacher.act(data.observations)[0])
    joined = Demonstrations.concatenate([alone, noisy])
    assert len(joined.actions) == len(alone.actions) + len(noisy.actions) == len(joined.weights)


def test_the_teacher_sees_what_the_player_sees() -> None:
    teacher, module = learner_of(None, agent="dqn").agent(), agent_registry.load("random")
    data = demonstrate(CARTPOLE, teacher, module.make(module.Config(), world_registry.load("cartpole")), 0)
    assert np.array_equal(data.actions, teacher.act(data.observations)[0])


def test_masks_are_recorded_and_random_actions_are_legal() -> None:
    plan = DemonstrationPlan("tic_tac_toe", {}, episodes=8, steps=10_000, seed=0, noise=0.5)
    module = agent_registry.load("random")
    data = demonstrate(plan, module.make(module.Config(), world_registry.load("tic_tac_toe")), None, 0)
    assert data.action_mask.shape == (len(data.actions), 9) and 5 * 8 <= len(data.actions) <= 9 * 8
    assert data.action_mask[np.arange(len(data.actions)), data.actions].all()
    assert (data.weights == 0).all()  # a random teacher finds no action worse than another


@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_a_decision_weighs_what_the_worst_action_loses(agent: str) -> None:
    teacher = learner_of(None, agent=agent).agent()
    data = demonstrate(dataclasses.replace(CARTPOLE, steps=64), teacher, None, 0)
    scores = teacher.action_scores(data.observations)
    assert np.array_equal(scores.argmax(axis=1), data.actions)
    assert np.allclose(data.weights, scores.max(axis=1) - scores.min(axis=1), atol=1e-5) and data.weights.max() > 0
    if agent == "ppo":  # differences of logits are those of the logarithms of probabilities
        logs = np.log(teacher.probabilities(data.observations))
        assert np.allclose(data.weights, logs.max(axis=1) - logs.min(axis=1), atol=1e-5)
