"""Load entrants that are user code, each in a process of its own, so that an import that ends or hangs is contained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from rl_lab.core.errors import UsageError
from rl_lab.core.untrusted import checked_type, parse_json
from rl_lab.tournament.containment import MARK, end_marked, new_mark

LONGEST_LOAD = 120.0  # seconds that an import and a constructor may take
MOST_BYTES = 2**16  # limit of a process's output

# The source files of entrants that were loaded without an error, by working directory and SPEC.
_sources: dict[tuple[str, str], Path] = {}


def source(spec: str) -> Path:
    """Return the source file of the object that `spec` names, after it has been loaded. Raises as `load_apart` does."""
    key = os.getcwd(), spec
    if key not in _sources or not _sources[key].is_file():
        load_apart([spec])
    return _sources[key]


def load_apart(specs: Iterable[str]) -> None:
    """Load the objects that these name in other processes, where classes are instantiated.

    Raises UsageError for the first object that cannot be loaded.
    """
    missing = [spec for spec in dict.fromkeys(specs) if (os.getcwd(), spec) not in _sources]
    if not missing:
        return
    task = json.dumps({"path": sys.path, "specs": missing}).encode()
    words = [sys.executable, "-P", "-m", "rl_lab.tournament.code_loading_worker"]
    root = str(Path(__file__).parents[2])
    mark, environment = new_mark(), dict(os.environ)
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])), MARK: mark}
    try:
        process = subprocess.run(words, input=task, stdout=subprocess.PIPE, env=environment, check=False)
    finally:
        end_marked(mark)
    lines = process.stdout.splitlines()
    if len(lines) != len(missing):
        raise UsageError(f"cannot load {missing[0]}: its process ended with status {process.returncode}")
    for spec, line in zip(missing, lines, strict=True):
        try:
            answer = checked_type(parse_json(line), "what its process says", dict)
            error, file = (checked_type(answer.get(name, ""), name, str) for name in ("error", "file"))
        except ValueError as invalid:
            raise UsageError(f"cannot load {spec}: {invalid}") from None
        if error or not file:
            raise UsageError(error or f"cannot load {spec}: its process named no file")
        _sources[os.getcwd(), spec] = Path(file)
