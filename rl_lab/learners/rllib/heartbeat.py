"""Heartbeats: a worker counts up in the key-value store of the cluster's head node, and the driver reads the count.

They come from a thread of the worker, also while compiled code works. A process that is stopped, or that hangs while it
holds Python's lock, has none.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from contextlib import suppress
from typing import Any

from ray.experimental import internal_kv

INTERVAL = 2.0  # seconds between two heartbeats
_LIMIT = 5.0  # seconds that the head node may take to answer
_NAMESPACE = b"rl_lab_heartbeats"


def new_key() -> str:
    """Return a key that no other worker has."""
    return uuid.uuid4().hex


def start(key: str) -> None:
    """Start the heartbeats of this process."""
    threading.Thread(target=_beat, args=[key], name="heartbeat", daemon=True).start()


def read(key: str) -> bytes | None:
    """Return the last heartbeat of a worker, which differs from the one before; None before the first one.

    Raises RayError where the head node does not answer.
    """
    count: bytes | None = _store().internal_kv_get(key.encode(), _NAMESPACE, timeout=_LIMIT)
    return count


def remove(key: str) -> None:
    """Remove the last heartbeat of a worker that is gone. Raises as `read`."""
    _store().internal_kv_del(key.encode(), False, _NAMESPACE, timeout=_LIMIT)


def _beat(key: str) -> None:
    for number in itertools.count():
        with suppress(Exception):  # the head node is busy, or gone, and then Ray ends this process
            _store().internal_kv_put(key.encode(), str(number).encode(), True, _NAMESPACE, timeout=_LIMIT)
        time.sleep(INTERVAL)


def _store() -> Any:
    return internal_kv.internal_kv_get_gcs_client()
