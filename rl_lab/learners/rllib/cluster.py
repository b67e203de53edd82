"""The Ray of this process: a private one on this machine, or a cluster that somebody has started.

A private Ray is reachable from this machine alone, by a token, and gone when the process that started it is.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rl_lab.core.errors import UsageError, WorkFailed
from rl_lab.learners.rllib import ray_cleanup

_STORE = 2**27  # bytes of shared memory; the least that Ray accepts is some 75 MB
_FRAGMENTS_STORE = 2**30  # the same where other processes sample
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_LOG_TO_DRIVER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_TRAIN_V2_ENABLED": "0",  # RLlib's learners use the first version, and Ray says so at length
}
_PRIVATE = {
    **QUIET,
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # or Ray replaces 127.0.0.1 by an address that others can reach
    "GLOO_SOCKET_IFNAME": "lo",
}
FREE_WITHIN = 120.0  # seconds to wait for resources that other work of a cluster uses
_TICK = 0.2  # seconds between two looks at them
_LOOK = 2.0  # seconds between two looks whether the head node answers
_SILENT = 3  # looks without an answer after which it is gone

_SETTINGS = b"\x04"  # the type of the frame with which both sides of HTTP/2 begin
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + _SETTINGS + b"\0\0\0\0\0"
LOGGERS = ("ray", "ray.rllib")
_open: list[Cluster] = []  # at most one


class Cluster:
    """The connection of this process to Ray, which it can have one of. Ray prints nothing; what it logs is in `log`.

    The environment is as before once it is closed.

    Raises:
        RuntimeError: it is not the main thread: Ray's processes end with the thread that started them.
        ValueError: another cluster is open.
    """

    def __init__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a local Ray is started from the main thread")
        if _open:
            raise ValueError("a process has one connection to Ray: env_runners=0 trains several learners")
        # Short, because the paths of sockets in it may have 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="rl-lab-ray-", dir="/tmp"))
        self.log = self.folder / "driver.log"
        names = (*_PRIVATE, "RAY_AUTH_TOKEN", "RAY_ADDRESS", "PYTHONBREAKPOINT")  # Ray sets the last
        self._environment = {name: os.environ.get(name) for name in names}
        self._to_file: logging.FileHandler | None = None
        self._cleanup_process: subprocess.Popen[str] | None = None
        self._last_check, self._silent = time.monotonic(), 0
        _open.append(self)

    def _connect(self, environment: dict[str, str], *, is_private: bool, **arguments: Any) -> None:
        """Call `ray.init`, with this environment and without RAY_ADDRESS; close everything if it fails."""
        os.environ.update(environment)
        os.environ.pop("RAY_ADDRESS", None)
        handler = signal.getsignal(signal.SIGTERM)
        try:
            import ray
            from ray import _raylet
            from ray._private import auto_init_hook, ray_constants
            from ray.job_config import JobConfig

            if not is_private:
                ray_constants.NUM_REDIS_GET_RETRIES = 1  # each takes some 5 s where something else than Ray listens
            # A destructor of RLlib's that comes after the end must not start another Ray.
            auto_init_hook.enable_auto_connect = False
            # What was read from the environment if Ray was imported before.
            ray_constants.ENABLE_RAY_CLUSTER = not is_private
            raylet: Any = _raylet
            raylet.Config.initialize("")
            raylet.AuthenticationTokenLoader.instance().reset_cache()
            job_config = JobConfig()
            job_config._py_driver_sys_path = _DriverPath()
            with _stderr_to(self.log):  # of Ray's compiled code, which reports what the exceptions say, too
                ray.init(  # noqa: TID251
                    configure_logging=True,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    namespace="rl_lab",
                    job_config=job_config,
                    **arguments,
                )
            import ray.rllib  # its import adds a handler to its logger
            from ray._private import worker

            self._to_file = logging.FileHandler(self.log)
            # Otherwise Ray prints what happens to nodes on stdout, whatever log_to_driver says.
            worker.print_to_stdstream = _log_message
            for name in LOGGERS:
                logger = logging.getLogger(name)
                logger.handlers[:] = [self._to_file]
                logger.propagate = False
        except BaseException:
            self.close()
            raise
        finally:
            signal.signal(signal.SIGTERM, handler)  # Ray has set its own

    def require(self, resource: str, amount: float, what: str) -> None:
        """Raise UsageError where the cluster has less in all of a resource, "CPU" or "GPU"."""
        if (total := self.total(resource)) < amount:
            raise UsageError(f"{what} need {amount:g} {resource}{'s' * (amount != 1)}; the cluster has {total:g}")

    def total(self, resource: str) -> float:
        """Return how much of a resource, "CPU" or "GPU", the nodes of the cluster have in all, used or not."""
        import ray

        return float(ray.cluster_resources().get(resource, 0.0))

    def check(self) -> None:
        """Raise WorkFailed if the head node does not answer any more; looks every few seconds."""
        import ray

        now = time.monotonic()
        if now - self._last_check < _LOOK:
            return
        address = ray.get_runtime_context().gcs_address
        self._last_check, self._silent = now, 0 if answers(address, 1.0) else self._silent + 1
        if self._silent >= _SILENT:
            reason = f"the head node of the Ray cluster, {address}, does not answer any more"
            raise WorkFailed(f"{reason}; a run can be resumed from its last checkpoint, a tournament from its ledger")

    def wait_until_free(self, resource: str, count: float) -> None:
        """Wait until `count` of a resource is free.

        Raises WorkFailed after two minutes, and as `check` does.
        """
        import ray

        deadline = time.monotonic() + FREE_WITHIN
        while count and ray.available_resources().get(resource, 0.0) < count:
            if time.monotonic() > deadline:
                raise WorkFailed(
                    f"{count:g} {resource} of the Ray cluster did not become free within {FREE_WITHIN:.0f} s: "
                    "other work uses them"
                )
            self.check()
            time.sleep(_TICK)

    def close(self) -> None:
        """End the connection and remove the folder; a second call does nothing."""
        if self not in _open:
            return
        if "ray" in sys.modules:
            import ray

            ray.shutdown()
        if self._to_file is not None:
            for name in LOGGERS:
                logging.getLogger(name).removeHandler(self._to_file)
            self._to_file.close()
        _open.remove(self)
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._remove()

    def _start_cleanup(self, *, is_quiet: bool) -> None:
        """Start the program that cleans up after this process."""
        words = [sys.executable, "-I", "-S", ray_cleanup.__file__, str(self.folder)]
        quiet = subprocess.DEVNULL
        stderr = quiet if is_quiet else None
        self._cleanup_process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=quiet, stderr=stderr, start_new_session=True, text=True
        )

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._cleanup_process is not None:
            with suppress(subprocess.TimeoutExpired):  # it goes on by itself
                self._cleanup_process.communicate(ray_cleanup.CLOSED, ray_cleanup.GRACE + ray_cleanup.LIMIT)


class _DriverPath(list[str]):
    """The folders of this process from which the other ones import, too.

    Ray adds the current folder. In a clone, that has other files of rl_lab than the installed package which runs here.
    """

    def extend(self, folders: Iterable[str]) -> None:
        """Add the folders from which this process imports."""
        own = {os.path.abspath(folder) for folder in sys.path}
        super().extend(folder for folder in folders if folder in own)


class LocalCluster(Cluster):
    """Starts Ray in a temporary folder of its own; `close` ends it and removes the folder.

    A helper process does the same when this process ends without calling `close`. The environment variable RAY_ADDRESS
    is ignored.

    Args:
        num_cpus: for the processes that are started there.
        num_gpus: likewise.

    Raises: as `Cluster`.
    """

    def __init__(self, *, num_cpus: float, num_gpus: int = 0) -> None:
        super().__init__()
        self._start_cleanup(is_quiet=True)
        store, free = _FRAGMENTS_STORE if num_cpus else _STORE, shutil.disk_usage("/dev/shm").free
        in_memory = free > 2 * store
        if not in_memory and free > 2 * _STORE:
            store, in_memory = free // 2, True
        self._connect(
            {**_PRIVATE, "RAY_AUTH_TOKEN": secrets.token_hex(32)},
            is_private=True,
            address="local",
            num_cpus=math.ceil(num_cpus),  # Ray takes whole numbers here
            num_gpus=num_gpus,
            object_store_memory=store,
            include_dashboard=False,
            _temp_dir=str(self.folder),
            _node_ip_address="127.0.0.1",
            **({} if in_memory else {"_plasma_directory": str(self.folder)}),
        )


@contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    """Write to a file what this process, compiled code included, writes to stderr."""
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)


def _log_message(data: dict[str, Any], **_: Any) -> None:
    logging.getLogger("ray").warning("%s: %s", data.get("pid"), "\n".join(data.get("lines", ())))


def answers(address: str, timeout: float) -> bool:
    """Return whether a server of HTTP/2, which Ray's head node is, answers at HOST:PORT within so many seconds.

    Ray itself waits minutes for one that accepts a connection and then says nothing.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout) as connection:
            if os.environ.get("RAY_USE_TLS") == "1":
                return True
            connection.sendall(_HELLO)
            return connection.recv(9)[3:4] == _SETTINGS
    except (OSError, OverflowError):  # OverflowError: no such port
        return False
