"""Train a backbone on a data set: a network from observations to features, with a policy or a value head.

  rl-lab data collect scripted world=cartpole steps=20000 out=demos/cartpole
  rl-lab pretrain bc data=demos/cartpole backbone=mlp backbone.hidden=[64,64]
  rl-lab train cartpole backbone=runs/bc-cartpole-... mode=finetune
  rl-lab pretrain tree teacher=RUN max_depth=6
METHOD is bc (imitates the recorded actions), critic (predicts the discounted sum of the rewards that follow), selfpred
(predicts its own features some steps ahead, and the actions between) or vae (reconstructs observations).
backbone= is a name in agents/backbones/, or the folder of a backbone to begin with. Settings are key=value:
  epochs=50  patience=5  batch_size=256  learning_rate=1e-3  validation=0.1  net_arch=[64]  freeze_trunk=true
  horizon=5  momentum=0.99  inverse_weight=1 (selfpred)  beta=1  latent_size=32 (vae)
  gamma=0.99  seed=0  device=cpu  threads=2  run_dir=PATH  world=NAME  evaluation.episodes=100
METHOD diffusion (sequences of continuous actions) or sequence (a transformer that aims at a return) trains an agent:
  history=2  horizon=16  act_steps=8  width=256  layers=3  noise_levels=100  denoising_steps=10  average_decay=0.995
  context=20  target_return=200  width=64  layers=2  heads=2  dropout=0.1
METHOD levels trains a model of a world's levels, and writes levels that it makes and that the world's expert solves:
  world=NAME  levels=2000 (of its own, to learn from) or data=FILE  samples=2000  temperature=1
METHOD dagger clones an agent that is asked in the states which its clone reaches. It has the settings above, and:
  teacher=AGENT  rounds=5  rollout_episodes=16  rollout_steps=1000  teacher_share=0  sample=true
METHOD tree distils an agent, a run or one that is not trained, into a decision tree that reads as rules:
  model=decision_tree, or boosted trees: hist_gradient_boosting, xgboost, lightgbm  num_trees=100  learning_rate=0.1
  max_depth=6  max_leaf_nodes=30  min_samples_leaf=1  iterations=10  rollout_episodes=32  rollout_steps=20000  noise=0
  weighted=true  feature_names=[A,B]  seed=0  run_dir=PATH  world=NAME  world.params.FIELD=VALUE  opponent=AGENT
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rl_lab.experiments.pretraining_run import PretrainResult
    from rl_lab.experiments.tree_distillation import DistillationResult

from rl_lab.engine.user_code import add_option

NAME = "pretrain"


def configure(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    add_option(parser)
    parser.add_argument("method", metavar="METHOD")
    parser.add_argument("overrides", nargs="*", metavar="key=value")


def run(args: argparse.Namespace) -> int:
    """Train the backbone and print the result."""
    from rl_lab.commands.train import report_interruption
    from rl_lab.core.interrupts import Interrupted
    from rl_lab.core.progress import Progress
    from rl_lab.experiments import policy_pretraining
    from rl_lab.experiments.pretraining import pretrain
    from rl_lab.experiments.pretraining_config import LEVELS, POLICY_METHODS, parse_settings

    command = [shlex.quote(word) for word in sys.argv]
    try:
        if args.method == "tree":
            return _distil(args, command)
        progress = Progress(quiet=args.json, unit="updates")
        if args.method == "dagger":
            return _aggregate(args, command)
        if args.method == LEVELS:
            from rl_lab.experiments import level_pretraining

            settings = level_pretraining.parse_settings(args.overrides)
            steps = (level_pretraining.prepare, level_pretraining.open_levels)
            result = pretrain(args.method, settings, command, progress, *steps)
        elif args.method in POLICY_METHODS:
            settings = policy_pretraining.parse_settings(args.method, args.overrides)
            result = pretrain(args.method, settings, command, progress, policy_pretraining.prepare)
        else:
            settings = parse_settings(args.method, args.overrides)
            result = pretrain(args.method, settings, command, progress)
    except Interrupted as stop:
        return report_interruption(stop)
    report(result, args.json)
    return 0


def _aggregate(args: argparse.Namespace, command: list[str]) -> int:
    from rl_lab.core.progress import Progress
    from rl_lab.experiments.dagger import aggregate
    from rl_lab.experiments.dagger_config import parse_request

    progress = Progress(quiet=args.json, unit="rounds")
    report(aggregate(parse_request(args.overrides), command, progress), args.json)
    return 0


def _distil(args: argparse.Namespace, command: list[str]) -> int:
    from rl_lab.core.progress import Progress
    from rl_lab.experiments.tree_config import parse_request
    from rl_lab.experiments.tree_distillation import distil

    progress = Progress(quiet=args.json, unit="trees")
    report_tree(distil(parse_request(args.overrides), command, progress), args.json)
    return 0


def report_tree(result: DistillationResult, as_json: bool) -> None:
    """Print the evaluation of a tree, its size, and the next commands; with JSON, the total result."""
    from rl_lab.evaluation.evaluate import table
    from rl_lab.experiments.run_dir import shell_quoted

    if as_json:
        print(json.dumps(result.as_json()))
        return
    print(table(result.summary) + "\n")
    scores = "  ".join(f"{name} {value:.4g}" for name, value in result.scores.items())
    print(f"  selected by: {scores}; {result.seconds:.1f} s")
    print(
        f"\n  run    {result.run.path}\n  tree   {result.folder / 'tree.json'}\n  rules  {result.folder / 'rules.md'}"
    )
    path = shell_quoted(result.run.path)
    print(f"\nnext: rl-lab watch {path}\n      rl-lab evaluate {path} evaluation.episodes=1000")


def report(result: PretrainResult, as_json: bool) -> None:
    """Print the scores, the evaluation of a cloned agent, and the next commands; with JSON, the total result."""
    from rl_lab.evaluation.evaluate import table
    from rl_lab.experiments import observation_sheet
    from rl_lab.experiments.run_dir import shell_quoted

    if as_json:
        print(json.dumps(result.as_json()))
        return
    if result.summary is not None:
        print(table(result.summary) + "\n")
    scores = "  ".join(f"{name} {value:.4g}" for name, value in result.scores.items())
    effort = f"{result.updates:,} updates in {result.epochs} epochs, {result.seconds:.1f} s"
    print(f"  {effort}; {result.score_split}: {scores}")
    path = shell_quoted(result.run.path)
    if result.levels is not None:
        _report_levels(result)
        return
    print(f"\n  run       {result.run.path}")
    if not result.has_backbone:
        print(f"\nnext: rl-lab watch {path}\n      rl-lab evaluate {path} evaluation.episodes=1000")
        return
    print(f"  backbone  {result.run.backbone}")
    if (picture := result.run.path / observation_sheet.NAME).is_file():
        print(f"  picture   {picture}")
    world = result.run.scenario().world
    print(f"\nnext: rl-lab train {world} backbone={path} mode=finetune")
    if result.summary is not None:
        print(f"      rl-lab watch {path}")


def _report_levels(result: PretrainResult) -> None:
    from rl_lab.experiments.level_pretraining import FOLDER, PICTURE, PLAYABLE
    from rl_lab.experiments.run_dir import shell_quoted

    assert result.levels is not None
    figures = {name: value for name, value in result.levels.items() if not isinstance(value, dict)}
    print("  levels: " + "  ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    file = result.run.path / FOLDER / PLAYABLE
    print(f"\n  run       {result.run.path}\n  levels    {file}\n  picture   {result.run.path / PICTURE}")
    if not figures["written"]:
        print("\nno new level can be solved: learn for more epochs, or from more levels")
        return
    world = result.run.scenario().world
    print(f"\nnext: rl-lab train {world} world.params.level_grids={shell_quoted(file)}")
