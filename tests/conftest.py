"""Spreads the tests over processes so that each world is compiled by one of them, and fixes what hypothesis draws.

It also saves time that no test is about: waiting for the disk, and collections of garbage that find none.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# The same examples every time: a test that fails by chance says nothing about the change that it stops.
# How long an example takes, or its data, says how busy the machine is.
settings.register_profile("fixed", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fixed")

# A shell's background job ignores SIGINT, and its children do. Tests send this signal to themselves and to children.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A test's files need not outlast a power failure. Tests of the order of writes replace os.fsync themselves, to see it
# called. A descriptor that is not open is still an error.
os.fsync = os.fstat  # type: ignore[assignment]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Import all tests without collections of garbage, and leave what was imported out of the later ones."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let all tests of a world run in one process, and all others of a file."""
    from support.scheduling import WorldScheduling

    return WorldScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the tests, begin with the files: the worlds' groups are short, and end together."""
    if hasattr(config, "workerinput"):
        from support.scheduling import group_of, world_names

        items.sort(key=lambda item: group_of(item.nodeid) in world_names())
