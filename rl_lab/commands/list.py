"""List worlds, agents, scenarios or runs; `list agents ppo` lists an agent's hyperparameters.

The speed of worlds is what was measured on this machine, in one thread; --measure does that for those not measured yet.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from rl_lab.core.errors import UsageError, nearest, one_line
from rl_lab.core.interrupts import is_interruption
from rl_lab.core.text_table import format_table
from rl_lab.core.untrusted import checked_number

if TYPE_CHECKING:
    from rl_lab.core.world import World

NAME = "list"
KINDS = ("worlds", "agents", "scenarios", "runs")


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("name", nargs="?", help="of an agent: list its hyperparameters")
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="of worlds: say why they are not stepped by vector instructions",
    )
    parser.add_argument("--measure", action="store_true", help="measure worlds' speeds: compiles them, seconds each")


def run(args: argparse.Namespace) -> int:
    """Print the table, or one JSON object."""
    if args.measure:
        _measure_speeds()
    if args.name is None:
        tables: dict[str, Callable[[], list[dict[str, Any]]]] = {
            "worlds": partial(_worlds, args.verbose),
            "agents": _agents,
            "scenarios": _scenarios,
            "runs": _runs,
        }
        items = tables[args.kind]()
    elif args.kind == "agents":
        items = _hyperparameters(args.name)
    else:
        raise UsageError(f"list {args.kind} takes no name; list agents NAME lists hyperparameters")
    if args.json:
        print(json.dumps({"items": items}))
        return 0
    if not items:
        print(f"no {args.kind} yet" + (": start one with rl-lab train cartpole" if args.kind == "runs" else ""))
        return 0
    columns = list(items[0])
    cells = [columns, *([_cell(item[c]) for c in columns] for item in items)]
    print(format_table(cells, range(len(columns))))
    unmeasured = sum(item.get("steps/s", "") is None and item.get("agents") is not None for item in items)
    if unmeasured:
        worlds = f"{unmeasured} world{'s' * (unmeasured != 1)}"
        print(f"\nspeed of {worlds}: rl-lab list worlds --measure (some seconds each, once)", file=sys.stderr)
    return 0


def _cell(value: Any) -> str:
    """Return a value as the text of a cell."""
    if value is None:
        return "-"
    if isinstance(value, float):
        # Two decimals for returns; hyperparameters that are smaller have four significant digits.
        return f"{value:.2f}" if abs(value) >= 1 or value == round(value, 2) else f"{value:.4g}"
    return one_line(value)


def _measure_speeds() -> None:
    """Measure the worlds that have no valid speed yet; print each to stderr."""
    from rl_lab.bench import throughput_cache
    from rl_lab.engine import world_registry

    for name in world_registry.names():
        if name not in throughput_cache.valid_speeds():
            try:
                speed = f"{throughput_cache.measure(name) / 1e6:,.1f} M steps/s"
            except Exception as error:  # the other worlds are measured all the same
                speed = one_line(f"not measured: {error}")
            print(f"{name}: {speed}", file=sys.stderr, flush=True)


def _spaces(space: Any, spaces: tuple[Any, ...], text: Callable[[Any], str]) -> str:
    """Return a world's space as text or, where its agents have different ones, all of them."""
    return " or ".join(dict.fromkeys(map(text, spaces))) if len(set(map(str, spaces))) > 1 else text(space)


def _observation_text(space: Any) -> str:
    return f"{space.dtype} {'x'.join(map(str, space.shape))}"


def _action_text(space: Any) -> str:
    return f"{space.n} choices" if hasattr(space, "n") else f"{space.shape[0]} numbers"


def _row(name: str, make: Callable[[], dict[str, Any]], columns: str, error_column: str) -> dict[str, Any]:
    """Return the row that `make` returns or, where it raises an error, a row with that error in `error_column`.

    `columns` are the names of all columns, joined by "|".
    """
    try:
        return make()
    except BaseException as error:
        if is_interruption(error):
            raise
        text = (
            str(error)
            if isinstance(error, UsageError) or type(error).__name__ == "WorldError"
            else f"{type(error).__name__}: {error}"
        )
        return {**dict.fromkeys(columns.split("|")), "name": name, error_column: one_line(f"broken: {text}")}


def _worlds(verbose: bool) -> list[dict[str, Any]]:
    from rl_lab.bench import throughput_cache
    from rl_lab.engine import vectorization, world_registry

    speeds = throughput_cache.valid_speeds()

    def world(name: str) -> dict[str, Any]:
        definition = world_registry.load(name)
        return {
            "name": definition.name,
            "agents": len(definition.agents),
            "moves": "in turn"
            if definition.current_player_field
            else "together"
            if len(definition.agents) > 1
            else None,
            "observation": _spaces(definition.observation, definition.observation_spaces, _observation_text),
            "action": _spaces(definition.action, definition.action_spaces, _action_text),
            "horizon": definition.horizon or None,
            "reward_threshold": definition.reward_threshold,
            "expert": "yes" if definition.expert else "no",
            "steps/s": f"{speeds[definition.name] / 1e6:,.1f} M" if definition.name in speeds else None,
            **({"stepping": stepping(definition)} if verbose else {}),
            "what": definition.doc.partition("\n")[0].partition(": ")[2].rstrip("."),
        }

    def stepping(definition: World) -> str:
        reason = vectorization.why_not_vectorized(definition)
        return f"not vectorised: {reason}" if reason else "vectorised"

    columns = (
        f"name|agents|moves|observation|action|horizon|reward_threshold|expert|steps/s|{'stepping|' * verbose}what"
    )
    return [_row(name, partial(world, name), columns, "what") for name in world_registry.names()]


def _agents() -> list[dict[str, Any]]:
    import dataclasses

    from rl_lab.core import agent_registry

    def agent(name: str) -> dict[str, Any]:
        return {
            "name": name,
            "learns": "yes" if agent_registry.learns(name) else "no",
            "hyperparameters": len(dataclasses.fields(agent_registry.load(name).Config)),
            "what": (agent_registry.load(name).__doc__ or "").partition("\n")[0].partition(": ")[2].rstrip("."),
        }

    return [
        _row(name, partial(agent, name), "name|learns|hyperparameters|what", "what") for name in agent_registry.names()
    ]


def _hyperparameters(agent: str) -> list[dict[str, Any]]:
    import dataclasses

    from rl_lab.core import agent_registry

    if agent not in agent_registry.names():
        raise UsageError(f"no agent {agent!r}; {nearest(agent, agent_registry.names())}")
    config = agent_registry.load(agent).Config
    return [
        {
            "override": f"agent.{field.name}",
            "type": str(field.type).replace(" | None", " or null"),
            "default": getattr(config(), field.name),
            "range": _range(field.metadata.get("low"), field.metadata.get("high")),
            "unit": field.metadata.get("unit") or None,
            "meaning": field.metadata.get("meaning", ""),
        }
        for field in dataclasses.fields(config)
    ]


def _range(low: float | None, high: float | None) -> str | None:
    if low is None:
        return None if high is None else f"at most {high:g}"
    return f"at least {low:g}" if high is None else f"{low:g} to {high:g}"


def _scenarios() -> list[dict[str, Any]]:
    from rl_lab.experiments import scenario_parsing, scenario_yaml

    columns = "name|agent|world|worlds|budget|expect|source"

    def scenario_row(parsed: Any, name: str, agent: str, expected: Any) -> dict[str, Any]:
        scenario = parsed if agent == parsed.agent else scenario_parsing.parse(name, [f"agent={agent}"])
        return {
            "name": name,
            "agent": agent,
            "world": scenario.world,
            "worlds": scenario.worlds,
            "budget": scenario.budget,
            "expect": expected.mean_return,
            "source": expected.source,
        }

    items = []
    for name in scenario_yaml.names():
        try:
            parsed = scenario_parsing.parse(name)
        except Exception as error:
            items.append(_row(name, partial(_raise, error), columns, "source"))
            continue
        items += [
            _row(name, partial(scenario_row, parsed, name, *each), columns, "source") for each in parsed.expect.items()
        ]
    return items


def _raise(error: Exception) -> NoReturn:
    raise error


def _settings(settings: Any) -> str | None:
    """Return the settings of a run.json as text, None where there are none."""
    return " ".join(f"{key}={value}" for key, value in settings.items()) or None if isinstance(settings, dict) else None


def _runs() -> list[dict[str, Any]]:
    from rl_lab.core.checkpoint import CheckpointError, latest
    from rl_lab.experiments.run_dir import list_runs

    def row(run: Any) -> dict[str, Any]:
        run.check_files()
        record, summary = run.metadata(), run.summary() or {}
        newest, errors = latest(run.checkpoints)
        if errors and newest is None:
            raise CheckpointError(errors[0])
        mean = summary.get("mean_return")
        if summary:
            checked_number(mean, "its newest summary.json is damaged: mean_return")
        return {
            "name": str(run.path),
            "scenario": record["scenario"],
            "agent": record["agent"],
            "seed": record["seed"],
            "settings": _settings(record.get("settings")),
            "steps": newest.step if newest else 0,
            "mean return": mean,
            "started": record["started"],
        }

    columns = "name|scenario|agent|seed|settings|steps|mean return|started"
    return [_row(str(run.path), partial(row, run), columns, "scenario") for run in list_runs()]
