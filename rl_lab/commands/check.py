"""Check a world, or an environment of your own, for what learning and evaluation rely on.

TARGET is a world's name, or module:Name (file.py:Name) of a Gymnasium or PettingZoo environment or of a world that you
wrote, or file.py where it has only one, or gym:ID, gym:module:ID or pettingzoo:ID of a registered environment. Naming
a module or a file imports it.
  rl-lab check catch      rl-lab check mine.envs:Maze      rl-lab check maze.py:world      rl-lab check gym:mine:Maze-v0
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rl_lab.checks.subject import PropertyResult

NAME = "check"


def configure(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("target", metavar="TARGET")
    parser.add_argument("--quick", action="store_true", help="seconds instead of a minute: fewer states are looked at")


def run(args: argparse.Namespace) -> int:
    """Print the result of every property; return 1 where one fails."""
    results, lines = [], _ResultLines()
    # With --json, stdout has one JSON object, so the output of a world or an environment goes to stderr.
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        for result in _results(args.target, args.quick):
            results.append(result)
            if not args.json:
                lines.add(result)
    if not args.json:
        lines.end()
    failed = [result.name for result in results if result.status == "fail"]
    if args.json:
        properties = [{"name": r.name, "status": r.status, "findings": list(r.findings)} for r in results]
        print(json.dumps({"target": args.target, "ok": not failed, "properties": properties}))
    else:
        passed = sum(result.status == "pass" for result in results)
        print(f"\n{args.target}: {passed} passed, {len(failed)} failed")
    return int(bool(failed))


class _ResultLines:
    """Prints a line for each result. Results that are skipped one after the other for the same reason share a line."""

    def __init__(self) -> None:
        self.reason = ""  # why the result of the last line was skipped
        self.not_printed = 0  # the number of results after it with the same reason

    def add(self, result: PropertyResult) -> None:
        """Print the line of a result, with the findings where it failed."""
        reason = result.findings[0] if result.status == "skip" else ""
        if reason and reason == self.reason:
            self.not_printed += 1
            return
        self.end()
        self.reason = reason
        print(f"{result.status:<4}  {result.name}{f'  ({reason})' if reason else ''}", flush=True)
        if result.status == "fail":
            print("".join(f"      {finding}\n" for finding in result.findings), end="", flush=True)

    def end(self) -> None:
        """Print how many more results had the reason of the last line."""
        if self.not_printed:
            print(f"skip  {self.not_printed} more, for the same reason", flush=True)
        self.reason, self.not_printed = "", 0


def _results(target: str, quick: bool) -> Iterator[PropertyResult]:
    """Load the target, and yield the result of each property when it has been checked."""
    from rl_lab.checks.subject import FULL, QUICK
    from rl_lab.checks.suite import check_world, run_property, with_few_agents
    from rl_lab.checks.third_party import check_env
    from rl_lab.core.errors import UsageError, nearest
    from rl_lab.core.world import World
    from rl_lab.engine import user_code, world_registry

    budget = QUICK if quick else FULL
    is_file_only = ":" not in target and target.endswith(".py")  # FILE.py without :NAME
    if is_file_only and not Path(target).is_file():
        raise UsageError(f"no file {target}")
    if ":" not in target and not is_file_only and target not in world_registry.names():
        raise UsageError(f"no world {target!r}; {nearest(target, world_registry.names())}, or module:Name of your own")
    loaded = []  # the world, or the environment's factory

    def load_target() -> list[str]:
        code = user_code.permit_named(target) if is_file_only else None
        loaded.append(_load(target) if code is None else user_code.load(code.world))
        return []

    result = run_property("it loads", load_target)
    yield result
    if result.status == "pass":
        (subject,) = loaded
        yield from (
            check_world(with_few_agents(subject), budget) if isinstance(subject, World) else check_env(subject, budget)
        )


def _load(target: str) -> Any:
    """Return a world, or a class or function that makes an environment. Raises ValueError where there is none."""
    from rl_lab.adapters import pettingzoo_registry
    from rl_lab.core.imports import load
    from rl_lab.engine import world_registry

    if target.startswith(pettingzoo_registry.PREFIX):
        return pettingzoo_registry.find(target)[1]
    if target.startswith("gym:"):
        import gymnasium

        from rl_lab.adapters.from_gymnasium import explain_refusal
        from rl_lab.core.errors import UsageError

        try:
            gymnasium.spec(target.removeprefix("gym:"))
        except gymnasium.error.Error as error:  # `make` may find it all the same, by an id without its version
            if isinstance(error, gymnasium.error.UnregisteredEnv):
                raise UsageError(explain_refusal(target, error)) from None
        return partial(gymnasium.make, target.removeprefix("gym:"))
    return load(target) if ":" in target else world_registry.load(target)
