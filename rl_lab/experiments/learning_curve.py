"""The learning curve of a run: what its selections have measured, in selections.jsonl."""

from __future__ import annotations

from collections.abc import Iterator

from rl_lab.core.errors import one_line
from rl_lab.core.untrusted import checked_int, checked_number, checked_type, parse_json
from rl_lab.experiments.run_dir import Run
from rl_lab.experiments.run_record import RunError

_MAX_BYTES = 2**26


def learning_curve(run: Run) -> list[tuple[int, float]]:
    """Return the steps and the mean return of each selection, by ascending steps; [] where nothing was written.

    Raises RunError for a damaged file.
    """
    return [(steps, score) for steps, score, _ in _selections(run)]


def earlier_lines(run: Run, steps: int) -> list[bytes]:
    """Return the lines of selections before this number of steps. Raises RunError for a damaged file."""
    return [line for step, _, line in _selections(run) if step < steps]


def _selections(run: Run) -> Iterator[tuple[int, float, bytes]]:
    """Yield the steps, the mean return and the line of each selection."""
    last = -1
    try:
        if not run.selections.exists():
            return
        if not run.selections.is_file() or run.selections.stat().st_size > _MAX_BYTES:
            raise ValueError("it is not a file, or too large")
        for line in run.selections.read_bytes().splitlines(keepends=True):
            values = checked_type(parse_json(line), "a line", dict)
            last = checked_int(values.get("step"), "step", last + 1)
            yield last, checked_number(values.get("return"), "return"), line
    except (OSError, ValueError) as error:
        reason = one_line(getattr(error, "strerror", None) or error)[:120]
        raise RunError(f"{run.selections} is damaged: {reason}; delete it to continue without its lines") from None
