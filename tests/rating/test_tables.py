"""Tests of the conversion of matches to games, and of the tables made from them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rl_lab.rating import results, tables

Match = dict[str, Any]


def match(entrants: list[str], ranks: list[int], pair: int = 0, **more: Any) -> Match:
    return {"entrants": entrants, "ranks": ranks, "pairing": sorted(set(entrants)), "pair": pair, **more}


def round_robin(score: dict[tuple[str, str], list[float]]) -> list[Match]:
    """Return matches of these pairs of entrants, in which the first gets these points; every second one swaps seats."""
    result = []
    for (one, other), points in score.items():
        for k, point in enumerate(points):
            ranks = {1.0: [1, 2], 0.5: [1, 1], 0.0: [2, 1]}[point]
            swapped = k % 2 == 1
            entrants, order = ([other, one], ranks[::-1]) if swapped else ([one, other], ranks)
            result.append(match(entrants, order, k // 2, seats=["x", "o"]))
    return result


THREE_ENTRANTS = round_robin({("a", "b"): [1, 1, 0.5, 1], ("b", "c"): [1, 0, 1, 0.5], ("a", "c"): [1, 1, 1, 0]})


def test_matches_of_two_become_games_with_their_seats_and_pairs() -> None:
    games = results.convert_matches(
        [match(["b", "a"], [1, 2], 3), match(["a", "b"], [1, 1], 3), match(["c", "b"], [2, 1], 3)]
    )
    assert isinstance(games, results.PairwiseResults) and games.names == ("a", "b", "c")
    rows = zip(games.first.tolist(), games.second.tolist(), games.outcome.tolist(), games.cluster.tolist(), strict=True)
    assert list(rows) == [(0, 1, 0.5, 0), (1, 0, 1.0, 0), (2, 1, 0.0, 1)]


def test_seats_of_a_team_count_as_one_entrant() -> None:
    """Two against two, the mean of whose ranks counts; a free-for-all of three; and objects in place of dicts."""
    games = results.convert_matches(
        [match(["a", "b", "a", "b"], [1, 3, 3, 2]), match(["b", "a", "b", "a"], [1, 1, 3, 3])]
    )
    assert isinstance(games, results.PairwiseResults) and games.outcome.tolist() == [1.0, 0.5]
    assert games.first.tolist() == [0, 1]
    three = results.convert_matches(
        [SimpleNamespace(**match(["c", "a", "b"], [1, 2, 2])), SimpleNamespace(**match(["a", "b"], [1, 2]))]
    )
    assert isinstance(three, results.RankedResults)
    assert three.entrants == ((0, 1), (0, 1, 2)) and three.ranks == ((1, 2), (2, 2, 1))
    with pytest.raises(ValueError, match="no matches"):
        results.convert_matches([])
    with pytest.raises(ValueError, match="a match between"):
        results.convert_matches([match(["a", "b"], [1, 2]) | {"pairing": ["a", "z"]}])


def test_a_ranking_counts_what_was_played() -> None:
    rows = tables.ranking(THREE_ENTRANTS, anchor="c", anchor_elo=1000)
    assert [row["name"] for row in rows] == ["a", "b", "c"] and [row["rank"] for row in rows] == [1, 2, 3]
    best = rows[0]
    assert {k: best[k] for k in ("games", "wins", "draws", "losses", "score")} == {
        "games": 8, "wins": 6, "draws": 1, "losses": 1, "score": 6.5 / 8
    }  # fmt: skip
    x, o = best["seats"]
    assert (x["seat"], x["games"], x["wins"], x["draws"]) == ("x", 4, 3, 1) and (o["wins"], o["losses"]) == (3, 1)
    assert (
        rows[2]["rating"] == rows[2]["low"] == rows[2]["high"] == 1000 and best["low"] < best["rating"] < best["high"]
    )
    assert best["rank_low"] == 1 and rows[2]["rank_high"] == 3
    assert sum(row["wins"] for row in rows) == sum(row["losses"] for row in rows) and sum(r["draws"] for r in rows) == 4
    json.dumps(rows, allow_nan=False)


def test_the_order_of_matches_changes_no_table() -> None:
    for order in (THREE_ENTRANTS[::-1], THREE_ENTRANTS[5:] + THREE_ENTRANTS[:5]):
        for table in (tables.ranking, tables.cross_table, tables.game_theory):
            assert json.dumps(table(order)) == json.dumps(table(THREE_ENTRANTS))


def test_a_cross_table_has_scores_of_rows_against_columns() -> None:
    table = tables.cross_table(THREE_ENTRANTS)
    assert table["names"] == ["a", "b", "c"] and table["games"] == [[0, 4, 4], [4, 0, 4], [4, 4, 0]]
    assert table["score"] == [[None, 0.875, 0.75], [0.125, None, 0.625], [0.25, 0.375, None]]
    reordered = tables.cross_table(THREE_ENTRANTS, ["c", "a", "b"])
    assert reordered["score"][0] == [None, 0.25, 0.375]
    with pytest.raises(ValueError, match="names must be those"):
        tables.cross_table(THREE_ENTRANTS, ["a"])


def test_theory_of_a_ladder_and_of_a_cycle() -> None:
    ladder = tables.game_theory(THREE_ENTRANTS)
    assert (ladder["condorcet"], ladder["smith"], ladder["missing"]) == ("a", ["a"], 0)
    assert ladder["nash"] == pytest.approx([1, 0, 0]) and ladder["alpha_rank"] == pytest.approx([1, 0, 0], abs=1e-8)
    assert ladder["worst"][0] == {"opponent": "c", "score": 0.75} and ladder["cyclic_share"] < 0.2
    wins = [1.0, 1, 1, 1]
    cycle = tables.game_theory(round_robin({("a", "b"): wins, ("b", "c"): wins, ("c", "a"): wins}))
    assert (
        cycle["condorcet"] is None and cycle["smith"] == ["a", "b", "c"] and cycle["cyclic_share"] == pytest.approx(1)
    )
    for masses in (cycle["nash"], cycle["alpha_rank"]):
        assert masses == pytest.approx([1 / 3] * 3)
    json.dumps([ladder, cycle], allow_nan=False)


def test_theory_says_what_is_missing() -> None:
    chain = round_robin({("a", "b"): [1, 1], ("b", "c"): [1, 0.5]})
    result = tables.game_theory(chain)
    assert result["missing"] == 1 and result["nash"] is result["smith"] is None
    assert result["worst"][0] == {"opponent": "b", "score": 1.0} and result["cyclic_share"] == pytest.approx(
        0, abs=1e-12
    )
    assert tables.cross_table(chain)["score"][0][2] is None


def test_free_for_alls_are_rated_and_tabled() -> None:
    generator = np.random.default_rng(0)
    matches = []
    for k in range(40):
        entrants = [str(name) for name in generator.permutation(["strong", "mean", "weak"])]
        performance = [{"strong": 2.5, "mean": 1.0, "weak": 0.0}[w] + generator.gumbel() for w in entrants]
        ranks = [1 + sum(other > self_matches for other in performance) for self_matches in performance]
        matches.append(match(entrants, ranks, k))
    rows = tables.ranking(matches)
    assert [row["name"] for row in rows] == ["strong", "mean", "weak"]
    assert rows[0]["games"] == 40 and rows[0]["wins"] + rows[1]["wins"] + rows[2]["wins"] == 40
    table = tables.cross_table(matches)
    assert table["score"][0][1] + table["score"][1][0] == pytest.approx(1)
    assert [each["seat"] for each in rows[0]["seats"]] == ["0", "1", "2"]


def test_a_match_against_itself_says_what_a_seat_is_worth_and_nothing_else() -> None:
    self_matches = [match(["a", "a"], [1, 2], k) for k in range(30)]
    rows = tables.ranking([*THREE_ENTRANTS, *self_matches])
    assert [row["games"] for row in rows] == [8, 8, 8]
    assert tables.cross_table([*THREE_ENTRANTS, *self_matches]) == tables.cross_table(THREE_ENTRANTS)
    with_own, without = (
        tables.effects(tables.fit_ratings(m))["seat"]["low"] for m in ([*THREE_ENTRANTS, *self_matches], THREE_ENTRANTS)
    )
    assert with_own > 200 > without


def test_what_a_terminal_shows() -> None:
    lines = tables.render_ranking(tables.ranking(THREE_ENTRANTS, anchor="c")).splitlines()
    assert lines[0].split() == "rank name rating 95% interval ranks games won drawn lost score x o".split()
    assert lines[1].split()[:2] == ["1", "a"] and lines[1].endswith("81.2%  87.5%  75.0%")
    assert lines[3].split()[2:4] == ["0", "anchor"] and "1 to " in lines[1]
    assert tables.render_cross_table(tables.cross_table(THREE_ENTRANTS)).splitlines()[1].split() == [
        "1",
        "a",
        "-",
        "88",
        "75",
    ]
    superiority = tables.superiority(tables.fit_ratings(THREE_ENTRANTS))
    assert (
        superiority["names"] == ["a", "b", "c"]
        and superiority["probability"][0][2] > 0.5 > superiority["probability"][2][0]
    )
