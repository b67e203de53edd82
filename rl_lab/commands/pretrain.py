"""Train a backbone on a data set: a network from observations to features, with a policy or a value head.

  rl-lab data collect scripted world=cartpole steps=20000 out=demos/cartpole
  rl-lab pretrain bc data=demos/cartpole backbone=mlp backbone.hidden=[64,64]
  rl-lab train cartpole backbone=runs/bc-cartpole-... mode=finetune
METHOD is bc (imitates the recorded actions) or critic (predicts the discounted sum of the rewards that follow).
backbone= is a name in agents/backbones/, or the folder of a backbone to begin with. Settings are key=value:
  epochs=50  patience=5  batch_size=256  learning_rate=1e-3  validation=0.1  net_arch=[64]  freeze_trunk=true
  gamma=0.99  seed=0  device=cpu  threads=2  run_dir=PATH  world=NAME  evaluation.episodes=100
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rl_lab.experiments.pretraining import PretrainResult

from rl_lab.engine.user_code import add_option

NAME = "pretrain"


def configure(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    add_option(parser)
    parser.add_argument("method", metavar="METHOD")
    parser.add_argument("overrides", nargs="*", metavar="key=value")


def run(args: argparse.Namespace) -> int:
    """Train the backbone and print the result."""
    from rl_lab.commands.train import interrupted
    from rl_lab.core.interrupts import Interrupted
    from rl_lab.core.progress import Progress
    from rl_lab.experiments.pretraining import pretrain
    from rl_lab.experiments.pretraining_config import parse_settings

    settings = parse_settings(args.method, args.overrides)
    command = [shlex.quote(word) for word in sys.argv]
    try:
        result = pretrain(args.method, settings, command, Progress(quiet=args.json, unit="updates"))
    except Interrupted as stop:
        return interrupted(stop)
    report(result, args.json)
    return 0


def report(result: PretrainResult, as_json: bool) -> None:
    """Print the scores, the evaluation of a cloned agent, and the next commands; with JSON, the total result."""
    from rl_lab.evaluation.evaluate import table
    from rl_lab.experiments.run_dir import shell_quoted

    if as_json:
        print(json.dumps(result.as_json()))
        return
    if result.summary is not None:
        print(table(result.summary) + "\n")
    scores = "  ".join(f"{name} {value:.4g}" for name, value in result.scores.items())
    print(f"  {result.updates:,} updates in {result.epochs} epochs, {result.seconds:.1f} s; validation: {scores}")
    path = shell_quoted(result.run.path)
    print(f"\n  run       {result.run.path}\n  backbone  {result.run.backbone}")
    world = result.run.scenario().world
    print(f"\nnext: rl-lab train {world} backbone={path} mode=finetune")
    if result.summary is not None:
        print(f"      rl-lab watch {path}")
