"""A run's folder: what it is made of, where everything lies, and how it is found again."""

from __future__ import annotations

import itertools
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from . import checkpoint
from .names import UsageError, nearest
from .recipe import ScenarioError
from .scenario import Scenario, compose

RUNS = Path("runs")
_PACKAGES = "rl-lab numpy numba gymnasium stable-baselines3 torch hydra-core".split()


class RunError(UsageError):
    """The folder is not a run, or cannot become one; the message is one line."""


@dataclass(frozen=True)
class Run:
    """Where a run keeps what: see the house's plan in README."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Whole-state checkpoints, one folder a step."""
        return self.path / "checkpoints"

    @property
    def agent(self) -> Path:
        """The agent that is kept: a checkpoint folder holding the best by selection."""
        return self.path / "agent"

    @property
    def metrics(self) -> Path:
        """One JSON object a line, the same for every run of the same seed: no clock in it."""
        return self.path / "metrics.jsonl"

    @property
    def videos(self) -> Path:
        """Films of the best, median and worst evaluated episode."""
        return self.path / "videos"

    def evaluation(self, step: int) -> Path:
        """Folder of the evaluation of the agent of this step."""
        return self.path / "evaluations" / str(step)

    def scenario(self) -> Scenario:
        """Return the scenario of config.yaml; RunError where it cannot be read."""
        try:
            return compose(str(self.path / "config.yaml"))
        except ScenarioError as error:
            raise RunError(str(error)) from None

    def summary(self) -> dict[str, Any] | None:
        """Return the newest evaluation's summary, None before the first."""
        files = [f for f in self.path.glob("evaluations/*/summary.json") if f.is_file()]
        files.sort(key=lambda f: f.stat().st_mtime)
        return _read_object(files[-1]) if files else None

    def facts(self) -> dict[str, Any]:
        """Return run.json, {} where it cannot be read: a run somebody sent must not hide the others."""
        return _read_object(self.path / "run.json") or {}


def _read_object(file: Path) -> dict[str, Any] | None:
    try:
        loaded: Any = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return loaded if isinstance(loaded, dict) else None


def create(scenario: Scenario, command: list[str]) -> Run:
    """Make the folder of a new run with its run.json and config.yaml. Raises RunError for a folder in use."""
    from omegaconf import OmegaConf

    path = Path(scenario.run_dir) if scenario.run_dir is not None else RUNS / _fresh_name(scenario)
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            hint = f"; go on with: rl-lab resume {path}" if (path / "run.json").is_file() else ""
            raise RunError(f"run_dir {path} is not empty{hint}")
        path.mkdir(parents=True, exist_ok=True)
        facts = {
            "scenario": scenario.name,
            "world": scenario.world,
            "agent": scenario.agent,
            "seed": scenario.seed,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": command,
            "git_commit": _commit(),
            "versions": versions() | {"python": platform.python_version()},
            "host": {"system": platform.platform(), "machine": platform.machine(), "cores": os.cpu_count()},
        }
        (path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(scenario.as_config())))
        (path / "run.json").write_text(json.dumps(facts, indent=2) + "\n")
    except (OSError, ValueError) as error:
        if isinstance(error, RunError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"cannot write run_dir {path}: {reason}; choose another with run_dir=PATH") from None
    return Run(path)


def _fresh_name(scenario: Scenario) -> str:
    stem = f"{scenario.name}-{scenario.agent}-s{scenario.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = itertools.chain([stem], (f"{stem}-{k}" for k in itertools.count(2)))
    return next(name for name in names if not (RUNS / name).exists())


def find(path: str) -> Run:
    """Return the run of this folder, or the newest in runs/ whose name begins so; RunError naming the nearest."""
    folder = Path(path)
    try:
        if (folder / "run.json").is_file() and (folder / "config.yaml").is_file():
            return _without_links(Run(folder))
        there = folder.is_dir()
    except (OSError, ValueError) as error:  # a name no folder can have
        raise RunError(f"no run {path[:80]}: {getattr(error, 'strerror', None) or error}") from None
    if there:
        raise RunError(f"{path} is not a run: it has no run.json and config.yaml")
    matches = [run for run in every() if run.path.name.startswith(folder.name)] if folder.name == path else []
    if matches:
        return _without_links(matches[-1])
    raise RunError(f"no run {path}; {nearest(path, (str(run.path) for run in every()))}")


def _without_links(run: Run) -> Run:
    """Return the run; RunError where a link in it would let us write or delete elsewhere."""
    for place, folders, files in os.walk(run.path):
        for name in (*folders, *files):
            if os.path.islink(os.path.join(place, name)):
                raise RunError(f"{os.path.join(place, name)} is a link: a run is made of files of its own")
    return run


def every(folder: Path = RUNS) -> list[Run]:
    """Return the runs in a folder, oldest first."""
    files = sorted((f for f in folder.glob("**/run.json") if f.is_file()), key=lambda file: file.stat().st_mtime)
    return [Run(file.parent) for file in files]


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None


def versions() -> dict[str, str | None]:
    """Return the versions of the packages that decide a run's outcome, None where one is missing."""
    return {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


class Metrics:
    """Writes metrics.jsonl and TensorBoard events; both can be taken back to a checkpoint's step."""

    def __init__(self, run: Run, *, size: int = 0, step: int = 0) -> None:
        run.metrics.touch()
        os.truncate(run.metrics, size)
        self._file: TextIO = run.metrics.open("a", encoding="utf-8")
        self._size = size
        self._folder, self._purge = run.path, step + 1 if step else None
        self._events: Any = None

    @property
    def size(self) -> int:
        """Bytes of metrics.jsonl that are written and flushed."""
        return self._size

    def write(self, step: int, values: dict[str, float], clock: dict[str, float]) -> None:
        """Append one line of values; `clock` (seconds, rates) goes to TensorBoard only: it differs in every run."""
        line = json.dumps({"step": step, **values}, allow_nan=False) + "\n"
        self._file.write(line)
        self._file.flush()
        self._size += len(line.encode())
        if self._events is None:
            self._events = self._open_events()
        for key, value in {**values, **clock}.items():
            self._events.add_scalar(key, value, step)

    def _open_events(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        # Events after the checkpoint are of a future that is about to be played again.
        return SummaryWriter(str(self._folder), purge_step=self._purge, flush_secs=10)

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def load_latest(run: Run) -> checkpoint.Checkpoint | None:
    """Return the newest valid checkpoint, telling on stderr which newer ones were refused and why."""
    found, refused = checkpoint.latest(run.checkpoints)
    for reason in refused:
        print(f"refused {reason}", file=sys.stderr)
    if refused and found is not None:
        print(f"going on from {found.path.name}", file=sys.stderr)
    return found
