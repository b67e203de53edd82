"""Run a sweep (`rl-lab train -m`): one training for each combination of swept values, and a table of their results.

`train_each` composes the scenario of every combination and hands all valid ones to a `TrainAll`: `train_in_sequence` in
this process, or `ray_multirun.RayTrainings` on a cluster. A combination that fails is a row of the table and does not
end the others. Runs are written by the trainings; this module only locks the folder `run_dir` of the sweep.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rl_lab.core.errors import UsageError, WorkFailed, one_line
from rl_lab.core.interrupts import Interrupted
from rl_lab.core.lock import lock_folder
from rl_lab.core.text_table import format_table
from rl_lab.evaluation.stats import across_seeds
from rl_lab.experiments.compose import compose, target_of
from rl_lab.experiments.run_dir import run_label
from rl_lab.experiments.run_record import RunError
from rl_lab.experiments.scenario import Scenario
from rl_lab.experiments.trainer import TrainingResult


@dataclasses.dataclass(frozen=True)
class SweepOutcome:
    """The result of one combination of a sweep, or its error."""

    swept: dict[str, str]  # its values of the keys that vary, `seed` among them
    scenario: Scenario | None = None  # None where it could not be composed
    result: TrainingResult | None = None
    error: str = ""

    @property
    def label(self) -> str:
        """Return the swept values as they would be typed."""
        return " ".join(f"{key}={value}" for key, value in self.swept.items())


# The type of a function that trains scenarios, given by their numbers, and yields the number of each with its result,
# or with the error that ended it, in the order in which they end.
TrainAll = Callable[[Mapping[int, Scenario]], Iterator[tuple[int, TrainingResult | Exception]]]


def train_in_sequence(train: Callable[[Scenario], TrainingResult]) -> TrainAll:
    """Return a `TrainAll` that calls `train` for one scenario after the other, in this process."""

    def train_all(scenarios: Mapping[int, Scenario]) -> Iterator[tuple[int, TrainingResult | Exception]]:
        for number, scenario in scenarios.items():
            yield number, _result_or_error(scenario, train)

    return train_all


def train_each(
    target: str | None,
    combinations: Sequence[Sequence[str]],
    train_all: TrainAll,
    report: Callable[..., None],
) -> list[SweepOutcome]:
    """Train every combination of overrides; one that fails does not end the others.

    Without a target, each combination is the scenario of its own world. `report` is called with each outcome as soon as
    it is known. Raises Interrupted after a signal, and the first combination's error where none is a valid scenario.
    """
    swept = swept_values(combinations)
    scenarios = [_scenario_or_error(target, overrides, swept[0]) for overrides in combinations]
    errors = [scenario for scenario in scenarios if isinstance(scenario, Exception)]
    if len(errors) == len(scenarios):
        raise errors[0]
    outcomes: dict[int, SweepOutcome] = {}

    def add_outcome(number: int, outcome: SweepOutcome) -> None:
        outcomes[number] = outcome
        report(outcome)

    def add_invalid(before: int) -> None:
        """Add the outcomes of the invalid combinations with numbers below `before`, so that all come in order."""
        for number, scenario in enumerate(scenarios[:before]):
            if isinstance(scenario, Exception) and number not in outcomes:
                add_outcome(number, SweepOutcome(swept[number], error=failure_text(scenario)))

    valid = {number: scenario for number, scenario in enumerate(scenarios) if isinstance(scenario, Scenario)}
    with _lock_run_dirs([*valid.values()]):
        valid = {number: _with_own_folder(scenario, number) for number, scenario in valid.items()}
        add_invalid(min(valid))
        for number, result in train_all(valid):
            outcome = SweepOutcome(swept[number], valid[number])
            if isinstance(result, Exception):
                add_outcome(number, dataclasses.replace(outcome, error=failure_text(result)))
            else:
                add_outcome(number, dataclasses.replace(outcome, result=result))
            add_invalid(min((other for other in valid if other not in outcomes), default=len(scenarios)))
    return [outcomes[number] for number in range(len(scenarios))]


def _scenario_or_error(target: str | None, overrides: Sequence[str], swept: Container[str]) -> Scenario | Exception:
    """Return the scenario of a combination, or the error, which may be any: the file of a user's world is imported."""
    # The name of a run's folder has only the first settings, as many as it has room for. So swept keys come first.
    ordered = sorted(overrides, key=lambda line: line.partition("=")[0] not in swept)
    try:
        return compose(target_of(overrides) if target is None else target, ordered)
    except Interrupted:
        raise
    except Exception as error:
        return error


@contextlib.contextmanager
def _lock_run_dirs(scenarios: Sequence[Scenario]) -> Iterator[None]:
    """Make and lock each run_dir of the scenarios while the block runs; each run lies in a folder inside it.

    Raises RunError where it cannot be written, lock.InUseError where it is locked.
    """
    with contextlib.ExitStack() as stack:
        for folder in {scenario.run_dir for scenario in scenarios if scenario.run_dir is not None}:
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock_folder(Path(folder), f"sweep {folder}"))
            except OSError as error:
                message = f"cannot write run_dir {folder}: {error.strerror}; choose another with run_dir=PATH"
                raise RunError(message) from None
        yield


def _result_or_error(scenario: Scenario, train: Callable[[Scenario], TrainingResult]) -> TrainingResult | Exception:
    try:
        return train(scenario)
    except Interrupted:
        raise
    except Exception as error:  # of any kind: the other runs go on
        return error


def failure_text(error: Exception) -> str:
    """Return in one line why a training failed."""
    is_complete = isinstance(error, UsageError | WorkFailed)  # without the name of its class
    return one_line(error if is_complete else f"{type(error).__name__}: {error}")


def _with_own_folder(scenario: Scenario, number: int) -> Scenario:
    """Return the scenario with a folder of its own under its run_dir, if it has one."""
    if scenario.run_dir is None:
        return scenario
    return dataclasses.replace(scenario, run_dir=str(Path(scenario.run_dir) / f"{number:03d}-{run_label(scenario)}"))


def swept_values(combinations: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Return, for each combination of key=value lines, its values of the keys that vary between combinations."""
    values = [dict(line.partition("=")[::2] for line in overrides) for overrides in combinations]
    varying = [key for key in values[0] if len({each.get(key) for each in values}) > 1]
    return [{key: each.get(key, "") for key in varying} for each in values]


def table_rows(target: str | None, outcomes: Sequence[SweepOutcome]) -> list[dict[str, Any]]:
    """Return a row for each combination of settings except seeds: statistics over its seeds, and how many failed."""
    groups: dict[tuple[tuple[str, str], ...], list[SweepOutcome]] = {}
    for outcome in outcomes:
        settings = tuple((key, value) for key, value in outcome.swept.items() if key != "seed")
        groups.setdefault(settings, []).append(outcome)
    any_scenario = next((o.scenario for o in outcomes if o.scenario is not None), None)
    rows = []
    for settings, members in groups.items():
        results = [o.result for o in members if o.result is not None]
        group_scenario = next((o.scenario for o in members if o.scenario is not None), None)
        scenario = group_scenario or any_scenario
        row: dict[str, Any] = {
            "scenario": group_scenario.name if group_scenario else dict(settings).get("world") or target or "-",
            "agent": dict(settings).get("agent", scenario.agent if scenario else ""),
            "worlds": scenario.worlds if results and scenario else None,
            "settings": {key: value for key, value in settings if key != "agent"},
            "failed": len(members) - len(results),
        }
        scores = across_seeds([r.summary["mean_return"] for r in results]) if results else {"seeds": 0, "warning": None}
        rows.append(row | scores)
    return rows


def format_rows(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table with a column for each swept key."""
    keys = list(rows[0]["settings"])
    failures = any(row["failed"] for row in rows)
    header = ["scenario", "agent", *keys, "seeds", *(["failed"] if failures else [])]
    header += ["mean", "IQM", "95% interval", "median", "min", "max"]
    lines = [header]
    for row in rows:
        cells = [row["scenario"], row["agent"], *(row["settings"][key] for key in keys), str(row["seeds"])]
        cells += [str(row["failed"])] if failures else []
        lines.append(cells + (_numbers(row) if row["seeds"] else ["-"] * 6))
    return format_table(lines, range(2), indent="  ")


def _numbers(row: dict[str, Any]) -> list[str]:
    """Return the cells from the mean to the maximum."""
    low, high = row["ci95"]
    numbers = [f"{row[key]:.2f}" for key in ("mean", "iqm")] + [
        f"{low:.2f} to {high:.2f}" if row["min"] < row["max"] else "-"
    ]
    return numbers + [f"{row[key]:.2f}" for key in ("median", "min", "max")]
