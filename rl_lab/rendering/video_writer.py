"""This module writes videos as .mp4 files; frames are streamed to ffmpeg through moviepy."""

import fcntl
import os
import signal
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rl_lab.core.files import clear, partial

# Without these tags, players guess the colour matrix from the video's size, and colours may be wrong.
_COLORS = ["-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p", "-colorspace", "bt709"]
_PIPE_BYTES = 2**20  # bytes of the pipe to ffmpeg: the usual limit of Linux


class Mp4Writer:
    """A context manager that writes one video.

        with Mp4Writer("episode.mp4", width=640, height=480, fps=30) as video:
            video.write(frame)

    Memory does not grow with the length of the video. The file gets its name when the block ends without an exception;
    after one, an earlier file of this name is unchanged. The format is H.264 in yuv420p with the index first, so that
    browsers can play it while they load it. The codec needs even sizes, so the last row or column of an odd size is
    doubled.

    Attributes:
        path: the path of the file.
        frames: the number of frames written so far.
    """

    def __init__(self, path: str | Path, width: int, height: int, fps: float = 30) -> None:
        """Store the settings of a video of `width` x `height` pixels at `fps` frames per second; write nothing yet.

        Raises:
            ValueError: a size is below 1, or `fps` is not between 0.01 and 1000.
        """
        if min(width, height) < 1:
            raise ValueError(f"film of {width} x {height} pixels: each must be at least 1")
        if not 0.01 <= fps <= 1000:  # moviepy passes on two decimals
            raise ValueError(f"film at {fps} frames a second: must be between 0.01 and 1000")
        self.path = Path(path)
        self.frames = 0
        self._shape, self._fps = (height, width, 3), fps

    def __enter__(self) -> Self:
        """Start ffmpeg; create the folder if it is missing."""
        from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter

        self.path.parent.mkdir(parents=True, exist_ok=True)
        clear(self.path.parent)
        with ExitStack() as stack:
            self._partial = stack.enter_context(partial(self.path))
            self._start(FFMPEG_VideoWriter)
            self._stack = stack.pop_all()
        return self

    def _start(self, writer: Any) -> None:
        height, width, _ = self._shape
        # Ctrl-C reaches every process of the terminal. ffmpeg inherits the blocked signal and continues, so that this
        # process decides whether the video is finished or discarded.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            # ffmpeg takes "-name" for an option and "a:name" for a protocol, but not an absolute path.
            self._writer = writer(
                os.path.abspath(self._partial),
                (width + width % 2, height + height % 2),
                self._fps,
                codec="libx264",
                preset="veryfast",
                ffmpeg_params=[*_COLORS, "-crf", "20", "-movflags", "+faststart", "-f", "mp4"],
            )
        except RuntimeError as error:  # imageio has no ffmpeg for this machine
            raise OSError(f"cannot start ffmpeg: {error}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        self._process = self._writer.proc
        if hasattr(fcntl, "F_SETPIPE_SZ"):  # on Linux, so that a frame can be drawn while the last one is encoded
            with suppress(OSError):
                fcntl.fcntl(self._process.stdin, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Append one frame, uint8 [height, width, 3].

        Raises:
            ValueError: the frame has another shape or dtype.
            OSError: ffmpeg has stopped, for example because the disk is full.
        """
        if frame.shape != self._shape or frame.dtype != np.uint8:
            raise ValueError(f"frame {self.frames} is {frame.dtype} {frame.shape}, the film wants uint8 {self._shape}")
        height, width, _ = self._shape
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        try:
            self._writer.write_frame(frame)
        except OSError as error:  # the last line of moviepy's long message is ffmpeg's own
            reason = str(error).strip().splitlines()[-1].strip()
            raise OSError(f"ffmpeg stopped at frame {self.frames} of {self.path}: {reason}") from error
        self.frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the video and rename it or, after an exception, remove it.

        Raises:
            ValueError: no frame was written.
            OSError: ffmpeg could not finish.
        """
        try:
            if kind is None:
                self._finish()
        finally:
            if self._process.poll() is None:
                self._process.kill()
            self._process.communicate()  # closes the pipes and waits for the process
            self._stack.close()

    def _finish(self) -> None:
        if self.frames == 0:
            raise ValueError(f"film {self.path} has no frame")
        _, errors = self._process.communicate()
        if self._process.returncode != 0:
            reason = errors.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
            raise OSError(f"ffmpeg could not finish {self.path}: {reason[0]}")
        self._partial.replace(self.path)
