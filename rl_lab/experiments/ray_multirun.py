"""Run the trainings of a sweep on a Ray cluster: `rl-lab train -m ... workers=ray`.

`RayTrainings` is a `multirun.TrainAll`. Workers and the user's machine may have no folder in common: each worker trains
into a temporary folder of its machine and returns the files, which are then written into the run's folder here.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from rl_lab.core.errors import UsageError, WorkFailed
from rl_lab.core.files import atomic_write_bytes
from rl_lab.core.interrupts import Interrupted, Interrupts
from rl_lab.core.packed_files import PackedFiles
from rl_lab.core.progress import Progress
from rl_lab.experiments import run_dir, run_record
from rl_lab.experiments.multirun import failure_text
from rl_lab.experiments.packed_scenario import PackedScenario, pack_scenario
from rl_lab.experiments.run_dir import Run
from rl_lab.experiments.scenario import Scenario
from rl_lab.experiments.trainer import TrainingResult, train
from rl_lab.learners.rllib.job_pool import JobPool, session_folder
from rl_lab.learners.rllib.ray_workers import RayWorkers

# Not taken from the worker: it has paths that are relative to the run's folder, so it is written on this machine.
_CONFIG = "config.yaml"


@dataclass(frozen=True)
class _TrainingJob:
    """One training of a sweep, as it is sent to a worker."""

    number: int  # of the combination
    packed: PackedScenario
    command: list[str]  # for run.json


@dataclass(frozen=True)
class _JobResult:
    """The answer of a worker: the files of the run's folder, and the result or the error."""

    files: PackedFiles
    result: TrainingResult | None
    error: str = ""


class RayTrainings:
    """Trains on a Ray cluster; see `multirun.TrainAll`.

    The folder of a run is made when its training starts, and filled when it has ended. A training whose worker dies
    starts again. One that has ended three workers has failed, and `rl-lab resume` trains it in its folder.

    Args:
        workers: the workers, and the cluster they are on.
        command: the command of the sweep, for run.json.
    """

    def __init__(self, workers: RayWorkers, command: list[str]) -> None:
        self._workers, self._command = workers, command
        self._runs: dict[int, tuple[Run, ExitStack]] = {}  # runs that are being trained, by number, and their locks
        self._not_started: list[tuple[int, UsageError]] = []  # numbers and errors

    def __call__(self, scenarios: Mapping[int, Scenario]) -> Iterator[tuple[int, TrainingResult | Exception]]:
        """Yield each training's number and its result or error, in the order in which they end."""
        with Interrupts() as interrupts:
            with interrupts.abort_after(0.0):
                cluster, count = self._workers.open()
            pool = JobPool(cluster, _JobPerformer(), count=count, poll=interrupts.check)
            try:
                with ExitStack() as locks:
                    jobs = self._begin(scenarios, locks)
                    for number, job_result in pool.run(jobs, lambda task, error: (task.number, error)):
                        yield number, self._store_run(number, scenarios[number], job_result)
                yield from self._not_started
            except Interrupted as stop:
                stop.is_work_lost, stop.run = True, next((run for run, _ in self._runs.values()), None)
                raise
            finally:
                pool.close()

    def _begin(self, scenarios: Mapping[int, Scenario], locks: ExitStack) -> Iterator[list[_TrainingJob]]:
        """Make and lock the folder of each run, and yield its training, when a worker is free."""
        for number, scenario in scenarios.items():
            try:
                if getattr(scenario.config, "env_runners", 0):
                    problem = "agent.env_runners starts a Ray of its own, which a worker of workers=ray cannot"
                    raise UsageError(f"{problem}; leave workers= or env_runners= out")
                packed = pack_scenario(scenario)
                lock = locks.enter_context(ExitStack())
                self._runs[number] = lock.enter_context(run_dir.new_run(scenario, self._command)), lock
            except UsageError as error:
                self._not_started.append((number, error))
                continue
            yield [_TrainingJob(number, packed, self._command)]

    def _store_run(
        self, number: int, scenario: Scenario, job_result: _JobResult | WorkFailed
    ) -> TrainingResult | Exception:
        """Write the files of a run to its folder, and return its result with their paths, or the error."""
        run, lock = self._runs.pop(number)
        with lock:
            if isinstance(job_result, WorkFailed):
                return job_result
            if not job_result.files.contents:  # training has not begun, because the learner could not be made
                for name in (_CONFIG, run_record.NAME):
                    (run.path / name).unlink(missing_ok=True)
            for path, content in job_result.files.contents.items():
                file = run.path / path
                file.parent.mkdir(parents=True, exist_ok=True)
                atomic_write_bytes(file, content)
        if job_result.result is None:
            with suppress(OSError):  # the folder is kept if it has files
                run.path.rmdir()
            return WorkFailed(job_result.error)
        videos = {name: run.path / path for name, path in job_result.result.videos.items()}
        return dataclasses.replace(job_result.result, run=run, scenario=scenario, videos=videos)


class _JobPerformer:
    """Trains in the process of a worker; see `job_pool`."""

    def begin(self) -> None:
        """Do nothing: trainings have no preparation in common."""

    def perform(self, tasks: Sequence[_TrainingJob]) -> Iterator[tuple[list[int], tuple[int, _JobResult]]]:
        """Train each task, and yield its position, its number and its result."""
        for position, task in enumerate(tasks):
            with tempfile.TemporaryDirectory(dir=session_folder()) as folder:
                yield [position], (task.number, _train_in(task, Path(folder) / "run"))


def _train_in(task: _TrainingJob, folder: Path) -> _JobResult:
    """Train into this folder, which does not exist yet, and return its files and the result."""
    result, error = None, ""
    try:
        scenario = dataclasses.replace(task.packed.unpack(), run_dir=str(folder))
        result = train(scenario, task.command, Progress(quiet=True))
        result.videos = {name: path.relative_to(folder) for name, path in result.videos.items()}
    except Interrupted:
        raise
    except Exception as failure:  # of any kind: the other runs go on
        error = failure_text(failure)
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != _CONFIG]
    return _JobResult(PackedFiles.read(folder, files), result, error)
