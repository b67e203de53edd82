"""Commands of the lab, run in the process of the test."""

from __future__ import annotations

from rl_lab.cli import main


def run(*words: str) -> None:
    """Run a command; it must succeed."""
    assert main(list(words)) == 0
