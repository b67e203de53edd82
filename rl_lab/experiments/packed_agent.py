"""Pack the files of a trained agent, to send them to a process that may run on another machine, without the run.

`pack_agent` reads the files; `PackedAgent.unpack`, in the other process, writes them into the user's cache folder
there, if they are missing. The matches, evaluations and trainings on a Ray cluster use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rl_lab.core.packed_files import PackedFiles
from rl_lab.experiments.checkpoint_lookup import locate
from rl_lab.league.snapshots import POOL_FOLDER


@dataclass(frozen=True)
class PackedAgent:
    """The files of a run that one agent is loaded from."""

    files: PackedFiles
    # The path, in the run, of the checkpoint or of a folder of checkpoints; "" for the best agent of the run.
    path_in_run: str

    def unpack(self) -> str:
        """Return a path that names the agent on this machine, see `checkpoint_lookup.locate`."""
        folder = self.files.unpack()
        return str(folder / self.path_in_run if self.path_in_run else folder)


def pack_agent(target: str, *, average: bool = False) -> PackedAgent:
    """Return the agent that a user names, or with `average` all snapshots of a league's learner.

    Raises UsageError where there is none.
    """
    location = locate(target)
    run, is_best_agent = location.run.path, location.folder == location.run.agent
    folder = run / POOL_FOLDER / "main" if average and is_best_agent else location.folder
    files = [run / "config.yaml", run / "run.json", *(file for file in folder.rglob("*") if file.is_file())]
    path_in_run = "" if is_best_agent else Path(location.folder).absolute().relative_to(run.absolute()).as_posix()
    contents = PackedFiles.read(run.absolute(), [file.absolute() for file in files])
    return PackedAgent(contents, path_in_run)
