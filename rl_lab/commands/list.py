"""List worlds, agents, scenarios or runs.

The speed of worlds is what was measured on this machine, in one thread; --measure does that for those not measured yet.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ..names import one_line

NAME = "list"
KINDS = ("worlds", "agents", "scenarios", "runs")


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--measure", action="store_true", help="measure worlds' speeds: compiles them, seconds each")


def run(given: argparse.Namespace) -> int:
    """Print the table."""
    if given.measure:
        _measure()
    items = {"worlds": _worlds, "agents": _agents, "scenarios": _scenarios, "runs": _runs}[given.kind]()
    if given.json:
        print(json.dumps({"items": items}))
        return 0
    if not items:
        print(f"no {given.kind} yet" + (": start one with rl-lab train cartpole" if given.kind == "runs" else ""))
        return 0
    columns = list(items[0])
    cells = [columns, *([_cell(item[c]) for c in columns] for item in items)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(columns))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    unmeasured = sum(item.get("steps/s", "") is None for item in items)
    if unmeasured:
        what = f"{unmeasured} world{'s' * (unmeasured != 1)}"
        print(f"\nspeed of {what}: rl-lab list worlds --measure (some seconds each, once)", file=sys.stderr)
    return 0


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else one_line(value)


def _measure() -> None:
    from .. import speeds, worlds

    for name in worlds.names():
        if name not in speeds.known():
            print(f"{name}: {speeds.measure(name) / 1e6:,.1f} M steps/s", file=sys.stderr, flush=True)


def _spaces(joined: Any, each: tuple[Any, ...], text: Any) -> str:
    return " or ".join(dict.fromkeys(text(space) for space in each)) if len(set(map(str, each))) > 1 else text(joined)


def _observed(space: Any) -> str:
    return f"{space.dtype} {'x'.join(map(str, space.shape))}"


def _taken(space: Any) -> str:
    return f"{space.n} choices" if hasattr(space, "n") else f"{space.shape[0]} numbers"


def _worlds() -> list[dict[str, Any]]:
    from .. import speeds, worlds

    known = speeds.known()
    loaded = [worlds.load(name) for name in worlds.names()]
    return [
        {
            "name": w.name,
            "agents": len(w.agents),
            "moves": "in turn" if w.turns else "together" if len(w.agents) > 1 else None,
            "observation": _spaces(w.observation, w.observation_spaces, _observed),
            "action": _spaces(w.action, w.action_spaces, _taken),
            "horizon": w.horizon or None,
            "solved": w.solved,
            "expert": "yes" if w.expert else "no",
            "steps/s": f"{known[w.name] / 1e6:,.1f} M" if w.name in known else None,
            "what": w.doc.partition("\n")[0].partition(": ")[2].rstrip("."),
        }
        for w in loaded
    ]


def _agents() -> list[dict[str, Any]]:
    import dataclasses

    from .. import catalogue

    return [
        {
            "name": name,
            "learns": "yes" if catalogue.learns(name) else "no",
            "hyperparameters": len(dataclasses.fields(catalogue.load(name).Config)),
            "what": (catalogue.load(name).__doc__ or "").partition("\n")[0].partition(": ")[2].rstrip("."),
        }
        for name in catalogue.names()
    ]


def _scenarios() -> list[dict[str, Any]]:
    from .. import recipe, scenario

    items = []
    for name in recipe.names():
        loaded = scenario.compose(name)
        for agent, expected in loaded.expect.items():
            own = scenario.compose(name, [f"agent={agent}"])
            items.append(
                {
                    "name": name,
                    "agent": agent,
                    "world": own.world,
                    "worlds": own.worlds,
                    "budget": own.budget,
                    "expect": expected.mean_return,
                    "source": expected.source,
                }
            )
    return items


def _runs() -> list[dict[str, Any]]:
    from ..checkpoint import latest
    from ..run import every

    items = []
    for run in every():
        facts, summary = run.facts(), run.summary() or {}
        found, _ = latest(run.checkpoints)
        mean = summary.get("mean_return")
        items.append(
            {
                "name": str(run.path),
                "scenario": facts.get("scenario"),
                "agent": facts.get("agent"),
                "seed": facts.get("seed"),
                "steps": found.step if found else 0,
                "mean return": mean if isinstance(mean, int | float) else None,
                "started": facts.get("started"),
            }
        )
    return items
