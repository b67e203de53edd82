"""Recompute what is published or exactly known of games and of statistics, and compare.

Every value says what was expected, what came out, and its source; those that need training name what measures them.
  rl-lab validate      rl-lab validate kuhn_poker sprt      rl-lab validate --slow connect_four
"""

from __future__ import annotations

import argparse
import json
from typing import Any

NAME = "validate"


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="values whose name begins like this; all by default")
    parser.add_argument("--slow", action="store_true", help="also what takes minutes: connect four, solved")


def run(given: argparse.Namespace) -> int:
    """Print every value; 1 if one is not as expected."""
    from ..names import UsageError, nearest
    from ..rating import reference

    entries = reference.entries()
    for name in given.names:
        if not any(entry["name"].startswith(name) for entry in entries):
            raise UsageError(
                f"no reference value {name!r}; {nearest(name, {e['name'].split('.')[0] for e in entries})}"
            )
    chosen = [e for e in entries if not given.names or e["name"].startswith(tuple(given.names))]
    width, findings = max(len(entry["name"]) for entry in chosen), []
    for finding in reference.examine(chosen, slow=given.slow):
        findings.append(finding)
        if not given.json:
            came = finding.note or f"obtained {_shown(finding.obtained)}"
            mark = {"elsewhere": "-", "slow": "-"}.get(finding.status, finding.status)
            print(f"{mark:<4}  {finding.name:<{width}}  expected {_shown(finding.expected)}  {came}", flush=True)
            if finding.status == "fail":
                print(f"      source: {finding.source}", flush=True)
    count = {status: sum(f.status == status for f in findings) for status in ("pass", "fail", "elsewhere", "slow")}
    if given.json:
        print(json.dumps({"ok": not count["fail"], "values": [finding.line() for finding in findings]}))
    else:
        seconds = sum(finding.seconds for finding in findings)
        print(f"\n{count['pass']} passed, {count['fail']} failed in {seconds:.1f} s", end="; ")
        print(f"{count['elsewhere']} are measured by training", end="")
        print(f", {count['slow']} computed only with --slow" if count["slow"] else "")
    return int(bool(count["fail"]))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_shown(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_shown(each) for each in value) + "]"
    return f"{value + 0.0:.7g}" if isinstance(value, float) else str(value)
