"""The report of a comparison as data for JSON, and as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rl_lab.core.text_table import format_table
from rl_lab.evaluation.stats import iqm
from rl_lab.experiments.scenario import Scenario
from rl_lab.transfer import measures
from rl_lab.transfer.arms import SCRATCH
from rl_lab.transfer.measures import Curve
from rl_lab.transfer.trainings import Training, as_json

FRACTIONS = (0.05, 0.10, 0.25, 0.50, 1.0)  # of the budget
SHARES = (0.50, 0.75, 0.90)  # of the reference score
LEDGERS = ("online", "all_in")
_BOUND_SIGNS = {"exact": "", "at least": ">= ", "at most": "<= ", "unknown": "~ "}
_FEW_SEEDS = 10


@dataclass(frozen=True)
class ArmResult:
    """The trainings of an arm, and the steps that were spent before them on demonstrations and pretraining."""

    name: str
    label: str
    trainings: list[Training]
    steps_before: int = 0

    def curves(self) -> list[Curve]:
        """Return the learning curve of each seed."""
        return [Curve(each.steps, each.scores, each.start) for each in self.trainings]


def make_report(
    scenario: Scenario,
    arms: Sequence[ArmResult],
    cloning: Mapping[str, Any] | None,
    *,
    reference: float | None = None,
    reward_threshold: float | None = None,
    floor: float | None = None,
) -> dict[str, Any]:
    """Return the report. The first arm is the training from scratch. `cloning` has mean_return and ci95, or is None.

    `reward_threshold` is the return that counts as a solution of the world. It is the reference where there is no
    other.
    """
    goal = _goal(scenario, arms, reference, reward_threshold, floor)
    report_arms = [_arm_report(arm, arms[0], scenario.budget, goal) for arm in arms]
    return {
        "format": "rl_lab.transfer_report",
        "version": 1,
        "scenario": scenario.name,
        "world": scenario.world,
        "agent": scenario.agent,
        "budget": scenario.budget,
        "seeds": len(arms[0].trainings),
        "goal": goal,
        "fractions": list(FRACTIONS),
        "arms": report_arms,
        "cloning": None if cloning is None else dict(cloning),
        "notes": _notes(scenario, arms, goal),
    }


def _goal(
    scenario: Scenario,
    arms: Sequence[ArmResult],
    reference: float | None,
    reward_threshold: float | None,
    floor: float | None,
) -> dict[str, Any]:
    """Return the reference score, the floor, where they are from, and the scores that are to be reached."""
    source = "reference="
    expected = scenario.expect.get(scenario.agent)
    if reference is None and expected is not None:
        reference, source = expected.mean_return, f"what scenario {scenario.name} expects"
    if reference is None and reward_threshold is not None:
        reference, source = reward_threshold, f"the return that solves {scenario.world}"
    if reference is None:
        finals = [iqm([t.scores[-1] for t in arm.trainings]) for arm in arms]
        reference, source = max(finals), "the best arm's IQM at the end of the budget"
    if floor is None:
        # A share of a negative score would be above it, so untrained agents count as 0 % there.
        floor = 0.0 if reference > 0 else iqm([t.start for t in arms[0].trainings])
    shares = SHARES if floor < reference else ()  # where no arm has learned anything, there is nothing to reach
    scores = {f"{share:.0%}": floor + share * (reference - floor) for share in shares}
    return {"reference": reference, "source": source, "floor": floor, "scores": scores}


def _arm_report(arm: ArmResult, scratch: ArmResult, budget: int, goal: Mapping[str, Any]) -> dict[str, Any]:
    curves, theirs = arm.curves(), scratch.curves()
    points = [fraction * budget for fraction in FRACTIONS]
    at_points = [[float(curve.at([point])[0]) for curve in curves] for point in points]
    starts, ends = [c.start for c in curves], [c.scores[-1] for c in curves]
    is_scratch = arm.name == SCRATCH
    report: dict[str, Any] = {
        "name": arm.name,
        "label": arm.label,
        "steps_before": arm.steps_before,
        "curve": [{"steps": p, **measures.estimate(values)} for p, values in zip(points, at_points, strict=True)],
        "band": _band(curves, budget),
        "start": measures.estimate(starts),
        "dip": measures.estimate([measures.dip(curve) for curve in curves]),
        "kept_agent": measures.estimate([t.final for t in arm.trainings]),
        "jump_start": None if is_scratch else measures.difference(starts, [c.start for c in theirs]),
        "final_gap": None if is_scratch else measures.difference(ends, [c.scores[-1] for c in theirs]),
        "steps_to": {ledger: {} for ledger in LEDGERS},
        "speed_up": None if is_scratch else {ledger: {} for ledger in LEDGERS},
        "trainings": [as_json(training) for training in arm.trainings],
    }
    for ledger in LEDGERS:
        for share, score in goal["scores"].items():
            baseline = measures.steps_to(theirs, score, budget)
            own = measures.steps_to(curves, score, budget, arm.steps_before if ledger == "all_in" else 0)
            report["steps_to"][ledger][share] = own.as_json()
            if not is_scratch:
                report["speed_up"][ledger][share] = measures.speed_up(baseline, own)
    return report


def _band(curves: Sequence[Curve], budget: int) -> list[list[float]]:
    """Return rows of steps, IQM, low and high along the budget, at the start and at each measurement of a selection."""
    count = max(len(curve.steps) for curve in curves)
    rows = []
    for k in range(count + 1):
        steps = budget * k / count
        estimate = measures.estimate([float(curve.at([steps])[0]) for curve in curves])
        rows.append([steps, estimate["iqm"], *estimate["ci95"]])
    return rows


def _notes(scenario: Scenario, arms: Sequence[ArmResult], goal: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know to read the figures."""
    seeds = len(arms[0].trainings)
    share = 1 / scenario.evaluation.selections
    notes = [
        f"Curves have a point at each {share:.3g} of the budget, so no step count below that is measured.",
        "A seed that never reaches a score is kept, and counts with the whole budget. Where the IQM depends on such"
        " seeds, the figure and its interval are a bound: >= or <=, and ~ where both arms have them.",
        "Jump-start and final gap are differences from the training from scratch. The dip is how far an arm falls"
        " below its own score before training.",
    ]
    if not goal["scores"]:
        notes.append("The reference is not above the floor, so there are no steps to reach it: set reference=.")
    if seeds < _FEW_SEEDS:
        notes.append(f"Intervals of {seeds} seeds are too narrow; want at least {_FEW_SEEDS}.")
    return notes


def text(report: Mapping[str, Any]) -> str:
    """Return the report's tables as text."""
    goal = report["goal"]
    head = f"{report['scenario']}: {report['agent']}, {report['budget']:,} steps, {report['seeds']} seeds"
    lines = [head, f"reference {goal['reference']:g} ({goal['source']}), floor {goal['floor']:g}", ""]
    lines += ["IQM of the return, by the share of the budget", _curve_table(report), ""]
    lines += ["difference from scratch, and dip below the own start", _gap_table(report), ""]
    for ledger, title in (("online", "online steps"), ("all_in", "all-in: with the steps of the data")):
        lines += [f"steps to a share of the reference, and speed-up ({title})", _steps_table(report, ledger), ""]
    if report["cloning"] is not None:
        cloning = report["cloning"]
        lines.append(f"cloning alone: mean return {cloning['mean_return']:.2f}, {_interval(cloning['ci95'])}")
    return "\n".join([*lines, *(f"  note: {note}" for note in report["notes"])])


def _curve_table(report: Mapping[str, Any]) -> str:
    rows = [["arm", "start", *(f"{fraction:.0%}" for fraction in FRACTIONS), "95% interval at the end"]]
    for arm in report["arms"]:
        points = [f"{point['iqm']:.2f}" for point in arm["curve"]]
        rows.append([arm["label"], f"{arm['start']['iqm']:.2f}", *points, _interval(arm["curve"][-1]["ci95"])])
    return format_table(rows, [0], indent="  ")


def _gap_table(report: Mapping[str, Any]) -> str:
    rows = [["arm", "jump-start", "dip", "final gap"]]
    for arm in report["arms"]:
        gaps = [arm["jump_start"], arm["dip"], arm["final_gap"]]
        rows.append([arm["label"], *(estimate_text(gap) for gap in gaps)])
    return format_table(rows, [0], indent="  ")


def _steps_table(report: Mapping[str, Any], ledger: str) -> str:
    shares = list(report["goal"]["scores"])
    rows = [["arm", "before", *(cell for share in shares for cell in (share, "reached", "speed-up"))]]
    for arm in report["arms"]:
        cells = [arm["label"], f"{arm['steps_before']:,}" if ledger == "all_in" else "0"]
        for share in shares:
            steps = arm["steps_to"][ledger][share]
            speed = arm["speed_up"][ledger][share] if arm["speed_up"] else None
            cells += [steps_text(steps), f"{steps['reached']}/{steps['seeds']}", speed_text(speed)]
        rows.append(cells)
    return format_table(rows, [0], indent="  ")


def estimate_text(estimate: Mapping[str, Any] | None) -> str:
    """Return a figure with its interval, "-" for None."""
    return "-" if estimate is None else f"{estimate['iqm']:.2f} ({_interval(estimate['ci95'])})"


def steps_text(steps: Mapping[str, Any]) -> str:
    """Return steps to a score with the sign of a bound; "never" where no seed has reached it."""
    return "never" if not steps["reached"] else f"{_BOUND_SIGNS[steps['bound']]}{steps['iqm']:,.0f}"


def speed_text(speed: Mapping[str, Any] | None) -> str:
    """Return a speed-up with its interval and the sign of a bound, "-" where there is none."""
    if speed is None:
        return "-"
    low, high = speed["ci95"]
    return f"{_BOUND_SIGNS[speed['bound']]}{speed['ratio']:.2f}x ({low:.2f} to {high:.2f})"


def _interval(interval: Sequence[float]) -> str:
    return f"{interval[0]:.2f} to {interval[1]:.2f}"
