"""What a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

from rl_lab.core import checkpoint


def outcome(run: Path) -> tuple[object, ...]:
    """Everything that must be equal: tensors, state but for the clock, metrics, the kept agent, the evaluation."""
    last, refused = checkpoint.latest(run / "checkpoints")
    assert last is not None and not refused
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
