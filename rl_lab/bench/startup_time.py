"""Measure the time to the first update in a new process, with an empty and with a full cache of compiled code.

The time is measured from the start of the process to the line that it prints after its first rollout and update.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from rl_lab.bench import compare, train_throughput
from rl_lab.bench.settings import named
from rl_lab.bench.timing import spread
from rl_lab.core.errors import one_line

_FIRST = "from rl_lab.bench.startup_time import first; first({name!r}, {world!r}, {setting!r})"
_DONE = "the first update is done"


def starts(world: str, setting: str, *, against: tuple[str, ...] = (), rounds: int = 5) -> list[dict[str, Any]]:
    """Return two rows for each learner, of cold and of warm starts; the lab's come first.

    Raises ChildProcessError where a process fails, and UsageError as `compare.check` does.
    """
    compare.check("train", world, against)
    sizes, names = named(setting), ("lab", *against)
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


def first(name: str, world: str, setting: str) -> None:
    """Collect a rollout, update once and print a line; this is the program of a measured process."""
    train_throughput.contender(name, "train", world, named(setting), threads=1)
    print(_DONE, flush=True)


def measure(name: str, world: str, setting: str, cache: str) -> float:
    """Return the seconds that a new process takes. Raises ChildProcessError where it fails."""
    program = _FIRST.format(name=name, world=world, setting=setting)
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
        if line.strip() == _DONE:
            seconds = time.perf_counter() - begin
            break
    else:
        seconds = 0.0
    errors = process.communicate()[1]
    if not seconds:
        raise ChildProcessError(f"{name}: {one_line(errors.strip().rpartition(chr(10))[2])}")
    return seconds
