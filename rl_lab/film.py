"""Films of episodes that are checked against what evaluation saw."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from gymnasium.vector import AutoresetMode

from . import batch
from .adapters.mp4 import Mp4Writer
from .adapters.pygame_canvas import tile
from .adapters.window import has_display
from .agent import Agent
from .batch import WorldInfo, Worlds
from .engine import SEEDS
from .evaluate import (
    EVALUATION_SEED,
    Episode,
    Evaluation,
    mean_return,
    ranked,
    replace_file,
    untouched_generators,
)
from .picture import picture
from .player import Player, roles_played
from .world import Array

_FORMAT = "rl_lab.trace 1"
_HOLD = 0.7  # seconds for which the end of an episode stays


class ReplayError(RuntimeError):
    """An episode played again from its seed and its actions came out differently."""


class Trace(NamedTuple):
    """All it takes to film an episode again: `film(*load_trace(path), "again.mp4")`."""

    episode: Episode
    world: str
    params: dict[str, Any]


def _visible(world: str, n: int, params: dict[str, Any]) -> Worlds:
    # Many foreign environments start all of pygame to draw; without a screen or sound, it fills the terminal.
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    if not has_display():
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    return batch.make(world, n, params, autoreset=AutoresetMode.DISABLED, render=True)


def _number(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else f"{value:.2f}"


def score(world: WorldInfo, returns: Array) -> str:
    """Return an episode's returns so far, [A], in a few words: the mean of each role, or each player's."""
    if world.turns and len(world.agents) > 1:
        return "   ".join(
            f"{agent} {_number(float(value))}" for agent, value in zip(world.agents, returns, strict=True)
        )
    if len(world.roles) == 1:
        return f"return {_number(float(np.mean(returns)))}"
    return "   ".join(f"{role} {_number(float(returns[list(seats)].mean()))}" for role, seats in world.roles.items())


def film(
    episode: Episode,
    world: str,
    params: dict[str, Any],
    path: str | Path,
    *,
    size: tuple[int, int] = (640, 480),
    speed: float = 1.0,
    caption: str = "",
) -> Path:
    """Play an evaluated episode again from its seed and actions, film it, and return the film's path.

    A picture before the first step and one after each; the last stays for 0.7 s. The trace that makes the
    film again goes beside it, as `<name>.safetensors`. Raises ReplayError, leaving neither, unless return and
    length are to the last bit what evaluation saw; ValueError where the actions are not this world's.
    """
    path, title = Path(path), "  ".join(filter(None, (world, f"episode {episode.index}", caption)))
    with untouched_generators():
        worlds = _visible(world, 1, params)
        try:
            shape = worlds.actions.shape[2:] if len(worlds.world.agents) == 1 else worlds.actions.shape[1:]
            if episode.actions.dtype != worlds.actions.dtype or episode.actions.shape[1:] != shape:
                given = f"{episode.actions.dtype} {list(episode.actions.shape)}"
                raise ValueError(f"actions {given} of episode {episode.index} do not fit {world}")
            fps = worlds.world.frames_per_second * speed
            with Mp4Writer(path, size[0] + size[0] % 2, size[1] + size[1] % 2, fps) as writer:
                frame = _play_again(episode, worlds, writer, title, size)
                for _ in range(round(_HOLD * fps) - 1):
                    writer.write(frame)
        finally:
            worlds.close()
    save_trace(Trace(episode, world, params), path.with_suffix(".safetensors"))
    return path


def _play_again(episode: Episode, worlds: Worlds, writer: Mp4Writer, title: str, size: tuple[int, int]) -> Array:
    """Write the picture before the first step and after each, and return the last."""
    worlds.seed(np.array([episode.seed]))
    worlds.reset()
    steps, reached, returns = 0, 0.0, np.zeros(len(worlds.world.agents))
    while True:
        right = f"step {steps}   {score(worlds.world, returns)}"
        frame = picture(worlds, 0, left=title, right=right, size=size)
        writer.write(frame)
        if worlds.ended[0] or steps == len(episode.actions):
            break
        worlds.actions[0] = episode.actions[steps]
        worlds.step()
        steps += 1
        returns = worlds.episode_returns[0].copy() if worlds.ended[0] else returns + worlds.rewards[0]
        reached = mean_return(returns, episode.seats)
    if (bool(worlds.ended[0]), steps, reached) != (True, episode.length, episode.return_):
        raise ReplayError(
            f"{worlds.world.name} episode {episode.index} (seed {episode.seed}): evaluated to return "
            f"{episode.return_!r} in {episode.length} steps, played again to {reached!r} in {steps}: the "
            "world or the actions have changed, or its chance does not come from the seed"
        )
    return frame


def save_trace(trace: Trace, path: Path) -> None:
    """Write an episode's actions as safetensors, and all else that plays it again as JSON in the metadata."""
    values = {"world": trace.world, "params": trace.params, **trace.episode.line()}
    said = {name: json.dumps(value, allow_nan=False) for name, value in values.items()}
    replace_file(path, safetensors.numpy.save({"actions": trace.episode.actions}, {"format": _FORMAT, **said}))


def load_trace(path: str | Path) -> Trace:
    """Read what `save_trace` wrote. Raises ValueError, one line with the reason, for anything else."""
    try:
        with safetensors.safe_open(str(path), "np") as file:
            said, actions = file.metadata() or {}, file.get_tensor("actions")
        if said.pop("format", None) != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT!r}")
        values = {name: json.loads(text) for name, text in said.items()}
        world, params = values.pop("world"), values.pop("params")
        for name in {"seats", "returns"} & set(values):
            values[name] = tuple(values[name])
        episode = Episode(return_=values.pop("return"), actions=actions, **values)
        _check(episode, world, params)
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not an action trace: {reason:.200}") from None
    return Trace(episode, world, params)


def _check(episode: Episode, world: Any, params: Any) -> None:
    kinds = {
        "index": int,
        "seed": int,
        "return_": float,
        "length": int,
        "terminated": bool,
        "truncated": bool,
    }
    for name, kind in kinds.items():
        if type(getattr(episode, name)) is not kind:
            raise ValueError(f"{name.rstrip('_')} is {getattr(episode, name)!r}")
    actions = episode.actions
    if not isinstance(world, str) or not isinstance(params, dict) or type(episode.success) not in (bool, type(None)):
        raise ValueError(f"world is {world!r}, params {params!r}, success {episode.success!r}")
    for number in (*episode.seats, *episode.returns):
        if type(number) not in (int, float) or not math.isfinite(number):
            raise ValueError(f"seats are {episode.seats}, returns {episode.returns}")
    if any(type(seat) is not int or not 0 <= seat < max(len(episode.returns), 1) for seat in episode.seats):
        raise ValueError(f"seats are {episode.seats}")
    if not 0 <= episode.seed < SEEDS or episode.index < 0 or not math.isfinite(episode.return_):
        raise ValueError(f"index {episode.index}, seed {episode.seed} or return {episode.return_} is out of range")
    several = len(episode.returns) > 1
    if (actions.dtype, actions.ndim - several) not in ((np.dtype(np.int64), 1), (np.dtype(np.float32), 2)):
        raise ValueError(f"actions are {actions.dtype} {list(actions.shape)}")
    if not np.isfinite(actions).all() or len(actions) != episode.length or episode.length < 1:
        raise ValueError(f"{len(actions)} actions, some perhaps not finite, for {episode.length} steps")


def film_ranked(evaluation: Evaluation, folder: str | Path) -> dict[str, Path]:
    """Film the best, the median and the worst episode into `best.mp4`, `median.mp4` and `worst.mp4`."""
    return {
        name: film(episode, evaluation.world, evaluation.params, Path(folder) / f"{name}.mp4", caption=name)
        for name, episode in ranked(evaluation).items()
    }


class Show:
    """N worlds that an agent plays to be looked at; world i has the seeds i, i + N, i + 2N, ... after `seed`.

    The end of an episode stays for 0.7 s before the next begins. Errors as `batch.make` and `Player`.
    """

    def __init__(
        self,
        agent: Agent,
        world: str,
        params: dict[str, Any],
        count: int,
        *,
        seed: int,
        opponent: Agent | None = None,
        role: str = "",
        columns: int | None = None,
        deterministic: bool = True,
    ) -> None:
        self.worlds = _visible(world, count, params)
        self.columns = columns or math.ceil(math.sqrt(count))
        width = min(max(960 // self.columns, 120), 640)
        self.size = (width, 3 * width // 4)
        self.shown = 0  # episodes whose end has been looked at
        self._player = Player([agent, opponent] if opponent else agent, self.worlds, deterministic=deterministic)
        self._seats = roles_played(self.worlds.world, role)
        self._first_seed, self._seeds = seed, seed + np.arange(count)
        self._steps, self._held = (np.zeros(count, np.int64) for _ in range(2))
        self._returns = np.zeros(self.worlds.rewards.shape)
        self._last: dict[int, Array] = {}  # pictures of ended episodes: foreign environments move on unseen
        self.restart()

    def restart(self) -> None:
        """Begin every world's episode again, from the same seed."""
        self._player.attend()
        self._begin(np.ones(self.worlds.n, np.bool_))

    def _begin(self, fresh: Array) -> None:
        for i in np.flatnonzero(fresh).tolist():
            self._player.sit(i, self._seats[(self._seeds[i] - self._first_seed) % len(self._seats)])
        self._player.begin(fresh, self._seeds)
        self._steps[fresh] = self._returns[fresh] = self._held[fresh] = 0

    def step(self) -> None:
        """Step every world, or begin its next episode where the end of one has stayed long enough."""
        worlds, live = self.worlds, ~self.worlds.ended
        self._player.step()
        self._steps[live] += 1
        self._returns[live] += worlds.rewards[live]
        ended = live & worlds.ended
        self._returns[ended] = worlds.episode_returns[ended]
        for i in np.flatnonzero(ended).tolist():
            self._last[i] = self._picture(i)
        self._held[worlds.ended] += 1
        over = self._held > _HOLD * worlds.world.frames_per_second
        if over.any():
            self.shown += int(over.sum())
            self._seeds[over] += worlds.n
            self._begin(over)

    def frame(self) -> Array:
        """Return all worlds in one picture, uint8 [H, W, 3]."""
        ended = self.worlds.ended
        pictures = [self._last[i] if ended[i] else self._picture(i) for i in range(self.worlds.n)]
        return tile(pictures, self.columns) if self.worlds.n > 1 else pictures[0]

    def _picture(self, i: int) -> Array:
        steps = f"step {self._steps[i]}{', end' if self.worlds.ended[i] else ''}"
        reached = score(self.worlds.world, self._returns[i])
        if self.worlds.n > 1:
            right = reached if self.size[0] >= 200 else reached.removeprefix("return ")
            return picture(self.worlds, i, left=steps, right=right, size=self.size)
        left = f"{self.worlds.world.name}  episode {self._seeds[i] - self._first_seed}"
        return picture(self.worlds, i, left=left, right=f"{steps}   {reached}", size=self.size)

    def close(self) -> None:
        """Close the worlds."""
        self.worlds.close()


def film_grid(
    agent: Agent,
    world: str,
    params: dict[str, Any],
    path: str | Path,
    *,
    steps: int | None = None,
    count: int = 16,
    columns: int | None = None,
    seed: int = EVALUATION_SEED,
    opponent: Agent | None = None,
    role: str = "",
    deterministic: bool = True,
) -> Path:
    """Film `count` worlds at once, in tiles, for `steps` or else 12 seconds; return the film's path."""
    with untouched_generators():
        against: dict[str, Any] = {"opponent": opponent, "role": role}
        show = Show(agent, world, params, count, seed=seed, columns=columns, deterministic=deterministic, **against)
        try:
            height, width = (frame := show.frame()).shape[:2]
            fps = show.worlds.world.frames_per_second
            with Mp4Writer(path, width, height, fps) as writer:
                writer.write(frame)
                for _ in range(12 * fps if steps is None else steps):
                    show.step()
                    writer.write(show.frame())
        finally:
            show.close()
    return Path(path)
