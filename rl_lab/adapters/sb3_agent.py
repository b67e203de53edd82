"""Stable-Baselines3 policies as agents."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy

from ..agent import Saved
from ..batch import WorldInfo, Worlds
from ..world import Array
from .sb3 import indicated
from .sb3_greedy import Greedy
from .sb3_plan import StockError
from .sb3_state import as_tensors

_ACTORS = (ActorCriticPolicy, MaskableActorCriticPolicy)  # one is no kind of the other


class Sb3Agent:
    """An SB3 policy together with the observation statistics it was trained under.

    `indicator` is the number of agents it was told apart by, 0 where it was not. At the seats of one role it finds
    observations padded to the longest of all roles, and leaves the padding out.
    """

    def __init__(
        self,
        name: str,
        policy: BasePolicy,
        normalizer: dict[str, Array] | None,
        *,
        indicator: int = 0,
        clip: float = 10.0,
    ) -> None:
        self.name, self.policy, self.normalizer, self.clip = name, policy, normalizer, clip
        self.indicator = indicator
        self.places = np.arange(max(indicator, 1))  # of each seat, what the indicator shows
        self._action_shape = policy.action_space.shape or ()
        self._greedy: Greedy | None = None
        with suppress(StockError):
            self._greedy = Greedy(policy)
        policy.set_training_mode(False)

    def attend(self, worlds: Worlds) -> None:
        """Note how the seats of these worlds are numbered; it needs nothing else of them."""
        world, self._action_shape = worlds.world, worlds.actions.shape[2:]
        self.places = np.arange(len(world.agents))
        if self.indicator and self.indicator != len(world.agents):
            for seats in world.roles.values():  # it was trained at one role's seats
                self.places[list(seats)] = np.arange(len(seats)) % self.indicator

    def act(
        self,
        observations: Array,
        *,
        state: Any = None,
        legal: Array | None = None,
        rows: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """See `agent.Agent.act`; actions are clipped to the space as in training."""
        actions = self._decide(self._seen(observations, rows), legal, deterministic)
        if actions.shape[1:] != self._action_shape:  # others' actions have more numbers than this role's
            wide = np.zeros((len(actions), *self._action_shape), actions.dtype)
            wide[:, : actions.shape[1]] = actions
            actions = wide
        return actions, None

    def probabilities(self, observations: Array, legal: Array | None = None, *, rows: Array | None = None) -> Array:
        """Return how likely each action is where it draws, float64 [B, actions]; a DQN always takes the best.

        `legal` and `rows` are as in `act`. Raises ValueError where actions are not discrete, and where the policy is
        told whose observation it has, and `rows` do not say it.
        """
        policy: Any = self.policy
        if self.indicator > 1 and rows is None:
            raise ValueError(f"{self.name} has agent_indicator: its probabilities depend on the seat")
        if not isinstance(policy.action_space, Discrete):
            raise ValueError(f"{self.name} takes actions of {policy.action_space}, which have no probabilities")
        scores = self._scores(self._seen(observations, rows))
        if legal is not None:
            scores = np.where(legal[:, : scores.shape[1]] != 0, scores, -np.inf)
        if isinstance(policy, _ACTORS):
            chances = np.exp(scores - scores.max(axis=1, keepdims=True))
            chances /= chances.sum(axis=1, keepdims=True)
        else:
            chances = np.eye(scores.shape[1])[scores.argmax(axis=1)]
        beyond = 0 if legal is None else legal.shape[1] - scores.shape[1]  # others' actions are more than this role's
        return np.pad(chances, ((0, 0), (0, beyond)))

    def _scores(self, observations: Array) -> Array:
        """Return a PPO's logits or a DQN's values, float64 [B, actions]."""
        policy: Any = self.policy
        with torch.no_grad():
            shown = policy.obs_to_tensor(observations)[0]
            if isinstance(policy, _ACTORS):
                features: Any = policy.extract_features(shown, policy.pi_features_extractor)
                scores = policy.action_net(policy.mlp_extractor.forward_actor(features))
            else:
                scores = policy.q_net(shown)
        return np.asarray(scores.cpu().numpy(), np.float64)

    def _seen(self, observations: Array, rows: Array | None) -> Array:
        """Return the observations, [B, ...], as the policy was shown them in training."""
        shape = self.policy.observation_space.shape or ()
        if len(shape) == 1:
            observations = observations[:, : shape[0] - self.indicator]
        if self.indicator:
            numbers = np.arange(len(observations)) if rows is None else rows
            observations = indicated(observations, self.places[numbers % len(self.places)], self.indicator)
        if self.normalizer is not None:
            mean, var = self.normalizer["mean"], self.normalizer["var"]
            scaled = (observations - mean) / np.sqrt(var + 1e-8)
            observations = np.clip(scaled, -self.clip, self.clip).astype(np.float32)
        return observations

    def _decide(self, observations: Array, legal: Array | None, deterministic: bool) -> Array:
        policy: Any = self.policy
        if deterministic and self._greedy is not None:
            return self._greedy.act(observations, legal)
        if legal is None or not isinstance(policy.action_space, Discrete):
            return np.asarray(policy.predict(observations, deterministic=deterministic)[0])
        allowed = legal[:, : int(policy.action_space.n)] != 0
        if isinstance(policy, MaskableActorCriticPolicy):
            return np.asarray(policy.predict(observations, deterministic=deterministic, action_masks=allowed)[0])
        return np.asarray(np.where(allowed, self._scores(observations), -np.inf).argmax(axis=1))


def load_policy(policy: BasePolicy, name: str, saved: Saved, *, normalized: bool, indicator: int = 0) -> Sb3Agent:
    """Return the agent of a policy built anew and the parameters saved; ValueError where they do not fit."""
    try:
        policy.load_state_dict(as_tensors(saved.tensors["policy"]))
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"the saved parameters do not fit this {name} policy: {error}") from None
    for member in ("policy", "normalizer"):
        for key, array in saved.tensors.get(member, {}).items():
            if not np.isfinite(array).all():
                raise ValueError(f"the saved {key} is not finite")
    statistics = saved.tensors.get("normalizer")
    if statistics is not None:
        statistics = {key.removeprefix("observation_"): value for key, value in statistics.items()}
        statistics = {key: statistics[key] for key in ("mean", "var")} if "mean" in statistics else None
    shape = policy.observation_space.shape
    if normalized != (statistics is not None) or any(a.shape != shape for a in (statistics or {}).values()):
        raise ValueError(f"the saved observation statistics do not fit this {name} policy")
    return Sb3Agent(name, policy, statistics, indicator=indicator)


def maskable(policy_arguments: dict[str, Any]) -> tuple[type[BasePolicy], dict[str, Any]]:
    """Return the policy class whose actions can be masked, and those of the arguments that it takes."""
    left_out = ("log_std_init", "use_sde")  # of continuous actions
    return MaskableActorCriticPolicy, {k: v for k, v in policy_arguments.items() if k not in left_out}


def only_discrete(name: str, world: WorldInfo) -> None:
    """Raise ValueError unless the world's actions are discrete."""
    if not isinstance(world.action, Discrete):
        raise ValueError(f"{name} needs discrete actions; {world.name}'s are {world.action}: use agent=ppo")
