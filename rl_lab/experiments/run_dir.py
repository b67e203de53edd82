"""The folder of a run: the paths of its files; creating, locking and finding it.

A command creates the folder by `new_run` or takes an existing one by `locked_run`; both hold a lock while they use it,
so that two processes never write one run. `find` returns the run that a user's RUN names. Written here are run.json,
config.yaml and the lock; `trainer` and others write the rest.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rl_lab.core import checkpoint, lock
from rl_lab.core.errors import UsageError, nearest, only_match
from rl_lab.core.files import atomic_write_bytes, clear
from rl_lab.experiments import run_record
from rl_lab.experiments.run_folders import RUNS, run_folders
from rl_lab.experiments.run_record import RunError
from rl_lab.experiments.scenario import Scenario
from rl_lab.experiments.scenario_parsing import parse
from rl_lab.experiments.scenario_yaml import ScenarioError, recipe_of

_MAX_SETTINGS_LENGTH = 80  # the most characters that settings take in the name of a folder
_TEMPORARY_FILE = re.compile(r"(config\.yaml|run\.json)\.[0-9a-f]{8}\.partial|" + re.escape(lock.NAME))


@dataclass(frozen=True)
class Run:
    """The paths of one run's files; docs/commands.md ("A run folder") lists them."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """The folder of whole-state checkpoints, one folder for each step."""
        return self.path / "checkpoints"

    @property
    def agent(self) -> Path:
        """The folder of the best agent, which has one checkpoint."""
        return self.path / "agent"

    @property
    def metrics(self) -> Path:
        """The file with one JSON object a line, without times: it is the same for every run of the same seed."""
        return self.path / "metrics.jsonl"

    @property
    def selections(self) -> Path:
        """The file with one JSON object a line for each selection: step, mean return and length of the episodes."""
        return self.path / "selections.jsonl"

    @property
    def backbone(self) -> Path:
        """The folder of the backbone: a copy of the one that the training began with, or what a pretraining made."""
        return self.path / "backbone"

    @property
    def videos(self) -> Path:
        """The folder of the videos of the best, median and worst evaluated episode."""
        return self.path / "videos"

    def evaluation(self, step: int) -> Path:
        """Return the folder of the evaluation of the agent of this step."""
        return self.path / "evaluations" / str(step)

    def scenario(self) -> Scenario:
        """Return the scenario of config.yaml; RunError where it cannot be read."""
        try:
            scenario = parse(str(self.path / "config.yaml"))
        except ScenarioError as error:
            raise RunError(str(error)) from None
        if scenario.backbone is None or not self.backbone.is_dir():
            return scenario
        return replace(scenario, backbone=replace(scenario.backbone, path=str(self.backbone)))

    def summary(self) -> dict[str, Any] | None:
        """Return the newest evaluation's summary, None before the first. Raises RunError where it is damaged."""
        files = [f for f in self.path.glob("evaluations/*/summary.json") if f.exists()]
        files.sort(key=lambda f: f.stat().st_mtime)
        return run_record.read_object(files[-1], "`rl-lab resume` evaluates the agent again") if files else None

    def metadata(self) -> dict[str, Any]:
        """Return the content of run.json. Raises RunError where it is not a run's."""
        return run_record.read(self.path)

    def check_files(self) -> None:
        """Raise RunError or ScenarioError where run.json or config.yaml is missing, or not what a run has there."""
        if not (self.path / "config.yaml").exists():
            raise RunError(f"{self.path} has no config.yaml")
        if not (self.path / "run.json").exists():
            raise _unfinished(self.path)
        recipe_of(str(self.path / "config.yaml"))
        run_record.read(self.path)


def create(scenario: Scenario, command: list[str]) -> Run:
    """Create the folder of a new run with its run.json and config.yaml. Raises as `new_run`."""
    with new_run(scenario, command) as run:
        return run


@contextmanager
def new_run(scenario: Scenario, command: list[str]) -> Iterator[Run]:
    """Create the folder of a new run with its run.json and config.yaml, lock it while the block runs, and yield it.

    Raises RunError for a folder that is not empty or cannot be written, lock.InUseError for one that is locked.
    """
    stem = f"{run_label(scenario)}-{time.strftime('%Y%m%d-%H%M%S')}"
    path = RUNS / stem if scenario.run_dir is None else Path(scenario.run_dir)
    with ExitStack() as stack:
        try:
            if scenario.run_dir is None:
                path = lock.create_new_folder(RUNS, stem)
            else:
                _require_free(path, scenario)
                path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock.lock_folder(path, f"run {path}"))
            _require_free(path, scenario)  # another process may have written there before the lock was taken
            clear(path)
            atomic_write_bytes(path / "config.yaml", _config_yaml(scenario, path).encode())
            run_record.write(path, scenario, command)
            if scenario.backbone is not None and scenario.backbone.sha256:
                from rl_lab.learners.pretraining import folder  # imports torch

                folder.copy(Path(scenario.backbone.path), Run(path).backbone)
        except UsageError:
            raise
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RunError(f"cannot write run_dir {path}: {reason}; choose another with run_dir=PATH") from None
        yield Run(path)


@contextmanager
def locked_run(run: Run) -> Iterator[Scenario]:
    """Lock the folder of a run while the block runs, and yield its scenario.

    Temporary files are deleted, and a missing run.json is written. Raises as `Run.scenario`, RunError for a damaged
    run.json, and lock.InUseError for a run that is locked.
    """
    with lock.lock_folder(run.path, f"run {run.path}"):
        if (run.path / "run.json").exists():
            run_record.read(run.path)
        scenario = run.scenario()
        for folder in (run.path, run.videos, *run.path.glob("evaluations/*")):
            clear(folder)
        if not (run.path / "run.json").exists():
            run_record.write(run.path, scenario, sys.argv)
        yield scenario


def _require_free(path: Path, scenario: Scenario) -> None:
    """Raise RunError unless a run can start here: the folder is empty, or the same run was killed while it started."""
    if not path.exists():
        return
    file_names = {"file"}
    if path.is_dir():
        file_names = {file.name for file in path.iterdir() if not _TEMPORARY_FILE.fullmatch(file.name)}
    if not file_names or (
        file_names == {"config.yaml"} and (path / "config.yaml").read_bytes() == _config_yaml(scenario, path).encode()
    ):
        return
    can_resume = file_names == {"config.yaml"} or {"config.yaml", "run.json"} <= file_names
    hint = f"; continue with: rl-lab resume {shell_quoted(path)}" if can_resume else ""
    raise RunError(f"run_dir {path} is not empty{hint}")


def _config_yaml(scenario: Scenario, path: Path) -> str:
    """Return the content of config.yaml for a run in the folder `path`."""
    from omegaconf import OmegaConf

    config = scenario.as_config()
    if "file" in config["world"]:  # the file of a user's own world, relative to the run's folder
        config["world"]["file"] = os.path.relpath(config["world"]["file"], path.resolve())
    return OmegaConf.to_yaml(OmegaConf.create(config))


def run_label(scenario: Scenario) -> str:
    """Return scenario, agent, settings and seed as part of a folder's name: letters, digits, - _ and . only."""
    settings = "-".join(f"{key.rpartition('.')[2]}_{value}" for key, value in scenario.settings.items())
    settings = re.sub(r"[^A-Za-z0-9._-]+", "_", settings)[:_MAX_SETTINGS_LENGTH].strip("._-")
    return "-".join(filter(None, (scenario.name, scenario.agent, settings, f"s{scenario.seed}")))


def shell_quoted(path: Path) -> str:
    """Return a path as a word for a shell; one that begins with a hyphen gets ./ before it."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def find(path: str, *, unfinished: bool = False) -> Run:
    """Return the run of this folder, or the only one in runs/ whose name begins with `path`.

    With `unfinished`, a folder that has only a config.yaml is accepted: the run was killed while it started.

    Raises RunError for a folder that is not a run, for a damaged run.json, and where no name begins with `path`;
    UsageError where several do.
    """
    folder = Path(path)
    try:
        has_run_json, has_config = (folder / "run.json").is_file(), (folder / "config.yaml").is_file()
        if has_config and not (folder / "run.json").exists() and not unfinished:
            raise _unfinished(folder)
        if has_config and (has_run_json or not (folder / "run.json").exists()):
            return validate_run(Run(folder))
        is_folder = folder.is_dir()
    except RunError:
        raise
    except (OSError, ValueError) as error:  # not a valid path
        raise RunError(f"no run {path[:80]}: {getattr(error, 'strerror', None) or error}") from None
    if is_folder:
        raise RunError(f"{path} is not a run: it has no run.json and config.yaml")
    match = only_match(path, [run.path for run in list_runs()]) if folder.name == path else None
    if match is not None:
        return find(str(match), unfinished=unfinished)
    raise RunError(f"no run {path}; {nearest(path, (str(run.path) for run in list_runs()))}")


def _unfinished(folder: Path) -> RunError:
    """Return the error for a folder that has a config.yaml and no run.json yet."""
    hint = f"rl-lab resume {shell_quoted(folder)}"
    return RunError(f"{folder} has no run.json: the run was killed while it started; continue with: {hint}")


def validate_run(run: Run) -> Run:
    """Return the run. Raises RunError for a damaged run.json, or for a link, by which other files could be changed."""
    if (run.path / run_record.NAME).is_file():
        run_record.read(run.path)
    for folder, folders, files in os.walk(run.path):
        for name in (*folders, *files):
            if os.path.islink(os.path.join(folder, name)):
                raise RunError(
                    f"{os.path.join(folder, name)} is a symbolic link, which a run's folder must not contain"
                )
    return run


def list_runs(folder: Path = RUNS) -> list[Run]:
    """Return the runs in a folder, oldest first; some may be damaged, see `Run.check_files`."""
    return [Run(path) for path in run_folders(folder)]


def load_latest(run: Run) -> checkpoint.Checkpoint | None:
    """Return the newest valid checkpoint, or None; print to stderr which newer ones are damaged, and how."""
    newest, errors = checkpoint.latest(run.checkpoints)
    for reason in errors:
        print(f"skipped a damaged checkpoint: {reason}", file=sys.stderr)
    if errors and newest is not None:
        print(f"continuing from {newest.path.name}", file=sys.stderr)
    return newest
