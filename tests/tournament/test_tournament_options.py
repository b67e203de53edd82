"""Tests that a tournament's options are checked before anything is written, and that a refused start leaves no file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rl_lab.cli import main
from rl_lab.core.errors import UsageError
from rl_lab.tournament.compare import Hypotheses
from rl_lab.tournament.runner import run_tournament
from rl_lab.tournament.store import create, discard, load

CapturedOutput = pytest.CaptureFixture[str]

INVALID_OPTIONS = {
    "--anchor zz": "--anchor zz: no entrant 'zz'; there is random, scripted",
    "--anchor scriptd": "no entrant 'scriptd'; did you mean 'scripted'?",
    "--anchor scriptd=100": "no entrant 'scriptd'; did you mean 'scripted'?",
    "--anchor random=high": "expected NAME, or NAME=ELO",
    "--anchor random=inf": "expected NAME, or NAME=ELO",
    "--anchor random=nan": "expected NAME, or NAME=ELO",
    "--intervals zz": "no 'zz'; there is bootstrap, sandwich",
    "--intervals sandwhich": "did you mean 'sandwich'",
    "--schedule robin": "no schedule 'robin'; did you mean 'round-robin'?",
    "--timeout inf": "--timeout is inf: expected seconds",
    "--timeout 1e300": "--timeout is 1e+300: expected seconds",
    "--timeout -1": "--timeout is -1: expected seconds",
    "--pairs 10000000000": "--pairs is 10000000000: expected at most 1,000,000,000",
    "--workers 1000000": "--workers is 1000000: expected at most",
    "--workers many": "--workers many: expected a number, ray or ray:N",
    "--workers ray:0": "workers=ray:0: expected ray, or ray:N with N from 1 to 10,000",
    "--workers ray --cluster here": "cluster='here': expected local, auto, or HOST:PORT",
    "--cluster auto": "--cluster auto goes with --workers ray",
    "--games -1": "--games is -1",
    "--opening -1": "--opening is -1: expected 0 to",
    "--rounds 0": "--rounds is 0: expected 1 to",
    "--seed -1": "--seed is -1: expected 0 to",
    "--seed 99999999999": "--seed is 99999999999: expected 0 to",
    "world.params.x=NaN": "expected world.params.FIELD=NUMBER",
    "world.params.x=1e999": "expected world.params.FIELD=NUMBER",
    "--dir file": "is not empty",
    "--dir file/below": "cannot write file/below",
    "--dir /proc/nowhere": "cannot write /proc/nowhere",
    f"--dir made/{'x' * 300}": "cannot write made/",
}
COMPARE = {
    "--elo1 inf": "--elo1 is inf: expected -2000 to 2000 Elo points",
    "--elo1 1e6": "--elo1 is 1e+06: expected -2000 to 2000 Elo points",
    "--elo1 nan": "--elo1 is nan",
    "--elo0=-inf": "--elo0 is -inf",
    "--alpha nan": "alpha and beta between 0 and 0.5",
    "--beta 0": "alpha and beta between 0 and 0.5",
    "--max-pairs 10000000000": "--max-pairs is 10000000000: expected at most",
    "--pairs 10000000000": "--pairs is 10000000000: expected at most",
    "--anchor zz": "no entrant 'zz'",
}


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    return tmp_path


def check_refused(words: list[str], message: str, capsys: CapturedOutput) -> None:
    try:
        status = main(["tournament", *words])
    except SystemExit as stop:  # argparse's
        status = int(stop.code or 0)
    output = capsys.readouterr()
    assert status == 2 and output.out == "" and output.err.count("\n") == 1 and message in output.err, output.err


@pytest.mark.parametrize("words", INVALID_OPTIONS)
def test_options_are_refused_before_the_first_match(words: str, capsys: CapturedOutput) -> None:
    check_refused(["tic_tac_toe", "random", "scripted", *words.split()], INVALID_OPTIONS[words], capsys)
    assert [path.name for path in Path().iterdir()] == ["file"]


@pytest.mark.parametrize("words", COMPARE)
def test_options_of_a_comparison_are_refused_before_the_first_match(words: str, capsys: CapturedOutput) -> None:
    check_refused(["compare", "tic_tac_toe", "random", "scripted", *words.split()], COMPARE[words], capsys)
    assert [path.name for path in Path().iterdir()] == ["file"]


def test_every_verb_checks_the_anchor(capsys: CapturedOutput) -> None:
    run_tournament(create(["random", "scripted"], "tic_tac_toe", {}, path=Path("t"), pairs=1))
    for verb in ("rate", "resume", "report"):
        check_refused([verb, "t", "--anchor", "scriptd"], "did you mean 'scripted'?", capsys)
    assert sorted(path.name for path in Path("t").iterdir()) == ["matches.jsonl", "tournament.json"]


def test_a_refused_start_leaves_what_was_there() -> None:
    Path("empty").mkdir()
    tournament = create(["random", "scripted"], "tic_tac_toe", {}, path=Path("empty"), pairs=1)
    discard(tournament)
    assert Path("empty").is_dir() and not any(Path("empty").iterdir())
    tournament = create(["random", "scripted"], "tic_tac_toe", {}, path=Path("a/b/c"), pairs=1)
    Path("a/own").touch()
    discard(tournament)
    assert [path.name for path in Path("a").iterdir()] == ["own"]
    tournament = create(["random", "scripted"], "tic_tac_toe", {}, path=Path("played"), pairs=1)
    run_tournament(tournament)
    discard(tournament)
    discard(load("played"))
    assert len(run_tournament(load("played")).matches) == 2


def test_a_start_that_is_refused_late_leaves_nothing(monkeypatch: pytest.MonkeyPatch, capsys: CapturedOutput) -> None:
    """The bot changes between the moment it enters and the moment it plays."""
    import rl_lab.tournament.runner as module

    monkeypatch.setattr(module, "changed_entrants", lambda tournament: ["scripted"])
    check_refused(["tic_tac_toe", "random", "scripted"], "scripted has changed since this tournament began", capsys)
    assert [path.name for path in Path().iterdir()] == ["file"]


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(), st.floats(), st.floats(), st.floats(), st.lists(st.integers(0, 10**6), min_size=5, max_size=5))
def test_a_test_has_a_verdict_or_is_refused(
    elo0: float, elo1: float, alpha: float, beta: float, pairs: list[int]
) -> None:
    try:
        verdict = Hypotheses(elo0, elo1, alpha, beta).test(pairs)
    except UsageError:
        return
    assert verdict.state in ("continue", "H0", "H1") and math.isfinite(verdict.llr)
