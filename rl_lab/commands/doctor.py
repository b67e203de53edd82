"""Check that this machine has everything that the lab needs, and give advice where something is missing."""

from __future__ import annotations

import argparse
import json
import textwrap

NAME = "doctor"


def configure(parser: argparse.ArgumentParser) -> None:
    """Define no arguments."""


def run(args: argparse.Namespace) -> int:
    """Print the results of the checks; return 1 where one failed."""
    from rl_lab.checks.doctor import run_checks

    checks = run_checks()
    failed = any(check["status"] == "fail" for check in checks)
    if args.json:
        print(json.dumps({"ok": not failed, "checks": checks}))
        return int(failed)
    for check in checks:
        lines = textwrap.wrap(check["detail"], 96) or [""]
        print(f"{check['status']:<5} {check['name']:<9} {lines[0]}")
        for line in lines[1:]:
            print(" " * 16 + line)
        if check["advice"]:
            print(" " * 16 + f"-> {check['advice']}")
    return int(failed)
