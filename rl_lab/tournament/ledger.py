"""The ledger: `matches.jsonl`, one line a match, only ever added to. Reading it checks every line and runs no code."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from ..engine import SEEDS
from ..names import UsageError, one_line

NAME = "matches.jsonl"
ENDINGS = "terminated", "truncated", "forfeit"
KINDS = "crash", "timeout", "illegal", "nonfinite"
_LONGEST = 10_000  # characters of a name, at most
_TRACE = re.compile(r"[0-9a-f]{64}")
_LISTS = "pairing", "entrants", "hashes", "seats"


class LedgerError(UsageError):
    """A line of a ledger is damaged, or was written by somebody else; the message names it."""


@dataclass(frozen=True)
class Fault:
    """Why a match was lost by forfeit."""

    seat: int
    entrant: str
    kind: str  # one of KINDS
    reason: str  # one line


@dataclass(frozen=True)
class Match:
    """One match, as its line has it. Lists are of A seats, in the order of `seats`."""

    id: str  # of pairing, pair and leg: see schedule.Task
    world: str
    version: str  # fingerprint of the world's rules
    params: dict[str, Any]
    pairing: tuple[str, ...]  # the entrants who meet, sorted
    pair: int  # matches of one pairing and pair share the seed
    leg: int  # which of the pair's ways to sit
    entrants: tuple[str, ...]  # who has each seat
    hashes: tuple[str, ...]  # content of who has each seat
    seats: tuple[str, ...]  # the world's agents
    seed: int  # of the world
    returns: tuple[float, ...]
    ranks: tuple[int, ...]  # 1 is best; who shares a rank is tied, and all seats of an entrant share one
    steps: int
    ended: str  # one of ENDINGS
    fault: Fault | None
    trace: str  # sha256 of the actions

    def line(self) -> str:
        """Return the match as a line of the ledger, without its end."""
        values = {name: getattr(self, name) for name in FIELDS}
        values["fault"] = dataclasses.asdict(self.fault) if self.fault else None
        return json.dumps(values, allow_nan=False)

    def rank(self, entrant: str) -> int:
        """Return the rank of one of the pairing."""
        return self.ranks[self.entrants.index(entrant)]


FIELDS = tuple(f.name for f in dataclasses.fields(Match))


def parse(text: str | bytes) -> Match:
    """Return the match of a line. ValueError, one line with the reason, for anything else."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON: {one_line(error):.100}") from None
    if not isinstance(values, dict) or values.keys() != set(FIELDS):
        wrong = sorted(set(FIELDS) ^ set(values)) if isinstance(values, dict) else FIELDS
        raise ValueError(f"is no match: {one_line(wrong[0]):.40} is missing or unknown")
    for name in ("id", "world", "version", "trace"):
        _require(_is_name(values[name]), name, values[name])
    for name in _LISTS:
        values[name] = _names(name, values[name])
    seats = len(values["seats"])
    for name in ("pair", "leg", "seed", "steps"):
        given = values[name]
        _require(type(given) is int and 0 <= given < 2**62, name, given)
    returns, ranks, fault = values["returns"], values["ranks"], values["fault"]
    _require(isinstance(returns, list) and len(returns) == seats, "returns", returns)
    _require(all(type(x) in (int, float) and math.isfinite(x) for x in returns), "returns", returns)
    _require(isinstance(ranks, list) and len(ranks) == seats, "ranks", ranks)
    _require(all(type(x) is int and 1 <= x <= seats for x in ranks), "ranks", ranks)
    _require(len(values["entrants"]) == len(values["hashes"]) == seats, "entrants", values["entrants"])
    _require(_agree(values["pairing"], values["entrants"]), "pairing", values["pairing"])
    _require(values["seed"] < SEEDS, "seed", values["seed"])
    _require(_TRACE.fullmatch(values["trace"]) is not None, "trace", values["trace"])
    _require(isinstance(values["params"], dict), "params", values["params"])
    _require(values["ended"] in ENDINGS, "ended", values["ended"])
    _require((fault is not None) == (values["ended"] == "forfeit"), "fault", fault)
    values |= {"ranks": tuple(ranks), "returns": tuple(map(float, returns))}
    values["fault"] = None if fault is None else _fault(fault, values)
    return Match(**values)


@lru_cache(2**16)
def _known(names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return these names, one and the same tuple each time, or None where they are none."""
    return names if names and all(map(_is_name, names)) else None


def _names(field: str, given: Any) -> tuple[str, ...]:
    try:
        found = _known(tuple(given)) if isinstance(given, list) else None
    except TypeError:  # a list in it
        found = None
    _require(found is not None, field, given)
    assert found is not None
    return found


@lru_cache(2**16)
def _agree(pairing: tuple[str, ...], entrants: tuple[str, ...]) -> bool:
    """Say whether a pairing is those who have the seats, sorted."""
    return tuple(sorted(set(entrants))) == pairing


def _fault(given: Any, values: dict[str, Any]) -> Fault:
    sound = isinstance(given, dict) and given.keys() == {"seat", "entrant", "kind", "reason"}
    _require(sound, "fault", given)
    seat, kind = given["seat"], given["kind"]
    _require(type(seat) is int and 0 <= seat < len(values["seats"]), "fault", given)
    _require(values["entrants"][seat] == given["entrant"] and kind in KINDS, "fault", given)
    _require(isinstance(given["reason"], str), "fault", given)
    return Fault(seat, given["entrant"], kind, one_line(given["reason"]))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST and value.isprintable()


def _require(sound: bool, field: str, given: Any) -> None:
    if not sound:
        raise ValueError(f"is no match: {field} is {one_line(repr(given)):.80}")


def read(path: str | Path) -> list[Match]:
    """Return the matches of a ledger, each id once, in the order of their ids: that of the lines means nothing.

    A last line without an end was cut off by a kill and counts as not written. Raises LedgerError naming the line.
    """
    found: dict[str, Match] = {}
    try:
        lines = Path(path).read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise LedgerError(f"{path}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        try:
            match = parse(line)
        except ValueError as error:
            raise LedgerError(f"{path}, line {number} {error}") from None
        if found.setdefault(match.id, match) != match:
            raise LedgerError(f"{path}, line {number} tells of {match.id} otherwise than a line before it")
    return [found[key] for key in sorted(found)]


class Ledger:
    """A ledger that matches are added to, by one process at a time; a torn last line is cut off first.

    Raises LedgerError where it is damaged, or in use.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise LedgerError(f"{path} is being written: this tournament is under way") from None
        try:
            text = path.read_bytes()
            os.ftruncate(self._file, text.rfind(b"\n") + 1)
            self.matches = {match.id: match for match in read(path)}
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._file)

    def add(self, matches: Iterable[Match]) -> None:
        """Write matches that are not there yet, and see them to the disk."""
        fresh = {match.id: match for match in matches if match.id not in self.matches}
        data = "".join(match.line() + "\n" for match in fresh.values()).encode()
        while data:
            data = data[os.write(self._file, data) :]
        if fresh:
            os.fsync(self._file)
        self.matches |= fresh
