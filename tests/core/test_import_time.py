"""These tests check that importing the package is quick and loads nothing heavy.

Worlds may import rl_lab.core alone; `make lint` checks the levels of all packages.
"""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = (
    *("torch", "stable_baselines3", "sb3_contrib", "greenlet", "pygame", "moviepy", "tensorboard", "hydra"),
    *("omegaconf", "numba", "sbx", "flax", "ray", "pettingzoo", "mpe2"),
)


@pytest.mark.parametrize("file", sorted((ROOT / "envs").glob("*.py")), ids=lambda file: file.stem)
def test_worlds_import_the_core_alone(file: Path) -> None:
    modules = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and not node.level:
            modules.append(str(node.module))
        elif isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
    foreign = [m for m in modules if m.split(".")[0] not in {*sys.stdlib_module_names, "numpy", "gymnasium", "rl_lab"}]
    assert not foreign
    assert not [m for m in modules if m.startswith("rl_lab") and not m.startswith(("rl_lab.core", "rl_lab.envs"))]


GYMNASIUM = "import gymnasium"
START = {
    GYMNASIUM: ["-c", GYMNASIUM],
    "import rl_lab": ["-c", "import rl_lab"],
    "rl-lab --help": ["-m", "rl_lab.cli", "--help"],
}
OVER_GYMNASIUM = 1.6  # measured: 1.0 to 1.15


def test_starting_takes_little_more_than_importing_gymnasium(tmp_path: Path) -> None:
    """Side by side, since machines differ; test_training_slow.py holds the seconds of a quiet one."""
    measured: dict[str, list[float]] = {name: [] for name in START}
    for _ in range(3):
        for words, seconds in zip(START.values(), measured.values(), strict=True):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *words], cwd=tmp_path, check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            # Processor time: other work on the machine lengthens what the clock on the wall shows, not this.
            seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    theirs = measured.pop(GYMNASIUM)
    for ours in measured.values():
        assert min(ours) < OVER_GYMNASIUM * min(theirs), (ours, theirs)


@pytest.mark.parametrize("program", ["import rl_lab", "import rl_lab.cli as c; c.parser().format_help()"])
def test_starting_loads_nothing_heavy(program: str, tmp_path: Path) -> None:
    check = f"{program}\nimport sys; print(sorted(m for m in {HEAVY} if m in sys.modules), 'rl_lab' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", check], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[] True"


@pytest.mark.parametrize("name", ["envs", "agents"])
def test_the_bare_import_is_refused(name: str) -> None:
    program = [sys.executable, "-c", f"import {name}"]
    result = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1 and f"ImportError: import it as rl_lab.{name} (" in result.stderr
