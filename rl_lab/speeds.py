"""How fast each world is on this machine: measured once, kept beside the compiled worlds, shown by `rl-lab list`.

A figure holds for the files that its kernels were written in then: an edited world has none.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from . import compiler, worlds
from .engine import Batch
from .evaluate import replace_file
from .mistakes import authored_files

_ROWS = 4096  # worlds times agents
_SECONDS = 0.3


def _file() -> Path:
    return compiler.cache_folder() / "speeds.json"


def _digest(name: str) -> str:
    files = sorted(authored_files(worlds.load(name)))
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()


def _kept() -> dict[str, tuple[float, str]]:
    try:
        return {
            str(name): (float(speed), str(digest)) for name, (speed, digest) in json.loads(_file().read_text()).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def known() -> dict[str, float]:
    """Return agents' steps per second of the worlds that have been measured here as they are now, by name."""
    here = worlds.names()
    return {name: speed for name, (speed, digest) in _kept().items() if name in here and digest == _digest(name)}


def measure(name: str) -> float:
    """Measure a world with random actions in one thread for a third of a second, keep and return the figure."""
    world = worlds.load(name)
    batch = Batch(world, max(_ROWS // len(world.agents), 1), threads=1)
    batch.reset()
    acted, spent = 0, 0.0
    for warm in (True, False):
        acted, spent = 0, 0.0
        while spent < (_SECONDS / 10 if warm else _SECONDS):
            batch.random_actions()
            acted += batch.n if world.turns else int(batch.active.sum())
            begin = time.perf_counter()  # the drawing of actions is not the world's time
            batch.step()
            spent += time.perf_counter() - begin
    replace_file(_file(), json.dumps(_kept() | {name: (acted / spent, _digest(name))}, indent=1).encode())
    return acted / spent
