"""Measure the steps per second of worlds on this machine, and store them in a file for `rl-lab list worlds`.

The file is speeds.json in the folder of compiled code. A stored value is valid as long as the files of the world's
kernels are unchanged. `rl-lab list worlds --measure` calls `measure` for the others.
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
_SECONDS = 0.3  # of stepping, in one measurement


def _file() -> Path:
    return compiler.cache_folder() / "speeds.json"


def _hash_of_files(name: str) -> str:
    """Return a hash of a world's files, or "" where the world cannot be loaded."""
    try:
        files = sorted(authored_files(world_registry.load(name)))
    except (ValueError, WorldError):
        return ""
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()


def _read_file() -> dict[str, tuple[float, str]]:
    """Return steps per second and the hash of the files, by name of the world; {} where the file cannot be read."""
    try:
        return {
            str(name): (float(speed), str(file_hash)) for name, (speed, file_hash) in read_json(_file(), 2**20).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def valid_speeds() -> dict[str, float]:
    """Return the agent steps per second of worlds whose stored values are valid, by name."""
    names = world_registry.names()
    return {
        name: speed
        for name, (speed, file_hash) in _read_file().items()
        if name in names and file_hash == _hash_of_files(name)
    }


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
            begin = time.perf_counter()  # after choosing the actions, whose time does not count
            batch.step()
            seconds += time.perf_counter() - begin
    speeds = _read_file() | {name: (steps / seconds, _hash_of_files(name))}
    atomic_write_bytes(_file(), json.dumps(speeds, indent=1).encode())
    return steps / seconds
