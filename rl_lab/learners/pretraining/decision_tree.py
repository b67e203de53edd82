"""A decision tree as plain arrays: its actions, its file tree.json, and its form in an agent's checkpoint.

Nothing here needs scikit-learn: that only fits trees, see `tree_fit`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl_lab.core.errors import UsageError, one_line
from rl_lab.core.files import atomic_write_bytes
from rl_lab.core.untrusted import checked_array, checked_list, checked_type, read_json
from rl_lab.core.world import Array
from rl_lab.learners.compiled import build
from rl_lab.learners.compiled.tree_records import TreeArrays
from rl_lab.learners.pretraining.contract import ObservationContract, read_contract

TREE = "tree.json"
FORMAT, VERSION = "rl_lab.tree", 1
ACTION_KINDS = ("discrete", "continuous")
_MAX_BYTES = 2**26  # of tree.json; larger files are refused
_MAX_NODES, _MAX_ACTIONS = 2**20, 2**16
_INDICES = ("feature", "left", "right")


@dataclass(frozen=True)
class DecisionTree:
    """A tree that maps observations to actions. Its arrays are checked when it is made.

    Raises ValueError for arrays that are no tree over these observations.
    """

    observation: ObservationContract
    action_kind: str  # discrete or continuous
    nodes: TreeArrays

    def __post_init__(self) -> None:
        size, values = len(self.nodes.feature), np.asarray(self.nodes.values)
        if not 1 <= size <= _MAX_NODES or values.ndim != 2 or not 1 <= values.shape[1] <= _MAX_ACTIONS:
            raise ValueError(f"a tree of {size} nodes with values {list(values.shape)} is none")
        like: dict[str, Array] = {name: np.zeros(size, np.int64) for name in _INDICES}
        like |= {"threshold": np.zeros(size), "values": np.zeros(values.shape)}
        for name, expected in like.items():
            checked_array(getattr(self.nodes, name), name, expected)
        feature, left, right, number = self.nodes.feature, self.nodes.left, self.nodes.right, np.arange(size)
        inner = left >= 0
        if not ((left == -1) & (right == -1))[~inner].all():
            raise ValueError("a leaf has a child")
        # A child behind its parent, and each node but the root the child of one: so a walk ends, in a leaf.
        children = np.concatenate([left[inner], right[inner]])
        if (left <= number)[inner].any() or (right <= number)[inner].any():
            raise ValueError("a child stands before its parent")
        if not np.array_equal(np.sort(children), number[1:]):
            raise ValueError("a node is not the child of exactly one other")
        if (feature < 0)[inner].any() or (feature >= self.num_features)[inner].any():
            raise ValueError(f"a node compares a number that is not among the observation's {self.num_features}")
        if self.action_kind == "discrete" and values.min() < 0:
            raise ValueError("a probability is negative")

    @property
    def num_features(self) -> int:
        """Return d, the count of numbers of an observation."""
        return int(np.prod(self.observation.shape))

    @property
    def num_leaves(self) -> int:
        """Return the number of leaves."""
        return int((self.nodes.left < 0).sum())

    @property
    def depth(self) -> int:
        """Return the largest number of comparisons that a row takes."""
        depths = np.zeros(len(self.nodes.left), np.int64)
        for node in np.flatnonzero(self.nodes.left >= 0):
            depths[[self.nodes.left[node], self.nodes.right[node]]] = depths[node] + 1
        return int(depths.max())

    def act(self, observations: Array, action_mask: Array | None = None) -> Array:
        """Return actions, int64 [B] or float32 [B, k], for observations [B, *shape] and masks, uint8 [B, n or more]."""
        rows = len(observations)
        obs = np.ascontiguousarray(observations, np.float32).reshape(rows, -1)
        if obs.shape[1] != self.num_features:
            raise ValueError(f"the tree observes {self.observation}, not {list(observations.shape[1:])}")
        size, compiled = self.nodes.values.shape[1], build.decision_tree()
        if self.action_kind == "continuous":
            continuous = np.zeros((rows, size), np.float32)
            compiled.continuous_actions(obs, self.nodes, continuous)
            return continuous
        mask = np.zeros((rows, 0), np.uint8) if action_mask is None else np.array(action_mask, np.uint8)
        if mask.shape != (rows, 0) and (len(mask) != rows or mask.shape[1] < size):
            raise ValueError(f"the mask is {list(mask.shape)}; expected [{rows}, {size} or more]")
        discrete = np.zeros(rows, np.int64)
        compiled.discrete_actions(obs, mask, self.nodes, discrete)
        return discrete

    def sha256(self) -> str:
        """Return the hash of everything that decides the tree's actions."""
        return hashlib.sha256(json.dumps(self._as_json(), sort_keys=True).encode()).hexdigest()

    def _as_json(self) -> dict[str, Any]:
        arrays = {name: value.tolist() for name, value in self.nodes._asdict().items()}
        return {"observation": self.observation.as_json(), "action": self.action_kind, "nodes": arrays}


def save(folder: Path, tree: DecisionTree, about: dict[str, Any]) -> None:
    """Write tree.json into a folder; `about` says where the tree is from. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    node = {"format": FORMAT, "version": VERSION, "about": about, "sha256": tree.sha256(), **tree._as_json()}
    atomic_write_bytes(folder / TREE, (json.dumps(node, allow_nan=False) + "\n").encode())


def load(path: Path) -> DecisionTree:
    """Return the tree of a folder, or of the run of a distillation, which has it in `tree/`.

    Raises UsageError, in one line, for a folder that is missing, damaged or of an unknown version.
    """
    folder = path / "tree" if (path / "tree" / TREE).is_file() else path
    if not (folder / TREE).is_file():
        raise UsageError(f"{path} is not a tree: it has no {TREE}")
    try:
        node = checked_type(read_json(folder / TREE, _MAX_BYTES), TREE, dict)
        if (node.get("format"), node.get("version")) != (FORMAT, VERSION):
            other = f"{node.get('format')!r:.40} version {node.get('version')!r:.20}"
            raise ValueError(f"it is {other}; this version reads {FORMAT!r} version {VERSION}")
        arrays = checked_type(node["nodes"], "nodes", dict)
        nodes = {name: _numbers(arrays[name], name) for name in TreeArrays._fields}
        tree = read_tree(node["observation"], node["action"], nodes)
        if node["sha256"] != tree.sha256():
            raise ValueError(f"its SHA-256 is {tree.sha256()[:12]}, it says {node['sha256']!r:.14}")
        return tree
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
        raise UsageError(f"tree {folder / TREE} is damaged: {one_line(reason)[:300]}") from None


def _numbers(value: Any, name: str) -> Array:
    """Return the array of a list from a file. Raises ValueError for what is no list of numbers, or of lists of them."""
    result = np.array(checked_list(value, name))
    if name in _INDICES:
        if result.dtype != np.int64:
            raise ValueError(f"{name} has values that are no whole numbers")
        return result
    if result.dtype.kind not in "fi":
        raise ValueError(f"{name} has values that are no numbers")
    return result.astype(np.float64)


def read_tree(observation: Any, action_kind: Any, arrays: dict[str, Array]) -> DecisionTree:
    """Return the tree of data from a file. Raises ValueError or KeyError where it is none."""
    kind = checked_type(action_kind, "action", str)
    if kind not in ACTION_KINDS:
        raise ValueError(f"action is {kind!r:.40}; expected {' or '.join(ACTION_KINDS)}")
    nodes = TreeArrays(**{name: np.ascontiguousarray(arrays[name]) for name in TreeArrays._fields})
    return DecisionTree(read_contract(observation), kind, nodes)


def as_state(tree: DecisionTree) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return a tree as tensors and JSON for a checkpoint; `from_state` reads them."""
    state = {"observation": tree.observation.as_json(), "action": tree.action_kind}
    return tree.nodes._asdict(), state


def from_state(tensors: dict[str, Array], state: dict[str, Any]) -> DecisionTree:
    """Return the tree of a checkpoint. Raises ValueError or KeyError where it is none."""
    return read_tree(state["observation"], state["action"], dict(tensors))
