"""The process that compiles PPO's update in the background: it compiles what learners call, and may fail."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from support import programs

from rl_lab.adapters import make
from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.learners.sb3 import precompile
from rl_lab.learners.sb3.ppo import CompiledPPO
from rl_lab.learners.sb3.precompile import PARTS, BackgroundCompile

LEARN = """
from rl_lab.adapters import make as batch
from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.learners.sb3.ppo import CompiledMaskablePPO, CompiledPPO
from rl_lab.learners.compiled import build as kernels

for kind, world in ((CompiledPPO, "cartpole"), (CompiledPPO, "pendulum"), (CompiledMaskablePPO, "breakout")):
    model = kind("MlpPolicy", LabVecEnv(batch.make(world, 2)), n_steps=32, batch_size=64, device="cpu")
    model.learn(64)
    assert model.backend == "compiled"
train = kernels.ppo().train
assert len(train.signatures) == 1 and not train.stats.cache_misses, train.stats
"""


def test_the_background_process_compiles_the_update_of_every_kind_of_agent() -> None:
    command = [sys.executable, "-m", "rl_lab.learners.sb3.compile_worker"]
    stdout = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    assert stdout.split() == list(PARTS)
    programs.run([sys.executable, "-c", LEARN], timeout=300, check=True)


@pytest.mark.parametrize("program", ["/bin/false", "/nowhere"])
def test_no_learner_waits_for_a_process_that_cannot_start(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", program)
    compilation = BackgroundCompile()
    threads = [threading.Thread(target=compilation.wait, args=(part,), daemon=True) for part in PARTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def test_learners_of_one_process_start_one_background_process(monkeypatch: pytest.MonkeyPatch) -> None:
    instances: list[BackgroundCompile] = []
    monkeypatch.setattr(precompile, "is_needed", lambda: True)
    monkeypatch.setattr(BackgroundCompile, "__init__", lambda self: instances.append(self))
    precompile.background_compile.cache_clear()
    for _ in range(2):
        assert CompiledPPO(
            "MlpPolicy", LabVecEnv(make.make("catch", 2)), n_steps=8, batch_size=16, device="cpu"
        ).prepare_compiled()
    precompile.background_compile.cache_clear()
    assert len(instances) == 1
