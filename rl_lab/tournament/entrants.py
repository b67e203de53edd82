"""This module parses the entrants that a user names on the command line, and makes their agents.

`parse_entrants` returns an `Entrant` for each word: data with a content hash, which `store` writes into the
tournament's folder. `make_agent` loads its agent in the processes that play. The content hash shows whether an entrant
has changed since (`is_unchanged`). Runs are only read; code of the user is imported in another process, see
`functions`.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from rl_lab.core import agent_registry, checkpoint
from rl_lab.core.errors import UsageError, nearest, one_line
from rl_lab.core.kernel import fingerprint, is_kernel
from rl_lab.core.protocols import EnvSpec
from rl_lab.evaluation.action_modes import evaluation_modes
from rl_lab.experiments.checkpoint_lookup import locate, names_agent
from rl_lab.experiments.frozen_agent import FrozenAgentRef
from rl_lab.experiments.run_dir import list_runs
from rl_lab.tournament import functions
from rl_lab.tournament.code_loading import load_in_subprocess
from rl_lab.tournament.policy_entrant import PolicyAgent

_NAME_AND_SPEC = re.compile(r"([\w.+-]+)=(.+)")
_BOOLEANS = {"true": True, "false": False}
_SPEC_WITH_MODE = re.compile(r"(.+):(sample|average)=(true|false)")
NAME_PATTERN = re.compile(r"[\w.,:=@+-]{1,120}")  # of an entrant's name, which is part of the ids of matches


@dataclasses.dataclass(frozen=True)
class Entrant:
    """An entrant with everything that a worker process needs to make it."""

    name: str
    spec: str
    kind: str  # "run"; "made", an agent that needs no training; or "function", code of the user
    hash: str  # SHA-256 of its content, hexadecimal


def parse_entrants(words: Sequence[str], world: EnvSpec, *, least: int = 2) -> list[Entrant]:
    """Return the entrants, `least` or more, for words of the form `SPEC` or `NAME=SPEC`.

    Raises UsageError for any other word.

    A SPEC is one of the following:

    - a run: `RUN`, `RUN@STEP`, or the folder of a checkpoint or of a league's snapshots. With `RUN:sample=true` the
      policy samples its actions, and with `RUN:sample=false` it takes the most probable ones; the default is that of
      the run's evaluation. `RUN:average=true` is the average policy of a league, which plays each match with one
      snapshot.
    - an agent that is not trained, with options: `mcts:simulations=500,seed=1`.
    - a Python function: `module:callable` or `file.py:callable`. Its code is run.
    """
    entrants: list[Entrant] = []
    names_and_specs = [(m[1], m[2]) if (m := _NAME_AND_SPEC.fullmatch(word)) else ("", word) for word in words]
    kinds = [entrant_kind(spec) for _, spec in names_and_specs]
    load_in_subprocess(spec for (_, spec), kind in zip(names_and_specs, kinds, strict=True) if kind == "function")
    for (chosen_name, spec), kind in zip(names_and_specs, kinds, strict=True):
        name = chosen_name or _default_name(spec, kind)
        if not NAME_PATTERN.fullmatch(name):
            raise UsageError(f"{spec} needs a name of letters, digits and -_.+: NAME={spec}")
        if any(each.name == name for each in entrants):
            raise UsageError(f"two entrants are called {name}; give one another name: NAME={spec}")
        entrants.append(Entrant(name, spec, kind, _hash(spec, kind, world)))
    if len(entrants) < least:
        raise UsageError("a tournament has at least two entrants")
    return entrants


def entrant_kind(spec: str) -> str:
    """Return the `Entrant.kind` of a SPEC. Raises UsageError, with the nearest name, for any other word."""
    head, colon, _ = spec.partition(":")
    if spec.lower().endswith(".onnx"):
        raise UsageError(f"{spec}: ONNX files are not supported yet")
    if head in agent_registry.names():
        if agent_registry.learns(head):
            raise UsageError(f"{head} must be trained first: rl-lab train WORLD agent={head}; then its run can enter")
        return "made"
    if names_agent(split_mode(spec)[0]):
        return "run"
    untrained = [name for name in agent_registry.names() if not agent_registry.learns(name)]
    # `minimx:depth=2` has the form of a function, but is a misspelt agent.
    if functions.SPEC.fullmatch(spec) and not difflib.get_close_matches(head, untrained, cutoff=0.75):
        return "function"
    valid_names = [*untrained, *(str(run.path) for run in list_runs())]
    raise UsageError(f"no entrant {spec!r}; {nearest(head if colon else spec.partition('@')[0], valid_names)}")


def make_agent(entrant: Entrant, world: EnvSpec) -> Any:
    """Return the entrant's agent, an `agent.Agent`. Raises UsageError where it cannot play this world."""
    if entrant.kind == "function":
        return functions.make(entrant.name, entrant.spec)
    if entrant.kind == "run":
        return _load_run(entrant.spec, world)
    try:
        return _agent_module(entrant.spec).make(_config(entrant.spec), world)
    except ValueError as error:
        raise UsageError(f"{entrant.spec}: {error}") from None


def is_unchanged(entrant: Entrant, world: EnvSpec) -> bool:
    """Return whether an entrant's content is unchanged.

    Code of the user is imported, in another process, only where the entrant was already code in the tournament.
    """
    try:
        return entrant_kind(entrant.spec) == entrant.kind and _hash(entrant.spec, entrant.kind, world) == entrant.hash
    except (UsageError, checkpoint.CheckpointError):
        return False


def _default_name(spec: str, kind: str) -> str:
    """Return the name of an entrant whose SPEC was typed without a name."""
    if kind != "run":
        return spec.rpartition("/")[2]
    target, mode, value = split_mode(spec)
    return locate(target).name + (f":{mode}={str(value).lower()}" if mode else "")


def split_mode(spec: str) -> tuple[str, str, bool | None]:
    """Split the SPEC of a run into the run, "sample", "average" or "" for its mode, and that mode's value or None."""
    match = _SPEC_WITH_MODE.fullmatch(spec)
    return (match[1], match[2], _BOOLEANS[match[3]]) if match else (spec, "", None)


def _agent_ref(spec: str) -> FrozenAgentRef:
    """Return the reference to the trained agent, or the average policy of a league, that a SPEC names."""
    target, mode, value = split_mode(spec)
    return FrozenAgentRef(target, average=mode == "average" and bool(value))


def _load_run(spec: str, world: EnvSpec) -> Any:
    ref = _agent_ref(spec)
    agent = ref.agent(world)
    return agent if ref.average else PolicyAgent(agent, sample=_samples(spec, agent))


def _samples(spec: str, agent: Any) -> bool:
    """Return whether a run's agent samples its actions: by the SPEC, or else by the mode of the run's evaluation."""
    target, mode, value = split_mode(spec)
    if mode == "sample":
        return bool(value)
    config = locate(target).run.scenario().evaluation
    return not evaluation_modes(agent, config.actions, deterministic=config.deterministic)[0]


def _agent_module(spec: str) -> Any:
    """Return the module in `agents/` for `name:option=value,...`."""
    return agent_registry.load(spec.partition(":")[0])


def _config(spec: str) -> Any:
    """Return the Config for `name:option=value,...`. Raises UsageError for an unknown option or an invalid value."""
    name, _, text = spec.partition(":")
    config = _agent_module(spec).Config()
    defaults = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    values: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if key not in defaults or not equals:
            raise UsageError(f"{name} has no option {one_line(part)!r}; {nearest(key, defaults)}")
        try:
            values[key] = _parse_value(value, defaults[key])
        except (ValueError, OverflowError):
            raise UsageError(f"{spec}: {key}={one_line(value)} is not of type {type(defaults[key]).__name__}") from None
    return dataclasses.replace(config, **values)


def _parse_value(text: str, default: Any) -> Any:
    """Return the value of an option, which has the type of its default. Raises ValueError or OverflowError."""
    if isinstance(default, bool):
        if text.lower() not in _BOOLEANS:
            raise ValueError(text)
        return _BOOLEANS[text.lower()]
    if isinstance(default, int) and float(text).is_integer():
        return int(float(text))  # accepts 1e4
    return type(default)(text)


def _hash(spec: str, kind: str, world: EnvSpec) -> str:
    """Return the `Entrant.hash` of a SPEC."""
    if kind == "function":
        return functions.content_hash(spec)
    if kind == "run":
        return _hash_of_run(spec, world)
    config = _config(spec)
    # A scripted agent calls a kernel of the world, whose name is its option `strength`.
    script = getattr(world, str(getattr(config, "strength", "")), None)
    content = [spec.partition(":")[0], dataclasses.asdict(config), fingerprint(script) if is_kernel(script) else ""]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _hash_of_run(spec: str, world: EnvSpec) -> str:
    """Return the SHA-256 of the agent and of whether it samples its actions."""
    ref = _agent_ref(spec).with_content_hash()
    if ref.average:
        return ref.sha256
    return hashlib.sha256(f"{ref.sha256} samples={_samples(spec, ref.agent(world))}".encode()).hexdigest()
