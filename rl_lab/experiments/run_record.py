"""Write and read run.json, which says how a run was started: scenario, time, command, versions and machine.

A folder is a run once it has this file. It may come from a stranger, so `read` checks its size and the types of its
entries; `read_object` does so for other JSON files of a run. `RunError` is the error of everything that is wrong with a
run's folder.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from rl_lab.core.errors import UsageError, one_line
from rl_lab.core.files import atomic_write_bytes
from rl_lab.core.untrusted import checked_type, read_json
from rl_lab.experiments.scenario import Scenario

NAME = "run.json"
_MAX_BYTES = 2**24  # larger JSON files are not read
_REMEDY = "`rl-lab resume` writes it again from config.yaml"
_PACKAGES = "rl-lab numpy numba gymnasium stable-baselines3 torch hydra-core".split()
_REQUIRED: dict[str, type[Any]] = {"scenario": str, "world": str, "agent": str, "seed": int, "started": str}
_OPTIONAL: dict[str, type[Any]] = {"settings": dict, "command": list, "versions": dict, "host": dict}


class RunError(UsageError):
    """The folder is not a run, or cannot become one; the message is one line."""


def write(folder: Path, scenario: Scenario, command: list[str]) -> None:
    """Write run.json. The other files of a new run are written before it, because a folder that has it is a run."""
    record = {
        "scenario": scenario.name,
        "world": scenario.world,
        "agent": scenario.agent,
        "seed": scenario.seed,
        "settings": scenario.settings,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": command,
        "git_commit": _commit(),
        "versions": versions() | {"python": platform.python_version()},
        "host": {"system": platform.platform(), "machine": platform.machine(), "cores": os.cpu_count()},
    }
    atomic_write_bytes(folder / NAME, (json.dumps(record, indent=2) + "\n").encode())


def read(folder: Path) -> dict[str, Any]:
    """Return the content of run.json. Raises RunError where it is not what `write` writes."""
    record = read_object(folder / NAME, _REMEDY)
    try:
        for name, kind in (_REQUIRED | _OPTIONAL).items():
            if name in record or name in _REQUIRED:
                checked_type(record.get(name), name, kind)
    except ValueError as error:
        raise _damaged(folder / NAME, error, _REMEDY) from None
    return record


def read_object(file: Path, remedy: str) -> dict[str, Any]:
    """Return the object of a run's JSON file. Raises RunError; `remedy` says what happens once the file is deleted."""
    try:
        return checked_type(read_json(file, _MAX_BYTES), "it", dict)
    except (OSError, ValueError) as error:
        raise _damaged(file, error, remedy) from None


def _damaged(file: Path, error: Exception, remedy: str) -> RunError:
    reason = one_line(getattr(error, "strerror", None) or error)[:120]
    return RunError(f"{file} is damaged: {reason}; delete it to continue: {remedy}")


def versions() -> dict[str, str | None]:
    """Return the versions of the packages that a run's result depends on, None where one is missing."""
    return {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None
