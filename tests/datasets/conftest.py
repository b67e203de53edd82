"""A cache folder of their own for the tests of data sets."""

from __future__ import annotations

import pytest

from rl_lab.datasets import cache


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(cache, "root", lambda: folder)
