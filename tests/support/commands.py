"""Run commands of rl-lab in the process of the test, which is faster than a process of their own."""

from __future__ import annotations

from rl_lab.cli import main


def run_command(*words: str) -> None:
    """Run `rl-lab WORDS`, and fail unless its exit status is 0."""
    assert main(list(words)) == 0
