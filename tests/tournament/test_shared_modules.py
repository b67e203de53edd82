"""Tests that modules of one entrant's folder do not replace another entrant's modules, or Python's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rl_lab.tournament.isolation import IsolationError, play_isolated
from rl_lab.tournament.ledger import Match
from rl_lab.tournament.runner import run_tournament
from rl_lab.tournament.store import create


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def play_tournament(*words: str, name: str = "t", workers: int = 1, **more: Any) -> list[Match]:
    settings = {"pairs": 1, "seed": 5, "timeout": 5.0, **more}
    return run_tournament(create(words, "tic_tac_toe", {}, path=Path(name), **settings), workers=workers).matches


class _EngineWithLargeOutput:
    """An engine whose process sends 64 MiB during a call of an entrant, and in the next process the fault."""

    call_record: Any = None

    def play(self, tasks: Any) -> Any:
        self.call_record.begin(0, 0.0)
        if self.call_record.crash_at_call is not None:
            raise RuntimeError(self.call_record.crash_at_call[1][1])
        return [SimpleNamespace(match=SimpleNamespace(line=lambda: "x" * 2**26))]


def test_a_match_that_sends_without_end_is_a_crash() -> None:
    with pytest.raises(IsolationError, match="its process ended: it sent more than 1,048,576 bytes"):
        play_isolated(cast(Any, _EngineWithLargeOutput()), cast(Any, SimpleNamespace(id="m")))


AGENT = """
import utils
from lib import deep
{more}
def choose(observation, action_mask):
    import late
    assert (utils.OWNER, deep.OWNER, late.OWNER) == ("{owner}",) * 3, (utils.OWNER, deep.OWNER, late.OWNER)
    import utils as again
    assert again is utils
    return int(action_mask.argmax())

class Whole:
    def __init__(self):
        import made
        assert made.OWNER == "{owner}"

    def act(self, observations, *, action_mask=None, **asked):
        assert [choose(o, l) for o, l in zip(observations, action_mask)] and utils.count() == 1
        return action_mask.argmax(axis=1), None
"""


def _write_agent_folder(folder: Path, more: str = "") -> None:
    owner = folder.name
    (folder / "lib").mkdir(parents=True)
    (folder / "agent.py").write_text(AGENT.format(owner=owner, more=more))
    for name in ("utils.py", "late.py", "made.py", "lib/deep.py"):
        (folder / name).write_text(f"OWNER = {owner!r}\ndef count():\n    return 1\n")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("more", ["", "import os, sys; sys.path.insert(0, os.path.dirname(__file__))"])
def test_each_entrant_has_the_helpers_beside_it(workers: int, more: str, working_folder: Path) -> None:
    for owner in ("alice", "bob", "carol"):
        _write_agent_folder(working_folder / owner, more)
    (working_folder / "utils.py").write_text("OWNER = 'nobody'\n")
    (working_folder / "plain.py").write_text(
        "import utils\ndef choose(o, action_mask):\n"
        "    assert utils.OWNER == 'nobody'\n    return int(action_mask.argmax())\n"
    )
    words = ["alice=alice/agent.py:choose", "bob=bob/agent.py:choose", "carol=carol/agent.py:Whole"]
    words += ["bobs=bob/agent.py:Whole", "plain=plain.py:choose", "random"]
    matches = play_tournament(*words, name="t", workers=workers)
    assert len(matches) == 30 and [match.fault for match in matches if match.fault] == []


def test_an_added_folder_is_the_entrants_own(working_folder: Path) -> None:
    for owner in ("alice", "bob"):
        (working_folder / owner / "more").mkdir(parents=True)
        (working_folder / owner / "more" / "tool.py").write_text(f"OWNER = {owner!r}\n")
        (working_folder / owner / "agent.py").write_text(
            "import os, sys\nsys.path.append(os.path.join(os.path.dirname(__file__), 'more'))\nimport tool\n"
            f"def choose(o, action_mask):\n    import tool\n    assert tool.OWNER == {owner!r}\n"
            "    return int(action_mask.argmax())\n"
        )
    path_before = list(sys.path)
    matches = play_tournament("alice=alice/agent.py:choose", "bob=bob/agent.py:choose")
    assert len(matches) == 2 and [match.fault for match in matches if match.fault] == []
    assert sys.path == path_before and "tool" not in sys.modules


PYTHONS = "random json pickle secrets statistics colorsys select socket subprocess".split()


@pytest.mark.parametrize("workers", [1, 2])
def test_entrants_called_like_modules_of_pythons_take_no_place(workers: int, working_folder: Path) -> None:
    bot = (
        "open('ran', 'a').close()\ndef choose(o, action_mask):\n    import colorsys\n    colorsys.rgb_to_hls(0, 0, 0)\n"
    )
    for name in PYTHONS:
        (working_folder / f"{name}.py").write_text(f"{bot}    return int(action_mask.argmax())\n")
    matches = play_tournament("one=./random.py:choose", "two=json.py:choose", "random", workers=workers)
    assert len(matches) == 6 and [match.fault for match in matches if match.fault] == []
    assert all(getattr(sys.modules.get(n), "__file__", None) != str(working_folder / f"{n}.py") for n in PYTHONS)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_files_in_the_folder_are_not_run_by_the_labs_processes(workers: str, working_folder: Path) -> None:
    for name in PYTHONS:
        (working_folder / f"{name}.py").write_text("open('ran', 'a').close()\n")
    (working_folder / "sub").mkdir()
    (working_folder / "sub" / "bot.py").write_text(
        "def choose(o, action_mask):\n    return int(action_mask.argmax())\n"
    )
    words = ["tournament", "tic_tac_toe", "one=sub/bot.py:choose", "random", "--pairs", "1"]
    done = subprocess.run(
        [Path(sys.executable).parent / "rl-lab", *words, "--workers", workers, "--dir", "t"],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0 and not (working_folder / "ran").exists(), done.stderr
