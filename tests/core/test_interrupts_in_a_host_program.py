"""These tests check signals where rl_lab is used as a library, and in processes forked while it runs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support import programs

from rl_lab.core.interruptible import interruptible
from rl_lab.core.interrupts import Interrupted, Interrupts

FORK = multiprocessing.get_context("fork")


def signal_later(number: int, *seconds: float) -> None:
    """Send this process a signal after each of so many seconds."""
    for each in seconds:
        timer = threading.Timer(each, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()


def expect_signals_handled(noticed: Interrupts) -> None:
    """Require that a signal to this process is obeyed, although its main thread waits."""
    assert noticed.code == 0
    signal_later(signal.SIGINT, 0.1)
    with pytest.raises(Interrupted), noticed.abort_after(0.0):
        time.sleep(1000)  # longer than a test may take


# Forked children


def test_a_forked_child_can_be_terminated_and_its_parent_goes_on() -> None:
    with Interrupts() as noticed:
        children = [FORK.Process(target=time.sleep, args=(60,)) for _ in range(20)]
        for child in children:
            child.start()
            child.terminate()  # at once: there is no moment at which it has its parent's handlers
        for child in children:
            child.join(100)
        assert [child.exitcode for child in children] == [-signal.SIGTERM] * 20
        expect_signals_handled(noticed)


def test_a_pool_inside_ends_and_is_no_signal() -> None:
    with Interrupts() as noticed:
        with FORK.Pool(2) as pool:
            assert pool.map(abs, range(-3, 3)) == [3, 2, 1, 0, 1, 2]
        pool.join()
        expect_signals_handled(noticed)


def test_a_child_that_leaves_the_block_leaves_its_parents_alone() -> None:
    child = -1
    with Interrupts() as noticed, Interrupts() as inner:
        child = os.fork()
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            expect_signals_handled(inner)
    if child == 0:
        with Interrupts() as own:  # its own works
            signal.raise_signal(signal.SIGTERM)
            os._exit(0 if (noticed.code, inner.code, own.code) == (0, 0, 143) else 1)


# Programs around

LIBRARY = """
import os, signal, sys, threading, time
from rl_lab.core import interrupts
from rl_lab.core.interrupts import Interrupts
interrupts.DEADLINE, interrupts.REPEAT_WINDOW = {deadline}, 0.1
for seconds in {seconds}:
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
before = signal.getsignal(signal.SIGINT)
try:
    with Interrupts():
        time.sleep(1000)  # longer than the test waits
except KeyboardInterrupt:
    assert signal.getsignal(signal.SIGINT) is before
    print("lives")
sys.exit(7)
"""


@pytest.mark.parametrize(("deadline", "seconds"), [(60, (0.2, 0.6)), (0.3, (0.2,))], ids=["twice", "deadline"])
def test_a_program_that_uses_the_library_is_not_ended(deadline: float, seconds: tuple[float, ...]) -> None:
    code = LIBRARY.format(deadline=deadline, seconds=seconds)
    done = programs.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (7, "lives\n", "")


COMMAND = """
import os, signal, sys, threading, time
from rl_lab.core import interrupts
from rl_lab.core.interrupts import Interrupts
interrupts.DEADLINE, interrupts.REPEAT_WINDOW = 60, 0.1
for number, seconds in ((signal.SIGTERM, 0.2), (signal.SIGINT, 0.6)):
    threading.Timer(seconds, os.kill, (os.getpid(), number)).start()
with Interrupts(ends_process=True) as guard:
    guard.exit_message = "continue with: rl-lab resume run"
    time.sleep(1000)  # longer than the test waits
"""


def test_a_command_that_a_second_signal_ends_says_how_to_continue() -> None:
    done = programs.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, timeout=60)
    assert done.returncode == 143 and done.stdout == ""  # of the first signal
    cause, advice = done.stderr.strip().splitlines()
    assert cause.startswith("ended at a second signal, at ") and advice == "continue with: rl-lab resume run"


def test_training_that_is_interrupted_twice_raises(tmp_path: Path) -> None:
    """Where an environment does not come back from a step, as a library call."""
    (tmp_path / "stuck.py").write_text(STUCK)
    done = programs.run([sys.executable, "stuck.py"], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 7, done.stderr
    assert done.stdout.splitlines()[-1] in ("Interrupted", "KeyboardInterrupt")


STUCK = """
import os, signal, sys, threading, time
import gymnasium
from rl_lab.core.progress import Progress
from rl_lab.experiments.compose import compose
from rl_lab.experiments.trainer import train

class Stuck(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        Stuck.steps += 1
        if Stuck.steps == 200:
            for seconds in (0.1, 0.6):
                threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
        while Stuck.steps >= 200:
            try:
                time.sleep(20)
            except KeyboardInterrupt:
                Stuck.steps = -10**9
                raise
        return self.observation_space.sample(), 1.0, Stuck.steps % 20 == 0, False, {}

gymnasium.register("Stuck-v0", Stuck)
settings = "budget=1e5 worlds=2 agent.n_steps=64 agent.batch_size=64 device=cpu video=false run_dir=run".split()
try:
    train(compose("gym:Stuck-v0", settings), [], Progress(quiet=True))
except BaseException as error:
    print(type(error).__name__)
sys.exit(7)
"""
TWICE = """
import os, signal, sys, threading, time
from rl_lab import cli
from rl_lab.commands import list as command
from rl_lab.core import interrupts
interrupts.DEADLINE = 0.8
real = command.run
def run(arguments):
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    time.sleep(20)
command.run = run
first = cli.main(["list", "worlds"])
time.sleep(1)
command.run = real
second = cli.main(["list", "worlds", "--json"]) if {again} else 0
print("lives", first, second)
sys.exit(7)
"""


@pytest.mark.parametrize("again", [True, False])
def test_a_program_goes_on_after_a_command_that_was_interrupted(again: bool) -> None:
    code = TWICE.format(again=again)
    done = programs.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 7, done.stderr
    assert done.stdout.endswith("lives 130 0\n")


# Signals at the edges


def test_a_signal_that_comes_last_is_not_forgotten() -> None:
    """A sweep's next training does not begin, and a library's call raises."""
    begun = []
    with Interrupts() as around:
        with Interrupts():
            signal.raise_signal(signal.SIGTERM)
        assert around.code == 143
        with pytest.raises(Interrupted), Interrupts() as later, later.abort_after(0.0):
            begun.append(1)
    assert not begun
    with pytest.raises(Interrupted) as stopped, Interrupts():
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.code == 143


def test_a_command_whose_signal_comes_last_says_so() -> None:
    def main(*_: object) -> int:
        with Interrupts():
            signal.raise_signal(signal.SIGTERM)
        return 0

    assert interruptible(main)([]) == 143


@pytest.mark.parametrize(("number", "moment"), [(signal.SIGTERM, 1), (signal.SIGTERM, 2), (signal.SIGINT, 2)])
def test_a_signal_while_the_handlers_are_set_or_put_back(
    number: int, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes just before the handler of `number` is set (moment 1) or put back (moment 2)."""
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    real, seen = signal.signal, list[int]()

    def signalled(each: int, handler: Any) -> Any:
        seen.append(each)
        if each == number and seen.count(number) == moment:
            signal.raise_signal(signal.SIGINT)
        return real(each, handler)

    with monkeypatch.context() as patch:
        patch.setattr(signal, "signal", signalled)
        assert interruptible(lambda *_: 0)([]) == 130
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    with pytest.raises(Interrupted), Interrupts():  # it hands the signal to no other one: all have been left
        signal.raise_signal(signal.SIGTERM)
