"""Compiles PPO's update in another process, while this process compiles its world and its rollout.

The other process, `compile_worker`, writes the machine code to the cache folder, from which this one loads it. With two
cores, a first start then takes less time. A daemon thread of this process reads what the other one prints.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from threading import Event, Thread

from rl_lab.learners.compiled import build
from rl_lab.learners.compiled.thread_pool import available_threads

PARTS = ("network", "update")  # in the order in which they are compiled and then printed on standard output


def is_needed() -> bool:
    """Return whether the update has not been compiled yet and there is more than one core."""
    folder = Path(str(build.ppo().__file__)).parent / "__pycache__"
    return available_threads() > 1 and not any(folder.glob("ppo.train-*.nbi"))


class BackgroundCompile:
    """A process that compiles PARTS. Should it fail, `wait` returns and this process compiles the parts itself."""

    def __init__(self) -> None:
        self._done = {part: Event() for part in PARTS}
        command = [sys.executable, "-P", "-m", "rl_lab.learners.sb3.compile_worker"]
        Thread(target=self._run, args=(command,), daemon=True).start()

    def wait(self, part: str) -> None:
        """Wait until a part has been compiled or the process has ended."""
        self._done[part].wait()

    def _run(self, command: list[str]) -> None:
        """Start the process; mark each part whose name it prints as done, and all of them when it ends."""
        quiet = subprocess.DEVNULL
        try:
            with subprocess.Popen(command, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet, text=True) as process:
                for line in process.stdout or ():
                    if line.strip() in self._done:
                        self._done[line.strip()].set()
        except OSError:  # the program does not exist, or no process can be started
            pass
        finally:
            for done in self._done.values():
                done.set()


@cache
def background_compile() -> BackgroundCompile | None:
    """Start the compilation for all learners of this process in the first call; return None where it is not needed."""
    return BackgroundCompile() if is_needed() else None
