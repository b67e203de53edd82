"""Continue a run that was stopped or killed, from its newest valid checkpoint."""

from __future__ import annotations

import argparse

from rl_lab.engine.user_code import add_option

NAME = "resume"


def configure(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    add_option(parser)
    parser.add_argument("run_dir", metavar="RUN", help="a run's folder, or the beginning of its name in runs/")
    parser.add_argument("--require-video", action="store_true", help="exit with status 1 if a video cannot be made")


def run(args: argparse.Namespace) -> int:
    """Continue the run, and print its result."""
    from rl_lab.commands import pretrain
    from rl_lab.commands.train import exit_status, report, report_interruption, report_nothing, report_videos
    from rl_lab.core.progress import Progress
    from rl_lab.experiments import (
        dagger,
        level_pretraining,
        policy_pretraining,
        pretraining,
        pretraining_config,
        tree_distillation,
    )
    from rl_lab.experiments.dagger_config import is_dagger
    from rl_lab.experiments.run_dir import find
    from rl_lab.experiments.trainer import Interrupted, resume
    from rl_lab.experiments.tree_config import is_distillation

    try:
        run = find(args.run_dir, unfinished=True)
        if is_dagger(run.path):
            pretrain.report(dagger.resume(run, Progress(quiet=args.json, unit="rounds")), args.json)
            return 0
        if pretraining_config.is_pretraining(run.path):
            method = pretraining_config.read(run.path)[0]
            progress = Progress(quiet=args.json, unit="updates")
            if method == pretraining_config.LEVELS:
                steps = (level_pretraining.prepare, level_pretraining.open_levels)
                pretrain.report(pretraining.resume(run, progress, *steps), args.json)
                return 0
            prepare = policy_pretraining.prepare if method in pretraining_config.POLICY_METHODS else None
            pretrain.report(pretraining.resume(run, progress, prepare), args.json)
            return 0
        if is_distillation(run.path):
            pretrain.report_tree(tree_distillation.resume(run, Progress(quiet=args.json, unit="trees")), args.json)
            return 0
        result = resume(run, Progress(quiet=args.json), report_nothing if args.json else report)
    except Interrupted as stop:
        return report_interruption(stop)
    report_videos(result, args.json)
    return exit_status([result], args.require_video)
