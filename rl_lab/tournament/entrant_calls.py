"""This module requests actions from an entrant and writes the legal ones into the batch.

`session` has one `EntrantRunner` for each entrant and calls `request_actions` once a step. An exception, a timeout or
an illegal action becomes an `EntrantFault` of the row, that is, of one match; other matches and entrants go on. The
runner writes `envs.actions`, records each call in the `CallRecord`, and seeds the global random generators before calls
of user code.

The time for a move is processor time, so that no entrant loses because the machine is busy. The limit of wall-clock
time is WALL_CLOCK_FACTOR times as long.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from rl_lab.core.errors import one_line
from rl_lab.core.protocols import BatchedEnv, EnvSpec
from rl_lab.core.world import Array
from rl_lab.tournament.call_record import CallRecord
from rl_lab.tournament.entrant_guard import (
    MAX_REASON_LENGTH,
    WALL_CLOCK_FACTOR,
    CallTimer,
    EntrantFault,
    call_guarded,
    global_rng_states,
    seed_global_rngs,
)
from rl_lab.tournament.functions import CodeAgent, FunctionAgent

KILL_MARGIN = 1.0  # seconds beyond the time limit after which another process kills the process of an entrant
MIN_BIND_SECONDS = 5.0  # a smaller time limit does not hold for `bind` and `set_row_seeds`, which may load a model
# A fault quotes the answer: all actions if there are no more than this, and at most so many characters.
_QUOTED_ACTIONS, _QUOTED_CHARACTERS = 8, 80


class EntrantRunner:
    """An entrant that acts in a batch of environments. Row i * A + a of the batch's arrays is agent a of A in env i.

    Args:
        agent: the entrant's agent; a `CodeAgent` if it is user code.
        envs: the batch, whose actions are written.
        keys: uint64 [rows], as in `Agent.set_row_seeds`; the session changes it in place.
        clock: int64 [environments], as in `Agent.set_row_seeds`; the session changes it in place.
        timeout: limit of processor time for a move in seconds, 0 for no limit. User code that exceeds it is stopped.
            Other entrants act for many rows in one call, whose time is divided among the rows.
        record: the record of calls.
    """

    def __init__(
        self, agent: Any, envs: BatchedEnv, keys: Array, clock: Array, timeout: float, record: CallRecord
    ) -> None:
        self._agent, self._envs, self._timeout, self._record = agent, envs, timeout, record
        self._keys, self._clock = keys, clock
        world = envs.world
        self._num_agents, self._has_mask = len(world.agents), world.has_action_mask
        self._low, self._high, self._sizes = _action_limits(world)
        self._is_discrete = isinstance(world.action, Discrete)
        self._is_code, self._uses_global_rng = isinstance(agent, CodeAgent), False
        self._rng_states: Any = None  # of the global generators, before a call for several rows
        # The state that the agent has returned, see `Agent`, and the keys of the matches that it is of.
        self._memory: tuple[Any, Array] = None, keys.copy()
        self._bind_fault: EntrantFault | None = None  # if there is one, the entrant loses each match at its first move
        limit = max(timeout, MIN_BIND_SECONDS) if timeout and self._is_code else 0.0
        timeout_fault = "timeout", f"bind and set_row_seeds took longer than {limit:g} s"
        with CallTimer(self._is_code) as timer:
            self._bind_fault = self._guarded(self._bind, 0, limit, timeout_fault, timer)

    def _bind(self) -> EntrantFault | None:
        """Call the agent's `bind` and `set_row_seeds`; return None, or the fault that is replayed."""
        if self._record.outcomes.replayed is not None:
            outcome = self._record.outcomes.replay(self._record.number)
            return outcome if isinstance(outcome, tuple) else None
        if hasattr(self._agent, "bind"):
            self._agent.bind(self._envs)
        if hasattr(self._agent, "set_row_seeds"):
            self._agent.set_row_seeds(self._keys, self._clock)
        return None

    def request_actions(self, rows: Array) -> dict[int, EntrantFault]:
        """Write the actions of rows, int64 [R], into the batch, and return the faults by row.

        The actions of rows with a fault are not written. An agent may be called twice for the same rows: for all of
        them at once, and then row by row, either to find the row with the fault or because the agent uses the global
        random generators, which are then seeded for each row.

        Raises:
            KeyboardInterrupt: the user has pressed Ctrl-C. Whatever an entrant raises is a fault.
        """
        if self._bind_fault is not None:
            return dict.fromkeys(rows.tolist(), self._bind_fault)
        memory = self._memory
        with CallTimer(self._is_code) as timer:
            if isinstance(self._agent, FunctionAgent) or self._uses_global_rng:
                return self._request_each(rows, timer)
            outcome = self._request(rows, timer)
            if len(rows) == 1 or self._record.was_skipped:
                return self._write(outcome, rows)
            if self._is_code and global_rng_states() != self._rng_states:
                self._uses_global_rng, self._memory = True, memory  # from now on, it is called row by row
                return self._request_each(rows, timer)
            if isinstance(outcome, tuple) and outcome[0] != "timeout":
                self._memory = memory
                return self._request_each(rows, timer)  # finds the row in which the fault occurs
            return self._write(outcome, rows)

    def _request_each(self, rows: Array, timer: CallTimer) -> dict[int, EntrantFault]:
        """Request and write the actions of one row after the other; return the faults by row."""
        faults: dict[int, EntrantFault] = {}
        for k in range(len(rows)):
            faults |= self._write(self._request(rows[k : k + 1], timer), rows[k : k + 1])
        return faults

    def _seed(self, row: int) -> bool:
        """Seed the global generators for a row; return whether torch was among them, which user code may import."""
        seed_global_rngs(int(self._keys[row]), int(self._clock[row // self._num_agents]))
        return "torch" in sys.modules

    def _request(self, rows: Array, timer: CallTimer) -> Array | EntrantFault:
        """Return the actions of these rows, or the fault, from one call of the agent."""
        limit, timeout_fault, row = self._timeout * len(rows), make_timeout_fault(self._timeout), int(rows[0])
        memory = self._memory
        while True:
            self._memory = memory
            seeded_torch = self._is_code and self._seed(row)
            self._rng_states = global_rng_states() if self._is_code and len(rows) > 1 else None
            outcome: Array | EntrantFault = self._guarded(lambda: self._call(rows), row, limit, timeout_fault, timer)
            if not self._is_code or seeded_torch == ("torch" in sys.modules):
                return outcome
            # The call has imported torch, whose generator was not seeded, so it is repeated.

    def _guarded(
        self, function: Callable[[], Any], row: int, limit: float, timeout_fault: EntrantFault, timer: CallTimer
    ) -> Any:
        """Return the result of function() or its fault; record the call. `limit` is in seconds of processor time."""
        begin, process_begin = time.monotonic(), time.process_time()
        fault = self._record.begin(
            row % self._num_agents, begin + WALL_CLOCK_FACTOR * limit + KILL_MARGIN if limit else 0.0
        )
        if fault is not None:
            return fault
        try:
            outcome = call_guarded(function, timer, limit, timeout_fault, disposable=self._record.disposable)
        finally:
            self._record.end()
        # The time is checked once more, because compiled code is not stopped by the timer. A call that sleeps uses no
        # processor time.
        seconds = max(time.process_time() - process_begin, (time.monotonic() - begin) / WALL_CLOCK_FACTOR)
        if limit and seconds > limit:
            outcome = timeout_fault
        self._record.outcomes.record(self._record.number, outcome)
        return outcome

    def _call(self, rows: Array) -> Array | EntrantFault:
        """Call the entrant, and return its answer or a fault if it has the wrong type.

        The check belongs to the guarded call, because the answer's methods may be the entrant's code.
        """
        observations, action_mask, actions = self._arrays_by_row()
        if self._record.outcomes.replayed is not None:
            outcome = self._record.outcomes.replay(self._record.number)
            return outcome if isinstance(outcome, tuple) else self._check_type(np.array(outcome), len(rows), actions)
        if isinstance(self._agent, FunctionAgent):
            row = int(rows[0])
            seat = row % self._num_agents
            answer = np.array(self._agent.answer(observations[row], action_mask[row] if self._has_mask else None, seat))
            if not self._is_discrete and answer.shape == (self._sizes[seat],):
                # The batch's actions have room for the largest space of the seats.
                answer = np.pad(answer, (0, actions.shape[1] - self._sizes[seat]))
            return self._check_type(answer[None], 1, actions)
        arguments = {"action_mask": action_mask[rows]} if self._has_mask else {}
        state, keys = self._memory
        if self._is_code and state is not None:
            state = copy.deepcopy(state)  # code of a user's may change it, and the call may be repeated
        episode_starts = self._keys != keys  # rows in which a match has begun since the last call
        if state is not None and episode_starts.any():
            state = self._agent.begin(state, episode_starts)
        answer, state = self._agent.act(
            observations[rows], state=state, rows=rows.copy(), deterministic=True, **arguments
        )
        if state is not None and not hasattr(self._agent, "begin"):
            return "crash", "it returns a state but has no begin(state, episode_starts)"
        self._memory = state, self._keys.copy()
        return self._check_type(np.array(answer), len(rows), actions)

    def _arrays_by_row(self) -> tuple[Array, Array, Array]:
        """Return views of the batch's observations, action masks and actions with one leading axis of rows."""
        arrays = (self._envs.observations, self._envs.action_mask, self._envs.actions)
        observations, action_mask, actions = (a.reshape(-1, *a.shape[2:]) for a in arrays)
        return observations, action_mask, actions

    def _check_type(self, answer: Array, count: int, actions: Array) -> Array | EntrantFault:
        """Return the answer, [count, ...], or a fault where its shape or kind is not that of the batch's actions."""
        shape = (count, *actions.shape[1:])
        if answer.dtype.kind == "f" and not np.isfinite(answer).all() and (self._is_discrete or answer.shape != shape):
            return "nonfinite", f"returned {_as_text(answer)}"
        if answer.shape != shape or answer.dtype.kind not in ("iu" if self._is_discrete else "fiu"):
            expected = f"{actions.dtype} {list(shape)}"
            text = f"returned {answer.dtype} {list(answer.shape)}: {_as_text(answer)}, not {expected}"
            return "illegal", one_line(text)[:MAX_REASON_LENGTH]
        return answer

    def _write(self, outcome: Array | EntrantFault, rows: Array) -> dict[int, EntrantFault]:
        """Write the legal actions into the batch, and return the faults of the other rows."""
        if isinstance(outcome, tuple):
            return dict.fromkeys(rows.tolist(), outcome)
        _, action_mask, actions = self._arrays_by_row()
        seats = rows % self._num_agents
        if self._is_discrete:
            legal = (outcome >= 0) & (outcome < self._sizes[seats])
            if self._has_mask:
                legal &= action_mask[rows, np.where(legal, outcome, 0)] != 0
        else:
            with np.errstate(invalid="ignore"):
                legal = ((self._low[seats] <= outcome) & (outcome <= self._high[seats])).all(axis=1)
                legal &= np.isfinite(outcome).all(axis=1)
        if legal.all():
            actions[rows] = outcome
            return {}
        actions[rows[legal]] = outcome[legal]
        faults = {}
        for k in np.flatnonzero(~legal).tolist():
            finite = self._is_discrete or bool(np.isfinite(outcome[k]).all())
            text = f"action {_as_text(outcome[k])} is {'illegal' if finite else 'not finite'}"
            if finite and self._has_mask:
                text += f"; legal are {np.flatnonzero(action_mask[rows[k]]).tolist()}"
            faults[int(rows[k])] = ("illegal" if finite else "nonfinite", text[:MAX_REASON_LENGTH])
        return faults


def make_timeout_fault(seconds: float) -> EntrantFault:
    """Return the fault of an entrant whose move took longer than this limit."""
    return "timeout", f"a move took longer than {seconds:g} s"


def _action_limits(world: EnvSpec) -> tuple[Array, Array, Array]:
    """Return the lower and upper bounds of actions, [A, k], and the number of actions or of components, int64 [A]."""
    spaces = world.action_spaces
    if all(isinstance(space, Discrete) for space in spaces):
        counts = np.array([space.n for space in spaces], np.int64)  # type: ignore[union-attr]
        return np.zeros((len(spaces), 1)), np.zeros((len(spaces), 1)), counts
    width = (world.action.shape or (0,))[0]
    low, high = (np.full((len(spaces), width), side, np.float32) for side in (-np.inf, np.inf))
    for seat, space in enumerate(spaces):
        assert isinstance(space, Box)
        low[seat, : space.shape[0]], high[seat, : space.shape[0]] = space.low, space.high
    return low, high, np.array([(space.shape or (0,))[0] for space in spaces], np.int64)


def _as_text(actions: Array) -> str:
    """Return actions as one line for the reason of a fault, cut off where it is long."""
    text = np.array2string(actions, threshold=_QUOTED_ACTIONS, precision=4)
    return one_line(text)[:_QUOTED_CHARACTERS]
