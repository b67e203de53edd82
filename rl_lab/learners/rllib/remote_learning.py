"""What learners share whose updates may be made by several of RLlib's learners, each in a process of its own."""

from __future__ import annotations

from typing import Any, NoReturn

import torch

from rl_lab.core.agent import StateDict
from rl_lab.core.errors import WorkFailed
from rl_lab.core.untrusted import checked_list, checked_type
from rl_lab.core.world import Array
from rl_lab.learners.rllib.remote_sampling import SamplesRemotely
from rl_lab.learners.sb3.training_state import as_tensors

_OWN = ("generators", "pending")  # members of a state that differ between learners
_SHARED = ("policy", "optimizer", "target")  # members that are equal
_PREFIX = "learner"  # of the members of a state that belong to learner 1, 2, ...


class LearnsRemotely(SamplesRemotely):
    """Placed before the class of an algorithm: `learners` processes update, or this one where there are none.

    The learners average their gradients, so that their parameters, moments and target networks are equal after each
    update. The first one sends its parameters then; all send their whole state for a checkpoint. A lost learner ends
    the training, which its checkpoint continues.
    """

    @property
    def learns_here(self) -> bool:
        """Return whether this process updates."""
        return self._learners.local is not None

    def _attach(self) -> None:
        super()._attach()
        if not self.learns_here:
            self._send_weights()

    def _engine(self) -> str:
        if self.learns_here:
            return super()._engine()
        count, has_gpus = len(self._learners), self._settings.gpus_per_learner
        return f"{self._runners()}, {count} learner{'s' * (count > 1)} {'a GPU each' if has_gpus else 'on CPUs'}"

    def _send_weights(self) -> None:
        if self.learns_here:
            super()._send_weights()
        else:
            self._policy.load_state_dict(as_tensors(self._learners.parameters()))

    def _refuse_empty_share(self, setting: str) -> NoReturn:
        """Raise WorkFailed where one learner has nothing to learn from, for which the others would wait."""
        reason = "a learner has nothing to learn from: in its fragments, no transition ends"
        raise WorkFailed(f"{reason}; a larger {setting} makes them longer") from None

    def _learners_state(self) -> StateDict:
        if self.learns_here:
            return super()._learners_state()
        first, *others = self._learners.state()
        tensors = dict(first.tensors)
        for index, other in enumerate(others, 1):
            tensors |= {f"{_PREFIX}{index}.{name}": other.tensors[name] for name in _OWN if name in other.tensors}
        return StateDict(tensors, {**first.state, "learners": [other.state for other in others]})

    def _check(self, state: dict[str, Any], tensors: dict[str, dict[str, Array]]) -> None:
        super()._check(state, tensors)
        if not self.learns_here:
            for other in self._other_states(state, tensors):
                self._check_own(other.state, other.tensors)

    def _optimizer(self) -> Any:
        if self.learns_here:
            return super()._optimizer()
        return torch.optim.Adam(self._trained_parameters())  # has the shapes of the learners' moments

    def _trained_parameters(self) -> list[torch.nn.Parameter]:
        return list(self._policy.parameters())

    def _restore_learners(self, state_dict: StateDict) -> None:
        if self.learns_here:
            super()._restore_learners(state_dict)
            return
        members = {name: state_dict.tensors[name] for name in (*_SHARED, *_OWN) if name in state_dict.tensors}
        states = [StateDict(members, state_dict.state), *self._other_states(state_dict.state, state_dict.tensors)]
        self._learners.restore(states, with_pending=self.envs.restores_exactly)

    def _other_states(self, state: dict[str, Any], tensors: dict[str, dict[str, Array]]) -> list[StateDict]:
        """Return the states of all learners but the first. Raises ValueError or KeyError for another number of them."""
        states = []
        for index, other in enumerate(checked_list(state["learners"], "learners", len(self._learners) - 1), 1):
            own = {name: tensors.get(f"{_PREFIX}{index}.{name}", {}) for name in _OWN}
            shared = {name: tensors[name] for name in _SHARED if name in tensors}
            states.append(StateDict({**shared, **own}, checked_type(other, "learners", dict)))
        return states
