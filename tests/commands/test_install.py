"""Test of scripts/install.sh: it prints what takes long, and all of pip's output if pip fails."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAKE_PIP = """#!/bin/sh
echo "Collecting torch==2.0"
echo "  Downloading https://files/torch-2.0-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl (800.1 MB)"
echo "  Downloading ray-2.60.0-cp311-cp311-manylinux2014_x86_64.whl (73.2 MB)"
echo "  Downloading small-1.0.whl (12 kB)"
echo "Installing collected packages: a, b, torch"
exit {}
"""


@pytest.mark.parametrize("status", [0, 3])
def test_install_prints_downloads_of_megabytes_and_the_unpacking(status: int, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(FAKE_PIP.format(status))
    python.chmod(0o755)
    words = [str(ROOT / "scripts/install.sh"), str(tmp_path / "log"), str(python), "--editable", "."]
    done = subprocess.run(words, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[:3] == ["  fetching torch-2.0 (800.1 MB)", "  fetching ray-2.60.0 (73.2 MB)", "  unpacking 3 packages"]
    assert (done.returncode != 0) == (status != 0)
    assert ("Collecting torch==2.0" in lines) == (status != 0)
    assert "small-1.0.whl" in (tmp_path / "log").read_text()
