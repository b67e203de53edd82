"""Evaluation: exactly E episodes, each played to its end from a seed of its own that training never sees."""

from __future__ import annotations

import json
import math
import random
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from . import batch, stats
from .agent import Agent
from .engine import SEEDS
from .player import Player, roles_played
from .world import Array

TRAINING_SEEDS = range(0, 2**31)
EVALUATION_SEED = 2**31  # of episode 0; episode e has EVALUATION_SEED + e
SELECTION_SEED = EVALUATION_SEED + 2**30  # the same where training picks its best agent
LONGEST = 100_000  # steps of an episode where the world has no horizon
_WORLDS, _FOREIGN_WORLDS = 64, 8  # foreign worlds step one after the other: a batch saves them little


class EndlessEpisodeError(RuntimeError):
    """An episode of a world without a horizon goes on and on."""


@dataclass(frozen=True)
class Episode:
    """One evaluated episode, and the actions that play it again.

    In a world of several agents `seats` says which ones the agent had, `return_` is their mean, `returns` has
    everybody's, and actions are [T, A] or [T, A, k].
    """

    index: int
    seed: int
    return_: float
    length: int  # environment steps
    terminated: bool
    truncated: bool
    success: bool | None  # whether the return reached the world's `solved`; None where it has none
    actions: Array = field(compare=False, repr=False)  # int64 [T], or float32 [T, k]
    seats: tuple[int, ...] = (0,)
    returns: tuple[float, ...] = ()

    def line(self) -> dict[str, Any]:
        """Return all but the actions, ready for JSON; seats and returns where there are several."""
        left_out = ("actions",) if self.returns else ("actions", "seats", "returns")
        return {f.name.rstrip("_"): getattr(self, f.name) for f in fields(self) if f.name not in left_out}


@dataclass(frozen=True)
class Evaluation:
    """The episodes of one agent in one world; `summary` is `stats.summary` and how to repeat it."""

    agent: str
    world: str
    params: dict[str, Any]
    episodes: tuple[Episode, ...]
    summary: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write `episodes.jsonl`, an object a line, and `summary.json`; each is there whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(episode.line(), allow_nan=False) + "\n" for episode in self.episodes]
        replace_file(folder / "episodes.jsonl", "".join(lines).encode())
        text = json.dumps(self.summary, allow_nan=False, indent=2)
        replace_file(folder / "summary.json", f"{text}\n".encode())


def evaluate(
    agent: Agent,
    world: str,
    params: dict[str, Any],
    *,
    episodes: int,
    opponent: Agent | None = None,
    role: str = "",
    first_seed: int = EVALUATION_SEED,
    deterministic: bool = True,
    worlds: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Play episodes 0..E-1, all of them to the end, episode e from seed `first_seed + e`.

    World w of W plays episodes w, w + W, w + 2W and so on whatever their lengths: taking the first E to end
    would favour short ones. The result does not depend on W unless the agent's actions for one row depend on
    the others (those drawn from one generator do; those of a matrix product may, by a rounding). The global
    generators of numpy, random and torch are left as they were, so evaluating does not change a training.

    In a world of several agents, the agent has all seats; or with an `opponent`, who has the others, those of `role`
    or, from episode to episode, those of each role in turn.

    `world` is a lab world's name or `gym:ID`, `params` its parameters by field, `worlds` W (by default what
    pays off); `progress` is called with (episodes done, E). All seeds must be below 2**32.

    Raises ValueError for arguments out of range and what `batch.make` and `Player` refuse, NonFiniteError as
    the engine does, EndlessEpisodeError after 100,000 steps of an episode in a world without a horizon.
    """
    if episodes < 1 or (worlds is not None and worlds < 1):
        raise ValueError(f"episodes={episodes}, worlds={worlds}: each must be at least 1")
    if first_seed < 0 or first_seed + episodes > SEEDS:
        raise ValueError(f"first_seed={first_seed} and {episodes} episodes: seeds lie in 0..2**32-1")
    usual = _FOREIGN_WORLDS if world.startswith(batch.FOREIGN) else _WORLDS
    done: dict[int, Episode] = {}
    with untouched_generators():
        played = batch.make(world, min(worlds or usual, episodes), params, autoreset=AutoresetMode.DISABLED)
        try:
            seats = roles_played(played.world, role) if opponent else [tuple(range(len(played.world.agents)))]
            if opponent and len(played.world.agents) == 1:
                raise ValueError(f"{world} has one agent: nobody can be its opponent")
            player = Player([agent, opponent] if opponent else agent, played, deterministic=deterministic)
            for episode in _episodes(player, episodes, first_seed, seats):
                done[episode.index] = episode
                if progress is not None:
                    progress(len(done), episodes)
            log = played.drain_log()
        finally:
            played.close()
    ordered = tuple(done[index] for index in range(episodes))
    successes = None if ordered[0].success is None else [bool(e.success) for e in ordered]
    summary = stats.summary([e.return_ for e in ordered], [e.length for e in ordered], successes)
    summary |= {"ci95": list(summary["ci95"]), "agent": agent.name, "world": world, "params": params}
    summary |= {"deterministic": deterministic, "first_seed": first_seed}
    if opponent is not None:
        summary |= {"opponent": opponent.name, "role": role}
    summary["log"] = {name: mean for name, mean in log.items() if name != "episodes"}
    return Evaluation(agent.name, world, params, ordered, summary)


def _episodes(player: Player, count: int, first_seed: int, seats: list[tuple[int, ...]]) -> Iterator[Episode]:
    """Yield the episodes as they end; the first agent's seats in episode e are seats[e % len(seats)]."""
    worlds, world, n = player.worlds, player.worlds.world, player.worlds.n
    index, lengths, live = np.arange(n), np.zeros(n, np.int64), np.ones(n, np.bool_)
    several = len(world.agents) > 1
    taken = worlds.actions if several else worlds.actions[:, 0]
    actions = np.zeros((n, 64, *taken.shape[1:]), taken.dtype)  # [N, T], doubled when full

    def begin(fresh: Array) -> None:
        for w in np.flatnonzero(fresh).tolist():
            player.sit(w, seats[index[w] % len(seats)])
        # The others' seeds do not take hold; they need only be valid.
        player.begin(fresh, first_seed + np.minimum(index, count - 1))

    begin(live)
    while live.any():
        if world.horizon == 0 and lengths.max() == LONGEST:
            where = f"{world.name}: episode {index[lengths.argmax()]}"
            raise EndlessEpisodeError(f"{where} has not ended after {LONGEST:,} steps; give the world a horizon")
        player.step()
        if lengths.max() == actions.shape[1]:
            actions = np.concatenate([actions, np.zeros_like(actions)], axis=1)
        actions[live, lengths[live]] = taken[live]
        lengths[live] += 1
        ended = live & worlds.ended
        for w in np.flatnonzero(ended):
            own = seats[index[w] % len(seats)]
            reached = mean_return(worlds.episode_returns[w], own)
            yield Episode(
                index=int(index[w]),
                seed=first_seed + int(index[w]),
                return_=reached,
                length=int(worlds.episode_lengths[w]),
                terminated=bool(worlds.terminated[w]),
                truncated=bool(worlds.truncated[w]),
                success=None if world.solved is None else reached >= world.solved,
                actions=actions[w, : lengths[w]].copy(),
                seats=own,
                returns=tuple(worlds.episode_returns[w].tolist()) if several else (),
            )
        index[ended] += n
        lengths[ended] = 0
        live = index < count
        if (fresh := live & ended).any():
            begin(fresh)


def mean_return(returns: Array, seats: tuple[int, ...]) -> float:
    """Return the mean over an agent's seats of an episode's returns, float64 [A]."""
    return float(np.mean(returns[list(seats)]))


def ranked(evaluation: Evaluation) -> dict[str, Episode]:
    """Return the best, median (the lower of two) and worst episode by return; of equals, the first."""
    returns = sorted(episode.return_ for episode in evaluation.episodes)
    wanted = {"best": returns[-1], "median": returns[(len(returns) - 1) // 2], "worst": returns[0]}
    return {k: next(e for e in evaluation.episodes if e.return_ == value) for k, value in wanted.items()}


def table(summary: dict[str, Any]) -> str:
    """Return an evaluation's summary as a few aligned lines for a terminal."""
    labels = {"mean": "mean return", "iqm": "IQM", "median": "median", "min": "min", "max": "max"}
    values, (low, high) = [summary[f"{key}_return"] for key in labels], summary["ci95"]
    # About four digits that mean something, however large the returns of this world.
    digits = max(3 - int(math.log10(max(1, *map(abs, values)))), 1)
    notes = [f"95% interval {low:,.{digits}f} to {high:,.{digits}f}", "mean of the middle half", "", "", ""]
    rows = [(label, f"{v:,.{digits}f}", note) for label, v, note in zip(labels.values(), values, notes, strict=True)]
    if summary["success_rate"] is not None:
        rows.append(("success", f"{summary['success_rate']:.1%}", ""))
    rows.append(("mean length", f"{summary['mean_length']:,.1f}", "steps"))
    rows += [(f"mean {name}", f"{value:,.3f}", "") for name, value in summary["log"].items()]
    left, right, count = *(max(len(row[k]) for row in rows) for k in (0, 1)), summary["episodes"]
    against = f" against {summary['opponent']}" if summary.get("opponent") else ""
    head = f"{summary['world']}  {summary['agent']}{against}  {count:,} episode{'s' * (count != 1)}"
    lines = [f"  {label:<{left}}  {value:>{right}}  {note}".rstrip() for label, value, note in rows]
    return "\n".join([head, *lines])


@contextmanager
def untouched_generators() -> Iterator[None]:
    """Put the global generators of numpy, random and torch (if somebody has loaded it) back afterwards."""
    states, torch = (np.random.get_state(), random.getstate()), sys.modules.get("torch")
    torch_state = torch.get_rng_state() if torch else None
    cuda_states = torch.cuda.get_rng_state_all() if torch and torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
        if torch:
            torch.set_rng_state(torch_state)
            torch.cuda.set_rng_state_all(cuda_states)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that its name holds the old content or the new one, never a part of it."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
