"""Write an agent as Stable-Baselines3's zip, for programs that load those; the lab itself reads its own format only.

  rl-lab export runs/cartpole-ppo-s0-... agent.zip
In the other program: PPO.load("agent.zip"), MaskablePPO.load where actions can be illegal, or DQN.load. With an
environment, PPO.load("agent.zip", env).learn(...) goes on with the run's own settings, schedules and optimizer. A
normaliser is written beside it: agent.normalizer.pkl for VecNormalize.load, and its numbers as agent.normalizer.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rl_lab.engine.user_code import add_option

NAME = "export"


def configure(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    add_option(parser)
    parser.add_argument(
        "target",
        metavar="RUN",
        help="a run, RUN@STEP for its checkpoint of that step, or the folder of a checkpoint in a run",
    )
    parser.add_argument("path", metavar="FILE.zip", type=Path)


def run(args: argparse.Namespace) -> int:
    """Export the agent, and print the files and notes."""
    from rl_lab.adapters import make
    from rl_lab.core import agent_registry
    from rl_lab.core.errors import UsageError
    from rl_lab.core.files import require_writable
    from rl_lab.experiments.agent_loading import load_learner_state
    from rl_lab.experiments.agent_targets import find_agent
    from rl_lab.learners.sb3.agent import Sb3Agent
    from rl_lab.learners.sb3.export import TrainingState, export
    from rl_lab.learners.sb3.recurrent_agent import RecurrentAgent

    if args.path.suffix != ".zip":
        raise UsageError(f"{args.path}: name a file that ends in .zip")
    if not args.path.parent.is_dir():
        raise UsageError(f"{args.path.parent} is not a folder")
    agent, scenario, _, step = find_agent(args.target, [])
    require_writable(args.path.parent, "FILE.zip in")
    if isinstance(agent, RecurrentAgent):
        raise UsageError(f"{args.target} has a recurrent policy, which Stable-Baselines3 lacks: it is not exported")
    if not isinstance(agent, Sb3Agent):
        raise UsageError(f"{args.target} does not have a single policy: only agents of PPO and DQN are exported")
    if scenario.backbone is not None:
        raise UsageError(f"{args.target} has a backbone, whose code Stable-Baselines3 lacks: it is not exported")
    envs = make.make(scenario.world, 1, scenario.params)
    training = TrainingState(
        config=scenario.config,
        arguments=agent_registry.load(scenario.agent).library_arguments(scenario.config, envs.world),
        state_dict=load_learner_state(args.target),
        budget=scenario.budget,
        seats=envs.world.roles[scenario.role] if scenario.role else None,
    )
    try:
        written = export(agent, envs, args.path, training)
    except (ValueError, OSError) as error:
        raise UsageError(f"{args.target}: {error}") from None
    finally:
        envs.close()
    if args.json:
        files = {name: str(path) for name, path in written.files.items()}
        print(json.dumps({"step": step, **files, "notes": written.notes}))
        return 0
    for name, path in written.files.items():
        print(f"  {name:<10}  {path}")
    for note in written.notes:
        print(f"  note: {note}")
    return 0
