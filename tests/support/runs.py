"""Checks of finished runs: what of them must be the same bit for bit, and that they can be evaluated and resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rl_lab.cli import main
from rl_lab.core import checkpoint


def check_evaluates_and_resumes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Evaluate a finished run again, with the same result, and resume it from the checkpoint before its last."""
    trained = json.loads(next((run / "evaluations").glob("*/summary.json")).read_text())
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json"]) == 0
    evaluated_again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert evaluated_again["mean_return"] == trained["mean_return"]
    shutil.rmtree(sorted((run / "checkpoints").iterdir())[-1])
    assert main(["resume", str(run)]) == 0


def reproducible_content(run: Path) -> tuple[object, ...]:
    """Return all of a run that must be equal for runs of one seed, resumed or not.

    These are the step, the tensors and the state of the last checkpoint (without its time), the metrics, the best agent
    and the evaluated episodes.
    """
    last, errors = checkpoint.latest(run / "checkpoints")
    assert last is not None and not errors
    state = {key: value for key, value in last.state.items() if key != "clock"}
    tensors = {
        f"{member}/{name}": (array.dtype.str, array.shape, array.tobytes())
        for member, arrays in last.tensors.items()
        for name, array in arrays.items()
    }
    agent = {path.relative_to(run): path.read_bytes() for path in sorted((run / "agent").rglob("*.safetensors"))}
    evaluations = [path.read_bytes() for path in sorted(run.glob("evaluations/*/episodes.jsonl"))]
    return (
        last.step,
        tensors,
        json.dumps(state, sort_keys=True),
        (run / "metrics.jsonl").read_bytes(),
        agent,
        evaluations,
    )
