"""Record videos of the best, the median and the worst episode of an evaluation; one may fail and the others succeed.

`film_evaluation` writes `<name>.mp4` and the episode's trace `<name>.safetensors` into a folder. It is called at the
end of a training and by `rl-lab evaluate --video`. A video that cannot be made is not an error of the command: the
reason is returned, and the commands print it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rl_lab.core.errors import one_line
from rl_lab.core.failures import is_failure
from rl_lab.core.files import atomic_write_bytes
from rl_lab.core.interrupts import is_interruption
from rl_lab.evaluation.evaluate import Episode, Evaluation, best_median_worst
from rl_lab.evaluation.video import ReplayError, film

_SUFFIXES = (".mp4", ".safetensors")  # of the files of one video: the video itself and the trace of its episode


class VideoFiles(NamedTuple):
    """The paths of the videos, and the reasons why others could not be made, both by the name of the video."""

    paths: dict[str, Path]
    failures: dict[str, str]


def film_evaluation(
    evaluation: Evaluation,
    folder: Path,
    *,
    check_interrupt: Callable[[], None] = lambda: None,
    note: Callable[[str], None] = lambda text: None,
) -> VideoFiles:
    """Record the best, the median and the worst episode as `best.mp4`, `median.mp4` and `worst.mp4`.

    `check_interrupt` is called before each video and may raise; `note` is called with a line about each video. Any
    other exception becomes the reason, in one line, why that video is missing: it may come from a drawing or render(),
    an invalid frame, ffmpeg or the disk.
    """
    videos = VideoFiles({}, {})
    recorded: dict[int, Path] = {}  # by episode, because one episode may be the best and the worst
    for name, episode in best_median_worst(evaluation).items():
        check_interrupt()
        path = folder / f"{name}.mp4"
        try:
            if (recorded_path := recorded.get(episode.index)) is not None:
                for suffix in _SUFFIXES:
                    atomic_write_bytes(path.with_suffix(suffix), recorded_path.with_suffix(suffix).read_bytes())
            else:
                note(f"filming the {name} episode: return {episode.return_:.2f}")
                players = _players(evaluation, episode)
                film(episode, evaluation.world, evaluation.params, path, players=players)
                recorded[episode.index] = path
        except BaseException as error:
            if is_interruption(error):
                raise
            videos.failures[name] = _reason(error)
        else:
            videos.paths[name] = path
    return videos


def _players(evaluation: Evaluation, episode: Episode) -> list[str]:
    """Return the name of the player of each agent of the world where an opponent plays some of them, otherwise []."""
    opponent = evaluation.summary.get("opponent")
    if not opponent:
        return []
    return [evaluation.agent if k in episode.seats else opponent for k in range(len(episode.returns))]


def _reason(error: BaseException) -> str:
    """Return in one line why a video could not be made."""
    # The messages of these exceptions are complete without the name of the class.
    is_complete = isinstance(error, ValueError | ReplayError) or is_failure(error)
    message = one_line(error)
    return message if is_complete and message else f"{type(error).__name__}: {message}".removesuffix(": ")


def failure_lines(failures: dict[str, str]) -> list[str]:
    """Return a line to print for each reason, with the names of the videos that are missing for it."""
    names: dict[str, list[str]] = {}
    for name, reason in failures.items():
        names.setdefault(reason, []).append(name)
    return [f"no film of the {', '.join(each)} episode: {reason}" for reason, each in names.items()]
