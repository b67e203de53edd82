"""The EnvRunner that steps a batch of environments for a fixed number of steps and returns one fragment of arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED

from rl_lab.core.env_recipe import EnvRecipe
from rl_lab.core.errors import WorkFailed
from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.random_streams import GeneratorStream
from rl_lab.core.world import Array
from rl_lab.learners.compiled.thread_pool import available_threads
from rl_lab.learners.rllib.compiled_sampler import acts_compiled, is_compiled, sampler
from rl_lab.learners.rllib.fragment import Fragment, Sample
from rl_lab.learners.sb3.training_state import as_tensors

_REPORTED = 100  # episodes over which returns and lengths are averaged


@dataclass
class PartResult:
    """The answer of a runner in another process: a sample, and the environments' state after it."""

    sample: Sample
    snapshot: dict[str, Array]
    log: dict[str, float]

    @property
    def fragment(self) -> Fragment:
        """Return the sample's fragment."""
        return self.sample.fragment

    def __len__(self) -> int:
        return len(self.sample.fragment)


class LabEnvRunner(EnvRunner):  # type: ignore[misc]
    """Rolls the policy out in the environments that `attach` gives it, `rollout_fragment_length` steps at a time.

    An episode that ends is followed by the next in the same step. A fragment has as many steps of every environment,
    however long their episodes are.

    As an actor in another process it makes parts of the environments from recipes instead, see `sample_part`.
    """

    def __init__(self, *, config: Any, **arguments: Any) -> None:
        super().__init__(config=config, **arguments)
        self.module = config.get_multi_rl_module_spec().build()[DEFAULT_MODULE_ID]
        self.spaces = config.observation_space, config.action_space
        self.seconds = {"env": 0.0, "infer": 0.0}
        self.returns: list[float] = []  # of the last episodes
        self.lengths: list[int] = []
        self.episodes = 0
        self.fragments = 0  # that `sample` has returned
        self._weights_seq_no = 0
        self._envs: BatchedEnv | None = None
        self._started = False
        # By the number of the part; with the number of the next fragment.
        self._parts: dict[int, tuple[BatchedEnv, Callable[[int], Sample], int]] = {}
        if self.worker_index and (device := self.gpu_device()):
            if not torch.cuda.is_available():
                raise WorkFailed("Ray has given the env runner a GPU, and torch can use none in its process")
            self.module.to(device)

    def attach(self, envs: BatchedEnv) -> None:
        """Use these environments, which begin new episodes at the first fragment unless they were restored."""
        self._envs = envs
        self._sample = self._sampler(envs, available_threads())

    def _sampler(self, envs: BatchedEnv, threads: int) -> Callable[[int], Sample]:
        """Return the function of the number of steps that samples a fragment of these environments."""
        return sampler(self.module, envs, threads)

    def _begin_fragment(self, sample: Callable[[int], Sample], number: int) -> None:
        """Prepare a function of `_sampler` for fragment `number`; an algorithm may act differently with time."""

    def gpu_device(self) -> str | None:
        """Return "cuda" where runners in other processes have a GPU on which torch acts, else None."""
        return "cuda" if self.config.num_gpus_per_env_runner and not self._is_compiled() else None

    def _is_compiled(self) -> bool:
        """Return whether compiled code, which uses no GPU, acts with this module in every environment."""
        return is_compiled(self.module)

    @property
    def acts_compiled(self) -> bool:
        """Return whether compiled code acts, and not torch."""
        return acts_compiled(self._sample)

    def set_started(self) -> None:
        """Continue the episodes that the environments are in."""
        self._started = True

    def sample(self, **_: Any) -> Fragment:
        """Return one fragment, sampled with the current weights."""
        envs = self._envs
        assert envs is not None
        if not self._started:
            envs.reset()
            self._started = True
        self._begin_fragment(self._sample, self.fragments)
        sample = self._sample(self.config.rollout_fragment_length)
        self.fragments += 1
        self.record(sample)
        return sample.fragment

    def record(self, sample: Sample, share: float = 1.0) -> None:
        """Count a sample, of this runner or of another one, in the metrics, and this share of its seconds."""
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED, len(sample.fragment), reduce="sum")
        self.seconds["env"] += share * sample.env_seconds
        self.seconds["infer"] += share * sample.infer_seconds
        self.episodes += len(sample.lengths)
        self.returns = [*self.returns, *sample.returns][-_REPORTED:]
        self.lengths = [*self.lengths, *sample.lengths][-_REPORTED:]

    def sample_part(
        self, part: int, number: int, weights: dict[str, Array], snapshot: dict[str, Array] | None
    ) -> PartResult | None:
        """Sample fragment `number` of a part of the environments with these weights.

        The result depends on the seed, the arguments and the environments' state, not on the runner: the actions are
        sampled from a random stream of this fragment. So another runner can do it again, with the same result.

        Args:
            part: the number of the recipe in `config.env_config["recipes"]`.
            number: of the fragments of this part before this one.
            weights: the policy's parameters by name.
            snapshot: the environments' state; None if this runner has sampled the fragment before this one.

        Returns:
            None where the snapshot is missing: this process has started since.
        """
        recipe: EnvRecipe = self.config.env_config["recipes"][part]
        envs, sample_fragment, following = self._parts.pop(part, (None, None, 0))
        if snapshot is None and number != following:
            return None
        if envs is None or sample_fragment is None:
            torch.set_num_threads(recipe.threads or 1)
            envs = recipe.make()
            sample_fragment = self._sampler(envs, int(max(self.config.num_cpus_per_env_runner, 1)))
            if snapshot is None:
                envs.reset()
        if snapshot is not None:
            envs.restore(snapshot)
        self.module.policy.load_state_dict(as_tensors(weights))
        torch.manual_seed(_seed(recipe.seed, part, number))
        self._begin_fragment(sample_fragment, number)
        sample = sample_fragment(self.config.rollout_fragment_length)
        sample.fragment.is_continuation = snapshot is None or envs.restores_exactly
        self._parts[part] = envs, sample_fragment, number + 1
        log = envs.drain_log()
        return PartResult(sample, envs.snapshot(), log)

    def get_state(self, components: Any = None, *, not_components: Any = None, **_: Any) -> dict[str, Any]:
        """Return the weights and their number; there are no connectors."""
        return {COMPONENT_RL_MODULE: self.module.get_state(), "weights_seq_no": self._weights_seq_no}

    def set_state(self, state: dict[str, Any]) -> None:
        """Set the weights, unless they are older than those that it has."""
        number = state.get("weights_seq_no", 0)
        if COMPONENT_RL_MODULE in state and (number == 0 or self._weights_seq_no < number):
            weights = state[COMPONENT_RL_MODULE]
            self.module.set_state(weights.get(DEFAULT_MODULE_ID, weights))
        self._weights_seq_no = number or self._weights_seq_no

    def get_spaces(self) -> dict[str, Any]:
        """Return the spaces of one environment under all the names that RLlib looks for."""
        return dict.fromkeys((INPUT_ENV_SPACES, INPUT_ENV_SINGLE_SPACES, DEFAULT_MODULE_ID), self.spaces)

    def get_metrics(self) -> Any:
        """Return RLlib's metrics since the last call."""
        return self.metrics.reduce()

    def assert_healthy(self) -> None:
        """Do nothing: the constructor has raised if anything is missing."""

    def make_env(self) -> None:
        """Do nothing: the environments are attached."""

    def make_module(self) -> None:
        """Do nothing: the constructor has built the module."""

    def stop(self) -> None:
        """Do nothing: the environments are closed by their owner."""


def _seed(seed: int, part: int, number: int) -> int:
    words = np.random.SeedSequence((seed, part, number, GeneratorStream.FRAGMENT)).generate_state(2)
    return int(words[0]) << 31 | int(words[1]) >> 1
