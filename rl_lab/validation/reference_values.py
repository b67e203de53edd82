"""This module recomputes reference values: published or exact values, listed with their sources in reference.json.

`rl-lab validate` calls `run_checks`. The part of an entry's name before the first dot selects the function that
recomputes it (`_COMPUTE`); the rest of the name, and other keys of the entry, are the function's input. A function
imports what it needs when it is called, because few values need all packages. Nothing is written.
"""

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

Entry = dict[str, Any]  # of reference.json
_NUM_GAMES = 100_000  # of random play


@dataclass(frozen=True)
class Finding:
    """The result of one check: a reference value and the value computed here.

    The fields are the keys of `rl-lab validate --json`.
    """

    name: str
    status: str  # pass; fail; elsewhere, for values that training measures; or slow, for values that were skipped
    expected: Any
    actual: Any  # None where the value was not computed, or its computation failed
    seconds: float  # that the computation took
    source: str
    note: str = ""  # why it was skipped, or the exception

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict for JSON."""
        return asdict(self)


def entries() -> list[Entry]:
    """Return the entries of reference.json: dicts with name, expected, source, tolerance or measured_by, and inputs.

    The key `seconds` is the approximate time on one core of an entry that takes long.
    """
    return list(json.loads((resources.files(__package__) / "reference.json").read_text("utf-8")))


def run_checks(selected: list[Entry] | None = None, *, slow: bool = False) -> Iterator[Finding]:
    """Yield a finding for each entry, in order; an entry whose computation raises an exception fails, with a note.

    Args:
        selected: the entries; by default, all entries of reference.json.
        slow: compute also the values that take minutes.
    """
    for entry in entries() if selected is None else selected:
        skipped = _skip_reason(entry, slow)
        if skipped is not None:
            yield Finding(entry["name"], skipped[0], entry["expected"], None, 0.0, entry["source"], skipped[1])
            continue
        start_time, note, passed, value = time.perf_counter(), "", False, None
        try:
            computed = compute(entry)
            passed, value = within_tolerance(entry, computed), to_json(computed)
        except Exception as error:  # an error in one value must not hide the others
            note = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - start_time
        status = "pass" if passed else "fail"
        yield Finding(entry["name"], status, entry["expected"], value, seconds, entry["source"], note)


def _skip_reason(entry: Entry, slow: bool) -> tuple[str, str] | None:
    """Return the status and the reason for an entry that is not computed, None for one that is."""
    if "measured_by" in entry:
        return "elsewhere", f"measured by: {entry['measured_by']}"
    if "seconds" in entry and not slow:
        return "slow", f"not recomputed: it takes about {entry['seconds']} s of one core; --slow does it"
    return None


def within_tolerance(entry: Entry, value: Any) -> bool:
    """Return True if a value equals the expected one, all its numbers within the tolerance."""
    expected = entry["expected"]
    if isinstance(expected, dict):
        return list(expected) == list(value) and within_tolerance(
            {**entry, "expected": list(expected.values())}, list(value.values())
        )
    if isinstance(expected, str) and "/" not in expected:
        return bool(expected == value)
    target = np.array(float(Fraction(expected)) if isinstance(expected, str) else expected, np.float64)
    actual = np.asarray(value, np.float64)
    return actual.shape == target.shape and bool((np.abs(actual - target) <= np.array(entry["tolerance"])).all())


def to_json(value: Any) -> Any:
    """Return a value with numpy arrays and numbers converted to JSON's types."""
    if isinstance(value, dict):
        return {key: to_json(each) for key, each in value.items()}
    return np.asarray(value).tolist()


def compute(entry: Entry) -> Any:
    """Return the recomputed value of an entry."""
    subject, _, case = entry["name"].partition(".")
    return _COMPUTE[subject](entry, case)


def _kuhn(entry: Entry, case: str) -> Any:
    from rl_lab.games import best_response, tabular_policy

    if case == "game_value_first_player":
        return _equilibrium("kuhn_poker").value
    if case == "uniform_vs_uniform_first_player":
        return best_response.expected_returns(tabular_policy.uniform, tabular_policy.uniform, "kuhn_poker")[0]
    policies: dict[str, Any] = {
        "uniform": tabular_policy.uniform,
        "always_bet": tabular_policy.always(1),
        "always_pass": tabular_policy.always(0),
    }
    policies["nash"] = _equilibrium("kuhn_poker")
    return best_response.nash_conv(policies[case.removeprefix("nash_conv.")], "kuhn_poker")


def _leduc(entry: Entry, case: str) -> Any:
    from rl_lab.games import best_response, tabular_policy

    if case == "game_value_first_player":
        return _equilibrium("leduc_poker").value
    if case == "nash_conv.uniform":
        return best_response.nash_conv(tabular_policy.uniform, "leduc_poker")
    return best_response.expected_returns(tabular_policy.uniform, tabular_policy.uniform, "leduc_poker")[0]


@cache
def _equilibrium(world: str) -> Any:
    from rl_lab.games.sequence_form import solve

    return solve(world)


def _tic_tac_toe(entry: Entry, case: str) -> Any:
    from rl_lab.games import best_response, tabular_policy
    from rl_lab.games.game_tree import build_game_tree

    if case.startswith("best_response"):
        return best_response.best_response(tabular_policy.uniform, "tic_tac_toe", "xo".index(case[-1])).value
    if case == "positions_not_over":
        return sum(len(layer.action_mask) for layer in build_game_tree("tic_tac_toe").layers)
    if case == "minimax_vs_minimax":
        return {1.0: "x wins", 0.0: "draw", -1.0: "o wins"}[best_response.minimax_value("tic_tac_toe")]
    probs = best_response.outcome_probs(tabular_policy.uniform, tabular_policy.uniform, "tic_tac_toe")
    return probs[["x_wins", "draw", "o_wins"].index(case.removeprefix("random_vs_random."))]


def _connect_four(entry: Entry, case: str) -> Any:
    from gymnasium.vector import AutoresetMode

    from rl_lab.engine import world_registry
    from rl_lab.engine.batch import Batch

    if case == "perfect_play":
        return _connect_four_perfect_play()
    batch = Batch(world_registry.load("connect_four"), _NUM_GAMES, threads=1, autoreset=AutoresetMode.DISABLED)
    batch.reset()
    while not batch.done.all():
        batch.random_actions(4)
        batch.step()
    return [100 * float((batch.episode_returns[:, 0] == result).mean()) for result in (1, -1, 0)]


def _connect_four_perfect_play() -> str:
    from rl_lab.validation.connect_four_solver import winning_first_moves

    wins = winning_first_moves()
    if wins == [column == 3 for column in range(7)]:
        return "first player wins, only by opening in the centre column"
    return f"first player wins by opening in {[column for column in range(7) if wins[column]]}"


def _bradley_terry(entry: Entry, case: str) -> Any:
    from rl_lab.rating import bradley_terry, davidson, ratings
    from rl_lab.rating.results import pairwise_results

    # Rows of first entrant, second entrant, and numbers of wins, draws and losses of the first.
    if "wins" in entry:
        rows = [[one, other, n, 0, 0] for one, row in entry["wins"].items() for other, n in row.items()]
    else:
        rows = entry["games"]
    names = sorted({name for row in rows for name in row[:2]})
    count = [sum(row[2:]) for row in rows]
    first, second = (np.repeat([names.index(row[k]) for row in rows], count) for k in (0, 1))
    outcome = np.concatenate([np.repeat([1.0, 0.5, 0.0], row[2:]) for row in rows])
    games, fits_home = pairwise_results(names, first, second, outcome), "home" in case
    strength = bradley_terry.strengths(games, seat=fits_home) / ratings.ELO_PER_LOG_ODDS
    if "wins" in entry:
        return np.exp(strength)
    model, _ = davidson.build_model(games, fits_home)
    # The last parameter is the advantage at home or, without it, the draw parameter.
    last_parameter = davidson.maximise_posterior(model, model.counts[None], 0.0)[0, -1]
    if fits_home:
        return dict(zip(names, strength - strength[0], strict=True)) | {"at home": last_parameter}
    return [*np.exp(strength) / np.exp(strength).sum(), np.exp(last_parameter)]


def _trueskill(entry: Entry, case: str) -> Any:
    from rl_lab.rating.trueskill import INITIAL_SKILL, update

    ranks = {"one_vs_one": [1, 2], "draw": [1, 1], "free_for_all_3": [1, 2, 3]}[case]
    return update([INITIAL_SKILL] * len(ranks), ranks)


def _elo(entry: Entry, case: str) -> Any:
    from rl_lab.rating.head_to_head import expected_score

    return expected_score(float(case))


def _nash(entry: Entry, case: str) -> Any:
    from rl_lab.rating.metagame import maxent_nash

    transitive = [[0, -1, -1], [1, 0, -1], [1, 1, 0]]
    cycle = [[0, -1, 1], [1, 0, -1], [-1, 1, 0]]
    table = entry.get("matrix", transitive if "transitive" in case else cycle)
    return maxent_nash(table)[int(case.endswith("values"))]


def _alpha_rank(entry: Entry, case: str) -> Any:
    from rl_lab.rating.metagame import alpha_rank

    if "matrix" in entry:
        return alpha_rank(entry["matrix"], alpha=0.1, population=20, mixing=True)
    return alpha_rank([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])


def _match(entry: Entry, case: str) -> Any:
    from rl_lab.rating import head_to_head

    statistic, _, numbers = case.partition(".")
    if statistic == "wilson_95":
        return head_to_head.wilson_interval(*map(int, numbers.split("/")))
    if statistic == "pentanomial_elo":
        comparison = head_to_head.compare([int(n) for n in numbers.split("-")])
        return [comparison.elo, comparison.elo_error, comparison.normalized]
    comparison = head_to_head.compare([96, 111, 136])  # the losses, draws and wins of the published example
    return 100 * comparison.los if numbers == "los_percent" else [comparison.elo, comparison.elo_error]


def _sprt(entry: Entry, case: str) -> Any:
    from rl_lab.rating.sprt import sprt

    counts = [int(n) for n in case.removeprefix("llr.").split("-")]
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
