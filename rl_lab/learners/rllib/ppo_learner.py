"""RLlib's learner of PPO, whose update is compiled where that is possible."""

from __future__ import annotations

import math
from typing import Any

import torch
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.numpy import SMALL_NUMBER

from rl_lab.core.agent import StateDict
from rl_lab.core.world import Array
from rl_lab.learners.compiled.ppo_records import ENTROPY_LOSS, POLICY_LOSS, VALUE_LOSS, AdamSettings, PpoSettings
from rl_lab.learners.compiled.rllib_records import (
    KL,
    SUM_ERRORS,
    SUM_SQUARED_ERRORS,
    SUM_SQUARED_TARGETS,
    SUM_TARGETS,
    UNCLIPPED_VALUE_LOSS,
    RllibSettings,
)
from rl_lab.learners.compiled.thread_pool import available_threads
from rl_lab.learners.rllib.compiled_update import CompiledUpdate, minibatch_order
from rl_lab.learners.rllib.connector import connector_of
from rl_lab.learners.rllib.finite_gradients import FiniteGradients
from rl_lab.learners.rllib.frozen_trunk import FrozenTrunk
from rl_lab.learners.rllib.pending_state import pending_arrays, restored_pending
from rl_lab.learners.sb3.network_import import UnsupportedByCompiledError


class LabPPOTorchLearner(FrozenTrunk, FiniteGradients, PPOTorchLearner):  # type: ignore[misc]
    """RLlib's learner of PPO.

    `compiled` updates where there is one learner, on a CPU, of one policy whose network the compiled learners know; it
    is None elsewhere, and RLlib's own code updates. The schedules, the coefficient of the divergence, and the names of
    the metrics are RLlib's in both cases.
    """

    agent_name = "rllib_ppo"
    compiled: CompiledUpdate | None = None

    def build(self) -> None:
        """Build the module and its optimizer, and prepare compiled code."""
        super().build()
        config = self.config
        is_known = config.grad_clip_by == "global_norm" and config.use_critic and config.num_learners <= 1
        if not is_known or torch.device(self.device).type != "cpu" or list(self.module.keys()) != [DEFAULT_MODULE_ID]:
            return
        module = self.module[DEFAULT_MODULE_ID].unwrapped()
        if not module.model_config.get("compiled", True) or self.begins_frozen() is not None:
            return
        try:
            self.compiled = CompiledUpdate(module.policy, self.get_optimizer(DEFAULT_MODULE_ID), available_threads())
        except UnsupportedByCompiledError:
            return

    @property
    def code(self) -> str:
        """Return what updates: compiled code, or torch, and where."""
        if self.compiled is not None:
            return "compiled code"
        return f"torch on the {'GPU' if torch.device(self.device).type == 'cuda' else 'CPU'}"

    def update(self, *, training_data: Any = None, **arguments: Any) -> Any:
        """Update from fragments, see RLlib's `Learner.update`. Raises NonFiniteError for non-finite gradients."""
        fragments = training_data is not None and (training_data.episodes or training_data.episodes_refs)
        if self.compiled is None or not fragments or not arguments.get("minibatch_size"):
            return super().update(training_data=training_data, **arguments)
        training_data.validate()
        training_data.solve_refs()
        return self._update_compiled(self.compiled, training_data.episodes, **arguments)

    def _update_compiled(
        self,
        compiled: CompiledUpdate,
        fragments: list[Any],
        *,
        minibatch_size: int,
        timesteps: dict[str, Any] | None = None,
        num_epochs: int = 1,
        shuffle_batch_per_epoch: bool = False,
        num_total_minibatches: int = 0,
        _no_metrics_reduce: bool = False,
        **_: Any,
    ) -> Any:
        """Do what `Learner.update` does, in its order."""
        self.before_gradient_based_update(timesteps=timesteps or {})
        self._weights_seq_no += 1
        batch = connector_of(self).train_batch(fragments, compiled.values)
        order = minibatch_order(
            len(batch["loss_mask"]),
            minibatch_size,
            num_epochs=num_epochs,
            shuffle=shuffle_batch_per_epoch and num_epochs > 1,
            num_total_minibatches=num_total_minibatches,
        )
        settings = self._settings(minibatch_size)
        report = compiled.update(batch, order, settings)
        self.metrics.log_dict(_losses(report, settings, minibatch_size), key=DEFAULT_MODULE_ID, window=1)
        self.after_gradient_based_update(timesteps=timesteps or {})
        return None if _no_metrics_reduce else self.metrics.reduce()

    def _settings(self, minibatch_size: int) -> RllibSettings:
        """Return the hyperparameters as they are now."""
        config, group = self.config, self.get_optimizer(DEFAULT_MODULE_ID).param_groups[0]
        beta_1, beta_2 = group["betas"]
        limit = float(config.grad_clip or math.inf)
        adam = AdamSettings(float(group["lr"]), limit, float(beta_1), float(beta_2), float(group["eps"]))
        entropy_coeff = self.entropy_coeff_schedulers_per_module[DEFAULT_MODULE_ID].get_current_value()
        ppo = PpoSettings(
            batch_size=minibatch_size,
            clip_range=float(config.clip_param),
            ent_coef=float(entropy_coeff),
            vf_coef=float(config.vf_loss_coeff),
            target_kl=math.inf,
            normalize_advantage=False,  # the train batch has them standardised
            adam=adam,
        )
        kl_coeff = float(self.curr_kl_coeffs_per_module[DEFAULT_MODULE_ID]) if config.use_kl_loss else 0.0
        return RllibSettings(ppo, float(config.vf_clip_param), bool(config.use_kl_loss), kl_coeff)

    def own_state(self) -> StateDict:
        """Return what PPO adds to the state of a learner: the coefficient of the divergence, and what is pending."""
        arrays = pending_arrays(connector_of(self).pending)
        kl_coeff = float(self.curr_kl_coeffs_per_module[DEFAULT_MODULE_ID])
        return StateDict({"pending": arrays} if arrays else {}, {"kl_coeff": kl_coeff})

    def restore_own_state(self, state_dict: StateDict, with_pending: bool) -> None:
        """Restore what `own_state` returned; `with_pending` where the environments continue their episodes."""
        self.curr_kl_coeffs_per_module[DEFAULT_MODULE_ID].fill_(state_dict.state["kl_coeff"])
        connector_of(self).pending = restored_pending(state_dict.tensors.get("pending", {})) if with_pending else []


def _losses(report: Array, settings: RllibSettings, rows: int) -> dict[str, float]:
    """Return the metrics of the last minibatch, of so many rows, by RLlib's names."""
    policy_loss, vf_loss, entropy = report[POLICY_LOSS], report[VALUE_LOSS], -report[ENTROPY_LOSS]
    coefficients = settings.ppo
    loss = policy_loss + coefficients.vf_coef * vf_loss - coefficients.ent_coef * entropy
    variance = _variance(report[SUM_TARGETS], report[SUM_SQUARED_TARGETS], rows)
    explained = 1.0 - _variance(report[SUM_ERRORS], report[SUM_SQUARED_ERRORS], rows) / (variance + SMALL_NUMBER)
    losses = {
        "total_loss": loss + settings.kl_coeff * report[KL],
        "policy_loss": policy_loss,
        "vf_loss": vf_loss,
        "vf_loss_unclipped": report[UNCLIPPED_VALUE_LOSS],
        "vf_explained_var": max(-1.0, explained),
        "entropy": entropy,
        "mean_kl_loss": report[KL],
    }
    return {name: float(value) for name, value in losses.items()}


def _variance(total: float, squares: float, rows: int) -> float:
    """Return the unbiased variance of so many numbers, by their sum and the sum of their squares; NaN of one."""
    return (squares - total * total / rows) / (rows - 1) if rows > 1 else math.nan
