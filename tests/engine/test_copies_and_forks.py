"""These tests check copies of environments, and batches in processes forked after threads were used."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

import rl_lab  # noqa: F401 - registers the worlds
from rl_lab.adapters.gymnasium import LabVectorEnv
from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch


def rollout_bytes(env: gymnasium.Env, seed: int, steps: int) -> list[bytes]:
    """Return what an environment shows in so many steps, resets included.

    Discrete actions are drawn by `seed`, continuous ones by the action space's own generator, which a copy has, too.
    """
    shown, rng = [], np.random.default_rng(seed)
    for _ in range(steps):
        action = env.action_space.sample() if env.action_space.shape else int(rng.integers(env.action_space.n))
        seen, reward, terminated, truncated, _ = env.step(action)
        shown.append(seen.tobytes() + repr((reward, terminated, truncated)).encode())
        if terminated or truncated:
            shown.append(env.reset()[0].tobytes())
    return shown


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(["catch", "cartpole", "pendulum"]), st.integers(0, 99), st.integers(0, 30), st.booleans())
def test_a_copy_goes_on_as_its_original_and_apart_from_it(name: str, seed: int, before: int, pickled: bool) -> None:
    env = gymnasium.make(f"rl_lab/{name}-v0")
    env.action_space.seed(seed)
    env.reset(seed=seed)
    rollout_bytes(env, seed, before)
    twin = pickle.loads(pickle.dumps(env)) if pickled else copy.deepcopy(env)
    of_copy = rollout_bytes(twin, seed + 1, 40)
    assert rollout_bytes(env, seed + 1, 40) == of_copy, (
        "the copy's steps changed the original, or it did not start in the same state"
    )


def test_a_copy_made_before_the_first_reset_and_with_parameters() -> None:
    env = gymnasium.make("rl_lab/catch-v0", speed=3, render_mode="rgb_array")
    twin = copy.deepcopy(env)
    one, other = (each.reset(seed=4)[0] for each in (env, twin))
    assert np.array_equal(one, other) and twin.unwrapped.batch.params["speed"][0] == 3
    assert np.array_equal(env.render(), twin.render())


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_vector_environments_can_be_copied(mode: AutoresetMode) -> None:
    env = LabVectorEnv("catch", 5, autoreset_mode=mode)
    env.reset(seed=1)
    rng = np.random.default_rng(0)
    for _ in range(4):
        env.step(rng.integers(0, 3, 5))
    twin = copy.deepcopy(env)
    for _ in range(20):
        actions = rng.integers(0, 3, 5)
        for a, b in zip(env.step(actions)[:4], twin.step(actions)[:4], strict=True):
            assert np.array_equal(a, b)


def test_sb3_environments_can_be_copied() -> None:
    env = LabVecEnv(Batch(world_registry.load("catch"), 5, threads=1))
    env.reset()
    twin, rng = copy.deepcopy(env), np.random.default_rng(0)
    for _ in range(20):
        actions = rng.integers(0, 3, 5)
        for a, b in zip(env.step(actions)[:3], twin.step(actions)[:3], strict=True):
            assert np.array_equal(a, b)


FORKED = """
import multiprocessing, sys
import numpy as np
from rl_lab.engine import world_registry as worlds
from rl_lab.engine.batch import Batch

def play(batch):
    batch.seed(3)
    batch.reset()
    for t in range(50):
        batch.actions[...] = (np.arange(batch.num_envs) + t)[:, None] % 3
        batch.step()
    return batch.states.tobytes() + batch.rewards.tobytes()

def play_new_batch(threads):
    return play(Batch(worlds.load("catch"), 64, threads=threads))

if __name__ == "__main__":
    threaded = Batch(worlds.load("catch"), 64, threads=2)
    here = play(threaded)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        there = pool.map_async(play_new_batch, [2, 1, None]).get(60)
        again = pool.apply_async(play, (threaded,)).get(60)  # a batch that was made before the fork
    assert set(there) == {here} and again == here
    assert play(threaded) == here  # the threads of this process are its own still
    print("equal")
"""


def test_a_forked_child_steps_what_its_parent_does(tmp_path) -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=200, cwd=tmp_path)
    assert done.stdout == "equal\n", done.stderr[-2000:]
