"""Films as .mp4 files, streamed frame by frame to ffmpeg through moviepy."""

import fcntl
import signal
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

# Untagged, a film's colours shift: players guess from its size how to turn it back into RGB. So say how.
_COLORS = ["-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p", "-colorspace", "bt709"]
_PIPE = 2**20  # bytes on their way to ffmpeg: as many as a system usually lets anybody have


class Mp4Writer:
    """Writes one film, as a context manager.

        with Mp4Writer("episode.mp4", width=640, height=480, fps=30) as film:
            film.write(frame)

    Memory stays flat however long the film. The film appears under its name when the block ends well; after
    an exception it never does, and whatever bore the name before is still there. H.264 in yuv420p with the
    index in front: a browser plays it while it loads. The codec wants even sizes, so the last row or column
    of an odd one is doubled.

    Attributes:
        path: where the film goes.
        frames: how many frames have been written.
    """

    def __init__(self, path: str | Path, width: int, height: int, fps: float = 30) -> None:
        """Plan a film of `width` x `height` pixels at `fps` frames a second; nothing is written yet.

        Raises:
            ValueError: when a size is below 1, or `fps` not between 0.01 and 1000.
        """
        if min(width, height) < 1:
            raise ValueError(f"film of {width} x {height} pixels: each must be at least 1")
        if not 0.01 <= fps <= 1000:  # moviepy passes on two decimals
            raise ValueError(f"film at {fps} frames a second: must be between 0.01 and 1000")
        self.path = Path(path)
        self.frames = 0
        self._shape, self._fps = (height, width, 3), fps
        # Not ending in .mp4, so that nobody who lists films meets a half of one.
        self._partial = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex[:8]}.partial")

    def __enter__(self) -> Self:
        """Start ffmpeg, and make the folder if need be."""
        from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter

        self.path.parent.mkdir(parents=True, exist_ok=True)
        height, width, _ = self._shape
        # Ctrl-C reaches every process of the terminal. ffmpeg inherits the blocked signal and stays, so that
        # it is this side that decides whether the film is finished or thrown away.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            self._writer = FFMPEG_VideoWriter(
                str(self._partial),
                (width + width % 2, height + height % 2),
                self._fps,
                codec="libx264",
                preset="veryfast",
                ffmpeg_params=[*_COLORS, "-crf", "20", "-movflags", "+faststart", "-f", "mp4"],
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        self._process = self._writer.proc
        if hasattr(fcntl, "F_SETPIPE_SZ"):  # on Linux: drawing a frame need not wait for the last one's encoding
            with suppress(OSError):
                fcntl.fcntl(self._process.stdin, fcntl.F_SETPIPE_SZ, _PIPE)
        return self

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Append one frame, uint8 [height, width, 3].

        Raises:
            ValueError: when its shape or dtype is another.
            OSError: when ffmpeg has given up (disk full, for one).
        """
        if frame.shape != self._shape or frame.dtype != np.uint8:
            raise ValueError(f"frame {self.frames} is {frame.dtype} {frame.shape}, the film wants uint8 {self._shape}")
        height, width, _ = self._shape
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        try:
            self._writer.write_frame(frame)
        except OSError as error:  # moviepy's message is a page; ffmpeg's own words come last
            reason = str(error).strip().splitlines()[-1].strip()
            raise OSError(f"ffmpeg stopped at frame {self.frames} of {self.path}: {reason}") from error
        self.frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the film and give it its name or, after an exception, leave no trace of it.

        Raises:
            ValueError: when no frame was written.
            OSError: when ffmpeg could not finish.
        """
        try:
            if kind is None:
                self._finish()
        finally:
            if self._process.poll() is None:
                self._process.kill()
            self._process.communicate()  # closes the pipes and reaps the process
            self._partial.unlink(missing_ok=True)

    def _finish(self) -> None:
        if self.frames == 0:
            raise ValueError(f"film {self.path} has no frame")
        _, words = self._process.communicate()
        if self._process.returncode != 0:
            reason = words.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
            raise OSError(f"ffmpeg could not finish {self.path}: {reason[0]}")
        self._partial.replace(self.path)
