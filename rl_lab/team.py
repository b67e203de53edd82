"""Several policies that learn side by side: each from its own agents' rows, all in the same steps of the same worlds.

Every learner drives a view of its seats as if the worlds were its own. It runs in a greenlet: when it asks its view to
step, it waits until the others have asked too; then the worlds step once, for all. So any learner that works through
`batch.Worlds` can be a member, in any mixture, and one thread runs them in a fixed order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from .agent import Agent, Learner, Saved
from .batch import Worlds
from .seats import SeatedWorld
from .world import Array

_MARK = "."  # between a policy's name and a member of its state; no name has it


class SeatsView:
    """Some agents' columns of a batch, in `engine.Batch`'s terms; `step` waits for the other views."""

    exact = True

    def __init__(self, worlds: Worlds, seats: tuple[int, ...], table: Table) -> None:
        whole = worlds.world
        own, actions = whole.observation_spaces, whole.action_spaces
        if any(own[a] != own[seats[0]] or actions[a] != actions[seats[0]] for a in seats):
            raise ValueError(f"{whole.name}: agents of one policy must have the same spaces")
        space, action = own[seats[0]], actions[seats[0]]
        names = tuple(whole.agents[a] for a in seats)
        self.world = SeatedWorld.of(whole, names, space, action, waiting=True, turns=whole.turns)
        self.n, self.worlds, self.seats, self.table = worlds.n, worlds, list(seats), table
        shape = (self.n, len(seats))
        self._width = space.shape[0] if len(space.shape) == 1 else None
        self._size = action.shape[0] if isinstance(action, Box) else None
        self.actions = np.zeros((*shape, *(action.shape or ())), worlds.actions.dtype)
        self.observations = np.zeros((*shape, *space.shape), worlds.observations.dtype)
        self.final_observations = np.zeros_like(self.observations)
        self.rewards, self.episode_returns = np.zeros(shape, np.float32), np.zeros(shape)
        self.running_returns = np.zeros(shape)
        self.active, self.departed = np.ones(shape, np.bool_), np.zeros(shape, np.bool_)
        self.legal = np.zeros((*shape, int(getattr(action, "n", 1)) if whole.masked else 1), np.uint8)
        self.terminated, self.truncated, self.ended = worlds.terminated, worlds.truncated, worlds.ended
        self.episode_lengths, self.held = worlds.episode_lengths, worlds.held

    def look(self) -> None:
        """Take up what the worlds show these seats now."""
        whole, seats = self.worlds, self.seats
        width, count = self._width, self.legal.shape[2]
        for own, theirs in (
            (self.observations, whole.observations),
            (self.final_observations, whole.final_observations),
        ):
            own[...] = theirs[:, seats] if width is None else theirs[:, seats, :width]
        self.rewards[...], self.active[...] = whole.rewards[:, seats], whole.active[:, seats]
        self.departed[...], self.legal[...] = whole.departed[:, seats], whole.legal[:, seats, :count]
        self.episode_returns[...] = whole.episode_returns[:, seats]
        self.running_returns[...] = whole.running_returns[:, seats]

    def submit(self) -> None:
        """Write the actions of these seats."""
        if self._size is None:
            self.worlds.actions[:, self.seats] = self.actions
        else:
            self.worlds.actions[:, self.seats, : self._size] = self.actions

    def seed(self, seed: int | Array, first: int = 0) -> None:
        """The worlds have been seeded for everybody."""

    def reset(self, mask: Array | None = None) -> Array:
        """Begin, once for all views; a mask is refused."""
        if mask is not None:
            raise ValueError("one policy cannot begin episodes that others are in")
        self.table.begin()
        self.look()
        return self.observations

    def step(self) -> int:
        """Hand in the actions, wait for everybody's, and return how many episodes ended."""
        self.submit()
        finished = self.table.wait()
        self.look()
        return finished

    def snapshot(self) -> dict[str, Array]:
        """The worlds are saved once, not by their views."""
        return {}

    def restore(self, snapshot: dict[str, Array]) -> None:
        """Take up the worlds as they have been restored."""
        self.look()

    def drain_log(self) -> dict[str, float]:
        """The log belongs to the worlds."""
        return {}

    def close(self) -> None:
        """The worlds are closed once."""


class Table:
    """Where the views of one batch meet."""

    def __init__(self, worlds: Worlds) -> None:
        self.worlds = worlds
        self._begun = False
        self._finished = 0

    def begin(self) -> None:
        """Reset the worlds, the first time."""
        if not self._begun:
            self.worlds.reset()
            self._begun = True

    def wait(self) -> int:
        """Give way to the others until the worlds have stepped; return how many episodes ended."""
        from greenlet import getcurrent

        parent = getcurrent().parent
        if parent is None:
            raise RuntimeError("a view of some seats steps only together with the others")
        parent.switch()
        return self._finished

    def run(self, work: list[Callable[[], Any]]) -> list[Any]:
        """Run these side by side to their ends, which they must reach after equally many steps; return what they do."""
        from greenlet import greenlet

        parts = [greenlet(each) for each in work]
        results = [part.switch() for part in parts]
        while not all(part.dead for part in parts):
            if any(part.dead for part in parts):
                raise RuntimeError("policies of one team take different numbers of steps between updates")
            self._finished = self.worlds.step()
            results = [part.switch() for part in parts]
        return results


class Team:
    """A learner made of learners, one a policy. `make(view, budget, seed)` returns the learner of a view."""

    def __init__(
        self,
        worlds: Worlds,
        policies: dict[str, tuple[int, ...]],
        make: Callable[[Worlds, int, int], Learner],
        *,
        budget: int,
        seed: int,
    ) -> None:
        self.worlds, self.policies = worlds, policies
        self.table = Table(worlds)
        agents = len(worlds.world.agents)
        self.views = {name: SeatsView(worlds, seats, self.table) for name, seats in policies.items()}
        # Seeds of their own, or all would begin with the same weights and explore alike. Each sets the global
        # generators; the last one's stand.
        self.learners = {
            name: make(view, -(-budget * len(view.seats) // agents), seed + k)
            for k, (name, view) in enumerate(self.views.items())
        }

    @property
    def how(self) -> str:
        """See `Learner.how`."""
        return "; ".join(dict.fromkeys(learner.how for learner in self.learners.values()))

    @property
    def steps(self) -> int:
        """Steps of all agents together."""
        return sum(learner.steps for learner in self.learners.values())

    @property
    def seconds(self) -> dict[str, float]:
        """Where the time went; the worlds' is counted by whoever waited first."""
        spent = [learner.seconds for learner in self.learners.values()]
        return {key: sum(each[key] for each in spent) for key in spent[0]}

    def advance(self) -> dict[str, float]:
        """Let every learner collect and learn once, side by side; metrics carry the policy's name."""
        metrics = self.table.run([learner.advance for learner in self.learners.values()])
        named = zip(self.learners, metrics, strict=True)
        shown = {f"{name}/{key}": value for name, values in named for key, value in values.items()}
        returns = [values["rollout/return"] for values in metrics if "rollout/return" in values]
        return {**shown, "rollout/return": float(np.mean(returns))} if returns else shown

    def agent(self) -> Agent:
        """Return the agents as they are now."""
        return TeamAgent({name: learner.agent() for name, learner in self.learners.items()}, self.policies)

    def save_agent(self) -> Saved:
        """Return what `split` takes apart again."""
        return joined({name: learner.save_agent() for name, learner in self.learners.items()})

    def save(self) -> Saved:
        """Return every learner's state."""
        return joined({name: learner.save() for name, learner in self.learners.items()})

    def restore(self, saved: Saved) -> None:
        """Go on from `save`; the worlds have been restored already."""
        for view in self.views.values():
            view.look()
        for name, part in split(saved, list(self.learners)).items():
            self.learners[name].restore(part)


def joined(parts: dict[str, Saved]) -> Saved:
    """Return what several learners saved as one; `split` takes it apart again."""
    tensors = {f"{name}{_MARK}{key}": value for name, part in parts.items() for key, value in part.tensors.items()}
    return Saved(tensors, {name: part.state for name, part in parts.items()})


def split(saved: Saved, names: list[str]) -> dict[str, Saved]:
    """Return what each policy saved. Raises ValueError where it is of other policies."""
    if not set(names) <= set(saved.state):
        raise ValueError(f"saved are the policies {', '.join(saved.state)}; expected {', '.join(names)}")
    found: dict[str, Saved] = {}
    for name in names:
        own = {key.removeprefix(name + _MARK): v for key, v in saved.tensors.items() if key.startswith(name + _MARK)}
        found[name] = Saved(own, saved.state[name])
    return found


@dataclasses.dataclass
class _Seats:
    agent: Agent
    seats: tuple[int, ...]


class TeamAgent:
    """Agents that have a seat each, or several, as one agent."""

    def __init__(self, agents: dict[str, Agent], policies: dict[str, tuple[int, ...]]) -> None:
        self.name = "+".join(sorted({agent.name for agent in agents.values()}))
        self._members = [_Seats(agent, policies[name]) for name, agent in agents.items()]
        self._agents = sum(len(seats) for seats in policies.values())
        self._shape: tuple[int, ...] = ()
        self._dtype: Any = np.int64

    def attend(self, worlds: Worlds) -> None:
        """Take the seats."""
        self._shape, self._dtype = worlds.actions.shape[2:], worlds.actions.dtype
        for member in self._members:
            member.agent.attend(worlds)
            places: Any = getattr(member.agent, "places", None)
            if places is not None:  # a policy that tells agents apart knows those it was trained with
                places[list(member.seats)] = np.arange(len(member.seats))

    def act(
        self,
        observations: Array,
        *,
        state: Any = None,
        legal: Array | None = None,
        rows: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """See `agent.Agent.act`: each row is decided by the agent whose seat it is."""
        numbers = np.arange(len(observations)) if rows is None else rows
        actions = np.zeros((len(observations), *self._shape), self._dtype)
        for member in self._members:
            own = np.flatnonzero(np.isin(numbers % self._agents, member.seats))
            if len(own):
                masks = None if legal is None else legal[own]
                actions[own], _ = member.agent.act(
                    observations[own], legal=masks, rows=numbers[own], deterministic=deterministic
                )
        return actions, None
