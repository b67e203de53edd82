"""These tests check how a batch treats foreign environments that fail or return invalid values.

Each fault must become an error of one line with the environment's file and line. `Faulty` and `Pair` are environments
whose faults are chosen by their arguments.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pettingzoo
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rl_lab.adapters import foreign_data, make
from rl_lab.adapters.foreign_errors import ForeignError, InvalidDataError
from rl_lab.cli import main
from rl_lab.core.errors import UsageError
from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.world import Array
from rl_lab.engine.batch import NonFiniteError
from rl_lab.evaluation.evaluate import evaluate

FILE = __file__
SPACE = Box(-1, 1, (4,), np.float32)


class AlwaysOne:
    """Takes action 1 everywhere."""

    name = "yes"

    def bind(self, envs: BatchedEnv) -> None:
        self.shape = envs.actions.shape[2:]

    def act(self, observations: Array, **asked: Any) -> tuple[Array, Any]:
        return np.ones((len(observations), *self.shape), np.int64), None


class Faulty(gym.Env[Any, Any]):
    """Pays `pays` for each of ten steps; the call named `where` goes wrong in its `when`-th step as `how` says."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}
    action_space = Discrete(2)

    def __init__(
        self,
        where: str = "",
        how: Any = None,
        when: int = 2,
        space: Any = SPACE,
        pays: Any = 1.0,
        render_mode: Any = None,
    ) -> None:
        self.where, self.how, self.when, self.pays, self.render_mode = where, how, when, pays, render_mode
        self.observation_space, self.t = space, 0
        self.result_of("constructor", None)

    def result_of(self, where: str, normal_result: Any) -> Any:
        if self.where != where or self.t != self.when:
            return normal_result
        if callable(self.how):
            return self.how()
        return self.how

    def make_observation(self) -> Any:
        return self.result_of(
            "observation", np.zeros(SPACE.shape, np.float32) if self.observation_space == SPACE else 0
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self.result_of("reset", (self.make_observation(), {}))

    def step(self, action: Any) -> Any:
        self.t += 1
        reward = self.result_of("reward", self.pays)
        result = (self.make_observation(), reward, self.result_of("terminated", self.t >= 10), False, {})
        return self.result_of("step", result)

    def render(self) -> Any:
        return self.result_of("render", np.zeros((4, 4, 3), np.uint8))

    def close(self) -> None:
        if self.where == "close":
            self.how()


class InPlace(gym.Env[Any, Any]):
    """Returns one array that it changes in place; episodes of three steps count 1, 2, 3."""

    observation_space, action_space = Box(-9, 9, (1,), np.float32), Discrete(2)

    def __init__(self) -> None:
        self.count = np.zeros(1, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.count[:] = 0
        return self.count, {}

    def step(self, action: Any) -> Any:
        self.count += 1
        return self.count, 1.0, self.count[0] == 3, False, {}


class Pair(pettingzoo.ParallelEnv):  # type: ignore[misc]
    """Two agents and three steps; `wrong` is done to what the second step returns."""

    metadata = {"name": "pair", "render_modes": []}
    possible_agents = ["a", "b"]

    def __init__(
        self, wrong: Any = None, pays: float = 1.0, how: Any = None, agents: Any = None, render_mode: Any = None
    ) -> None:
        self.wrong, self.pays, self.how, self.render_mode = wrong, pays, how, render_mode
        self.agents_left = agents  # what the second step leaves in `agents`, None for those that have not ended

    def observation_space(self, agent: str) -> Any:
        return Box(0, 9, (2 if agent == "a" else 3,), np.float32)

    def action_space(self, agent: str) -> Any:
        return Discrete(2)

    def make_observations(self) -> dict[str, Any]:
        return {agent: np.full(self.observation_space(agent).shape, self.t, np.float32) for agent in self.agents}

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.t, self.agents = 0, ["a", "b"]
        return self.make_observations(), {agent: {"action_mask": np.ones(2, np.int8)} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        self.t += 1
        ends = [{agent: self.t >= limit for agent in self.agents} for limit in (10, 99)]
        masks = {agent: {"action_mask": np.ones(2, np.int8)} for agent in self.agents}
        result = (self.make_observations(), dict.fromkeys(self.agents, self.pays), *ends, masks)
        if self.wrong is not None and self.t == 2:
            self.wrong(result)
        self.agents = [agent for agent in self.agents if not (ends[0].get(agent) is True or ends[1].get(agent) is True)]
        if self.agents_left is not None and self.t == 2:
            self.agents = self.agents_left
        return result

    def render(self) -> Any:
        return self.how


class Board(pettingzoo.AECEnv):  # type: ignore[misc]
    """Two agents in turns, observed into one array: 1 for a, 2 for b."""

    metadata = {"name": "board"}
    possible_agents = ["a", "b"]

    def __init__(self, wrong: Any = None, **arguments: Any) -> None:
        super().__init__()
        self.board, self.wrong = np.zeros(1, np.float32), wrong

    def observation_space(self, agent: str) -> Any:
        return Box(0, 9, (1,), np.float32)

    def action_space(self, agent: str) -> Any:
        return Discrete(2)

    def observe(self, agent: str) -> Any:
        self.board[:] = 1 + self.possible_agents.index(agent)
        return self.board

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.agents, self.agent_selection = ["a", "b"], "a"
        self.rewards, self._cumulative_rewards = ({"a": 0.0, "b": 0.0} for _ in range(2))
        self.terminations, self.truncations = ({"a": False, "b": False} for _ in range(2))
        self.infos: dict[str, Any] = {"a": {}, "b": {}}

    def step(self, action: Any) -> None:
        self.agent_selection = "b" if self.agent_selection == "a" else "a"
        if self.wrong is not None:
            self.wrong(self)


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    for kind in (Faulty, InPlace):
        threshold = 9.0 if kind is Faulty else None
        gym.register(f"Foreign{kind.__name__}-v0", kind, disable_env_checker=True, reward_threshold=threshold)
    gym.register("ForeignTenth-v0", lambda **k: Faulty(pays=0.1, **k), disable_env_checker=True, reward_threshold=1.0)
    gym.register("ForeignChecked-v0", Faulty, reward_threshold=9.0, max_episode_steps=20)
    pettingzoo.register("parallel", "labdata/pair_v0", Pair)
    pettingzoo.register("aec", "labdata/board_v0", Board)
    yield
    for name in ("Faulty", "InPlace", "Tenth", "Checked"):
        del gym.registry[f"Foreign{name}-v0"]
    del pettingzoo.parallel_registry["labdata/pair-v0"]
    del pettingzoo.aec_registry["labdata/board-v0"]


def play(name: str, mode: AutoresetMode = AutoresetMode.SAME_STEP, steps: int = 3, **params: Any) -> BatchedEnv:
    envs = make.make(name, 2, params, autoreset=mode)
    envs.reset()
    for _ in range(steps):
        envs.step()
    return envs


def line_of(function: Any) -> str:
    return f"{FILE}:{inspect.getsourcelines(function)[1]}"


# Returns are summed in double precision


@pytest.mark.parametrize("name, pays, expected", [("Faulty", 0.9, 9.0), ("Tenth", 0.1, 1.0)])
def test_a_perfect_agent_reaches_the_threshold(name: str, pays: float, expected: float) -> None:
    params = {"pays": pays} if name == "Faulty" else {}
    measured = evaluate(AlwaysOne(), f"gym:Foreign{name}-v0", params, episodes=3)
    assert [episode.return_ for episode in measured.episodes] == pytest.approx([expected] * 3, rel=1e-15)
    assert measured.summary["success_rate"] == 1.0


@settings(deadline=None, max_examples=20)  # each makes eight environments
@given(pays=st.floats(-1e6, 1e6))
def test_returns_are_sums_of_what_was_paid(pays: float) -> None:
    expected = 0.0
    for _ in range(10):
        expected += pays
    for name in ("gym:ForeignFaulty-v0", "pettingzoo:labdata/pair_v0"):
        for mode in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
            envs = play(name, mode, steps=10, pays=pays)
            assert envs.done.all() and (envs.episode_returns == expected).all()


def test_a_return_that_misses_its_threshold_by_more_than_rounding_is_no_success() -> None:
    measured = evaluate(AlwaysOne(), "gym:ForeignFaulty-v0", {"pays": 0.89999}, episodes=2)
    assert measured.summary["success_rate"] == 0.0


# What is returned is what the spaces say


WRONG_OBSERVATIONS = {
    "short": np.zeros(3, np.float32),
    "long": np.zeros(5, np.float32),
    "one": np.zeros(1, np.float32),
    "scalar": 0.5,
    "column": np.zeros((4, 1), np.float32),
    "nothing": None,
    "text": "0000",
    "ragged": [[0], [0, 1]],
    "complex": np.zeros(4, complex),
}


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
@pytest.mark.parametrize("when, call", [(0, "reset"), (2, "step")])
@pytest.mark.parametrize("kind", WRONG_OBSERVATIONS)
def test_a_wrong_observation_is_named(kind: str, when: int, call: str, mode: AutoresetMode) -> None:
    with pytest.raises(ForeignError) as caught:
        play("gym:ForeignFaulty-v0", mode, where="observation", how=WRONG_OBSERVATIONS[kind], when=when)
    said = str(caught.value)
    assert said.startswith(f"gym:ForeignFaulty-v0: {call} returned an observation of ") and "\n" not in said
    assert f"its space is {SPACE} ({line_of(getattr(Faulty, call))} {call})" in said
    if kind == "short":
        assert "shape (3,) float32" in said


@pytest.mark.parametrize("how", [5, -1, 1.5, None, np.zeros(2, int)], ids=str)
def test_a_wrong_number_of_a_discrete_space_is_named(how: Any) -> None:
    with pytest.raises(ForeignError, match=r"returned an observation of .*, but its space is Discrete\(5\)"):
        play("gym:ForeignFaulty-v0", where="observation", how=how, space=Discrete(5))


@settings(deadline=None)
@given(
    st.sampled_from([np.int8, np.uint8, np.int32, np.float32, np.float64, np.bool_]),
    arrays.arrays(
        st.sampled_from([np.int64, np.float64, np.uint8, np.bool_]), (2, 3), elements=st.just(1) | st.just(0)
    ),
    st.sampled_from([0, 200, 300, -5, 0.5]),
)
def test_an_observation_is_kept_exactly_or_refused(kind: Any, array: Array, extreme: float) -> None:
    space = Box(0, 1, (2, 3), kind)
    changed = array.copy()
    changed[0, 0] = extreme if array.dtype.kind == "f" or float(extreme).is_integer() and 0 <= extreme < 128 else 1
    try:
        make_observations = foreign_data.checked_observation(changed, space)
    except InvalidDataError:
        assert np.dtype(kind).kind in "biu"
        fractions = changed.dtype.kind == "f"
        assert fractions or not np.array_equal(changed.astype(kind), changed)
    else:
        assert np.array_equal(make_observations.astype(kind), changed)


@pytest.mark.parametrize("how", [None, "1", [1.0, 2.0], 1j, {}], ids=str)
def test_a_wrong_reward_is_named(how: Any) -> None:
    with pytest.raises(
        ForeignError, match=r"gym:ForeignFaulty-v0: step returned a reward of .*, expected a number \(/"
    ):
        play("gym:ForeignFaulty-v0", where="reward", how=how)


def test_a_wrong_flag_is_named() -> None:
    for how in (None, "no", 0.5, [True, False]):
        with pytest.raises(ForeignError, match="step returned terminated of .*, expected True or False"):
            play("gym:ForeignFaulty-v0", where="terminated", how=how)


@pytest.mark.parametrize(
    "where, how", [("step", (0, 0.0, False, {})), ("step", None), ("reset", np.zeros(4, np.float32))]
)
@pytest.mark.parametrize("name", ["gym:ForeignFaulty-v0", "gym:ForeignChecked-v0"])
def test_results_of_the_wrong_form_are_named(where: str, how: Any, name: str) -> None:
    with (
        pytest.raises(ForeignError, match=f"{name}: {where} (returned|raised) .*") as caught,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        play(name, where=where, how=how, when=0 if where == "reset" else 2)
    assert FILE in str(caught.value)


def test_what_is_outside_the_bounds_is_told_once() -> None:
    with pytest.warns(
        UserWarning, match=r"gym:ForeignFaulty-v0: .* 7 is outside its space Box\(-1.0, 1.0, \(4,\)"
    ) as told:
        play("gym:ForeignFaulty-v0", where="observation", how=np.full(4, 7, np.float32), when=0, steps=30)
    assert len(told) == 1


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_the_last_observation_is_copied_before_the_reset(mode: AutoresetMode) -> None:
    envs = play("gym:ForeignInPlace-v0", mode)
    last = envs.final_observations if mode == AutoresetMode.SAME_STEP else envs.observations
    assert envs.done.all() and (last == 3).all()


def test_agents_that_are_observed_into_one_array_see_their_own() -> None:
    envs = play("pettingzoo:labdata/board_v0", steps=1)
    assert envs.observations[:, :, 0].tolist() == [[1, 2], [1, 2]]


def _without(part: int, agent: str) -> Any:
    return lambda result: result[part].pop(agent)


def _with(part: int, agent: str, value: Any) -> Any:
    return lambda result: result[part].update({agent: value})


def _ended(result: Any) -> None:
    result[0].pop("b")
    result[3]["b"] = True


WRONG_OF_PAIRS = {
    "short": (_with(0, "b", np.zeros(2, np.float32)), r"an observation for agent b of shape \(2,\) float32, .* \(3,\)"),
    "long": (_with(0, "a", np.zeros(3, np.float32)), r"an observation for agent a of shape \(3,\) float32, .* \(2,\)"),
    "no reward": (_without(1, "b"), "no reward for agent b"),
    "reward of None": (_with(1, "b", None), "a reward for agent b of 'None'"),
    "no observation": (_without(0, "b"), "no observation for agent b, which acts next"),
    "no last observation": (_ended, "no observation for agent b, which it truncated"),
    "a stranger": (_with(0, "c", np.zeros(3)), "an observation for 'c', which is not in possible_agents"),
    "a paid stranger": (_with(1, "c", 1.0), "a reward for 'c', which is not in possible_agents"),
    "no termination": (_without(2, "b"), "no termination for agent b"),
    "no truncation": (_without(3, "b"), "no truncation for agent b"),
    "a flag of text": (_with(2, "b", "no"), "a termination for agent b of 'no' .*, expected True or False"),
    "a flag that is no number": (_with(3, "a", np.nan), "a truncation for agent a of nan .*, expected True or False"),
    "two flags": (_with(2, "a", np.zeros(2, bool)), r"a termination for agent a of shape \(2,\) bool"),
    "an info of None": (_with(4, "b", None), "an info for agent b of type NoneType, expected a dict"),
    "a short mask": (_with(4, "b", {"action_mask": np.ones(1)}), r"an action mask for agent b of shape \(1,\) float64"),
}


@pytest.mark.parametrize("kind", WRONG_OF_PAIRS)
def test_wrong_data_of_an_agent_is_named(kind: str) -> None:
    wrong, said = WRONG_OF_PAIRS[kind]
    with pytest.raises(ForeignError, match=f"pettingzoo:labdata/pair_v0: step returned {said}") as caught:
        play("pettingzoo:labdata/pair_v0", wrong=wrong)
    assert line_of(Pair.step) in str(caught.value)


AGENTS_LEFT = {
    "one without an end": (None, ["a"], "removed b from agents, although it neither terminated nor was truncated"),
    "all without an end": (None, [], "removed a from agents, although it neither"),
    "one that terminated": (_with(2, "b", True), ["a", "b"], "kept b in agents, although it terminated or"),
    "one that was truncated": (_with(3, "a", True), ["a", "b"], "kept a in agents, although it terminated or"),
    "a stranger": (None, ["a", "b", "c"], "left 'c' in agents, which is not in possible_agents"),
    "no list": (None, "ab", "left agents of type str, expected a list"),
}


@pytest.mark.parametrize("kind", AGENTS_LEFT)
def test_agents_that_contradict_the_flags_are_named(kind: str) -> None:
    wrong, agents, said = AGENTS_LEFT[kind]
    with pytest.raises(ForeignError, match=f"pettingzoo:labdata/pair_v0: step {said}"):
        play("pettingzoo:labdata/pair_v0", wrong=wrong, agents=agents)


WRONG_IN_TURNS = {
    "no reward": (lambda env: env.rewards.pop("a"), "returned no reward for agent a"),
    "a paid stranger": (lambda env: env.rewards.update(c=1.0), "returned a reward for 'c', which is not in possible"),
    "no rewards": (lambda env: setattr(env, "rewards", None), "returned a NoneType, expected a dict with a reward"),
    "no termination": (lambda env: env.terminations.pop("b"), "returned no termination for agent b"),
    "a flag of text": (lambda env: env.truncations.update(a="no"), "returned a truncation for agent a of 'no'"),
    "no infos": (lambda env: setattr(env, "infos", None), "returned infos of type NoneType"),
    "a selected stranger": (lambda env: setattr(env, "agent_selection", "c"), "left 'c' as agent_selection"),
    "one without an end": (lambda env: env.agents.remove("a"), "removed a from agents, although it neither"),
}


@pytest.mark.parametrize("kind", WRONG_IN_TURNS)
def test_wrong_data_of_agents_that_act_in_turn_is_named(kind: str) -> None:
    wrong, said = WRONG_IN_TURNS[kind]
    with pytest.raises(ForeignError, match=f"pettingzoo:labdata/board_v0: step {said}") as caught:
        play("pettingzoo:labdata/board_v0", wrong=wrong)
    assert line_of(Board.step) in str(caught.value)


# What is not finite


@pytest.mark.parametrize(
    ("where", "how", "number"),
    [
        ("reward", np.full(1, np.nan), "nan"),
        ("reward", 1e300, "inf"),
        ("observation", np.full(4, -1e300), "-inf at [0]"),
    ],
)
def test_what_is_not_finite_in_single_precision_is_told_with_its_place(where: str, how: Any, number: str) -> None:
    with pytest.raises(NonFiniteError) as caught, warnings.catch_warnings():
        warnings.simplefilter("error")
        play("gym:ForeignFaulty-v0", where=where, how=how, when=2)
    told = f"gym:ForeignFaulty-v0: non-finite {where} in world 0 at step 2: step returned {number}"
    assert str(caught.value) == f"{told} ({line_of(Faulty.step)} step)"


def test_what_is_not_finite_in_a_part_of_an_observation_is_named_by_the_part() -> None:
    space = Dict({"goal": Box(-9, 9, (2,)), "place": Tuple([Discrete(3), Box(-9, 9, (2, 2))])})
    wrong = {"goal": np.zeros(2), "place": (2, np.array([[0, 0], [0, np.nan]]))}
    with pytest.raises(NonFiniteError, match=r"returned nan .*, which is observation\['place'\]\[1\] \("):
        play("gym:ForeignFaulty-v0", where="observation", how=wrong, when=0, space=space)


@pytest.mark.parametrize(("part", "field", "place"), [(0, "observation", r" at \[0\]"), (1, "reward", "")])
def test_what_is_not_finite_of_an_agent_is_told_with_its_place(part: int, field: str, place: str) -> None:
    value = np.full(3, np.inf, np.float32) if part == 0 else np.inf
    said = f"non-finite {field} in world 0 at step 2: step returned inf for agent b{place} "
    with pytest.raises(NonFiniteError, match=said) as caught:
        play("pettingzoo:labdata/pair_v0", wrong=_with(part, "b", value))
    assert line_of(Pair.step) in str(caught.value)


# Errors in the environment's code


def explode() -> None:
    raise AssertionError


def quit_all() -> None:
    sys.exit("enough")


def far_away() -> None:
    np.linalg.inv(np.zeros((2, 2)))  # it raises in numpy's file


class Panic(BaseException):
    """What other languages raise through their bindings."""


def panic() -> None:
    raise Panic("in a library")


ERRORS = {
    explode: "AssertionError: raise AssertionError",
    quit_all: "SystemExit: enough",
    far_away: "LinAlgError: Singular matrix",
    panic: "Panic: in a library",
}


@pytest.mark.parametrize("how", ERRORS, ids=lambda how: how.__name__)
@pytest.mark.parametrize("where", ["constructor", "reset", "step", "render"])
@pytest.mark.parametrize("name", ["gym:ForeignFaulty-v0", "gym:ForeignChecked-v0"])
def test_an_error_is_told_with_its_place(how: Any, where: str, name: str) -> None:
    last = 1 + len(inspect.getsourcelines(how)[0]) - 2 + inspect.getsourcelines(how)[1]
    params = {"where": where, "how": how, "when": 2 if where == "step" else 0}
    # A constructor may have refused what it was given: that is told as the parameters' mistake.
    with pytest.raises(UsageError if where == "constructor" else ForeignError) as caught:
        envs = make.make(name, 1, params, render=True)
        envs.reset()
        envs.picture(0)  # type: ignore[attr-defined]
        envs.step()
        envs.step()
    said = f"{where} raised {ERRORS[how]} ({FILE}:{last} {how.__name__})"
    if where == "constructor":
        assert str(caught.value).startswith(f"world.params: {name} with where='constructor', how=")
        assert str(caught.value).endswith(f", when=0: {said}")
    else:
        assert str(caught.value) == f"{name}: {said}"


def test_a_constructor_that_fails_without_parameters_is_the_environments_mistake() -> None:
    gym.register("ForeignFails-v0", lambda: explode())
    try:
        with pytest.raises(ForeignError, match="gym:ForeignFails-v0: constructor raised AssertionError: raise"):
            make.make("gym:ForeignFails-v0", 1)
    finally:
        del gym.registry["ForeignFails-v0"]


def test_an_error_while_closing_costs_no_result() -> None:
    params = {"where": "close", "how": explode}
    with pytest.warns(UserWarning, match="gym:ForeignFaulty-v0: close raised AssertionError"):
        measured = evaluate(AlwaysOne(), "gym:ForeignFaulty-v0", params, episodes=3)
    assert measured.summary["mean_return"] == 10


def test_an_interruption_is_no_error_of_the_environment() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play("gym:ForeignFaulty-v0", where="step", how=stop)


def test_a_wrong_keyword_is_the_callers_mistake() -> None:
    with pytest.raises(UsageError, match="cannot make world 'gym:ForeignFaulty-v0': .* no parameter 'speed'; it takes"):
        make.make("gym:ForeignFaulty-v0", 1, {"speed": 2})


@pytest.mark.parametrize("where", ["reset", "step"])
def test_a_command_fails_with_one_line(where: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setitem(gym.registry, "Failing-v0", gym.spec("ForeignFaulty-v0"))
    gym.registry["Failing-v0"] = gym.envs.registration.EnvSpec(
        "Failing-v0",
        lambda **k: Faulty(where=where, how=explode, when=2 * (where == "step"), **k),
        disable_env_checker=True,
    )
    assert main(["evaluate", "random", "world=gym:Failing-v0", "evaluation.episodes=2"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith(f"rl-lab: gym:Failing-v0: {where} raised AssertionError: raise AssertionError (")


# Pictures and their speed


PICTURES = {
    "grey": np.full((2, 3), 7, np.uint8),
    "grey with a channel": np.full((2, 3, 1), 7, np.uint8),
    "transparent": np.full((2, 3, 4), 7, np.uint8),
    "wide integers": np.full((2, 3, 3), 7, np.int64),
    "fractions": np.full((2, 3, 3), 7 / 255),
    "floats": np.full((2, 3, 3), 7.0, np.float32),
    "several": [np.zeros((2, 3, 3), np.uint8), np.full((2, 3, 3), 7, np.uint8)],
    "lists": np.full((2, 3, 3), 7, np.uint8).tolist(),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_are_converted(kind: str) -> None:
    image = foreign_data.as_picture(PICTURES[kind])
    assert image.dtype == np.uint8 and image.shape == (2, 3, 3)
    assert image.tolist() == np.full((2, 3, 3), 7).tolist() or kind == "floats" and (image == 7).all()


def test_booleans_are_black_and_white() -> None:
    assert foreign_data.as_picture(np.array([[True, False]])).tolist() == [[[255] * 3, [0] * 3]]


NO_PICTURES = {
    "nothing": None,
    "empty": np.zeros((0, 0, 3), np.uint8),
    "text": "+--+",
    "a list without any": [],
    "two channels": np.zeros((2, 3, 2), np.uint8),
    "channels first": np.zeros((3, 40, 60), np.uint8),
    "negative": np.full((2, 2, 3), -1),
    "too bright": np.full((2, 2, 3), 1000),
    "nan": np.full((2, 2, 3), np.nan),
}


@pytest.mark.parametrize("kind", NO_PICTURES)
def test_what_is_no_picture_is_named(kind: str) -> None:
    envs = make.make("gym:ForeignFaulty-v0", 1, {"where": "render", "how": NO_PICTURES[kind], "when": 0}, render=True)
    envs.reset()
    with pytest.raises(ForeignError, match="gym:ForeignFaulty-v0: render returned .*, expected (a picture|0 to 255)"):
        envs.picture(0)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "said, expected", [(5, 5), (None, 30), (0, 30), (-3, 30), ("x", 30), (0.2, 1), (1e9, 1000), (float("nan"), 30)]
)
def test_every_environment_has_a_speed_that_a_film_can_have(said: Any, expected: int) -> None:
    assert foreign_data.frames_per_second({"render_fps": said}) == expected
    assert foreign_data.frames_per_second({}) == foreign_data.frames_per_second(None) == 30


@pytest.mark.parametrize("which", ["observation_space", "action_space"])
def test_a_box_without_numbers_is_refused_with_the_space(which: str) -> None:
    """Its shape is (0,): torch, SB3 and numpy would all say something else about it, or nothing."""

    class Hollow(Faulty):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            setattr(self, which, Box(-1, 1, (0,), np.float32))

    gym.register("lab_test/Hollow-v0", Hollow)
    try:
        with pytest.raises(ValueError, match=rf"{which.partition('_')[0]}s are Box\(.*\(0,\)"):
            make.make("gym:lab_test/Hollow-v0", 1, {})
    finally:
        del gym.registry["lab_test/Hollow-v0"]


@pytest.mark.parametrize("metadata", [None, ["human"], 5], ids=str)
def test_metadata_that_is_no_dict_is_named(metadata: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Faulty, "metadata", metadata)
    with pytest.raises(ForeignError, match=r"ForeignFaulty-v0: `metadata` is .*, expected a dict such as"):
        make.make("gym:ForeignFaulty-v0", 1, {})


# Observations of a single number are vectors of one


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint8])
def test_an_observation_of_one_number_is_a_vector_of_one(dtype: Any) -> None:
    space = Box(0, 100, (), dtype)
    envs = play("gym:ForeignFaulty-v0", steps=2, space=space, where="observation", how=dtype(7), when=2)
    assert envs.world.observation.shape == (1,)
    assert envs.observations.reshape(-1).tolist() == [7, 7]


def test_an_agent_that_sees_one_number_has_a_vector_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pair, "observation_space", lambda self, agent: Box(0, 9, ()))
    envs = play("pettingzoo:labdata/pair_v0", steps=2)
    assert envs.observations.shape == (2, 2, 1)
    assert envs.observations.ravel().tolist() == [2.0] * 4


# What is no space is a mistake of the environment, not of its arguments


@pytest.mark.parametrize("unchecked", [False, True], ids=["Gymnasium's checker", "ours"])
@pytest.mark.parametrize("value", [None, 4, Box], ids=["None", "a number", "a class"])
@pytest.mark.parametrize("whose", ["observation_space", "action_space"])
def test_what_is_no_space_is_a_mistake_of_the_environment(whose: str, value: Any, unchecked: bool) -> None:
    class Spaceless(Faulty):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, whose, value)

    gym.register("ForeignSpaceless-v0", Spaceless, disable_env_checker=unchecked)
    try:
        with pytest.raises(ForeignError, match=rf"ForeignSpaceless-v0: constructor .*space.* \({FILE}"):
            play("gym:ForeignSpaceless-v0")
    finally:
        del gym.registry["ForeignSpaceless-v0"]


@pytest.mark.parametrize("whose", ["observation_space", "action_space"])
def test_what_is_no_space_of_an_agent_is_a_mistake_of_the_environment(
    whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pair, whose, lambda self, agent: None if agent == "b" else Discrete(2))
    said = f"pair_v0: {whose} gave a space for agent b that is None, expected one of gymnasium.spaces"
    with pytest.raises(ForeignError, match=said):
        play("pettingzoo:labdata/pair_v0")
