"""Tests of `rl-lab check`: every world passes it, and each property fails for a world or environment that breaks it.

Most of the broken worlds are Nim or a race (`tests/support`) with one kernel replaced.
"""

from __future__ import annotations

import itertools
import json
import random
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pettingzoo
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from support import programs
from support.nim import NIM, Nim, NimParams, nim_step
from support.race import RACE, Race, RaceParams, race_step

from rl_lab.adapters.pettingzoo import LabAECEnv, LabParallelEnv
from rl_lab.checks import suite
from rl_lab.checks.subject import QUICK, CheckBudget
from rl_lab.checks.suite import check_world, properties, with_few_agents
from rl_lab.checks.third_party import PROPERTIES, check_env
from rl_lab.checks.world import digests, importable
from rl_lab.cli import main
from rl_lab.core.rng import integers
from rl_lab.core.world import Array, Record, World, WorldState, bounded, f4, i4, kernel, u1
from rl_lab.engine import world_registry


@pytest.mark.parametrize("name", world_registry.names())
def test_every_world_passes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl_lab.checks.world.subprocess", programs)  # another process, with that other hash seed
    world = with_few_agents(world_registry.load(name))
    # Another process cannot import a world that was made for this test.
    without = () if importable(world) else ("the same in another process",)
    results = list(check_world(world, QUICK, without=without))
    assert [result for result in results if result.status == "fail"] == []
    assert len(results) == len(properties()) - len(without)
    passed = {result.name for result in results if result.status == "pass"}
    always = "compiled code equals plain Python", "same seed, same episodes", "the same in every slot of a batch"
    always += "the same however a batch is split", "the same on two threads", "states can be saved and branched"
    assert passed >= {suite.INDICES, *always}
    assert ("masks tell the truth" in passed) == world.has_action_mask
    assert ("seats can be swapped" in passed) == (world.rotate_seats is not None)
    assert ("rewards sum to zero" in passed) == world.zero_sum


# ------------------------------------------------------------------------- worlds that break one property each


def failing(world: World, budget: CheckBudget = QUICK) -> dict[str, tuple[str, ...]]:
    """Return the findings of properties that fail in plain Python, so that no broken world is compiled."""
    return {r.name: r.findings for r in check_world(world, budget, plain=True) if r.status == "fail"}


def all_but(name: str) -> list[str]:
    return [each for each in properties() if each != name]


def nim(**changes: Any) -> World:
    return World(**NIM | changes)


def race(**changes: Any) -> World:
    return World(**RACE | changes)


def line_of(function: Any, text: str) -> str:
    """Return "file:line" of the first line of a kernel that contains this text."""
    import inspect

    lines, first = inspect.getsourcelines(function)
    return f"{inspect.getsourcefile(function)}:{first + next(k for k, line in enumerate(lines) if text in line)}"


def test_the_worlds_that_are_broken_here_are_good() -> None:
    assert failing(nim()) == failing(race()) == {}


@kernel
def observe_behind_the_end(s: Nim, agent: int, p: NimParams, out: Array) -> None:
    out[0] = 1.0
    out[s.heap] = 1.0


@kernel
def observe_from_the_end(s: Nim, agent: int, p: NimParams, out: Array) -> None:
    out[agent - 1] = 1.0


@kernel
def legal_behind_the_end(s: Nim, agent: int, p: NimParams, mask: Array) -> None:
    for k in range(4):
        mask[k] = 1


@kernel
def expert_beside_the_board(s: Race, agent: int, p: RaceParams, action: Array) -> None:
    action[0] = s.x[agent - 1]


@kernel
def step_with_a_wrong_reward(s: Nim, action: int, p: NimParams, rewards: Array) -> bool:
    s.heap -= i4(action + 1)
    s.to_move = 1 - s.to_move
    rewards[s.to_move + s.heap // 3] = 0.0
    return s.heap == 0


INDICES: list[tuple[World, Any, str, str]] = [
    (nim(observe=observe_behind_the_end), observe_behind_the_end, "out[s.heap]", "index 7 is not in 0 to 1"),
    (nim(observe=observe_from_the_end), observe_from_the_end, "out[agent", r"index -1 is not in 0 to 1.*from the end"),
    (nim(action_mask=legal_behind_the_end), legal_behind_the_end, "mask[k]", "index 3 is not in 0 to 2"),
    (race(expert=expert_beside_the_board), expert_beside_the_board, "s.x[", "index -1 is not in 0 to 2"),
    (nim(step=step_with_a_wrong_reward), step_with_a_wrong_reward, "rewards[", "index 2 is not in 0 to 1"),
]


@pytest.mark.parametrize("world, function, text, message", INDICES, ids=[f.__name__ for _, f, _, _ in INDICES])
def test_an_index_out_of_range_is_caught_with_its_line(world: World, function: Any, text: str, message: str) -> None:
    (result,) = (r for r in check_world(world, QUICK) if r.status == "fail")
    assert result.name == suite.INDICES
    (finding,) = result.findings
    assert finding.startswith(f"{line_of(function, text)} {function.__name__}: index")
    import re

    assert re.search(message, finding) and "check the index" in finding
    skipped = [r for r in check_world(world, QUICK) if r.status == "skip"]
    assert len(skipped) == len(properties()) - 2, "compiled code ran that leaves its arrays"


class SmallState(WorldState):
    to_move: i4 = bounded(0, low=0, high=1)
    count: u1


@kernel
def small_reset(s: SmallState, p: NimParams) -> None:
    pass


@kernel
def overflowing_step(s: SmallState, action: int, p: NimParams, rewards: Array) -> bool:
    s.count += 100 * action
    return False


@kernel
def dividing_step(s: SmallState, action: int, p: NimParams, rewards: Array) -> bool:
    s.count = 1 // action
    return False


@kernel
def small_observe(s: SmallState, agent: int, p: NimParams, out: Array) -> None:
    out[0] = s.count / 1000


@pytest.mark.parametrize(
    "step, text, message",
    [(overflowing_step, "100 * action", "use a wider field type"), (dividing_step, "1 // action", "exclude 0 first")],
)
def test_what_plain_python_cannot_do_is_named(step: Any, text: str, message: str) -> None:
    world = nim(State=SmallState, reset=small_reset, step=step, observe=small_observe, action_mask=None, expert=None)
    (finding,) = failing(world)[suite.INDICES]
    assert finding.startswith(line_of(step, text)) and message in finding


@kernel
def leaving_the_range(s: Nim, action: int, p: NimParams, rewards: Array) -> bool:
    s.heap -= 3
    s.to_move = 1 - s.to_move
    return s.heap < -3


@kernel
def any_legal(s: Nim, agent: int, p: NimParams, mask: Array) -> None:
    for k in range(3):
        mask[k] = 1


@kernel
def always_seven(s: Nim, agent: int, p: NimParams, out: Array) -> None:
    out[0], out[1] = 7.0, 1.0 if s.to_move == agent else 0.0


def test_a_state_out_of_its_range_is_caught() -> None:
    findings = failing(nim(step=leaving_the_range, action_mask=any_legal, expert=None, observe=always_seven))
    assert "State.heap=-2: expected 0 to 20" in findings["states can be saved and branched"][0]


class Halving(WorldState):
    x: f4


class HalvingParams(Record):
    pass


@kernel
def halving_reset(s: Halving, p: HalvingParams) -> None:
    s.x = 1.0


@kernel
def halving_step(s: Halving, action: int, p: HalvingParams) -> tuple[float, bool]:
    factor = s.x if action else 0.3  # f4 on one branch, a float on the other: compiled, both are double
    s.x = factor * f4(0.7) * f4(0.7)
    return 0.0, False


@kernel
def halving_observe(s: Halving, p: HalvingParams, out: Array) -> None:
    out[0] = s.x


HALVING = World(
    Halving,
    HalvingParams,
    halving_reset,
    halving_step,
    halving_observe,
    observation=Box(-1, 1, (1,)),
    action=Discrete(2),
    horizon=50,
)


def test_compiled_code_that_rounds_differently_is_caught() -> None:
    (result,) = check_world(HALVING, QUICK, without=all_but("compiled code equals plain Python"))
    (finding,) = result.findings
    assert "State.x is" in finding and "give both the same type" in finding


@kernel
def no_kernel_for_numba(s: Halving, action: int, p: HalvingParams) -> tuple[float, bool]:
    s.x = f4(len(f"{action:03d}"))
    return 0.0, False


def test_what_does_not_compile_is_named_with_its_line() -> None:
    world = replace(HALVING, step=no_kernel_for_numba)
    (result,) = check_world(world, QUICK, without=all_but("compiled code equals plain Python"))
    (finding,) = result.findings
    assert finding.startswith(f"{line_of(no_kernel_for_numba, '03d')} no_kernel_for_numba: an f-string"), finding
    assert "\n" not in finding and "CONTRIBUTING.md" in finding


CALLS = itertools.count()


@kernel
def counting_reset(s: Halving, p: HalvingParams) -> None:
    s.x = f4((next(CALLS) % 97) / 100)


@kernel
def rolling_reset(s: Halving, p: HalvingParams) -> None:
    s.x = f4(random.random())


@pytest.mark.parametrize("reset", [counting_reset, rolling_reset])
def test_chance_from_elsewhere_is_caught(reset: Any) -> None:
    findings = failing(replace(HALVING, reset=reset))
    assert {"same seed, same episodes", "the same in every slot of a batch"} <= set(findings)
    assert (
        "the same however a batch is split" in findings
        and "the second time: world 0" in findings["same seed, same episodes"][0]
    )


def test_another_process_that_plays_otherwise_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path(__file__).read_text()
    source = text[text.index("class Halving(") : text.index("def test_compiled_code_that")]
    head = "import os\nfrom rl_lab.core.world import *\nfrom rl_lab.core.world import f4\n"
    head += "PROCESS = f4(os.getpid() % 1000 / 2000)\n"
    (tmp_path / "halving_elsewhere.py").write_text(head + source.replace("s.x = 1.0", "s.x = PROCESS"))
    monkeypatch.syspath_prepend(tmp_path)
    import halving_elsewhere

    findings = failing(halving_elsewhere.HALVING)
    assert set(findings) == {"the same in another process"}
    (skipped,) = (
        r for r in check_world(replace(HALVING), QUICK, plain=True) if r.name == "the same in another process"
    )
    assert skipped.status == "skip" and "not a variable" in skipped.findings[0]


@kernel
def one_stream_for_all(s: Halving, p: HalvingParams) -> None:
    s.rng_key = 1
    s.x = f4(integers(s, 100)) / f4(100)


@kernel
def back_to_the_start(s: Halving, p: HalvingParams) -> None:
    s.x = f4(integers(s, 100)) / f4(100)
    s.rng_counter = 5


@kernel
def drawing_for_nothing(s: Halving, p: HalvingParams) -> None:
    s.x = 1.0
    integers(s, 100)


@pytest.mark.parametrize(
    "reset, message",
    [
        (one_stream_for_all, "reset changes State.rng_key"),
        (back_to_the_start, "set State.rng_counter back"),
        (drawing_for_nothing, "four seeds show the same"),
    ],
)
def test_a_seed_without_effect_is_caught(reset: Any, message: str) -> None:
    assert message in failing(replace(HALVING, reset=reset))["another seed, another episode"][0]


@kernel
def observing_moves(s: Halving, p: HalvingParams, out: Array) -> None:
    s.x *= f4(0.5)
    out[0] = s.x


@kernel
def observing_adds_up(s: Halving, p: HalvingParams, out: Array) -> None:
    out[0] = f4(next(CALLS) % 2)


@kernel
def observing_keeps_zero(s: Halving, p: HalvingParams, out: Array) -> None:
    s.x = f4(0.0)  # the second time, this changes nothing
    out[0] = s.x


def test_an_observation_that_writes_the_same_each_time_is_caught() -> None:
    findings = failing(replace(HALVING, observe=observing_keeps_zero))
    assert "changes the state" in findings["observing changes nothing"][0]


def test_an_observation_with_consequences_is_caught() -> None:
    name = "observing changes nothing"
    assert "changes the state" in failing(replace(HALVING, observe=observing_moves))[name][0]
    assert "shows something else" in failing(replace(HALVING, observe=observing_adds_up))[name][0]


@kernel
def observe_too_much(s: Race, agent: int, p: RaceParams, out: Array) -> None:
    out[0] = -s.x[agent]
    out[1] = p.length


def test_observations_out_of_their_space_are_caught() -> None:
    findings = failing(race(observe=observe_too_much))["observations lie in their spaces"]
    assert any("hare_0: observe writes behind its own 1 numbers" in finding for finding in findings)
    assert any("tortoise: out[0] = -" in finding and "its space's low is 0" in finding for finding in findings)


@kernel
def nothing_is_legal(s: Nim, agent: int, p: NimParams, mask: Array) -> None:
    for k in range(3):
        mask[k] = 1 if k + 1 < s.heap else 0


@kernel
def mask_of_twos(s: Nim, agent: int, p: NimParams, mask: Array) -> None:
    mask[0] = 2


@kernel
def for_the_other(s: Nim, agent: int, p: NimParams, mask: Array) -> None:
    mask[0], mask[2] = 1, 1


@kernel
def step_that_ignores_actions(s: Nim, action: int, p: NimParams, rewards: Array) -> bool:
    return False if action + 1 > s.heap else nim_step(s, action, p, rewards)


MASKS: list[tuple[World, str]] = [
    (nim(action_mask=nothing_is_legal), "has to act at step"),
    (nim(action_mask=mask_of_twos), "action_mask writes 2"),
    (
        nim(action_mask=for_the_other, action=(Discrete(2), Discrete(3))),
        "first: action_mask marks action 2, but there are 2",
    ),
    (nim(action_mask=any_legal, step=step_that_ignores_actions), "legal, but nothing changes"),
]


@pytest.mark.parametrize("world, message", MASKS, ids=[message for _, message in MASKS])
def test_a_mask_that_lies_is_caught(world: World, message: str) -> None:
    findings = failing(without_expert(world))["masks tell the truth"]
    assert any(message in finding for finding in findings), findings


def without_expert(world: World) -> World:
    """The world without its expert, which would play what the broken mask calls illegal."""
    return replace(world, expert=None)


@kernel
def coming_back(s: Race, actions: Array, p: RaceParams, rewards: Array) -> bool:
    race_step(s, actions, p, rewards)
    if s.t == 6:
        s.running[2] = 1
        s.x[2] = 0.0
    return False


def test_an_agent_that_comes_back_is_caught() -> None:
    (finding,) = failing(race(step=coming_back))["agents that left stay away"]
    assert "hare_1 left and is back" in finding


@kernel
def both_win(s: Nim, action: int, p: NimParams, rewards: Array) -> bool:
    over = nim_step(s, action, p, rewards)
    if over:
        rewards[0] = 1.0
    return over


def test_rewards_that_do_not_sum_to_zero_are_caught() -> None:
    (finding,) = failing(nim(step=both_win))["rewards sum to zero"]
    assert "sum to 2; zero_sum promises 0" in finding


@kernel
def change_seats(s: Nim, p: NimParams) -> None:
    s.to_move = 1 - s.to_move


@kernel
def change_half(s: Nim, p: NimParams) -> None:
    s.to_move = 0


@kernel
def first_pays(s: Nim, action: int, p: NimParams, rewards: Array) -> bool:
    rewards[0] = -1.0
    return nim_step(s, action, p, rewards)


@kernel
def change_the_heap(s: Nim, p: NimParams) -> None:
    s.to_move = 1 - s.to_move
    s.heap = max(s.heap - 1, 1)


def test_seats_that_differ_are_caught() -> None:
    name = "seats can be swapped"
    assert name not in failing(nim(rotate_seats=change_seats))
    findings = failing(nim(rotate_seats=change_half))[name][0]
    assert (
        "after rotate_seats at step" in findings or "do not give the state back" in findings
    )  # whichever agent begins
    assert "do not give the state back" in failing(nim(rotate_seats=change_the_heap, observe=always_seven))[name][0]
    (finding,) = failing(nim(rotate_seats=change_seats, step=first_pays))[name]
    assert (
        "second does not get the rewards of first" in finding or "first does not get the rewards of second" in finding
    )


def without_rewards(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return the `step` of an AEC or a Parallel environment with rewards of 0."""

    def changed(self: Any, action: Any) -> Any:
        result = step(self, action)
        if result is None:
            self.rewards = dict.fromkeys(self.rewards, 0.0)
            return None
        observations, rewards, *rest = result
        return observations, dict.fromkeys(rewards, 0.0), *rest

    return changed


@pytest.mark.parametrize("face, what", [(LabAECEnv, "AEC"), (LabParallelEnv, "Parallel")])
def test_an_interface_that_plays_otherwise_is_caught(face: Any, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "all interfaces agree"
    without = all_but(name)
    (result,) = check_world(nim(), QUICK, without=without)
    assert result.status == "pass"
    monkeypatch.setattr(face, "step", without_rewards(face.step))
    (result,) = check_world(nim(), QUICK, without=without)
    assert result.status == "fail" and f"through {what}" in result.findings[0]


def test_what_is_played_does_not_depend_on_the_batch_it_is_in() -> None:
    subject = suite.WorldUnderTest(world_registry.load("catch"), QUICK)
    assert digests(subject, 3) == digests(subject, 2) + digests(subject, 1, first=2)
    assert len(set(digests(subject, 3))) == 3


# ------------------------------------------------------------------------------------------- environments of one's own


class CorrectEnv(gymnasium.Env[Any, Any]):
    """A walk with a mask: never beyond 3."""

    observation_space = Dict({"observation": Box(0, 3, (1,), np.float32), "action_mask": Box(0, 1, (2,), np.int8)})
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.t = int(self.np_random.integers(4)), 0
        return self.see(), {}

    def see(self) -> Any:
        return {"observation": np.array([self.x], np.float32), "action_mask": self.mask()}

    def mask(self) -> Array:
        return np.array([self.x > 0, self.x < 3], np.int8)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        if not self.mask()[action]:
            return self.see(), 0.0, False, self.t == 12, {}
        self.x += 2 * int(action) - 1
        return self.see(), float(self.np_random.random()), self.t == 12, False, {}


class UnseededRewards(CorrectEnv):
    def step(self, action: Any) -> Any:
        observations, _, *rest = super().step(action)
        return observations, random.random(), *rest


class IgnoresSeed(CorrectEnv):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=None if seed is None else 3, options=options)


class OutsideItsSpace(CorrectEnv):
    def see(self) -> Any:
        return {"observation": np.array([self.x + 0.5], np.float32), "action_mask": self.mask()}


class TakesIllegalActions(CorrectEnv):
    def step(self, action: Any) -> Any:
        self.x = self.x if self.mask()[action] else 2 - int(action)
        return super().step(action)


class RaisesForIllegalActions(CorrectEnv):
    def mask(self) -> Array:
        return np.array([1, 1], np.int8)

    def step(self, action: Any) -> Any:
        if not 0 <= self.x + 2 * int(action) - 1 <= 3:
            raise ValueError("off the end")
        return super().step(action)


class WrongMask(CorrectEnv):
    def step(self, action: Any) -> Any:
        return *super().step(action)[:4], None


ENVIRONMENTS: list[tuple[type[CorrectEnv], str, str]] = [
    (UnseededRewards, "same seed, same episodes", "differs in outcome; draw only from a generator that reset"),
    (IgnoresSeed, "another seed, another episode", "reset must make its generator from the seed"),
    (
        OutsideItsSpace,
        "observations lie in their spaces",
        r"agent at step .*'observation'.* 3.5 at [0] is outside 0 to 3",
    ),
    (TakesIllegalActions, "masks tell the truth", "the mask says illegal, but it was taken"),
    (RaisesForIllegalActions, "masks tell the truth", "the masks say legal, but it raised ValueError: off the end"),
    (WrongMask, "its framework's own checker passes", "info"),
]


@pytest.fixture(autouse=True)
def from_the_same_random_numbers() -> None:
    """Some environments here draw from `random` and from their spaces on purpose."""
    random.seed(0)
    CorrectEnv.action_space.seed(0)


def test_a_good_environment_passes() -> None:
    assert [r.status for r in check_env(CorrectEnv, QUICK)] == ["pass"] * (1 + len(PROPERTIES))


@pytest.mark.parametrize("env_class, name, message", ENVIRONMENTS, ids=[each.__name__ for each, *_ in ENVIRONMENTS])
def test_an_environment_that_breaks_a_property_is_caught(env_class: type[CorrectEnv], name: str, message: str) -> None:
    budget = replace(QUICK, states=30)  # every one of an episode
    findings = {r.name: r.findings for r in check_env(env_class, budget) if r.status == "fail"}
    assert name in findings
    begin, end = message.partition(".*")[0], message.rpartition(".*")[2]
    assert any(begin in finding and end in finding for finding in findings[name]), findings


class Tag(pettingzoo.ParallelEnv):  # type: ignore[misc]
    """An environment of two agents, which observe random numbers."""

    metadata = {"name": "tag_v0"}
    possible_agents = ["it_0", "you_0"]
    broken = ""  # which mistake it has: "", "seed" or "space"

    def __init__(self) -> None:
        self.spaces = {agent: (Box(0, 1, (2,), np.float32), Discrete(2)) for agent in self.possible_agents}

    def observation_space(self, agent: str) -> Any:
        return self.spaces[agent][0]

    def action_space(self, agent: str) -> Any:
        return self.spaces[agent][1]

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.rng = random if self.broken == "seed" else random.Random(seed)
        self.t, self.agents = 0, self.possible_agents[:]
        return self.see(), {agent: {} for agent in self.agents}

    def see(self) -> Any:
        scale = 3 if self.broken == "space" else 1
        return {a: np.array([scale * self.rng.random() for _ in range(2)], np.float32) for a in self.agents}

    def step(self, actions: Any) -> Any:
        self.t += 1
        observations, agents = self.see(), self.agents
        self.agents = [] if self.t == 9 else agents
        flags = dict.fromkeys(agents, self.t == 9)
        return observations, dict.fromkeys(agents, 0.0), flags, dict.fromkeys(agents, False), {a: {} for a in agents}


def broken_tag(what: str) -> Callable[[], Tag]:
    return type("Broken", (Tag,), {"broken": what})


def test_environments_of_several_agents_are_checked_too() -> None:
    import mpe2.simple_push_v3
    from pettingzoo.classic.connect_four import connect_four

    for make in (Tag, mpe2.simple_push_v3.env, connect_four.env):
        results = list(check_env(make, QUICK))
        assert [r for r in results if r.status == "fail"] == []
    assert next(r for r in results if r.name == "masks tell the truth").status == "pass"
    for what, name in (("seed", "same seed, same episodes"), ("space", "observations lie in their spaces")):
        assert name in {r.name for r in check_env(broken_tag(what), QUICK) if r.status == "fail"}


# -------------------------------------------------------------------------------------------------------- the command


def run_command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["check", *words])
    return status, *capsys.readouterr()


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, _ = run_command(capsys, "catch", "--quick")
    lines = out.splitlines()
    assert status == 0 and len(lines) == len(properties()) + 3 and lines[0] == "pass  it loads"
    assert "pass  the same in another process" in lines and lines[-1] == "catch: 15 passed, 0 failed"
    assert "skip  masks tell the truth  (every action is legal)" in lines
    status, out, _ = run_command(capsys, "gymnasium.envs.classic_control:CartPoleEnv", "--quick", "--json")
    output = json.loads(out)
    assert status == 0 and output["ok"] and [p["name"] for p in output["properties"]][2:] == list(PROPERTIES)
    source = textwrap.dedent(
        Path(__file__).read_text().partition("class CorrectEnv(")[2].partition("class UnseededRewards")[0]
    )
    imports = (
        "import gymnasium, numpy as np\nfrom gymnasium.spaces import *\nfrom typing import Any\nArray = np.ndarray\n"
    )
    source = f"{imports}print('hello')\nclass OutsideItsSpace({source}".replace(
        "+= 2 * int(action)", "+= 3 * int(action)"
    )
    (tmp_path / "walks.py").write_text(source)
    for target in ("walks:OutsideItsSpace", "walks.py:OutsideItsSpace"):
        status, out, _ = run_command(capsys, target, "--quick", "--json")
        output = json.loads(out)  # what the file prints is not in it
        assert status == 1 and not output["ok"]
        failed = {p["name"]: p["findings"] for p in output["properties"] if p["status"] == "fail"}
        assert "observations lie in their spaces" in failed
    status, out, _ = run_command(capsys, "walks.py:OutsideItsSpace", "--quick")
    assert (
        status == 1 and "\nFAIL" not in out and "\nfail  observations lie in their spaces\n      agent at step" in out
    )


MISTAKE_FILES = {
    "cach": "no world 'cach'; did you mean 'catch'?",
    "nowhere.at.all:Env": "cannot import nowhere.at.all",
    "nowhere.py:Env": "no file nowhere.py",
    "gym:CartPol-v1": "did you mean 'gym:CartPole-v1'?",
    "gymnasium.envs.classic_control:CartPolEnv": "did you mean 'CartPoleEnv'?",
    "os:path": "is not a class or function that makes an environment",
    "os:getcwd": "str is not a gymnasium.Env",
}


@pytest.mark.parametrize("target", MISTAKE_FILES)
def test_a_wrong_target_is_one_line(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run_command(capsys, target)
    assert status == 2 and MISTAKE_FILES[target] in err and err.count("\n") == 1


def test_a_world_with_a_mistake_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Path(str(world_registry.load("catch").step.__code__.co_filename)).read_text()
    cases = {
        "unmarked.py": (
            good.replace("@kernel\ndef step", "def step"),
            "step must be a function decorated with @kernel",
        ),
        "misspelt.py": (good.replace("Record):", "Recrd):"), "NameError: name 'Recrd' is not defined"),
        "unclosed.py": (good.replace("def step(", "def step(("), "SyntaxError"),
    }
    for file, (text, message) in cases.items():
        (tmp_path / file).write_text(text)
        monkeypatch.chdir(tmp_path)
        status, out, err = run_command(capsys, f"{file}:world")
        first, finding, *_ = out.splitlines()
        assert (status, first) == (1, "fail  it loads") and message in finding and file in finding and err == ""


@pytest.mark.parametrize("target", ["gym:CartPole-v1", "pettingzoo:mpe/simple_v3"])
def test_registered_environments_are_checked_by_their_ids(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--quick", target, "--json"]) == 0
    findings = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [each["name"] for each in findings["properties"] if each["status"] == "fail"] == []
    assert findings["properties"][0] == {"name": "it loads", "status": "pass", "findings": []}
