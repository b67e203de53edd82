"""Tests of `evaluate`: which episodes it plays, that the batch size has no effect, files, and errors in one line."""

import dataclasses
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rl_lab.evaluation.episodes
from rl_lab.adapters import make as batch
from rl_lab.core.files import atomic_write_bytes
from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.world import Array
from rl_lab.engine import world_registry
from rl_lab.engine.batch import NonFiniteError
from rl_lab.evaluation import stats
from rl_lab.evaluation.evaluate import (
    EVALUATION_SEED,
    SELECTION_SEED,
    TRAINING_SEEDS,
    EndlessEpisodeError,
    Episode,
    Evaluation,
    best_median_worst,
    evaluate,
    table,
)


class FunctionAgent:
    """Takes the actions of a function of the observations, and records the batches that it was bound to."""

    def __init__(self, decide: Any, name: str = "fixed") -> None:
        self.decide, self.name = decide, name
        self.bound_envs: list[BatchedEnv] = []

    def bind(self, envs: BatchedEnv) -> None:
        self.bound_envs.append(envs)

    def act(
        self, observations: Array, *, state: Any = None, action_mask: Array | None = None, deterministic: bool = True
    ) -> tuple[Array, Any]:
        return self.decide(observations), None


class FirstAngleAgent:
    """Balances CartPole's pole where the first angle of an episode is positive, and else lets it fall.

    So its episodes are either long or short. Its recurrent state is the first angle of the episode, NaN before the
    first step; the lengths of episodes show whether the state was reset between them.
    """

    name = "first_angle"

    def bind(self, envs: BatchedEnv) -> None:
        pass

    def act(
        self, observations: Array, *, state: Any = None, action_mask: Array | None = None, deterministic: bool = True
    ) -> tuple[Array, Any]:
        first = np.full(len(observations), np.nan) if state is None else state
        first = np.where(np.isnan(first), observations[:, 2], first)
        return np.where(first > 0, balance_pole(observations), 0), first

    def begin(self, state: Any, episode_starts: Array) -> Any:
        return np.where(episode_starts, np.nan, state)


def balance_pole(observations: Array) -> Array:
    x, speed, angle, spin = observations.T
    return (angle + 0.3 * spin + 0.03 * x + 0.06 * speed > 0).astype(np.int64)


def push_toward_lean(observations: Array) -> Array:
    """Push the cart to the side where the pole leans: it falls sooner or later, and lengths of episodes differ."""
    return (observations[:, 2] > 0).astype(np.int64)


def always_action_1(observations: Array) -> Array:
    return np.ones(len(observations), np.int64)


def proportional_torque(observations: Array) -> Array:
    return np.clip(2 * observations[:, 1:2], -2, 2)


def sample_actions(evaluation: Evaluation) -> list[list[float]]:
    return [episode.actions.tolist() for episode in evaluation.episodes]


def test_seeds_of_training_selection_and_evaluation_do_not_overlap() -> None:
    assert TRAINING_SEEDS.stop == EVALUATION_SEED < SELECTION_SEED < 2**32
    assert SELECTION_SEED - EVALUATION_SEED >= 2**30


@pytest.mark.parametrize(
    ("world", "decide"),
    [("cartpole", push_toward_lean), ("gym:CartPole-v1", push_toward_lean), ("pendulum", proportional_torque)],
)
def test_plays_the_number_of_episodes_asked_for_with_consecutive_seeds(world: str, decide: Any) -> None:
    agent = FunctionAgent(decide)
    evaluation = evaluate(agent, world, {}, episodes=11, num_envs=4)
    assert len(agent.bound_envs) == 1 and agent.bound_envs[0].num_envs == 4
    assert [e.index for e in evaluation.episodes] == list(range(11))
    assert [e.seed for e in evaluation.episodes] == [2**31 + k for k in range(11)]
    for e in evaluation.episodes:
        assert e.terminated or e.truncated
        assert len(e.actions) == e.length > 0
        assert e.actions.dtype == (np.float32 if world == "pendulum" else np.int64)
        assert e.actions.shape[1:] == ((1,) if world == "pendulum" else ())
    assert len({e.return_ for e in evaluation.episodes}) > 3
    assert (evaluation.agent, evaluation.world, evaluation.params) == ("fixed", world, {})


@pytest.mark.parametrize(
    ("world", "decide", "episodes", "batches"),
    [
        ("cartpole", push_toward_lean, 40, (1, 2, 7, 39, 40, 400, None)),
        ("catch", always_action_1, 40, (1, 3, 64)),
        ("pendulum", proportional_torque, 12, (1, 5, 12)),
        ("gym:CartPole-v1", push_toward_lean, 10, (1, 3, 10, None)),
        ("gym:FrozenLake-v1", always_action_1, 10, (1, 4)),
    ],
)
def test_result_does_not_depend_on_the_number_of_environments(
    world: str, decide: Any, episodes: int, batches: tuple[int | None, ...]
) -> None:
    first, *others = [evaluate(FunctionAgent(decide), world, {}, episodes=episodes, num_envs=n) for n in batches]
    for other in others:
        assert other == first
        assert sample_actions(other) == sample_actions(first)


def test_an_evaluation_of_more_episodes_begins_with_those_of_a_shorter_one() -> None:
    few, many = (evaluate(FunctionAgent(push_toward_lean), "cartpole", {}, episodes=n).episodes for n in (5, 30))
    assert many[:5] == few


@pytest.mark.parametrize(("world", "n"), [("cartpole", 16), ("gym:CartPole-v1", 4)])
def test_short_episodes_are_not_preferred_to_long_ones(world: str, n: int) -> None:
    episodes = 48 if world == "cartpole" else 12
    in_a_batch = evaluate(FirstAngleAgent(), world, {}, episodes=episodes, num_envs=n)
    alone = [
        evaluate(FirstAngleAgent(), world, {}, episodes=1, first_seed=EVALUATION_SEED + k).episodes[0]
        for k in range(episodes)
    ]
    assert [(e.return_, e.length) for e in in_a_batch.episodes] == [(e.return_, e.length) for e in alone]
    assert in_a_batch.summary["mean_return"] == pytest.approx(np.mean([e.return_ for e in alone]))
    lengths = np.array([e.length for e in in_a_batch.episodes])
    assert (lengths < 20).sum() > episodes / 6 and (lengths > 100).sum() > episodes / 6


def test_an_agent_with_a_state_needs_begin_where_an_environment_plays_several_episodes() -> None:
    class WithoutBegin(FirstAngleAgent):
        begin = None  # type: ignore[assignment]

    evaluate(WithoutBegin(), "cartpole", {}, episodes=4, num_envs=4)
    with pytest.raises(
        ValueError, match=r"agent first_angle returns a state but has no begin\(state, episode_starts\)"
    ):
        evaluate(WithoutBegin(), "cartpole", {}, episodes=8, num_envs=4)


def test_parameters_reach_the_world() -> None:
    weak, strong = (
        evaluate(FunctionAgent(always_action_1), "cartpole", {"force": force}, episodes=5) for force in (2.0, 20.0)
    )
    assert weak.summary["mean_length"] > strong.summary["mean_length"]
    assert strong.params == strong.summary["params"] == {"force": 20.0}


def test_success_is_a_return_that_reaches_the_worlds_reward_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated = evaluate(FunctionAgent(always_action_1), "catch", {}, episodes=30)
    assert [e.success for e in evaluated.episodes] == [e.return_ >= 1.0 for e in evaluated.episodes]
    assert 0 < evaluated.summary["success_rate"] < 1
    unsolvable = dataclasses.replace(world_registry.load("catch"), reward_threshold=None)
    monkeypatch.setattr("rl_lab.engine.world_registry.load", lambda name: unsolvable)
    evaluation = evaluate(FunctionAgent(always_action_1), "catch", {}, episodes=3)
    assert {e.success for e in evaluation.episodes} == {None}
    assert evaluation.summary["success_rate"] is None
    assert "success" not in table(evaluation.summary)


def test_episodes_are_either_truncated_or_terminated() -> None:
    (long,) = evaluate(FunctionAgent(balance_pole), "cartpole", {}, episodes=1).episodes
    (short,) = evaluate(FunctionAgent(always_action_1), "cartpole", {}, episodes=1).episodes
    assert (long.length, long.terminated, long.truncated) == (500, False, True)
    assert (short.terminated, short.truncated) == (True, False)


def test_summary_equals_stats_summary_of_the_episodes() -> None:
    evaluation = evaluate(FunctionAgent(push_toward_lean), "cartpole", {}, episodes=20, deterministic=False)
    expected = stats.summary(
        [e.return_ for e in evaluation.episodes],
        [e.length for e in evaluation.episodes],
        [bool(e.success) for e in evaluation.episodes],
    )
    summary = dict(evaluation.summary)
    assert tuple(summary.pop("ci95")) == expected.pop("ci95")
    extra = {"agent": "fixed", "world": "cartpole", "params": {}, "deterministic": False, "log": {}}
    assert summary == {**expected, **extra, "first_seed": EVALUATION_SEED}


def test_the_agent_receives_the_value_of_deterministic() -> None:
    class RecordsDeterministic(FunctionAgent):
        def act(self, observations: Array, *, deterministic: bool = True, **_: Any) -> tuple[Array, Any]:
            self.deterministic = deterministic
            return super().act(observations)

    for deterministic in (True, False):
        agent = RecordsDeterministic(always_action_1)
        evaluate(agent, "catch", {}, episodes=1, deterministic=deterministic)
        assert agent.deterministic is deterministic


@pytest.mark.parametrize("world", ["cartpole", "gym:CartPole-v1"])
def test_global_random_generators_are_as_before_an_evaluation(world: str) -> None:
    class UsesGlobalGenerators(FunctionAgent):
        def bind(self, envs: BatchedEnv) -> None:
            for seed in (np.random.seed, random.seed, torch.manual_seed):
                seed(3)

        def act(self, observations: Array, **_: Any) -> tuple[Array, Any]:
            random.random()
            torch.rand(1)
            return np.random.randint(0, 2, len(observations)), None

    states = np.random.get_state(), random.getstate(), torch.get_rng_state()
    evaluate(UsesGlobalGenerators(always_action_1), world, {}, episodes=3)
    for left, before in zip(np.random.get_state(), states[0], strict=True):
        assert np.array_equal(left, before)
    assert random.getstate() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_global_random_generators_are_restored_after_an_error() -> None:
    def fail(observations: Array) -> Array:
        np.random.rand()
        raise RuntimeError("broken agent")

    before = np.random.get_state()[2]
    with pytest.raises(RuntimeError, match="broken agent"):
        evaluate(FunctionAgent(fail), "catch", {}, episodes=1)
    assert np.random.get_state()[2] == before


def test_preserve_global_rng_does_not_import_torch() -> None:
    program = "import sys, rl_lab.evaluation.evaluate as e\nwith e.preserve_global_rng(): pass\n"
    program += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_progress_is_called_after_each_episode() -> None:
    calls: list[tuple[int, int]] = []
    evaluate(
        FunctionAgent(push_toward_lean),
        "cartpole",
        {},
        episodes=7,
        num_envs=3,
        progress=lambda *done: calls.append(done),
    )
    assert calls == [(k, 7) for k in range(1, 8)]


@pytest.mark.parametrize("world", ["cartpole", "gym:CartPole-v1"])
def test_saved_files_have_the_episodes_and_the_summary(tmp_path: Path, world: str) -> None:
    evaluation = evaluate(FunctionAgent(push_toward_lean), world, {}, episodes=6)
    folder = tmp_path / "evaluations" / "000"
    for _ in range(2):  # the second time over the first
        evaluation.save(folder)
    lines = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    keys = ["index", "seed", "return", "length", "terminated", "truncated", "success"]
    assert all(list(line) == keys for line in lines)
    read = [Episode(return_=line.pop("return"), actions=np.zeros(0), **line) for line in lines]
    assert tuple(read) == evaluation.episodes
    assert json.loads((folder / "summary.json").read_text()) == evaluation.summary
    assert sorted(path.name for path in folder.iterdir()) == ["episodes.jsonl", "summary.json"]


def test_a_write_that_fails_leaves_the_old_file_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    atomic_write_bytes(path, b"old")

    def full_disk(self: Path, data: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(data[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space"):
        atomic_write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def evaluation_of_returns(*returns: float) -> Evaluation:
    episodes = tuple(Episode(k, k, r, 1, True, False, None, np.zeros(1, np.int64)) for k, r in enumerate(returns))
    return Evaluation("a", "w", {}, episodes, {})


@pytest.mark.parametrize(
    ("returns", "best", "median", "worst"),
    [
        ((1.0,), 0, 0, 0),
        ((1.0, 2.0), 1, 0, 0),
        ((3.0, 1.0, 2.0), 0, 2, 1),
        ((4.0, 1.0, 2.0, 3.0), 0, 2, 1),
        ((5.0, 5.0, 5.0), 0, 0, 0),
        ((1.0, 7.0, 1.0, 7.0, 1.0, 7.0), 1, 0, 0),
    ],
)
def test_best_median_worst_takes_the_first_of_equal_episodes(
    returns: tuple[float, ...], best: int, median: int, worst: int
) -> None:
    indices = {name: episode.index for name, episode in best_median_worst(evaluation_of_returns(*returns)).items()}
    assert indices == {"best": best, "median": median, "worst": worst}


def test_table_has_all_figures_in_aligned_columns() -> None:
    evaluation = evaluate(FunctionAgent(push_toward_lean), "cartpole", {}, episodes=20)
    text = table({**evaluation.summary, "log": {"gates": 2.25}})
    head, *lines = text.splitlines()
    assert head == "cartpole  fixed  20 episodes"
    numbers = [line[: line.index("  ", 18) if "  " in line[18:] else None] for line in lines]
    assert len({len(number) for number in numbers}) == 1
    for word in ("mean return", "95% interval", "IQM", "median", "min", "max", "success", "mean gates"):
        assert word in text
    assert table({**evaluation.summary, "episodes": 1}).splitlines()[0].endswith("1 episode")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"episodes": 0}, "episodes=0"),
        ({"num_envs": 0}, "num_envs=0"),
        ({"first_seed": -1}, "first_seed=-1"),
        ({"first_seed": 2**32 - 1, "episodes": 2}, "seeds lie in"),
        ({"world": "cartpol"}, "did you mean 'cartpole'"),
        ({"params": {"gravty": 1.0}}, "did you mean 'gravity'"),
    ],
)
def test_wrong_arguments_are_refused(wrong: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"world": "cartpole", "params": {}, "episodes": 3, **wrong}
    with pytest.raises(ValueError, match=message) as error:
        evaluate(FunctionAgent(always_action_1), **arguments)
    assert "\n" not in str(error.value)


def test_the_last_seeds_below_2_to_the_32_can_be_used() -> None:
    evaluation = evaluate(FunctionAgent(always_action_1), "catch", {}, episodes=5, first_seed=2**32 - 5, num_envs=2)
    assert evaluation.episodes[-1].seed == 2**32 - 1


@pytest.mark.parametrize(
    "decide",
    [
        lambda o: np.int64(1),
        lambda o: np.ones((len(o), 1), np.int64),
        lambda o: np.ones(1, np.int64),
        lambda o: np.full(len(o), 0.5),
    ],
)
def test_actions_of_another_shape_or_dtype_are_refused(decide: Any) -> None:
    with pytest.raises(ValueError, match=r"agent fixed returned actions .*cartpole takes int64 \[3\]"):
        evaluate(FunctionAgent(decide), "cartpole", {}, episodes=3)


def test_action_outside_the_space_is_refused() -> None:
    with pytest.raises(ValueError, match="is outside Discrete"):
        evaluate(FunctionAgent(lambda o: np.full(len(o), 2)), "cartpole", {}, episodes=3)


def test_an_episode_that_does_not_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = dataclasses.replace(world_registry.load("cartpole"), horizon=0)
    monkeypatch.setattr("rl_lab.engine.world_registry.load", lambda name: endless)
    monkeypatch.setattr(rl_lab.evaluation.episodes, "MAX_EPISODE_STEPS", 1500)
    with pytest.raises(EndlessEpisodeError, match="cartpole: episode 0 has not ended after 1,500 steps"):
        evaluate(FunctionAgent(balance_pole), "cartpole", {}, episodes=2)
    assert evaluate(FunctionAgent(push_toward_lean), "cartpole", {}, episodes=2).summary["mean_length"] < 1500


def test_an_episode_that_ends_at_the_maximum_length_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = dataclasses.replace(world_registry.load("catch"), horizon=0)
    monkeypatch.setattr("rl_lab.engine.world_registry.load", lambda name: endless)
    monkeypatch.setattr(rl_lab.evaluation.episodes, "MAX_EPISODE_STEPS", 9)
    assert evaluate(FunctionAgent(always_action_1), "catch", {}, episodes=3).summary["mean_length"] == 9


def test_non_finite_observation_is_an_error() -> None:
    with pytest.raises(NonFiniteError, match="cartpole: non-finite observation in world 0"):
        evaluate(FunctionAgent(always_action_1), "cartpole", {"cart_mass": -0.1, "pole_mass": 0.1}, episodes=1)


def test_environments_are_closed_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    make = batch.make

    def make_recording_close(*args: Any, **kwargs: Any) -> BatchedEnv:
        envs = make(*args, **kwargs)
        monkeypatch.setattr(envs, "close", lambda: closed.append("closed"))
        return envs

    monkeypatch.setattr(batch, "make", make_recording_close)
    evaluate(FunctionAgent(always_action_1), "catch", {}, episodes=1)
    with pytest.raises(ValueError, match="returned actions"):
        evaluate(FunctionAgent(lambda o: 1), "catch", {}, episodes=1)
    assert closed == ["closed", "closed"]
