"""These tests check how the suite is spread over processes: a world's tests to one, and the rest of a file to one."""

from __future__ import annotations

import pytest

pytest.importorskip("xdist", reason="needs the extra dev")

from support.scheduling import WorldScheduling, group_of


@pytest.mark.parametrize(
    ("nodeid", "group"),
    [
        ("tests/envs/test_worlds.py::test_it[catch]", "catch"),
        ("tests/envs/test_worlds.py::test_it[SAME_STEP-simple_tag_continuous]", "simple_tag_continuous"),
        ("tests/envs/test_worlds.py::test_it[gym:Point-v0]", "tests/envs/test_worlds.py"),
        ("tests/adapters/test_pettingzoo.py::test_catch", "tests/adapters/test_pettingzoo.py"),
    ],
)
def test_a_test_belongs_to_its_world_or_to_its_file(nodeid: str, group: str) -> None:
    assert group_of(nodeid) == group


def test_this_run_is_spread_so(request: pytest.FixtureRequest) -> None:
    if not hasattr(request.config, "workerinput"):
        pytest.skip("one process runs all tests")
    scheduler = request.config.hook.pytest_xdist_make_scheduler(config=request.config, log=None)
    assert isinstance(scheduler, WorldScheduling)
