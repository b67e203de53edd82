"""The settings of `rl-lab pretrain`: parsed from key=value, checked, and written to pretraining.json in the run.

`parse_settings` is for the command line; `write` and `read` are for the file, by which `rl-lab resume` knows that a run
is a pretraining and how to continue it. The file may come from a stranger: `read` checks all of its values.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rl_lab.core.errors import UsageError, nearest, one_line
from rl_lab.core.files import atomic_write_bytes
from rl_lab.core.untrusted import checked_type, read_json
from rl_lab.experiments.backbone_config import PRETRAINING
from rl_lab.experiments.scenario_validation import DEVICES
from rl_lab.experiments.scenario_yaml import explain
from rl_lab.learners.pretraining import methods
from rl_lab.learners.pretraining.spec import ACTIVATION_NAMES, MOST_LAYERS
from rl_lab.learners.pretraining.trainer import TrainerConfig

_FORMAT = {"format": "rl_lab.pretraining", "version": 1}
# Keys whose values are taken as they are typed.
TEXT_KEYS = ("data", "backbone", "world", "device", "run_dir", "activation")
# Fields that no key of the same name sets: backbone.KEY, evaluation.episodes and agent.KEY do.
_FIELDS_WITHOUT_KEY = ("network", "episodes", "agent")
# Methods that train an agent, agents/METHOD.py, in place of a backbone; see `policy_pretraining`.
POLICY_METHODS = ("diffusion", "sequence")
LEVELS = "levels"  # the method that trains a model of levels; see `level_pretraining`
TRAINER_KEYS = ("epochs", "patience", "batch_size", "learning_rate", "weight_decay", "max_grad_norm", "validation")
_MODEL_KEYS = ("data", "world", "run_dir", "device", "seed", "threads", *TRAINER_KEYS)
_MAX_BYTES = 2**20
_Settings = TypeVar("_Settings")


@dataclass(frozen=True)
class PretrainSettings(TrainerConfig):
    """The settings of a pretraining, besides the method and the hyperparameters in `TrainerConfig`."""

    data: str = ""
    backbone: str = "mlp"  # a name in agents/backbones/, or the folder of a backbone to begin with
    network: dict[str, Any] = field(default_factory=dict)  # hyperparameters of a new backbone, backbone.KEY=VALUE
    net_arch: list[int] = field(default_factory=list)  # hidden layers of the head
    activation: str = "tanh"  # of those layers
    agent: dict[str, Any] = field(
        default_factory=dict
    )  # hyperparameters of an agent or of a model of levels, where one is trained
    world: str = ""  # empty: the data's
    seed: int = 0
    device: str = "auto"
    threads: int = 1
    episodes: int = 100  # of the evaluation of an agent that was cloned; evaluation.episodes=N
    run_dir: str | None = None

    def trainer(self) -> TrainerConfig:
        """Return the hyperparameters of the trainer."""
        return TrainerConfig(**{each.name: getattr(self, each.name) for each in dataclasses.fields(TrainerConfig)})


def parse_settings(method: str, lines: Iterable[str]) -> PretrainSettings:
    """Return the settings that key=value lines describe. Raises UsageError, in one line, for wrong ones."""
    if method not in methods.NAMES:
        raise UsageError(
            f"no method {method!r}; {nearest(method, [*methods.NAMES, *POLICY_METHODS, LEVELS, 'dagger', 'tree'])}"
        )
    node = parse_lines(PretrainSettings, lines)
    if not node.get("data"):
        raise UsageError("say which data set to learn from: data=DIR, which rl-lab data collect has written")
    return check_ranges(as_settings(PretrainSettings, node))


def parse_lines(settings: type[PretrainSettings], lines: Iterable[str]) -> dict[str, Any]:
    """Return the values of key=value lines by the names of fields. Raises UsageError for unknown keys."""
    keys = [each.name for each in dataclasses.fields(settings) if each.name not in _FIELDS_WITHOUT_KEY]
    node: dict[str, Any] = {"network": {}}
    for line in lines:
        key, equals, text = line.partition("=")
        if not equals:
            raise UsageError(f"{line!r} is not a setting; write key=value")
        if key.startswith("backbone."):
            node["network"][key.removeprefix("backbone.")] = parse_value(line, text)
        elif key == "evaluation.episodes":
            node["episodes"] = parse_value(line, text)
        elif key in keys:
            node[key] = text if key in TEXT_KEYS else parse_value(line, text)
        else:
            raise UsageError(f"pretrain has no key {key!r}; {nearest(key, [*keys, 'evaluation.episodes'])}")
    return node


def parse_model_lines(method: str, lines: Iterable[str], own_keys: Iterable[str], *, is_agent: bool) -> dict[str, Any]:
    """Return the values of key=value lines for a method that trains another model than a backbone.

    `own_keys` are the hyperparameters of the model, whose values are under "agent". Raises UsageError for unknown keys.
    """
    own = [key for key in own_keys if key not in _MODEL_KEYS]
    valid_keys = [*_MODEL_KEYS, *own, *(["evaluation.episodes"] if is_agent else [])]
    node: dict[str, Any] = {"agent": {}}
    for line in lines:
        key, equals, text = line.partition("=")
        if not equals:
            raise UsageError(f"{line!r} is not a setting; write key=value")
        if key not in valid_keys:
            raise UsageError(f"pretrain {method} has no key {key!r}; {nearest(key, valid_keys)}")
        section = node["agent"] if key in own else node
        section[key.removeprefix("evaluation.")] = text if key in TEXT_KEYS else parse_value(line, text)
    return node


def parse_value(line: str, text: str) -> Any:
    """Return the value that `text` says: a number, a bool, a text or a list. `line` is the setting, for messages.

    Raises UsageError where it is none of these, or has an interpolation of OmegaConf.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if "${" in text:
        raise UsageError(f"{line}: ${{...}} is refused: settings are data")
    try:
        return OmegaConf.to_container(OmegaConf.create(f"value: {text}"))["value"]  # type: ignore[call-overload, index]
    except (OmegaConfBaseException, YAMLError, ValueError, TypeError, RecursionError):
        raise UsageError(f"cannot read {line!r}: a value is a number, true, false, a text or [A, B]") from None


def as_settings(settings: type[_Settings], node: dict[str, Any]) -> _Settings:
    """Return a dataclass with these values, whose types are checked. Raises UsageError."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        values: Any = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(settings), node))
        return settings(**values)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise UsageError(explain(error)) from None


def check_ranges(settings: PretrainSettings) -> PretrainSettings:
    """Return the settings. Raises UsageError for a value out of range; the trainer checks its own."""
    if not 0.0 <= settings.validation < 1.0:
        raise UsageError(f"validation={settings.validation}: expected a number from 0 to below 1")
    for key, low, high in (("seed", 0, 2**31 - 1), ("threads", 1, 1024), ("episodes", 1, 2**24)):
        if not low <= getattr(settings, key) <= high:
            raise UsageError(f"{key}={getattr(settings, key)}: expected {low} to {high}")
    if settings.device not in DEVICES:
        raise UsageError(f"device={settings.device!r}; {nearest(settings.device, DEVICES)}")
    if settings.activation not in ACTIVATION_NAMES:
        raise UsageError(f"activation={settings.activation!r}; {nearest(settings.activation, ACTIVATION_NAMES)}")
    if len(settings.net_arch) > MOST_LAYERS or any(not 1 <= units <= 2**14 for units in settings.net_arch):
        text = f"{settings.net_arch}"[:80]
        raise UsageError(f"net_arch={text}: expected {MOST_LAYERS} layers at most, of 1 to {2**14} units")
    return settings


def write(folder: Path, method: str, settings: PretrainSettings, data_hash: str) -> None:
    """Write pretraining.json into a run's folder. Raises OSError."""
    record = {**_FORMAT, "method": method, "data_sha256": data_hash, "settings": dataclasses.asdict(settings)}
    atomic_write_bytes(folder / PRETRAINING, (json.dumps(record, indent=2) + "\n").encode())


def is_pretraining(folder: Path) -> bool:
    """Return whether a run's folder is that of a pretraining."""
    return (folder / PRETRAINING).is_file()


def read(folder: Path) -> tuple[str, PretrainSettings, str]:
    """Return the method, the settings and the hash of the data. Raises UsageError where the file is damaged."""
    try:
        record = checked_type(read_json(folder / PRETRAINING, _MAX_BYTES), "it", dict)
        if any(record.get(key) != value for key, value in _FORMAT.items()):
            raise ValueError(f"it is {record.get('format')!r:.40} version {record.get('version')!r:.20}")
        method = checked_type(record["method"], "method", str)
        if method not in (*methods.NAMES, *POLICY_METHODS, LEVELS):
            raise ValueError(f"method is {method!r:.40}")
        settings = check_ranges(as_settings(PretrainSettings, checked_type(record["settings"], "settings", dict)))
        return method, settings, checked_type(record["data_sha256"], "data_sha256", str)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
        raise UsageError(f"{folder / PRETRAINING} is damaged: {one_line(reason)[:160]}") from None
