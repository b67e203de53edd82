"""What oracle tests of MinAtar's games share: our batch and MinAtar's own games, stepped with the same randomness.

Our batch steps first. From the random numbers that it has used follows which calls MinAtar must make of its random
generator, and what each must return: `ScriptedGenerator` returns it. A game that makes other calls, in another order or
with other arguments, fails the test.
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

N, ROUNDS = 256, 240  # worlds and steps of each: 61,440 steps for a set of actions
STEPS_PER_PLACEMENT = 8  # from one random state of a world to the next
MAX_RANDOM_NUMBERS = 16  # that a world may use in a step or a reset
Call = tuple[str, tuple[int, ...], Any]  # a method of the generator, its arguments, and what it returns
Fields = dict[str, Any]


def integer_from_bits(bits: int, n: int) -> int:
    """Return the integer below n that rl_lab.core.rng.integers makes of random bits."""
    return bits * n >> 32


def number_beside(below: bool, threshold: float) -> float:
    """Return the number next to a threshold: below it, or the threshold itself."""
    return float(np.nextafter(threshold, 0)) if below else threshold


class Game:
    """What the tests must know of one of MinAtar's games; g is MinAtar's game object, s a state of our batch."""

    name: str
    codes: tuple[int, ...]  # MinAtar's actions in the order of the minimal set

    def write(self, g: Any, s: np.void) -> None:
        """Write our state to MinAtar's game."""

    def read(self, g: Any, s: np.void) -> Fields:
        """Return MinAtar's state as our fields; what it does not have is taken from s."""
        raise NotImplementedError

    def reset_calls(self, bits: list[int]) -> list[Call]:
        """Return the calls that MinAtar must make in a reset in which ours has used these random bits."""
        raise NotImplementedError

    def step_calls(self, before: np.void, bits: list[int]) -> list[Call]:
        """Return the calls of a step, after the one for sticky actions, in which ours has used these random bits."""
        raise NotImplementedError

    def random_states(self, rng: np.random.Generator, n: int) -> Fields:
        """Return n random states, by field, that cover the state space."""
        raise NotImplementedError

    def branches(self, before: NDArray[Any], after: NDArray[Any], rewards: NDArray[Any], done: NDArray[Any]) -> Fields:
        """Return for each branch that a test must reach in which worlds this step took it, bool [N]."""
        raise NotImplementedError


class ScriptedGenerator:
    """Stands for MinAtar's random generator: returns what `calls` says, in this order, and accepts no other call."""

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
class GamePair:
    """A batch of ours and as many games of MinAtar."""

    game: Game
    batch: Batch
    envs: list[Any]
    script: ScriptedGenerator

    def random_bits(self, before: NDArray[Any]) -> list[list[int]]:
        """Return the random bits that each world has used since it had this state, [N] lists."""
        counts = (self.batch.states["rng_counter"] - before["rng_counter"]).astype(np.int64)
        assert counts.min() >= 0 and counts.max() <= MAX_RANDOM_NUMBERS
        counters = before["rng_counter"][:, None] + np.arange(counts.max(), dtype=np.uint64)
        bits = philox(np.broadcast_to(before["rng_key"][:, None], counters.shape), counters) & np.uint64(2**32 - 1)
        return [row[:count] for row, count in zip(bits.tolist(), counts.tolist(), strict=True)]

    def assert_same(self, where: NDArray[np.bool_]) -> None:
        """Fail unless these worlds have the same observations and states in both."""
        indices = np.flatnonzero(where)
        if not len(indices):
            return
        observations = np.array([self.envs[i].state() for i in indices])
        assert np.array_equal(self.batch.observations[indices, 0], observations)
        minatar_states = [self.game.read(self.envs[i].env, self.batch.states[i]) for i in indices]
        for field in minatar_states[0]:
            values = np.array([fields[field] for fields in minatar_states])
            assert np.array_equal(self.batch.states[field][indices], values), field

    def reset(self, where: NDArray[np.bool_]) -> None:
        """Reset these worlds in both."""
        before = self.batch.states.copy()
        self.batch.reset(where)
        random_bits = self.random_bits(before)
        for i in np.flatnonzero(where):
            self.script.calls = self.game.reset_calls(random_bits[i])
            self.envs[i].reset()
            self.envs[i].last_action = 0  # MinAtar would repeat it in the next episode; ours does not
            assert not self.script.calls
        self.assert_same(where)

    def place(self, rng: np.random.Generator, where: slice) -> None:
        """Set these worlds to random states in both."""
        states = self.batch.states[where]
        for field, values in self.game.random_states(rng, len(states)).items():
            states[field] = values
        states["action"] = rng.integers(0, 6, len(states))
        self.batch.done[where] = False
        self.batch.world.State.check(states)
        for env, state in zip(self.envs[where], states, strict=True):
            env.last_action, env.env.terminal = int(state["action"]), False
            self.game.write(env.env, state)

    def step(self, codes: list[int]) -> Fields:
        """Step both with the batch's actions, whose numbers in MinAtar are `codes`; return the branches, see `Game`."""
        before, running = self.batch.states.copy(), np.flatnonzero(~self.batch.done)
        self.batch.step()
        random_bits = self.random_bits(before)
        for i in running:
            bits = random_bits[i]
            self.script.calls = [("rand", (), (bits[0] >> 8) * 2.0**-24), *self.game.step_calls(before[i], bits[1:])]
            reward, done = self.envs[i].act(codes[i])
            assert not self.script.calls
            assert (reward, done) == (self.batch.rewards[i, 0], self.batch.terminated[i])
        self.assert_same(np.isin(np.arange(self.batch.num_envs), running))
        after = self.batch.states[running]
        rewards, done = self.batch.rewards[running, 0], self.batch.terminated[running]
        return {"steps": np.ones(len(running), np.bool_)} | self.game.branches(before[running], after, rewards, done)


def play_both(game: Game, name: str, rounds: int = ROUNDS) -> Counter[str]:
    """Step both with the same actions and fail where they differ; return how often each branch was taken.

    "steps" counts all steps. Half of the worlds play episodes, with actions of the expert or random ones; the other
    half is set to random states every few steps.
    """
    minatar: Any = pytest.importorskip("minatar")
    world, rng, script = world_registry.load(name), np.random.default_rng(0), ScriptedGenerator()
    params = np.repeat(world.Params(), N)
    params["sticky_action_prob"] = rng.choice([0, 0.1, 0.1, 0.5], N)
    has_ramping = np.arange(N) % 2 == 0
    if "difficulty_ramping" in params.dtype.names:
        params["difficulty_ramping"] = has_ramping
    batch = Batch(world, N, params, seed=1, threads=1, autoreset=AutoresetMode.DISABLED)
    batch.reset()  # sets the random streams
    envs = []
    for i in range(N):
        env = minatar.Environment(game.name, float(params["sticky_action_prob"][i]), bool(has_ramping[i]))
        env.random = env.env.random = script
        envs.append(env)
    pair = GamePair(game, batch, envs, script)
    pair.reset(np.ones(N, np.bool_))
    codes = np.array(range(6) if name.endswith("_full") else game.codes)
    half, branches = N // 2, Counter[str]()
    random_prob = np.r_[
        np.linspace(0, 1, half) ** 2, np.full(N - half, 0.7)
    ]  # of a random action instead of the expert's
    for t in range(rounds):
        if t % STEPS_PER_PLACEMENT == 0:
            pair.place(rng, slice(half, None))
        batch.scripted_actions()
        batch.actions[:, 0] = np.where(rng.random(N) < random_prob, rng.integers(0, len(codes), N), batch.actions[:, 0])
        for branch, was_taken in pair.step(codes[batch.actions[:, 0]].tolist()).items():
            branches[branch] += int(was_taken.sum())
        pair.reset(batch.done & (np.arange(N) < half))
    return branches
