"""Recompute published or exactly known values of games and of statistics, and compare them.

Each line has the expected and the actual value, and the source of a value that differs. Values that need training
name the test that measures them.
  rl-lab validate      rl-lab validate kuhn_poker sprt      rl-lab validate --slow connect_four
"""

from __future__ import annotations

import argparse
import json
from typing import Any

NAME = "validate"


def configure(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="values whose name begins like this; all by default")
    parser.add_argument("--slow", action="store_true", help="also what takes minutes: connect four, solved")


def run(args: argparse.Namespace) -> int:
    """Print every value; return 1 where one is not as expected."""
    from rl_lab.core.errors import UsageError, nearest
    from rl_lab.validation import reference_values

    entries = reference_values.entries()
    for name in args.names:
        if not any(entry["name"].startswith(name) for entry in entries):
            raise UsageError(
                f"no reference value {name!r}; {nearest(name, {e['name'].split('.')[0] for e in entries})}"
            )
    selected = [e for e in entries if not args.names or e["name"].startswith(tuple(args.names))]
    width, findings = max(len(entry["name"]) for entry in selected), []
    for finding in reference_values.run_checks(selected, slow=args.slow):
        findings.append(finding)
        if not args.json:
            result = finding.note or f"actual {_as_text(finding.actual)}"
            status = {"elsewhere": "-", "slow": "-"}.get(finding.status, finding.status)
            print(f"{status:<4}  {finding.name:<{width}}  expected {_as_text(finding.expected)}  {result}", flush=True)
            if finding.status == "fail":
                print(f"      source: {finding.source}", flush=True)
    count = {status: sum(f.status == status for f in findings) for status in ("pass", "fail", "elsewhere", "slow")}
    if args.json:
        print(json.dumps({"ok": not count["fail"], "values": [finding.to_dict() for finding in findings]}))
    else:
        seconds = sum(finding.seconds for finding in findings)
        print(f"\n{count['pass']} passed, {count['fail']} failed in {seconds:.1f} s", end="; ")
        print(f"{count['elsewhere']} are measured by training", end="")
        print(f", {count['slow']} computed only with --slow" if count["slow"] else "")
    return int(bool(count["fail"]))


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_as_text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_as_text(each) for each in value) + "]"
    return f"{value + 0.0:.7g}" if isinstance(value, float) else str(value)
