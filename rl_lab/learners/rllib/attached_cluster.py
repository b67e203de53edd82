"""A Ray cluster that somebody has started, which a training joins: cluster=auto or cluster=HOST:PORT."""

from __future__ import annotations

import ipaddress
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from rl_lab.core.errors import UsageError, one_line
from rl_lab.learners.rllib.cluster import QUIET, Cluster, answers

_REACH = 5.0  # seconds in which the head node must accept a connection
_TOKEN_FILE = ".ray/auth_token"  # in the home folder, where `ray get-auth-token --generate` writes it


class AttachedCluster(Cluster):
    """Connects to a cluster of which this machine is a node; `close` ends the connection and leaves the cluster alone.

    Args:
        place: HOST:PORT of the head node, or "auto" for RAY_ADDRESS, or else the head node that this user runs here.

    Raises:
        UsageError: there is none, it cannot be reached, or it is another machine's and there is no token.
    """

    def __init__(self, place: str) -> None:
        address = _find_running_cluster() if place == "auto" else place
        where = f"cluster={place}" if place == address else f"cluster={place}, which is {address}"
        environment = dict(QUIET)
        if not _is_loopback(address):
            if not _has_token() or os.environ.get("RAY_AUTH_MODE", "token") != "token":
                raise UsageError(
                    f"{where}: refused without a token, because whoever reaches such a cluster can run code on it; "
                    "set RAY_AUTH_TOKEN, or RAY_AUTH_MODE=token and a file ~/.ray/auth_token, here and on its nodes"
                )
            environment["RAY_AUTH_MODE"] = "token"
        else:
            environment["GLOO_SOCKET_IFNAME"] = "lo"
        if not answers(address, _REACH):
            raise UsageError(f"{where}: nothing answers at this address")
        super().__init__()
        self._start_cleanup(is_quiet=False)
        loopback = _is_loopback(address)
        arguments: dict[str, Any] = {"_node_ip_address": "127.0.0.1"} if loopback else {}
        try:
            self._connect(environment, is_private=loopback, address=address, **arguments)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise UsageError(f"{where}: {one_line(error)[:300]}") from None
        import ray

        node: Any = ray._private.worker._global_node
        assert self._cleanup_process is not None and self._cleanup_process.stdin is not None
        self._cleanup_process.stdin.write(f"{node.raylet_socket_name}\n")
        self._cleanup_process.stdin.flush()


def _find_running_cluster() -> str:
    """Return the address of RAY_ADDRESS, or of the head node that this user has started on this machine."""
    address = os.environ.get("RAY_ADDRESS", "")
    if address and address not in ("auto", "local"):
        if "://" in address or not re.fullmatch(r"\S+:\d{1,5}", address):
            raise UsageError(f"cluster=auto: RAY_ADDRESS={address} is not HOST:PORT of a head node")
        return address
    from ray._common.utils import get_ray_address_file

    # `ray start --head` writes it. Ray itself would take any Ray of this machine, also a private one or another user's.
    file = Path(get_ray_address_file(None))
    with suppress(OSError):
        if file.stat().st_uid == os.getuid() and (address := file.read_text().strip()):
            return address
    raise UsageError("cluster=auto: RAY_ADDRESS is not set, and you have started no `ray start --head` on this machine")


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _has_token() -> bool:
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or str(Path.home() / _TOKEN_FILE)
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or Path(path).is_file()
