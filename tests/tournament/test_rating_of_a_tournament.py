"""Tests of `rl-lab tournament rate` and `compare`: what they print, and the exit status of a comparison."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rl_lab.cli import main
from rl_lab.core.errors import UsageError
from rl_lab.core.interrupts import Interrupted, Interrupts
from rl_lab.rating import tables
from rl_lab.tournament.compare import Hypotheses, ResultCounts, comparison_data, render_comparison
from rl_lab.tournament.ledger import Match, read
from rl_lab.tournament.runner import run_tournament
from rl_lab.tournament.store import create, load
from rl_lab.tournament.summary import summarize

CapturedOutput = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def play_tournament(name: str, *words: str, world: str = "tic_tac_toe", **options: Any) -> list[Match]:
    return run_tournament(create(words, world, {}, path=Path(name), **{"pairs": 10, "seed": 5, **options})).matches


def keep_matches(ledger: Path, is_kept: Any) -> None:
    ledger.write_text("".join(match.line() + "\n" for match in read(ledger) if is_kept(match)))


def test_rate_prints_everything_there_is_to_know(capsys: CapturedOutput) -> None:
    matches = play_tournament("t", "random", "scripted", "novice=scripted:strength=novice")
    assert main(["tournament", "rate", "t", "--json", "--anchor", "random=100"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["complete"] and (result["matches"], result["missing"], result["faults"]) == (60, 0, 0)
    assert result["table"] == tables.ranking(matches, anchor="random", anchor_elo=100.0)
    assert result["table"][-1]["rating"] == 100 and result["anchor"] == {"name": "random", "elo": 100.0}
    names = [row["name"] for row in result["table"]]
    assert names[0] == "scripted" and result["cross_table"] == tables.cross_table(matches, names)
    assert result["theory"] == tables.game_theory(matches, names) and result["superiority"]["names"] == names
    assert main(["tournament", "rate", "t", "--anchor", "random=100", "--intervals", "bootstrap"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"random +100 +anchor +", out) and not re.search("(anchor.*){2}", out)
    for words in ("random is 100", "Nash 100.0%", "no forfeits", "cyclic share", "x", "least against", "1 to 1"):
        assert words in out
    assert out.index("all 60 matches") < out.index("rank  name") < out.index("rows against columns")
    for anchor in ("nobody", "random=1e99"):
        assert main(["tournament", "rate", "t", "--anchor", anchor]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_groups_that_never_met_are_refused_by_name(capsys: CapturedOutput) -> None:
    play_tournament("t", "random", "scripted", "other=random:seed=1", "more=random:seed=2", pairs=1)
    keep_matches(Path("t/matches.jsonl"), lambda match: match.pairing in (("random", "scripted"), ("more", "other")))
    assert main(["tournament", "rate", "t"]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert "2 groups that never met" in output.err and "more, other; random, scripted" in output.err
    assert "4 of 12 matches" in output.err


def test_entrants_without_matches_and_forfeits_are_listed_first(capsys: CapturedOutput) -> None:
    Path("bots.py").write_text("def bad(observation, legal):\n    return 99\n")
    play_tournament("t", "random", "scripted", "bad=bots.py:bad", pairs=1)
    keep_matches(Path("t/matches.jsonl"), lambda match: "scripted" not in match.pairing)
    assert main(["tournament", "rate", "t"]) == 0
    assert capsys.readouterr().out.splitlines()[:5] == [
        "INCOMPLETE: 2 of 6 matches were played",
        "not played yet: scripted",
        "FORFEITS: 2 matches",
        "  entrant  fault    matches  reason of the first",
        "  bad      illegal        2  action 99 is illegal; legal are [0, 1, 2, 3, 4, 5, 6, 7, 8]",
    ]
    keep_matches(Path("t/matches.jsonl"), lambda match: False)
    assert main(["tournament", "rate", "t"]) == 0 and "no matches" in capsys.readouterr().out
    assert main(["tournament", "report", "t"]) == 0
    assert main(["tournament", "rate", "t", "--json"]) == 0


def test_repetition_is_noticed(capsys: CapturedOutput) -> None:
    Path("bots.py").write_text("def low(observation, legal):\n    return int(legal.argmax())\n")
    play_tournament("t", "a=bots.py:low", "b=bots.py:low")
    assert main(["tournament", "rate", "t"]) == 0
    assert "only 2 different games" in capsys.readouterr().out


def test_more_than_two_a_match_and_teams_are_rated(capsys: CapturedOutput) -> None:
    matches = play_tournament("three", "random", "scripted", "b=random:seed=1", world="simple_spread", pairs=2)
    result = summarize(load("three"), matches, len(matches))
    assert result["effects"] == {"seat": None, "draw": None} and len(result["table"]) == 3
    assert [each["seat"] for each in result["table"][0]["seats"]] == list(matches[0].seats)
    matches = play_tournament("teams", "random", "scripted", world="simple_tag", pairs=3)
    result = summarize(load("teams"), matches, len(matches))
    by_seat = result["table"][0]["seats"]
    assert len(by_seat) == 2 and sum(each["games"] for each in by_seat) == len(matches)  # by role, not by seat
    assert main(["tournament", "rate", "teams"]) == 0 and main(["tournament", "report", "three"]) == 0
    with pytest.raises(UsageError, match="alone"):
        from rl_lab.tournament.compare import count_results_between

        count_results_between(load("three"), read("three/matches.jsonl"), "random", "scripted")


def test_compare_is_a_gate(capsys: CapturedOutput) -> None:
    base = ["tournament", "compare", "tic_tac_toe"]
    assert main([*base, "scripted", "random", "--json", "--dir", "up"]) == 0
    up = json.loads(capsys.readouterr().out)
    assert (up["state"], up["stronger"], up["one"]) == ("H1", True, "scripted") and up["llr"] >= up["bounds"][1]
    assert sum(up["pentanomial"]) == up["trials"] == 50 and up["elo"] > 200 and up["los"] > 0.999
    assert main([*base, "random", "scripted", "--json", "--dir", "down", "--workers", "2"]) == 1
    down = json.loads(capsys.readouterr().out)
    assert (down["state"], down["pentanomial"]) == ("H0", up["pentanomial"][::-1])
    few = ["--max-pairs", "6", "--pairs", "4", "--elo1", "5", "--dir", "few"]
    assert main([*base, "random", "b=random:seed=1", *few]) == 1
    assert capsys.readouterr().out.startswith("undecided: random may or may not be stronger than b")
    assert len(read("few/matches.jsonl")) == 12
    assert main(["tournament", "rate", "up", "--json"]) == 0  # its schedule ends where the test did
    assert json.loads(capsys.readouterr().out)["complete"]


def test_a_comparison_that_was_stopped_goes_on_to_the_same_end(
    capsys: CapturedOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["tournament", "compare", "tic_tac_toe", "random", "b=random:seed=1", "--elo1", "60", "--pairs", "20"]
    status = main([*words, "--json", "--dir", "whole"])
    uninterrupted = json.loads(capsys.readouterr().out)
    assert uninterrupted["trials"] >= 60, "it takes several looks"
    looks = 0

    def check(self: Interrupts, *_: Any) -> None:
        nonlocal looks
        looks += 1
        if looks > 15:
            raise Interrupted(130)

    with monkeypatch.context() as patch:
        patch.setattr(Interrupts, "check", check)
        assert main([*words, "--dir", "part"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stopped; go on with: rl-lab tournament resume part"
    assert 0 < len(read("part/matches.jsonl")) < len(read("whole/matches.jsonl"))
    for _ in range(2):  # the second time nothing is left to play
        assert main(["tournament", "resume", "part", "--json"]) == status
        assert json.loads(capsys.readouterr().out) == {**uninterrupted, "dir": "part"}
        assert read("part/matches.jsonl") == read("whole/matches.jsonl")
    comparison_data = json.loads(Path("part/tournament.json").read_text())
    for test in ([], {"elo0": 0}, {**comparison_data["test"], "batch": 0}, {**comparison_data["test"], "elo1": "nan"}):
        Path("part/tournament.json").write_text(json.dumps({**comparison_data, "test": test}))
        assert main(["tournament", "resume", "part"]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_tournament_is_compared_without_playing(capsys: CapturedOutput) -> None:
    matches = play_tournament("t", "random", "scripted", "other=random:seed=1", pairs=40)
    assert main(["tournament", "compare", "t", "scripted", "random", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert sum(result["pentanomial"]) == 40 and len(read("t/matches.jsonl")) == len(matches)
    keep_matches(Path("t/matches.jsonl"), lambda match: match.leg == 0)
    assert main(["tournament", "compare", "t", "scripted", "random"]) == 0  # without pairs, games
    assert "games  40: " in capsys.readouterr().out
    for words in (["scripted", "nobody"], ["scripted", "scripted"]):
        assert main(["tournament", "compare", "t", *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_all_wins_have_a_verdict() -> None:
    counts = ResultCounts("a", "b")
    counts.pairs[4] = 40
    result = comparison_data(counts, Hypotheses())
    assert result["state"] == "H1" and result["elo"] is None and result["elo_low"] > 200
    assert "infinite" in render_comparison(result) and json.dumps(result, allow_nan=False)
