"""Slow tests of training: scenarios reach their expected returns, memory does not grow, and starts are fast."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rl_lab.evaluation.stats import across_seeds
from rl_lab.experiments import scenario_parsing, scenario_yaml

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

SEEDS, MUST_REACH, TRAININGS_AT_ONCE = 5, 4, 2
SCENARIOS_AND_AGENTS = [
    (name, agent)
    for name in scenario_yaml.names()
    for agent in sorted(scenario_parsing.parse(name).expect)
    if name != "keys_and_doors"  # it is learned from demonstrations, and not from scratch
]
MAX_GROWTH_MIB = 24  # how much the resident memory may grow from a fifth of ten million steps to the last
FIRST_STEP_SECONDS, HELP_SECONDS, IMPORT_SECONDS = 3.0, 0.5, 0.3  # seconds, on a quiet machine


def rl_lab(*words: object) -> list[str]:
    return [sys.executable, "-m", "rl_lab.cli", *map(str, words)]


def train(name: str, agent: str, seed: int, folder: Path) -> dict[str, Any]:
    words = rl_lab("train", name, f"agent={agent}", f"seed={seed}", "video=false", f"run_dir={folder}", "--json")
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


# --- What the scenarios expect


@pytest.mark.parametrize("name, agent", SCENARIOS_AND_AGENTS)
def test_a_scenario_reaches_its_expected_return(
    name: str, agent: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Train with the command that a user would type; at least 4 of 5 seeds must reach the expected return."""
    expected = scenario_parsing.parse(name).expect[agent].mean_return
    with ThreadPoolExecutor(TRAININGS_AT_ONCE) as pool:
        results = list(pool.map(lambda seed: train(name, agent, seed, tmp_path / str(seed)), range(SEEDS)))
    returns = [result["mean_return"] for result in results]
    across = across_seeds(returns)
    with capsys.disabled():
        low, high = across["ci95"]
        print(f"\n{name} {agent}: expected {expected:g}; IQM {across['iqm']:.2f}, 95% interval {low:.2f} to {high:.2f}")
        for seed, result in enumerate(results):
            verdict = "reached" if result["mean_return"] >= expected else "NOT reached"
            rate = f"{result['steps']:,} steps in {result['seconds']:.0f} s"
            print(
                f"  seed {seed}  mean {result['mean_return']:9.2f}  min {result['min_return']:9.2f}  {rate}  {verdict}"
            )
    assert sum(value >= expected for value in returns) >= MUST_REACH


# --- A long run


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def last_step(metrics: Path) -> int:
    try:
        lines = metrics.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    complete_lines = [line for line in lines[-2:] if line.endswith("\n")]
    return int(json.loads(complete_lines[-1])["step"]) if complete_lines else 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="there is no /proc here")
@pytest.mark.parametrize(
    "setting",
    [
        "agent=ppo worlds=64 agent.n_steps=64 agent.batch_size=4096 agent.n_epochs=1",
        "agent=dqn worlds=16 agent.buffer_size=10000 agent.train_freq=64 agent.gradient_steps=8",
    ],
    ids=["ppo", "dqn"],
)
def test_memory_does_not_grow_over_ten_million_steps(setting: str, tmp_path: Path) -> None:
    words = f"budget=10_000_000 checkpoint.steps=500_000 video=false evaluation.episodes=10 {setting}".split()
    command = rl_lab("train", "cartpole", *words, f"run_dir={tmp_path / 'run'}", "--json")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    samples: list[tuple[int, float]] = []
    while process.poll() is None:
        step = last_step(tmp_path / "run" / "metrics.jsonl")
        try:
            samples.append((step, resident_mib(process.pid)))
        except (FileNotFoundError, ProcessLookupError, IndexError):
            break
        if step >= 10_000_000:
            break
        time.sleep(0.05)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    early = [mib for step, mib in samples if 2_000_000 <= step < 3_000_000]
    late = [mib for step, mib in samples if step >= 9_000_000]
    assert len(early) > 3 and len(late) > 3, "too quick to be measured"
    assert max(late) - max(early) < MAX_GROWTH_MIB, f"from {max(early):.0f} to {max(late):.0f} MiB"


TIMED_CHECKPOINTS = """
import json, sys, time
from rl_lab.core import checkpoint
from rl_lab.cli import main
spent, save = [], checkpoint.save
def timed(*arguments, **named):
    begin = time.perf_counter()
    result = save(*arguments, **named)
    spent.append(time.perf_counter() - begin)
    return result
checkpoint.save = timed
main(sys.argv[1:])
print(json.dumps({"spent": sum(spent), "saves": len(spent)}))
"""


def test_checkpoints_take_less_than_a_hundredth_of_a_run(tmp_path: Path) -> None:
    """At the default interval, in a run of some seconds; the files of the best agent are counted, too."""
    words = ["train", "cartpole", "budget=1_000_000", "video=false", f"run_dir={tmp_path / 'run'}", "--json"]
    done = subprocess.run([sys.executable, "-c", TIMED_CHECKPOINTS, *words], capture_output=True, text=True, check=True)
    result, cost = map(json.loads, done.stdout.splitlines())
    assert cost["saves"] >= 2
    assert cost["spent"] < 0.01 * result["seconds"], f"{cost} of {result['seconds']} s"


# --- Starting again


COUNT_COMPILATIONS = """
import json, sys
from pathlib import Path
from numba.core import event
from rl_lab.cli import main
from rl_lab.engine.compiler import cache_folder

def files():
    return {str(path): path.stat().st_mtime_ns for path in cache_folder().rglob("*.nb?")}

before = files()
with event.install_recorder("numba:compile") as recorder:
    assert main(sys.argv[1:]) == 0
hits = misses = 0
for name, module in list(sys.modules.items()):
    for value in vars(module).values() if name.startswith("rl_lab_compiled.") else ():
        stats = getattr(value, "stats", None)
        hits += sum(getattr(stats, "cache_hits", {}).values())
        misses += sum(getattr(stats, "cache_misses", {}).values())
told = {"compiled": len(recorder.buffer), "hits": hits, "misses": misses, "written": files() != before}
print(json.dumps(told))
"""
QUICK_TRAINING = (
    "budget=512 worlds=8 agent.n_steps=32 agent.batch_size=64 agent.n_epochs=1 video=false evaluation.episodes=2 "
    "evaluation.selections=1 evaluation.selection_episodes=1"
).split()


@pytest.mark.parametrize("world", ["cartpole", "pendulum"])
def test_a_second_process_compiles_nothing(world: str, tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def compilation_counts(run: str) -> dict[str, Any]:
        words = ["train", world, *QUICK_TRAINING, f"run_dir={tmp_path / run}", "--json"]
        command = [sys.executable, "-c", COUNT_COMPILATIONS, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return dict(json.loads(done.stdout.splitlines()[-1]))

    cold, warm = compilation_counts("cold"), compilation_counts("warm")
    assert cold["compiled"] > 0 and cold["misses"] > 0 and cold["written"], "the first is expected to compile"
    assert warm["hits"] > 0
    assert (warm["compiled"], warm["misses"], warm["written"]) == (0, 0, False)


EXIT_AFTER_FIRST_STEP = """
import os, sys
from rl_lab.engine.batch import Batch
step = Batch.step
def first(batch):
    result = step(batch)
    os.write(1, b"stepped")
    os._exit(0)
Batch.step = first
from rl_lab.cli import main
main(sys.argv[1:])
"""


def seconds_to_first_step(folder: Path) -> float:
    """Return the seconds from the start of the process to the end of the first `Batch.step`."""
    command = [sys.executable, "-c", EXIT_AFTER_FIRST_STEP, "train", "cartpole", "video=false", f"run_dir={folder}"]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    assert done.stdout == "stepped", done.stderr
    return seconds


def test_the_first_step_ends_within_three_seconds_of_the_start(tmp_path: Path) -> None:
    seconds_to_first_step(tmp_path / "warm")
    seconds = [seconds_to_first_step(tmp_path / str(k)) for k in range(3)]
    assert statistics.median(seconds) < FIRST_STEP_SECONDS, seconds


@pytest.mark.parametrize(
    "command, limit",
    [
        (rl_lab("--help"), HELP_SECONDS),
        (rl_lab("train", "--help"), HELP_SECONDS),
        ([sys.executable, "-c", "import rl_lab"], IMPORT_SECONDS),
    ],
    ids=["help", "train help", "import"],
)
def test_help_and_import_are_fast(command: list[str], limit: float) -> None:
    seconds = []
    for _ in range(6):
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - begin)
    assert statistics.median(seconds[1:]) < limit, seconds
