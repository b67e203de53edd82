"""Collect, show and export data sets: episodes that agents have played, from which others learn.

  rl-lab data collect scripted world=cartpole steps=100000 out=demos/cartpole-v0
  rl-lab data collect RUN random noise=0.1 steps=1e6 out=demos/mixed-v0    several agents, mixed; random actions
  rl-lab data collect RUN@STEP episodes=10 out=demos/ten-v0
  rl-lab data show DIR
  rl-lab data export DIR FILE.parquet
collect takes world.params.FIELD=VALUE and seed=N, too. An agent is a run (RUN, RUN@STEP, RUN/league/NAME, with
:sample=true to sample its actions) or one that is not trained, with options: scripted:strength=novice. A run's world is
the default. DIR is in Minari's format, and can be a data set of Minari in the formats arrow or parquet.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rl_lab.core.protocols import EnvSpec
    from rl_lab.datasets.metadata import Metadata
    from rl_lab.evaluation.collection import CollectionPlan, Policy

from rl_lab.engine.user_code import add_option

NAME = "data"
_VERBS = ("collect", "show", "export")
_KEYS = ("world", "steps", "episodes", "out", "noise", "seed")
_PARAMS = "world.params."
_MAX_COUNT = 10**12  # transitions, or episodes


def configure(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    add_option(parser)
    parser.add_argument("action", metavar="VERB", choices=_VERBS, help="collect, show or export")
    parser.add_argument("overrides", nargs="*", metavar="AGENT|DIR|key=value")


def run(args: argparse.Namespace) -> int:
    """Run the verb, and print what was collected or found."""
    from rl_lab.datasets.requirement import pyarrow

    pyarrow()
    return {"collect": _collect, "show": _show, "export": _export}[args.action](args)


def _show(args: argparse.Namespace) -> int:
    from rl_lab.datasets.dataset import open_dataset
    from rl_lab.datasets.summary import summary, text

    (folder,) = _require_words(args, "DIR")
    figures = summary(open_dataset(Path(folder)))
    print(json.dumps(figures) if args.json else text(figures))
    return 0


def _export(args: argparse.Namespace) -> int:
    from rl_lab.core.errors import UsageError
    from rl_lab.datasets.dataset import open_dataset
    from rl_lab.datasets.parquet import export

    folder, name = _require_words(args, "DIR", "FILE.parquet")
    path = Path(name)
    if path.suffix != ".parquet":
        raise UsageError(f"{path}: name a file that ends in .parquet")
    if path.exists():
        raise UsageError(f"{path} exists already")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is not a folder")
    data = open_dataset(Path(folder))
    export(data, path)
    result = {"out": str(path), "steps": data.num_steps, "episodes": data.num_episodes}
    print(json.dumps(result) if args.json else f"  {data.num_steps:,} transitions in {path}")
    return 0


def _require_words(args: argparse.Namespace, *names: str) -> list[str]:
    """Return the arguments of a verb. Raises UsageError where there are more or fewer of them than `names`."""
    from rl_lab.core.errors import UsageError

    if len(args.overrides) != len(names):
        raise UsageError(f"rl-lab data {args.action} takes {' '.join(names)}")
    return list(args.overrides)


@dataclass(frozen=True)
class _Request:
    """The arguments of `collect`, parsed."""

    agents: tuple[str, ...]
    values: dict[str, str]  # by key
    params: dict[str, Any]  # of the world

    def number(self, key: str, default: float, low: float, high: float, is_whole: bool = True) -> float:
        """Return the number of a key, 1e6 for example. Raises UsageError for another value."""
        from rl_lab.core.errors import UsageError

        text = self.values.get(key, str(default))
        kind = "a whole number, " if is_whole else ""
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not low <= number <= high or (is_whole and number != int(number)):
            raise UsageError(f"{key}={text}: expected {kind}{low:g} to {high:g}")
        return int(number) if is_whole else number


def _parse_request(words: Sequence[str]) -> _Request:
    """Parse the arguments of `collect`. Raises UsageError for an unknown key."""
    from rl_lab.core.errors import UsageError, nearest
    from rl_lab.tournament.parameters import parameters

    agents, values, params = [], {}, []
    for word in words:
        key, _, value = word.partition("=")
        if word.startswith(_PARAMS):
            params.append(word)
        elif not re.fullmatch(r"[\w.]+=.*", word, re.DOTALL):
            agents.append(word)
        elif key in _KEYS:
            values[key] = value
        else:
            raise UsageError(f"data collect has no key {key!r}; {nearest(key, _KEYS)}")
    if not agents:
        raise UsageError("name the agent to collect from: a run, or one that is not trained, such as scripted")
    if not values.get("out"):
        raise UsageError("say where to write: out=DIR")
    if ("steps" in values) == ("episodes" in values):
        raise UsageError("say how much to collect: steps=N transitions, or episodes=N")
    return _Request(tuple(agents), values, parameters(params))


def _collect(args: argparse.Namespace) -> int:
    """Collect episodes into a new folder `out`, and print how many they are.

    They are written into a hidden folder beside it, which is renamed at the end, so that `out` is complete or missing.
    """
    from rl_lab.core.errors import UsageError
    from rl_lab.evaluation.collection import CollectionPlan

    request = _parse_request(args.overrides)
    out = Path(request.values["out"])
    if out.exists() or out.is_symlink():
        raise UsageError(f"out={out} exists already: name a new folder")
    counts = {key: int(request.number(key, 1, 1, _MAX_COUNT)) for key in ("steps", "episodes") if key in request.values}
    name, params, spec = _resolve_world(request)
    plan = CollectionPlan(
        name,
        params,
        int(request.number("seed", 0, 0, 2**32 - 1)),
        noise=request.number("noise", 0.0, 0.0, 1.0, is_whole=False),
        **counts,
    )
    policies, names = _make_policies(request.agents, spec, plan)
    metadata = _metadata(plan, spec, policies, names, out)
    partial_folder = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial_folder.mkdir(parents=True)
    except (OSError, ValueError) as error:
        raise UsageError(f"out={out}: cannot write there: {getattr(error, 'strerror', None) or error}") from None
    try:
        collected = _write_data_set(partial_folder / "data", plan, policies, metadata, quiet=args.json)
        os.rename(partial_folder, out)
    except ValueError as error:  # of the world or of an agent
        raise UsageError(str(error)) from None
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
    result = {"out": str(out), "steps": collected.num_steps, "episodes": collected.num_episodes}
    if args.json:
        print(json.dumps({**result, "world": name, "content_hash": collected.content_hash}))
        return 0
    plural = "s" * (collected.num_episodes != 1)
    print(f"  {collected.num_steps:,} transitions in {collected.num_episodes:,} episode{plural} of {name}")
    print(f"  saved    {out}\n  next     rl-lab data show {out}")
    return 0


def _resolve_world(request: _Request) -> tuple[str, dict[str, Any], EnvSpec]:
    """Return the world's name, parameters and description: the one that is named, or that of the first run."""
    from rl_lab.adapters import make
    from rl_lab.core.errors import UsageError
    from rl_lab.engine.user_code import permit_named
    from rl_lab.experiments.checkpoint_lookup import locate
    from rl_lab.tournament.entrants import entrant_kind, split_mode

    runs = [agent for agent in request.agents if entrant_kind(agent) == "run"]
    params: dict[str, Any] = {}
    name = request.values.get("world")
    if name is not None:
        code = permit_named(name)
        name = name if code is None else code.world
    elif not runs:
        raise UsageError(f"say which world {request.agents[0]} is for: add world=NAME")
    else:
        scenario = locate(split_mode(runs[0])[0]).run.scenario()
        name, params = scenario.world, dict(scenario.params)
    params |= request.params
    try:
        envs = make.make(name, 1, params, threads=1)
    except ValueError as error:
        raise UsageError(str(error)) from None
    envs.close()
    return name, params, envs.world


def _make_policies(
    agents: Sequence[str], world: EnvSpec, plan: CollectionPlan
) -> tuple[list[Policy], list[dict[str, str]]]:
    """Return the agents, and the name and content hash of each. Raises UsageError where one cannot play the world."""
    from rl_lab.core.errors import UsageError
    from rl_lab.evaluation.collection import Policy
    from rl_lab.experiments.checkpoint_lookup import locate
    from rl_lab.tournament.entrants import make_agent, parse_entrants, split_mode
    from rl_lab.tournament.policy_entrant import PolicyAgent

    policies, names = [], []
    for entrant in parse_entrants(agents, world, least=1):
        if entrant.kind == "function":
            raise UsageError(f"{entrant.spec}: data are collected from runs and from the lab's agents, not from code")
        entrant_agent = make_agent(entrant, world)
        # For a run, `make_agent` returns an agent for matches, which evaluates 128 rows at a time.
        # The run's agent is inside of it.
        is_policy = isinstance(entrant_agent, PolicyAgent)
        agent, deterministic = (entrant_agent.agent, not entrant_agent.sample) if is_policy else (entrant_agent, True)
        role = locate(split_mode(entrant.spec)[0]).run.scenario().role if entrant.kind == "run" else ""
        policies.append(Policy(agent, deterministic, world.roles[role] if role else ()))
        names.append({"name": entrant.name, "sha256": entrant.hash})
    return policies, names


def _metadata(
    plan: CollectionPlan, world: EnvSpec, policies: Sequence[Policy], names: list[dict[str, str]], out: Path
) -> Metadata:
    """Return the metadata of the data set that will be collected: spaces, world, agents and how it is collected."""
    from rl_lab.datasets.env_spec import env_spec
    from rl_lab.datasets.metadata import Metadata

    info = {
        "seed": plan.seed,
        "noise": plan.noise,
        "params": {
            key: value if isinstance(value, int | float | str | bool) else str(value)
            for key, value in plan.params.items()
        },
        "agents": list(world.agents),
        "policies": [
            {**name, "deterministic": policy.deterministic} for name, policy in zip(names, policies, strict=True)
        ],
    }
    mask_size = int(getattr(world.action, "n", 0)) if world.has_action_mask else 0
    spec = env_spec(plan.world, plan.params, world)
    stem = re.sub(r"[^\w-]+", "-", out.name)
    return Metadata(
        world.observation,
        world.action,
        mask_size,
        plan.world,
        tuple(name["name"] for name in names),
        info,
        dataset_id=stem if re.search(r"-v\d+$", stem) else f"{stem}-v0",
        other={"env_spec": spec} if spec else {},
    )


def _write_data_set(
    folder: Path, plan: CollectionPlan, policies: Sequence[Policy], metadata: Metadata, *, quiet: bool
) -> Metadata:
    """Collect the episodes and write them; return the metadata of the data set."""
    from rl_lab.core.progress import Progress
    from rl_lab.datasets.minari_format import MinariWriter
    from rl_lab.evaluation.collection import collect

    progress = Progress(quiet=quiet, unit="steps" if plan.steps else "episodes")
    progress.begin(0, plan.steps or plan.episodes)
    writer = MinariWriter(folder, metadata)
    try:
        for columns in collect(
            plan,
            policies,
            lambda steps, episodes: progress.show(steps if plan.steps else episodes, None, {}),
        ):
            writer.write(columns)
    finally:
        progress.end()
    return writer.close()
