"""These tests check how the suite is spread over processes: a world's tests to one, and the rest of a file to one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("xdist", reason="needs the extra dev")

from support.scheduling import group_of


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


class Process:
    """Stands for a process of xdist: it keeps the numbers of the tests that it is sent."""

    shutting_down = False

    def __init__(self) -> None:
        self.tests: list[int] = []
        self.gateway = SimpleNamespace(id="gw")

    def send_runtest_some(self, numbers: list[int]) -> None:
        self.tests += numbers

    def shutdown(self) -> None:
        self.shutting_down = True


def test_a_process_is_sent_whole_groups(request: pytest.FixtureRequest) -> None:
    config = SimpleNamespace(getvalue=lambda name: ["2*popen"], option=SimpleNamespace())
    scheduler = request.config.hook.pytest_xdist_make_scheduler(config=config, log=None)
    processes = [Process(), Process()]
    for process in processes:
        scheduler.add_node(process)
    for process in processes:
        scheduler.add_node_collection(process, ["a.py::one", "b.py::test[catch]", "a.py::two", "a.py::three[catch-1]"])
    scheduler.schedule()
    assert [process.tests for process in processes] == [[0, 2], [1, 3]]
