"""The metadata of a data set: what is in it, as Minari's metadata.json has it and with the lab's own entries."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gymnasium.spaces import Box, Discrete

from rl_lab.core.errors import UsageError
from rl_lab.core.untrusted import checked_int, checked_type, read_json
from rl_lab.datasets import columns, spaces

MINARI_VERSION = "0.5.4"  # whose format is written
FILE = "metadata.json"
_LARGEST_FILE = 2**30  # bytes; the bounds of an observation space of pictures are long
_FORMATS = ("arrow", "parquet")


@dataclass(frozen=True)
class Metadata:
    """The description of a data set, without its episodes."""

    observation_space: Box
    action_space: Discrete[Any] | Box
    mask_size: int  # of a row of action masks; 0 where every action is legal
    world: str  # the world's name in the lab; "" for data of others
    policies: tuple[str, ...]  # names of the policies that acted
    info: dict[str, Any]  # whatever else is recorded: the world's parameters, the seed, the noise
    num_episodes: int = 0
    num_steps: int = 0
    content_hash: str = ""  # as `columns.ContentHash`; "" for data of others
    data_format: str = "arrow"
    dataset_id: str = ""
    other: dict[str, Any] = field(default_factory=dict)  # Minari's entries that the lab does not use

    def layout(self) -> dict[str, Any]:
        """Return the shape of one row and the dtype of each column, by name."""
        return columns.layout(self.observation_space, self.action_space, self.mask_size)

    def to_json(self) -> str:
        """Return the text of metadata.json."""
        own = {
            "format": 1,
            "world": self.world,
            "policies": list(self.policies),
            "mask_size": self.mask_size,
            "content_hash": self.content_hash,
            "info": self.info,
        }
        described = {
            "total_episodes": self.num_episodes,
            "total_steps": self.num_steps,
            "data_format": self.data_format,
            "jpeg_encoding": False,
            "observation_space": spaces.to_text(self.observation_space),
            "action_space": spaces.to_text(self.action_space),
            "dataset_id": self.dataset_id,
            "minari_version": MINARI_VERSION,
            "algorithm_name": ", ".join(self.policies),
            "rl_lab": own,
        }
        return json.dumps({**self.other, **described}, indent=1) + "\n"


def data_folder(path: Path) -> Path:
    """Return the folder that has the episodes of the data set at `path`. Raises UsageError where there is none."""
    for folder in (path / "data", path):
        if (folder / FILE).is_file():
            return folder
    if not path.exists():
        raise UsageError(f"{path}: no such data set")
    raise UsageError(f"{path} is no data set: {FILE} is missing there and in {path / 'data'}")


def read(folder: Path) -> Metadata:
    """Return the metadata in a folder that `data_folder` returned. Raises UsageError where they do not fit."""
    file = folder / FILE
    try:
        return _parse(checked_type(read_json(file, _LARGEST_FILE), "its content", dict))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from None


def _parse(content: dict[str, Any]) -> Metadata:
    data_format = content.get("data_format", "hdf5")
    if data_format not in _FORMATS:
        raise ValueError(
            f"data_format is {data_format!r:.40}; expected arrow or parquet: convert it with Minari's "
            'MinariStorage.new(DIR, ..., data_format="arrow", jpeg_encoding=False).update_from_storage(dataset.storage)'
        )
    for name in ("observation_space", "action_space"):
        if name not in content:
            raise ValueError(f"{name} is missing")
    observation_space = spaces.from_text(content["observation_space"], "observation_space")
    if not isinstance(observation_space, Box):
        raise ValueError("observation_space is a Discrete; expected a Box")
    action_space = spaces.from_text(content["action_space"], "action_space")
    if isinstance(action_space, Box) and len(action_space.shape) != 1:
        raise ValueError(f"action_space is a Box of shape {list(action_space.shape)}; expected [k]")
    if content.get("jpeg_encoding", True) and _is_picture(observation_space):
        raise ValueError("its observations are JPEG files, which are not what the agent saw: set jpeg_encoding=False")
    own = checked_type(content.get("rl_lab", {}), "rl_lab", dict)
    policies = checked_type(own.get("policies", []), "policies", list)
    content_hash = checked_type(own.get("content_hash", ""), "content_hash", str)
    if not re.fullmatch("([0-9a-f]{64})?", content_hash):  # it names a folder of the cache
        raise ValueError(f"content_hash is {content_hash!r:.40}; expected 64 hexadecimal digits")
    return Metadata(
        observation_space,
        action_space,
        checked_int(own.get("mask_size", 0), "mask_size", 0, int(getattr(action_space, "n", 0))),
        checked_type(own.get("world", ""), "world", str),
        tuple(checked_type(name, "policies", str) for name in policies),
        checked_type(own.get("info", {}), "info", dict),
        checked_int(content.get("total_episodes"), "total_episodes"),
        checked_int(content.get("total_steps"), "total_steps"),
        content_hash,
        data_format,
        checked_type(content.get("dataset_id", ""), "dataset_id", str),
    )


def _is_picture(space: Box) -> bool:
    """Return whether Minari takes a space for one of pictures, which it writes as JPEG unless it is told otherwise."""
    return (
        len(space.shape) in (2, 3)
        and min(space.shape[:2]) >= 32
        and space.low.dtype.name == "uint8"
        and bool((space.low == 0).all() and (space.high == 255).all())
    )
