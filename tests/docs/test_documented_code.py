"""Test that the Python code in docs/*.md runs: all blocks of a page as one program."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from support import programs

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md") if "```python" in path.read_text())


def blocks(page: str) -> list[str]:
    """Return a page's blocks of Python code."""
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.S | re.M)


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path) -> None:
    (tmp_path / "cheese.py").write_text(blocks("adding-a-world.md")[0])
    (tmp_path / "page.py").write_text("\n".join(blocks(page)))
    done = programs.run([sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
