"""selections.jsonl: what the evaluations during training have measured, also after a resume; damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rl_lab.experiments.learning_curve import earlier_lines, learning_curve
from rl_lab.experiments.run_dir import Run
from rl_lab.experiments.run_record import RunError


def lines(*steps: int) -> str:
    return "".join(json.dumps({"step": step, "return": step / 10, "length": 1.0}) + "\n" for step in steps)


def test_a_curve_has_the_step_and_the_return_of_each_line(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert learning_curve(run) == []
    run.selections.write_text(lines(5, 10))
    assert learning_curve(run) == [(5, 0.5), (10, 1.0)]


def test_a_resumed_run_replaces_the_lines_from_its_checkpoint_on(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.selections.write_text(lines(5, 10, 15))
    assert b"".join(earlier_lines(run, 10)).decode() == lines(5)


@pytest.mark.parametrize(
    "text",
    [
        "[]\n",
        '{"step": 5}\n',
        '{"step": -1, "return": 0}\n',
        '{"step": 1, "return": NaN}\n',
        lines(5, 5),
        "\x00\n",
        lines(3)[:9],
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    run = Run(tmp_path)
    run.selections.write_text(text)
    with pytest.raises(RunError, match="selections.jsonl is damaged: ") as refusal:
        learning_curve(run)
    assert "\n" not in str(refusal.value)
    run.selections.unlink()
    run.selections.mkdir()
    with pytest.raises(RunError, match="damaged"):
        learning_curve(run)
