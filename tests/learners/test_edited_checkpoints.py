"""Checkpoints that were edited, and whose hashes were corrected, are refused in one line and without a traceback.

Each test copies a small run, writes a wrong value or tensor to its checkpoint, and calls `rl-lab resume`.
"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.checkpoints import rewrite_manifest

from rl_lab.cli import main

OVERRIDES = "budget=256 worlds=2 device=cpu video=false threads=1 evaluation.episodes=2 evaluation.selections=1".split()
OVERRIDES += ["evaluation.selection_episodes=1", "checkpoint.steps=128"]
AGENTS = {
    "ppo": ["agent.n_steps=64", "agent.batch_size=64", "agent.n_epochs=1", "agent.normalize_observations=true"],
    "stock": ["agent.n_steps=64", "agent.batch_size=64", "agent.n_epochs=1", "agent.compiled=false"],
    "dqn": ["agent=dqn", "agent.buffer_size=200", "agent.learning_starts=32", "agent.priority_exponent=0.5"]
    + ["agent.batch_size=16", "budget=4096", "checkpoint.steps=1024"],
}
WRONG_VALUES = [
    None,
    True,
    False,
    -1,
    -(2**70),
    2**70,
    10**400,
    1.5,
    -0.5,
    1e308,
    "x",
    "",
    [],
    [1],
    [[]],
    {},
    {"x": 1},
    ...,
]
FEW_EXAMPLES = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module", params=AGENTS)
def run_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run, and delete all checkpoints but the last one before the end; return its folder."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    assert main(["train", "catch", *OVERRIDES, *AGENTS[request.param], f"run_dir={folder}", "--json"]) == 0
    *_, last_checkpoint, final_checkpoint = sorted((folder / "checkpoints").iterdir())
    shutil.rmtree(final_checkpoint)
    for other in (folder / "checkpoints").iterdir():
        if other != last_checkpoint:
            shutil.rmtree(other)
    return folder


def paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in a JSON value; of a long list, of the first two and last two."""
    inner = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    if isinstance(node, list) and len(inner) > 4:
        inner = [*inner[:2], *inner[-1:]]
    return [(*path, key) for key, _ in inner] + [p for key, value in inner for p in paths(value, (*path, key))]


def with_value(state: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Return a copy of a state with another value at a path; `...` deletes what is there."""
    state = copy.deepcopy(state)
    *parents, last = path
    node: Any = state
    for key in parents:
        node = node[key]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return state


def resume(run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return exit status and standard error of `rl-lab resume`."""
    capsys.readouterr()
    status = main(["resume", str(run), "--json"])
    return status, capsys.readouterr().err


def is_handled(status: int, stderr: str) -> bool:
    """Return whether `resume` ended with one line about the fault, or continued and said what it skipped."""
    lines = stderr.splitlines()
    if status == 0:
        return all(line.startswith(("skipped a damaged checkpoint: ", "continuing from ")) for line in lines)
    return status in (1, 2) and len(lines) <= 2 and lines[-1].startswith("rl-lab: ") and "unexpected" not in stderr


@FEW_EXAMPLES
@given(data=st.data())
def test_a_wrong_value_anywhere_in_the_state_is_handled(
    data: st.DataObject, run_folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path_factory.mktemp("edited") / "run"
    shutil.copytree(run_folder, run)
    (folder,) = (run / "checkpoints").iterdir()
    state = json.loads((folder / "state.json").read_bytes())
    path = data.draw(st.sampled_from(paths(state)))
    value = data.draw(st.sampled_from([v for v in WRONG_VALUES if not (v is ... and isinstance(path[-1], int))]))
    (folder / "state.json").write_bytes(json.dumps(with_value(state, path, value)).encode())
    rewrite_manifest(folder)
    status, stderr = resume(run, capsys)
    assert is_handled(status, stderr), (path, value, status, stderr)
    if isinstance(value, int) and abs(value) > 2**69 and type(value) is int:
        assert status != 0 or "skipped" in stderr or path[-1] in ("state", "inc"), (path, value)


@pytest.mark.parametrize(
    "path, value",
    [
        (("learner", "numpy", "has_gauss"), 2**70),
        (("learner", "numpy", "gauss"), 10**400),
        (("learner", "numpy", "gauss"), -(2**70)),
        (("learner", "numpy", "gauss"), 21.5),
        (("learner", "python", 1, 3), 2**70),
        (("learner", "python", 1, -1), -1),
        (("learner", "action_space", "state", "state"), 2**130),
        (("learner", "action_space", "has_uint32"), 7),
        (("learner", "steps"), 10**400),
        (("learner", "optimizer_groups", 0, "betas"), [1, "x"]),
        (("learner", "optimizer_groups", 0, "betas"), [7.0, 9.0]),
        (("learner", "optimizer_groups", 0, "eps"), "x"),
        (("learner", "optimizer_groups", 0, "amsgrad"), True),
        (("learner", "optimizer_groups", 0, "lr"), -1.0),
        (("learner", "optimizer_groups", 0, "params"), [0]),
        (("learner", "episode_infos"), [[1.0, 10**400]]),
        (("training", "selections"), 10**400),
        (("clock",), 10**400),
    ],
    ids=lambda part: ".".join(map(str, part)) if isinstance(part, tuple) else f"{part!r:.20}",
)
def test_values_that_would_raise_in_the_first_update_are_refused(
    path: tuple[Any, ...], value: Any, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    (folder,) = (tmp_path / "run" / "checkpoints").iterdir()
    state = json.loads((folder / "state.json").read_bytes())
    (folder / "state.json").write_bytes(json.dumps(with_value(state, path, value)).encode())
    rewrite_manifest(folder)
    status, stderr = resume(tmp_path / "run", capsys)
    assert is_handled(status, stderr) and (status != 0 or "skipped" in stderr), (status, stderr)


def wrong_arrays(array: np.ndarray) -> dict[str, np.ndarray]:
    """Return wrong arrays that a hostile file may have in place of an array, by what is wrong."""
    wrong = {
        "longer": np.concatenate([array.reshape(-1)] * 2),
        "flat": array.reshape(-1, 1),
        "none": array[..., :0],
    }
    for kind in ("int8", "float64", "complex64", "bool"):
        if array.dtype != kind:
            wrong[kind] = array.astype(kind)
    if array.dtype.kind == "f":
        wrong["nan"] = np.full_like(array, np.nan)
    return wrong


@FEW_EXAMPLES
@given(data=st.data())
def test_a_tensor_of_another_type_or_shape_is_handled(
    data: st.DataObject, run_folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path_factory.mktemp("edited") / "run"
    shutil.copytree(run_folder, run)
    (folder,) = (run / "checkpoints").iterdir()
    file = data.draw(st.sampled_from(sorted(folder.glob("*.safetensors"))))
    arrays = safetensors.numpy.load_file(file)
    name = data.draw(st.sampled_from(sorted(arrays)))
    if arrays[name].ndim and data.draw(st.booleans()):
        kind, wrong_array = data.draw(
            st.sampled_from(sorted(wrong_arrays(arrays[name]).items(), key=lambda item: item[0]))
        )
        arrays[name] = wrong_array
    else:
        kind = "deleted"
        del arrays[name]
    file.write_bytes(safetensors.numpy.save(arrays))
    rewrite_manifest(folder)
    status, stderr = resume(run, capsys)
    assert is_handled(status, stderr), (file.name, name, kind, status, stderr)
