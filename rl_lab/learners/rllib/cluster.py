"""A private Ray on this machine: reachable from it alone, by a token, and gone when the process that started it is."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from rl_lab.learners.rllib import janitor

_STORE = 2**27  # bytes of shared memory; the least that Ray accepts is some 75 MB
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # or Ray replaces 127.0.0.1 by an address that others can reach
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_LOG_TO_DRIVER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "GLOO_SOCKET_IFNAME": "lo",
}


_LOGGERS = ("ray", "ray.rllib")
_open: list[LocalCluster] = []  # at most one


class LocalCluster:
    """Starts Ray in a temporary folder of its own; `close` ends it and removes the folder.

    A helper process does the same when this process ends without calling `close`. The environment variable RAY_ADDRESS
    is ignored, and the environment is as before once the cluster is closed. Ray prints nothing; what it logs is in
    `log`.

    Raises:
        RuntimeError: it is not the main thread: Ray's processes end with the thread that started them.
        ValueError: another cluster is open, of which a process can have one.
    """

    def __init__(self, *, num_cpus: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a local Ray is started from the main thread")
        if _open:
            raise ValueError("RLlib trains one agent at a time: several policies, and a league, need agent=ppo")
        # Short, because the paths of sockets in it may have 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="rl-lab-ray-", dir="/tmp"))
        self.log = self.folder / "driver.log"
        words = [sys.executable, "-I", "-S", janitor.__file__, str(self.folder)]
        self._janitor = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        names = (*_ENVIRONMENT, "RAY_AUTH_TOKEN", "RAY_ADDRESS", "PYTHONBREAKPOINT")  # Ray sets the last
        self._environment = {name: os.environ.get(name) for name in names}
        self._to_file: logging.FileHandler | None = None
        _open.append(self)
        os.environ.update(_ENVIRONMENT, RAY_AUTH_TOKEN=secrets.token_hex(32))
        os.environ.pop("RAY_ADDRESS", None)
        handler = signal.getsignal(signal.SIGTERM)
        try:
            self._start(num_cpus)
        except BaseException:
            self.close()
            raise
        finally:
            signal.signal(signal.SIGTERM, handler)  # Ray has set its own

    def _start(self, num_cpus: int) -> None:
        import ray
        from ray import _raylet
        from ray._private import ray_constants

        # What was read from the environment if Ray was imported before.
        ray_constants.ENABLE_RAY_CLUSTER = False
        raylet: Any = _raylet
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()
        in_memory = shutil.disk_usage("/dev/shm").free > 2 * _STORE
        ray.init(
            address="local",
            num_cpus=num_cpus,
            num_gpus=0,
            object_store_memory=_STORE,
            include_dashboard=False,
            configure_logging=True,
            logging_level=logging.ERROR,
            log_to_driver=False,
            namespace="rl_lab",
            _temp_dir=str(self.folder),
            _node_ip_address="127.0.0.1",
            **({} if in_memory else {"_plasma_directory": str(self.folder)}),
        )
        import ray.rllib  # its import adds a handler to its logger

        self._to_file = logging.FileHandler(self.log)
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            logger.handlers[:] = [self._to_file]
            logger.propagate = False

    def close(self) -> None:
        """End Ray's processes and remove its folder; a second call does nothing."""
        if self._janitor.stdin is None or self._janitor.stdin.closed:
            return
        if "ray" in sys.modules:
            import ray

            ray.shutdown()
        if self._to_file is not None:
            for name in _LOGGERS:
                logging.getLogger(name).removeHandler(self._to_file)
            self._to_file.close()
        _open.remove(self)
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._janitor.stdin.close()
        self._janitor.wait(janitor.GRACE + janitor.LIMIT)
