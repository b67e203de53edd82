"""The collection of one train batch from env runners in other processes, some of which may die meanwhile."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from rl_lab.core.errors import WorkFailed
from rl_lab.core.world import Array
from rl_lab.learners.rllib.distributed_envs import DistributedEnvs
from rl_lab.learners.rllib.env_runner import PartResult
from rl_lab.learners.rllib.job_pool import last_line

_LOG = logging.getLogger("ray.rllib.rl_lab")  # goes to the log of the cluster
TICK = 0.2  # seconds between looks at deadlines and signals while nothing comes
START = 120.0  # seconds within which a first runner must be ready; a later one is started again after them
RESTART = 60.0  # seconds that no runner may be left
_DEATHS = 3  # of runners that sample the same fragment, after which it is the environments' fault


@dataclass
class _RunnerCall:
    """A call that a runner is executing: the sampling of a part, or a ping until it has started."""

    runner: int
    part: int | None
    deadline: float


@dataclass
class _Round:
    """The state of collecting one train batch."""

    number: int  # of the fragments of each part before
    weights: Any  # a reference to them
    waiting: list[int]  # parts that no runner has
    parts: dict[int, tuple[Any, PartResult]] = field(default_factory=dict)  # references and results, by part
    deaths: dict[int, int] = field(default_factory=dict)  # by part


class Collector:
    """Has env runners sample one fragment of each part of the environments, exactly once for each train batch.

    The actors are those of RLlib's `EnvRunnerGroup`, and Ray starts them again when they have died. They are called
    directly, and not by the group: its `synchronous_parallel_sample` goes on with fewer steps where a runner fails and
    then exceeds the batch, it waits for all runners before it looks at any, and a runner in which an exception is
    raised is ended, which hides the exception.

    A part whose runner has died is sampled at once by the first runner that has nothing else to do, from the
    environments' last snapshot. The result is the same as if nothing had happened.

    Args:
        runners: handles of the actors, of `LabEnvRunner`.
        envs: the environments; keeps their snapshots and logs.
        timeout: seconds that the sampling of one fragment may take.
        check: is called while nothing comes; raises WorkFailed if the cluster is gone.

    Attributes: `runners` and `timeout`, as given; `prepared`, pairs of a runner and a part whose environments it has
    made, so that its next sample takes no more than `timeout`.
    """

    def __init__(self, runners: list[Any], envs: DistributedEnvs, *, timeout: float, check: Callable[[], None]) -> None:
        self.envs, self.runners, self.timeout, self._check = envs, runners, timeout, check
        self._idle: list[int] = []  # runners that are ready
        self._calls: dict[Any, _RunnerCall] = {}  # by the reference to the result
        # The runner that has each part's last state.
        self._runner_of_part: list[int | None] = [None] * len(envs.recipes)
        self.prepared: set[tuple[int, int]] = set()
        self._pings: dict[int, float] = {}  # when to call a runner that did not start, by runner
        self._work: _Round | None = None  # that was started
        self._last_deadline_check = 0.0
        self._no_runner_since = time.monotonic()  # when the last runner was lost
        self._restart_timeout = START
        for runner in range(len(runners)):
            self._ping(runner)

    def forget(self) -> None:
        """Have all parts start from the snapshots in `envs`, which were restored."""
        self._runner_of_part = [None] * len(self._runner_of_part)

    def collect(self, number: int, weights: dict[str, Array]) -> list[tuple[Any, PartResult]]:
        """Return fragment `number` of each part, sampled with these weights, and a reference to it, by part.

        Raises:
            WorkFailed: no runner is left and none could be started; or a fragment ends the process of each runner.
            Exception: what the environments or the policy raise.
        """
        self.start(number, weights)
        return self.finish()

    @property
    def is_started(self) -> bool:
        """Return whether runners sample what `finish` will return."""
        return self._work is not None

    def start(self, number: int, weights: dict[str, Array]) -> None:
        """Have idle runners begin what `collect` returns, and return at once; `finish` waits for it."""
        self._work = _Round(number, ray.put(weights), list(range(len(self._runner_of_part))))
        self._assign(self._work)

    def finish(self) -> list[tuple[Any, PartResult]]:
        """Return what `start` has begun, as `collect` does."""
        work = self._complete()
        for part, (_, result) in sorted(work.parts.items()):
            # Copies: the arrays lie in Ray's object store, where they would keep the whole result.
            self.envs.snapshots[part] = {name: np.array(array) for name, array in result.snapshot.items()}
            self.envs.logs.append(result.log)
        return [work.parts[part] for part in range(len(self._runner_of_part))]

    def abandon(self) -> None:
        """Let what `start` has begun come to its end, and do without it; the environments' snapshots do not change."""
        if self._work is not None:
            self._complete()

    def _complete(self) -> _Round:
        """Return the round that was started, once it has all parts."""
        work = self._work
        assert work is not None
        # Results that came before this call are in time, whatever their deadlines.
        for reference in ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)[0] if self._calls else ():
            self._receive(work, reference, self._calls.pop(reference))
        while len(work.parts) < len(self._runner_of_part):
            self._assign(work)
            for reference in self._wait():
                self._receive(work, reference, self._calls.pop(reference))
            # Also where results come in quick succession: a runner that cannot start fails each call at once.
            if time.monotonic() - self._last_deadline_check >= TICK:
                self._last_deadline_check = time.monotonic()
                self._check_deadlines(work)
        self._work = None
        return work

    def _wait(self) -> list[Any]:
        """Return the reference to a result that has come, or none after a moment."""
        if not self._calls:
            time.sleep(TICK)
            return []
        ready, _ = ray.wait(list(self._calls), num_returns=1, timeout=TICK)
        return list(ready)

    def _assign(self, work: _Round) -> None:
        """Give waiting parts to idle runners, if possible to those that sampled them before."""
        for part in list(work.waiting):
            if not self._idle:
                return
            runner = self._runner_of_part[part]
            if runner not in self._idle:
                others = [self._runner_of_part[other] for other in work.waiting if other != part]
                free = [idle for idle in self._idle if idle not in others]
                if not free:
                    continue
                runner = part if part in free else free[0]
            work.waiting.remove(part)
            self._send(work, part, runner)

    def _send(self, work: _Round, part: int, runner: int | None, *, whole: bool = False) -> None:
        assert runner is not None
        self._idle.remove(runner)
        snapshot = self.envs.snapshots[part] if whole or self._runner_of_part[part] != runner else None
        reference = self.runners[runner].sample_part.remote(part, work.number, work.weights, snapshot)
        # A runner that has not sampled this part makes its environments first, which may compile them.
        more = 0.0 if (runner, part) in self.prepared else START
        self._calls[reference] = _RunnerCall(runner, part, time.monotonic() + self.timeout + more)

    def _ping(self, runner: int) -> None:
        self._calls[self.runners[runner].ping.remote()] = _RunnerCall(runner, None, time.monotonic() + START)

    def _receive(self, work: _Round, reference: Any, call: _RunnerCall) -> None:
        try:
            result = ray.get(reference)
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else WorkFailed(last_line(error)) from None
        except RayError as error:
            if getattr(error, "actor_init_failed", False):
                raise WorkFailed(f"env runner {call.runner} cannot be made: {last_line(error)}") from None
            self._handle_lost_runner(work, call, last_line(error))
            return
        self._idle.append(call.runner)
        self._restart_timeout, self._no_runner_since = RESTART, float("inf")
        if call.part is None:
            return
        if result is None:  # the runner has been started again since its last fragment
            self.prepared.discard((call.runner, call.part))
            self._send(work, call.part, call.runner, whole=True)
            return
        self.prepared.add((call.runner, call.part))
        work.parts[call.part] = reference, result
        self._runner_of_part[call.part] = call.runner

    def _handle_lost_runner(self, work: _Round, call: _RunnerCall, reason: str) -> None:
        """Have the part of a runner that has died sampled by another one."""
        if call.part is not None:
            _LOG.warning("env runner %d was lost: %s", call.runner, reason)
            work.waiting.append(call.part)
            work.deaths[call.part] = work.deaths.get(call.part, 0) + 1
            if work.deaths[call.part] >= _DEATHS:
                raise WorkFailed(f"{_DEATHS} env runners were lost while they sampled the same fragment: {reason}")
        self._runner_of_part = [None if runner == call.runner else runner for runner in self._runner_of_part]
        self.prepared = {(runner, part) for runner, part in self.prepared if runner != call.runner}
        if call.part is None:  # it is being started, or there is no room for it
            self._pings[call.runner] = time.monotonic() + TICK
        else:
            self._ping(call.runner)
        if not self._idle and all(each.part is None for each in self._calls.values()):
            self._no_runner_since = min(self._no_runner_since, time.monotonic())

    def _check_deadlines(self, work: _Round) -> None:
        self._check()
        now = time.monotonic()
        for runner in [runner for runner, due in self._pings.items() if due <= now]:
            del self._pings[runner]
            self._ping(runner)
        for reference, call in list(self._calls.items()):
            if call.deadline < now:
                del self._calls[reference]
                ray.kill(self.runners[call.runner], no_restart=False)
                limit = f"agent.sample_timeout_s={self.timeout:g}" if call.part is not None else f"{START:.0f} s"
                self._handle_lost_runner(work, call, f"it took longer than {limit}")
        if now - self._no_runner_since > self._restart_timeout:
            what = "could be started" if self._restart_timeout == START else "is left, and none could be started again"
            raise WorkFailed(f"no env runner {what} within {self._restart_timeout:.0f} s")
