"""Measure the throughput of each world on this machine once, and store it in the cache for `rl-lab list`.

A stored value is valid while the files of the world's kernels are unchanged.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from rl_lab.core.files import atomic_write_bytes
from rl_lab.core.untrusted import read_json
from rl_lab.core.world import WorldError
from rl_lab.engine import compiler, world_registry
from rl_lab.engine.batch import Batch
from rl_lab.engine.diagnostics import authored_files

_ROWS = 4096  # environments times agents
_SECONDS = 0.3  # duration of a measurement


def _file() -> Path:
    return compiler.cache_folder() / "speeds.json"


def _digest(name: str) -> str:
    """Return a hash of a world's files, or "" where the world cannot be loaded."""
    try:
        files = sorted(authored_files(world_registry.load(name)))
    except (ValueError, WorldError):
        return ""
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()


def _stored() -> dict[str, tuple[float, str]]:
    try:
        return {str(name): (float(speed), str(digest)) for name, (speed, digest) in read_json(_file(), 2**20).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def known() -> dict[str, float]:
    """Return the agent steps per second of worlds whose stored values are valid, by name."""
    names = world_registry.names()
    return {name: speed for name, (speed, digest) in _stored().items() if name in names and digest == _digest(name)}


def measure(name: str) -> float:
    """Measure a world with random actions in one thread, store the agent steps per second, and return them."""
    world = world_registry.load(name)
    batch = Batch(world, max(_ROWS // len(world.agents), 1), threads=1)
    batch.reset()
    steps, seconds = 0, 0.0
    for is_warmup in (True, False):
        steps, seconds = 0, 0.0
        while seconds < (_SECONDS / 10 if is_warmup else _SECONDS):
            batch.random_actions()
            steps += batch.num_envs if world.current_player_field else int(batch.acting.sum())
            begin = time.perf_counter()  # the time of drawing the actions does not count
            batch.step()
            seconds += time.perf_counter() - begin
    atomic_write_bytes(_file(), json.dumps(_stored() | {name: (steps / seconds, _digest(name))}, indent=1).encode())
    return steps / seconds
