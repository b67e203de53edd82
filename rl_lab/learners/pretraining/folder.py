"""A backbone's folder: config.json, model.safetensors and card.json. Reading one runs no code from it.

config.json says what the backbone is, see `model.BackboneSpec`. model.safetensors has its parameters, `trunk.*`,
`policy.*`, `log_std` and `value.*`. card.json says where it is from: the method and the world, the data with its hash,
the steps spent, the scores, and the SHA-256 of the other two files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from rl_lab.core.errors import UsageError, one_line
from rl_lab.core.files import sync
from rl_lab.core.untrusted import checked_array, checked_type, parse_json
from rl_lab.core.world import Array
from rl_lab.learners.pretraining import networks
from rl_lab.learners.pretraining.model import BackboneModel
from rl_lab.learners.pretraining.spec import BackboneSpec, read_spec

FORMAT, VERSION = "rl_lab.backbone", 1
CONFIG, MODEL, CARD = "config.json", "model.safetensors", "card.json"
_MAX_JSON, _MAX_MODEL = 2**20, 2**31  # bytes; larger files are refused


@dataclass(frozen=True)
class SavedBackbone:
    """A backbone that was read from its folder. `sha256` is the hash of its config.json and model.safetensors."""

    path: Path
    spec: BackboneSpec
    tensors: dict[str, Array]
    card: dict[str, Any]
    sha256: str

    def part(self, name: str) -> dict[str, torch.Tensor]:
        """Return copies of the parameters of trunk, policy or value, under their names in that part."""
        return {
            key.removeprefix(f"{name}."): torch.from_numpy(value.copy())
            for key, value in self.tensors.items()
            if key.startswith(f"{name}.")
        }


def save(path: Path, model: BackboneModel, card: dict[str, Any]) -> str:
    """Write a backbone's folder, in place of one that is there, and return its hash. Raises OSError.

    The folder has its name when it is complete.
    """
    config = {"format": FORMAT, "version": VERSION, **model.spec.as_json(), "width": model.width}
    tensors = {key: value.detach().cpu().numpy() for key, value in model.state_dict().items()}
    files = {CONFIG: _dump(config), MODEL: safetensors.numpy.save(tensors)}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    files[CARD] = _dump({"format": FORMAT, "version": VERSION, **card, "sha256": hashes})
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    unfinished.mkdir(parents=True)
    try:
        for name, data in files.items():
            (unfinished / name).write_bytes(data)
            sync(unfinished / name)
        if path.exists():
            shutil.rmtree(path)
        os.rename(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    sync(path.parent)
    return content_hash(hashes)


def load(path: Path) -> SavedBackbone:
    """Return the backbone of a folder, or of the run of a pretraining, which has it in `backbone/`.

    Raises UsageError, in one line, for a folder that is missing or damaged, and for an unknown version.
    """
    folder = path / "backbone" if (path / "backbone" / CONFIG).is_file() else path
    if not (folder / CONFIG).is_file():
        raise UsageError(f"{path} is not a backbone: it has no {CONFIG}")
    try:
        config, card = (
            checked_type(parse_json(_bytes(folder, name, _MAX_JSON)), name, dict) for name in (CONFIG, CARD)
        )
        for name, node in ((CONFIG, config), (CARD, card)):
            if (node.get("format"), node.get("version")) != (FORMAT, VERSION):
                actual = f"{node.get('format')!r:.40} version {node.get('version')!r:.20}"
                raise ValueError(f"{name} is {actual}; this version reads {FORMAT!r} version {VERSION}")
        hashes = _checked_hashes(folder, checked_type(card["sha256"], f"{CARD}: sha256", dict))
        spec = read_spec(config)
        tensors = _checked_tensors(spec, safetensors.numpy.load(_bytes(folder, MODEL, _MAX_MODEL)))
    except UsageError:  # of a user's own module, which may not run
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
        raise UsageError(f"backbone {folder} is damaged: {one_line(reason)[:300]}") from None
    return SavedBackbone(folder, spec, tensors, card, content_hash(hashes))


def content_hash(hashes: dict[str, str]) -> str:
    """Return the hash of a backbone, from those of its config.json and model.safetensors."""
    return hashlib.sha256(f"{hashes[CONFIG]}{hashes[MODEL]}".encode()).hexdigest()


def copy(source: Path, path: Path) -> None:
    """Copy a backbone's folder to `path`, which does not exist. Raises OSError."""
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    unfinished.mkdir(parents=True)
    try:
        for name in (CONFIG, MODEL, CARD):
            shutil.copyfile(source / name, unfinished / name)
        os.rename(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _dump(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def _bytes(folder: Path, name: str, most: int) -> bytes:
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise ValueError(f"{name} is missing, or no file")
    if path.stat().st_size > most:
        raise ValueError(f"{name} has {path.stat().st_size:,} bytes; {most:,} at most are read")
    return path.read_bytes()


def _checked_hashes(folder: Path, card: dict[str, Any]) -> dict[str, str]:
    """Return the hashes of config.json and model.safetensors. Raises ValueError where the card has others."""
    hashes = {}
    for name, most in ((CONFIG, _MAX_JSON), (MODEL, _MAX_MODEL)):
        hashes[name] = hashlib.sha256(_bytes(folder, name, most)).hexdigest()
        if card.get(name) != hashes[name]:
            raise ValueError(f"{name} has the SHA-256 {hashes[name][:12]}, {CARD} says {card.get(name)!r:.14}")
    return hashes


def _checked_tensors(spec: BackboneSpec, tensors: dict[str, Array]) -> dict[str, Array]:
    """Return the tensors in the order of the network's. Raises ValueError unless they are of its shapes, and finite."""
    # Of the lab's own networks only the shapes are made, so that a file can ask for no memory beyond its own size.
    device = torch.device("cpu" if networks.is_code(spec.network.kind) else "meta")
    with device, torch.random.fork_rng(devices=[]):  # looking at a folder leaves a training's random numbers alone
        expected = BackboneModel(spec).state_dict()
    if differing := sorted(set(expected) ^ set(tensors)):
        raise ValueError(f"{MODEL}: {differing[0]:.80} is missing or unknown")
    like = {
        name: np.broadcast_to(torch.zeros((), dtype=tensor.dtype).numpy(), tuple(tensor.shape))
        for name, tensor in expected.items()
    }
    return {name: checked_array(tensors[name], f"{MODEL}: {name}", like[name]) for name in expected}
