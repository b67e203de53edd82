"""Asking an entrant for its actions: whatever goes wrong costs it the match at hand, and nobody else anything.

The time for a move is processor time, so that a busy machine makes nobody lose; who waits and does nothing has PATIENCE
times as long by the clock.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, MutableSequence
from types import FrameType
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from ..batch import WorldInfo, Worlds
from ..names import one_line
from ..world import Array
from .functions import FunctionAgent

PATIENCE = 5.0
GRACE = 5.0  # seconds beyond its time after which whoever watches from outside ends a process
_LONGEST_REASON = 200

Wrong = tuple[str, str]  # kind of fault, and one line that says what it was


class TimedOut(BaseException):
    """The time for a move is up. Not an Exception: an entrant that catches all of those is stopped all the same."""


class Improper(Exception):
    """An answer that is no action; `kind` says what kind of fault that is."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Doomed(Improper):
    """An answer that is not asked for: it would be the end of this process."""


class Mark:
    """What others can watch while an entrant is asked: three floats, which may lie in memory that processes share.

    They say until when it may take its time, by the machine's monotonic clock (0: it is not asked, or has no limit), at
    which seat it is asked, and how many calls there were. `doom` is the number of a call that is known to end the
    process, and what to make of it: that call is not made.
    """

    def __init__(self, values: MutableSequence[float] | None = None, doom: tuple[int, Wrong] | None = None) -> None:
        self.values, self.doom = [0.0] * 3 if values is None else values, doom

    def begin(self, seat: int, deadline: float) -> None:
        """Note that an entrant is asked. Raises Doomed where it must not be."""
        self.values[2] += 1
        if self.doom is not None and self.doom[0] == self.values[2]:
            raise Doomed(*self.doom[1])
        self.values[1], self.values[0] = seat, deadline

    def end(self) -> None:
        """Note that it has answered."""
        self.values[0] = 0.0


class Chair:
    """One entrant at a batch of worlds; `keys` and `clock` as in `agent.Agent`.

    `timeout` is in seconds of processor time a move, 0 for no limit: a Python function is stopped; others are asked
    about many rows at once, and that call's time is divided among them.
    """

    def __init__(self, agent: Any, worlds: Worlds, keys: Array, clock: Array, timeout: float, mark: Mark) -> None:
        self.agent, self.worlds, self.timeout, self.mark = agent, worlds, timeout, mark
        self._broken: Exception | None = None
        try:
            if hasattr(agent, "attend"):
                agent.attend(worlds)
            if hasattr(agent, "follow"):
                agent.follow(keys, clock)
        except Exception as error:  # it loses its matches when it is asked
            self._broken = error
        world = worlds.world
        self._seats, self._masked = len(world.agents), world.masked
        self._low, self._high, self._sizes = _limits(world)
        self._discrete = isinstance(world.action, Discrete)
        self._spent = 0.0

    def ask(self, rows: Array) -> dict[int, Wrong]:
        """Write the actions of these rows, int64 [R], and return what was wrong by row; the actions of those stay."""
        if isinstance(self.agent, FunctionAgent):
            wrong: dict[int, Wrong] = {}
            for row in rows.tolist():
                wrong |= self._ask_function(self.agent, row)
            return wrong
        observations, legal, taken = self._flat()
        asked = {"legal": legal[rows]} if self._masked else {}
        try:
            with self._timed(int(rows[0]), len(rows)):
                if self._broken is not None:
                    raise self._broken
                given, state = self.agent.act(observations[rows], state=None, rows=rows, deterministic=True, **asked)
            if state is not None:
                raise Improper("crash", "it keeps a state, which worlds of several agents do not support")
            actions = self._actions(given, len(rows), taken)
        except (Exception, SystemExit) as error:
            if len(rows) == 1 or isinstance(error, Doomed):
                return {int(rows[0]): _told(error)}
            # Somebody's fault, but whose?
            return {row: each for one in rows for row, each in self.ask(np.array([one])).items()}
        except TimedOut:
            return {row: late_after(self.timeout) for row in rows.tolist()}
        if self.timeout and self._spent > self.timeout * len(rows):
            return {row: late_after(self.timeout) for row in rows.tolist()}
        return self._take(actions, rows, legal, taken)

    def _ask_function(self, agent: FunctionAgent, row: int) -> dict[int, Wrong]:
        observations, legal, taken = self._flat()
        seat = row % self._seats
        try:
            with self._timed(row, 1), _stopped_after(self.timeout):
                given = agent.answer(observations[row], legal[row] if self._masked else None, seat)
            answer = np.asarray(given)
            if not self._discrete and answer.shape == (self._sizes[seat],):
                answer = np.pad(answer, (0, taken.shape[1] - self._sizes[seat]))
            actions = self._actions(answer[None], 1, taken)
        except (Exception, SystemExit) as error:
            return {row: _told(error)}
        except TimedOut:
            return {row: late_after(self.timeout)}
        if self.timeout and self._spent > self.timeout:
            return {row: late_after(self.timeout)}
        return self._take(actions, np.array([row]), legal, taken)

    def _flat(self) -> tuple[Array, Array, Array]:
        """Return observations, legal and actions by row."""
        w = self.worlds
        observations, legal, taken = (a.reshape(-1, *a.shape[2:]) for a in (w.observations, w.legal, w.actions))
        return observations, legal, taken

    @contextlib.contextmanager
    def _timed(self, row: int, count: int) -> Iterator[None]:
        """Measure a call about `count` rows into `_spent`, in seconds, with the mark set."""
        begin, worked = time.monotonic(), time.process_time()
        latest = begin + PATIENCE * self.timeout * count + GRACE
        self.mark.begin(row % self._seats, latest if self.timeout else 0.0)
        try:
            yield
        finally:
            self.mark.end()
            self._spent = max(time.process_time() - worked, (time.monotonic() - begin) / PATIENCE)

    def _actions(self, given: Any, count: int, taken: Array) -> Array:
        """Return the answers as an array of actions [count, ...]; Improper where they are of another shape or kind."""
        actions = np.asarray(given)
        shape = (count, *taken.shape[1:])
        if actions.dtype.kind == "f" and not np.isfinite(actions).all() and (self._discrete or actions.shape != shape):
            raise Improper("nonfinite", f"returned {_shown(actions)}")
        if actions.shape != shape or actions.dtype.kind not in ("iu" if self._discrete else "fiu"):
            kind = f"{taken.dtype} {list(shape)}"
            raise Improper("illegal", f"returned {actions.dtype} {list(actions.shape)}: {_shown(actions)}, not {kind}")
        return actions

    def _take(self, actions: Array, rows: Array, legal: Array, taken: Array) -> dict[int, Wrong]:
        """Write the actions that may be taken, and return what is wrong with the others."""
        seats = rows % self._seats
        if self._discrete:
            good = (actions >= 0) & (actions < self._sizes[seats])
            if self._masked:
                good &= legal[rows, np.where(good, actions, 0)] != 0
        else:
            with np.errstate(invalid="ignore"):
                good = ((self._low[seats] <= actions) & (actions <= self._high[seats])).all(axis=1)
                good &= np.isfinite(actions).all(axis=1)
        if good.all():
            taken[rows] = actions
            return {}
        taken[rows[good]] = actions[good]
        wrong = {}
        for k in np.flatnonzero(~good).tolist():
            finite = self._discrete or bool(np.isfinite(actions[k]).all())
            text = f"action {_shown(actions[k])} is {'illegal' if finite else 'not finite'}"
            if finite and self._masked:
                text += f"; legal are {np.flatnonzero(legal[rows[k]]).tolist()}"
            wrong[int(rows[k])] = ("illegal" if finite else "nonfinite", text[:_LONGEST_REASON])
        return wrong


def late_after(seconds: float) -> Wrong:
    """Return the fault of who took too long."""
    return "timeout", f"a move took longer than {seconds:g} s"


def _limits(world: WorldInfo) -> tuple[Array, Array, Array]:
    """Return the lowest and highest numbers of an action, [A, k], and how many actions or numbers there are, [A]."""
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


def _shown(actions: Array) -> str:
    return one_line(np.array2string(actions, threshold=8, precision=4))[:80]


def _told(error: BaseException) -> Wrong:
    if isinstance(error, Improper):
        return error.kind, one_line(error)[:_LONGEST_REASON]
    return "crash", one_line(f"{type(error).__name__}: {error}")[:_LONGEST_REASON]


@contextlib.contextmanager
def _stopped_after(seconds: float) -> Iterator[None]:
    """Raise TimedOut in Python code that takes longer; only a process's main thread can be stopped so."""
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return
    with (
        _alarm(signal.SIGPROF, signal.ITIMER_PROF, time.process_time, seconds),
        _alarm(signal.SIGALRM, signal.ITIMER_REAL, time.monotonic, PATIENCE * seconds),
    ):
        yield


@contextlib.contextmanager
def _alarm(number: int, timer: int, clock: Callable[[], float], seconds: float) -> Iterator[None]:
    """Raise TimedOut after so many seconds by this timer, whose time `clock` tells."""
    armed, begin = True, clock()

    def stop(number: int, frame: FrameType | None) -> None:
        if armed:
            raise TimedOut

    handler = signal.signal(number, stop)
    left, interval = signal.setitimer(timer, seconds, seconds)
    try:
        yield
    finally:
        armed = False
        left = max(left - (clock() - begin), 1e-3) if left else 0.0  # somebody else's alarm
        signal.setitimer(timer, left, interval)
        signal.signal(number, handler)
