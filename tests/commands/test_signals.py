"""Ctrl-C and SIGTERM: whatever is running, the process is gone within 5 seconds, with 130 or 143, and can go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support import programs
from support.runs import outcome

SMALL = "video=false evaluation.episodes=2 evaluation.selections=1 evaluation.selection_episodes=1 device=cpu".split()
LONG_PPO = "train cartpole worlds=1024 agent.n_steps=128 agent.n_epochs={} agent.batch_size=128 budget={}"
ENDLESS = """
import sys
from rl_lab import cli
from rl_lab.engine.batch import Batch
from rl_lab.engine import world_registry as worlds
from rl_lab.core.world import Box, Discrete, World, WorldState
from rl_lab.core.kernel import kernel
from rl_lab.core.record import Record, i4

class State(WorldState):
    x: i4

class Params(Record):
    until: i4 = 400

@kernel
def reset(s, p):
    s.x = 0

@kernel
def step(s, action, p):
    for k in range(10**17 if s.t > p.until else 0):
        s.x = (s.x * 31 + k) % 1000
    return 1.0, False

@kernel
def observe(s, p, out):
    out[0] = s.x

world = World(State, Params, reset, step, observe, observation=Box(0, 1000, (1,)), action=Discrete(2), horizon=500)
"""
KNOWN = """
world = __import__("endless").world
real = worlds.load
worlds.load = lambda name: world if name == "endless" else real(name)
known = worlds.names
worlds.names = lambda: [*known(), "endless"]
"""

# A thread that looks where the others are, and says so once it has often found one there. A fixed time would be too
# short on a machine that compiles for longer, and too long on another.
WATCH = """
import sys, threading, time
from rl_lab import cli

def stack_of(frame):
    stack = []
    while frame is not None:
        stack.append(frame.f_code.co_filename.rpartition("/")[2] + ":" + frame.f_code.co_name)
        frame = frame.f_back
    return stack

def watch(*around, innermost):
    looks, own = 0, threading.get_ident()
    while looks < 10:
        time.sleep(0.05)
        stacks = [stack_of(frame) for thread, frame in sys._current_frames().items() if thread != own]
        looks += any(innermost in (stack[0], "*") and {*around} <= {*stack} for stack in stacks)
    print("is inside", file=sys.stderr, flush=True)

*around, innermost = "INSIDE".split(" > ")
threading.Thread(target=watch, args=around, kwargs={"innermost": innermost}, daemon=True).start()
"""
RUN = "sys.exit(cli.main(sys.argv[1:]))\n"


@dataclass
class Work:
    """A command, what it says or writes once it is at work, and what it says when it is stopped."""

    words: str
    after: str = ""  # on stderr, or FILE: for one in the folder it runs in
    inside: str = ""  # functions around each other, the last of which calls compiled code, or is * for any
    seconds: float = 0.5  # more to wait
    says: str = ""
    files: dict[str, str] = field(default_factory=dict)
    python: str = ""  # instead of the command line's module


WORK = {
    "update in compiled code": Work(
        LONG_PPO.format(400, 10**8) + " run_dir=run " + " ".join(SMALL),
        inside="ppo.py:train > thread_pool.py:run",
        says="continue with: rl-lab resume run",
    ),
    "DQN in compiled code": Work(
        "train cartpole agent=dqn agent.gradient_steps=1000000 agent.learning_starts=100 budget=1e6 run_dir=run "
        + " ".join(SMALL),
        inside="dqn.py:learn_compiled",
        says="continue with: rl-lab resume run",
    ),
    "the library's own learner": Work(
        "train cartpole agent.compiled=false agent.n_epochs=1000 budget=1e6 run_dir=run " + " ".join(SMALL),
        inside="ppo.py:train > *",
        says="continue with: rl-lab resume run",
    ),
    "a final evaluation by search": Work(
        "train tic_tac_toe opponent=random budget=512 worlds=8 agent.n_steps=64 video=false run_dir=run "
        "evaluation.selections=1 evaluation.episodes=100000 device=cpu",
        "selection at 512",
        seconds=1,
        says="stopped at a checkpoint; continue with: rl-lab resume run",
    ),
    "filming": Work(
        "train cartpole budget=20000 run_dir=run evaluation.episodes=20 device=cpu",
        "filming the best",
        says="stopped at a checkpoint; continue with: rl-lab resume run",
    ),
    "evaluating a search": Work(
        "evaluate mcts world=connect_four opponent=random agent.simulations=4000000",
        inside="agents.py:search",
    ),
    "evaluating minimax": Work(
        "evaluate minimax world=connect_four opponent=random agent.depth=40 evaluation.episodes=100000",
        inside="agents.py:search",
    ),
    "a tournament of searches": Work(
        "tournament connect_four mcts:simulations=4000000 random --dir cup",
        inside="agents.py:search",
        says="stopped; go on with: rl-lab tournament resume cup",
    ),
    "a tournament in processes": Work(
        "tournament connect_four mcts:simulations=4000000 random --workers 2 --dir cup",
        "FILE:cup/tournament.json",
        seconds=15,
        says="stopped; go on with: rl-lab tournament resume cup",
    ),
    "a film of many worlds": Work(
        "watch random world=cartpole --grid 100 --file --out films", "FILE:films/", seconds=1
    ),
    "a best response": Work("exploit scripted --world connect_four --budget 1e9", inside="thread_pool.py:run"),
    "a loop without end, compiled": Work(
        "evaluate random world=endless evaluation.episodes=4",
        inside="batch.py:step",
        says="does a loop in one of the world's kernels never end?",
        files={"endless.py": ENDLESS},
        python=ENDLESS + KNOWN,
    ),
    "a loop without end, checked": Work(
        "check endless.py:world",
        inside="endless.py:step > *",
        files={"endless.py": ENDLESS.replace("400", "3")},
    ),
}


def children(pid: int) -> list[int]:
    """Return the processes that this one has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def said(folder: Path) -> str:
    """Return what a command has said on stderr so far."""
    return (folder / "stderr").read_text()


def start(work: Work, folder: Path) -> subprocess.Popen[bytes]:
    """Start the command in this folder, and return it at work."""
    for name, text in work.files.items():
        (folder / name).write_text(text)
    watch = WATCH.replace("INSIDE", work.inside) if work.inside else ""
    how = ["-c", watch + work.python + RUN] if watch or work.python else ["-m", "rl_lab.cli"]
    words, quiet = [sys.executable, *how, *work.words.split()], subprocess.DEVNULL
    with (folder / "stderr").open("w") as errors:
        process = programs.Popen(words, cwd=folder, stdin=quiet, stdout=quiet, stderr=errors)
    deadline = time.monotonic() + 240

    def at_work() -> bool:
        if work.after.startswith("FILE:"):
            file = folder / work.after.removeprefix("FILE:")
            return any(file.glob("*")) if file.is_dir() else file.is_file() and file.stat().st_size > 0
        return (work.after or "is inside" * bool(work.inside)) in said(folder)

    while not at_work():
        assert process.poll() is None and time.monotonic() < deadline, said(folder)
        time.sleep(0.05)
    time.sleep(work.seconds)
    assert process.poll() is None, said(folder)
    return process


@pytest.mark.parametrize("name", WORK)
def test_whatever_is_running_ends_within_5_seconds(name: str, tmp_path: Path) -> None:
    number = signal.SIGTERM if len(name) % 2 else signal.SIGINT
    process = start(WORK[name], tmp_path)
    others = children(process.pid)
    begin = time.monotonic()
    process.send_signal(number)
    try:
        process.wait(60)
    finally:
        process.kill()
    took = time.monotonic() - begin
    assert took < 5
    assert process.returncode == 128 + number, said(tmp_path)
    assert WORK[name].says in said(tmp_path)
    assert "Traceback" not in said(tmp_path)
    while any(os.path.exists(f"/proc/{pid}") for pid in others):
        assert time.monotonic() - begin < 15, "processes are left behind"
        time.sleep(0.1)
    assert not [*tmp_path.rglob("*.partial")]


HASTY = """
import sys
from rl_lab import cli
from rl_lab.core import interrupts
from rl_lab.experiments import trainer
interrupts.GRACE = trainer.GRACE = 0.0  # seconds that an iteration may go on after a signal
"""


def test_an_iteration_that_is_cut_is_done_again_bit_for_bit(tmp_path: Path) -> None:
    """The state of the moment before it is saved, however long ago the last checkpoint was."""
    words = "train cartpole worlds=256 agent.n_steps=128 agent.n_epochs=120 agent.batch_size=8192 budget=65536"
    words += " agent.normalize_observations=true checkpoint.seconds=3600 run_dir={} " + " ".join(SMALL)
    whole = [sys.executable, "-m", "rl_lab.cli", *words.format("whole").split()]
    subprocess.run(whole, cwd=tmp_path, check=True, capture_output=True)  # with a hash seed of its own
    process = start(Work(words.format("cut"), "FILE:cut/metrics.jsonl", seconds=0.1, python=HASTY), tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "stopped at a checkpoint" in said(tmp_path)
    (saved,) = (tmp_path / "cut/checkpoints").glob("step-*")
    assert 0 < int(saved.name.removeprefix("step-")) < 65536
    again = [sys.executable, "-m", "rl_lab.cli", "resume", "cut"]
    programs.run(again, cwd=tmp_path, check=True, capture_output=True)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")
