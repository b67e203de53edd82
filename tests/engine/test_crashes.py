"""These tests check kernels that would end the process: most are refused before they run, the rest is explained."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.walk_world import LINE_OF_OBSERVE, MOVE_IN_STEP, WALK

PROGRAM = """
import importlib, sys
import rl_lab.cli
from rl_lab.engine.batch import Batch
from rl_lab.core.world import WorldError
try:
    batch = Batch(importlib.import_module("crashing").world, 4, threads=1)
    batch.reset()
    for _ in range(2000):
        batch.random_actions()
        batch.step()
except WorldError as error:
    print(error)
"""
REFUSED = {
    "a write far outside, in reset": (
        "    s.x = integers(s, 3)\n",
        "    s.x = integers(s, 3)\n    s.seen[s.x + 900_000_000] = 1\n",
        "is not in 0 to 9",
    ),
    "a write far outside, in step": (
        MOVE_IN_STEP,
        f"{MOVE_IN_STEP}    s.seen[s.t * 900_000_000] = 1\n",
        "is not in 0 to 9",
    ),
    "a read far outside, in observe": (
        LINE_OF_OBSERVE,
        f"{LINE_OF_OBSERVE}    out[1] = s.seen[s.x * 90_000_000 + 50]\n",
        "is not in 0 to 9",
    ),
    "a kernel that calls itself": (MOVE_IN_STEP, "    observe(s, p, s.seen)\n", "calls itself"),
    "an expert far outside": ("    return 2\n", "    return s.seen[s.x - 900_000_000]\n", "is not in 0 to 9"),
}


def play(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "crashing.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    words = [sys.executable, "-c", PROGRAM]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=250)


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_end_the_process_is_refused_with_file_and_line(name: str, tmp_path: Path) -> None:
    right, wrong, said = REFUSED[name]
    text = WALK.replace(right, wrong, 1)
    if name == "a kernel that calls itself":
        text = text.replace(LINE_OF_OBSERVE, f"{LINE_OF_OBSERVE}    observe(s, p, out)\n")
    assert text != WALK
    done = play(text, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'crashing.py'}:") and said in done.stdout
    assert done.stdout.count("\n") == 1


def test_what_shows_only_later_is_explained(tmp_path: Path) -> None:
    late = f"{MOVE_IN_STEP}    if s.t > 700:\n        s.seen[s.t * 900_000_000] = 1\n"
    done = play(
        WALK.replace(MOVE_IN_STEP, late).replace("horizon=30", "horizon=0").replace("s.x == p.length\n", "s.t > 900\n"),
        tmp_path,
    )
    assert done.returncode == 1 and done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("rl-lab: machine code crashed") and "rl-lab check" in lines[0]
