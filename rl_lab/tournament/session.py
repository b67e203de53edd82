"""This module plays the matches of many tasks in one batch; where a match ends, the next one begins in its environment.

`MatchEngine.play` makes a `Session` and iterates over `Session.play`. Each step, the session has every entrant write
the actions of its rows into the batch (`entrant_calls`), records the actions, steps the batch, and yields the matches
that have ended. It writes the batch's actions, seeds and `paused`, and nothing on disk.

Shape letters: N environments, A agents, T steps of a match, k components of a continuous action. Row i * A + a of
arrays by row is agent a in environment i. A slot is the index of an environment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.random_actions import write_random_actions
from rl_lab.core.world import Array
from rl_lab.evaluation.evaluate import MAX_EPISODE_STEPS, EndlessEpisodeError
from rl_lab.multiagent.match_runner import check_not_stuck
from rl_lab.tournament.entrant_calls import EntrantRunner
from rl_lab.tournament.entrant_guard import EntrantFault
from rl_lab.tournament.ledger import Fault, Match
from rl_lab.tournament.schedule import Task, hash_bits

if TYPE_CHECKING:
    from rl_lab.tournament.matches import MatchEngine


@dataclass(frozen=True)
class MatchResult:
    """A match and its actions, int64 [T, A] or float32 [T, A, k]; agents that did not act have 0."""

    match: Match
    actions: Array


class Session:
    """N environments with one match in each; see `MatchEngine.play`."""

    def __init__(self, engine: MatchEngine, envs: BatchedEnv, tasks: Sequence[Task]) -> None:
        self._engine, self._envs, self._pending = engine, envs, list(reversed(tasks))
        n, num_agents = envs.rewards.shape
        self._names = sorted({name for task in tasks for name in task.entrants})
        self._index = {name: k for k, name in enumerate(self._names)}
        self._seating = np.full((n, num_agents), -1)  # int64 [N, A], index in `_names` of the entrant at each seat
        # Random keys of the rows, uint64 [N x A]: of the entrants, and of the opening moves.
        self._keys, self._opening_keys = np.zeros(n * num_agents, np.uint64), np.zeros(n * num_agents, np.uint64)
        self._clock = np.zeros(n, np.int64)  # [N], steps of the current match so far
        self._is_playing = np.zeros(n, np.bool_)  # [N], whether a match is being played
        self._seeds = np.zeros(n, np.int64)  # [N], of the current matches
        self._tasks = [tasks[0]] * n  # [N], of the current matches; the first values have no meaning
        # [N, T, A] or [N, T, A, k], the actions of the current matches; T is doubled when it is too short.
        self._actions = np.zeros((n, 64, *envs.actions.shape[1:]), envs.actions.dtype)
        self._runners: list[EntrantRunner] = []  # in the order of `_names`

    def play(self, poll: Callable[[], None] | None) -> Iterator[MatchResult]:
        """Play all tasks, and yield each match when it ends; `poll` is called before every step, and may raise.

        Raises:
            EndlessEpisodeError: a match in a world without a horizon has not ended after 100,000 steps.
            StuckError: an agent that is to act has no legal action.
            NonFiniteError: as in `Batch.step`.
        """
        self._start_matches(np.arange(self._envs.num_envs))
        engine = self._engine
        for name in self._names:
            timeout, call_record = engine.setup.timeout, engine.call_record
            runner = EntrantRunner(engine.agents[name], self._envs, self._keys, self._clock, timeout, call_record)
            self._runners.append(runner)
        while self._is_playing.any():
            if poll is not None:
                poll()
            free_slots = []
            for slot, match, actions in self._step():
                free_slots.append(slot)
                yield MatchResult(match, actions)
            if free_slots:
                self._start_matches(np.array(free_slots))

    def _start_matches(self, slots: Array) -> None:
        """Begin the next matches in these environments, int64 [slots]; those without a match are paused."""
        is_new, num_agents = np.zeros(self._envs.num_envs, np.bool_), self._seating.shape[1]
        self._is_playing[slots] = False
        for slot in slots[: len(self._pending)].tolist():
            task, rows = self._pending.pop(), slice(slot * num_agents, (slot + 1) * num_agents)
            self._tasks[slot], self._seeds[slot] = task, task.seed
            self._seating[slot] = [self._index[name] for name in task.entrants]
            seed, seats = self._engine.setup.seed, np.arange(num_agents, dtype=np.uint64)
            self._keys[rows] = np.uint64(hash_bits("match", seed, task.id)) + seats
            self._opening_keys[rows] = np.uint64(hash_bits("opening", seed, *task.pairing, task.pair)) + seats
            is_new[slot] = self._is_playing[slot] = True
        self._clock[is_new] = 0
        self._envs.paused[...] = ~self._is_playing
        if is_new.any():
            # The seeds of the other environments have no effect before their next reset.
            self._envs.seed(self._seeds)
            self._envs.reset(is_new)

    def _step(self) -> list[tuple[int, Match, Array]]:
        """Request all actions, step the environments, and return the ended matches with their environments' indices."""
        envs, num_agents = self._envs, self._seating.shape[1]
        acting = envs.acting & self._is_playing[:, None]
        faults = self._write_actions(acting)
        forfeits: dict[int, tuple[int, EntrantFault]] = {}
        for row in sorted(faults, reverse=True):  # of several faults in one match, that of the first seat counts
            forfeits[row // num_agents] = row % num_agents, faults[row]
        results = [self._forfeit(slot, *fault) for slot, fault in forfeits.items()]
        continues = self._is_playing.copy()
        continues[list(forfeits)] = False
        envs.paused[...] = ~continues
        self._record_actions(continues, acting)
        envs.step()
        self._clock[continues] += 1
        if envs.world.horizon == 0 and self._clock.max() >= MAX_EPISODE_STEPS:
            raise EndlessEpisodeError(
                f"{envs.world.name}: a match has not ended after {MAX_EPISODE_STEPS:,} steps; give the world a horizon"
            )
        for slot in np.flatnonzero(continues & envs.done).tolist():
            ending = "terminated" if envs.terminated[slot] else "truncated"
            results.append((slot, *self._finish(slot, envs.episode_returns[slot], ending, None)))
        return results

    def _write_actions(self, acting: Array) -> dict[int, EntrantFault]:
        """Write the actions of all agents that are to act, bool [N, A], and return the faults by row."""
        envs, num_agents = self._envs, self._seating.shape[1]
        is_opening = acting & (self._clock < self._engine.setup.random_opening_moves)[:, None]  # [N, A]
        if is_opening.any():
            rows = np.flatnonzero(is_opening)
            write_random_actions(envs, rows, self._opening_keys[rows], self._clock[rows // num_agents])
        if envs.world.has_action_mask:  # an agent without a legal action is an error of the world, not of an entrant
            rows = np.flatnonzero(acting)
            check_not_stuck(envs, envs.action_mask.reshape(acting.size, -1)[rows], rows)
        faults: dict[int, EntrantFault] = {}
        entrant_of_row = np.where(acting & ~is_opening, self._seating, -1).ravel()
        for index, runner in enumerate(self._runners):
            rows = np.flatnonzero(entrant_of_row == index)
            if len(rows):
                faults |= runner.request_actions(rows)
        return faults

    def _record_actions(self, continues: Array, acting: Array) -> None:
        """Copy the batch's actions into `_actions`, for the matches that continue, bool [N].

        Agents that do not act, by bool [N, A], get 0.
        """
        if self._clock[continues].max(initial=0) == self._actions.shape[1]:
            self._actions = np.concatenate([self._actions, np.zeros_like(self._actions)], axis=1)
        actions, slots = self._envs.actions, np.flatnonzero(continues)
        acting = acting.reshape(*acting.shape, *(1,) * (actions.ndim - 2))
        self._actions[slots, self._clock[slots]] = np.where(acting, actions, 0)[slots]

    def _forfeit(self, slot: int, seat: int, entrant_fault: EntrantFault) -> tuple[int, Match, Array]:
        """End a match by the fault of an entrant, with the returns that the engine gives for an illegal action."""
        world: Any = self._envs.world
        at_fault = self._seating[slot] == self._seating[slot, seat]
        reward = float(getattr(world, "illegal_action_reward", -1.0))
        gain = -reward * at_fault.sum() / (~at_fault).sum() if getattr(world, "zero_sum", False) else 0.0
        returns = self._envs.running_returns[slot] + np.where(at_fault, reward, gain)
        fault = Fault(seat, self._tasks[slot].entrants[seat], *entrant_fault)
        return (slot, *self._finish(slot, returns, "forfeit", fault))

    def _finish(self, slot: int, returns: Array, ending: str, fault: Fault | None) -> tuple[Match, Array]:
        """Return the record of the match in an environment, and its actions."""
        task, engine = self._tasks[slot], self._engine
        actions = self._actions[slot, : self._clock[slot]].copy()
        match = Match(
            id=task.id,
            world=engine.setup.world,
            version=engine.version,
            params=engine.setup.params,
            pairing=task.pairing,
            pair=task.pair,
            leg=task.leg,
            entrants=task.entrants,
            hashes=tuple(engine.entrants[name].hash for name in task.entrants),
            seats=tuple(engine.world.agents),
            seed=task.seed,
            returns=tuple(returns.tolist()),
            ranks=ranks(task.entrants, returns, fault),
            steps=len(actions),
            ending=ending,
            fault=fault,
            trace=hashlib.sha256(actions.tobytes()).hexdigest(),
        )
        return match, actions


def ranks(entrants: Sequence[str], returns: Array, fault: Fault | None) -> tuple[int, ...]:
    """Return the rank of each seat's entrant, 1 for the best, by its mean return; an entrant that forfeits is last.

    All seats of an entrant have the same rank.
    """
    returns_of: dict[str, list[float]] = {}
    for name, value in zip(entrants, returns.tolist(), strict=True):
        returns_of.setdefault(name, []).append(value)
    means = {name: sum(values) / len(values) for name, values in returns_of.items()}
    if fault is not None:
        means[fault.entrant] = -np.inf
    rank_of = {name: 1 + sum(other > mean for other in means.values()) for name, mean in means.items()}
    return tuple(rank_of[name] for name in entrants)
