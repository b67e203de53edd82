"""Rows that wait while others act: every reward reaches the act it belongs to, wherever rollouts and buffers end."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st
from support.compiled import plain_n_step_return

from rl_lab.adapters import make
from rl_lab.core import agent_registry
from rl_lab.core.world import Array
from rl_lab.learners.sb3.masked_replay_buffer import ActingDictReplayBuffer, ActingReplayBuffer
from rl_lab.learners.sb3.masked_rollout_buffers import ActingMaskableRolloutBuffer, ActingRolloutBuffer

GAMMA = 0.9


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def ppo(world: str = "tic_tac_toe", num_envs: int = 4, **values: Any) -> Any:
    module, made = agent_registry.load("ppo"), make.make(world, num_envs, seed=0)
    given = {"batch_size": 2, "n_epochs": 1, "net_arch": [8], "compiled": False, **values}
    return module.learner(module.Config(**given), made, budget=10**9, seed=0, device="cpu")


@pytest.mark.parametrize(
    ("steps", "rollouts", "compiled"),
    [
        (1, 200, False),
        (1, 200, True),
        (2, 200, False),
        (3, 200, True),
        (7, 200, False),
        (16, 200, True),
        (64, 200, True),
    ],
)
def test_as_many_losses_as_wins_are_credited(steps: int, rollouts: int, compiled: bool) -> None:
    taught = ppo(n_steps=steps, compiled=compiled)
    model, counts = taught.model, np.zeros(2, np.int64)
    for _ in range(rollouts):
        model.collect_rollouts(model.env, taught.callback, model.rollout_buffer, steps)
        paid = model.rollout_buffer.rewards[model.rollout_buffer.acted]
        counts += [(paid == 1).sum(), (paid == -1).sum()]
    assert counts[0] == counts[1] > rollouts * steps * 4 / 12, "a game has at most nine moves; few are drawn"


@pytest.mark.parametrize("compiled", [False, True])
def test_a_rollout_with_a_single_act_is_learned_from(compiled: bool) -> None:
    """In one world, of two agents in turns, no rollout of one step has more: without them nothing was learned."""
    taught = ppo(num_envs=1, n_steps=1, compiled=compiled)
    model, kinds = taught.model, set()
    for _ in range(40):
        before, bias = model._n_updates, model.policy.value_net.bias.clone()
        taught.train_iteration()
        changed = bool(model.policy.value_net.bias != bias)
        kinds.add((int(model.rollout_buffer.acted.sum()), model._n_updates - before, changed))
    assert {(0, 0, False), (1, 1, True)} <= kinds <= {(0, 0, False), (1, 1, True), (2, 1, True)}
    assert model.normalize_advantage and all(torch.isfinite(p).all() for p in model.policy.parameters())


class Story:
    """What happens to B rows in T steps, drawn at random, and what follows each act when it is seen as a whole."""

    def __init__(self, seed: int, steps: int, rows: int, waiting: float) -> None:
        chance = np.random.default_rng(seed)
        self.steps, self.shape = steps, (steps, rows)
        self.acting = chance.random((steps + 1, rows)) >= waiting  # whether a row acts in step t
        self.dones = chance.random(self.shape) < 0.2
        self.late = self.dones & (chance.random(self.shape) < 0.5)
        self.rewards = chance.integers(-3, 4, self.shape).astype(np.float32)
        self.seen = 1.0 + np.arange((steps + 1) * rows, dtype=np.float32).reshape(steps + 1, rows, 1)
        self.final = -self.seen

    def after(self, t: int, row: int) -> tuple[float, int, bool] | None:
        """Return what act (t, row) is paid, the step in which it is known what follows, and whether that is an end."""
        paid = 0.0
        for k in range(t, self.steps):
            paid += float(self.rewards[k, row])
            if self.dones[k, row] or self.acting[k + 1, row]:
                return paid, k, bool(self.dones[k, row])
        return None

    def acts(self) -> dict[float, tuple[int, int]]:
        """Return every act's step and row by what was seen, which is different each time."""
        return {float(self.seen[t, b, 0]): (int(t), int(b)) for t, b in np.argwhere(self.acting[: self.steps])}


def value(seen: Any) -> Any:
    return np.sin(np.asarray(seen, np.float32))


@pytest.mark.parametrize("masked", [False, True])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), horizon=st.integers(1, 9), waiting=st.sampled_from([0.0, 0.3, 0.7, 0.95]))
def test_value_targets_are_those_of_whole_episodes(masked: bool, seed: int, horizon: int, waiting: float) -> None:
    """With lambda 0 a target is what an act was paid and the value of what its row saw then, for any rollout length."""
    story = Story(seed, 9 * horizon, 3, waiting)
    vec_env: Any = SimpleNamespace(acted=np.ones(3, bool), acting=story.acting[0])
    kind = ActingMaskableRolloutBuffer if masked else ActingRolloutBuffer
    space, how = Box(-np.inf, np.inf, (1,)), {"gamma": GAMMA, "gae_lambda": 0.0}
    buffer = kind(horizon, space, Discrete(2), device="cpu", n_envs=3, vec_env=vec_env, **how)
    learned: dict[float, float] = {}
    starts = np.ones(3, bool)
    for first in range(0, story.steps, horizon):
        buffer.reset()
        for t in range(first, first + horizon):
            vec_env.acted, vec_env.acting = story.acting[t], story.acting[t + 1]
            paid = story.rewards[t] + story.late[t] * GAMMA * value(story.final[t, :, 0])  # as SB3 bootstraps
            taken, seen = np.zeros((3, 1), np.int64), story.seen[t]
            more = {"action_masks": np.ones((3, 2))} if masked else {}
            given = torch.as_tensor(value(seen)), torch.as_tensor(seen[:, 0])
            buffer.add(seen, taken, paid.astype(np.float32), starts, *given, **more)
            starts = story.dones[t]
        buffer.compute_returns_and_advantage(torch.as_tensor(value(story.seen[first + horizon])), starts)
        for t, b in np.argwhere(buffer.acted):
            seen = float(buffer.observations[t, b, 0])
            assert seen not in learned, "an act is learned from once"
            assert buffer.log_probs[t, b] == seen and buffer.values[t, b] == pytest.approx(value(seen))
            learned[seen] = float(buffer.returns[t, b])
    for seen, (t, b) in story.acts().items():
        if (after := story.after(t, b)) is None:
            assert seen not in learned
            continue
        paid, k, over = after
        bootstrapped = story.final[k, b, 0] if over else story.seen[k + 1, b, 0]
        wanted = paid + (0.0 if over and not story.late[k, b] else GAMMA * float(value(bootstrapped)))
        assert learned[seen] == pytest.approx(wanted, abs=1e-4)


def replay(
    story: Story, slots: int, steps: int, kind: type[ActingReplayBuffer] = ActingReplayBuffer
) -> ActingReplayBuffer:
    """Return a replay buffer that has seen the story; one for Dicts has it under "x", and its negative under "y"."""
    vec_env: Any = SimpleNamespace(acted=None, acting=None, resets=0)
    vec_env.envs = SimpleNamespace(world=SimpleNamespace(has_action_mask=False))
    space, count = Box(-np.inf, np.inf, (1,)), story.shape[1]
    several = kind is ActingDictReplayBuffer

    def shown(seen: Array) -> Any:
        return {"x": seen, "y": -seen} if several else seen

    space = Dict({"x": space, "y": space}) if several else space
    kept = kind(slots * count, space, Discrete(2), "cpu", count, vec_env=vec_env, n_steps=steps, gamma=GAMMA)
    for t in range(story.steps):
        vec_env.acted, vec_env.acting = story.acting[t], story.acting[t + 1]
        after = np.where(story.dones[t, :, None], story.final[t], story.seen[t + 1])
        infos = [{"TimeLimit.truncated": bool(late)} for late in story.late[t]]
        kept.add(shown(story.seen[t]), shown(after), np.zeros((count, 1)), story.rewards[t], story.dones[t], infos)
    return kept


def n_step(story: Story, t: int, row: int, steps: int) -> tuple[float, float, float, float] | None:
    """Return what up to so many acts bring, the discount, what is seen after them, and whether they truly end."""
    total, discount, found = 0.0, 1.0, None
    for _ in range(steps):
        if (after := story.after(t, row)) is None:
            break
        paid, k, over = after
        total, discount = total + discount * paid, discount * GAMMA
        seen = float((story.final[k] if over else story.seen[k + 1])[row, 0])
        found, t = (total, discount, seen, float(over and not story.late[k, row])), k + 1
        if over:
            break
    return found


@pytest.mark.parametrize("kind", [ActingReplayBuffer, ActingDictReplayBuffer])
@pytest.mark.parametrize("steps", [1, 3])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), slots=st.integers(2, 40), waiting=st.sampled_from([0.0, 0.3, 0.7, 0.95]))
def test_what_dqn_samples_is_what_followed_each_act(
    kind: type[ActingReplayBuffer], steps: int, seed: int, slots: int, waiting: float
) -> None:
    """Of every act that is still in the ring and has been followed by something: nothing else, and nothing less."""
    story = Story(seed, 40, 3, waiting)
    kept = replay(story, slots, steps, kind)
    first = max(story.steps - slots, 0)
    wanted = {s: n_step(story, t, b, steps) for s, (t, b) in story.acts().items() if t >= first}
    wanted = {seen: found for seen, found in wanted.items() if found is not None}
    filled = kept.buffer_size if kept.full else kept.pos
    seen_by_act: Any = kept.observations["x"] if isinstance(kept.observations, dict) else kept.observations
    marked = [float(seen_by_act[t, b, 0]) for t, b in np.argwhere(kept.acted[:filled])]
    assert sorted(marked) == sorted(wanted)
    if not marked:
        with pytest.raises(ValueError, match="no complete transition"):
            kept.sample(1)
        return
    drawn = kept.sample(300)
    before, then = drawn.observations, drawn.next_observations
    if isinstance(before, dict):
        for observed in (before, then):
            assert torch.equal(observed["x"], -observed["y"])
        before, then = before["x"], then["x"]
    columns = (before, drawn.rewards, drawn.discounts, then, drawn.dones)
    for seen, paid, discount, after, over in zip(*(c.flatten().tolist() for c in columns), strict=True):
        assert (paid, discount, after, over) == pytest.approx(wanted[seen], abs=1e-4)


@pytest.mark.parametrize("waiting", [0.0, 0.5, 0.9])
def test_compiled_dqn_follows_the_same_acts(waiting: float) -> None:
    from rl_lab.learners.sb3.dqn_arguments import replay_arrays

    n_step_return = plain_n_step_return()
    for seed, slots in ((0, 40), (1, 17), (2, 60)):
        story = Story(seed, 40, 3, waiting)
        kept = replay(story, slots, 3)
        filled = kept.buffer_size if kept.full else kept.pos
        for slot, row in np.argwhere(kept.acted[:filled]):
            t, b = story.acts()[float(kept.observations[slot, row, 0])]
            arrays = replay_arrays(kept)
            paid, last, discount = n_step_return(int(slot), int(row), arrays, 3, GAMMA, kept.pos, filled)
            found = paid, discount, float(kept.next_observations[last, row, 0])
            assert found == pytest.approx((n_step(story, t, b, 3) or ())[:3], abs=1e-4)


@pytest.mark.parametrize("steps", [1, 3])
def test_pending_transitions_are_saved(steps: int) -> None:
    """A learner that goes on from a saved state between two rollouts learns what the other learns, bit for bit."""
    one = ppo(num_envs=8, n_steps=steps)
    for _ in range(5):
        one.train_iteration()
    saved, snapshot = one.save(), one.vec_env.envs.snapshot()
    assert saved.tensors["pending"]["has_pending"].any() and saved.tensors["pending"]["observations"].any()
    other = ppo(num_envs=8, n_steps=steps)
    other.vec_env.envs.restore(snapshot)
    other.restore(saved)
    ends = []
    for learner in (one, other):
        learner.restore(saved)  # the generators are the program's
        learner.vec_env.envs.restore(snapshot)
        for _ in range(5):
            learner.train_iteration()
        ends.append(learner.save())
    for part, arrays in ends[0].tensors.items():
        for name, array in arrays.items():
            assert array.tobytes() == ends[1].tensors[part][name].tobytes(), (part, name)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("actions", 9, "outside Discrete"),
        ("actions", -1, "outside Discrete"),
        ("rewards", np.nan, "not finite"),
        ("action_masks", 0, "illegal"),
        ("has_pending", None, "has_pending is bool .15.; expected bool .16."),
        ("agent_done", None, "agent_done is bool .15.; expected bool .16."),
    ],
)
def test_crafted_pending_transitions_are_refused(name: str, wrong: Any, message: str) -> None:
    taught = ppo(n_steps=2, num_envs=8)
    taught.train_iteration()
    saved = taught.save()
    array = saved.tensors["pending"][name]
    saved.tensors["pending"][name] = array[:-1] if wrong is None else np.full_like(array, wrong)
    with pytest.raises(ValueError, match=message):
        taught.restore(saved)


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_pending_transitions_have_exactly_the_expected_names(algorithm: str) -> None:
    """A missing array is not replaced by zeros, and an unknown one is not ignored; all refusals are one line."""
    module = agent_registry.load(algorithm)
    values = {"n_steps": 2, "batch_size": 2} if algorithm == "ppo" else {"buffer_size": 90}
    envs = make.make("tic_tac_toe" if algorithm == "ppo" else "pursuit", 4, seed=0)
    taught = module.learner(module.Config(compiled=False, **values), envs, budget=10**6, seed=0, device="cpu")
    taught.train_iteration()
    saved = taught.save()
    taught.restore(saved)
    pending = saved.tensors["pending"]
    assert {"agent_done", "has_pending" if algorithm == "ppo" else "pending_slots"} <= set(pending)
    for name in pending:
        saved.tensors["pending"] = {key: array for key, array in pending.items() if key != name}
        with pytest.raises(ValueError, match=f"^[^\\n]*pending transitions: {name} is missing$"):
            taught.restore(saved)
    saved.tensors["pending"] = {**pending, "other": pending["agent_done"]}
    with pytest.raises(ValueError, match="^[^\\n]*pending transitions: other is unknown$"):
        taught.restore(saved)
    del saved.tensors["pending"]
    with pytest.raises(ValueError, match="^[^\\n]*pending transitions: .* is missing$"):
        taught.restore(saved)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(
    ("name", "world"), [("ppo", "gym:CartPole-v1"), ("dqn", "gym:CartPole-v1"), ("ppo", "pettingzoo:classic/rps_v2")]
)
def test_worlds_that_begin_anew_are_looked_at_anew(name: str, world: str, normalized: bool) -> None:
    """A foreign environment resumes in a new episode: the first act is made, and kept, by what is seen there."""
    module, learners = agent_registry.load(name), []
    values = {"n_steps": 3, "batch_size": 3} if name == "ppo" else {"learning_starts": 9, "buffer_size": 90}
    config = module.Config(compiled=False, normalize_observations=normalized, **values)
    for _ in range(2):
        envs = make.make(world, 3, seed=0)
        learners.append(module.learner(config, envs, budget=10**6, seed=0, device="cpu"))
    one, other = learners
    one.train_iteration()
    other.vec_env.envs.restore(one.vec_env.envs.snapshot())
    other.restore(one.save())
    seen: Array = other.vec_env.envs.observations.reshape(other.model._last_obs.shape)
    if normalized:
        assert np.array_equal(other.model._last_original_obs, seen)
        seen = other.model.env.normalize_obs(seen)
    assert np.array_equal(other.model._last_obs, seen) and other.model._last_episode_starts.all()
