"""Benchmarks: what is compared with what, in which order, and what is made of the figures."""

from __future__ import annotations

import importlib.util
import re
import statistics
from typing import Any

import gymnasium
import pytest

from rl_lab import bench, worlds
from rl_lab.bench import ORIGINALS, PEERS, Contender
from rl_lab.names import UsageError

SPREAD = {"median", "low", "high"}


def test_originals_are_of_worlds_that_exist() -> None:
    assert set(ORIGINALS) <= set(worlds.names())
    for name, identity in ORIGINALS.items():
        original = gymnasium.make(identity)
        world = worlds.load(name)
        assert original.observation_space.shape == world.observation.shape
        assert type(original.action_space) is type(world.action)
        assert gymnasium.spec(identity).max_episode_steps == world.horizon
        original.close()


def test_every_world_that_says_it_is_gymnasiums_has_its_original() -> None:
    said = {name: re.search(r"Gymnasium's (\S+-v\d+)", worlds.load(name).doc) for name in worlds.names()}
    assert {name: match[1] for name, match in said.items() if match} == ORIGINALS


class _Clock:
    """A clock that stands still but for what the contenders take."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turns: list[str] = []

    def perf_counter(self) -> float:
        return self.now

    def contender(self, what: str, rates: list[float]) -> Contender:
        """One that steps 1000 worlds a call, at the next of these rates in each of its turns."""
        state = {"turn": -1}

        def run() -> int:
            if not self.turns or self.turns[-1] != what:
                self.turns.append(what)
                state["turn"] += 1
            self.now += 1000 / rates[min(state["turn"], len(rates) - 1)]
            return 1000

        return Contender(what, "env", "none", run, 0.25)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Rows of a bench of three contenders whose rates, after the warm turn, are known."""
    clock = _Clock()
    monkeypatch.setattr(bench, "time", clock)
    engine = clock.contender("engine", [1.0, 900e3, 1000e3, 700e3])
    lab = clock.contender("lab", [1.0, 100e3, 300e3, 200e3])
    peer = clock.contender("gymnasium", [1.0, 10e3, 20e3, 100e3])
    monkeypatch.setattr(bench, "_engine", lambda world, worlds: engine)
    monkeypatch.setattr(bench, "_lab_vector", lambda world, worlds: lab)
    monkeypatch.setitem(bench._ENV_PEERS, "gymnasium", lambda world, worlds: peer)
    found = bench.bench("env", "cartpole", worlds=8, against=("gymnasium",), rounds=3, seconds=0.5)
    return found, clock.turns


def test_contenders_take_turns_so_that_noise_hits_all_alike(rows: Any) -> None:
    _, turns = rows
    warm, *rounds = [turns[k : k + 3] for k in range(0, len(turns), 3)]
    assert set(warm) == {"engine", "lab", "gymnasium"}
    assert len(rounds) == 3
    for turn in rounds:
        assert set(turn) == {"engine", "lab", "gymnasium"}


def test_the_warm_turn_does_not_count_and_the_median_does(rows: Any) -> None:
    found, _ = rows
    engine, lab, peer = (row["steps_per_second"] for row in found)
    assert (engine["low"], engine["median"], engine["high"]) == pytest.approx((700e3, 900e3, 1000e3))
    assert (lab["low"], lab["median"], lab["high"]) == pytest.approx((100e3, 200e3, 300e3))
    assert (peer["low"], peer["median"], peer["high"]) == pytest.approx((10e3, 20e3, 100e3))


def test_ratios_are_of_the_same_round_and_the_same_interface(rows: Any) -> None:
    found, _ = rows
    assert [set(row) for row in found[:2]] == [{"what", "kind", "conditions", "cold_seconds", "steps_per_second"}] * 2
    ratios = [100e3 / 10e3, 300e3 / 20e3, 200e3 / 100e3]  # of the lab's own vector face, not of its engine
    ratio = found[2]["ratio"]
    assert set(ratio) == SPREAD
    assert (ratio["low"], ratio["median"], ratio["high"]) == pytest.approx(
        (min(ratios), statistics.median(ratios), max(ratios))
    )


@pytest.mark.parametrize(
    "kind, world, peer, said",
    [
        ("env", "cartpole", "gymnasum", "did you mean 'gymnasium'?"),
        ("env", "cartpole", "sb3", "bench env"),
        ("train", "cartpole", "gymnasium", "sb3"),
        ("rollout", "cartpole", "envpool", "sb3"),
        ("env", "catch", "gymnasium", "gymnasium has no catch"),
    ],
)
def test_a_peer_that_cannot_is_one_line(kind: str, world: str, peer: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        bench.bench(kind, world, worlds=8, against=(peer,))
    assert said in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("peer", sorted({peer for peers in PEERS.values() for peer in peers}))
def test_a_peer_that_is_not_installed_says_how(peer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = next(kind for kind, peers in PEERS.items() if peer in peers)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install"):
        bench.bench(kind, "cartpole", worlds=8, against=(peer,))


@pytest.mark.parametrize("world", sorted(ORIGINALS))
def test_every_original_can_be_measured(world: str) -> None:
    found = bench.bench("env", world, worlds=4, against=("gymnasium",), rounds=2, seconds=0.002)
    assert [row["what"] for row in found] == ["rl_lab engine", "rl_lab", "gymnasium"]
    check(found, "env")
    assert found[-1]["ratio"]["median"] > 0
    assert ORIGINALS[world] in found[-1]["conditions"]


def test_gymnasiums_own_vectorised_version_is_taken_where_it_pays() -> None:
    few, many = (
        bench.bench("env", "cartpole", worlds=n, against=("gymnasium",), rounds=1, seconds=0.002)[-1]["conditions"]
        for n in (8, 64)
    )
    assert "SyncVectorEnv" in few and "vectorised" in many


@pytest.mark.parametrize("kind", ["rollout", "train"])
def test_learning_beside_sb3(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_PEER_SETTING", {"n_steps": 16, "batch_size": 64, "n_epochs": 1})
    found = bench.bench(kind, "cartpole", worlds=4, against=("sb3",), rounds=1, seconds=0.001)
    assert [row["what"] for row in found] == ["sb3 ppo on rl_lab", "sb3 ppo"]
    check(found, kind)
    assert "ratio" in found[1] and "ratio" not in found[0]


@pytest.mark.filterwarnings("ignore:.*precision lowered by casting")  # envpool's own, of its spaces
def test_envpool() -> None:
    pytest.importorskip("envpool")
    found = bench.bench("env", "cartpole", worlds=8, against=("envpool",), rounds=1, seconds=0.01)
    check(found, "env")
    assert found[-1]["what"] == "envpool" and "ratio" in found[-1]


def check(rows: list[dict[str, Any]], kind: str) -> None:
    for row in rows:
        assert row["kind"] == kind and row["conditions"] and row["cold_seconds"] > 0
        for spread in filter(None, (row["steps_per_second"], row.get("ratio"))):
            assert set(spread) == SPREAD
            assert 0 < spread["low"] <= spread["median"] <= spread["high"]
