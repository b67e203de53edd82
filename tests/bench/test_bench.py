"""Tests of the benchmarks: contenders do the same work, take turns, and are summarized correctly; wrong arguments."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import math
import re
import statistics
import time
from typing import Any

import gymnasium
import pytest
import torch

from rl_lab.adapters.make import make
from rl_lab.bench import (
    compare,
    env_throughput,
    peer_gymnax,
    peers_multiagent,
    startup_time,
    time_to_solve,
    timing,
    train_throughput,
)
from rl_lab.bench.compare import PEERS, bench
from rl_lab.bench.env_throughput import ORIGINALS
from rl_lab.bench.settings import SETTINGS, Setting, setting_by_name
from rl_lab.bench.timing import Contender
from rl_lab.core import agent_registry
from rl_lab.core.errors import UsageError
from rl_lab.engine import world_registry
from rl_lab.experiments.compose import compose

SPREAD = {"median", "low", "high"}


def test_originals_have_the_spaces_and_horizons_of_our_worlds() -> None:
    assert set(ORIGINALS) | set(peer_gymnax.IDS) <= set(world_registry.names())
    for name, identity in ORIGINALS.items():
        original = gymnasium.make(identity)
        world = world_registry.load(name)
        assert original.observation_space.shape == world.observation.shape
        assert type(original.action_space) is type(world.action)
        assert gymnasium.spec(identity).max_episode_steps == world.horizon
        original.close()


def test_every_world_whose_docstring_names_an_environment_of_gymnasium_has_it_as_original() -> None:
    mentions = {
        name: re.search(r"Gymnasium's (\S+-v\d+)", world_registry.load(name).doc) for name in world_registry.names()
    }
    assert {name: match[1] for name, match in mentions.items() if match} == ORIGINALS


class _Clock:
    """A clock that advances only while a contender of its own runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turns: list[str] = []

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return 1.5 * self.now

    def contender(self, what: str, rates: list[float]) -> Contender:
        """Return a contender that makes 1000 steps in each call, in its k-th turn at a rate of `rates[k]`."""
        state = {"turn": -1}

        def run() -> int:
            if not self.turns or self.turns[-1] != what:
                self.turns.append(what)
                state["turn"] += 1
            self.now += 1000 / rates[min(state["turn"], len(rates) - 1)]
            return 1000

        return Contender(what, "env", "none", run, 0.25)


@pytest.fixture
def rows_and_turns(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the rows of a benchmark of three contenders with given rates, and the order of their turns."""
    clock = _Clock()
    monkeypatch.setattr(timing, "time", clock)
    engine = clock.contender("engine", [1.0, 900e3, 1000e3, 700e3])
    lab = clock.contender("lab", [1.0, 100e3, 300e3, 200e3])
    peer = clock.contender("gymnasium", [1.0, 10e3, 20e3, 100e3])
    monkeypatch.setattr(env_throughput, "engine", lambda world, num_envs: engine)
    monkeypatch.setattr(env_throughput, "lab_vector", lambda world, num_envs: lab)
    monkeypatch.setitem(env_throughput.PEERS, "gymnasium", lambda world, num_envs: peer)
    result = bench("env", "cartpole", num_envs=8, against=("gymnasium",), rounds=3, seconds=0.5)
    return result, clock.turns


def test_each_contender_runs_once_in_each_round(rows_and_turns: Any) -> None:
    _, turns = rows_and_turns
    warm_up, *rounds = [turns[k : k + 3] for k in range(0, len(turns), 3)]
    assert set(warm_up) == {"engine", "lab", "gymnasium"}
    assert len(rounds) == 3
    for turn in rounds:
        assert set(turn) == {"engine", "lab", "gymnasium"}


def test_rates_are_medians_over_rounds_without_the_warm_up(rows_and_turns: Any) -> None:
    rows, _ = rows_and_turns
    engine, lab, peer = (row["steps_per_second"] for row in rows)
    assert (engine["low"], engine["median"], engine["high"]) == pytest.approx((700e3, 900e3, 1000e3))
    assert (lab["low"], lab["median"], lab["high"]) == pytest.approx((100e3, 200e3, 300e3))
    assert (peer["low"], peer["median"], peer["high"]) == pytest.approx((10e3, 20e3, 100e3))


def test_ratios_are_taken_within_a_round_and_to_the_labs_vector_interface(rows_and_turns: Any) -> None:
    rows, _ = rows_and_turns
    keys = {"what", "kind", "conditions", "cold_seconds", "steps_per_second", "cores"}
    assert [set(row) for row in rows[:2]] == [keys] * 2 and rows[0]["cores"] == 1.5
    ratios = [100e3 / 10e3, 300e3 / 20e3, 200e3 / 100e3]  # to the lab's vector interface, not to its engine
    ratio = rows[2]["ratio"]
    assert set(ratio) == SPREAD
    assert (ratio["low"], ratio["median"], ratio["high"]) == pytest.approx(
        (min(ratios), statistics.median(ratios), max(ratios))
    )


@pytest.mark.parametrize(
    "kind, world, peer, message",
    [
        ("env", "cartpole", "gymnasum", "did you mean 'gymnasium'?"),
        ("env", "cartpole", "sb3", "bench env"),
        ("train", "cartpole", "gymnasium", "sb3"),
        ("rollout", "cartpole", "envpool", "sb3"),
        ("env", "catch", "gymnasium", "gymnasium has no catch"),
    ],
)
def test_a_peer_without_this_benchmark_or_world_is_refused_in_one_line(
    kind: str, world: str, peer: str, message: str
) -> None:
    with pytest.raises(UsageError) as error:
        bench(kind, world, num_envs=8, against=(peer,))
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("peer", sorted({peer for peers in PEERS.values() for peer in peers}))
def test_for_a_peer_that_is_not_installed_the_command_that_installs_it_is_named(
    peer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = next(kind for kind, peers in PEERS.items() if peer in peers)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install"):
        bench(kind, "cartpole", num_envs=8, against=(peer,))


@pytest.mark.parametrize("world", sorted(ORIGINALS))
def test_bench_env_measures_every_original(world: str) -> None:
    rows = bench("env", world, num_envs=4, against=("gymnasium",), rounds=2, seconds=0.002)
    assert [row["what"] for row in rows] == ["rl_lab engine", "rl_lab", "gymnasium"]
    check_rows(rows, "env")
    assert rows[-1]["ratio"]["median"] > 0
    assert ORIGINALS[world] in rows[-1]["conditions"]


def test_bench_env_measures_gymnax_in_its_environments() -> None:
    gymnax = pytest.importorskip("gymnax")
    assert set(peer_gymnax.IDS.values()) <= set(gymnax.registered_envs)
    row = bench("env", "breakout", num_envs=4, against=("gymnax",), rounds=1, seconds=0.002)[-1]
    assert row["what"] == "gymnax" and row["ratio"]["median"] > 0 and "lax.scan" in row["conditions"]


def test_gymnasiums_vectorised_version_is_used_with_many_environments() -> None:
    few, many = (
        bench("env", "cartpole", num_envs=n, against=("gymnasium",), rounds=1, seconds=0.002)[-1]["conditions"]
        for n in (8, 64)
    )
    assert "SyncVectorEnv" in few and "vectorised" in many


# --- bench rollout and bench train


TINY = {
    "ppo": Setting("ppo", 4, {**SETTINGS["small"].config, "n_steps": 16, "batch_size": 32, "n_epochs": 1}),
    "cnn": Setting("ppo", 4, {**SETTINGS["cnn"].config, "n_steps": 16, "batch_size": 32, "n_epochs": 1}),
    "dqn": Setting("dqn", 1, {**SETTINGS["dqn"].config, "buffer_size": 5000}),
}


@pytest.fixture
def tiny_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "_PEER_DEFAULT", TINY["ppo"])
    for name, setting in TINY.items():
        monkeypatch.setitem(SETTINGS, f"tiny-{name}", setting)


@pytest.mark.parametrize("kind", ["rollout", "train"])
def test_bench_rollout_and_train_measure_sb3(kind: str, tiny_settings: None) -> None:
    rows = bench(kind, "cartpole", num_envs=4, against=("sb3",), rounds=1, seconds=0.001, threads=1)
    assert [row["what"] for row in rows] == ["rl_lab ppo", "sb3 ppo"]
    check_rows(rows, kind)
    assert "ratio" in rows[1] and "ratio" not in rows[0]


@pytest.mark.parametrize(
    "setting, world",
    [("tiny-ppo", "cartpole"), ("tiny-cnn", "breakout"), ("tiny-ppo", "breakout"), ("tiny-dqn", "cartpole")],
)
def test_all_contenders_have_the_conditions_of_the_setting(setting: str, world: str, tiny_settings: None) -> None:
    rows = bench("train", world, setting=setting, against=("sb3", "stock"), rounds=1, seconds=0.001, threads=1)
    check_rows(rows, "train")
    assert [row["setting"] for row in rows] == [setting] * len(rows)
    assert {
        re.sub("(, DummyVecEnv)?, (one thread|[0-9]+ threads|torch threads .*)$", "", row["conditions"]) for row in rows
    } == {setting_by_name(setting).describe()}


def _work_of(model: Any) -> dict[str, Any]:
    """Return the hyperparameters, layers and optimizer that decide what a model of SB3 computes."""
    names = "n_steps batch_size n_epochs gamma gae_lambda ent_coef vf_coef max_grad_norm normalize_advantage".split()
    names += "learning_rate buffer_size learning_starts tau train_freq gradient_steps target_update_interval".split()
    hyperparameters = {name: getattr(model, name) for name in names if hasattr(model, name)}
    layers = [(type(m).__name__, str(m)) for m in model.policy.modules() if not list(m.children())]
    shapes = [tuple(p.shape) for p in model.policy.parameters()]
    optimizer = model.policy.optimizer
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    num_envs = model.n_envs
    return {
        **hyperparameters,
        "layers": layers,
        "shapes": shapes,
        "groups": groups,
        "num_envs": num_envs,
        "type": optimizer,
    }


@pytest.mark.parametrize("name", sorted(name for name, setting in SETTINGS.items() if setting.agent != "rllib_ppo"))
def test_in_each_setting_all_contenders_have_the_same_networks_and_hyperparameters(name: str) -> None:
    setting = dataclasses.replace(SETTINGS[name], num_envs=min(SETTINGS[name].num_envs, 64))
    if "n_steps" in setting.config:  # a rollout of the same size with fewer environments, which are faster to make
        steps = setting.config["n_steps"] * SETTINGS[name].num_envs // setting.num_envs
        setting = dataclasses.replace(setting, config={**setting.config, "n_steps": steps})
    else:
        setting = dataclasses.replace(setting, config={**setting.config, "buffer_size": 1000})
    world = "breakout" if name in ("cnn", "flat") else "cartpole"
    learners = [train_throughput.lab_learner(world, setting, compiled=compiled) for compiled in (True, False)]
    models = [*(learner.model for learner in learners), train_throughput.sb3_model(world, setting)]
    ours, stock, alone = map(_work_of, models)
    assert models[0].backend == "compiled" and type(models[1]) is type(models[2])
    for work in (stock, alone):
        assert type(work.pop("type")) is type(ours["type"])
        assert work == {key: value for key, value in ours.items() if key != "type"}


def test_rllib_alone_has_the_configuration_of_the_labs_rllib_ppo() -> None:
    """Compare all settings of the two configurations except those that the lab replaces, and the networks' layers."""
    pytest.importorskip("ray.rllib", reason="needs the extra rllib")
    from rl_lab.bench import peer_rllib
    from rl_lab.learners.rllib.algorithm import TRAINING, algorithm_config
    from rl_lab.learners.rllib.policy_builder import policy_builder

    setting, factory, world = SETTINGS["rllib"], agent_registry.load("rllib_ppo"), make("cartpole", 1).world
    settings: Any = factory.Config(**setting.config)
    kind, arguments = factory.policy_class(settings, world)
    build = policy_builder(kind, world, arguments)
    policy = build()
    spaces = policy.observation_space, policy.action_space
    sizes = {"fragment_length": setting.rollout_length, "num_envs": setting.num_envs, "seed": 0, "gpu": False}
    ours, alone = algorithm_config(settings, spaces, build, **sizes), peer_rllib.config("cartpole", setting)
    for name in [*TRAINING, "rollout_fragment_length", "num_envs_per_env_runner", "num_epochs", "minibatch_size"]:
        assert getattr(ours, name) == getattr(alone, name), name
    assert settings.shuffle_batch_per_epoch == alone.shuffle_batch_per_epoch
    spec = alone.get_rl_module_spec(spaces={"__env__": spaces, "default_policy": spaces}, inference_only=False)
    layers = [
        sorted(str(layer) for layer in network.modules() if isinstance(layer, torch.nn.Linear | torch.nn.Tanh))
        for network in (policy, spec.build())
    ]
    assert layers[0] == layers[1] and len(layers[0]) == 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rollout", "train"])
def test_bench_rollout_and_train_measure_rllib(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray.rllib", reason="needs the extra rllib")
    sizes = {"train_batch_size_per_learner": 64, "minibatch_size": 32, "num_epochs": 1}
    tiny = Setting("rllib_ppo", 8, {**SETTINGS["rllib"].config, **sizes})
    monkeypatch.setitem(SETTINGS, "rllib", tiny)
    rows = bench(kind, "cartpole", against=("rllib",), rounds=1, seconds=0.001, threads=1)
    assert [row["what"] for row in rows] == ["rl_lab rllib_ppo", "rllib ppo"]
    check_rows(rows, kind)
    assert all(tiny.describe() in row["conditions"] for row in rows)
    gc.collect()  # ends Ray


def test_settings_have_the_documented_sizes() -> None:
    sizes = {
        name: (s.num_envs, s.config["n_steps"], s.config["batch_size"], s.config["n_epochs"], s.config["net_arch"])
        for name, s in SETTINGS.items()
        if s.agent == "ppo"
    }
    mlp = [64, 64]
    assert sizes == {
        "small": (8, 256, 256, 10, mlp),
        "jax": (4, 128, 4 * 128 // 4, 4, mlp),
        "wide": (1024, 32, 8192, 4, mlp),
        "wide1": (1024, 32, 8192, 1, mlp),
        "cnn": (64, 128, 64 * 128 // 8, 4, []),
        "flat": (64, 128, 64 * 128 // 8, 4, mlp),
    }
    assert all(
        s.config["n_steps"] * s.num_envs % s.config["batch_size"] == 0 for s in SETTINGS.values() if s.agent == "ppo"
    )


def test_bench_train_measures_sbx(tiny_settings: None) -> None:
    pytest.importorskip("sbx")
    rows = bench("train", "cartpole", setting="tiny-ppo", against=("sbx",), rounds=1, seconds=0.001)
    check_rows(rows, "train")


@pytest.mark.parametrize(
    "kind, world, options, message",
    [
        ("train", "cartpole", {"setting": "smal"}, "did you mean 'small'?"),
        ("rollout", "cartpole", {"setting": "dqn"}, "dqn's"),
        ("train", "cartpole", {"setting": "cnn"}, "vector"),
        ("train", "pendulum", {"setting": "dqn"}, "discrete"),
        ("train", "catch", {"setting": "small", "against": ("sb3",)}, "sb3 has no catch"),
        ("train", "tic_tac_toe", {"setting": "small"}, "several agents"),
        ("train", "cartpole", {"setting": "small", "against": ("rllib",)}, "with setting rllib alone"),
        ("train", "cartpole", {"against": ("sb3", "rllib")}, "with setting rllib alone"),
        ("train", "breakout", {"against": ("rllib",)}, "rllib has no breakout"),
    ],
)
def test_wrong_arguments_of_bench_rollout_and_train_are_refused_in_one_line(
    kind: str, world: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as error:
        bench(kind, world, rounds=1, seconds=0.001, **options)
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1


def test_each_cold_start_is_followed_by_a_warm_one_with_the_same_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    caches: list[tuple[str, str]] = []

    def start(name: str, world: str, setting: str, cache: str) -> float:
        caches.append((name, cache))
        return 10.0 if caches.count((name, cache)) == 1 else 2.0

    monkeypatch.setattr(startup_time, "measure", start)
    rows = startup_time.measure_starts("cartpole", "small", against=("sb3",), rounds=3)
    assert [(row["what"], row["start"], row["seconds"]["median"]) for row in rows] == [
        ("rl_lab ppo", "cold", 10.0),
        ("rl_lab ppo", "warm", 2.0),
        ("sb3 ppo", "cold", 10.0),
        ("sb3 ppo", "warm", 2.0),
    ]
    assert len(set(caches)) == 6 and all(row["kind"] == "start" and set(row["seconds"]) == SPREAD for row in rows)


def test_a_start_that_fails_raises_with_the_last_line_of_its_output(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(startup_time, "_PROGRAM", "raise ValueError('no {name} here')")
    with pytest.raises(ChildProcessError, match="no lab here"):
        startup_time.measure("lab", "cartpole", "small", str(tmp_path))


def test_a_start_is_timed_until_the_process_prints_its_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(
        startup_time,
        "_PROGRAM",
        f"import time; print({startup_time._DONE_LINE!r}, flush=True); time.sleep(1) # {{name}}",
    )
    begin = time.perf_counter()
    seconds = startup_time.measure("lab", "cartpole", "small", str(tmp_path))
    assert 0 < seconds < time.perf_counter() - begin - 0.5  # the process goes on for a second after its line


# --- bench solve


CATCH = ("budget=8000", "agent.policy=mlp", "agent.batch_size=64", "agent.n_epochs=8", "evaluation.episodes=20")


def test_solve_returns_a_row_for_each_seed_and_one_for_all() -> None:
    reported: list[time_to_solve.SeedOutcome] = []
    *seeds, total = time_to_solve.solve(compose("catch", CATCH), seeds=2, on_seed=reported.append)
    assert [row["seed"] for row in seeds] == [0, 1] == [outcome.seed for outcome in reported]
    for row in seeds:
        assert row["kind"] == "solve" and row["solved"] and row["score"] == 1.0
        assert 0 < row["training_seconds"] < row["seconds"] and 0 < row["steps"] < 8000
    assert (total["kind"], total["seeds"], total["solved"]) == ("solve", 2, 2)
    for key in ("steps", "training_seconds", "seconds"):
        assert total[key]["low"] == min(row[key] for row in seeds) <= total[key]["median"] <= total[key]["high"]


def test_a_seed_that_does_not_reach_the_score_counts_as_unsolved() -> None:
    seed, total = time_to_solve.solve(compose("catch", ("budget=512", "evaluation.episodes=2")), seeds=1)
    assert not seed["solved"] and seed["steps"] == 512 and total["solved"] == 0
    assert total["steps"] == total["seconds"] == {"median": None, "low": None, "high": None}


def test_the_score_is_the_worlds_solved_or_else_the_expected_return() -> None:
    assert time_to_solve.score_of(compose("cartpole")) == 475.0
    pendulum = compose("pendulum")
    assert time_to_solve.score_of(pendulum) == pendulum.expect["ppo"].mean_return  # the world has no `reward_threshold`
    with pytest.raises(UsageError, match="neither"):
        time_to_solve.score_of(dataclasses.replace(pendulum, expect={}))


@pytest.mark.parametrize(
    "n, low, high", [(1, 0, 0), (5, 0, 4), (6, 0, 5), (9, 1, 7), (10, 1, 8), (12, 2, 9), (20, 5, 14)]
)
def test_the_median_lies_in_its_interval_with_95_percent(n: int, low: int, high: int) -> None:
    """The expected order statistics are from tables of the sign test's interval."""
    result = timing.interval([float(k) for k in range(n)])
    assert result == {"median": (n - 1) / 2, "low": low, "high": high}


def test_infinite_values_are_returned_as_none() -> None:
    assert timing.interval([1.0, 2.0, 3.0, 4.0, math.inf]) == {"median": 3.0, "low": 1.0, "high": None}
    assert timing.interval([1.0, math.inf, math.inf])["median"] is None


def test_every_peer_of_learners_has_a_module_and_minatars_games_are_worlds_of_the_lab() -> None:
    assert set(train_throughput.MODULES) == set(train_throughput.PEERS)
    assert peers_multiagent.PEERS["minatar"].keys() <= set(world_registry.names())


@pytest.mark.filterwarnings("ignore:.*precision lowered by casting")  # envpool's own, of its spaces
def test_bench_env_measures_envpool() -> None:
    pytest.importorskip("envpool")
    rows = bench("env", "cartpole", num_envs=8, against=("envpool",), rounds=1, seconds=0.01)
    check_rows(rows, "env")
    assert rows[-1]["what"] == "envpool" and "ratio" in rows[-1]


def check_rows(rows: list[dict[str, Any]], kind: str) -> None:
    for row in rows:
        assert row["kind"] == kind and row["conditions"] and row["cold_seconds"] > 0
        for spread in filter(None, (row["steps_per_second"], row.get("ratio"))):
            assert set(spread) == SPREAD
            assert 0 < spread["low"] <= spread["median"] <= spread["high"]
