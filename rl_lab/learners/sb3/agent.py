"""Stable-Baselines3 policies as agents: `Sb3Agent` plays with a policy, `load_policy` makes one of saved tensors.

`agents/*.py` call `load_policy` with a policy of `policies.build_policy`; evaluation, tournaments and leagues then call
the methods of `core.agent.Agent`. An agent changes nothing of the policy but its training mode, which is off.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium.spaces import Discrete
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy

from rl_lab.adapters.sb3_vec_env import append_agent_indicator
from rl_lab.adapters.structured import ObservationStructure
from rl_lab.core.agent import StateDict
from rl_lab.core.protocols import BatchedEnv, EnvSpec
from rl_lab.core.world import Array
from rl_lab.learners.sb3.encoder import Encoder
from rl_lab.learners.sb3.inference import CompiledPolicy
from rl_lab.learners.sb3.network_import import UnsupportedByCompiledError
from rl_lab.learners.sb3.training_state import as_tensors

_PolicyAgent = TypeVar("_PolicyAgent", bound="PolicyAgentBase")
_ACTOR_CRITICS = (ActorCriticPolicy, MaskableActorCriticPolicy)  # neither is a subclass of the other


class PolicyAgentBase:
    """The base class of agents with SB3's policies: observations as in training, and actions of the batch's shape.

    Args:
        name: the agent's name.
        policy: the policy.
        normalizer: "mean" and "var" of the observations, or None where they are not normalized.
        indicator: the length of the one-hot agent index that was appended to its observations, 0 for none.
        clip: normalized observations are clipped to -clip..clip.
        structure: how its observations are unflattened to a Dict or an image, or None.

    Where roles have observations of different lengths, the batch pads them to the longest; the agent removes the
    padding.
    """

    def __init__(
        self,
        name: str,
        policy: BasePolicy,
        normalizer: dict[str, Array] | None,
        *,
        indicator: int = 0,
        clip: float = 10.0,
        structure: ObservationStructure | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        self.name, self.policy, self.normalizer, self.clip = name, policy, normalizer, clip
        self.indicator, self.structure, self.encoder = indicator, structure, encoder
        self.agent_indices = np.arange(max(indicator, 1))  # of each of the world's agents, the index that is appended
        self._action_shape = policy.action_space.shape or ()
        policy.set_training_mode(False)

    def bind(self, envs: BatchedEnv) -> None:
        """Store the action shape and the agent indices of the batch's seats."""
        world, self._action_shape = envs.world, envs.actions.shape[2:]
        self.agent_indices = np.arange(len(world.agents))
        if self.indicator and self.indicator != len(world.agents):
            for seats in world.roles.values():  # it was trained for one role, whose agents are numbered from 0
                self.agent_indices[list(seats)] = np.arange(len(seats)) % self.indicator

    def _padded(self, actions: Array) -> Array:
        """Return actions [B, ...] in the batch's shape, which may have room for longer actions of another role."""
        if actions.shape[1:] == self._action_shape:
            return actions
        padded = np.zeros((len(actions), *self._action_shape), actions.dtype)
        padded[:, : actions.shape[1]] = actions
        return padded

    def _policy_obs(self, observations: Array, rows: Array | None) -> Any:
        """Return observations, [B, ...], in the form in which the policy received them in training."""
        if self.structure is not None:
            return self.structure.unflatten(observations)
        if self.encoder is not None:
            return self.encoder(observations)
        shape = self.policy.observation_space.shape or ()
        if len(shape) == 1:
            observations = observations[:, : shape[0] - self.indicator]
        if self.indicator:
            rows = np.arange(len(observations)) if rows is None else rows
            agent_indices = self.agent_indices[rows % len(self.agent_indices)]
            observations = append_agent_indicator(observations, agent_indices, self.indicator)
        if self.normalizer is not None:
            mean, var = self.normalizer["mean"], self.normalizer["var"]
            scaled = (observations - mean) / np.sqrt(var + 1e-8)
            observations = np.clip(scaled, -self.clip, self.clip).astype(np.float32)
        return observations


class Sb3Agent(PolicyAgentBase):
    """A policy of SB3's own classes with the observation statistics of its training; see `PolicyAgentBase`."""

    def __init__(self, name: str, policy: BasePolicy, normalizer: dict[str, Array] | None, **options: Any) -> None:
        super().__init__(name, policy, normalizer, **options)
        self.stochastic = isinstance(policy, _ACTOR_CRITICS)  # a DQN always takes the action with the largest value
        self.compiled_policy: CompiledPolicy | None = None
        with suppress(UnsupportedByCompiledError):
            self.compiled_policy = CompiledPolicy(policy)

    def is_row_wise(self, *, deterministic: bool) -> bool:
        """See `Agent`: torch draws numbers for all rows, and rounds differently in batches of different sizes."""
        return deterministic and self.compiled_policy is not None and self.encoder is None

    def act(
        self,
        observations: Array,
        *,
        state: Any = None,
        action_mask: Array | None = None,
        rows: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """See `Agent.act`; actions are clipped to the space as in training."""
        return self._padded(self._predict(self._policy_obs(observations, rows), action_mask, deterministic)), None

    def probabilities(
        self, observations: Array, action_mask: Array | None = None, *, rows: Array | None = None
    ) -> Array:
        """Return the probability of each action when the policy samples, float64 [B, actions].

        A DQN has probability 1 for the action with the largest value. `action_mask` and `rows` are those of `act`.
        Raises ValueError where actions are not discrete, and where the policy observes an agent index and `rows` are
        missing.
        """
        policy: Any = self.policy
        if self.indicator > 1 and rows is None:
            raise ValueError(f"{self.name} has agent_indicator: its probabilities depend on the seat")
        if not isinstance(policy.action_space, Discrete):
            raise ValueError(f"{self.name} takes actions of {policy.action_space}, which have no probabilities")
        scores = self._scores(self._policy_obs(observations, rows))
        if action_mask is not None:
            scores = np.where(action_mask[:, : scores.shape[1]] != 0, scores, -np.inf)
        if isinstance(policy, _ACTOR_CRITICS):
            probs = np.exp(scores - scores.max(axis=1, keepdims=True))
            probs /= probs.sum(axis=1, keepdims=True)
        else:
            probs = np.eye(scores.shape[1])[scores.argmax(axis=1)]
        # Other roles may have more actions than this one.
        padding = 0 if action_mask is None else action_mask.shape[1] - scores.shape[1]
        return np.pad(probs, ((0, 0), (0, padding)))

    def action_scores(self, observations: Array, *, rows: Array | None = None) -> Array:
        """Return PPO's logits or DQN's values of actions, float64 [B, actions]; arguments are those of `act`.

        Raises ValueError where actions are not discrete.
        """
        if not isinstance(self.policy.action_space, Discrete):
            raise ValueError(f"{self.name} takes actions of {self.policy.action_space}, which have no scores")
        return self._scores(self._policy_obs(observations, rows))

    def _scores(self, observations: Any) -> Array:
        """Return PPO's logits or DQN's values, float64 [B, actions]."""
        policy: Any = self.policy
        with torch.no_grad():
            obs = policy.obs_to_tensor(observations)[0]
            if isinstance(policy, _ACTOR_CRITICS):
                features: Any = policy.extract_features(obs, policy.pi_features_extractor)
                scores = policy.action_net(policy.mlp_extractor.forward_actor(features))
            else:
                scores = policy.q_net(obs)
        return np.asarray(scores.cpu().numpy(), np.float64)

    def _predict(self, observations: Any, action_mask: Array | None, deterministic: bool) -> Array:
        """Return legal actions [B, ...], without padding, for observations of `_policy_obs`."""
        policy: Any = self.policy
        if deterministic and self.compiled_policy is not None:
            return self.compiled_policy.act(observations, action_mask)
        if action_mask is None or not isinstance(policy.action_space, Discrete):
            return np.asarray(policy.predict(observations, deterministic=deterministic)[0])
        legal = action_mask[:, : int(policy.action_space.n)] != 0
        if isinstance(policy, MaskableActorCriticPolicy):
            return np.asarray(policy.predict(observations, deterministic=deterministic, action_masks=legal)[0])
        return np.asarray(np.where(legal, self._scores(observations), -np.inf).argmax(axis=1))


def load_policy(
    policy: BasePolicy,
    name: str,
    state_dict: StateDict,
    *,
    normalized: bool,
    indicator: int = 0,
    structure: ObservationStructure | None = None,
    encoder: Encoder | None = None,
    agent_class: type[_PolicyAgent] = Sb3Agent,  # type: ignore[assignment]
) -> _PolicyAgent:
    """Return an agent with a new policy and the saved parameters. Raises ValueError where they do not fit."""
    try:
        policy.load_state_dict(as_tensors(state_dict.tensors["policy"]))
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"the saved parameters do not fit this {name} policy: {error}") from None
    for member in ("policy", "normalizer", "encoder"):
        for key, array in state_dict.tensors.get(member, {}).items():
            if not np.isfinite(array).all():
                raise ValueError(f"the saved {key} is not finite")
    statistics = state_dict.tensors.get("normalizer")
    if statistics is not None:
        statistics = {key.removeprefix("observation_"): value for key, value in statistics.items()}
        statistics = {key: statistics[key] for key in ("mean", "var")} if "mean" in statistics else None
    shape = policy.observation_space.shape
    if normalized != (statistics is not None) or any(a.shape != shape for a in (statistics or {}).values()):
        raise ValueError(f"the saved observation statistics do not fit this {name} policy")
    return agent_class(name, policy, statistics, indicator=indicator, structure=structure, encoder=encoder)


def maskable_policy(policy_arguments: dict[str, Any]) -> tuple[type[BasePolicy], dict[str, Any]]:
    """Return SB3's policy class with action masks, and those of the policy's arguments that it accepts."""
    continuous_only = ("log_std_init", "use_sde")
    return MaskableActorCriticPolicy, {k: v for k, v in policy_arguments.items() if k not in continuous_only}


def require_discrete_actions(name: str, world: EnvSpec) -> None:
    """Raise ValueError unless the world's actions are discrete."""
    if not isinstance(world.action, Discrete):
        raise ValueError(f"{name} needs discrete actions; {world.name}'s are {world.action}: use agent=ppo")
