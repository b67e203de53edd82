"""Suggest a key for an unknown one: the nearest of ours, or ours for a name that another library uses.

`suggestion` is called where a recipe or an override has an unknown key; its text becomes part of the error message.
"""

from __future__ import annotations

from collections.abc import Iterable

from rl_lab.core.errors import nearest

# The last part of a key as Stable-Baselines3, RLlib, CleanRL or Gymnasium write it -> ours.
_SYNONYMS = {
    "lr": "agent.learning_rate",
    "learning_rate_start": "agent.learning_rate",
    "discount": "agent.gamma",
    "discount_factor": "agent.gamma",
    "lambda": "agent.gae_lambda",
    "lam": "agent.gae_lambda",
    "lambda_": "agent.gae_lambda",
    "gae": "agent.gae_lambda",
    "clip": "agent.clip_range",
    "clip_coef": "agent.clip_range",
    "clip_param": "agent.clip_range",
    "entropy_coef": "agent.ent_coef",
    "entropy_coeff": "agent.ent_coef",
    "value_coef": "agent.vf_coef",
    "vf_loss_coeff": "agent.vf_coef",
    "grad_clip": "agent.max_grad_norm",
    "epochs": "agent.n_epochs",
    "num_epochs": "agent.n_epochs",
    "update_epochs": "agent.n_epochs",
    "num_sgd_iter": "agent.n_epochs",
    "num_steps": "agent.n_steps",
    "rollout_length": "agent.n_steps",
    "rollout_fragment_length": "agent.n_steps",
    "minibatch_size": "agent.batch_size",
    "sgd_minibatch_size": "agent.batch_size",
    "train_batch_size": "agent.batch_size",
    "hidden_sizes": "agent.net_arch",
    "fcnet_hiddens": "agent.net_arch",
    "hidden_layers": "agent.net_arch",
    "activation_fn": "agent.activation",
    "buffer": "agent.buffer_size",
    "replay_size": "agent.buffer_size",
    "epsilon": "agent.exploration_final_eps",
    "eps": "agent.exploration_final_eps",
    "target_update": "agent.target_update_interval",
    "double_dqn": "agent.double_q",
    "double": "agent.double_q",
    "total_timesteps": "budget",
    "total_steps": "budget",
    "timesteps": "budget",
    "num_timesteps": "budget",
    "n_timesteps": "budget",
    "max_steps": "budget",
    "steps": "budget",
    "num_envs": "worlds",
    "n_envs": "worlds",
    "nenvs": "worlds",
    "envs": "worlds",
    "env": "world",
    "env_id": "world",
    "env_name": "world",
    "environment": "world",
    "game": "world",
    "algo": "agent",
    "algorithm": "agent",
    "model": "agent",
    "episodes": "evaluation.episodes",
    "eval_episodes": "evaluation.episodes",
    "n_eval_episodes": "evaluation.episodes",
    "deterministic": "evaluation.deterministic",
    "eval_freq": "evaluation.selections",
    "save_freq": "checkpoint.steps",
    "random_seed": "seed",
    "output_dir": "run_dir",
    "log_dir": "run_dir",
    "logdir": "run_dir",
    "out": "run_dir",
    "n_jobs": "threads",
    "capture_video": "video",
    "record_video": "video",
}


def suggestion(key: str, siblings: Iterable[str], paths: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for an unknown key of a scenario, or a list of the valid keys.

    Args:
        key: as typed, dots between its parts.
        siblings: the valid keys of the same section, for a typing error.
        paths: every valid key in full, for the name that another library uses and for a key without its section.
    """
    valid_keys = list(paths)
    name = key.rpartition(".")[2].lower().replace("-", "_")
    our_key = _SYNONYMS.get(name)
    if our_key in valid_keys:
        return f"did you mean {our_key!r}?"
    in_other_section = [path for path in valid_keys if path.rpartition(".")[2] == name]
    if in_other_section:
        return f"did you mean {in_other_section[0]!r}?"
    return nearest(key, siblings)
