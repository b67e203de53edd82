"""A film that cannot be made costs nothing else: the result is there before, and the failure is one line."""

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

TINY = (
    "budget=128 worlds=2 agent.n_steps=32 agent.batch_size=64 agent.n_epochs=1 device=cpu "
    "evaluation.episodes=3 evaluation.selections=1 evaluation.selection_episodes=1"
).split()
Run = Callable[..., tuple[int, str, str]]


class Silent(gym.Env[Any, Any]):
    """Five steps; its render() does what `shows` says."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 5}
    observation_space, action_space = Box(-1, 1, (2,), np.float32), Discrete(2)
    shows: Any = None

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
        return self.shows() if callable(self.shows) else self.shows


class NoMode(Silent):
    """Knows nothing of pictures."""

    metadata: dict[str, Any] = {}

    def __init__(self) -> None:
        super().__init__()


class OnlyText(Silent):
    """Can print itself."""

    metadata = {"render_modes": ["ansi"]}

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, "ansi"):
            raise NotImplementedError(f"no {render_mode}")
        super().__init__(render_mode)


def bad() -> None:
    raise RuntimeError("no screen")


def leave() -> None:
    raise SystemExit(3)


def kind(name: str, base: type = Silent, **more: Any) -> type:
    return type(name, (base,), more)


FAILING = {
    "Nothing": (kind("Nothing"), "render returned 'None' (NoneType), expected a picture"),
    "Empty": (kind("Empty", shows=np.zeros((0, 0, 3), np.uint8)), "render returned shape (0, 0, 3) uint8"),
    "Raising": (kind("Raising", shows=staticmethod(bad)), "render raised RuntimeError: no screen"),
    "Leaving": (kind("Leaving", shows=staticmethod(leave)), "render raised SystemExit: 3"),
}
GOOD = np.full((8, 8, 3), 90, np.uint8)
WORKING = {
    "NoMode": NoMode,  # shown by its observation
    "OnlyText": OnlyText,
    "Grey": kind("Grey", shows=GOOD[..., 0]),
    "Transparent": kind("Transparent", shows=np.concatenate([GOOD, GOOD[..., :1]], axis=2)),
    "List": kind("List", shows=[GOOD]),
    "Fractions": kind("Fractions", shows=GOOD / 255),
    "NoSpeed": kind("NoSpeed", shows=GOOD, metadata={"render_modes": ["rgb_array"], "render_fps": None}),
    "Stands": kind("Stands", shows=GOOD, metadata={"render_modes": ["rgb_array"], "render_fps": 0}),
    "NoMetadata": kind("NoMetadata", shows=GOOD, metadata={}),
}


# What Gymnasium says of environments that declare no pictures.
pytestmark = pytest.mark.filterwarnings("ignore:.*render")


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    made = {name: each[0] for name, each in FAILING.items()} | WORKING
    for name, each in made.items():
        gym.register(f"Film{name}-v0", each)
    yield
    for name in made:
        del gym.registry[f"Film{name}-v0"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        status = main(list(words))
        return status, *capsys.readouterr()

    return call


def evaluated(run: Run, world: str, *more: str) -> tuple[int, str, str]:
    return run("evaluate", "random", f"world={world}", "evaluation.episodes=3", "--video", "--out", "out", *more)


@pytest.mark.parametrize("name", FAILING)
def test_a_picture_that_is_none_costs_the_film_alone(name: str, run: Run) -> None:
    status, out, err = evaluated(run, f"gym:Film{name}-v0")
    assert status == 0 and "mean return" in out and Path("out/summary.json").exists()
    (line,) = err.splitlines()
    assert line.startswith("rl-lab: no film of the best, median, worst episode: ") and FAILING[name][1] in line
    assert not list(Path("out").rglob("*.mp4")) and not list(Path("out").rglob("*.partial"))
    status, out, err = evaluated(run, f"gym:Film{name}-v0", "--require-video", "--json")
    assert status == 1 and len(err.splitlines()) == 1
    shown = json.loads(out)
    assert (
        shown["mean_return"] == 5
        and shown["videos"] == {}
        and set(shown["video_failures"])
        == {
            "best",
            "median",
            "worst",
        }
    )


@pytest.mark.parametrize("name", WORKING)
def test_other_pictures_make_a_film(name: str, run: Run) -> None:
    status, out, err = evaluated(run, f"gym:Film{name}-v0", "--require-video")
    assert (status, err) == (0, "") and Path("out/videos/best.mp4").stat().st_size > 0


def test_training_and_resume_end_with_a_result(run: Run) -> None:
    for words in (["train", "gym:FilmRaising-v0", *TINY, "run_dir=r"], ["resume", "r"]):
        status, out, err = run(*words)
        assert status == 0, err
        assert out.index("mean return") < out.index("\nnext: rl-lab watch r")
        told = [line for line in err.splitlines() if line.startswith("rl-lab: ")]
        assert len(told) == 1 and "render raised RuntimeError: no screen" in told[0]
        assert "Traceback" not in err
    assert run("resume", "r", "--require-video")[0] == 1
    status, out, _ = run("resume", "r", "--json")
    assert status == 0 and set(json.loads(out)["video_failures"]) == {"best", "median", "worst"}


def test_results_are_shown_before_films_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    seen = []

    def filmed(*given: Any, **more: Any) -> None:
        seen.append(capsys.readouterr().out)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("rl_lab.evaluation.episode_videos.film", filmed)
    assert main(["evaluate", "random", "world=cartpole", "evaluation.episodes=3", "--video"]) == 130
    assert "mean return" in seen[0]


def test_a_drawing_that_raises_is_named_with_its_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(s: Any, p: Any, c: Any) -> None:
        raise KeyError("colour")

    broken = dataclasses.replace(world_registry.load("cartpole"), draw=draw)
    monkeypatch.setattr("rl_lab.engine.world_registry.load", lambda name: broken)
    status, out, err = evaluated(run, "cartpole")
    assert status == 0 and "mean return" in out
    (line,) = err.splitlines()
    place = f"{__file__}:{draw.__code__.co_firstlineno + 1} draw: "
    assert (
        line == f"rl-lab: no film of the best, median, worst episode: {place}cartpole's draw raised KeyError: 'colour'"
    )


@pytest.mark.parametrize(
    "error",
    [OSError("ffmpeg stopped"), video.ReplayError("came out differently"), MemoryError(), RuntimeError("strange")],
)
def test_whatever_goes_wrong_with_a_film_is_one_line(error: Exception, run: Run, monkeypatch: Any) -> None:
    def fail(*given: Any, **more: Any) -> None:
        raise error

    monkeypatch.setattr("rl_lab.evaluation.episode_videos.film", fail)
    status, out, err = evaluated(run, "cartpole")
    assert status == 0 and "mean return" in out and len(err.splitlines()) == 1
    assert (str(error) or type(error).__name__) in err


def test_a_folder_that_cannot_be_written_costs_the_films_alone(run: Run) -> None:
    os.mkdir("out")
    Path("out/videos").write_text("in the way")
    status, out, err = evaluated(run, "cartpole")
    assert status == 0 and "mean return" in out and len(err.splitlines()) == 1


@pytest.mark.parametrize("name", ["Raising", "Nothing"])
def test_watching_fails_with_one_line(name: str, run: Run) -> None:
    status, out, err = run("watch", "random", f"world=gym:Film{name}-v0", "--file")
    assert status == 1 and out == "" and len(err.splitlines()) == 1 and f"gym:Film{name}-v0: " in err
