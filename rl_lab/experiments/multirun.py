"""Several trainings in a row, one for each combination of swept values, and one table of what they reached."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rl_lab.core.errors import UsageError, WorkFailed, one_line
from rl_lab.core.interrupts import Interrupted
from rl_lab.core.lock import locked
from rl_lab.core.text_table import format_table
from rl_lab.evaluation.stats import across_seeds
from rl_lab.experiments.compose import compose, target_of
from rl_lab.experiments.run_dir import run_label
from rl_lab.experiments.run_record import RunError
from rl_lab.experiments.scenario import Scenario
from rl_lab.experiments.trainer import Result


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One combination of a sweep: `swept` has its values of the keys that vary, `seed` among them."""

    swept: dict[str, str]
    scenario: Scenario | None = None  # None where it could not be composed
    result: Result | None = None
    error: str = ""

    @property
    def label(self) -> str:
        """Return the swept values as they would be typed."""
        return " ".join(f"{key}={value}" for key, value in self.swept.items())


# Trains scenarios, and yields the number of each with its result, or why there is none, in the order in which they end.
TrainAll = Callable[[Mapping[int, Scenario]], Iterator[tuple[int, Result | Exception]]]


def one_by_one(train: Callable[[Scenario], Result]) -> TrainAll:
    """Return what trains one scenario after the other in this process."""

    def train_all(scenarios: Mapping[int, Scenario]) -> Iterator[tuple[int, Result | Exception]]:
        for number, scenario in scenarios.items():
            yield number, _trained(scenario, train)

    return train_all


def train_each(
    target: str | None,
    combinations: Sequence[Sequence[str]],
    train_all: TrainAll,
    report: Callable[..., None],
) -> list[Outcome]:
    """Train every combination of overrides; one that fails does not end the others.

    No target means of each combination the scenario of its world. `report` is called with each outcome as it is
    there. Raises Interrupted after a signal, and the first combination's error where none is a valid scenario.
    """
    swept = swept_values(combinations)
    scenarios = [_composed(target, overrides, swept[0]) for overrides in combinations]
    refused = [s for s in scenarios if isinstance(s, Exception)]
    if len(refused) == len(scenarios):
        raise refused[0]
    outcomes: dict[int, Outcome] = {}

    def tell(number: int, outcome: Outcome) -> None:
        outcomes[number] = outcome
        report(outcome)

    def tell_refused(before: int) -> None:
        for number, scenario in enumerate(scenarios[:before]):
            if isinstance(scenario, Exception) and number not in outcomes:
                tell(number, Outcome(swept[number], error=reason(scenario)))

    valid = {number: scenario for number, scenario in enumerate(scenarios) if isinstance(scenario, Scenario)}
    with _locked([*valid.values()]):
        valid = {number: _with_own_folder(scenario, number) for number, scenario in valid.items()}
        tell_refused(min(valid))
        for number, ended in train_all(valid):
            outcome = Outcome(swept[number], valid[number])
            if isinstance(ended, Exception):
                tell(number, dataclasses.replace(outcome, error=reason(ended)))
            else:
                tell(number, dataclasses.replace(outcome, result=ended))
            tell_refused(min((other for other in valid if other not in outcomes), default=len(scenarios)))
    return [outcomes[number] for number in range(len(scenarios))]


def _composed(target: str | None, overrides: Sequence[str], swept: Container[str]) -> Scenario | Exception:
    """Return the scenario, or why there is none: a world's own file may raise any error when it is imported."""
    # Swept keys come first: a run's folder is named after as many settings as its name has room for.
    ordered = sorted(overrides, key=lambda line: line.partition("=")[0] not in swept)
    try:
        return compose(target_of(overrides) if target is None else target, ordered)
    except Interrupted:
        raise
    except Exception as error:
        return error


@contextlib.contextmanager
def _locked(scenarios: Sequence[Scenario]) -> Iterator[None]:
    """Lock the folder of a sweep, the run_dir that its runs lie in, while the block runs; without one each has its own.

    Raises RunError where it cannot be written, lock.InUseError where it is locked.
    """
    with contextlib.ExitStack() as stack:
        for place in {scenario.run_dir for scenario in scenarios if scenario.run_dir is not None}:
            try:
                Path(place).mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(Path(place), f"sweep {place}"))
            except OSError as error:
                reason = f"cannot write run_dir {place}: {error.strerror}; choose another with run_dir=PATH"
                raise RunError(reason) from None
        yield


def _trained(scenario: Scenario, train: Callable[[Scenario], Result]) -> Result | Exception:
    try:
        return train(scenario)
    except Interrupted:
        raise
    except Exception as error:  # whatever ended this run must not cost the results of the others
        return error


def reason(error: Exception) -> str:
    """Return in one line why a training failed."""
    told = isinstance(error, UsageError | WorkFailed)
    return one_line(error if told else f"{type(error).__name__}: {error}")


def _with_own_folder(scenario: Scenario, k: int) -> Scenario:
    """Return the scenario with a folder of its own under its run_dir, if it has one."""
    if scenario.run_dir is None:
        return scenario
    return dataclasses.replace(scenario, run_dir=str(Path(scenario.run_dir) / f"{k:03d}-{run_label(scenario)}"))


def swept_values(combinations: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Return of each combination of key=value lines the values of the keys that vary between them."""
    values = [dict(line.partition("=")[::2] for line in overrides) for overrides in combinations]
    varying = [key for key in values[0] if len({each.get(key) for each in values}) > 1]
    return [{key: each.get(key, "") for key in varying} for each in values]


def table_rows(target: str | None, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return a row for each combination of settings but the seed: scores over its seeds, and how many failed."""
    groups: dict[tuple[tuple[str, str], ...], list[Outcome]] = {}
    for outcome in outcomes:
        settings = tuple((key, value) for key, value in outcome.swept.items() if key != "seed")
        groups.setdefault(settings, []).append(outcome)
    known = next((o.scenario for o in outcomes if o.scenario is not None), None)
    rows = []
    for settings, members in groups.items():
        results = [o.result for o in members if o.result is not None]
        own = next((o.scenario for o in members if o.scenario is not None), None)
        scenario = own or known
        row: dict[str, Any] = {
            "scenario": own.name if own else dict(settings).get("world") or target or "-",
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
    low, high = row["ci95"]
    numbers = [f"{row[key]:.2f}" for key in ("mean", "iqm")] + [
        f"{low:.2f} to {high:.2f}" if row["min"] < row["max"] else "-"
    ]
    return numbers + [f"{row[key]:.2f}" for key in ("median", "min", "max")]
