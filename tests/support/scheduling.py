"""How pytest-xdist spreads the tests over its processes: the tests of a world go to one, and so do the rest of a file.

Two processes would compile the same kernels at the same time, and each would make the fixtures of a module for itself.
A mark `xdist_group` would do the same, but xdist 3.8 writes it where pytest 9.2 no longer reads it, and then each test
is sent by itself.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from xdist.scheduler import LoadScopeScheduling

from rl_lab.engine import world_registry


@cache
def world_names() -> frozenset[str]:
    return frozenset(world_registry.names())


def group_of(nodeid: str) -> str:
    """Return the world that is a parameter of a test, or else the test's file."""
    file, _, test = nodeid.partition("::")
    parameters = test.partition("[")[2].removesuffix("]").split("-")
    return next((each for each in parameters if each in world_names()), file)


class WorldScheduling(LoadScopeScheduling):
    """Sends whole groups of tests, in the order in which they were collected."""

    def __init__(self, config: Any, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # by the number of tests, which says little of how long they take

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
