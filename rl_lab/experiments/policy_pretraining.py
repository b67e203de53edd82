"""Pretrain a generative policy from a data set (`rl-lab pretrain diffusion`, `sequence`), which is an agent of its own.

The run is that of a pretraining, see `pretraining`, with the checkpoint of an agent in place of a backbone. The
hyperparameters of the agent are in the scenario of the run, as those of every other agent.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterable
from typing import Any

import torch

from rl_lab.adapters import make
from rl_lab.core import agent_registry, checkpoint
from rl_lab.core.errors import UsageError
from rl_lab.datasets.dataset import Dataset
from rl_lab.experiments.agent_loading import device_of
from rl_lab.experiments.frozen_agent import FrozenAgentRef
from rl_lab.experiments.pretraining import scenario_of
from rl_lab.experiments.pretraining_config import PretrainSettings, as_settings, check_ranges, parse_model_lines
from rl_lab.experiments.pretraining_run import Pretraining
from rl_lab.experiments.run_dir import Run
from rl_lab.experiments.scenario import Scenario
from rl_lab.learners.generative.diffusion_training import DiffusionTraining
from rl_lab.learners.generative.loading import as_state
from rl_lab.learners.generative.method import GenerativeMethod
from rl_lab.learners.generative.sequence_training import SequenceTraining
from rl_lab.learners.pretraining.examples import Examples
from rl_lab.learners.pretraining.trainer import PretrainingTrainer

# Settings whose defaults are other ones than those of backbones.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "diffusion": {"epochs": 100, "patience": 20},
    "sequence": {"epochs": 50, "patience": 10, "batch_size": 64},
}


def parse_settings(method: str, lines: Iterable[str]) -> PretrainSettings:
    """Return the settings that key=value lines describe. Raises UsageError, in one line, for wrong ones."""
    agent_keys = [each.name for each in dataclasses.fields(agent_registry.load(method).Config)]
    node = {**_DEFAULTS[method], **parse_model_lines(method, lines, agent_keys, is_agent=True)}
    if not node.get("data"):
        raise UsageError("say which data set to learn from: data=DIR, which rl-lab data collect has written")
    return check_ranges(as_settings(PretrainSettings, node))


def prepare(method: str, settings: PretrainSettings, data: Dataset, scenario: Scenario | None) -> PolicyPretraining:
    """Return the pretraining of a policy at its start; see `pretraining.Prepare`."""
    if scenario is None:
        values = {"seed": settings.seed, **settings.agent}
        fields = [each.name for each in dataclasses.fields(agent_registry.load(method).Config)]
        lines = [f"agent.{key}={json.dumps(value)}" for key, value in values.items() if key in fields]
        scenario = scenario_of(method, settings, data, [f"agent={method}", *lines])
    torch.set_num_threads(settings.threads)
    envs = make.make(scenario.world, 1, scenario.params)
    envs.close()
    data.require_world(envs.world)
    try:
        examples = Examples(data, settings.validation, settings.seed, device_of(settings.device))
        torch.manual_seed(settings.seed)
        training: GenerativeMethod
        if method == "diffusion":
            training = DiffusionTraining(scenario.config, envs.world, examples, settings.seed)
        else:
            training = SequenceTraining(scenario.config, envs.world, examples, settings.seed)
            if scenario.config.target_return is None:
                config = dataclasses.replace(scenario.config, target_return=training.best_return)
                scenario = dataclasses.replace(scenario, config=config)
        model = training.model.to(examples.device)
        trainer = PretrainingTrainer(training, model, examples, settings.trainer(), seed=settings.seed)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from None
    return PolicyPretraining(method, scenario, trainer, data, None)


class PolicyPretraining(Pretraining):
    """A pretraining whose result is an agent, and no backbone."""

    has_backbone, has_agent = False, True

    def first_line(self) -> str:
        """Return what is trained, and on which data."""
        train, validation = self.trainer.examples.episodes
        episodes = f"{train} episodes, {validation} to validate with"
        target = getattr(self.scenario.config, "target_return", None)
        aim = "" if target is None else f", target return {target:g}"
        return f"{self.method} in {self.scenario.world}: {self.data.path}: {episodes}{aim}"

    def write(self, run: Run) -> str:
        """Write the checkpoint of the agent, and return the agent's hash."""
        trainer = self.trainer
        assert isinstance(trainer.method, GenerativeMethod)
        network = trainer.method.agent_network(trainer.finished_model())
        envs = make.make(self.scenario.world, 1, self.scenario.params)
        envs.close()
        state_dict = as_state(network, envs.world)
        shutil.rmtree(run.agent, ignore_errors=True)
        checkpoint.save(run.agent, trainer.updates, state_dict.tensors, state_dict.state, keep_last=1)
        return FrozenAgentRef(str(run.path)).with_content_hash().sha256
