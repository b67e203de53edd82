"""Probe backbones: how much of a transition a linear model can read from their features, on validation episodes.

  rl-lab probe runs/selfpred-... runs/vae-... data=demos/breakout-v0
  rl-lab probe A B C data=DIR transfer=reports/a,reports/b,reports/c
BACKBONE is a backbone's folder, or a run of rl-lab pretrain. Beside them are the raw observations and random trunks.
  data=DIR  out=probe.json  rows=20000  validation=0.1  seed=0
transfer= names reports of rl-lab transfer-report: probe scores are then compared with the transfer that was measured.
"""

from __future__ import annotations

import argparse
import json
import sys

from rl_lab.engine.user_code import add_option

NAME = "probe"


def configure(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    add_option(parser)
    parser.add_argument("words", nargs="*", metavar="BACKBONE|key=value")


def run(args: argparse.Namespace) -> int:
    """Fit the probes, print the table, and write it."""
    from rl_lab.datasets.requirement import pyarrow
    from rl_lab.experiments import probing
    from rl_lab.experiments.probe_settings import parse_settings
    from rl_lab.transfer import probe_correlation

    def note(line: str) -> None:
        if not args.json:
            print(f"  {line}", file=sys.stderr, flush=True)

    settings = parse_settings(args.words)
    pyarrow()
    transfers = [probe_correlation.read_transfer(path) for path in settings.reports]
    result = probing.probe(settings, note)
    if transfers:
        result["transfer"] = probe_correlation.correlate(result, transfers)
    probing.write(settings, result)
    if args.json:
        print(json.dumps(result))
        return 0
    print(probing.text(result))
    if transfers:
        print("\n" + probe_correlation.text(result["transfer"]))
    print(f"\n  scores  {settings.path}")
    return 0
