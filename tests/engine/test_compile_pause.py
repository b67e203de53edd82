"""These tests check that the garbage collector is disabled during compilations only, and the line about them."""

from __future__ import annotations

import gc
import io
import os
import time
from collections.abc import Iterator
from typing import Any

import numba
import pytest
from numba.core import event
from numba.core.errors import NumbaError

from rl_lab.engine import compile_notice
from rl_lab.engine.compile_pause import pause_collector_while_compiling

seen: list[bool] = []  # whether the collector was enabled during each compilation


class Recorder(event.Listener):  # type: ignore[misc]
    def on_start(self, event: Any) -> None:
        seen.append(gc.isenabled())

    def on_end(self, event: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    pause_collector_while_compiling()
    seen.clear()
    gc.enable()
    with event.install_listener("numba:compile", Recorder()):
        yield
    gc.enable()


def compile_sum() -> None:
    @numba.njit  # type: ignore[untyped-decorator]
    def add(a: Any, b: Any) -> Any:
        return a + b

    assert add(1, 2) == 3


def compile_mistake() -> None:
    @numba.njit  # type: ignore[untyped-decorator]
    def add(a: Any, b: Any) -> Any:
        return a + b

    with pytest.raises(NumbaError):
        add(1, "text")


@pytest.mark.parametrize("compile_something", [compile_sum, compile_mistake])
def test_the_collector_is_enabled_again_after_a_compilation(compile_something: Any) -> None:
    compile_something()
    assert seen and not any(seen) and gc.isenabled()


@pytest.mark.parametrize("compile_something", [compile_sum, compile_mistake])
def test_a_collector_that_was_disabled_before_stays_disabled(compile_something: Any) -> None:
    gc.disable()
    compile_something()
    assert seen and not any(seen) and not gc.isenabled()


def test_a_compilation_whose_start_was_not_counted_does_not_disturb_the_next_one() -> None:
    event.end_event("numba:compile")
    compile_sum()
    assert not any(seen) and gc.isenabled()


def test_a_process_forked_during_a_compilation_has_an_enabled_collector() -> None:
    with event.trigger_event("numba:compile"):
        assert not gc.isenabled()
        child = os.fork()
        if child == 0:
            os._exit(0 if gc.isenabled() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert gc.isenabled()


def test_a_long_compilation_is_announced_once_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(compile_notice, "DELAY", 0.0)
    monkeypatch.setattr(compile_notice, "is_enabled", False)
    compile_sum()
    assert terminal.getvalue() == ""  # a program that uses the library is left alone
    compile_notice.enable()
    until = time.monotonic() + 60
    while not terminal.getvalue() and time.monotonic() < until:
        compile_sum()
    compile_sum()
    assert terminal.getvalue() == f"  {compile_notice.TEXT}\n"
    said: list[str] = []
    compile_notice.enable(said.append)
    assert not compile_notice.has_compiled
    until = time.monotonic() + 60
    while not said and time.monotonic() < until:
        compile_sum()
    assert said == [compile_notice.TEXT] and compile_notice.has_compiled
