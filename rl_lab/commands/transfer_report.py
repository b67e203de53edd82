"""Measure what a backbone is worth: train with it, without it and with controls, on the same seeds, and compare.

  rl-lab transfer-report keys_and_doors backbone=runs/bc-... data=demos/expert seeds=10 out=reports/keys
SCENARIO is as in `rl-lab train`. Keys of the report:
  backbone=PATH  out=DIR  seeds=10  data=DIR  reference=SCORE  floor=0
  mode=finetune  parts=trunk,policy  backbone.KEY=VALUE  (of the hand-off, as in `rl-lab train`)
All others are those of `rl-lab train` (agent=, budget=, world.params.KEY=, agent.KEY=), for every arm.
The same command continues an interrupted report; what is trained is not trained again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys

from rl_lab.engine.user_code import add_option

NAME = "transfer-report"


def configure(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    add_option(parser)
    parser.add_argument("scenario", metavar="SCENARIO")
    parser.add_argument("overrides", nargs="*", metavar="key=value")


def run(args: argparse.Namespace) -> int:
    """Train the arms, print the report, and write it."""
    from rl_lab.core.interrupts import Interrupted
    from rl_lab.experiments.run_dir import shell_quoted
    from rl_lab.transfer import comparison, report
    from rl_lab.transfer.settings import parse_settings
    from rl_lab.transfer.trainings import TrainingProgress

    def note(line: str) -> None:
        if not args.json:
            print(f"  {line}", file=sys.stderr, flush=True)

    settings = parse_settings(args.scenario, args.overrides)
    try:
        progress = TrainingProgress(quiet=args.json)
        made = comparison.compare(settings, [shlex.quote(word) for word in sys.argv], note, progress)
    except Interrupted as stop:
        print(f"\nstopped; the same command continues in {shell_quoted(settings.out)}", file=sys.stderr)
        return stop.code
    if args.json:
        print(json.dumps(made))
        return 0
    print(report.text(made))
    print(f"\n  report  {settings.out / comparison.JSON}\n  page    {settings.out / comparison.PAGE}")
    return 0
