"""How long the first update takes to come, in a fresh process each time; its cache of compiled code empty, or full.

Timed from starting the process to the line it prints once it has collected and learned for the first time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from ..names import one_line
from . import compare, learning
from .rounds import spread
from .settings import named

_FIRST = "from rl_lab.bench.starts import first; first({name!r}, {world!r}, {setting!r})"
_DONE = "the first update is done"


def starts(world: str, setting: str, *, against: tuple[str, ...] = (), rounds: int = 5) -> list[dict[str, Any]]:
    """Return two rows a learner, the lab's first: cold starts and warm ones, in turns. Errors as `compare.bench`.

    Raises ChildProcessError where a process fails.
    """
    compare.check("train", world, against)
    sizes, names = named(setting), ("lab", *against)
    seconds: dict[tuple[str, str], list[float]] = {(name, how): [] for name in names for how in ("cold", "warm")}
    for _ in range(rounds):
        for name in names:
            with tempfile.TemporaryDirectory() as cache:
                for how in ("cold", "warm"):
                    seconds[name, how].append(_start(name, world, setting, cache))
    rows = []
    for (name, how), taken in seconds.items():
        cache = {"cold": "empty cache", "warm": "full cache"}[how]
        what = {"lab": "rl_lab", "stock": "sb3 on rl_lab"}.get(name, name)
        rows.append(
            {
                "what": f"{what} {sizes.agent}",
                "kind": "start",
                "start": how,
                "setting": setting,
                "conditions": f"{sizes.shown()}, fresh process, {cache}, to the end of the first update",
                "seconds": spread(taken),
            }
        )
    return rows


def first(name: str, world: str, setting: str) -> None:
    """Collect and learn once, and say so: what a process that is timed does."""
    learning.contender(name, "train", world, named(setting), threads=1)
    print(_DONE, flush=True)


def _start(name: str, world: str, setting: str, cache: str) -> float:
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
            taken = time.perf_counter() - begin
            break
    else:
        taken = 0.0
    said = process.communicate()[1]
    if not taken:
        raise ChildProcessError(f"{name}: {one_line(said.strip().rpartition(chr(10))[2])}")
    return taken
