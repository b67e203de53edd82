"""The check that the packages of generative policies are installed. Both take seconds to import."""

from __future__ import annotations

import importlib
from typing import Any

from rl_lab.core.errors import UsageError


def require(module: str, agent: str) -> Any:
    """Return a module of `diffusers` or `transformers`. Raises UsageError, for `agent`, where it is missing."""
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UsageError(f'{agent} needs {package}, which is not installed: pip install "rl-lab[generative]"') from None
