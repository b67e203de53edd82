"""Tests of the HTML report: its data, its replays, and that nothing of a tournament is executed in the browser."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from rl_lab.adapters.make import make
from rl_lab.cli import main
from rl_lab.core.canvas import Canvas
from rl_lab.core.record import PlainRecord
from rl_lab.engine import world_registry
from rl_lab.rendering.json_canvas import JsonCanvas
from rl_lab.rendering.pygame_canvas import PygameCanvas
from rl_lab.tournament.ledger import read
from rl_lab.tournament.replay_frames import record
from rl_lab.tournament.report import select_games, surprise, write
from rl_lab.tournament.runner import run_tournament
from rl_lab.tournament.store import create, load
from rl_lab.tournament.summary import summarize

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def play_tournament(*words: str, world: str = "tic_tac_toe", **options: Any) -> Any:
    outcome = run_tournament(create(words, world, {}, path=Path("t"), **{"pairs": 4, "seed": 5, **options}))
    return outcome.tournament, outcome.matches


def report(*words: str) -> dict[str, Any]:
    """Return the data of the page."""
    assert main(["tournament", "report", "t", *words]) == 0
    page = Path("t/report.html").read_text()
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])  # type: ignore[index]


def frames_of(game: dict[str, Any], shapes: list[Any]) -> list[list[Any]]:
    """Return a game's frames as the page makes them."""
    frames: list[list[int]] = [[]]
    for start, end, *middle in game["frames"]:
        last = frames[-1]
        frames.append([*last[:start], *middle, *last[len(last) - end :]])
    return [[shapes[k] for k in frame] for frame in frames[1:]]


@pytest.mark.parametrize("world", ["tic_tac_toe", "connect_four", "simple_tag", "kuhn_poker"])
def test_frames_are_what_the_world_draws(world: str) -> None:
    tournament, matches = play_tournament("random", "other=random:seed=1", world=world, pairs=1)
    recording = record(tournament, matches)
    assert set(recording.games) == {match.id for match in matches} and not recording.missing
    batch = make(world, 1, {}, threads=1)
    batch.seed(np.array([matches[0].seed]))
    batch.reset()
    canvas = JsonCanvas()
    world_registry.load(world).draw(PlainRecord(batch.states[0]), PlainRecord(batch.params[0]), canvas)  # type: ignore[misc]
    game = recording.games[matches[0].id]
    frames = frames_of(game, [json.loads(shape) for shape in recording.shapes])
    assert frames[0] == json.loads(json.dumps(canvas.shapes))
    assert len(frames) == 1 + -(-matches[0].steps // game["every"]) and frames[0] != frames[-1]
    assert len(set(recording.shapes)) == len(recording.shapes)


def test_a_json_canvas_is_short_and_holds_every_shape() -> None:
    def draw(canvas: Canvas) -> None:
        canvas.view(0, 0, 10, 5)
        canvas.clear((1, 2, 3))
        canvas.circle(1 / 3, 2, 0.5, (255, 0, 0), (0, 0, 0, 128), 0.1)
        canvas.line([(0, 0), (1.00004, float("nan"))], (0, 0, 0))
        canvas.polygon([(0, 0), (1, 0), (0, 1)], (9, 9, 9))
        canvas.rectangle(1, 1, 2, 2, (9, 9, 9, 255), 0.5)
        canvas.text(1, 1, "<b>", 1)

    canvas = JsonCanvas()
    draw(canvas)
    assert canvas.shapes == [
        ["v", 0, 0, 10, 5],
        ["k", "#010203"],
        ["c", 0.333, 2, 0.5, "#ff0000", "#00000080", 0.1],
        ["l", [0, 0, 1, 1e9], "#000000", 0],
        ["p", [0, 0, 1, 0, 0, 1], "#090909"],
        ["r", 1, 1, 2, 2, "#090909", 0.5, 0],
        ["t", 1, 1, "<b>", 1, "#262b33", "center"],
    ]
    for canvas in (JsonCanvas(), PygameCanvas(8, 8)):
        with pytest.raises(ValueError, match="has no area"):
            canvas.view(0, 0, 0, 1)


def test_what_is_watched_first() -> None:
    tournament, matches = play_tournament("random", "scripted", "other=random:seed=1", pairs=30)
    elo = {"random": 0.0, "other": 0.0, "scripted": 400.0}
    probs = {match.id: surprise(match, elo) for match in matches}
    for match in matches:
        best = [name for name in match.pairing if match.rank(name) == 1]
        if len(best) == 2:
            assert probs[match.id] is None
        elif "scripted" in match.pairing:
            assert probs[match.id] == pytest.approx(1 / 11 if best == ["scripted"] else 10 / 11)
    order = select_games(matches, probs, len(matches))
    assert sorted(m.id for m in order) == [m.id for m in matches]
    kinds = {(match.entrants, match.ranks) for match in matches}
    first = order[: len(kinds)]
    assert {(match.entrants, match.ranks) for match in first} == kinds  # each way in which each pairing came out
    rare = [probs[match.id] or 0.0 for match in first]
    assert rare == sorted(rare, reverse=True)
    assert [match.id for match in select_games(matches, probs, 5)] == [match.id for match in order[:5]]


def test_a_page_holds_all_numbers_and_their_games() -> None:
    tournament, matches = play_tournament("random", "scripted", "other=random:seed=1")
    data = report("--games", "10", "--anchor", "random")
    assert data["summary"] == json.loads(json.dumps(summarize(tournament, matches, 24, anchor="random")))
    assert len(data["rows"]) == 24 and len(data["watch"]) == 10 and not data["unlisted"]
    ids = {match.id: match for match in matches}
    for seating, pair, leg, result, steps, _ in data["rows"]:
        pairing, entrants_at_seats = ([data["names"][k] for k in each] for each in data["seatings"][seating])
        match = ids.pop(f"{'~'.join(pairing)}/{pair}/{leg}")
        assert (list(match.entrants), match.steps) == (entrants_at_seats, steps)
        assert data["results"][result] == [list(match.ranks), match.ending]
    assert not ids and all(k < 10 for k in data["notable"])  # those to be watched come first


def test_a_page_loads_nothing_and_runs_nothing_of_what_it_shows() -> None:
    tournament, _ = play_tournament("random", "scripted")
    ledger = tournament.ledger.read_text()
    tournament.ledger.write_text(ledger.replace('"random', json.dumps(EVIL)[:-1]))
    matches = read(tournament.ledger)
    assert all(EVIL in match.pairing for match in matches)
    path, recording = write(tournament, matches, summarize(tournament, matches, 8))
    page = path.read_text()
    assert EVIL not in page and page.count("<script") == page.count("</script>") == 2 and "<img" not in page
    assert not re.findall(r"(?:src|href)=.?(?:https?:)?//|@import|url\((?!#)", page)
    assert "default-src 'none'" in page
    assert not recording.games and recording.missing == [f"games of {EVIL}: it is no entrant of this tournament"]
    if BROWSER:
        dom = browse("")
        assert html.escape(EVIL) in dom and "<img" not in dom


def test_code_and_what_has_changed_is_not_played() -> None:
    bot = "def low(observation, legal):\n    return int(legal.argmax())\n"
    Path("bots.py").write_text("import pathlib\npathlib.Path('ran').touch()\n" + bot)
    play_tournament("random", "scripted", "low=bots.py:low", pairs=2)
    Path("ran").unlink(missing_ok=True)
    data = report()
    assert not Path("ran").exists() and len(data["watch"]) == 4
    assert data["missing"] == ["games of low: it is code, which runs only if you say so (--code)"]
    assert len(report("--code")["watch"]) == 12
    Path("bots.py").write_text(bot)
    assert report("--code")["missing"] == ["games of low: it has changed since, or is gone"]
    ledger = load("t").ledger
    ledger.write_text(re.sub(r'"trace": "....', '"trace": "0000', ledger.read_text()))
    assert report()["missing"][1] == "4 games came out differently when they were played again"


def test_a_world_that_draws_nothing_has_a_report_all_the_same() -> None:
    play_tournament("random", "other=random:seed=1", world="pettingzoo:classic/tictactoe_v3", pairs=1)
    assert "no drawing" in report()["missing"][0]


def test_the_bot_of_the_readme_plays_and_beats_random(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    (bot,) = [code for code in re.findall(r"```python\n(.*?)```", text, re.S) if "def tower(" in code]
    Path("bots.py").write_text(bot)
    capsys.readouterr()
    assert main("tournament connect_four mine=bots.py:tower random --pairs 20 --json".split()) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["faults"] == 0 and result["table"][0]["name"] == "mine" and result["table"][0]["score"] > 0.8


def browse(fragment: str) -> str:
    """Return the page as the browser has it two seconds later; nothing may be written to its console."""
    address = Path("t/report.html").resolve().as_uri() + fragment
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=profile", "--enable-logging=stderr"]
    words += ["--virtual-time-budget=2500", "--dump-dom", address]
    done = subprocess.run([str(BROWSER), *words], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium here")
def test_numbers_lead_to_games_that_play() -> None:
    _, matches = play_tournament("random", "scripted", "novice=scripted:strength=novice", pairs=6)
    report("--games", "12")
    page = browse("")
    for words in (
        "complete: all 36 matches",
        "no forfeits",
        "Who beats whom",
        "Decisive games",
        'class="edge',
        "<circle",
    ):
        assert words in page
    leaders = re.search(r'class="board">(.*?)</section>', page, re.S)[1]  # type: ignore[index]
    heat = re.search(r'class="heat">(.*?)</table>', page, re.S)[1]  # type: ignore[index]
    links = [html.unescape(each) for each in re.findall(r'href="(#games[^"]*)"', leaders)]
    assert len(links) == 3 * 9 and len(re.findall(r'href="#games', heat)) == 6
    lost = next(link for link in links if "result=lost" in link and "entrant=2" in link)
    listed = browse(lost)
    worst = summarize(load("t"), matches, 36)["table"][2]
    assert f"{worst['name']} lost: {worst['losses']} games" in listed
    inside = listed[listed.index("<dialog") :]
    games = [html.unescape(each) for each in re.findall(r'href="(#game=[^"]*)"', inside)]
    assert len(games) == worst["losses"] and "▶ watch" in inside
    page = browse(games[0])
    steps = re.search(r"<output>step (\d+) of (\d+)</output>", page)
    assert steps is not None and 0 < int(steps[1]) <= int(steps[2])  # it has moved on by itself
    unseen = next(m.id for m in matches if quote(m.id, safe="") not in page)
    assert "rl-lab tournament replay t" in browse("#game=" + quote(unseen, safe=""))
    assert "no such game" in browse("#game=nothing")


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium here")
def test_cycles_are_shown() -> None:
    tournament, matches = play_tournament("a=random", "b=random:seed=1", "c=random:seed=2", pairs=3)
    prey = {"a": "b", "b": "c", "c": "a"}
    lines = []
    for match in matches:
        one, other = match.entrants
        ranks = (1, 2) if prey[one] == other else (2, 1)
        lines.append(dataclasses.replace(match, ranks=ranks).line() + "\n")
    tournament.ledger.write_text("".join(lines))
    data = report()
    assert data["summary"]["theory"]["cyclic_share"] == pytest.approx(1.0)
    page = browse("")
    assert "1 cycle of three" in page and page.count('class="edge hot"') == 3
    assert "the Smith set is" in page and re.search(r"Not here: \d+ games came out differently", page)


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium here")
def test_the_board_is_painted() -> None:
    """The page's picture of the end of a game has the colours that the world draws it in."""
    _, matches = play_tournament("random", "scripted", world="connect_four", pairs=1)
    report()
    address = Path("t/report.html").resolve().as_uri() + "#game=" + quote(matches[0].id, safe="")
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=profile", "--virtual-time-budget=20000"]
    words += ["--window-size=1000,900", "--screenshot=shot.png", address]
    subprocess.run([str(BROWSER), *words], capture_output=True, timeout=120, check=True)
    import pygame

    pixels = pygame.surfarray.array3d(pygame.image.load("shot.png")).reshape(-1, 3)
    assert (np.abs(pixels - np.array([45, 104, 190])).max(axis=1) < 3).mean() > 0.05  # the blue panel
