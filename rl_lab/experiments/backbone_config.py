"""Parse the key `backbone` of a scenario, a pretrained network with which a training begins, and find its folder.

`scenario_parsing` calls `parse_backbone`, which reads no files. `compose` calls `resolve`, which reads the folder and
adds its hash and its specification to the settings, so that a resumed run uses the same backbone. Nothing is written.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl_lab.core import agent_registry
from rl_lab.core.errors import UsageError, nearest, only_match
from rl_lab.experiments import run_folders
from rl_lab.experiments.scenario_yaml import ScenarioError, explain
from rl_lab.learners.pretraining.settings import BackboneSettings

if TYPE_CHECKING:
    from rl_lab.learners.pretraining.folder import SavedBackbone

PRETRAINING = "pretraining.json"  # the file of a run's folder that says it is a pretraining
KEYS = ("backbone", "mode", "parts")  # on the command line, the last two stand for backbone.mode and backbone.parts


def parse_backbone(
    target: str, recipe: dict[str, Any], overrides: list[Any]
) -> tuple[BackboneSettings | None, dict[str, Any], list[Any]]:
    """Return the scenario's backbone, the recipe without that key, and the other overrides. Raises ScenarioError."""
    of_backbone = [override for override in overrides if override.key_or_group.partition(".")[0] in KEYS]
    others = [override for override in overrides if override not in of_backbone]
    other_keys = {key: value for key, value in recipe.items() if key != "backbone"}
    node = recipe.get("backbone")
    node = {"path": node} if isinstance(node, str) else node
    for override in sorted(of_backbone, key=lambda each: each.key_or_group != "backbone"):
        value, key = override.value(), override.key_or_group.removeprefix("backbone.")
        if key == "backbone":
            node = {"path": value} if value is not None else None
        elif not isinstance(node, dict):
            raise ScenarioError(f"{override.input_line}: say which backbone first: backbone=PATH")
        else:
            node = {**node, key: _parse_parts(value) if key == "parts" else value}
    if node is None:
        return None, other_keys, others
    if not isinstance(node, dict) or not node.get("path"):
        raise ScenarioError(f"{target}: backbone is {node!r}; expected the path of a backbone's folder")
    return _typed_settings(target, node), other_keys, others


def _parse_parts(value: Any) -> Any:
    """Return the list of parts that a text such as trunk,policy or [trunk,policy] stands for."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.strip("[] ").split(",") if part.strip()]


def _typed_settings(target: str, node: dict[str, Any]) -> BackboneSettings:
    """Return the settings, with types and values checked. Raises ScenarioError."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    names = [field.name for field in dataclasses.fields(BackboneSettings)]
    for name in node:
        if name not in names:
            raise ScenarioError(f"{target}: unknown key 'backbone.{name}'; {nearest(str(name), names)}")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(BackboneSettings), node)
        values = OmegaConf.to_container(merged)
        settings = BackboneSettings(**{str(key): value for key, value in values.items()})  # type: ignore[union-attr]
        settings.check()
        if settings.spec:
            settings.backbone_spec()
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise ScenarioError(f"{target}: backbone: {explain(error)}") from None
    except KeyError as error:
        raise ScenarioError(f"{target}: backbone: spec: {error} is missing") from None
    return settings


def require_supported(agent: str, is_single: bool) -> None:
    """Raise ScenarioError where this agent takes no backbone, or where several policies are trained."""
    agents = [name for name in agent_registry.names() if _takes_backbone(name)]
    if agent not in agents:
        raise ScenarioError(f"agent {agent} takes no backbone; {', '.join(agents)} do")
    if not is_single:
        raise ScenarioError("backbone: goes with one policy, not with policies or league")


def _takes_backbone(agent: str) -> bool:
    return bool(getattr(agent_registry.load(agent), "TAKES_BACKBONE", False))


def resolve(settings: BackboneSettings) -> BackboneSettings:
    """Return the settings with the hash and the specification of the folder; they stay as they are where they have one.

    Raises as `find_backbone`.
    """
    if settings.spec:
        return settings
    saved = find_backbone(settings.path)
    return dataclasses.replace(settings, path=str(saved.path), sha256=saved.sha256, spec=saved.spec.as_json())


def find_backbone(text: str) -> SavedBackbone:
    """Return a backbone by its folder, or by the run of a pretraining, also by the beginning of its name in runs/.

    Raises UsageError where there is no such backbone, or where it is damaged.
    """
    from rl_lab.learners.pretraining import folder  # imports torch

    path = Path(text)
    if not path.exists():
        match = only_match(text, run_folders.run_folders()) if "/" not in text else None
        if match is None:
            raise UsageError(f"no backbone {text}; name a folder, or a run of `rl-lab pretrain`")
        path = match
    if (path / "run.json").is_file() and not (path / PRETRAINING).is_file():
        source_note = (
            f"; the backbone that it began with is {path / 'backbone'}" if (path / "backbone").is_dir() else ""
        )
        raise UsageError(f"{text} is no run of `rl-lab pretrain`{source_note}")
    return folder.load(path)
