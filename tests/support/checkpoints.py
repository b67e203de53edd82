"""Change checkpoints as an attacker would: with a manifest that fits the changed files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def rewrite_manifest(folder: Path) -> None:
    """Write the manifest of a checkpoint again, with the sizes and hashes of the files that are in the folder now."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["members"] = {
        file.name: {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "size": file.stat().st_size}
        for file in sorted(folder.iterdir())
        if file.name != "manifest.json"
    }
    (folder / "manifest.json").write_bytes(json.dumps(manifest).encode())
