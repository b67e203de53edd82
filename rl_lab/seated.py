"""The learner's own view of a game: its seats are worlds of a batch, and whoever has the others has moved already."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium.spaces import Discrete

from .agent import Agent
from .batch import Worlds
from .chance import move_at_random
from .player import roles_played
from .rivals import Rivals
from .rng import philox
from .seats import SeatedWorld
from .world import Array

_THEIRS = "seated_rivals_"  # before what the rivals have to say in a snapshot
# Keys: what is drawn is apart from the worlds' own streams.
_SEATS, _RIVALS, _OPENING = np.uint64(0x5EA7), np.uint64(0x21BA15), np.uint64(0x09E2)


class Seated:
    """N worlds of K learning seats each, in `engine.Batch`'s terms; rivals have the A - K others.

    A learner sees its own observations only. A step of it lasts until it has to act again: in a world of turns the
    rivals' moves happen inside, what they bring the learner is part of its reward, and their observations appear
    nowhere. Each episode draws the role it plays (all have K seats) and its rival, both from the seed, so they depend
    neither on N nor on who else plays. An episode that ends before the learner has acted is no experience, and passes.
    How the others ended is in `results`. In a world of turns an episode may begin with up to `opening` random moves of
    everybody's, as many as the seed says, which are no experience either: so that more positions are met.

    Args: `rivals` play as they do in evaluation, except that `deterministic` may let them draw; whoever passes a
    `Rivals` can change who is met, and add to them, between two steps. `role` fixes the learner's. Raises ValueError
    for a world of one agent, an unknown role or roles of different sizes.
    """

    def __init__(
        self,
        worlds: Worlds,
        rivals: Sequence[Agent] | Rivals,
        *,
        role: str = "",
        seed: int = 0,
        deterministic: bool = False,
        opening: int = 0,
    ) -> None:
        whole = worlds.world
        if len(whole.agents) == 1:
            raise ValueError(f"{whole.name} has one agent: nobody can be its opponent")
        if opening and not whole.turns:
            raise ValueError(f"{whole.name}: only a world of turns has an opening")
        self.roles = np.array(_of_one_size(whole.name, roles_played(whole, role)), np.int64)  # [R, K]
        self.batch, self.deterministic = worlds, deterministic
        self.rivals = rivals if isinstance(rivals, Rivals) else Rivals(rivals)
        n, seats = worlds.n, self.roles.shape[1]
        named = role or "seat"
        own = tuple(whole.agents[a] for a in self.roles[0]) if role else tuple(f"{named}_{k}" for k in range(seats))
        # Of several roles, the spaces that hold all of theirs: the engine pads rows to them.
        space = whole.observation_spaces[self.roles[0, 0]] if role else whole.observation
        action = whole.action_spaces[self.roles[0, 0]] if role else whole.action
        # Of one seat in a world of turns, a step lasts until it acts.
        self.world = SeatedWorld.of(whole, own, space, action, waiting=not whole.turns or seats > 1)
        self.n, self.exact, self.seed_value, self.first = n, worlds.exact, seed, 0
        self._width = space.shape[0] if len(space.shape) == 1 else None
        self._count = int(action.n) if isinstance(action, Discrete) else 0
        self._size = None if isinstance(action, Discrete) else action.shape[0]
        self.actions = np.zeros((n, seats, *(action.shape or ())), worlds.actions.dtype)
        self.observations = np.zeros((n, seats, *space.shape), worlds.observations.dtype)
        self.final_observations = np.zeros_like(self.observations)
        self.rewards = np.zeros((n, seats), np.float32)
        self.terminated, self.truncated, self.ended, self.held = (np.zeros(n, np.bool_) for _ in range(4))
        self.active, self.departed = np.ones((n, seats), np.bool_), np.zeros((n, seats), np.bool_)
        self.legal = np.zeros((n, seats, self._count if whole.masked else 1), np.uint8)
        self.episode_returns, self.episode_lengths = np.zeros((n, seats)), np.zeros(n, np.int32)
        self.running_returns = np.zeros((n, seats))
        self.episodes = np.zeros(n, np.int64)  # begun in each world
        self.seats = np.zeros((n, seats), np.int64)  # the learner's
        self.rival = np.zeros(n, np.int64)  # which of the rivals has the others
        self._met, self._seen = np.zeros(n, np.int64), np.zeros((n, seats), np.int64)  # rival, seats: of what ended
        self._verdict = np.zeros(n, np.int64)
        # Random moves that are left, 0 whenever the learner is asked, and what they are drawn from.
        self._opening, self._left, self._keys = opening, np.zeros(n, np.int64), np.zeros(n, np.uint64)
        self._results = np.zeros((0, len(self.roles), 3), np.int64)
        self._worlds = np.arange(n)[:, None]
        self._attend = True
        self.rivals.seed(seed, 0, worlds)

    def seed(self, seed: int | Array, first: int = 0) -> None:
        """As `Batch.seed`, for the worlds and for who sits where."""
        self.batch.seed(seed, first)
        self.seed_value, self.first = int(np.asarray(seed).ravel()[0]), first
        self.episodes[:] = 0
        self.rivals.seed(self.seed_value, first, self.batch)

    def reset(self, mask: Array | None = None) -> Array:
        """Begin a new episode in every world, or where mask bool [N] says so; returns `observations`."""
        wanted = np.ones(self.n, np.bool_) if mask is None else np.asarray(mask, np.bool_)
        self.batch.reset(wanted)
        if self._attend:
            self.rivals.attend(self.batch)
            self._attend = False
        self._open(wanted)
        return self.observations

    def _open(self, wanted: Array) -> None:
        """Let these worlds' new episodes come to the learner's first move."""
        self._begin(wanted)
        self.ended[wanted] = False
        self._let_rivals_move(wanted)
        # What the rivals' first moves brought belongs to no action of the learner's.
        for array in (self.terminated, self.truncated, self.ended, self.rewards, self.departed):
            array[wanted] = 0
        self._look()

    def step(self) -> int:
        """Take the learner's actions and go on to where it acts again; return how many episodes ended.

        Raises as `Batch.step` does.
        """
        for array in (self.terminated, self.truncated, self.ended, self.rewards, self.departed):
            array[...] = 0
        own = self.batch.actions[self._worlds, self.seats]
        if self._size is None:
            own = self.actions
        else:
            own[..., : self._size] = self.actions
        self.batch.actions[self._worlds, self.seats] = own
        everywhere = np.ones(self.n, np.bool_)
        if not self.batch.world.turns:
            self._ask_rivals(everywhere)
        self._advance(everywhere)
        self._let_rivals_move(everywhere)
        self._look()
        self._count_results()
        return int(self.ended.sum())

    def _count_results(self) -> None:
        over = np.flatnonzero(self.ended)
        if len(over):
            self._results = _grown(self._results, len(self.rivals))
            role = (self._seen[over, None] == self.roles[None]).all(axis=2).argmax(axis=1)
            np.add.at(self._results, (self._met[over], role, self._verdict[over]), 1)

    def results(self) -> Array:
        """Return how episodes ended since the last call, int64 [rivals, roles, 3]: lost, drawn, won by the learner.

        It has won whose mean return over the learner's seats is above that over the others'.
        """
        counted = _grown(self._results, len(self.rivals))
        self._results = np.zeros_like(counted)
        return counted

    def _advance(self, where: Array) -> None:
        """Step these worlds, and note what it brings the learner; of an episode that begins now, nothing yet."""
        b = self.batch
        b.held[...] = ~where
        try:
            b.step()
        finally:
            b.held[...] = False
        first = where & ~self.ended
        gained = b.rewards[self._worlds, self.seats]
        self.rewards[first] += gained[first]
        self.departed[first] |= b.departed[self._worlds, self.seats][first]
        if not (fresh := where & b.ended).any():
            return
        over = first & fresh
        self.terminated[over], self.truncated[over] = b.terminated[over], b.truncated[over]
        self.ended[over] = True
        final = b.final_observations[self._worlds, self.seats]
        self.final_observations[over] = self._cut(final)[over]
        self.episode_returns[over] = b.episode_returns[self._worlds, self.seats][over]
        self.episode_lengths[over] = b.episode_lengths[over]
        if over.any():
            own, seats = self.episode_returns[over].sum(axis=1), self.seats.shape[1]
            others = (b.episode_returns[over].sum(axis=1) - own) / (b.rewards.shape[1] - seats)
            self._verdict[over] = 1 + np.sign(own / seats - others)
            self._met[over], self._seen[over] = self.rival[over], self.seats[over]
        self._begin(fresh)

    def _begin(self, fresh: Array) -> None:
        """Draw role and rival of the episodes that begin."""
        self.episodes[fresh] += 1
        place = np.flatnonzero(fresh)
        numbers = np.uint64(self.first) + place.astype(np.uint64)
        counter = (numbers << np.uint64(40)) + self.episodes[place].astype(np.uint64)
        drawn = [
            ((philox(np.uint64(self.seed_value) ^ key, counter) & np.uint64(0xFFFFFFFF)) >> np.uint64(8)).astype(
                np.int64
            )
            for key in (_SEATS, _RIVALS)
        ]
        if self._opening:
            self._keys[place] = philox(np.uint64(self.seed_value) ^ _OPENING, counter)
            self._left[place] = (self._keys[place] % np.uint64(self._opening + 1)).astype(np.int64)
        self.seats[place] = self.roles[drawn[0] % len(self.roles)]
        if len(self.rivals):
            self.rival[place] = self.rivals.draw(drawn[1] * 2.0**-24)

    def _let_rivals_move(self, where: Array) -> None:
        """In a world of turns, step these worlds until each is at the learner's turn."""
        while self.batch.world.turns:
            opening = where & (self._left > 0)
            waiting = opening | where & ~self.batch.active[self._worlds, self.seats].any(axis=1)
            if not waiting.any():
                return
            if opening.any():
                rows = np.flatnonzero(self.batch.active & opening[:, None])
                worlds = rows // self.batch.active.shape[1]
                move_at_random(self.batch, rows, self._keys[worlds], self._left[worlds])
                self._left[opening] -= 1
            self._ask_rivals(waiting & ~opening)
            self._advance(waiting)

    def _ask_rivals(self, where: Array) -> None:
        theirs = self.batch.active & where[:, None]
        theirs[self._worlds, self.seats] = False
        rows = np.flatnonzero(theirs)
        if len(rows):
            who = self.rival[rows // theirs.shape[1]]
            self.rivals.decide(self.batch, rows, who, deterministic=self.deterministic)

    def _cut(self, rows: Array) -> Array:
        return rows if self._width is None else rows[..., : self._width]

    def _look(self) -> None:
        b = self.batch
        self.observations[...] = self._cut(b.observations[self._worlds, self.seats])
        self.active[...] = b.active[self._worlds, self.seats]
        self.running_returns[...] = b.running_returns[self._worlds, self.seats]
        if self.world.masked:
            self.legal[...] = b.legal[self._worlds, self.seats][..., : self._count]

    def snapshot(self) -> dict[str, Array]:
        """As `Batch.snapshot`, with who sits where and how often a rival that draws has drawn."""
        own = {f"seated_{name}": np.array(array) for name, array in self._persistent().items()}
        theirs = {f"{_THEIRS}{name}": np.array(array) for name, array in self.rivals.snapshot().items()}
        return {**self.batch.snapshot(), **own, **theirs}

    def restore(self, snapshot: dict[str, Array]) -> None:
        """Go on from a `snapshot`. ValueError names what does not fit."""
        for name, array in self._persistent().items():
            given = snapshot.get(f"seated_{name}")
            if given is None or given.dtype != array.dtype or given.shape != array.shape:
                raise ValueError(f"snapshot of another game: {name} does not fit {self.world.name} x {self.n}")
        seats, rival = snapshot["seated_seats"], snapshot["seated_rival"]
        if not (seats[:, None] == self.roles[None]).all(axis=2).any(axis=1).all():
            raise ValueError("snapshot of another game: its seats are nobody's")
        if len(rival) and not 0 <= rival.min() <= rival.max() < len(self.rivals):
            raise ValueError("snapshot of another game: its rivals are not here")
        self.batch.restore({name: array for name, array in snapshot.items() if not name.startswith("seated_")})
        for name, array in self._persistent().items():
            array[...] = snapshot[f"seated_{name}"]
        self.rivals.attend(self.batch)
        self.rivals.restore({k.removeprefix(_THEIRS): v for k, v in snapshot.items() if k.startswith(_THEIRS)})
        self._attend = False
        if not self.exact:  # foreign worlds are in new episodes
            self._open(np.ones(self.n, np.bool_))

    def _persistent(self) -> dict[str, Array]:
        names = "observations final_observations rewards terminated truncated ended active departed legal"
        names += " episode_returns episode_lengths running_returns episodes seats rival"
        return {name: getattr(self, name) for name in names.split()}

    def drain_log(self) -> dict[str, float]:
        """See `Batch.drain_log`."""
        return self.batch.drain_log()

    def close(self) -> None:
        """Close the worlds."""
        self.batch.close()


def _grown(results: Array, count: int) -> Array:
    """Return results, int64 [rivals, roles, 3], with a row for each of `count` rivals."""
    return np.concatenate([results, np.zeros((count - len(results), *results.shape[1:]), np.int64)])


def _of_one_size(name: str, roles: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    if len({len(seats) for seats in roles}) > 1:
        raise ValueError(f"{name}: its roles have different numbers of agents; choose one with role=")
    return roles
