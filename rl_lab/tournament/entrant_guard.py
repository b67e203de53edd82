"""This module calls the code of an entrant so that its exceptions, its time and its forks cannot harm the tournament.

`call_guarded` is the entry point; `entrant_calls` calls it for every move. An exception of any class is a fault of the
entrant. Code that takes too long is stopped by a signal. A process that the code forks ends at once, because it would
otherwise continue as a second copy of the tournament.

Process-wide state: on import it registers hooks that run after every fork of this process (`_ForkState`). While a
`CallTimer` is entered, it owns the interval timers and the handlers of SIGPROF, SIGALRM and SIGINT. `seed_global_rngs`
seeds the generators of `random`, numpy and torch.
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
from rl_lab.tournament.containment import child_pids, count_living

WALL_CLOCK_FACTOR = 5.0  # limit of wall-clock time, as a multiple of the limit of processor time
# Exit statuses of a process whose entrant has started too many others, and of one whose entrant has closed or replaced
# the file through which the match is sent.
EXIT_TOO_MANY_CHILDREN, EXIT_OUTPUT_REPLACED = 70, 71
MAX_CHILDREN = 64  # live processes that an entrant may have started, at any moment of a match
MAX_REASON_LENGTH = 200  # characters of the reason of a fault
_FORK_STOP_SECONDS = 1e-3  # until a call that has forked is stopped, and between further attempts to stop it

EntrantFault = tuple[str, str]  # kind of fault, and one line that says what it was


class TimeLimitExceeded(BaseException):
    """The time for a move is up. It is no Exception, so `except Exception` in an entrant's code does not catch it."""


class CallTimer:
    """A context manager within which `arm` and `disarm` limit the time of a call; it raises TimeLimitExceeded there.

    Only Python code in the main thread of a process can be stopped in this way; in other threads `arm` does nothing.
    Interval timers and signal handlers that were set before are restored by `__exit__`. With `enabled` False, as for
    entrants that are no user code, nothing is done.

    Attributes: `is_armed`, a call is limited; `has_fired`, its time was exceeded, or the call has forked;
    `interrupted`, the user has pressed Ctrl-C; `can_interrupt`, this thread can be stopped.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def __enter__(self) -> CallTimer:
        # `is_armed` is set without a limit of time as well: the timer also stops a call that has forked.
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
        for timer, (seconds_left, interval) in self._timers.items():
            if seconds_left:
                signal.setitimer(timer, max(seconds_left - (now[timer] - self._begin[timer]), 1e-3), interval)

    def arm(self, seconds: float) -> None:
        """Stop the following code after this number of seconds of processor time; 0 means no limit."""
        self.has_fired = False
        if self.can_interrupt:
            self.is_armed = True
            if seconds:
                signal.setitimer(signal.ITIMER_PROF, seconds, seconds)
                signal.setitimer(signal.ITIMER_REAL, WALL_CLOCK_FACTOR * seconds, seconds)

    def disarm(self) -> None:
        """Remove the time limit."""
        self.is_armed = False
        if self.can_interrupt:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.is_armed:
            self.has_fired = True
            raise TimeLimitExceeded

    def _note_interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        assert callable(self._interrupt)
        self._interrupt(number, frame)


class _ForkState:
    """The state of the fork hooks, used as a namespace: whether an entrant's code runs, and how often it has forked."""

    in_entrant_code = False
    num_forks = 0


def _after_fork_in_child() -> None:
    """End a process that an entrant's code has forked."""
    if _ForkState.in_entrant_code:
        os._exit(0)


def _after_fork_in_parent() -> None:
    """Count a fork by an entrant's code, reap ended children, and have the timer stop the call."""
    if _ForkState.in_entrant_code:
        _ForkState.num_forks += 1
        with suppress(OSError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if threading.current_thread() is threading.main_thread():
            # The exception is raised by the timer, because Python prints and drops an exception of a hook.
            signal.setitimer(signal.ITIMER_REAL, _FORK_STOP_SECONDS, _FORK_STOP_SECONDS)


os.register_at_fork(after_in_child=_after_fork_in_child, after_in_parent=_after_fork_in_parent)


def call_guarded(
    function: Callable[[], Any], timer: CallTimer, seconds: float, timeout_fault: EntrantFault, *, disposable: bool
) -> Any:
    """Return the result of function(), or an EntrantFault, which is a tuple, if the entrant's code fails.

    The result must be plain data and must not contain objects of the entrant's code.

    Args:
        function: calls the entrant and checks its answer.
        timer: has been entered; `enabled` is False for an entrant that does not run user code.
        seconds: limit of processor time, 0 for no limit.
        timeout_fault: the fault of an entrant that exceeds the limit.
        disposable: whether to end this process where the entrant has started too many others.

    Raises:
        KeyboardInterrupt: the user has pressed Ctrl-C; one that the entrant raises is its fault.
    """
    if not timer.enabled:
        try:
            return function()
        except (Exception, SystemExit) as error:
            return fault_from_exception(error)
    try:
        outcome = _call_within_limit(function, timer, seconds, timeout_fault)
    except TimeLimitExceeded:  # the timer fired after the call had returned
        _ForkState.in_entrant_code = False
        timer.disarm()
        outcome = timeout_fault
    if _ForkState.num_forks:
        return "crash", "forked a process during a call; use subprocess to start another program"
    if len(pids := _children()) > MAX_CHILDREN and count_living(pids) > MAX_CHILDREN:
        if disposable:
            os._exit(EXIT_TOO_MANY_CHILDREN)
        return "crash", f"has started more than {MAX_CHILDREN} processes"
    return outcome


def _call_within_limit(
    function: Callable[[], Any], timer: CallTimer, seconds: float, timeout_fault: EntrantFault
) -> Any:
    """Return the result of function() within the time limit, or the fault.

    TimeLimitExceeded may still be raised, where the timer fires between the end of the call and `disarm`.
    """
    process = os.getpid()
    _ForkState.in_entrant_code, _ForkState.num_forks = True, 0
    try:
        timer.arm(seconds)
        try:
            outcome = function()
            return timeout_fault if timer.has_fired else outcome  # the entrant's code may have caught the exception
        except TimeLimitExceeded:
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and timer.interrupted:
                raise
            return fault_from_exception(error)
    except TimeLimitExceeded:
        return timeout_fault
    finally:
        timer.is_armed = False
        if os.getpid() != process:  # the entrant has forked without Python's hooks
            os._exit(0)
        _ForkState.in_entrant_code = False
        timer.disarm()


def fault_from_exception(error: BaseException) -> EntrantFault:
    """Return the fault for an exception of an entrant's code.

    Call this under `call_guarded`, because the class of the exception and its `__str__` may be the entrant's code.
    """
    name = "an exception"
    try:
        name = _plain_text(type(error).__name__)  # a metaclass may define `__name__`
        text = _plain_text(error)
    except TimeLimitExceeded:
        raise
    except BaseException:
        return "crash", one_line(f"{name}, whose message cannot be read")[:MAX_REASON_LENGTH]
    return "crash", one_line(f"{name}: {text}")[:MAX_REASON_LENGTH]


def _plain_text(value: object) -> str:
    """Return the beginning of str(value), as a str and not as an object of a subclass of str.

    `__str__` may return an object of a subclass, whose methods are the entrant's code. They must not run outside of
    the guard, so a method of str itself copies the text.
    """
    return str.__getitem__(str(value), slice(2000))


def _children() -> list[int]:
    """Return the ids of this process's children, or [] where the system does not tell; fast if there are none."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (ChildProcessError, AttributeError):  # there are no children, or the system has no waitid
        return []
    return child_pids()


def global_rng_states() -> tuple[Any, ...]:
    """Return the states of the global generators that `seed_global_rngs` seeds, for comparison."""
    numpy: Any = np.random.get_state(legacy=True)
    torch = sys.modules.get("torch")
    numpy_state = (numpy[1].tobytes(), *numpy[2:])
    return random.getstate(), numpy_state, None if torch is None else torch.get_rng_state().numpy().tobytes()


def seed_global_rngs(key: int, clock: int) -> None:
    """Seed the global generators of random, numpy and, where it has been imported, torch from these two numbers.

    `key` is of a match and a seat, `clock` is the step of the match, both non-negative. The numbers that an entrant
    draws from the generators then depend on its match, its seat and the step alone.
    """
    # A hash of 64 bits, with the multipliers of SplitMix64.
    seed = (key * 0x9E3779B97F4A7C15 + clock * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & (2**64 - 1)
    seed ^= seed >> 30
    seed = (seed * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    seed ^= seed >> 27
    random.seed(seed)
    np.random.seed(seed >> 32)
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.manual_seed(seed >> 1)
