"""Check that this machine has everything that the lab needs, and give advice where something is missing."""

from __future__ import annotations

import argparse
import json
import textwrap

from rl_lab.core.text_table import format_table

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
    cells = []
    for check in checks:
        first, *others = textwrap.wrap(check["detail"], 96) or [""]
        cells.append((check["status"], check["name"], first))
        cells += [("", "", line) for line in others]
        if check["advice"]:
            cells.append(("", "", f"-> {check['advice']}"))
    print(format_table(cells, left=(0, 1, 2)))
    return int(failed)
