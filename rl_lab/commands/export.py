"""Write an agent as Stable-Baselines3's zip, for programs that load those; the lab itself reads its own format only.

  rl-lab export runs/cartpole-ppo-s0-... agent.zip
In the other program: PPO.load("agent.zip"), MaskablePPO.load where actions can be illegal, or DQN.load.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

NAME = "export"


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.add_argument("target", metavar="RUN", help="a run's folder, or a checkpoint's inside one")
    parser.add_argument("path", metavar="FILE.zip", type=Path)


def run(given: argparse.Namespace) -> int:
    """Export."""
    from .. import batch
    from ..adapters.sb3_agent import Sb3Agent
    from ..adapters.sb3_zip import export
    from ..names import UsageError
    from .evaluate import find_agent

    if given.path.suffix != ".zip":
        raise UsageError(f"{given.path}: name a file that ends in .zip")
    if not given.path.parent.is_dir():
        raise UsageError(f"{given.path.parent} is no folder")
    agent, scenario, _, step = find_agent(given.target, [])
    if not isinstance(agent, Sb3Agent):
        raise UsageError(f"{given.target} is no agent of one policy: only PPO's and DQN's are exported")
    written = export(agent, batch.make(scenario.world, 1, scenario.params), given.path)
    if given.json:
        print(json.dumps({"step": step, **{name: str(path) for name, path in written.items()}}))
        return 0
    for name, path in written.items():
        print(f"  {name:<10}  {path}")
    return 0
