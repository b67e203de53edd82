"""The training loop's own part of a whole-state checkpoint: `LoopState.entries` writes it, `read` checks and reads it.

The other parts are the learner's and the environments', see `whole_state`. A checkpoint may come from a stranger, so
`read` checks the type and range of every value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_lab.core.checkpoint import Checkpoint
from rl_lab.core.untrusted import checked_int, checked_number, checked_type
from rl_lab.experiments import whole_state


@dataclass(frozen=True)
class LoopState:
    """The state of a training loop besides that of its learner and environments.

    In a checkpoint, the entries have the names of its format: "best" is the best score, "kept" the best agent,
    "sampled_return" the return in training, "clock" the seconds.
    """

    best_score: float  # -inf before the first selection
    best_agent: Checkpoint | None
    selections: int  # number of selections so far
    training_return: float | None  # of the last training episodes
    metrics_size: int  # bytes of metrics.jsonl
    seconds: float  # of training so far

    def entries(self) -> dict[str, Any]:
        """Return the entries of a checkpoint's state. The best agent's tensors are members of the checkpoint."""
        best = self.best_agent
        training = {
            "best": None if self.best_score == -math.inf else self.best_score,
            "selections": self.selections,
            "sampled_return": self.training_return,
            "metrics_size": self.metrics_size,
            "kept": best and {"step": best.step, "state": best.state},
        }
        return {"training": training, "clock": self.seconds}


def read(saved: Checkpoint, agent_folder: Path) -> LoopState:
    """Return what `entries` wrote; the best agent is one of this folder. Raises KeyError or ValueError."""
    training = checked_type(saved.state["training"], "training", dict)
    for name in ("selections", "metrics_size"):
        checked_int(training[name], f"training: {name}")
    score, best, training_return = training["best"], training["kept"], training.get("sampled_return")
    best_agent = None
    if best is not None:
        step = checked_int(checked_type(best, "training: kept", dict)["step"], "training: kept: step", 0, saved.step)
        state = checked_type(best["state"], "training: kept: state", dict)
        best_agent = Checkpoint(agent_folder, step, whole_state.best_agent_tensors(saved), state)
    return LoopState(
        best_score=-math.inf if score is None else checked_number(score, "training: best"),
        best_agent=best_agent,
        selections=training["selections"],
        training_return=None
        if training_return is None
        else checked_number(training_return, "training: sampled_return"),
        metrics_size=training["metrics_size"],
        seconds=checked_number(saved.state["clock"], "clock", 0.0),
    )
