"""Fitting of a decision tree to actions, by scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.core.errors import UsageError
from rl_lab.core.world import Array
from rl_lab.learners.compiled.tree_records import TreeArrays
from rl_lab.learners.pretraining.contract import ObservationContract
from rl_lab.learners.pretraining.decision_tree import DecisionTree


def sklearn_tree() -> Any:
    """Return the module `sklearn.tree`. Raises UsageError where scikit-learn is missing."""
    try:
        import sklearn.tree
    except ImportError:
        raise UsageError('trees need scikit-learn, which is not installed: pip install "rl-lab[trees]"') from None
    return sklearn.tree


def estimator(
    num_actions: int | None, *, max_depth: int, max_leaf_nodes: int | None, min_samples_leaf: int, seed: int
) -> Any:
    """Return an unfitted DecisionTreeClassifier, or a DecisionTreeRegressor where `num_actions` is None."""
    module = sklearn_tree()
    kind = module.DecisionTreeRegressor if num_actions is None else module.DecisionTreeClassifier
    return kind(
        max_depth=max_depth, max_leaf_nodes=max_leaf_nodes, min_samples_leaf=min_samples_leaf, random_state=seed
    )


def fit(
    model: Any,
    observations: Array,
    actions: Array,
    weights: Array,
    *,
    contract: ObservationContract,
    num_actions: int | None,
) -> DecisionTree:
    """Fit an estimator, and return it as a `DecisionTree`.

    Args:
        model: what `estimator` returned for the same `num_actions`.
        observations: [M, *shape], float32 or uint8.
        actions: int64 [M], or float32 [M, k] for continuous actions.
        weights: float64 [M], of the rows in the impurity of a node.
        contract: what the tree observes.
        num_actions: n of discrete actions, None for continuous ones.
    """
    rows = np.ascontiguousarray(observations, np.float32).reshape(len(observations), -1)
    model.fit(rows, actions, sample_weight=weights)
    return convert(model, contract, num_actions)


def convert(model: Any, contract: ObservationContract, num_actions: int | None) -> DecisionTree:
    """Return a fitted estimator of scikit-learn as a `DecisionTree`; an action without examples has probability 0."""
    fitted = model.tree_
    values = np.array(fitted.value, np.float64)
    if num_actions is None:
        values = values[:, :, 0]
    else:
        shares = values[:, 0] / values[:, 0].sum(axis=1, keepdims=True)
        values = np.zeros((len(shares), num_actions))
        values[:, model.classes_] = shares
    left, right = (np.array(each, np.int64) for each in (fitted.children_left, fitted.children_right))
    inner = left >= 0
    feature, threshold = (np.where(inner, each, 0) for each in (fitted.feature, fitted.threshold))
    nodes = TreeArrays(
        feature.astype(np.int64), threshold.astype(np.float64), left, right, np.ascontiguousarray(values)
    )
    return DecisionTree(contract, "continuous" if num_actions is None else "discrete", nodes)
