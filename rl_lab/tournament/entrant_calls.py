"""Request actions from an entrant; an error or an illegal action costs that entrant the match and affects no other.

The time for a move is processor time, so that no entrant loses because the machine is busy. The limit by the clock is
PATIENCE times as long.
"""

from __future__ import annotations

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
    LONGEST_REASON,
    PATIENCE,
    Alarms,
    EntrantFault,
    generators,
    guarded,
    seed_generators,
)
from rl_lab.tournament.functions import CodeAgent, FunctionAgent

KILL_MARGIN = 1.0  # seconds beyond the time limit after which another process kills the process of an entrant
LEAST_BIND_LIMIT = 5.0  # least limit, in seconds, of a user code's `bind` and `set_row_seeds`, which may load a model
# Of the actions of an answer that is quoted in a fault: all of them up to this number, and this many characters.
_QUOTED_ACTIONS, _QUOTED_CHARACTERS = 8, 80


class EntrantRunner:
    """An entrant that acts in a batch of environments; `keys` and `clock` are those of `Agent.set_row_seeds`.

    Row i * A + a of the batch's arrays is agent a of A in environment i.

    `timeout` is the limit of processor time for a move, in seconds, 0 for no limit. User code that exceeds it is
    stopped. Other entrants act for many rows in one call, whose time is divided among the rows.
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
        self._is_code, self._uses_generators = isinstance(agent, CodeAgent), False
        self._generators: Any = None  # states of the global generators before a call for several rows
        self._bind_fault: EntrantFault | None = None  # with it, the entrant loses a match at its first move
        limit = max(timeout, LEAST_BIND_LIMIT) if timeout and self._is_code else 0.0
        timeout_fault = "timeout", f"bind and set_row_seeds took longer than {limit:g} s"
        with Alarms(self._is_code) as alarms:
            self._bind_fault = self._guarded(self._bind, 0, limit, timeout_fault, alarms)

    def _bind(self) -> EntrantFault | None:
        """Bind the entrant to the batch, and give it the random keys of the rows; return None, or a replayed fault."""
        if self._record.tape.replayed is not None:
            outcome = self._record.tape.replay(self._record.number)
            return outcome if isinstance(outcome, tuple) else None
        if hasattr(self._agent, "bind"):
            self._agent.bind(self._envs)
        if hasattr(self._agent, "set_row_seeds"):
            self._agent.set_row_seeds(self._keys, self._clock)
        return None

    def request_actions(self, rows: Array) -> dict[int, EntrantFault]:
        """Write the actions of rows, int64 [R], into the batch, and return the faults by row.

        The actions of rows with a fault are not written. An agent may be called twice for the same rows: for all of
        them, and then row by row to find the one with the fault, or because it draws from the global generators.

        Raises:
            KeyboardInterrupt: the user has pressed Ctrl-C. Whatever an entrant raises is a fault.
        """
        if self._bind_fault is not None:
            return dict.fromkeys(rows.tolist(), self._bind_fault)
        with Alarms(self._is_code) as alarms:
            if isinstance(self._agent, FunctionAgent) or self._uses_generators:
                return self._request_each(rows, alarms)
            outcome = self._request(rows, alarms)
            if len(rows) == 1 or self._record.skipped:
                return self._write(outcome, rows)
            if self._is_code and generators() != self._generators:
                self._uses_generators = True  # called row by row, its actions depend on that row's seed alone
                return self._request_each(rows, alarms)
            if isinstance(outcome, tuple) and outcome[0] != "timeout":
                return self._request_each(rows, alarms)  # finds the row in which the fault occurs
            return self._write(outcome, rows)

    def _request_each(self, rows: Array, alarms: Alarms) -> dict[int, EntrantFault]:
        """Request and write the actions of one row after the other."""
        faults: dict[int, EntrantFault] = {}
        for k in range(len(rows)):
            faults |= self._write(self._request(rows[k : k + 1], alarms), rows[k : k + 1])
        return faults

    def _seed(self, row: int) -> bool:
        """Seed the global generators for a row; return whether torch, which user code may import, was among them."""
        seed_generators(int(self._keys[row]), int(self._clock[row // self._num_agents]))
        return "torch" in sys.modules

    def _request(self, rows: Array, alarms: Alarms) -> Array | EntrantFault:
        """Return the actions of these rows, or the fault, from one call."""
        limit, timeout_fault, row = self._timeout * len(rows), timeout_fault_of(self._timeout), int(rows[0])
        while True:
            seeded_torch = self._is_code and self._seed(row)
            self._generators = generators() if self._is_code and len(rows) > 1 else None
            outcome: Array | EntrantFault = self._guarded(lambda: self._call(rows), row, limit, timeout_fault, alarms)
            if not self._is_code or seeded_torch == ("torch" in sys.modules):
                return outcome
            # The call has imported torch, whose generator was not seeded, so it is repeated.

    def _guarded(
        self, body: Callable[[], Any], row: int, limit: float, timeout_fault: EntrantFault, alarms: Alarms
    ) -> Any:
        """Return body() or its fault; the call is recorded, and `limit` is in seconds."""
        begin, process_begin = time.monotonic(), time.process_time()
        fault = self._record.begin(row % self._num_agents, begin + PATIENCE * limit + KILL_MARGIN if limit else 0.0)
        if fault is not None:
            return fault
        try:
            outcome = guarded(body, alarms, limit, timeout_fault, disposable=self._record.disposable)
        finally:
            self._record.end()
        # Checked once more, because only Python code notices the alarm. A call that sleeps uses no processor time.
        seconds = max(time.process_time() - process_begin, (time.monotonic() - begin) / PATIENCE)
        if limit and seconds > limit:
            outcome = timeout_fault
        self._record.tape.record(self._record.number, outcome)
        return outcome

    def _call(self, rows: Array) -> Array | EntrantFault:
        """Call the entrant and check its answer.

        The check belongs to the guarded call, because the answer's methods may be the entrant's code.
        """
        observations, action_mask, actions = self._by_row()
        if self._record.tape.replayed is not None:
            outcome = self._record.tape.replay(self._record.number)
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
        answer, state = self._agent.act(
            observations[rows], state=None, rows=rows.copy(), deterministic=True, **arguments
        )
        if state is not None:
            return "crash", "it keeps a state, which worlds of several agents do not support"
        return self._check_type(np.array(answer), len(rows), actions)

    def _by_row(self) -> tuple[Array, Array, Array]:
        """Return the batch's observations, action masks and actions with one leading axis of rows."""
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
            return "illegal", one_line(text)[:LONGEST_REASON]
        return answer

    def _write(self, outcome: Array | EntrantFault, rows: Array) -> dict[int, EntrantFault]:
        """Write the legal actions into the batch, and return the faults of the other rows."""
        if isinstance(outcome, tuple):
            return dict.fromkeys(rows.tolist(), outcome)
        _, action_mask, actions = self._by_row()
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
            faults[int(rows[k])] = ("illegal" if finite else "nonfinite", text[:LONGEST_REASON])
        return faults


def timeout_fault_of(seconds: float) -> EntrantFault:
    """Return the fault of an entrant whose move took longer than this."""
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
    text = np.array2string(actions, threshold=_QUOTED_ACTIONS, precision=4)
    return one_line(text)[:_QUOTED_CHARACTERS]
