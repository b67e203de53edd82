"""Tests of video files (`film`, `film_grid`, `film_evaluation`), of traces, and of pictures of single environments."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
import safetensors.numpy
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from support.agents import FunctionAgent

from rl_lab.adapters import make
from rl_lab.core.canvas import BACKGROUND, BLUE, FAINT
from rl_lab.core.world import Array
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch
from rl_lab.evaluation.episode_videos import film_evaluation
from rl_lab.evaluation.evaluate import Episode, best_median_worst, evaluate
from rl_lab.evaluation.trace import Trace, load_trace, save_trace
from rl_lab.evaluation.video import ReplayError, film, film_grid
from rl_lab.rendering.render import picture


def push_toward_lean(observations: Array) -> Array:
    return (observations[:, 2] > 0).astype(np.int64)


def always_action_1(observations: Array) -> Array:
    return np.ones(len(observations), np.int64)


def proportional_torque(observations: Array) -> Array:
    return np.clip(2 * observations[:, 1:2], -2, 2)


def decode(path: Path) -> tuple[NDArray[np.uint8], str]:
    """Return all frames, uint8 [T, H, W, 3], and ffmpeg's line about the video stream."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    result = subprocess.run(command, capture_output=True, timeout=60, check=True)
    stream = next(line for line in result.stderr.decode().splitlines() if "Video:" in line)
    size = re.search(r" (\d+)x(\d+)[, ]", stream)
    assert size
    return np.frombuffer(result.stdout, np.uint8).reshape(-1, int(size[2]), int(size[1]), 3), stream


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the mean absolute difference of two pictures, 0 to 255."""
    return float(np.abs(a.astype(int) - b).mean())


def first_episode(decide: Any, world: str, params: dict[str, Any] | None = None) -> Episode:
    return evaluate(FunctionAgent(decide), world, params or {}, episodes=1).episodes[0]


@pytest.fixture
def catch_episode() -> Episode:
    """Return an episode of the world `catch`."""
    return first_episode(always_action_1, "catch")


def resident_bytes() -> int:
    """Return the bytes of memory that this process occupies."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- Videos


@pytest.mark.parametrize(
    ("world", "decide", "fps"),
    [
        ("cartpole", push_toward_lean, 50),
        ("catch", always_action_1, 6),
        ("pendulum", proportional_torque, 20),
        ("gym:CartPole-v1", push_toward_lean, 50),
        ("gym:Pendulum-v1", proportional_torque, 30),
        ("gym:FrozenLake-v1", always_action_1, 4),
    ],
)
def test_film_has_a_frame_for_each_step_and_holds_the_last_one(
    tmp_path: Path, world: str, decide: Any, fps: int
) -> None:
    episode = first_episode(decide, world)
    path = film(episode, world, {}, tmp_path / "new" / "film.mp4", size=(320, 240))
    frames, stream = decode(path)
    assert "h264" in stream and "yuv420p(tv, bt709" in stream and f" {fps} fps" in stream
    last_frames = round(0.7 * fps)
    assert frames.shape == (episode.length + last_frames, 240, 320, 3)
    assert max(difference(frames[-1], still) for still in frames[-last_frames:]) < 1.0
    assert difference(frames[0], frames[-1]) > 0.5
    assert sorted(file.name for file in path.parent.iterdir()) == ["film.mp4", "film.safetensors"]


def test_film_begins_before_the_first_step(tmp_path: Path) -> None:
    episode = first_episode(push_toward_lean, "cartpole")
    frames, _ = decode(film(episode, "cartpole", {}, tmp_path / "film.mp4", caption="best"))
    initial = make.make("cartpole", 1)
    initial.seed(np.array([episode.seed]))
    initial.reset()
    left = "cartpole  episode 0  best"
    assert difference(frames[0], picture(initial, 0, left=left, right="step 0   return 0")) < 1.5
    final = make.make("cartpole", 1, autoreset=AutoresetMode.DISABLED)
    final.seed(np.array([episode.seed]))
    final.reset()
    for action in episode.actions:
        final.actions[0, 0] = action
        final.step()
    right = f"step {episode.length}   return {episode.length}"
    assert difference(frames[-1], picture(final, 0, left=left, right=right)) < 1.5


@pytest.mark.parametrize("size", [(319, 241), (101, 100)])
def test_odd_sizes_are_rounded_up_to_even_ones(tmp_path: Path, catch_episode: Episode, size: tuple[int, int]) -> None:
    frames, _ = decode(film(catch_episode, "catch", {}, tmp_path / "film.mp4", size=size))
    assert frames.shape[1:3] == (size[1] + size[1] % 2, size[0] + size[0] % 2)


def test_speed_multiplies_the_frame_rate(tmp_path: Path, catch_episode: Episode) -> None:
    _, stream = decode(film(catch_episode, "catch", {}, tmp_path / "film.mp4", speed=2.5))
    assert " 15 fps" in stream
    with pytest.raises(ValueError, match="frames a second"):
        film(catch_episode, "catch", {}, tmp_path / "none.mp4", speed=0)


def test_film_with_other_parameters_than_the_evaluation_is_refused(tmp_path: Path) -> None:
    params = {"force": 4.0}
    episode = first_episode(push_toward_lean, "cartpole", params)
    film(episode, "cartpole", params, tmp_path / "film.mp4", size=(160, 120))
    with pytest.raises(ReplayError):
        film(episode, "cartpole", {}, tmp_path / "other.mp4", size=(160, 120))


@pytest.mark.parametrize(
    "change",
    [
        {"return_": 1e-9},
        {"length": 1},
        {"seed": 1},
        {"actions": "flipped"},
        {"actions": "shortened"},
        {"actions": "lengthened"},
    ],
)
@pytest.mark.parametrize("world", ["cartpole", "gym:CartPole-v1"])
def test_film_of_a_changed_episode_is_refused_and_leaves_no_file(
    tmp_path: Path, world: str, change: dict[str, Any]
) -> None:
    episode = first_episode(push_toward_lean, world)
    changed: dict[str, Any] = {name: getattr(episode, name) + by for name, by in change.items() if name != "actions"}
    match change.get("actions"):
        case "flipped":
            changed["actions"] = 1 - episode.actions
        case "shortened":
            changed["actions"] = episode.actions[:-1]
        case "lengthened":
            # The episode is over before the last of its actions; it is its length that is wrong.
            changed["actions"] = np.append(episode.actions, 0)
            changed["length"] = episode.length + 1
    tampered = dataclasses.replace(episode, **changed)
    with pytest.raises(ReplayError, match=rf"{world} episode 0 \(seed \d+\): evaluated to return .* again to") as error:
        film(tampered, world, {}, tmp_path / "film.mp4", size=(160, 120))
    assert repr(tampered.return_) in str(error.value) and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("actions", [np.zeros((9, 1), np.float32), np.zeros(9, np.float32), np.full(9, 7)])
def test_actions_of_another_world_are_refused(tmp_path: Path, catch_episode: Episode, actions: Array) -> None:
    with pytest.raises(ValueError, match=r"do not fit catch|outside Discrete"):
        film(dataclasses.replace(catch_episode, actions=actions), "catch", {}, tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == []


def test_global_random_generators_are_as_before_filming(tmp_path: Path, catch_episode: Episode) -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    film(catch_episode, "catch", {}, tmp_path / "film.mp4", size=(160, 120))
    film_grid(FunctionAgent(always_action_1), "catch", {}, tmp_path / "grid.mp4", steps=2, num_envs=2)
    assert np.array_equal(np.random.get_state()[1], before)  # type: ignore[index]


def test_film_evaluation_films_the_best_the_median_and_the_worst_episode(tmp_path: Path) -> None:
    evaluation = evaluate(FunctionAgent(push_toward_lean), "cartpole", {}, episodes=9)
    paths, failures = film_evaluation(evaluation, tmp_path)
    assert not failures
    assert paths == {name: tmp_path / f"{name}.mp4" for name in ("best", "median", "worst")}
    for name, episode in best_median_worst(evaluation).items():
        assert len(decode(paths[name])[0]) == episode.length + 35
        assert load_trace(paths[name].with_suffix(".safetensors")).episode == episode


@pytest.mark.parametrize(
    ("world", "decide"),
    [("cartpole", push_toward_lean), ("catch", always_action_1), ("gym:CartPole-v1", push_toward_lean)],
)
def test_grid_shows_its_environments_in_tiles(tmp_path: Path, world: str, decide: Any) -> None:
    path = film_grid(FunctionAgent(decide), world, {}, tmp_path / "grid.mp4", steps=25, num_envs=5, columns=3)
    frames, stream = decode(path)
    assert frames.shape == (26, 2 * 240 + 4, 3 * 320 + 8, 3) and "yuv420p" in stream
    tiles = [frames[12, y : y + 240, x : x + 320] for y, x in ((0, 0), (0, 324), (0, 648), (244, 0), (244, 324))]
    assert all(difference(tiles[0], other) > 0.05 for other in tiles[1:])
    assert difference(frames[0, :240, :320], frames[12, :240, :320]) > 0.05
    empty = frames[12, 250:480, 655:960]
    assert np.abs(empty.astype(int) - FAINT[:3]).max() < 8


def test_grid_lasts_twelve_seconds_by_default(tmp_path: Path) -> None:
    frames, _ = decode(film_grid(FunctionAgent(always_action_1), "catch", {}, tmp_path / "grid.mp4", num_envs=4))
    assert len(frames) == 1 + 12 * 6 and frames.shape[1:3] == (724, 964)


def memory_growth(tmp_path: Path, films: int) -> int:
    """Write `films` videos after four others; return by how many bytes the process grew during them."""
    evaluation = evaluate(FunctionAgent(always_action_1), "catch", {}, episodes=2)
    begin = 0
    for k in range(films + 4):
        if k == 4:
            begin = resident_bytes()
        film(evaluation.episodes[k % 2], "catch", {}, tmp_path / "film.mp4", size=(320, 240))
    return resident_bytes() - begin


def test_memory_does_not_grow_over_many_films(tmp_path: Path) -> None:
    assert memory_growth(tmp_path, 20) < 8e6  # twenty films hold 60 MB of pictures


@pytest.mark.slow
def test_memory_does_not_grow_over_very_many_films(tmp_path: Path) -> None:
    assert memory_growth(tmp_path, 200) < 16e6


@pytest.mark.slow
def test_memory_does_not_grow_over_a_long_film(tmp_path: Path) -> None:
    class Balancing(FunctionAgent):
        def act(self, observations: Array, **_: Any) -> tuple[Array, Any]:
            x, speed, angle, spin = observations.T
            return (angle + 0.3 * spin + 0.03 * x + 0.06 * speed > 0).astype(np.int64), None

    evaluation = evaluate(Balancing(always_action_1), "cartpole", {}, episodes=1)
    film(evaluation.episodes[0], "cartpole", {}, tmp_path / "film.mp4")
    begin = resident_bytes()
    film(evaluation.episodes[0], "cartpole", {}, tmp_path / "film.mp4")
    assert evaluation.episodes[0].length == 500 and resident_bytes() - begin < 16e6


# --- Traces


@pytest.mark.parametrize(
    ("world", "decide", "params"),
    [
        ("catch", always_action_1, {"speed": 2}),
        ("pendulum", proportional_torque, {}),
        ("gym:CartPole-v1", push_toward_lean, {"sutton_barto_reward": True}),
    ],
)
def test_film_can_be_made_again_from_its_trace(tmp_path: Path, world: str, decide: Any, params: dict[str, Any]) -> None:
    episode = first_episode(decide, world, params)
    first = film(episode, world, params, tmp_path / "first.mp4", size=(160, 120))
    trace = load_trace(tmp_path / "first.safetensors")
    assert trace == (episode, world, params)
    assert trace.episode.actions.dtype == episode.actions.dtype
    assert np.array_equal(trace.episode.actions, episode.actions)
    second_video = film(*trace, tmp_path / "again.mp4", size=(160, 120))
    assert np.array_equal(decode(second_video)[0], decode(first)[0])


def test_the_metadata_of_a_trace_is_readable_json(tmp_path: Path, catch_episode: Episode) -> None:
    save_trace(Trace(catch_episode, "catch", {"speed": 1}), tmp_path / "trace.safetensors")
    with safetensors.safe_open(tmp_path / "trace.safetensors", "np") as file:
        metadata = file.metadata()
    assert json.loads(metadata["params"]) == {"speed": 1}
    assert (metadata["world"], metadata["seed"], metadata["length"]) == (
        '"catch"',
        str(catch_episode.seed),
        str(catch_episode.length),
    )
    assert metadata["return"] == repr(catch_episode.return_) and metadata["format"] == "rl_lab.trace 1"


def write_changed_trace(path: Path, tensors: Any = None, **changes: str | None) -> Path:
    """Write a trace of nine steps in which some of the metadata is changed, or left out where None."""
    correct = {
        "format": "rl_lab.trace 1",
        **{"world": '"catch"', "params": "{}", "index": "0", "seed": "5", "return": "1.0", "length": "9"},
        **{"terminated": "true", "truncated": "false", "success": "true"},
    }
    metadata = {k: v for k, v in {**correct, **changes}.items() if v is not None}
    path.write_bytes(safetensors.numpy.save(tensors or {"actions": np.zeros(9, np.int64)}, metadata))
    return path


def test_a_trace_without_changes_is_accepted(tmp_path: Path) -> None:
    assert load_trace(write_changed_trace(tmp_path / "t.safetensors")).episode.length == 9


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": None}, "format"),
        ({"format": "rl_lab.trace 2"}, "format"),
        ({"world": None}, "world"),
        ({"world": "catch"}, "Expecting value"),
        ({"world": "7"}, "world is 7"),
        ({"params": "[]"}, "params"),
        ({"params": "["}, "Expecting value"),
        ({"params": "[" * 100_000}, "64 levels deep"),
        ({"seed": "-1"}, "out of range"),
        ({"seed": "4294967296"}, "out of range"),
        ({"seed": "9" * 5000}, "digits"),
        ({"seed": "true"}, "seed is True"),
        ({"seed": "1.5"}, "seed is 1.5"),
        ({"index": "-1"}, "out of range"),
        ({"return": "NaN"}, "out of range"),
        ({"return": "1e999"}, "out of range"),
        ({"return": '"1"'}, "return is '1'"),
        ({"return": None}, "return"),
        ({"length": "8"}, "9 actions"),
        ({"length": "null"}, "length is None"),
        ({"terminated": "1"}, "terminated is 1"),
        ({"truncated": None}, "truncated"),
        ({"success": "2"}, "success 2"),
        ({"extra": "1"}, "extra"),
        ({"actions": "[]"}, "actions"),
    ],
)
def test_malformed_metadata_is_refused_in_one_line(tmp_path: Path, changes: dict[str, str | None], reason: str) -> None:
    path = write_changed_trace(tmp_path / "trace.safetensors", **changes)
    with pytest.raises(ValueError, match=reason) as error:
        load_trace(path)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"{path}: not an action trace: ")
    assert len(str(error.value)) < 400 + len(str(path))


@pytest.mark.parametrize(
    "actions",
    [
        np.zeros(9, np.int32),
        np.zeros(9, np.float32),
        np.zeros((9, 1), np.int64),
        np.zeros((9, 1), np.float64),
        np.full((9, 1), np.nan, np.float32),
        np.full((9, 1), np.inf, np.float32),
        np.zeros((9, 1, 1), np.float32),
        np.zeros(8, np.int64),
        np.zeros(0, np.int64),
        np.zeros((), np.int64),
    ],
)
def test_malformed_actions_are_refused(tmp_path: Path, actions: Array) -> None:
    with pytest.raises(ValueError, match="not an action trace: .*actions"):
        load_trace(write_changed_trace(tmp_path / "trace.safetensors", {"actions": actions}))


def test_trace_without_actions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not an action trace: .*actions"):
        load_trace(write_changed_trace(tmp_path / "trace.safetensors", {"other": np.zeros(9, np.int64)}))


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "pickle", "text", "folder", "nothing"])
def test_other_files_are_refused(tmp_path: Path, damage: str) -> None:
    path = write_changed_trace(tmp_path / "trace.safetensors")
    content = path.read_bytes()
    path.unlink()
    match damage:
        case "folder":
            path.mkdir()
        case "nothing":
            pass
        case _:
            noise = np.random.default_rng(0).bytes(500)
            pickled = b"\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
            files = {"empty": b"", "cut": content[:-9], "noise": noise, "pickle": pickled, "text": b"{}" * 99}
            path.write_bytes(files[damage])
    with pytest.raises(ValueError, match="not an action trace") as error:
        load_trace(path)
    assert "\n" not in str(error.value)


def test_trace_cannot_name_a_module_to_import(tmp_path: Path) -> None:
    trace = load_trace(write_changed_trace(tmp_path / "trace.safetensors", world='"gym:antigravity:CartPole-v1"'))
    with pytest.raises(ValueError, match="is code that may not run"):
        film(*trace, tmp_path / "film.mp4")
    assert "antigravity" not in sys.modules


# --- Pictures of one environment


def batch_without_draw(name: str, n: int = 1) -> Batch:
    """Return a batch of a world whose function `draw` is removed."""
    return Batch(dataclasses.replace(world_registry.load(name), draw=None), n, seed=3)


def num_colours(image: Array) -> int:
    """Return how many colours an image, uint8 [height, width, 3], has; as numbers, because rows are slow to compare."""
    return len(np.unique(image.astype(np.int64) @ (65536, 256, 1)))


@pytest.mark.parametrize("world", [*world_registry.names(), "gym:CartPole-v1"])
@pytest.mark.parametrize("size", [(640, 480), (240, 180)])
def test_every_world_has_a_picture(world: str, size: tuple[int, int]) -> None:
    envs = make.make(world, 2, render=True)
    envs.reset()
    for captions in ({}, {"left": "left", "right": "right"}):
        image = picture(envs, 1, size=size, **captions)
        assert image.shape == (size[1], size[0], 3) and image.dtype == np.uint8
        assert num_colours(image) > 4
    envs.close()


@pytest.mark.parametrize("world", ["cartpole", "acrobot", "catch", "gym:CartPole-v1", "gym:FrozenLake-v1"])
def test_captions_lie_above_what_the_world_draws(world: str) -> None:
    envs = make.make(world, 1, render=True)
    envs.reset()
    size = (320, 240)
    one, other = (picture(envs, 0, left=left, right="step 1", size=size) for left in ("a", "a wide caption"))
    changed = (one != other).any(axis=2)
    rows = np.flatnonzero(changed.any(axis=1))
    assert len(rows) and rows.max() < 24
    # The background under the captions has always_action_1 that the world drew.
    assert (one[:20, 60:220] == BACKGROUND[:3]).all()
    envs.close()


def test_drawing_cannot_change_the_episode() -> None:
    def draw_and_change_state(s: Any, p: Any, canvas: Any) -> None:
        s.x, p.force = 99.0, 0.0

    envs = Batch(dataclasses.replace(world_registry.load("cartpole"), draw=draw_and_change_state), 2)
    envs.reset()
    before = envs.snapshot()
    picture(envs, 1)
    assert all(np.array_equal(before[name], value) for name, value in envs.snapshot().items())


def test_a_picture_does_not_depend_on_the_picture_drawn_before_it() -> None:
    first, second = make.make("cartpole", 1), make.make("pendulum", 1)
    for envs in (first, second):
        envs.reset()
    alone = picture(first, 0)
    picture(second, 0, left="left", right="right")
    assert np.array_equal(picture(first, 0), alone)


def test_vector_observations_of_a_world_without_draw_are_shown_as_bars() -> None:
    envs = batch_without_draw("cartpole")
    envs.reset()
    envs.observations[0, 0] = (2.4, 0.0, -0.2, 1e9)
    image = picture(envs, 0)
    blue = (np.abs(image.astype(int) - BLUE[:3]).max(axis=2) < 8).reshape(4, 120, 640).sum(axis=(1, 2))
    assert blue[1] == 0 and blue[0] > 1000 and blue[2] > 1000
    assert blue[3] > 1.5 * blue[0]  # unbounded, and far out


def test_grid_observations_of_a_world_without_draw_are_shown_as_cells() -> None:
    envs = batch_without_draw("catch")
    envs.reset()
    image = picture(envs, 0)
    blue = np.abs(image.astype(int) - BLUE[:3]).max(axis=2) < 8
    rows = np.flatnonzero(blue.any(axis=1))
    assert rows.min() < 48 and rows.max() > 431  # the ball on top, the paddle in the lowest row
    ball, paddle = (np.flatnonzero(blue[part].any(axis=0)) for part in (slice(0, 48), slice(432, 480)))
    assert 40 <= len(ball) <= 48 and 40 <= len(paddle) <= 48


@pytest.mark.parametrize(
    "space",
    [
        Box(0, 255, (84, 84, 3), np.uint8),
        Box(0, 255, (700, 900, 3), np.uint8),
        Box(0, 1, (10, 10, 4), np.float32),
        Box(0, 1, (3, 200), np.float32),
        Box(-np.inf, np.inf, (60,), np.float32),
        Box(-3, 3, (), np.float32),
    ],
)
def test_observations_of_any_shape_have_a_picture(space: Box) -> None:
    class EnvWithObservation:
        observations = np.asarray(space.sample())[None, None]
        world = dataclasses.make_dataclass("Known", ["observation"])(space)

    image = picture(EnvWithObservation(), 0, left="x", size=(320, 240))  # type: ignore[arg-type]
    assert image.shape == (240, 320, 3) and image.std() > 3


def test_a_third_party_environment_made_without_render_mode_shows_its_observation() -> None:
    envs = make.make("gym:CartPole-v1", 1)
    envs.reset()
    assert num_colours(picture(envs, 0)) > 4
    envs.close()


def test_a_large_picture_of_a_third_party_environment_keeps_its_colours_when_shrunk() -> None:
    space = Box(0, 255, (600, 400, 3), np.uint8)
    halves = np.zeros((600, 400, 3), np.uint8)
    halves[:300], halves[300:] = (200, 40, 60), (10, 90, 220)

    class EnvWithObservation:
        observations = halves[None, None]
        world = dataclasses.make_dataclass("Known", ["observation"])(space)

    image = picture(EnvWithObservation(), 0, size=(320, 240))  # type: ignore[arg-type]
    assert tuple(image[60, 160]) == (200, 40, 60) and tuple(image[180, 160]) == (10, 90, 220)
    assert tuple(image[60, 60]) == BACKGROUND[:3]
