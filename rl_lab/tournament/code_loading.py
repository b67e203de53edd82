"""This module loads entrants that are user code in other processes, to find their source files and errors.

`entrants` and `functions` call it before a tournament starts. An import that ends its process, or hangs, is then an
error of one line and does not end the command. It starts a process of `code_loading_worker`, which forks once for each
entrant, and kills all processes that these have started. The source files that were found are cached in this process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from rl_lab.core.errors import UsageError
from rl_lab.core.untrusted import checked_type, parse_json
from rl_lab.tournament.containment import MARK_VARIABLE, kill_marked, new_mark

MAX_LOAD_SECONDS = 120.0  # seconds that an import and a constructor may take
MAX_ANSWER_BYTES = 2**16  # of the answer about one entrant

# The source files of entrants that were loaded without an error, by working directory and SPEC (`module:callable` or
# `file.py:callable`).
_source_files: dict[tuple[str, str], Path] = {}


def source_file(spec: str) -> Path:
    """Return the source file of the object that `spec` names; it is loaded if it has not been loaded before.

    Raises as `load_in_subprocess` does.
    """
    key = os.getcwd(), spec
    if key not in _source_files or not _source_files[key].is_file():
        load_in_subprocess([spec])
    return _source_files[key]


def load_in_subprocess(specs: Iterable[str]) -> None:
    """Load the objects that these name in other processes, and store their source files; classes are instantiated.

    Raises UsageError for the first object that cannot be loaded.
    """
    missing = [spec for spec in dict.fromkeys(specs) if (os.getcwd(), spec) not in _source_files]
    if not missing:
        return
    task = json.dumps({"path": sys.path, "specs": missing}).encode()
    command = [sys.executable, "-P", "-m", "rl_lab.tournament.code_loading_worker"]
    root = str(Path(__file__).parents[2])
    mark, environment = new_mark(), dict(os.environ)
    environment |= {
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        MARK_VARIABLE: mark,
    }
    try:
        process = subprocess.run(command, input=task, stdout=subprocess.PIPE, env=environment, check=False)
    finally:
        kill_marked(mark)
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
        _source_files[os.getcwd(), spec] = Path(file)
