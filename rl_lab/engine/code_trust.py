"""This module remembers which code a user has permitted to run, in a file in the user's state folder.

The file holds hashes of the content, the path and the names of a world, so it does not reveal them. `user_code` is the
caller.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_trusted: set[str] = set()  # lines of this process, for the case that the file cannot be written


@dataclass(frozen=True)
class UserCode:
    """The code of a world: its name, the absolute path of its source file, and that file's SHA-256.

    `entry`, `horizon` and `reward_threshold` belong to an id that a Python program has registered: the name of its
    class in the file, its max_episode_steps (0 for none) and its reward_threshold. `named_by_user` is True if the user
    has named this world and not only allowed its file; then the world may be an object that the file has imported.
    """

    world: str
    file: str
    sha256: str
    entry: str = ""
    horizon: int = 0
    reward_threshold: float | None = None
    named_by_user: bool = False

    def record(self) -> dict[str, Any]:
        """Return the values that a run stores beside the world's name."""
        # config.yaml of a run has no format version, so the threshold keeps the key that existing runs have.
        registration = {"entry": self.entry, "horizon": self.horizon, "solved": self.reward_threshold}
        return {"file": self.file, "sha256": self.sha256, **(registration if self.entry else {})}


def trust(code: UserCode) -> None:
    """Remember, in the user's state folder, that this world, in a file with this content, may run."""
    if is_trusted(code) in (True, code.named_by_user):
        return
    line = _line(code, named_by_user=code.named_by_user)
    _trusted.add(line)
    with contextlib.suppress(OSError):  # if the file cannot be written, the permission ends with this process
        _store().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _store().open("a", encoding="ascii") as file:
            file.write(line + "\n")


def is_trusted(code: UserCode) -> bool | None:
    """Return True if the user has named this world, False if its file was allowed, None if the world may not run."""
    lines: set[str] = set()
    with contextlib.suppress(OSError, ValueError):
        store = _store()
        if store.stat().st_uid == os.getuid():
            lines = set(store.read_text(encoding="ascii").splitlines())
    return next(
        (
            named_by_user
            for named_by_user in (True, False)
            if _line(code, named_by_user=named_by_user) in lines | _trusted
        ),
        None,
    )


def _line(code: UserCode, *, named_by_user: bool) -> str:
    """Return the store's line for a world: the hashes of the content, of the path and of the names."""
    names = "\0".join([code.world, code.entry, "typed" if named_by_user else "allowed"])
    hashes = [hashlib.sha256(os.fsencode(text)).hexdigest() for text in (code.file, names)]
    return " ".join([code.sha256, *hashes])


def _store() -> Path:
    import platformdirs

    return Path(platformdirs.user_state_path("rl_lab")) / "trusted_code"


def forget() -> None:
    """Forget what was permitted in this process; the file is not changed."""
    _trusted.clear()
