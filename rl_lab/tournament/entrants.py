"""Entrants: what a user types, each with a name of its own and a hash of its content."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import catalogue, checkpoint
from ..batch import WorldInfo
from ..kernel import fingerprint, is_kernel
from ..names import UsageError, nearest, one_line
from ..run import Run, every, find
from ..trained import Frozen, load_agent
from . import functions
from .policies import PolicyAgent

_NAMED = re.compile(r"([\w.+-]+)=(.+)")
_BOOLEANS = {"true": True, "false": False}
_MODE = re.compile(r"(.+):(sample|average)=(true|false)")
NAME = re.compile(r"[\w.,:=@+-]{1,120}")  # fits into a match's id and into a table


@dataclasses.dataclass(frozen=True)
class Entrant:
    """Who takes part: all that a worker needs to make it."""

    name: str
    spec: str
    kind: str  # run, made (needs no training) or function
    hash: str  # of its content, hexadecimal


def enter(words: Sequence[str], world: WorldInfo) -> list[Entrant]:
    """Return the entrants that a user typed, `SPEC` or `NAME=SPEC` each. Raises UsageError, in one line.

    A SPEC is a run (`RUN`, `RUN@STEP`, a checkpoint's folder, that of a league's member), an agent that needs no
    training with options (`mcts:simulations=500,seed=1`), or a Python function (`module:callable`, `file.py:callable`),
    which runs code. With `RUN:sample=true` a policy draws its actions instead of taking the likeliest; by default it
    does as its run says. `RUN:average=true` is what a league's self-play averages to: one of those it has frozen, drawn
    for each match.
    """
    found: list[Entrant] = []
    for word in words:
        named = _NAMED.fullmatch(word)
        spec = named[2] if named else word
        kind = kind_of(spec)
        name = named[1] if named else _usual_name(spec, kind)
        if not NAME.fullmatch(name):
            raise UsageError(f"{spec} needs a name of letters, digits and -_.+: NAME={spec}")
        if any(each.name == name for each in found):
            raise UsageError(f"two entrants are called {name}; give one another name: NAME={spec}")
        found.append(Entrant(name, spec, kind, _hash(spec, kind, world)))
    if len(found) < 2:
        raise UsageError("a tournament has at least two entrants")
    return found


def kind_of(spec: str) -> str:
    """Return what kind of entrant a SPEC is; UsageError with the nearest name where it is none."""
    head, colon, _ = spec.partition(":")
    if spec.lower().endswith(".onnx"):
        raise UsageError(f"{spec}: ONNX files are not supported yet")
    if head in catalogue.names():
        if catalogue.learns(head):
            raise UsageError(f"{head} must be trained first: rl-lab train WORLD agent={head}; then its run can enter")
        return "made"
    if _run_path(spec) is not None:
        return "run"
    made = [name for name in catalogue.names() if not catalogue.learns(name)]
    if functions.SPEC.fullmatch(spec) and not difflib.get_close_matches(head, made, cutoff=0.75):
        return "function"
    known = [*made, *(str(run.path) for run in every())]
    raise UsageError(f"no entrant {spec!r}; {nearest(head if colon else spec.partition('@')[0], known)}")


def make(entrant: Entrant, world: WorldInfo) -> Any:
    """Return the entrant's agent, an `agent.Agent`. Raises UsageError where it cannot play this world."""
    if entrant.kind == "function":
        return functions.make(entrant.name, entrant.spec)
    if entrant.kind == "run":
        return _load_run(entrant.spec, world)
    try:
        return _factory(entrant.spec).make(_config(entrant.spec), world)
    except ValueError as error:
        raise UsageError(f"{entrant.spec}: {error}") from None


def same(entrant: Entrant, world: WorldInfo) -> bool:
    """Say whether an entrant is what it was when it entered; what was no code then is not run now."""
    try:
        return kind_of(entrant.spec) == entrant.kind and _hash(entrant.spec, entrant.kind, world) == entrant.hash
    except (UsageError, checkpoint.CheckpointError):
        return False


def _usual_name(spec: str, kind: str) -> str:
    if kind != "run":
        return spec.rpartition("/")[2]
    path, at, _ = _run_path(spec) or (Path(spec), "", None)
    said = _MODE.fullmatch(spec)
    mode = f":{said[2]}={said[3]}" if said else ""
    own = path.absolute()
    if (path / "manifest.json").is_file():
        kept = own.parent.name in ("agent", "checkpoints")
        whose = own.parent.parent if kept else own.parent
        return f"{whose.name}@{path.name.removeprefix('step-').lstrip('0') or '0'}{mode}"
    if any(path.glob("step-*/manifest.json")):
        return own.name + (f"@{at}" if at else "") + mode
    return find(str(path)).path.absolute().name + (f"@{at}" if at else "") + mode


def _run_path(spec: str) -> tuple[Path, str, bool | None] | None:
    """Return a run's or checkpoint's folder, the step and whether to sample where that is said; None if it is none."""
    said = _MODE.fullmatch(spec)
    sample = _BOOLEANS[said[3]] if said and said[2] == "sample" else None
    spec = said[1] if said else spec
    head, _, step = spec.rpartition("@")
    for path, at in ((spec, ""), (head, step)):
        try:
            if path and (
                Path(path).is_dir() or ("/" not in path and any(r.path.name.startswith(path) for r in every()))
            ):
                return Path(path), at, sample
        except (OSError, ValueError):  # a name no folder can have
            return None
    return None


def _checkpoint(spec: str) -> tuple[Run, Path]:
    """Return the run and the folder of the checkpoint that `spec` means, or of those it keeps the best of."""
    path, step, _ = _run_path(spec) or (Path(spec), "", None)
    above = path.absolute().parents[:3]
    inside = next((Run(folder) for folder in above if (folder / "config.yaml").is_file()), None)
    if (path / "manifest.json").is_file():
        if inside is None:
            raise UsageError(f"{path} is not inside a run: its config.yaml is missing")
        return inside, path
    if inside is not None and any(path.glob("step-*/manifest.json")):
        run, folders, usual = inside, [path], path  # of a league's member
    else:
        run = find(str(path))
        folders, usual = [run.checkpoints, run.agent], run.agent
    if not step:
        return run, usual
    steps = {int(p.name[5:]): p for f in folders for p in f.glob("step-*") if p.name[5:].isdigit()}
    if not step.isdigit() or int(step) not in steps:
        known = ", ".join(map(str, sorted(steps))) or "none"
        raise UsageError(f"{path} has no checkpoint at step {one_line(step)}; there is {known}")
    return run, steps[int(step)]


def _averaged(spec: str) -> Frozen | None:
    """Return the average that a SPEC means; None where it means one agent."""
    said = _MODE.fullmatch(spec)
    return Frozen(said[1], average=True) if said and said.group(2, 3) == ("average", "true") else None


def _load_run(spec: str, world: WorldInfo) -> Any:
    if (average := _averaged(spec)) is not None:
        return average.agent(world)
    run, path = _checkpoint(spec)
    scenario = run.scenario()
    if scenario.world != world.name:
        raise UsageError(f"{spec} was trained in {scenario.world}, not in {world.name}")
    agent = load_agent(path, dataclasses.replace(scenario, device="cpu"))[0]
    return PolicyAgent(agent, sample=_samples(spec, run))


def _samples(spec: str, run: Run) -> bool:
    said = _run_path(spec)
    wanted = said[2] if said else None
    return not run.scenario().evaluation.deterministic if wanted is None else wanted


def _factory(spec: str) -> Any:
    return catalogue.load(spec.partition(":")[0])


def _config(spec: str) -> Any:
    """Return the Config that `name:option=value,...` means."""
    name, _, text = spec.partition(":")
    config = _factory(spec).Config()
    known = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    values: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if key not in known or not equals:
            raise UsageError(f"{name} has no option {one_line(part)!r}; {nearest(key, known)}")
        try:
            values[key] = _value(value, known[key])
        except (ValueError, OverflowError):
            raise UsageError(f"{spec}: {key}={one_line(value)} is no {type(known[key]).__name__}") from None
    return dataclasses.replace(config, **values)


def _value(text: str, like: Any) -> Any:
    if isinstance(like, bool):
        if text.lower() not in _BOOLEANS:
            raise ValueError(text)
        return _BOOLEANS[text.lower()]
    if isinstance(like, int) and float(text).is_integer():
        return int(float(text))  # 1e4 is one, too
    return type(like)(text)


def _hash(spec: str, kind: str, world: WorldInfo) -> str:
    if kind == "function":
        return functions.digest(spec)
    if kind == "run":
        return _hash_of_run(spec)
    config = _config(spec)
    # What a script does is written in the world.
    script = getattr(world, str(getattr(config, "strength", "")), None)
    said = [spec.partition(":")[0], dataclasses.asdict(config), fingerprint(script) if is_kernel(script) else ""]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _hash_of_run(spec: str) -> str:
    """Return the sha256 of the agent's parameters and of the scenario that says how they are used."""
    if (average := _averaged(spec)) is not None:
        return average.seen().sha256
    run, path = _checkpoint(spec)
    found = checkpoint.load(path) if (path / "manifest.json").is_file() else checkpoint.latest(path)[0]
    if found is None:
        raise UsageError(f"{run.path} holds no agent yet: train it first")
    scenario = run.scenario()
    said = [scenario.agent, repr(scenario.config), scenario.policies, _samples(spec, run)]
    digest = hashlib.sha256(json.dumps(said).encode())
    for member, tensors in sorted(found.tensors.items()):
        if member != "world" and not member.startswith("kept-"):
            for name, array in sorted(tensors.items()):
                digest.update(f"{member}\0{name}\0{array.dtype}\0{array.shape}\0".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
