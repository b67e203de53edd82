"""Tests of videos that cannot be made: the result is printed and saved all the same, and the reason is one line.

FAILING and WORKING are environments whose render() returns, or raises, something unusual; a fixture registers them as
Film<name>-v0 with Gymnasium.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from rl_lab.cli import main
from rl_lab.engine import world_registry
from rl_lab.evaluation import video

TRAIN_OVERRIDES = (
    "budget=128 worlds=2 agent.n_steps=32 agent.batch_size=64 agent.n_epochs=1 device=cpu "
    "evaluation.episodes=3 evaluation.selections=1 evaluation.selection_episodes=1"
).split()
Run = Callable[..., tuple[int, str, str]]


class FiveStepEnv(gym.Env[Any, Any]):
    """Ends after five steps. render() returns `rendered` or, if that is callable, its result."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 5}
    observation_space, action_space = Box(-1, 1, (2,), np.float32), Discrete(2)
    rendered: Any = None

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return np.zeros(2, np.float32), 1.0, self.t == 5, False, {}

    def render(self) -> Any:
        return self.rendered() if callable(self.rendered) else self.rendered


class NoMode(FiveStepEnv):
    """Takes no render_mode and has no metadata."""

    metadata: dict[str, Any] = {}

    def __init__(self) -> None:
        super().__init__()


class OnlyText(FiveStepEnv):
    """Has only the render mode "ansi"."""

    metadata = {"render_modes": ["ansi"]}

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, "ansi"):
            raise NotImplementedError(f"no {render_mode}")
        super().__init__(render_mode)


def raise_runtime_error() -> None:
    raise RuntimeError("no screen")


def raise_system_exit() -> None:
    raise SystemExit(3)


def subclass(name: str, base: type = FiveStepEnv, **attributes: Any) -> type:
    return type(name, (base,), attributes)


FAILING = {
    "Nothing": (subclass("Nothing"), "render returned 'None' (NoneType), expected a picture"),
    "Empty": (subclass("Empty", rendered=np.zeros((0, 0, 3), np.uint8)), "render returned shape (0, 0, 3) uint8"),
    "Raising": (
        subclass("Raising", rendered=staticmethod(raise_runtime_error)),
        "render raised RuntimeError: no screen",
    ),
    "Leaving": (subclass("Leaving", rendered=staticmethod(raise_system_exit)), "render raised SystemExit: 3"),
}
GOOD = np.full((8, 8, 3), 90, np.uint8)
WORKING = {
    "NoMode": NoMode,  # shown by its observation
    "OnlyText": OnlyText,
    "Grey": subclass("Grey", rendered=GOOD[..., 0]),
    "Transparent": subclass("Transparent", rendered=np.concatenate([GOOD, GOOD[..., :1]], axis=2)),
    "List": subclass("List", rendered=[GOOD]),
    "Fractions": subclass("Fractions", rendered=GOOD / 255),
    "NoSpeed": subclass("NoSpeed", rendered=GOOD, metadata={"render_modes": ["rgb_array"], "render_fps": None}),
    "Stands": subclass("Stands", rendered=GOOD, metadata={"render_modes": ["rgb_array"], "render_fps": 0}),
    "NoMetadata": subclass("NoMetadata", rendered=GOOD, metadata={}),
}


# What Gymnasium says of environments that declare no pictures.
pytestmark = pytest.mark.filterwarnings("ignore:.*render")


@pytest.fixture(autouse=True, scope="module")
def register_environments() -> Iterator[None]:
    environments = {name: each[0] for name, each in FAILING.items()} | WORKING
    for name, each in environments.items():
        gym.register(f"Film{name}-v0", each)
    yield
    for name in environments:
        del gym.registry[f"Film{name}-v0"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        status = main(list(words))
        return status, *capsys.readouterr()

    return call


def evaluate_with_video(run: Run, world: str, *words: str) -> tuple[int, str, str]:
    """Evaluate random actions with --video; return the exit status, stdout and stderr."""
    return run("evaluate", "random", f"world={world}", "evaluation.episodes=3", "--video", "--out", "out", *words)


@pytest.mark.parametrize("name", FAILING)
def test_a_picture_that_cannot_be_used_costs_only_the_video(name: str, run: Run) -> None:
    status, out, err = evaluate_with_video(run, f"gym:Film{name}-v0")
    assert status == 0 and "mean return" in out and Path("out/summary.json").exists()
    (line,) = err.splitlines()
    assert line.startswith("rl-lab: no film of the best, median, worst episode: ") and FAILING[name][1] in line
    assert not list(Path("out").rglob("*.mp4")) and not list(Path("out").rglob("*.partial"))
    status, out, err = evaluate_with_video(run, f"gym:Film{name}-v0", "--require-video", "--json")
    assert status == 1 and len(err.splitlines()) == 1
    result = json.loads(out)
    assert (
        result["mean_return"] == 5
        and result["videos"] == {}
        and set(result["video_failures"])
        == {
            "best",
            "median",
            "worst",
        }
    )


@pytest.mark.parametrize("name", WORKING)
def test_unusual_pictures_that_can_be_used_make_a_video(name: str, run: Run) -> None:
    status, out, err = evaluate_with_video(run, f"gym:Film{name}-v0", "--require-video")
    assert (status, err) == (0, "") and Path("out/videos/best.mp4").stat().st_size > 0


def test_training_and_resume_end_with_a_result_although_videos_fail(run: Run) -> None:
    for words in (["train", "gym:FilmRaising-v0", *TRAIN_OVERRIDES, "run_dir=r"], ["resume", "r"]):
        status, out, err = run(*words)
        assert status == 0, err
        assert out.index("mean return") < out.index("\nnext: rl-lab watch r")
        messages = [line for line in err.splitlines() if line.startswith("rl-lab: ")]
        assert len(messages) == 1 and "render raised RuntimeError: no screen" in messages[0]
        assert "Traceback" not in err
    assert run("resume", "r", "--require-video")[0] == 1
    status, out, _ = run("resume", "r", "--json")
    assert status == 0 and set(json.loads(out)["video_failures"]) == {"best", "median", "worst"}


def test_results_are_printed_before_videos_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    printed_before = []

    def interrupted_film(*args: Any, **kwargs: Any) -> None:
        printed_before.append(capsys.readouterr().out)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("rl_lab.evaluation.episode_videos.film", interrupted_film)
    assert main(["evaluate", "random", "world=cartpole", "evaluation.episodes=3", "--video"]) == 130
    assert "mean return" in printed_before[0]


def test_an_error_in_draw_is_reported_with_file_and_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(s: Any, p: Any, c: Any) -> None:
        raise KeyError("colour")

    broken = dataclasses.replace(world_registry.load("cartpole"), draw=draw)
    monkeypatch.setattr("rl_lab.engine.world_registry.load", lambda name: broken)
    status, out, err = evaluate_with_video(run, "cartpole")
    assert status == 0 and "mean return" in out
    (line,) = err.splitlines()
    location = f"{__file__}:{draw.__code__.co_firstlineno + 1} draw: "
    assert (
        line
        == f"rl-lab: no film of the best, median, worst episode: {location}cartpole's draw raised KeyError: 'colour'"
    )


@pytest.mark.parametrize(
    "error",
    [OSError("ffmpeg stopped"), video.ReplayError("came out differently"), MemoryError(), RuntimeError("strange")],
)
def test_any_error_while_filming_is_reported_in_one_line(error: Exception, run: Run, monkeypatch: Any) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("rl_lab.evaluation.episode_videos.film", fail)
    status, out, err = evaluate_with_video(run, "cartpole")
    assert status == 0 and "mean return" in out and len(err.splitlines()) == 1
    assert (str(error) or type(error).__name__) in err


def test_a_folder_that_cannot_be_written_costs_only_the_videos(run: Run) -> None:
    os.mkdir("out")
    Path("out/videos").write_text("in the way")
    status, out, err = evaluate_with_video(run, "cartpole")
    assert status == 0 and "mean return" in out and len(err.splitlines()) == 1


@pytest.mark.parametrize("name", ["Raising", "Nothing"])
def test_watch_fails_with_one_line(name: str, run: Run) -> None:
    status, out, err = run("watch", "random", f"world=gym:Film{name}-v0", "--file")
    assert status == 1 and out == "" and len(err.splitlines()) == 1 and f"gym:Film{name}-v0: " in err
