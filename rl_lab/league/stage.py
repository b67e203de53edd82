"""The worlds of all learners of a league, to be saved and closed as one."""

from __future__ import annotations

from typing import Any

from ..seated import Seated
from ..world import Array

_MARK = "."  # between a learner's name and a member of its worlds' snapshot; no name has it


class Stage:
    """Each learner's seats by its name, as much of `batch.Worlds` as a training asks for."""

    def __init__(self, views: dict[str, Seated]) -> None:
        self.views = views
        self._first = next(iter(views.values()))

    @property
    def world(self) -> Any:
        """The world from a learner's seats: all have the same."""
        return self._first.world

    @property
    def batch(self) -> Any:
        """Worlds whose `world` is the whole one."""
        return self._first.batch

    def snapshot(self) -> dict[str, Array]:
        """As `Seated.snapshot`, of all."""
        return {f"{name}{_MARK}{k}": v for name, view in self.views.items() for k, v in view.snapshot().items()}

    def restore(self, snapshot: dict[str, Array]) -> None:
        """Go on from a `snapshot`. ValueError names what does not fit."""
        for name, view in self.views.items():
            own = {k.removeprefix(name + _MARK): v for k, v in snapshot.items() if k.startswith(name + _MARK)}
            view.restore(own)

    def drain_log(self) -> dict[str, float]:
        """See `Batch.drain_log`; the names begin with the learner's."""
        return {f"{name}/{k}": v for name, view in self.views.items() for k, v in view.drain_log().items()}

    def close(self) -> None:
        """Close the worlds."""
        for view in self.views.values():
            view.close()
