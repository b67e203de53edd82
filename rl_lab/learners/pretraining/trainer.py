"""The training of a backbone on a data set: plain torch, one epoch at a time, with early stopping.

Its state between two epochs can be saved and restored, and the training continues to the bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rl_lab.core.agent import StateDict, check_bounds, hyperparameter
from rl_lab.core.untrusted import checked_array, checked_int, checked_number
from rl_lab.core.world import Array
from rl_lab.engine.batch import NonFiniteError
from rl_lab.learners.pretraining import methods
from rl_lab.learners.pretraining.base import Method
from rl_lab.learners.pretraining.examples import Examples

_METHOD_PREFIX = "method."  # before the names of parameters that are not the backbone's


@dataclass(frozen=True)
class TrainerConfig:
    """The hyperparameters of a pretraining."""

    epochs: int = hyperparameter(50, "the most passes over the training episodes", low=1)
    patience: int = hyperparameter(5, "epochs without a better validation score before training ends", low=1)
    batch_size: int = hyperparameter(256, "minibatch", "rows", low=1)
    learning_rate: float = hyperparameter(1e-3, "learning rate of Adam", low=0)
    weight_decay: float = hyperparameter(0.0, "decoupled weight decay, as in AdamW", low=0)
    max_grad_norm: float = hyperparameter(1.0, "gradients are clipped to this norm", low=0)
    validation: float = hyperparameter(
        0.1, "share of the episodes to validate with; 0: train on all episodes and keep the last epoch"
    )
    gamma: float = hyperparameter(0.99, "discount of the returns that critic predicts", low=0, high=1)
    freeze_trunk: bool = hyperparameter(False, "train the head alone, on the features of the trunk as it is")
    symmetries: bool = hyperparameter(False, "show each transition in a random one of its symmetric forms")
    horizon: int = hyperparameter(5, "selfpred: how far ahead features are predicted", "steps", low=1, high=64)
    momentum: float = hyperparameter(0.99, "selfpred: share of the target that stays at an update", low=0, high=1)
    inverse_weight: float = hyperparameter(1.0, "selfpred: weight of the inverse dynamics in the loss", low=0)
    beta: float = hyperparameter(1.0, "vae: weight of the divergence from the prior in the loss", low=0)
    latent_size: int = hyperparameter(32, "vae: numbers of a latent vector", low=1, high=4096)


class PretrainingTrainer:
    """A training of a trunk, with a head or with networks of the method's own.

    `method` is a name in `methods`, or a method that is made for this model.

    Raises ValueError for hyperparameters out of range, and for data that the method cannot use.
    """

    def __init__(
        self, method: str | Method, model: Any, examples: Examples, config: TrainerConfig, *, seed: int
    ) -> None:
        check_bounds(config)
        self.model, self.examples, self.config, self.seed = model, examples, config, seed
        self.method = methods.make(method, examples, model, config, seed) if isinstance(method, str) else method
        self.method.networks.to(examples.device)
        if config.freeze_trunk and self.method.head is None:
            raise ValueError(f"{method} trains a trunk, so freeze_trunk=true leaves nothing to learn")
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        parts = [] if self.method.head is None else [getattr(model, self.method.head)]
        parts += [] if config.freeze_trunk else [model.trunk]
        self.parameters = [parameter for part in parts for parameter in part.parameters()]
        self.parameters += [each for each in self.method.networks.parameters() if each.requires_grad]
        if self.method.head == "policy" and hasattr(model, "log_std"):
            self.parameters.append(model.log_std)
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.epoch = self.updates = self.epochs_without_gain = 0
        self.best_score = -math.inf
        self.best_scores: dict[str, float] = {}
        self.best = self._copy()

    @property
    def is_done(self) -> bool:
        """Return whether the last epoch has been trained, or the validation score has stopped growing."""
        has_stopped = bool(self.config.validation) and self.epochs_without_gain >= self.config.patience
        return self.epoch >= self.config.epochs or has_stopped

    @property
    def updates_per_epoch(self) -> int:
        """Return the number of optimizer steps in an epoch."""
        return -(-len(self.examples.train) // self.config.batch_size)

    def train_epoch(self, on_update: Callable[[int], None] = lambda updates: None) -> dict[str, float]:
        """Train one epoch, then validate; return the metrics. `on_update` gets the number of updates so far.

        What `on_update` raises ends the epoch in the middle: continue from a state that was saved before it.

        Raises NonFiniteError for a loss that is not finite.
        """
        total, rows = torch.zeros((), dtype=torch.float64), 0
        self.method.begin_epoch(self.model, self.epoch)
        self.model.train()
        for batch in self.examples.epoch(self.config.batch_size, self.seed, self.epoch):
            loss = self.method.loss(self.model, batch)
            if not torch.isfinite(loss):
                raise NonFiniteError(f"non-finite loss in epoch {self.epoch + 1}, update {self.updates + 1}")
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
            self.optimizer.step()
            self.method.after_update(self.model)
            total += loss.detach().cpu() * len(batch.rows)
            rows += len(batch.rows)
            self.updates += 1
            on_update(self.updates)
        self.epoch += 1
        scores = self.validate()
        self._keep_best(scores)
        return {
            "train/loss": float(total) / rows,
            **{f"{self.score_split}/{name}": each for name, each in scores.items()},
        }

    @property
    def score_split(self) -> str:
        """Return the split of the episodes on which scores are measured: "validation" or, if it is empty, "train"."""
        return "validation" if self.config.validation else "train"

    def validate(self) -> dict[str, float]:
        """Return the scores of the present parameters on the validation episodes, see `score_split`."""
        self.model.eval()
        with torch.no_grad():
            parts = [self.method.predict(self.model, batch) for batch in self.examples.validation_batches()]
        return self.method.scores({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    def _keep_best(self, scores: dict[str, float]) -> None:
        score = math.inf if self.method.score is None else scores[self.method.score]
        self.epochs_without_gain += 1
        if score > self.best_score or self.method.score is None or not self.config.validation:
            self.best_score, self.best_scores, self.best = score, scores, self._copy()
            self.epochs_without_gain = 0

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Return the parameters and buffers of the model and, with a prefix, of the method's own networks."""
        own = {f"{_METHOD_PREFIX}{name}": value for name, value in self.method.networks.state_dict().items()}
        return {**self.model.state_dict(), **own}

    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in self._tensors().items()}

    def _load(self, tensors: dict[str, torch.Tensor]) -> None:
        own = {
            name.removeprefix(_METHOD_PREFIX): value
            for name, value in tensors.items()
            if name.startswith(_METHOD_PREFIX)
        }
        self.method.networks.load_state_dict(own)
        self.model.load_state_dict(
            {name: value for name, value in tensors.items() if not name.startswith(_METHOD_PREFIX)}
        )

    def load_best(self) -> None:
        """Give the model and the method's networks the parameters with the best validation score, at the end."""
        self._load(self.best)
        self.model.eval()

    def finished_model(self) -> Any:
        """Return a copy of the model with the parameters that had the best validation score, or else the last."""
        model = copy.deepcopy(self.model)
        model.load_state_dict({name: value for name, value in self.best.items() if not name.startswith(_METHOD_PREFIX)})
        self.method.finish(model)
        return model.cpu().eval()

    def save(self) -> StateDict:
        """Return the state between two epochs."""
        optimizer = self.optimizer.state_dict()["state"]
        moments = {f"{index}.{key}": value for index, entry in optimizer.items() for key, value in entry.items()}
        members = {"model": self._tensors(), "best": self.best, "optimizer": moments}
        tensors = {
            member: {name: np.array(value.detach().cpu().numpy()) for name, value in values.items()}
            for member, values in members.items()
        }
        state = {
            "epoch": self.epoch,
            "updates": self.updates,
            "epochs_without_gain": self.epochs_without_gain,
            "best_scores": self.best_scores,
        }
        return StateDict(tensors, state)

    def restore(self, state_dict: StateDict) -> None:
        """Continue from a state that `save` returned. Raises ValueError or KeyError where it does not fit."""
        state = state_dict.state
        self.epoch = checked_int(state["epoch"], "epoch", 0, self.config.epochs)
        self.updates = checked_int(state["updates"], "updates")
        self.epochs_without_gain = checked_int(state["epochs_without_gain"], "epochs_without_gain")
        self.best_scores = {name: checked_number(value, name) for name, value in state["best_scores"].items()}
        self.best_score = -math.inf if self.method.score is None else self.best_scores.get(self.method.score, -math.inf)
        own = self._tensors()
        self.best = self._check_arrays(state_dict.tensors["best"], own)
        self._load(self._check_arrays(state_dict.tensors["model"], own))
        self._restore_optimizer(state_dict.tensors["optimizer"])

    def _check_arrays(self, arrays: dict[str, Array], like: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if differing := sorted(set(like) ^ set(arrays)):
            raise ValueError(f"{differing[0]:.80} is missing or unknown")
        return {
            name: self.examples.tensor(checked_array(arrays[name], name, value.detach().cpu().numpy()))
            for name, value in like.items()
        }

    def _restore_optimizer(self, arrays: dict[str, Array]) -> None:
        """Restore Adam's moments, which are there for all parameters or, before the first update, for none."""
        entries: dict[int, dict[str, Any]] = {}
        for index, parameter in enumerate(self.parameters if arrays else ()):
            like = {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
            own = {key: arrays[f"{index}.{key}"] for key in like}
            entries[index] = self._check_arrays(own, like)
            entries[index]["step"] = entries[index]["step"].cpu()
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": entries, "param_groups": groups})
