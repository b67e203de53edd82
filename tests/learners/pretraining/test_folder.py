"""A backbone's folder: what is written is read, and what is damaged is refused in one line."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.backbones import write_backbone

from rl_lab.core.errors import UsageError
from rl_lab.learners.pretraining import folder
from rl_lab.learners.pretraining.model import BackboneModel, tensor_hash


def test_a_folder_is_read_as_it_was_written(tmp_path: Path) -> None:
    model = write_backbone(tmp_path / "b", net_arch=(8,), hidden=[16, 5], activation="relu")
    before = torch.get_rng_state()
    saved = folder.load(tmp_path / "b")
    assert torch.equal(torch.get_rng_state(), before)  # looking at a folder changes no training
    assert saved.spec == model.spec and saved.card["method"] == "none"
    again = BackboneModel(saved.spec)
    again.load_state_dict({name: torch.from_numpy(value) for name, value in saved.tensors.items()})
    observations = torch.randn(6, 4)
    assert torch.equal(again(observations), model(observations)) and again.width == 5
    assert tensor_hash(saved.part("trunk")) == tensor_hash(model.trunk.state_dict())
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["card.json", "config.json", "model.safetensors"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_backbone(tmp_path / "b")
    first = folder.load(tmp_path / "b").sha256
    write_backbone(tmp_path / "b", hidden=[8])
    assert folder.load(tmp_path / "b").sha256 != first
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def _edit(path: Path, change: Callable[[dict[str, object]], object], *, rehash: bool = True) -> None:
    """Change config.json, and with `rehash` write its new hash into card.json."""
    config = json.loads((path / "config.json").read_text())
    change(config)
    data = json.dumps(config).encode()
    (path / "config.json").write_bytes(data)
    if rehash:
        card = json.loads((path / "card.json").read_text())
        card["sha256"]["config.json"] = hashlib.sha256(data).hexdigest()
        (path / "card.json").write_text(json.dumps(card))


def _flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda b: (b / "config.json").unlink(), "is not a backbone: it has no config.json"),
    "no model": (lambda b: (b / "model.safetensors").unlink(), "model.safetensors is missing"),
    "no card": (lambda b: (b / "card.json").unlink(), "card.json is missing"),
    "a flipped bit": (lambda b: _flip_last_byte(b / "model.safetensors"), "model.safetensors has the SHA-256"),
    "cut short": (lambda b: os.truncate(b / "model.safetensors", 40), "model.safetensors has the SHA-256"),
    "edited": (lambda b: _edit(b, lambda c: c.update(net_arch=[3]), rehash=False), "config.json has the SHA-256"),
    "another version": (
        lambda b: _edit(b, lambda c: c.update(version=2)),
        "this version reads 'rl_lab.backbone' version 1",
    ),
    "other layers": (lambda b: _edit(b, lambda c: c.update(net_arch=[3])), "is missing or unknown"),
    "other units": (
        lambda b: _edit(b, lambda c: c["network"]["config"].update(hidden=[3, 64])),  # type: ignore[index]
        "expected float32 [3",
    ),
    "unknown kind": (lambda b: _edit(b, lambda c: c["network"].update(kind="mpl")), "did you mean 'mlp'?"),  # type: ignore[attr-defined]
    "no heads": (lambda b: _edit(b, lambda c: c.pop("heads")), "'heads' is missing"),
    "a huge layer": (lambda b: _edit(b, lambda c: c.update(net_arch=[10**9])), "net_arch is 1000000000"),
    "no JSON": (lambda b: (b / "config.json").write_text("{"), "is damaged"),
    "a link": (
        lambda b: ((b / "card.json").rename(b / "c"), (b / "card.json").symlink_to(b / "c")),
        "card.json is missing, or no file",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    write_backbone(tmp_path / "b")
    damage, expected = DAMAGE[name]
    damage(tmp_path / "b")
    with pytest.raises(UsageError) as caught:
        folder.load(tmp_path / "b")
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_parameters_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = write_backbone(tmp_path / "b")
    with torch.no_grad():
        model.trunk.layers[0].weight[0, 0] = float("nan")  # type: ignore[union-attr, index]
    folder.save(tmp_path / "c", model, {})
    with pytest.raises(UsageError, match="not finite"):
        folder.load(tmp_path / "c")


def test_a_file_asks_for_no_memory_beyond_its_own_size(tmp_path: Path) -> None:
    write_backbone(tmp_path / "b")
    layers = [2**14] * 60  # 64 GB of parameters

    def change(config: dict[str, object]) -> None:
        config["network"]["config"]["hidden"] = layers  # type: ignore[index]

    _edit(tmp_path / "b", change)
    with pytest.raises(UsageError, match="is missing or unknown"):
        folder.load(tmp_path / "b")
