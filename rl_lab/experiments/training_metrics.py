"""Write the metrics of a run: lines of metrics.jsonl, and TensorBoard's event files, both in the run's folder.

metrics.jsonl has no times, so that it is the same for every run of a seed; seconds and rates are in the events only.
After a resume, metrics.jsonl is cut at the size that the checkpoint has stored, and TensorBoard drops the later events.
"""

from __future__ import annotations

import json
import os
from typing import Any, TextIO

from rl_lab.core.errors import one_line
from rl_lab.core.untrusted import checked_int, checked_type, parse_json
from rl_lab.experiments.run_dir import Run
from rl_lab.experiments.run_record import RunError

_MAX_LINE_BYTES = 2**20  # so many bytes of metrics.jsonl are read to find its last line

# The tags that Stable-Baselines3 writes to TensorBoard, so that its runs and ours are in the same plots.
_SB3_TAGS = {
    "rollout/return": "rollout/ep_rew_mean",
    "rollout/length": "rollout/ep_len_mean",
    "time/steps_per_second": "time/fps",
    "time/seconds": "time/time_elapsed",
    "selection/return": "eval/mean_reward",
    "selection/length": "eval/mean_ep_length",
}


def check_metrics_file(run: Run, size: int, step: int) -> None:
    """Check that the first `size` bytes of metrics.jsonl end with a line of a step up to this one.

    A missing file is accepted. Raises RunError for any other content, to which training would append its lines.
    """
    if not size or not run.metrics.exists():
        return
    try:
        if not run.metrics.is_file():
            raise ValueError("it is not a file")
        with run.metrics.open("rb") as file:
            file.seek(max(size - _MAX_LINE_BYTES, 0))
            *_, last_line, rest = b"".join((b"\n", file.read(min(size, _MAX_LINE_BYTES)))).split(b"\n")
        length = run.metrics.stat().st_size
        if length < size:
            raise ValueError(f"it has {length:,} bytes of the {size:,} that the checkpoint counts")
        if rest:
            raise ValueError(f"no line ends at byte {size:,}, where the checkpoint was written")
        checked_int(
            checked_type(parse_json(last_line), "its last line", dict).get("step"), "the step of its last line", 0, step
        )
    except (OSError, ValueError) as error:
        reason = one_line(getattr(error, "strerror", None) or error)[:120]
        raise RunError(f"{run.metrics} is damaged: {reason}; delete it to continue without its lines") from None


class Metrics:
    """Writes metrics.jsonl and TensorBoard events. After a resume, both continue from the checkpoint's step.

    `size` and `step` are those of the checkpoint: metrics.jsonl is cut to so many bytes, when this object is made.
    """

    def __init__(self, run: Run, *, size: int = 0, step: int = 0) -> None:
        run.metrics.touch()
        os.truncate(run.metrics, size)
        self._file: TextIO = run.metrics.open("a", encoding="utf-8")
        self._size = size
        self._folder, self._purge_step = run.path, step + 1 if step else None
        self._events: Any = None

    @property
    def size(self) -> int:
        """The number of bytes of metrics.jsonl that are written and flushed."""
        return self._size

    def write(self, step: int, values: dict[str, float], times: dict[str, float]) -> None:
        """Append one line of values, and write them as events. `times` (seconds, rates) is written as events only."""
        line = json.dumps({"step": step, **values}, allow_nan=False) + "\n"
        self._file.write(line)
        self._file.flush()
        self._size += len(line.encode())
        self.write_events(step, {**values, **times})

    def sync(self) -> None:
        """Wait until metrics.jsonl is on the disk: a checkpoint that counts its bytes must not be there before it."""
        os.fsync(self._file.fileno())

    def write_events(self, step: int, values: dict[str, float]) -> None:
        """Write values as TensorBoard events only; those that Stable-Baselines3 has, also under its tags."""
        if self._events is None:
            self._events = self._open_events()
        for key, value in values.items():
            self._events.add_scalar(key, value, step)
            if key in _SB3_TAGS:
                self._events.add_scalar(_SB3_TAGS[key], value, step)

    def _open_events(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard drops the events after the checkpoint, because these steps are trained again.
        return SummaryWriter(str(self._folder), purge_step=self._purge_step, flush_secs=10)

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        if self._events is not None:
            self._events.close()
