"""These tests check that checkpoints survive a crash at any point, and that damaged or hostile files are refused.

`crash_everywhere` ends a process at each named point of a save; `forge` writes a manifest that fits changed files.
"""

import errno
import functools
import hashlib
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rl_lab.core import checkpoint
from rl_lab.core.checkpoint import CheckpointError, CheckpointWriteError, crash_points, latest, load, save

DTYPES = ["?", "u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8", "<c8", ">f4", ">u8"]
LAYOUTS: list[Callable[[np.ndarray], np.ndarray]] = [
    lambda array: array,
    lambda array: array.T,
    lambda array: array[::-2] if array.ndim else array,
    lambda array: np.broadcast_to(array, (3, *array.shape)),
]
ARRAYS = st.builds(
    lambda array, layout: layout(array),
    st.sampled_from(DTYPES).flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))),
    st.sampled_from(LAYOUTS),
)
SCALARS = st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.text() | st.floats(allow_nan=False)
FINITE = SCALARS.filter(lambda value: value not in (float("inf"), float("-inf")))
JSON = st.recursive(FINITE, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
NAMES = st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__")
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

MEMBERS = ("policy", "replay")
CRASHES = [
    *(("next", point) for point in crash_points(MEMBERS) if point != "set-aside"),
    *(("same", point) for point in crash_points(MEMBERS)),
]


def content(mark: int) -> tuple[dict[str, checkpoint.Tensors], dict[str, Any]]:
    tensors: dict[str, checkpoint.Tensors] = {
        "policy": {"weight": np.full((3, 2), mark, np.float32), "bias": np.full(2, mark, np.float64)},
        "replay": {"done": np.ones(5, bool), "position": np.array(mark, np.uint64)},
    }
    return tensors, {"mark": mark, "rng": [2**127 + mark, 0.1]}


def is_content(found: checkpoint.Checkpoint, mark: int) -> bool:
    tensors, state = content(mark)
    same = found.tensors.keys() == tensors.keys() and found.state == state
    for member, arrays in tensors.items():
        same = same and found.tensors[member].keys() == arrays.keys()
        same = same and all(np.array_equal(found.tensors[member][name], arrays[name]) for name in arrays)
    return same


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def forge(path: Path, **changes: Any) -> None:
    """Make the manifest agree with whatever now lies in the folder, as somebody hostile would."""
    members = {}
    for file in sorted(set(os.listdir(path)) - {"manifest.json"}):
        data = (path / file).read_bytes()
        members[file] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    step = int(path.name.removeprefix("step-"))
    manifest = {"format": "rl_lab.checkpoint", "version": 2, "step": step, "members": members, **changes}
    (path / "manifest.json").write_text(json.dumps(manifest))


def expect_refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(f"{path.name}/") and text.isprintable()
    return text.removeprefix(f"{path.name}/")


def safetensors_bytes(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


@pytest.fixture
def two_checkpoints(tmp_path: Path) -> Path:
    """Return a folder with checkpoints 1 and 2."""
    folder = tmp_path / "checkpoints"
    for step in (1, 2):
        save(folder, step, *content(step))
    return folder


@pytest.fixture
def one_checkpoint(tmp_path: Path) -> Path:
    return save(tmp_path / "checkpoints", 1, *content(1))


@QUICK
@given(st.dictionaries(NAMES, ARRAYS, max_size=4), st.dictionaries(st.text(), JSON, max_size=4))
def test_what_is_saved_is_what_is_loaded(arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = load(save(Path(folder), 7, {"policy": arrays, "empty": {}}, state))
    assert found.step == 7 and found.state == state and found.tensors["empty"] == {}
    assert json.dumps(found.state) == json.dumps(state)  # the order of keys and the sign of zero too
    assert found.tensors["policy"].keys() == arrays.keys()
    for name, array in found.tensors["policy"].items():
        assert array.dtype == arrays[name].dtype.newbyteorder("=") and array.shape == arrays[name].shape
        assert array.tobytes() == arrays[name].astype(array.dtype).tobytes() and array.flags.writeable


def test_a_checkpoint_is_flat_and_its_manifest_names_every_member(one_checkpoint: Path) -> None:
    assert one_checkpoint.name == "step-000000001" and names(one_checkpoint.parent) == [one_checkpoint.name]
    assert names(one_checkpoint) == ["manifest.json", "policy.safetensors", "replay.safetensors", "state.json"]
    manifest = json.loads((one_checkpoint / "manifest.json").read_text())
    assert manifest["step"] == 1 and manifest["version"] == 2
    assert sorted(manifest["members"]) == names(one_checkpoint)[1:]


@pytest.mark.parametrize(
    "bad",
    [
        np.array([None]),
        np.zeros(2, [("a", "f4")]),
        np.array(["text"]),
        np.zeros(2, "M8[s]"),
        np.zeros(2, np.complex128),
        np.zeros(2, np.longdouble),
        [1.0, 2.0],
        np.float32(1),
    ],
    ids=lambda bad: str(getattr(bad, "dtype", "list")),
)
def test_what_is_not_a_plain_array_is_refused_by_its_key(tmp_path: Path, bad: Any) -> None:
    with pytest.raises(TypeError, match=r"policy\['moment'\]"):
        save(tmp_path, 1, {"policy": {"weight": np.zeros(2), "moment": bad}}, {})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("state", "error", "key"),
    [
        ({"rate": {"now": float("nan")}}, ValueError, r"state\['rate'\]\['now'\] is nan"),
        ({"returns": [0.0, float("-inf")]}, ValueError, r"state\['returns'\]\[1\] is -inf"),
        ({"count": np.int64(3)}, TypeError, r"state\['count'\] is of type int64"),
        ({"raw": b"x"}, TypeError, r"state\['raw'\] is of type bytes"),
        ({"by": {1: 2}}, TypeError, r"state\['by'\] has the key 1"),
    ],
)
def test_what_is_not_strict_json_is_refused_by_its_key(
    tmp_path: Path, state: dict[str, Any], error: type[Exception], key: str
) -> None:
    with pytest.raises(error, match=key):
        save(tmp_path, 1, {}, state)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["../x", "a/b", "", "Policy", ".tmp-x", "a\nb"])
def test_member_names_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="member names"):
        save(tmp_path / "checkpoints", 1, {name: {}}, {})
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["__metadata__", 3])
def test_tensor_names_are_strings_that_the_format_has_not_taken(tmp_path: Path, name: Any) -> None:
    with pytest.raises(TypeError, match="policy"):
        save(tmp_path, 1, {"policy": {name: np.zeros(1)}}, {})


@pytest.mark.parametrize(("step", "keep_last"), [(-1, 1), (10**18, 1), (1, 0)])
def test_numbers_out_of_range_are_refused(tmp_path: Path, step: int, keep_last: int) -> None:
    with pytest.raises(ValueError, match="step must be"):
        save(tmp_path, step, {}, {}, keep_last=keep_last)


# Killed while saving


def prepare(folder: Path, scenario: str) -> tuple[int, int, int]:
    """Return the step to save, the mark it will carry, and the mark of the newest checkpoint before it."""
    for step in (1, 2) if scenario == "next" else (3,):
        save(folder, step, *content(step))
    return (3, 30, 2) if scenario == "next" else (3, 30, 3)


def die_at(point: str, at: str) -> None:
    if at == point:
        os.kill(os.getpid(), signal.SIGKILL)


def crash_everywhere(root: Path) -> None:
    """Save once for each crash, in a process of its own that kills itself at the crash's point."""
    for number, (scenario, point) in enumerate(CRASHES):
        folder = root / str(number)
        step, mark, _ = prepare(folder, scenario)
        child = os.fork()
        if child == 0:
            checkpoint.at_crash_point = functools.partial(die_at, point)
            save(folder, step, *content(mark), keep_last=2)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (scenario, point)


def crash_anywhere(root: Path) -> None:
    """Save again and again, steps and repeated steps, until killed from outside at no point in particular."""
    wait = random.Random(0)
    for number in range(12):
        child = os.fork()
        if child == 0:
            for mark in range(1000):
                save(root / str(number), mark // 2, *content(mark), keep_last=2)
            os._exit(0)
        time.sleep(0.01 + 0.05 * wait.random())
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("crashed")
    path = os.pathsep.join(filter(None, sys.path))
    subprocess.run([sys.executable, __file__, str(root)], check=True, env={**os.environ, "PYTHONPATH": path})
    return root


@pytest.mark.parametrize("number", range(len(CRASHES)), ids=["-".join(crash) for crash in CRASHES])
def test_killed_at_a_named_point_leaves_the_old_or_the_new_one(crashed: Path, number: int) -> None:
    scenario, point = CRASHES[number]
    folder = crashed / "points" / str(number)
    found, faults = latest(folder)
    order = crash_points(MEMBERS)
    old = 2 if scenario == "next" else 3
    assert found is not None and faults == []
    assert is_content(found, 30 if order.index(point) >= order.index("renamed") else old)
    assert found.step == (old if found.state["mark"] == old else 3)

    save(folder, 3, *content(31), keep_last=2)
    found, faults = latest(folder)
    assert found is not None and faults == [] and is_content(found, 31)
    save(folder, 4, *content(4), keep_last=1)
    assert names(folder) == ["step-000000004"]


def test_killed_at_any_moment_leaves_nothing_damaged(crashed: Path) -> None:
    for folder in (crashed / "moments").iterdir():
        found, faults = latest(folder)
        assert faults == [] and (found is None or is_content(found, found.state["mark"]))
        save(folder, 5000, *content(5), keep_last=1)
        assert names(folder) == ["step-000005000"]


@pytest.mark.parametrize("keep_last", [1, 2])
def test_a_save_passes_the_named_points_in_order(
    two_checkpoints: Path, monkeypatch: pytest.MonkeyPatch, keep_last: int
) -> None:
    passed: list[str] = []
    monkeypatch.setattr(checkpoint, "at_crash_point", passed.append)
    save(two_checkpoints, 2, *content(5), keep_last=keep_last)
    assert tuple(passed) == crash_points(MEMBERS)


def test_all_reaches_the_disk_before_its_name_and_only_temporary_names_are_deleted(
    two_checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []

    def logged(name: str, call: Callable[..., Any], subject: Callable[[Any], str]) -> Callable[..., Any]:
        def wrapper(*args: Any, **options: Any) -> Any:
            log.append(f"{name} {Path(subject(args[0])).name}")
            return call(*args, **options)

        return wrapper

    opened: dict[int, str] = {}
    real_open = os.open

    def remember(path: Any, flags: int, *args: Any, **options: Any) -> int:
        descriptor = real_open(path, flags, *args, **options)
        opened[descriptor] = str(path)
        return descriptor

    monkeypatch.setattr(os, "open", remember)
    monkeypatch.setattr(os, "fsync", logged("sync", os.fsync, lambda descriptor: opened[descriptor]))
    monkeypatch.setattr(os, "rename", logged("rename", os.rename, str))
    monkeypatch.setattr(shutil, "rmtree", logged("remove", shutil.rmtree, str))
    save(two_checkpoints, 3, *content(3), keep_last=1)
    monkeypatch.undo()
    temp = log[4].removeprefix("sync ")
    members = ["sync policy.safetensors", "sync replay.safetensors", "sync state.json", "sync manifest.json"]
    assert temp.startswith(".tmp-")
    assert log[:7] == [*members, f"sync {temp}", f"rename {temp}", "sync checkpoints"]
    assert log[7:10] == ["rename step-000000002", "rename step-000000001", "sync checkpoints"]
    assert all(entry.startswith("remove .tmp-") for entry in log[10:])


@pytest.mark.parametrize("point", crash_points(MEMBERS))
def test_interrupted_at_a_named_point_leaves_nothing_half_written(
    two_checkpoints: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    def interrupt(at: str) -> None:
        if at == point:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "at_crash_point", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(two_checkpoints, 2, *content(20), keep_last=1)
    monkeypatch.undo()
    found, faults = latest(two_checkpoints)
    assert found is not None and faults == [] and found.state["mark"] in (2, 20)
    save(two_checkpoints, 3, *content(3), keep_last=1)
    assert names(two_checkpoints) == ["step-000000003"]


# Damaged


def test_truncated_anywhere_is_refused_by_name(one_checkpoint: Path) -> None:
    for file in names(one_checkpoint):
        whole = (one_checkpoint / file).read_bytes()
        for size in [*range(0, len(whole), 5), len(whole) - 1]:
            (one_checkpoint / file).write_bytes(whole[:size])
            reason = expect_refusal(one_checkpoint)
            assert reason.startswith(f"{file}: ")
            assert "unreadable" in reason if file == "manifest.json" else f"is truncated: {size} of" in reason
        (one_checkpoint / file).write_bytes(whole)
    assert is_content(load(one_checkpoint), 1)


def test_one_bit_flipped_anywhere_is_refused(one_checkpoint: Path) -> None:
    for file in names(one_checkpoint):
        whole = (one_checkpoint / file).read_bytes()
        for place in range(len(whole)):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << (place % 8)
            (one_checkpoint / file).write_bytes(flipped)
            reason = expect_refusal(one_checkpoint)
            if file != "manifest.json":  # a flip there may as well accuse the member whose hash it changed
                assert reason == f"{file}: does not match its manifest"
        (one_checkpoint / file).write_bytes(whole)
    assert is_content(load(one_checkpoint), 1)


@pytest.mark.parametrize("file", ["manifest.json", "policy.safetensors", "replay.safetensors", "state.json"])
def test_the_newest_that_is_whole_is_used_and_the_others_are_accused(two_checkpoints: Path, file: str) -> None:
    for step in (3, 4):
        save(two_checkpoints, step, *content(step), keep_last=9)
    (two_checkpoints / "step-000000003" / file).unlink()
    data = (two_checkpoints / "step-000000004" / file).read_bytes()
    (two_checkpoints / "step-000000004" / file).write_bytes(data + b" ")
    found, faults = latest(two_checkpoints)
    assert found is not None and is_content(found, 2) and found.path == two_checkpoints / "step-000000002"
    what = "is not as it was written" if file == "manifest.json" else "does not match its manifest"
    assert faults == [f"step-000000004/{file}: {what}", f"step-000000003/{file}: is missing"]


def test_no_checkpoint_is_none_and_other_things_are_passed_over(tmp_path: Path) -> None:
    assert latest(tmp_path / "absent") == (None, [])
    for name in ("step-1", "step-00000000x", ".tmp-1", "notes"):
        (tmp_path / name).mkdir()
    assert latest(tmp_path) == (None, [])
    (tmp_path / "step-000000007").mkdir()
    (tmp_path / "step-000000008").touch()
    found, faults = latest(tmp_path)
    assert found is None and faults[1] == "step-000000007/manifest.json: is missing"
    assert faults[0].startswith("step-000000008/.: cannot be read: ")


def test_a_member_of_another_checkpoint_is_refused(two_checkpoints: Path) -> None:
    first, second = two_checkpoints / "step-000000001", two_checkpoints / "step-000000002"
    shutil.copy(first / "policy.safetensors", second)
    assert expect_refusal(second) == "policy.safetensors: does not match its manifest"


def test_members_that_changed_places_are_refused(one_checkpoint: Path) -> None:
    os.rename(one_checkpoint / "policy.safetensors", one_checkpoint / "spare")
    os.rename(one_checkpoint / "replay.safetensors", one_checkpoint / "policy.safetensors")
    os.rename(one_checkpoint / "spare", one_checkpoint / "replay.safetensors")
    assert expect_refusal(one_checkpoint).startswith("policy.safetensors: ")


def test_a_checkpoint_under_the_name_of_another_step_is_refused(two_checkpoints: Path) -> None:
    os.rename(two_checkpoints / "step-000000002", two_checkpoints / "step-000000003")
    assert expect_refusal(two_checkpoints / "step-000000003") == "manifest.json: has the unknown step 2, not 3"


def test_a_path_that_is_no_checkpoint_is_refused(two_checkpoints: Path) -> None:
    assert "not named like a checkpoint" in expect_refusal(two_checkpoints)
    assert "No such file" in expect_refusal(two_checkpoints / "step-000000009")


# Hostile


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.unlink, ("bait",)


F4 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Bomb()),
        b"",
        safetensors_bytes({}, length=2**63),
        safetensors_bytes({}, length=99_000_000),
        safetensors_bytes(b"[" * 100_000),
        safetensors_bytes(b'{"a":' * 100_000),
        safetensors_bytes({"a": F4}),
        safetensors_bytes({"a": F4}, b"12345678"),
        safetensors_bytes({"a": F4, "b": F4}, b"1234"),
        safetensors_bytes({"a": {**F4, "shape": [2**62, 2**62]}}, b"1234"),
        safetensors_bytes({"a": {**F4, "shape": [2**62, 0], "data_offsets": [0, 0]}}),
        safetensors_bytes({"a": {**F4, "shape": [1] * 99}}, b"1234"),
        safetensors_bytes({"a": {**F4, "dtype": "BF16", "shape": [2]}}, b"1234"),
        safetensors_bytes({"a": {**F4, "dtype": "O"}}, b"1234"),
    ],
    ids=lambda data: repr(data[:24]),
)
def test_a_hostile_member_with_a_manifest_that_agrees_is_refused(
    one_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.chdir(one_checkpoint.parent.parent)
    Path("bait").touch()
    (one_checkpoint / "policy.safetensors").write_bytes(data)
    assert expect_refusal(one_checkpoint).startswith("policy.safetensors: ")
    forge(one_checkpoint)
    assert expect_refusal(one_checkpoint).startswith("policy.safetensors: is unreadable: ")
    assert Path("bait").exists()


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"3", b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": 1e999}', b"\xff\xfe", b"[" * 100_000]
    + [b'{"a":' * 100_000, b'{"a": ' + b"9" * 5000 + b"}"],
    ids=lambda text: repr(text[:24]),
)
def test_a_hostile_state_with_a_manifest_that_agrees_is_refused(one_checkpoint: Path, text: bytes) -> None:
    (one_checkpoint / "state.json").write_bytes(text)
    forge(one_checkpoint)
    assert expect_refusal(one_checkpoint).startswith("state.json: is unreadable: ")


@pytest.mark.parametrize("text", [b"", b"null", b"[]", b"{}", b"\xff", b"NaN", b"[" * 100_000, b'{"a":' * 100_000])
def test_a_manifest_that_is_something_else_is_refused(one_checkpoint: Path, text: bytes) -> None:
    (one_checkpoint / "manifest.json").write_bytes(text)
    assert expect_refusal(one_checkpoint).startswith("manifest.json: is unreadable: ")


@QUICK
@given(st.fixed_dictionaries({}, optional={"format": JSON, "version": JSON, "step": JSON, "members": JSON}))
def test_a_manifest_that_says_anything_else_is_refused(changes: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step-000000001"
        path.mkdir()
        (path / "state.json").write_text("{}")
        forge(path, **changes, extra=0)
        expect_refusal(path)


def test_a_checkpoint_without_a_state_is_refused_though_its_manifest_agrees(one_checkpoint: Path) -> None:
    (one_checkpoint / "state.json").unlink()
    forge(one_checkpoint)
    assert expect_refusal(one_checkpoint) == "state.json: is missing"


def test_an_unknown_version_is_refused(one_checkpoint: Path) -> None:
    forge(one_checkpoint, version=3)
    assert expect_refusal(one_checkpoint) == "manifest.json: has the unknown version 3, not 2"


def test_a_format_of_before_is_refused_by_the_version_that_reads_it(one_checkpoint: Path) -> None:
    forge(one_checkpoint, version=1)
    assert expect_refusal(one_checkpoint) == "manifest.json: has format 1, which rl_lab 0.1 reads; this version reads 2"


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b.safetensors", "x.pkl", "a\n.safetensors"])
def test_a_manifest_that_names_a_path_is_refused(one_checkpoint: Path, name: str) -> None:
    members = json.loads((one_checkpoint / "manifest.json").read_text())["members"]
    forge(one_checkpoint, members={**members, name: members["state.json"]})
    assert expect_refusal(one_checkpoint).startswith("manifest.json: names ")


def test_an_extra_file_is_refused(one_checkpoint: Path) -> None:
    (one_checkpoint / "run\nme.py").touch()
    assert expect_refusal(one_checkpoint) == "run me.py: is not named in manifest.json"


@pytest.mark.parametrize("file", ["manifest.json", "policy.safetensors"])
def test_a_link_a_folder_and_a_pipe_are_refused(one_checkpoint: Path, file: str) -> None:
    os.rename(one_checkpoint / file, one_checkpoint.parent / "elsewhere")
    for make in (lambda path: path.symlink_to(one_checkpoint.parent / "elsewhere"), Path.mkdir, os.mkfifo):
        make(one_checkpoint / file)
        assert expect_refusal(one_checkpoint) == f"{file}: is a link, a folder or a device, not a file"
        (one_checkpoint / file).rmdir() if (one_checkpoint / file).is_dir() else (one_checkpoint / file).unlink()


def test_a_linked_checkpoint_is_refused(two_checkpoints: Path) -> None:
    os.rename(two_checkpoints / "step-000000002", two_checkpoints / "real")
    (two_checkpoints / "step-000000002").symlink_to(two_checkpoints / "real")
    found, faults = latest(two_checkpoints)
    assert found is not None and found.step == 1 and "is a link" in faults[0]


# The disk refuses


REFUSED = [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO]


@pytest.mark.parametrize("code", REFUSED, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["mkdir", "fsync", "rename"])
def test_a_refusing_disk_is_told_in_one_line(
    two_checkpoints: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise OSError(code, os.strerror(code))

    before = names(two_checkpoints)
    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(CheckpointWriteError) as caught:
        save(two_checkpoints, 3, *content(3))
    monkeypatch.undo()
    text = str(caught.value)
    cure = "free space" if code in (errno.ENOSPC, errno.EDQUOT) else "make the folder writable"
    assert text.isprintable() and os.strerror(code) in text and "step-000000002, is untouched" in text
    assert text.endswith(f"{cure}, then `rl-lab resume {two_checkpoints.parent}`")
    assert names(two_checkpoints) == before
    save(two_checkpoints, 3, *content(3))


def test_the_first_save_on_a_refusing_disk_says_that_there_is_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(CheckpointWriteError, match="no earlier checkpoint is there"):
        save(tmp_path, 1, *content(1))
    assert names(tmp_path) == []


def test_a_prune_that_fails_does_not_fail_the_save(two_checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def refuse_to_move_away(old: Path, new: Path) -> None:
        if old.name == "step-000000001":
            raise PermissionError(errno.EACCES, "Permission denied")
        rename(old, new)

    monkeypatch.setattr(os, "rename", refuse_to_move_away)
    assert save(two_checkpoints, 3, *content(3), keep_last=1).name == "step-000000003"
    monkeypatch.undo()
    save(two_checkpoints, 4, *content(4), keep_last=1)
    assert names(two_checkpoints) == ["step-000000004"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 256 KiB, where the machine allows it."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_keeps_what_was_there(small_disk: Path) -> None:
    folder = small_disk / "checkpoints"
    save(folder, 1, *content(1))
    for _ in range(2):
        with pytest.raises(CheckpointWriteError, match=r"No space.*step-000000001, is untouched; free space"):
            save(folder, 2, {"replay": {"frames": np.zeros(300_000, np.uint8)}}, {})
        assert names(folder) == ["step-000000001"]
    save(folder, 2, *content(2))
    found, faults = latest(folder)
    assert found is not None and is_content(found, 2) and faults == []


# Kept, replaced, cleared


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in range(6):
        save(tmp_path, step, *content(step), keep_last=2)
    assert names(tmp_path) == ["step-000000004", "step-000000005"]


def test_a_replaced_one_does_not_count_among_the_kept(two_checkpoints: Path) -> None:
    save(two_checkpoints, 2, *content(20), keep_last=2)
    assert names(two_checkpoints) == ["step-000000001", "step-000000002"]


def test_a_later_step_neither_goes_nor_displaces_an_earlier_one(tmp_path: Path) -> None:
    for step in (10, 20, 30, 15):
        save(tmp_path, step, *content(step), keep_last=3 if step > 15 else 1)
    assert names(tmp_path) == ["step-000000015", "step-000000020", "step-000000030"]


def test_steps_beyond_nine_digits_are_still_ordered(tmp_path: Path) -> None:
    for step in (999_999_999, 1_000_000_000):
        save(tmp_path, step, *content(step % 7), keep_last=2)
    found, _ = latest(tmp_path)
    assert found is not None and found.step == 1_000_000_000


def test_the_same_again_is_left_alone_and_another_replaces_it(one_checkpoint: Path) -> None:
    inode = one_checkpoint.stat().st_ino
    assert save(one_checkpoint.parent, 1, *content(1)) == one_checkpoint and one_checkpoint.stat().st_ino == inode
    assert save(one_checkpoint.parent, 1, *content(9)) == one_checkpoint and one_checkpoint.stat().st_ino != inode
    assert is_content(load(one_checkpoint), 9) and names(one_checkpoint.parent) == [one_checkpoint.name]


def test_a_damaged_one_is_replaced_by_the_same_content(one_checkpoint: Path) -> None:
    (one_checkpoint / "state.json").write_text("{}")
    save(one_checkpoint.parent, 1, *content(1))
    assert is_content(load(one_checkpoint), 1) and names(one_checkpoint.parent) == [one_checkpoint.name]


def test_what_dead_savers_left_is_cleared(one_checkpoint: Path) -> None:
    stale = one_checkpoint.parent / ".tmp-dead"
    shutil.copytree(one_checkpoint, stale)
    save(one_checkpoint.parent, 2, *content(2))
    assert names(one_checkpoint.parent) == ["step-000000001", "step-000000002"]


def test_what_a_live_saver_is_writing_is_not_cleared(one_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, go_on = threading.Event(), threading.Event()
    slow = threading.Thread(target=save, args=(one_checkpoint.parent, 2, *content(2)))
    quick = threading.Thread(target=save, args=(one_checkpoint.parent, 3, *content(3)))

    def hold(point: str) -> None:
        if threading.current_thread() is slow and point == "manifest-written":
            written.set()
            assert go_on.wait(5)

    monkeypatch.setattr(checkpoint, "at_crash_point", hold)
    slow.start()
    assert written.wait(5)
    quick.start()
    quick.join(0.05)
    assert [name for name in names(one_checkpoint.parent) if name.startswith(".tmp-")]
    go_on.set()
    slow.join(5)
    quick.join(5)
    assert names(one_checkpoint.parent) == [f"step-00000000{step}" for step in (1, 2, 3)]


if __name__ == "__main__":
    crash_everywhere(Path(sys.argv[1]) / "points")
    crash_anywhere(Path(sys.argv[1]) / "moments")
