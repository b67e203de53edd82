"""Tests of `watch`: the window and its keys, playing in a window, and video files where there is no display."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray
from support.agents import FunctionAgent
from support.time_limits import within

from rl_lab.core.canvas import INK
from rl_lab.core.world import Array
from rl_lab.engine import world_registry
from rl_lab.evaluation.evaluate import EVALUATION_SEED
from rl_lab.evaluation.trace import load_trace
from rl_lab.evaluation.video import LiveView
from rl_lab.evaluation.watch import play_in_window, watch
from rl_lab.rendering import window as window_module
from rl_lab.rendering.pygame_canvas import PygameCanvas
from rl_lab.rendering.window import Action, Window, WindowError, has_display

pygame: Any = pytest.importorskip("pygame")


def balance_pole(observations: Array) -> Array:
    x, speed, angle, spin = observations.T
    return (angle + 0.3 * spin + 0.03 * x + 0.06 * speed > 0).astype(np.int64)


def always_action_1(observations: Array) -> Array:
    return np.ones(len(observations), np.int64)


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set SDL's dummy display, which opens windows without a screen."""
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    yield
    pygame.display.quit()


@pytest.fixture
def no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")


def press(*keys: int) -> None:
    for key in keys:
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))


def window_pixels() -> NDArray[np.uint8]:
    """Return the pixels that the window shows, [H, W, 3]."""
    surface = pygame.display.get_surface()
    pixels = np.frombuffer(pygame.image.tobytes(surface, "RGB"), np.uint8)
    return pixels.reshape(surface.get_height(), surface.get_width(), 3)


# --- The window


def test_window_shows_the_picture(display: None) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    window = Window("title", 64, 48)
    for picture in (frame, frame[::-1]):  # the second is not contiguous
        window.show(picture)
        assert np.array_equal(window_pixels(), picture)
    assert pygame.display.get_caption()[0] == "title"
    window.close()
    assert not pygame.display.get_init()


def test_window_of_another_size_shows_the_whole_picture(display: None) -> None:
    window = Window("title", 64, 48)
    pygame.display.set_mode((200, 96), pygame.RESIZABLE)
    window.show(np.full((48, 64, 3), 200, np.uint8))
    assert (window_pixels()[:, 36:164] == 200).all()
    assert (window_pixels()[:, :36] == INK[:3]).all() and (window_pixels()[:, 164:] == INK[:3]).all()


def test_window_survives_an_environment_that_shuts_pygame_down(display: None) -> None:
    window = Window("title", 64, 48)
    pygame.quit()
    assert window.wait(0.0) and window.events() == []
    window.show(np.full((48, 64, 3), 9, np.uint8))
    assert (window_pixels() == 9).all()


@pytest.mark.parametrize(
    ("key", "action"),
    [
        *[("SPACE", "pause"), ("RIGHT", "step"), ("PERIOD", "step"), ("r", "restart")],
        *[("UP", "faster"), ("PLUS", "faster"), ("EQUALS", "faster"), ("KP_PLUS", "faster")],
        *[("DOWN", "slower"), ("MINUS", "slower"), ("KP_MINUS", "slower")],
        *[("q", "quit"), ("ESCAPE", "quit")],
    ],
)
def test_keys_are_reported_as_actions(display: None, key: str, action: Action) -> None:
    window = Window("title", 64, 48)
    press(pygame.K_x, getattr(pygame, f"K_{key}"), pygame.K_F5)
    assert window.events() == [action]
    assert window.events() == []


def test_closing_the_window_is_reported_as_quit(display: None) -> None:
    window = Window("title", 64, 48)
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    press(pygame.K_SPACE)
    assert window.events() == ["quit", "pause"]


def test_wait_counts_from_the_end_of_the_previous_wait(display: None) -> None:
    window = Window("title", 64, 48)
    window.wait(0.0)
    begin = time.monotonic()
    for _ in range(4):
        time.sleep(0.02)  # drawing takes time too
        assert window.wait(0.05)
    assert time.monotonic() - begin > 0.19
    with within(0.9):
        time.sleep(0.5)
        window.wait(0.5)


def test_a_key_ends_one_wait_only(display: None) -> None:
    window = Window("title", 64, 48)
    window.wait(0.0)
    begin = time.monotonic()
    press(pygame.K_x, pygame.K_SPACE)
    with within(0.75):
        assert not window.wait(1.5)
    assert window.wait(1.5)  # the key has been noted: it does not wake a second time
    assert time.monotonic() - begin > 1.45
    assert window.events() == ["pause"]


def test_unused_keys_do_not_shorten_the_wait(display: None) -> None:
    window = Window("title", 64, 48)
    press(pygame.K_SPACE)
    begin = time.monotonic()
    assert not window.wait(0.05)
    for _ in range(3):
        assert window.wait(0.05)
    assert time.monotonic() - begin > 0.12


def test_window_without_a_display_is_refused(no_display: None) -> None:
    with pytest.raises(WindowError, match="there is no display"):
        Window("title", 64, 48)
    assert not pygame.display.get_init()


def test_display_that_does_not_answer_is_refused(no_display: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":4711")
    assert has_display()
    with pytest.raises(WindowError, match="cannot open a window"):
        Window("title", 64, 48)


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, False),
        ("linux", {"DISPLAY": ""}, False),
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("darwin", {}, True),
        ("win32", {}, True),
    ],
)
def test_has_display_depends_on_the_platform_and_on_variables(
    no_display: None,
    monkeypatch: pytest.MonkeyPatch,
    platform: str,
    variables: dict[str, str],
    expected: bool,
) -> None:
    monkeypatch.setattr(window_module.sys, "platform", platform)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert has_display() is expected


def test_the_window_module_does_not_import_pygame() -> None:
    program = "import sys, rl_lab.rendering.window as w; w.has_display(); assert 'pygame' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# --- Playing in a window


class ScriptedWindow:
    """Stands in for `Window`: it records the pictures, and reports the given actions after each of them, then "quit".

    `due` is what `wait` returns: False means that a key has ended the wait before its time.
    """

    def __init__(self, *actions: str, due: bool = True) -> None:
        self.actions = [words.split() for words in actions]
        self.due = due
        self.waits: list[float] = []
        self.frames: list[NDArray[np.uint8]] = []
        self.steps: list[int] = []
        self.view: LiveView | None = None

    def with_view(self, view: LiveView) -> "ScriptedWindow":
        self.view = view
        return self

    def show(self, frame: NDArray[np.uint8]) -> None:
        assert self.view is not None
        self.frames.append(frame)
        self.steps.append(int(self.view.envs.states["t"][0]))  # type: ignore[attr-defined]

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return self.due

    def events(self) -> list[str]:
        return self.actions[len(self.frames) - 1] if len(self.frames) <= len(self.actions) else ["quit"]


def play(
    window: ScriptedWindow, episodes: int | None = None, world: str = "cartpole", decide: Any = balance_pole
) -> LiveView:
    view = LiveView(FunctionAgent(decide), world, {}, 1, seed=EVALUATION_SEED)
    play_in_window(view, window.with_view(view), PygameCanvas(640, 28), episodes)  # type: ignore[arg-type]
    return view


def test_one_step_is_played_for_each_picture_until_the_user_quits() -> None:
    window = ScriptedWindow("", "", "", "quit")
    play(window)
    assert window.steps == [0, 1, 2, 3]
    assert window.waits == [pytest.approx(1 / 50)] * 4
    assert {frame.shape for frame in window.frames} == {(508, 640, 3)}


def test_pause_stops_the_steps_and_step_makes_one() -> None:
    window = ScriptedWindow("", "pause", "", "", "step", "step", "", "pause", "", "", "step", "", "")
    play(window)
    #                        pause           step step     pause          step: pauses too
    assert window.steps == [0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6, 7, 7, 7]


def test_no_step_is_made_when_a_key_has_ended_the_wait() -> None:
    window = ScriptedWindow("faster", "", "restart", due=False)
    play(window)
    assert window.steps == [0, 0, 0, 0]


def test_speed_doubles_and_halves_within_limits() -> None:
    window = ScriptedWindow("slower", "slower", "faster", *["slower"] * 9)
    play(window)
    assert window.waits[:4] == [pytest.approx(wait / 50) for wait in (1, 2, 4, 2)]
    assert window.waits[-1] == pytest.approx(8 / 50)


def test_at_high_speed_several_steps_are_made_for_each_picture() -> None:
    window = ScriptedWindow("faster", "", "faster", "", "")
    play(window)
    # 50 steps a second at 1x, 100 at 2x window_pixels two by two, 200 at 4x window_pixels three by three.
    assert window.steps == [0, 1, 3, 5, 8, 11]
    assert window.waits[-1] == pytest.approx(3 / 200)


def test_restart_begins_the_same_episode_again() -> None:
    window = ScriptedWindow("", "", "", "restart", "", "", "")
    play(window)
    assert window.steps == [0, 1, 2, 3, 0, 1, 2, 3]
    for first_time, second_time in zip(window.frames[:4], window.frames[4:], strict=True):
        assert np.array_equal(first_time, second_time)


def test_the_line_below_the_picture_has_keys_and_speed() -> None:
    window = ScriptedWindow("pause", "faster", "pause", "")
    play(window)
    lines = [frame[480:] for frame in window.frames]
    assert all((np.abs(line.astype(int) - INK[:3]).max(axis=2) > 60).sum() > 1000 for line in lines)
    running, paused, _, faster = lines[:4]
    right = slice(520, 640)
    assert not np.array_equal(running[:, right], paused[:, right])
    assert not np.array_equal(running[:, right], faster[:, right])
    # Orange appears where it says that it is paused.
    assert (paused[..., 0].astype(int) - paused[..., 2] > 100).any()
    assert not (running[..., 0].astype(int) - running[..., 2] > 100).any()


def test_the_last_picture_of_an_episode_is_held_before_the_next_begins() -> None:
    window = ScriptedWindow(*[""] * 40)
    view = play(window, episodes=2, world="catch", decide=always_action_1)
    # Nine steps, the end for 0.7 s at 6 a second, then the next seed; the second end is seen too.
    assert window.steps == 2 * [*range(10), 9, 9, 9]
    assert view.episodes_shown == 2
    assert not np.array_equal(window.frames[0], window.frames[13])
    assert np.array_equal(window.frames[9], window.frames[12])


def test_watch_in_a_window(display: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures: list[NDArray[np.uint8]] = []
    show = Window.show

    def show_and_record(self: Window, frame: NDArray[np.uint8]) -> None:
        show(self, frame)
        pictures.append(window_pixels())
        if len(pictures) == 5:
            press(pygame.K_q)

    monkeypatch.setattr(Window, "show", show_and_record)
    for world, grid, size in (("cartpole", None, (508, 640)), ("gym:CartPole-v1", 4, (752, 964))):
        pictures.clear()
        assert watch(FunctionAgent(balance_pole), world, {}, out=tmp_path, grid=grid) == []
        assert len(pictures) == 5 and pictures[0].shape[:2] == size
        assert not np.array_equal(pictures[0], pictures[4])
        assert not pygame.display.get_init()
    assert list(tmp_path.iterdir()) == []


def test_watch_in_a_window_for_some_episodes(display: None, tmp_path: Path) -> None:
    begin = time.monotonic()
    with within(6):
        assert watch(FunctionAgent(always_action_1), "catch", {}, out=tmp_path, episodes=1, window=True) == []
    assert time.monotonic() - begin > 13 / 6 - 0.3


# --- Video files, without a display


def frame_count(path: Path) -> int:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "null", "-"]
    words = subprocess.run(command, capture_output=True, timeout=60, check=True).stderr.decode()
    return int(words.rpartition("frame=")[2].split()[0])


def test_without_a_display_a_video_file_is_written(no_display: None, tmp_path: Path) -> None:
    paths = watch(FunctionAgent(always_action_1), "catch", {}, out=tmp_path / "videos")
    assert paths == [tmp_path / "videos" / f"catch-seed{EVALUATION_SEED}.mp4"]
    assert frame_count(paths[0]) == 9 + 4
    assert load_trace(paths[0].with_suffix(".safetensors")).episode.seed == EVALUATION_SEED


def test_with_a_display_that_does_not_answer_a_video_file_is_written(
    no_display: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":4711")
    (path,) = watch(FunctionAgent(always_action_1), "catch", {}, out=tmp_path)
    assert frame_count(path) == 13
    with pytest.raises(WindowError):
        watch(FunctionAgent(always_action_1), "catch", {}, out=tmp_path, window=True)


def test_window_false_writes_files_although_there_is_a_display(display: None, tmp_path: Path) -> None:
    paths = watch(FunctionAgent(always_action_1), "gym:CartPole-v1", {}, out=tmp_path, window=False, episodes=2, seed=7)
    assert [path.name for path in paths] == ["gym-CartPole-v1-seed7.mp4", "gym-CartPole-v1-seed8.mp4"]
    assert all(frame_count(path) > 35 for path in paths)


def test_grid_writes_one_video_of_all_environments(no_display: None, tmp_path: Path) -> None:
    (path,) = watch(FunctionAgent(always_action_1), "catch", {}, out=tmp_path, grid=9)
    assert path.name == f"catch-9-worlds-seed{EVALUATION_SEED}.mp4" and frame_count(path) == 73


def test_a_video_file_has_the_same_actions_as_the_window(
    no_display: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(world_registry.load("cartpole"), horizon=40)
    monkeypatch.setattr(world_registry, "load", lambda name: short)
    (path,) = watch(FunctionAgent(balance_pole), "cartpole", {}, out=tmp_path)
    trace = load_trace(path.with_suffix(".safetensors"))
    window = ScriptedWindow(*[""] * 12)
    view = play(window)
    action = view.envs.actions[0, 0]
    assert trace.episode.length == 40 and trace.episode.actions[11] == action


@pytest.mark.parametrize("wrong", [{"grid": 0}, {"episodes": 0}, {"grid": -3}])
def test_wrong_numbers_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        watch(FunctionAgent(always_action_1), "catch", {}, out=tmp_path, **wrong)


def test_watch_prints_nothing(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from rl_lab.evaluation.watch import watch\n"
        "from rl_lab.core import agent_registry as catalogue; from rl_lab.adapters import make as batch\n"
        "agents = catalogue.load('random'); worlds = batch.make('gym:CartPole-v1', 1)\n"
        f"watch(agents.make(agents.Config(), worlds.world), 'gym:CartPole-v1', {{}}, out=Path({str(tmp_path)!r}))"
    )
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER", "SDL_AUDIODRIVER")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
