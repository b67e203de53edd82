"""Test that a packed setup plays the same matches in a folder that has none of the user's files."""

from __future__ import annotations

import pickle
import shutil
import sys
from pathlib import Path

import pytest
from support.commands import run_command

from rl_lab.engine import user_code
from rl_lab.tournament.ledger import Match
from rl_lab.tournament.matches import MatchEngine, MatchSetup
from rl_lab.tournament.packed_setup import pack_setup
from rl_lab.tournament.store import Tournament, create

TINY = "budget=128 worlds=2 agent.n_steps=64 agent.batch_size=64 agent.n_epochs=1 device=cpu video=false "
TINY += "evaluation.episodes=2 evaluation.selections=1 evaluation.selection_episodes=1 run_dir=runs/p"
BOT = "def low(observation, action_mask):\n    return int(action_mask.argmax())\n"
NIM = "from support.nim import NIM\nfrom rl_lab.core.world import World\nworld = World(**NIM)\n"


def matches(setup: MatchSetup, tournament: Tournament) -> list[Match]:
    tasks = tournament.make_schedule().missing({})
    return sorted((each.match for each in MatchEngine(setup).play(tasks)), key=lambda match: match.id)


def test_what_a_user_has_made_plays_where_it_has_never_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    this_machine, other_machine = tmp_path / "here", tmp_path / "there"
    (this_machine / "my_bots").mkdir(parents=True)
    other_machine.mkdir()
    for name, text in {"nim.py": NIM, "bots.py": BOT, "my_bots/good.py": BOT}.items():
        (this_machine / name).write_text(text)
    monkeypatch.chdir(this_machine)
    monkeypatch.setattr(sys, "path", list(sys.path))
    run_command("train", "nim.py", "agent=ppo", *TINY.split())
    (step,) = (int(path.name[5:]) for path in Path("runs/p/agent").glob("step-*"))
    words = ["p", f"at=p@{step}", "p:sample=true", "bots.py:low", "my_bots.good:low", "random"]
    tournament = create(words, "nim.py", {}, pairs=2)
    packed, expected = pickle.dumps(pack_setup(tournament.setup())), matches(tournament.setup(), tournament)
    user_code.reset_permissions(None)
    monkeypatch.chdir(other_machine)
    shutil.rmtree(this_machine)
    for module in ("my_bots", "my_bots.good"):
        sys.modules.pop(module, None)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _: other_machine / "cache")
    assert matches(pickle.loads(packed).unpack(), tournament) == expected
