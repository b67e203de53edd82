"""Run every benchmark of the README and print its table in Markdown. Use a quiet machine."""

from __future__ import annotations

import json
import subprocess
import sys

RUNS = [
    ["env", "cartpole", "--worlds", "4096", "--vs", "gymnasium,envpool"],
    ["env", "cartpole", "--worlds", "8", "--vs", "gymnasium"],
    ["rollout", "cartpole", "--worlds", "1024", "--vs", "sb3"],
    ["train", "cartpole", "--worlds", "1024", "--vs", "sb3"],
    ["train", "cartpole", "--worlds", "8", "--vs", "sb3"],
]
KINDS = {"env": "env-only", "rollout": "rollout", "train": "training"}


def main() -> None:
    """Print the table."""
    print("| what | kind | conditions | steps/s | rl_lab is |")
    print("|---|---|---|---|---|")
    for words in RUNS:
        command = [sys.executable, "-m", "rl_lab.cli", "bench", *words, "--json"]
        # A process each, so that no benchmark inherits another's threads or memory.
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        for row in json.loads(output.splitlines()[-1])["rows"]:
            rate, ratio = row["steps_per_second"], row.get("ratio")
            times = f"{ratio['median']:.1f}x ({ratio['low']:.1f} to {ratio['high']:.1f})" if ratio else ""
            shown = f"{rate['median']:,.0f} ({rate['low']:,.0f} to {rate['high']:,.0f})"
            print(f"| {row['what']} | {KINDS[row['kind']]} | {row['conditions']} | {shown} | {times} |", flush=True)


if __name__ == "__main__":
    main()
