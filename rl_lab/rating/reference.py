"""Reference values: what is published or exactly known, with sources in reference.json, and how it comes out here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

Entry = dict[str, Any]
_GAMES = 100_000


@dataclass(frozen=True)
class Finding:
    """One reference value and what came out.

    `status` is "pass" or "fail"; "elsewhere" where training measures it, and "slow" where it was left out for that.
    """

    name: str
    status: str
    expected: Any
    obtained: Any
    seconds: float
    source: str
    note: str = ""

    def line(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


def entries() -> list[Entry]:
    """Return what reference.json holds: name, expected, source; tolerance or measured_by; and what it is about.

    Those with `seconds` take about so long, of one core.
    """
    return list(json.loads((resources.files(__package__) / "reference.json").read_text("utf-8")))


def examine(given: list[Entry] | None = None, *, slow: bool = False) -> Iterator[Finding]:
    """Yield a finding for every reference value, in their order; what raises fails and says why.

    What takes minutes is computed only if `slow`.
    """
    for entry in entries() if given is None else given:
        left_out = _left_out(entry, slow)
        if left_out is not None:
            yield Finding(entry["name"], left_out[0], entry["expected"], None, 0.0, entry["source"], left_out[1])
            continue
        begin, note, passed, shown = time.perf_counter(), "", False, None
        try:
            obtained = compute(entry)
            passed, shown = agrees(entry, obtained), plain(obtained)
        except Exception as error:  # one value that cannot be had must not hide the others
            note = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - begin
        status = "pass" if passed else "fail"
        yield Finding(entry["name"], status, entry["expected"], shown, seconds, entry["source"], note)


def _left_out(entry: Entry, slow: bool) -> tuple[str, str] | None:
    """Return the status of what is not computed here and now, and why; None for what is."""
    if "measured_by" in entry:
        return "elsewhere", f"measured by: {entry['measured_by']}"
    if "seconds" in entry and not slow:
        return "slow", f"not recomputed: it takes about {entry['seconds']} s of one core; --slow does it"
    return None


def agrees(entry: Entry, obtained: Any) -> bool:
    """Say whether a value is as expected, all its numbers within the tolerance."""
    expected = entry["expected"]
    if isinstance(expected, dict):
        return list(expected) == list(obtained) and agrees(
            {**entry, "expected": list(expected.values())}, list(obtained.values())
        )
    if isinstance(expected, str) and "/" not in expected:
        return bool(expected == obtained)
    wanted = np.array(float(Fraction(expected)) if isinstance(expected, str) else expected, np.float64)
    found = np.asarray(obtained, np.float64)
    return found.shape == wanted.shape and bool((np.abs(found - wanted) <= np.array(entry["tolerance"])).all())


def plain(value: Any) -> Any:
    """Return a value ready for JSON."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return np.asarray(value).tolist()


def compute(entry: Entry) -> Any:
    """Return what comes out here for a reference value."""
    kind, _, rest = entry["name"].partition(".")
    return _COMPUTE[kind](entry, rest)


def _kuhn(entry: Entry, rest: str) -> Any:
    from . import exact, policies

    if rest == "game_value_first_player":
        return _equilibrium("kuhn_poker").value
    if rest == "uniform_vs_uniform_first_player":
        return exact.values(policies.uniform, policies.uniform, "kuhn_poker")[0]
    known: dict[str, Any] = {
        "uniform": policies.uniform,
        "always_bet": policies.always(1),
        "always_pass": policies.always(0),
    }
    known["nash"] = _equilibrium("kuhn_poker")
    return exact.nash_conv(known[rest.removeprefix("nash_conv.")], "kuhn_poker")


def _leduc(entry: Entry, rest: str) -> Any:
    from . import exact, policies

    if rest == "game_value_first_player":
        return _equilibrium("leduc_poker").value
    if rest == "nash_conv.uniform":
        return exact.nash_conv(policies.uniform, "leduc_poker")
    return exact.values(policies.uniform, policies.uniform, "leduc_poker")[0]


@cache
def _equilibrium(world: str) -> Any:
    from .equilibrium import solve

    return solve(world)


def _tic_tac_toe(entry: Entry, rest: str) -> Any:
    from . import exact, policies
    from .tree import tree

    if rest.startswith("best_response"):
        return exact.best_response(policies.uniform, "tic_tac_toe", "xo".index(rest[-1])).value
    if rest == "positions_not_over":
        return sum(len(layer.legal) for layer in tree("tic_tac_toe").layers)
    if rest == "minimax_vs_minimax":
        return {1.0: "x wins", 0.0: "draw", -1.0: "o wins"}[exact.perfect_value("tic_tac_toe")]
    chances = exact.outcomes(policies.uniform, policies.uniform, "tic_tac_toe")
    return chances[["x_wins", "draw", "o_wins"].index(rest.removeprefix("random_vs_random."))]


def _connect_four(entry: Entry, rest: str) -> Any:
    from gymnasium.vector import AutoresetMode

    from .. import worlds
    from ..engine import Batch

    if rest == "perfect_play":
        return _perfect_play()
    batch = Batch(worlds.load("connect_four"), _GAMES, threads=1, autoreset=AutoresetMode.DISABLED)
    batch.reset()
    while not batch.ended.all():
        batch.random_actions(4)
        batch.step()
    return [100 * float((batch.episode_returns[:, 0] == result).mean()) for result in (1, -1, 0)]


def _perfect_play() -> str:
    from .solved import openings

    won = openings()
    if won == [column == 3 for column in range(7)]:
        return "first player wins, only by opening in the centre column"
    return f"first player wins by opening in {[column for column in range(7) if won[column]]}"


def _bradley_terry(entry: Entry, rest: str) -> Any:
    from . import bradley_terry, davidson, ratings
    from .results import duels

    if "wins" in entry:
        games = [[one, other, n, 0, 0] for one, row in entry["wins"].items() for other, n in row.items()]
    else:
        games = entry["games"]
    names = sorted({name for game in games for name in game[:2]})
    count = [sum(game[2:]) for game in games]
    first, second = (np.repeat([names.index(game[k]) for game in games], count) for k in (0, 1))
    outcome = np.concatenate([np.repeat([1.0, 0.5, 0.0], game[2:]) for game in games])
    played, home = duels(names, first, second, outcome), "home" in rest
    strength = bradley_terry.strengths(played, seat=home) / ratings.POINTS
    if "wins" in entry:
        return np.exp(strength)
    model, _ = davidson.cells(played, home)
    last = davidson.maximise(model, model.counts[None], 0.0)[0, -1]
    if home:
        return dict(zip(names, strength - strength[0], strict=True)) | {"at home": last}
    return [*np.exp(strength) / np.exp(strength).sum(), np.exp(last)]


def _trueskill(entry: Entry, rest: str) -> Any:
    from .trueskill import NEW, update

    ranks = {"one_vs_one": [1, 2], "draw": [1, 1], "free_for_all_3": [1, 2, 3]}[rest]
    return update([NEW] * len(ranks), ranks)


def _elo(entry: Entry, rest: str) -> Any:
    from .paired import expected_score

    return expected_score(float(rest))


def _nash(entry: Entry, rest: str) -> Any:
    from .games import maxent_nash

    transitive = [[0, -1, -1], [1, 0, -1], [1, 1, 0]]
    cycle = [[0, -1, 1], [1, 0, -1], [-1, 1, 0]]
    table = entry.get("matrix", transitive if "transitive" in rest else cycle)
    return maxent_nash(table)[int(rest.endswith("values"))]


def _alpha_rank(entry: Entry, rest: str) -> Any:
    from .games import alpha_rank

    if "matrix" in entry:
        return alpha_rank(entry["matrix"], alpha=0.1, population=20, mixing=True)
    return alpha_rank([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])


def _match(entry: Entry, rest: str) -> Any:
    from . import paired

    kind, _, about = rest.partition(".")
    if kind == "wilson_95":
        return paired.wilson(*map(int, about.split("/")))
    if kind == "pentanomial_elo":
        found = paired.compare([int(n) for n in about.split("-")])
        return [found.elo, found.elo_error, found.normalized]
    found = paired.compare([96, 111, 136])
    return 100 * found.los if about == "los_percent" else [found.elo, found.elo_error]


def _sprt(entry: Entry, rest: str) -> Any:
    from .sprt import sprt

    counts = [int(n) for n in rest.removeprefix("llr.").split("-")]
    return sprt(counts, elo0=entry["bounds"][0], elo1=entry["bounds"][1]).llr


_COMPUTE: dict[str, Callable[[Entry, str], Any]] = {
    "kuhn_poker": _kuhn,
    "leduc_poker": _leduc,
    "tic_tac_toe": _tic_tac_toe,
    "connect_four": _connect_four,
    "bradley_terry": _bradley_terry,
    "trueskill_default": _trueskill,
    "elo_expected_score": _elo,
    "nash_averaging": _nash,
    "alpha_rank": _alpha_rank,
    "match_statistics": _match,
    "sprt": _sprt,
}
