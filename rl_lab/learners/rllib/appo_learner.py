"""RLlib's learner of APPO, which updates from fragments when it is told to, and not in a thread of its own."""

from __future__ import annotations

from typing import Any

import ray
import torch
from ray.rllib.algorithms.appo.torch.appo_torch_learner import APPOTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from rl_lab.core.agent import StateDict
from rl_lab.learners.rllib.connector import NothingToLearnError
from rl_lab.learners.rllib.finite_gradients import FiniteGradients
from rl_lab.learners.rllib.fragment import Fragment
from rl_lab.learners.rllib.frozen_trunk import FrozenTrunk
from rl_lab.learners.rllib.pending_state import pending_arrays, restored_pending
from rl_lab.learners.rllib.train_columns import joined_columns
from rl_lab.learners.rllib.transitions import Pending
from rl_lab.learners.sb3.training_state import as_arrays, as_tensors


class LabAPPOTorchLearner(FrozenTrunk, FiniteGradients, APPOTorchLearner):  # type: ignore[misc]
    """RLlib's learner of APPO; its loss, V-trace, optimizer and update of the target network are RLlib's."""

    agent_name = "rllib_appo"

    def build(self) -> None:
        """Build the module, its target network and its optimizer."""
        super().build()
        self.shutdown()  # ends the thread, which takes batches from a queue in an order that depends on time
        self.pending: list[Pending | None] = []  # of the last fragments
        self.trained = 0  # environment steps of all learners, each time that one was learned from

    @property
    def code(self) -> str:
        """Return what updates, and where."""
        return f"torch on the {'GPU' if torch.device(self.device).type == 'cuda' else 'CPU'}"

    def update_from(self, fragments: list[Fragment], steps: int, iterations: int) -> dict[str, Any]:
        """Update so many times from the fragments; return RLlib's metrics of the last time.

        `steps` are the environment steps so far. Raises NothingToLearnError where no transition ends.
        """
        columns, self.pending = joined_columns(fragments, self.pending)
        if not columns["loss_mask"].any():
            raise NothingToLearnError
        device = torch.device(self.device)
        tensors = {name: torch.from_numpy(column).to(device) for name, column in columns.items()}
        batch = MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(tensors)}, env_steps=sum(map(len, fragments)))
        result: dict[str, Any] = {}
        for _ in range(iterations):
            timesteps = {
                "num_env_steps_sampled_lifetime": steps,
                "num_env_steps_trained_lifetime": self.trained,
            }
            result = Learner.update(self, training_data=TrainingData(batch=batch), timesteps=timesteps)
            # RLlib's period of the target network counts these steps; each learner has as many.
            self.trained += batch.env_steps() * max(self.config.num_learners, 1)
        return result

    def own_state(self) -> StateDict:
        """Return what APPO adds to the state of a learner."""
        tensors = {"target": as_arrays(self._old_policy().state_dict())}
        if arrays := pending_arrays(self.pending):
            tensors["pending"] = arrays
        state = {
            "kl_coeff": float(self.curr_kl_coeffs_per_module[DEFAULT_MODULE_ID]),
            "last_target_update": int(self._last_update_ts_by_mid[DEFAULT_MODULE_ID]),
            "trained": self.trained,
        }
        return StateDict(tensors, state)

    def restore_own_state(self, state_dict: StateDict, with_pending: bool) -> None:
        """Restore what `own_state` returned; `with_pending` where the environments continue their episodes."""
        state = state_dict.state
        self._old_policy().load_state_dict(as_tensors(state_dict.tensors["target"]))
        self.pending = restored_pending(state_dict.tensors.get("pending", {})) if with_pending else []
        self.curr_kl_coeffs_per_module[DEFAULT_MODULE_ID].fill_(state["kl_coeff"])
        self._last_update_ts_by_mid[DEFAULT_MODULE_ID] = state["last_target_update"]
        self.trained = state["trained"]

    def _old_policy(self) -> Any:
        return self.module[DEFAULT_MODULE_ID].unwrapped().old_policy


def update_from_references(
    learner: LabAPPOTorchLearner, references: list[Any], steps: int, iterations: int
) -> dict[str, Any]:
    """Call `update_from` in the process of a learner, with the parts to which these references lead."""
    return learner.update_from([part.fragment for part in ray.get(references)], steps, iterations)
