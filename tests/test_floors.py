"""The floor plan: imports go down only, heavy packages are imported late and in one place, and starting is quick."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS: dict[int, str] = {
    0: "record kernel rng trig names layout desk",
    1: "world worlds mistakes engine pace chance stepping loops lanes episode columns compiler canvas playout uct "
    "alphabeta fast",
    2: "batch agent adapters search",
    # 3: everything else in rl_lab
    4: "envs agents",
    5: "cli commands __init__",  # __init__ registers the worlds with Gymnasium; nothing imports from it
}
# Pictures are made one floor up: a Gymnasium or SB3 user asks an adapter for them, which fetches the artist then.
UPWARDS = {(f"adapters.{name}", "picture") for name in ("gymnasium", "sb3", "shown")}
# Who imports what is slow to import or drags much along: at the top of a file only in adapters/.
OWNERS = {
    "torch": "adapters.sb3_agent adapters.sb3_fast adapters.sb3_learner adapters.sb3_plan adapters.sb3_policy "
    "adapters.sb3_rows adapters.sb3_state assembly bench.learning doctor exploit run trained",
    "stable_baselines3": "adapters.sb3 adapters.sb3_agent adapters.sb3_ahead adapters.sb3_fast adapters.sb3_fast_dqn "
    "adapters.sb3_greedy adapters.sb3_learner adapters.sb3_normal adapters.sb3_plan adapters.sb3_policy "
    "adapters.sb3_rows adapters.sb3_state adapters.sb3_zip agents.dqn agents.ppo bench.learning",
    "sb3_contrib": "adapters.sb3_agent adapters.sb3_fast adapters.sb3_learner adapters.sb3_plan adapters.sb3_rows "
    "adapters.sb3_zip",
    "greenlet": "team",
    "pygame": "adapters.pygame_canvas adapters.window",
    "moviepy": "adapters.mp4",
    "tensorboard": "",  # through torch.utils.tensorboard, in run
    "hydra": "scenario",
    "omegaconf": "casting recipe run scenario",
    "numba": "columns compiler doctor engine fast.vectors",
    "sbx": "bench.learning",
    "flax": "bench.learning",
    "ray": "",
    "pettingzoo": "adapters.pettingzoo adapters.pettingzoo_games adapters.registration check_env driver",
    "mpe2": "adapters.pettingzoo_games",
}
FILES = {".".join(p.relative_to(ROOT / "rl_lab").with_suffix("").parts): p for p in (ROOT / "rl_lab").rglob("*.py")}
FILES |= {f"{d}.{p.stem}": p for d in ("envs", "agents") for p in (ROOT / d).rglob("*.py")}


def floor(module: str) -> int:
    return next((k for k, names in FLOORS.items() if module.split(".")[0] in names.split()), 3)


def imports(module: str) -> Iterator[tuple[str, bool]]:
    """Yield what a file imports, rl_lab's modules without that prefix, and whether only once a function runs."""

    def walk(node: ast.AST, late: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            typing = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            if isinstance(child, ast.Import):
                yield from ((alias.name.removeprefix("rl_lab."), late) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                parts = module.split(".")[: -child.level] if child.level else []
                base = ".".join([*parts, *filter(None, [child.module])]).removeprefix("rl_lab.").removeprefix("rl_lab")
                for alias in child.names:
                    whole = f"{base}.{alias.name}".strip(".")
                    yield (whole if whole in FILES or f"{whole}.__init__" in FILES else base), late
            elif not typing:
                yield from walk(child, late or isinstance(child, ast.FunctionDef | ast.Lambda))

    yield from walk(ast.parse(FILES[module].read_text()), False)


def ours(target: str) -> bool:
    return target in FILES or f"{target}.__init__" in FILES


@pytest.mark.parametrize("module", FILES)
def test_imports_go_down(module: str) -> None:
    for target, late in imports(module):
        if not ours(target):
            continue
        here, there = floor(module), floor(target)
        if here == 4:  # tenants do not know each other
            assert there <= (1 if module.startswith("envs") else 3) or target.split(".")[0] == module.split(".")[0]
        elif (module, target) in UPWARDS:
            assert late, f"{module} imports {target} before it is needed"
        else:
            assert there <= here, f"{module} (floor {here}) imports {target} (floor {there})"


@pytest.mark.parametrize("package", OWNERS)
def test_heavy_packages_are_imported_by_their_owners_and_late(package: str) -> None:
    found = {module: late for module in FILES for name, late in imports(module) if name.split(".")[0] == package}
    assert set(found) == set(OWNERS[package].split())
    assert {module for module, late in found.items() if not late and not module.startswith("adapters.")} == set()


def test_the_exceptions_are_needed_and_the_lowest_floors_stand_on_numpy() -> None:
    assert {(m, t) for m in FILES for t, _ in imports(m) if floor(t) > floor(m) and ours(t)} == UPWARDS
    known = {"numpy", "gymnasium", "platformdirs", "numba", "llvmlite", *sys.stdlib_module_names}
    for module in (m for m in FILES if floor(m) < 2 or m.startswith("envs.")):
        allowed = {"numpy", *sys.stdlib_module_names} if floor(module) != 1 else known
        assert {t.split(".")[0] for t, _ in imports(module) if t and not ours(t)} <= allowed, module


START = {"import rl_lab": ["-c", "import rl_lab"], "rl-lab --help": ["-m", "rl_lab.cli", "--help"]}
OVER_GYMNASIUM = 1.6  # measured: 1.0 to 1.15


@pytest.mark.parametrize("command", START.values(), ids=START)
def test_starting_takes_little_more_than_importing_gymnasium(command: list[str], tmp_path: Path) -> None:
    """Side by side, since machines differ; test_training_slow.py holds the seconds of a quiet one."""
    ours, theirs = [], []
    for _ in range(5):
        for words, seconds in ((command, ours), (["-c", "import gymnasium"], theirs)):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *words], cwd=tmp_path, check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            # Processor time: other work on the machine lengthens what the clock on the wall shows, not this.
            seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(ours) < OVER_GYMNASIUM * min(theirs), (ours, theirs)


@pytest.mark.parametrize("program", ["import rl_lab", "import rl_lab.cli as c; c.parser().format_help()"])
def test_starting_loads_nothing_heavy(program: str, tmp_path: Path) -> None:
    heavy = tuple(OWNERS)
    check = f"{program}\nimport sys; print(sorted(m for m in {heavy} if m in sys.modules), 'rl_lab' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", check], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[] True"


@pytest.mark.parametrize("name", ["envs", "agents"])
def test_the_bare_import_is_refused(name: str) -> None:
    program = [sys.executable, "-c", f"import {name}"]
    result = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1 and f"ImportError: import it as rl_lab.{name} (" in result.stderr
