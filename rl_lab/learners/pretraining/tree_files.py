"""Decision trees and sums of them as files, tree.json in a folder, and as members of an agent's checkpoint."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from rl_lab.core.errors import UsageError, one_line
from rl_lab.core.files import atomic_write_bytes
from rl_lab.core.untrusted import checked_list, checked_type, read_json
from rl_lab.core.world import Array
from rl_lab.learners.compiled.tree_records import EnsembleArrays, TreeArrays
from rl_lab.learners.pretraining.contract import read_contract
from rl_lab.learners.pretraining.decision_tree import DecisionTree
from rl_lab.learners.pretraining.tree_ensemble import TreeEnsemble

Trees = DecisionTree | TreeEnsemble

TREE = "tree.json"
VERSION = 1
ACTION_KINDS = ("discrete", "continuous")
_FORMATS: dict[type[Trees], str] = {DecisionTree: "rl_lab.tree", TreeEnsemble: "rl_lab.tree_ensemble"}
_ARRAYS: dict[type[Trees], type[TreeArrays] | type[EnsembleArrays]] = {
    DecisionTree: TreeArrays,
    TreeEnsemble: EnsembleArrays,
}
_MAX_BYTES = 2**27  # of tree.json; larger files are refused
_INDICES = ("feature", "left", "right", "root", "output")


def save(folder: Path, trees: Trees, about: dict[str, Any]) -> None:
    """Write tree.json into a folder; `about` says where the trees are from. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    head = {"format": _FORMATS[type(trees)], "version": VERSION, "about": about, "sha256": sha256(trees)}
    atomic_write_bytes(folder / TREE, (json.dumps({**head, **_as_json(trees)}, allow_nan=False) + "\n").encode())


def load(path: Path) -> Trees:
    """Return the trees of a folder, or of the run of a distillation, which has them in `tree/`.

    Raises UsageError, in one line, for a folder that is missing, damaged or of an unknown version.
    """
    folder = path / "tree" if (path / "tree" / TREE).is_file() else path
    if not (folder / TREE).is_file():
        raise UsageError(f"{path} is not a tree: it has no {TREE}")
    try:
        node = checked_type(read_json(folder / TREE, _MAX_BYTES), TREE, dict)
        kinds = {name: kind for kind, name in _FORMATS.items()}
        kind = kinds.get(str(node.get("format")))
        if kind is None or node.get("version") != VERSION:
            other = f"{node.get('format')!r:.40} version {node.get('version')!r:.20}"
            raise ValueError(f"it is {other}; this version reads {' and '.join(kinds)}, version {VERSION}")
        arrays = checked_type(node["nodes"], "nodes", dict)
        nodes = {name: _numbers(arrays[name], name) for name in _ARRAYS[kind]._fields}
        trees = _make_trees(kind, node["observation"], node["action"], nodes)
        if node["sha256"] != sha256(trees):
            raise ValueError(f"its SHA-256 is {sha256(trees)[:12]}, it says {node['sha256']!r:.14}")
        return trees
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
        raise UsageError(f"tree {folder / TREE} is damaged: {one_line(reason)[:300]}") from None


def sha256(trees: Trees) -> str:
    """Return the hash of everything that decides the trees' actions."""
    return hashlib.sha256(json.dumps(_as_json(trees), sort_keys=True).encode()).hexdigest()


def as_state(trees: Trees) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return trees as tensors and JSON for a checkpoint; `from_state` reads them."""
    state = {"observation": trees.observation.as_json(), "action": trees.action_kind}
    return trees.nodes._asdict(), state


def from_state(tensors: dict[str, Array], state: dict[str, Any]) -> Trees:
    """Return the trees of a checkpoint. Raises ValueError or KeyError where it has none."""
    kind: type[Trees] = TreeEnsemble if "root" in tensors else DecisionTree
    return _make_trees(kind, state["observation"], state["action"], dict(tensors))


def _as_json(trees: Trees) -> dict[str, Any]:
    arrays = {name: value.tolist() for name, value in trees.nodes._asdict().items()}
    return {"observation": trees.observation.as_json(), "action": trees.action_kind, "nodes": arrays}


def _numbers(value: Any, name: str) -> Array:
    """Return the array of a list from a file. Raises ValueError for what is no list of numbers, or of lists of them."""
    is_index = name in _INDICES
    result = np.array(checked_list(value, name), np.int64 if is_index and not value else None)
    if is_index:
        if result.dtype != np.int64:
            raise ValueError(f"{name} has values that are no whole numbers")
        return result
    if result.dtype.kind not in "fi":
        raise ValueError(f"{name} has values that are no numbers")
    return result.astype(np.float64)


def _make_trees(kind: type[Trees], observation: Any, action_kind: Any, arrays: dict[str, Array]) -> Trees:
    """Return the trees of data from a file. Raises ValueError or KeyError where these are none."""
    action = checked_type(action_kind, "action", str)
    if action not in ACTION_KINDS:
        raise ValueError(f"action is {action!r:.40}; expected {' or '.join(ACTION_KINDS)}")
    contract = read_contract(observation)
    contiguous = {name: np.ascontiguousarray(arrays[name]) for name in _ARRAYS[kind]._fields}
    if kind is TreeEnsemble:
        return TreeEnsemble(contract, action, EnsembleArrays(**contiguous))
    return DecisionTree(contract, action, TreeArrays(**contiguous))
