"""Tests that `rl-lab check` finds mistakes which only stepping shows, and passes a correct world in any folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support.walk_world import MOVE_IN_STEP, RETURN_OF_STEP, WALK

from rl_lab.checks.subject import RULES
from rl_lab.cli import main

DRAW = """

def draw(s: State, p: Params, canvas) -> None:
    canvas.view(0, 0, 10, 1)
    canvas.circle(s.x, 0.5, 0.3, (0, 0, 0))
"""
WALK_WITH_DRAW = WALK.replace("\n\nworld = ", f"{DRAW}\n\nworld = ").replace(
    "    expert=expert,\n", "    expert=expert,\n    draw=draw,\n"
)
HELPER = "\n\n@kernel\ndef finish(s: State, p: Params):\n    return {}\n\n\n@kernel\ndef reset("
MISTAKES = {
    "what another kernel returns is swapped": (
        RULES,
        WALK.replace(RETURN_OF_STEP, "    return finish(s, p)\n").replace(
            "\n\n@kernel\ndef reset(", HELPER.format("s.x == 9, 0.0")
        ),
        "terminated comes first",
    ),
    "what another kernel returns has five parts": (
        RULES,
        WALK.replace(RETURN_OF_STEP, "    return finish(s, p)\n").replace(
            "\n\n@kernel\ndef reset(", HELPER.format("0.0, False, False, 0, 0")
        ),
        "something else than (reward, terminated)",
    ),
    "another kernel writes a parameter": (
        RULES,
        WALK.replace(MOVE_IN_STEP, f"    finish(s, p)\n{MOVE_IN_STEP}").replace(
            "\n\n@kernel\ndef reset(", HELPER.replace("return {}", "p.wind = 0.5")
        ),
        "Params are the user's",
    ),
    "a parameter is written through another name": (
        RULES,
        WALK.replace(MOVE_IN_STEP, f"    q = p\n    q.wind = 0.5\n{MOVE_IN_STEP}"),
        "Params are the user's",
    ),
    "draw raises": ("it can be drawn", WALK_WITH_DRAW.replace("canvas.circle(", "canvas.cirle("), "cirle"),
    "draw raises at the end": (
        "it can be drawn",
        WALK_WITH_DRAW.replace("    canvas.circle(s.x,", "    canvas.circle(s.x if s.x < 9 else s.goal,"),
        "goal",
    ),
    "draw changes the state": (
        "it can be drawn",
        WALK_WITH_DRAW.replace("    canvas.view(0, 0, 10, 1)\n", "    canvas.view(0, 0, 10, 1)\n    s.x = 0\n"),
        "it may only look",
    ),
}


def check(target: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    status = main(["check", target, "--quick", "--json"])
    output = json.loads(capsys.readouterr().out.splitlines()[-1])
    return status, {p["name"]: p["findings"] for p in output["properties"] if p["status"] == "fail"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests write a world: those that differ in no kernel have one name, and are compiled once."""
    folder = tmp_path_factory.mktemp("worlds") / "mine"
    folder.mkdir()
    return folder / "walk_of_mine.py"


@pytest.mark.parametrize("name", MISTAKES)
def test_what_only_playing_shows(
    name: str, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing, text, message = MISTAKES[name]
    assert text not in (WALK, WALK_WITH_DRAW)
    file.write_text(text)
    monkeypatch.chdir(file.parent)
    status, failed = check(f"{file.name}:world", capsys)
    sys.modules.pop(file.stem, None)
    assert status == 1 and failing in failed
    assert any(message in finding and file.name in finding for finding in failed[failing]), failed


@pytest.mark.parametrize(
    "location", ["from its own folder", "from the folder above", "by its whole path", "with a neighbour"]
)
def test_a_right_world_passes_wherever_it_lies(
    location: str, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = WALK_WITH_DRAW
    if location == "with a neighbour":
        file.with_name("walk_parts.py").write_text("LAST = 9\n")
        text = WALK_WITH_DRAW.replace("import math\n", "import math\nfrom walk_parts import LAST\n")
        text = text.replace("0), 9)", "0), LAST)")
    file.write_text(text)
    monkeypatch.chdir(file.parent if location == "from its own folder" else file.parents[1])
    target = {"from its own folder": file.name, "by its whole path": str(file)}.get(location, f"mine/{file.name}")
    status, failed = check(f"{target}:world", capsys)
    sys.modules.pop(file.stem, None)
    assert (status, failed) == (0, {})


def test_properties_that_are_skipped_for_one_reason_share_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prints.py").write_text(WALK_WITH_DRAW.replace("    s.x = ", "    print(s.x)\n    s.x = ", 1))
    monkeypatch.chdir(tmp_path)
    assert main(["check", "prints.py:world"]) == 1
    sys.modules.pop("prints", None)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "fail  kernels keep the rules" and "print" in lines[2]
    skipped = [line for line in lines if line.startswith("skip")]
    assert "not run before kernels keep the rules" in skipped[0]
    assert skipped[1:] == ["skip  16 more, for the same reason"]
