"""The check that pyarrow, which reads and writes data sets, is installed."""

from __future__ import annotations

from typing import Any

from rl_lab.core.errors import UsageError


def pyarrow() -> Any:
    """Return the module pyarrow, with its module `ipc`. Raises UsageError where it is missing."""
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise UsageError('data sets need pyarrow, which is not installed: pip install "rl-lab[data]"') from None
    return pyarrow
