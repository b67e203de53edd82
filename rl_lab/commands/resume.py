"""Go on with a run that was stopped or killed, from its newest valid checkpoint."""

from __future__ import annotations

import argparse

NAME = "resume"


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.add_argument("run_dir", metavar="RUN", help="a run's folder, or the beginning of its name in runs/")


def run(given: argparse.Namespace) -> int:
    """Resume."""
    from ..progress import Progress
    from ..run import find
    from ..training import Interrupted, resume
    from .train import interrupted, report

    try:
        report(resume(find(given.run_dir), Progress(quiet=given.json)), given.json)
    except Interrupted as stop:
        return interrupted(stop)
    return 0
