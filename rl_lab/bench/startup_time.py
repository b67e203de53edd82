"""Measure the time to the first update in a new process (`rl-lab bench train ... --starts`).

Each start is a process that makes the learner, collects one rollout, updates once and prints a line; its time is
measured from here, from starting the process to that line. A cold start has an empty folder as XDG_CACHE_HOME, where
numba's compiled code is stored; the warm start after it has what the cold one left there. The folder is deleted
afterwards.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from rl_lab.bench import compare, train_throughput
from rl_lab.bench.settings import setting_by_name
from rl_lab.bench.timing import spread
from rl_lab.core.errors import one_line

_PROGRAM = "from rl_lab.bench.startup_time import run_first_update; run_first_update({name!r}, {world!r}, {setting!r})"
_DONE_LINE = "the first update is done"


def measure_starts(world: str, setting: str, *, against: tuple[str, ...] = (), rounds: int = 5) -> list[dict[str, Any]]:
    """Return two rows for each learner, of cold and of warm starts; the lab's come first.

    Raises ChildProcessError where a process fails, and UsageError as `compare.check_peers` does.
    """
    compare.check_peers("train", world, against)
    sizes, names = setting_by_name(setting), ("lab", *against)
    seconds: dict[tuple[str, str], list[float]] = {(name, start): [] for name in names for start in ("cold", "warm")}
    for _ in range(rounds):
        for name in names:
            with tempfile.TemporaryDirectory() as cache:
                for start in ("cold", "warm"):
                    seconds[name, start].append(measure(name, world, setting, cache))
    rows = []
    for (name, start), times in seconds.items():
        cache = {"cold": "empty cache", "warm": "full cache"}[start]
        what = {"lab": "rl_lab", "stock": "sb3 on rl_lab"}.get(name, name)
        agent = "ppo" if name == "rllib" else sizes.agent
        rows.append(
            {
                "what": f"{what} {agent}",
                "kind": "start",
                "start": start,
                "setting": setting,
                "conditions": f"{sizes.describe()}, fresh process, {cache}, to the end of the first update",
                "seconds": spread(times),
            }
        )
    return rows


def run_first_update(name: str, world: str, setting: str) -> None:
    """Collect a rollout, update once and print a line; this is the program of a measured process."""
    train_throughput.make_contender(name, "train", world, setting_by_name(setting), threads=1)
    print(_DONE_LINE, flush=True)


def measure(name: str, world: str, setting: str, cache: str) -> float:
    """Return the seconds that a new process takes. Raises ChildProcessError where it fails."""
    program = _PROGRAM.format(name=name, world=world, setting=setting)
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": cache},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == _DONE_LINE:
            seconds = time.perf_counter() - begin
            break
    else:
        seconds = 0.0
    errors = process.communicate()[1]
    if not seconds:
        raise ChildProcessError(f"{name}: {one_line(errors.strip().rpartition(chr(10))[2])}")
    return seconds
