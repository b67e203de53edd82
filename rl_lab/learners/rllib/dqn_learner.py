"""RLlib's learner of DQN, which updates from batches of a replay buffer of the lab's."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.algorithms.dqn.torch.dqn_torch_learner import DQNTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from rl_lab.core.agent import StateDict
from rl_lab.core.world import Array
from rl_lab.learners.rllib.finite_gradients import FiniteGradients
from rl_lab.learners.rllib.frozen_trunk import FrozenTrunk


class LabDQNTorchLearner(FrozenTrunk, FiniteGradients, DQNTorchLearner):  # type: ignore[misc]
    """RLlib's learner of DQN; its loss, optimizer and update of the target network are RLlib's."""

    agent_name = "rllib_dqn"

    def build(self) -> None:
        """Build the module, its target network and its optimizer."""
        super().build()
        # RLlib's pieces make the batch of episodes; this learner is given batches.
        self._learner_connector.connectors.clear()

    def get_parameters(self, module: Any) -> list[torch.nn.Parameter]:
        """Return the parameters that the optimizer changes: all but those of the target network."""
        return list(module.unwrapped().policy.q_net.parameters())

    @property
    def code(self) -> str:
        """Return what updates, and where."""
        return f"torch on the {'GPU' if torch.device(self.device).type == 'cuda' else 'CPU'}"

    def update_from(self, columns: dict[str, Array], steps: int) -> dict[str, Any]:
        """Take one gradient step on these transitions, [M, ...] by RLlib's names; return RLlib's metrics.

        `steps` are the environment steps so far, by which RLlib updates the target network.
        """
        device = torch.device(self.device)
        tensors = {name: torch.from_numpy(column).to(device) for name, column in columns.items()}
        batch = MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(tensors)}, env_steps=len(columns["rewards"]))
        timesteps = {"num_env_steps_sampled_lifetime": steps}
        result: dict[str, Any] = self.update(training_data=TrainingData(batch=batch), timesteps=timesteps)
        return result

    def own_state(self) -> StateDict:
        """Return what DQN adds to the state of a learner: when the target network was last updated."""
        return StateDict({}, {"last_target_update": int(self.last_update_ts_by_mid[DEFAULT_MODULE_ID])})

    def restore_own_state(self, state_dict: StateDict, with_pending: bool) -> None:
        """Restore what `own_state` returned."""
        self.last_update_ts_by_mid[DEFAULT_MODULE_ID] = state_dict.state["last_target_update"]
