"""These tests compare a batch of PettingZoo environments with the same environments stepped one by one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pettingzoo
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Sequence, Text
from gymnasium.vector import AutoresetMode

from rl_lab.adapters.from_pettingzoo import ForeignPettingZooBatch
from rl_lab.core.random_actions import write_uniform_actions
from rl_lab.core.world import Array
from rl_lab.engine.batch import NonFiniteError

KEPT = (
    "observations",
    "rewards",
    "terminated",
    "truncated",
    "done",
    "action_mask",
    "acting",
    "left_episode",
    "episode_returns",
)


def make_batch(
    identity: str, n: int = 2, seed: int = 0, mode: AutoresetMode = AutoresetMode.SAME_STEP, **params: Any
) -> ForeignPettingZooBatch:
    render = params.pop("render", False)
    return ForeignPettingZooBatch(f"pettingzoo:{identity}", n, params, seed=seed, autoreset=mode, render=render)


class Leaving(pettingzoo.ParallelEnv):  # type: ignore[misc]
    """Three agents with spaces of their own; b leaves at step 2, and a and c are truncated at step 4.

    a sees a number from 2 to 5, b two numbers, c one; c's mask is in its infos.
    """

    metadata = {"name": "leaving", "render_fps": 7, "render_modes": ["rgb_array"]}
    possible_agents = ["a", "b", "c"]

    def __init__(self, render_mode: str | None = None, broken: str = "", sees: Any = None) -> None:
        self.broken, self.render_mode = broken, render_mode
        self.sees = {"a": Discrete(4, start=2), "b": Box(-1, 9, (2,), np.float64), "c": Box(0, 9, (1,), np.float32)}
        self.sees |= {} if sees is None else {"a": sees}
        self.takes = {"a": Discrete(2, start=-1), "b": Discrete(3), "c": Discrete(3)}

    def observation_space(self, agent: str) -> Any:
        return self.sees[agent]

    def action_space(self, agent: str) -> Any:
        return self.takes[agent]

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self.rng, self.t, self.agents, self.seed = np.random.default_rng(seed), 0, self.possible_agents[:], seed
        return self.observe_agents(self.agents)

    def observe_agents(self, agents: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        seen = {
            "a": 2 + int(self.rng.integers(4)),
            "b": self.rng.uniform(-1, 9, 2),
            "c": np.array([self.t], np.float32),
        }
        if self.broken == "observation" and self.t == 2:
            seen["c"][0] = np.nan
        infos = {"a": {}, "b": {}, "c": {"action_mask": np.array([0, self.t % 2, 1], np.int8)}}
        return {agent: seen[agent] for agent in agents}, {agent: infos[agent] for agent in agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        assert set(actions) == set(self.agents) and all(self.takes[k].contains(v) for k, v in actions.items())
        self.t += 1
        live_agents = self.agents
        seen, infos = self.observe_agents(live_agents)
        rewards = {agent: float(actions[agent]) + self.t for agent in live_agents}
        if self.broken == "reward" and self.t == 2:
            rewards["a"] = np.inf
        terminated = {agent: agent == "b" and self.t == 2 for agent in live_agents}
        truncated = {agent: self.t == 4 for agent in live_agents}
        self.agents = [agent for agent in live_agents if not (terminated[agent] or truncated[agent])]
        return seen, rewards, terminated, truncated, infos

    def render(self) -> Array:
        return np.full((4, 6, 3), self.t, np.uint8)


class Mixed(Leaving):
    """Some choose from a list and others give numbers."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.takes["b"] = Box(0, 1, (2,), np.float32)


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    for kind in (Leaving, Mixed):
        pettingzoo.register("parallel", f"labtest/{kind.__name__}_v0", kind)
    yield
    for kind in (Leaving, Mixed):
        del pettingzoo.parallel_registry[f"labtest/{kind.__name__}-v0"]


AEC = ["classic/tictactoe_v3", "classic/connect_four_v3", "classic/leduc_holdem_v4"]
PARALLEL = ["classic/rps_v2", "mpe/simple_tag_v3", "mpe/simple_speaker_listener_v4", "mpe/simple_world_comm_v3"]


@pytest.mark.parametrize("identity", AEC)
def test_turns_are_what_stepping_by_hand_gives(identity: str) -> None:
    envs, reference = make_batch(identity, 2, mode=AutoresetMode.DISABLED), pettingzoo.make("aec", identity)
    assert envs.world.current_player_field and envs.world.has_action_mask and not envs.restores_exactly
    rng, agents = np.random.default_rng(0), reference.possible_agents
    for seed in (3, 5):
        envs.seed(np.array([1, seed]))
        envs.reset()
        reference.reset(seed=seed)
        returns, steps = np.zeros(len(agents)), 0
        while True:
            selected = agents.index(reference.agent_selection)
            assert envs.acting[1].tolist() == [a == selected for a in range(len(agents))]
            for a, agent in enumerate(agents):
                seen = reference.observe(agent)
                assert envs.observations[1, a].tobytes() == seen["observation"].astype(np.float32).tobytes()
                assert envs.observations.dtype == np.float32
                mask = seen["action_mask"] if a == selected else 0 * seen["action_mask"]
                assert np.array_equal(envs.action_mask[1, a], mask)
            write_uniform_actions(envs, rng.random(envs.actions.shape))
            reference.step(int(envs.actions[1, selected]))
            envs.step()
            steps += 1
            rewards = [reference.rewards[agent] for agent in agents]
            assert envs.rewards[1].tolist() == rewards
            returns += rewards
            over = all(reference.terminations[agent] or reference.truncations[agent] for agent in agents)
            assert envs.terminated[1] == envs.done[1] == over and not envs.left_episode[1].any()
            if over:
                break
        assert envs.episode_returns[1].tolist() == returns.tolist() and envs.episode_lengths[1] == steps
        kept = [getattr(envs, name)[1].tobytes() for name in KEPT if name != "rewards"]
        envs.reset(np.array([True, False]))
        write_uniform_actions(envs, rng.random(envs.actions.shape))
        envs.step()
        assert not envs.acting[1].any() and not envs.rewards[1].any()  # an environment that has ended stands still
        assert [getattr(envs, name)[1].tobytes() for name in KEPT if name != "rewards"] == kept


@pytest.mark.parametrize("identity", PARALLEL)
def test_steps_of_all_are_what_stepping_by_hand_gives(identity: str) -> None:
    import importlib

    envs = make_batch(identity, 2, max_cycles=6)
    module = f"mpe2.{identity.partition('/')[2]}" if identity.startswith("mpe/") else "pettingzoo.classic.rps.rps"
    reference = importlib.import_module(module).parallel_env(max_cycles=6)
    assert not envs.world.current_player_field and envs.world.horizon == 6
    rng, agents = np.random.default_rng(0), reference.possible_agents
    envs.seed(np.array([1, 7]))
    envs.reset()
    seen, _ = reference.reset(seed=7)
    for t in range(1, 7):
        assert envs.acting.all()
        for a, agent in enumerate(agents):
            space, row = reference.observation_space(agent), envs.observations[1, a]
            want = np.eye(space.n, dtype=np.float32)[seen[agent]] if isinstance(space, Discrete) else seen[agent]
            assert row[: len(want)].tobytes() == want.tobytes() and not row[len(want) :].any()
            if envs.world.has_action_mask:
                assert envs.action_mask[1, a].sum() == reference.action_space(agent).n
        write_uniform_actions(envs, rng.random(envs.actions.shape))
        seen, rewards, terminated, truncated, _ = reference.step(
            {agent: int(envs.actions[1, a]) for a, agent in enumerate(agents)}
        )
        assert envs.step() == (2 if t == 6 else 0)
        assert envs.rewards[1].tolist() == [np.float32(rewards[agent]) for agent in agents]
        assert envs.truncated[1] == all(truncated.values()) == (t == 6) and not envs.terminated[1]
    last = envs.final_observations[1, 0]
    want = np.eye(4, dtype=np.float32)[seen[agents[0]]] if identity == "classic/rps_v2" else seen[agents[0]]
    assert last[: len(want)].tobytes() == want.tobytes()
    assert envs.observations[1].tobytes() != envs.final_observations[1].tobytes() or identity == "classic/rps_v2"


def test_who_leaves_early_is_departed_and_spaces_are_padded() -> None:
    envs = make_batch("labtest/Leaving_v0", 1)
    world = envs.world
    assert world.agents == ("a", "b", "c") and world.has_action_mask and world.action == Discrete(3)
    assert [space.shape for space in world.observation_spaces] == [(4,), (2,), (1,)]
    assert envs.observations.shape == (1, 3, 4) and envs.observations.dtype == np.float32
    assert world.frames_per_second == 7 and world.roles == {"a": (0,), "b": (1,), "c": (2,)}
    envs.reset()
    assert envs.observations[0, 0].sum() == 1 and not envs.observations[0, 1, 2:].any()
    assert envs.action_mask[0].tolist() == [[1, 1, 0], [1, 1, 1], [0, 0, 1]]
    shown = []
    for _ in range(4):
        envs.actions[0] = [1, 0, 2]
        ended = envs.step()
        shown.append((envs.rewards[0].tolist(), envs.left_episode[0].tolist(), envs.acting[0].tolist(), ended))
    assert shown == [
        ([1, 1, 3], [False] * 3, [True] * 3, 0),  # a's 1 is the second of its actions, which is 0
        ([2, 2, 4], [False, True, False], [True, False, True], 0),
        ([3, 0, 5], [False] * 3, [True, False, True], 0),
        ([4, 0, 6], [False] * 3, [True] * 3, 1),
    ]
    assert envs.truncated[0] and not envs.terminated[0]
    assert envs.episode_returns[0].tolist() == [10, 3, 18] and envs.episode_lengths[0] == 4
    assert envs.drain_log() == {"episodes": 1.0} and envs.drain_log() == {"episodes": 0.0}


def test_illegal_actions_and_those_outside_are_refused_before_anything_moves() -> None:
    envs = make_batch("labtest/Leaving_v0", 2)
    envs.reset()
    before = [game.env.t for game in envs.games]
    envs.actions[...] = [0, 0, 2]
    for a, wrong, said in (
        (2, 0, r"action 0 of c in world 1 at step 0 is illegal; legal are \[2\]"),
        (0, 2, "outside"),
    ):
        envs.actions[1, a] = wrong
        with pytest.raises(ValueError, match=said):
            envs.step()
        envs.actions[1, a] = [0, 0, 2][a]
    assert [game.env.t for game in envs.games] == before
    tag = make_batch("mpe/simple_tag_v3", 1, continuous_actions=True)
    tag.reset()
    assert tag.actions.shape == (1, 4, 5) and tag.actions.dtype == np.float32
    tag.actions[0, 2, 1] = np.nan
    with pytest.raises(ValueError, match="agent|adversary_2"):
        tag.step()


def play(envs: ForeignPettingZooBatch, steps: int, seed: int = 0) -> list[bytes]:
    rng, seen = np.random.default_rng(seed), []
    for _ in range(steps):
        write_uniform_actions(envs, rng.random(envs.actions.shape))
        envs.step()
        seen += [getattr(envs, name).tobytes() for name in KEPT]
    return seen


def test_seeds_and_snapshots() -> None:
    one, other = make_batch("labtest/Leaving_v0", 3, seed=4), make_batch("labtest/Leaving_v0", 3, seed=4)
    one.reset()
    other.reset()
    assert play(one, 11) == play(other, 11)
    snapshot = one.snapshot()
    one.restore(snapshot)
    other.restore(snapshot)
    assert play(one, 6) == play(other, 6)
    other.seed(5)
    other.reset()
    one.restore(snapshot)
    assert play(one, 6) != play(other, 6)
    with pytest.raises(ValueError, match="snapshot of another batch"):
        one.restore({"seeds": snapshot["seeds"][:2], "episodes": snapshot["episodes"]})
    one.seed(np.array([9, 2, 9]))
    one.reset()
    assert [game.env.seed for game in one.games] == [9, 2, 9]
    assert one.observations[0].tobytes() == one.observations[2].tobytes() != one.observations[1].tobytes()


def test_some_can_be_reset() -> None:
    envs = make_batch("labtest/Leaving_v0", 3, mode=AutoresetMode.DISABLED)
    envs.reset()
    play(envs, 4)
    assert envs.done.all() and not envs.acting.any()
    before = envs.observations[0].tobytes()
    envs.reset(np.array([False, True, False]))
    assert envs.done.tolist() == [True, False, True] and envs.observations[0].tobytes() == before
    assert envs.acting.tolist() == [[False] * 3, [True] * 3, [False] * 3]


@pytest.mark.parametrize("field", ["reward", "observation"])
def test_numbers_that_are_none_are_named(field: str) -> None:
    envs = make_batch("labtest/Leaving_v0", 2, broken=field)
    envs.reset()
    with pytest.raises(NonFiniteError, match=f"non-finite {field} in world 0 at step 2"):
        play(envs, 2)


def test_pictures_are_the_environments_own() -> None:
    envs = make_batch("labtest/Leaving_v0", 1, render=True)
    envs.reset()
    play(envs, 2)
    assert envs.renders and envs.picture(0).tolist() == np.full((4, 6, 3), 2).tolist()
    envs.close()
    assert not make_batch("labtest/Leaving_v0", 1).renders


MISTAKES = {
    "pettingzoo:classic/tictacto_v3": "did you mean 'pettingzoo:classic/tictactoe_v3'",
    "pettingzoo:classic/tictactoe_v9": "did you mean 'pettingzoo:classic/tictactoe_v3'",
    "pettingzoo:mpe/simple_tga_v3": "did you mean 'pettingzoo:mpe/simple_tag_v3'",
    "pettingzoo:mpe/_mpe_utils": "no world",
    "pettingzoo:mpe/../os": "no world",
    "pettingzoo:os:system": "may not run without your permission",
    "pettingzoo:antigravity": "may not run without your permission",
    "pettingzoo:": "no world",
    "pettingzoo:butterfly/pistonball_v6": r"needs the package pymunk.*pip install 'pettingzoo\[butterfly\]'",
    "pettingzoo:labtest/Mixed_v0": "some agents choose from a list",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name: str) -> None:
    if "pymunk" in MISTAKES[name] and "pymunk" in sys.modules:
        pytest.skip("it is installed")
    with pytest.raises(ValueError, match=MISTAKES[name]):
        ForeignPettingZooBatch(name, 1, {}, seed=0, autoreset=AutoresetMode.SAME_STEP, render=False)
    assert "antigravity" not in sys.modules


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="unexpected keyword argument 'speed'"):
        make_batch("classic/tictactoe_v3", speed=2)
    with pytest.raises(ValueError, match="worlds=0"):
        make_batch("classic/tictactoe_v3", 0)
    with pytest.raises(ValueError, match="autoreset"):
        make_batch("classic/tictactoe_v3", mode=AutoresetMode.NEXT_STEP)
    for space in (Text(5), Dict({"picture": Sequence(Discrete(2))})):
        with pytest.raises(ValueError, match="observations are"):
            make_batch("labtest/Leaving_v0", sees=space)
