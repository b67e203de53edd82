"""Check that this machine has all the lab needs, and say what to do where it has not."""

from __future__ import annotations

import argparse
import json
import textwrap

NAME = "doctor"


def configure(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(given: argparse.Namespace) -> int:
    """Print the checks; 1 if one failed."""
    from ..doctor import examine

    checks = examine()
    failed = any(check["status"] == "fail" for check in checks)
    if given.json:
        print(json.dumps({"ok": not failed, "checks": checks}))
        return int(failed)
    for check in checks:
        lines = textwrap.wrap(check["found"], 96) or [""]
        print(f"{check['status']:<5} {check['name']:<9} {lines[0]}")
        for line in lines[1:]:
            print(" " * 16 + line)
        if check["advice"]:
            print(" " * 16 + f"-> {check['advice']}")
    return int(failed)
