"""This module stops work at Ctrl-C, SIGTERM and SIGHUP: cleanly where a run can stop, and in any case within 5 seconds.

Python calls a signal's handler only between two bytecodes of the main thread, so not while compiled code runs.
Therefore Python's C handler writes the signal's number into a pipe (`signal.set_wakeup_fd`), and a thread waits at its
other end. After a signal

- `check` raises `Interrupted` wherever it is called;
- once the time limit of the current work is over, the flag of `stop_flag` is set, which compiled loops read (they
  return, and their results are discarded), and KeyboardInterrupt is raised in the main thread;
- after `DEADLINE` seconds, or at a second signal, the process of a command is ended, with one line that says how to
  continue. Files that were written before are not damaged by that: checkpoints, ledgers and results are renamed to
  their names when they are complete. A program that uses rl_lab as a library is not ended: its own handlers are
  restored, and KeyboardInterrupt is raised.

SIGHUP, which the end of a terminal or of a remote session sends, is left alone where it is ignored (nohup).

While an `Interrupts` is entered, it owns the process's handlers of these signals, its wakeup descriptor and
sys.unraisablehook; leaving restores them. A forked child has the original handlers, and none of this.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from rl_lab.core.stop_flag import set_flag
from rl_lab.core.thread_activity import activity

GRACE = 1.5  # seconds that an iteration may continue after a signal: all must be over within 5
RAISE_INTERVAL = 1.0  # seconds until KeyboardInterrupt is raised once more, because some code may have caught it
DEADLINE = 3.5  # seconds after a signal at which the process is ended
REPEAT_WINDOW = 0.3  # seconds within which a second signal counts as the first: a process group may receive it twice
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_INTERVAL = 0.05  # seconds between looks at the clock, once a signal has come
last_signal: list[float] = []  # time.monotonic() of the last signal; empty if none has come since a command began
_active_interrupts: list[Interrupts] = []  # the Interrupts that are active, the outermost first
_fork_state = threading.local()  # `mask`: the signals that a forking thread had blocked before


class Interrupted(Exception):
    """A signal has stopped the work; `code` is the exit status, 130, 143 or 129, `run` the run to resume."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
        self.is_work_lost = False  # True in the middle of an iteration: resuming repeats it from the last checkpoint
        self.run: Any = None


def is_interruption(error: BaseException) -> bool:
    """Return whether an exception means that the work is to be stopped.

    Code of the user may raise KeyboardInterrupt, too. Where an Interrupts is entered, it is an interruption only if a
    signal has come; elsewhere that is not known, and each counts.
    """
    if isinstance(error, KeyboardInterrupt):
        return not _active_interrupts or any(each.code for each in _active_interrupts)
    return isinstance(error, Interrupted)


class Interrupts:
    """A context manager that handles SIGINT, SIGTERM and SIGHUP; outside of the main thread it does nothing.

    Work that calls `check` regularly may continue after a signal until its next call; `abort_after` sets a time limit.
    A second signal, or `DEADLINE` seconds after the first, ends the process where `ends_process` is True here or in
    an enclosing Interrupts; `exit_message` is printed then. Elsewhere the original handlers are restored, and
    KeyboardInterrupt is raised.

    On leaving, the signal's exit status is handed to the enclosing Interrupts, together with whether Interrupted was
    already raised for it. With no enclosing one, leaving raises Interrupted unless that was done or another exception
    is on its way.
    """

    def __init__(self, *, ends_process: bool = False) -> None:
        self.code = 0
        self.exit_message = ""
        self._ends_process = ends_process
        self._has_raised = False  # whether Interrupted was raised
        self._may_raise = False  # False while `__enter__` and `__exit__` run
        self._restoring_handlers = False  # whether the original handlers are to be restored
        # Held to change `_restoring_handlers`, or to send the signal that announces it. Re-entrant, because the handler
        # of another signal may interrupt one that holds it, in the same thread.
        self._lock = threading.RLock()
        self._time_limit: float | None = None
        # Whether a SIGINT that this object sent is still to be handled by the main thread.
        self._own_signal_pending = False
        self._own_signal_unread = False  # whether the thread has yet to read that signal from the pipe
        self._last_raise = -RAISE_INTERVAL  # when KeyboardInterrupt was raised last
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is not threading.main_thread():
            return self
        if _active_interrupts:
            self.code = _active_interrupts[-1].code
            self._ends_process |= _active_interrupts[-1]._ends_process
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._main_thread_id = threading.main_thread().ident or 0
        self._thread = threading.Thread(target=self._watch_signals, name="signals", daemon=True)
        self._thread.start()
        self._outer_hook, sys.unraisablehook = sys.unraisablehook, self._handle_unraisable
        self._original_handlers: dict[int, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
        if self._original_handlers[signal.SIGHUP] == signal.SIG_IGN:
            del self._original_handlers[signal.SIGHUP]
        _active_interrupts.append(self)
        for number in self._original_handlers:
            signal.signal(number, self._handle_signal)
        self._outer_wakeup_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._may_raise = True
        return self

    def __exit__(self, *exception: object) -> None:
        self._may_raise = False
        if self._thread is None:
            return
        os.write(self._writer, b"\0")
        self._thread.join()  # first: a signal that it sends must not reach the original handlers
        signal.set_wakeup_fd(self._outer_wakeup_fd)
        sys.unraisablehook = self._outer_hook
        os.close(self._reader)
        os.close(self._writer)
        set_flag(False)
        _active_interrupts.remove(self)
        self._restore_handlers()
        if not self.code:
            return
        if _active_interrupts:
            _active_interrupts[-1].code = _active_interrupts[-1].code or self.code
            _active_interrupts[-1]._has_raised |= self._has_raised
        elif not self._has_raised and exception[0] is None:
            raise Interrupted(self.code)

    def _restore_handlers(self) -> None:
        for number, handler in reversed(self._original_handlers.items()):  # SIGINT last: its handler may raise
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _deactivate(self) -> None:
        """Switch this object off in a forked child, where it has no thread: restore the handlers, close the pipe."""
        if self._thread is not None:
            self._thread, self.code = None, 0
            self._restore_handlers()
            sys.unraisablehook = self._outer_hook
            os.close(self._reader)
            os.close(self._writer)

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal in the main thread: record it, and raise KeyboardInterrupt if that is due."""
        if not self._own_signal_pending:
            self.code = self.code or 128 + number
        now = time.monotonic()
        # A time limit above 0 is watched by the thread, which sends a signal of its own when it is over.
        is_due = self._own_signal_pending or (self._time_limit == 0 and now - self._last_raise > RAISE_INTERVAL)
        self._own_signal_pending = False
        if not self._may_raise:
            return
        with self._lock:
            restoring, self._restoring_handlers = self._restoring_handlers, False
        if restoring:
            signal.set_wakeup_fd(self._outer_wakeup_fd)
            self._restore_handlers()
            raise KeyboardInterrupt
        if is_due and self._time_limit is not None:
            self._last_raise = now
            raise KeyboardInterrupt  # numba would take an Exception for a failed compilation

    def _handle_unraisable(self, unraisable: Any) -> None:
        """Have KeyboardInterrupt raised again soon where it was raised in a callback that cannot propagate it."""
        if unraisable.exc_type is KeyboardInterrupt:
            self._last_raise = -RAISE_INTERVAL
        else:
            self._outer_hook(unraisable)

    def _watch_signals(self) -> None:
        """Wait in a thread of its own for a signal, and then enforce the time limits."""
        poller, signal_time = select.poll(), 0.0
        poller.register(self._reader, select.POLLIN)
        while True:
            milliseconds = 1000 * _POLL_INTERVAL if signal_time else None
            received = os.read(self._reader, 64) if poller.poll(milliseconds) else b""
            now = time.monotonic()
            for number in received:
                if number == 0:
                    return
                if number == signal.SIGINT and self._own_signal_unread:
                    self._own_signal_unread = False
                elif number in _SIGNALS and not signal_time:
                    signal_time, self.code = now, self.code or 128 + number
                    last_signal[:] = [signal_time]
                elif number in _SIGNALS and now - signal_time > REPEAT_WINDOW:
                    return self._end("at a second signal")
            if signal_time and now - signal_time > DEADLINE:
                return self._end(f"{DEADLINE:g} s after the signal")
            if signal_time:
                self._interrupt_if_due(signal_time, now)

    def _interrupt_if_due(self, signal_time: float, now: float) -> None:
        """Raise KeyboardInterrupt in the main thread if that is due at `now` after a signal at `signal_time`."""
        time_limit = self._time_limit
        if time_limit is None or now - signal_time < time_limit:
            return
        set_flag(True)
        # While the main thread runs Python code, its handler raises within one poll interval; only a waiting one needs
        # another signal.
        if now - self._last_raise > RAISE_INTERVAL and now - signal_time > _POLL_INTERVAL:
            self._last_raise = now
            self._own_signal_unread = self._own_signal_pending = True
            # A real signal: `_thread.interrupt_main` does not wake a main thread that waits for a lock.
            signal.pthread_kill(self._main_thread_id, signal.SIGINT)

    def _restore_and_interrupt(self) -> None:
        """Make the main thread restore the original handlers and raise KeyboardInterrupt."""
        set_flag(True)
        with self._lock:
            self._restoring_handlers = True
        while True:  # a signal that arrives just before the main thread starts to wait does not wake it
            with self._lock:
                if not (self._restoring_handlers and self._may_raise):
                    return
                signal.pthread_kill(self._main_thread_id, signal.SIGINT)
            time.sleep(_POLL_INTERVAL)

    def _end(self, when: str) -> None:
        """End the process, or restore the handlers and interrupt the main thread where `ends_process` is False."""
        return self._end_process(when) if self._ends_process else self._restore_and_interrupt()

    def _end_process(self, when: str) -> None:
        """Print where the main thread is and `exit_message`, and end the process."""
        cause = f"ended {when}, {activity(self._main_thread_id)}"
        message = f"\n{cause}\n{self.exit_message}".rstrip()
        with suppress(OSError):
            os.write(2, f"{message}\n".encode(errors="replace"))  # the main thread may hold the lock of sys.stderr
        os._exit(self.code)

    @contextmanager
    def abort_after(self, time_limit: float) -> Iterator[None]:
        """Raise Interrupted in the block where it still runs `time_limit` seconds after a signal.

        The block's work may be half done then. With `time_limit` 0 it is stopped at once.
        """
        before = self._time_limit
        try:
            self._time_limit = time_limit
            if self.code and time_limit == 0:
                raise KeyboardInterrupt
            yield
        except KeyboardInterrupt as error:
            if self._thread is not None and not is_interruption(error):
                raise  # code of the user has raised it
            self._time_limit = None  # or it would be raised again in here
            self._has_raised = True
            stop = Interrupted(self.code or 128 + signal.SIGINT)
            stop.is_work_lost = True
            raise stop from None
        finally:
            self._time_limit = before

    def iteration(self) -> Any:
        """Return `abort_after(GRACE)`, for one iteration of a learner."""
        return self.abort_after(GRACE)

    def check(self, *_: Any) -> None:
        """Raise Interrupted if a signal has come; any arguments are accepted, so it can be a progress callback."""
        if self.code:
            self._has_raised = True
            raise Interrupted(self.code)


def _before_fork() -> None:
    """Block signals during the fork, while the child still has the parent's handlers and pipe."""
    if _active_interrupts:
        _fork_state.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _after_fork() -> None:
    if (mask := _fork_state.__dict__.pop("mask", None)) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_fork_in_child() -> None:
    last_signal.clear()
    set_flag(False)
    if _active_interrupts:
        signal.set_wakeup_fd(-1)
        while _active_interrupts:
            _active_interrupts.pop()._deactivate()
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
