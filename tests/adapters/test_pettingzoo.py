"""These tests run every world through its two PettingZoo environments, AECEnv and ParallelEnv.

PettingZoo's own tests must pass, and the environments must play what a Batch plays.
"""

from __future__ import annotations

import copy
import pickle
import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pettingzoo
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode
from support.nim import NIM
from support.race import RACE

from rl_lab.adapters.pettingzoo import LabAECEnv, LabParallelEnv, env, parallel_env, raw_env
from rl_lab.checks.suite import with_few_agents
from rl_lab.core.random_actions import write_uniform_actions
from rl_lab.core.world import World
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch
from rl_lab.rendering.window import Window

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PettingZoo's tests load games through the names that PettingZoo deprecates
    from pettingzoo.test import api_test, max_cycles_test, parallel_api_test, render_test, state_test
    from pettingzoo.test.seed_test import parallel_seed_test, seed_test
    from pettingzoo.utils import aec_to_parallel, parallel_to_aec

EXTRA_WORLDS = {"nim": World(**NIM), "race": World(**RACE)}
NAMES = [*EXTRA_WORLDS, *world_registry.names()]


@cache
def small_world(name: str) -> World:
    return EXTRA_WORLDS[name] if name in EXTRA_WORLDS else with_few_agents(world_registry.load(name))


# What PettingZoo's tests advise against, and the originals of these worlds do too; all else they say is an error.
ADVICE = (
    "We recommend agents to be named in the format",
    "Observations are different shapes",
    "Observations have different number of dimensions",
    "Agents have different observation space sizes",
    "observation space value is -infinity",
    "observation space value is infinity",
    "maximum and minimum observation space values are equal",
    "state space value is -infinity",
    "state space value is infinity",
    "maximum and minimum state space values are equal",
    "Observation numpy array is all zeros",
    "State numpy array is all zeros",
    "Action mask numpy array is all zeros",  # of agents that are not to move
    "Observation space for each agent probably should be gymnasium.spaces.box",  # a mask comes with it
    "Observation is not a NumPy array",  # the same
    "Observation is a single number",
    "State is a single number",
    "No agents present but not all possible_agents are terminated",  # some were not there from the start
    "The observation contains negative numbers and is in the shape of a graphical observation",
)


def check_passes_quietly(test: Callable[..., None], *arguments: Any, **named: Any) -> None:
    """Run one of PettingZoo's tests; whatever it warns of is an error but for ADVICE."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        test(*arguments, **named)
    said = {str(warning.message) for warning in caught}
    assert [text for text in said if not any(advice in text for advice in ADVICE)] == []


def options_for_random_play(name: str) -> dict[str, Any]:
    """How a world must be made for tests of PettingZoo's that play without looking at masks."""
    return {"illegal": "noop"} if small_world(name).has_action_mask else {}


@pytest.mark.parametrize("name", NAMES)
def test_pettingzoos_own_tests_pass(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    world, cycles = small_world(name), 12
    check_passes_quietly(api_test, env(world), num_cycles=cycles)
    check_passes_quietly(parallel_api_test, parallel_env(world), num_cycles=cycles)
    check_passes_quietly(seed_test, partial(env, world), num_cycles=cycles)
    check_passes_quietly(
        parallel_seed_test, partial(parallel_env, world, **options_for_random_play(name)), num_cycles=cycles
    )
    # Its test of states looks at no mask, and goes on to act for agents that have left.
    check_passes_quietly(state_test, env(world, **options_for_random_play(name)), parallel_env(world), num_cycles=3)


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in (("DISPLAY", ":0"), ("SDL_VIDEODRIVER", "dummy"), ("SDL_AUDIODRIVER", "dummy")):
        monkeypatch.setenv(key, value)
    waited: list[float] = []
    monkeypatch.setattr(Window, "wait", lambda self, seconds: waited.append(seconds))
    check_passes_quietly(render_test, partial(env, small_world(name)))
    assert set(waited) == {1 / small_world(name).frames_per_second}
    shown = parallel_env(small_world(name), render_mode="human")
    shown.reset(seed=0)
    assert shown.render() is None
    shown.close()
    shown.close()
    with pytest.raises(ValueError, match="render_mode='ansi'"):
        env(small_world(name), render_mode="ansi")


# PettingZoo's test expects a move of each agent in a cycle, which with turns is one agent's move, and that most agents
# stay to the end.
@pytest.mark.parametrize(
    "name",
    [
        "race",
        *(name for name in NAMES if not (small_world(name).current_player_field or small_world(name).alive_field)),
    ],
)
def test_max_cycles_truncate(name: str) -> None:
    far = {"length": 9} if name == "race" else {}  # no agent arrives so soon: the test wants most agents there

    def seeded(make: Callable[..., Any], **arguments: Any) -> Any:
        # The test seeds nothing, and by chance an episode may end before it is truncated.
        made = make(small_world(name), **options_for_random_play(name), **far, **arguments)
        made.reset(seed=0)
        for agent in made.possible_agents:
            made.action_space(agent).seed(0)
        return made

    max_cycles_test(SimpleNamespace(env=partial(seeded, env), parallel_env=partial(seeded, parallel_env)))


def test_max_cycles_are_steps_where_there_are_turns() -> None:
    world = EXTRA_WORLDS["nim"]
    one, other = env(world, max_cycles=3, heap=20), parallel_env(world, max_cycles=3, heap=20)
    one.reset(seed=1)
    other.reset(seed=1)
    for k in range(3):
        one.step(0)
        _, _, terminated, truncated, _ = other.step(dict.fromkeys(other.agents, 0))
        assert set(truncated.values()) == {k == 2} and not any(terminated.values())
    assert all(one.truncations.values()) and not any(one.terminations.values()) and other.agents == []
    for wrong in (0, -1, 1.5):
        with pytest.raises(ValueError, match="max_cycles"):
            env(world, max_cycles=wrong)


# ------------------------------------------------------------------------------------------ the same as in a batch


def is_equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(is_equal(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and a == b


def expected_observation(batch: Batch, a: int) -> Any:
    """What agent a must be shown of a batch's world 0."""
    world = batch.world
    seen, own = batch.observations[0, a], world.observation_spaces[a].shape
    seen = seen if own == seen.shape else seen[: own[0]]
    if not world.has_action_mask:
        return seen.copy()
    mask = batch.action_mask[0, a, : world.action_spaces[a].n].astype(np.int8)  # type: ignore[union-attr]
    return {"observation": seen.copy(), "action_mask": mask}


def action_of(batch: Batch, a: int) -> Any:
    space, given = batch.world.action_spaces[a], batch.actions[0, a]
    return int(given) if isinstance(space, Discrete) else given[: space.shape[0]].copy()


@pytest.mark.parametrize("name", NAMES)
def test_both_faces_play_what_a_batch_plays(name: str) -> None:
    """Whole episodes, bit for bit: observations, masks, rewards, ends, which agents leave and which is next."""
    world, horizon, rng = small_world(name), 25, np.random.default_rng(0)
    together, turns = (make(world, max_cycles=horizon) for make in (parallel_env, env))
    batch = Batch(together.batch.world, 1, seed=7, threads=1, autoreset=AutoresetMode.DISABLED)
    for episode in range(3):
        batch.reset()
        seen, infos = together.reset(seed=7 if episode == 0 else None)
        turns.reset(seed=7 if episode == 0 else None)
        agents = list(together.agents)
        assert turns.agents == agents == list(seen)
        owed = dict.fromkeys(agents, 0.0)
        while not batch.done[0]:
            for agent in agents:
                a = world.agents.index(agent)
                assert is_equal(seen[agent], expected_observation(batch, a)) and is_equal(
                    turns.observe(agent), expected_observation(batch, a)
                )
                mask = {"action_mask": seen[agent]["action_mask"]} if world.has_action_mask else {}
                assert is_equal(infos[agent], mask) and is_equal(turns.infos[agent], mask)
                assert together.observation_space(agent).contains(seen[agent])
            assert is_equal(together.state(), turns.state()) and together.state_space.contains(turns.state())
            write_uniform_actions(batch, rng.random(batch.actions.shape))
            chosen = {agent: action_of(batch, world.agents.index(agent)) for agent in agents}
            acting = [agent for agent in agents if batch.acting[0, world.agents.index(agent)]]
            assert acting == (agents if not world.current_player_field else acting[:1])
            for agent in acting:
                assert turns.agent_selection == agent
                assert is_equal(turns.last()[1], owed[agent]) and turns.last()[2:4] == (False, False)
                owed[agent] = 0.0
                turns.step(chosen[agent])
            batch.step()
            seen, rewards, terminated, truncated, infos = together.step(chosen)
            left = {agent: bool(batch.left_episode[0, world.agents.index(agent)]) for agent in agents}
            over, late = bool(batch.terminated[0]), bool(batch.truncated[0])
            assert is_equal(rewards, {agent: float(batch.rewards[0, world.agents.index(agent)]) for agent in agents})
            assert is_equal(terminated, {agent: over or left[agent] for agent in agents})
            assert is_equal(truncated, {agent: late and not left[agent] for agent in agents})
            assert is_equal(turns.rewards, rewards)
            assert (turns.terminations, turns.truncations) == (terminated, truncated)
            for agent in agents:
                owed[agent] += rewards[agent]
            out = [agent for agent in agents if terminated[agent] or truncated[agent]]
            for agent in out:
                assert turns.agent_selection == agent and is_equal(turns.last()[0], seen[agent])
                assert is_equal(turns.last()[1], owed[agent])
                turns.step(None)
            agents = [agent for agent in agents if agent not in out]
            assert turns.agents == together.agents == agents
            assert turns.rewards.keys() == turns.infos.keys() == turns.terminations.keys() == set(agents)
    assert together.step({}) == ({}, {}, {}, {}, {})
    with pytest.raises(ResetNeeded):
        turns.step(None)


def trajectory(environment: Any, seed: int, steps: int) -> list[Any]:
    """Random play of a ParallelEnv."""
    rng, seen = np.random.default_rng(0), [environment.reset(seed=seed)]
    for _ in range(steps):
        if not environment.agents:
            seen.append(environment.reset())
        actions = {}
        for agent in environment.agents:
            space = environment.action_space(agent)
            actions[agent] = (
                rng.integers(space.n) if isinstance(space, Discrete) else rng.uniform(space.low, space.high)
            )
        seen.append(environment.step(actions))
    return [part for parts in seen for part in parts]


def test_pettingzoos_conversions_of_our_faces_play_the_same() -> None:
    world = EXTRA_WORLDS["race"]
    plays = [
        trajectory(made, 3, 40)
        for made in (
            parallel_env(world),
            aec_to_parallel(env(world)),
            aec_to_parallel(parallel_to_aec(parallel_env(world))),
        )
    ]
    assert all(is_equal(a, b) for other in plays[1:] for a, b in zip(plays[0], other, strict=True))
    assert env(world).metadata["is_parallelizable"] and not env(EXTRA_WORLDS["nim"]).metadata["is_parallelizable"]


def test_seeds() -> None:
    one, other = parallel_env("pendulum"), parallel_env("pendulum")
    for seed in (0, 5, 2**32 - 1, 2**40 + 1):
        assert all(map(is_equal, trajectory(one, seed, 9), trajectory(other, seed, 9)))
    begun = [made.reset()[0]["agent"].tobytes() for made in (parallel_env("pendulum") for _ in range(3))]
    assert len(set(begun)) == 3
    for wrong in (-1, 1.5, "1"):
        with pytest.raises(ValueError, match="seed="):
            one.reset(seed=wrong)


def test_spaces_have_generators_of_their_own() -> None:
    one, other = env(EXTRA_WORLDS["race"]), env(EXTRA_WORLDS["race"])
    spaces = [made.action_space(agent) for made in (one, other) for agent in made.possible_agents]
    for space in spaces:
        space.seed(1)
    assert len({float(space.sample()[0] / space.high[0]) for space in spaces}) == 1


def test_what_was_returned_is_the_callers() -> None:
    made, again = (parallel_env(EXTRA_WORLDS["nim"]) for _ in range(2))
    seen, infos = made.reset(seed=1)
    again.reset(seed=1)
    for agent in made.agents:
        seen[agent]["observation"][:], infos[agent]["action_mask"][:] = 9, 0
    step = dict.fromkeys(made.agents, 0)
    assert all(map(is_equal, made.step(step), again.step(step)))


# ---------------------------------------------------------------------------------------------- masks and mistakes


def test_spaces_and_masks_are_each_agents_own() -> None:
    masked = World(**NIM | {"action": (Discrete(2), Discrete(3)), "action_mask": None})
    made = env(masked)
    made.reset(seed=0)
    for agent, count in (("first", 2), ("second", 3)):
        space = made.observation_space(agent)
        assert space == Dict({"observation": Box(0, 20, (2,)), "action_mask": Box(0, 1, (count,), np.int8)})
        assert made.action_space(agent) == Discrete(count)
        mask = made.observe(agent)["action_mask"]
        assert mask.dtype == np.int8 and mask.tolist() == [int(agent == made.agent_selection)] * count
    race = parallel_env(EXTRA_WORLDS["race"])
    assert [race.observation_space(agent).shape for agent in race.possible_agents] == [(2,), (1,), (1,)]
    assert race.state_space.shape == (4,)
    assert [race.action_space(agent).high[0] for agent in race.possible_agents] == [1, 2, 2]


@pytest.mark.parametrize("make", [env, parallel_env])
def test_an_illegal_action_is_refused_a_loss_or_nothing(make: Callable[..., Any]) -> None:
    def act(made: Any, action: int) -> None:
        made.step(action if make is env else dict.fromkeys(made.agents, action))

    for illegal in ("refuse", "forfeit", "noop"):
        made = make(EXTRA_WORLDS["nim"], illegal=illegal, heap=2)
        made.reset(seed=0)
        mover = made.possible_agents[int(made.batch.states["to_move"][0])]
        if illegal == "refuse":
            for wrong, said in ((2, f"action 2 of {mover} .* is illegal; legal are"), (3, "outside")):
                with pytest.raises(ValueError, match=said):
                    act(made, wrong)
            assert made.batch.states["t"][0] == 0
        else:
            act(made, 2)
            assert bool(made.batch.terminated[0]) == (illegal == "forfeit")
            assert made.batch.rewards[0, made.possible_agents.index(mover)] == (-1 if illegal == "forfeit" else 0)
    with pytest.raises(ValueError, match="illegal='shrug'"):
        make(EXTRA_WORLDS["nim"], illegal="shrug")


def test_who_gives_a_wrong_action_is_told_at_once() -> None:
    made = env(EXTRA_WORLDS["race"])
    made.reset(seed=0)
    with pytest.raises(ValueError, match=r"action \[1.5\] of tortoise at step 0 is outside Box"):
        made.step(np.array([1.5]))
    assert made.agent_selection == "tortoise"
    for agent in made.possible_agents:
        assert made.agent_selection == agent
        made.step(np.array([0.5]))
    assert made.rewards == dict.fromkeys(made.possible_agents, -1.0)
    with pytest.raises(ValueError, match="the only valid action is None"):
        for _ in range(12):
            made.step(np.array([1.0]))  # after a while they have arrived, and act no more


WRONG = {
    "nim": [1.0, "1", None, [1], 2**70, np.float32(1)],
    "race": [0.5, [0.5, 0.5], None, np.array(["a"]), np.array([1j]), np.array([np.nan])],
}


@pytest.mark.parametrize("make", [env, parallel_env])
@pytest.mark.parametrize("name, wrong", [(name, wrong) for name in WRONG for wrong in WRONG[name]], ids=repr)
def test_what_is_no_action_is_refused_and_nothing_moves(make: Callable[..., Any], name: str, wrong: Any) -> None:
    made = make(EXTRA_WORLDS[name])
    made.reset(seed=0)
    before = made.batch.snapshot()
    with pytest.raises(ValueError, match="action"):
        made.step(wrong if make is env else dict.fromkeys(made.agents, wrong))
    assert is_equal(made.batch.snapshot(), before)
    good = 0 if name == "nim" else np.array([1.0])
    made.step(
        np.int32(0) if make is env and name == "nim" else good if make is env else dict.fromkeys(made.agents, good)
    )


def test_mistakes_have_messages() -> None:
    for make in (env, parallel_env):
        with pytest.raises(ValueError, match="did you mean 'catch'"):
            make("cach")
        with pytest.raises(ValueError, match="did you mean 'speed'"):
            make("catch", sped=2)
    made = parallel_env(EXTRA_WORLDS["race"])
    with pytest.raises(ResetNeeded):
        made.step({})
    with pytest.raises(ResetNeeded):
        env("catch").step(0)
    made.reset()
    with pytest.raises(ValueError, match="no action for hare_0"):
        made.step({"tortoise": np.zeros(1)})


# ------------------------------------------------------------------------------------------------- copies, registry


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))], ids=["copy", "pickle"]
)
def test_a_copy_goes_on_in_the_same_episode(again: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_registry, "load", lambda name: EXTRA_WORLDS[name])  # pickled by name
    for name in EXTRA_WORLDS:
        for make, steps in ((env, 4), (env, 5), (parallel_env, 2)):
            made = make(name)
            made.reset(seed=4)
            rng = np.random.default_rng(0)

            def play(made: Any, steps: int, rng: np.random.Generator) -> list[Any]:
                seen = []
                for _ in range(steps):
                    action: Any = 0 if made.batch.world.has_action_mask else rng.random(1)
                    if isinstance(made, LabAECEnv):
                        out = made.terminations[made.agent_selection]
                        made.step(None if out else action)
                        seen.append({"next": made.agent_selection, "seen": made.last()[0], "paid": made.last()[1]})
                    else:
                        seen += made.step(dict.fromkeys(made.agents, action))
                return seen

            play(made, steps, rng)
            other, state = again(made), rng.bit_generator.state
            assert other.batch.states.ctypes.data != made.batch.states.ctypes.data
            first = play(made, 3, rng)
            rng.bit_generator.state = state
            assert all(map(is_equal, first, play(other, 3, rng)))


def test_pettingzoo_makes_it() -> None:
    for name in world_registry.names():
        assert f"rl_lab/{name}-v0" in pettingzoo.aec_registry and f"rl_lab/{name}-v0" in pettingzoo.parallel_registry
    one = pettingzoo.make("aec", "rl_lab/catch-v0", max_cycles=4, speed=2)
    assert isinstance(one, LabAECEnv) and one.batch.world.horizon == 4 and one.batch.params["speed"] == 2
    assert isinstance(pettingzoo.make("parallel", "rl_lab/catch-v0"), LabParallelEnv)
    assert (
        str(raw_env("catch")) == "catch_v0"
        and one.metadata["render_fps"] == world_registry.load("catch").frames_per_second
    )
    assert one.unwrapped is one and one.max_num_agents == 1


# --------------------------------------------------------------------------------------------------------- speed


def aec_rate(made: Any, steps: int) -> float:
    made.reset(seed=0)
    began, taken = time.perf_counter(), 0
    while taken < steps:
        seen, _, terminated, truncated, _ = made.last()
        if terminated or truncated:
            made.reset()
            continue
        mask, action = seen["action_mask"].tolist(), taken % len(seen["action_mask"])
        while not mask[action]:
            action = (action + 1) % len(mask)
        made.step(action)
        taken += 1
    return steps / (time.perf_counter() - began)


def parallel_rate(made: Any, steps: int) -> float:
    made.reset(seed=0)
    began = time.perf_counter()
    for k in range(steps):
        if not made.agents:
            made.reset()
        made.step(dict.fromkeys(made.agents, k % 5))
    return len(made.possible_agents) * steps / (time.perf_counter() - began)


PEERS = [  # world, PettingZoo's or MPE2's original, how fast it is played
    ("tic_tac_toe", "classic/tictactoe_v3", aec_rate),
    ("connect_four", "classic/connect_four_v3", aec_rate),
    ("simple_tag", "simple_tag_v3", parallel_rate),
]


@pytest.mark.slow
@pytest.mark.parametrize("name, original, rate", PEERS, ids=[name for name, *_ in PEERS])
def test_agent_steps_are_three_times_as_many_as_the_originals(
    name: str, original: str, rate: Callable[[Any, int], float]
) -> None:
    """In turns, since other work slows both; the middle ratio of seven."""
    if name not in world_registry.names():
        pytest.skip("there is no such world yet")
    if rate is aec_rate:
        ours, theirs = env(name), pettingzoo.make("aec", original)
    else:
        import importlib

        ours, theirs = parallel_env(name), importlib.import_module(f"mpe2.{original}").parallel_env()
    rate(ours, 100)
    ratios = [rate(ours, 2000) / rate(theirs, 400) for _ in range(7)]
    assert np.median(ratios) >= 3, ratios
