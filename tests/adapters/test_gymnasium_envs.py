"""These tests run every world of one agent through its Gymnasium environments and its SB3 VecEnv.

The results are compared with Gymnasium's own SyncVectorEnv and SB3's own DummyVecEnv over single environments.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers.vector import NormalizeObservation, RecordEpisodeStatistics
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize

from rl_lab.adapters import gymnasium as gymnasium_adapter
from rl_lab.adapters.gymnasium import LabEnv, LabVectorEnv
from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.core.levels import COUNT
from rl_lab.core.world import Array, World
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch

NAMES = [name for name in world_registry.names() if len(world_registry.load(name).agents) == 1]
DISCRETE = [name for name in NAMES if isinstance(world_registry.load(name).action, Discrete)]
CONTINUOUS = [name for name in NAMES if name not in DISCRETE]
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]
HORIZON = 23  # short enough that a hundred steps hold several episodes
LOAD = world_registry.load


@cache
def short_world(name: str, horizon: int = HORIZON) -> World:
    return replace(LOAD(name), horizon=horizon)


@pytest.fixture
def short_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_registry, "load", short_world)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A display that shows nothing, so that human rendering runs anywhere."""
    for key, value in (("DISPLAY", ":0"), ("SDL_VIDEODRIVER", "dummy"), ("SDL_AUDIODRIVER", "dummy")):
        monkeypatch.setenv(key, value)


def make_env(name: str, **arguments: Any) -> gym.Env[Any, Any]:
    return gym.make(f"rl_lab:rl_lab/{name}-v0", **arguments)


def make_vector_env(name: str, n: int, **arguments: Any) -> gym.vector.VectorEnv[Any, Any, Any]:
    identity = f"rl_lab:rl_lab/{name}-v0"
    return gym.make_vec(identity, num_envs=n, vectorization_mode="vector_entry_point", **arguments)


def random_actions(name: str, steps: int, *shape: int, seed: int = 0) -> Array:
    """Actions [T, *shape, ...] over the whole space."""
    rng, space = np.random.default_rng(seed), LOAD(name).action
    if isinstance(space, Discrete):
        return rng.integers(space.n, size=(steps, *shape))
    return rng.uniform(space.low, space.high, (steps, *shape, *space.shape)).astype(np.float32)


def layers(env: Any) -> Iterator[Any]:
    while env is not env.unwrapped:
        yield env
        env = env.env
    yield env


# ---------------------------------------------------------------------------------------------- Gymnasium, one world


@pytest.mark.parametrize("name", NAMES)
def test_gymnasium_makes_it(name: str) -> None:
    world, env = LOAD(name), make_env(name)
    assert env.spec is not None and env.spec.id == f"rl_lab/{name}-v0"
    assert (env.observation_space, env.action_space) == (world.observation, world.action)
    assert env.metadata["render_fps"] == world.frames_per_second
    observation, info = env.reset(seed=1)
    assert env.observation_space.contains(observation) and info == {}
    observation, reward, terminated, truncated, info = env.step(random_actions(name, 1)[0])
    assert env.observation_space.contains(observation) and info == {}
    assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
    env.close()
    env.close()


def test_the_module_prefix_is_all_that_a_new_process_needs(tmp_path: Path) -> None:
    program = (
        "import json, gymnasium as gym\n"
        "one, id = gym.make('rl_lab:rl_lab/catch-v0'), 'rl_lab:rl_lab/cartpole-v0'\n"
        "many = gym.make_vec(id, num_envs=3, vectorization_mode='vector_entry_point')\n"
        "print(json.dumps([one.reset(seed=0)[0].shape, many.reset(seed=0)[0].shape]))"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [[10, 5], [3, 4]]


def test_the_declared_entry_point_registers_every_world(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [p for p in importlib.metadata.entry_points(group="gymnasium.envs") if p.name == "rl_lab"]
    assert len({point.value for point in found}) == 1
    expected = {f"rl_lab/{name}-v0" for name in world_registry.names()}
    registry = gym.envs.registration.registry
    for identity in expected:
        monkeypatch.delitem(registry, identity)
    found[0].load()()
    assert {identity for identity in registry if identity.startswith("rl_lab/")} == expected
    found[0].load()()  # a second time changes nothing and warns of nothing


# What the checkers advise against and the originals of these worlds do too; everything else they say is an error.
ADVICE = (
    "space minimum value is -infinity",
    "space maximum value is infinity",
    "we recommend using a symmetric and normalized space",
    "We recommend you to use a symmetric and normalized Box action space",
    "has an unconventional shape (neither an image, nor a 1D vector)",
    "is an image but the",  # boards of bytes are no images
    "The minimal resolution for an image is 36x36",
)


@pytest.mark.parametrize("name", NAMES)
def test_both_checkers_pass(name: str, screen: None) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(make_env(name).unwrapped, skip_render_check=False)
        check_env(make_env(name, render_mode="rgb_array").unwrapped, skip_render_check=False)
        sb3_check_env(make_env(name).unwrapped, warn=True)
        sb3_check_env(make_env(name, render_mode="rgb_array"), warn=True, skip_render_check=False)
    said = [str(warning.message) for warning in caught]
    assert [text for text in said if not any(advice in text for advice in ADVICE)] == []


@pytest.mark.parametrize("name", NAMES)
def test_an_episode_is_truncated_at_the_horizon_which_its_spec_tells(name: str) -> None:
    env, horizon = make_env(name), LOAD(name).horizon
    assert env.spec is not None and env.spec.max_episode_steps == (horizon or None)
    lengths = []
    for seed in range(2):
        env.reset(seed=seed)
        for t, action in enumerate(random_actions(name, horizon, seed=seed), start=1):
            _, _, terminated, truncated, _ = env.step(action)
            assert truncated == (t == horizon)
            if terminated or truncated:
                lengths.append(t)
                break
    assert len(lengths) == 2
    shorter = make_env(name, max_episode_steps=2)
    assert sum(isinstance(layer, TimeLimit) for layer in layers(shorter)) == 1
    shorter.reset(seed=0)
    assert [shorter.step(action)[3] for action in random_actions(name, 2)] == [False, True]


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_one_trajectory(name: str) -> None:
    def play(env: gym.Env[Any, Any], *seeds: int | None) -> list[bytes]:
        seen = []
        for seed in seeds:
            seen.append(env.reset(seed=seed)[0].tobytes())
            for action in random_actions(name, 30):
                observation, reward, terminated, truncated, _ = env.step(action)
                seen.append(observation.tobytes() + np.float64(reward).tobytes())
                if terminated or truncated:
                    break
        return seen

    env, other, more = make_env(name), make_env(name), [None] * 15
    first = play(env, 7, *more)
    assert play(env, 7, *more) == first == play(other, 7, *more)
    assert play(env, 2**40 + 3, *more) == play(other, 2**40 + 3, *more)
    # Catch begins in one of 5 ways: two unseeded runs of 16 episodes agree by chance once in 10^11. Asterix begins in
    # one way and is hurried by chance only after ten steps: 30 are long enough for 16 episodes of it to differ.
    different = [first, *(play(env, seed, *more) for seed in (8, 3, 2**40 + 3, 0, 2**32 - 1))]
    different += [play(make_env(name), None, *more) for _ in range(2)]
    assert all(a != b for k, a in enumerate(different) for b in different[:k])


# ------------------------------------------------------------------------------------------- Gymnasium, many worlds


def make_pair(name: str, n: int, mode: AutoresetMode) -> tuple[Any, Any]:
    ours = make_vector_env(name, n, autoreset_mode=mode)
    theirs = SyncVectorEnv([lambda: LabEnv(name) for _ in range(n)], autoreset_mode=mode)
    return ours, theirs


def assert_same_infos(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        if key == "final_obs":
            assert ours[key].dtype == value.dtype == object and ours[key].shape == value.shape
            pairs = list(zip(ours[key], value, strict=True))
            assert all((a is None) == (b is None) for a, b in pairs)
            for a, b in pairs:
                assert a is b is None or (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        elif isinstance(value, dict):
            assert_same_infos(ours[key], value)
        else:
            assert ours[key].dtype == value.dtype and np.array_equal(ours[key], value)


def assert_same_step(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> None:
    assert ours[0].dtype == theirs[0].dtype and ours[0].tobytes() == theirs[0].tobytes()
    # Gymnasium widens rewards to float64: the numbers are the same.
    assert ours[1].astype(np.float64).tobytes() == theirs[1].tobytes()
    for a, b in zip(ours[2:4], theirs[2:4], strict=True):
        assert a.dtype == b.dtype == np.bool_ and np.array_equal(a, b)
    assert_same_infos(ours[4], theirs[4])


@pytest.fixture(params=[False, True], ids=["copied", "return_mode"])
def return_mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to return observations: a copy, or new memory in each step, as large ones are."""
    if request.param:
        monkeypatch.setattr(gymnasium_adapter, "_NEW_BUFFER_BYTES", 0)


@pytest.mark.usefixtures("return_mode", "short_episodes")
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("name", NAMES)
def test_worlds_do_what_gymnasiums_own_vector_env_does(name: str, mode: AutoresetMode) -> None:
    n, ends = 4, np.zeros(4, np.int64)
    ours, theirs = make_pair(name, n, mode)
    assert ours.num_envs == n and ours.metadata["autoreset_mode"] == mode
    for space in "observation_space action_space single_observation_space single_action_space".split():
        assert getattr(ours, space) == getattr(theirs, space)
    for seed in (31, None):
        (observations, info), (expected, _) = ours.reset(seed=seed), theirs.reset(seed=seed)
        assert observations.tobytes() == expected.tobytes() and info == {}
        for actions in random_actions(name, 3 * HORIZON, n, seed=seed or 0):
            step = ours.step(actions)
            assert_same_step(step, theirs.step(actions))
            assert ours.observation_space.contains(step[0])
            ended = step[2] | step[3]
            ends += ended
            if mode == AutoresetMode.DISABLED and ended.any():
                begun, info = ours.reset(options={"reset_mask": ended})
                assert begun.tobytes() == theirs.reset(options={"reset_mask": ended.copy()})[0].tobytes()
                assert info == {}
    assert ends.min() >= 4, "too few episodes ended: the comparison has seen too little"
    ours.close()


# Resets in a row: (seed, mask). What a world draws next must not depend on which others were reset, or how often.
ALL = None
RESETS: dict[str, list[tuple[Any, list[int] | None]]] = {
    "int, then none": [(5, ALL), (None, ALL), (None, ALL)],
    "numpy int": [(np.int64(5), ALL), (None, ALL)],
    "list": [([9, 2, 2], ALL), (None, ALL), ([2, 9, 9], ALL)],
    "large": [([2**40, 2**32, 2**32 - 1], ALL), (None, ALL)],
    "some of a list": [(5, ALL), ([7, None, 8], ALL), (None, ALL)],
    "mask": [(5, ALL), (None, [0, 1, 0]), (None, [1, 0, 0]), (None, ALL)],
    "mask and int": [(5, ALL), (70, [0, 1, 0]), (None, [0, 1, 0])],
    "mask and int, then the others": [(5, ALL), (70, [0, 1, 0]), (None, [1, 0, 1]), (None, ALL)],
    "mask and list, then the others": [(5, ALL), ([None, 70, None], [0, 1, 0]), (None, ALL)],
}


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("resets", RESETS.values(), ids=RESETS)
def test_seeds_reach_the_worlds_they_are_for(
    resets: list[tuple[Any, list[int] | None]], mode: AutoresetMode, short_episodes: None
) -> None:
    name, n = "cartpole", 3
    ours, theirs = make_pair(name, n, mode)
    rng = np.random.default_rng(0)
    for seed, mask in resets:
        # SyncVectorEnv takes the mask out of the options; its seed must be a Python int.
        options = [{} if mask is None else {"reset_mask": np.array(mask, np.bool_)} for _ in range(2)]
        plain = int(seed) if isinstance(seed, np.integer) else seed
        ours_now, theirs_now = (
            ours.reset(seed=seed, options=options[0])[0],
            theirs.reset(seed=plain, options=options[1])[0],
        )
        assert ours_now.tobytes() == theirs_now.tobytes()
        for _ in range(3):  # too few for an episode to end
            actions = rng.integers(2, size=n)
            assert_same_step(ours.step(actions), theirs.step(actions))


def test_unseeded_worlds_differ() -> None:
    # Three float32 numbers a world: two of the 12 worlds agree by chance in less than one run in 10^15.
    begun = np.concatenate([make_vector_env("pendulum", 6).reset()[0] for _ in range(2)])
    assert len({row.tobytes() for row in begun}) == 12
    one, other = (gym.make_vec("rl_lab:rl_lab/pendulum-v0", num_envs=2) for _ in range(2))
    assert isinstance(one.unwrapped, LabVectorEnv)  # what make_vec takes without being told
    assert one.reset()[0].tobytes() != other.reset()[0].tobytes()


WRONG_SEEDS = [-1, 1.5, "1", [1, 2], [1, 2, 3, 4], [1, -2, 3], [1, 2.5, 3]]


@pytest.mark.parametrize("seed", WRONG_SEEDS, ids=repr)
def test_wrong_seeds_are_refused(seed: Any) -> None:
    env = make_vector_env("catch", 3)
    before = env.reset(seed=1)[0]
    with pytest.raises((ValueError, TypeError)):
        env.reset(seed=seed)
    assert env.unwrapped.batch.observations[:, 0].tobytes() == before.tobytes()  # type: ignore[attr-defined]
    if not isinstance(seed, list):
        with pytest.raises((ValueError, gym.error.Error)):
            make_env("catch").reset(seed=seed)


@pytest.mark.parametrize("mask", [np.ones(2, bool), np.ones(3), np.ones((3, 1), bool)], ids=repr)
def test_wrong_masks_are_refused(mask: Array) -> None:
    env = make_vector_env("catch", 3)
    env.reset(seed=1)
    with pytest.raises(ValueError, match="reset_mask"):
        env.reset(options={"reset_mask": mask})


@pytest.mark.usefixtures("return_mode", "short_episodes")
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("name", NAMES)
def test_what_was_returned_is_the_callers(name: str, mode: AutoresetMode) -> None:
    n, kept = 3, []
    env, spoiled = (make_vector_env(name, n, autoreset_mode=mode) for _ in range(2))
    kept.append(env.reset(seed=2)[0])
    spoiled.reset(seed=2)[0][...] = 1
    copies = [kept[0].copy()]
    for actions in random_actions(name, 2 * HORIZON, n):
        step, given = env.step(actions), actions.copy()
        arrays = [*step[:4], *(a for a in step[4].get("final_obs", []) if a is not None)]
        kept += arrays
        copies += [array.copy() for array in arrays]
        theirs = spoiled.step(given)
        for array, other in zip(step[:4], theirs[:4], strict=True):
            assert array.tobytes() == other.tobytes()
        ended = theirs[2] | theirs[3]
        if mode == AutoresetMode.DISABLED and ended.any():
            kept.append(env.reset(options={"reset_mask": ended})[0])
            copies.append(kept[-1].copy())
            spoiled.reset(options={"reset_mask": ended})[0][...] = 1
        for array in (given, *theirs[:4], *(a for a in theirs[4].get("final_obs", []) if a is not None)):
            array[...] = 1
    assert all(array.tobytes() == copy.tobytes() for array, copy in zip(kept, copies, strict=True))
    assert len({array.__array_interface__["data"][0] for array in kept}) == len(kept)


def test_refused_actions_and_partial_resets_leave_observations_right(return_mode: None) -> None:
    env = make_vector_env("catch", 3)
    env.reset(seed=1)
    seen = env.step(np.ones(3, np.int64))[0]
    before = seen.copy()
    with pytest.raises(ValueError, match="outside"):
        env.step(np.full(3, 9))
    assert env.unwrapped.batch.observations[:, 0].tobytes() == before.tobytes()  # type: ignore[attr-defined]
    seen[...] = 7  # the caller may
    mask = np.array([True, False, False])
    after = env.reset(seed=[5, None, None], options={"reset_mask": mask})[0]
    expected = make_vector_env("catch", 3).reset(seed=[5, 0, 0])[0]
    assert np.array_equal(after[0], expected[0])
    if env.unwrapped.returns_new_arrays:  # type: ignore[attr-defined]
        assert np.array_equal(after[1:], before[1:])


@pytest.mark.parametrize("name", NAMES)
def test_what_one_world_returned_is_the_callers(name: str) -> None:
    env = make_env(name)
    kept = [env.reset(seed=2)[0]] + [env.step(action)[0] for action in random_actions(name, 5)]
    copies = [observation.copy() for observation in kept]
    env.reset(seed=9)
    env.step(random_actions(name, 1)[0])
    assert all(array.tobytes() == copy.tobytes() for array, copy in zip(kept, copies, strict=True))


# ------------------------------------------------------------------------------------------------- wrong input


def invalid_actions(name: str) -> list[Any]:
    """Actions for one world that are none: of another shape, another kind, or outside."""
    space = LOAD(name).action
    if isinstance(space, Discrete):
        n = int(space.n)
        return [n, -1, 2**40, -(2**40), 1.0, np.float32(0), True, np.True_, [0], [[0]], [], None, "0", 1j]
    low, high = space.low, space.high
    above, below, nan = high.copy(), low.copy(), high.copy()
    above[-1] = np.nextafter(high[-1], np.float32(np.inf))
    below[0] = np.nextafter(low[0], np.float32(-np.inf))
    nan[0] = np.nan
    wrong = [above, below, nan, np.full_like(high, np.inf), high[0], [*high, high[0]], high[None], high[:0]]
    return [*wrong, np.zeros(high.shape, bool), np.zeros(high.shape, complex), None, ["0"] * len(high)]


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_action_moves_nothing(name: str) -> None:
    env, many = LabEnv(name), LabVectorEnv(name, 3, threads=1)
    env.reset(seed=4)
    many.reset(seed=4)
    good = random_actions(name, 3, 3)
    before = env.batch.state(0), many.batch.states.tobytes()
    wrong = invalid_actions(name)
    assert len(wrong) > 9
    for action in wrong:
        with pytest.raises(ValueError):
            env.step(action)
        with pytest.raises(ValueError):
            many.step([action] * 3)  # type: ignore[arg-type]
    for action in wrong[:2]:  # outside, in the last world alone
        with pytest.raises(ValueError, match="world 2 at step 0 is outside"):
            many.step(np.array([*good[0, :2], action]))
    for actions in (good[0, :2], good[0, 0], good[:1], np.concatenate([good[0], good[0]]), None):
        with pytest.raises(ValueError):
            many.step(actions)  # type: ignore[arg-type]
    assert (env.batch.state(0), many.batch.states.tobytes()) == before
    untouched = LabVectorEnv(name, 3, threads=1)
    untouched.reset(seed=4)
    for actions in good:
        alone, step, expected = env.step(actions[0]), many.step(actions), untouched.step(actions)
        assert step[0].tobytes() == expected[0].tobytes() and alone[0].tobytes() == step[0][0].tobytes()
        assert step[1].tobytes() == expected[1].tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_an_action_may_be_any_number_of_the_right_kind(name: str) -> None:
    space = LOAD(name).action
    kinds: list[Any] = [np.int8, np.uint64] if isinstance(space, Discrete) else [np.float64, np.float16]
    ones = np.ones((2, *(space.shape or ())))
    for kind in kinds:
        env, other, many = LabEnv(name), LabEnv(name), LabVectorEnv(name, 2, threads=1)
        for each in (env, other, many):
            each.reset(seed=1)
        step = env.step(ones[0].astype(kind))
        listed = ones[0].tolist() if space.shape else 1
        assert step[0].tobytes() == other.step(listed)[0].tobytes()
        assert step[0].tobytes() == many.step(ones.astype(kind))[0][0].tobytes()


def test_wrong_words_name_the_nearest() -> None:
    for make in (make_env, lambda name, **given: make_vector_env(name, 2, **given)):
        with pytest.raises(ValueError, match=r"cartpole has no parameter 'gravty'; did you mean 'gravity'\?"):
            make("cartpole", gravty=9.0)
        with pytest.raises(ValueError, match=r"no world 'cathc'; did you mean 'catch'\?"):
            make("catch", world="cathc")
        with pytest.raises(ValueError, match="cartpole: parameter gravity='heavy'"):
            make("cartpole", gravity="heavy")
        with pytest.raises(ValueError, match="speed"):
            make("catch", speed=1.5)
        with pytest.raises(gym.error.NameNotFound, match="catch"):
            make("cathc")


@pytest.mark.parametrize(
    "make", [make_env, lambda name, **given: make_vector_env(name, 2, **given)], ids=["one", "many"]
)
def test_a_wrong_render_mode_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="rgb_array"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium's own remark on the same mistake
        make("catch", render_mode="rgb_aray")


@pytest.mark.parametrize("wrong", [{"autoreset_mode": "NextStepp"}, {"threads": 0}, {"num_envs": 0}], ids=repr)
def test_wrong_vector_arguments_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        LabVectorEnv("catch", **wrong)


# ------------------------------------------------------------------------------------------- parameters, pictures


def changed_params(name: str, field: str) -> Any:
    """A value that this parameter may have and by default has not."""
    params = LOAD(name).Params
    default = params()[field][0].item()
    for value in (2 * default + 1, default + 1, default * 0.75, default - 1):
        value = params.dtype[field].type(value).item()
        with contextlib.suppress(ValueError):
            if params(**{field: value})[field][0].item() != default:
                return value
    raise AssertionError(f"{name}: no other value found for {field}")


@pytest.mark.parametrize("name", NAMES)
def test_keywords_set_the_worlds_parameters(name: str) -> None:
    defaults = LOAD(name).Params()
    for field in defaults.dtype.names or ():
        if defaults.dtype[field].shape:
            continue  # what holds for numbers holds for arrays of them
        if LOAD(name).levels is not None and field == COUNT:
            continue  # it is refused without the levels that it counts
        other = changed_params(name, field)
        for env in (make_env(name, **{field: other}), make_vector_env(name, 2, **{field: other})):
            params = env.unwrapped.batch.params  # type: ignore[attr-defined]
            assert params[field].tolist() == [other]
            for same in set(defaults.dtype.names or ()) - {field}:
                assert np.array_equal(params[same], defaults[same])


def test_parameters_change_what_happens() -> None:
    env = make_env("catch", speed=3)
    env.reset(seed=0)
    assert [env.step(1)[2] for _ in range(3)] == [False, False, True]
    light, heavy = make_vector_env("cartpole", 2, gravity=1.0), make_vector_env("cartpole", 2)
    assert light.reset(seed=0)[0].tobytes() == heavy.reset(seed=0)[0].tobytes()
    actions = np.array([0, 1])
    light.step(actions), heavy.step(actions)
    assert light.step(actions)[0].tobytes() != heavy.step(actions)[0].tobytes()


def is_picture(frame: Any) -> bool:
    shown = isinstance(frame, np.ndarray) and frame.dtype == np.uint8
    return shown and frame.ndim == 3 and frame.shape[2] == 3 and bool(frame.std() > 0)


@pytest.mark.parametrize("name", NAMES)
def test_render(name: str, screen: None) -> None:
    env, many = make_env(name, render_mode="rgb_array"), make_vector_env(name, 2, render_mode="rgb_array")
    env.reset(seed=1)
    many.reset(seed=1)
    before = env.unwrapped.batch.states.tobytes()  # type: ignore[attr-defined]
    first = env.render()
    frames = many.render()
    assert is_picture(first) and isinstance(frames, tuple) and len(frames) == 2
    assert np.array_equal(first, frames[0]) and all(map(is_picture, frames))
    assert env.unwrapped.batch.states.tobytes() == before  # type: ignore[attr-defined]
    kept = first.copy()
    env.reset(seed=3)
    for action in random_actions(name, 8, seed=1):
        env.step(action)
    later = env.render()
    assert is_picture(later) and not np.array_equal(later, kept) and np.array_equal(first, kept)
    assert LabEnv(name).render() is None and LabVectorEnv(name, 2).render() is None
    human = make_env(name, render_mode="human")
    human.reset(seed=1)
    human.step(random_actions(name, 1)[0])
    assert human.render() is None
    human.close()
    human.close()


# ------------------------------------------------------------------------------------------- Gymnasium's wrappers


@pytest.mark.parametrize("name", NAMES)
def test_episode_statistics(name: str, short_episodes: None) -> None:
    n = 3
    env = RecordEpisodeStatistics(make_vector_env(name, n))
    env.reset(seed=6)
    returns, lengths, finished, seen = np.zeros(n), np.zeros(n, int), 0, np.zeros(n, bool)
    for actions in random_actions(name, 3 * HORIZON, n):
        _, rewards, terminated, truncated, infos = env.step(actions)
        returns, lengths = np.where(seen, 0.0, returns + rewards), np.where(seen, 0, lengths + 1)
        seen = terminated | truncated
        assert ("episode" in infos) == seen.any()
        if seen.any():
            finished += int(seen.sum())
            assert np.array_equal(infos["_episode"], seen)
            assert np.array_equal(infos["episode"]["l"][seen], lengths[seen])
            assert np.allclose(infos["episode"]["r"][seen], returns[seen], rtol=1e-6, atol=1e-6)
            # The engine counts on its own, in double precision.
            batch = env.unwrapped.batch  # type: ignore[attr-defined]
            assert np.array_equal(batch.episode_lengths[seen], lengths[seen])
            assert np.allclose(batch.episode_returns[seen, 0], returns[seen], rtol=1e-6, atol=1e-6)
    assert finished >= 2 * n and env.episode_count == finished


@pytest.mark.parametrize("name", NAMES)
def test_normalize_observation(name: str, short_episodes: None) -> None:
    n = 4
    plain, wrapped = make_vector_env(name, n), NormalizeObservation(make_vector_env(name, n))
    seen = [plain.reset(seed=8)[0]]
    wrapped.reset(seed=8)
    for actions in random_actions(name, 40, n):
        seen.append(plain.step(actions)[0])
        last = wrapped.step(actions)[0]
    rows = np.concatenate(seen).astype(np.float64)
    # Gymnasium begins with a mean of 0, a variance of 1 and a weight of 1e-4.
    assert np.allclose(wrapped.obs_rms.mean, rows.mean(axis=0), rtol=1e-3, atol=1e-4)
    expected = (seen[-1] - wrapped.obs_rms.mean) / np.sqrt(wrapped.obs_rms.var + wrapped.epsilon)
    assert last.shape == expected.shape and np.allclose(last, expected, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------- Stable-Baselines3


def sb3_pair(name: str, n: int, horizon: int, monkeypatch: pytest.MonkeyPatch) -> tuple[LabVecEnv, DummyVecEnv]:
    monkeypatch.setattr(world_registry, "load", lambda wanted: short_world(wanted, horizon))
    ours = LabVecEnv(Batch(short_world(name, horizon), n, threads=1))
    theirs = DummyVecEnv([lambda: Monitor(LabEnv(name)) for _ in range(n)])
    assert (ours.num_envs, ours.observation_space, ours.action_space) == (
        theirs.num_envs,
        theirs.observation_space,
        theirs.action_space,
    )
    assert list(ours.seed(21)) == list(theirs.seed(21))
    return ours, theirs


CASES = [(name, HORIZON) for name in NAMES] + [("catch", 9), ("catch", 8)]  # catch ends at step 9 by itself


@pytest.mark.parametrize("name, horizon", CASES)
def test_the_contract_of_sb3s_own_vec_env(name: str, horizon: int, monkeypatch: pytest.MonkeyPatch) -> None:
    n, truncations = 4, set()
    ours, theirs = sb3_pair(name, n, horizon, monkeypatch)
    kept = [ours.reset()]
    assert kept[0].dtype == theirs.observation_space.dtype and kept[0].tobytes() == theirs.reset().tobytes()
    copies, episodes = [kept[0].copy()], 0
    for actions in random_actions(name, 4 * HORIZON, n):
        step, expected = ours.step(actions), theirs.step(actions)
        for array, other in zip(step[:3], expected[:3], strict=True):
            assert isinstance(array, np.ndarray) and isinstance(other, np.ndarray)
            assert (array.dtype, array.shape) == (other.dtype, other.shape)
            assert array.tobytes() == other.tobytes()
            kept.append(array)
            copies.append(array.copy())
        for done, info, other in zip(step[2], step[3], expected[3], strict=True):
            assert info.get("TimeLimit.truncated", False) == other["TimeLimit.truncated"]
            if not done:
                assert info == {}
                continue
            episodes += 1
            truncations.add(info["TimeLimit.truncated"])
            assert type(info["TimeLimit.truncated"]) is bool
            terminal = info["terminal_observation"]
            assert terminal.tobytes() == other["terminal_observation"].tobytes()
            assert terminal.shape == other["terminal_observation"].shape
            kept.append(terminal)
            copies.append(terminal.copy())
            episode, monitored = info["episode"], other["episode"]
            assert episode.keys() == monitored.keys() and episode["l"] == monitored["l"]
            # Monitor rounds to six digits after adding up single-precision rewards.
            assert episode["r"] == pytest.approx(monitored["r"], rel=2e-6, abs=2e-6)
            assert episode["t"] >= 0
    assert episodes >= 3 * n
    if name == "catch":
        assert truncations == {horizon == 8}
    assert all(array.tobytes() == copy.tobytes() for array, copy in zip(kept, copies, strict=True))
    assert list(ours.seed(21)) and ours.reset().tobytes() == copies[0].tobytes()
    starts = [Batch(short_world(name, horizon), n, seed=seed).reset().tobytes() for seed in (1, 2)]
    if starts[0] != starts[1]:  # some games always begin the same
        assert ours.reset().tobytes() != copies[0].tobytes()  # seeds are used once


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda env: VecNormalize(env, gamma=0.9), id="normalize"),
        pytest.param(lambda env: VecFrameStack(env, 3), id="frame_stack"),
        pytest.param(lambda env: VecNormalize(VecFrameStack(env, 2), gamma=0.9), id="both"),
    ],
)
@pytest.mark.parametrize("name", ["catch", "cartpole", "pendulum"])
def test_sb3s_wrappers_see_no_difference(wrap: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 3
    ours, theirs = map(wrap, sb3_pair(name, n, HORIZON, monkeypatch))
    assert ours.reset().tobytes() == theirs.reset().tobytes()
    for actions in random_actions(name, 3 * HORIZON, n):
        step, expected = ours.step(actions), theirs.step(actions)
        for array, other in zip(step[:3], expected[:3], strict=True):
            assert array.tobytes() == other.tobytes()
        for done, info, other in zip(step[2], step[3], expected[3], strict=True):
            if done:
                assert info["terminal_observation"].tobytes() == other["terminal_observation"].tobytes()
            else:
                assert info == {}


def test_the_shared_empty_info_stays_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    name, n = "catch", 3
    inner, _ = sb3_pair(name, n, HORIZON, monkeypatch)
    env, counted = VecMonitor(inner), np.zeros(n, int)
    env.reset()
    for actions in random_actions(name, 30, n):
        _, _, dones, infos = env.step(actions)
        counted += 1
        for i in range(n):
            assert ("episode" in infos[i]) == dones[i]
            if dones[i]:
                assert infos[i]["episode"]["l"] == counted[i] == 9
        counted[dones] = 0
    _, _, _, infos = inner.step(random_actions(name, 1, n)[0])
    assert infos == [{}] * n


def test_sb3s_other_questions(screen: None) -> None:
    env = LabVecEnv(Batch(LOAD("catch"), 3, threads=1))
    env.seed(0)
    before = env.reset()
    for actions in (np.zeros(2, int), np.zeros((3, 1), int), np.array(0)):
        with pytest.raises(ValueError, match="actions of shape"):
            env.step(actions)
    with pytest.raises(ValueError, match="action 3 of world 1"):
        env.step(np.array([0, 3, 0]))
    assert env.envs.observations[:, 0].tobytes() == before.tobytes()
    assert env.env_is_wrapped(Monitor) == [False] * 3 and env.env_is_wrapped(Monitor, 1) == [False]
    assert env.get_attr("num_envs", [0, 2]) == [3, 3] and not env.has_attr("nothing_of_this_name")
    with pytest.raises(AttributeError, match="gravity"):
        env.set_attr("gravity", 1.0)
    with pytest.raises(AttributeError, match="jump"):
        env.env_method("jump")
    images = env.get_images()
    assert len(images) == 3 and all(map(is_picture, images))
    assert is_picture(env.render())
    env.close()


def test_fractional_actions_are_not_cut_in_silence() -> None:
    env = LabVecEnv(Batch(LOAD("catch"), 2, threads=1))
    env.seed(0)
    env.reset()
    with pytest.raises(ValueError):
        env.step(np.array([0.5, 1.7]))


def test_unseeded_sb3_worlds_differ_between_runs_of_seed_none() -> None:
    # SB3 draws the seeds from numpy's global generator, seeded here: nothing is left to chance.
    np.random.seed(0)
    begun = []
    for _ in range(2):
        env = LabVecEnv(Batch(LOAD("pendulum"), 2, threads=1))
        env.seed(None)
        begun.append(env.reset())
    assert len({row.tobytes() for rows in begun for row in rows}) == 4


def test_boxes_and_discretes_are_both_there() -> None:
    assert DISCRETE and CONTINUOUS and isinstance(LOAD(CONTINUOUS[0]).action, Box)
