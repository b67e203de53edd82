"""Threads that learn together: none waits for a thread that has failed."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rl_lab.adapters import make
from rl_lab.learners.compiled.thread_pool import WorkerPool

LEARN = """
import os
import numpy as np
from stable_baselines3.common.vec_env import VecNormalize
from rl_lab.adapters import make as batch
from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.learners.sb3.ppo import CompiledPPO

rows = LabVecEnv(batch.make("acrobot", 10, seed=0))
model = CompiledPPO("MlpPolicy", VecNormalize(rows), n_steps=200, batch_size=100, n_epochs=1, device="cpu")
model.threads = 2
model.learn(2000)
assert model.backend == "compiled"
"""

BREAK = """
from rl_lab.engine.batch import NonFiniteError
rows.envs.states["elbow"][8] = np.nan
try:
    model.learn(2000, reset_num_timesteps=False)
except NonFiniteError as error:
    print(error)
"""

FORK = """
child = os.fork()
if child == 0:
    model.learn(2000, reset_num_timesteps=False)
    print("learned", flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.parametrize(("then", "said"), [(BREAK, "non-finite observation in world 8"), (FORK, "learned")])
def test_learning_in_two_threads_comes_to_an_end(then: str, said: str) -> None:
    """Where one thread's world fails while the other waits for its statistics, and in a process forked from another."""
    # Apart, for it would never return: what hangs is compiled code.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LEARN + then], capture_output=True, text=True, timeout=300, check=True
    )
    assert said in done.stdout


class Work:
    """Stands in for a compiled function."""

    typeof_pyval = staticmethod(type)

    def __init__(self, failing: int) -> None:
        self.failing, self.done = failing, []

    def compile(self, types: tuple[Any, ...]) -> None:
        assert len(types) == 3

    def __call__(self, rank: int, ranks: int, team: int) -> int:
        if rank == self.failing:
            raise KeyboardInterrupt
        flags = (ctypes.c_int64 * 64).from_address(team)
        while not any(flags):
            os.sched_yield()
        self.done.append(rank)
        return rank


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_interrupt_in_one_thread_ends_the_others_first(failing: int) -> None:
    work = Work(failing)
    with pytest.raises(KeyboardInterrupt):
        WorkerPool(3).run(3, work)
    assert sorted(work.done) == sorted({0, 1, 2} - {failing})


def test_an_interrupt_before_all_have_begun_leaves_no_thread_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    work, submit, calls = Work(-1), ThreadPoolExecutor.submit, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return submit(*arguments)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            WorkerPool(3).run(3, work)
    finally:
        signal.signal(signal.SIGINT, before)
    assert work.done == [1]


@pytest.mark.parametrize(("world", "num_envs", "bounds"), [
    ("pendulum", 16, [0, 16]), ("pendulum", 130, [0, 64, 130]), ("catch", 3, [0, 1, 3]), ("catch", 1, [0, 1]),
])  # fmt: skip
def test_every_thread_has_worlds(world: str, num_envs: int, bounds: list[int]) -> None:
    """Pendulum's are stepped 64 at a time."""
    assert make.make(world, num_envs).partition(2).tolist() == bounds
