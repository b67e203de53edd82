"""Threads that run one compiled function together: a failure or an interrupt in one of them ends all of them."""

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


@pytest.mark.parametrize(
    ("continuation", "expected_output"), [(BREAK, "non-finite observation in world 8"), (FORK, "learned")]
)
def test_learning_in_two_threads_ends(continuation: str, expected_output: str) -> None:
    """One thread's world fails while the other waits at the barrier; and a forked process starts its own threads."""
    # In another process, because compiled code that hangs cannot be interrupted.
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LEARN + continuation],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert expected_output in process.stdout


class FakeFunction:
    """Stands for a compiled function; the call with rank `failing` raises, the others wait for an abort."""

    typeof_pyval = staticmethod(type)

    def __init__(self, failing: int) -> None:
        self.failing, self.ended = failing, []

    def compile(self, types: tuple[Any, ...]) -> None:
        assert len(types) == 3

    def __call__(self, rank: int, num_threads: int, barrier: int) -> int:
        if rank == self.failing:
            raise KeyboardInterrupt
        flags = (ctypes.c_int64 * 64).from_address(barrier)
        while not any(flags):
            os.sched_yield()
        self.ended.append(rank)
        return rank


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_interrupt_in_one_thread_ends_the_others_first(failing: int) -> None:
    function = FakeFunction(failing)
    with pytest.raises(KeyboardInterrupt):
        WorkerPool(3).run(3, function)
    assert sorted(function.ended) == sorted({0, 1, 2} - {failing})


def test_an_interrupt_before_all_have_begun_leaves_no_thread_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    function, submit, calls = FakeFunction(-1), ThreadPoolExecutor.submit, []

    def interrupting_submit(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return submit(*arguments)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupting_submit)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            WorkerPool(3).run(3, function)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert function.ended == [1]


@pytest.mark.parametrize(("world", "num_envs", "bounds"), [
    ("pendulum", 16, [0, 16]), ("pendulum", 130, [0, 64, 130]), ("catch", 3, [0, 1, 3]), ("catch", 1, [0, 1]),
])  # fmt: skip
def test_every_thread_has_worlds(world: str, num_envs: int, bounds: list[int]) -> None:
    """Worlds of Pendulum are stepped 64 at a time, so that a thread has a multiple of 64."""
    assert make.make(world, num_envs).partition(2).tolist() == bounds
