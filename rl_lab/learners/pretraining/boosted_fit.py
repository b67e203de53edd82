"""Fitting of gradient-boosted trees to actions, by scikit-learn, XGBoost or LightGBM.

`fit` returns the trees as arrays of the lab's. Of discrete actions, each action's trees add up to its score, whose
softmax would be the library's probability; of two actions, only the second has trees. Of continuous actions, each
number has trees of its own.

Sources: Friedman 2001, "Greedy function approximation: a gradient boosting machine"; Ke et al. 2017, "LightGBM"; Chen
and Guestrin 2016, "XGBoost".
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rl_lab.core.errors import UsageError, WorkFailed
from rl_lab.core.world import Array
from rl_lab.learners.compiled.tree_records import EnsembleArrays
from rl_lab.learners.pretraining.contract import ObservationContract
from rl_lab.learners.pretraining.tree_ensemble import TreeEnsemble

# By the name of the model: the module that fits it, and the extra that has it.
_LIBRARIES = {
    "hist_gradient_boosting": ("sklearn.ensemble", "trees"),
    "xgboost": ("xgboost", "boosted"),
    "lightgbm": ("lightgbm", "boosted"),
}
NAMES = tuple(_LIBRARIES)
UNSEEN_ACTION_SCORE = -1e9  # the score of an action without examples
_NUM_VERIFIED_ROWS = 1000  # rows for which the trees' actions are compared with the library's
_MOST_LEAVES = 2**16  # of one tree, where nothing else limits them


@dataclass(frozen=True)
class Boosting:
    """The settings with which an ensemble is fitted."""

    num_trees: int  # of each score
    learning_rate: float  # by which the leaves are multiplied
    max_depth: int
    max_leaf_nodes: int | None
    min_samples_leaf: int
    seed: int


class _Tree(NamedTuple):
    """M nodes of one tree, with the root first; a leaf has children -1."""

    output: int
    feature: Array
    threshold: Array  # rows with a number up to this one go left
    left: Array
    right: Array
    value: Array


def library(name: str) -> Any:
    """Return the module that fits this model. Raises UsageError where it is missing."""
    module, extra = _LIBRARIES[name]
    try:
        importlib.import_module("sklearn")  # the estimators of all three are its classes
        return importlib.import_module(module)
    except ImportError as error:
        package = (error.name or module).partition(".")[0].replace("sklearn", "scikit-learn")
        install = f'pip install "rl-lab[{extra}]"'
        raise UsageError(f"model={name} needs {package}, which is not installed: {install}") from None


def fit(
    name: str,
    boosting: Boosting,
    observations: Array,
    actions: Array,
    weights: Array,
    *,
    contract: ObservationContract,
    num_actions: int | None,
) -> TreeEnsemble:
    """Fit boosted trees, and return them as a `TreeEnsemble`.

    Args:
        name: of `NAMES`.
        boosting: how they are fitted.
        observations: [M, *shape], float32 or uint8.
        actions: int64 [M], or float32 [M, k] for continuous actions.
        weights: float64 [M], of the rows in the loss.
        contract: what the trees observe.
        num_actions: n of discrete actions, None for continuous ones.

    Raises:
        UsageError: the library is missing.
        WorkFailed: this version of the library has trees of another form.
    """
    rows = np.ascontiguousarray(observations, np.float32).reshape(len(observations), -1)
    if num_actions is None:
        fitted = [_fit_library(name, boosting, rows, column, weights, None) for column in actions.T]
        trees = [tree._replace(output=number) for number, each in enumerate(fitted) for tree in each.trees]
        base = np.concatenate([each.base for each in fitted])
        expected = np.stack([each.predict(rows[:_NUM_VERIFIED_ROWS]) for each in fitted], axis=1)
        ensemble = TreeEnsemble(contract, "continuous", _concatenate_trees(trees, base))
        is_equal = np.isclose(ensemble.act(rows[:_NUM_VERIFIED_ROWS]), expected, rtol=1e-4, atol=1e-5)
    else:
        # The libraries take classes 0, 1, ... of which each has examples.
        classes, targets = np.unique(actions, return_inverse=True)
        own = _fit_library(name, boosting, rows, targets, weights, len(classes))
        base = np.full(num_actions, UNSEEN_ACTION_SCORE)
        base[classes] = own.base if len(own.base) == len(classes) else [0.0, *own.base]
        trees = [tree._replace(output=int(classes[tree.output])) for tree in own.trees]
        ensemble = TreeEnsemble(contract, "discrete", _concatenate_trees(trees, base))
        is_equal = ensemble.act(rows[:_NUM_VERIFIED_ROWS]) == classes[own.predict(rows[:_NUM_VERIFIED_ROWS])]
    if is_equal.mean() < 0.99:  # rounding may decide between equal scores
        raise WorkFailed(f"model={name}: the trees of this version of {library(name).__name__} are not understood")
    return ensemble


class _LibraryTrees(NamedTuple):
    """Trees whose outputs are classes, or 0; the scores before the first tree; and the library's own predictions."""

    trees: list[_Tree]
    base: Array
    predict: Callable[[Array], Array]


def _fit_library(
    name: str, boosting: Boosting, rows: Array, targets: Array, weights: Array, num_classes: int | None
) -> _LibraryTrees:
    """Fit one classifier of so many classes, or one regressor."""
    if num_classes == 1:
        return _LibraryTrees([], np.zeros(1), lambda rows: np.zeros(len(rows), np.int64))
    functions = {"hist_gradient_boosting": _scikit_learn, "xgboost": _xgboost, "lightgbm": _lightgbm}
    model, trees, base = functions[name](boosting, rows, targets, weights, num_classes is not None)
    if num_classes == 2:  # one score, of the second class
        trees = [tree._replace(output=1) for tree in trees]
    return _LibraryTrees([_from_root(tree) for tree in trees], base, model.predict)


def _scikit_learn(
    boosting: Boosting, rows: Array, targets: Array, weights: Array, is_classifier: bool
) -> tuple[Any, list[_Tree], Array]:
    module = library("hist_gradient_boosting")
    kind = module.HistGradientBoostingClassifier if is_classifier else module.HistGradientBoostingRegressor
    model = kind(
        max_iter=boosting.num_trees,
        learning_rate=boosting.learning_rate,
        max_depth=boosting.max_depth,
        max_leaf_nodes=boosting.max_leaf_nodes,
        min_samples_leaf=boosting.min_samples_leaf,
        early_stopping=False,
        random_state=boosting.seed,
    )
    model.fit(rows, targets, sample_weight=weights)
    trees = []
    # These two attributes are private; scikit-learn has no public ones with the trees.
    for of_iteration in model._predictors:
        for output, predictor in enumerate(of_iteration):
            nodes = predictor.nodes
            left, right = (np.where(nodes["is_leaf"], -1, nodes[name].astype(np.int64)) for name in ("left", "right"))
            trees.append(_Tree(output, nodes["feature_idx"], nodes["num_threshold"], left, right, nodes["value"]))
    return model, trees, np.asarray(model._baseline_prediction, np.float64).ravel()


def _xgboost(
    boosting: Boosting, rows: Array, targets: Array, weights: Array, is_classifier: bool
) -> tuple[Any, list[_Tree], Array]:
    module = library("xgboost")
    # The score before the first tree is given, so that it need not be read; that of a classifier is a probability.
    mean = 0.5 if is_classifier else float(np.average(targets, weights=weights))
    kind = module.XGBClassifier if is_classifier else module.XGBRegressor
    model = kind(
        n_estimators=boosting.num_trees,
        learning_rate=boosting.learning_rate,
        max_depth=boosting.max_depth,
        max_leaves=boosting.max_leaf_nodes or 0,
        grow_policy="lossguide" if boosting.max_leaf_nodes else "depthwise",
        tree_method="hist",
        base_score=mean,
        random_state=boosting.seed,
        n_jobs=1,
        verbosity=0,
    )
    model.fit(rows, targets, sample_weight=weights)
    saved = json.loads(bytes(model.get_booster().save_raw("json")))["learner"]["gradient_booster"]["model"]
    trees = []
    for output, node in zip(saved["tree_info"], saved["trees"], strict=True):
        left, right = (np.array(node[name], np.int64) for name in ("left_children", "right_children"))
        # Rows below a float32 go left, so those up to the float32 before it; a leaf has its value in this place.
        condition = np.array(node["split_conditions"], np.float32)
        threshold = np.nextafter(condition, np.float32(-np.inf))
        trees.append(_Tree(int(output), np.array(node["split_indices"]), threshold, left, right, condition))
    classes = int(targets.max()) + 1 if is_classifier else 1
    # Before the first tree, the scores of several classes are equal.
    return model, trees, np.zeros(1 if classes == 2 else classes) if is_classifier else np.array([np.float32(mean)])


def _lightgbm(
    boosting: Boosting, rows: Array, targets: Array, weights: Array, is_classifier: bool
) -> tuple[Any, list[_Tree], Array]:
    module = library("lightgbm")
    kind = module.LGBMClassifier if is_classifier else module.LGBMRegressor
    model = kind(
        n_estimators=boosting.num_trees,
        learning_rate=boosting.learning_rate,
        max_depth=boosting.max_depth,
        num_leaves=boosting.max_leaf_nodes or min(2**boosting.max_depth, _MOST_LEAVES),
        min_child_samples=boosting.min_samples_leaf,
        random_state=boosting.seed,
        n_jobs=1,
        deterministic=True,
        force_row_wise=True,
        verbosity=-1,
    )
    model.fit(rows, targets, sample_weight=weights)
    saved = model.booster_.dump_model()
    outputs = int(saved["num_tree_per_iteration"])
    trees = [_tree_of(each["tree_structure"], number % outputs) for number, each in enumerate(saved["tree_info"])]
    return model, trees, np.zeros(outputs)  # the first trees have what the others add to


def _tree_of(structure: dict[str, Any], output: int) -> _Tree:
    """Return a tree of LightGBM, whose nodes lie inside of each other."""
    nodes = [structure]
    rows: list[tuple[int, float, int, int, float]] = []
    for node in nodes:  # which grows meanwhile
        if "left_child" in node:
            first = len(nodes)
            nodes += [node["left_child"], node["right_child"]]
            rows.append((node["split_feature"], node["threshold"], first, first + 1, 0.0))
        else:
            rows.append((0, 0.0, -1, -1, node["leaf_value"]))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return _Tree(output, *columns)


def _from_root(tree: _Tree) -> _Tree:
    """Return the same tree in the order of a walk from the root, without nodes that the walk does not reach."""
    order, pending = [], [0]
    while pending:
        node = pending.pop()
        order.append(node)
        if tree.left[node] >= 0:
            pending += [int(tree.right[node]), int(tree.left[node])]
    place = np.full(len(tree.left) + 1, -1)  # its last entry is that of a leaf's child -1
    place[order] = np.arange(len(order))
    is_leaf = tree.left[order] < 0
    feature, threshold, value = (
        np.where(is_leaf == is_of_leaf, array[order], 0)
        for array, is_of_leaf in ((tree.feature, False), (tree.threshold, False), (tree.value, True))
    )
    return _Tree(tree.output, feature, threshold, place[tree.left[order]], place[tree.right[order]], value)


def _concatenate_trees(trees: list[_Tree], base: Array) -> EnsembleArrays:
    """Return the arrays of all trees, one after the other."""
    root = np.cumsum([0, *(len(tree.left) for tree in trees)])[: len(trees)]

    def column(name: str, dtype: type) -> Array:
        return np.concatenate([np.zeros(0, dtype), *(np.asarray(getattr(tree, name), dtype) for tree in trees)])

    children = []
    for name in ("left", "right"):
        parts = [np.where(getattr(t, name) < 0, -1, getattr(t, name) + r) for t, r in zip(trees, root, strict=True)]
        children.append(np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64))
    return EnsembleArrays(
        root=np.asarray(root, np.int64),
        output=np.array([tree.output for tree in trees], np.int64),
        base=np.asarray(base, np.float64),
        feature=column("feature", np.int64),
        threshold=column("threshold", np.float64),
        left=children[0],
        right=children[1],
        value=column("value", np.float64),
    )
