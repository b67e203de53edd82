"""This module disables Python's garbage collector while numba compiles.

A compilation makes millions of objects that it keeps, so the collector goes through them again and again and frees
little. Measured as the processor time of `rl-lab train cartpole budget=9000` with an empty cache: with the collector
21.8 s, without it 19.7 s and at most 90 MB more memory. Compilations are noticed by numba's events.
"""

from __future__ import annotations

import gc
import os
import threading
from functools import cache
from typing import Any

from rl_lab.engine.compile_notice import Notice


@cache
def pause_collector_while_compiling() -> None:
    """Disable the collector during every compilation from now on; only the first call has an effect."""
    from numba.core import event

    notice = Notice()

    class Pause(event.Listener):  # type: ignore[misc]
        """Counts the compilations that run, nested ones and those of other threads included."""

        def __init__(self) -> None:
            self._lock, self._running, self._was_enabled = threading.Lock(), 0, False
            os.register_at_fork(after_in_child=self._begin_anew)

        # numba calls on_end also where an exception has interrupted on_start, so the count is raised before the
        # collector is disabled, and does not become negative where an exception came even before that.
        def on_start(self, event: Any) -> None:
            with self._lock:
                self._running += 1
                if self._running == 1:
                    self._was_enabled = gc.isenabled()
                    gc.disable()
                    notice.begin()

        def on_end(self, event: Any) -> None:
            with self._lock:
                self._running = max(self._running - 1, 0)
                if self._running == 0:
                    notice.end()
                    self._restore()

        def _restore(self) -> None:
            if self._was_enabled:
                gc.enable()
            self._was_enabled = False

        def _begin_anew(self) -> None:
            # The threads that were compiling, one of which may have held the lock, are not in the child.
            self._lock, self._running = threading.Lock(), 0
            self._restore()

    event.register("numba:compile", Pause())
