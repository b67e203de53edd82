"""These tests check that a run stops soon after a signal, whatever it is doing."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import suppress

import pytest

from rl_lab.core import interrupts
from rl_lab.core.interrupts import Interrupted, Interrupts


def test_who_waits_is_interrupted_and_again_where_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is in numba's callbacks, from which no exception gets out."""
    monkeypatch.setattr(interrupts, "GRACE", 0.1)
    monkeypatch.setattr(interrupts, "RAISE_INTERVAL", 0.1)
    with Interrupts() as noticed:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted) as stopped, noticed.iteration():
            for _ in range(2):
                with suppress(KeyboardInterrupt):
                    threading.Event().wait(1000)  # longer than a test may take
            time.sleep(1000)
        assert stopped.value.is_work_lost and stopped.value.code == 130
        time.sleep(0.3)  # once more comes too late, and disturbs nothing
        with pytest.raises(Interrupted):
            noticed.check()


def test_the_end_of_a_terminal_stops_work_unless_it_is_ignored() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with pytest.raises(Interrupted) as stop, Interrupts() as guard:
            signal.raise_signal(signal.SIGHUP)
            guard.check()
        assert stop.value.code == 129 and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with Interrupts() as guard:
            signal.raise_signal(signal.SIGHUP)
            guard.check()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
