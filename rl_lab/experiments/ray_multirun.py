"""The trainings of a sweep, each by a worker on a Ray cluster."""

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
from rl_lab.experiments.multirun import reason
from rl_lab.experiments.packed_scenario import PackedScenario, pack_scenario
from rl_lab.experiments.run_dir import Run
from rl_lab.experiments.scenario import Scenario
from rl_lab.experiments.trainer import Result, train
from rl_lab.learners.rllib.job_pool import JobPool, session_folder
from rl_lab.learners.rllib.ray_workers import RayWorkers

_CONFIG = "config.yaml"  # has paths that are relative to the run's folder, and is written where that is


@dataclass(frozen=True)
class _Training:
    """One training of a sweep: its number, and the command that run.json has."""

    number: int
    packed: PackedScenario
    command: list[str]


@dataclass(frozen=True)
class _Trained:
    """What a worker returns: the files of the run's folder and the result; or why there is none."""

    files: PackedFiles
    result: Result | None
    error: str = ""


class RayTrainings:
    """Trains on a Ray cluster; see `multirun.TrainAll`.

    The folder of a run is made when its training starts, and filled when it has ended. A training whose worker dies
    starts again. One that has ended three workers has failed, and `rl-lab resume` trains it in its folder.

    Args:
        workers: where.
        command: is kept in run.json.
    """

    def __init__(self, workers: RayWorkers, command: list[str]) -> None:
        self._workers, self._command = workers, command
        self._runs: dict[int, tuple[Run, ExitStack]] = {}  # folders of those that train, and their locks
        self._refused: list[tuple[int, UsageError]] = []  # trainings that could not begin

    def __call__(self, scenarios: Mapping[int, Scenario]) -> Iterator[tuple[int, Result | Exception]]:
        """Yield each training's number and its result, or why there is none, in the order in which they end."""
        with Interrupts() as interrupts:
            with interrupts.abort_after(0.0):
                cluster, count = self._workers.open()
            pool = JobPool(cluster, _TrainingPerformer(), count=count, poll=interrupts.check)
            try:
                with ExitStack() as locks:
                    jobs = self._begin(scenarios, locks)
                    for number, trained in pool.run(jobs, lambda task, error: (task.number, error)):
                        yield number, self._keep(number, scenarios[number], trained)
                yield from self._refused
            except Interrupted as stop:
                stop.is_work_lost, stop.run = True, next((run for run, _ in self._runs.values()), None)
                raise
            finally:
                pool.close()

    def _begin(self, scenarios: Mapping[int, Scenario], locks: ExitStack) -> Iterator[list[_Training]]:
        """Make and lock the folder of each run, and yield its training, when a worker is free."""
        for number, scenario in scenarios.items():
            try:
                if getattr(scenario.config, "env_runners", 0):
                    told = "agent.env_runners starts a Ray of its own, which a worker of workers=ray cannot"
                    raise UsageError(f"{told}; leave workers= or env_runners= out")
                packed = pack_scenario(scenario)
                lock = locks.enter_context(ExitStack())
                self._runs[number] = lock.enter_context(run_dir.new_run(scenario, self._command)), lock
            except UsageError as error:
                self._refused.append((number, error))
                continue
            yield [_Training(number, packed, self._command)]

    def _keep(self, number: int, scenario: Scenario, trained: _Trained | WorkFailed) -> Result | Exception:
        """Write the files of a run to its folder, and return its result with their paths, or why there is none."""
        run, lock = self._runs.pop(number)
        with lock:
            if isinstance(trained, WorkFailed):
                return trained
            if not trained.files.contents:  # it has not begun, as where the learner could not be made
                for name in (_CONFIG, run_record.NAME):
                    (run.path / name).unlink(missing_ok=True)
            for path, content in trained.files.contents.items():
                file = run.path / path
                file.parent.mkdir(parents=True, exist_ok=True)
                atomic_write_bytes(file, content)
        if trained.result is None:
            with suppress(OSError):  # it has files
                run.path.rmdir()
            return WorkFailed(trained.error)
        videos = {name: run.path / path for name, path in trained.result.videos.items()}
        return dataclasses.replace(trained.result, run=run, scenario=scenario, videos=videos)


class _TrainingPerformer:
    """Trains in the process of a worker."""

    def begin(self) -> None:
        """Do nothing: each training has its own world."""

    def perform(self, tasks: Sequence[_Training]) -> Iterator[tuple[list[int], tuple[int, _Trained]]]:
        """Yield the number of each training and what it has made."""
        for position, task in enumerate(tasks):
            with tempfile.TemporaryDirectory(dir=session_folder()) as folder:
                yield [position], (task.number, _train(task, Path(folder) / "run"))


def _train(task: _Training, folder: Path) -> _Trained:
    """Train in this folder, which does not exist yet."""
    result, error = None, ""
    try:
        scenario = dataclasses.replace(task.packed.unpack(), run_dir=str(folder))
        result = train(scenario, task.command, Progress(quiet=True))
        result.videos = {name: path.relative_to(folder) for name, path in result.videos.items()}
    except Interrupted:
        raise
    except Exception as failure:  # whatever ended this run must not cost the results of the others
        error = reason(failure)
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != _CONFIG]
    return _Trained(PackedFiles.read(folder, files), result, error)
