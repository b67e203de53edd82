"""A video file as an object that shows itself in a notebook."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from rl_lab.core.errors import UsageError, nearest

VIDEO_NAMES = ("best", "median", "worst")  # of the evaluated episodes


@dataclass(frozen=True)
class Video:
    """An MP4 file. A notebook shows it with controls; the page holds the whole file, so it works without the run."""

    path: Path

    def _repr_html_(self) -> str:
        """Return the video as HTML, by the protocol of IPython."""
        data = base64.b64encode(self.path.read_bytes()).decode()
        return f'<video controls loop style="max-width: 100%" src="data:video/mp4;base64,{data}"></video>'


def video_name(which: str) -> str:
    """Return the name of a video. Raises UsageError for one that there is not."""
    if which not in VIDEO_NAMES:
        raise UsageError(f"no video {which!r}; {nearest(str(which), VIDEO_NAMES)} (best, median or worst)")
    return which
