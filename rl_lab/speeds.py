"""How fast each world is on this machine: measured once, kept beside the compiled worlds, shown by `rl-lab list`."""

from __future__ import annotations

import json
import time
from pathlib import Path

from . import compiler, worlds
from .engine import Batch
from .evaluate import replace_file

_ROWS = 4096  # worlds times agents
_SECONDS = 0.3


def _file() -> Path:
    return compiler.cache_folder() / "speeds.json"


def known() -> dict[str, float]:
    """Return agents' steps per second of the worlds that have been measured here, by name."""
    try:
        found = json.loads(_file().read_text())
        return {str(k): float(v) for k, v in found.items()} if isinstance(found, dict) else {}
    except (OSError, ValueError, TypeError):
        return {}


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
    replace_file(_file(), json.dumps({**known(), name: acted / spent}, indent=1).encode())
    return acted / spent
