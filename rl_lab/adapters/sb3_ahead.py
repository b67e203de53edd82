"""Compiles PPO's update in a process of its own, while the one that needs it compiles its world and its rollout."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from threading import Event, Thread

from ..fast import kernels
from ..fast.threads import available

PARTS = ("network", "update")  # in the order in which they are compiled, and said on standard output


def needed() -> bool:
    """Say whether nothing is compiled yet, and there is a core to spare."""
    folder = Path(str(kernels.ppo().__file__)).parent / "__pycache__"
    return available() > 1 and not any(folder.glob("ppo.update-*.nbi"))


class Ahead:
    """A process that compiles; if it fails, whoever waited compiles for himself."""

    def __init__(self) -> None:
        self._done = {part: Event() for part in PARTS}
        command = [sys.executable, "-P", "-m", "rl_lab.adapters.sb3_ahead"]
        Thread(target=self._run, args=(command,), daemon=True).start()

    def wait(self, part: str) -> None:
        """Wait until a part is compiled, or will not be."""
        self._done[part].wait()

    def _run(self, command: list[str]) -> None:
        quiet = subprocess.DEVNULL
        try:
            with subprocess.Popen(command, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet, text=True) as process:
                for line in process.stdout or ():
                    if line.strip() in self._done:
                        self._done[line.strip()].set()
        except OSError:  # there is no such program, or no room for another
            pass
        finally:
            for done in self._done.values():
                done.set()


@cache
def compiling() -> Ahead | None:
    """Return what compiles for all learners of this process since the first of them asked, or None if nothing does."""
    return Ahead() if needed() else None


def main() -> None:
    """Compile what an update needs, by updating an agent that has seen nothing."""
    from stable_baselines3.common.logger import Logger

    from .sb3_fast import FastPPO

    FastPPO.ahead = False
    model = FastPPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, device="cpu")
    model.set_logger(Logger(folder=None, output_formats=[]))
    model.ready()
    model.tables()
    print(PARTS[0], flush=True)
    model.train()
    print(PARTS[1], flush=True)


if __name__ == "__main__":
    main()
