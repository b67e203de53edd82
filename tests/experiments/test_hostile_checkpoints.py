"""Tests of run folders from an attacker: no code in them runs, and damaged files are refused in one line.

Each test changes one file of a good run (fixture `hostile_run`): to content with code, to invalid text, or to tensors
that do not fit, often with a manifest that fits the change (`rewrite_manifest`). Then commands are run. They must not
execute code (fixture `sentinel`), write elsewhere, hang, or use much memory.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.numpy
import torch
from support import programs
from support.checkpoints import rewrite_manifest

from rl_lab.adapters import make as batch
from rl_lab.cli import main
from rl_lab.core import checkpoint
from rl_lab.evaluation.trace import load_trace
from rl_lab.evaluation.video import film

MAX_SECONDS = 8  # of processor time that a command may take; most take a tenth of a second
TINY_TRAINING = (
    "budget=256 worlds=2 agent.n_steps=64 agent.batch_size=64 agent.n_epochs=1 device=cpu video=false "
    "evaluation.episodes=2 evaluation.selections=1 evaluation.selection_episodes=1 checkpoint.steps=128"
).split()
COMMANDS: dict[str, list[str]] = {
    "evaluate": ["evaluate", "runs/theirs", "--json"],
    "watch": ["watch", "runs/theirs", "--file", "--json"],
    "resume": ["resume", "runs/theirs", "--json"],
    "list": ["list", "runs", "--json"],
}


class MakesFolderWhenUnpickled:
    """An object whose pickle creates a folder when it is loaded."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


class CommandResult(NamedTuple):
    status: int
    out: str
    err: str
    seconds: float


class CommandHangs(BaseException):
    """Raised in a command that has taken more than MAX_SECONDS."""


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "run"
    assert main(["train", "catch", *TINY_TRAINING, f"run_dir={folder}", "--json"]) == 0
    return folder


@pytest.fixture
def hostile_run(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of a good run, which the test will damage; another copy, runs/mine, stays good."""
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "theirs"):
        shutil.copytree(trained_run, tmp_path / "runs" / name)
    return Path("runs/theirs")


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[str]:
    """Return the path of a folder that executed code would make, and check in the end that it does not exist."""
    yield str(tmp_path / "sentinel")
    assert not (tmp_path / "sentinel").exists(), "a file was executed"


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., CommandResult]]:
    def stop(*_: Any) -> None:
        raise CommandHangs

    def run(*words: str) -> CommandResult:
        capsys.readouterr()
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
        begin = time.process_time()
        status = main(list(words))
        signal.setitimer(signal.ITIMER_PROF, 0)
        outcome = CommandResult(status, *capsys.readouterr(), time.process_time() - begin)
        assert "unexpected CommandHangs" not in outcome.err  # which the command reports as it reports any error
        return outcome

    before = signal.signal(signal.SIGPROF, stop)
    yield run
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


def is_one_line(outcome: CommandResult) -> bool:
    line = outcome.err.removesuffix("\n")
    return outcome.status in (1, 2) and outcome.out == "" and line.startswith("rl-lab: ") and line.isprintable()


def is_refusal(outcome: CommandResult) -> bool:
    """Return whether a command ended with one line, or has used an older checkpoint and printed what it skipped."""
    return is_one_line(outcome) or (outcome.status == 0 and "skipped" in outcome.err)


# --- Hostile contents of files


def tensor_file(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def header_entry(**values: Any) -> bytes:
    return json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **values}}).encode()


def pickled(sentinel: str) -> bytes:
    return pickle.dumps(MakesFolderWhenUnpickled(sentinel))


def torch_saved(sentinel: str) -> bytes:
    buffer = io.BytesIO()
    torch.save({"policy": MakesFolderWhenUnpickled(sentinel)}, buffer)
    return buffer.getvalue()


def numpy_saved(sentinel: str) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([MakesFolderWhenUnpickled(sentinel)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def yaml_tagged(sentinel: str) -> bytes:
    return f"world: !!python/object/apply:os.mkdir [{sentinel}]\n".encode()


def yaml_target(sentinel: str) -> bytes:
    return f"world: catch\nagent: {{_target_: os.mkdir, path: {sentinel}}}\n".encode()


def python_source(sentinel: str) -> bytes:
    return f"__import__('os').mkdir({sentinel!r})".encode()


CONTENTS_WITH_CODE = [pickled, torch_saved, numpy_saved, yaml_tagged, yaml_target, python_source]
INVALID_TEXTS = {
    "nothing": b"",
    "nul": b"\0" * 64,
    "not text": b"\xff\xfe\x80" * 20,
    "a list": b"[1, 2, 3]",
    "null": b"null",
    "a text": b'"text"',
    "other keys": b'{"../../x": {"sha256": 1}}',
    "deep": b"[" * 100_000,
    "deep and closed": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "huge integer": b'{"step": ' + b"9" * 100_000 + b"}",
    "not finite": b'{"step": NaN, "seed": 1e999, "mean_return": -Infinity}',
    "repeated keys": b'{"step": 1, "step": 2}',
}
INVALID_TENSOR_FILES = {
    "a header of exabytes": tensor_file(b"{}", length=2**60),
    "a header of all there is": tensor_file(b"{}", length=2**64 - 1),
    "a deep header": tensor_file(b"[" * 50_000),
    "a header that is no JSON": tensor_file(b"\x80\x04."),
    "a tensor of exabytes": tensor_file(header_entry(shape=[2**62], data_offsets=[0, 2**64 - 1])),
    "a product that overflows": tensor_file(header_entry(shape=[2**32, 2**32, 16]), b"\0" * 4),
    "a negative shape": tensor_file(header_entry(shape=[-1]), b"\0" * 4),
    "offsets outside": tensor_file(header_entry(data_offsets=[4, 400]), b"\0" * 8),
    "offsets backwards": tensor_file(header_entry(data_offsets=[4, 0]), b"\0" * 8),
    "an unknown dtype": tensor_file(header_entry(dtype="O"), b"\0" * 4),
    "no tensors": tensor_file(b"{}"),
}
HOSTILE_CONTENTS = {
    **{make.__name__: make for make in CONTENTS_WITH_CODE},
    **{name: (lambda _, data=data: data) for name, data in {**INVALID_TEXTS, **INVALID_TENSOR_FILES}.items()},
}


def test_the_contents_with_code_would_run_if_they_were_loaded(tmp_path: Path) -> None:
    for k, make in enumerate((pickled, numpy_saved)):
        path = tmp_path / f"{k}"
        if make is pickled:
            pickle.loads(make(str(path)))
        else:
            np.load(io.BytesIO(make(str(path))), allow_pickle=True)
        assert path.is_dir()
    path = tmp_path / "source"
    exec(python_source(str(path)))
    assert path.is_dir()


def test_a_changed_file_is_accepted_with_a_rewritten_manifest(hostile_run: Path) -> None:
    (agent,) = (hostile_run / "agent").iterdir()
    (agent / "state.json").write_text('{"selection_return": 3.0}')
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.load(agent)
    rewrite_manifest(agent)
    assert checkpoint.load(agent).state == {"selection_return": 3.0}


# --- The best agent


@pytest.mark.parametrize(
    "content, signed", [*((name, True) for name in HOSTILE_CONTENTS), ("pickled", False), ("nothing", False)]
)
@pytest.mark.parametrize("member", ["policy.safetensors", "state.json"])
def test_an_agent_with_hostile_files_is_refused(
    member: str, content: str, signed: bool, hostile_run: Path, sentinel: str, run_command: Callable[..., CommandResult]
) -> None:
    (agent,) = (hostile_run / "agent").iterdir()
    (agent / member).write_bytes(HOSTILE_CONTENTS[content](sentinel))
    if signed:
        rewrite_manifest(agent)
    outcome = run_command(*COMMANDS["evaluate"])
    # Evaluation uses only the tensors of this agent; some states with other values do no harm.
    harmless = signed and member == "state.json" and content in ("other keys", "huge integer", "repeated keys")
    assert is_one_line(outcome) or (harmless and outcome.status == 0), outcome
    assert harmless or agent.name in outcome.err or member in outcome.err


@pytest.mark.parametrize("content", HOSTILE_CONTENTS)
def test_a_hostile_manifest_is_refused(
    content: str, hostile_run: Path, sentinel: str, run_command: Callable[..., CommandResult]
) -> None:
    (agent,) = (hostile_run / "agent").iterdir()
    (agent / "manifest.json").write_bytes(HOSTILE_CONTENTS[content](sentinel))
    outcome = run_command(*COMMANDS["evaluate"])
    assert is_one_line(outcome) and "manifest.json" in outcome.err, outcome


@pytest.mark.parametrize("verb", ["watch", "evaluate"])
@pytest.mark.parametrize("make", CONTENTS_WITH_CODE)
def test_no_command_runs_what_is_in_an_agent(
    make: Callable[[str], bytes], verb: str, hostile_run: Path, sentinel: str, run_command: Callable[..., CommandResult]
) -> None:
    (agent,) = (hostile_run / "agent").iterdir()
    for file in agent.iterdir():
        file.write_bytes(make(sentinel))
    (agent / "extra.pkl").write_bytes(make(sentinel))
    assert is_one_line(run_command(*COMMANDS[verb]))


UNFIT_TENSORS = {
    "none": {},
    "other names": {"x": np.zeros(3, np.float32)},
    "other shapes": None,
    "not finite": None,
}


@pytest.mark.parametrize("wrong", UNFIT_TENSORS)
def test_an_agent_with_tensors_that_do_not_fit_is_refused(
    wrong: str, hostile_run: Path, run_command: Callable[..., CommandResult]
) -> None:
    (agent,) = (hostile_run / "agent").iterdir()
    arrays = safetensors.numpy.load_file(agent / "policy.safetensors")
    if wrong == "other shapes":
        arrays = {name: np.zeros((*array.shape, 2), array.dtype) for name, array in arrays.items()}
    elif wrong == "not finite":
        arrays = {name: np.full_like(array, np.nan) for name, array in arrays.items()}
    else:
        arrays = UNFIT_TENSORS[wrong] or {}
    (agent / "policy.safetensors").write_bytes(safetensors.numpy.save(arrays))
    rewrite_manifest(agent)
    assert is_one_line(run_command(*COMMANDS["evaluate"]))


# --- Whole-state checkpoints


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("content", ["pickled", "torch_saved", "deep", "null", "huge integer", "a header of exabytes"])
@pytest.mark.parametrize("member", ["state.json", "optimizer.safetensors", "world.safetensors"])
def test_a_hostile_checkpoint_is_refused_and_the_one_before_it_is_used(
    member: str, content: str, signed: bool, hostile_run: Path, sentinel: str, run_command: Callable[..., CommandResult]
) -> None:
    newest = sorted((hostile_run / "checkpoints").iterdir())[-1]
    (newest / member).write_bytes(HOSTILE_CONTENTS[content](sentinel))
    if signed:
        rewrite_manifest(newest)
    outcome = run_command(*COMMANDS["resume"])
    assert is_refusal(outcome), outcome
    listed = run_command(*COMMANDS["list"])
    assert listed.status == 0 and "runs/mine" in listed.out and "runs/theirs" in listed.out


def remove_last_checkpoint(run: Path) -> Path:
    """Delete the last checkpoint, so that training has to continue, and return the one before it."""
    before, end = sorted((run / "checkpoints").iterdir())
    shutil.rmtree(end)
    return before


def with_change(state: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    node = state
    *parents, last = path.split(".")
    for name in parents:
        node = node[name]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return state


@pytest.mark.parametrize(
    "path, value",
    [
        ("training", ...),
        ("training", 3),
        ("training.best", "x"),
        ("training.selections", "x"),
        ("training.selections", ...),
        ("training.metrics_size", -1),
        ("training.metrics_size", "x"),
        ("training.metrics_size", 1.5),
        ("training.kept", 3),
        ("training.kept", {"step": "../../../outside", "state": {}}),
        ("training.kept", {"step": -1, "state": {}}),
        ("training.kept", {"step": 128, "state": 3}),
        ("learner", ...),
        ("learner", []),
        ("learner.steps", "x"),
        ("learner.steps", -5),
        ("learner.updates", None),
        ("learner.optimizer_groups", []),
        ("learner.optimizer_groups", [{"params": [0], "lr": "x"}]),
        ("learner.episode_infos", 3),
        ("learner.episode_infos", [[1.0]]),
        ("learner.episode_infos", [["x", "y"]]),
        ("learner.python", [3, [1, 2], None]),
        ("learner.python", "x"),
        ("learner.numpy", {}),
        ("learner.numpy.pos", "x"),
        ("learner.action_space", {}),
        ("learner.action_space", {"bit_generator": "os.mkdir", "state": {}}),
        ("clock", "x"),
        ("clock", ...),
    ],
)
def test_a_state_with_a_value_of_another_type_or_range_is_refused(
    path: str, value: Any, hostile_run: Path, run_command: Callable[..., CommandResult]
) -> None:
    folder = remove_last_checkpoint(hostile_run)
    state = json.loads((folder / "state.json").read_bytes())
    (folder / "state.json").write_bytes(json.dumps(with_change(state, path, value)).encode())
    rewrite_manifest(folder)
    before = {p for p in Path().rglob("*") if not p.is_relative_to(hostile_run)}
    assert is_refusal(run_command(*COMMANDS["resume"]))
    assert {p for p in Path().rglob("*") if not p.is_relative_to(hostile_run)} == before


def run_process(*words: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
    command = ["-c", textwrap.dedent(script)] if script else ["-m", "rl_lab.cli"]
    return programs.run([sys.executable, *command, *words], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("what", ["a state far outside the board", "a random stream's position"])
def test_indices_out_of_range_in_a_checkpoint_do_not_crash_the_process(what: str, hostile_run: Path) -> None:
    """Compiled worlds and numpy's generator do not check indices, so that wrong numbers could crash the process."""
    from rl_lab.engine import world_registry

    folder = remove_last_checkpoint(hostile_run)
    if what == "a state far outside the board":
        arrays = safetensors.numpy.load_file(folder / "world.safetensors")
        states = arrays["states"].view(world_registry.load("catch").State.dtype)
        states["ball_x"], states["paddle_x"] = 2**30, -(2**30)
        (folder / "world.safetensors").write_bytes(safetensors.numpy.save(arrays))
    else:
        state = json.loads((folder / "state.json").read_bytes())
        (folder / "state.json").write_bytes(json.dumps(with_change(state, "learner.numpy.pos", 2**30)).encode())
    rewrite_manifest(folder)
    done = run_process(*COMMANDS["resume"])
    assert done.returncode in (1, 2) or (done.returncode == 0 and "skipped" in done.stderr), done.returncode
    assert "Traceback" not in done.stderr


# --- The other files of a run


@pytest.mark.parametrize("content", [*(make.__name__ for make in CONTENTS_WITH_CODE), *INVALID_TEXTS])
def test_a_hostile_config_is_refused(
    content: str, hostile_run: Path, sentinel: str, run_command: Callable[..., CommandResult]
) -> None:
    (hostile_run / "config.yaml").write_bytes(HOSTILE_CONTENTS[content](sentinel))
    for verb in ("evaluate", "resume"):
        outcome = run_command(*COMMANDS[verb])
        assert is_one_line(outcome) and "config.yaml" in outcome.err, (verb, outcome)
    Path("theirs.yaml").write_bytes(HOSTILE_CONTENTS[content](sentinel))
    assert is_one_line(run_command("train", "theirs.yaml", "run_dir=new"))
    assert not Path("new").exists()


@pytest.mark.parametrize("content", [*(make.__name__ for make in CONTENTS_WITH_CODE), *INVALID_TEXTS])
@pytest.mark.parametrize("file", ["run.json", "evaluations/256/summary.json"])
def test_list_runs_shows_the_other_runs_beside_a_hostile_one(
    file: str, content: str, hostile_run: Path, sentinel: str, run_command: Callable[..., CommandResult]
) -> None:
    assert (hostile_run / file).is_file()
    (hostile_run / file).write_bytes(HOSTILE_CONTENTS[content](sentinel))
    for words in (COMMANDS["list"], ["list", "runs"]):
        outcome = run_command(*words)
        assert outcome.status == 0 and "runs/mine" in outcome.out, outcome
        assert all(line.isprintable() for line in outcome.out.splitlines())


def test_list_runs_prints_no_control_characters(hostile_run: Path, run_command: Callable[..., CommandResult]) -> None:
    record = json.loads((hostile_run / "run.json").read_text())
    (hostile_run / "run.json").write_text(json.dumps({**record, "scenario": "\x1b[2J\nmine"}))
    outcome = run_command("list", "runs")
    assert outcome.status == 0 and len(outcome.out.splitlines()) == 3
    assert all(line.isprintable() for line in outcome.out.splitlines())


@pytest.mark.parametrize("content", ["pickled", "nul", "deep", "nothing"])
def test_hostile_metrics_are_refused_by_resume_until_they_are_deleted(
    content: str, hostile_run: Path, sentinel: str, run_command: Callable[..., CommandResult]
) -> None:
    (hostile_run / "metrics.jsonl").write_bytes(HOSTILE_CONTENTS[content](sentinel))
    assert run_command(*COMMANDS["evaluate"]).status == 0
    outcome = run_command(*COMMANDS["resume"])
    assert is_one_line(outcome) and f"{hostile_run}/metrics.jsonl is damaged: " in outcome.err
    assert (hostile_run / "metrics.jsonl").read_bytes() == HOSTILE_CONTENTS[content](sentinel)
    (hostile_run / "metrics.jsonl").unlink()
    assert run_command(*COMMANDS["resume"]).status == 0


@pytest.mark.parametrize("damage", ["last line", "another step", "a part of a line", "short"])
def test_metrics_that_are_not_those_of_the_checkpoint_are_refused(
    damage: str, hostile_run: Path, run_command: Callable[..., CommandResult]
) -> None:
    remove_last_checkpoint(hostile_run)
    file = hostile_run / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    others = {
        "last line": [b"0" * (len(line) - 1) + b"\n" for line in lines],
        "another step": [line.replace(b'{"step": ', b'{"step": 9') for line in lines],
        "a part of a line": [line.replace(b"\n", b" ") for line in lines],
        "short": [line[: len(line) // 2] for line in lines],
    }
    file.write_bytes(b"".join(others[damage]))
    outcome = run_command(*COMMANDS["resume"])
    assert is_one_line(outcome) and "metrics.jsonl is damaged: " in outcome.err


@pytest.mark.parametrize("file", ["run.json", "config.yaml", "evaluations/256/summary.json", "metrics.jsonl"])
def test_a_named_pipe_in_a_run_does_not_block_commands(
    file: str, hostile_run: Path, run_command: Callable[..., CommandResult]
) -> None:
    (hostile_run / file).unlink()
    os.mkfifo(hostile_run / file)
    for verb in ("list", "evaluate", "resume"):
        outcome = run_command(*COMMANDS[verb])
        assert outcome.status == 0 or is_one_line(outcome), (verb, outcome)


# --- Links


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints", "agent", "evaluations", "evaluations/256", "videos"])
def test_nothing_is_written_or_removed_through_a_link(
    name: str, hostile_run: Path, run_command: Callable[..., CommandResult]
) -> None:
    outside, linked = Path("outside"), hostile_run / name
    remove_last_checkpoint(hostile_run)
    if linked.is_dir():
        shutil.copytree(linked, outside)
        shutil.rmtree(linked)
    else:
        outside.mkdir()
        linked.unlink(missing_ok=True)
    (outside / "precious").write_text("precious\n" * 1000)
    (outside / "step-000000001").mkdir()
    for summary in outside.rglob("summary.json"):
        summary.write_text("precious")
    linked.symlink_to((outside / "precious" if name == "metrics.jsonl" else outside).resolve())
    before = content_of(outside)
    for verb in ("evaluate", "watch", "resume"):
        outcome = run_command(*COMMANDS[verb])
        assert outcome.status == 0 or is_one_line(outcome), (verb, outcome)
        assert content_of(outside) == before, verb


@pytest.mark.parametrize("name", ["policy.safetensors", "state.json", "manifest.json"])
def test_a_member_that_is_a_link_is_refused(
    name: str, hostile_run: Path, run_command: Callable[..., CommandResult]
) -> None:
    (agent,) = (hostile_run / "agent").iterdir()
    (agent / name).rename("elsewhere")
    (agent / name).symlink_to(Path("elsewhere").resolve())
    outcome = run_command(*COMMANDS["evaluate"])
    assert is_one_line(outcome) and name in outcome.err


# --- Traces of episodes


@pytest.fixture
def trace(hostile_run: Path, run_command: Callable[..., CommandResult]) -> Path:
    assert run_command(*COMMANDS["watch"]).status == 0
    (path,) = (hostile_run / "videos").glob("*.safetensors")
    return path


@pytest.mark.parametrize("content", HOSTILE_CONTENTS)
def test_a_hostile_trace_is_refused(content: str, sentinel: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.safetensors"
    path.write_bytes(HOSTILE_CONTENTS[content](sentinel))
    with pytest.raises(ValueError) as error:
        load_trace(path)
    assert str(path) in str(error.value) and str(error.value).isprintable()


@pytest.mark.parametrize(
    "key, value",
    [
        ("world", '"../../x"'),
        ("world", '"os"'),
        ("world", '"gym:os:Any-v0"'),
        ("world", "3"),
        ("params", '{"speed": 1000000000}'),
        ("params", '{"_target_": "os.mkdir"}'),
        ("params", "[" * 50_000),
        ("seed", "-1"),
        ("seed", "1e3"),
        ("seed", "9" * 5000),
        ("return", "NaN"),
        ("return", "1e999"),
        ("length", "1000000000"),
        ("index", "true"),
        ("terminated", "3"),
        ("extra", "3"),
    ],
)
def test_a_trace_with_changed_metadata_is_refused(key: str, value: str, trace: Path, tmp_path: Path) -> None:
    with safetensors.safe_open(str(trace), "np") as file:
        metadata, actions = file.metadata(), file.get_tensor("actions")
    path = tmp_path / "changed.safetensors"
    path.write_bytes(safetensors.numpy.save({"actions": actions}, {**metadata, key: value}))
    with pytest.raises(ValueError) as error:
        film(*load_trace(path), tmp_path / "again.mp4")
    assert str(error.value).isprintable()
    assert not (tmp_path / "again.mp4").exists()


@pytest.mark.parametrize("value", [-1, 3, 2**62])
def test_a_trace_with_actions_outside_the_space_is_refused(value: int, trace: Path, tmp_path: Path) -> None:
    loaded = load_trace(trace)
    loaded.episode.actions[0] = value
    with pytest.raises(ValueError, match="action"):
        film(*loaded, tmp_path / "again.mp4")


# --- YAML that expands to gigabytes


YAML_BOMBS = {
    "a billion laughs": "a: &a0 [x, x]\n"
    + "".join(f"k{n}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(9))
    + "world: catch\n",
    "a billion keys": "a: &a0 {x: 1}\n"
    + "".join(f"k{n}: &a{n + 1} {{{', '.join(f'x{m}: *a{n}' for m in range(9))}}}\n" for n in range(9))
    + "world: catch\n",
    "a billion merges": "a: &a0 {x: 1}\n"
    + "".join(f"k{n}: &a{n + 1} {{<<: [{', '.join([f'*a{n}'] * 9)}]}}\n" for n in range(9))
    + "world: catch\n",
    "a deep one": "[" * 100_000,
    "a wide one": "a: " + "9" * 2_000_000,
}
MEASURE_BOMBS = """
import resource, signal, sys, time
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))  # so that a failing test leaves the machine alone
from rl_lab.cli import main
main(["train", "harmless.yaml"])
for bomb in sorted(Path().glob("bomb*.yaml")):
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    signal.setitimer(signal.ITIMER_PROF, 10)
    status = main(["train", str(bomb)])
    signal.setitimer(signal.ITIMER_PROF, 0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(bomb.stem.removeprefix("bomb "), status, grown, time.process_time() - begin, sep=": ", flush=True)
"""


def test_yaml_bombs_are_refused_within_seconds_and_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("harmless.yaml").write_text("world: cach\n")
    for name, text in YAML_BOMBS.items():
        Path(f"bomb {name}.yaml").write_text(text)
    done = run_process(script=MEASURE_BOMBS)
    results = [line.split(": ") for line in done.stdout.splitlines()]
    assert sorted(name for name, *_ in results) == sorted(YAML_BOMBS), done.stderr[-300:]
    for name, status, grown, seconds in results:
        assert status == "2" and float(grown) < 64 and float(seconds) < 5, name
    assert len(done.stderr.splitlines()) == 1 + len(YAML_BOMBS)


# --- Nothing of a user's is unpickled or evaluated

AUDITED_COMMANDS = """
import builtins, json, pickle, sys
from pathlib import Path

mine, compiled, loads, noted = sys.argv[1], [], [], []

def frames():
    frame = sys._getframe(2)
    while frame:
        yield frame.f_globals.get("__name__", ""), frame.f_code.co_filename
        frame = frame.f_back

def hook(event, arguments):
    if event == "pickle.find_class":
        modules = [name for name, _ in frames()]
        loads.append([f"{arguments[0]}.{arguments[1]}", any(m.startswith("numba.") for m in modules)])
    elif event == "compile":
        source, name = arguments
        text = source.decode("utf-8", "replace") if isinstance(source, bytes) else str(source)
        compiled.append([str(name), "canary" in text])
    elif event in ("os.system", "os.exec", "socket.connect", "code.__new__"):
        noted.append(event)

def watched(module, name):
    original = getattr(module, name)
    def called(*arguments, **named):
        path = getattr(arguments[0], "name", "") if arguments else ""
        caller = sys._getframe(1).f_globals.get("__name__", "")
        loads.append([f"{module.__name__}.{name} of {path}", caller.startswith("numba.")])
        return original(*arguments, **named)
    setattr(module, name, called)

class Unpickler(pickle.Unpickler):
    def __init__(self, file, **named):
        caller = sys._getframe(1).f_globals.get("__name__", "")
        loads.append([f"pickle.Unpickler of {getattr(file, 'name', '')}", caller.startswith("numba.")])
        super().__init__(file, **named)

pickle.Unpickler = Unpickler
watched(pickle, "load"), watched(pickle, "loads")
import torch
watched(torch, "load")
for name in ("eval", "exec"):
    original = getattr(builtins, name)
    def called(source, *arguments, original=original, name=name, **named):
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.partition(".")[0] in ("rl_lab", "hydra", "omegaconf", "yaml", "safetensors", "stable_baselines3"):
            noted.append(f"{name} in {caller}: {str(source)[:80]}")
        if not arguments:
            frame = sys._getframe(1)
            arguments = (frame.f_globals, frame.f_locals)
        return original(source, *arguments, **named)
    setattr(builtins, name, called)
sys.addaudithook(hook)

from rl_lab.cli import main
status = [main(words) for words in json.loads(sys.argv[2])]
print(json.dumps({"status": status, "loads": loads, "compiled": compiled, "noted": noted}))
"""


@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_no_command_unpickles_or_evaluates_a_users_files(
    agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only numba's cache of machine code is unpickled, which users do not send to each other.

    It lies in the user's cache folder, which the compiler makes readable to its owner alone and uses only if it is the
    owner's. Nothing of a run's folder, a scenario or a trace is written there or decides what is read from there.
    """
    from rl_lab.engine.compiler import cache_folder

    monkeypatch.chdir(tmp_path)
    compiled = batch.make("cartpole", 64, threads=1)  # so that the cache holds what the cycle will read
    compiled.reset()
    compiled.step()
    Path("canary.yaml").write_text(
        "defaults: [cartpole, _self_]\nname: canary\nagent: {name: AGENT}\n".replace("AGENT", agent)
    )
    own = "agent.n_steps=64 agent.batch_size=64 agent.n_epochs=1" if agent == "ppo" else "agent.train_freq=16"
    words = [w for w in TINY_TRAINING if not w.startswith("agent.")] + own.split()
    cycle = [
        ["train", "canary.yaml", *words, "run_dir=canary"],
        ["evaluate", "canary"],
        ["watch", "canary", "--file"],
        ["resume", "canary"],
        ["list", "runs"],
    ]
    done = run_process(str(tmp_path), json.dumps(cycle), script=AUDITED_COMMANDS)
    assert done.returncode == 0, done.stderr
    audit = json.loads(done.stdout.splitlines()[-1])
    assert audit["status"] == [0] * len(cycle), done.stderr
    assert [what for what, by_numba in audit["loads"] if not by_numba] == []
    named = [what.partition(" of ")[2] for what, _ in audit["loads"] if " of /" in what]
    assert named, "numba's cache is expected to be read; if it is not, this test has gone blind"
    assert all(Path(path).is_relative_to(cache_folder()) for path in named)
    folder = cache_folder().stat()
    assert folder.st_uid == os.getuid() and folder.st_mode & 0o077 == 0
    assert [name for name, canary in audit["compiled"] if canary or name.startswith(str(tmp_path))] == []
    assert audit["noted"] == []


def test_the_audit_reports_unpickling_and_evaluation(tmp_path: Path) -> None:
    """Run the same hooks over a command that unpickles and evaluates."""
    script = AUDITED_COMMANDS.replace(
        "from rl_lab.cli import main", "def main(words): return eval(pickle.loads(PICKLED))"
    ).replace("import torch\n", "import torch\nPICKLED = pickle.dumps('1 + len(\"canary\")')\n")
    done = run_process(str(tmp_path), "[[]]", script=script)
    audit = json.loads(done.stdout)
    assert audit["status"] == [7]
    assert ["pickle.loads of ", False] in audit["loads"]
    assert ["<string>", True] in audit["compiled"]
