"""Find the folders of runs by the names of their files; no file is opened.

`run_dir` and `checkpoint_lookup` build on this module. It imports nothing of the lab, so that parsing a scenario may
use it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

RUNS = Path("runs")


def run_folders(folder: Path = RUNS) -> list[Path]:
    """Return the folders inside this one that are runs, the oldest first.

    A folder is a run if it has a run.json or a config.yaml. With only one of them it is a damaged run, or one that was
    killed while it started.
    """
    modified: dict[Path, float] = {}  # time of modification of one of the two files, by run
    for place, _, files in os.walk(folder):
        for name in ("run.json", "config.yaml"):
            if name in files and (path := Path(place)) not in modified:
                with suppress(OSError):  # it was removed meanwhile
                    modified[path] = (path / name).lstat().st_mtime
    return sorted(modified, key=modified.__getitem__)


def names_agent(text: str) -> bool:
    """Return whether a text can name a trained agent: PATH, RUN or RUN@STEP, where the folder or the run exists.

    Whether there is an agent in it, and a checkpoint of the step, is not examined.
    """
    return names_folder_or_run(text) or names_folder_or_run(text.rpartition("@")[0])


def names_folder_or_run(text: str) -> bool:
    """Return whether there is a folder with exactly this path, or a run in runs/ whose name begins with the text."""
    try:
        if not text or Path(text).is_dir():
            return bool(text)
        return "/" not in text and any(run.name.startswith(text) for run in run_folders())
    except (OSError, ValueError):  # not a valid path
        return False
