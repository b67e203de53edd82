"""The EnvRunner that steps a batch of environments for a fixed number of steps and returns one fragment of arrays."""

from __future__ import annotations

from typing import Any

from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED

from rl_lab.core.protocols import BatchedEnv
from rl_lab.learners.rllib.fragment import Fragment
from rl_lab.learners.rllib.torch_sampler import sample_fragment

_REPORTED = 100  # episodes over which returns and lengths are averaged


class LabEnvRunner(EnvRunner):  # type: ignore[misc]
    """Rolls the policy out in the environments that `attach` gives it, `rollout_fragment_length` steps at a time.

    An episode that ends is followed by the next in the same step. A fragment has as many steps of every environment,
    however long their episodes are.
    """

    def __init__(self, *, config: Any, **arguments: Any) -> None:
        super().__init__(config=config, **arguments)
        self.module = config.get_multi_rl_module_spec().build()[DEFAULT_MODULE_ID]
        self.spaces = config.observation_space, config.action_space
        self.seconds = {"env": 0.0, "infer": 0.0}
        self.returns: list[float] = []  # of the last episodes
        self.lengths: list[int] = []
        self.episodes = 0
        self._weights_seq_no = 0
        self._envs: BatchedEnv | None = None
        self._started = False

    def attach(self, envs: BatchedEnv) -> None:
        """Use these environments, which begin new episodes at the first fragment unless they were restored."""
        self._envs = envs

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
        sample = sample_fragment(self.module, envs, self.config.rollout_fragment_length)
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED, len(sample.fragment), reduce="sum")
        self.seconds["env"] += sample.env_seconds
        self.seconds["infer"] += sample.infer_seconds
        self.episodes += len(sample.lengths)
        self.returns = [*self.returns, *sample.returns][-_REPORTED:]
        self.lengths = [*self.lengths, *sample.lengths][-_REPORTED:]
        return sample.fragment

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
