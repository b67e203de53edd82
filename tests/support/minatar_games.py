"""What oracle tests of MinAtar's games share: its environments, stepped beside a batch of ours on the same chances.

Ours steps first. What it has drawn says which random calls the original must make, and what each answers. An original
that makes other calls, in another order or with other arguments, fails the test.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from rl_lab.core.rng import philox
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch

N, ROUNDS, STAYS = 256, 240, 8  # 61,440 steps an action set; so many steps from where a world was put
MOST_DRAWS = 16  # of a world in a step or a reset
Call = tuple[str, tuple[int, ...], Any]  # a method of the generator, its arguments and what it answers
Fields = dict[str, Any]


def chosen(bits: int, n: int) -> int:
    """What rl_lab.core.rng.integers makes of a draw."""
    return bits * n >> 32


def on_side(below: bool, threshold: float) -> float:
    """The number nearest to a threshold that is below it, or is not."""
    return float(np.nextafter(threshold, 0)) if below else threshold


class Game:
    """What the tests must know of one of MinAtar's games; g is its own object, s our state, a row of a batch's."""

    name: str
    codes: tuple[int, ...]  # MinAtar's actions in the order of the minimal set

    def write(self, g: Any, s: np.void) -> None:
        """Put the original into our state."""

    def read(self, g: Any, s: np.void) -> Fields:
        """The original's state in our fields; s fills in what it does not have."""
        raise NotImplementedError

    def resets(self, bits: list[int]) -> list[Call]:
        """The calls of a reset for which ours drew this."""
        raise NotImplementedError

    def steps(self, before: np.void, bits: list[int]) -> list[Call]:
        """The calls of a step for which ours drew this, after the one that makes an action stick."""
        raise NotImplementedError

    def sampled(self, rng: np.random.Generator, n: int) -> Fields:
        """N states all over the space."""
        raise NotImplementedError

    def visits(self, before: NDArray[Any], after: NDArray[Any], rewards: NDArray[Any], over: NDArray[Any]) -> Fields:
        """For each branch that a test must have seen, in which worlds this step took it."""
        raise NotImplementedError


class Script:
    """Stands in for MinAtar's generator: answers the expected calls, in their order, and no others."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def rand(self, *arguments: int) -> Any:
        return self.answer("rand", arguments)

    def randint(self, *arguments: int, **named: int) -> Any:  # one game names its low and high
        return self.answer("randint", (*arguments, *named.values()))

    def answer(self, method: str, arguments: tuple[int, ...]) -> Any:
        assert self.calls and self.calls[0][:2] == (method, arguments), (method, arguments, self.calls)
        return self.calls.pop(0)[2]


@dataclass
class Pair:
    """A batch and as many originals."""

    game: Game
    batch: Batch
    envs: list[Any]
    script: Script

    def drawn(self, before: NDArray[Any]) -> list[list[int]]:
        """What each world has drawn since it had this state, [N] lists."""
        counts = (self.batch.states["rng_counter"] - before["rng_counter"]).astype(np.int64)
        assert counts.min() >= 0 and counts.max() <= MOST_DRAWS
        counters = before["rng_counter"][:, None] + np.arange(counts.max(), dtype=np.uint64)
        bits = philox(np.broadcast_to(before["rng_key"][:, None], counters.shape), counters) & np.uint64(2**32 - 1)
        return [row[:count] for row, count in zip(bits.tolist(), counts.tolist(), strict=True)]

    def same(self, where: NDArray[np.bool_]) -> None:
        """Fail unless these worlds show the same and are in the same state."""
        indices = np.flatnonzero(where)
        if not len(indices):
            return
        shown = np.array([self.envs[i].state() for i in indices])
        assert np.array_equal(self.batch.observations[indices, 0], shown)
        theirs = [self.game.read(self.envs[i].env, self.batch.states[i]) for i in indices]
        for field in theirs[0]:
            values = np.array([fields[field] for fields in theirs])
            assert np.array_equal(self.batch.states[field][indices], values), field

    def reset(self, where: NDArray[np.bool_]) -> None:
        before = self.batch.states.copy()
        self.batch.reset(where)
        drawn = self.drawn(before)
        for i in np.flatnonzero(where):
            self.script.calls = self.game.resets(drawn[i])
            self.envs[i].reset()
            self.envs[i].last_action = 0  # it would stick from one episode to the next; ours begin anew
            assert not self.script.calls
        self.same(where)

    def put(self, rng: np.random.Generator, where: slice) -> None:
        """Put worlds all over the space."""
        states = self.batch.states[where]
        for field, values in self.game.sampled(rng, len(states)).items():
            states[field] = values
        states["action"] = rng.integers(0, 6, len(states))
        self.batch.done[where] = False
        self.batch.world.State.check(states)
        for env, state in zip(self.envs[where], states, strict=True):
            env.last_action, env.env.terminal = int(state["action"]), False
            self.game.write(env.env, state)

    def step(self, codes: list[int]) -> Fields:
        """Step both with the batch's actions, of which these are MinAtar's codes; return what was visited."""
        before, running = self.batch.states.copy(), np.flatnonzero(~self.batch.done)
        self.batch.step()
        drawn = self.drawn(before)
        for i in running:
            bits = drawn[i]
            self.script.calls = [("rand", (), (bits[0] >> 8) * 2.0**-24), *self.game.steps(before[i], bits[1:])]
            reward, over = self.envs[i].act(codes[i])
            assert not self.script.calls
            assert (reward, over) == (self.batch.rewards[i, 0], self.batch.terminated[i])
        self.same(np.isin(np.arange(self.batch.num_envs), running))
        after = self.batch.states[running]
        rewards, over = self.batch.rewards[running, 0], self.batch.terminated[running]
        return {"steps": np.ones(len(running), np.bool_)} | self.game.visits(before[running], after, rewards, over)


def played_beside(game: Game, name: str, rounds: int = ROUNDS) -> Counter[str]:
    """Play both; fail where they differ; return how often each branch was taken, "steps" among them.

    Half of the worlds are played by the expert and by chance, half are put all over the space every few steps.
    """
    minatar: Any = pytest.importorskip("minatar")
    world, rng, script = world_registry.load(name), np.random.default_rng(0), Script()
    params = np.repeat(world.Params(), N)
    params["sticky_action_prob"] = rng.choice([0, 0.1, 0.1, 0.5], N)
    ramps = np.arange(N) % 2 == 0
    if "difficulty_ramping" in params.dtype.names:
        params["difficulty_ramping"] = ramps
    batch = Batch(world, N, params, seed=1, threads=1, autoreset=AutoresetMode.DISABLED)
    batch.reset()  # brings the random streams
    envs = []
    for i in range(N):
        env = minatar.Environment(game.name, float(params["sticky_action_prob"][i]), bool(ramps[i]))
        env.random = env.env.random = script
        envs.append(env)
    pair = Pair(game, batch, envs, script)
    pair.reset(np.ones(N, np.bool_))
    codes = np.array(range(6) if name.endswith("_full") else game.codes)
    half, visits = N // 2, Counter[str]()
    chance = np.r_[np.linspace(0, 1, half) ** 2, np.full(N - half, 0.7)]  # of a random action instead of the expert's
    for t in range(rounds):
        if t % STAYS == 0:
            pair.put(rng, slice(half, None))
        batch.scripted_actions()
        batch.actions[:, 0] = np.where(rng.random(N) < chance, rng.integers(0, len(codes), N), batch.actions[:, 0])
        for branch, taken in pair.step(codes[batch.actions[:, 0]].tolist()).items():
            visits[branch] += int(taken.sum())
        pair.reset(batch.done & (np.arange(N) < half))
    return visits
