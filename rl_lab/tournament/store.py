"""This module makes and reads the folder of a tournament.

The folder has `tournament.json`, the settings (a `Tournament`), and `matches.jsonl`, the matches (`ledger`). `create`
checks everything before it writes; `discard` removes what `create` has made if the tournament does not start; `load`
trusts nothing in the file and runs no user code. `truncate_schedule` changes the number of pairs in the file.
"""

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
from rl_lab.tournament.entrants import NAME_PATTERN, Entrant, is_unchanged, parse_entrants
from rl_lab.tournament.ledger import FILE_NAME as LEDGER_FILE
from rl_lab.tournament.matches import MatchEngine, MatchSetup, world_version
from rl_lab.tournament.schedule import SCHEDULES, Schedule, default_rounds

_SETTINGS_FILE, _FORMAT = "tournament.json", "rl_lab.tournament 2"
_MAX_BYTES = 2**24  # of tournament.json
_MAX_COUNT, _MAX_TIMEOUT = 10**9, 10**6  # of pairs, rounds and opening moves each; seconds for a move
# The folders that `create` has made in this process, innermost first, by the tournament's path; for `discard`.
_created_folders: dict[Path, list[Path]] = {}
# Keys of tournament.json with their types; keys of integers; and keys of `test`.
_FIELD_TYPES = {"world": str, "params": dict, "entrants": list, "schedule": str, "timeout": float}
_INTEGERS = ("pairs", "rounds", "seed", "opening")
_TEST_KEYS = ("elo0", "elo1", "alpha", "beta", "batch")


@dataclass(frozen=True)
class Tournament:
    """The settings of a tournament, on which its matches depend."""

    path: Path
    world: str
    params: dict[str, Any]
    entrants: tuple[Entrant, ...]
    schedule: str
    pairs: int  # each time that the same entrants meet
    rounds: int  # of a swiss or adaptive schedule
    seed: int
    opening: int  # number of random steps at the start of each match
    timeout: float  # limit of processor time for a move in seconds, 0 for no limit
    test: dict[str, float] | None = None  # the sequential test of a comparison with the keys _TEST_KEYS, see `compare`
    source: user_code.UserCode | None = None  # the code of a user's world

    @property
    def ledger(self) -> Path:
        """Return the path of the ledger."""
        return self.path / LEDGER_FILE

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
        seat_rotations = tuple(seat_rotation.seat_rotations(world, players_per_match))
        return Schedule(self.schedule, names, players_per_match, seat_rotations, self.pairs, self.rounds, self.seed)


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
    """Create the folder of a new tournament, and return the tournament.

    `words` are the entrants, see `entrants.parse_entrants`; `world` is the name of a world or code of a user's world;
    `command` has the words of the command line, which are recorded. `path` is the new folder, by default one in
    runs/tournaments named by world and time. The other settings are those of `Tournament`; the default number of rounds
    depends on the number of entrants.

    Raises:
        UsageError: a setting is invalid, or the folder cannot be written.
    """
    if schedule not in SCHEDULES:
        raise UsageError(f"no schedule {schedule!r}; {nearest(schedule, SCHEDULES)}")
    source = user_code.permit_named(world)
    world = world if source is None else source.world
    info = _world(world, params)
    seat_rotation.players_per_match(info, 2)
    entrants = tuple(parse_entrants(words, info))
    rounds = default_rounds(schedule, len(entrants)) if rounds is None else rounds
    stem = re.sub(r"[^\w.-]+", "-", world) + time.strftime("-%Y%m%d-%H%M%S")
    folder = path or RUNS / "tournaments" / stem
    tournament = Tournament(
        folder, world, params, entrants, schedule, pairs, rounds, seed, opening, timeout, test, source
    )
    _check_ranges(tournament)
    MatchEngine(tournament.setup(), load_code=False)  # raises for an entrant that cannot play, before a file is written
    settings = {f.name: getattr(tournament, f.name) for f in dataclasses.fields(tournament) if f.name != "path"}
    settings |= {"entrants": [dataclasses.asdict(each) for each in entrants], "format": _FORMAT}
    settings |= {"version": world_version(info), "versions": versions() | {"python": platform.python_version()}}
    settings |= {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "command": list(command)}
    return _write_new(tournament, settings, stem if path is None else None)


def _write_new(tournament: Tournament, settings: dict[str, Any], stem: str | None) -> Tournament:
    """Create the folder and the files of a tournament; with a stem, the folder has a new name that begins with it.

    Returns the tournament with the path of its folder. `settings` become tournament.json.
    """
    path, source = tournament.path, tournament.source
    try:
        _created_folders[path] = [folder for folder in (path, *path.parents) if not folder.exists()]
        if stem is not None:
            folders = _created_folders.pop(path)
            path = lock.create_new_folder(path.parent, stem)
            tournament = dataclasses.replace(tournament, path=path)
            _created_folders[path] = [path, *(folder for folder in folders if folder in path.parents)]
        else:
            _require_free(path)
            path.mkdir(parents=True, exist_ok=True)
        with lock.lock_folder(path, f"tournament {path}"):
            _require_free(path)  # another process may have used the folder since
            settings["source"] = None if source is None else _relative_record(source, path)
            _write_settings(path, settings)
            (path / LEDGER_FILE).touch()
    except UsageError:
        _created_folders.pop(tournament.path, None)
        raise
    except (OSError, ValueError) as error:
        discard(tournament)
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot write {tournament.path}: {reason}; choose another with --dir PATH") from None
    return tournament


def _write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write tournament.json."""
    atomic_write_bytes(folder / _SETTINGS_FILE, (json.dumps(settings, indent=2, allow_nan=False) + "\n").encode())


def _require_free(path: Path) -> None:
    """Raise UsageError for a path that exists and is not an empty folder."""
    if path.exists() and (not path.is_dir() or {file.name for file in path.iterdir()} - {lock.NAME}):
        hint = f"; go on with: rl-lab tournament resume {path}" if (path / _SETTINGS_FILE).is_file() else ""
        raise UsageError(f"--dir {path} is not empty{hint}")


def discard(tournament: Tournament) -> None:
    """Remove the folder of a tournament that `create` has made in this process and that has no matches.

    Other folders stay unchanged.
    """
    path = tournament.path
    folders = _created_folders.pop(path, None)
    with suppress(OSError, ValueError):
        if folders is None or (tournament.ledger.exists() and tournament.ledger.stat().st_size):
            return
    for name in (_SETTINGS_FILE, LEDGER_FILE, lock.NAME):
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
    files = sorted((RUNS / "tournaments").glob(f"*/{_SETTINGS_FILE}"), key=lambda file: file.stat().st_mtime)
    try:
        if not (folder / _SETTINGS_FILE).is_file():
            match = only_match(path, [file.parent for file in files]) if "/" not in path else None
            if match is None:
                raise UsageError(f"no tournament {path}; {nearest(path, (str(file.parent) for file in files))}")
            folder = match
        settings = read_json(folder / _SETTINGS_FILE, _MAX_BYTES)
        if not isinstance(settings, dict) or settings.get("format") != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT!r}")
        for name, expected_type in {**_FIELD_TYPES, **dict.fromkeys(_INTEGERS, int)}.items():
            if type(settings.get(name)) is not expected_type:
                raise ValueError(f"{name} is {settings.get(name)!r}")
        entrants = tuple(_parse_entrant(each) for each in settings["entrants"])
        values = {name: settings[name] for name in (*_FIELD_TYPES, *_INTEGERS)}
        values |= {"entrants": entrants, "test": _parse_test(settings.get("test"), len(entrants))}
        tournament = Tournament(folder, **values, source=_parse_source(settings, folder / _SETTINGS_FILE))
        _check_ranges(tournament)
    except UsageError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{folder / _SETTINGS_FILE}: {one_line(error)[:200]}") from None
    return tournament


def truncate_schedule(tournament: Tournament, pairs: int) -> Tournament:
    """Write another number of pairs into tournament.json, and return the tournament with it; no match's id changes."""
    _write_settings(tournament.path, read_json(tournament.path / _SETTINGS_FILE, _MAX_BYTES) | {"pairs": pairs})
    return dataclasses.replace(tournament, pairs=pairs)


def changed_entrants(tournament: Tournament) -> list[str]:
    """Return the names of entrants whose content has changed or is missing; those that are user code are imported."""
    world = _world(tournament.world, tournament.params)
    return [each.name for each in tournament.entrants if not is_unchanged(each, world)]


def _relative_record(source: user_code.UserCode, path: Path) -> dict[str, Any]:
    """Return the record of a world's code, with the path of its file relative to the tournament's folder."""
    return {**source.record(), "file": os.path.relpath(source.file, path.resolve())}


def _parse_entrant(value: Any) -> Entrant:
    """Return an entrant from tournament.json. Raises ValueError for anything else."""
    names = [field.name for field in dataclasses.fields(Entrant)]
    if not isinstance(value, dict) or sorted(value) != sorted(names) or {type(v) for v in value.values()} != {str}:
        raise ValueError(f"entrant is {value!r}")
    if value["kind"] not in ("run", "made", "function") or not NAME_PATTERN.fullmatch(value["name"]):
        raise ValueError(f"entrant {value['name']} is of no known kind, or its name is none")
    return Entrant(**value)


def _parse_source(settings: dict[str, Any], file: Path) -> user_code.UserCode | None:
    """Return the code of a user's world that tournament.json, `file`, names, and permit it if it is trusted."""
    record = {} if settings.get("source") is None else settings["source"]
    if not isinstance(record, dict):
        raise ValueError(f"source is {record!r}")
    return user_code.permit_recorded(settings["world"], record, str(file))


def _parse_test(value: Any, num_entrants: int) -> dict[str, float] | None:
    """Return the settings of a comparison's test from tournament.json. Raises ValueError for anything else."""
    if value is None:
        return None
    if not isinstance(value, dict) or sorted(value) != sorted(_TEST_KEYS) or num_entrants != 2:
        raise ValueError(f"test is {value!r}")
    if not all(type(x) in (int, float) and abs(x) < _MAX_COUNT for x in value.values()) or not value["batch"] >= 1:
        raise ValueError(f"test is {value!r}")
    return {**value, "batch": int(value["batch"])}


def _check_ranges(tournament: Tournament) -> None:
    """Raise UsageError or ValueError for settings out of range."""
    counts = (1, _MAX_COUNT)
    limits = {"pairs": counts, "rounds": counts, "seed": (0, NUM_SEEDS - 1), "opening": (0, _MAX_COUNT)}
    for name, (low, high) in limits.items():
        if not low <= getattr(tournament, name) <= high:
            raise UsageError(f"--{name} is {getattr(tournament, name)}: expected {low} to {high}")
    if not 0 <= tournament.timeout <= _MAX_TIMEOUT:
        expected = f"expected seconds up to {_MAX_TIMEOUT:,}, or 0 for no limit"
        raise UsageError(f"--timeout is {tournament.timeout:g}: {expected}")
    names = {each.name for each in tournament.entrants}
    if tournament.schedule not in SCHEDULES or not 2 <= len(names) == len(tournament.entrants):
        raise ValueError("its schedule is unknown, or its entrants are not two or more with different names")


def _world(name: str, params: dict[str, Any]) -> Any:
    """Return the world, or a third-party environment's `EnvSpec`. Raises UsageError for invalid parameters."""
    try:
        envs = make.make(name, 1, params, threads=1)
    except ValueError as error:
        raise UsageError(str(error)) from None
    envs.close()
    return envs.world
