"""These tests check what `Batch` documents, on worlds that are small enough to be computed by hand."""

from __future__ import annotations

import ctypes
import importlib
import math
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rl_lab.envs
from gymnasium.vector import AutoresetMode
from support import programs
from support.walk_world import WALK

from rl_lab.core.rng import integers
from rl_lab.core.world import Array, Box, Discrete, Record, World, WorldError, WorldState, bounded, f4, f8, i4, kernel
from rl_lab.engine import batch as engine
from rl_lab.engine import buffers, compiler, thread_tuner, user_code, vectorization, world_registry
from rl_lab.engine.batch import Batch, NonFiniteError

NAN, INF = f4(math.nan), f4(math.inf)
SAME_STEP, NEXT_STEP, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED


class Log(Record):
    ones: f8  # how often action 1 was taken
    halves: f8


class State(WorldState):
    count: i4
    start: i4
    log: Log


class Params(Record):
    length: i4 = 3
    gain: f4 = bounded(1, low=-100)
    first: f4 = 0.0  # what the first observation shows of a fresh episode


# Counter: pays gain * count a step, 10 more for action 1; actions 2 to 6 bring NaN and infinity about.
@kernel
def reset(s: State, p: Params) -> None:
    s.start = integers(s, 1_000_000)


@kernel
def step(s: State, action: int, p: Params) -> tuple[float, bool]:
    s.count += 1
    s.log.halves += 0.5
    if action == 1:
        s.log.ones += 1.0
    reward = p.gain * s.count + (10.0 if action == 1 else 0.0)
    if action == 2:
        reward = NAN
    if action == 3:
        reward = -INF
    if action == 6:
        reward = 1e39
    elif action >= 4:
        s.start = -action
    return reward, s.count >= p.length


@kernel
def observe(s: State, p: Params, out: Array) -> None:
    out[0] = s.count if s.count else p.first
    out[1] = NAN if s.start == -4 else INF if s.start == -5 else s.start


@kernel
def expert(s: State, p: Params) -> int:
    return s.count % 2


COUNTER = World(
    State,
    Params,
    reset,
    step,
    observe,
    expert=expert,
    observation=Box(-1e6, 1e6, (2,)),
    action=Discrete(7),
    horizon=5,
)


class PositionState(WorldState):
    x: f4[2]


class NoParams(Record):
    unused: i4 = 0


@kernel
def place_reset(s: PositionState, p: NoParams) -> None:
    s.x[0] = s.x[1] = f4(0)


@kernel
def place_step(s: PositionState, action: Array, p: NoParams) -> tuple[float, bool]:
    for k in range(2):
        s.x[k] += action[k]
    return s.x[0], False


@kernel
def place_observe(s: PositionState, p: NoParams, out: Array) -> None:
    for k in range(2):
        out[k] = s.x[k]


# Walker: moves by its action; it never ends by itself nor by a horizon.
WALKER = World(
    PositionState,
    NoParams,
    place_reset,
    place_step,
    place_observe,
    observation=Box(-np.inf, np.inf, (2,)),
    action=Box(np.array([-1, 0], np.float32), np.array([1, 2], np.float32)),
)


How = dict[str, Any]
HOW: list[How] = [{"plain": True}, {"threads": 1}, {"threads": 2}]
every_way = pytest.mark.parametrize("how", HOW, ids=["plain", "serial", "threaded"])


def play(batch: Batch, *actions: Any) -> int:
    """Step once for each of the actions, one for all worlds or one a world; return the last count of ends."""
    ended = 0
    for action in actions:
        batch.actions[...] = np.reshape(action, (-1, *[1] * (batch.actions.ndim - 1)))
        ended = batch.step()
    return ended


def observed_counts(batch: Batch) -> list[float]:
    return batch.observations[:, 0, 0].tolist()


# Auto-reset


@every_way
def test_same_step_resets_at_once_and_keeps_the_final_observation(how: How) -> None:
    batch = Batch(COUNTER, 2, **how)
    first = batch.reset().copy()
    assert observed_counts(batch) == [0, 0] and not batch.done.any()
    assert play(batch, 0, [0, 1]) == 0
    assert observed_counts(batch) == [2, 2] and batch.rewards.tolist() == [[2], [12]]
    assert play(batch, 0) == 2
    assert batch.rewards.tolist() == [[3], [3]]
    assert batch.terminated.all() and not batch.truncated.any()
    assert batch.final_observations[:, 0].tolist() == [[3, first[0, 0, 1]], [3, first[1, 0, 1]]]
    assert observed_counts(batch) == [0, 0] and np.all(batch.observations[:, 0, 1] != first[:, 0, 1])
    assert batch.episode_returns.tolist() == [[6], [16]] and batch.episode_lengths.tolist() == [3, 3]
    assert batch.states["t"].tolist() == [0, 0]
    assert play(batch, 0) == 0
    assert observed_counts(batch) == [1, 1] and batch.rewards.tolist() == [[1], [1]]
    assert not batch.terminated.any() and not batch.done.any()
    assert batch.episode_returns.tolist() == [[6], [16]], "of the last finished episode"


@every_way
def test_next_step_shows_the_end_then_resets_without_a_step(how: How) -> None:
    batch = Batch(COUNTER, 1, autoreset=NEXT_STEP, **how)
    start = float(batch.reset()[0, 0, 1])
    assert play(batch, 0, 0, 1) == 1
    assert batch.observations[0, 0].tolist() == [3, start] and batch.terminated[0] and batch.done[0]
    assert batch.rewards[0, 0] == 13 and batch.episode_returns[0, 0] == 16
    assert play(batch, 1) == 0, "the action is not played"
    assert observed_counts(batch) == [0] and batch.rewards[0, 0] == 0 and batch.observations[0, 0, 1] != start
    assert not batch.terminated[0] and not batch.truncated[0] and not batch.done[0]
    play(batch, 0)
    assert observed_counts(batch) == [1] and batch.rewards[0, 0] == 1
    assert batch.drain_log() == {"episodes": 1, "ones": 1, "halves": 1.5}


@every_way
def test_disabled_waits_for_reset(how: How) -> None:
    params = COUNTER.Params.zeros(2)
    params["length"] = 2, 4
    batch = Batch(COUNTER, 2, params, autoreset=DISABLED, **how)
    batch.reset()
    assert play(batch, 0, 0) == 1
    assert batch.done.tolist() == [True, False]
    before = batch.state(0), batch.observations[0].tobytes()
    assert play(batch, 1) == 0
    assert (batch.state(0), batch.observations[0].tobytes()) == before, "an ended world stands still"
    assert batch.rewards[0, 0] == 0 and batch.done.tolist() == [True, False]
    assert observed_counts(batch) == [2, 3]
    batch.reset(batch.done)
    assert observed_counts(batch) == [0, 3] and not batch.done.any() and not batch.terminated.any()
    assert play(batch, 0) == 1
    assert observed_counts(batch) == [1, 4] and batch.terminated.tolist() == [False, True]
    assert batch.drain_log()["episodes"] == 2


@every_way
def test_same_step_marks_the_worlds_that_ended_in_this_step(how: How) -> None:
    batch = Batch(COUNTER, 2, COUNTER.Params(length=2), **how)
    batch.reset()
    for _ in range(6):
        play(batch, 0)
        assert np.array_equal(batch.done, batch.terminated | batch.truncated)


@every_way
def test_the_horizon_truncates_and_may_coincide_with_termination(how: How) -> None:
    params = COUNTER.Params.zeros(3)
    params["length"] = 4, 5, 6
    batch = Batch(COUNTER, 3, params, autoreset=DISABLED, **how)
    batch.reset()
    play(batch, *[0] * 5)
    assert batch.terminated.tolist() == [True, True, False]
    assert batch.truncated.tolist() == [False, True, True]
    assert batch.episode_lengths.tolist() == [4, 5, 5]


@every_way
def test_a_world_without_a_horizon_goes_on(how: How) -> None:
    batch = Batch(WALKER, 1, **how)
    batch.reset()
    for _ in range(2000):
        assert play(batch, 0.5) == 0
    assert batch.observations.tolist() == [[[1000, 1000]]]


def test_an_episode_begins_zeroed_with_its_random_stream_going_on() -> None:
    batch = Batch(COUNTER, 1, threads=1)
    batch.reset()
    starts = set()
    for _ in range(20):
        starts.add(int(batch.states["start"][0]))
        play(batch, 1, 0, 0)
        assert batch.states[0]["count"] == batch.states[0]["t"] == 0
        assert batch.states[0]["log"].tolist() == (0, 0)
    assert len(starts) == 20


# Episode statistics


@every_way
def test_logs_are_summed_over_finished_episodes(how: How) -> None:
    batch = Batch(COUNTER, 3, **how)
    batch.reset()
    play(batch, [0, 1, 1], [0, 0, 1], [0, 1, 1])
    play(batch, 1)  # of an unfinished episode
    assert batch.log_totals.tolist() == [[1, 0, 1.5], [1, 2, 1.5], [1, 3, 1.5]]
    assert batch.drain_log() == {"episodes": 3, "ones": 5 / 3, "halves": 1.5}
    assert batch.drain_log() == {"episodes": 0, "ones": 0, "halves": 0}
    play(batch, 0, 0)
    assert batch.drain_log() == {"episodes": 3, "ones": 1, "halves": 1.5}


def test_a_reset_in_mid_episode_forgets_it() -> None:
    batch = Batch(COUNTER, 1, threads=1)
    batch.reset()
    play(batch, 1, 1)
    batch.reset()
    assert batch.running_returns.tolist() == [[0]]
    play(batch, 0, 0, 0)
    assert batch.episode_returns.tolist() == [[6]] and batch.drain_log() == {"episodes": 1, "ones": 0, "halves": 1.5}


# Params, seeds, masks


@every_way
def test_params_are_one_record_or_one_a_world(how: How) -> None:
    shared = Batch(COUNTER, 3, COUNTER.Params(gain=2), **how)
    shared.reset()
    play(shared, 0)
    assert shared.rewards.tolist() == [[2], [2], [2]]
    given = COUNTER.Params.zeros(3)
    given["length"], given["gain"] = 3, (1, 2, 3)
    own = Batch(COUNTER, 3, given, **how)
    given["gain"] = 100
    own.reset()
    play(own, 0)
    assert own.rewards.tolist() == [[1], [2], [3]], "a copy was taken"
    own.params["gain"] *= 10
    play(own, 0)
    assert own.rewards.tolist() == [[20], [40], [60]], "the batch's own may be changed between steps"
    assert Batch(COUNTER, 3, COUNTER.Params(gain=4)[0], **how).params["gain"].tolist() == [4]


def out_of_range() -> Array:
    params = COUNTER.Params.zeros(3)
    params["gain"][1] = -101
    return params


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_envs": 0},
        {"num_envs": -1},
        {"num_envs": 2**24},
        {"threads": 0},
        {"seed": -1},
        {"seed": 2**32},
        {"seed": 1.0},
        {"seed": np.array([1, 2])},
        {"seed": np.array([1, -2, 3])},
        {"first": -1},
        {"first": 2**24 - 2},
        {"params": COUNTER.Params.zeros(2)},
        {"params": COUNTER.Params.zeros(0)},
        {"params": WALKER.Params()},
        {"params": np.zeros(3)},
        {"params": out_of_range()},
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"worlds=|threads=|seed=|first=|params: |gain=-101"):
        Batch(COUNTER, **({"num_envs": 3} | arguments))


def test_a_seed_takes_hold_at_the_next_reset_of_each_world() -> None:
    def starts(batch: Batch) -> list[int]:
        return batch.states["start"].tolist()

    batch, other = Batch(COUNTER, 2, seed=1, threads=1), Batch(COUNTER, 2, seed=2, threads=1)
    batch.reset()
    other.reset()
    batch.seed(2)
    before = starts(batch)
    play(batch, 0)
    assert starts(batch) == before
    batch.reset(np.array([False, True]))
    assert starts(batch) == [before[0], starts(other)[1]]
    batch.reset(np.array([True, False]))
    assert starts(batch) == starts(other)
    batch.reset()
    other.reset()
    assert starts(batch) == starts(other), "and only at that one"


@every_way
def test_a_masked_reset_leaves_the_others_alone(how: How) -> None:
    batch = Batch(COUNTER, 3, **how)
    batch.reset()
    play(batch, 0, 0)
    untouched = batch.state(1), batch.observations[1].tobytes(), batch.rewards[1].tobytes()
    batch.reset(np.array([True, False, True]))
    assert (batch.state(1), batch.observations[1].tobytes(), batch.rewards[1].tobytes()) == untouched
    assert observed_counts(batch) == [0, 2, 0] and batch.rewards.tolist() == [[0], [2], [0]]


@pytest.mark.parametrize("shape", [(1,), (4,), (3, 1), ()], ids=str)
def test_a_mask_of_the_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    batch = Batch(COUNTER, 3, threads=1)
    batch.reset()
    with pytest.raises(ValueError):
        batch.reset(np.ones(shape, np.bool_))


# Non-finite numbers

FAULTS = [
    (2, r"non-finite reward in world 1 at step 2: nan \(.*test_batch.py:\d+ step\)"),
    (3, r"non-finite reward in world 1 at step 2: -inf \(.*test_batch.py:\d+ step\)"),
    (4, r"non-finite observation in world 1 at step 2: nan at \[1\] \(.*test_batch.py:\d+ observe\)"),
    (5, r"non-finite observation in world 1 at step 2: inf at \[1\] \(.*test_batch.py:\d+ observe\)"),
    (6, r"non-finite reward in world 1 at step 2: inf \(.*test_batch.py:\d+ step\)"),
]


@every_way
@pytest.mark.parametrize("n", [3, 2 * vectorization.BLOCK], ids=["scalar", "simd"])
@pytest.mark.parametrize(("action", "message"), FAULTS)
def test_what_is_not_finite_is_named_and_stops_the_batch(how: How, n: int, action: int, message: str) -> None:
    batch = Batch(COUNTER, n, **how)
    batch.reset()
    play(batch, 0)
    with pytest.raises(NonFiniteError, match=f"test_batch: {message}"):
        play(batch, [0, action, *[0] * (n - 2)])
    stopped = batch.states.tobytes()
    with pytest.raises(NonFiniteError, match=rf"{message}; call reset\(\) first"):
        play(batch, 0)
    assert batch.states.tobytes() == stopped
    batch.reset()
    play(batch, 0)
    assert observed_counts(batch) == [1] * n


@every_way
def test_a_reset_that_is_not_finite_is_named(how: How) -> None:
    params = COUNTER.Params.zeros(3)
    params["length"] = 3
    params["first"][2] = np.nan
    batch = Batch(COUNTER, 3, params, **how)
    with pytest.raises(NonFiniteError, match=r"non-finite observation in world 2 at step 0: nan at \[0\] \("):
        batch.reset()
    with pytest.raises(NonFiniteError, match="call reset"):
        batch.step()


@every_way
def test_an_auto_reset_that_is_not_finite_is_named(how: How) -> None:
    batch = Batch(COUNTER, 2, **how)
    batch.reset()
    batch.params["first"] = np.inf
    with pytest.raises(NonFiniteError, match="observation in world 0 at step 0"):
        play(batch, 0, 0, 0)


# Actions


@every_way
@pytest.mark.parametrize("autoreset", [SAME_STEP, NEXT_STEP, DISABLED])
@pytest.mark.parametrize("action", [-1, 7, 2**62, -(2**63)])
def test_a_discrete_action_outside_its_space_moves_nothing(how: How, autoreset: Any, action: int) -> None:
    batch = Batch(COUNTER, 4, autoreset=autoreset, **how)
    batch.reset()
    play(batch, 1)
    before = {name: array.tobytes() for name, array in batch.snapshot().items()}
    with pytest.raises(ValueError, match=rf"test_batch: action {action} of world 2 at step 1 is outside Discrete\(7\)"):
        play(batch, [0, 0, action, 0])
    assert {name: array.tobytes() for name, array in batch.snapshot().items()} == before
    play(batch, 0)
    assert observed_counts(batch) == [2] * 4


@every_way
@pytest.mark.parametrize(
    "action", [(np.nan, 1), (0, np.nan), (1.0001, 1), (0, -0.0001), (0, np.inf), (-np.inf, 1)], ids=str
)
def test_a_continuous_action_outside_its_space_moves_nothing(how: How, action: tuple[float, float]) -> None:
    batch = Batch(WALKER, 3, **how)
    batch.reset()
    batch.actions[...] = 1, 2  # the ends belong to it
    batch.step()
    before = batch.states.tobytes(), batch.observations.tobytes(), batch.rewards.tobytes()
    batch.actions[1, 0] = action
    with pytest.raises(ValueError, match="action .* of world 1 at step 1 is outside Box"):
        batch.step()
    assert (batch.states.tobytes(), batch.observations.tobytes(), batch.rewards.tobytes()) == before
    batch.actions[...] = -1, 0
    batch.step()
    assert batch.observations.tolist() == [[[0, 2]]] * 3


@every_way
def test_the_expert_writes_actions(how: How) -> None:
    batch = Batch(COUNTER, 2, **how)
    batch.reset()
    assert batch.scripted_actions() is batch.actions and batch.actions.tolist() == [[0], [0]]
    batch.step()
    assert batch.scripted_actions().tolist() == [[1], [1]]
    with pytest.raises(ValueError, match="test_batch has no expert"):
        Batch(WALKER, 1, **how).scripted_actions()


# Memory and threads


def test_the_table_of_buffers_says_what_a_batch_has() -> None:
    batch = Batch(COUNTER, 3, threads=1)
    layout = buffers.Layout.of(COUNTER)
    header = np.ctypeslib.as_array((ctypes.c_int64 * buffers.HEADER_SIZE).from_address(batch.native_handle()))
    for name, row in buffers.BUFFERS.items():
        array = getattr(batch, name)
        rows = 1 if row.shape[0] == "P" else 3
        assert (array.shape, array.dtype) == ((rows, *layout.shape(row)), layout.dtype(row)), name
        assert (name in batch.snapshot()) == row.is_saved, name
        if row.is_in_header:
            assert header[buffers.HEADER_SLOTS[name]] == array.ctypes.data, name
            assert f"{name} " in str(Batch.__doc__) and row.meaning in str(Batch.__doc__), name
    assert set(buffers.View._fields) >= set(buffers.HEADER_SLOTS)


def test_arrays_never_move() -> None:
    batch = Batch(COUNTER, 3, threads=2)
    names = "states params actions observations rewards terminated truncated done final_observations"
    arrays = {name: getattr(batch, name) for name in f"{names} episode_returns episode_lengths log_totals".split()}
    batch.reset()
    snapshot = batch.snapshot()
    play(batch, 0, 1, 0, 0)
    batch.seed(5)
    batch.reset(np.array([True, False, True]))
    batch.restore(snapshot)
    batch.set_state(0, batch.state(1))
    batch.scripted_actions()
    batch.drain_log()
    for name, array in arrays.items():
        assert getattr(batch, name) is array and array.flags.c_contiguous, name


def test_threads_found_by_trial_change_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    serial = Batch(COUNTER, 50, threads=1)
    monkeypatch.setattr(engine.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(thread_tuner, "MIN_PARALLEL_SECONDS", 0.0)
    monkeypatch.setattr(thread_tuner, "MIN_STEP_FRACTION", 0.0)
    chosen, used = Batch(COUNTER, 50), []
    for batch in (serial, chosen):
        batch.reset()
        for _ in range(60):
            used.append(batch.tuner is not None and batch.tuner.threaded)
            play(batch, 0, 1)
    assert any(used) and not all(used[60:]) and not any(used[:60])
    assert chosen.states.tobytes() == serial.states.tobytes()
    assert chosen.log_totals.tobytes() == serial.log_totals.tobytes()


def test_threads_of_the_engine_leave_torchs_alone() -> None:
    specialize = "import torch; torch.set_num_threads(1); from rl_lab.adapters.make import make; "
    specialize += "b = make('catch', 8, threads=2)"
    specialize += "; b.reset(); b.step(); assert torch.get_num_threads() == 1"
    programs.run([sys.executable, "-c", specialize], check=True, timeout=120)


def test_more_threads_than_worlds() -> None:
    batch = Batch(COUNTER, 2, threads=7)
    batch.reset()
    assert play(batch, 0, 0, 0) == 2


def test_states_of_another_size_and_snapshots_of_another_batch_are_refused() -> None:
    batch, walker = Batch(COUNTER, 2, threads=1), Batch(WALKER, 2, threads=1)
    batch.reset()
    walker.reset()
    with pytest.raises(ValueError, match="state of 3 bytes: test_batch's has"):
        batch.set_state(0, b"abc")
    for other in (walker, Batch(COUNTER, 3, threads=1)):
        with pytest.raises(ValueError, match="snapshot of another batch: .* does not fit test_batch x 2"):
            batch.restore(other.snapshot())
    with pytest.raises(ValueError, match="snapshot of another batch: states"):
        batch.restore({})


def test_states_written_from_outside_are_observed_on_demand() -> None:
    batch = Batch(COUNTER, 2, threads=1)
    batch.reset()
    batch.states["count"] = 7
    batch.observe(1)
    assert observed_counts(batch) == [0, 7]
    batch.observe()
    assert observed_counts(batch) == [7, 7]


# Mistakes in world files


def unmarked(s: State, p: Params) -> None:
    pass


@kernel
def too_few(s: State) -> None:
    pass


class NoWorldState(Record):
    x: f4


class NoDefault(Record):
    speed: f4


class WrongLog(WorldState):
    log: NoWorldState


class BadState(State):
    pass


def location_of(function: Callable[..., Any]) -> str:
    return rf"test_batch\.py:{function.__code__.co_firstlineno} "


GOOD = {
    "State": State,
    "Params": Params,
    "reset": reset,
    "step": step,
    "observe": observe,
    "observation": Box(0, 1, (2,)),
    "action": Discrete(6),
}
MISTAKES = [
    ({"reset": unmarked}, location_of(unmarked) + "unmarked: reset must be a function decorated with @kernel"),
    ({"observe": None}, "observe must be a function decorated with @kernel"),
    ({"reset": too_few}, location_of(too_few) + "too_few: reset takes 2 parameters"),
    ({"expert": too_few}, location_of(too_few) + "too_few: expert takes 2 parameters"),
    ({"expert": expert, "action": Box(-1, 1, (1,))}, location_of(expert) + "expert: expert takes 3 parameters"),
    ({"State": NoWorldState}, location_of(step) + "step: State must derive from WorldState"),
    ({"Params": NoDefault}, location_of(step) + "step: Params.speed needs a default"),
    ({"action": Discrete(3, start=1)}, location_of(step) + "step: a Discrete action space starts at 0"),
    ({"action": Box(-1, 1, (1,), np.float64)}, location_of(step) + "step: a Box action space is float32"),
    ({"action": Box(-1, 1, (2, 2))}, location_of(step) + r"step: a Box action space is float32 of shape \[k\]"),
    ({"State": WrongLog}, location_of(step) + "step: every field of the log is f8"),
    ({"agents": ("red", "blue")}, location_of(step) + "step: step takes 4 parameters"),
]


@pytest.mark.parametrize(("mistake", "message"), MISTAKES, ids=[str(number) for number in range(len(MISTAKES))])
def test_a_mistake_in_a_world_names_its_file_and_line(mistake: dict[str, Any], message: str) -> None:
    World(**GOOD)
    with pytest.raises(WorldError, match=message):
        World(**(GOOD | mistake))


def helper(x: float) -> float:
    return x


@kernel
def calls_helper(s: State, p: Params) -> None:
    s.start = helper(1)


def test_a_helper_that_is_no_kernel_is_named() -> None:
    world = World(**(GOOD | {"reset": calls_helper}))
    with pytest.raises(TypeError, match=location_of(helper) + "helper: called from kernel calls_helper"):
        Batch(world, 1, threads=1)


def test_a_kernel_with_closed_over_variables_is_refused() -> None:
    speed = 3

    def closed(s: State, p: Params) -> None:
        s.start = speed

    with pytest.raises(TypeError, match=location_of(closed) + "closed: a kernel must be a plain function"):
        kernel(closed)


# Files that change: the machine code follows

WORLD = """
    from rl_lab.core.world import Box, Discrete, Record, World, WorldState, f4, i4, kernel
    from rl_lab_test_helper import push

    STEP = f4({constant})

    class State(WorldState):
        x: f4

    class Params(Record):
        unused: i4 = 0

    @kernel
    def reset(s, p):
        s.x = f4(0)

    @kernel
    def step(s, action, p):
        s.x = push(s.x) + STEP
        return s.x, False

    @kernel
    def observe(s, p, out):
        out[0] = s.x

    world = World(State, Params, reset, step, observe, observation=Box(0, 9, (1,)), action=Discrete(1))
"""
HELPER = """
    from rl_lab.core.kernel import kernel
    from rl_lab_test_limits import LIMIT

    @kernel
    def push(x):
        return min(x + x, LIMIT)
"""
LIMITS = """
    from rl_lab.core.record import f4

    LIMIT = f4({limit})
"""
NAMES = ("rl_lab_test_limits", "rl_lab_test_helper", "rl_lab_test_world")


@pytest.fixture
def make_edited_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    """Write the three files anew with these constants, and import the world as a new process would."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def edit(constant: int = 1, limit: int = 8) -> World:
        for name, text in zip(NAMES, (LIMITS, HELPER, WORLD), strict=True):
            sys.modules.pop(name, None)
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(text).format(constant=constant, limit=limit))
        importlib.invalidate_caches()
        world: World = importlib.import_module(NAMES[-1]).world
        return world

    yield edit
    for name in NAMES:
        sys.modules.pop(name, None)


def code_folder(world: World) -> Path:
    return Path(str(compiler.compiled_loops(world).__file__)).parent


def test_an_edited_world_is_compiled_again(make_edited_world: Callable[..., World]) -> None:
    # Were either edit overlooked, the third step would show it.
    for constant, limit, expected in ((1, 8, [1, 3, 7, 9]), (2, 4, [2, 6, 6, 6])):
        batch = Batch(make_edited_world(constant, limit), 1, threads=1)
        batch.reset()
        seen = []
        for _ in range(4):
            batch.step()
            seen.append(batch.rewards[0, 0])
        assert seen == expected


def test_the_fingerprint_follows_every_file_and_nothing_else(make_edited_world: Callable[..., World]) -> None:
    original = code_folder(make_edited_world())
    assert code_folder(make_edited_world()) == original, "the same text, imported anew"
    assert len({original, code_folder(make_edited_world(constant=2)), code_folder(make_edited_world(limit=9))}) == 3


def test_an_edit_outside_of_the_kernels_is_no_other_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    folders = set()
    for text in (WALK, WALK.replace("reach the end", "go to the end"), f"# mine\n{WALK}"):
        Path("walk.py").write_text(text)
        code = user_code.permit_named("walk.py")
        assert code is not None
        folders.add(code_folder(user_code.load(code.world)))
    assert len(folders) == 1


def test_copies_of_a_world_share_their_machine_code(make_edited_world: Callable[..., World]) -> None:
    world = make_edited_world()
    assert compiler.compiled_loops(replace(world, horizon=7)) is compiler.compiled_loops(world)
    assert compiler.compiled_loops(make_edited_world()) is not compiler.compiled_loops(world), (
        "its messages would name the lines of another file"
    )


def test_old_versions_are_pruned(make_edited_world: Callable[..., World], tmp_path: Path) -> None:
    stranger = tmp_path / "cache" / "rl_lab" / "rl_lab_test_world-notes"
    stranger.mkdir(parents=True)
    kept = []
    for constant in range(compiler.MAX_CACHED_VERSIONS + 3):
        kept.append(code_folder(make_edited_world(constant)))
        for age, old in enumerate(reversed(kept)):
            if old.exists():
                os.utime(old, (1e9 - age, 1e9 - age))
    newest = kept[-compiler.MAX_CACHED_VERSIONS :]
    assert [path for path in kept if path.exists()] == newest
    assert sorted(stranger.parent.iterdir()) == sorted([*newest, stranger])


def test_a_file_in_the_folder_is_a_world(
    make_edited_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_edited_world()
    (tmp_path / "rl_lab_test_empty.py").write_text("")
    monkeypatch.setattr(rl_lab.envs, "__path__", [*rl_lab.envs.__path__, str(tmp_path)])
    assert NAMES[-1] in world_registry.names()
    assert world_registry.load(NAMES[-1]).name == NAMES[-1]
    with pytest.raises(WorldError, match=r"rl_lab_test_empty\.py: ends without `world = World\(\.\.\.\)`"):
        world_registry.load("rl_lab_test_empty")
    with pytest.raises(ValueError, match="no world 'rl_lab_test_wrld'; did you mean 'rl_lab_test_world'"):
        world_registry.load("rl_lab_test_wrld")


@pytest.mark.parametrize("mode", [SAME_STEP, NEXT_STEP])
def test_a_new_buffer_has_the_same_observations_and_the_old_one_keeps_its_own(mode: AutoresetMode) -> None:
    moved, still = (Batch(world_registry.load("simple_tag"), 3, seed=1, autoreset=mode) for _ in "ab")
    for batch in (moved, still):
        batch.reset()
        batch.paused[1] = True
    for _ in range(30):
        before, kept = moved.observations, moved.observations.copy()
        for batch in (moved, still):
            batch.random_actions()
        moved.step_into_new_buffer()
        still.step()
        assert np.array_equal(moved.observations, still.observations) and np.array_equal(before, kept)
