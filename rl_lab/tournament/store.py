"""The folder of a tournament: `tournament.json` with its settings, and `matches.jsonl` with its matches."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_lab.adapters import make
from rl_lab.core import lock
from rl_lab.core.errors import UsageError, nearest, one_line, only_match
from rl_lab.core.files import atomic_write_bytes
from rl_lab.core.untrusted import read_json
from rl_lab.engine import user_code
from rl_lab.engine.batch import NUM_SEEDS
from rl_lab.experiments.run_folders import RUNS
from rl_lab.experiments.run_record import versions
from rl_lab.tournament import seat_rotation
from rl_lab.tournament.entrants import NAME as NAMES
from rl_lab.tournament.entrants import Entrant, parse_entrants, same
from rl_lab.tournament.ledger import NAME
from rl_lab.tournament.matches import MatchEngine, MatchSetup, version
from rl_lab.tournament.schedule import SCHEDULES, Schedule, usual_rounds

_FILE, _FORMAT = "tournament.json", "rl_lab.tournament 1"
_MAX_BYTES = 2**24  # of tournament.json
_MAX_COUNT = 10**9  # pairs, rounds, steps
_MAX_TIMEOUT = 10**6  # seconds for a move
# The folders that this process has made for a new tournament, innermost first, by the tournament's path.
_created: dict[Path, list[Path]] = {}
_KINDS = {"world": str, "params": dict, "entrants": list, "schedule": str, "timeout": float}
_COUNTS = ("pairs", "rounds", "seed", "opening")
_TEST = ("elo0", "elo1", "alpha", "beta", "batch")


@dataclass(frozen=True)
class Tournament:
    """The settings of a tournament, on which its matches depend."""

    path: Path
    world: str
    params: dict[str, Any]
    entrants: tuple[Entrant, ...]
    schedule: str
    pairs: int
    rounds: int
    seed: int
    opening: int
    timeout: float  # limit of processor time for a move in seconds, 0 for no limit
    test: dict[str, float] | None = None  # the sequential test of a comparison with the keys _TEST, see `compare`
    source: user_code.UserCode | None = None  # the code of a user's world

    @property
    def ledger(self) -> Path:
        """Return the path of the ledger."""
        return self.path / NAME

    @property
    def code(self) -> list[Entrant]:
        """Return the entrants that are user code."""
        return [each for each in self.entrants if each.kind == "function"]

    def setup(self) -> MatchSetup:
        """Return the settings on which a match depends besides its task."""
        permitted = user_code.permitted(self.world)
        return MatchSetup(self.world, self.params, self.entrants, self.seed, self.opening, self.timeout, permitted)

    def make_schedule(self) -> Schedule:
        """Return the schedule. Raises UsageError for a world of one agent."""
        world, names = _world(self.world, self.params), tuple(each.name for each in self.entrants)
        players_per_match = seat_rotation.players_per_match(world, len(names))
        legs = tuple(seat_rotation.legs(world, players_per_match))
        return Schedule(self.schedule, names, players_per_match, legs, self.pairs, self.rounds, self.seed)


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
    """Create the folder of a new tournament of the entrants in `words`. Raises UsageError for invalid settings."""
    if schedule not in SCHEDULES:
        raise UsageError(f"no schedule {schedule!r}; {nearest(schedule, SCHEDULES)}")
    source = user_code.permit_named(world)
    world = world if source is None else source.world
    info = _world(world, params)
    seat_rotation.players_per_match(info, 2)
    entrants = tuple(parse_entrants(words, info))
    rounds = usual_rounds(schedule, len(entrants)) if rounds is None else rounds
    stem = re.sub(r"[^\w.-]+", "-", world) + time.strftime("-%Y%m%d-%H%M%S")
    folder = path or RUNS / "tournaments" / stem
    tournament = Tournament(
        folder, world, params, entrants, schedule, pairs, rounds, seed, opening, timeout, test, source
    )
    _check(tournament)
    MatchEngine(tournament.setup(), code=False)  # raises for an entrant that cannot play, before a file is written
    facts = {f.name: getattr(tournament, f.name) for f in dataclasses.fields(tournament) if f.name != "path"}
    facts |= {"entrants": [dataclasses.asdict(each) for each in entrants], "format": _FORMAT}
    facts |= {"version": version(info), "versions": versions() | {"python": platform.python_version()}}
    facts |= {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "command": list(command)}
    return _write_new(tournament, facts, stem if path is None else None)


def _write_new(tournament: Tournament, facts: dict[str, Any], stem: str | None) -> Tournament:
    """Create the folder and the files of a tournament; with a stem, the folder has a new name that begins with it."""
    path, source = tournament.path, tournament.source
    try:
        _created[path] = [folder for folder in (path, *path.parents) if not folder.exists()]
        if stem is not None:
            folders = _created.pop(path)
            path = lock.create_new_folder(path.parent, stem)
            tournament = dataclasses.replace(tournament, path=path)
            _created[path] = [path, *(folder for folder in folders if folder in path.parents)]
        else:
            _require_free(path)
            path.mkdir(parents=True, exist_ok=True)
        with lock.locked(path, f"tournament {path}"):
            _require_free(path)  # another process may have used the folder since
            facts["source"] = None if source is None else _portable(source, path)
            atomic_write_bytes(path / _FILE, (json.dumps(facts, indent=2, allow_nan=False) + "\n").encode())
            (path / NAME).touch()
    except UsageError:
        _created.pop(tournament.path, None)
        raise
    except (OSError, ValueError) as error:
        discard(tournament)
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot write {tournament.path}: {reason}; choose another with --dir PATH") from None
    return tournament


def _require_free(path: Path) -> None:
    """Raise UsageError for a path that exists and is not an empty folder."""
    if path.exists() and (not path.is_dir() or {file.name for file in path.iterdir()} - {lock.NAME}):
        hint = f"; go on with: rl-lab tournament resume {path}" if (path / _FILE).is_file() else ""
        raise UsageError(f"--dir {path} is not empty{hint}")


def discard(tournament: Tournament) -> None:
    """Remove the folder of a tournament that `create` has made in this process and that has no matches.

    Other folders stay unchanged.
    """
    path = tournament.path
    folders = _created.pop(path, None)
    with suppress(OSError, ValueError):
        if folders is None or (tournament.ledger.exists() and tournament.ledger.stat().st_size):
            return
    for name in (_FILE, NAME, lock.NAME):
        with suppress(OSError, ValueError):
            (path / name).unlink(missing_ok=True)
    if folders and folders[0] == path:
        shutil.rmtree(path, ignore_errors=True)
    for folder in folders or ():
        with suppress(OSError, ValueError):  # the folder is not empty
            folder.rmdir()


def load(path: str) -> Tournament:
    """Return the tournament of a folder, or the only one in runs/tournaments whose name begins with `path`.

    User code is not run. Raises UsageError where there is no valid tournament, and where several names begin with it.
    """
    folder = Path(path)
    known = sorted((RUNS / "tournaments").glob(f"*/{_FILE}"), key=lambda file: file.stat().st_mtime)
    try:
        if not (folder / _FILE).is_file():
            match = only_match(path, [file.parent for file in known]) if "/" not in path else None
            if match is None:
                raise UsageError(f"no tournament {path}; {nearest(path, (str(file.parent) for file in known))}")
            folder = match
        facts = read_json(folder / _FILE, _MAX_BYTES)
        if not isinstance(facts, dict) or facts.get("format") != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT!r}")
        for name, kind in {**_KINDS, **dict.fromkeys(_COUNTS, int)}.items():
            if type(facts.get(name)) is not kind:
                raise ValueError(f"{name} is {facts.get(name)!r}")
        entrants = tuple(_entrant(each) for each in facts["entrants"])
        values = {name: facts[name] for name in (*_KINDS, *_COUNTS)}
        values |= {"entrants": entrants, "test": _test(facts.get("test"), len(entrants))}
        tournament = Tournament(folder, **values, source=_source(facts, folder / _FILE))
        _check(tournament)
    except UsageError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{folder / _FILE}: {one_line(error)[:200]}") from None
    return tournament


def truncate_schedule(tournament: Tournament, pairs: int) -> Tournament:
    """Shorten a tournament's schedule to this number of pairs, whose ids and seeds stay the same."""
    facts = read_json(tournament.path / _FILE, _MAX_BYTES) | {"pairs": pairs}
    atomic_write_bytes(tournament.path / _FILE, (json.dumps(facts, indent=2, allow_nan=False) + "\n").encode())
    return dataclasses.replace(tournament, pairs=pairs)


def changed_entrants(tournament: Tournament) -> list[str]:
    """Return the names of entrants whose content has changed or is missing; those that are user code are imported."""
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


def _portable(source: user_code.UserCode, path: Path) -> dict[str, Any]:
    """Return the record of a world's code, with the path of its file relative to the tournament's folder."""
    return {**source.record(), "file": os.path.relpath(source.file, path.resolve())}


def _source(facts: dict[str, Any], file: Path) -> user_code.UserCode | None:
    record = {} if facts.get("source") is None else facts["source"]
    if not isinstance(record, dict):
        raise ValueError(f"source is {record!r}")
    return user_code.permit_recorded(facts["world"], record, str(file))


def _test(facts: Any, entrants: int) -> dict[str, float] | None:
    if facts is None:
        return None
    if not isinstance(facts, dict) or sorted(facts) != sorted(_TEST) or entrants != 2:
        raise ValueError(f"test is {facts!r}")
    if not all(type(x) in (int, float) and abs(x) < _MAX_COUNT for x in facts.values()) or not facts["batch"] >= 1:
        raise ValueError(f"test is {facts!r}")
    return {**facts, "batch": int(facts["batch"])}


def _check(tournament: Tournament) -> None:
    """Raise UsageError or ValueError for settings out of range."""
    limits = {
        "pairs": (1, _MAX_COUNT),
        "rounds": (1, _MAX_COUNT),
        "seed": (0, NUM_SEEDS - 1),
        "opening": (0, _MAX_COUNT),
    }
    for name, (low, high) in limits.items():
        if not low <= getattr(tournament, name) <= high:
            raise UsageError(f"--{name} is {getattr(tournament, name)}: expected {low} to {high}")
    if not 0 <= tournament.timeout <= _MAX_TIMEOUT:
        raise UsageError(
            f"--timeout is {tournament.timeout:g}: expected seconds up to {_MAX_TIMEOUT:,}, or 0 for no limit"
        )
    names = [each.name for each in tournament.entrants]
    if tournament.schedule not in SCHEDULES or len(names) < 2 or len(set(names)) < len(names):
        raise ValueError("its schedule is unknown, or its entrants are not two or more with different names")


def _world(name: str, params: dict[str, Any]) -> Any:
    try:
        envs = make.make(name, 1, params, threads=1)
    except ValueError as error:
        raise UsageError(str(error)) from None
    envs.close()
    return envs.world
