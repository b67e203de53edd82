"""Whole-state checkpoints that were edited and signed again are refused in one line, never by a traceback."""

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
from support.checkpoints import sign

from rl_lab.cli import main

SAME = "budget=256 worlds=2 device=cpu video=false threads=1 evaluation.episodes=2 evaluation.selections=1".split()
SAME += ["evaluation.selection_episodes=1", "checkpoint.steps=128"]
AGENTS = {
    "ppo": ["agent.n_steps=64", "agent.batch_size=64", "agent.n_epochs=1", "agent.normalize_observations=true"],
    "stock": ["agent.n_steps=64", "agent.batch_size=64", "agent.n_epochs=1", "agent.compiled=false"],
    "dqn": ["agent=dqn", "agent.buffer_size=200", "agent.learning_starts=32", "agent.priority_exponent=0.5"]
    + ["agent.batch_size=16", "budget=4096", "checkpoint.steps=1024"],
}
WRONG = [None, True, False, -1, -(2**70), 2**70, 10**400, 1.5, -0.5, 1e308, "x", "", [], [1], [[]], {}, {"x": 1}, ...]
FEW = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module", params=AGENTS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose last checkpoint is gone, and its state."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    assert main(["train", "catch", *SAME, *AGENTS[request.param], f"run_dir={folder}", "--json"]) == 0
    *_, before, end = sorted((folder / "checkpoints").iterdir())
    shutil.rmtree(end)
    for other in (folder / "checkpoints").iterdir():
        if other != before:
            shutil.rmtree(other)
    return folder


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value; of a long list, the first and the last."""
    inner = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    if isinstance(node, list) and len(inner) > 4:
        inner = [*inner[:2], *inner[-1:]]
    return [(*path, key) for key, _ in inner] + [p for key, value in inner for p in places(value, (*path, key))]


def edited(state: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    state = copy.deepcopy(state)
    *above, last = path
    node: Any = state
    for key in above:
        node = node[key]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return state


def resume(run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    status = main(["resume", str(run), "--json"])
    return status, capsys.readouterr().err


def is_told(status: int, said: str) -> bool:
    """Ended with one line that names the fault, or went on and said what was refused: the last net was not needed."""
    lines = said.splitlines()
    if status == 0:
        return all(line.startswith(("skipped a damaged checkpoint: ", "continuing from ")) for line in lines)
    return status in (1, 2) and len(lines) <= 2 and lines[-1].startswith("rl-lab: ") and "unexpected" not in said


@FEW
@given(data=st.data())
def test_any_value_of_any_kind_anywhere_in_a_state(
    data: st.DataObject, made: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path_factory.mktemp("edited") / "run"
    shutil.copytree(made, run)
    (folder,) = (run / "checkpoints").iterdir()
    state = json.loads((folder / "state.json").read_bytes())
    path = data.draw(st.sampled_from(places(state)))
    value = data.draw(st.sampled_from([v for v in WRONG if not (v is ... and isinstance(path[-1], int))]))
    (folder / "state.json").write_bytes(json.dumps(edited(state, path, value)).encode())
    sign(folder)
    status, said = resume(run, capsys)
    assert is_told(status, said), (path, value, status, said)
    if isinstance(value, int) and abs(value) > 2**69 and type(value) is int:
        assert status != 0 or "skipped" in said or path[-1] in ("state", "inc"), (path, value)


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
def test_values_that_would_fail_in_the_first_update(
    path: tuple[Any, ...], value: Any, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made, tmp_path / "run")
    (folder,) = (tmp_path / "run" / "checkpoints").iterdir()
    state = json.loads((folder / "state.json").read_bytes())
    (folder / "state.json").write_bytes(json.dumps(edited(state, path, value)).encode())
    sign(folder)
    status, said = resume(tmp_path / "run", capsys)
    assert is_told(status, said) and (status != 0 or "skipped" in said), (status, said)


def changes(array: np.ndarray) -> dict[str, np.ndarray]:
    """What a hostile file may hold instead of an array; bytes at random only where they are not the same numbers."""
    made = {"longer": np.concatenate([array.reshape(-1)] * 2), "flat": array.reshape(-1, 1), "none": array[..., :0]}
    for kind in ("int8", "float64", "complex64", "bool"):
        if array.dtype != kind:
            made[kind] = array.astype(kind)
    if array.dtype.kind == "f":
        made["nan"] = np.full_like(array, np.nan)
    return made


@FEW
@given(data=st.data())
def test_any_tensor_of_another_kind_or_shape(
    data: st.DataObject, made: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path_factory.mktemp("edited") / "run"
    shutil.copytree(made, run)
    (folder,) = (run / "checkpoints").iterdir()
    file = data.draw(st.sampled_from(sorted(folder.glob("*.safetensors"))))
    arrays = safetensors.numpy.load_file(file)
    name = data.draw(st.sampled_from(sorted(arrays)))
    if arrays[name].ndim and data.draw(st.booleans()):
        kind, changed = data.draw(st.sampled_from(sorted(changes(arrays[name]).items(), key=lambda item: item[0])))
        arrays[name] = changed
    else:
        kind = "deleted"
        del arrays[name]
    file.write_bytes(safetensors.numpy.save(arrays))
    sign(folder)
    status, said = resume(run, capsys)
    assert is_told(status, said), (file.name, name, kind, status, said)
