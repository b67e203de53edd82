"""These tests check that a file is written to the disk before it gets its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rl_lab.core.files import atomic_write_bytes


def test_the_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    fsync: Callable[..., None] = os.fsync
    replace: Callable[..., Any] = Path.replace

    def synced(descriptor: int) -> None:
        file = Path(f"/proc/self/fd/{descriptor}").resolve()
        log.append("folder" if file == tmp_path.resolve() else f"file with {file.read_text()}")
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        log.append(f"rename to {target.name}")
        moved: Path = replace(self, target)
        return moved

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    atomic_write_bytes(tmp_path / "a.json", b"new")
    assert log == ["file with new", "rename to a.json", "folder"]
    assert (tmp_path / "a.json").read_bytes() == b"new"
