"""Keyword arguments give the scenario that the command line gives, and are refused with its messages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_lab.api.settings import override_lines
from rl_lab.core.errors import UsageError
from rl_lab.experiments.compose import compose


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seed": 3, "budget": 5_000, "video": False}, "seed=3 budget=5000 video=false"),
        ({"agent": "dqn", "agent.gamma": 0.9}, "agent=dqn agent.gamma=0.9"),
        ({"agent": {"name": "dqn", "learning_rate": 1e-3}}, "agent=dqn agent.learning_rate=1e-3"),
        ({"agent": {"net_arch": [32, 16], "activation": "relu"}}, "agent.net_arch=[32,16] agent.activation=relu"),
        ({"world": {"params": {"gravity": np.float64(5)}}}, "world.params.gravity=5"),
        ({"evaluation": {"episodes": np.int64(7)}, "run_dir": Path("a b")}, "evaluation.episodes=7 run_dir=a\tb"),
        ({"agent": {"target_kl": None}}, "agent.target_kl=null"),
    ],
    ids=str,
)
def test_they_give_the_scenario_of_the_command_line(settings: dict[str, object], words: str) -> None:
    typed = [word.replace("\t", " ") for word in words.split(" ")]
    assert compose("cartpole", override_lines(settings)).as_config() == compose("cartpole", typed).as_config()


@given(st.floats(min_value=1e-12, max_value=1e3), st.integers(0, 2**31 - 1))
def test_numbers_arrive_exactly(learning_rate: float, seed: int) -> None:
    scenario = compose("cartpole", override_lines({"agent": {"learning_rate": learning_rate}, "seed": seed}))
    assert (scenario.config.learning_rate, scenario.seed) == (learning_rate, seed)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=["Cs"]), min_size=1))
def test_a_folder_may_have_any_name(name: str) -> None:
    assert compose("cartpole", override_lines({"run_dir": f"runs/{name}"})).run_dir == f"runs/{name}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sede": 3}, "sede"),
        ({"agent": {"learning_rat": 1e-3}}, "learning_rate"),
        ({"seed": 1j}, "seed cannot be a complex"),
        ({"a b": 1}, "no key"),
        ({"agent": {1: 2}}, "no key"),
        ({"worlds": "many"}, "worlds"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_that_names_it(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        compose("cartpole", override_lines(settings))
    assert "\n" not in str(caught.value)
