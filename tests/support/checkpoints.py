"""Checkpoints as an attacker would change them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def sign(folder: Path) -> None:
    """Make a checkpoint's manifest agree with what is in it now, as an attacker would."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["members"] = {
        file.name: {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "size": file.stat().st_size}
        for file in sorted(folder.iterdir())
        if file.name != "manifest.json"
    }
    (folder / "manifest.json").write_bytes(json.dumps(manifest).encode())
