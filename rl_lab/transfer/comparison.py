"""The whole comparison: arms are made, trained seed by seed, measured, and written as report.json and index.html."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rl_lab.adapters import make
from rl_lab.core import lock
from rl_lab.core.errors import UsageError
from rl_lab.core.files import atomic_write_bytes, require_writable
from rl_lab.core.progress import Progress
from rl_lab.core.untrusted import checked_int
from rl_lab.datasets.dataset import open_dataset
from rl_lab.experiments import run_record
from rl_lab.experiments.scenario import Scenario
from rl_lab.learners.pretraining.card import pretrainings
from rl_lab.learners.pretraining.folder import SavedBackbone
from rl_lab.transfer import report
from rl_lab.transfer.arms import BACKBONE, CLONING, SHUFFLED, Arm, load_backbone, make_arms, own_policy_scenario
from rl_lab.transfer.html_page import html_page
from rl_lab.transfer.report import ArmResult
from rl_lab.transfer.settings import TransferSettings
from rl_lab.transfer.trainings import Training, evaluate_start, start_score, train_or_resume

JSON, PAGE = "report.json", "index.html"


def compare(
    settings: TransferSettings, command: list[str], note: Callable[[str], None], progress: Progress
) -> dict[str, Any]:
    """Train what is not trained yet, write the report into the folder `out`, and return it.

    `note` is called with a line after each training; `progress` shows that of the present one.

    Raises:
        UsageError: scenario, backbone, data and the folder do not go together.
        Interrupted: a signal has stopped it; the same call continues.
    """
    saved = load_backbone(settings)
    require_writable(settings.out, "out=")
    with lock.lock_folder(settings.out, f"report {settings.out}"):
        arms = make_arms(settings, saved)
        scenario = arms[0].scenarios[0]
        _require_one_policy(scenario)
        spent = {BACKBONE: _steps_before(saved)}
        if settings.data:
            spent[SHUFFLED] = open_dataset(Path(settings.data)).num_steps
        trainings = _train_all(settings, arms, command, note, progress)
        results = [ArmResult(arm.name, arm.label, trainings[arm.name], spent.get(arm.name, 0)) for arm in arms]
        cloning = _cloning(settings.out, saved, scenario)
        goal = {
            "reference": settings.reference,
            "reward_threshold": _reward_threshold(scenario),
            "floor": settings.floor,
        }
        result = report.make_report(scenario, results, cloning, **goal)
        result |= {"backbone": {"path": str(saved.path), "sha256": saved.sha256, "kind": saved.spec.network.kind}}
        result["backbone"]["spent"] = saved.card.get("spent")
        atomic_write_bytes(settings.out / JSON, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
        atomic_write_bytes(settings.out / PAGE, html_page(result).encode())
    return result


def _reward_threshold(scenario: Scenario) -> float | None:
    """Return the mean return that counts as a solution of the world, None where its author has not named one."""
    envs = make.make(scenario.world, 1, scenario.params)
    reward_threshold = envs.world.reward_threshold
    envs.close()
    return reward_threshold


def _require_one_policy(scenario: Scenario) -> None:
    if scenario.policies or scenario.league is not None:
        raise UsageError("transfer-report compares trainings of one policy, without policies or league")


def _train_all(
    settings: TransferSettings, arms: list[Arm], command: list[str], note: Callable[[str], None], progress: Progress
) -> dict[str, list[Training]]:
    """Train all arms of one seed after the other, so that an interrupted report has whole pairs."""
    trainings: dict[str, list[Training]] = {arm.name: [] for arm in arms}
    starts = settings.out / "starts"
    for arm in arms:  # a backbone that does not fit is refused before anything is trained
        start_score(arm.scenarios[0], starts)
    count, total = 0, settings.seeds * len(arms)
    for seed in range(settings.seeds):
        for arm in arms:
            training = train_or_resume(arm.scenarios[seed], command, starts, progress)
            trainings[arm.name].append(training)
            count += 1
            note(
                f"{count} of {total}: {arm.label}, seed {seed}: from {training.start:.2f} to {training.scores[-1]:.2f}"
            )
    return trainings


def _steps_before(saved: SavedBackbone) -> int:
    """Return the environment steps that the backbone has cost: those of its data sets, each counted once.

    Raises UsageError for a damaged card.
    """
    try:
        data = [each["data"] for each in pretrainings(saved.card)]
        steps = {str(each.get("sha256")): checked_int(each.get("steps", 0), "data: steps") for each in data}
        return sum(steps.values())
    except ValueError as error:
        raise UsageError(f"{saved.path}/card.json: {error}") from None


def _cloning(out: Path, saved: SavedBackbone, scenario: Scenario) -> dict[str, Any] | None:
    """Return the evaluation of the backbone's own policy, None where it has none; it is made once."""
    own = own_policy_scenario(saved, scenario)
    if own is None:
        return None
    folder = out / CLONING / saved.sha256[:16]
    if not (folder / "summary.json").exists():
        evaluate_start(own).save(folder)
    summary = run_record.read_object(folder / "summary.json", "the policy is evaluated again")
    return {key: summary[key] for key in ("mean_return", "iqm_return", "ci95", "episodes")}
