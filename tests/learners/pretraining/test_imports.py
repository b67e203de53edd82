"""What is imported: scenarios are read without torch, whose import takes longer than reading them."""

from __future__ import annotations

import subprocess  # a fresh interpreter, because imports are the subject
import sys


def test_scenarios_and_runs_are_read_without_torch() -> None:
    program = "import sys, rl_lab.experiments.run_dir, rl_lab.experiments.compose; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
