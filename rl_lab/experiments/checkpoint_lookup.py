"""Which checkpoint a user names: by a run, RUN@STEP, or a folder of checkpoints inside a run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from rl_lab.core.errors import UsageError, one_line
from rl_lab.experiments import run_dir
from rl_lab.experiments.run_dir import Run
from rl_lab.experiments.run_folders import exists, is_named

__all__ = ["CheckpointLocation", "is_named", "locate", "step_number"]


@dataclass(frozen=True)
class CheckpointLocation:
    """A folder inside a run."""

    run: Run
    folder: Path  # a checkpoint, or a folder of checkpoints, of which the newest valid one is meant
    name: str  # RUN or RUN@STEP, where RUN is the name of the run's folder, or of a league's learner


def locate(text: str) -> CheckpointLocation:
    """Return the checkpoint that `text` names.

    It is one of these:

    - RUN, a run's folder or the beginning of its name in runs/: the agent that the run has chosen.
    - RUN@STEP: the run's checkpoint of that step.
    - a checkpoint's folder inside a run, or a run's folder of checkpoints: the newest valid one.
    - RUN/league/NAME, with @STEP or without: a snapshot of a league's learner, by default the newest.

    Raises UsageError where there is none.
    """
    head, _, last = text.rpartition("@")
    path, step = (head, last) if exists(head) and not exists(text) else (text, None)
    if step == "":
        raise UsageError(f"{text} names no step: write {head}@STEP, or {head} for the agent that the run has chosen")
    folder = Path(path)
    if (folder / "manifest.json").is_file():
        return _single(folder, step)
    if any(folder.glob("step-*/manifest.json")):
        run, folders, default = _containing_run(folder), [folder], folder
        name = _owner(folder)
    else:
        run = run_dir.find(path)
        folders, default = [run.checkpoints, run.agent], run.agent
        name = run.path.absolute().name
    if step is None:
        return CheckpointLocation(run, default, name)
    number, place = _of_step(path, step, folders)
    return CheckpointLocation(run, place, f"{name}@{number}")


def step_number(text: str) -> int | None:
    """Return the step that digits name, with or without zeros before it; None for any other text."""
    return int(text) if re.fullmatch("0*[0-9]{1,18}", text) else None


def _single(folder: Path, step: str | None) -> CheckpointLocation:
    run, name = _containing_run(folder), folder.absolute().name
    number = step_number(name.removeprefix("step-").removesuffix(".old"))
    if step is not None and (number is None or step_number(step) != number):
        raise UsageError(f"{folder} is the checkpoint of step {number}; @{one_line(step)} is another one")
    return CheckpointLocation(run, folder, f"{_owner(folder.absolute().parent)}@{name if number is None else number}")


def _owner(folder: Path) -> str:
    """Return the name of the run, or of the league's learner, that a folder of checkpoints belongs to."""
    folder = folder.absolute()
    return (folder.parent if folder.name in ("agent", "checkpoints") else folder).name


def _of_step(path: str, step: str, folders: list[Path]) -> tuple[int, Path]:
    """Return the step as a number, and its checkpoint in the last of the folders that has one."""
    found = {step_number(place.name[5:]): place for folder in folders for place in folder.glob("step-*")}
    steps = {number: place for number, place in found.items() if number is not None}
    number = step_number(step)
    if number not in steps:
        known = ", ".join(map(str, sorted(steps))) or "none"
        raise UsageError(f"{path} has no checkpoint at step {one_line(step):.40}; there is {known}")
    return number, steps[number]


def _containing_run(folder: Path) -> Run:
    """Return the run that a folder lies in: RUN/agent/step-..., RUN/checkpoints/step-... or RUN/league/NAME/step-..."""
    above = [parent for parent in folder.absolute().parents[:3] if (parent / "config.yaml").is_file()]
    if not above:
        raise UsageError(f"{folder} is not inside a run: its config.yaml is missing")
    depth = len(folder.absolute().relative_to(above[0]).parts)
    typed = folder.parts[: len(folder.parts) - depth]
    # The run's path is as short as it was typed; it is absolute where the user is inside of the run.
    return run_dir.checked(Run(Path(*typed) if len(folder.parts) >= depth else above[0]))
