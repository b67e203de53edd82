"""Tests of the ledger, of resuming after a kill, and of invalid commands and damaged files."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import programs

from rl_lab.cli import main
from rl_lab.core.errors import UsageError
from rl_lab.core.interrupts import Interrupted
from rl_lab.tournament.ledger import FIELDS, Ledger, LedgerError, parse, read
from rl_lab.tournament.replay import replay
from rl_lab.tournament.runner import run_tournament
from rl_lab.tournament.store import create, load
from rl_lab.tournament.summary import summarize

ENTRANTS = "random", "scripted", "other=random:seed=1"


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tournament(name: str = "t", *words: str, **options: Any) -> Any:
    return create(words or ENTRANTS, "tic_tac_toe", {}, path=Path(name), **{"pairs": 3, "seed": 5, **options})


@pytest.fixture
def ledger() -> Path:
    """A finished tournament's."""
    run_tournament(tournament())
    return Path("t/matches.jsonl")


def test_a_line_has_exactly_what_was_agreed(ledger: Path) -> None:
    keys = "id world version params pairing pair leg entrants hashes seats seed returns ranks steps ending fault trace"
    lines = ledger.read_text().splitlines()
    assert [list(json.loads(line)) for line in lines] == [keys.split()] * 18 and list(FIELDS) == keys.split()
    assert {parse(line).line() for line in lines} == set(lines)
    assert len(read(ledger)) == 18


def test_the_order_of_lines_means_nothing(ledger: Path) -> None:
    lines, matches = ledger.read_text().splitlines(), read(ledger)
    random.Random(1).shuffle(lines)
    ledger.write_text("\n".join([*lines, *lines[:5]]) + "\n")  # nor does it to have one twice
    assert read(ledger) == matches
    assert summarize(load("t"), matches[::-1], 18) == summarize(load("t"), matches, 18)
    assert run_tournament(load("t")).num_played == 0


def change(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda line: {**line, **values}


DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda line: [line],
    "a key too few": lambda line: {key: value for key, value in line.items() if key != "seed"},
    "a key too many": change(extra=1),
    "NaN": change(returns=[float("nan"), 0.0]),
    "too large": change(returns=[1e999, 0.0]),
    "no returns": change(returns=None),
    "a return too few": change(returns=[1.0]),
    "rank 0": change(ranks=[0, 1]),
    "rank true": change(ranks=[True, 1]),
    "negative pair": change(pair=-1),
    "a pair that is a float": change(pair=1.0),
    "a huge seed": change(seed=2**40),
    "a stranger at a seat": change(entrants=["random", "stranger"]),
    "an unsorted pairing": change(pairing=["scripted", "random"]),
    "no such ending": change(ending="won"),
    "a forfeit without fault": change(ending="forfeit"),
    "a fault without forfeit": change(fault={"seat": 0, "entrant": "random", "kind": "crash", "reason": ""}),
    "a fault of no entrant": change(ending="forfeit", fault={"seat": 9, "entrant": "x", "kind": "crash", "reason": ""}),
    "a fault that is text": change(ending="forfeit", fault="crash"),
    "a trace that is none": change(trace="x" * 64),
    "a name with a line break": change(id="a\nb"),
    "a name that is a number": change(world=3),
    "params that are none": change(params=[]),
    "other returns of the same match": change(returns=[0.5, -0.5]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_line_is_refused_by_number(damage: str, ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ledger.read_text().splitlines()
    changed = json.dumps(DAMAGE[damage](json.loads(lines[3])))
    ledger.write_text("\n".join([*lines, changed, lines[0]]) + "\n")
    with pytest.raises(LedgerError, match="t/matches.jsonl, line 19 "):
        read(ledger)
    for verb in ("rate", "resume"):
        capsys.readouterr()
        assert main(["tournament", verb, "t"]) == 2
        output = capsys.readouterr()
        assert output.out == "" and output.err.count("\n") == 1 and "line 19" in output.err and len(output.err) < 400


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\x00", '{"id": 1}', "", '{"a": ' * 5000], ids=len)
def test_text_that_is_no_match_is_refused(text: str, ledger: Path) -> None:
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(True)[:2]) + text.encode() + b"\n")
    with pytest.raises(LedgerError, match="line 3"):
        read(ledger)


def test_stopped_anywhere_and_resumed_nothing_is_lost_or_twice() -> None:
    expected = run_tournament(tournament("whole", pairs=20)).matches
    rng = random.Random(7)
    for attempt in range(4):
        looks = rng.randrange(1, 7)

        def interrupt_after_a_while() -> None:
            nonlocal looks
            looks -= 1
            if looks < 0:
                raise Interrupted(130)

        part = tournament(f"part{attempt}", pairs=20)
        with pytest.raises(Interrupted):
            run_tournament(part, poll=interrupt_after_a_while)
        written_ids = {match.id for match in read(part.ledger)}
        missing = [match for match in expected if match.id not in written_ids]
        with part.ledger.open("ab") as file:  # written by a process that was then killed, anywhere in a line
            data = "".join(match.line() + "\n" for match in rng.sample(missing, 30)).encode()
            file.write(data[: rng.randrange(len(data))])
        written = len(read(part.ledger))
        outcome = run_tournament(load(part.path.name))
        assert outcome.matches == expected and outcome.num_played == len(expected) - written
        lines = part.ledger.read_text().splitlines()
        assert len(lines) == len({json.loads(line)["id"] for line in lines}) == 120


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_killed_command_resumes(number: signal.Signals, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tournament", "tic_tac_toe", *ENTRANTS, "--pairs", "20000", "--dir", "t", "--seed", "5"]
    process = programs.Popen([sys.executable, "-m", "rl_lab.cli", *words], stderr=subprocess.PIPE, text=True)
    file, deadline = Path("t/matches.jsonl"), time.monotonic() + 60
    while not (file.exists() and file.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, output = process.communicate(timeout=60)
    assert process.returncode == status
    if number == signal.SIGINT:
        assert output.splitlines()[-1] == "stopped; go on with: rl-lab tournament resume t"
    matches_before_signal = read(file)
    assert 0 < len(matches_before_signal) < 120_000
    settings = json.loads(Path("t/tournament.json").read_text())
    Path("t/tournament.json").write_text(json.dumps({**settings, "pairs": 5}))  # the rest would take a while
    assert main(["tournament", "resume", "t", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["missing"] == 0 and {m.id for m in read(file)} >= {m.id for m in matches_before_signal}


def test_a_ledger_has_one_writer() -> None:
    new_tournament = tournament()
    with Ledger(new_tournament.ledger), pytest.raises(UsageError, match="under way"):
        run_tournament(new_tournament)


def test_an_incomplete_tournament_says_so_on_top(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger.write_text("\n".join(ledger.read_text().splitlines()[:7]) + "\n")
    assert main(["tournament", "rate", "t"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "INCOMPLETE: 7 of 18 matches were played"


def test_a_match_is_played_again_and_filmed(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bots.py").write_text("def low(observation, legal):\n    return int(legal.argmax())\n")
    run_tournament(tournament("t", "random", "low=bots.py:low"))
    match = read("t/matches.jsonl")[0]
    assert main(["tournament", "replay", "t", match.id]) == 2
    assert "runs only if you say so: --code" in capsys.readouterr().err
    assert main(["tournament", "replay", "t", match.id, "--code", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert Path(result["video"]).stat().st_size > 1000 and result["changed"] == [] and result["trace"] == match.trace
    Path("bots.py").write_text("# new\ndef low(observation, legal):\n    return int(legal.argmax())\n")
    assert replay(load("t"), match.id, out=Path("again")).changed_entrants == ["low"]
    with pytest.raises(UsageError, match="low has changed since"):
        run_tournament(load("t"))
    Path("bots.py").write_text("def low(observation, legal):\n    return int(8 - legal[::-1].argmax())\n")
    assert main(["tournament", "replay", "t", match.id, "--code"]) == 1
    assert "came out differently" in (output := capsys.readouterr().err) and "low changed since" in output
    lines = Path("t/matches.jsonl").read_text().splitlines()
    forged = dataclasses.replace(match, trace="0" * 64).line()
    Path("t/matches.jsonl").write_text("\n".join([forged, *(x for x in lines if parse(x).id != match.id)]) + "\n")
    Path("bots.py").write_text("def low(observation, legal):\n    return int(legal.argmax())\n")
    assert main(["tournament", "replay", "t", match.id, "--code"]) == 1
    assert main(["tournament", "replay", "t", "nobody/0/0", "--code"]) == 2


def test_a_tournament_that_was_sent_runs_no_code(capsys: pytest.CaptureFixture[str]) -> None:
    Path("evil.py").write_text("open('ran', 'w').close()\ndef f(observation, legal):\n    return 0\n")
    new_tournament = tournament()
    settings = json.loads((new_tournament.path / "tournament.json").read_text())
    settings["entrants"][0] |= {"spec": "evil:f", "kind": "function"}
    for forged in (
        settings,
        {**settings, "entrants": [{**settings["entrants"][0], "kind": "made"}, settings["entrants"][1]]},
    ):
        (new_tournament.path / "tournament.json").write_text(json.dumps(forged))
        for verb in ("rate", "resume"):
            capsys.readouterr()
            assert main(["tournament", verb, "t"]) == (0 if verb == "rate" else 2)
            assert capsys.readouterr().err.count("\n") == (verb != "rate")
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "damage",
    [
        {"pairs": 0},
        {"pairs": "3"},
        {"format": 2},
        {"entrants": []},
        {"entrants": [1]},
        {"timeout": -1.0},
        {"world": "x"},
        {"world": "../x"},
        {"schedule": "x"},
        {"params": {"x": 1}},
        {"seed": 2**40},
        {"world": "cartpole"},
        {"entrants": [{"name": "\x1b[2J", "spec": "random", "kind": "made", "hash": ""}] * 2},
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(damage: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    file = tournament().path / "tournament.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **damage}))
    for verb in ("resume", "rate"):
        assert main(["tournament", verb, "t"]) == 2
        output = capsys.readouterr()
        assert output.out == "" and output.err.count("\n") == 1 and len(output.err) < 400


INVALID_COMMANDS = {
    "tic_tac_to random scripted": "no world 'tic_tac_to'; did you mean 'tic_tac_toe'?",
    "tic_tac_toe randm scripted": "no entrant 'randm'; did you mean 'random'?",
    "tic_tac_toe minmax:depth=3 scripted": "no entrant 'minmax:depth=3'; did you mean 'minimax'?",
    "tic_tac_toe mcts:simulation=3 random": "no option 'simulation=3'; did you mean 'simulations'?",
    "tic_tac_toe mcts:simulations=few random": "simulations=few is not of type int",
    "tic_tac_toe mcts:simulations=0 random": "expected 1 to",
    "tic_tac_toe scripted:strength=good random": "expected expert or novice",
    "tic_tac_toe random random": "two entrants are called random; give one another name: NAME=random",
    "tic_tac_toe random a/b=random": "no entrant",
    "tic_tac_toe random": "at least two entrants",
    "tic_tac_toe ppo random": "must be trained first",
    "tic_tac_toe some/net.onnx random": "ONNX files are not supported yet",
    "tic_tac_toe nowhere:f random": "cannot import nowhere",
    "tic_tac_toe broken:f random": "cannot load broken:f: ZeroDivisionError",
    "tic_tac_toe math:pi random": "math:pi is not a function",
    "tic_tac_toe random scripted --schedule swis": "no schedule 'swis'; did you mean 'swiss'?",
    "tic_tac_toe random scripted --pairs 0": "--pairs is 0",
    "tic_tac_toe random scripted --workers 0": "--workers is 0",
    "tic_tac_toe random scripted --timeout nan": "--timeout is nan",
    "tic_tac_toe random scripted world.params.x=1": "no parameter 'x'",
    "tic_tac_toe random scripted world.params.x=a": "no parameter 'x'",
    "kuhn_poker random mcts": "must not look into kuhn_poker",
    "cartpole random scripted": "has one agent",
    "resume nothing": "no tournament nothing",
    "resume": "takes DIR",
    "replay nothing": "takes DIR MATCH",
    "report nothing": "no tournament nothing",
    "compare tic_tac_toe random": "compare takes WORLD ENTRANT ENTRANT, or DIR NAME NAME",
    "compare tic_tac_to random scripted": "no world or tournament 'tic_tac_to'; did you mean 'tic_tac_toe'?",
    "compare tic_tac_toe random scripted --elo1 -5": "expected elo0 < elo1",
    "compare tic_tac_toe random scripted --beta 0.7": "expected elo0 < elo1, and alpha and beta between",
    "compare tic_tac_toe random scripted --max-pairs 0": "--max-pairs is 0",
}


@pytest.mark.parametrize("words", INVALID_COMMANDS)
def test_mistakes_are_one_line_and_leave_nothing(
    words: str, capsys: pytest.CaptureFixture[str], working_folder: Path
) -> None:
    (working_folder / "broken.py").write_text("1 / 0\n")
    assert main(["tournament", *words.split()]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1 and INVALID_COMMANDS[words] in output.err
    assert not list(working_folder.glob("**/tournament.json"))


def test_the_command_plays_and_prints(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tic_tac_toe", "random", "--pairs", "2", "scripted", "--json"]
    assert main(["tournament", *words]) == 0
    result = json.loads(capsys.readouterr().out)
    assert Path(result["dir"]).parent == Path("runs/tournaments") and Path(result["dir"]).name.startswith(
        "tic_tac_toe-"
    )
    assert (result["matches"], result["missing"], result["faults"], result["world"]) == (4, 0, 0, "tic_tac_toe")
    assert [row["name"] for row in result["table"]] == ["scripted", "random"]
    assert main(["tournament", *words[:-1], "--dir", result["dir"]]) == 2
    assert "go on with: rl-lab tournament resume" in capsys.readouterr().err
    assert main(["tournament", "rate", "tic_tac_toe"]) == 0
    assert capsys.readouterr().out.startswith("tic_tac_toe: all 4 matches of the schedule (round-robin) were played\n")
    assert os.listdir(result["dir"]).sort() == ["matches.jsonl", "tournament.json"].sort()
