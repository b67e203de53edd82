"""Check a world, or an environment of your own, for what learning and evaluation rely on.

TARGET is a world's name, or module:Name (file.py:Name) of a Gymnasium or PettingZoo environment or of a world that you
wrote; naming it imports it.
  rl-lab check catch      rl-lab check mine.envs:Maze      rl-lab check maze.py:world
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..check import Result

NAME = "check"


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.add_argument("target", metavar="TARGET")
    parser.add_argument("--quick", action="store_true", help="seconds instead of a minute: fewer states are looked at")


def run(given: argparse.Namespace) -> int:
    """Print what comes of every property; 1 if one fails."""
    results = []
    # What a world or an environment prints is not part of the one object that --json promises.
    with contextlib.redirect_stdout(sys.stderr) if given.json else contextlib.nullcontext():
        for result in _results(given.target, given.quick):
            results.append(result)
            if given.json:
                continue
            note = f"  ({result.findings[0]})" if result.status == "skip" else ""
            print(f"{result.status:<4}  {result.name}{note}", flush=True)
            if result.status == "fail":
                print("".join(f"      {finding}\n" for finding in result.findings), end="", flush=True)
    failed = [result.name for result in results if result.status == "fail"]
    if given.json:
        shown = [{"name": r.name, "status": r.status, "findings": list(r.findings)} for r in results]
        print(json.dumps({"target": given.target, "ok": not failed, "properties": shown}))
    else:
        passed = sum(result.status == "pass" for result in results)
        print(f"\n{given.target}: {passed} passed, {len(failed)} failed")
    return int(bool(failed))


def _results(target: str, quick: bool) -> Iterator[Result]:
    from .. import worlds
    from ..check import FULL, QUICK, check_world, manageable, run
    from ..check_env import check_env, load
    from ..names import UsageError, nearest
    from ..world import World

    effort = QUICK if quick else FULL
    if ":" not in target and target not in worlds.names():
        raise UsageError(f"no world {target!r}; {nearest(target, worlds.names())}, or module:Name of your own")
    found = []

    def loads() -> list[str]:
        found.append(load(target) if ":" in target else worlds.load(target))
        return []

    result = run("it loads", loads)
    yield result
    if result.status == "pass":
        (it,) = found
        yield from check_world(manageable(it), effort) if isinstance(it, World) else check_env(it, effort)
