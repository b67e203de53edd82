"""The check that Ray is installed, in the version that this package is written for."""

from __future__ import annotations

from importlib import metadata

from rl_lab.core.errors import UsageError

VERSION = "2.60"


def require() -> None:
    """Raise UsageError where Ray is missing or of another version: RLlib's interfaces change with each."""
    install = 'pip install "rl-lab[rllib]"'
    try:
        found = metadata.version("ray")
    except metadata.PackageNotFoundError:
        raise UsageError(f"this agent needs RLlib, which is not installed: {install}") from None
    if not found.startswith(f"{VERSION}."):
        raise UsageError(f"this agent needs Ray {VERSION}, found {found}: {install}")
