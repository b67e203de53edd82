"""Run the benchmarks of docs/benchmarks.md, and write their tables into that page.

python scripts/bench.py            all of them, on a quiet machine: about half an hour
python scripts/bench.py train ...  those of some groups (env, rollout, train, starts, solve); figures of others stay

Each benchmark is one `rl-lab bench ... --json` in a process of its own. This script writes two files:
docs/benchmarks.json with the rows of every benchmark, after each one, and in the end the tables of docs/benchmarks.md
between the two comments BEGIN and END. It prints a shorter table of all rates, for the README.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
PAGE, FIGURES = DOCS / "benchmarks.md", DOCS / "benchmarks.json"
BEGIN, END = "<!-- figures: written by scripts/bench.py -->", "<!-- end of figures -->"
HAS_RLLIB = importlib.util.find_spec("ray") is not None
LEARNERS = "sb3,sbx,stock" if importlib.util.find_spec("sbx") else "sb3,stock"
LENGTHS = (16, 256, 2048)  # steps of a fragment, of each environment
# The benchmarks of each group: arguments of `rl-lab bench`.
RUNS = {
    "env": [
        "env cartpole --worlds 4096 --vs gymnasium,envpool",
        "env cartpole --worlds 8 --vs gymnasium",
        "env breakout --vs minatar --rounds 3",
        "env asterix --vs minatar --rounds 3",
        "env freeway --vs minatar --rounds 3",
        "env seaquest --vs minatar --rounds 3",
        "env space_invaders --vs minatar --rounds 3",
        "env simple_tag --vs mpe2 --rounds 3",
        "env connect_four --vs pettingzoo --rounds 3",
    ],
    "rollout": [
        *(f"rollout cartpole --setting {name} --vs {LEARNERS}" for name in ("small", "wide")),
        *["rollout cartpole --vs rllib --seconds 2"] * HAS_RLLIB,
        *(f"rollout cartpole --setting rllib --runners 1,2 --fragment {n} --rounds 3" for n in LENGTHS * HAS_RLLIB),
    ],
    "train": [
        *(f"train cartpole --setting {name} --vs {LEARNERS} --seconds 2" for name in ("small", "jax", "wide", "wide1")),
        "train breakout --setting cnn --vs sb3,stock --seconds 2",
        f"train breakout --setting flat --vs {LEARNERS} --seconds 2",
        f"train cartpole --setting dqn --vs {LEARNERS} --seconds 2",
        *["train cartpole --vs rllib --seconds 2"] * HAS_RLLIB,
    ],
    "starts": [
        *(f"train cartpole --setting {name} --vs {LEARNERS} --starts" for name in ("small", "dqn")),
        *["train cartpole --setting rllib --vs rllib --starts"] * HAS_RLLIB,
    ],
    "solve": ["solve cartpole", "solve cartpole --command", "solve cartpole agent=dqn"],
}
TITLES = {
    "env": "Worlds alone",
    "rollout": "Rollouts",
    "train": "Training, the same work for all",
    "starts": "From starting a process to the end of its first update",
    "solve": "Until CartPole is solved",
}
MAX_LOAD = (
    0.15  # share of the cores that other programs use before a benchmark; above it, the page warns of the figures
)


def main(groups: list[str]) -> None:
    """Run the benchmarks of these groups, of all if none is named, and write both files."""
    if unknown := set(groups) - set(RUNS):
        sys.exit(f"no group {', '.join(sorted(unknown))}; expected some of {', '.join(RUNS)}")
    figures: dict[str, Any] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    for group in groups or RUNS:
        commands = [f"rl-lab bench {line}" for line in RUNS[group]]
        entries = {entry["command"]: entry for entry in figures.get(group, ()) if entry["command"] in commands}
        for command, line in zip(commands, RUNS[group], strict=True):
            print(command, file=sys.stderr, flush=True)
            load = load_of_others()
            # In a process of its own, a benchmark inherits no threads and no memory of another one.
            words = [sys.executable, "-m", "rl_lab.cli", "bench", *line.split(), "--json"]
            output = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows = json.loads(output.splitlines()[-1])["rows"]
            conditions = {"date": time.strftime("%Y-%m-%d"), "load": round(load, 2), "machine": machine()}
            entries[command] = {"command": command, **conditions, "rows": rows}
            figures[group] = [entries[each] for each in commands if each in entries]
            FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    write_page(figures)
    print("\n".join(readme_table(figures)))


def load_of_others(seconds: float = 1.0) -> float:
    """Return the share of the cores that other programs use, measured for some time.

    The load average is used only where there is no /proc/stat: it would include the benchmark before.
    """
    if not Path("/proc/stat").exists():
        return os.getloadavg()[0] / (os.cpu_count() or 1)

    def read_ticks() -> tuple[int, int]:
        """Return the clock ticks of all cores since the start of the machine: all of them, and the idle ones."""
        ticks = [int(n) for n in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        return sum(ticks), ticks[3] + ticks[4]  # idle, or waiting for a disk

    total_before, idle_before = read_ticks()
    time.sleep(seconds)
    total, idle = read_ticks()
    return 1 - (idle - idle_before) / max(total - total_before, 1)


def machine() -> str:
    """Return the number of cores and the model of the processor, as far as the system says."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
        model = next(line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores, {model}"


def write_page(figures: dict[str, Any]) -> None:
    """Write the tables between BEGIN and END of docs/benchmarks.md; the rest of the page stays as it is."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    tables = []
    for group in (g for g in RUNS if g in figures):
        tables += [f"### {TITLES[group]}", ""]
        for entry in figures[group]:
            busy = entry["load"] > MAX_LOAD
            warning = f" **BUSY MACHINE ({entry['load']:.0%} of it in use by others): measure again.**" if busy else ""
            tables += [f"`{entry['command']}`, {entry['date']}, {entry['machine']}.{warning}", ""]
            tables += [*table(entry["rows"]), ""]
    PAGE.write_text("\n".join([before + BEGIN, "", *tables, END]) + after)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return rows of one benchmark as a Markdown table."""
    if rows[0]["kind"] in ("start", "command"):
        head = ["| what | start | conditions | seconds |", "|---|---|---|---|"]
        return head + [
            f"| {r['what']} | {r.get('start', 'warm')} | {r['conditions']} | {figure(r['seconds'], '.2f')} |"
            for r in rows
        ]
    if rows[0]["kind"] == "solve":
        head = ["| what | solved | s of training | s with evaluation | steps |", "|---|---|---|---|---|"]
        return head + [solve_row(row) for row in rows]
    head = ["| what | conditions | steps/s | rl_lab is | cores busy | first step after |", "|---|---|---|---|---|---|"]
    lines = []
    for row in rows:
        times = f"**{figure(row['ratio'], '.1f', 'x')}**" if "ratio" in row else ""
        if "speedup" in row:
            times = f"**{figure(row['speedup'], '.2f', 'x')}** the first row"
        rate, cold = figure(row["steps_per_second"], ",.0f"), f"{row['cold_seconds']:.2f} s"
        cores = f"{row['cores']:.1f}" if "cores" in row else ""
        lines.append(f"| {row['what']} | {row['conditions']} | {rate} | {times} | {cores} | {cold} |")
    return head + lines


def solve_row(row: dict[str, Any]) -> str:
    """Return a line of the table of `bench solve`: that of one seed, or the median of all."""
    if "seeds" in row:
        reached = f"{row['solved']} of {row['seeds']}"
        figures = [figure(row[k], f) for k, f in (("training_seconds", ".2f"), ("seconds", ".2f"), ("steps", ",.0f"))]
        return f"| **{row['what']}, median** | {reached} | {' | '.join(figures)} |"
    reached = "yes" if row["solved"] else f"no: {row['score']:g}"
    return f"| {row['what']} | {reached} | {row['training_seconds']:.2f} | {row['seconds']:.2f} | {row['steps']:,} |"


def figure(values: dict[str, float | None], form: str, unit: str = "") -> str:
    """Return a median with the lowest and the highest value as text; None, for what did not occur, is "never"."""
    median, low, high = ("never" if values[k] is None else f"{values[k]:{form}}" for k in ("median", "low", "high"))
    return f"{median}{unit} ({low} to {high})"


def readme_table(figures: dict[str, Any]) -> list[str]:
    """Return a Markdown table of all rates, with one line for each contender."""
    lines = ["| what | kind | conditions | steps/s | rl_lab is |", "|---|---|---|---|---|"]
    for group in ("env", "rollout", "train"):
        for row in (row for entry in figures.get(group, ()) for row in entry["rows"]):
            times = figure(row["ratio"], ".1f", "x") if "ratio" in row else ""
            rate = figure(row["steps_per_second"], ",.0f")
            lines.append(f"| {row['what']} | {row['kind']} | {row['conditions']} | {rate} | {times} |")
    return lines


if __name__ == "__main__":
    main(sys.argv[1:])
