"""The folders of runs, found by their files alone: no file is read here."""

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
    found: dict[Path, float] = {}
    for place, _, files in os.walk(folder):
        for name in ("run.json", "config.yaml"):
            if name in files and (path := Path(place)) not in found:
                with suppress(OSError):  # it was removed meanwhile
                    found[path] = (path / name).lstat().st_mtime
    return sorted(found, key=found.__getitem__)


def is_named(text: str) -> bool:
    """Return whether a folder has this name, or a run in runs/ has a name that begins so.

    A step after it, as in RUN@STEP, is ignored.
    """
    return exists(text) or exists(text.rpartition("@")[0])


def exists(text: str) -> bool:
    """Return whether a folder has exactly this name, or a run in runs/ has a name that begins so."""
    try:
        if not text or Path(text).is_dir():
            return bool(text)
        return "/" not in text and any(run.name.startswith(text) for run in run_folders())
    except (OSError, ValueError):  # not a valid path
        return False
