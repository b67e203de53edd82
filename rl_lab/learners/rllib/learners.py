"""RLlib's learners, one in this process or several in others, and their state."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.rllib.core.learner.training_data import TrainingData

from rl_lab.core.agent import StateDict
from rl_lab.core.errors import WorkFailed, one_line
from rl_lab.core.world import Array
from rl_lab.learners.rllib.connector import NothingToLearnError
from rl_lab.learners.sb3.generator_state import generator_arrays, generator_values, restore_generators
from rl_lab.learners.sb3.training_state import as_arrays, as_tensors

MODULE = "default_policy"
_LOG = logging.getLogger("ray.rllib.rl_lab")  # goes to the log of the cluster
_RESUME = "the run can be resumed from its last checkpoint"
_TICK = 0.2  # seconds between looks at the deadline and at signals
_CALL = 120.0  # seconds that a learner may take to return or to set its state


class Learners:
    """The learners of a `LearnerGroup` and one way to call them, wherever they are.

    Actors are called directly: `LearnerGroup.update` waits without a limit, also for a learner that waits for another
    one which has died, and it ends a learner in which an exception is raised, which hides the exception.
    """

    def __init__(self, group: Any, *, timeout: float, check: Callable[[], None] = lambda: None) -> None:
        self._local, self._remote = group._learner, group._workers or []
        self._timeout, self._check = timeout, check
        # Its destructor would call the actors of a Ray that has ended; they end with the job.
        group._is_shut_down = True

    def __len__(self) -> int:
        return len(self._remote) or 1

    @property
    def local(self) -> Any:
        """Return the learner in this process, None where they are actors."""
        return self._local

    def update(self, episodes: list[Any], **arguments: Any) -> list[dict[str, Any]]:
        """Update from fragments, or from references to them, of which each learner has an equal part."""
        if self._local is not None:
            return [self._local.update(training_data=TrainingData(episodes=episodes), **arguments)]
        calls = [
            worker.update.remote(training_data=TrainingData(episodes_refs=share), **arguments)
            for worker, share in zip(self._remote, self.shares(episodes), strict=True)
        ]
        return self._results(calls, self._timeout)

    def shares(self, items: Any) -> list[Any]:
        """Return the items, a list or an array, of each learner: as many for each, in order."""
        size = len(items) // len(self)
        return [items[k * size : (k + 1) * size] for k in range(len(self))]

    def apply(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call an update, `function(learner, *arguments)`, in the processes of all learners; return its results."""
        calls = [worker.apply.remote(function, *own) for worker, own in zip(self._remote, arguments, strict=True)]
        return self._results(calls, self._timeout)

    def parameters(self) -> dict[str, Array]:
        """Return the parameters of the policy, which are those of every learner, from the first actor."""
        (parameters,) = self._results([self._remote[0].apply.remote(parameters_of)], _CALL)
        return dict(parameters)

    def state(self) -> list[StateDict]:
        """Return the whole state of each actor; their parameters and moments are equal."""
        return self._results([worker.apply.remote(state_of) for worker in self._remote], _CALL)

    def restore(self, states: list[StateDict], with_pending: bool) -> None:
        """Restore what `state` returned; `with_pending`: see `restore_state`."""
        calls = [
            w.apply.remote(restore_state, state, with_pending) for w, state in zip(self._remote, states, strict=True)
        ]
        self._results(calls, _CALL)

    def _results(self, calls: list[Any], timeout: float) -> list[Any]:
        deadline, waiting = time.monotonic() + timeout, list(calls)
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1, timeout=_TICK)
            try:
                ray.get(ready)
            except RayTaskError as error:
                if isinstance(error.cause, WorkFailed | NothingToLearnError):
                    raise error.cause from None
                _LOG.error("a learner failed", exc_info=error)
                cause = error.cause if isinstance(error.cause, Exception) else error
                reason = f"{type(cause).__name__}: {one_line(cause)[:200]}"
                raise WorkFailed(f"a learner failed, {reason}; {_RESUME}") from None
            except RayError as error:
                _LOG.error("a learner died", exc_info=error)
                raise WorkFailed(f"a learner died; {_RESUME}") from None
            if not ready:
                self._check()
                if time.monotonic() > deadline:
                    raise WorkFailed(f"the learners did not answer within {timeout:.0f} s; {_RESUME}")
        results: list[Any] = ray.get(calls)
        return results


def policy_of(learner: Any) -> Any:
    """Return the policy that a learner trains."""
    return learner.module[MODULE].unwrapped().policy


def parameters_of(learner: Any) -> dict[str, Array]:
    """Return the parameters of the policy that a learner trains."""
    return as_arrays(policy_of(learner).state_dict())


def state_of(learner: Any) -> StateDict:
    """Return the state of a learner and of its process's random generators."""
    optimizer = learner.get_optimizer(MODULE).state_dict()
    moments = {f"{i}.{key}": value for i, entry in optimizer["state"].items() for key, value in entry.items()}
    own: StateDict = learner.own_state()
    tensors = {
        "policy": parameters_of(learner),
        "optimizer": as_arrays(moments),
        "generators": generator_arrays(),
        **own.tensors,
    }
    return StateDict(tensors, {**own.state, **generator_values()})


def restore_state(learner: Any, state_dict: StateDict, with_pending: bool = True) -> None:
    """Restore what `state_of` returned; `with_pending` where the environments continue their episodes."""
    optimizer = learner.get_optimizer(MODULE)
    policy_of(learner).load_state_dict(as_tensors(state_dict.tensors["policy"]))
    optimizer.load_state_dict({**optimizer.state_dict(), "state": _moments(state_dict.tensors["optimizer"])})
    learner.restore_own_state(state_dict, with_pending)
    restore_generators(state_dict.tensors["generators"], state_dict.state)


def _moments(arrays: dict[str, Any]) -> dict[int, dict[str, torch.Tensor]]:
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in as_tensors(arrays).items():
        index, _, key = name.partition(".")
        moments.setdefault(int(index), {})[key] = tensor
    return moments
