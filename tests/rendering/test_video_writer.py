"""These tests check the .mp4 writer: frames, sizes, and what is left when it is interrupted or ffmpeg fails."""

import os
import re
import signal
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray

from rl_lab.rendering.video_writer import Mp4Writer


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that this test starts, of which the first is the writer's ffmpeg."""
    started: list[subprocess.Popen[bytes]] = []

    class Recorded(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    return started


def decode(path: Path) -> tuple[NDArray[np.uint8], str]:
    """All frames, uint8 [T, H, W, 3], and how ffmpeg describes the stream."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    result = subprocess.run(command, capture_output=True, timeout=60, check=True)
    stream = next(line for line in result.stderr.decode().splitlines() if "Video:" in line)
    size = re.search(r" (\d+)x(\d+)[, ]", stream)
    assert size
    return np.frombuffer(result.stdout, np.uint8).reshape(-1, int(size[2]), int(size[1]), 3), stream


def gray(level: int, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    return np.full((height, width, 3), level, np.uint8)


@pytest.mark.parametrize("frames", [1, 25])
def test_film_has_its_frames_in_order_and_plays_anywhere(tmp_path: Path, frames: int) -> None:
    path = tmp_path / "new folder" / "film.mp4"
    with Mp4Writer(path, 64, 48) as film:
        for k in range(frames):
            film.write(gray(20 + 8 * k))
    assert film.frames == frames
    decoded, stream = decode(path)
    assert decoded.shape == (frames, 48, 64, 3)
    assert decoded.mean(axis=(1, 2, 3)) == pytest.approx(20 + 8 * np.arange(frames), abs=3)
    assert "h264" in stream and "yuv420p(tv, bt709" in stream and " 30 fps" in stream
    content = path.read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")
    assert [entry.name for entry in path.parent.iterdir()] == ["film.mp4"]


@pytest.mark.parametrize(("fps", "said"), [(29.97, "29.97 fps"), (0.5, "0.50 fps"), (60, "60 fps")])
def test_fps_need_not_be_whole(tmp_path: Path, fps: float, said: str) -> None:
    with Mp4Writer(str(tmp_path / "film.mp4"), 64, 48, fps) as film:
        for k in range(4):
            film.write(gray(50 * k))
    decoded, stream = decode(tmp_path / "film.mp4")
    assert len(decoded) == 4 and said in stream


def test_colours_survive(tmp_path: Path) -> None:
    colors = np.array([(200, 58, 62), (36, 138, 98), (43, 108, 176), (250, 248, 244)], np.uint8)
    frame = colors.repeat(16, axis=0)[None].repeat(48, axis=0)
    with Mp4Writer(tmp_path / "film.mp4", 64, 48) as film:
        film.write(frame)
    decoded, _ = decode(tmp_path / "film.mp4")
    assert np.abs(decoded[0, 24, 8::16].astype(int) - colors).max() <= 6


@pytest.mark.parametrize(("width", "height"), [(63, 48), (64, 47), (63, 47), (1, 1)])
def test_odd_sizes_are_made_even_by_doubling_the_edge(tmp_path: Path, width: int, height: int) -> None:
    frame = gray(40, width, height)
    frame[:, -1] = frame[-1, :] = 220
    with Mp4Writer(tmp_path / "film.mp4", width, height) as film:
        film.write(frame)
    decoded, stream = decode(tmp_path / "film.mp4")
    assert decoded.shape == (1, height + height % 2, width + width % 2, 3) and "yuv420p" in stream
    assert decoded[0, -1, -1] == pytest.approx([220] * 3, abs=12)


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_exception_leaves_nothing_behind(tmp_path: Path, stop: type[BaseException], processes: Any) -> None:
    with pytest.raises(stop), Mp4Writer(tmp_path / "film.mp4", 64, 48) as film:
        film.write(gray(9))
        raise stop
    assert list(tmp_path.iterdir()) == []
    assert processes and all(process.returncode is not None for process in processes)


def test_film_before_it_survives_a_failed_one(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"the film before")
    with pytest.raises(RuntimeError), Mp4Writer(path, 64, 48) as film:
        film.write(gray(9))
        assert path.read_bytes() == b"the film before" and list(tmp_path.glob("*.mp4")) == [path]
        raise RuntimeError
    assert path.read_bytes() == b"the film before"
    with Mp4Writer(path, 64, 48) as film:
        film.write(gray(9))
    assert len(decode(path)[0]) == 1


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (gray(0, 32, 48), r"frame 1 is uint8 \(48, 32, 3\), the film wants uint8 \(48, 64, 3\)"),
        (gray(0)[..., 0], r"frame 1 is uint8 \(48, 64\)"),
        (gray(0).astype(np.float32), r"frame 1 is float32 \(48, 64, 3\)"),
    ],
)
def test_wrong_frame_is_refused_in_one_line(tmp_path: Path, frame: Any, message: str) -> None:
    with Mp4Writer(tmp_path / "film.mp4", 64, 48) as film:
        film.write(gray(1))
        with pytest.raises(ValueError, match=message) as caught:
            film.write(frame)
        assert "\n" not in str(caught.value)
        film.write(gray(2))
    assert len(decode(tmp_path / "film.mp4")[0]) == 2


@pytest.mark.parametrize(("width", "height", "fps"), [(0, 48, 30), (64, -2, 30), (64, 48, 0), (64, 48, 1e6)])
def test_impossible_film_is_refused(tmp_path: Path, width: int, height: int, fps: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        Mp4Writer(tmp_path / "film.mp4", width, height, fps)


def test_film_without_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no frame"), Mp4Writer(tmp_path / "film.mp4", 64, 48):
        pass
    assert list(tmp_path.iterdir()) == []


def test_death_of_ffmpeg_is_told_in_one_line(tmp_path: Path, processes: Any) -> None:
    def film_after_its_death() -> None:
        with Mp4Writer(tmp_path / "film.mp4", 640, 480) as film:
            film.write(gray(1, 640, 480))
            processes[0].kill()
            processes[0].wait()
            film.write(gray(2, 640, 480))

    with pytest.raises(OSError, match="ffmpeg stopped at frame 1 of") as caught:
        film_after_its_death()
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_death_of_ffmpeg_at_the_end_is_noticed(tmp_path: Path, processes: Any) -> None:
    with pytest.raises(OSError, match="could not finish"), Mp4Writer(tmp_path / "film.mp4", 64, 48) as film:
        film.write(gray(1))
        processes[0].kill()
    assert list(tmp_path.iterdir()) == []


def test_interrupt_meant_for_us_does_not_stop_ffmpeg(tmp_path: Path, processes: Any) -> None:
    with Mp4Writer(tmp_path / "film.mp4", 64, 48) as film:
        for level in (10, 90, 200):
            film.write(gray(level))
            os.kill(processes[0].pid, signal.SIGINT)
    assert len(decode(tmp_path / "film.mp4")[0]) == 3
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_memory_stays_flat(tmp_path: Path) -> None:
    frame = gray(0, 320, 240)
    with Mp4Writer(tmp_path / "film.mp4", 320, 240) as film:
        film.write(frame)
        tracemalloc.start()
        try:
            for k in range(600):
                frame[:, k % 320] = k % 256
                film.write(frame)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 4 * frame.nbytes
    assert len(decode(tmp_path / "film.mp4")[0]) == 601
