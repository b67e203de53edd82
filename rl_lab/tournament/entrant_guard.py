"""Run the code of an entrant so that its exceptions, its time and its forks cannot harm the tournament.

An exception of any class that an entrant's code raises is a fault of that entrant. Code that takes too long is stopped.
A process that the code forks ends at once, because it would otherwise continue as a second copy of the tournament.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

import numpy as np

from rl_lab.core.errors import one_line
from rl_lab.tournament.containment import children, living_children

PATIENCE = 5.0  # limit of wall-clock time, as a multiple of the limit of processor time
TOO_MANY = 70  # exit status of a process whose entrant has started too many others
CLOSED = 71  # exit status of a process whose entrant has closed or replaced the file that the match is sent through
MOST_CHILDREN = 64  # maximum of processes that an entrant may have started, at any moment of a match
LONGEST_REASON = 200  # characters
_FORK_STOP = 1e-3  # seconds until a call that has forked is stopped, and between further attempts to stop it

EntrantFault = tuple[str, str]  # kind of fault, and one line that says what it was


class TimedOut(BaseException):
    """The time for a move is up. It is not an Exception, so that code that catches all exceptions is stopped too."""


class Alarms:
    """A context manager that raises TimedOut in Python code that exceeds its time, while it is armed.

    Only the main thread of a process can be stopped in this way; in other threads `arm` does nothing. A timer that was
    set before continues after `__exit__`. With `enabled` False, nothing is done.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def __enter__(self) -> Alarms:
        self.is_armed = self.has_fired = self.interrupted = False
        self.can_interrupt = self.enabled and threading.current_thread() is threading.main_thread()
        if self.can_interrupt:
            self._begin = {signal.ITIMER_PROF: time.process_time(), signal.ITIMER_REAL: time.monotonic()}
            self._timers = {timer: signal.setitimer(timer, 0) for timer in self._begin}
            self._handlers = {n: signal.signal(n, self._stop) for n in (signal.SIGPROF, signal.SIGALRM)}
            self._interrupt = signal.getsignal(signal.SIGINT)
            if callable(self._interrupt):
                signal.signal(signal.SIGINT, self._note_interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.is_armed = False
        if not self.can_interrupt:
            return
        now = {signal.ITIMER_PROF: time.process_time(), signal.ITIMER_REAL: time.monotonic()}
        for timer in self._timers:
            signal.setitimer(timer, 0)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if callable(self._interrupt):
            signal.signal(signal.SIGINT, self._interrupt)
        for timer, (left, interval) in self._timers.items():
            if left:
                signal.setitimer(timer, max(left - (now[timer] - self._begin[timer]), 1e-3), interval)

    def arm(self, seconds: float) -> None:
        """Stop the following code after this number of seconds of processor time; 0 means no limit."""
        self.has_fired = False
        if self.can_interrupt:
            self.is_armed = True
            if seconds:
                signal.setitimer(signal.ITIMER_PROF, seconds, seconds)
                signal.setitimer(signal.ITIMER_REAL, PATIENCE * seconds, seconds)

    def disarm(self) -> None:
        """Remove the time limit."""
        self.is_armed = False
        if self.can_interrupt:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.is_armed:
            self.has_fired = True
            raise TimedOut

    def _note_interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        assert callable(self._interrupt)
        self._interrupt(number, frame)


class _Forks:
    """State of the fork hooks: whether an entrant's code runs in this process, and how often it has forked."""

    in_entrant_code = False
    num_forks = 0


def _after_fork_in_child() -> None:
    if _Forks.in_entrant_code:
        os._exit(0)


def _after_fork_in_parent() -> None:
    if _Forks.in_entrant_code:
        _Forks.num_forks += 1
        with suppress(OSError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if threading.current_thread() is threading.main_thread():
            # The exception is raised by the timer, because Python prints and drops an exception of a hook.
            signal.setitimer(signal.ITIMER_REAL, _FORK_STOP, _FORK_STOP)


os.register_at_fork(after_in_child=_after_fork_in_child, after_in_parent=_after_fork_in_parent)


def guarded(
    body: Callable[[], Any], alarms: Alarms, seconds: float, timeout_fault: EntrantFault, *, disposable: bool
) -> Any:
    """Return the result of body(), or an EntrantFault if the entrant's code fails; the caller tells them apart by type.

    The result must be plain data and must not contain objects of the entrant's code.

    Args:
        body: calls the entrant and checks its answer.
        alarms: has been entered; `enabled` is False for an entrant that does not run user code.
        seconds: limit of processor time, 0 for no limit.
        timeout_fault: the fault of an entrant that exceeds the limit.
        disposable: whether to end this process where the entrant has started too many others.

    Raises:
        KeyboardInterrupt: the user has pressed Ctrl-C; one that the entrant raises is its fault.
    """
    if not alarms.enabled:
        try:
            return body()
        except (Exception, SystemExit) as error:
            return fault_of(error)
    try:
        outcome = _run(body, alarms, seconds, timeout_fault)
    except TimedOut:  # the timer fired after the call had returned
        _Forks.in_entrant_code = False
        alarms.disarm()
        outcome = timeout_fault
    if _Forks.num_forks:
        return "crash", "forked a process during a call; use subprocess to start another program"
    if len(pids := _children()) > MOST_CHILDREN and living_children(pids) > MOST_CHILDREN:
        if disposable:
            os._exit(TOO_MANY)
        return "crash", f"has started more than {MOST_CHILDREN} processes"
    return outcome


def _run(body: Callable[[], Any], alarms: Alarms, seconds: float, timeout_fault: EntrantFault) -> Any:
    """Return the result of body() within the time limit, or the fault; TimedOut may be raised after the call."""
    process = os.getpid()
    _Forks.in_entrant_code, _Forks.num_forks = True, 0
    try:
        alarms.arm(seconds)
        try:
            outcome = body()
            return timeout_fault if alarms.has_fired else outcome  # the entrant's code may have caught TimedOut
        except TimedOut:
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and alarms.interrupted:
                raise
            return fault_of(error)
    except TimedOut:
        return timeout_fault
    finally:
        alarms.is_armed = False
        if os.getpid() != process:  # the entrant has forked without Python's hooks
            os._exit(0)
        _Forks.in_entrant_code = False
        alarms.disarm()


def fault_of(error: BaseException) -> EntrantFault:
    """Return the fault for an entrant's exception.

    Call this under `guarded`, because the class of the exception and its `__str__` may be the entrant's code.
    """
    name = "an exception"
    try:
        name = "".join(str(type(error).__name__))
        text = str(error)
    except TimedOut:
        raise
    except BaseException:
        return "crash", one_line(f"{name}, whose message cannot be read")[:LONGEST_REASON]
    return "crash", one_line(f"{name}: {text[:2000]}")[:LONGEST_REASON]


def _children() -> list[int]:
    """Return the ids of this process's children, or [] where the system does not tell."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (ChildProcessError, AttributeError):  # there are no children, or the system has no waitid
        return []
    return children()


def generators() -> tuple[Any, ...]:
    """Return the states of the global generators that `seed_generators` seeds, for comparison."""
    numpy: Any = np.random.get_state(legacy=True)
    torch = sys.modules.get("torch")
    numpy_state = (numpy[1].tobytes(), *numpy[2:])
    return random.getstate(), numpy_state, None if torch is None else torch.get_rng_state().numpy().tobytes()


def seed_generators(key: int, clock: int) -> None:
    """Seed the global generators of random, numpy and, where it has been imported, torch from these two numbers.

    The numbers that an entrant draws from them then depend on its match, its seat and the step alone.
    """
    mixed = (key * 0x9E3779B97F4A7C15 + clock * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & (2**64 - 1)
    mixed ^= mixed >> 30
    mixed = (mixed * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    mixed ^= mixed >> 27
    random.seed(mixed)
    np.random.seed(mixed >> 32)
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.manual_seed(mixed >> 1)
