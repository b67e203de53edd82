"""Spreads the tests over processes so that each world is compiled by one of them, and fixes what hypothesis draws.

It also saves time that no test is about: waiting for the disk, and collections of garbage that find none.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from rl_lab.engine import world_registry

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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let all tests of a world run in one process: two would compile the same kernels at the same time."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    names = set(world_registry.names())
    for item in items:
        values = getattr(item, "callspec", None)
        about = next((v for v in values.params.values() if isinstance(v, str) and v in names), None) if values else None
        item.add_marker(pytest.mark.xdist_group(about or item.nodeid.partition("::")[0]))
