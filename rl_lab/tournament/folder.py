"""A tournament's folder: `tournament.json` says what it is, `matches.jsonl` what was played."""

from __future__ import annotations

import dataclasses
import itertools
import json
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import batch
from ..engine import SEEDS
from ..evaluate import replace_file
from ..names import UsageError, nearest, one_line
from ..run import RUNS, versions
from . import seating
from .entrants import NAME as NAMES
from .entrants import Entrant, enter, same
from .ledger import NAME
from .play import Hall, Setup, version
from .schedule import SCHEDULES, Schedule, usual_rounds

PARAMS = "world.params."  # before a parameter of the world, on the command line
_FILE, _FORMAT = "tournament.json", "rl_lab.tournament 1"
_MOST = 10**9  # pairs, rounds, steps
_KINDS = {"world": str, "params": dict, "entrants": list, "schedule": str, "timeout": float}
_COUNTS = ("pairs", "rounds", "seed", "opening")
_TEST = ("elo0", "elo1", "alpha", "beta", "batch")


@dataclass(frozen=True)
class Tournament:
    """What a tournament is: all that its matches depend on."""

    path: Path
    world: str
    params: dict[str, Any]
    entrants: tuple[Entrant, ...]
    schedule: str
    pairs: int
    rounds: int
    seed: int
    opening: int
    timeout: float  # seconds of processor time a move, 0: none
    test: dict[str, float] | None = None  # that ends it, where it is a comparison: _TEST, see `compare`

    @property
    def ledger(self) -> Path:
        """Where its matches are."""
        return self.path / NAME

    @property
    def code(self) -> list[Entrant]:
        """The entrants that are code."""
        return [each for each in self.entrants if each.kind == "function"]

    def setup(self) -> Setup:
        """Return what a match depends on besides its task."""
        return Setup(self.world, self.params, self.entrants, self.seed, self.opening, self.timeout)

    def plan(self) -> Schedule:
        """Return the schedule. Raises UsageError where the world has no room for opponents."""
        world, names = _world(self.world, self.params), tuple(each.name for each in self.entrants)
        met = seating.meeting(world, len(names))
        legs = tuple(seating.legs(world, met))
        return Schedule(self.schedule, names, met, legs, self.pairs, self.rounds, self.seed)


def parameters(words: Sequence[str]) -> dict[str, Any]:
    """Return the world's parameters that a user typed, `world.params.FIELD=NUMBER` each. Raises UsageError."""
    found = {}
    for word in words:
        key, equals, value = word.removeprefix(PARAMS).partition("=")
        try:
            found[key] = json.loads(value)
        except ValueError:
            equals = ""
        if not equals or type(found[key]) not in (int, float, bool):
            raise UsageError(f"{word}: expected {PARAMS}FIELD=NUMBER")
    return found


def create(
    words: Sequence[str],
    world: str,
    params: dict[str, Any],
    *,
    schedule: str = "round-robin",
    pairs: int = 50,
    rounds: int | None = None,
    seed: int = 0,
    opening: int = 0,
    timeout: float = 60.0,
    test: dict[str, float] | None = None,
    path: Path | None = None,
    command: Sequence[str] = (),
) -> Tournament:
    """Make the folder of a new tournament between the entrants that a user typed. Raises UsageError, in one line."""
    if schedule not in SCHEDULES:
        raise UsageError(f"no schedule {schedule!r}; {nearest(schedule, SCHEDULES)}")
    info = _world(world, params)
    seating.meeting(info, 2)
    entrants = tuple(enter(words, info))
    rounds = usual_rounds(schedule, len(entrants)) if rounds is None else rounds
    stem = re.sub(r"[^\w.-]+", "-", world) + time.strftime("-%Y%m%d-%H%M%S")
    usual = (
        RUNS / "tournaments" / name for name in itertools.chain([stem], (f"{stem}-{k}" for k in itertools.count(2)))
    )
    path = next(folder for folder in usual if not folder.exists()) if path is None else path
    made = Tournament(path, world, params, entrants, schedule, pairs, rounds, seed, opening, timeout, test)
    _check(made)
    Hall(made.setup())  # whoever cannot play this world is refused before anything is written
    facts = {field.name: getattr(made, field.name) for field in dataclasses.fields(made) if field.name != "path"}
    facts |= {"entrants": [dataclasses.asdict(each) for each in entrants], "format": _FORMAT}
    facts |= {"version": version(info), "versions": versions() | {"python": platform.python_version()}}
    facts |= {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "command": list(command)}
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            hint = f"; go on with: rl-lab tournament resume {path}" if (path / _FILE).is_file() else ""
            raise UsageError(f"--dir {path} is not empty{hint}")
        path.mkdir(parents=True, exist_ok=True)
        replace_file(path / _FILE, (json.dumps(facts, indent=2, allow_nan=False) + "\n").encode())
        (path / NAME).touch()
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; choose another with --dir PATH") from None
    return made


def load(path: str) -> Tournament:
    """Return the tournament of a folder, or of the newest in runs/tournaments whose name begins so; runs no code.

    Raises UsageError for anything that is none.
    """
    folder = Path(path)
    known = sorted((RUNS / "tournaments").glob(f"*/{_FILE}"), key=lambda file: file.stat().st_mtime)
    try:
        if not (folder / _FILE).is_file():
            matches = [file.parent for file in known if "/" not in path and file.parent.name.startswith(path)]
            if not matches:
                raise UsageError(f"no tournament {path}; {nearest(path, (str(file.parent) for file in known))}")
            folder = matches[-1]
        facts = json.loads((folder / _FILE).read_bytes())
        if not isinstance(facts, dict) or facts.get("format") != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT!r}")
        for name, kind in {**_KINDS, **dict.fromkeys(_COUNTS, int)}.items():
            if type(facts.get(name)) is not kind:
                raise ValueError(f"{name} is {facts.get(name)!r}")
        entrants = tuple(_entrant(each) for each in facts["entrants"])
        values = {name: facts[name] for name in (*_KINDS, *_COUNTS)}
        made = Tournament(folder, **{**values, "entrants": entrants, "test": _test(facts.get("test"), len(entrants))})
        _check(made)
    except UsageError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{folder / _FILE}: {one_line(error)[:200]}") from None
    return made


def shorten(tournament: Tournament, pairs: int) -> Tournament:
    """Let a tournament end with so many pairs; those it has keep their ids and seeds."""
    facts = json.loads((tournament.path / _FILE).read_bytes()) | {"pairs": pairs}
    replace_file(tournament.path / _FILE, (json.dumps(facts, indent=2, allow_nan=False) + "\n").encode())
    return dataclasses.replace(tournament, pairs=pairs)


def changed(tournament: Tournament) -> list[str]:
    """Return the names of entrants whose content is not what it was, or is gone. Those that are code are imported."""
    world = _world(tournament.world, tournament.params)
    return [each.name for each in tournament.entrants if not same(each, world)]


def _entrant(facts: Any) -> Entrant:
    names = [field.name for field in dataclasses.fields(Entrant)]
    if (
        not isinstance(facts, dict)
        or sorted(facts) != sorted(names)
        or not all(isinstance(v, str) for v in facts.values())
    ):
        raise ValueError(f"entrant is {facts!r}")
    if facts["kind"] not in ("run", "made", "function") or not NAMES.fullmatch(facts["name"]):
        raise ValueError(f"entrant {facts['name']} is of no known kind, or its name is none")
    return Entrant(**facts)


def _test(facts: Any, entrants: int) -> dict[str, float] | None:
    if facts is None:
        return None
    if not isinstance(facts, dict) or sorted(facts) != sorted(_TEST) or entrants != 2:
        raise ValueError(f"test is {facts!r}")
    if not all(type(x) in (int, float) and abs(x) < _MOST for x in facts.values()) or not facts["batch"] >= 1:
        raise ValueError(f"test is {facts!r}")
    return {**facts, "batch": int(facts["batch"])}


def _check(made: Tournament) -> None:
    limits = {"pairs": (1, _MOST), "rounds": (1, _MOST), "seed": (0, SEEDS - 1), "opening": (0, _MOST)}
    for name, (low, high) in limits.items():
        if not low <= getattr(made, name) <= high:
            raise UsageError(f"--{name} is {getattr(made, name)}: expected {low} to {high}")
    if not 0 <= made.timeout < float("inf"):
        raise UsageError(f"--timeout is {made.timeout}: expected seconds, or 0 for no limit")
    names = [each.name for each in made.entrants]
    if made.schedule not in SCHEDULES or len(names) < 2 or len(set(names)) < len(names):
        raise ValueError("its schedule is unknown, or its entrants are not two or more with different names")


def _world(name: str, params: dict[str, Any]) -> Any:
    try:
        worlds = batch.make(name, 1, params, threads=1)
    except ValueError as error:
        raise UsageError(str(error)) from None
    worlds.close()
    return worlds.world
