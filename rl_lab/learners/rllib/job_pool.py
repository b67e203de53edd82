"""Jobs that are done by workers on a Ray cluster, some of which may die meanwhile."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.exceptions import RayError, RayTaskError

from rl_lab.core.errors import WorkFailed, one_line
from rl_lab.learners.rllib import heartbeat
from rl_lab.learners.rllib.cluster import Cluster

_LOG = logging.getLogger("ray.rllib.rl_lab")  # goes to the log of the cluster
_TICK = 0.2  # seconds between looks at deadlines and signals while nothing comes
_START = 120.0  # seconds within which a worker must be ready; one that is not is started again
_SILENT = 60.0  # seconds without a result or a heartbeat after which a worker is given up
_PAUSE = 10.0  # seconds between two looks at deadlines that only a machine that was suspended lets pass
_AGAIN = 1.0  # seconds before a worker is started again
_FETCH = 60.0  # seconds that the transfer of a result may take
_DEATHS = 3  # of workers that do the same task, after which it is the task's fault


class Performer(Protocol):
    """A performer does the tasks of a worker. It is pickled and sent there."""

    def begin(self) -> None:
        """Prepare the process of the worker."""

    def perform(self, tasks: Sequence[Any]) -> Iterator[tuple[list[int], Any]]:
        """Do all tasks, and yield the positions of those that are done with what they have made."""


@dataclass
class _WorkerCall:
    """A call of a worker: its tasks that are not done, by their position; None while it starts."""

    worker: int
    tasks: dict[int, Any] | None
    deadline: float  # a result, or a heartbeat of a worker that has started, moves it
    last_beat: bytes | None = None
    has_begun: bool = False  # whether the worker has begun the tasks


class JobPool:
    """Workers that do jobs, which are lists of tasks. Each worker is an actor with one CPU.

    A worker that dies, or gives no sign of life, is replaced, and what is left of its job is done by the first worker
    that is free. Only tasks whose results had not arrived are done again.

    Args:
        cluster: where the workers are; `close` closes it.
        performer: what they do.
        count: the number of workers.
        poll: is called several times a second, and may raise.
    """

    def __init__(
        self, cluster: Cluster, performer: Performer, *, count: int, poll: Callable[[], None] | None = None
    ) -> None:
        self._cluster, self._performer, self._poll = cluster, performer, poll
        self._workers: list[Any] = [None] * count
        self._keys = [""] * count  # of their heartbeats
        self._calls: dict[Any, _WorkerCall] = {}  # by the generator of results, or by the reference to a start's answer
        self._idle: list[int] = []
        self._starts = dict.fromkeys(range(count), 0.0)  # when to start a worker
        self._waiting: deque[list[Any]] = deque()  # jobs
        self._deaths: dict[int, int] = {}  # by the identity of a task
        self._last_alive_time = time.monotonic()  # when there was a worker that had started
        self._last_heartbeat_read = 0.0

    def run(
        self, jobs: Iterable[Sequence[Any]], on_task_failed: Callable[[Any, WorkFailed], Any] | None = None
    ) -> Iterator[Any]:
        """Do all tasks, and yield what they make, in any order.

        `on_task_failed` returns what to yield for a task that has ended several workers; by default the error is
        raised.

        Raises:
            WorkFailed: no worker is left and none can be started, or the cluster is gone.
            Exception: what the performer raises.
        """
        source, last_deadline_check = iter(jobs), 0.0
        has_more = True
        while True:
            while self._idle and (self._waiting or has_more):
                if not self._waiting:
                    job = next(source, None)
                    has_more = job is not None
                    self._waiting.extend([] if job is None else [list(job)])
                    continue
                self._send(self._waiting.popleft())
            if not (has_more or self._waiting or any(call.tasks for call in self._calls.values())):
                return
            if self._poll is not None:
                self._poll()
            for handle in self._wait():
                yield from self._receive(handle, on_task_failed)
            # Also where results come in quick succession.
            if time.monotonic() - last_deadline_check >= _TICK:
                last_deadline_check = time.monotonic()
                yield from self._check_deadlines(on_task_failed)

    def _wait(self) -> list[Any]:
        """Return what has come, or nothing after a moment."""
        if not self._calls:
            time.sleep(_TICK)
            return []
        ready, _ = ray.wait(list(self._calls), num_returns=1, timeout=_TICK)
        return list(ready)

    def _start(self, worker: int) -> None:
        actor: Any = ray.remote(num_cpus=1, max_restarts=0)(_JobWorker)
        self._keys[worker] = heartbeat.new_key()
        self._workers[worker] = actor.remote(self._performer, os.getcwd(), self._keys[worker])
        self._calls[self._workers[worker].begin.remote()] = _WorkerCall(worker, None, time.monotonic() + _START)

    def _send(self, tasks: list[Any]) -> None:
        worker = self._idle.pop()
        results = self._workers[worker].perform.options(num_returns="streaming").remote(tasks)
        self._calls[results] = _WorkerCall(worker, dict(enumerate(tasks)), time.monotonic() + _SILENT)

    def _receive(self, handle: Any, on_task_failed: Callable[[Any, WorkFailed], Any] | None) -> Iterator[Any]:
        """Yield what has come, if it is a result."""
        call = self._calls[handle]
        try:
            if call.tasks is None:
                ray.get(handle, timeout=_FETCH)
            else:
                result = ray.get(next(handle), timeout=_FETCH)
                if call.has_begun:
                    positions, value = result
                    for position in positions:
                        self._deaths.pop(id(call.tasks.pop(position)), None)
                    yield value
                call.has_begun, call.deadline = True, time.monotonic() + _SILENT
                return
        except StopIteration:
            assert not call.tasks, "a performer has left tasks undone"
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else WorkFailed(last_line(error)) from None
        except RayError as error:
            yield from self._handle_lost_worker(handle, last_line(error), on_task_failed)
            return
        del self._calls[handle]
        self._idle.append(call.worker)

    def _handle_lost_worker(
        self, handle: Any, reason: str, on_task_failed: Callable[[Any, WorkFailed], Any] | None
    ) -> Iterator[Any]:
        """Replace a worker, and have what is left of its job done by another; yield what `on_task_failed` returns."""
        call = self._calls.pop(handle)
        _LOG.warning("worker %d was lost: %s", call.worker, reason)
        with suppress(RayError):
            ray.kill(self._workers[call.worker])
        with suppress(RayError):
            heartbeat.remove(self._keys[call.worker])
        self._starts[call.worker] = time.monotonic() + _AGAIN
        remaining = []
        for task in (call.tasks or {}).values():
            # A worker that was idle may have died long before, which is not the task's fault.
            self._deaths[id(task)] = self._deaths.get(id(task), 0) + call.has_begun
            if self._deaths[id(task)] < _DEATHS:
                remaining.append(task)
                continue
            error = WorkFailed(f"{_DEATHS} workers were lost while they did the same work: {reason}")
            if on_task_failed is None:
                raise error
            yield on_task_failed(task, error)
        if remaining:
            self._waiting.append(remaining)

    def _check_deadlines(self, on_task_failed: Callable[[Any, WorkFailed], Any] | None) -> Iterator[Any]:
        self._cluster.check()
        now = time.monotonic()
        for worker in [worker for worker, due in self._starts.items() if due <= now]:
            del self._starts[worker]
            self._start(worker)
        if (elapsed := now - self._last_heartbeat_read) >= heartbeat.INTERVAL:
            if self._last_heartbeat_read and elapsed > _PAUSE:
                for call in self._calls.values():
                    call.deadline += elapsed
            self._last_heartbeat_read = now
            self._listen(now)
        for handle, call in [(handle, call) for handle, call in self._calls.items() if call.deadline < now]:
            limit = f"start within {_START:.0f} s" if call.tasks is None else f"answer for {_SILENT:.0f} s"
            yield from self._handle_lost_worker(handle, f"it did not {limit}", on_task_failed)
        if self._idle or any(call.tasks is not None for call in self._calls.values()):
            self._last_alive_time = now
        elif now - self._last_alive_time > _START:
            raise WorkFailed(f"no worker could be started on the cluster within {_START:.0f} s: are its CPUs in use?")

    def _listen(self, now: float) -> None:
        """Move the deadlines of workers that have a new heartbeat."""
        with suppress(RayError):  # `Cluster.check` decides whether the head node is gone
            for call in [call for call in self._calls.values() if call.tasks is not None]:
                if (beat := heartbeat.read(self._keys[call.worker])) != call.last_beat:
                    call.last_beat, call.deadline = beat, now + _SILENT

    def close(self) -> None:
        """End the workers, remove their heartbeats, and close the cluster."""
        with suppress(RayError):  # the head node may be gone
            for worker in filter(None, self._workers):
                ray.kill(worker)
            for key in filter(None, self._keys):
                heartbeat.remove(key)
        self._cluster.close()


class _JobWorker:
    """The actor: a process that does jobs."""

    def __init__(self, performer: Performer, folder: str, key: str) -> None:
        self._performer, self._folder = performer, folder
        heartbeat.start(key)

    def begin(self) -> None:
        """Prepare the process. Files that a user's code opens have the same names as in the user's process."""
        with suppress(OSError):  # another machine
            os.chdir(self._folder)
        self._performer.begin()

    def perform(self, tasks: list[Any]) -> Iterator[tuple[list[int], Any]]:
        """See `Performer`; the first answer says that the work has begun."""
        yield [], None
        yield from self._performer.perform(tasks)


def session_folder() -> str:
    """Return the folder of Ray on a worker's machine; what a killed worker leaves there goes with the cluster."""
    node: Any = ray._private.worker._global_node
    return str(node.get_session_dir_path())


def last_line(error: BaseException) -> str:
    """Return the last line of one of Ray's errors, which says what happened."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return one_line(lines[-1])[:300] if lines else type(error).__name__
