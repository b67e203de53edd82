"""Files that are packed on one machine and unpacked on another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl_lab.core.packed_files import PackedFiles


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_unpacked_files_are_those_that_were_packed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "part").mkdir(parents=True)
    files = {"world.py": b"x = 1", "part/data.bin": bytes(range(256))}
    for path, content in files.items():
        (source / path).write_bytes(content)
    folder = PackedFiles.read(source, [source / path for path in files]).unpack()
    assert {path: (folder / path).read_bytes() for path in files} == files


@pytest.mark.parametrize("path", ["../outside.py", "part/../../outside.py", "/tmp/outside.py"])
def test_a_path_out_of_the_folder_is_refused(path: str, cache: Path) -> None:
    with pytest.raises(ValueError, match="outside"):
        PackedFiles({"inside.py": b"", path: b""}).unpack()
    assert not list(cache.rglob("*.py"))
