"""Backbones in Stable-Baselines3's policies: how one is built in, loaded, frozen, and given its own learning rate.

SB3 initialises all weights at the end of a policy's construction, so parameters are loaded after it. SB3 also sets the
learning rate of all parameter groups before each update, so that of the trunk is set again before each optimizer step.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from rl_lab.core.agent import StateDict
from rl_lab.core.errors import UsageError
from rl_lab.core.protocols import EnvSpec
from rl_lab.core.world import Array
from rl_lab.learners.pretraining import folder
from rl_lab.learners.pretraining.contract import contract_of, require_same
from rl_lab.learners.pretraining.folder import SavedBackbone
from rl_lab.learners.pretraining.model import ACTIVATIONS, tensor_hash
from rl_lab.learners.pretraining.settings import BackboneSettings
from rl_lab.learners.pretraining.spec import BackboneSpec, action_contract
from rl_lab.learners.sb3.backbone_extractor import BackboneExtractor
from rl_lab.learners.sb3.encoder import Encoder
from rl_lab.learners.sb3.policies import build_policy
from rl_lab.learners.sb3.teacher import Teacher
from rl_lab.learners.sb3.training_state import as_arrays, as_tensors


def backbone_policy_arguments(settings: BackboneSettings, world: EnvSpec) -> dict[str, Any]:
    """Return SB3's policy_kwargs for a policy on a backbone's features.

    The backbone takes the place of the agent's policy, net_arch and activation. Raises ValueError where the world's
    observations are not those of the backbone.
    """
    spec = settings.backbone_spec()
    require_same(spec.observation, contract_of(world.observation), f"backbone {settings.path}", world.name)
    heads = {"net_arch": list(spec.net_arch), "activation_fn": ACTIVATIONS[spec.activation]}
    if settings.mode == "encoded":
        return heads
    return heads | {
        "features_extractor_class": BackboneExtractor,
        "features_extractor_kwargs": {"network": spec.network},
        "normalize_images": False,  # the backbone scales images itself
    }


class BackboneHandoff:
    """The hand-off of a saved backbone to an SB3 algorithm. Raises UsageError where the folder has changed."""

    def __init__(self, settings: BackboneSettings) -> None:
        self.settings, self.saved = settings, load_saved(settings)
        self.parts: tuple[str, ...] = ()
        self._model: Any = None
        self._actor: list[nn.Parameter] = []  # of the policy head, where the critic learns before it
        self._teacher: Teacher | None = None

    def encoder(self, device: str) -> Encoder | None:
        """Return what encodes the observations, None where the policy has the trunk."""
        return Encoder(self.saved.spec, self.saved.part("trunk"), device) if self.settings.mode == "encoded" else None

    def attach(self, model: Any) -> None:
        """Load the parts into the policy of a new algorithm, verify them, and set up the optimizer.

        Raises ValueError for parts that the folder lacks or the agent has not, and for another world's actions.
        """
        self._model, policy = model, model.policy
        self.parts = load_parts(policy, self.settings, self.saved)
        self._set_up_critic_and_teacher(_modules(policy, encoded=self.settings.mode == "encoded"))
        self._trunk = trunk_parameters(policy, self.settings)
        self._set_up_optimizer()
        self.begin_iteration(0)

    def _set_up_critic_and_teacher(self, modules: dict[str, list[nn.Module]]) -> None:
        """Collect what a warm-up of the critic freezes, and add the divergence from the teacher to the loss.

        Raises ValueError for an agent without a critic, and for a teacher without a policy.
        """
        settings, model = self.settings, self._model
        if (settings.critic_warmup or settings.kl_coef) and not _is_actor_critic(model.policy):
            raise ValueError("backbone.critic_warmup and backbone.kl_coef are for agent=ppo")
        if settings.critic_warmup:
            self._actor = [p for module in modules["policy"] for p in module.parameters()]
            self._actor += [model.policy.log_std] if hasattr(model.policy, "log_std") else []
        if settings.kl_coef:
            if "policy" not in self.parts:
                raise ValueError("backbone.kl_coef needs the backbone's policy: add it to parts")
            if settings.mode == "encoded":
                raise ValueError("backbone.kl_coef needs raw observations: use mode=frozen in place of encoded")
            self._teacher = Teacher(self.saved, model)
            model.backend = "Stable-Baselines3's own, because the divergence from a teacher is in its loss"

    def _set_up_optimizer(self) -> None:
        """Give the trunk a group of parameters of its own where it has a learning rate of its own, or is frozen."""
        settings, policy = self.settings, self._model.policy
        if settings.mode == "encoded" or (settings.mode == "finetune" and settings.learning_rate is None):
            return
        own = {id(parameter) for parameter in self._trunk}
        others = [p for group in policy.optimizer.param_groups for p in group["params"] if id(p) not in own]
        groups: list[dict[str, Any]] = [{"params": others}]
        if settings.mode != "frozen":
            groups.append({"params": self._trunk})
        policy.optimizer = policy.optimizer_class(groups, lr=self._model.lr_schedule(1.0), **policy.optimizer_kwargs)
        if settings.learning_rate is not None:
            initial = float(self._model.lr_schedule(1.0))
            self._rate_ratio = settings.learning_rate / initial if initial else 0.0
            policy.optimizer.register_step_pre_hook(self._set_trunk_rate)

    def _set_trunk_rate(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Set the trunk's learning rate, which has the schedule of the others': SB3 has just set it to theirs."""
        others, trunk = optimizer.param_groups
        trunk["lr"] = others["lr"] * self._rate_ratio

    def begin_iteration(self, steps: int) -> None:
        """Freeze parts, or let them learn, and weight the teacher, as the settings say after so many steps."""
        settings = self.settings
        is_warmup = steps < settings.critic_warmup
        _freeze(self._trunk, is_warmup or settings.mode == "frozen" or steps < settings.freeze_steps)
        _freeze(self._actor, is_warmup)
        if self._teacher is not None:
            self._teacher.coefficient = settings.kl_coef * max(0.0, 1.0 - steps / settings.kl_steps)

    def describe(self) -> str:
        """Return what the first line of a training says about the backbone."""
        return describe(self._model.policy, self.settings, self.saved)


def load_saved(settings: BackboneSettings) -> SavedBackbone:
    """Return the backbone of these settings. Raises UsageError where its folder has changed."""
    saved = folder.load(Path(settings.path))
    if settings.sha256 and saved.sha256 != settings.sha256:
        now, then = saved.sha256[:12], settings.sha256[:12]
        raise UsageError(f"{settings.path} is not the backbone that it was: SHA-256 {now}..., not {then}...")
    return saved


def load_parts(policy: Any, settings: BackboneSettings, saved: SavedBackbone) -> tuple[str, ...]:
    """Load the parts of a backbone into a policy that has its network, and verify them; return which these are.

    Raises ValueError for parts that the folder lacks or the policy has not, and for another world's actions.
    """
    spec, parts = saved.spec, _parts(policy, settings, saved.spec)
    if "policy" in parts:
        offered = action_contract(policy.action_space)
        if spec.action != offered:
            raise ValueError(f"backbone {settings.path} has a policy for {spec.action}, not for {offered}")
    modules = _modules(policy, encoded=settings.mode == "encoded")
    _copy_parts(modules, saved, tuple(part for part in parts if part in modules))
    if "policy" in parts:
        _load_log_std(policy, saved)
    if not _is_actor_critic(policy):
        policy.q_net_target.load_state_dict(policy.q_net.state_dict())
    return parts


def _parts(policy: Any, settings: BackboneSettings, spec: BackboneSpec) -> tuple[str, ...]:
    is_actor_critic = _is_actor_critic(policy)
    available = ("trunk", *spec.heads) if is_actor_critic else ("trunk",)
    for part in settings.parts:
        if part not in available:
            reason = "the folder has none" if is_actor_critic else "a Q-network has no such head"
            raise ValueError(f"parts: no {part}: {reason}; there is {', '.join(available)}")
    return tuple(settings.parts) or available


def trunk_parameters(policy: Any, settings: BackboneSettings) -> list[nn.Parameter]:
    """Return the parameters of a policy's trunk, none where an encoder has it."""
    modules = _modules(policy, encoded=settings.mode == "encoded")
    return [parameter for module in modules.get("trunk", []) for parameter in module.parameters()]


def describe(policy: Any, settings: BackboneSettings, saved: SavedBackbone) -> str:
    """Return what the first line of a training says about the backbone of its policy."""
    parts = _parts(policy, settings, saved.spec)
    return f"backbone: {saved.spec.network.kind} {saved.sha256[:12]}, {settings.mode}, parts {'+'.join(parts)}"


def _freeze(parameters: list[nn.Parameter], frozen: bool) -> None:
    """Let parameters learn, or not. Adam leaves a parameter without a gradient alone."""
    for parameter in parameters:
        parameter.requires_grad_(not frozen)
        if frozen:
            parameter.grad = None


def actor_critic_state(settings: BackboneSettings, world: EnvSpec, saved: SavedBackbone) -> dict[str, Array]:
    """Return the parameters of PPO's policy for this world with all parts of a saved backbone, by name.

    A head that the backbone lacks has new parameters.
    """
    arguments = backbone_policy_arguments(settings, world)
    kind: type[Any] = MaskableActorCriticPolicy if world.has_action_mask else ActorCriticPolicy
    policy: Any = build_policy(kind, world, **arguments)
    _copy_parts(_modules(policy), saved, ("trunk", *saved.spec.heads))
    _load_log_std(policy, saved)
    return as_arrays(policy.state_dict())


def handoff(settings: BackboneSettings | None, config: Any) -> BackboneHandoff | None:
    """Return the hand-off for an agent with these hyperparameters, None without a backbone.

    Raises ValueError for hyperparameters that change the observations which the backbone would get.
    """
    for name in ("normalize_observations", "agent_indicator"):
        if settings is not None and getattr(config, name, False):
            raise ValueError(f"agent.{name} changes the observations that a backbone was trained on: leave it out")
    return None if settings is None else BackboneHandoff(settings)


def saved_encoder(settings: BackboneSettings | None, state_dict: StateDict, device: str) -> Encoder | None:
    """Return the encoder of a saved agent's observations, None where its policy gets them raw.

    Raises ValueError or KeyError where the saved parameters are not those of the backbone.
    """
    if settings is None or settings.mode != "encoded":
        return None
    return Encoder(settings.backbone_spec(), as_tensors(state_dict.tensors["encoder"]), device)


def _is_actor_critic(policy: Any) -> bool:
    return hasattr(policy, "action_net")


def _modules(policy: Any, *, encoded: bool = False) -> dict[str, list[nn.Module]]:
    """Return the modules of a policy by part, in the order of a backbone's layers; an encoder's trunk is none."""
    is_actor_critic = _is_actor_critic(policy)
    network = policy if is_actor_critic else policy.q_net
    trunk = {} if encoded else {"trunk": [network.features_extractor.backbone]}
    if not is_actor_critic:
        return trunk
    return trunk | {
        "policy": [policy.mlp_extractor.policy_net, policy.action_net],
        "value": [policy.mlp_extractor.value_net, policy.value_net],
    }


def _copy_parts(modules: Mapping[str, list[nn.Module]], saved: SavedBackbone, parts: tuple[str, ...]) -> None:
    for part in parts:
        _load(modules[part], saved.part(part), part)


def _load_log_std(policy: Any, saved: SavedBackbone) -> None:
    """Copy the deviation of a Gaussian policy; do nothing for discrete actions."""
    if "log_std" in saved.tensors:
        with torch.no_grad():
            policy.log_std.copy_(torch.from_numpy(saved.tensors["log_std"]))


def _load(modules: list[nn.Module], saved: Mapping[str, torch.Tensor], part: str) -> None:
    """Copy a part's parameters and buffers into modules that have the same ones in the same order, and verify them.

    Raises ValueError where they do not fit.
    """
    targets = [tensor for module in modules for tensor in module.state_dict(keep_vars=True).values()]
    names = list(saved)
    if [tuple(t.shape) for t in targets] != [tuple(s.shape) for s in saved.values()]:
        raise ValueError(f"the backbone's {part} does not fit this policy")
    with torch.no_grad():
        for target, value in zip(targets, saved.values(), strict=True):
            target.copy_(value)
    if tensor_hash(dict(zip(names, targets, strict=True))) != tensor_hash(saved):
        raise ValueError(f"the backbone's {part} was not loaded bit for bit")
