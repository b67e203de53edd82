"""The check that Ray is installed, in the version that this package is written for."""

from __future__ import annotations

from importlib import metadata

from rl_lab.core.errors import UsageError

VERSION = "2.60"


def require(what: str = "this agent") -> None:
    """Raise UsageError, which names what needs it, where Ray is missing or of another version.

    RLlib's interfaces change with each version.
    """
    install = 'pip install "rl-lab[rllib]"'
    try:
        version = metadata.version("ray")
    except metadata.PackageNotFoundError:
        raise UsageError(f"{what} needs RLlib, which is not installed: {install}") from None
    if not version.startswith(f"{VERSION}."):
        raise UsageError(f"{what} needs Ray {VERSION}, found {version}: {install}")
