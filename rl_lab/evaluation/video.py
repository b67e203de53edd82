"""Record videos of playing agents: `film` for one evaluated episode, `film_grid` for many environments in tiles.

`film` plays an episode again from its seed and its recorded actions, and checks that it comes out exactly as it was
evaluated. `LiveView` steps environments with an agent and draws them; `film_grid` and the window of `watch` use it. The
functions write video files (and, in `film`, a trace), and may set SDL's environment variables for machines without a
screen or sound. The global random generators are as before when they return.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from rl_lab.adapters import make
from rl_lab.core.agent import Agent
from rl_lab.core.errors import WorkFailed
from rl_lab.core.protocols import BatchedEnv, EnvSpec
from rl_lab.core.world import Array
from rl_lab.evaluation.evaluate import EVALUATION_SEED, Episode, mean_return, preserve_global_rng
from rl_lab.evaluation.trace import Trace, save_trace
from rl_lab.multiagent.match_runner import MatchRunner, seat_rotation
from rl_lab.rendering.pygame_canvas import tile
from rl_lab.rendering.render import picture
from rl_lab.rendering.video_writer import Mp4Writer
from rl_lab.rendering.window import has_display

_MAX_NAME_LENGTH = 14  # characters of a player's name in a picture; longer names are cut
_LAST_FRAME_SECONDS = 0.7  # how long the last picture of an episode is shown, in video time


class ReplayError(WorkFailed, RuntimeError):
    """An episode played again from its seed and its actions came out differently."""


def _make_rendered(world: str, num_envs: int, params: dict[str, Any]) -> BatchedEnv:
    """Return environments that can be drawn; set SDL's environment variables where there is no screen."""
    # Many third-party environments initialize all of pygame, which prints errors where there is no screen or sound.
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    if not has_display():
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    return make.make(world, num_envs, params, autoreset=AutoresetMode.DISABLED, render=True)


def _format_return(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else f"{value:.2f}"


def returns_text(world: EnvSpec, returns: Array, players: Sequence[str] = ()) -> str:
    """Return an episode's returns so far, [A], as text: the mean of each role, or the return of each agent.

    `players` are the names of the players of the agents, [A], if the text is to contain them.
    """
    if world.current_player_field and len(world.agents) > 1:
        groups: dict[str, tuple[int, ...]] = {agent: (k,) for k, agent in enumerate(world.agents)}
    elif len(world.roles) > 1:
        groups = world.roles
    else:
        return f"return {_format_return(float(np.mean(returns)))}"
    names = {group: f"{group}: {_shorten(players[seats[0]])}" if players else group for group, seats in groups.items()}
    return "   ".join(f"{names[k]} {_format_return(float(returns[list(seats)].mean()))}" for k, seats in groups.items())


def _shorten(name: str) -> str:
    return name if len(name) <= _MAX_NAME_LENGTH else f"{name[: _MAX_NAME_LENGTH - 3]}..."


def film(
    episode: Episode,
    world: str,
    params: dict[str, Any],
    path: str | Path,
    *,
    size: tuple[int, int] = (640, 480),
    speed: float = 1.0,
    caption: str = "",
    players: Sequence[str] = (),
) -> Path:
    """Play an evaluated episode again from its seed and actions, record a video of it, and return the video's path.

    The video has a frame before the first step and one after each step; the last frame is shown for 0.7 s. `players`
    are the names of the players of the world's agents, which are shown with their returns. The episode's trace is
    written beside the video as `<name>.safetensors`.

    Raises:
        ReplayError: the return or the length is not exactly that of the evaluation. No file is written.
        ValueError: the actions do not fit the world.
    """
    path, title = Path(path), "  ".join(filter(None, (world, f"episode {episode.index}", caption)))
    with preserve_global_rng():
        envs = _make_rendered(world, 1, params)
        try:
            shape = envs.actions.shape[2:] if len(envs.world.agents) == 1 else envs.actions.shape[1:]
            if episode.actions.dtype != envs.actions.dtype or episode.actions.shape[1:] != shape:
                text = f"{episode.actions.dtype} {list(episode.actions.shape)}"
                raise ValueError(f"actions {text} of episode {episode.index} do not fit {world}")
            fps = envs.world.frames_per_second * speed
            with Mp4Writer(path, size[0] + size[0] % 2, size[1] + size[1] % 2, fps) as writer:
                frame = _play_again(episode, envs, writer, title, size, players)
                for _ in range(round(_LAST_FRAME_SECONDS * fps) - 1):
                    writer.write(frame)
        finally:
            envs.close()
    save_trace(Trace(episode, world, params), path.with_suffix(".safetensors"))
    return path


def _play_again(
    episode: Episode, envs: BatchedEnv, writer: Mp4Writer, title: str, size: tuple[int, int], players: Sequence[str]
) -> Array:
    """Play an episode from its seed and actions; write a frame before the first and after each step; return the last.

    Raises ReplayError where the return or the length is not that of the episode.
    """
    envs.seed(np.array([episode.seed]))
    envs.reset()
    steps, return_, returns = 0, 0.0, np.zeros(len(envs.world.agents))
    while True:
        right = f"step {steps}   {returns_text(envs.world, returns, players)}"
        frame = picture(envs, 0, left=title, right=right, size=size)
        writer.write(frame)
        if envs.done[0] or steps == len(episode.actions):
            break
        envs.actions[0] = episode.actions[steps]
        envs.step()
        steps += 1
        returns = (envs.episode_returns if envs.done[0] else envs.running_returns)[0].copy()
        return_ = mean_return(returns, episode.seats)
    if (bool(envs.done[0]), steps, return_) != (True, episode.length, episode.return_):
        raise ReplayError(
            f"{envs.world.name} episode {episode.index} (seed {episode.seed}): evaluated to return "
            f"{episode.return_!r} in {episode.length} steps, played again to {return_!r} in {steps}: the "
            "world or the actions have changed, or its random numbers do not come from the seed"
        )
    return frame


class LiveView:
    """N environments in which an agent plays, and a picture of them. Environment i has the seeds `seed` + i + k N.

    The caller alternates `frame` and `step`. An environment begins its next episode by itself.

    The last picture of an episode is shown for 0.7 s before the next episode begins. Raises as `make` and `MatchRunner`
    do.
    """

    def __init__(
        self,
        agent: Agent,
        world: str,
        params: dict[str, Any],
        num_envs: int,
        *,
        seed: int,
        opponent: Agent | None = None,
        role: str = "",
        columns: int | None = None,
        deterministic: bool = True,
        opponent_deterministic: bool | None = None,
    ) -> None:
        self.envs = _make_rendered(world, num_envs, params)
        self.columns = columns or math.ceil(math.sqrt(num_envs))
        width = min(max(960 // self.columns, 120), 640)
        self.size = (width, 3 * width // 4)
        self.episodes_shown = 0  # number of episodes whose end has been shown
        modes: dict[str, Any] = {"deterministic": deterministic, "opponent_deterministic": opponent_deterministic}
        self._runner = MatchRunner([agent, opponent] if opponent else agent, self.envs, **modes)
        self._names = [agent.name, opponent.name] if opponent else [agent.name]
        self._players: list[list[str]] = [[]] * num_envs
        self._seats = seat_rotation(self.envs.world, role)
        self._first_seed, self._seeds = seed, seed + np.arange(num_envs)
        self._steps, self._held_frames = (np.zeros(num_envs, np.int64) for _ in range(2))
        self._returns = np.zeros(self.envs.rewards.shape)
        # Last pictures of ended episodes, because a third-party environment may begin its next episode earlier.
        self._last: dict[int, Array] = {}
        self.restart()

    def restart(self) -> None:
        """Restart the episode of every environment from the same seed."""
        self._runner.bind()
        self._begin(np.ones(self.envs.num_envs, np.bool_))

    def _begin(self, new_episodes: Array) -> None:
        for i in np.flatnonzero(new_episodes).tolist():
            seats = self._seats[(self._seeds[i] - self._first_seed) % len(self._seats)]
            self._runner.assign_seats(i, seats)
            agents = range(len(self.envs.world.agents))
            self._players[i] = [self._names[0 if k in seats else 1] for k in agents] if len(self._names) > 1 else []
        self._runner.begin(new_episodes, self._seeds)
        self._steps[new_episodes] = self._returns[new_episodes] = self._held_frames[new_episodes] = 0

    def step(self) -> None:
        """Step every environment, and begin the next episode where the last picture was shown long enough."""
        envs, live = self.envs, ~self.envs.done
        self._runner.step()
        self._steps[live] += 1
        self._returns[live] = envs.running_returns[live]
        ended = live & envs.done
        self._returns[ended] = envs.episode_returns[ended]
        for i in np.flatnonzero(ended).tolist():
            self._last[i] = self._picture(i)
        self._held_frames[envs.done] += 1
        expired = self._held_frames > _LAST_FRAME_SECONDS * envs.world.frames_per_second
        if expired.any():
            self.episodes_shown += int(expired.sum())
            self._seeds[expired] += envs.num_envs
            self._begin(expired)

    def frame(self) -> Array:
        """Return one picture of all environments, uint8 [H, W, 3]."""
        ended = self.envs.done
        pictures = [self._last[i] if ended[i] else self._picture(i) for i in range(self.envs.num_envs)]
        return tile(pictures, self.columns) if self.envs.num_envs > 1 else pictures[0]

    def _picture(self, i: int) -> Array:
        steps = f"step {self._steps[i]}{', end' if self.envs.done[i] else ''}"
        text = returns_text(self.envs.world, self._returns[i], self._players[i] if self.envs.num_envs == 1 else ())
        if self.envs.num_envs > 1:
            right = text if self.size[0] >= 200 else text.removeprefix("return ")
            return picture(self.envs, i, left=steps, right=right, size=self.size)
        left = f"{self.envs.world.name}  episode {self._seeds[i] - self._first_seed}"
        return picture(self.envs, i, left=left, right=f"{steps}   {text}", size=self.size)

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()


def film_grid(
    agent: Agent,
    world: str,
    params: dict[str, Any],
    path: str | Path,
    *,
    steps: int | None = None,
    num_envs: int = 16,
    columns: int | None = None,
    seed: int = EVALUATION_SEED,
    opponent: Agent | None = None,
    role: str = "",
    deterministic: bool = True,
    opponent_deterministic: bool | None = None,
) -> Path:
    """Record a video of `num_envs` environments in tiles for `steps`, by default 12 seconds, and return its path."""
    with preserve_global_rng():
        against: dict[str, Any] = {"opponent": opponent, "role": role, "opponent_deterministic": opponent_deterministic}
        view = LiveView(
            agent, world, params, num_envs, seed=seed, columns=columns, deterministic=deterministic, **against
        )
        try:
            height, width = (frame := view.frame()).shape[:2]
            fps = view.envs.world.frames_per_second
            with Mp4Writer(path, width, height, fps) as writer:
                writer.write(frame)
                for _ in range(12 * fps if steps is None else steps):
                    view.step()
                    writer.write(view.frame())
        finally:
            view.close()
    return Path(path)
