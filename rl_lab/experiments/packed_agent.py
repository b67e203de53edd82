"""The files of a trained agent, packed for a process that may run on a machine without its run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rl_lab.core.packed_files import PackedFiles
from rl_lab.experiments.checkpoint_lookup import locate
from rl_lab.league.snapshots import POOL_FOLDER


@dataclass(frozen=True)
class PackedAgent:
    """What a run's folder has of one agent."""

    files: PackedFiles
    place: str  # of the checkpoint, or of a folder of checkpoints, in the run; "" for the agent that the run has chosen

    def unpack(self) -> str:
        """Return a path that names the agent on this machine, see `checkpoint_lookup.locate`."""
        folder = self.files.unpack()
        return str(folder / self.place if self.place else folder)


def pack_agent(target: str, *, average: bool = False) -> PackedAgent:
    """Return the agent that a user names, or with `average` all snapshots of a league's learner.

    Raises UsageError where there is none.
    """
    found = locate(target)
    run, is_chosen = found.run.path, found.folder == found.run.agent
    folder = run / POOL_FOLDER / "main" if average and is_chosen else found.folder
    files = [run / "config.yaml", run / "run.json", *(file for file in folder.rglob("*") if file.is_file())]
    place = "" if is_chosen else Path(found.folder).absolute().relative_to(run.absolute()).as_posix()
    contents = PackedFiles.read(run.absolute(), [file.absolute() for file in files])
    return PackedAgent(contents, place)
