"""Tests of Ctrl-C and SIGTERM: whatever a command is doing, it ends within 5 seconds, with status 130 or 143.

Each entry of RUNNING_COMMANDS is a command and a sign by which the test knows that it has reached a certain piece of
work, for example an update in compiled code. The test then sends the signal, and checks what was printed and that no
process and no partial file is left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support import programs
from support.runs import reproducible_content
from support.time_limits import within

SMALL_EVALUATION = (
    "video=false evaluation.episodes=2 evaluation.selections=1 evaluation.selection_episodes=1 device=cpu".split()
)
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
REGISTER_ENDLESS = """
world = __import__("endless").world
real = worlds.load
worlds.load = lambda name: world if name == "endless" else real(name)
known = worlds.names
worlds.names = lambda: [*known(), "endless"]
"""

# Code for the process under test: a thread that looks at the stacks of the other threads, and prints "is inside" once
# it has often seen one of them inside given functions. A fixed time would be too short on a machine that compiles for
# longer.
REPORT_INSIDE = """
import sys, threading, time

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
IN_WORKERS = 'import sys\nif "--multiprocessing-fork" in sys.orig_argv:\n'
RUN_CLI = "import sys\nfrom rl_lab import cli\nsys.exit(cli.main(sys.argv[1:]))\n"


@dataclass
class RunningCommand:
    """A command, the sign that it has reached its work, and what it must print when it is stopped."""

    words: str
    after: str = ""  # the sign: a text on stderr, or FILE:PATH for a file that is written
    inside: str = ""  # another sign: functions that call each other, joined by " > "; the last may be *, for any
    workers: int = 0  # so many processes of multiprocessing have to be inside, instead of the command's own
    seconds: float = 0.5  # to wait after the sign
    says: str = ""  # on stderr, when it is stopped
    files: dict[str, str] = field(default_factory=dict)  # written before it starts, by name
    python: str = ""  # code that the process runs before the command


RUNNING_COMMANDS = {
    "update in compiled code": RunningCommand(
        LONG_PPO.format(400, 10**8) + " run_dir=run " + " ".join(SMALL_EVALUATION),
        inside="ppo.py:train > thread_pool.py:run",
        says="continue with: rl-lab resume run",
    ),
    "DQN in compiled code": RunningCommand(
        "train cartpole agent=dqn agent.gradient_steps=1000000 agent.learning_starts=100 budget=1e6 run_dir=run "
        + " ".join(SMALL_EVALUATION),
        inside="dqn.py:learn_compiled",
        says="continue with: rl-lab resume run",
    ),
    "the library's own learner": RunningCommand(
        "train cartpole agent.compiled=false agent.n_epochs=1000 budget=1e6 run_dir=run " + " ".join(SMALL_EVALUATION),
        inside="ppo.py:train > *",
        says="continue with: rl-lab resume run",
    ),
    "a final evaluation by search": RunningCommand(
        "train tic_tac_toe opponent=random budget=512 worlds=8 agent.n_steps=64 video=false run_dir=run "
        "evaluation.selections=1 evaluation.episodes=100000 device=cpu",
        "selection at 512",
        seconds=1,
        says="stopped at a checkpoint; continue with: rl-lab resume run",
    ),
    "filming": RunningCommand(
        "train cartpole budget=20000 run_dir=run evaluation.episodes=20 device=cpu",
        "filming the best",
        says="stopped at a checkpoint; continue with: rl-lab resume run",
    ),
    "evaluating a search": RunningCommand(
        "evaluate mcts world=connect_four opponent=random agent.simulations=4000000",
        inside="agents.py:search",
    ),
    "evaluating minimax": RunningCommand(
        "evaluate minimax world=connect_four opponent=random agent.depth=40 evaluation.episodes=100000",
        inside="agents.py:search",
    ),
    "a tournament of searches": RunningCommand(
        "tournament connect_four mcts:simulations=4000000 random --dir cup",
        inside="agents.py:search",
        says="stopped; go on with: rl-lab tournament resume cup",
    ),
    "a tournament in processes": RunningCommand(
        "tournament connect_four mcts:simulations=4000000 random --workers 2 --dir cup",
        inside="agents.py:search",
        workers=2,
        says="stopped; go on with: rl-lab tournament resume cup",
    ),
    "a film of many worlds": RunningCommand(
        "watch random world=cartpole --grid 100 --file --out films", "FILE:films/", seconds=1
    ),
    "a best response": RunningCommand(
        "exploit scripted --world connect_four --budget 1e9", inside="thread_pool.py:run"
    ),
    "a loop without end, compiled": RunningCommand(
        "evaluate random world=endless evaluation.episodes=4",
        inside="batch.py:step",
        says="does a loop in one of the world's kernels never end?",
        files={"endless.py": ENDLESS},
        python=ENDLESS + REGISTER_ENDLESS,
    ),
    "a loop without end, checked": RunningCommand(
        "check endless.py:world",
        inside="endless.py:step > *",
        files={"endless.py": ENDLESS.replace("400", "3")},
    ),
}


def children(pid: int) -> list[int]:
    """Return the processes that this one has started."""
    processes = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            processes.append(int(stat.parent.name))
    return processes


def stderr_of(folder: Path) -> str:
    """Return what a command has said on stderr so far."""
    return (folder / "stderr").read_text()


def start(running: RunningCommand, folder: Path) -> subprocess.Popen[bytes]:
    """Start the command in this folder, and return it at work."""
    for name, text in running.files.items():
        (folder / name).write_text(text)
    watch = REPORT_INSIDE.replace("INSIDE", running.inside) if running.inside else ""
    environment = dict(os.environ)
    if running.workers:  # Python imports this module when it starts
        (folder / "start").mkdir()
        (folder / "start/sitecustomize.py").write_text(IN_WORKERS + textwrap.indent(watch, "    "))
        watch, environment["PYTHONPATH"] = "", str(folder / "start")
    program = ["-c", watch + running.python + RUN_CLI] if watch or running.python else ["-m", "rl_lab.cli"]
    words, quiet = [sys.executable, *program, *running.words.split()], subprocess.DEVNULL
    with (folder / "stderr").open("w") as errors:
        process = programs.Popen(words, cwd=folder, stdin=quiet, stdout=quiet, stderr=errors, env=environment)
    deadline = time.monotonic() + 240

    def at_work() -> bool:
        if running.after.startswith("FILE:"):
            file = folder / running.after.removeprefix("FILE:")
            return any(file.glob("*")) if file.is_dir() else file.is_file() and file.stat().st_size > 0
        if running.inside:
            return stderr_of(folder).count("is inside") >= max(running.workers, 1)
        return running.after in stderr_of(folder)

    while not at_work():
        assert process.poll() is None and time.monotonic() < deadline, stderr_of(folder)
        time.sleep(0.05)
    time.sleep(running.seconds)
    assert process.poll() is None, stderr_of(folder)
    return process


@pytest.mark.parametrize("name", RUNNING_COMMANDS)
def test_a_signal_ends_any_command_within_5_seconds(name: str, tmp_path: Path) -> None:
    number = signal.SIGTERM if len(name) % 2 else signal.SIGINT
    process = start(RUNNING_COMMANDS[name], tmp_path)
    others = children(process.pid)
    process.send_signal(number)
    try:
        with within(5):
            process.wait(60)
    finally:
        process.kill()
    assert process.returncode == 128 + number, stderr_of(tmp_path)
    assert RUNNING_COMMANDS[name].says in stderr_of(tmp_path)
    assert "Traceback" not in stderr_of(tmp_path)
    with within(10):  # no process is left behind
        while any(os.path.exists(f"/proc/{pid}") for pid in others):
            time.sleep(0.1)
    assert not [*tmp_path.rglob("*.partial")]


NO_GRACE_PERIOD = """
import sys
from rl_lab import cli
from rl_lab.core import interrupts
from rl_lab.experiments import trainer
interrupts.GRACE = trainer.GRACE = 0.0  # seconds that an iteration may go on after a signal
"""


def test_an_iteration_that_a_signal_aborts_is_repeated_bit_for_bit(tmp_path: Path) -> None:
    """The state of the moment before it is saved, however long ago the last checkpoint was."""
    words = "train cartpole worlds=256 agent.n_steps=128 agent.n_epochs=120 agent.batch_size=8192 budget=65536"
    words += " agent.normalize_observations=true checkpoint.seconds=3600 run_dir={} " + " ".join(SMALL_EVALUATION)
    uninterrupted = [sys.executable, "-m", "rl_lab.cli", *words.format("whole").split()]
    subprocess.run(uninterrupted, cwd=tmp_path, check=True, capture_output=True)  # with a hash seed of its own
    process = start(
        RunningCommand(words.format("cut"), "FILE:cut/metrics.jsonl", seconds=0.1, python=NO_GRACE_PERIOD), tmp_path
    )
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "stopped at a checkpoint" in stderr_of(tmp_path)
    (saved,) = (tmp_path / "cut/checkpoints").glob("step-*")
    assert 0 < int(saved.name.removeprefix("step-")) < 65536
    resume = [sys.executable, "-m", "rl_lab.cli", "resume", "cut"]
    programs.run(resume, cwd=tmp_path, check=True, capture_output=True)
    assert reproducible_content(tmp_path / "cut") == reproducible_content(tmp_path / "whole")
