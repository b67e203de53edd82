"""The recurrent policy of PPO: a GRU between the features and the heads, with a state for each row.

`RecurrentPPO` collects rollouts with it, one step at a time, and learns from sequences of steps; `RecurrentAgent` plays
with it. The policy itself keeps no states: its methods receive them and return the next ones. A row's state is the
GRU's output after the last step in which the row acted, and zero before the first step of an episode.

Shapes: B rows, S sequences of L steps, H units of the GRU.

Source: Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder" (the GRU); Hausknecht and Stone
2015, "Deep recurrent Q-learning for partially observable MDPs" (a recurrent layer in front of the heads)
"""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from torch import nn

from rl_lab.adapters.structured import structure_of
from rl_lab.core.protocols import EnvSpec
from rl_lab.learners.sb3.policies import policy_arguments

_ILLEGAL_LOGIT = -1e8  # its probability is 0 in float32


class RecurrentPolicy(ActorCriticPolicy):
    """SB3's actor-critic policy with a GRU that actor and critic share. `recurrent_size` is H."""

    def __init__(self, *args: Any, recurrent_size: int = 64, **kwargs: Any) -> None:
        self.recurrent_size = recurrent_size
        super().__init__(*args, **kwargs)

    def _build_mlp_extractor(self) -> None:
        """Make the GRU and the hidden layers behind it; SB3's constructor calls this, and initialises the latter."""
        self.gru = nn.GRUCell(self.features_dim, self.recurrent_size)
        if self.ortho_init:
            for weights in (self.gru.weight_ih, self.gru.weight_hh):
                for gate in weights.data.chunk(3):
                    nn.init.orthogonal_(gate)
            nn.init.zeros_(self.gru.bias_ih)
            nn.init.zeros_(self.gru.bias_hh)
        arguments: dict[str, Any] = {"net_arch": self.net_arch, "activation_fn": self.activation_fn}
        self.mlp_extractor = MlpExtractor(self.recurrent_size, **arguments, device=self.device)

    def next_states(self, observations: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Return the states [B, H] after these observations [B, ...]; they are the input of the heads, too."""
        features: Any = self.extract_features(observations)
        next_states: torch.Tensor = self.gru(features, states)
        return next_states

    def unroll(
        self,
        observations: torch.Tensor,
        states: torch.Tensor,
        episode_starts: torch.Tensor,
        updates_state: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the states after each step of sequences, [L, S, H], and after the last one, [S, H].

        Args:
            observations: [L, S, ...].
            states: [S, H], before the first step.
            episode_starts: bool [L, S]; the state is set to zero before such a step.
            updates_state: bool [L, S]; where it is False, the step does not change the state.
        """
        length, count = updates_state.shape
        features: Any = self.extract_features(observations.flatten(0, 1))
        outputs = []
        for step_features, starts, updates in zip(
            features.view(length, count, -1), episode_starts, updates_state, strict=True
        ):
            states = states.masked_fill(starts[:, None], 0.0)
            states = torch.where(updates[:, None], self.gru(step_features, states), states)
            outputs.append(states)
        return torch.stack(outputs), states

    def distribution(self, states: torch.Tensor, action_masks: torch.Tensor | None = None) -> Distribution:
        """Return the distribution of actions in these states [B, H]; `action_masks` are [B, actions], 1 where legal."""
        latents = self.mlp_extractor.forward_actor(states)
        if action_masks is None:
            return self._get_action_dist_from_latent(latents)
        logits = self.action_net(latents).masked_fill(~action_masks.bool(), _ILLEGAL_LOGIT)
        distribution: Any = self.action_dist
        masked: Distribution = distribution.proba_distribution(action_logits=logits)
        return masked

    def values(self, states: torch.Tensor) -> torch.Tensor:
        """Return the critic's values, float32 [B], in these states [B, H]."""
        values: torch.Tensor = self.value_net(self.mlp_extractor.forward_critic(states))
        return values.flatten()


def recurrent_policy_arguments(
    world: EnvSpec, net_arch: list[int], activation: str, recurrent_size: int
) -> dict[str, Any]:
    """Return the arguments of `RecurrentPolicy`. Raises ValueError as `policy_arguments`, and for Dicts and images."""
    if (structure := structure_of(world)) is not None:
        raise ValueError(f"policy=gru: {world.name} observes a {structure.kind}; it takes one array of numbers")
    return {**policy_arguments(world, "mlp", net_arch, activation), "recurrent_size": recurrent_size}


def check_sequences(n_steps: int, batch_size: int, sequence_length: int, burn_in: int) -> int:
    """Return the length of the sequences of a rollout, L: at most its number of steps.

    Raises ValueError unless rollouts and minibatches consist of whole sequences, and for a burn-in without steps.
    """
    length = min(sequence_length, n_steps)
    if burn_in and length == n_steps:
        raise ValueError(
            f"burn_in={burn_in}: no steps precede a sequence that is a whole rollout; choose a sequence_length below "
            f"n_steps={n_steps}, or burn_in=0"
        )
    for name, value in (("n_steps", n_steps), ("batch_size", batch_size)):
        if value % length:
            raise ValueError(f"{name}={value}: expected a multiple of sequence_length={length}")
    return length
