"""This module reads and writes the ledger of a tournament, `matches.jsonl` in its folder: one line for each match.

`read` returns all matches; it checks every line and runs no user code. `Ledger` opens the file for writing, locks the
folder, and appends lines with `add`, flushed to the disk. Lines are never changed, so after a kill at any moment only
the last line may be incomplete; it is ignored and later removed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from rl_lab.core import lock
from rl_lab.core.errors import UsageError, one_line
from rl_lab.core.untrusted import parse_json
from rl_lab.engine.batch import NUM_SEEDS

FILE_NAME = "matches.jsonl"
ENDINGS = "terminated", "truncated", "forfeit"  # of a match, `Match.ending`
FAULT_KINDS = "crash", "timeout", "illegal", "nonfinite"  # `Fault.kind`
_MAX_NAME_LENGTH = 10_000  # characters
_TRACE_PATTERN = re.compile(r"[0-9a-f]{64}")
_NAME_LISTS = "pairing", "entrants", "hashes", "seats"  # fields of `Match` that are lists of names


class LedgerError(UsageError):
    """A line of a ledger is damaged or malformed; the message names the line."""


@dataclass(frozen=True)
class Fault:
    """The reason why an entrant lost a match by forfeit."""

    seat: int
    entrant: str
    kind: str  # one of FAULT_KINDS
    reason: str  # one line


@dataclass(frozen=True)
class Match:
    """One match with the fields of its line. Tuples with one element for each seat are in the order of `seats`."""

    id: str  # made of pairing, pair and leg, see `schedule.Task`; unique in the tournament
    world: str
    version: str  # fingerprint of the world's rules
    params: dict[str, Any]
    pairing: tuple[str, ...]  # names of the entrants that meet, sorted
    pair: int  # number of the pair; matches of one pairing and pair share the seed
    leg: int  # number of the match within the pair, which is that of its seat rotation
    entrants: tuple[str, ...]  # name of the entrant at each seat
    hashes: tuple[str, ...]  # content hash of the entrant at each seat
    seats: tuple[str, ...]  # names of the world's agents
    seed: int  # of the world
    returns: tuple[float, ...]
    ranks: tuple[int, ...]  # 1 is best; tied entrants have the same rank, and so have all seats of one entrant
    steps: int
    ending: str  # one of ENDINGS
    fault: Fault | None
    trace: str  # SHA-256 of the actions

    def line(self) -> str:
        """Return the match as a line of the ledger, without a newline."""
        values = {name: getattr(self, name) for name in FIELDS}
        values["fault"] = dataclasses.asdict(self.fault) if self.fault else None
        return json.dumps(values, allow_nan=False)

    def rank(self, entrant: str) -> int:
        """Return the rank of an entrant by name."""
        return self.ranks[self.entrants.index(entrant)]


FIELDS = tuple(f.name for f in dataclasses.fields(Match))


def parse(text: str | bytes) -> Match:
    """Return the match of a line. Raises ValueError, with the reason in one line, for a malformed line."""
    try:
        values = parse_json(text)
    except ValueError as error:
        raise ValueError(f"is not JSON: {one_line(error):.100}") from None
    if not isinstance(values, dict) or values.keys() != set(FIELDS):
        differing = sorted(set(FIELDS) ^ set(values)) if isinstance(values, dict) else FIELDS
        raise ValueError(f"is not a match: {one_line(differing[0]):.40} is missing or unknown")
    for name in ("id", "world", "version", "trace"):
        _require(_is_name(values[name]), name, values[name])
    for name in _NAME_LISTS:
        values[name] = _parse_names(name, values[name])
    seats = len(values["seats"])
    for name in ("pair", "leg", "seed", "steps"):
        value = values[name]
        _require(type(value) is int and 0 <= value < 2**62, name, value)
    returns, ranks, fault = values["returns"], values["ranks"], values["fault"]
    _require(isinstance(returns, list) and len(returns) == seats, "returns", returns)
    _require(all(type(x) in (int, float) and math.isfinite(x) for x in returns), "returns", returns)
    _require(isinstance(ranks, list) and len(ranks) == seats, "ranks", ranks)
    _require(all(type(x) is int and 1 <= x <= seats for x in ranks), "ranks", ranks)
    _require(len(values["entrants"]) == len(values["hashes"]) == seats, "entrants", values["entrants"])
    _require(_is_pairing_of(values["pairing"], values["entrants"]), "pairing", values["pairing"])
    _require(values["seed"] < NUM_SEEDS, "seed", values["seed"])
    _require(_TRACE_PATTERN.fullmatch(values["trace"]) is not None, "trace", values["trace"])
    _require(isinstance(values["params"], dict), "params", values["params"])
    _require(values["ending"] in ENDINGS, "ending", values["ending"])
    _require((fault is not None) == (values["ending"] == "forfeit"), "fault", fault)
    values |= {"ranks": tuple(ranks), "returns": tuple(map(float, returns))}
    values["fault"] = None if fault is None else _parse_fault(fault, values)
    return Match(**values)


@lru_cache(2**16)
def _valid_names(names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return these names, as the same tuple object each time to save memory, or None where they are not valid names."""
    return names if names and all(map(_is_name, names)) else None


def _parse_names(field: str, value: Any) -> tuple[str, ...]:
    """Return a list of names as a tuple. Raises ValueError for anything else."""
    try:
        names = _valid_names(tuple(value)) if isinstance(value, list) else None
    except TypeError:  # an element is not hashable
        names = None
    _require(names is not None, field, value)
    assert names is not None
    return names


@lru_cache(2**16)
def _is_pairing_of(pairing: tuple[str, ...], entrants: tuple[str, ...]) -> bool:
    """Return whether a pairing consists of the entrants at the seats, sorted."""
    return tuple(sorted(set(entrants))) == pairing


def _parse_fault(value: Any, values: dict[str, Any]) -> Fault:
    """Return the fault in a line whose other fields are `values`. Raises ValueError for anything else."""
    has_fields = isinstance(value, dict) and value.keys() == {"seat", "entrant", "kind", "reason"}
    _require(has_fields, "fault", value)
    seat, kind = value["seat"], value["kind"]
    _require(type(seat) is int and 0 <= seat < len(values["seats"]), "fault", value)
    _require(values["entrants"][seat] == value["entrant"] and kind in FAULT_KINDS, "fault", value)
    _require(isinstance(value["reason"], str), "fault", value)
    return Fault(seat, value["entrant"], kind, one_line(value["reason"]))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_NAME_LENGTH and value.isprintable()


def _require(is_valid: bool, field: str, value: Any) -> None:
    """Raise ValueError, with the field and its value, if it is not valid."""
    if not is_valid:
        raise ValueError(f"is not a match: {field} is {one_line(repr(value)):.80}")


def read(path: str | Path) -> list[Match]:
    """Return the matches of a ledger, each id once, sorted by id.

    The order of the lines has no meaning. A last line without a newline was cut off when a process was killed, and is
    ignored. Raises LedgerError, which names the line.
    """
    matches: dict[str, Match] = {}
    try:
        lines = Path(path).read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise LedgerError(f"{path}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        try:
            match = parse(line)
        except ValueError as error:
            raise LedgerError(f"{path}, line {number} {error}") from None
        if matches.setdefault(match.id, match) != match:
            raise LedgerError(f"{path}, line {number} differs from an earlier line about match {match.id}")
    return [matches[key] for key in sorted(matches)]


class Ledger:
    """A ledger that is open for writing by this process; an incomplete last line is removed.

    The tournament's folder is locked until the ledger is closed.

    Raises:
        LedgerError: the ledger is damaged.
        lock.InUseError: another process has locked the folder.
    """

    def __init__(self, path: Path) -> None:
        with ExitStack() as stack:
            stack.enter_context(lock.lock_folder(path.parent, f"tournament {path.parent}"))
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            stack.callback(os.close, self._file)
            text = path.read_bytes()
            os.ftruncate(self._file, text.rfind(b"\n") + 1)
            self.matches = {match.id: match for match in read(path)}
            self._resources = stack.pop_all()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._resources.close()

    def add(self, matches: Iterable[Match]) -> None:
        """Write the matches that the ledger does not have, and flush them to the disk."""
        added = {match.id: match for match in matches if match.id not in self.matches}
        data = "".join(match.line() + "\n" for match in added.values()).encode()
        while data:
            data = data[os.write(self._file, data) :]
        if added:
            os.fsync(self._file)
        self.matches |= added
