"""Find the checkpoint that a user names: by RUN, by RUN@STEP, or by a folder of checkpoints inside a run.

All commands, `opponent=` and tournaments resolve such names by `locate`. It looks at names of files only, except for
the run.json of the run; nothing is written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from rl_lab.core.errors import UsageError, one_line
from rl_lab.experiments import run_dir
from rl_lab.experiments.run_dir import Run
from rl_lab.experiments.run_folders import names_agent, names_folder_or_run

__all__ = ["CheckpointLocation", "locate", "names_agent", "step_number"]


@dataclass(frozen=True)
class CheckpointLocation:
    """The run, and a folder inside it, that a name stands for."""

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
    has_step = names_folder_or_run(head) and not names_folder_or_run(text)
    path, step = (head, last) if has_step else (text, None)
    if step == "":
        raise UsageError(f"{text} names no step: write {head}@STEP, or {head} for the agent that the run has chosen")
    folder = Path(path)
    if (folder / "manifest.json").is_file():
        return _location_of_checkpoint(folder, step)
    if any(folder.glob("step-*/manifest.json")):
        run, folders, default = _containing_run(folder), [folder], folder
        name = _run_or_learner_name(folder)
    else:
        run = run_dir.find(path)
        folders, default = [run.checkpoints, run.agent], run.agent
        name = run.path.absolute().name
    if step is None:
        return CheckpointLocation(run, default, name)
    number, checkpoint_folder = _checkpoint_of_step(path, step, folders)
    return CheckpointLocation(run, checkpoint_folder, f"{name}@{number}")


def step_number(text: str) -> int | None:
    """Return the step that digits name, with or without zeros before it; None for any other text."""
    return int(text) if re.fullmatch("0*[0-9]{1,18}", text) else None


def _location_of_checkpoint(folder: Path, step: str | None) -> CheckpointLocation:
    """Return the location of a checkpoint's own folder. Raises UsageError where `step` is not its step."""
    run, name = _containing_run(folder), folder.absolute().name
    number = step_number(name.removeprefix("step-").removesuffix(".old"))
    if step is not None and (number is None or step_number(step) != number):
        raise UsageError(f"{folder} is the checkpoint of step {number}; @{one_line(step)} is another one")
    return CheckpointLocation(
        run, folder, f"{_run_or_learner_name(folder.absolute().parent)}@{name if number is None else number}"
    )


def _run_or_learner_name(folder: Path) -> str:
    """Return the name of the run, or of the league's learner, that a folder of checkpoints belongs to."""
    folder = folder.absolute()
    return (folder.parent if folder.name in ("agent", "checkpoints") else folder).name


def _checkpoint_of_step(path: str, step: str, folders: list[Path]) -> tuple[int, Path]:
    """Return the step as a number, and its checkpoint in the last of the folders that has one."""
    checkpoints: dict[int, Path] = {}
    for folder in folders:
        for each in folder.glob("step-*"):
            if (number := step_number(each.name.removeprefix("step-"))) is not None:
                checkpoints[number] = each
    step_as_number = step_number(step)
    if step_as_number not in checkpoints:
        steps = ", ".join(map(str, sorted(checkpoints))) or "none"
        raise UsageError(f"{path} has no checkpoint at step {one_line(step):.40}; there is {steps}")
    return step_as_number, checkpoints[step_as_number]


def _containing_run(folder: Path) -> Run:
    """Return the run that a folder lies in: RUN/agent/step-..., RUN/checkpoints/step-... or RUN/league/NAME/step-..."""
    runs = [parent for parent in folder.absolute().parents[:3] if (parent / "config.yaml").is_file()]
    if not runs:
        raise UsageError(f"{folder} is not inside a run: its config.yaml is missing")
    depth = len(folder.absolute().relative_to(runs[0]).parts)
    # The run's path is as short as the user typed it; it is absolute where the current folder is inside the run.
    typed_path = Path(*folder.parts[: len(folder.parts) - depth])
    return run_dir.validate_run(Run(typed_path if len(folder.parts) >= depth else runs[0]))
