"""The sequence policy: a causal transformer over returns to go, observations and actions, a Decision Transformer.

The transformer is Hugging Face Transformers', made from a configuration with new parameters. Nothing is downloaded.

Source: Chen et al. 2021, "Decision Transformer: reinforcement learning via sequence modeling".

Shapes: B rows, T transitions of a context, observations of D numbers, C numbers of an action: its components, or one
for each discrete action.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

from rl_lab.core.protocols import EnvSpec
from rl_lab.learners.generative.requirement import require
from rl_lab.learners.generative.scaler import Scaler
from rl_lab.learners.generative.settings import SequenceConfig

_MOST_STEPS = 4096  # rows of the table of steps; later steps of an episode have the last one
STEP_TABLE = "transformer.embed_timestep.weight"


class Context(NamedTuple):
    """The last transitions of B rows. What follows the present one in a row has no effect on its action."""

    returns_to_go: torch.Tensor  # float32 [B, T], the rewards from each observation on
    observations: torch.Tensor  # float32 [B, T, D]
    actions: torch.Tensor  # int64 [B, T] or float32 [B, T, C]
    steps: torch.Tensor  # int64 [B, T], since the beginning of the episode


class SequencePolicy(nn.Module):
    """A transformer with the scales of its inputs. Raises UsageError where Transformers is missing."""

    return_scale: torch.Tensor

    def __init__(
        self, observation_size: int, action: Discrete[Any] | Box, num_steps: int, config: SequenceConfig
    ) -> None:
        super().__init__()
        self.is_discrete = isinstance(action, Discrete)
        self.action_size = int(action.n) if isinstance(action, Discrete) else action.shape[0]
        self.num_steps = num_steps
        self.transformer = _transformer(observation_size, self.action_size, self.num_steps, self.is_discrete, config)
        self.observations = Scaler(observation_size)
        self.actions = Scaler(self.action_size)  # of continuous actions
        self.register_buffer("return_scale", torch.ones(()))

    def forward(self, context: Context) -> torch.Tensor:
        """Return scores of discrete actions, or scaled continuous ones, float32 [B, T, C]."""
        if self.is_discrete:
            actions = nn.functional.one_hot(context.actions, self.action_size).float()
        else:
            actions = self.actions(context.actions)
        output = self.transformer(
            states=self.observations(context.observations),
            actions=actions,
            returns_to_go=(context.returns_to_go / self.return_scale)[:, :, None],
            timesteps=context.steps.clamp(max=self.num_steps - 1),
            attention_mask=torch.ones_like(context.steps),
        )
        predictions: torch.Tensor = output.action_preds
        return predictions


def make_policy(world: EnvSpec, config: SequenceConfig, num_steps: int | None = None) -> SequencePolicy:
    """Return a policy with new parameters for a world.

    `num_steps` is the number of rows in the table of steps, by default that of the longest episode.
    """
    numbers = int(torch.Size(world.observation.shape).numel())
    return SequencePolicy(numbers, world.action, num_steps or min(world.horizon or _MOST_STEPS, _MOST_STEPS), config)


def _transformer(
    observation_size: int, action_size: int, num_steps: int, is_discrete: bool, config: SequenceConfig
) -> nn.Module:
    library = require("transformers", "agent sequence")
    settings = library.DecisionTransformerConfig(
        state_dim=observation_size,
        act_dim=action_size,
        hidden_size=config.width,
        max_ep_len=num_steps,
        action_tanh=not is_discrete,
        n_positions=1,  # the table of steps takes the place of positions
        n_layer=config.layers,
        n_head=config.heads,
        resid_pdrop=config.dropout,
        embd_pdrop=config.dropout,
        attn_pdrop=config.dropout,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    transformer: nn.Module = library.DecisionTransformerModel(settings)
    # What is not used has no gradient, and no place in a file.
    transformer.predict_state = transformer.predict_return = nn.Identity()
    transformer.encoder.wte = nn.Identity()  # type: ignore[union-attr]
    return transformer
