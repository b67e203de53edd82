"""The folders of runs, found by their files alone: no file is read here."""

from __future__ import annotations

from pathlib import Path

RUNS = Path("runs")


def run_folders(folder: Path = RUNS) -> list[Path]:
    """Return the folders inside this one that are runs, the oldest first."""
    files = sorted((f for f in folder.glob("**/run.json") if f.is_file()), key=lambda file: file.stat().st_mtime)
    return [file.parent for file in files]


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
