"""Test of TensorBoard events: metrics of training and of selections, under the lab's tags and Stable-Baselines3's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rl_lab.experiments.run_dir import Run
from rl_lab.experiments.training_metrics import Metrics


def test_events_have_the_labs_tags_and_those_of_stable_baselines3(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    metrics = Metrics(Run(tmp_path))
    metrics.write(10, {"rollout/return": 1.5, "rollout/length": 9.0, "train/loss": 0.5}, {"time/steps_per_second": 7.0})
    metrics.write_events(10, {"selection/return": 2.5, "selection/length": 8.0})
    metrics.close()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert scalars == {
        "rollout/return": [(10, 1.5)],
        "rollout/ep_rew_mean": [(10, 1.5)],
        "rollout/length": [(10, 9.0)],
        "rollout/ep_len_mean": [(10, 9.0)],
        "train/loss": [(10, 0.5)],
        "time/steps_per_second": [(10, 7.0)],
        "time/fps": [(10, 7.0)],
        "selection/return": [(10, 2.5)],
        "eval/mean_reward": [(10, 2.5)],
        "selection/length": [(10, 8.0)],
        "eval/mean_ep_length": [(10, 8.0)],
    }
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 10, "rollout/return": 1.5, "rollout/length": 9.0, "train/loss": 0.5}
