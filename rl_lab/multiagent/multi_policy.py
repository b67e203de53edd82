"""This module trains several policies at the same time in one batch, each policy from the rows of its own agents.

Every learner steps a view of its agents' columns as if the view were a batch of its own. Each learner runs in a
greenlet (a function that can be suspended in the middle and continued, without a thread). `step` of a view suspends the
greenlet until all other views have been stepped; then the batch steps once for all of them. So any learner that uses a
`BatchedEnv` can take part. One thread runs the learners in a fixed order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from rl_lab.core.agent import Agent, Learner, Rollout, StateDict
from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.world import Array
from rl_lab.engine import buffers
from rl_lab.multiagent import agent_columns
from rl_lab.multiagent.multi_policy_agent import MultiPolicyAgent
from rl_lab.multiagent.specs import AgentSubsetSpec

_SEPARATOR = "."  # between the name of a policy and a name in its state; policy names do not contain it


class AgentSubsetView(buffers.EnvBuffers):
    """A `BatchedEnv` with the columns of some of a batch's agents, copied; `step` waits for the other views.

    `seats` are the indices of the agents. Raises ValueError where the agents have different spaces.
    """

    def __init__(self, envs: BatchedEnv, seats: tuple[int, ...], scheduler: LockstepScheduler) -> None:
        world = envs.world
        spaces, action_spaces = world.observation_spaces, world.action_spaces
        if any(spaces[a] != spaces[seats[0]] or action_spaces[a] != action_spaces[seats[0]] for a in seats):
            raise ValueError(f"{world.name}: agents of one policy must have the same spaces")
        space, action = spaces[seats[0]], action_spaces[seats[0]]
        names = tuple(world.agents[a] for a in seats)
        self.world = AgentSubsetSpec.of(
            world,
            names,
            space,
            action,
            is_multi_agent=True,
            current_player_field=world.current_player_field,
            seats=seats,
        )
        self.num_envs, self.seats = envs.num_envs, list(seats)
        self.batch_rows = envs.rewards.size  # of all policies together
        self._envs, self._scheduler = envs, scheduler
        self.restores_exactly = envs.restores_exactly
        vars(self).update(buffers.allocate_env(self.world, self.num_envs))
        self.terminated, self.truncated, self.done = envs.terminated, envs.truncated, envs.done
        self.episode_lengths, self.paused = envs.episode_lengths, envs.paused
        self._agents = (slice(None), self.seats)

    @property
    def agent_terminated(self) -> Array:
        """See `Batch.agent_terminated`."""
        return np.asarray(self._envs.agent_terminated[:, self.seats])

    @property
    def agent_truncated(self) -> Array:
        """See `Batch.agent_truncated`."""
        return np.asarray(self._envs.agent_truncated[:, self.seats])

    def refresh(self) -> None:
        """Copy the columns of these agents from the batch."""
        agent_columns.copy_outputs(self._envs, self._agents, self)

    def seed(self, seed: int | Array, first: int = 0) -> None:
        """Do nothing: the batch is seeded once, not by its views."""

    def reset(self, mask: Array | None = None) -> Array:
        """Reset the batch if no other view has, and return the observations. Raises ValueError for a mask."""
        if mask is not None:
            raise ValueError("one policy cannot reset environments in which other policies play")
        self._scheduler.begin()
        self.refresh()
        return self.observations

    def step(self) -> int:
        """Write the actions, wait until the batch has been stepped, and return how many episodes ended."""
        agent_columns.write_actions(self._envs, self._agents, self.actions)
        episodes = self._scheduler.wait()
        self.refresh()
        return episodes

    def elapsed_steps(self, i: int) -> int:
        """Return the number of steps of the current episode of environment i."""
        return self._envs.elapsed_steps(i)

    def snapshot(self) -> dict[str, Array]:
        """Return nothing: the batch is saved once, not by its views."""
        return {}

    def restore(self, snapshot: dict[str, Array]) -> None:
        """Copy the columns from the batch, which has been restored already."""
        self.refresh()

    def drain_log(self) -> dict[str, float]:
        """Return nothing: the log is the batch's."""
        return {}

    def close(self) -> None:
        """Do nothing: the batch is closed once, not by its views."""


class LockstepScheduler:
    """Runs the learners of one batch in greenlets, and steps the batch when all of them wait for it."""

    def __init__(self, envs: BatchedEnv) -> None:
        self._envs = envs
        self._has_begun = False
        self._episodes = 0  # that ended in the last step

    def begin(self) -> None:
        """Reset the batch in the first call; later calls do nothing."""
        if not self._has_begun:
            self._envs.reset()
            self._has_begun = True

    def wait(self) -> int:
        """Suspend this greenlet until the batch has been stepped, and return how many episodes ended.

        Raises RuntimeError outside of `run`.
        """
        from greenlet import getcurrent

        parent = getcurrent().parent
        if parent is None:
            raise RuntimeError("a view of some agents can only be stepped together with the others")
        parent.switch()
        return self._episodes

    def run(self, functions: list[Callable[[], Any]]) -> list[Any]:
        """Run functions concurrently until they return, and return their results.

        Raises RuntimeError where they do not call `wait` equally often.
        """
        from greenlet import greenlet

        greenlets = [greenlet(function) for function in functions]
        results = [each.switch() for each in greenlets]
        while not all(each.dead for each in greenlets):
            if any(each.dead for each in greenlets):
                raise RuntimeError("the policies take different numbers of steps between two updates")
            self._episodes = self._envs.step()
            results = [each.switch() for each in greenlets]
        return results


class MultiPolicyLearner:
    """A learner that consists of one learner for each policy.

    `policies` holds the indices of the agents of each policy. `make(view, budget, seed)` returns the learner of a view;
    its budget is the policy's share of `budget`, in environment steps of agents.
    """

    def __init__(
        self,
        envs: BatchedEnv,
        policies: dict[str, tuple[int, ...]],
        make: Callable[[BatchedEnv, int, int], Learner],
        *,
        budget: int,
        seed: int,
    ) -> None:
        self.policies = policies
        self._scheduler = LockstepScheduler(envs)
        num_agents = len(envs.world.agents)
        self.views = {name: AgentSubsetView(envs, seats, self._scheduler) for name, seats in policies.items()}
        # With one seed, all policies would start with the same weights and explore in the same way. Each learner seeds
        # the global generators when it is made, so they stay as the last learner seeded them.
        self.learners = {
            name: make(view, -(-budget * len(view.seats) // num_agents), seed + k)
            for k, (name, view) in enumerate(self.views.items())
        }

    @property
    def backend(self) -> str:
        """See `Learner.backend`."""
        return "; ".join(dict.fromkeys(learner.backend for learner in self.learners.values()))

    @property
    def steps(self) -> int:
        """Return the environment steps of all agents together."""
        return sum(learner.steps for learner in self.learners.values())

    @property
    def rollout(self) -> Rollout:
        """Return what all learners together collect before each update."""
        rollouts = [learner.rollout for learner in self.learners.values()]
        return dataclasses.replace(rollouts[0], steps=sum(each.steps for each in rollouts))

    @property
    def seconds(self) -> dict[str, float]:
        """Return the time by activity; that of the batch's steps is counted by the learner that waits first."""
        seconds = [learner.seconds for learner in self.learners.values()]
        return {key: sum(each[key] for each in seconds) for key in seconds[0]}

    def train_iteration(self) -> dict[str, float]:
        """Run one iteration of every learner, and return their metrics, prefixed with the policy's name."""
        results = self._scheduler.run([learner.train_iteration for learner in self.learners.values()])
        pairs = zip(self.learners, results, strict=True)
        metrics = {f"{name}/{key}": value for name, values in pairs for key, value in values.items()}
        returns = [values["rollout/return"] for values in results if "rollout/return" in values]
        return {**metrics, "rollout/return": float(np.mean(returns))} if returns else metrics

    def agent(self) -> Agent:
        """Return one agent that plays all current policies."""
        return MultiPolicyAgent({name: learner.agent() for name, learner in self.learners.items()}, self.policies)

    def save_agent(self) -> StateDict:
        """Return the agents of all policies, joined; `split` separates them."""
        return join({name: learner.save_agent() for name, learner in self.learners.items()})

    def save(self) -> StateDict:
        """Return the state of every learner, joined."""
        return join({name: learner.save() for name, learner in self.learners.items()})

    def restore(self, state_dict: StateDict) -> None:
        """Restore what `save` returned; the batch has been restored already."""
        for view in self.views.values():
            view.refresh()
        for name, part in split(state_dict, list(self.learners)).items():
            self.learners[name].restore(part)

    def close(self) -> None:
        """Close all learners."""
        for learner in self.learners.values():
            learner.close()


def join(parts: dict[str, StateDict]) -> StateDict:
    """Return the states of several learners as one; `split` separates them again."""
    tensors = {f"{name}{_SEPARATOR}{key}": value for name, part in parts.items() for key, value in part.tensors.items()}
    return StateDict(tensors, {name: part.state for name, part in parts.items()})


def split(state_dict: StateDict, names: list[str]) -> dict[str, StateDict]:
    """Return the state of each policy from a joined one. Raises ValueError where a policy is missing."""
    if not set(names) <= set(state_dict.state):
        raise ValueError(f"the state is of the policies {', '.join(state_dict.state)}; expected {', '.join(names)}")
    parts: dict[str, StateDict] = {}
    for name in names:
        prefix = name + _SEPARATOR
        tensors = {key.removeprefix(prefix): v for key, v in state_dict.tensors.items() if key.startswith(prefix)}
        parts[name] = StateDict(tensors, state_dict.state[name])
    return parts
